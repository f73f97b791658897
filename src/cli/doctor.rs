//! `softlvs doctor`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::client::{self, Client, Kind};
use super::mean::read_file;
use super::print;
use crate::config;
use crate::doctor::{Examination, Found, host};
use crate::failure::Failure;
use crate::serve::listen;

const EXAMPLES: &str = "\
Examples:
  softlvs doctor
  softlvs doctor --control /run/softlvs/softlvs.sock
  softlvs doctor --config /etc/softlvs/softlvs.toml
  softlvs doctor --config softlvs.toml -o json

Without a file it examines the configuration in force of the director that runs, if one does. With a
configuration it also asks the network around (ARP, echo, the first packet of a connection), from
the director's addresses. A director that runs is not disturbed; behind its TAP and TUN devices, and XDP
ports, it asks itself.

Exit status: 0 nothing is wrong (without a configuration: some kind of port works), 1 something is,
2 wrong usage or configuration.";

/// Options of `doctor`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Look for what is wrong around this configuration too
    #[arg(long, value_name = "FILE", env = "SOFTLVS_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Control socket of the running director to examine; goes before a file
    #[arg(long, value_name = "PATH")]
    pub control: Option<String>,
    /// Print as text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// The configuration in force of the director that runs, and the director; `None` when nobody named one and none is
/// there.
fn running(control: Option<&str>, told: &mut Examination) -> Result<Option<(config::Plan, Client)>, Failure> {
    let named = listen::path(control).is_some_and(|(_, named)| named);
    let mut director = match client::connect(control) {
        Ok(director) => director,
        Err(e) if named => return Err(e.into()),
        Err(e) => {
            use std::io::ErrorKind::{ConnectionRefused, NotFound};
            if !matches!(e.error.kind(), NotFound | ConnectionRefused) {
                told.notes.push(format!("the director at {} is not asked: {}", e.path.display(), e.error));
            }
            return Ok(None);
        }
    };
    let text = director.text("GET", "/v1/config", None)?;
    let plan = config::check(&text, "the running configuration").map_err(|all| Failure::config(&all))?;
    told.examined = Some("the director that runs".to_owned());
    Ok(Some((plan, director)))
}

/// Has the director ask around ports that only it can ask.
fn through(director: Option<&mut Client>, ports: &[&str]) -> Result<Found, String> {
    let Some(director) = director else {
        return Err("the director that runs there asks it: `softlvs doctor` without a file".to_owned());
    };
    let body = serde_json::json!({ "ports": ports }).to_string();
    let told = director.send("POST", "/v1/doctor", Kind::Json, body);
    told.and_then(|told| {
        serde_json::from_value(told).map_err(|e| Failure::run("the answer", e.to_string(), ""))
    })
    .map_err(|f| format!("nor does the director ask it: {}", f.messages().join("; ").replace("error: ", "")))
}

/// Examines.
///
/// # Errors
/// The configuration cannot be read or is wrong.
pub fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut told = Examination { abilities: host::abilities(), ..Examination::default() };
    let (plan, mut director) =
        match args.config.as_ref().filter(|p| !p.as_os_str().is_empty() && args.control.is_none()) {
            Some(file) => {
                let text = read_file(file)?;
                let name = file.display().to_string();
                let plan = config::check(&text, &name).map_err(|all| Failure::config(&all))?;
                told.examined = Some(name);
                (Some(plan), None)
            }
            None => running(args.control.as_deref(), &mut told)?.unzip(),
        };
    let well = match &plan {
        Some(plan) => {
            told.topology(plan, |ports| through(director.as_mut(), ports));
            told.findings.is_empty()
        }
        None => told.abilities.iter().any(|a| a.works && ["tap", "tun", "packet", "xdp"].contains(&a.name)),
    };
    if args.output == "json" {
        let text = serde_json::to_string_pretty(&told);
        print(&(text.map_err(|e| Failure::run("cannot write the answer", e.to_string(), ""))? + "\n"))?;
    } else {
        let mut text = told.text();
        if let Some(what) = &told.examined {
            text += &format!("examined: {what}\n");
        }
        if plan.is_some() && well {
            text += "nothing is wrong with the topology\n";
        }
        print(&text)?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
