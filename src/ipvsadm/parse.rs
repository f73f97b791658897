//! One `ipvsadm` command line to a typed command (IPVS-RULES 98 to 105c).

use std::net::IpAddr;

use super::Refusal;
use super::address::{fwmark, leading_number, netmask4, number, real_address, virtual_address};
use super::daemon::{self, DaemonKind, DaemonSpec};
use super::names::Names;
use super::rules::{Rule, option_name, rule};
use super::scan::{HINT, Scanned, Typed, Word, scan};
use crate::svc::{
    DestSpec, Forward, Persistence, Proto, SchedulerFlags, SchedulerKind, ServiceKey, ServiceSpec, Tunnel,
    TunnelCsum,
};
use crate::time::Span;

/// Persistence timeout of `-p` without a value, in seconds.
const DEFAULT_PERSISTENCE: u32 = 360;
/// Timeouts are at most this many seconds (31 days).
const TIMEOUT_LIMIT: i64 = 31 * 86_400;

/// A command, checked for form; whether it can be done is the catalog's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `-A`
    AddService(ServiceSpec),
    /// `-E`
    EditService(ServiceSpec),
    /// `-A` or `-E` (true) with a scheduler or persistence engine that is not known: refused, but only
    /// after the service was looked for.
    UnknownScheduler(ServiceKey, bool),
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
    /// `-S`; with `-n` true
    Save(bool),
    /// `-R`
    Restore,
    /// `--start-daemon`
    StartDaemon(DaemonSpec),
    /// `--stop-daemon`
    StopDaemon(DaemonKind),
    /// `-h`
    Help,
    /// `-v`
    Version,
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
    /// `--daemon`
    Daemon,
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

/// Reads the words after `ipvsadm`; no name is known but numbers.
///
/// # Errors
/// What ipvsadm would have refused, in its words.
pub fn parse(words: &[&str]) -> Result<Command, Refusal> {
    parse_named(words, &Names::default())
}

/// Reads the words after `ipvsadm`.
///
/// # Errors
/// What ipvsadm would have refused, in its words.
pub fn parse_named(words: &[&str], names: &Names) -> Result<Command, Refusal> {
    if words.is_empty() {
        return Ok(Command::List(ListCommand::default()));
    }
    let scanned = scan(words);
    let hint = || Refusal::kernel(HINT);
    let first = scanned.options.first().ok_or_else(hint)?;
    let command = first.what;
    match command {
        Word::Help => return Ok(Command::Help),
        Word::Version => return Ok(Command::Version),
        _ => {}
    }
    let rule = rule(command).ok_or_else(hint)?;
    let mut options = Options::new(names);
    match (command, first.value) {
        (Word::StartDaemon, Some(kind)) => {
            options.daemon.kind = daemon::kind(kind, "illegal start-daemon parameter specified")?;
        }
        (Word::StopDaemon, Some(kind)) => {
            options.daemon.kind = daemon::kind(kind, "illegal start_daemon specified")?;
        }
        _ => {}
    }
    let times = options.collect(scanned, &rule, command)?;
    match command {
        Word::Set => Ok(Command::Set(times)),
        Word::Clear => Ok(Command::Clear),
        Word::List => options.list().map(Command::List),
        Word::Zero => Ok(Command::Zero(options.service)),
        Word::Save => Ok(Command::Save(options.has(Word::Numeric))),
        Word::Restore => Ok(Command::Restore),
        Word::StartDaemon => Ok(Command::StartDaemon(options.daemon)),
        Word::StopDaemon => Ok(Command::StopDaemon(options.daemon.kind)),
        _ => {
            let key = options.service.ok_or_else(hint)?;
            match command {
                Word::AddService | Word::EditService => {
                    let edit = command == Word::EditService;
                    Ok(match options.service_spec(key)? {
                        None => Command::UnknownScheduler(key, edit),
                        Some(spec) if edit => Command::EditService(spec),
                        Some(spec) => Command::AddService(spec),
                    })
                }
                Word::DeleteService => Ok(Command::DeleteService(key)),
                Word::AddServer => options.dest_spec(key).map(|d| Command::AddDest(key, d)),
                Word::EditServer => options.dest_spec(key).map(|d| Command::EditDest(key, d)),
                _ => {
                    let (ip, port) = options.real.ok_or_else(hint)?;
                    Ok(Command::DeleteDest(key, ip, port))
                }
            }
        }
    }
}

/// Values of all options, defaults where none was given.
struct Options<'w> {
    names: &'w Names,
    seen: Vec<Word>,
    service: Option<ServiceKey>,
    scheduler: Option<&'w str>,
    flag_names: Option<&'w str>,
    flags: SchedulerFlags,
    flag3: bool,
    persistent: Option<u32>,
    /// As ipvsadm keeps it: IPv4 bits, or an IPv6 prefix length.
    netmask: u32,
    real: Option<(IpAddr, u16)>,
    forward: Option<Word>,
    weight: u32,
    upper: u32,
    lower: u32,
    pe: Option<&'w str>,
    tun_type: Option<&'w str>,
    tun_port: Option<u16>,
    daemon: DaemonSpec,
}

impl<'w> Options<'w> {
    fn new(names: &'w Names) -> Options<'w> {
        Options {
            names,
            seen: Vec::new(),
            service: None,
            scheduler: None,
            flag_names: None,
            flags: SchedulerFlags::default(),
            flag3: false,
            persistent: None,
            netmask: u32::MAX,
            real: None,
            forward: None,
            weight: 1,
            upper: 0,
            lower: 0,
            pe: None,
            tun_type: None,
            tun_port: None,
            daemon: DaemonSpec::default(),
        }
    }

    fn has(&self, word: Word) -> bool {
        self.seen.contains(&word)
    }

    /// Reads each option's value in order, then looks for words too much, then at what goes together.
    fn collect(&mut self, scanned: Scanned<'w>, rule: &Rule, command: Word) -> Result<[Span; 3], Refusal> {
        let mut given = Vec::new();
        for typed in &scanned.options[1..] {
            if super::rules::rule(typed.what).is_some() || matches!(typed.what, Word::Help | Word::Version) {
                return Err(Refusal::usage(format!("invalid option `{}'", typed.word)));
            }
            if let Some(name) = option_name(typed.what) {
                if given.contains(&name) {
                    return Err(Refusal::usage(format!("multiple '{name}' options specified")));
                }
                given.push(name);
            }
            self.read(typed)?;
            self.seen.push(typed.what);
        }
        if let Some(e) = scanned.error {
            return Err(e);
        }
        let mut rest = scanned.rest;
        let mut times = [Span::ZERO; 3];
        if command == Word::Set {
            times = set(&rest)?;
            rest.drain(..3);
        }
        if let Some(word) = rest.first() {
            return Err(Refusal::usage(format!("unexpected argument {word}")));
        }
        if let Some(flags) = self.flag_names {
            (self.flags, self.flag3) = scheduler_flags(flags, self.scheduler.unwrap_or_default())?;
        }
        rule.check(&given)?;
        Ok(times)
    }

    fn read(&mut self, typed: &Typed<'w>) -> Result<(), Refusal> {
        let value = typed.value.unwrap_or("");
        match typed.what {
            Word::Tcp => self.address(Proto::Tcp, value)?,
            Word::Udp => self.address(Proto::Udp, value)?,
            Word::Sctp => self.address(Proto::Sctp, value)?,
            Word::Fwmark => self.service = Some(ServiceKey::Mark { mark: fwmark(value)?, v6: false }),
            Word::Ipv6 => match &mut self.service {
                Some(ServiceKey::Mark { v6, .. }) => {
                    *v6 = true;
                    self.netmask = 128;
                }
                _ => return Err(Refusal::usage("-6 used before -f\n")),
            },
            Word::Scheduler => self.scheduler = Some(value),
            Word::SchedFlags => self.flag_names = Some(value),
            Word::Persistent if typed.value.is_none() => self.persistent = Some(DEFAULT_PERSISTENCE),
            Word::Persistent => self.persistent = Some(timeout(value, 1)?),
            Word::Netmask if self.service.is_some_and(|s| s.is_v6()) => {
                let len = leading_number(value);
                if !(1..=128).contains(&len) {
                    return Err(Refusal::usage("illegal ipv6 netmask specified"));
                }
                self.netmask = len as u32;
            }
            Word::Netmask => self.netmask = netmask4(value, self.names)?,
            Word::Pe => self.pe = Some(value),
            Word::RealServer => {
                let proto = match self.service {
                    Some(ServiceKey::Address { proto, .. }) => Some(proto),
                    Some(ServiceKey::Mark { .. }) => Some(Proto::Tcp),
                    None => None,
                };
                let (ip, port) = real_address(proto, value, self.names)?;
                self.real = Some((ip, port.unwrap_or_else(|| self.service.map_or(0, |s| s.port()))));
            }
            Word::Masq | Word::Ipip | Word::Gate | Word::Fullnat => self.forward = Some(typed.what),
            Word::Weight => self.weight = count(value, "illegal weight specified")?,
            Word::Upper => self.upper = count(value, "illegal u_threshold specified")?,
            Word::Lower => self.lower = count(value, "illegal l_threshold specified")?,
            Word::TunType => {
                if !matches!(value, "ipip" | "gue" | "gre") {
                    return Err(Refusal::usage("illegal tunnel type specified"));
                }
                self.tun_type = Some(value);
            }
            Word::TunPort => {
                let port = number(value, 1, 65_535);
                let port = port.ok_or_else(|| Refusal::usage("illegal tunnel port specified"))?;
                self.tun_port = Some(port as u16);
            }
            what => self.daemon.read(what, value)?,
        }
        Ok(())
    }

    fn address(&mut self, proto: Proto, value: &str) -> Result<(), Refusal> {
        let key = virtual_address(proto, value, self.names)?;
        if key.is_v6() {
            self.netmask = 128;
        }
        self.service = Some(key);
        Ok(())
    }

    fn list(&self) -> Result<ListCommand, Refusal> {
        let has = |w| self.has(w);
        let tables = has(Word::Stats) || has(Word::Rate) || has(Word::Thresholds);
        let other = has(Word::Timeout) || has(Word::Daemon);
        if (has(Word::Connection) || other) && tables || other && has(Word::PersistentConn) {
            return Err(Refusal::usage("options conflicts in the list command"));
        }
        let show = if has(Word::Connection) {
            Show::Connections { persistence: has(Word::PersistentConn) }
        } else if has(Word::Timeout) {
            Show::Timeout
        } else if has(Word::Daemon) {
            Show::Daemon
        } else {
            let tables = [
                (Word::Stats, Show::Stats),
                (Word::Rate, Show::Rate),
                (Word::Thresholds, Show::Thresholds),
                (Word::PersistentConn, Show::PersistentConn),
                (Word::TunInfo, Show::TunInfo),
            ];
            tables.into_iter().find(|(w, _)| has(*w)).map_or(Show::Plain, |(_, show)| show)
        };
        Ok(ListCommand {
            show,
            service: self.service,
            numeric: has(Word::Numeric),
            exact: has(Word::Exact),
            nosort: has(Word::NoSort),
        })
    }

    /// `None` when a scheduler or engine is not known.
    fn service_spec(&self, key: ServiceKey) -> Result<Option<ServiceSpec>, Refusal> {
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
        let name = self.scheduler.filter(|s| !s.is_empty()).unwrap_or("wlc");
        (spec.flags, spec.flag3) = (self.flags, self.flag3);
        // the recorded kernel has no `twos`
        let known = name.parse::<SchedulerKind>().ok().filter(|k| *k != SchedulerKind::Twos);
        let engine = self.pe.filter(|s| !s.is_empty()).map(str::parse);
        let (Some(scheduler), Ok(engine)) = (known, engine.transpose()) else { return Ok(None) };
        (spec.scheduler, spec.engine) = (scheduler, engine);
        let (len, bits) = match (key.is_v6(), self.netmask) {
            (true, len) => (len.min(128) as u8, None),
            (false, bits) if bits.leading_ones() + bits.trailing_zeros() >= 32 => {
                (bits.leading_ones() as u8, None)
            }
            (false, bits) => (32, Some(bits)),
        };
        let persistence = |s: u32| Persistence { timeout: Span::from_secs(u64::from(s)), netmask: len };
        spec.persistence = self.persistent.map(persistence);
        spec.netmask_bits = bits.filter(|_| spec.persistence.is_some());
        Ok(Some(spec))
    }

    fn dest_spec(&self, key: ServiceKey) -> Result<DestSpec, Refusal> {
        let (ip, port) = self.real.ok_or_else(|| Refusal::kernel(HINT))?;
        if ip.is_ipv6() != key.is_v6() && self.forward != Some(Word::Ipip) {
            return Err(Refusal::usage("Different address family is allowed only for tunneling servers"));
        }
        let forward = self.forward()?;
        let (weight, upper, lower) = (self.weight, self.upper, self.lower);
        Ok(DestSpec { name: String::new(), ip, port, weight, forward, upper, lower })
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
        let name = |w| option_name(w).unwrap_or_default();
        let illegal = |option: &str| {
            Err(Refusal::usage(format!("Illegal '{option}' option with the '{kind}' tunnel type")))
        };
        let csums: Vec<_> =
            [Word::TunNoCsum, Word::TunCsum, Word::TunRemCsum].into_iter().filter(|w| self.has(*w)).collect();
        if let [first, second, ..] = csums[..] {
            let (a, b) = (name(second), name(first));
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
            ("ipip", Some(w), _) | ("gre", Some(w @ Word::TunRemCsum), _) => illegal(name(*w)),
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

fn set(rest: &[&str]) -> Result<[Span; 3], Refusal> {
    let [tcp, tcp_fin, udp, ..] = rest else {
        return Err(Refusal::usage("--set option requires 3 timeout values"));
    };
    let span = |s: &str| timeout(s, 0).map(|v| Span::from_secs(u64::from(v)));
    Ok([span(tcp)?, span(tcp_fin)?, span(udp)?])
}

fn count(text: &str, refusal: &str) -> Result<u32, Refusal> {
    number(text, 0, i64::from(i32::MAX)).map(|n| n as u32).ok_or_else(|| Refusal::usage(refusal))
}

fn timeout(text: &str, min: i64) -> Result<u32, Refusal> {
    number(text, min, TIMEOUT_LIMIT)
        .map(|n| n as u32)
        .ok_or_else(|| Refusal::usage(format!("invalid timeout value `{text}' specified")))
}

/// The flags, and whether the third one is set, which ipvsadm takes and no scheduler uses.
fn scheduler_flags(text: &str, scheduler: &str) -> Result<(SchedulerFlags, bool), Refusal> {
    let (mut flags, mut third) = (SchedulerFlags::default(), false);
    for flag in text.split(',').filter(|f| !f.is_empty()) {
        let of = flag.split_once('-').map_or("", |(of, _)| of);
        match flag {
            "sh-fallback" | "mh-fallback" | "flag-1" => flags.fallback = true,
            "sh-port" | "mh-port" | "flag-2" => flags.port = true,
            "flag-3" => third = true,
            _ => return Err(Refusal::usage(format!("invalid scheduler flag `{flag}'"))),
        }
        if of != "flag" && of != scheduler {
            return Err(Refusal::usage(format!("incompatible scheduler flag `{flag}'")));
        }
    }
    Ok((flags, third))
}

#[cfg(test)]
mod tests;
