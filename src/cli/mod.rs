//! The command line. `args` is what was typed, `mean` what it means; nothing acts before both are done.

pub mod args;
pub mod check;
pub mod client;
pub mod control;
pub mod doctor;
pub mod error;
pub mod explain;
mod import;
mod include;
pub mod ipvsadm;
pub mod lab;
pub mod manual;
pub mod mean;
pub mod real;
mod run;
pub mod top;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use error::Failure;

/// Runs the command line and says how the process ends: 0 done, 1 failed at run time, 2 wrong usage or
/// configuration.
pub fn main(line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line: Vec<OsString> = line.into_iter().collect();
    if let Some(words) = ipvsadm::by_name(&line) {
        return ipvsadm::run(&words);
    }
    // its words are its own: --help and --version among them
    if line.get(1).is_some_and(|w| w == "ipvsadm") {
        let words: Vec<String> = line[2..].iter().map(|w| w.to_string_lossy().into_owned()).collect();
        return ipvsadm::run(&words);
    }
    let cli = match Cli::try_parse_from(&line) {
        Ok(cli) => cli,
        Err(e) => return error::usage(&e, args::command_of(&line)),
    };
    match act(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn act(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        None => run::run(&cli.run).map(done),
        Some(Command::Run(args)) => run::run(&args).map(done),
        Some(Command::Check(args)) => check::check(&args).map(done),
        Some(Command::Import(args)) => import::import(&args).map(done),
        Some(Command::Lab(args)) => lab::lab(&args),
        Some(Command::Explain(args)) => explain::explain(&args),
        Some(Command::Doctor(args)) => doctor::doctor(&args),
        Some(Command::Completions(args)) => manual::completions(&args).map(done),
        Some(Command::Man(args)) => manual::man(&args).map(done),
        Some(Command::Real(args)) => real::real(args),
        Some(Command::Ipvsadm { args }) => Ok(ipvsadm::run(&args)),
        Some(Command::Status(args)) => control::status(&args).map(done),
        Some(Command::Top(args)) => top::top(&args).map(done),
        Some(Command::Apply(args)) => control::apply(&args).map(done),
        Some(Command::Save(args)) => control::save(&args).map(done),
        Some(Command::Api(args)) => control::api(&args).map(done),
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Writes to standard output; a reader that went away is no failure (exit 0, nothing more is written).
///
/// # Errors
/// The output cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::run("cannot write the output", e.to_string(), ""))
        }
        _ => Ok(()),
    }
}
