//! What others read of a director: Prometheus' own parser takes `/metrics`, and node_exporter makes the same of
//! the `/proc/net/ip_vs` files as the director itself.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use softlvs::lab::{Io, Layout, Mode, Topology};
use softlvs::real::Encapsulation;

use crate::gate::skip;
use crate::in_namespaces;
use crate::sniff::eventually;
use crate::traffic::{self, Server};
use crate::wires::{PROGRAM, Running};

const EXPORTER: &str = "prometheus-node-exporter";
/// Debian's own, which has Debian's modules.
const PYTHON: &str = "/usr/bin/python3";
const AT: &str = "127.0.0.1:9100";

struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program and the Python module are there.
fn able() -> bool {
    let runs = |program: &str, args: &[&str]| {
        let mut c = Command::new(program);
        c.args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    for (there, package) in [
        (runs(EXPORTER, &["--version"]), "prometheus-node-exporter"),
        (runs(PYTHON, &["-c", "import prometheus_client"]), "python3-prometheus-client"),
    ] {
        if !there {
            skip(&format!("no {package} here"));
            return false;
        }
    }
    true
}

/// The director's file: services of each kind and family beside the lab's own.
fn configuration(l: &Layout, folder: &Path) -> String {
    let toml = l.toml(Io::Packet, "wlc");
    let toml = toml.replace("[director]\n", &format!("[director]\nproc = \"{}\"\n", folder.display()));
    let toml = toml.replace("\"10.0.0.1/24\"", "\"10.0.0.1/24\", \"2001:db8:2::1/64\"");
    let toml = toml.replace("scheduler = \"wlc\"\n", "scheduler = \"wlc\"\ncheck = \"page\"\n");
    toml + "
[[check]]
name = \"page\"
type = \"tcp\"
[[service]]
address = \"192.0.2.10:53\"
protocol = \"udp\"
scheduler = \"rr\"
[[service.real]]
address = \"10.0.0.11:5353\"
[[service]]
address = \"[2001:db8:1::10]:443\"
[[service.real]]
address = \"[2001:db8:2::11]:8443\"
weight = 65535
[[service.real]]
address = \"[2001:db8:2::12]:8443\"
weight = 0
[[service]]
fwmark = 7
scheduler = \"sh\"
scheduler_flags = [\"sh-port\"]
persistence = { timeout = \"5m\" }
[[service.real]]
address = \"10.0.0.12\"
[[service]]
fwmark = 8
family = \"ipv6\"
"
}

in_namespaces! {
    fn node_exporter_and_the_prometheus_parser_read_what_the_director_exports() {
        if able() {
            compare();
        }
    }
}

fn compare() {
    let mut topology =
        Topology::build(Layout::new(Mode::Nat, false, 2, Encapsulation::Ipip), Io::Packet).unwrap();
    topology.prepare_servers().unwrap();
    let l = topology.layout.clone();
    let _servers: Vec<Server> = l
        .servers()
        .map(|(host, rip)| {
            let ns = &topology.node(&host.name).unwrap().ns;
            Server::start(ns, &host.name, (rip, l.rport).into(), (rip, 5353).into())
        })
        .collect();
    let scratch = tempfile::tempdir().unwrap();
    let ns = &topology.node("director").unwrap().ns;
    let running = Running::start(ns, &configuration(&l, scratch.path()));
    let client = &topology.node("client").unwrap().ns;
    client.run(|| traffic::wait_for_refusal((l.vip, 9).into(), || true)).unwrap();
    // some that are over and some that stay
    client.run(|| traffic::parallel((l.vip, l.vport).into(), 20)).unwrap();
    let stay: Vec<_> =
        (0..5).map(|_| client.run(|| traffic::connect((l.vip, l.vport).into())).unwrap()).collect();
    for _ in 0..3 {
        client.run(|| traffic::ask_udp((l.vip, 53).into(), "question")).unwrap();
    }
    // four packets each at least: some of them are looked at for how long they take
    for _ in 0..600 {
        traffic::ask(&stay[0], "again").unwrap();
    }

    let mut command = Command::new(EXPORTER);
    command
        .args(["--collector.disable-defaults", "--collector.ipvs", "--web.disable-exporter-metrics"])
        .arg(format!("--web.listen-address={AT}"))
        .arg(format!("--path.procfs={}", scratch.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    ns.confine(&mut command).unwrap();
    let _exporter = Exporter(command.spawn().unwrap());
    let (ours, theirs) = (scratch.path().join("ours"), scratch.path().join("theirs"));
    let mut said = String::new();
    // the last packets of the connections that are over may still be on their way into both
    eventually(Duration::from_secs(20), "both say the same", || {
        let mut ask = Command::new(PROGRAM);
        let metrics =
            ask.args(["api", "/metrics"]).env("SOFTLVS_CONTROL", running.control()).output().unwrap();
        std::fs::write(&ours, metrics.stdout).unwrap();
        let mut fetch = Command::new("curl");
        fetch.args(["-sS", "-o"]).arg(&theirs).arg(format!("http://{AT}/metrics"));
        ns.confine(&mut fetch).unwrap();
        if !fetch.status().unwrap().success() {
            return false;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/exporters.py");
        let out = Command::new(PYTHON).arg(script).args([&ours, &theirs]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        if text != said {
            println!("{text}");
            said = text;
        }
        out.status.success()
    });
    // 5 totals; 3 of each of 2 + 1 + 2 + 1 servers
    assert!(said.starts_with("23 series of node_ipvs,"), "{said}");
    let text = std::fs::read_to_string(&theirs).unwrap();
    let line = |l: &str| text.lines().any(|t| t == l);
    assert!(line("node_ipvs_connections_total 28"), "{text}");
    let metrics = std::fs::read_to_string(&ours).unwrap();
    let value = |name: &str| {
        let line = metrics.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
        line.trim().parse::<f64>().unwrap()
    };
    let (samples, sum) = (value("softlvs_processing_seconds_count"), value("softlvs_processing_seconds_sum"));
    let packets = value("softlvs_packets_received_total");
    assert!(samples >= 1.0 && samples <= packets / 1024.0, "{samples} samples of {packets} packets");
    assert!(sum > 0.0 && sum / samples < 1.0, "{sum} s in {samples} samples");
    running.stop();
}
