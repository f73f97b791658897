//! What works here and what does not, and what is wrong around a director, each with the command that
//! mends it.
//!
//! [`host`] tries what this process may do. [`surroundings`] looks at the configuration against this host;
//! [`network`] asks the stations around: it speaks from the director's own addresses and MAC, so that the
//! answers come the way the traffic comes, and it only asks what any neighbour or client asks (ARP, echo,
//! the first packet of a connection).

#![forbid(unsafe_code)]

pub mod host;
pub mod network;
mod packets;
mod servers;
pub mod station;
pub mod surroundings;
mod targets;
pub mod wire;

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::config::Plan;

/// Something that may work here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ability {
    /// `tap`, `tun`, `packet`, ...
    pub name: &'static str,
    /// It works.
    pub works: bool,
    /// Why not, or what was found.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// Its name, for scripts.
    pub name: Cow<'static, str>,
    /// The port, address or real server it is about.
    pub about: String,
    /// What is wrong.
    pub what: String,
    /// The command that mends it.
    pub remedy: String,
}

impl Finding {
    fn new(
        name: &'static str,
        about: impl ToString,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { name: name.into(), about: about.to_string(), what: what.into(), remedy: remedy.into() }
    }
}

/// The whole examination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// What works here.
    pub abilities: Vec<Ability>,
    /// Whose surroundings were looked at: a file, or the director that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub examined: Option<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What was not looked at, and why.
    pub notes: Vec<String>,
}

/// What was found around some ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What was not looked at, and why.
    pub notes: Vec<String>,
}

/// A port whose network cannot be asked from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unasked {
    /// Name of the port.
    pub port: String,
    /// Why not.
    pub why: String,
}

impl Examination {
    /// Looks at a configuration: this host first, then the network around it. Ports whose network cannot be
    /// asked from here are given to `director`, which has them asked or says why it cannot.
    pub fn topology(&mut self, plan: &Plan, director: impl FnOnce(&[&str]) -> Result<Found, String>) {
        let usable = surroundings::look(plan, &mut self.findings);
        let mut found = Found::default();
        let unasked = network::ask(plan, &usable, &mut found);
        let names: Vec<&str> = unasked.iter().map(|u| u.port.as_str()).collect();
        let told = if names.is_empty() { Ok(Found::default()) } else { director(&names) };
        match told {
            Ok(told) => {
                found.findings.extend(told.findings);
                found.notes.extend(told.notes);
            }
            Err(instead) => found.notes.extend(
                unasked
                    .iter()
                    .map(|u| format!("port {}: its network is not asked: {}; {instead}", u.port, u.why)),
            ),
        }
        self.findings.extend(found.findings);
        self.notes.extend(found.notes);
        self.notes.dedup();
        self.findings.sort();
        self.findings.dedup();
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let width = self.abilities.iter().map(|a| a.name.len()).max().unwrap_or(0);
        for a in &self.abilities {
            let mark = if a.works { "ok " } else { "no " };
            let _ = writeln!(out, "{mark} {:width$}  {}", a.name, a.detail);
            if !a.remedy.is_empty() {
                let _ = writeln!(out, "    {:width$}  remedy: {}", "", a.remedy);
            }
        }
        let around = !self.findings.is_empty() || !self.notes.is_empty();
        if around && !self.abilities.is_empty() {
            out.push('\n');
        }
        for f in &self.findings {
            let _ = writeln!(out, "problem: {}: {} ({})\nremedy:  {}", f.about, f.what, f.name, f.remedy);
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }
}
