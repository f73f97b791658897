//! What the tests of this folder share.

use super::plan::{OffloadCaps, PortPlan};
use crate::addr::Mac;
use crate::wire::Link;

pub(super) fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

pub(super) fn port(name: &str, last: u8, addresses: &[&str]) -> PortPlan {
    PortPlan {
        name: name.into(),
        link: Link::Ethernet,
        mac: mac(last),
        mtu: 1500,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        gateway: None,
        gateway6: None,
        neighbors: Vec::new(),
        offload: OffloadCaps::default(),
    }
}

use std::net::IpAddr;
use std::sync::Arc;

use super::{Host, HostOptions, NetPlan};
use crate::buf::{Offload, Out, PacketBuf};
use crate::engine::{DropReason, PortId, Verdict};
use crate::time::Mono;
use crate::wire::{Parsed, parse};

pub(super) fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

/// Bytes of a hex string in which `(bb*N)` stands for N times a byte, as in the vectors.
pub(super) fn hex(s: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = s;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix([' ', '\n']) {
            rest = tail;
            continue;
        }
        if let Some(group) = rest.strip_prefix('(') {
            let (group, tail) = group.split_once(')').unwrap();
            let (byte, count) = group.split_once('*').unwrap();
            let byte = u8::from_str_radix(byte, 16).unwrap();
            bytes.extend(std::iter::repeat_n(byte, count.parse().unwrap()));
            rest = tail;
        } else {
            bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
            rest = &rest[2..];
        }
    }
    bytes
}

/// The director of the vectors: two ports, static neighbours, a VIP; nothing limited or announced.
pub(super) fn director() -> Host {
    let mac = |s: &str| s.parse::<Mac>().unwrap();
    let mut wan = port("wan", 0, &["10.1.0.1/24", "2001:db8:1::1/64"]);
    wan.mac = mac("02:00:00:00:01:01");
    wan.gateway = Some("10.1.0.254".parse().unwrap());
    wan.gateway6 = Some("2001:db8:1::fe".parse().unwrap());
    for gateway in ["10.1.0.254", "2001:db8:1::fe"] {
        wan.neighbors.push((ip(gateway), mac("02:00:00:00:01:fe")));
    }
    let mut lan = port("lan", 0, &["10.2.0.1/24", "2001:db8:2::1/64"]);
    lan.mac = mac("02:00:00:00:02:01");
    for real in ["10.2.0.11", "2001:db8:2::11"] {
        lan.neighbors.push((ip(real), mac("02:00:00:00:02:0b")));
    }
    let plan = NetPlan { ports: vec![wan, lan], ..NetPlan::default() };
    let mut host = Host::new(Mono::ZERO, Arc::new(plan), 1);
    host.set_options(HostOptions { icmp_limit: None, announce: false, midnight_ms: 0 });
    let vips = vec![(ip("10.1.0.100"), None), (ip("2001:db8:1::100"), None)];
    host.set_vips(Mono::ZERO, &std::sync::Arc::new(super::Vips::new(1, vips, None)));
    host
}

/// What the engine does with a frame that no service wants.
pub(super) fn receive(host: &mut Host, now: Mono, on: PortId, frame: &[u8], out: &mut Out) -> Verdict {
    let mut mem = vec![0; 128 + frame.len()];
    mem[128..].copy_from_slice(frame);
    let mut pkt = PacketBuf::new(&mut mem, 128, 128 + frame.len(), Offload::NONE);
    match parse(pkt.bytes(), Link::Ethernet) {
        Err(why) => Verdict::Drop(why),
        Ok(Parsed::Other(_)) => Verdict::Drop(DropReason::EtherType),
        Ok(Parsed::Arp(at)) => host.arp_in(now, on, &mut pkt, at, out),
        Ok(Parsed::Ip(meta)) => {
            let (src, dst) = (meta.src(pkt.bytes()), meta.dst(pkt.bytes()));
            if let Some(why) = host.check_dest(on, dst) {
                return Verdict::Drop(why);
            }
            let group = dst.is_multicast();
            if let Some(why) = host.check_source(on, src).filter(|_| !group) {
                return Verdict::Drop(why);
            }
            if host.owns(on, dst) == super::Owned::No {
                return Verdict::Drop(DropReason::NotOurs);
            }
            host.local_in(now, on, &meta, &mut pkt, out)
        }
    }
}

/// The frames queued, with their ports.
pub(super) fn drain(out: &mut Out) -> Vec<(PortId, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((port, packet)) = out.pop() {
        frames.push((port, packet.bytes().to_vec()));
        out.recycle(packet);
    }
    frames
}
