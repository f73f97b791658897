//! Path MTUs to real servers behind tunnels, learnt from routers on the way (IPVS-RULES 34).
//!
//! Only an error that quotes a packet of a live tunnelled connection to that real server teaches anything,
//! so the number of entries is bounded by the real servers; [`LIMIT`] bounds it whatever happens. An MTU
//! never goes up by an error, and never below what a router may ask for (`net.ipv4.route.min_pmtu` 552,
//! 1280 for IPv6).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::*};

use dashmap::DashMap;

use crate::nat::pool::Keyed;
use crate::time::{Mono, Span};

/// How long an MTU is remembered (kernel: `net.ipv4.route.mtu_expires`).
const LIFETIME: Span = Span::from_secs(600);
const LEAST4: u32 = 552;
const LEAST6: u32 = 1280;
/// Most real servers remembered.
const LIMIT: usize = 4096;

/// What is known.
#[derive(Clone, Debug, Default)]
pub(super) struct PathMtus {
    known: HashMap<IpAddr, (u32, Mono)>,
    /// How much of what the other workers told is in `known`.
    heard: u64,
}

/// What workers tell each other: the error comes to the one whose connection it quotes, the others send to the
/// same real servers. Written when an MTU goes down, read when something was written.
#[derive(Debug)]
pub(super) struct Told {
    all: DashMap<IpAddr, (u32, Mono), Keyed>,
    times: AtomicU64,
}

impl Told {
    pub fn new(hash: Keyed) -> Told {
        Told { all: DashMap::with_hasher(hash), times: AtomicU64::new(0) }
    }

    /// Passes on what [`PathMtus::learn`] found new.
    pub fn tell(&self, now: Mono, ip: IpAddr, mtu: u32) {
        if self.all.len() >= LIMIT {
            self.all.retain(|_, (_, until)| now < *until);
        }
        if self.all.len() < LIMIT || self.all.contains_key(&ip) {
            self.all.insert(ip, (mtu, now + LIFETIME));
            self.times.fetch_add(1, Release);
        }
    }
}

impl PathMtus {
    /// Largest IP packet on the way to `ip` where the link out takes `link` bytes.
    #[inline]
    pub fn of(&self, now: Mono, ip: &IpAddr, link: u32) -> u32 {
        if self.known.is_empty() { link } else { self.least(now, ip, link) }
    }

    #[cold]
    fn least(&self, now: Mono, ip: &IpAddr, link: u32) -> u32 {
        match self.known.get(ip) {
            Some((mtu, until)) if now < *until => link.min(*mtu),
            _ => link,
        }
    }

    /// A router on the way to `ip` says that `mtu` bytes fit; `link` as before. Gives what fits now, when that is
    /// less than before.
    pub fn learn(&mut self, now: Mono, ip: IpAddr, mtu: u32, link: u32) -> Option<u32> {
        let before = self.of(now, &ip, link);
        let mtu = mtu.max(if ip.is_ipv4() { LEAST4 } else { LEAST6 });
        (mtu <= before && self.keep(now, ip, mtu, now + LIFETIME) && mtu < before).then_some(mtu)
    }

    fn keep(&mut self, now: Mono, ip: IpAddr, mtu: u32, until: Mono) -> bool {
        if self.known.len() >= LIMIT && !self.known.contains_key(&ip) {
            self.known.retain(|_, (_, until)| now < *until);
            if self.known.len() >= LIMIT {
                return false;
            }
        }
        self.known.insert(ip, (mtu, until));
        true
    }

    /// Takes over what other workers have learnt since the last time.
    #[inline]
    pub fn hear(&mut self, now: Mono, told: &Told) {
        let times = told.times.load(Acquire);
        if times != self.heard {
            self.heard = times;
            self.take_over(now, told);
        }
    }

    #[cold]
    fn take_over(&mut self, now: Mono, told: &Told) {
        for entry in &told.all {
            let (ip, (mtu, until)) = (*entry.key(), *entry.value());
            if now < until && mtu < self.of(now, &ip, u32::MAX) {
                self.keep(now, ip, mtu, until);
            }
        }
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
            assert_eq!(m.of(NOW, &v4, 1500), 1500);
        }
        m.learn(NOW, v4, 1400, 1500);
        m.learn(NOW, v4, 1450, 1500);
        assert_eq!(m.of(NOW, &v4, 1500), 1400);
        for told in [0, 68] {
            m.learn(NOW, v4, told, 1500);
            assert_eq!(m.of(NOW, &v4, 1500), 552);
        }
        m.learn(NOW, v6, 1279, 1500);
        assert_eq!(m.of(NOW, &v6, 1500), 1280);
        m.learn(NOW, IpAddr::from([10, 2, 0, 12]), 300, 400);
        assert_eq!(m.of(NOW, &IpAddr::from([10, 2, 0, 12]), 400), 400, "a link smaller than the least stays");
    }

    #[test]
    fn an_mtu_is_forgotten_after_ten_minutes_and_the_memory_is_bounded() {
        let mut m = PathMtus::default();
        let ip = IpAddr::from([10, 2, 0, 11]);
        m.learn(NOW, ip, 1400, 1500);
        assert_eq!(m.of(NOW + Span::from_secs(599), &ip, 1500), 1400);
        assert_eq!(m.of(NOW + Span::from_secs(600), &ip, 1500), 1500);
        for n in 0..10_000u32 {
            m.learn(NOW, IpAddr::from(n.to_be_bytes()), 1400, 1500);
        }
        assert_eq!(m.known.len(), LIMIT);
        m.learn(NOW + Span::from_secs(601), IpAddr::from([10, 2, 0, 12]), 1400, 1500);
        assert_eq!(m.known.len(), 1, "room is made of what has expired");
    }
}
