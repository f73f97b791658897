//! `softlvs explain`

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::mean::read_file;
use super::print;
use crate::config::{self, Plan};
use crate::explain::{Question, Report, offline};
use crate::failure::Failure;
use crate::io::pcapng;

const EXAMPLES: &str = "\
Examples:
  softlvs explain --config softlvs.toml 'tcp 10.0.0.9:40000 > 192.0.2.10:80'
  softlvs explain --config softlvs.toml 'udp 10.0.0.9:5353 > 192.0.2.10:53' --length 1400
  softlvs explain --config softlvs.toml --pcap trace.pcapng --packet 17 -o json

Exit status: 0 the packet is sent on or answered, 1 it is dropped, 2 wrong usage or configuration.";

/// Options of `explain`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ExplainArgs {
    /// The flow to explain: PROTOCOL SOURCE > DESTINATION, where the protocol is tcp, udp, sctp or icmp
    #[arg(required_unless_present = "pcap", value_name = "FLOW")]
    pub flow: Option<String>,
    /// Explain by this configuration, without a running director
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Explain a packet of this capture (pcap or pcapng)
    #[arg(long, value_name = "FILE", conflicts_with = "flow")]
    pub pcap: Option<PathBuf>,
    /// Its number in the capture, counted from 1
    #[arg(long, value_name = "N", default_value_t = 1, requires = "pcap")]
    pub packet: u64,
    /// Name of the port it comes in on [default: the one towards the sender]
    #[arg(long, value_name = "PORT")]
    pub on: Option<String>,
    /// TCP flags of the flow's packet, such as SYN or FIN+ACK [default: SYN, or ACK of a known connection]
    #[arg(long, value_name = "FLAGS", conflicts_with = "pcap")]
    pub flags: Option<String>,
    /// Bytes of payload of the flow's packet
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "pcap")]
    pub length: u16,
    /// Print as text or json
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// Explains.
///
/// # Errors
/// The question or the configuration makes no sense (exit 2), or nobody can be asked (exit 1).
pub fn explain(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let question = question(args)?;
    let report = offline::ask(&plan(&args.config)?, &question)?;
    tell(&report, &args.output)?;
    Ok(if report.is_drop() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn question(args: &ExplainArgs) -> Result<Question, Failure> {
    let mut question = match (&args.pcap, &args.flow) {
        (Some(file), _) => {
            let cannot = |why: String| Failure::run(format!("cannot read {}", file.display()), why, "");
            let from = File::open(file).map_err(|e| cannot(e.to_string()))?;
            let found = pcapng::nth(BufReader::new(from), args.packet).map_err(|e| cannot(e.to_string()))?;
            let (link, bytes) = found.ok_or_else(|| {
                Failure::wrong(
                    "--packet",
                    format!("{} has no packet {}", file.display(), args.packet),
                    "packets are counted from 1",
                )
            })?;
            Question::frame(&bytes, link)
        }
        (None, flow) => Question::flow(flow.as_deref().unwrap_or_default()),
    };
    question.port = args.on.clone();
    question.flags = args.flags.clone();
    question.length = args.length;
    Ok(question)
}

fn plan(file: &Path) -> Result<Plan, Failure> {
    let text = read_file(file)?;
    config::check(&text, &file.display().to_string()).map_err(|all| Failure::config(&all))
}

fn tell(report: &Report, output: &str) -> Result<(), Failure> {
    match output {
        "json" => {
            let text = serde_json::to_string_pretty(report);
            print(&(text.map_err(|e| Failure::run("cannot write the answer", e.to_string(), ""))? + "\n"))
        }
        _ => print(&report.text()),
    }
}
