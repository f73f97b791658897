//! softlvs against what people would use instead, end to end: builds every way from a client to a real
//! server in namespaces, puts every workload on each, in turn, several rounds, and writes tables and plots.
//!
//! `cargo bench --bench e2e -- --help`

// A benchmark measures time.
#![allow(clippy::disallowed_methods, missing_docs)]

#[path = "../../examples/null_forwarder.rs"]
mod null_forwarder;

mod check;
mod doc;
mod exec;
mod idle;
mod load;
mod machine;
mod net;
mod plan;
mod plot;
mod results;
mod rig;
mod run;
mod scratch;
mod server;
mod sink;
mod stats;
mod table;
mod usage;

use std::error::Error;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use softlvs::io::sys::ns::{self, Side};

use results::Results;

/// Called by this name the program is the null forwarder.
pub const NULL_FORWARDER: &str = "null_forwarder";
/// Held while measuring: two runs at once would measure each other.
const LOCK: &str = "softlvs-bench-e2e";

/// softlvs against what people would use instead, end to end
///
/// Wants root; for an ordinary user TAP and XDP ports are left out.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench e2e --", max_term_width = 100)]
struct Cli {
    /// The whole: 5 rounds of 2 s, written to docs/ (about half an hour)
    #[arg(long)]
    full: bool,
    /// Everything once and short: 2 rounds of 1 s, written to target/e2e (less than 8 minutes)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Only ways whose name contains one of these (see --list)
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these workloads (see --list)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Rounds
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Seconds of bulk and HTTP workloads; the others take a half or less
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Do not measure an idle director with a million connections
    #[arg(long)]
    no_idle: bool,
    /// Where results.json is written [default: performance/results.json below --out]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Folder for performance.md and performance/*.png [default: docs with --full, else target/e2e]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Do not measure: make tables and plots of stored results
    #[arg(long, value_name = "FILE")]
    render: Option<PathBuf>,
    /// Install the programs that are missing (Debian, apt-get)
    #[arg(long)]
    install: bool,
    /// Say what there is to measure
    #[arg(long)]
    list: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    let done = if name == NULL_FORWARDER { null_forwarder::main().map(|()| 0) } else { program() };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("e2e: error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn program() -> Result<u8, Box<dyn Error>> {
    let cli = Cli::parse();
    let wanted = run::Wanted::new(&cli.only, &cli.workloads)?;
    if cli.list {
        wanted.list();
        return Ok(0);
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let out = cli.out.clone().unwrap_or_else(|| root.join(if cli.full { "docs" } else { "target/e2e" }));
    if let Some(file) = &cli.render {
        let results: Results = serde_json::from_str(&std::fs::read_to_string(file)?)?;
        return doc::write(&results, &out).map(|()| 0);
    }
    if !(cli.full || cli.quick || cli.rounds.is_some() || cli.seconds.is_some()) {
        eprintln!("e2e: nothing measured: say --quick, --full or --rounds N --seconds S; --help says more");
        return Ok(0);
    }
    if cli.install {
        machine::install()?;
    }
    match ns::isolate()? {
        Side::Outside(warden) => return Ok(warden.wait(false)?),
        Side::Inside(_) => {}
    }
    let _lock =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(LOCK)?).map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => {
                io::Error::other("it is running already; two at once would measure each other")
            }
            _ => e,
        })?;
    scratch::prepare()?;
    let (rounds, seconds) = if cli.full { (5, 2.0) } else { (2, 1.0) };
    let json = cli.json.unwrap_or_else(|| out.join("performance/results.json"));
    let how = run::How {
        rounds: cli.rounds.unwrap_or(rounds).max(1),
        seconds: cli.seconds.unwrap_or(seconds).clamp(0.2, 600.0),
        idle: if cli.no_idle {
            0.0
        } else if cli.full {
            30.0
        } else {
            10.0
        },
        json,
    };
    let results = run::run(&wanted, &how)?;
    doc::write(&results, &out)?;
    Ok(0)
}
