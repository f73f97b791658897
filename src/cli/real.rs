//! `softlvs real nat|tun|dr`

use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use nix::sys::signal::{SigSet, Signal};

use super::control::Output;
use super::error::{Failure, complain};
use super::print;
use crate::real::{self, Checked, DEVICE, Encapsulation, Journal, Role, Where};

const EXAMPLES: &str = "\
Examples:
  softlvs real nat --gateway 10.0.0.1
  softlvs real dr --vip 192.0.2.10 --dry-run
  softlvs real dr --vip 192.0.2.10 --check
  softlvs real dr --vip 192.0.2.10 --undo
  softlvs real tun --vip 192.0.2.10 --tunnel gue     unwraps until it is stopped";

/// Options of `real`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RealArgs {
    /// Forwarding method.
    #[command(subcommand)]
    pub role: RealRole,
    /// Print the equivalent shell commands and do nothing
    #[arg(long, global = true, conflicts_with = "undo")]
    pub dry_run: bool,
    /// Take back what was done before
    #[arg(long, global = true)]
    pub undo: bool,
    /// Compare what is there with what is needed and do nothing; exit 1 when something is missing
    #[arg(long, global = true, conflicts_with_all = ["undo", "dry_run"])]
    pub check: bool,
    /// How --check prints it
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Output,
}

/// The forwarding methods that need something of the real server (fullnat needs nothing).
#[derive(Debug, Subcommand)]
pub enum RealRole {
    /// Send replies back through the director
    Nat {
        /// The director's address on this network (DIP)
        #[arg(long, value_name = "DIP")]
        gateway: IpAddr,
    },
    /// Own the VIP behind a tunnel and unwrap its packets in this process
    Tun {
        /// Virtual address (repeatable)
        #[arg(long, required = true)]
        vip: Vec<IpAddr>,
        /// Encapsulation the director uses: ipip, gre, gue or gue:PORT
        #[arg(long, default_value = "ipip")]
        tunnel: Encapsulation,
        /// Device that receives the unwrapped packets
        #[arg(long, value_name = "NAME", default_value = DEVICE)]
        device: String,
        /// Who unwraps: this process (user), a program in the kernel (kernel: faster, as root, from Linux 6.6
        /// on; packet filters then see the inner packets only), or the kernel where that works (auto)
        #[arg(long, value_name = "WHO", default_value = "user")]
        unwrap: Where,
    },
    /// Own the VIP without announcing it
    Dr {
        /// Virtual address (repeatable)
        #[arg(long, required = true)]
        vip: Vec<IpAddr>,
    },
}

/// Runs the command.
///
/// # Errors
/// The step that failed.
pub fn real(args: RealArgs) -> Result<ExitCode, Failure> {
    let role = match args.role {
        RealRole::Nat { gateway } => Role::Nat { gateway },
        RealRole::Dr { vip } => Role::Dr { vips: vip },
        RealRole::Tun { vip, tunnel, device, unwrap } => {
            if device.is_empty() || device.len() > 13 || device.contains(['/', ' ', ':']) {
                let why = format!("`{device}` cannot be a device name");
                return Err(Failure::wrong(
                    "--device",
                    why,
                    "1 to 13 characters without `/`, `:` and blanks",
                ));
            }
            Role::Tun { vips: vip, encapsulation: tunnel, device, unwrap }
        }
    };
    if args.dry_run {
        print(&lines(&real::dry_run(&role)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let failed = |what: &'static str| move |e: std::io::Error| super::lab::failure(what, &e);
    if args.output == Output::Json && !args.check {
        return Err(Failure::wrong("-o json", "it is for --check", "leave it out, or add --check"));
    }
    if args.check {
        let told = real::check(&role).map_err(failed("cannot look at this host"))?;
        return checked(&role, &told, args.output);
    }
    if args.undo {
        let mut journal = Journal::load(role.name()).map_err(failed("cannot read what was done"))?;
        if journal.is_empty() {
            print("nothing was done here that could be taken back\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        let code = undo(&mut journal)?;
        Journal::forget(role.name()).map_err(failed("cannot remove the record of what was done"))?;
        return Ok(code);
    }
    let tun = matches!(role, Role::Tun { .. });
    // Blocked before the first thread starts, so that only the wait below sees them.
    let mut end = SigSet::empty();
    for s in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        end.add(s);
    }
    if tun {
        end.thread_block().map_err(|e| super::lab::failure("cannot block signals", &e.into()))?;
    }
    let left = if tun { Journal::orphaned(role.name()) } else { Ok(Journal::default()) };
    let left = left.map_err(failed("cannot read what was done"))?;
    let mut prepared = real::prepare(&role).map_err(failed("cannot prepare the real server"))?;
    prepared.journal.save(role.name()).map_err(failed("cannot record what was done"))?;
    prepared.journal.adopt(left);
    print(&lines(&prepared.told))?;
    if !tun {
        return Ok(ExitCode::SUCCESS);
    }
    print("unwrapping; SIGTERM or Ctrl-C ends it and takes everything back\n")?;
    end.wait().map_err(|e| super::lab::failure("cannot wait for a signal", &e.into()))?;
    drop(prepared.decapsulator.take());
    let code = undo(&mut prepared.journal)?;
    Journal::forget(role.name()).map_err(failed("cannot remove the record of what was done"))?;
    Ok(code)
}

/// Says what is right and what is not.
fn checked(role: &Role, told: &[Checked], output: Output) -> Result<ExitCode, Failure> {
    let right = told.iter().all(|c| c.right);
    let text = match output {
        Output::Json => {
            let all = serde_json::json!({ "role": role.name(), "right": right, "steps": told });
            format!("{all}\n")
        }
        Output::Text => told
            .iter()
            .map(|c| match c.right {
                true => format!("right:   {}\n", c.step),
                false => format!("missing: {}: {}\nremedy:  {}\n", c.step, c.found, c.remedy.join(" && ")),
            })
            .collect(),
    };
    print(&text)?;
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn undo(journal: &mut Journal) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::SUCCESS;
    for told in journal.undo() {
        match told {
            Ok(line) => print(&format!("{line}\n"))?,
            Err(e) => {
                complain(&format!("error: cannot take back: {e}"));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn lines(all: &[String]) -> String {
    all.iter().map(|l| format!("{l}\n")).collect()
}
