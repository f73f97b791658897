//! Options of the IPv4 header: the host takes part in them as a router does ([`crate::wire::options`]).
//!
//! Few packets have any. What was found in the one at hand is kept aside until it has left or was answered.

use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;

use super::{Host, IcmpError};
use crate::buf::{Out, OwnedPacket, PacketBuf};
use crate::engine::{DropReason, PortId};
use crate::time::Mono;
use crate::wire::options::{self, Here, MOST, Options};
use crate::wire::{Family, Meta, be16, ipv4, put16, sum};

const MS_PER_DAY: u64 = 86_400_000;

/// What was found in the packet at hand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    /// Where its IP header is.
    l3: u16,
    seen: Options,
    /// It stays here, or goes to a real server: what is recorded is the address it was sent to.
    ours: bool,
}

/// Has the packet a header with options?
#[inline(always)]
pub fn any(meta: &Meta) -> bool {
    meta.l4 - meta.l3 > ipv4::LEN as u16 && meta.family == Family::V4
}

fn header<'f>(frame: &'f [u8], meta: &Meta) -> Option<&'f [u8]> {
    frame.get(usize::from(meta.l3)..usize::from(meta.l4)).filter(|h| h.len() >= ipv4::LEN)
}

impl Host {
    /// Takes part in the options of a packet that came in; its checksum does not fit until
    /// [`Host::leave_options`]. `ours`: it is for us, or for one of our services.
    ///
    /// # Errors
    /// The reason to drop it: options that make no sense, of which its sender is told, or a source route.
    #[cold]
    pub fn receive_options(
        &mut self,
        now: Mono,
        port: PortId,
        meta: &Meta,
        ours: bool,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Result<(), DropReason> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (meta.src(pkt.bytes()), meta.dst(pkt.bytes())) else {
            return Ok(());
        };
        let towards = |ip: Ipv4Addr| match self.source_for(&self.route(ip.into())?, false)? {
            IpAddr::V4(own) => Some(own),
            IpAddr::V6(_) => None,
        };
        let own = if ours { dst } else { towards(src).unwrap_or(Ipv4Addr::UNSPECIFIED) };
        let elsewhere = |ip| self.is_elsewhere(port, ip);
        let here = Here { address: own.into(), time: self.since_midnight(now), elsewhere: &elsewhere };
        let range = usize::from(meta.l3)..usize::from(meta.l4);
        let Some(header) = pkt.bytes_mut().get_mut(range).filter(|h| h.len() > ipv4::LEN) else {
            return Ok(());
        };
        let (seen, result) = options::receive(header, &here);
        self.received = Received { l3: meta.l3, seen, ours };
        if let Err(at) = result {
            let kind = IcmpError::ParameterProblem { at };
            self.error(now, kind, port, pkt.bytes(), meta, None, out);
            return Err(DropReason::BadIpOptions);
        }
        if seen.source_route { Err(DropReason::SourceRoute) } else { Ok(()) }
    }

    /// Finds out again what a packet has that was received earlier, and kept for some time.
    #[cold]
    pub fn recall_options(&mut self, frame: &[u8], meta: &Meta, ours: bool) {
        if !any(meta) {
            return;
        }
        let seen = header(frame, meta).map(options::recall).unwrap_or_default();
        self.received = Received { l3: meta.l3, seen, ours };
    }

    /// The packet at hand is about to leave. `from`: it was not for us, and this is who sends it on.
    #[cold]
    pub fn leave_options(&mut self, meta: &Meta, pkt: &mut PacketBuf<'_>, from: Option<IpAddr>) {
        let Received { seen, ours, .. } = self.received;
        let from = match from {
            Some(IpAddr::V4(own)) if !ours => Some(own.into()),
            _ => None,
        };
        let range = usize::from(meta.l3)..usize::from(meta.l4);
        if let Some(header) = pkt.bytes_mut().get_mut(range).filter(|h| h.len() > ipv4::LEN) {
            options::leave(header, &seen, from);
        }
    }

    /// The options of an answer from `own` to the packet at hand; `None`: there can be no answer.
    pub(super) fn echoed_options(
        &self,
        now: Mono,
        port: PortId,
        frame: &[u8],
        meta: &Meta,
        own: Ipv4Addr,
    ) -> Option<ArrayVec<u8, MOST>> {
        // what an error quotes is not the packet at hand
        if !any(meta) || self.received.l3 != meta.l3 {
            return Some(ArrayVec::new());
        }
        let elsewhere = |ip| self.is_elsewhere(port, ip);
        let here = Here { address: own.into(), time: self.since_midnight(now), elsewhere: &elsewhere };
        options::echo(header(frame, meta)?, &self.received.seen, &here)
    }

    /// May this be some other host's address?
    fn is_elsewhere(&self, port: PortId, ip: u32) -> bool {
        let ip = Ipv4Addr::from(ip);
        let nobody = ip.octets()[0] == 0 || ip.is_loopback() || ip.is_multicast();
        !nobody && !self.own.is_broadcast(ip) && !self.own.owns(port, ip.into()).is_unicast()
    }

    /// Milliseconds since midnight UT.
    pub(super) fn since_midnight(&self, now: Mono) -> u32 {
        ((now.as_millis() + u64::from(self.options.midnight_ms)) % MS_PER_DAY) as u32
    }
}

/// An IPv4 packet of our own with these options in its header, which has none.
pub(super) fn with_options(out: &mut Out, packet: OwnedPacket, options: &[u8]) -> OwnedPacket {
    if options.is_empty() {
        return packet;
    }
    let mut longer = out.packet(packet.bytes().len() + options.len());
    longer.edit(|p| {
        let (from, to) = (packet.bytes(), p.bytes_mut());
        let header = ipv4::LEN + options.len();
        to[..ipv4::LEN].copy_from_slice(&from[..ipv4::LEN]);
        to[ipv4::LEN..header].copy_from_slice(options);
        to[header..].copy_from_slice(&from[ipv4::LEN..]);
        to[0] = 0x40 | (header / 4) as u8;
        let total = be16(to, ipv4::field::TOTAL) + options.len() as u16;
        put16(to, ipv4::field::TOTAL, total);
        put16(to, ipv4::field::CHECKSUM, 0);
        let check = sum::checksum(&to[..header]);
        put16(to, ipv4::field::CHECKSUM, check);
    });
    out.recycle(packet);
    longer
}
