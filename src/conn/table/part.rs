//! A copy of a few connections, to try out on it what a packet would do.

use std::collections::TryReserveError;
use std::sync::Mutex;

use super::{Addr, Conn, NIL, Table, Tuple, flag};
use crate::time::Mono;

/// Room for connections that the packet opens.
const ROOM: u32 = 64;

impl<A: Addr> Table<A> {
    /// A table with the live connections of these slots, numbered by their place in the list. It is as
    /// full as this one, and writes down every tuple that it is asked for off the express lane.
    ///
    /// # Errors
    /// There is no memory for them.
    pub(crate) fn part(&self, now: Mono, slots: &[u32]) -> Result<Table<A>, TryReserveError> {
        let limit = slots.len() as u32 + ROOM;
        let mut part = Table::start(now, limit, self.hash)?;
        part.cursor = self.cursor;
        for conn in slots.iter().filter_map(|old| self.live(*old)).copied() {
            part.slots.push(Conn { prev: NIL, next: NIL, ..conn });
            let slot = part.slots.len() as u32 - 1;
            if conn.flags & flag::HIDDEN == 0 {
                part.index.insert(part.hash(&conn.client_key()), slot << 1);
            }
            if conn.flags & flag::TWO_KEYS != 0 {
                part.index.insert(part.hash(&conn.real_key()), slot << 1 | 1);
            }
            part.link(slot);
            part.live += 1;
        }
        let place = |h: &u32| slots.iter().position(|old| old == h).map(|at| at as u32);
        part.hidden = self.hidden.iter().filter_map(place).collect();
        part.limit = (self.limit - self.live).saturating_add(part.live).min(limit);
        part.sought = Some(Box::new(Mutex::default()));
        Ok(part)
    }

    /// The tuples that a part was asked for.
    pub(crate) fn sought(&self) -> Vec<Tuple<A>> {
        let all = self.sought.as_ref().map(|all| all.lock().unwrap_or_else(|e| e.into_inner()).clone());
        all.unwrap_or_default()
    }

    /// Writes down what is looked for.
    #[inline]
    pub(crate) fn seek(&self, tuple: &Tuple<A>) {
        if let Some(all) = &self.sought {
            all.lock().unwrap_or_else(|e| e.into_inner()).push(*tuple);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::state::State;
    use crate::conn::table::{NewConn, OpenError, Side};
    use crate::hash::HashKey;
    use crate::svc::DestId;
    use crate::time::Span;

    fn new(port: u16) -> NewConn<u32> {
        let client = Tuple { src: 1, dst: 2, sport: port, dport: 80, proto: 6 };
        let (real, dest, timeout) = ((3, 8080), DestId(0), Span::from_secs(60));
        let flags = flag::TWO_KEYS;
        NewConn { client, real, local: None, flags, dest, state: State::TcpSynRecv, timeout }
    }

    #[test]
    fn a_part_has_the_connections_with_both_keys_and_is_as_full() {
        let mut all = Table::<u32>::new(Mono::ZERO, 4, HashKey(1, 2)).unwrap();
        let slots: Vec<_> = (0..3).map(|p| all.open(Mono::ZERO, &new(p)).unwrap()).collect();
        all.close(slots[0]);
        let mut part = all.part(Mono::ZERO, &[slots[2]]).unwrap();
        part.check().unwrap();
        assert_eq!(part.lookup(&new(2).client), Some((0, Side::Client)));
        assert_eq!(part.lookup(&part.get(0).real_key()), Some((0, Side::Real)));
        assert_eq!(part.lookup(&new(1).client), None);
        assert!(part.sought().contains(&new(1).client) && all.sought().is_empty());
        for port in [10, 11] {
            part.open(Mono::ZERO, &new(port)).unwrap();
            all.open(Mono::ZERO, &new(port)).unwrap();
        }
        assert_eq!(part.open(Mono::ZERO, &new(12)), Err(OpenError::Full));
        assert_eq!(all.open(Mono::ZERO, &new(12)), Err(OpenError::Full));
        part.close(0);
        part.check().unwrap();
    }
}
