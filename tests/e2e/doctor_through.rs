//! `softlvs doctor` about networks that only the director can ask: behind its TAP and TUN devices, and XDP ports
//! in use.

use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use softlvs::lab::layout::{Io, Layout, Mode};
use softlvs::real::Encapsulation;

use crate::doctor::{Clinic, OTHERS, OTHERS6, SEEDS, SEEDS6, Seed, UDP, UDP4, changed, each, listen};
use crate::in_namespaces;
use crate::wires::{Host, PROGRAM, Running};

/// What `softlvs doctor` says of a director that runs.
fn examine(host: &softlvs::io::sys::ns::NetNs, running: &Running) -> Value {
    let mut command = Command::new(PROGRAM);
    command.args(["doctor", "-o", "json", "--control"]).arg(running.control());
    host.confine(&mut command).unwrap();
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
}

/// Starts the clinic's director and waits until it can be asked.
fn begin(clinic: &mut Clinic) -> Running {
    let mut running = Running::start(clinic.ns("director"), &clinic.toml);
    clinic.topology.attach_taps(Duration::from_secs(20), || running.director.alive()).unwrap();
    wait(&mut running);
    running
}

fn wait(running: &mut Running) {
    // its socket is there before its devices are
    while !running.director.log().contains("running: ") {
        assert!(running.director.alive(), "{}", running.director.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

in_namespaces! {
    fn doctor_says_nothing_false_of_a_healthy_topology_behind_a_tap_device() {
        if !crate::gate::tap() {
            return;
        }
        let mut all = Vec::new();
        for ipv6 in [false, true] {
            all.extend(Mode::ALL.map(|mode| (Layout::new(mode, ipv6, 2, Encapsulation::Ipip), false)));
            all.push((Layout::new(Mode::Dr, ipv6, 2, Encapsulation::Ipip), true));
        }
        all.push((Layout::new(Mode::Tun, false, 2, Encapsulation::Gue(6080)), false));
        each(&all, |(layout, udp)| {
            let mut clinic = Clinic::at(layout.clone(), Io::Tap, false, false);
            if *udp {
                clinic.toml = clinic.toml.replace(UDP.0, UDP.1);
            }
            // one more worker than there is a queue's worth of work: answers come to any of them
            clinic.toml = clinic.toml.replace("workers = 1", "workers = 2");
            let running = begin(&mut clinic);
            let told = examine(clinic.ns("director"), &running);
            assert_eq!((&told["findings"], &told["notes"]), (&json!([]), &json!([])), "{layout:?}");
            running.stop();
        });
    }
}

/// Those that are wrong beyond the director's own device.
fn beyond(seeds: &'static [Seed]) -> impl Iterator<Item = &'static Seed> {
    seeds.iter().filter(|(_, _, _, (was, _), (host, _), _)| *host != "director" && !was.contains("eth1"))
}

/// Examines each of them with its director attached by `io`; says which were not found.
fn misjudged(all: &[(bool, &Seed)], io: Io) -> Vec<String> {
    let wrong = Mutex::new(Vec::new());
    each(all, |(ipv6, (name, mode, (lazy, bare), (was, is), (host, line), about))| {
        let mut clinic = Clinic::at(Layout::new(*mode, *ipv6, 2, Encapsulation::Ipip), io, *lazy, *bare);
        clinic.toml = changed(&clinic.toml, (was, is));
        if !line.is_empty() {
            clinic.sh(host, line);
        }
        let running = begin(&mut clinic);
        let told = examine(clinic.ns("director"), &running);
        running.stop();
        let is_it = |f: &Value| {
            f["name"] == *name && f["about"].as_str().unwrap().contains(about) && f["remedy"] != ""
        };
        if !told["findings"].as_array().unwrap().iter().any(is_it) {
            let told = format!("{:#}\n{}", told["findings"], told["notes"]);
            wrong.lock().unwrap().push(format!("{name} ({mode:?}, {ipv6}, {host}: {line}): {told}"));
        }
    });
    wrong.into_inner().unwrap()
}

in_namespaces! {
    fn doctor_finds_behind_tap_devices_what_is_wrong_there() {
        if !crate::gate::tap() {
            return;
        }
        let four = [SEEDS, UDP4, OTHERS].into_iter().flat_map(beyond).map(|s| (false, s));
        let six = [SEEDS6, OTHERS6].into_iter().flat_map(beyond).map(|s| (true, s));
        let all: Vec<(bool, &Seed)> = four.chain(six).collect();
        assert!(all.len() > 50, "{}", all.len());
        let wrong = misjudged(&all, Io::Tap);
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    }
}

in_namespaces! {
    fn doctor_finds_behind_xdp_ports_in_use_what_is_wrong_there() {
        if !crate::gate::xdp() {
            return;
        }
        let mut healthy = Vec::new();
        for inherit in [false, true] {
            healthy.extend(Mode::ALL.map(|mode| (Layout::new(mode, false, 2, Encapsulation::Ipip), inherit)));
            healthy.push((Layout::new(Mode::Nat, true, 2, Encapsulation::Ipip), inherit));
        }
        each(&healthy, |(layout, inherit)| {
            let mut clinic = Clinic::at(layout.clone(), Io::Xdp, false, false);
            if *inherit {
                let own = |l: &str| if l.starts_with("mac = ") { "mac = \"inherit\"".to_owned() } else { l.to_owned() };
                clinic.toml = clinic.toml.lines().map(own).collect::<Vec<_>>().join("\n");
            }
            let running = begin(&mut clinic);
            let told = examine(clinic.ns("director"), &running);
            assert_eq!((&told["findings"], &told["notes"]), (&json!([]), &json!([])), "{layout:?} {inherit}");
            running.stop();
        });
        // who asks for the MAC of a stranger tells that to the kernel, not to the director
        let all: Vec<(bool, &Seed)> = beyond(SEEDS).filter(|s| s.0 != "arp_announce").map(|s| (false, s)).collect();
        let wrong = misjudged(&all, Io::Xdp);
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    }
}

in_namespaces! {
    fn doctor_asks_behind_a_tun_device_without_macs() {
        if !crate::gate::tap() {
            return;
        }
        let mut host = Host::silent();
        host.up("lo");
        let toml = "[[port]]\nname = \"inside\"\ntun = \"tun7\"\naddresses = [\"10.9.0.2/24\"]\n\
            [[service]]\naddress = \"10.9.0.100:80\"\n[[service.real]]\naddress = \"10.9.0.1:8080\"\n";
        let mut running = Running::start(&host.ns, toml);
        wait(&mut running);
        host.up("tun7");
        host.address("tun7", "10.9.0.1/24");
        let names = || {
            let told = examine(&host.ns, &running);
            assert_eq!(told["notes"], json!([]));
            let findings = told["findings"].as_array().unwrap().clone();
            findings.iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(), ["gateway_bypasses", "port_closed"]);
        let _listener = listen(&host.ns, 8080);
        let mut route = Command::new("ip");
        route.args(["route", "add", "default", "via", "10.9.0.2"]);
        host.ns.confine(&mut route).unwrap();
        assert!(route.status().unwrap().success());
        assert_eq!(names(), Vec::<String>::new());
        running.stop();
    }
}

in_namespaces! {
    fn one_asks_the_network_at_a_time_and_only_from_ports_that_are_there() {
        if !crate::gate::tap() {
            return;
        }
        let mut clinic = Clinic::at(Layout::new(Mode::Nat, false, 2, Encapsulation::Ipip), Io::Tap, false, false);
        // servers that are silent take long
        clinic.sh("rs1", "ip link set eth0 down");
        let mut running = begin(&mut clinic);
        let ask = |body: &str| {
            let mut curl = Command::new("curl");
            curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "content-type: application/json", "-d", body])
                .arg("--unix-socket").arg(running.control()).arg("http://localhost/v1/doctor");
            String::from_utf8(curl.output().unwrap().stdout).unwrap()
        };
        for (body, code) in [("{\"ports\": [\"nowhere\"]}", "404"), ("{\"frames\": []}", "400"), ("[]", "400"), ("", "400")] {
            assert_eq!(ask(body), code, "{body}");
        }
        let all = std::thread::scope(|scope| {
            let all: Vec<_> = (0..3).map(|_| scope.spawn(|| ask("{}"))).collect();
            let mut all: Vec<_> = all.into_iter().map(|t| t.join().unwrap()).collect();
            all.sort();
            all
        });
        assert_eq!(all, ["200", "409", "409"]);
        assert_eq!(ask("{}"), "200");
        assert!(running.director.alive());
        running.stop();
    }
}

in_namespaces! {
    fn asking_the_network_ends_with_whoever_asked() {
        if !crate::gate::tap() {
            return;
        }
        let mut host = Host::silent();
        // minutes of questions that nobody answers
        let services: String = (0..8000)
            .map(|n| format!("[[service]]\naddress = \"10.9.{}.{}:80\"\n", 1 + n / 250, 1 + n % 250))
            .collect();
        let toml = format!("[[port]]\nname = \"inside\"\ntap = \"tap7\"\naddresses = [\"10.9.0.2/16\"]\n{services}");
        let mut running = Running::start(&host.ns, &toml);
        wait(&mut running);
        host.up("tap7");
        let ask = |seconds: &str, body: &str| {
            let mut curl = Command::new("curl");
            curl.args(["-s", "-m", seconds, "-w", "%{http_code}", "-o", "/dev/null"])
                .args(["-H", "content-type: application/json", "-d", body, "--unix-socket"])
                .arg(running.control())
                .arg("http://localhost/v1/doctor");
            String::from_utf8(curl.output().unwrap().stdout).unwrap()
        };
        assert_eq!(ask("2", "{}"), "200", "the answer begins before it is there");
        // an unknown port is told to the one whose turn it is
        let nowhere = || ask("30", "{\"ports\": [\"nowhere\"]}");
        let freed = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(200));
            nowhere() == "404"
        });
        assert!(freed, "{}", nowhere());
        running.stop();
    }
}
