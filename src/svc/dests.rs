//! Real servers by identity, in pieces that generations of the configuration share: a change copies the
//! piece it is in, not a hundred thousand pointers.

use std::sync::Arc;

use super::Dest;

/// Servers in a piece.
const PIECE: usize = 256;

type Piece = [Option<Arc<Dest>>; PIECE];

/// Real servers by [`super::DestId`]. Clones share all pieces until one of them is changed.
#[derive(Clone, Debug, Default)]
pub struct Dests {
    pieces: Vec<Arc<Piece>>,
    len: usize,
}

impl Dests {
    /// So many identities without a server.
    pub fn none(len: usize) -> Dests {
        let mut dests = Dests::default();
        dests.grow(len);
        dests
    }
    /// Identities, used or not.
    pub fn len(&self) -> usize {
        self.len
    }
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The server with this identity.
    #[inline]
    pub fn get(&self, id: usize) -> Option<&Arc<Dest>> {
        self.pieces.get(id / PIECE)?[id % PIECE].as_ref()
    }
    /// All identities in order.
    pub fn iter(&self) -> impl Iterator<Item = Option<&Arc<Dest>>> {
        self.pieces.iter().flat_map(|p| p.iter()).take(self.len).map(Option::as_ref)
    }
    /// Puts a server at its identity, or takes it away.
    pub fn set(&mut self, id: usize, dest: Option<Arc<Dest>>) {
        self.grow(id + 1);
        Arc::make_mut(&mut self.pieces[id / PIECE])[id % PIECE] = dest;
    }
    /// Identities whose server is another one in `new`, or gone, with the server they have here. Pieces that
    /// both share are not looked at.
    pub fn changed<'a>(&'a self, new: &'a Dests) -> impl Iterator<Item = (usize, &'a Arc<Dest>)> {
        let pieces = self.pieces.iter().enumerate().filter(|(i, p)| {
            let same = new.pieces.get(*i).is_some_and(|other| Arc::ptr_eq(p, other));
            !same
        });
        let all =
            pieces.flat_map(|(i, p)| p.iter().enumerate().map(move |(k, d)| (i * PIECE + k, d.as_ref())));
        all.filter_map(|(id, d)| Some((id, d?)))
            .filter(|(id, d)| new.get(*id).is_none_or(|other| !Arc::ptr_eq(d, other)))
    }
    fn grow(&mut self, len: usize) {
        self.len = self.len.max(len);
        self.pieces.resize_with(self.len.div_ceil(PIECE), || Arc::new([const { None }; PIECE]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svc::{Catalog, DestSpec, Forward, Proto, ServiceKey, ServiceSpec};

    #[test]
    fn clones_share_what_is_not_changed() {
        let mut catalog = Catalog::default();
        let key = ServiceKey::Address { proto: Proto::Tcp, ip: [192, 0, 2, 1].into(), port: 80 };
        catalog.add_service(ServiceSpec::new(key)).unwrap();
        let spec = |n: u32| DestSpec {
            name: String::new(),
            ip: std::net::Ipv4Addr::from(0x0a00_0000 + n).into(),
            port: 80,
            weight: 1,
            forward: Forward::Nat,
            upper: 0,
            lower: 0,
        };
        for n in 0..600 {
            catalog.add_dest(&key, spec(n)).unwrap();
        }
        let old = catalog.commit().dests.clone();
        assert_eq!((old.len(), old.iter().flatten().count()), (600, 600));
        catalog.edit_dest(&key, DestSpec { weight: 5, ..spec(300) }).unwrap();
        let new = catalog.commit().dests.clone();
        let changed: Vec<_> = old.changed(&new).map(|(id, d)| (id, d.spec.weight)).collect();
        assert_eq!(changed, [(300, 1)]);
        let shared = old.pieces.iter().zip(&new.pieces).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!((old.pieces.len(), shared), (3, 2));
        assert_eq!(new.get(300).unwrap().weight(), 5);
        assert!(new.get(600).is_none() && new.get(100_000).is_none());
        assert_eq!(Dests::none(3).iter().count(), 3);
    }
}
