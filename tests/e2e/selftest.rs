//! The kernel's own IPVS selftest (`tools/testing/selftests/net/netfilter/ipvs.sh`), with this director in
//! the place of `ip_vs`: the same three hosts, wires and addresses, the same data, more modes.
//!
//! ```text
//!        ns0 (client)                  ns1 (director)
//!     br0 10.0.0.2 ── veth01 ─────── veth10 10.0.0.1
//!          │                         veth12 172.16.0.1
//!        veth02                         │
//!          │     ns2 (real server)      │
//!          └── veth20 10.0.0.3          │
//!              veth21 172.16.0.2 ───────┘
//! ```
//!
//! What differs: the VIP is not on the director's `lo`, where its kernel would answer for it; forwarding
//! stays off there in every mode; and ns2 unwraps tunnel packets in user space.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use softlvs::addr::Cidr;
use softlvs::lab::{Io, Mode};
use softlvs::real::{self, Encapsulation, Prepared, Role, Where};

use crate::gate;
use crate::traffic::{self, Server};
use crate::wires::{Host, Running};

const PORT: u16 = 8080;

/// Addresses of one family.
struct Plan {
    vip: &'static str,
    client: &'static str,
    outside: &'static str,
    inside: &'static str,
    real: &'static str,
    back: &'static str,
    len: u8,
}

const V4: Plan = Plan {
    vip: "207.175.44.110",
    client: "10.0.0.2",
    outside: "10.0.0.1",
    inside: "172.16.0.1",
    real: "172.16.0.2",
    back: "10.0.0.3",
    len: 24,
};
const V6: Plan = Plan {
    vip: "2001:db8:44::110",
    client: "fd00:10::2",
    outside: "fd00:10::1",
    inside: "fd00:172::1",
    real: "fd00:172::2",
    back: "fd00:10::3",
    len: 64,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

struct World {
    ns0: Host,
    ns2: Host,
    director: Running,
    _prepared: Option<Prepared>,
    _ns1: Host,
}

fn build(mode: Mode, io: Io, p: &Plan) -> World {
    let (mut ns0, mut ns1, mut ns2) = (Host::new(), Host::silent(), Host::new());
    let net = |a: &str| format!("{a}/{}", p.len);
    ns0.wire("veth01", &mut ns1, "veth10");
    ns0.wire("veth02", &mut ns2, "veth20");
    ns1.wire("veth12", &mut ns2, "veth21");
    ns0.bridge("br0", &["veth01", "veth02"]);
    ns0.address("br0", &net(p.client));
    ns2.address("veth21", &net(p.real));
    ns0.route(Cidr::host(ip(p.vip)), ip(p.outside));
    if matches!(mode, Mode::Nat | Mode::FullNat) {
        let index = ns2.links.index("veth20").unwrap();
        ns2.links.delete_link(index).unwrap();
    } else {
        ns2.address("veth20", &net(p.back));
        ns2.sysctl("net.ipv4.conf.all.rp_filter", "0");
        ns2.sysctl("net.ipv4.conf.veth21.rp_filter", "0");
    }
    let vips = vec![ip(p.vip)];
    let role = match mode {
        Mode::Nat => Some(Role::Nat { gateway: ip(p.inside) }),
        Mode::FullNat => None,
        Mode::Dr => Some(Role::Dr { vips }),
        Mode::Tun => Some(Role::Tun {
            vips,
            encapsulation: Encapsulation::Ipip,
            device: real::DEVICE.into(),
            unwrap: Where::User,
        }),
    };
    let prepared = role.map(|r| ns2.ns.run(|| real::prepare(&r)).unwrap());
    let device = |i: usize| match io {
        Io::Tap => format!("tap = \"tap{i}\""),
        _ => format!("packet = \"{}\"", ["veth10", "veth12"][i]),
    };
    let toml = format!(
        "[director]\nmode = \"{}\"\n\
         [[port]]\nname = \"outside\"\n{}\naddresses = [\"{}\"]\n\
         [[port]]\nname = \"inside\"\n{}\naddresses = [\"{}\"]\n\
         [[service]]\nname = \"selftest\"\naddress = \"{}\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\n\
         [[service.real]]\naddress = \"{}\"\n",
        mode.name(),
        device(0),
        net(p.outside),
        device(1),
        net(p.inside),
        SocketAddr::new(ip(p.vip), PORT),
        SocketAddr::new(ip(p.real), PORT),
    );
    let mut director = Running::start(&ns1.ns, &toml);
    if io == Io::Tap {
        for (i, veth) in ["veth10", "veth12"].iter().enumerate() {
            let tap = format!("tap{i}");
            crate::sniff::eventually(Duration::from_secs(10), &format!("no {tap}"), || {
                assert!(director.director.alive(), "the director ended");
                ns1.links.index(&tap).is_ok()
            });
            ns1.bridge(&format!("br{i}"), &[veth, &tap]);
        }
    }
    let closed = SocketAddr::new(ip(p.vip), 9);
    ns0.ns.run(|| traffic::wait_for_refusal(closed, || director.director.alive())).unwrap();
    World { ns0, ns2, director, _prepared: prepared, _ns1: ns1 }
}

/// The selftest proper: a one-shot listener, a client with 2 seconds, 32 random bytes.
fn thirty_two_bytes(w: &World, p: &Plan) {
    let mut sent = [0u8; 32];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut sent).unwrap();
    let any = if ip(p.vip).is_ipv4() { "0.0.0.0" } else { "::" };
    let listener = w.ns2.ns.run(|| traffic::when_free(|| TcpListener::bind((any, PORT)))).unwrap();
    let server = std::thread::spawn(move || -> io::Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        let mut got = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.read_to_end(&mut got)?;
        Ok(got)
    });
    let begin = Instant::now();
    w.ns0.ns.run(|| traffic::connect(SocketAddr::new(ip(p.vip), PORT))?.write_all(&sent)).unwrap();
    assert_eq!(server.join().unwrap().unwrap(), sent);
    assert!(begin.elapsed() < Duration::from_secs(2), "took {:?}", begin.elapsed());
}

fn selftest(mode: Mode, io: Io) {
    if io == Io::Tap && !gate::tap() {
        return;
    }
    for p in [V4, V6] {
        let w = build(mode, io, &p);
        for offload in [true, false] {
            w.ns0.offload("br0", offload);
            w.ns2.offload("veth21", offload);
            if !matches!(mode, Mode::Nat | Mode::FullNat) {
                w.ns2.offload("veth20", offload);
            }
            thirty_two_bytes(&w, &p);
            let v4 = ip(p.vip).is_ipv4();
            let any = ip(if v4 { "0.0.0.0" } else { "::" });
            let _server =
                Server::start(&w.ns2.ns, "ns2", SocketAddr::new(any, PORT), SocketAddr::new(any, PORT));
            let to = SocketAddr::new(ip(p.vip), PORT);
            w.ns0
                .ns
                .run(|| {
                    traffic::upload(to)?;
                    traffic::download(to)?;
                    assert_eq!(traffic::parallel(to, 100)?, [("ns2".to_owned(), 100)]);
                    traffic::ping(to.ip(), 2)
                })
                .unwrap_or_else(|e| panic!("{mode:?} {io:?} {to} offload {offload}: {e}"));
        }
        w.director.stop();
    }
}

macro_rules! selftests {
    ($($name:ident: $mode:ident $io:ident;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                selftest(Mode::$mode, Io::$io);
            }
        })*
    };
}

selftests! {
    dr_raw: Dr Packet;
    nat_raw: Nat Packet;
    tun_raw: Tun Packet;
    fullnat_raw: FullNat Packet;
    dr_tap: Dr Tap;
    nat_tap: Nat Tap;
    tun_tap: Tun Tap;
    fullnat_tap: FullNat Tap;
}
