//! A way with everything that belongs to it, ready to be measured.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use softlvs::lab::director::Director;

use crate::exec::{self, Running};
use crate::net::{CLIENT_MAC, INSIDE, INSIDE_MAC, Net, OUTSIDE, OUTSIDE_MAC, SERVER, SERVER_MAC, VIP};
use crate::plan::{Config, Device, Mode, Way, Wiring};
use crate::server::{self, SERVICES};
use crate::{check, scratch, usage};

/// What forwards.
enum Between {
    Kernel,
    Program(Running),
    Softlvs(Director),
}

/// A way, built and running.
pub struct Rig {
    pub config: Config,
    pub name: String,
    pub net: Net,
    between: Between,
    at_start_mib: f64,
    _nginx: Running,
}

impl Rig {
    /// Builds a way and proves that it carries traffic.
    ///
    /// # Errors
    /// A program is missing or refuses to start, or what arrives is not what was sent.
    pub fn build(config: Config, softlvs: &std::path::Path) -> io::Result<Rig> {
        let net = Net::build(&config)?;
        let nginx = server::start(&net)?;
        let between = match config.way {
            Way::Direct | Way::Route => Between::Kernel,
            Way::Dnat => {
                dnat(&net)?;
                Between::Kernel
            }
            Way::Haproxy => Between::Program(haproxy(&net)?),
            Way::NginxStream => Between::Program(nginx_stream(&net)?),
            Way::Null { device, queues } => Between::Program(null(&net, device, queues)?),
            Way::Softlvs { device, mode, queues } => {
                let toml = configuration(config.wiring, device, mode, queues, 1_000_000);
                let control = scratch::file("control.sock");
                Between::Softlvs(Director::start(&net.director.ns, softlvs, &toml, &control)?)
            }
        };
        let tap = matches!(
            config.way,
            Way::Null { device: Device::Tap, .. } | Way::Softlvs { device: Device::Tap, .. }
        );
        let mut rig = Rig { name: config.name(), config, between, at_start_mib: 0.0, _nginx: nginx, net };
        if tap {
            exec::wait_for("tap0", Duration::from_secs(5), || rig.net.director.has("tap0") || !rig.alive())
                .and_then(|()| rig.net.director.join("tap0", "br0"))
                .map_err(|e| rig.died().unwrap_or(e))?;
        }
        // the first packets wait for ARP and for whoever starts to be ready
        let mut last = None;
        let ready = exec::wait_for("traffic", Duration::from_secs(6), || {
            if !rig.alive() {
                return true;
            }
            last = check::http(&rig.net, Duration::from_millis(300)).err();
            last.is_none()
        });
        if let Some(e) = rig.died().or(last).or(ready.err()) {
            return Err(e);
        }
        rig.check()?;
        rig.at_start_mib = usage::memory(&rig.pids()).0;
        Ok(rig)
    }

    /// The director's processes.
    pub fn pids(&self) -> Vec<u32> {
        match &self.between {
            Between::Kernel => Vec::new(),
            Between::Program(p) => vec![p.pid()],
            Between::Softlvs(d) => vec![d.pid()],
        }
    }

    /// Resident memory of the director: at start, and the most it had. `None` for the kernel.
    pub fn memory(&self) -> Option<(f64, f64)> {
        let pids = self.pids();
        (!pids.is_empty()).then(|| (self.at_start_mib, usage::memory(&pids).1))
    }

    pub fn alive(&mut self) -> bool {
        match &mut self.between {
            Between::Kernel => true,
            Between::Program(p) => p.alive(),
            Between::Softlvs(d) => d.alive(),
        }
    }

    /// What the director said when it ended although it should not have.
    fn died(&mut self) -> Option<io::Error> {
        if self.alive() {
            return None;
        }
        let text = match &self.between {
            Between::Kernel => String::new(),
            Between::Program(p) => p.text(),
            Between::Softlvs(d) => d.log(),
        };
        let error = text.lines().find(|l| l.contains("rror")).unwrap_or_else(|| exec::last_line(&text));
        Some(io::Error::other(format!("it ended; it had said: {}", error.trim())))
    }

    /// Sends something of every kind through the way and compares what comes back.
    ///
    /// # Errors
    /// What does not arrive or arrives changed, or did not come past the director.
    pub fn check(&mut self) -> io::Result<()> {
        if let Some(e) = self.died() {
            return Err(e);
        }
        let before = self.net.director.received("d0")?;
        check::all(&self.net, self.config.way != Way::Haproxy)?;
        let past = self.net.director.received("d0")?.wrapping_sub(before);
        if self.config.way != Way::Direct && past < 10 {
            return Err(io::Error::other(format!("only {past} frames of the check came past the director")));
        }
        Ok(())
    }
}

fn dnat(net: &Net) -> io::Result<()> {
    // a table that is not full of closed connections of earlier rounds
    let _ = net
        .director
        .ns
        .run(|| softlvs::io::sys::ns::set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "10"));
    exec::nft(
        &net.director.ns,
        &format!(
            "table ip lvs {{\nchain pre {{\ntype nat hook prerouting priority -100;\nip daddr {VIP} dnat to {SERVER}\n}}\n}}\n"
        ),
    )
}

fn haproxy(net: &Net) -> io::Result<Running> {
    let mut conf = String::from(
        "global\n  maxconn 8000\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
         timeout server 60s\n",
    );
    for (port, _) in SERVICES.iter().filter(|(_, protocol)| *protocol == "tcp") {
        conf += &format!("listen s{port}\n  bind {VIP}:{port}\n  server rs {SERVER}:{port}\n");
    }
    let file = scratch::file("haproxy.cfg");
    std::fs::write(&file, conf)?;
    Running::start(&net.director.ns, &["haproxy", "-db", "-f", &file.to_string_lossy()])
}

fn nginx_stream(net: &Net) -> io::Result<Running> {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load =
        if std::path::Path::new(module).is_file() { format!("load_module {module};") } else { String::new() };
    let folder = scratch::folder("stream")?;
    let place = folder.display();
    let mut conf = format!(
        "{load} user root root; daemon off; master_process off; pid {place}/pid; error_log {place}/error;\n\
         events {{ worker_connections 16384; }}\nstream {{\n"
    );
    for (port, protocol) in SERVICES {
        let (udp, answers) = match (protocol, port) {
            ("udp", server::DISCARD) => (" udp", "proxy_responses 0; "),
            ("udp", _) => (" udp", ""),
            _ => ("", ""),
        };
        conf += &format!("server {{ listen {VIP}:{port}{udp}; {answers}proxy_pass {SERVER}:{port}; }}\n");
    }
    conf += "}\n";
    let file = folder.join("nginx.conf");
    std::fs::write(&file, conf)?;
    let error = format!("{place}/error");
    Running::start(&net.director.ns, &["nginx", "-e", &error, "-c", &file.to_string_lossy()])
}

/// This program again, as the example `null_forwarder`.
fn null(net: &Net, device: Device, queues: u8) -> io::Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg0(crate::NULL_FORWARDER).env("QUEUES", queues.to_string());
    match device {
        Device::Tap => {
            command.arg(format!("tap:tap0@{OUTSIDE_MAC}"));
        }
        Device::Packet | Device::Xdp => {
            let kind = device.word();
            command.arg(format!("{kind}:d0@{OUTSIDE_MAC}")).arg(format!("{kind}:d1@{INSIDE_MAC}"));
        }
    }
    command.args([CLIENT_MAC.to_string(), SERVER_MAC.to_string()]);
    Running::spawn(&net.director.ns, crate::NULL_FORWARDER, command)
}

/// softlvs' configuration.
pub fn configuration(wiring: Wiring, device: Device, mode: Mode, queues: u8, limit: u64) -> String {
    let kind = device.word();
    let several = if queues > 1 { format!("queues = {queues}\n") } else { String::new() };
    let mut text = format!("[director]\nmode = \"{}\"\nconnection_limit = {limit}\n", mode.word());
    if queues > 1 {
        text += &format!("workers = {queues}\n");
    }
    let mut port = |name: &str, device: &str, mac, addresses: &[String]| {
        text += &format!(
            "[[port]]\nname = \"{name}\"\n{kind} = \"{device}\"\nmac = \"{mac}\"\naddresses = {addresses:?}\n{several}"
        );
    };
    let (outside, inside) = (format!("{OUTSIDE}/24"), format!("{INSIDE}/24"));
    match wiring {
        Wiring::Veth => {
            port("outside", "d0", OUTSIDE_MAC, &[outside]);
            port("inside", "d1", INSIDE_MAC, &[inside]);
        }
        Wiring::Bridge => port("lan", "tap0", OUTSIDE_MAC, &[outside, inside]),
    }
    for (service, protocol) in SERVICES {
        text += &format!(
            "[[service]]\naddress = \"{VIP}:{service}\"\nprotocol = \"{protocol}\"\nscheduler = \"wlc\"\n\
             [[service.real]]\naddress = \"{SERVER}:{service}\"\n"
        );
    }
    text
}

/// Where cargo put the director.
pub fn program() -> PathBuf {
    std::env::var_os("SOFTLVS").map_or_else(|| env!("CARGO_BIN_EXE_softlvs").into(), PathBuf::from)
}
