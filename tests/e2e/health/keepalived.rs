//! A director that runs a keepalived.conf as it is: servers that die and come back, the sorry server, quorum
//! commands, and the file read again.

use std::path::Path;
use std::time::{Duration, Instant};

use softlvs::lab::{Io, Layout, Mode, Topology};
use softlvs::real::Encapsulation;

use super::clients::ask;
use super::cluster::{Cluster, Real, Setup, run};
use crate::in_namespaces;

/// rs3 is the sorry server.
fn configuration(told: &Path) -> String {
    let told = told.display();
    format!(
        r#"
global_defs {{
    router_id LVS_TEST        # a name, without consequence
}}
$VIP=192.0.2.10
$REAL= \
    real_server 192.0.2.${{N}} 80 {{ \
        weight $WEIGHT \
        HTTP_GET {{ \
            url {{ \
                path / \
                status_code 200 \
            }} \
            connect_timeout 0.25 \
            retry 1 \
            delay_before_retry 0.25 \
        }} \
    }}
include conf.d/*.conf
virtual_server ${{VIP}} 80 {{
    delay_loop 0.5
    lb_algo wrr
    lb_kind DR
    protocol TCP
    alpha                     # servers are down until they were asked
    quorum 2
    quorum_up   "/bin/sh -c 'echo up >> {told}'" root
    quorum_down "/bin/sh -c 'echo down >> {told}'" root
    sorry_server 192.0.2.13 80
    @lb1 ~SEQ(N, 11, 12) $REAL
    @lb2 real_server 192.0.2.99 80 {{
    @lb2 }}
}}
"#
    )
}

fn start() -> (Cluster<'static>, std::path::PathBuf) {
    let calm = crate::gate::calm();
    let layout = Layout::new(Mode::Dr, false, 3, Encapsulation::Ipip);
    let mut topology = Topology::build(layout, Io::Packet).unwrap();
    topology.prepare_servers().unwrap();
    let at = "0.0.0.0:80".parse().unwrap();
    let reals = ["rs1", "rs2", "rs3"]
        .map(|n| Real::start(&topology.node(n).unwrap().ns, n, at))
        .into_iter()
        .collect();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("keepalived.conf");
    let told = scratch.path().join("told");
    std::fs::create_dir(scratch.path().join("conf.d")).unwrap();
    std::fs::write(scratch.path().join("conf.d/weight.conf"), "$WEIGHT=1\n").unwrap();
    std::fs::write(&file, configuration(&told)).unwrap();
    let mac = topology.layout.director().nics[0].mac.to_string();
    let file = file.display().to_string();
    let words = [
        "--keepalived",
        &file,
        "--config-id",
        "lb1",
        "--packet",
        "eth0",
        "--address",
        "192.0.2.2/24",
        "--mac",
        &mac,
    ];
    let director = run(&topology, &scratch, &words);
    let mut c = Cluster { setup: Setup::of(Mode::Dr), topology, reals, director, scratch, _calm: calm };
    c.ready();
    (c, told)
}

/// Who answers a round of requests.
fn shares(c: &Cluster<'_>, n: usize) -> Vec<String> {
    let to = c.vip();
    let mut all: Vec<String> = c.client().run(|| Ok((0..n).filter_map(|_| ask(to)).collect())).unwrap();
    all.sort();
    all
}

/// Asks until the answers are these.
fn become_shares(c: &Cluster<'_>, wanted: &[&str]) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let got = shares(c, wanted.len());
        if got == wanted {
            return;
        }
        assert!(Instant::now() < end, "{got:?}, wanted {wanted:?}\n{}", c.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

in_namespaces! {
    fn a_keepalived_conf_runs_as_it_is() {
        let (mut c, told) = start();
        // servers that have not been asked yet take no clients
        become_shares(&c, &["rs1", "rs1", "rs2", "rs2"]);
        let text = |told: &Path| std::fs::read_to_string(told).unwrap_or_default();
        let wait_for = |words: &str| {
            let end = Instant::now() + Duration::from_secs(20);
            while text(&told) != words {
                assert!(Instant::now() < end, "{:?}, wanted {words:?}", text(&told));
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        wait_for("up\n");

        // one dies: less than the quorum is left, the sorry server serves
        c.reals[1].freeze(true);
        become_shares(&c, &["rs3", "rs3", "rs3"]);
        wait_for("up\ndown\n");
        assert_eq!(c.count("the sorry server serves"), 1 + c.count("not needed any more"));

        // it comes back
        c.reals[1].freeze(false);
        become_shares(&c, &["rs1", "rs2"]);
        wait_for("up\ndown\nup\n");

        // other weights in an included file, read again: nobody goes down for it
        let downs = c.count(": down: ");
        std::fs::write(c.scratch.path().join("conf.d/weight.conf"), "$WEIGHT=3\n").unwrap();
        c.hang_up();
        c.wait_for("configuration read again", 1);
        let listed = c.tell(&["ipvsadm", "-Ln"]);
        let row = listed.lines().find(|l| l.contains("192.0.2.12:80")).unwrap_or(&listed);
        assert_eq!(row.split_whitespace().take(4).collect::<Vec<_>>(), ["->", "192.0.2.12:80", "Route", "3"]);
        assert_eq!(shares(&c, 4), ["rs1", "rs1", "rs2", "rs2"]);
        assert_eq!(c.count(": down: "), downs);

        // a file without any virtual server is refused, what runs stays
        std::fs::write(c.scratch.path().join("keepalived.conf"), "virtual_server 192.0.2.300 80 {\n}\n").unwrap();
        c.hang_up();
        c.wait_for("what runs stays as it is", 1);
        assert_eq!(shares(&c, 2), ["rs1", "rs2"]);
    }
}
