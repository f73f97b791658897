//! The way to each real server, remembered: route and neighbour are looked up for its first packet only.

use super::Core;
use crate::host::{Known, Route};
use crate::svc::{Dest, DestId};

/// Real servers whose ways are remembered; of two with the same place the later one is.
const PLACES: usize = 1024;

/// A way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub route: Route,
    /// Where the neighbour's entry was.
    pub neighbor: Known,
    /// It leads to another station.
    pub ordinary: bool,
}

/// All ways known. Routes change with the configuration only, which forgets them all; the neighbour's
/// entry says by itself whether it still is the one.
#[derive(Debug)]
pub(super) struct Ways(Box<[Option<(DestId, Way)>; PLACES]>);

impl Default for Ways {
    fn default() -> Ways {
        Ways(Box::new([None; PLACES]))
    }
}

impl Ways {
    /// The way to a real server, if it is remembered.
    #[inline]
    pub fn get(&self, dest: DestId) -> Option<&Way> {
        match &self.0[dest.0 as usize % PLACES] {
            Some((id, way)) if *id == dest => Some(way),
            _ => None,
        }
    }
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.fill(None);
    }
}

impl Core {
    /// The way to a real server.
    #[inline]
    pub(super) fn way(&mut self, dest: &Dest) -> Option<Way> {
        match self.ways.get(dest.id) {
            Some(way) if self.host.still(&way.neighbor) => Some(*way),
            _ => self.find_way(dest),
        }
    }

    #[cold]
    fn find_way(&mut self, dest: &Dest) -> Option<Way> {
        let route = self.host.route(dest.spec.ip)?;
        let ordinary = !route.unreachable && !dest.spec.ip.is_loopback();
        let way = Way { neighbor: self.host.known(&route), ordinary, route };
        self.ways.0[dest.id.0 as usize % PLACES] = Some((dest.id, way));
        Some(way)
    }
}
