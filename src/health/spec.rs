//! What can be said about checks, and about what their results mean for a service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::svc::{DestSpec, Forward, ServiceKey};
use crate::time::Span;

/// What is believed of a server before its first results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// It works, until `fall` checks fail (keepalived's default).
    #[default]
    Up,
    /// It does not, until `rise` checks succeed (keepalived: `alpha`).
    Down,
    /// The first result decides; until then it is out.
    First,
}

/// Against servers that come and go: how long one must work without interruption before it is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dampening {
    /// A server that had not worked for this long when it failed is one that relapsed...
    pub window: Span,
    /// ...and has to work for this long after its second failure, doubled with each further one.
    pub hold: Span,
    /// Never longer than this.
    pub longest: Span,
}

impl Default for Dampening {
    fn default() -> Dampening {
        Dampening { window: Span::from_secs(300), hold: Span::from_secs(30), longest: Span::from_secs(3600) }
    }
}

/// When a check runs and how many results it takes to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the beginning of one check to that of the next.
    pub interval: Span,
    /// A check without result after this time has failed.
    pub timeout: Span,
    /// Successes in a row that bring a server back.
    pub rise: u32,
    /// Failures in a row that take it out.
    pub fall: u32,
    /// From the end of a failed check to the next one while the server is still believed to work. Without
    /// it, soon enough for the last of `fall` failures to be known `fall` intervals after the last success.
    pub retry_delay: Option<Span>,
    /// The first check comes at a random time within this one.
    pub warmup: Span,
    /// Checks come early by a random part of the interval, up to this many hundredths.
    pub jitter: u32,
    /// What is believed at first.
    pub start: Start,
    /// Against flapping; `None` = every change counts at once.
    pub dampening: Option<Dampening>,
}

impl Timing {
    /// With an interval, and everything else by default.
    pub fn every(interval: Span) -> Timing {
        Timing {
            interval,
            timeout: Span(interval.0 / 2),
            rise: 2,
            fall: 3,
            retry_delay: None,
            warmup: interval,
            jitter: 10,
            start: Start::Up,
            dampening: Some(Dampening::default()),
        }
    }
}

/// Version of HTTP a request is made in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.0
    #[default]
    V10,
    /// HTTP/1.0 with the `Host` of 1.1 and `Connection: close` (keepalived: `1.0C`).
    V10Close,
    /// HTTP/1.1
    V11,
}

/// One request of an HTTP check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpRequest {
    /// Path with query.
    pub path: String,
    /// `Host` header; `None` = the server's address.
    pub host: Option<String>,
    /// Status codes that are fine, both ends included.
    pub status: Vec<(u16, u16)>,
    /// The body must match.
    pub body: Option<String>,
    /// The body must not match.
    pub not_body: Option<String>,
    /// MD5 of the body in hexadecimal digits.
    pub digest: Option<String>,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum CheckKind {
    /// A TCP connection is accepted.
    Tcp,
    /// All requests are answered as they should, one connection each.
    Http { requests: Vec<HttpRequest>, version: HttpVersion, tls: Option<TlsSpec> },
    /// A DNS server answers a question without error.
    Dns { name: String, kind: u16 },
    /// A datagram is not refused, or is answered as it should.
    Udp { payload: Vec<u8>, expect: Option<Vec<Option<u8>>>, reply: bool, min: usize, max: usize },
    /// An echo is answered.
    Ping,
    /// A mail server greets and says goodbye.
    Smtp { helo: String },
    /// A program exits with 0; with `dynamic`, 2 to 255 set the weight (exit status less 2).
    Exec { argv: Vec<String>, user: Option<String>, dynamic: bool },
    /// The number in a file: 0 and more is added to the weight times `factor`, -254 and less is failure.
    File { path: String, factor: i32 },
}

impl CheckKind {
    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            CheckKind::Tcp => "tcp",
            CheckKind::Http { tls: None, .. } => "http",
            CheckKind::Http { tls: Some(_), .. } => "https",
            CheckKind::Dns { .. } => "dns",
            CheckKind::Udp { .. } => "udp",
            CheckKind::Ping => "ping",
            CheckKind::Smtp { .. } => "smtp",
            CheckKind::Exec { .. } => "exec",
            CheckKind::File { .. } => "file",
        }
    }
    /// True for what connects to a port of the server.
    pub fn has_port(&self) -> bool {
        !matches!(self, CheckKind::Ping | CheckKind::Exec { .. } | CheckKind::File { .. })
    }
    /// True for what goes over the network.
    pub fn is_remote(&self) -> bool {
        !matches!(self, CheckKind::Exec { .. } | CheckKind::File { .. })
    }
}

/// TLS of an HTTP check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsSpec {
    /// Server name that is asked for; `None` = none.
    pub sni: Option<String>,
    /// File with certificates that are trusted; `None` = any certificate will do, as in keepalived.
    pub ca: Option<String>,
}

/// The way a check goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Via {
    /// From the host's own network stack.
    #[default]
    Host,
    /// To the real server's address: from the host, or from the director where the host has no way there.
    Real,
    /// From the director itself, to the real server's address.
    Director,
    /// From the director itself, to the virtual address the way the traffic goes (tun, dr).
    Vip,
}

/// A check as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckSpec {
    /// Name.
    pub name: String,
    /// What it does.
    pub kind: CheckKind,
    /// When.
    pub timing: Timing,
    /// Address to ask instead of the real server's.
    pub address: Option<IpAddr>,
    /// Port to ask instead of the real server's.
    pub port: Option<u16>,
    /// Address to ask from.
    pub bind: Option<IpAddr>,
    /// The way it goes; `None` = that of the traffic in tun and dr, else the host's.
    pub via: Option<Via>,
}

/// What becomes of a server that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It leaves the service.
    #[default]
    Remove,
    /// It stays with weight 0.
    Inhibit,
}

/// Which servers are used when too few are healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicUse {
    /// All, as if no check had failed.
    All,
    /// None.
    None,
    /// The sorry server.
    Sorry,
}

/// What to do when too few are healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panic {
    /// Less than this many hundredths of the weight.
    pub below: u32,
    /// Who is used.
    pub using: PanicUse,
}

/// How the traffic itself is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassiveSpec {
    /// Connections that were not answered or refused...
    pub failures: u32,
    /// ...within this time, and at least half of those opened, take a server out...
    pub window: Span,
    /// ...for this long, doubled each time up to an hour.
    pub hold: Span,
}

/// What the results of checks mean for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Weight of healthy servers from which the service is up.
    pub quorum: u32,
    /// It is up from `quorum + hysteresis` and down below `quorum - hysteresis`.
    pub hysteresis: u32,
    /// What becomes of a server that fails.
    pub on_failure: OnFailure,
    /// Who serves when the quorum is lost.
    pub sorry: Option<DestSpec>,
    /// Keep failed servers in, with weight 0, while the sorry server serves.
    pub sorry_inhibit: bool,
    /// Time in which a server that comes back grows to its full share.
    pub slow_start: Option<Span>,
    /// When too few are healthy.
    pub panic: Option<Panic>,
    /// Judge the traffic.
    pub passive: Option<PassiveSpec>,
    /// Command when the service comes up.
    pub up_command: Option<Command>,
    /// Command when it goes down.
    pub down_command: Option<Command>,
    /// Run the commands for "down" when the director stops (keepalived: `omega`).
    pub omega: bool,
    /// Device that carries the virtual address while the service is up.
    pub announce: Option<String>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            quorum: 1,
            hysteresis: 0,
            on_failure: OnFailure::Remove,
            sorry: None,
            sorry_inhibit: false,
            slow_start: None,
            panic: None,
            passive: None,
            up_command: None,
            down_command: None,
            omega: false,
            announce: None,
        }
    }
}

/// A program to run: its path and arguments, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// Path and arguments.
    pub argv: Vec<String>,
    /// User and group, `user[:group]`; `None` = nobody when the director is root.
    pub user: Option<String>,
}

/// What the operator wants of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminState {
    /// It serves while it is healthy.
    #[default]
    Up,
    /// No new connections; the old ones end by themselves, or at the deadline.
    Drain {
        /// From now on; `None` = they may take as long as they like.
        deadline: Option<Span>,
    },
    /// It is out, whatever the checks say.
    Maintenance,
}

/// A real server as far as its health goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealHealth {
    /// RIP and real port: the key in its service.
    pub at: SocketAddr,
    /// Name for people.
    pub name: String,
    /// Weight as configured.
    pub weight: u32,
    /// How the traffic goes there.
    pub forward: Forward,
    /// Places in [`HealthPlan::checks`].
    pub checks: Vec<usize>,
    /// What the operator wants.
    pub state: AdminState,
    /// Its own way to fail; `None` = the service's.
    pub on_failure: Option<OnFailure>,
    /// Command when it comes back.
    pub up_command: Option<Command>,
    /// Command when it fails.
    pub down_command: Option<Command>,
}

/// A service as far as its health goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    /// Which one.
    pub key: ServiceKey,
    /// Name for people.
    pub name: String,
    /// What results mean.
    pub policy: Policy,
    /// Its servers.
    pub reals: Vec<RealHealth>,
}

/// Everything about health in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthPlan {
    /// Checks.
    pub checks: Vec<CheckSpec>,
    /// Services that have anything to do with health.
    pub services: Vec<ServiceHealth>,
    /// Pipe that hears of changes, in keepalived's words.
    pub fifo: Option<String>,
}

impl HealthPlan {
    /// True when there is nothing to watch.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
    /// The services by key.
    pub fn by_key(&self) -> BTreeMap<ServiceKey, &ServiceHealth> {
        self.services.iter().map(|s| (s.key, s)).collect()
    }
}
