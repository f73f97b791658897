//! `softlvs lab` and `softlvs lab exec`

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use clap::{Args, Subcommand};
use nix::sys::signal::{SigSet, Signal};

use super::error::Failure;
use super::print;
use crate::io::sys::ns::{self, Side};
use crate::lab::join::{self, Running};
use crate::lab::layout::MAX_SERVERS;
use crate::lab::run::{Lab, Options, best_io};
use crate::lab::{Io, Mode};
use crate::real::Encapsulation;
use crate::svc::SchedulerKind;

const EXAMPLES: &str = "\
Examples:
  softlvs lab --mode tun
  softlvs lab --mode dr --servers 5 --scheduler wlc --ipv6
  softlvs lab --mode nat -- sh -c 'curl -s $VIP_URL'
  softlvs lab --mode nat --shell        and, while it runs, from another terminal:
  softlvs lab exec rs1 -- ip addr

Exit status: 0 every request was answered, every server got its share and, in tun and dr, no reply
passed the director; 1 otherwise; 2 wrong usage. A command's own status is passed on when it is not 0.";

/// Options of `lab`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = EXAMPLES)]
pub struct LabArgs {
    /// Command on a running lab.
    #[command(subcommand)]
    pub command: Option<LabCommand>,
    /// Forwarding method: nat, fullnat, tun or dr
    #[arg(long, required = true)]
    pub mode: Option<Mode>,
    /// Real servers
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub servers: usize,
    /// Requests to send
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub requests: u64,
    /// Requests at the same time
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub concurrency: usize,
    /// Scheduler, as `ipvsadm -s`
    #[arg(long, value_name = "NAME", default_value = "rr")]
    pub scheduler: String,
    /// IPv6 instead of IPv4
    #[arg(long)]
    pub ipv6: bool,
    /// How the director reaches the network: auto, tap, packet or xdp
    #[arg(long, default_value = "auto")]
    pub io: String,
    /// Encapsulation in mode tun: ipip, gre, gue or gue:PORT
    #[arg(long, default_value = "ipip")]
    pub tunnel: Encapsulation,
    /// Folder that every real server serves; its index.html is requested [default: one made for the lab]
    #[arg(long, value_name = "DIR")]
    pub share: Option<PathBuf>,
    /// Afterwards start a shell at the client, with $VIP, $VIP_PORT and $VIP_URL set
    #[arg(long, conflicts_with = "cmd")]
    pub shell: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_parser = ["text", "json"], default_value = "text")]
    pub output: String,
    /// Afterwards run this command at the client, with $VIP, $VIP_PORT and $VIP_URL set
    #[arg(last = true)]
    pub cmd: Vec<OsString>,
}

/// Commands on a running lab.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Run a command at one of the hosts of a running lab: client, director, router, rs1 ...
    Exec {
        /// Process id of the lab, when several run
        #[arg(long)]
        lab: Option<u32>,
        /// Host
        host: String,
        /// Command [default: a shell]
        #[arg(last = true)]
        cmd: Vec<OsString>,
    },
}

/// Runs the command; must be called before any thread is started.
///
/// # Errors
/// Wrong usage, or the lab could not be built.
pub fn lab(args: &LabArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        Some(LabCommand::Exec { lab, host, cmd }) => exec(*lab, host, cmd),
        None => build(args),
    }
}

/// Folder of the lab's own files, on the private `/run` of [`ns::isolate`].
const SCRATCH: &str = "/run/softlvs-lab";

fn build(args: &LabArgs) -> Result<ExitCode, Failure> {
    let (options, note) = meaning(args)?;
    let interactive = args.shell || !args.cmd.is_empty();
    let uid = nix::unistd::getuid().as_raw();
    let failed = |what: &'static str| move |e: std::io::Error| failure(what, &e);
    match ns::isolate().map_err(failed("cannot build the lab"))? {
        Side::Outside(warden) => {
            let code = warden.wait(interactive).map_err(failed("cannot wait for the lab"))?;
            Ok(ExitCode::from(code))
        }
        Side::Inside(pid) => {
            if interactive {
                // Ctrl-C is for the command, not for the lab around it.
                let mut terminal = SigSet::empty();
                terminal.add(Signal::SIGINT);
                terminal.add(Signal::SIGQUIT);
                terminal.thread_block().map_err(|e| failure("cannot block signals", &e.into()))?;
            }
            inside(args, options, &note, Running { uid, pid })
        }
    }
}

/// What was typed, checked.
fn meaning(args: &LabArgs) -> Result<(Options, String), Failure> {
    let wrong = |what: &str, why: String, help: &str| Failure::wrong(what, why, help);
    let mode = args.mode.ok_or_else(|| wrong("--mode", "missing".into(), "nat, fullnat, tun or dr"))?;
    let scheduler = args.scheduler.parse::<SchedulerKind>().map_err(|()| {
        let known: Vec<&str> = SchedulerKind::ALL.iter().map(|(_, n)| *n).collect();
        let help = format!("known are: {}", known.join(", "));
        wrong("--scheduler", format!("`{}` is not a scheduler", args.scheduler), &help)
    })?;
    if args.servers == 0 || args.servers > MAX_SERVERS {
        let why = format!("{} real servers cannot be built", args.servers);
        return Err(wrong("--servers", why, &format!("from 1 to {MAX_SERVERS}")));
    }
    let (io, note) = match args.io.as_str() {
        "auto" => best_io(),
        "tap" => (Io::Tap, "TAP devices".into()),
        "packet" => (Io::Packet, "raw sockets".into()),
        "xdp" => (Io::Xdp, "AF_XDP sockets".into()),
        other => {
            let why = format!("`{other}` is no way to reach the network");
            return Err(wrong("--io", why, "auto, tap, packet or xdp"));
        }
    };
    let program = std::env::current_exe().map_err(|e| failure("cannot find the program itself", &e))?;
    let share = match &args.share {
        Some(dir) => {
            dir.canonicalize().map_err(|e| wrong("--share", format!("{}: {e}", dir.display()), ""))?
        }
        None => Path::new(SCRATCH).join("share"),
    };
    let options = Options {
        mode,
        servers: args.servers,
        requests: args.requests,
        scheduler,
        ipv6: args.ipv6,
        io,
        encapsulation: args.tunnel,
        concurrency: args.concurrency,
        program,
        share,
        scratch: SCRATCH.into(),
    };
    Ok((options, note))
}

fn inside(args: &LabArgs, options: Options, note: &str, who: Running) -> Result<ExitCode, Failure> {
    let failed = |what: &'static str| move |e: std::io::Error| failure(what, &e);
    std::fs::create_dir_all(SCRATCH).map_err(failed("cannot make the lab's folder"))?;
    if args.share.is_none() {
        std::fs::create_dir_all(&options.share)
            .and_then(|()| std::fs::write(options.share.join("index.html"), PAGE))
            .map_err(failed("cannot write the shared page"))?;
    }
    let json = args.output == "json";
    let headline = format!(
        "softlvs lab: {}, {}, {} real servers; the director is on {note}",
        options.mode.name(),
        if options.ipv6 { "IPv6" } else { "IPv4" },
        options.servers
    );
    if json {
        eprintln!("{headline}");
    } else {
        print(&format!("{headline}\n\n"))?;
    }
    let requests = options.requests;
    let mut lab = Lab::start(options).map_err(failed("cannot start the lab"))?;
    join::announce(who, lab.topology()).map_err(failed("cannot announce the lab"))?;
    if !json {
        print(&told(&lab))?;
    }
    let mut problems = Vec::new();
    if requests > 0 {
        let report = lab.measure().map_err(failed("cannot measure"))?;
        print(&if json { report.json() + "\n" } else { report.text() })?;
        problems = report.problems;
    }
    let status = match command(args) {
        Some(mut command) => {
            lab.at_client(&mut command).map_err(failed("cannot enter the client"))?;
            Some(command.status().map_err(|e| {
                failure(&format!("cannot run {}", command.get_program().to_string_lossy()), &e)
            })?)
        }
        None => None,
    };
    if !lab.stop() {
        problems.push(format!("the director did not stop cleanly:\n{}", lab.director_log().trim_end()));
    }
    match (status.map(code), problems.first()) {
        (Some(code), _) if code != 0 => Ok(ExitCode::from(code)),
        (_, Some(_)) => Err(Failure::run("the lab did not pass", problems.join("; "), "")),
        (_, None) => Ok(ExitCode::SUCCESS),
    }
}

/// The page served when no folder is given.
const PAGE: &str =
    "<!doctype html>\n<title>softlvs lab</title>\n<p>Every real server serves this same page.\n";

/// What was done to the real servers.
fn told(lab: &Lab) -> String {
    let Some(first) = lab.topology().prepared().first() else { return String::new() };
    let mut t = String::from("Each real server (softlvs real):\n");
    for line in &first.told {
        t += &format!("  {line}\n");
    }
    t + "\n"
}

fn command(args: &LabArgs) -> Option<Command> {
    if args.shell { Some(shell()) } else { from_words(&args.cmd) }
}

fn from_words(words: &[OsString]) -> Option<Command> {
    let (program, rest) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(rest);
    Some(command)
}

fn shell() -> Command {
    Command::new(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()))
}

fn exec(lab: Option<u32>, host: &str, cmd: &[OsString]) -> Result<ExitCode, Failure> {
    let mine = nix::unistd::getuid();
    let mut all = join::running().map_err(|e| failure("cannot look for labs", &e))?;
    all.retain(|r| (mine.is_root() || r.uid == mine.as_raw()) && lab.is_none_or(|pid| r.pid == pid));
    let which = match all.as_slice() {
        [one] => *one,
        [] => {
            let help = "start one in another terminal: softlvs lab --mode nat --shell";
            return Err(Failure::run("lab exec", "no lab is running", help));
        }
        many => {
            let pids: Vec<String> = many.iter().map(|r| r.pid.to_string()).collect();
            let help = format!("choose one with --lab: {}", pids.join(", "));
            return Err(Failure::wrong("lab exec", "several labs are running", help));
        }
    };
    let hosts = join::namespaces(which).map_err(|e| failure("the lab has ended", &e))?;
    let Some((_, fd)) = hosts.iter().find(|(name, _)| name == host) else {
        let names: Vec<&str> = hosts.iter().map(|(n, _)| n.as_str()).collect();
        return Err(Failure::wrong(
            host,
            "no such host in the lab",
            format!("hosts are: {}", names.join(", ")),
        ));
    };
    let mut command = from_words(cmd).unwrap_or_else(shell);
    let status = ns::run_inside(which.pid, *fd, &mut command)
        .map_err(|e| failure(&format!("cannot run {}", command.get_program().to_string_lossy()), &e))?;
    Ok(ExitCode::from(code(status)))
}

/// Exit status as a shell gives it.
fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128 + signal.unwrap_or(0) as u8,
    }
}

/// Splits off the remedy that the lower layers put behind `help:`.
pub fn failure(what: &str, e: &std::io::Error) -> Failure {
    let text = e.to_string();
    match text.split_once("; help: ") {
        Some((why, help)) => Failure::run(what, why, help),
        None => Failure::run(what, text, ""),
    }
}
