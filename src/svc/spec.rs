//! What a user can say about services and real servers, already checked for form.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::str::FromStr;

use crate::time::Span;
use crate::wire::number;

/// Transport protocols that can be balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Proto {
    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Proto::Tcp => number::TCP,
            Proto::Udp => number::UDP,
            Proto::Sctp => number::SCTP,
        }
    }
    /// The protocol with this number.
    pub const fn from_number(n: u8) -> Option<Proto> {
        match n {
            number::TCP => Some(Proto::Tcp),
            number::UDP => Some(Proto::Udp),
            number::SCTP => Some(Proto::Sctp),
            _ => None,
        }
    }
    /// `tcp`, `udp`, `sctp`
    pub const fn name(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
            Proto::Sctp => "sctp",
        }
    }
}

/// What a service answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceKey {
    /// A virtual address; port 0 stands for every port (persistent services only).
    Address {
        /// Protocol.
        proto: Proto,
        /// VIP.
        ip: IpAddr,
        /// Virtual port.
        port: u16,
    },
    /// A firewall mark, one service for each address family.
    Mark {
        /// The mark, never 0.
        mark: u32,
        /// True for IPv6.
        v6: bool,
    },
}

impl Hash for ServiceKey {
    /// In a word or three: every packet that begins a connection asks for its service.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            ServiceKey::Address { proto, ip, port } => {
                let rest = u64::from(proto.number()) << 16 | u64::from(port);
                match ip {
                    IpAddr::V4(ip) => state.write_u64(u64::from(u32::from(ip)) | rest << 32),
                    IpAddr::V6(ip) => {
                        let ip = u128::from(ip);
                        state.write_u64(ip as u64);
                        state.write_u64((ip >> 64) as u64);
                        state.write_u64(rest);
                    }
                }
            }
            ServiceKey::Mark { mark, v6 } => state.write_u64(u64::from(mark) | u64::from(v6) << 32),
        }
    }
}

impl ServiceKey {
    /// Its virtual port; 0 for every port and for marks.
    pub fn port(&self) -> u16 {
        match self {
            ServiceKey::Address { port, .. } => *port,
            ServiceKey::Mark { .. } => 0,
        }
    }
    /// True when clients speak IPv6 to it.
    pub fn is_v6(&self) -> bool {
        match self {
            ServiceKey::Address { ip, .. } => ip.is_ipv6(),
            ServiceKey::Mark { v6, .. } => *v6,
        }
    }
}

/// The 14 IPVS schedulers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum SchedulerKind {
    Rr,
    Wrr,
    Lc,
    Wlc,
    Lblc,
    Lblcr,
    Dh,
    Sh,
    Sed,
    Nq,
    Fo,
    Ovf,
    Mh,
    Twos,
}

impl SchedulerKind {
    /// All of them with their `ipvsadm -s` names.
    pub const ALL: [(SchedulerKind, &'static str); 14] = [
        (SchedulerKind::Rr, "rr"),
        (SchedulerKind::Wrr, "wrr"),
        (SchedulerKind::Lc, "lc"),
        (SchedulerKind::Wlc, "wlc"),
        (SchedulerKind::Lblc, "lblc"),
        (SchedulerKind::Lblcr, "lblcr"),
        (SchedulerKind::Dh, "dh"),
        (SchedulerKind::Sh, "sh"),
        (SchedulerKind::Sed, "sed"),
        (SchedulerKind::Nq, "nq"),
        (SchedulerKind::Fo, "fo"),
        (SchedulerKind::Ovf, "ovf"),
        (SchedulerKind::Mh, "mh"),
        (SchedulerKind::Twos, "twos"),
    ];
    /// The name `ipvsadm` uses.
    pub fn name(self) -> &'static str {
        SchedulerKind::ALL.iter().find(|(k, _)| *k == self).map_or("?", |(_, n)| n)
    }
}

impl FromStr for SchedulerKind {
    type Err = ();
    fn from_str(s: &str) -> Result<SchedulerKind, ()> {
        SchedulerKind::ALL.iter().find(|(_, n)| *n == s).map(|(k, _)| *k).ok_or(())
    }
}

/// Scheduler flags (`ipvsadm -b`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerFlags {
    /// `sh-port` / `mh-port`: the client's port is hashed too.
    pub port: bool,
    /// `sh-fallback` / `mh-fallback`: try other servers when the chosen one cannot be used.
    pub fallback: bool,
}

/// Persistence of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// How long a client stays with its real server after its last new connection.
    pub timeout: Span,
    /// Prefix length by which clients are grouped: 32 or 128 for each on its own.
    pub netmask: u8,
}

/// What a client is known by beside its address (`ipvsadm --pe`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistenceEngine {
    /// The Call-ID of a SIP message over UDP (IPVS-RULES 70).
    Sip,
}

impl PersistenceEngine {
    /// The name `ipvsadm` uses.
    pub const fn name(self) -> &'static str {
        match self {
            PersistenceEngine::Sip => "sip",
        }
    }
}

impl FromStr for PersistenceEngine {
    type Err = ();
    fn from_str(s: &str) -> Result<PersistenceEngine, ()> {
        if s == PersistenceEngine::Sip.name() { Ok(PersistenceEngine::Sip) } else { Err(()) }
    }
}

/// Per-service timeouts beyond the global ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceTimeouts {
    /// TCP ESTABLISHED.
    pub tcp: Option<Span>,
    /// TCP FIN_WAIT.
    pub tcp_fin: Option<Span>,
    /// UDP.
    pub udp: Option<Span>,
}

/// A virtual service as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Name for people; empty when made by command.
    pub name: String,
    /// Address or mark.
    pub key: ServiceKey,
    /// Scheduler.
    pub scheduler: SchedulerKind,
    /// Scheduler flags.
    pub flags: SchedulerFlags,
    /// Persistence, if any.
    pub persistence: Option<Persistence>,
    /// Netmask of IPv4 persistence with holes (only `ipvsadm -M` can say it), instead of the prefix.
    pub netmask_bits: Option<u32>,
    /// `flag-3`: taken and listed, used by no scheduler.
    pub flag3: bool,
    /// Persistence engine; without persistence it has no effect, as in the kernel.
    pub engine: Option<PersistenceEngine>,
    /// One-packet scheduling (UDP).
    pub one_packet: bool,
    /// Names of the ports that own the VIP; empty = every port.
    pub ports: Vec<String>,
    /// Own timeouts.
    pub timeouts: ServiceTimeouts,
    /// Lower the MSS of SYNs so that tunnelled segments fit.
    pub mss_clamp: bool,
}

impl ServiceSpec {
    /// A service with everything at its default: `wlc`, no persistence.
    pub fn new(key: ServiceKey) -> ServiceSpec {
        ServiceSpec {
            name: String::new(),
            key,
            scheduler: SchedulerKind::Wlc,
            flags: SchedulerFlags::default(),
            persistence: None,
            netmask_bits: None,
            flag3: false,
            engine: None,
            one_packet: false,
            ports: Vec::new(),
            timeouts: ServiceTimeouts::default(),
            mss_clamp: false,
        }
    }
    /// Names of the scheduler flags that are set, in the order of their bits: `sh` and `mh` have names of their
    /// own for the first two.
    pub fn flag_names(&self) -> Vec<&'static str> {
        let [fallback, port] = match self.scheduler {
            SchedulerKind::Sh => ["sh-fallback", "sh-port"],
            SchedulerKind::Mh => ["mh-fallback", "mh-port"],
            _ => ["flag-1", "flag-2"],
        };
        let all = [(self.flags.fallback, fallback), (self.flags.port, port), (self.flag3, "flag-3")];
        all.into_iter().filter_map(|(set, name)| set.then_some(name)).collect()
    }
}

/// Checksum option of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelCsum {
    /// No checksum (UDP checksum 0, no GRE checksum field).
    #[default]
    None,
    /// A real checksum.
    Csum,
    /// GUE remote checksum offload; without offload the packet is that of `Csum`.
    RemCsum,
}

/// Encapsulation of a `tun` real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tunnel {
    /// IP in IP (protocol 4 or 41).
    Ipip,
    /// GRE without key or sequence.
    Gre {
        /// GRE checksum.
        csum: TunnelCsum,
    },
    /// Generic UDP encapsulation, version 0.
    Gue {
        /// UDP destination port of the real server.
        port: u16,
        /// UDP checksum.
        csum: TunnelCsum,
    },
}

/// Forwarding method of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forward {
    /// Masquerading: destination rewritten, replies pass the director.
    Nat,
    /// Source rewritten as well, from the local address pool.
    FullNat,
    /// Encapsulated.
    Tun(Tunnel),
    /// Direct routing: only the MAC addresses change.
    Dr,
}

impl Forward {
    /// True when ports may be mapped and replies pass the director.
    pub const fn translates(self) -> bool {
        matches!(self, Forward::Nat | Forward::FullNat)
    }
    /// `nat`, `fullnat`, `tun`, `dr`
    pub const fn name(self) -> &'static str {
        match self {
            Forward::Nat => "nat",
            Forward::FullNat => "fullnat",
            Forward::Tun(_) => "tun",
            Forward::Dr => "dr",
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A real server of a service as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestSpec {
    /// Name for people; empty when made by command.
    pub name: String,
    /// RIP.
    pub ip: IpAddr,
    /// Real port; 0 only in services of port 0 or by mark: the packet's own port is kept.
    pub port: u16,
    /// Weight; 0 takes no new connections.
    pub weight: u32,
    /// Forwarding method.
    pub forward: Forward,
    /// No new connections from this many on (active + inactive); 0 = no limit.
    pub upper: u32,
    /// New connections again below this many; 0 = three quarters of `upper`.
    pub lower: u32,
}
