//! Who wants to hear of a service: programs, the named pipe, and routing daemons by the address on a device.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use softlvs::io::sys::netlink::Netlink;
use softlvs::lab::Mode;

use super::cluster::{Cluster, Real, Setup, configuration};
use crate::{gate, in_namespaces};

in_namespaces! {
    fn who_wants_to_hear_is_told_and_the_address_is_announced_while_the_service_is_up() {
        let scratch = tempfile::tempdir().unwrap();
        let (fifo, told) = (scratch.path().join("fifo"), scratch.path().join("told"));
        std::fs::write(&told, "").unwrap();
        for path in [scratch.path(), told.as_path()] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        }
        let script = format!("echo $SOFTLVS_STATE $SOFTLVS_SERVICE >> {}", told.display());
        let user = if gate::nobody() { "" } else { "command_user = \"root\"\n" };
        let service = format!(
            "{user}announce = \"dummy0\"\ndown_command = [\"/bin/sh\", \"-c\", '{script}']\nup_command = [\"/bin/sh\", \"-c\", '{script}']"
        );
        let mut c = Cluster::start(Setup::of(Mode::Nat));
        let vip = c.topology.layout.vip;
        let ns = &c.topology.node("director").unwrap().ns;
        // any device will do; not every kernel has dummies
        ns.run(|| Netlink::open()?.add_bridge("dummy0")).unwrap();
        let toml = configuration(&c.topology.layout, &Setup { service: &service, ..Setup::of(Mode::Nat) }, "");
        let toml = toml.replace("[director]\n", &format!("[director]\nnotify_fifo = \"{}\"\n", fifo.display()));
        c.reload(&toml);
        c.wait_for("is announced on dummy0", 1);
        let announced = |c: &Cluster<'_>| {
            let ns = &c.topology.node("director").unwrap().ns;
            let all = ns.run(|| Netlink::open()?.addresses()).unwrap();
            all.iter().any(|a| a.cidr.addr == vip)
        };
        assert!(announced(&c));
        let reader = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        c.reals.iter_mut().for_each(Real::stop);
        c.wait_for("is withdrawn from dummy0", 1);
        assert!(!announced(&c));
        let mut lines = vec![0; 4096];
        let n = (&reader).read(&mut lines).unwrap();
        let lines = String::from_utf8_lossy(&lines[..n]).into_owned();
        let down = format!("RS [10.0.0.12]:tcp:{} [{vip}]:tcp:80 DOWN\n", c.topology.layout.rport);
        assert!(lines.contains(&down), "{lines}");
        let end = Instant::now() + Duration::from_secs(20);
        let wanted = format!("DOWN [{vip}]:tcp:80\n");
        while std::fs::read_to_string(&told).unwrap() != wanted {
            assert!(Instant::now() < end, "{:?}", std::fs::read_to_string(&told));
            std::thread::sleep(Duration::from_millis(10));
        }
        // with nobody left clients are refused, and not sent to a server that is known to be dead
        let to = c.vip();
        let asked = c.client().run(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5)))).unwrap();
        assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

in_namespaces! {
    fn what_checks_found_is_told_with_the_state_of_each_server() {
        let mut c = Cluster::start(Setup { service: "slow_start = \"60s\"\nquorum = 2", ..Setup::of(Mode::FullNat) });
        let told = |c: &Cluster<'_>| -> serde_json::Value {
            serde_json::from_str(&c.tell(&["api", "/v1/health"])).unwrap()
        };
        let now = |v: &serde_json::Value| -> Vec<String> {
            let reals = v["services"][0]["reals"].as_array().unwrap();
            reals.iter().map(|r| format!("{} {}", r["state"].as_str().unwrap(), r["now"].as_str().unwrap())).collect()
        };
        let v = told(&c);
        let service = &v["services"][0];
        assert_eq!((v["services"].as_array().unwrap().len(), service["name"].as_str()), (1, Some("web")));
        assert_eq!(service["service"], "tcp/192.0.2.10:80");
        assert_eq!((&service["up"], &service["healthy_weight"], &service["sorry_server"]), (&true.into(), &3.into(), &false.into()));
        assert_eq!(now(&v), ["up serves", "up serves", "up serves"]);
        assert_eq!(service["reals"][1]["real"], "10.0.0.12:8080");

        c.reals[1].stop();
        c.wait_for(": down: ", 1);
        let v = told(&c);
        let real = &v["services"][0]["reals"][1];
        assert_eq!(now(&v), ["up serves", "up removed", "up serves"]);
        assert_eq!((&real["healthy"], &real["checks"][0]["check"], &real["checks"][0]["up"]), (&false.into(), &"c".into(), &false.into()));
        assert!(real["checks"][0]["last"].as_str().unwrap().contains("refused"), "{real}");
        assert_eq!(v["services"][0]["healthy_weight"], 2);
        let metrics = |c: &Cluster<'_>, line: &str| c.tell(&["api", "/metrics"]).lines().any(|l| l == line);
        let of = "service=\"web\",vip=\"192.0.2.10\",port=\"80\",proto=\"tcp\"";
        assert!(metrics(&c, &format!("softlvs_check_status{{{of},rs=\"10.0.0.12:8080\",check=\"c\"}} 0")));
        assert!(metrics(&c, &format!("softlvs_check_status{{{of},rs=\"10.0.0.11:8080\",check=\"c\"}} 1")));
        assert!(metrics(&c, &format!("softlvs_service_quorum_ok{{{of}}} 1")));
        let number = |c: &Cluster<'_>, name: &str| -> f64 {
            let page = c.tell(&["api", "/metrics"]);
            let line = page.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {page}"));
            line.trim().parse().unwrap()
        };
        assert!(number(&c, "softlvs_check_failures_total{check=\"c\",reason=\"answer\"}") >= 1.0);
        assert!(metrics(&c, "softlvs_check_failures_total{check=\"c\",reason=\"unchecked\"} 0"));
        assert!(number(&c, "softlvs_check_duration_seconds_count{check=\"c\"}") >= 3.0);
        assert!(number(&c, "softlvs_check_duration_seconds_sum{check=\"c\"}") > 0.0);
        // a second of the year 2026
        assert!(number(&c, "softlvs_config_last_success_timestamp_seconds") > 1.76e9);

        c.reals[1].begin();
        c.wait_for(": up: ", 1);
        assert_eq!(now(&told(&c)), ["up serves", "up slow_start", "up serves"]);

        c.reload(&c.configuration("state = \"drain\"\ndrain_deadline = \"300s\""));
        c.wait_for(": draining", 1);
        let v = told(&c);
        assert_eq!(now(&v), ["up serves", "drain drains", "up serves"]);
        assert!((290_000..=300_000).contains(&v["services"][0]["reals"][1]["deadline_ms"].as_u64().unwrap()), "{v}");
        assert!(metrics(&c, &format!("softlvs_rs_drain_remaining_connections{{{of},rs=\"10.0.0.12:8080\"}} 0")));
        c.reload(&c.configuration("state = \"maintenance\""));
        c.wait_for("configuration read again", 2);
        let end = Instant::now() + Duration::from_secs(5);
        while now(&told(&c)) != ["up serves", "maintenance removed", "up serves"] {
            assert!(Instant::now() < end, "{}", told(&c));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
