//! `softlvs doctor`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::mean::read_file;
use super::print;
use crate::config;
use crate::doctor::{Examination, host};
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  softlvs doctor
  softlvs doctor --config /etc/softlvs/softlvs.toml
  softlvs doctor --config softlvs.toml -o json

With a configuration it also asks the network around (ARP, echo, the first packet of a connection), from
the director's addresses. A director that runs meanwhile is not disturbed.

Exit status: 0 nothing is wrong (without a configuration: some kind of port works), 1 something is,
2 wrong usage or configuration.";

/// Options of `doctor`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Look for what is wrong around this configuration too
    #[arg(long, value_name = "FILE", env = "SOFTLVS_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Print as text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// Examines.
///
/// # Errors
/// The configuration cannot be read or is wrong.
pub fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let plan = match args.config.as_ref().filter(|p| !p.as_os_str().is_empty()) {
        Some(file) => {
            let text = read_file(file)?;
            let name = file.display().to_string();
            Some(config::check(&text, &name).map_err(|all| Failure::config(&all))?)
        }
        None => None,
    };
    let mut told = Examination { abilities: host::abilities(), ..Examination::default() };
    let well = match &plan {
        Some(plan) => {
            told.topology(plan);
            told.findings.is_empty()
        }
        None => told.abilities.iter().any(|a| a.works && ["tap", "tun", "packet", "xdp"].contains(&a.name)),
    };
    if args.output == "json" {
        let text = serde_json::to_string_pretty(&told);
        print(&(text.map_err(|e| Failure::run("cannot write the answer", e.to_string(), ""))? + "\n"))?;
    } else {
        let mut text = told.text();
        if plan.is_some() && well {
            text += "nothing is wrong with the topology\n";
        }
        print(&text)?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
