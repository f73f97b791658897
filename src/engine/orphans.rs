//! Connections whose real server the configuration no longer has.

use super::Core;
use super::family::IpFamily;
use crate::conn::table::flag;
use crate::svc::{Dest, Snapshot};

/// Connections looked at in one turn, of each family.
const PART: u32 = 1024;

impl Core {
    /// After a change: ends connections whose server is not known any more, and begins to look for those
    /// that end with their server (`expire_nodest_conn`).
    ///
    /// The catalog forgets a server only without connections, so there is one left only if it was opened in
    /// the moment between: then all are looked at before the identity can be another server's.
    pub(super) fn find_orphans(&mut self, old: &Snapshot, new: &Snapshot) {
        let gone = |(id, dest): (usize, &std::sync::Arc<Dest>)| {
            new.dests.get(id).is_none() && dest.active() + dest.inactive() > 0
        };
        if old.dests.changed(&new.dests).any(gone) {
            self.close_part::<u32>(new, 0, u32::MAX);
            self.close_part::<u128>(new, 0, u32::MAX);
        }
        if new.trash && new.sysctl.expire_nodest_conn {
            self.orphans = Some([0, 0]);
            self.close_orphans(new);
        }
    }

    /// Goes on with the search, a bounded number at a time.
    pub(super) fn close_orphans(&mut self, snap: &Snapshot) {
        let Some([v4, v6]) = self.orphans else { return };
        self.close_part::<u32>(snap, v4, PART);
        self.close_part::<u128>(snap, v6, PART);
        let next = [v4.saturating_add(PART), v6.saturating_add(PART)];
        let slots = [self.tables.v4.slots(), self.tables.v6.slots()];
        let more = next.iter().zip(slots).any(|(next, slots)| (*next as usize) < slots);
        self.orphans = more.then_some(next);
        if !more {
            // connections hold their templates
            self.purge_templates(snap);
        }
    }

    fn close_part<A: IpFamily>(&mut self, snap: &Snapshot, from: u32, most: u32) {
        let keeps = |d: &Dest| d.available || !snap.sysctl.expire_nodest_conn;
        let to = (A::table(&mut self.tables).slots() as u32).min(from.saturating_add(most));
        for slot in from..to {
            let conn = A::table(&mut self.tables).live(slot);
            let Some(conn) = conn.filter(|c| c.flags & flag::BYPASS == 0) else { continue };
            if snap.dest(conn.dest).is_none_or(|d| !keeps(d)) {
                self.close::<A>(snap, slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::addr::Mac;
    use crate::buf::Out;
    use crate::engine::tests::{WAN, catalog, frame, give, net};
    use crate::engine::{EXPIRE_BUDGET, Engine, EngineOptions};
    use crate::svc::{Catalog, Forward, Proto, ServiceKey};
    use crate::time::Mono;

    const FLOWS: u16 = 5000;

    fn with_flows(catalog: &mut Catalog) -> Engine {
        let options = EngineOptions { connection_limit: 10_000, seed: 7, ..EngineOptions::default() };
        let mut e = Engine::new(Mono::ZERO, options, catalog.commit()).unwrap();
        let n = net(false);
        for port in 0..FLOWS {
            let (client, vip) = (SocketAddr::new(n.client, 1000 + port), SocketAddr::new(n.vip, 80));
            let syn = frame(Mac([2, 0, 0, 0, 1, 1]), Proto::Tcp, client, vip, 2, b"");
            let _ = give(&mut e, Mono::ZERO, WAN, &syn);
        }
        assert_eq!(e.connection_count(), usize::from(FLOWS));
        e
    }

    #[test]
    fn connections_that_expire_together_end_a_bounded_number_at_a_time() {
        let mut e = with_flows(&mut catalog(Forward::Dr, Proto::Tcp));
        let (late, mut out, mut turns) = (Mono::from_millis(62_000), Out::new(), 0);
        while e.connection_count() > 0 {
            assert!(e.poll_timeout().is_some_and(|at| at <= late), "the rest is due at once");
            let before = e.connection_count();
            e.on_timeout(late, &mut out);
            let ended = before - e.connection_count();
            assert!(ended > 0 && ended <= EXPIRE_BUDGET as usize, "{ended} in one turn");
            turns += 1;
        }
        assert_eq!(turns, u32::from(FLOWS).div_ceil(EXPIRE_BUDGET));
        e.check().unwrap();
    }

    #[test]
    fn connections_of_a_removed_server_end_a_bounded_number_at_a_time() {
        let mut catalog = catalog(Forward::Nat, Proto::Tcp);
        let mut e = with_flows(&mut catalog);
        catalog.sysctl.expire_nodest_conn = true;
        let n = net(false);
        let key = ServiceKey::Address { proto: Proto::Tcp, ip: n.vip, port: 80 };
        catalog.remove_dest(&key, n.rs[0], 8080).unwrap();
        let (now, mut out) = (Mono::from_millis(1), Out::new());
        let mut before = e.connection_count();
        e.on_snapshot(now, catalog.commit());
        while before > usize::from(FLOWS / 2) {
            let ended = before - e.connection_count();
            assert!(ended <= PART as usize, "{ended} in one turn");
            before = e.connection_count();
            if before > usize::from(FLOWS / 2) {
                assert!(e.poll_timeout().is_some_and(|at| at <= now), "the rest is due at once");
                e.on_timeout(now, &mut out);
            }
        }
        assert_eq!(e.connection_count(), usize::from(FLOWS / 2), "those of the other server stay");
        e.check().unwrap();
    }
}
