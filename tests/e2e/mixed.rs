//! Tunnels of one family for services of the other: IPv4 clients of IPv6 real servers and the reverse.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use softlvs::lab::Io;
use softlvs::real::{self, Encapsulation, Role, Where};

use crate::gate;
use crate::sniff::{self, Sniffer, eventually};
use crate::traffic::{self, Server};
use crate::wires::{Host, Running};

/// One wire: client, director, real server; `vip6` is the family of the VIP, the tunnel has the other.
fn crossed(io: Io, vip6: bool, encapsulation: Encapsulation, unwrap: Where) {
    if io == Io::Tap && !gate::tap() || unwrap == Where::Kernel && !(gate::tap() && gate::xdp()) {
        return;
    }
    let number = |v6: bool, n: u8| -> IpAddr {
        if v6 { format!("2001:db8:1::{n}") } else { format!("192.0.2.{n}") }.parse().unwrap()
    };
    let on = |v6, n| format!("{}/{}", number(v6, n), if v6 { 64 } else { 24 });
    let (vip, rip) = (number(vip6, 10), number(!vip6, 11));
    let mut wire = Host::silent();
    wire.bridge("wire", &[]);
    let (mut client, mut rs, mut own) = (Host::new(), Host::new(), Host::silent());
    for (name, host) in [("client", &mut client), ("rs", &mut rs), ("director", &mut own)] {
        wire.wire(name, host, "eth0");
        wire.join(name, "wire");
    }
    client.address("eth0", &on(vip6, 1));
    rs.address("eth0", &on(true, 11));
    rs.address("eth0", &on(false, 11));
    let role = Role::Tun { vips: vec![vip], encapsulation, device: real::DEVICE.into(), unwrap };
    let _prepared = rs.ns.run(|| real::prepare(&role)).unwrap();
    let any = SocketAddr::new(if vip6 { "::" } else { "0.0.0.0" }.parse().unwrap(), 80);
    let _server = Server::start(&rs.ns, "rs", any, SocketAddr::new(vip, 80));
    let tunnel = match encapsulation {
        Encapsulation::Ipip => "{ type = \"ipip\" }".to_owned(),
        Encapsulation::Gre => "{ type = \"gre\" }".to_owned(),
        Encapsulation::Gue(port) => format!("{{ type = \"gue\", port = {port} }}"),
    };
    let mut toml = format!(
        "[director]\nmode = \"tun\"\n[[port]]\nname = \"wire\"\n{}\naddresses = [\"{}\", \"{}\"]\n",
        if io == Io::Tap { "tap = \"tap0\"" } else { "packet = \"eth0\"" },
        on(false, 2),
        on(true, 2),
    );
    for protocol in ["tcp", "udp"] {
        toml += &format!(
            "[[service]]\naddress = \"{}\"\nprotocol = \"{protocol}\"\n\
             [[service.real]]\naddress = \"{}\"\ntunnel = {tunnel}\n",
            SocketAddr::new(vip, 80),
            SocketAddr::new(rip, 80)
        );
    }
    let mut director = Running::start(if io == Io::Tap { &wire.ns } else { &own.ns }, &toml);
    if io == Io::Tap {
        eventually(Duration::from_secs(10), "no tap0", || {
            assert!(director.director.alive(), "the director ended");
            wire.links.index("tap0").is_ok()
        });
        wire.join("tap0", "wire");
    }
    let to = SocketAddr::new(vip, 80);
    client
        .ns
        .run(|| traffic::wait_for_refusal(SocketAddr::new(vip, 9), || director.director.alive()))
        .unwrap();
    let sniffer = Sniffer::start(&rs.ns);
    client.ns.run(|| traffic::ask_tcp(to, "marker")).unwrap();
    let frames = sniffer.finish();
    let request = frames.iter().find(|f| sniff::holds(&f.bytes, b"marker")).expect("the request");
    let request = sniff::read(&request.bytes, Some(encapsulation)).unwrap();
    let outer = request.outer.expect("in a tunnel");
    assert_eq!((outer.src, outer.dst), (number(!vip6, 2), rip));
    assert_eq!((request.ip.src, request.ip.dst), (number(vip6, 1), vip));
    for offload in [true, false] {
        client.offload("eth0", offload);
        rs.offload("eth0", offload);
        client
            .ns
            .run(|| {
                traffic::upload(to)?;
                traffic::download(to)?;
                for size in [1400, 1466, 4000, 64_000] {
                    traffic::ask_big_udp(to, size)?;
                }
                traffic::parallel(to, 20)
            })
            .unwrap_or_else(|e| {
                panic!("{encapsulation} {io:?} {unwrap:?} {to} at {rip} offload {offload}: {e}")
            });
    }
    director.stop();
}

macro_rules! crossings {
    ($($name:ident: $encapsulation:expr;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                for unwrap in [Where::User, Where::Kernel] {
                    for io in [Io::Packet, Io::Tap] {
                        crossed(io, false, $encapsulation, unwrap);
                        crossed(io, true, $encapsulation, unwrap);
                    }
                }
            }
        })*
    };
}

crossings! {
    ipip: Encapsulation::Ipip;
    gre: Encapsulation::Gre;
    gue: Encapsulation::Gue(6080);
}
