//! A smaller MTU between the director's network and the client: the router in front of it asks the *VIP* for
//! smaller packets, and the director has to hand the question to the real server of that connection.
//! Without that, downloads hang for ever.
//!
//! ```text
//!   client ──1500── far ──1400── near ──┬── director ──── rs   (nat, fullnat)
//!                                       └── rs                (dr, tun)
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use softlvs::addr::Cidr;
use softlvs::lab::{Io, Mode};
use softlvs::real::{self, Encapsulation, Role, Where};

use crate::gate;
use crate::sniff::{self, Sniffer, eventually};
use crate::traffic::{self, Server};
use crate::wires::{Host, Running};

const MTU: u32 = 1400;

/// Number `n` of a network: 0 at the client, 1 between the routers, 2 in front, 3 inside.
fn number(ipv6: bool, net: u8, n: u8) -> IpAddr {
    let text = if ipv6 { format!("2001:db8:{net}::{n}") } else { format!("10.7.{net}.{n}") };
    text.parse().unwrap()
}

fn downloads_adapt(mode: Mode, io: Io, ipv6: bool) {
    if io == Io::Tap && !gate::tap() {
        return;
    }
    let ip = |net, n| number(ipv6, net, n);
    let len = if ipv6 { 64 } else { 24 };
    let on = |net, n| format!("{}/{len}", ip(net, n));
    let returns = mode.replies_return();
    let vip = ip(2, 10);

    let (mut client, mut far, mut near) = (Host::new(), Host::new(), Host::new());
    client.wire("eth0", &mut far, "eth0");
    far.wire("eth1", &mut near, "eth1");
    for router in [&far, &near] {
        router.sysctl("net.ipv4.ip_forward", "1");
        router.sysctl("net.ipv6.conf.all.forwarding", "1");
    }
    for router in [&mut far, &mut near] {
        let index = router.links.index("eth1").unwrap();
        router.links.set_mtu(index, MTU).unwrap();
    }
    client.address("eth0", &on(0, 2));
    client.default_route(ip(0, 1));
    far.address("eth0", &on(0, 1));
    far.address("eth1", &on(1, 1));
    far.default_route(ip(1, 2));
    near.address("eth1", &on(1, 2));
    near.route(Cidr::new(ip(0, 0), len).unwrap(), ip(1, 1));

    // Two switches: in front and inside.
    let (mut switch, mut rs) = (Host::silent(), Host::new());
    switch.bridge("front", &[]);
    switch.bridge("inside", &[]);
    switch.wire("near", &mut near, "eth0");
    switch.join("near", "front");
    near.address("eth0", &on(2, 254));
    switch.wire("rs", &mut rs, "eth0");
    switch.join("rs", if returns { "inside" } else { "front" });
    let rip = if returns { ip(3, 11) } else { ip(2, 11) };
    rs.address("eth0", &format!("{rip}/{len}"));
    let vips = vec![vip];
    let role = match mode {
        Mode::Nat => Some(Role::Nat { gateway: ip(3, 1) }),
        Mode::FullNat => None,
        Mode::Dr => Some(Role::Dr { vips }),
        Mode::Tun => Some(Role::Tun {
            vips,
            encapsulation: Encapsulation::Ipip,
            device: real::DEVICE.into(),
            unwrap: Where::User,
        }),
    };
    let _prepared = role.map(|r| rs.ns.run(|| real::prepare(&r)).unwrap());
    if !returns {
        rs.default_route(ip(2, 254));
    }
    let any = SocketAddr::new(if ipv6 { "::" } else { "0.0.0.0" }.parse().unwrap(), 80);
    let _server = Server::start(&rs.ns, "rs", any, any);

    let mut own = Host::silent();
    if io == Io::Packet {
        for (at, bridge, device) in [("director-0", "front", "eth0"), ("director-1", "inside", "eth1")] {
            switch.wire(at, &mut own, device);
            switch.join(at, bridge);
        }
    }
    let device = |i| match io {
        Io::Tap => format!("tap = \"tap{i}\""),
        _ => format!("packet = \"eth{i}\""),
    };
    let toml = format!(
        "[director]\nmode = \"{}\"\n\
         [[port]]\nname = \"front\"\n{}\naddresses = [\"{}\"]\n{} = \"{}\"\n\
         [[port]]\nname = \"inside\"\n{}\naddresses = [\"{}\"]\n\
         [[service]]\naddress = \"{}\"\nprotocol = \"tcp\"\n[[service.real]]\naddress = \"{}\"\n",
        mode.name(),
        device(0),
        on(2, 2),
        if ipv6 { "gateway6" } else { "gateway" },
        ip(2, 254),
        device(1),
        on(3, 1),
        SocketAddr::new(vip, 80),
        SocketAddr::new(rip, 80),
    );
    let mut director = Running::start(if io == Io::Tap { &switch.ns } else { &own.ns }, &toml);
    if io == Io::Tap {
        for (tap, bridge) in [("tap0", "front"), ("tap1", "inside")] {
            eventually(Duration::from_secs(10), &format!("no {tap}"), || {
                assert!(director.director.alive(), "the director ended");
                switch.links.index(tap).is_ok()
            });
            switch.join(tap, bridge);
        }
    }
    let to = SocketAddr::new(vip, 80);
    client
        .ns
        .run(|| traffic::wait_for_refusal(SocketAddr::new(vip, 9), || director.director.alive()))
        .unwrap();
    let sniffer = Sniffer::start(&rs.ns);
    client.ns.run(|| traffic::download(to)).unwrap_or_else(|e| panic!("{mode:?} {io:?} IPv6 {ipv6}: {e}"));
    // The question arrived at the real server, about the connection as the real server knows it.
    let tunnel = (mode == Mode::Tun).then_some(Encapsulation::Ipip);
    let frames = sniffer.finish();
    let asked = frames.iter().filter_map(|f| sniff::read(&f.bytes, tunnel)).find(|p| p.icmp && p.mtu == MTU);
    let asked =
        asked.unwrap_or_else(|| panic!("{mode:?} {io:?} IPv6 {ipv6}: no ICMP error at the real server"));
    assert_eq!(asked.ports, if ipv6 { (2, 0) } else { (3, 4) });
    assert_eq!(asked.ip.dst, if returns { rip } else { vip });
    client.ns.run(|| traffic::upload(to)).unwrap();
    director.stop();
}

macro_rules! modes {
    ($($name:ident: $mode:ident;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                for (io, ipv6) in [(Io::Packet, false), (Io::Tap, true), (Io::Packet, true), (Io::Tap, false)] {
                    downloads_adapt(Mode::$mode, io, ipv6);
                }
            }
        })*
    };
}

modes! {
    nat: Nat;
    fullnat: FullNat;
    tun: Tun;
    dr: Dr;
}
