//! Path MTUs to real servers behind tunnels, learnt from routers on the way (IPVS-RULES 34).
//!
//! Only an error that quotes a packet of a live tunnelled connection to that real server teaches anything,
//! so the number of entries is bounded by the real servers; [`LIMIT`] bounds it whatever happens. An MTU
//! never goes up by an error, and never below what a router may ask for (`net.ipv4.route.min_pmtu` 552,
//! 1280 for IPv6).

use std::collections::HashMap;
use std::net::IpAddr;

use crate::time::{Mono, Span};

/// How long an MTU is remembered (kernel: `net.ipv4.route.mtu_expires`).
const LIFETIME: Span = Span::from_secs(600);
const LEAST4: u32 = 552;
const LEAST6: u32 = 1280;
/// Most real servers remembered.
const LIMIT: usize = 4096;

/// What is known.
#[derive(Clone, Debug, Default)]
pub(super) struct PathMtus(HashMap<IpAddr, (u32, Mono)>);

impl PathMtus {
    /// Largest IP packet on the way to `ip` where the link out takes `link` bytes.
    #[inline]
    pub fn of(&self, now: Mono, ip: IpAddr, link: u32) -> u32 {
        if self.0.is_empty() { link } else { self.known(now, ip, link) }
    }

    #[cold]
    fn known(&self, now: Mono, ip: IpAddr, link: u32) -> u32 {
        match self.0.get(&ip) {
            Some((mtu, until)) if now < *until => link.min(*mtu),
            _ => link,
        }
    }

    /// A router on the way to `ip` says that `mtu` bytes fit; `link` as before.
    pub fn learn(&mut self, now: Mono, ip: IpAddr, mtu: u32, link: u32) {
        let before = self.of(now, ip, link);
        let mtu = mtu.max(if ip.is_ipv4() { LEAST4 } else { LEAST6 });
        if mtu > before {
            return;
        }
        if self.0.len() >= LIMIT && !self.0.contains_key(&ip) {
            self.0.retain(|_, (_, until)| now < *until);
            if self.0.len() >= LIMIT {
                return;
            }
        }
        self.0.insert(ip, (mtu, now + LIFETIME));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono::from_millis(1);

    #[test]
    fn an_mtu_goes_down_only_and_not_below_what_a_router_may_ask_for() {
        let mut m = PathMtus::default();
        let (v4, v6) = (IpAddr::from([10, 2, 0, 11]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16]));
        for told in [9000, 1501] {
            m.learn(NOW, v4, told, 1500);
            assert_eq!(m.of(NOW, v4, 1500), 1500);
        }
        m.learn(NOW, v4, 1400, 1500);
        m.learn(NOW, v4, 1450, 1500);
        assert_eq!(m.of(NOW, v4, 1500), 1400);
        for told in [0, 68] {
            m.learn(NOW, v4, told, 1500);
            assert_eq!(m.of(NOW, v4, 1500), 552);
        }
        m.learn(NOW, v6, 1279, 1500);
        assert_eq!(m.of(NOW, v6, 1500), 1280);
        m.learn(NOW, IpAddr::from([10, 2, 0, 12]), 300, 400);
        assert_eq!(m.of(NOW, IpAddr::from([10, 2, 0, 12]), 400), 400, "a link smaller than the least stays");
    }

    #[test]
    fn an_mtu_is_forgotten_after_ten_minutes_and_the_memory_is_bounded() {
        let mut m = PathMtus::default();
        let ip = IpAddr::from([10, 2, 0, 11]);
        m.learn(NOW, ip, 1400, 1500);
        assert_eq!(m.of(NOW + Span::from_secs(599), ip, 1500), 1400);
        assert_eq!(m.of(NOW + Span::from_secs(600), ip, 1500), 1500);
        for n in 0..10_000u32 {
            m.learn(NOW, IpAddr::from(n.to_be_bytes()), 1400, 1500);
        }
        assert_eq!(m.0.len(), LIMIT);
        m.learn(NOW + Span::from_secs(601), IpAddr::from([10, 2, 0, 12]), 1400, 1500);
        assert_eq!(m.0.len(), 1, "room is made of what has expired");
    }
}
