//! What `ipvsadm -S` prints, as a configuration file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::network::Seen;
use super::{Imported, Notes, Source, list, quoted};
use crate::ipvsadm::{Command, parse};
use crate::svc::{Catalog, DestSpec, Forward, Proto, ServiceKey, ServiceSpec, Tunnel, TunnelCsum};

pub(super) fn import(text: &str, name: &str) -> Imported {
    let mut notes = Notes::default();
    let mut catalog = Catalog::default();
    let (mut zero, mut timeouts) = (crate::ipvsadm::Baseline::default(), String::new());
    for (i, line) in text.lines().enumerate() {
        let at = Source { file: name.into(), line: i + 1 };
        let line = line.trim();
        let line = line.strip_prefix("ipvsadm ").unwrap_or(line);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let word = words.first().copied().unwrap_or_default();
        match parse(&words) {
            Ok(Command::Set([tcp, fin, udp])) => {
                for (key, span) in [("tcp", tcp), ("tcp_fin", fin), ("udp", udp)] {
                    if span.as_secs() > 0 {
                        let _ = writeln!(timeouts, "{key} = \"{}s\"", span.as_secs());
                    }
                }
            }
            Ok(Command::List(_) | Command::Zero(_)) => notes.add(&at, word, "it changes nothing: left out"),
            Ok(command) => {
                if let Err(e) = crate::ipvsadm::apply(&command, &mut catalog, &mut zero) {
                    notes.add(&at, word, format!("{e}: left out").replace('\n', " "));
                }
            }
            Err(e) => notes.add(&at, word, format!("{e}: left out").replace('\n', " ")),
        }
    }
    let mut out = String::new();
    if !timeouts.is_empty() {
        let _ = write!(out, "\n[timeouts]\n{timeouts}");
    }
    let mut seen = Seen::default();
    for s in catalog.services() {
        service(&s.spec, &mut out, &mut seen);
        // the newest server stands first in the list
        for d in s.dests.iter().rev() {
            real(&s.spec, &d.spec, &mut out, &mut seen);
        }
    }
    let services = catalog.services().len();
    Imported { text: out, port: seen.port(&BTreeSet::new()), notes: notes.0, services }
}

fn service(s: &ServiceSpec, out: &mut String, seen: &mut Seen) {
    out.push_str("\n[[service]]\n");
    match s.key {
        ServiceKey::Address { proto, ip, port } => {
            let _ = writeln!(out, "address = \"{}\"", SocketAddr::new(ip, port));
            if proto != Proto::Tcp {
                let _ = writeln!(out, "protocol = \"{}\"", proto.name());
            }
            seen.vips.insert(ip);
        }
        ServiceKey::Mark { mark, v6 } => {
            let _ = writeln!(out, "fwmark = {mark}\nfamily = \"{}\"", if v6 { "ipv6" } else { "ipv4" });
        }
    }
    let _ = writeln!(out, "scheduler = \"{}\"", s.scheduler.name());
    let flags = s.flag_names();
    if !flags.is_empty() {
        let _ = writeln!(out, "scheduler_flags = {}", list(&flags));
    }
    if let Some(p) = s.persistence {
        let engine = s.engine.map(|e| format!(", engine = {}", quoted(e.name()))).unwrap_or_default();
        let full = if s.key.is_v6() { 128 } else { 32 };
        let mask = if p.netmask == full || p.netmask == 0 {
            String::new()
        } else {
            format!(", netmask = {}", p.netmask)
        };
        let _ = writeln!(out, "persistence = {{ timeout = \"{}s\"{mask}{engine} }}", p.timeout.as_secs());
    }
    if s.one_packet {
        out.push_str("one_packet = true\n");
    }
}

fn real(s: &ServiceSpec, d: &DestSpec, out: &mut String, seen: &mut Seen) {
    seen.reals.insert(d.ip);
    let at = match d.forward.translates() && d.port != 0 && s.key.port() != 0 {
        true => SocketAddr::new(d.ip, d.port).to_string(),
        false => d.ip.to_string(),
    };
    let _ = writeln!(out, "\n[[service.real]]\naddress = \"{at}\"\nweight = {}", d.weight);
    let (mode, tunnel) = match d.forward {
        Forward::Nat => ("nat", None),
        Forward::FullNat => ("fullnat", None),
        Forward::Dr => ("dr", None),
        Forward::Tun(t) => ("tun", Some(t)),
    };
    let _ = writeln!(out, "mode = \"{mode}\"");
    let csum = |c: TunnelCsum| match c {
        TunnelCsum::None => "none",
        TunnelCsum::Csum => "csum",
        TunnelCsum::RemCsum => "remcsum",
    };
    match tunnel {
        None | Some(Tunnel::Ipip) => {}
        Some(Tunnel::Gre { csum: c }) => {
            let _ = writeln!(out, "tunnel = {{ type = \"gre\", checksum = \"{}\" }}", csum(c));
        }
        Some(Tunnel::Gue { port, csum: c }) => {
            let _ = writeln!(out, "tunnel = {{ type = \"gue\", port = {port}, checksum = \"{}\" }}", csum(c));
        }
    }
    for (key, n) in [("upper_threshold", d.upper), ("lower_threshold", d.lower)] {
        if n > 0 {
            let _ = writeln!(out, "{key} = {n}");
        }
    }
}
