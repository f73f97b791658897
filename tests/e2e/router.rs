//! What the director does beside its services: with `forwarding = true` it routes between its networks,
//! without it nobody gets through; SIGHUP changes the configuration under running connections; idle it
//! sleeps.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::gate;
use crate::robust::processor_time;
use crate::sniff::{self, Sniffer, eventually};
use crate::traffic::{self, Server};
use crate::wires::{Host, PROGRAM};

const CLIENT: &str = "192.0.2.1";
const DIP: (&str, &str) = ("192.0.2.2", "10.0.0.1");
const VIP: &str = "192.0.2.10";

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Client, two-arm director with NAT, two real servers.
struct World {
    client: Host,
    servers: Vec<Host>,
    _wires: [Host; 2],
    child: Child,
    folder: tempfile::TempDir,
    _serving: Vec<Server>,
}

fn rip(n: usize) -> String {
    format!("10.0.0.1{n}")
}

fn config(forwarding: bool, servers: usize) -> String {
    let mut toml = format!(
        "[director]\nmode = \"nat\"\nforwarding = {forwarding}\n\
         [[port]]\nname = \"outside\"\npacket = \"eth0\"\naddresses = [\"{}/24\"]\n\
         [[port]]\nname = \"inside\"\npacket = \"eth1\"\naddresses = [\"{}/24\"]\n\
         [[service]]\naddress = \"{VIP}:80\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\n",
        DIP.0, DIP.1
    );
    for n in 1..=servers {
        toml += &format!("[[service.real]]\naddress = \"{}:8080\"\n", rip(n));
    }
    toml
}

impl World {
    fn start(toml: &str) -> World {
        let (mut client, mut director, mut inside) = (Host::new(), Host::silent(), Host::silent());
        client.wire("eth0", &mut director, "eth0");
        client.address("eth0", &format!("{CLIENT}/24"));
        client.route("10.0.0.0/24".parse().unwrap(), DIP.0.parse().unwrap());
        inside.bridge("inside", &[]);
        inside.wire("director", &mut director, "eth1");
        inside.join("director", "inside");
        let (mut servers, mut serving) = (Vec::new(), Vec::new());
        for n in 1..=2 {
            let (mut rs, name) = (Host::new(), format!("rs{n}"));
            inside.wire(&name, &mut rs, "eth0");
            inside.join(&name, "inside");
            rs.address("eth0", &format!("{}/24", rip(n)));
            rs.default_route(DIP.1.parse().unwrap());
            let any = at("0.0.0.0", 8080);
            serving.push(Server::start(&rs.ns, &name, any, any));
            servers.push(rs);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("softlvs.toml");
        std::fs::write(&file, toml).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .arg("--config")
            .arg(&file)
            .env("SOFTLVS_CONTROL", folder.path().join("control.sock"))
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap());
        director.ns.confine(&mut command).unwrap();
        let child = command.spawn().unwrap();
        let mut world =
            World { client, servers, _wires: [director, inside], child, folder, _serving: serving };
        let World { client, child, .. } = &mut world;
        let alive = || child.try_wait().unwrap().is_none();
        client.ns.run(|| traffic::wait_for_refusal(at(VIP, 9), alive)).unwrap();
        world
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn reload(&self, toml: &str, says: &str) {
        std::fs::write(self.folder.path().join("softlvs.toml"), toml).unwrap();
        let said = self.log().len();
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGHUP).unwrap();
        eventually(Duration::from_secs(5), says, || self.log()[said..].contains(says));
    }

    fn shares(&self) -> Vec<(String, usize)> {
        self.client.ns.run(|| traffic::parallel(at(VIP, 80), 20)).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("the director said:\n{}", self.log());
        }
    }
}

crate::in_namespaces! {
    fn with_forwarding_real_servers_reach_the_world_and_the_world_them() {
        let w = World::start(&config(true, 2));
        let _outside = Server::start(&w.client.ns, "client", at(CLIENT, 7000), at(CLIENT, 7000));
        for offload in [true, false] {
            w.client.offload("eth0", offload);
            w.servers[0].offload("eth0", offload);
            w.servers[0]
                .ns
                .run(|| {
                    let (answer, own) = traffic::ask_tcp(at(CLIENT, 7000), "out")?;
                    assert_eq!((answer.server.as_str(), answer.client), ("client", own), "nothing is translated");
                    traffic::upload(at(CLIENT, 7000))?;
                    traffic::download(at(CLIENT, 7000))?;
                    traffic::ask_big_udp(at(CLIENT, 7000), 4000)?;
                    traffic::ping(CLIENT.parse().unwrap(), 2)
                })
                .unwrap();
            // A connection to a real server past the service stays one past the service.
            let (answer, own) =
                w.client.ns.run(|| traffic::ask_tcp(at(&rip(1), 8080), "direct")).unwrap();
            assert_eq!((answer.server.as_str(), answer.client), ("rs1", own));
        }
        assert_eq!(w.shares(), [("rs1".to_owned(), 10), ("rs2".to_owned(), 10)]);
        // The director is a hop: a packet at the end of its life is answered by it.
        let sniffer = Sniffer::start(&w.client.ns);
        w.client
            .ns
            .run(|| {
                let socket = UdpSocket::bind(at(CLIENT, 0))?;
                socket.set_ttl(1)?;
                socket.send_to(b"hop", at(&rip(1), 33_434))
            })
            .unwrap();
        let frames = sniffer.finish();
        let hop = frames.iter().filter_map(|f| sniff::read(&f.bytes, None)).find(|p| p.icmp);
        let hop = hop.expect("an answer of the hop");
        assert_eq!((hop.ports, hop.ip.src), ((11, 0), at(DIP.0, 0).ip()));
    }
}

crate::in_namespaces! {
    fn without_forwarding_nobody_gets_through() {
        let w = World::start(&config(false, 2));
        for (who, to) in [(&w.client, at(&rip(1), 8080)), (&w.servers[0], at(CLIENT, 7000))] {
            let sniffer = Sniffer::start(if to.ip() == at(CLIENT, 0).ip() { &w.client.ns } else { &w.servers[0].ns });
            let _ = who.ns.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300))).unwrap_err();
            let frames = sniffer.finish();
            let through = frames.iter().filter_map(|f| sniff::read(&f.bytes, None)).find(|p| p.ip.dst == to.ip());
            assert_eq!(through, None);
        }
        assert_eq!(w.shares().len(), 2, "the service works");
    }
}

crate::in_namespaces! {
    fn a_configuration_read_again_leaves_connections_alone() {
        let w = World::start(&config(false, 1));
        let old = w.client.ns.run(|| traffic::connect(at(VIP, 80))).unwrap();
        assert_eq!(traffic::ask(&old, "before").unwrap().server, "rs1");
        assert_eq!(w.shares(), [("rs1".to_owned(), 20)]);

        w.reload(&config(false, 2), "configuration read again");
        assert_eq!(w.shares(), [("rs1".to_owned(), 10), ("rs2".to_owned(), 10)]);
        assert_eq!(traffic::ask(&old, "after").unwrap().server, "rs1");

        w.reload(&config(false, 2).replace("rr", "best"), "what runs stays as it is");
        assert_eq!(w.shares(), [("rs1".to_owned(), 10), ("rs2".to_owned(), 10)]);
        assert_eq!(traffic::ask(&old, "still").unwrap().server, "rs1");
    }
}

/// The same on XDP ports that have the interfaces' own MACs: the program has to know every address.
fn on_xdp(toml: &str) -> String {
    toml.replace("packet = ", "mac = \"inherit\"\nxdp = ")
}

crate::in_namespaces! {
    fn an_xdp_program_follows_the_configuration() {
        if !gate::xdp() {
            return;
        }
        let other = "192.0.2.20";
        let second = format!(
            "[[service]]\naddress = \"{other}:80\"\nprotocol = \"tcp\"\n[[service.real]]\naddress = \"{}:8080\"\n",
            rip(2)
        );
        let w = World::start(&on_xdp(&config(false, 1)));
        let old = w.client.ns.run(|| traffic::connect(at(VIP, 80))).unwrap();
        assert_eq!(traffic::ask(&old, "before").unwrap().server, "rs1");
        w.reload(&on_xdp(&(config(false, 1) + &second)), "configuration read again");
        let (answer, _) = w.client.ns.run(|| traffic::ask_tcp(at(other, 80), "new")).unwrap();
        assert_eq!(answer.server, "rs2", "a VIP and a real server that were not there before");
        w.reload(&on_xdp(&config(false, 2)), "configuration read again");
        assert_eq!(w.shares(), [("rs1".to_owned(), 10), ("rs2".to_owned(), 10)]);
        assert!(w.client.ns.run(|| traffic::ping(other.parse().unwrap(), 1)).is_err(), "a VIP that is gone");
        assert_eq!(traffic::ask(&old, "after").unwrap().server, "rs1");
        // with forwarding everything that is not the host's passes
        w.reload(&on_xdp(&config(true, 2)), "configuration read again");
        let (answer, own) = w.client.ns.run(|| traffic::ask_tcp(at(&rip(1), 8080), "direct")).unwrap();
        assert_eq!((answer.server.as_str(), answer.client), ("rs1", own));
        let _outside = Server::start(&w.client.ns, "client", at(CLIENT, 7000), at(CLIENT, 7000));
        w.servers[0].ns.run(|| traffic::ask_tcp(at(CLIENT, 7000), "out")).unwrap();
    }
}

crate::in_namespaces! {
    fn an_idle_director_on_xdp_ports_sleeps() {
        if gate::xdp() {
            sleeps(&on_xdp(&config(false, 2)));
        }
    }
}

crate::in_namespaces! {
    fn an_idle_director_sleeps() {
        sleeps(&config(false, 2));
    }
}

fn sleeps(toml: &str) {
    let w = World::start(toml);
    let held: Vec<TcpStream> =
        (0..50).map(|_| w.client.ns.run(|| traffic::connect(at(VIP, 80))).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(500));
    let before = processor_time(w.child.id());
    std::thread::sleep(Duration::from_secs(3));
    let used = processor_time(w.child.id()) - before;
    assert!(
        used <= Duration::from_millis(20),
        "{used:?} of 3 s used up with {} idle connections",
        held.len()
    );
}
