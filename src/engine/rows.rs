//! Connections as people see them.

use std::net::SocketAddr;

use super::family::IpFamily;
use crate::conn::table::Conn;
use crate::conn::wheel::Tick;
use crate::svc::Snapshot;
use crate::time::{Mono, Span};

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
