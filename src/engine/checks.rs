//! Packets of the director's own health checks: sent the way the traffic goes, and told apart from all others
//! when their answers come.
//!
//! Checks ask from the director's own address and a port of [`CHECK_PORTS`], which FULLNAT does not use. An
//! answer comes from the real server's address, or from the *virtual* address where traffic goes by tunnel or
//! direct routing: nobody else may send from there, so this is looked at before martians are dropped.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::{Core, DropReason, Engine, Taken, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::nat::icmp::{self, Kind};
use crate::svc::{Forward, Proto, Snapshot, Tunnel};
use crate::time::Mono;
use crate::tunnel::{self, EncapPlan};
use crate::wire::meta::parse_quoted;
use crate::wire::{Family, Link, Meta, Parsed, be16, number, parse};

/// Ports, and identifications of echo requests, of the director's own checks.
pub const CHECK_PORTS: RangeInclusive<u16> = 256..=1023;
/// Those of them from which `softlvs doctor` asks.
pub const DOCTOR_PORTS: RangeInclusive<u16> = 1022..=1023;
/// Source port of checks through GUE tunnels.
const GUE_PORT: u16 = 32_768;

type Taker = dyn Fn(&[u8]) + Send;

/// Takes the IP packets that answer checks; must not wait.
pub struct Tap(Box<Taker>);

impl Tap {
    /// Takes them and forgets them.
    pub(super) fn nowhere() -> Tap {
        Tap(Box::new(|_| {}))
    }
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tap")
    }
}

/// The way of a check's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckWay {
    /// By its destination.
    Direct,
    /// To this real server, as its traffic goes.
    Through(IpAddr, Forward),
}

impl Engine {
    /// Gives the answers of checks to `tap`.
    pub fn set_tap(&mut self, tap: impl Fn(&[u8]) + Send + 'static) {
        self.core.tap = Some(Tap(Box::new(tap)));
    }
    /// The director's own address, of either family, on the way to a real server.
    pub fn check_source(&mut self, real: IpAddr, v6: bool) -> Option<IpAddr> {
        let route = self.core.host.route(real)?;
        self.core.host.source_for(&route, v6)
    }
    /// Sends an IP packet of a check.
    ///
    /// # Errors
    /// There is no way.
    pub fn send_check(
        &mut self,
        now: Mono,
        packet: &[u8],
        way: CheckWay,
        out: &mut Out,
    ) -> Result<(), DropReason> {
        let core = &mut self.core;
        let Ok(Parsed::Ip(meta)) = parse(packet, Link::Ip) else { return Err(DropReason::BadIpLength) };
        let (next, tunnel) = match way {
            CheckWay::Direct => (meta.dst(packet), None),
            CheckWay::Through(real, Forward::Tun(kind)) => (real, Some(kind)),
            CheckWay::Through(real, Forward::Dr) => (real, None),
            CheckWay::Through(_, Forward::Nat | Forward::FullNat) => (meta.dst(packet), None),
        };
        let route = core.host.route(next).filter(|r| !r.unreachable).ok_or(DropReason::NoRoute)?;
        let before = out.len();
        let mut owned = out.copy_of(packet, crate::buf::Offload::NONE);
        if let Some(kind) = tunnel {
            let src = core.host.source_for(&route, next.is_ipv6()).ok_or(DropReason::NoLocalAddress)?;
            let gue_sport = if matches!(kind, Tunnel::Gue { .. }) { GUE_PORT + meta.sport } else { 0 };
            let ip_id = core.random.next() as u16;
            let plan = EncapPlan { tunnel: kind, src, dst: next, copy_df: true, ip_id, gue_sport };
            if let Err(why) = owned.edit(|p| tunnel::encap(p, &meta, &plan)) {
                out.recycle(owned);
                return Err(why);
            }
        }
        core.host.send_own(now, &route, owned, out);
        core.counters.made += (out.len() - before) as u64;
        Ok(())
    }
}

impl Core {
    /// Takes the packet if it answers a check.
    #[cold]
    pub(super) fn tapped(&self, snap: &Snapshot, meta: &Meta, pkt: &PacketBuf<'_>) -> Option<Verdict> {
        let tap = self.tap.as_ref()?;
        let frame = pkt.bytes();
        let own = |ip: IpAddr| snap.net.ports.iter().flat_map(|p| &p.addresses).any(|a| a.addr == ip);
        let ours = |port: u16| CHECK_PORTS.contains(&port);
        let dst = meta.dst(frame);
        let l4 = usize::from(meta.l4);
        let answers = match meta.proto {
            number::TCP | number::UDP => {
                let proto = Proto::from_number(meta.proto)?;
                ours(meta.dport) && snap.find(0, proto, dst, meta.dport).is_none()
            }
            number::ICMP | number::ICMPV6 if icmp::kind(frame, meta) == Some(Kind::Error) => {
                let family = if meta.family == Family::V4 { Family::V4 } else { Family::V6 };
                let quoted = parse_quoted(frame, l4 + 8, family).ok()?;
                ours(quoted.sport) && own(quoted.src(frame))
            }
            number::ICMP => frame.get(l4) == Some(&0) && frame.len() >= l4 + 8 && ours(be16(frame, l4 + 4)),
            number::ICMPV6 => {
                frame.get(l4) == Some(&129) && frame.len() >= l4 + 8 && ours(be16(frame, l4 + 4))
            }
            _ => false,
        };
        if !answers || !own(dst) {
            return None;
        }
        (tap.0)(frame.get(usize::from(meta.l3)..meta.end as usize)?);
        Some(Verdict::Taken(Taken::Local))
    }
}
