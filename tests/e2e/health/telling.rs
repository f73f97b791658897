//! Who wants to hear of a service: programs, the named pipe, and routing daemons by the address on a device.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use softlvs::io::sys::netlink::Netlink;
use softlvs::lab::Mode;

use super::cluster::{Cluster, Real, Setup, configuration};
use crate::in_namespaces;

in_namespaces! {
    fn who_wants_to_hear_is_told_and_the_address_is_announced_while_the_service_is_up() {
        let scratch = tempfile::tempdir().unwrap();
        let (fifo, told) = (scratch.path().join("fifo"), scratch.path().join("told"));
        std::fs::write(&told, "").unwrap();
        for path in [scratch.path(), told.as_path()] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        }
        let script = format!("echo $SOFTLVS_STATE $SOFTLVS_SERVICE >> {}", told.display());
        let service = format!(
            "announce = \"dummy0\"\ndown_command = [\"/bin/sh\", \"-c\", '{script}']\nup_command = [\"/bin/sh\", \"-c\", '{script}']"
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
