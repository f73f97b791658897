//! One `ipvsadm` command line to a typed command (IPVS-RULES 98 to 105c).

use std::net::IpAddr;

use super::Refusal;
use super::address::{can_be_real_server, full_mask, netmask, number, real_address, virtual_address};
use super::scan::{HINT, Scanned, Word, scan};
use crate::svc::{
    DestSpec, Forward, Persistence, Proto, SchedulerFlags, SchedulerKind, ServiceKey, ServiceSpec, Tunnel,
    TunnelCsum,
};
use crate::time::Span;

/// Persistence timeout of `-p` without a value, in seconds.
const DEFAULT_PERSISTENCE: u32 = 360;
/// Timeouts must be below this many seconds (a year).
const TIMEOUT_LIMIT: u32 = 31_536_000;

/// A command, checked for form; whether it can be done is the catalog's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `-A`
    AddService(ServiceSpec),
    /// `-E`
    EditService(ServiceSpec),
    /// `-D`
    DeleteService(ServiceKey),
    /// `-C`
    Clear,
    /// `-a`
    AddDest(ServiceKey, DestSpec),
    /// `-e`
    EditDest(ServiceKey, DestSpec),
    /// `-d`
    DeleteDest(ServiceKey, IpAddr, u16),
    /// `-Z`, of one service or all
    Zero(Option<ServiceKey>),
    /// `--set TCP TCPFIN UDP`; zero leaves a value alone
    Set([Span; 3]),
    /// `-L`
    List(ListCommand),
}

/// What `-L` is to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// Services and real servers with weights and counts.
    #[default]
    Plain,
    /// `--stats`
    Stats,
    /// `--rate`
    Rate,
    /// `--thresholds`
    Thresholds,
    /// `--persistent-conn`
    PersistentConn,
    /// `--tun-info`
    TunInfo,
    /// `--timeout`
    Timeout,
    /// `-c`, `persistence` = with the columns of persistence engines (`--persistent-conn`)
    Connections {
        /// Print the columns of persistence engines.
        persistence: bool,
    },
}

/// `-L` with its options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListCommand {
    /// Which table.
    pub show: Show,
    /// Only this service, without the version line.
    pub service: Option<ServiceKey>,
    /// `-n`: numbers instead of names.
    pub numeric: bool,
    /// `--exact`: no K, M, G.
    pub exact: bool,
    /// `--nosort`: in the order of the catalog.
    pub nosort: bool,
}

/// Reads the words after `ipvsadm`.
///
/// # Errors
/// What ipvsadm would have refused, in its words.
pub fn parse(words: &[&str]) -> Result<Command, Refusal> {
    let scanned = scan(words)?;
    let Some((command, _)) = scanned.options.first() else {
        return if scanned.rest.is_empty() {
            Ok(Command::List(ListCommand::default()))
        } else {
            Err(Refusal::kernel(HINT))
        };
    };
    let rule = RULES.iter().find(|r| r.command == *command).ok_or_else(|| Refusal::kernel(HINT))?;
    let options = collect(&scanned, rule)?;
    match command {
        Word::Set => set(&scanned.rest).map(Command::Set),
        Word::Clear => Ok(Command::Clear),
        Word::List => options.list().map(Command::List),
        Word::Zero => Ok(Command::Zero(options.service)),
        _ => {
            let key = options.service.ok_or_else(|| needs("service-address", rule))?;
            match command {
                Word::AddService => options.service_spec(key).map(Command::AddService),
                Word::EditService => options.service_spec(key).map(Command::EditService),
                Word::DeleteService => Ok(Command::DeleteService(key)),
                Word::AddServer => options.dest_spec(key, rule).map(|d| Command::AddDest(key, d)),
                Word::EditServer => options.dest_spec(key, rule).map(|d| Command::EditDest(key, d)),
                _ => {
                    let (ip, port) = options.real.ok_or_else(|| needs("real-server", rule))?;
                    Ok(Command::DeleteDest(key, ip, port.unwrap_or(vport(key))))
                }
            }
        }
    }
}

/// Which options a command takes.
struct Rule {
    command: Word,
    name: &'static str,
    takes: &'static [&'static str],
}

const SERVICE: &[&str] =
    &["service-address", "scheduler", "persistent", "netmask", "ops", "pe", "sched-flags", "ipv6"];
const SERVER: &[&str] = &[
    "service-address",
    "real-server",
    "forwarding-method",
    "weight",
    "u-threshold",
    "l-threshold",
    "tun-type",
    "tun-port",
    "tun-nocsum",
    "tun-csum",
    "tun-remcsum",
    "ipv6",
];
const LIST: &[&str] = &[
    "numeric",
    "connection",
    "service-address",
    "timeout",
    "stats",
    "rate",
    "thresholds",
    "persistent-conn",
    "nosort",
    "sort",
    "exact",
    "tun-info",
    "ipv6",
];

const RULES: &[Rule] = &[
    Rule { command: Word::AddService, name: "add-service", takes: SERVICE },
    Rule { command: Word::EditService, name: "edit-service", takes: SERVICE },
    Rule { command: Word::DeleteService, name: "delete-service", takes: &["service-address", "ipv6"] },
    Rule { command: Word::Clear, name: "flush", takes: &[] },
    Rule { command: Word::List, name: "list", takes: LIST },
    Rule { command: Word::Zero, name: "zero", takes: &["service-address", "ipv6"] },
    Rule { command: Word::AddServer, name: "add-server", takes: SERVER },
    Rule { command: Word::EditServer, name: "edit-server", takes: SERVER },
    Rule {
        command: Word::DeleteServer,
        name: "delete-server",
        takes: &["service-address", "real-server", "ipv6"],
    },
    Rule { command: Word::Set, name: "set", takes: &[] },
];

fn needs(option: &str, rule: &Rule) -> Refusal {
    Refusal::usage(format!("You need to supply the '{option}' option for the '{}' command", rule.name))
}

/// Values of all options, defaults where none was given.
#[derive(Default)]
struct Options<'w> {
    seen: Vec<Word>,
    service: Option<ServiceKey>,
    scheduler: Option<&'w str>,
    flags: SchedulerFlags,
    persistent: Option<u32>,
    netmask: Option<&'w str>,
    real: Option<(IpAddr, Option<u16>)>,
    forward: Option<Word>,
    weight: Option<u32>,
    upper: u32,
    lower: u32,
    pe: Option<&'w str>,
    tun_type: Option<&'w str>,
    tun_port: Option<u16>,
}

/// Reads each option's value; an option the command does not take is refused after all were read.
fn collect<'w>(scanned: &Scanned<'w>, rule: &Rule) -> Result<Options<'w>, Refusal> {
    let mut o = Options::default();
    let mut foreign = None;
    for (at, (word, value)) in scanned.options.iter().enumerate().skip(1) {
        let value = value.unwrap_or("");
        let name = option_name(*word);
        if !rule.takes.contains(&name) {
            foreign.get_or_insert(name);
        }
        if *word != Word::Ipv6 && scanned.options[1..at].iter().any(|(w, _)| option_name(*w) == name) {
            return Err(Refusal::usage(format!("multiple '{name}' options specified")));
        }
        o.read(*word, value)?;
        o.seen.push(*word);
    }
    // --set reads its own three values
    let spare = if rule.command == Word::Set { scanned.rest.get(3) } else { scanned.rest.first() };
    if let Some(word) = spare {
        return Err(Refusal::usage(format!("unexpected argument {word}")));
    }
    match foreign {
        Some(name) => {
            Err(Refusal::usage(format!("Illegal '{name}' option with the '{}' command", rule.name)))
        }
        None => Ok(o),
    }
}

fn option_name(word: Word) -> &'static str {
    match word {
        Word::Numeric => "numeric",
        Word::Connection => "connection",
        Word::Tcp | Word::Udp | Word::Sctp | Word::Fwmark => "service-address",
        Word::Scheduler => "scheduler",
        Word::Persistent => "persistent",
        Word::Netmask => "netmask",
        Word::RealServer => "real-server",
        Word::Masq | Word::Ipip | Word::Gate | Word::Fullnat => "forwarding-method",
        Word::Weight => "weight",
        Word::Upper => "u-threshold",
        Word::Lower => "l-threshold",
        Word::Timeout => "timeout",
        Word::Stats => "stats",
        Word::Rate => "rate",
        Word::Thresholds => "thresholds",
        Word::PersistentConn => "persistent-conn",
        Word::NoSort => "nosort",
        Word::Sort => "sort",
        Word::Exact => "exact",
        Word::Ipv6 => "ipv6",
        Word::OnePacket => "ops",
        Word::Pe => "pe",
        Word::SchedFlags => "sched-flags",
        Word::TunInfo => "tun-info",
        Word::TunType => "tun-type",
        Word::TunPort => "tun-port",
        Word::TunNoCsum => "tun-nocsum",
        Word::TunCsum => "tun-csum",
        Word::TunRemCsum => "tun-remcsum",
        _ => "command",
    }
}

impl<'w> Options<'w> {
    fn has(&self, word: Word) -> bool {
        self.seen.contains(&word)
    }

    fn read(&mut self, word: Word, value: &'w str) -> Result<(), Refusal> {
        match word {
            Word::Tcp => self.service = Some(virtual_address(Proto::Tcp, value)?),
            Word::Udp => self.service = Some(virtual_address(Proto::Udp, value)?),
            Word::Sctp => self.service = Some(virtual_address(Proto::Sctp, value)?),
            Word::Fwmark => {
                let mark = number(value, u32::MAX).filter(|m| *m > 0);
                let mark =
                    mark.ok_or_else(|| Refusal::usage(format!("invalid fwmark value `{value}' specified")))?;
                self.service = Some(ServiceKey::Mark { mark, v6: false });
            }
            Word::Ipv6 => match &mut self.service {
                Some(ServiceKey::Mark { v6, .. }) => *v6 = true,
                _ => return Err(Refusal::usage("-6 used before -f\n")),
            },
            Word::Scheduler => self.scheduler = Some(value),
            Word::SchedFlags => self.flags = scheduler_flags(value)?,
            Word::Persistent if value.is_empty() => self.persistent = Some(DEFAULT_PERSISTENCE),
            Word::Persistent => self.persistent = Some(timeout(value, 1)?),
            Word::Netmask => self.netmask = Some(value),
            Word::Pe => self.pe = Some(value),
            Word::RealServer => self.real = Some(real_address(value)?),
            Word::Masq | Word::Ipip | Word::Gate | Word::Fullnat => self.forward = Some(word),
            Word::Weight => self.weight = Some(count(value, "illegal weight specified")?),
            Word::Upper => self.upper = count(value, "illegal u_threshold specified")?,
            Word::Lower => self.lower = count(value, "illegal l_threshold specified")?,
            Word::TunType => self.tun_type = Some(value),
            Word::TunPort => {
                let port = number(value, 65_535).filter(|p| *p > 0);
                let port = port.ok_or_else(|| Refusal::usage("illegal tunnel port specified"))?;
                self.tun_port = Some(port as u16);
            }
            _ => {}
        }
        Ok(())
    }

    fn list(&self) -> Result<ListCommand, Refusal> {
        let tables = [Word::Stats, Word::Rate, Word::Thresholds, Word::PersistentConn, Word::TunInfo];
        let table = tables.into_iter().find(|w| self.has(*w));
        let show = if self.has(Word::Timeout) || self.has(Word::Connection) {
            if self.has(Word::Timeout) && self.has(Word::Connection) {
                return Err(Refusal::usage(
                    "The option 'timeout' conflicts with the 'connection' option in the 'list' command",
                ));
            }
            let persistence = table == Some(Word::PersistentConn);
            match table {
                None => {}
                Some(Word::PersistentConn) if self.has(Word::Connection) => {}
                Some(_) => return Err(Refusal::usage("options conflicts in the list command")),
            }
            if self.has(Word::Timeout) { Show::Timeout } else { Show::Connections { persistence } }
        } else {
            match table {
                Some(Word::Stats) => Show::Stats,
                Some(Word::Rate) => Show::Rate,
                Some(Word::Thresholds) => Show::Thresholds,
                Some(Word::PersistentConn) => Show::PersistentConn,
                Some(Word::TunInfo) => Show::TunInfo,
                _ => Show::Plain,
            }
        };
        Ok(ListCommand {
            show,
            service: self.service,
            numeric: self.has(Word::Numeric),
            exact: self.has(Word::Exact),
            nosort: self.has(Word::NoSort),
        })
    }

    fn service_spec(&self, key: ServiceKey) -> Result<ServiceSpec, Refusal> {
        let mut spec = ServiceSpec::new(key);
        if let ServiceKey::Address { port: 0, .. } = key
            && self.persistent.is_none()
        {
            return Err(Refusal::usage("Zero port specified for non-persistent service"));
        }
        spec.one_packet = self.has(Word::OnePacket);
        if spec.one_packet
            && let ServiceKey::Address { proto: Proto::Tcp | Proto::Sctp, .. } = key
        {
            return Err(Refusal::usage("One-Packet Scheduling is only for UDP virtual services"));
        }
        let netmask = self.netmask.map_or(Ok(full_mask(key)), |m| netmask(m, key.is_v6()))?;
        spec.persistence =
            self.persistent.map(|s| Persistence { timeout: Span::from_secs(u64::from(s)), netmask });
        // an unknown engine and an unknown scheduler are refused alike
        let missing = || Refusal::kernel("Scheduler or persistence engine not found");
        if let Some(name) = self.scheduler.filter(|s| !s.is_empty()) {
            spec.scheduler = name.parse::<SchedulerKind>().map_err(|()| missing())?;
        }
        if let Some(name) = self.pe.filter(|s| !s.is_empty()) {
            spec.engine = Some(name.parse().map_err(|()| missing())?);
        }
        spec.flags = self.flags;
        Ok(spec)
    }

    fn dest_spec(&self, key: ServiceKey, rule: &Rule) -> Result<DestSpec, Refusal> {
        let (ip, port) = self.real.ok_or_else(|| needs("real-server", rule))?;
        let forward = self.forward()?;
        if ip.is_ipv6() != key.is_v6() && !matches!(forward, Forward::Tun(_)) {
            return Err(Refusal::usage("Different address family is allowed only for tunneling servers"));
        }
        if !can_be_real_server(ip) {
            return Err(Refusal::kernel(
                "Invalid operation.  Possibly wrong module version, address not unicast, ...",
            ));
        }
        Ok(DestSpec {
            name: String::new(),
            ip,
            port: port.unwrap_or(vport(key)),
            weight: self.weight.unwrap_or(1),
            forward,
            upper: self.upper,
            lower: self.lower,
        })
    }

    fn forward(&self) -> Result<Forward, Refusal> {
        let tunnel_options = [Word::TunType, Word::TunPort, Word::TunNoCsum, Word::TunCsum, Word::TunRemCsum];
        match self.forward {
            Some(Word::Ipip) => self.tunnel().map(Forward::Tun),
            _ if tunnel_options.iter().any(|w| self.has(*w)) => {
                Err(Refusal::usage("Tunnel options conflict with forward method"))
            }
            Some(Word::Masq) => Ok(Forward::Nat),
            Some(Word::Fullnat) => Ok(Forward::FullNat),
            _ => Ok(Forward::Dr),
        }
    }

    fn tunnel(&self) -> Result<Tunnel, Refusal> {
        let kind = self.tun_type.unwrap_or("ipip");
        let illegal = |option: &str| {
            Err(Refusal::usage(format!("Illegal '{option}' option with the '{kind}' tunnel type")))
        };
        let csums: Vec<_> =
            [Word::TunNoCsum, Word::TunCsum, Word::TunRemCsum].into_iter().filter(|w| self.has(*w)).collect();
        if let [first, second, ..] = csums[..] {
            let (a, b) = (option_name(second), option_name(first));
            return Err(Refusal::usage(format!(
                "The option '{a}' conflicts with the '{b}' option in the '{kind}' tunnel type"
            )));
        }
        let csum = match csums.first() {
            Some(Word::TunCsum) => TunnelCsum::Csum,
            Some(Word::TunRemCsum) => TunnelCsum::RemCsum,
            _ => TunnelCsum::None,
        };
        match (kind, csums.first(), self.tun_port) {
            ("ipip" | "gre", _, Some(_)) => illegal("tun-port"),
            ("ipip", Some(w), _) | ("gre", Some(w @ Word::TunRemCsum), _) => illegal(option_name(*w)),
            ("ipip", None, None) => Ok(Tunnel::Ipip),
            ("gre", _, None) => Ok(Tunnel::Gre { csum }),
            ("gue", _, Some(port)) => Ok(Tunnel::Gue { port, csum }),
            ("gue", _, None) => {
                Err(Refusal::usage("You need to supply the 'tun-port' option for the 'gue' tunnel type"))
            }
            _ => Err(Refusal::usage("illegal tunnel type specified")),
        }
    }
}

fn vport(key: ServiceKey) -> u16 {
    match key {
        ServiceKey::Address { port, .. } => port,
        ServiceKey::Mark { .. } => 0,
    }
}

fn set(rest: &[&str]) -> Result<[Span; 3], Refusal> {
    let [tcp, tcp_fin, udp] = rest else {
        return Err(Refusal::usage("--set option requires 3 timeout values"));
    };
    let span = |s: &str| timeout(s, 0).map(|v| Span::from_secs(u64::from(v)));
    Ok([span(tcp)?, span(tcp_fin)?, span(udp)?])
}

fn count(text: &str, refusal: &str) -> Result<u32, Refusal> {
    number(text, i32::MAX as u32).ok_or_else(|| Refusal::usage(refusal))
}

fn timeout(text: &str, min: u32) -> Result<u32, Refusal> {
    number(text, TIMEOUT_LIMIT - 1)
        .filter(|t| *t >= min)
        .ok_or_else(|| Refusal::usage(format!("invalid timeout value `{text}' specified")))
}

fn scheduler_flags(text: &str) -> Result<SchedulerFlags, Refusal> {
    let mut flags = SchedulerFlags::default();
    for flag in text.split(',') {
        match flag {
            "sh-fallback" | "mh-fallback" | "flag-1" => flags.fallback = true,
            "sh-port" | "mh-port" | "flag-2" => flags.port = true,
            // accepted by ipvsadm, used by no scheduler
            "flag-3" => {}
            _ => return Err(Refusal::usage(format!("invalid scheduler flag `{flag}'"))),
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests;
