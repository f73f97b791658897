//! Devices and starts that are not as in the book: interfaces that take one MAC address only, that are given
//! another name, one wire with several networks, what a killed process has left.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use softlvs::io::sys::ns::sysctl;

use crate::sniff::eventually;
use crate::traffic::{self, Server};
use crate::wires::{Host, PROGRAM, Running, program_for_others, run_to_end};

/// Runs `ip` on a host; false when the kernel lacks what was asked for.
fn ip(host: &Host, words: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(words.split(' ')).stdin(Stdio::null());
    host.ns.confine(&mut command).unwrap();
    command.status().unwrap().success()
}

/// The director's host and another one, which is client and real server, on one wire.
fn pair(client: &str) -> (Host, Host, Server) {
    let (mut host, mut other) = (Host::silent(), Host::new());
    other.wire("eth0", &mut host, "eth0");
    other.address("eth0", client);
    let address = SocketAddr::new(client.split_once('/').unwrap().0.parse().unwrap(), 8080);
    let server = Server::start(&other.ns, "rs", address, address);
    (host, other, server)
}

fn config(device: &str, addresses: &str, real: &str) -> String {
    format!(
        "[director]\nmode = \"fullnat\"\n[[port]]\nname = \"p\"\n{device}\naddresses = [{addresses}]\n\
         [[service]]\naddress = \"192.0.2.10:80\"\n[[service.real]]\naddress = \"{real}\"\n"
    )
}

fn vip() -> SocketAddr {
    "192.0.2.10:80".parse().unwrap()
}

fn says(director: &Running, what: &str) {
    eventually(Duration::from_secs(15), what, || director.director.log().contains(what));
}

crate::in_namespaces! {
    fn on_a_macvlan_interface_the_director_has_its_address_and_no_other() {
        let (host, client, _server) = pair("192.0.2.1/24");
        if !ip(&host, "link add mv0 link eth0 type macvlan mode bridge") {
            return crate::gate::skip("no macvlan in this kernel");
        }
        ip(&host, "link set mv0 up");
        let toml = config("packet = \"mv0\"", "\"192.0.2.2/24\"", "192.0.2.1:8080");
        let director = Running::start(&host.ns, &toml);
        says(&director, "running:");
        client.ns.run(|| traffic::upload(vip()).and_then(|_| traffic::download(vip()))).unwrap();
        director.stop();

        let words = ["--packet", "mv0", "--mac", "02:00:00:00:00:99", "--address", "192.0.2.2/24"];
        let (status, said) = run_to_end(&host.ns, Command::new(PROGRAM).args(words));
        assert_eq!(status, 1, "{said}");
        let mut lines = said.lines();
        assert_eq!(
            lines.next(),
            Some(
                "softlvs: error: port mv0: mac = 02:00:00:00:00:99: a macvlan interface gets frames to its own \
                 address only"
            )
        );
        let help = "help: leave `mac` out, or give the interface this address: `ip link set mv0 address ";
        assert!(lines.next().is_some_and(|l| l.starts_with(help)), "{said}");
    }
}

crate::in_namespaces! {
    fn an_interface_that_got_another_name_is_told_and_taken_again_when_it_is_back() {
        let (host, client, _server) = pair("192.0.2.1/24");
        let toml = config("packet = \"eth0\"", "\"192.0.2.2/24\"", "192.0.2.1:8080");
        let director = Running::start(&host.ns, &toml);
        says(&director, "running:");
        client.ns.run(|| traffic::ask_tcp(vip(), "before")).unwrap();
        for change in ["down", "name lan0", "up"] {
            let name = if change == "up" { "lan0" } else { "eth0" };
            assert!(ip(&host, &format!("link set {name} {change}")));
        }
        says(&director, "port still does not work port=eth0 error=No such device");
        for change in ["down", "name eth0", "up"] {
            let name = if change == "up" { "eth0" } else { "lan0" };
            assert!(ip(&host, &format!("link set {name} {change}")));
        }
        says(&director, "port works again port=eth0");
        client.ns.run(|| traffic::ask_tcp(vip(), "after")).unwrap();
        director.stop();
    }
}

crate::in_namespaces! {
    fn fullnat_over_a_wire_with_two_networks_uses_the_real_servers_own() {
        let (host, client, _server) = pair("192.0.2.1/24");
        // the real server knows no way to 10.0.0.0/24
        let addresses = "\"10.0.0.1/24\", \"192.0.2.2/24\"";
        let director = Running::start(&host.ns, &config("packet = \"eth0\"", addresses, "192.0.2.1:8080"));
        says(&director, "running:");
        let dip: IpAddr = "192.0.2.2".parse().unwrap();
        for i in 0..6 {
            let (answer, _) = client.ns.run(|| traffic::ask_tcp(vip(), &format!("number-{i}"))).unwrap();
            assert_eq!(answer.client.ip(), dip);
        }
        director.stop();
    }
}

crate::in_namespaces! {
    fn what_was_there_before_a_killed_real_tun_comes_back_after_the_next() {
        if !crate::gate::tap() {
            return;
        }
        let host = Host::new();
        let scratch = tempfile::tempdir().unwrap();
        let start = || {
            let mut command = Command::new(PROGRAM);
            command.args(["real", "tun", "--vip", "192.0.2.10", "--device", "lvstest0"]);
            command.env("XDG_RUNTIME_DIR", scratch.path()).stdin(Stdio::null()).stdout(Stdio::piped());
            host.ns.confine(&mut command).unwrap();
            let mut child = traffic::when_free(|| command.spawn()).unwrap();
            let mut said = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            while !line.starts_with("unwrapping") {
                line.clear();
                assert!(said.read_line(&mut line).unwrap() > 0, "it ended");
            }
            (child, said)
        };
        let ignore = || host.ns.run(|| sysctl("net.ipv4.conf.all.arp_ignore")).unwrap();
        host.sysctl("net.ipv4.conf.all.arp_ignore", "8");
        let (mut killed, _) = start();
        assert_eq!(ignore(), "1");
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert_eq!(ignore(), "1", "nobody could take it back");
        let (mut next, _said) = start();
        kill(Pid::from_raw(next.id() as i32), Signal::SIGTERM).unwrap();
        assert!(next.wait().unwrap().success());
        assert_eq!(ignore(), "8");
    }
}

crate::in_namespaces! {
    fn a_guard_needs_net_admin_and_no_more() {
        let found = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !found("nft") || !found("setpriv") {
            return crate::gate::skip("no nft or setpriv here");
        }
        let (mut host, _other, _server) = pair("192.0.2.1/24");
        host.address("eth0", "192.0.2.10/24");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("softlvs.toml");
        let device = "packet = \"eth0\"\nguard = true";
        std::fs::write(&file, config(device, "\"192.0.2.2/24\"", "192.0.2.1:8080")).unwrap();
        let with = |caps: &str| {
            let mut command = Command::new("setpriv");
            command.args([&format!("--bounding-set=-all{caps}"), "--inh-caps=-all", PROGRAM, "--config"]).arg(&file);
            command
        };
        let (status, said) = run_to_end(&host.ns, &mut with(",+net_raw"));
        assert_eq!(status, 1, "{said}");
        assert!(said.starts_with("softlvs: error: cannot set the guard rule: "), "{said}");
        assert!(said.contains("\nhelp: nft needs CAP_NET_ADMIN in this network namespace"), "{said}");

        // as in a container with `--cap-add NET_ADMIN`
        let mut command = with(",+net_raw,+net_admin");
        command.env("SOFTLVS_CONTROL", folder.path().join("s.sock")).stdin(Stdio::null()).stderr(Stdio::piped());
        host.ns.confine(&mut command).unwrap();
        let mut director = command.spawn().unwrap();
        let mut said = BufReader::new(director.stderr.take().unwrap()).lines();
        let running = said.by_ref().map_while(Result::ok).any(|line| line.contains("running:"));
        assert!(running, "it ended");
        kill(Pid::from_raw(director.id() as i32), Signal::SIGTERM).unwrap();
        assert!(director.wait().unwrap().success());
        let rules = host.ns.run(|| Command::new("nft").args(["list", "ruleset"]).output()).unwrap();
        assert_eq!(String::from_utf8_lossy(&rules.stdout), "", "what is left of the guard");
    }
}

crate::in_namespaces! {
    fn root_of_a_user_namespace_without_a_run_folder_has_its_control_socket_in_the_users_own() {
        if !crate::gate::nobody() {
            return crate::gate::skip("there is nobody who is not root here");
        }
        let (_folder, program) = program_for_others();
        let own = tempfile::tempdir().unwrap();
        std::fs::set_permissions(own.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-Urn", "--setuid", "0"]).arg(&program).args(["status"]);
        command.env("XDG_RUNTIME_DIR", own.path()).env_remove("SOFTLVS_CONTROL").current_dir("/");
        {
            use std::os::unix::process::CommandExt;
            command.uid(65534).gid(65534);
        }
        let out = traffic::when_free(|| command.output()).unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if said.contains("unshare failed") || said.contains("Operation not permitted") {
            return crate::gate::skip(&said);
        }
        let at = own.path().join("softlvs.sock");
        assert!(said.contains(&format!("cannot reach the director at {}", at.display())), "{said}");
    }
}

crate::in_namespaces! {
    fn a_director_whose_log_nobody_reads_any_more_goes_on() {
        let (host, client, _server) = pair("192.0.2.1/24");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("softlvs.toml");
        std::fs::write(&file, config("packet = \"eth0\"", "\"192.0.2.2/24\"", "192.0.2.1:8080")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(&file).env("SOFTLVS_CONTROL", folder.path().join("s.sock"));
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        host.ns.confine(&mut command).unwrap();
        let mut director = traffic::when_free(|| command.spawn()).unwrap();
        let mut said = BufReader::new(director.stderr.take().unwrap()).lines();
        assert!(said.by_ref().map_while(Result::ok).any(|line| line.contains("running:")), "it ended");
        drop(said);
        // something to say
        for change in ["down", "up"] {
            assert!(ip(&host, &format!("link set eth0 {change}")));
        }
        eventually(Duration::from_secs(15), "no answer after the link came back", || {
            assert!(director.try_wait().unwrap().is_none(), "it ended");
            client.ns.run(|| traffic::ask_tcp(vip(), "after")).is_ok()
        });
        kill(Pid::from_raw(director.id() as i32), Signal::SIGTERM).unwrap();
        assert!(director.wait().unwrap().success());
    }
}

crate::in_namespaces! {
    fn a_frame_that_a_raw_socket_cannot_hand_over_is_counted_and_stops_nothing() {
        if !crate::gate::tap() {
            return;
        }
        let host = Host::silent();
        assert!(ip(&host, "tuntap add guest0 mode tap vnet_hdr") && ip(&host, "link set guest0 up"));
        let mac = "02:00:00:00:00:55";
        let mut command = Command::new("python3");
        command.args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/guest.py"), "guest0", mac]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        host.ns.confine(&mut command).unwrap();
        let Ok(mut guest) = traffic::when_free(|| command.spawn()) else {
            return crate::gate::skip("no python3 here");
        };
        let mut said = BufReader::new(guest.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "ready");

        let device = format!("packet = \"guest0\"\nmac = \"{mac}\"");
        let director = Running::start(&host.ns, &config(&device, "\"192.0.2.2/24\"", "192.0.2.1:8080"));
        says(&director, "running:");
        let control = director.control();
        let metrics = || {
            let mut ask = Command::new(PROGRAM);
            let out = ask.args(["api", "/metrics"]).env("SOFTLVS_CONTROL", &control).output().unwrap();
            String::from_utf8(out.stdout).unwrap()
        };
        let counts = |what: &str| {
            let all = metrics();
            all.lines().find(|l| l.contains(what)).and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0u64)
        };
        guest.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "sent");
        eventually(Duration::from_secs(10), "not counted as lost", || {
            counts("softlvs_io_lost_packets_total{port=\"p\",reason=\"unsuitable\"}") == 1
        });
        // the small one behind it got there: nobody serves UDP, which is answered
        assert!(counts("softlvs_io_packets_total{port=\"p\",direction=\"in\"}") > 0, "{}", metrics());
        director.stop();
        guest.kill().unwrap();
        guest.wait().unwrap();
    }
}
