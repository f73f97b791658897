//! Questions about packets and their answers, between people and [`crate::engine::explain`].
//!
//! A [`Question`] is a flow or a frame; the engine that is asked may be at work (control socket) or made
//! for the question ([`offline`]). A [`Report`] is the answer as data: its JSON and its text say the same.

#![forbid(unsafe_code)]

pub mod filter;
pub mod flow;
pub mod offline;
pub mod report;
mod text;

use serde::{Deserialize, Serialize};

use crate::buf::Offload;
use crate::config::diag::Complaint;
use crate::engine::{Engine, PortId};
use crate::svc::WorkerId;
use crate::time::Mono;
use crate::wire::{Link, eth};

pub use filter::Filter;
pub use flow::Flow;
pub use report::Report;

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// A flow, `tcp 10.0.0.9:40000 > 192.0.2.10:80`: asked about is its next packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// TCP flags of that packet, `SYN+ACK`; without them a SYN, or an ACK of a connection that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// Bytes of payload of that packet.
    #[serde(default)]
    pub length: u16,
    /// A frame, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
    /// The frame is a bare IP packet.
    #[serde(default)]
    pub bare: bool,
    /// Name of the port it comes in on; without it the one towards the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

impl Question {
    /// About a flow.
    pub fn flow(text: &str) -> Question {
        Question { flow: Some(text.to_owned()), ..Question::nothing() }
    }
    /// About a frame of a capture.
    pub fn frame(bytes: &[u8], link: Link) -> Question {
        let hex = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Question { frame: Some(hex), bare: link == Link::Ip, ..Question::nothing() }
    }
    fn nothing() -> Question {
        Question { flow: None, flags: None, length: 0, frame: None, bare: false, port: None }
    }
}

/// Longest frame that may be asked about.
const LONGEST: usize = crate::buf::MAX_FRAME;

/// Answers a question by what the engine would do now.
///
/// # Errors
/// The question makes no sense, or not to this engine.
pub fn answer(engine: &Engine, now: Mono, question: &Question) -> Result<Report, Complaint> {
    statement(engine, now, question).map(|s| s.report)
}

/// What one of several workers says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    report: Report,
    /// Whose packet it is.
    owner: WorkerId,
}

/// The statement that counts, of those of all workers in their order: a connection is one worker's; of what is not
/// known yet it is the one who would open it, with its own local ports, fragments and expected connections.
///
/// # Errors
/// What that worker complained about.
pub fn decide(mut all: Vec<Result<Statement, Complaint>>) -> Result<Report, Complaint> {
    let known = all.iter().position(|s| s.as_ref().is_ok_and(|s| s.report.is_known()));
    let owner =
        || all.iter().enumerate().position(|(i, s)| matches!(s, Ok(s) if usize::from(s.owner.0) == i));
    let at = known.or_else(owner).unwrap_or(0);
    if at >= all.len() {
        return Err(Complaint::new("there is no worker to ask", ""));
    }
    all.swap_remove(at).map(|s| s.report)
}

/// What a worker says to a question; [`decide`] says whose word counts.
///
/// # Errors
/// As [`answer`].
pub fn statement(engine: &Engine, now: Mono, question: &Question) -> Result<Statement, Complaint> {
    let (port, frame, made) = match (&question.flow, &question.frame) {
        (Some(text), None) => {
            let flow: Flow = text.parse()?;
            let port = port(engine, question.port.as_deref(), || {
                engine.host().route(flow.src.ip()).map(|route| route.port)
            })?;
            (port, flow.frame(engine, port, now, question.flags.as_deref(), question.length)?, true)
        }
        (None, Some(hex)) => {
            let bytes = unhex(hex)?;
            let to = eth::read(&bytes).filter(|_| !question.bare).map(|(to, _, _)| to);
            let plan = engine.host().plan();
            let port = port(engine, question.port.as_deref(), || {
                let at = plan.ports.iter().position(|p| Some(p.mac) == to)?;
                Some(PortId(at as u16))
            })?;
            (port, flow::onto_link(engine, port, bytes, question.bare), false)
        }
        _ => {
            return Err(Complaint::new(
                "either a flow or a frame can be asked about",
                "for example the flow `tcp 10.0.0.9:40000 > 192.0.2.10:80`",
            ));
        }
    };
    let told = engine
        .explain(now, port, &frame, Offload::NONE)
        .map_err(|e| Complaint::new(format!("no memory for an explanation: {e}"), ""))?;
    let report = Report::new(engine, port, &frame, made, &told);
    Ok(Statement { report, owner: engine.owner(port, &frame) })
}

/// The port a packet comes in on: the one that is named, else what `guess` says, else the first.
fn port(
    engine: &Engine,
    named: Option<&str>,
    guess: impl FnOnce() -> Option<PortId>,
) -> Result<PortId, Complaint> {
    let ports = &engine.host().plan().ports;
    let Some(name) = named else { return Ok(guess().unwrap_or_default()) };
    let at = ports.iter().position(|p| p.name == name);
    at.map(|at| PortId(at as u16)).ok_or_else(|| {
        let names: Vec<_> = ports.iter().map(|p| p.name.as_str()).collect();
        Complaint::new(
            format!("there is no port `{name}`"),
            format!("the director's ports are: {}", names.join(", ")),
        )
    })
}

/// The bytes of a row of hexadecimal digits.
///
/// # Errors
/// It is none, or too long for a frame.
pub fn unhex(text: &str) -> Result<Vec<u8>, Complaint> {
    let wrong = || Complaint::new("the frame is not a row of hexadecimal digits, two for each byte", "");
    if text.len() > 2 * LONGEST {
        return Err(Complaint::new(format!("a frame has at most {LONGEST} bytes"), ""));
    }
    let digit = |b: &u8| char::from(*b).to_digit(16).map(|d| d as u8);
    let pair = |p: &[u8]| match p {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect::<Option<_>>().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineOptions;
    use crate::engine::steer::tests::Band;
    use crate::engine::tests::{WAN, catalog, frame, net};
    use crate::svc::{Forward, Proto};
    use crate::wire::{Parsed, parse};

    /// With FULLNAT every worker has local ports of its own, so only the owner can foretell one.
    #[test]
    fn of_several_workers_the_one_that_would_open_the_connection_is_believed() {
        let options = EngineOptions { connection_limit: 500, seed: 3, ..EngineOptions::default() };
        let mut band = Band::new(3, options, &catalog(Forward::FullNat, Proto::Tcp).commit());
        let n = net(false);
        let ask = |band: &Band, question: &Question| {
            decide(band.engines.iter().map(|e| statement(e, Mono::ZERO, question)).collect()).unwrap()
        };
        for cport in 4000..4040 {
            let (client, vip) = ((n.client, cport).into(), (n.vip, 80).into());
            let mac = crate::addr::Mac([2, 0, 0, 0, 1, 1]);
            let syn = frame(mac, Proto::Tcp, client, vip, 2, b"");
            let question = Question::frame(&syn, Link::Ethernet);
            let told = ask(&band, &question);
            assert!(!told.is_known());
            let (_, sent) = band.give(Mono::ZERO, WAN, &syn);
            let Ok(Parsed::Ip(m)) = parse(&sent[0].1, Link::Ethernet) else { panic!() };
            let local = format!("{}:{}", m.src(&sent[0].1), m.sport);
            let said = serde_json::to_string(&told).unwrap();
            assert!(said.contains(&local), "{local}: {said}");
            assert!(ask(&band, &question).is_known());
        }
    }
}
