//! Super-frames in tunnels: a program in the kernel puts the outer header in front of them.
//!
//! No virtio-net header can describe a TCP super-frame inside a tunnel packet, but the kernel can cut one whose
//! outer header it has put there itself. So the packet leaves here without its outer header, which goes into a map;
//! where the Ethernet addresses belong stand a mark and what differs from packet to packet. The program ([`program`])
//! on the device replaces the mark by both headers (`docs/decisions/0022-wrapping-in-the-kernel.md`).
//!
//! It needs CAP_BPF and CAP_NET_ADMIN in the initial user namespace and Linux 6.6, and is attached by the first
//! super-frame that needs it. The kernel detaches it when the process ends, however it ends.

use std::collections::HashMap;
use std::io;

use super::PortInfo;
use super::sys::bpf::{Kind, Link, Map, MapKind, Program};
use super::sys::link;
use crate::buf::PacketBuf;
use crate::tunnel::whole;
use crate::wire::{self, Family, eth, ipv4, ipv6, number, put16, sum, udp};

mod program;

use program::{ENTRY, HEADER, MARK, at};

/// Outer headers that are remembered: one for each real server, more where TTL or traffic class differ.
const ENTRIES: u16 = 1024;

const CUT: &str = "the kernel puts no outer headers in front of super-frames, they are cut before";

/// Where on its device the program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the interface sends: packet sockets.
    Egress,
    /// What the interface receives: TAP devices, of which we are the other end.
    Ingress,
}

/// The outer headers of a port.
#[derive(Debug)]
pub struct Outers {
    interface: String,
    side: Side,
    program: Program,
    map: Map,
    link: Option<Link>,
    mark: [u8; MARK],
    /// What of a header stays the same, to its number in the map.
    known: HashMap<[u8; ENTRY], u16>,
    /// By number; the oldest is replaced.
    order: Vec<[u8; ENTRY]>,
    next: u16,
    /// It could not be attached.
    failed: bool,
}

impl Outers {
    /// Loads the program for a port that takes super-frames, and notes there that it takes them in tunnels too.
    /// `None`, and a line in the log, where that cannot be.
    pub fn load(port: &mut PortInfo, side: Side) -> Option<Outers> {
        let loaded = port.offload.tso.then(|| Outers::new(&port.name, side))?;
        port.offload.tunnel = loaded.is_ok();
        loaded.map_err(|error| tracing::debug!(port = %port.name, %error, "{CUT}")).ok()
    }

    /// Loads the program for an interface.
    ///
    /// # Errors
    /// `PermissionDenied` without the privilege, `InvalidInput` on kernels that know no such programs.
    pub fn new(interface: &str, side: Side) -> io::Result<Outers> {
        let random = getrandom::u32().map_err(io::Error::other)?.to_ne_bytes();
        // locally administered, no group; nobody has it
        let mark = [0x06, random[0], random[1], random[2]];
        let map = Map::create(MapKind::Array, 4, ENTRY, ENTRIES.into(), "softlvs_outer")?;
        let code = program::build(map.number(), mark).map_err(io::Error::other)?;
        let kind = if side == Side::Egress { Kind::Egress } else { Kind::Ingress };
        let program = Program::load(&code, kind, "softlvs_wrap")?;
        Ok(Outers {
            interface: interface.to_owned(),
            side,
            program,
            map,
            link: None,
            mark,
            known: HashMap::with_capacity(ENTRIES.into()),
            order: Vec::with_capacity(ENTRIES.into()),
            next: 0,
            failed: false,
        })
    }

    /// It works as far as is known.
    pub fn works(&self) -> bool {
        !self.failed
    }

    /// Looks whether the program is still where it was put, so that it is put there again where it is not.
    pub fn look(&mut self) {
        if self.link.as_ref().is_some_and(|link| !matches!(link.interface(), Ok(Some(_)))) {
            self.link = None;
        }
    }

    /// Does [`Outers::mark`] for all of a burst.
    pub fn mark_all(&mut self, packets: &mut [&mut PacketBuf<'_>]) {
        for packet in packets.iter_mut().filter(|p| p.offload.gso.is_some()) {
            self.mark(packet);
        }
    }

    /// Takes the outer header off a super-frame in a tunnel packet and marks the packet, which is left alone when
    /// it is none, or when the program cannot be where it is needed.
    fn mark(&mut self, packet: &mut PacketBuf<'_>) {
        let Some(inside) = whole::find(packet.bytes(), &packet.offload, wire::Link::Ethernet) else { return };
        if !self.attached() {
            return;
        }
        let (l3, inner) = (usize::from(inside.outer.l3), usize::from(inside.inner.l3));
        let Some(entry) = entry(packet.bytes(), l3, inner, inside.outer.family) else { return };
        let Some(number) = self.number(&entry.fixed) else { return };
        let kind = if inside.inner.family == Family::V4 { number::ETH_IPV4 } else { number::ETH_IPV6 };
        packet.trim_front(inner - l3);
        let Some(link) = packet.bytes_mut().first_chunk_mut::<{ eth::LEN }>() else { return };
        link[..MARK].copy_from_slice(&self.mark);
        link[MARK..6].copy_from_slice(&number.to_ne_bytes());
        link[6..8].copy_from_slice(&entry.id);
        link[8..10].copy_from_slice(&entry.sport);
        link[10..12].fill(0);
        put16(link, eth::field::KIND, kind);
    }

    fn attached(&mut self) -> bool {
        if self.link.is_none() && !self.failed {
            let attach = |ifindex| match self.side {
                Side::Egress => Link::attach_egress(&self.program, ifindex),
                Side::Ingress => Link::attach_ingress(&self.program, ifindex),
            };
            match link::index(&self.interface).and_then(attach) {
                Ok(link) => self.link = Some(link),
                Err(error) => {
                    self.failed = true;
                    tracing::debug!(port = %self.interface, %error, "{CUT}");
                }
            }
        }
        self.link.is_some()
    }

    /// The number of an outer header in the map.
    fn number(&mut self, fixed: &[u8; ENTRY]) -> Option<u16> {
        if let Some(number) = self.known.get(fixed) {
            return Some(*number);
        }
        let number = self.next;
        self.map.set(&u32::from(number).to_ne_bytes(), fixed).ok()?;
        match self.order.get_mut(usize::from(number)) {
            Some(old) => {
                self.known.remove(&*old);
                *old = *fixed;
            }
            None => self.order.push(*fixed),
        }
        self.known.insert(*fixed, number);
        self.next = (number + 1) % ENTRIES;
        Some(number)
    }
}

/// An outer header: what goes into the map, and what differs from packet to packet.
struct Entry {
    fixed: [u8; ENTRY],
    id: [u8; 2],
    sport: [u8; 2],
}

/// Reads the outer header of a frame, which lies from `l3` to `inner`.
fn entry(frame: &[u8], l3: usize, inner: usize, family: Family) -> Option<Entry> {
    let (link, header) = (frame.get(..eth::LEN)?, frame.get(l3..inner)?);
    let mut fixed = [0; ENTRY];
    fixed[at::HEADER..].get_mut(..header.len()).filter(|_| header.len() <= HEADER)?.copy_from_slice(header);
    fixed[at::LINK..at::LINK + eth::LEN].copy_from_slice(link);
    let h = &mut fixed[at::HEADER..];
    let (mut id, mut sport) = ([0; 2], [0; 2]);
    let (ip, proto) = match family {
        Family::V4 => {
            id.copy_from_slice(&header[ipv4::field::ID..][..2]);
            for field in [ipv4::field::TOTAL, ipv4::field::ID, ipv4::field::CHECKSUM] {
                put16(h, field, 0);
            }
            (ipv4::LEN, header[ipv4::field::PROTO])
        }
        Family::V6 => {
            put16(h, ipv6::field::PAYLOAD, 0);
            (ipv6::LEN, header[ipv6::field::NEXT])
        }
    };
    let datagram = proto == number::UDP;
    if datagram {
        sport.copy_from_slice(header.get(ip..ip + 2)?);
        put16(h, ip + udp::field::SPORT, 0);
        put16(h, ip + udp::field::LENGTH, 0);
    }
    // native order, as the program adds it up
    let sum = u32::from(sum::fold(sum::sum(&h[..ip])).to_be());
    let flags = program::flags(family, proto, header.len() - ip);
    fixed[at::FLAGS..at::FLAGS + 8].copy_from_slice(&flags.to_ne_bytes());
    for (place, value) in [
        (at::LEN, header.len() as u32),
        (at::V6, u32::from(family == Family::V6)),
        (at::SUM, sum),
        (at::UDP, u32::from(datagram)),
    ] {
        fixed[place..place + 4].copy_from_slice(&value.to_ne_bytes());
    }
    Some(Entry { fixed, id, sport })
}
