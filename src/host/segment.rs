//! TCP segments without data that the director makes itself.

use std::net::IpAddr;

use super::local::reply6;
use crate::buf::{Out, OwnedPacket};
use crate::wire::tcp::{self, field};
use crate::wire::{ipv4, number as n, put16, put32, sum};

/// What a segment says.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Type of service or traffic class.
    pub tos: u8,
    /// Flow label of IPv6.
    pub flow: u32,
    /// Sender.
    pub from: (IpAddr, u16),
    /// Receiver.
    pub to: (IpAddr, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
}

impl Segment {
    /// The packet, with its checksums. Both ends are of one family.
    pub fn build(self, out: &mut Out) -> OwnedPacket {
        let fill = |b: &mut [u8]| {
            b.fill(0);
            put16(b, field::SPORT, self.from.1);
            put16(b, field::DPORT, self.to.1);
            put32(b, field::SEQ, self.seq);
            put32(b, field::ACK, self.ack);
            b[field::OFFSET] = 5 << 4;
            b[field::FLAGS] = self.flags;
        };
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (self.from.0, self.to.0) else {
            let ends = (self.from.0, self.to.0);
            return reply6(out, (self.tos, self.flow, n::TCP), ends, tcp::LEN, field::CHECKSUM, fill);
        };
        let ip = ipv4::Header {
            tos: self.tos,
            total: (ipv4::LEN + tcp::LEN) as u16,
            id: 0,
            df: true,
            ttl: 64,
            proto: n::TCP,
            src: src.into(),
            dst: dst.into(),
        };
        let mut packet = out.packet(ipv4::LEN + tcp::LEN);
        packet.edit(|p| {
            let b = p.bytes_mut();
            if let Some(header) = b.first_chunk_mut() {
                ip.write(header);
            }
            let segment = &mut b[ipv4::LEN..];
            fill(segment);
            let pseudo = sum::pseudo4(src.octets(), dst.octets(), n::TCP, tcp::LEN as u32);
            let check = !sum::fold(pseudo + sum::sum(segment));
            put16(segment, field::CHECKSUM, check);
        });
        packet
    }
}
