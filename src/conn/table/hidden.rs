//! Connections that their client's packets do not find: a younger one has the same tuple (a real server
//! began it, [`crate::engine`]), or the client's port is 0.

use super::{Addr, Table, Tuple, flag};

/// Most connections hidden by others: each that ends looks for one that it hid.
const MOST_HIDDEN: usize = 1024;

impl<A: Addr> Table<A> {
    /// Hides a connection from its client's packets, for a younger one with the same tuple. False when too
    /// many are hidden.
    pub fn hide(&mut self, slot: u32) -> bool {
        if self.hidden.len() >= MOST_HIDDEN {
            return false;
        }
        let key = self.slots[slot as usize].client_key();
        self.remove_key(&key, slot << 1);
        self.slots[slot as usize].flags |= flag::HIDDEN;
        self.hidden.push(slot);
        true
    }
    /// The youngest connection that was hidden by one with this tuple is found again.
    #[cold]
    pub fn uncover(&mut self, tuple: &Tuple<A>) {
        let Some(at) = self.hidden.iter().rposition(|h| self.slots[*h as usize].client_key() == *tuple)
        else {
            return;
        };
        let slot = self.hidden[at];
        if self.index.insert(self.hash(tuple), slot << 1) {
            self.slots[slot as usize].flags &= !flag::HIDDEN;
            self.hidden.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::state::State;
    use crate::conn::table::{NewConn, Side};
    use crate::hash::HashKey;
    use crate::svc::DestId;
    use crate::time::{Mono, Span};

    fn new(cport: u16, real: u32, more: u16) -> NewConn<u32> {
        let client = Tuple { src: 1, dst: 99, sport: cport, dport: 80, proto: 6 };
        let (dest, timeout) = (DestId(0), Span::from_secs(60));
        let flags = flag::TWO_KEYS | more;
        NewConn { client, real: (real, 8080), local: None, flags, dest, state: State::TcpSynRecv, timeout }
    }

    #[test]
    fn the_youngest_of_one_tuple_gets_its_packets_and_each_server_its_own() {
        let mut t = Table::<u32>::new(Mono::ZERO, 10, HashKey(1, 2)).unwrap();
        let client = new(1000, 7, 0).client;
        let mut slots = Vec::new();
        for real in [7, 8, 9] {
            if let Some(older) = slots.last() {
                assert!(t.hide(*older));
            }
            slots.push(t.open(Mono::ZERO, &new(1000, real, 0)).unwrap());
            t.check().unwrap();
        }
        for slot in &slots {
            assert_eq!(t.lookup(&t.get(*slot).real_key()), Some((*slot, Side::Real)));
        }
        assert_eq!(t.lookup(&client), Some((slots[2], Side::Client)));
        t.close(slots[1]);
        t.check().unwrap();
        t.close(slots[2]);
        assert_eq!(t.lookup(&client), Some((slots[0], Side::Client)));
        t.close(slots[0]);
        t.check().unwrap();
        let unseen = t.open(Mono::ZERO, &new(0, 7, flag::HIDDEN)).unwrap();
        t.open(Mono::ZERO, &new(0, 8, flag::HIDDEN)).unwrap();
        assert_eq!(t.lookup(&t.get(unseen).client_key()), None);
        t.check().unwrap();
    }
}
