//! A screen in front of the tables of own addresses.

use std::net::IpAddr;

/// Which of 1,024 places some addresses fall on. Sources of packets are nearly always others', and one bit
/// says so of most of them without a search.
#[derive(Clone, Debug, Default)]
pub(super) struct Screen([u64; 16]);

/// The place of an address on every [`Screen`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(u32);

impl Place {
    /// Of an address.
    #[inline]
    pub fn of(ip: IpAddr) -> Place {
        let word = match ip {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(a) => {
                let half = (a.to_bits() >> 64) as u64 ^ a.to_bits() as u64;
                (half >> 32) as u32 ^ half as u32
            }
        };
        Place((word ^ word >> 10 ^ word >> 20) & 1023)
    }
}

impl Screen {
    /// Adds an address.
    pub fn add(&mut self, ip: IpAddr) {
        let Place(place) = Place::of(ip);
        self.0[place as usize / 64] |= 1 << (place % 64);
    }
    /// Lets everything through.
    pub fn open(&mut self) {
        self.0 = [u64::MAX; 16];
    }
    /// False: no address that was added is there.
    #[inline]
    pub fn has(&self, Place(place): Place) -> bool {
        self.0[place as usize / 64 % 16] >> (place % 64) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_that_was_added_is_held_back(four: Vec<u32>, six: Vec<u128>) {
            let four = four.into_iter().map(|a| IpAddr::V4(a.into()));
            let all: Vec<IpAddr> = four.chain(six.into_iter().map(|a| IpAddr::V6(a.into()))).collect();
            let mut screen = Screen::default();
            all.iter().for_each(|ip| screen.add(*ip));
            prop_assert!(all.iter().all(|ip| screen.has(Place::of(*ip))));
        }
    }

    #[test]
    fn one_address_holds_back_nearly_all_others() {
        let mut screen = Screen::default();
        let ip = |i: u32| IpAddr::V4((0x0a00_0000 + i * 257).into());
        screen.add(ip(0));
        let through = (1..10_000).filter(|i| screen.has(Place::of(ip(*i)))).count();
        assert!(through < 100, "{through} of 10,000 have to be searched for");
        screen.open();
        assert!((0..2000).all(|i| screen.has(Place::of(ip(i)))));
    }
}
