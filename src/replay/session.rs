//! A session of commands: the director's state and a small world around it, without anything of this
//! machine. What the recorded shell lines do is done by `shell`; what they call is here.

use std::collections::{BTreeMap, BTreeSet};

use super::player::Outcome;
use super::scenario::Scenario;
use super::shell::{Shell, World};
use crate::config::sysctl;
use crate::ctl::State;
use crate::ctl::ipvsadm::{Call, Piece};
use crate::ipvsadm::{Names, conns, proc};

/// Settings that the recorded kernel did not have yet.
const LATER: &[&str] = &["conn_lfactor", "debug_level", "est_cpulist", "est_nice", "svc_lfactor"];
const SYSCTLS: &str = "/proc/sys/net/ipv4/vs/";

/// Plays a session and compares what every command printed.
pub(super) fn play(scenario: &Scenario, tell: &mut dyn FnMut(&str)) -> Outcome {
    let mut shell = Shell::new(Host::default());
    for (i, record) in scenario.commands.iter().enumerate() {
        let place = || format!("command {i} `{}`", record.cmd);
        let got = match shell.run(&record.cmd, &record.stdin) {
            Ok(got) => got,
            Err(why) => return Outcome::Unsupported(format!("{}: {why}", place())),
        };
        tell(&format!("$ {}\n{}{}", record.cmd, got.stdout, got.stderr));
        if let Err(why) = record.compare(&got.stdout, &got.stderr, got.code) {
            return Outcome::Differs(format!("{}: {why}", place()));
        }
    }
    Outcome::Same
}

/// What the commands work on.
#[derive(Default)]
struct Host {
    state: State,
    interfaces: BTreeSet<String>,
    files: BTreeMap<String, String>,
}

impl Host {
    fn names(&self) -> Names {
        let text = |path: &str| self.files.get(path).map_or("", String::as_str);
        Names::read(text("/etc/hosts"), text("/etc/services"))
    }

    fn ipvsadm(&mut self, args: &[String], stdin: &str, out: &mut String, err: &mut String) -> i32 {
        let call = Call { args: args.to_vec(), stdin: stdin.to_owned(), names: self.names() };
        let interfaces = &self.interfaces;
        let outcome = self.state.ipvsadm(&call, &|name| interfaces.contains(name));
        self.state.catalog.commit();
        for piece in outcome.stdout {
            match piece {
                Piece::Text(text) => out.push_str(&text),
                Piece::Connections { persistence, .. } => out.push_str(&conns::title(persistence)),
            }
        }
        err.push_str(&outcome.stderr);
        i32::from(outcome.code)
    }

    /// `ip`, as far as it makes devices.
    fn ip(&mut self, args: &[String]) -> Result<i32, String> {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        match words[..] {
            ["link", "add", name, "type", ..] | ["link", "add", "dev", name, "type", ..] => {
                self.interfaces.insert(name.to_owned());
            }
            ["link", "del", name] => {
                self.interfaces.remove(name);
            }
            ["link", "set", ..] | ["addr" | "address", "add", ..] | ["-6" | "-4", "addr", "add", ..] => {}
            _ => return Err(format!("`ip {}` has no counterpart", words.join(" "))),
        }
        Ok(0)
    }

    fn sysctl(&mut self, args: &[String], out: &mut String, err: &mut String) -> i32 {
        let mut code = 0;
        for word in args.iter().filter(|a| !a.starts_with('-')) {
            let (name, value) = word.split_once('=').map_or((word.as_str(), None), |(n, v)| (n, Some(v)));
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            if let Some(value) = value
                && let Err(why) = self.write(&path, value, false)
            {
                err.push_str(&format!("sysctl: error setting key '{name}': {why}\n"));
                code = 1;
                continue;
            }
            match self.read(&path) {
                Some(text) => out.push_str(&format!("{name} = {text}")),
                None => {
                    err.push_str(&format!("sysctl: error: '{name}' is an unknown key\n"));
                    code = 1;
                }
            }
        }
        code
    }

    fn sysctl_text(&self, name: &str) -> Option<String> {
        let known = sysctl::find(name).filter(|k| k.name == name && !LATER.contains(&name))?;
        Some(match self.state.sysctl.0.get(known.name) {
            Some(sysctl::Value::Int(n)) => format!("{n}\n"),
            Some(sysctl::Value::Pair(a, b)) => format!("{a}\t{b}\n"),
            Some(sysctl::Value::Text(t)) => format!("{t}\n"),
            None => format!("{}\n", known.default.replace(' ', "\t")),
        })
    }
}

impl World for Host {
    fn call(
        &mut self,
        words: &[String],
        stdin: &str,
        out: &mut String,
        err: &mut String,
    ) -> Result<Option<i32>, String> {
        let Some((program, args)) = words.split_first() else { return Ok(None) };
        match program.as_str() {
            "ipvsadm" | "/sbin/ipvsadm" | "/usr/sbin/ipvsadm" => {
                Ok(Some(self.ipvsadm(args, stdin, out, err)))
            }
            // the recorded host had neither script
            "ipvsadm-save" | "ipvsadm-restore" => {
                err.push_str(&format!("sh: {program}: not found\n"));
                Ok(Some(127))
            }
            "ip" => self.ip(args).map(Some),
            "sysctl" => Ok(Some(self.sysctl(args, out, err))),
            _ => Ok(None),
        }
    }

    fn read(&self, path: &str) -> Option<String> {
        if let Some(name) = path.strip_prefix(SYSCTLS) {
            return self.sysctl_text(name);
        }
        let (totals, rates) = (self.state.totals(), self.state.total_rates());
        match path {
            "/proc/net/ip_vs" => Some(proc::services(self.state.catalog.services())),
            "/proc/net/ip_vs_conn" => Some(proc::CONN_TITLE.to_owned()),
            "/proc/net/ip_vs_conn_sync" => Some(proc::CONN_SYNC_TITLE.to_owned()),
            "/proc/net/ip_vs_stats" => Some(proc::stats(totals, rates)),
            "/proc/net/ip_vs_stats_percpu" => Some(proc::stats_percpu(totals, rates)),
            "/proc/net/ip_vs_app" => Some("prot port    usecnt name\n".to_owned()),
            other => self.files.get(other).cloned(),
        }
    }

    fn write(&mut self, path: &str, text: &str, append: bool) -> Result<(), String> {
        if let Some(name) = path.strip_prefix(SYSCTLS) {
            return self.state.set_sysctl(name, text.trim_end()).map_err(|_| "Invalid argument".to_owned());
        }
        let file = self.files.entry(path.to_owned()).or_default();
        if !append {
            file.clear();
        }
        file.push_str(text);
        Ok(())
    }

    fn remove(&mut self, path: &str) -> bool {
        self.files.remove(path).is_some()
    }

    fn list(&self, folder: &str) -> Vec<String> {
        let folder = format!("{}/", folder.trim_end_matches('/'));
        if folder == SYSCTLS {
            let known = sysctl::ALL.iter().map(|k| k.name).filter(|n| !LATER.contains(n));
            return known.map(str::to_owned).collect();
        }
        if folder == "/proc/net/" {
            let names = ["", "_app", "_conn", "_conn_sync", "_stats", "_stats_percpu"];
            return names.iter().map(|n| format!("ip_vs{n}")).collect();
        }
        let inside = self.files.keys().filter_map(|p| p.strip_prefix(&folder));
        inside.filter(|p| !p.contains('/')).map(str::to_owned).collect()
    }
}
