//! Bursts: what can be known of every packet beforehand is found out for all of them first.
//!
//! # Theory of operation
//! With a million flows the connection of nearly every packet has to come from memory: first the cell of
//! the index, then the connection, one wait after the other. So a burst is gone through four times: look
//! at all frames and hash their tuples, read all cells, read all connections, and only then decide, packet
//! by packet. Reads that do not depend on one another wait together.
//!
//! What is read ahead is thrown away. An earlier packet of the burst may open or close connections, so the
//! decision looks everything up anew; that is cheap, because it finds it all in the cache.

use std::hint::black_box;

use super::family::IpFamily;
use super::{Core, DropReason, PortId};
use crate::addr::Mac;
use crate::conn::key::Addr;
use crate::host::FrameTo;
use crate::svc::{Proto, Snapshot};
use crate::wire::{Family, Link, Meta, Parsed, parse};

/// Most packets gone through together: their headers and connections stay in the first-level cache.
pub(super) const WAVE: usize = 64;
/// With fewer connections than this everything is in the cache anyway.
const FEW: usize = if cfg!(test) { 1 } else { 512 };

/// What a frame says by itself, before anything else is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub found: Result<Parsed, DropReason>,
    /// It was sent to a group.
    pub group: bool,
    /// Hash of its tuple where it may be of a connection, otherwise nothing.
    pub hash: u64,
}

impl Look {
    pub const NOTHING: Look = Look { found: Err(DropReason::ShortFrame), group: false, hash: 0 };

    fn is_of(&self, family: Family) -> bool {
        matches!(&self.found, Ok(Parsed::Ip(meta)) if meta.family == family)
    }
}

impl Core {
    /// Looks at one frame.
    #[inline(always)]
    pub(super) fn look(&self, snap: &Snapshot, port: PortId, frame: &[u8]) -> Look {
        let nothing = |why| Look { found: Err(why), ..Look::NOTHING };
        let Some(&link) = self.links.get(usize::from(port.0)) else {
            return nothing(DropReason::DeviceDown);
        };
        let mut group = false;
        if link == Link::Ethernet {
            let Some(dst) = frame.first_chunk::<6>() else { return nothing(DropReason::ShortFrame) };
            match self.host.frame_to(port, Mac(*dst)) {
                FrameTo::Us => {}
                FrameTo::Group => group = true,
                FrameTo::Other => return nothing(DropReason::OtherStation),
            }
        }
        let found = parse(frame, link);
        let hash = match &found {
            Ok(Parsed::Ip(meta)) if snap.services.is_empty() || !is_balanced(meta) => 0,
            Ok(Parsed::Ip(meta)) if meta.family == Family::V4 => {
                self.tables.v4.hash(&<u32 as IpFamily>::tuple(frame, meta))
            }
            Ok(Parsed::Ip(meta)) => self.tables.v6.hash(&<u128 as IpFamily>::tuple(frame, meta)),
            _ => 0,
        };
        Look { found, group, hash }
    }

    /// Has the memory that deciding about these packets will read brought into the cache.
    #[inline]
    pub(super) fn read_ahead(&mut self, looks: &[Look]) {
        self.read_ahead_of::<u32>(looks);
        self.read_ahead_of::<u128>(looks);
    }

    #[inline]
    fn read_ahead_of<A: IpFamily>(&mut self, looks: &[Look]) {
        let table = A::table(&mut self.tables);
        if table.len() < FEW {
            return;
        }
        let of_family = || looks.iter().filter(|look| look.is_of(<A as Addr>::FAMILY));
        black_box(of_family().fold(0, |sum, look| sum ^ table.read_cell(look.hash)));
        black_box(of_family().fold(0, |sum, look| sum ^ table.read_conn(look.hash)));
    }
}

fn is_balanced(meta: &Meta) -> bool {
    Proto::from_number(meta.proto).is_some() && !meta.is_fragment()
}
