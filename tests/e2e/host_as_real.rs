//! The director's own host is a real server: it listens on its side of the TAP device, and the director
//! translates with FULLNAT so that the host's replies come back through it.
//!
//! ```text
//!   client 198.51.100.2 ── 198.51.100.1 host 10.9.0.1 ── tap0 ── director 10.9.0.2, VIP 10.9.0.100 and
//!                                                                             203.0.113.10 (routed)
//! ```

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use softlvs::addr::Cidr;
use softlvs::io::sys::netlink::Route;

use crate::gate;
use crate::traffic::{self, Server};
use crate::wires::{Host, PROGRAM};

/// Addresses: network of the TAP, client's network, VIP in the TAP's network, VIP elsewhere.
struct Plan {
    host: &'static str,
    director: &'static str,
    len: u8,
    near: &'static str,
    far: &'static str,
    client: &'static str,
    router: &'static str,
}

const V4: Plan = Plan {
    host: "10.9.0.1",
    director: "10.9.0.2",
    len: 24,
    near: "10.9.0.100",
    far: "203.0.113.10",
    client: "198.51.100.2",
    router: "198.51.100.1",
};
const V6: Plan = Plan {
    host: "fd00:9::1",
    director: "fd00:9::2",
    len: 64,
    near: "fd00:9::100",
    far: "2001:db8:203::10",
    client: "2001:db8:198::2",
    router: "2001:db8:198::1",
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Ends the child it holds.
struct Kill(std::process::Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serves_itself_and_others(p: &Plan, kind: &str) {
    let (mut host, mut client) = (Host::new(), Host::new());
    host.sysctl("net.ipv4.ip_forward", "1");
    host.sysctl("net.ipv6.conf.all.forwarding", "1");
    client.wire("eth0", &mut host, "eth0");
    let net = |a: &str| format!("{a}/{}", p.len);
    client.address("eth0", &net(p.client));
    host.address("eth0", &net(p.router));
    client.default_route(ip(p.router));
    let port = 8080;
    let vip = |a: &str| SocketAddr::new(ip(a), 80);
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("log");
    let mut command = Command::new(PROGRAM);
    command
        .args([kind, "lvs0", "--host-address", &net(p.host), "--address", &net(p.director)])
        .args(["--gateway", p.host, "--mode", "fullnat", "--scheduler", "rr"])
        .args(["--vip", &vip(p.near).to_string(), "--vip", &vip(p.far).to_string()])
        .args(["--real", &SocketAddr::new(ip(p.host), port).to_string()])
        .arg("--control")
        .arg(scratch.path().join("control.sock"))
        .env_remove("SOFTLVS_CONFIG")
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap());
    host.ns.confine(&mut command).unwrap();
    let mut child = Kill(command.spawn().unwrap());
    let said = || std::fs::read_to_string(&log).unwrap();
    let mut alive = || child.0.try_wait().unwrap().is_none();
    host.ns
        .run(|| traffic::wait_for_refusal(SocketAddr::new(ip(p.near), 9), &mut alive))
        .unwrap_or_else(|e| panic!("{e}:\n{}", said()));
    // Bound to its address: it can be there only now.
    let _server =
        Server::start(&host.ns, "host", SocketAddr::new(ip(p.host), port), SocketAddr::new(ip(p.host), port));
    for (name, who) in [("the host", &host), ("a client behind it", &client)] {
        for to in [vip(p.near), vip(p.far)] {
            who.ns
                .run(|| {
                    let (answer, _) = traffic::ask_tcp(to, "who")?;
                    assert_eq!((answer.server.as_str(), answer.client.ip()), ("host", ip(p.director)));
                    traffic::upload(to)?;
                    traffic::download(to)?;
                    assert_eq!(traffic::parallel(to, 50)?, [("host".to_owned(), 50)]);
                    traffic::ping(to.ip(), 2)
                })
                .unwrap_or_else(|e| panic!("{name} to {to}: {e}\n{}", said()));
        }
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.0.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert!(child.0.wait().unwrap().success(), "{}", said());
    // What it added is gone.
    assert!(host.links.index("lvs0").is_err());
    let routes: Vec<Route> = host.links.routes(ip(p.far).is_ipv4()).unwrap();
    assert!(!routes.iter().any(|r| r.to == Cidr::host(ip(p.far))), "{routes:?}");
}

crate::in_namespaces! {
    fn behind_a_tap_device() {
        if gate::tap() {
            serves_itself_and_others(&V4, "--tap");
            serves_itself_and_others(&V6, "--tap");
        }
    }
}

crate::in_namespaces! {
    fn behind_a_tun_device() {
        if gate::tap() {
            serves_itself_and_others(&V4, "--tun");
            serves_itself_and_others(&V6, "--tun");
        }
    }
}
