//! Hosts and wires for topologies other than the lab's, and the director as a child process.

use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use softlvs::addr::Cidr;
use softlvs::io::sys::netlink::{Feature, Netlink, Route, set_feature};
use softlvs::io::sys::ns::{NetNs, set_sysctl};
use softlvs::lab::director::Director;

/// A namespace that is a host.
pub struct Host {
    pub ns: NetNs,
    pub links: Netlink,
}

impl Host {
    pub fn new() -> Host {
        let ns = NetNs::new().unwrap();
        let links = Netlink::open_in(&ns).unwrap();
        let host = Host { ns, links };
        for scope in ["all", "default"] {
            host.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0");
        }
        host
    }

    /// A host that only carries frames or only runs a director: its kernel says nothing by itself.
    pub fn silent() -> Host {
        let host = Host::new();
        for scope in ["all", "default"] {
            host.sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "1");
        }
        host
    }

    pub fn sysctl(&self, key: &str, value: &str) {
        self.ns.run(|| set_sysctl(key, value)).unwrap();
    }

    /// A wire to another host; both ends are up.
    pub fn wire(&mut self, name: &str, other: &mut Host, peer: &str) {
        self.links.add_veth(name, peer, Some(&other.ns)).unwrap();
        self.up(name);
        other.up(peer);
    }

    pub fn bridge(&mut self, name: &str, ports: &[&str]) {
        self.links.add_bridge(name).unwrap();
        for port in ports {
            self.join(port, name);
        }
        self.up(name);
    }

    pub fn join(&mut self, port: &str, bridge: &str) {
        let (port, bridge) = (self.links.index(port).unwrap(), self.links.index(bridge).unwrap());
        self.links.set_master(port, bridge).unwrap();
        self.links.set_up(port, true).unwrap();
    }

    pub fn up(&mut self, name: &str) {
        let index = self.links.index(name).unwrap();
        self.links.set_up(index, true).unwrap();
    }

    pub fn address(&mut self, name: &str, cidr: &str) {
        let index = self.links.index(name).unwrap();
        self.links.add_address(index, cidr.parse().unwrap(), true).unwrap();
    }

    pub fn route(&mut self, to: Cidr, via: IpAddr) {
        self.links.add_route(Route::via(to, via), false).unwrap();
    }

    pub fn default_route(&mut self, via: IpAddr) {
        self.links.add_route(Route::default_via(via), false).unwrap();
    }

    /// Transmit checksum and segmentation offload, as `ethtool -K NAME tx on|off tso on|off`.
    pub fn offload(&self, name: &str, on: bool) {
        for feature in [Feature::TxChecksum, Feature::Tso] {
            self.ns.run(|| set_feature(name, feature, on)).unwrap();
        }
    }
}

/// A director under test; what it said is shown when the test fails.
pub struct Running {
    pub director: Director,
    scratch: tempfile::TempDir,
}

impl Running {
    /// Starts it with a configuration file. It ends with the calling thread.
    pub fn start(ns: &NetNs, toml: &str) -> Running {
        let scratch = tempfile::tempdir().unwrap();
        let control = scratch.path().join("control.sock");
        let director = Director::start(ns, Path::new(PROGRAM), toml, &control).unwrap();
        Running { director, scratch }
    }

    /// Its control socket.
    pub fn control(&self) -> std::path::PathBuf {
        self.scratch.path().join("control.sock")
    }

    /// Stops it; it has to end well and by itself.
    pub fn stop(mut self) {
        let ended_well = self.director.stop(Duration::from_secs(5));
        assert!(ended_well, "the director did not end well:\n{}", self.director.log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the director said:\n{}", self.director.log());
        }
    }
}

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_softlvs");

/// A copy that other users can run: the build folder may be closed to them. Gone with the folder.
pub fn program_for_others() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("softlvs");
    std::fs::copy(PROGRAM, &program).unwrap();
    (folder, program)
}

/// Runs the program with these arguments in a namespace until it ends by itself: exit status and what it
/// wrote to standard error.
pub fn run_to_end(ns: &NetNs, command: &mut Command) -> (i32, String) {
    let scratch = tempfile::tempdir().unwrap();
    // also for programs that run as somebody else
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o777)).unwrap();
    command.env("SOFTLVS_CONTROL", scratch.path().join("control.sock")).env_remove("SOFTLVS_CONFIG");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    ns.confine(command).unwrap();
    let mut child: Child = command.spawn().unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            child.wait().unwrap();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("it should not run, but does; it said:\n{said}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.code().unwrap_or(-1), said)
}
