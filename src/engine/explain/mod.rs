//! Why a packet goes where it goes: what [`Engine::on_packet`] would do with it, step by step, without
//! doing it.
//!
//! # Theory of operation
//! Nothing here knows the rules. A *twin* of the engine is made that has copies of the little which the
//! packet can touch ([`twin`]), and the packet goes its real way through it, the long one. On that way the
//! engine tells what it looked at and what came of it ([`notes`]), as every engine would; only a twin has
//! somebody who listens. So an explanation cannot say what the engine would not do, and explaining changes
//! nothing: counts, schedulers, templates, timers and random numbers belong to the twin.
//!
//! What a packet touches is not known beforehand. The twin starts with next to nothing and writes down
//! everything that it was asked for and that the engine has; then the next twin has that too. The first
//! that misses nothing tells the truth: two or three rounds for a packet.
//!
//! docs/decisions/0012 weighs the alternatives.

use std::collections::TryReserveError;
use std::net::{IpAddr, SocketAddr};

use super::{DropReason, Engine, PortId, Taken, Verdict};
use crate::buf::{HEADROOM, Offload, Out, PacketBuf};
use crate::conn::key::Tuple;
use crate::time::Mono;
use crate::wire::Link;

mod notes;
#[cfg(test)]
mod tests;
mod twin;
pub mod watch;
pub mod words;

pub(super) use notes::Trace;
pub(super) use watch::Gathered;

/// A fact that a step was decided by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Words, addresses, names.
    Text(String),
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Several things with the same facts each, such as the servers of a service.
    Rows(Vec<Facts>),
}

/// Named facts, in the order in which they are told.
pub type Facts = Vec<(&'static str, Value)>;

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}
impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}
impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number)
    }
}
impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Number(number.into())
    }
}
impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Number(number as u64)
    }
}
impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Flag(flag)
    }
}
impl From<IpAddr> for Value {
    fn from(ip: IpAddr) -> Value {
        Value::Text(ip.to_string())
    }
}
impl From<SocketAddr> for Value {
    fn from(end: SocketAddr) -> Value {
        Value::Text(end.to_string())
    }
}

/// One step on a packet's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was looked at: `port`, `parse`, `fragment`, `connection`, `service`, `scheduler`, ...
    pub name: &'static str,
    /// What it was decided by.
    pub inputs: Facts,
    /// What came of it.
    pub result: String,
}

/// What would become of a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The way, step by step.
    pub steps: Vec<Step>,
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// The packet as it leaves, when it is sent on.
    pub output: Option<(PortId, Vec<u8>)>,
    /// What the director sends beside it, or in its place.
    pub made: Vec<(PortId, Vec<u8>)>,
    /// The real server it goes to.
    pub server: Option<SocketAddr>,
}

/// Twins made at most for one packet. Every one but the last found something more that it needs, and what
/// a packet can touch is bounded; this bounds it whatever happens.
const ROUNDS: usize = 16;

impl Engine {
    /// Tells what would become of a frame that came in on `port` now. Nothing is changed.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn explain(
        &self,
        now: Mono,
        port: PortId,
        frame: &[u8],
        offload: Offload,
    ) -> Result<Explanation, TryReserveError> {
        let mut wanted = twin::Wanted::default();
        let mut round = 1;
        loop {
            let mut twin = self.twin(now, frame, port, &wanted)?;
            let told = twin.follow(now, port, frame, offload);
            if !wanted.add(self, &twin) || round == ROUNDS {
                return Ok(told);
            }
            round += 1;
        }
    }

    /// Is there a connection with this tuple, from either end?
    pub fn is_connection(&self, proto: u8, src: SocketAddr, dst: SocketAddr) -> bool {
        let tables = &self.core.tables;
        let (sport, dport) = (src.port(), dst.port());
        match (src.ip(), dst.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                tables.v4.lookup(&Tuple { src: a.to_bits(), dst: b.to_bits(), sport, dport, proto }).is_some()
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                tables.v6.lookup(&Tuple { src: a.to_bits(), dst: b.to_bits(), sport, dport, proto }).is_some()
            }
            _ => false,
        }
    }

    /// Sends the frame through this engine, a twin, and listens.
    fn follow(&mut self, now: Mono, port: PortId, frame: &[u8], offload: Offload) -> Explanation {
        self.tell_frame(port, frame, offload);
        let mut mem = vec![0; HEADROOM + frame.len() + HEADROOM];
        let mut pkt = PacketBuf::empty(&mut mem, HEADROOM);
        pkt.fill(frame);
        pkt.offload = offload;
        let mut out = Out::new();
        let verdict = self.on_packet(now, port, &mut pkt, &mut out);
        let sent = match verdict {
            Verdict::Send(to) => Some((to, pkt.bytes().to_vec())),
            Verdict::Taken(_) | Verdict::HandTo(_) | Verdict::Drop(_) => None,
        };
        let made = std::iter::from_fn(|| out.pop()).map(|(to, p)| (to, p.bytes().to_vec())).collect();
        self.conclude(verdict, frame, port, sent, made)
    }
}

impl Verdict {
    /// What became of the packet, in words; `port` names ports.
    pub fn words(self, port: impl Fn(PortId) -> String) -> String {
        match self {
            Verdict::Send(to) => format!("sent on port {}", port(to)),
            Verdict::Taken(Taken::Local) => "it was for the director itself".to_owned(),
            Verdict::Taken(Taken::Parked) => "kept until the next hop says its MAC address".to_owned(),
            Verdict::Taken(Taken::Split) => "sent in several pieces, or put together again".to_owned(),
            Verdict::Taken(Taken::Reassembling) => {
                "kept until the other fragments of its datagram come".to_owned()
            }
            Verdict::Taken(Taken::Handed) => "its datagram belongs to another worker".to_owned(),
            Verdict::HandTo(owner) => format!("it belongs to worker {}", owner.0),
            Verdict::Drop(why) => format!("dropped: {}: {}", why.name(), DropReason::explain(why).trim()),
        }
    }
}

/// The link of a port, Ethernet for one that does not exist.
fn link_of(engine: &Engine, port: PortId) -> Link {
    engine.core.links.get(usize::from(port.0)).copied().unwrap_or(Link::Ethernet)
}
