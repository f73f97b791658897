//! `sh` and `dh`: 256 buckets over the client's or the destination's address.

use std::net::IpAddr;
use std::sync::Arc;

use super::{PickKey, Slot, folded};
use crate::svc::{Dest, SchedulerFlags};

const BUCKETS: usize = 256;

/// The bucket of a hashed value (IPVS-RULES 50): the top byte of a product with 2^32 / golden ratio.
fn bucket(value: u32) -> usize {
    (value.wrapping_mul(0x61c8_8647) >> 24) as usize
}

/// Servers by bucket; empty when the service has none.
#[derive(Clone, Debug)]
pub(super) struct Buckets(Vec<Slot>);

impl Buckets {
    /// The table of `sh`: list order, `weight` buckets in a row for each server, over and over. A server
    /// of weight 0 still has one each time round; its clients are refused (rule 50).
    pub(super) fn by_weight(dests: &[Arc<Dest>]) -> Buckets {
        Buckets::fill(dests, |d| d.weight().clamp(1, BUCKETS as u32))
    }
    /// The table of `dh`: list order, one bucket each, over and over (rule 52).
    pub(super) fn in_turn(dests: &[Arc<Dest>]) -> Buckets {
        Buckets::fill(dests, |_| 1)
    }
    fn fill(dests: &[Arc<Dest>], share: impl Fn(&Dest) -> u32) -> Buckets {
        let round = dests.iter().enumerate().flat_map(|(i, d)| (0..share(d)).map(move |_| i));
        Buckets(round.cycle().take(BUCKETS).map(|i| Slot::of(dests, i)).collect())
    }
    fn usable(&self, dests: &[Arc<Dest>], bucket: usize) -> Option<usize> {
        self.0.get(bucket)?.find(dests).filter(|i| dests[*i].usable())
    }
    pub(super) fn pick_dh(&self, dests: &[Arc<Dest>], dst: IpAddr) -> Option<usize> {
        self.usable(dests, bucket(folded(dst)))
    }
    pub(super) fn pick_sh(&self, dests: &[Arc<Dest>], key: &PickKey, flags: SchedulerFlags) -> Option<usize> {
        let port = if flags.port { u32::from(key.sport) } else { 0 };
        let home = bucket(folded(key.src).wrapping_add(port));
        let found = self.usable(dests, home);
        if found.is_some() || !flags.fallback {
            return found;
        }
        // rule 51: the second search starts at twice the first bucket, so that the clients of a lost
        // server spread over the others
        (0..BUCKETS).find_map(|o| self.usable(dests, (home + (o + home) % BUCKETS) % BUCKETS))
    }
}
