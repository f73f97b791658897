//! Packets and directors that the benches share.
#![allow(dead_code, missing_docs)]

pub mod bursts;
pub mod limit;

use std::net::IpAddr;
use std::sync::Arc;

use softlvs::addr::Mac;
use softlvs::engine::{Engine, EngineOptions};
use softlvs::host::{NetPlan, OffloadCaps, PortPlan};
use softlvs::svc::{Catalog, DestSpec, Forward, Proto, SchedulerKind, ServiceKey, ServiceSpec};
use softlvs::time::Mono;
use softlvs::wire::Link;

/// Numbers of flows measured; `SOFTLVS_BENCH_FLOWS=1000,1000000` chooses others.
pub fn flow_counts() -> Vec<u32> {
    let chosen = std::env::var("SOFTLVS_BENCH_FLOWS").ok();
    chosen.as_deref().unwrap_or("1000,1000000,10000000").split(',').filter_map(|n| n.parse().ok()).collect()
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((((z ^ (z >> 31)) >> 32) * u64::from(n)) >> 32) as u32
    }
}

pub const MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);

fn ip(v6: bool, four: &str, six: &str) -> IpAddr {
    if v6 { six.parse().expect("address") } else { four.parse().expect("address") }
}

/// A small TCP packet of flow `i` to the VIP, 64 bytes with IPv4.
pub fn tcp_frame(v6: bool, i: u32, flags: u8) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 1, 0xfe], MAC.0);
    let builder = if v6 {
        builder.ipv6(
            client6(i).to_be_bytes(),
            "2001:db8:1::10".parse::<std::net::Ipv6Addr>().expect("address").octets(),
            64,
        )
    } else {
        builder.ipv4((0x0b00_0000 + i).to_be_bytes(), [192, 0, 2, 10], 64)
    };
    let mut tcp = etherparse::TcpHeader::new(port(i), 80, 1000, 64000);
    (tcp.syn, tcp.ack) = (flags & 2 != 0, flags & 0x10 != 0);
    let mut bytes = Vec::new();
    builder.tcp_header(tcp).write(&mut bytes, &[7; 10]).expect("fits");
    bytes
}

pub fn client6(i: u32) -> u128 {
    0x2001_0db8_0009_0000_0000_0000_0000_0000 + u128::from(i)
}

/// Never 0: the kernel finds no connection of such a client again.
pub fn port(i: u32) -> u16 {
    ((i.wrapping_mul(40_503) >> 8) as u16).max(1)
}

/// A director with two ports and room for `flows` connections and a million more, over three real servers.
pub fn engine(v6: bool, forward: Forward, flows: u32) -> Engine {
    engine_for(v6, forward, flows + 1_000_000)
}

/// The same with room for exactly so many connections.
pub fn engine_for(v6: bool, forward: Forward, connection_limit: u32) -> Engine {
    let options = EngineOptions { connection_limit, seed: 7, ..EngineOptions::default() };
    Engine::new(Mono::ZERO, options, catalog(v6, forward, 1).commit()).expect("memory")
}

/// Two ports and a service on three real servers.
pub fn catalog(v6: bool, forward: Forward, workers: u16) -> Catalog {
    let vip = ip(v6, "192.0.2.10", "2001:db8:1::10");
    let router = ip(v6, "192.0.2.1", "2001:db8:1::1");
    let neighbor = Mac([2, 0, 0, 0, 9, 9]);
    let caps = OffloadCaps { csum: true, tso: true, uso: true, tunnel: false };
    let port = |name: &str, mac, addresses: [&str; 2], neighbors| PortPlan {
        name: name.into(),
        link: Link::Ethernet,
        mac,
        mtu: 1500,
        addresses: addresses.iter().map(|a| a.parse().expect("address")).collect(),
        gateway: None,
        gateway6: None,
        neighbors,
        offload: caps,
    };
    let mut wan = port("wan", MAC, ["192.0.2.2/24", "2001:db8:1::2/64"], vec![(router, neighbor)]);
    (wan.gateway, wan.gateway6) = ("192.0.2.1".parse().ok(), "2001:db8:1::1".parse().ok());
    let reals: Vec<IpAddr> =
        (0..3).map(|n| ip(v6, &format!("10.2.0.1{n}"), &format!("2001:db8:2::1{n}"))).collect();
    let lan = port(
        "lan",
        Mac([2, 0, 0, 0, 2, 1]),
        ["10.2.0.1/24", "2001:db8:2::1/64"],
        reals.iter().map(|r| (*r, neighbor)).collect(),
    );
    // one FULLNAT address has 64,512 ports towards each real server
    let locals = softlvs::host::AddrRange {
        first: ip(v6, "10.3.0.0", "2001:db8:3::"),
        last: ip(v6, "10.3.0.255", "2001:db8:3::ff"),
    };
    let net = NetPlan { ports: vec![wan, lan], local_addresses: vec![locals], ..NetPlan::default() };
    let mut catalog = Catalog::new(Arc::new(net)).with_workers(workers);
    let key = ServiceKey::Address { proto: Proto::Tcp, ip: vip, port: 80 };
    catalog
        .add_service(ServiceSpec { scheduler: SchedulerKind::Rr, ..ServiceSpec::new(key) })
        .expect("new service");
    for rs in reals {
        let spec =
            DestSpec { name: String::new(), ip: rs, port: 8080, weight: 1, forward, upper: 0, lower: 0 };
        catalog.add_dest(&key, spec).expect("new real server");
    }
    catalog
}
