//! Loses, doubles and damages packets by a seed, and breaks the device: for tests.

use std::io;
use std::os::fd::BorrowedFd;

use crate::buf::{HEADROOM, PacketBuf};
use crate::io::error::broken;
use crate::io::{Burst, Port, PortError, PortInfo, SendReport, SlotIter, room};
use crate::time::Mono;

/// How often each fault happens: one packet (or call) in so many; 0 never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Received packets lost.
    pub drop: u32,
    /// Received packets doubled, the copy right behind.
    pub duplicate: u32,
    /// Received packets with one bit changed.
    pub corrupt: u32,
    /// Sent packets the device says it has no room for.
    pub full: u32,
    /// Calls in which the device breaks; it stays so until [`Port::reopen`].
    pub broken: u32,
}

/// A port with faults. The same seed gives the same faults.
#[derive(Debug)]
pub struct Faults<P> {
    inner: P,
    rates: Rates,
    seed: u64,
    broken: bool,
}

impl<P: Port> Faults<P> {
    /// Puts faults between `inner` and its user.
    pub fn new(inner: P, rates: Rates, seed: u64) -> Faults<P> {
        Faults { inner, rates, seed, broken: false }
    }

    /// True once in `rate` times on average.
    fn hit(&mut self, rate: u32) -> bool {
        rate != 0 && self.random().is_multiple_of(u64::from(rate))
    }

    fn random(&mut self) -> u64 {
        // splitmix64: every seed is a good one
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.seed ^ self.seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn check(&mut self) -> Result<(), PortError> {
        self.broken |= self.hit(self.rates.broken);
        if self.broken { Err(broken(libc::ENETDOWN)) } else { Ok(()) }
    }
}

impl<P: Port> Port for Faults<P> {
    fn info(&self) -> &PortInfo {
        self.inner.info()
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }
    fn ready_at(&mut self, now: Mono) -> Option<Mono> {
        self.inner.ready_at(now)
    }
    fn recv_burst<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) -> Result<(), PortError> {
        self.check()?;
        // no empty answer while the device has more: that would say it is empty
        while room(slots, burst) > 0 {
            let mut fresh = Burst::new();
            // half of the slots, so that there is room for doubles
            let mut half = slots.carve(slots.remaining().div_ceil(2));
            self.inner.recv_burst(&mut half, &mut fresh)?;
            if fresh.is_empty() {
                break;
            }
            for mut packet in fresh {
                if self.hit(self.rates.drop) {
                    continue;
                }
                if !packet.is_empty() && self.hit(self.rates.corrupt) {
                    let bit = self.random() as usize % (packet.len() * 8);
                    packet.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
                }
                let copy = self.hit(self.rates.duplicate);
                if burst.is_full() {
                    break;
                }
                if copy
                    && burst.remaining_capacity() > 1
                    && let Some(slot) = slots.next()
                {
                    let mut twin = PacketBuf::empty(slot, HEADROOM);
                    twin.fill(packet.bytes());
                    twin.offload = packet.offload;
                    burst.push(twin);
                }
                burst.push(packet);
            }
        }
        Ok(())
    }
    fn send_burst(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        report: &mut SendReport,
    ) -> Result<(), PortError> {
        self.check()?;
        for packet in packets {
            if self.hit(self.rates.full) {
                report.full += 1;
            } else {
                self.inner.send_burst(std::slice::from_mut(packet), report)?;
            }
        }
        Ok(())
    }
    fn reopen(&mut self) -> io::Result<()> {
        if !self.broken {
            return self.inner.reopen();
        }
        self.broken = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Mac;
    use crate::buf::Offload;
    use crate::host::OffloadCaps;
    use crate::io::mem::{MemPort, info};
    use crate::io::{BURST, Slots};

    fn run(rates: Rates, seed: u64) -> Vec<u8> {
        let side = |n| info(n, Mac::default(), OffloadCaps::default());
        let (a, mut b) = MemPort::pair(side("a"), side("b"), 256).unwrap();
        let mut port = Faults::new(a, rates, seed);
        let mut slots = Slots::new(BURST, 100);
        let mut seen = Vec::new();
        for i in 0..=255u8 {
            assert!(b.push(&[i; 60], Offload::NONE));
        }
        loop {
            let mut burst = Burst::new();
            port.recv_burst(&mut slots.iter(), &mut burst).unwrap();
            if burst.is_empty() {
                return seen;
            }
            seen.extend(burst.iter().map(|p| p.bytes()[5]));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let rates = Rates { drop: 8, duplicate: 8, ..Rates::default() };
        let once = run(rates, 42);
        assert_eq!(once, run(rates, 42));
        assert_ne!(once, run(rates, 43));
        let mut unique = once.clone();
        unique.dedup();
        assert!(unique.len() < once.len(), "some doubled");
        assert!(unique.len() < 256, "some lost");
        assert!(unique.is_sorted(), "none out of order");
    }

    #[test]
    fn without_rates_nothing_happens() {
        assert_eq!(run(Rates::default(), 1), (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn a_broken_device_stays_broken_until_it_is_opened_again() {
        let side = |n| info(n, Mac::default(), OffloadCaps::default());
        let (a, _b) = MemPort::pair(side("a"), side("b"), 4).unwrap();
        let mut port = Faults::new(a, Rates { broken: 1, ..Rates::default() }, 0);
        let mut slots = Slots::new(1, 100);
        assert!(port.recv_burst(&mut slots.iter(), &mut Burst::new()).is_err());
        port.rates.broken = 0;
        assert!(port.recv_burst(&mut slots.iter(), &mut Burst::new()).is_err());
        port.reopen().unwrap();
        assert!(port.recv_burst(&mut slots.iter(), &mut Burst::new()).is_ok());
    }
}
