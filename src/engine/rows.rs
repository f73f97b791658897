//! Connections as people see them.

use std::net::SocketAddr;

use super::Engine;
use super::family::IpFamily;
use crate::conn::state::State;
use crate::conn::table::Conn;
use crate::conn::wheel::Tick;
use crate::svc::Snapshot;
use crate::time::{Mono, Span};

/// State of a template one of whose connections was established; the others' is that of a new connection.
pub(super) const ASSURED: &str = "ASSURED";

/// One line of `ipvsadm -Lnc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnRow {
    /// Protocol number.
    pub proto: u8,
    /// Time left; zero once due.
    pub expires: Span,
    /// State name.
    pub state: &'static str,
    /// Client.
    pub client: SocketAddr,
    /// Virtual address.
    pub virt: SocketAddr,
    /// Real server.
    pub dest: SocketAddr,
    /// Local address, FULLNAT only.
    pub local: Option<SocketAddr>,
    /// Templates of persistence engines: the engine's name and what it found.
    pub pe: Option<(&'static str, String)>,
}

impl ConnRow {
    /// Every name of a state, once.
    pub fn states() -> Vec<&'static str> {
        let mut all: Vec<&'static str> = Vec::new();
        for name in State::ALL.iter().map(|s| s.name()).chain([ASSURED]) {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        all
    }
}

impl Engine {
    /// A slice of the connections for listing: those in at most `look` places of the tables from `from` on,
    /// and where to go on. One that begins or ends meanwhile may be told or not; all others are told once.
    pub fn connection_slice(&self, now: Mono, from: usize, look: usize) -> (Vec<ConnRow>, Option<usize>) {
        let (snap, t) = (&self.snap, &self.core.tables);
        let (first, all) = (t.v4.slots(), t.v4.slots() + t.v6.slots());
        let end = from.saturating_add(look).min(all);
        let mut rows = Vec::new();
        for place in from..end {
            let one = if place < first {
                t.v4.live(place as u32).map(|c| row(c, snap, now))
            } else {
                t.v6.live((place - first) as u32).map(|c| row(c, snap, now))
            };
            rows.extend(one);
        }
        (rows, (end < all).then_some(end))
    }
}

pub(super) fn row<A: IpFamily>(c: &Conn<A>, snap: &Snapshot, now: Mono) -> ConnRow {
    use crate::conn::table::flag::{FULLNAT, TUNNEL};
    // a tunnel's real server may be of the other family, so it is not in the connection
    let real = snap.dest(c.dest).filter(|_| c.flags & TUNNEL != 0).map_or(c.real.ip(), |d| d.spec.ip);
    ConnRow {
        proto: c.proto,
        expires: Tick::of(now).span_until(c.deadline),
        state: c.state.name(),
        client: SocketAddr::new(c.client.ip(), c.cport),
        virt: SocketAddr::new(c.virt.ip(), c.vport),
        dest: SocketAddr::new(real, c.rport),
        local: (c.flags & FULLNAT != 0).then(|| SocketAddr::new(c.local.ip(), c.lport)),
        pe: None,
    }
}
