//! A one-arm director that is the client's neighbour: client, director and real servers on one wire, in
//! every mode.
//!
//! ```text
//!   client 192.0.2.1 ──┐
//!   director .2        ├── one Ethernet, VIP 192.0.2.10
//!   rs1, rs2 .11 .12 ──┘
//! ```
//!
//! With NAT the real servers are on a network of their own on the same wire (10.0.0.0/24), and the director
//! has an address in both: replies would otherwise go to the client directly, untranslated.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use softlvs::lab::{Io, Mode};
use softlvs::real::{self, Encapsulation, Role, Where};

use crate::gate;
use crate::sniff::{counters, eventually};
use crate::traffic::{self, BULK, Server};
use crate::wires::{Host, Running};

/// Number `n` of the wire's first or second network.
fn number(ipv6: bool, second: bool, n: u8) -> IpAddr {
    let text = match (ipv6, second) {
        (false, false) => format!("192.0.2.{n}"),
        (false, true) => format!("10.0.0.{n}"),
        (true, false) => format!("2001:db8:1::{n}"),
        (true, true) => format!("2001:db8:2::{n}"),
    };
    text.parse().unwrap()
}

fn neighbour(mode: Mode, io: Io, ipv6: bool) {
    if io == Io::Tap && !gate::tap() {
        return;
    }
    let ip = |n| number(ipv6, false, n);
    let len = if ipv6 { 64 } else { 24 };
    let net = |a: IpAddr| format!("{a}/{len}");
    let rip = |n| number(ipv6, mode == Mode::Nat, 10 + n);
    let (vip, vport) = (ip(10), 80);
    let rport = if matches!(mode, Mode::Nat | Mode::FullNat) { 8080 } else { vport };

    let mut wire = Host::silent();
    wire.bridge("wire", &[]);
    let mut client = Host::new();
    wire.wire("client", &mut client, "eth0");
    wire.join("client", "wire");
    client.address("eth0", &net(ip(1)));
    let mut servers = Vec::new();
    let mut running = Vec::new();
    for n in 1..=2u8 {
        let mut host = Host::new();
        let name = format!("rs{n}");
        wire.wire(&name, &mut host, "eth0");
        wire.join(&name, "wire");
        host.address("eth0", &net(rip(n)));
        let role = match mode {
            Mode::Nat => Some(Role::Nat { gateway: number(ipv6, true, 1) }),
            Mode::FullNat => None,
            Mode::Dr => Some(Role::Dr { vips: vec![vip] }),
            Mode::Tun => Some(Role::Tun {
                vips: vec![vip],
                encapsulation: Encapsulation::Ipip,
                device: real::DEVICE.into(),
                unwrap: Where::User,
            }),
        };
        let prepared = role.map(|r| host.ns.run(|| real::prepare(&r)).unwrap());
        let any = SocketAddr::new(if ipv6 { "::" } else { "0.0.0.0" }.parse().unwrap(), rport);
        running.push((Server::start(&host.ns, &name, any, any), prepared));
        servers.push(host);
    }

    // The director's host is the switch with TAP, a host on the wire with raw sockets.
    let mut own = None;
    let (device, at_switch) = if io == Io::Tap {
        ("tap = \"tap0\"", "tap0")
    } else {
        let mut host = Host::silent();
        wire.wire("director", &mut host, "eth0");
        wire.join("director", "wire");
        own = Some(host);
        ("packet = \"eth0\"", "director")
    };
    let mut addresses = format!("\"{}\"", net(ip(2)));
    if mode == Mode::Nat {
        addresses += &format!(", \"{}\"", net(number(ipv6, true, 1)));
    }
    let mut toml = format!(
        "[director]\nmode = \"{}\"\n[[port]]\nname = \"wire\"\n{device}\naddresses = [{addresses}]\n\
         [[service]]\nname = \"web\"\naddress = \"{}\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\n",
        mode.name(),
        SocketAddr::new(vip, vport),
    );
    for n in 1..=2 {
        toml += &format!("[[service.real]]\naddress = \"{}\"\n", SocketAddr::new(rip(n), rport));
    }
    let mut director = Running::start(&own.as_ref().unwrap_or(&wire).ns, &toml);
    if io == Io::Tap {
        eventually(Duration::from_secs(10), "no tap0", || {
            assert!(director.director.alive(), "the director ended");
            wire.links.index("tap0").is_ok()
        });
        wire.join("tap0", "wire");
    }
    let to = SocketAddr::new(vip, vport);
    client
        .ns
        .run(|| traffic::wait_for_refusal(SocketAddr::new(vip, 9), || director.director.alive()))
        .unwrap();
    for offload in [true, false] {
        client.offload("eth0", offload);
        servers.iter().for_each(|s| s.offload("eth0", offload));
        client
            .ns
            .run(|| {
                traffic::ping(vip, 2)?;
                traffic::ping(ip(2), 1)?;
                assert_eq!(traffic::parallel(to, 20)?, [("rs1".to_owned(), 10), ("rs2".to_owned(), 10)]);
                traffic::upload(to)?;
                let before = counters(&wire.ns, at_switch);
                traffic::download(to)?;
                let after = counters(&wire.ns, at_switch);
                let passed = (after.0 - before.0).min(after.1 - before.1);
                assert_eq!(passed > BULK as u64 / 10, mode.replies_return(), "{passed} bytes passed");
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{mode:?} {io:?} {to} offload {offload}: {e}"));
    }
    director.stop();
}

macro_rules! neighbours {
    ($($name:ident: $mode:ident;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                for io in [Io::Packet, Io::Tap] {
                    for ipv6 in [false, true] {
                        neighbour(Mode::$mode, io, ipv6);
                    }
                }
            }
        })*
    };
}

neighbours! {
    nat: Nat;
    fullnat: FullNat;
    tun: Tun;
    dr: Dr;
}
