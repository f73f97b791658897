//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::{be16, eth, number, put16};
use crate::addr::Mac;

/// Bytes of an ARP packet without the Ethernet header.
pub const LEN: usize = 28;
/// Bytes of an Ethernet frame with an ARP packet, unpadded.
pub const FRAME_LEN: usize = eth::LEN + LEN;

/// Where the fields are, from the first byte of the ARP packet.
mod field {
    use core::ops::Range;
    pub const HARDWARE: usize = 0;
    pub const PROTOCOL: usize = 2;
    pub const HARDWARE_LEN: usize = 4;
    pub const PROTOCOL_LEN: usize = 5;
    pub const OPERATION: usize = 6;
    pub const SENDER_MAC: Range<usize> = 8..14;
    pub const SENDER_IP: Range<usize> = 14..18;
    pub const TARGET_MAC: Range<usize> = 18..24;
    pub const TARGET_IP: Range<usize> = 24..28;
}

const HARDWARE_ETHERNET: u16 = 1;

/// What an ARP packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// MAC address of the sender.
    pub sender_mac: Mac,
    /// IP address of the sender; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// MAC address of the target, without meaning in a request.
    pub target_mac: Mac,
    /// IP address asked for, or of the one that is answered.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// Reads the packet; bytes behind it are padding. `None` when it is cut off, not IPv4 over Ethernet,
    /// or neither request nor reply.
    pub fn read(bytes: &[u8]) -> Option<Arp> {
        let p = bytes.first_chunk::<LEN>()?;
        let known = be16(p, field::HARDWARE) == HARDWARE_ETHERNET
            && be16(p, field::PROTOCOL) == number::ETH_IPV4
            && p[field::HARDWARE_LEN] == 6
            && p[field::PROTOCOL_LEN] == 4;
        let operation = match be16(p, field::OPERATION) {
            1 if known => Operation::Request,
            2 if known => Operation::Reply,
            _ => return None,
        };
        let mac = |at: core::ops::Range<usize>| {
            let mut m = [0; 6];
            m.copy_from_slice(&p[at]);
            Mac(m)
        };
        let ip = |at: core::ops::Range<usize>| {
            let mut a = [0; 4];
            a.copy_from_slice(&p[at]);
            Ipv4Addr::from(a)
        };
        Some(Arp {
            operation,
            sender_mac: mac(field::SENDER_MAC),
            sender_ip: ip(field::SENDER_IP),
            target_mac: mac(field::TARGET_MAC),
            target_ip: ip(field::TARGET_IP),
        })
    }

    /// The whole frame, from `sender_mac` to `dst`.
    pub fn frame(&self, dst: Mac) -> [u8; FRAME_LEN] {
        let mut f = [0; FRAME_LEN];
        let (link, p) = f.split_at_mut(eth::LEN);
        if let Some(link) = link.first_chunk_mut() {
            eth::write(link, dst, self.sender_mac, number::ETH_ARP);
        }
        put16(p, field::HARDWARE, HARDWARE_ETHERNET);
        put16(p, field::PROTOCOL, number::ETH_IPV4);
        p[field::HARDWARE_LEN] = 6;
        p[field::PROTOCOL_LEN] = 4;
        put16(p, field::OPERATION, if self.operation == Operation::Request { 1 } else { 2 });
        p[field::SENDER_MAC].copy_from_slice(&self.sender_mac.0);
        p[field::SENDER_IP].copy_from_slice(&self.sender_ip.octets());
        p[field::TARGET_MAC].copy_from_slice(&self.target_mac.0);
        p[field::TARGET_IP].copy_from_slice(&self.target_ip.octets());
        f
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_kernels_byte_for_byte() {
        let request = Arp {
            operation: Operation::Request,
            sender_mac: "02:00:00:00:02:01".parse().unwrap(),
            sender_ip: Ipv4Addr::new(10, 2, 0, 1),
            target_mac: Mac::default(),
            target_ip: Ipv4Addr::new(10, 2, 0, 200),
        };
        let frame = request.frame(Mac::BROADCAST);
        let hex: String = frame.iter().map(|b| format!("{b:02x}")).collect();
        // vector 7-noarp-rs-m, first frame out
        assert_eq!(
            hex,
            "ffffffffffff020000000201080600010800060400010200000002010a0200010000000000000a0200c8"
        );
        assert_eq!(Arp::read(&frame[eth::LEN..]), Some(request));
        assert_eq!(etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap().payload.slice().len(), 0);
    }

    #[test]
    fn other_hardware_protocols_and_operations_are_refused() {
        let good = Arp {
            operation: Operation::Reply,
            sender_mac: Mac([2; 6]),
            sender_ip: Ipv4Addr::new(10, 0, 0, 1),
            target_mac: Mac([4; 6]),
            target_ip: Ipv4Addr::new(10, 0, 0, 2),
        };
        let packet = good.frame(Mac([4; 6]))[eth::LEN..].to_vec();
        assert_eq!(Arp::read(&packet), Some(good));
        assert_eq!(Arp::read(&packet[..LEN - 1]), None);
        for (at, value) in [(0, 9), (1, 6), (2, 0x86), (4, 8), (5, 16), (7, 0), (7, 3)] {
            let mut bad = packet.clone();
            bad[at] = value;
            assert_eq!(Arp::read(&bad), None, "byte {at} = {value}");
        }
    }
}
