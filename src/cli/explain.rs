//! `softlvs explain`

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::client::{Client, Kind, connect};
use super::mean::read_file;
use super::print;
use crate::config::{self, Plan};
use crate::explain::report::Live;
use crate::explain::{Filter, Question, Report, offline, unhex};
use crate::failure::Failure;
use crate::io::pcapng::{self, Writer};
use crate::time::Span;
use crate::wire::Link;

const EXAMPLES: &str = "\
Examples:
  softlvs explain 'tcp 10.0.0.9:40000 > 192.0.2.10:80'
  softlvs explain --config softlvs.toml 'udp 10.0.0.9:5353 > 192.0.2.10:53' --length 1400
  softlvs explain --config softlvs.toml --pcap trace.pcapng --packet 17 -o json
  softlvs explain --live 'dst port 80 and dropped' --count 10 --write drops.pcapng

A filter is a row of conditions that all have to be met: tcp, udp, sctp, icmp, [src|dst] host ADDR,
[src|dst] net CIDR, [src|dst] port N, on PORT, dropped, drop REASON.

Exit status: 0 the packet is sent on or answered, 1 it is dropped, 2 wrong usage or configuration.";

/// Options of `explain`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ExplainArgs {
    /// The flow to explain: PROTOCOL SOURCE > DESTINATION, where the protocol is tcp, udp, sctp or icmp
    #[arg(required_unless_present_any = ["pcap", "live"], value_name = "FLOW")]
    pub flow: Option<String>,
    /// Explain by this configuration, without a running director
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Path of the running director's control socket
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub control: Option<String>,
    /// Explain a packet of this capture (pcap or pcapng)
    #[arg(long, value_name = "FILE", conflicts_with = "flow")]
    pub pcap: Option<PathBuf>,
    /// Its number in the capture, counted from 1
    #[arg(long, value_name = "N", default_value_t = 1, requires = "pcap")]
    pub packet: u64,
    /// Explain packets that pass the running director and match this filter, until interrupted
    #[arg(long, value_name = "FILTER", conflicts_with_all = ["flow", "pcap", "config"])]
    pub live: Option<String>,
    /// End after so many packets
    #[arg(long, value_name = "N", requires = "live", value_parser = clap::value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    /// Write the packets to this file too (pcapng), each with its decision as comment
    #[arg(long, value_name = "OUT.pcapng", requires = "live")]
    pub write: Option<PathBuf>,
    /// Name of the port it comes in on [default: the one towards the sender]
    #[arg(long, value_name = "PORT", conflicts_with = "live")]
    pub on: Option<String>,
    /// TCP flags of the flow's packet, such as SYN or FIN+ACK [default: SYN, or ACK of a known connection]
    #[arg(long, value_name = "FLAGS", conflicts_with_all = ["pcap", "live"])]
    pub flags: Option<String>,
    /// Bytes of payload of the flow's packet
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with_all = ["pcap", "live"])]
    pub length: u16,
    /// Print as text or json (a document a line with --live)
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

/// Explains.
///
/// # Errors
/// The question or the configuration makes no sense (exit 2), or nobody can be asked (exit 1).
pub fn explain(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    if let Some(filter) = &args.live {
        return live(args, filter);
    }
    let question = question(args)?;
    let report = match &args.config {
        Some(file) => offline::ask(&plan(file)?, &question)?,
        None => running(args.control.as_deref(), &question)?,
    };
    match args.output.as_str() {
        "json" => print(&(json(&report, true)? + "\n"))?,
        _ => print(&report.text())?,
    }
    Ok(if report.is_drop() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn question(args: &ExplainArgs) -> Result<Question, Failure> {
    let mut question = match (&args.pcap, &args.flow) {
        (Some(file), _) => {
            let cannot = |why: String| Failure::run(format!("cannot read {}", file.display()), why, "");
            let from = File::open(file).map_err(|e| cannot(e.to_string()))?;
            let found = pcapng::nth(BufReader::new(from), args.packet).map_err(|e| cannot(e.to_string()))?;
            let (link, bytes) = found.ok_or_else(|| {
                let why = format!("{} has no packet {}", file.display(), args.packet);
                Failure::wrong("--packet", why, "packets are counted from 1")
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

fn running(control: Option<&str>, question: &Question) -> Result<Report, Failure> {
    let mut client: Client = connect(control)?;
    let text = client.text("POST", "/v1/explain", Some((Kind::Json, json(question, false)?)))?;
    serde_json::from_str(&text).map_err(|e| not_understood(&e))
}

fn not_understood(e: &serde_json::Error) -> Failure {
    Failure::run("the director's answer is not understood", e.to_string(), "use the program that runs it")
}

fn json(value: &impl serde::Serialize, pretty: bool) -> Result<String, Failure> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    text.map_err(|e| Failure::run("cannot write the answer", e.to_string(), ""))
}

/// Explains what passes.
fn live(args: &ExplainArgs, filter: &str) -> Result<ExitCode, Failure> {
    // so that a mistake is told before anything else is wrong
    let _: Filter =
        filter.parse().map_err(|c: config::diag::Complaint| Failure::wrong("--live", c.why, c.help))?;
    let mut path = format!("/v1/explain/live?filter={}", encoded(filter));
    if let Some(count) = args.count {
        path += &format!("&count={count}");
    }
    let mut out = match &args.write {
        Some(file) => Some(Capture::create(file)?),
        None => None,
    };
    let mut dropped = 0;
    connect(args.control.as_deref())?.lines(&path, |line| {
        if line.is_empty() {
            return Ok(true);
        }
        let live: Live = serde_json::from_str(line).map_err(|e| not_understood(&e))?;
        dropped += u64::from(live.report.is_drop());
        if let Some(capture) = &mut out {
            capture.write(&live)?;
        }
        match args.output.as_str() {
            "json" => print(&format!("{line}\n"))?,
            _ => print(&format!("{}\n", live.report.text()))?,
        }
        Ok(true)
    })?;
    Ok(if dropped > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What may stand in a query as it is, everything else by number.
fn encoded(text: &str) -> String {
    let one = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(b).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}

struct Capture {
    name: String,
    to: Writer<BufWriter<File>>,
}

impl Capture {
    fn create(file: &Path) -> Result<Capture, Failure> {
        let name = file.display().to_string();
        let made = File::create(file).and_then(|f| Writer::new(BufWriter::new(f), &[]));
        match made {
            Ok(to) => Ok(Capture { name, to }),
            Err(e) => Err(Failure::run(format!("cannot write {name}"), e.to_string(), "")),
        }
    }
    fn write(&mut self, live: &Live) -> Result<(), Failure> {
        let fail = |e: std::io::Error| Failure::run(format!("cannot write {}", self.name), e.to_string(), "");
        let frame = unhex(&live.frame).map_err(|c| Failure::run("a frame", c.why, c.help))?;
        let link = if live.bare { Link::Ip } else { Link::Ethernet };
        // the time in a capture file is a person's
        #[allow(clippy::disallowed_methods)]
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = Span(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let comment = format!("{}\n\n{}", live.report.line(), live.report.text());
        let port = self.to.port(&live.report.port, link).map_err(fail)?;
        self.to.write(port, at, &frame, &comment).map_err(fail)?;
        // whoever interrupts us keeps what was seen until then
        self.to.flush().map_err(fail)
    }
}
