//! What was understood, as the text of a configuration file.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::service::{Importer, Key, Service, maps};
use super::{Imported, Source, list};

impl Importer<'_> {
    pub(super) fn write(&mut self, at: &Source, key: Key, s: &Service) {
        let mut out = format!("\n# {}:{}\n[[service]]\n", super::printable(&at.file), at.line);
        let (port, v6) = match key {
            Key::Address(ip, port) => {
                let _ = writeln!(out, "address = \"{}\"", SocketAddr::new(ip, port));
                match s.protocol.as_deref() {
                    None | Some("tcp") => {}
                    Some(p @ ("udp" | "sctp")) => {
                        let _ = writeln!(out, "protocol = \"{p}\"");
                    }
                    Some(p) => {
                        self.notes.add(at, "protocol", format!("`{p}` cannot be balanced: tcp is taken"))
                    }
                }
                self.seen.vips.insert(ip);
                if port == 0 && !s.persistent {
                    self.notes.add(at, "virtual_server", "every port needs persistence: 360 s is taken");
                    out.push_str("persistence = { timeout = \"360s\" }\n");
                }
                (port, ip.is_ipv6())
            }
            Key::Mark(mark, family) => {
                let v6 = family.unwrap_or_else(|| s.reals.first().map_or(s.ipv6, |r| r.ip.is_ipv6()));
                let _ = writeln!(out, "fwmark = {mark}\nfamily = \"{}\"", if v6 { "ipv6" } else { "ipv4" });
                if s.protocol.is_some() {
                    self.notes.add(at, "protocol", "a mark stands for every protocol: left out");
                }
                self.notes.add(
                    at,
                    "fwmark",
                    format!(
                        "packets get mark {mark} by a [[mark]] rule, not by the host's firewall: add one"
                    ),
                );
                (0, v6)
            }
        };
        let _ = writeln!(out, "mode = \"{}\"", s.mode.name);
        out += &s.lines;
        if let Some((ip, sorry_port)) = s.sorry {
            if ip.is_ipv6() != v6 {
                self.notes.add(at, "sorry_server", "it is of the other address family: left out");
            } else {
                let port = if sorry_port == 0 { port } else { sorry_port };
                let text = if port == 0 || !maps(s.mode.name) {
                    ip.to_string()
                } else {
                    SocketAddr::new(ip, port).to_string()
                };
                let _ = writeln!(out, "sorry_server = \"{text}\"");
                self.seen.reals.insert(ip);
            }
        }
        for r in &s.reals {
            if r.ip.is_ipv6() != v6 && r.mode.name != "tun" {
                self.notes.add(
                    &r.at,
                    "real_server",
                    "it is of another address family than the service: left out",
                );
                continue;
            }
            let mapped = maps(r.mode.name) && r.port != 0 && port != 0;
            if !maps(r.mode.name) && r.port != 0 && r.port != port {
                self.notes.add(
                    &r.at,
                    "real_server",
                    format!(
                        "{} cannot map ports: packets arrive at port {port}, not {}",
                        r.mode.name, r.port
                    ),
                );
            }
            let text = if mapped { SocketAddr::new(r.ip, r.port).to_string() } else { r.ip.to_string() };
            let _ = write!(out, "\n[[service.real]]\naddress = \"{text}\"\n{}", r.lines);
            if let Some(t) = r.mode.tunnel.as_ref().filter(|_| r.mode.name == "tun") {
                let _ = writeln!(out, "tunnel = {t}");
            }
            if !r.checks.is_empty() {
                let _ = writeln!(out, "check = {}", list(&r.checks));
            }
            self.seen.reals.insert(r.ip);
            self.seen.near |= r.mode.name == "dr";
        }
        let (out, twice) = last_of_each(&out);
        for key in twice {
            self.notes.add(at, &key, "it is said more than once: the last one counts");
        }
        self.services += &out;
        self.count += 1;
    }

    pub(super) fn finish(mut self) -> Imported {
        let mut text = String::new();
        if !self.local.is_empty() {
            let all: Vec<&String> = self.local.iter().collect();
            let _ = writeln!(self.director, "local_addresses = {}", list(&all));
        }
        for (table, lines) in [("director", &self.director), ("timeouts", &self.timeouts)] {
            if !lines.is_empty() {
                let _ = write!(text, "\n[{table}]\n{lines}");
            }
        }
        text += &self.check_text;
        let (mut text, twice) = last_of_each(&text);
        for key in twice {
            self.notes.add(&Source::default(), &key, "it is said more than once: the last one counts");
        }
        text += &self.services;
        let port = self.seen.port(&self.local);
        Imported { text, port, notes: self.notes.0, services: self.count }
    }
}

/// The lines without those keys that come again in the same table; the keys that came again.
fn last_of_each(text: &str) -> (String, BTreeSet<String>) {
    let mut seen = HashSet::new();
    let mut twice = BTreeSet::new();
    let mut kept: Vec<&str> = Vec::new();
    for line in text.lines().rev() {
        let key = line.split_once(" = ").map(|(key, _)| key).filter(|_| !line.starts_with(['#', '[']));
        if line.starts_with('[') {
            seen.clear();
        }
        match key.filter(|k| !seen.insert(*k)) {
            Some(key) => drop(twice.insert(key.to_owned())),
            None => kept.push(line),
        }
    }
    let whole = kept.into_iter().rev().flat_map(|line| [line, "\n"]).collect();
    (whole, twice)
}
