//! FTP with a real server (vsftpd) and a real client (curl): passive and active, in the old and in the
//! extended form, through NAT and FULLNAT, over both families and over ports with and without offload.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use softlvs::io::sys::ns::NetNs;
use softlvs::lab::director::Director;
use softlvs::lab::{Io, Layout, Mode, Topology};
use softlvs::real::Encapsulation;

use crate::gate;
use crate::sniff::eventually;
use crate::traffic;

/// Ways to ask for a data connection, as curl's options.
const WAYS: [(&str, &[&str]); 4] = [
    ("PASV", &["--ftp-pasv", "--disable-epsv"]),
    ("EPSV", &["--ftp-pasv"]),
    ("PORT", &["--ftp-port", "-", "--disable-eprt"]),
    ("EPRT", &["--ftp-port", "-"]),
];

/// An FTP server that ends with the test.
struct Vsftpd(Child);

impl Vsftpd {
    fn start(ns: &NetNs, dir: &Path, ipv6: bool) -> Vsftpd {
        let (public, empty) = (dir.join("pub"), dir.join("empty"));
        fs::create_dir_all(&public).unwrap();
        fs::create_dir_all(&empty).unwrap();
        fs::write(public.join("file"), traffic::bulk()).unwrap();
        let config = dir.join("vsftpd.conf");
        let text = format!(
            "listen={}\nlisten_ipv6={}\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n\
             no_anon_password=YES\nwrite_enable=NO\nanon_root={}\nsecure_chroot_dir={}\n\
             run_as_launching_user=YES\nconnect_from_port_20=YES\nisolate=NO\nisolate_network=NO\n\
             seccomp_sandbox=NO\nxferlog_enable=NO\n",
            if ipv6 { "NO" } else { "YES" },
            if ipv6 { "YES" } else { "NO" },
            public.display(),
            empty.display(),
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program("vsftpd"));
        command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        ns.confine(&mut command).unwrap();
        Vsftpd(command.spawn().unwrap())
    }
}

impl Drop for Vsftpd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that may lie in a directory which is no ordinary user's.
fn program(name: &str) -> String {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|dir| format!("{dir}/{name}"));
    places.into_iter().find(|p| Path::new(p).exists()).unwrap_or_default()
}

/// Fetches a file and a listing; tells what curl complains about.
fn fetch(client: &NetNs, vip: IpAddr, file: &Path, way: &[&str]) -> Result<(), String> {
    let host = SocketAddr::new(vip, 21);
    for (what, to) in [("", None), ("file", Some(file))] {
        let mut command = Command::new(program("curl"));
        command.args(["-sS", "--noproxy", "*", "-m", "20"]).args(way).arg(format!("ftp://{host}/{what}"));
        if let Some(to) = to {
            command.arg("-o").arg(to);
        }
        command.stdin(Stdio::null());
        client.confine(&mut command).unwrap();
        let out = command.output().unwrap();
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        }
        if to.is_none() && !String::from_utf8_lossy(&out.stdout).contains("file") {
            return Err("the listing does not name the file".to_owned());
        }
    }
    let got = fs::read(file).map_err(|e| e.to_string())?;
    if got == traffic::bulk() { Ok(()) } else { Err(format!("{} bytes, not as they were", got.len())) }
}

fn transfers(mode: Mode, ipv6: bool, io: Io) {
    if !gate::io(io) {
        return;
    }
    for name in ["vsftpd", "curl"] {
        if program(name).is_empty() {
            return gate::skip(&format!("no {name} here: apt-get install {name}"));
        }
    }
    let layout = Layout::new(mode, ipv6, 2, Encapsulation::Ipip);
    let vip = layout.vip;
    let mut toml = layout.toml(io, "rr");
    toml += &format!(
        "\n[[service]]\nname = \"ftp\"\naddress = \"{}\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\n",
        SocketAddr::new(vip, 21)
    );
    for (_, rip) in layout.servers() {
        toml += &format!("[[service.real]]\naddress = \"{}\"\n", SocketAddr::new(rip, 21));
    }
    let mut topology = Topology::build(layout, io).unwrap();
    topology.prepare_servers().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut servers = Vec::new();
    for (host, rip) in topology.layout.servers() {
        let ns = &topology.node(&host.name).unwrap().ns;
        servers.push(Vsftpd::start(ns, &scratch.path().join(&host.name), ipv6));
        eventually(Duration::from_secs(10), "vsftpd does not listen", || {
            ns.run(|| Ok(std::net::TcpStream::connect(SocketAddr::new(rip, 21)).is_ok())).unwrap()
        });
    }
    let mut director = Director::start(
        &topology.node("director").unwrap().ns,
        Path::new(env!("CARGO_BIN_EXE_softlvs")),
        &toml,
        &scratch.path().join("control.sock"),
    )
    .unwrap();
    topology.attach_taps(Duration::from_secs(10), || director.alive()).unwrap();
    let client = &topology.node("client").unwrap().ns;
    client.run(|| traffic::wait_for_refusal(SocketAddr::new(vip, 9), || director.alive())).unwrap();
    let file = scratch.path().join("fetched");
    for (name, way) in WAYS {
        // the old form has no room for IPv6 addresses
        if ipv6 && matches!(name, "PASV" | "PORT") {
            continue;
        }
        // once at each server
        for _ in 0..2 {
            fetch(client, vip, &file, way)
                .unwrap_or_else(|e| panic!("{mode:?} {name} {vip}: {e}\n{}", director.log()));
        }
    }
    assert!(director.stop(Duration::from_secs(5)), "the director did not end well");
}

macro_rules! ways {
    ($($name:ident: $mode:ident $ipv6:literal $io:ident;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                transfers(Mode::$mode, $ipv6, Io::$io);
            }
        })*
    };
}

ways! {
    nat: Nat false Packet;
    nat6: Nat true Packet;
    fullnat: FullNat false Packet;
    fullnat6: FullNat true Packet;
    nat_tap: Nat false Tap;
    nat6_tap: Nat true Tap;
    fullnat_tap: FullNat false Tap;
    fullnat6_tap: FullNat true Tap;
}
