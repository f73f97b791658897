//! `virtual_server` and what belongs to it as `[[service]]`.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::IpAddr;

use super::checker::{self, CHECKERS, Timing, World, command, flag};
use super::network::{self, Seen};
use super::tree::Node;
use super::{Imported, Notes, Source, list, quoted};
use crate::config::keys::SCHEDULERS;

/// Blocks of the top level that have nothing to do with virtual servers.
const OF_VRRP: [&str; 12] = [
    "vrrp_instance",
    "vrrp_sync_group",
    "vrrp_script",
    "vrrp_track_process",
    "track_process",
    "vrrp_track_file",
    "static_ipaddress",
    "static_routes",
    "static_rules",
    "garp_group",
    "bfd_instance",
    "interface_up_down_delays",
];
/// Most services of one file: a range of a group may name a whole network.
const MAX_SERVICES: usize = 65_536;

pub(super) struct Importer<'a> {
    pub(super) notes: Notes,
    pub(super) world: World<'a>,
    pub(super) groups: HashMap<&'a str, &'a Node>,
    pub(super) local_groups: HashMap<&'a str, &'a Node>,
    /// The lines of a check, and its name.
    pub(super) checks: HashMap<String, String>,
    pub(super) check_text: String,
    pub(super) director: String,
    pub(super) timeouts: String,
    pub(super) services: String,
    pub(super) count: usize,
    pub(super) local: BTreeSet<String>,
    pub(super) seen: Seen,
}

pub(super) fn import(nodes: &[Node], notes: Notes) -> Imported {
    let mut im = Importer {
        notes,
        world: World::default(),
        groups: HashMap::new(),
        local_groups: HashMap::new(),
        checks: HashMap::new(),
        check_text: String::new(),
        director: String::new(),
        timeouts: String::new(),
        services: String::new(),
        count: 0,
        local: BTreeSet::new(),
        seen: Seen::default(),
    };
    for n in nodes {
        match n.name.as_str() {
            "virtual_server_group" => drop(im.groups.insert(n.arg(0).unwrap_or_default(), n)),
            "local_address_group" => drop(im.local_groups.insert(n.arg(0).unwrap_or_default(), n)),
            "track_file" | "vrrp_track_file" => im.world.track_files.push(n),
            "SSL" => im.ssl(n),
            _ => {}
        }
    }
    for n in nodes {
        match n.name.as_str() {
            "global_defs" => im.global(n),
            "virtual_server" => im.virtual_server(n),
            "virtual_server_group" | "local_address_group" | "SSL" | "track_file" => {}
            name if OF_VRRP.contains(&name) => im.notes.add(
                &n.at,
                name,
                "softlvs has no VRRP and sets no addresses or routes of the host: left out",
            ),
            "net_namespace"
            | "net_namespace_ipvs"
            | "instance"
            | "use_pid_dir"
            | "linkbeat_use_polling"
            | "child_wait_time" => {
                im.notes.add(&n.at, &n.name, "about the process, not the services: left out")
            }
            name => im.notes.add(&n.at, name, "unknown keyword: left out"),
        }
    }
    im.finish()
}

/// What is said of a service, as lines.
#[derive(Clone, Default)]
pub(super) struct Service {
    pub(super) lines: String,
    pub(super) mode: Mode,
    pub(super) timing: Timing,
    pub(super) protocol: Option<String>,
    pub(super) ipv6: bool,
    pub(super) inhibit: bool,
    pub(super) reals: Vec<Real>,
    pub(super) sorry: Option<(IpAddr, u16)>,
    pub(super) persistent: bool,
    /// Checks name their port.
    pub(super) pin: bool,
}

#[derive(Clone, Default)]
pub(super) struct Mode {
    pub(super) name: &'static str,
    pub(super) tunnel: Option<String>,
}

#[derive(Clone)]
pub(super) struct Real {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) lines: String,
    pub(super) mode: Mode,
    pub(super) checks: Vec<String>,
    pub(super) at: Source,
}

/// What a service answers to.
pub(super) enum Key {
    Address(IpAddr, u16),
    Mark(u32, Option<bool>),
}

impl<'a> Importer<'a> {
    fn virtual_server(&mut self, n: &Node) {
        let keys = self.keys(n);
        if keys.is_empty() {
            return;
        }
        // servers of every port: the checkers ask the port that is said
        let pin = keys.iter().any(|(_, k)| matches!(k, Key::Mark(..) | Key::Address(_, 0)));
        let service = self.service(n, pin);
        for (at, key) in keys {
            if self.count >= MAX_SERVICES {
                return self.notes.add(
                    &n.at,
                    "virtual_server",
                    format!("there are more than {MAX_SERVICES} services: the rest was left out"),
                );
            }
            self.write(&at, key, &service);
        }
    }

    fn keys(&mut self, n: &Node) -> Vec<(Source, Key)> {
        match (n.arg(0), n.arg(1)) {
            (Some("fwmark"), Some(mark)) => match mark.parse() {
                Ok(mark) if mark > 0 => vec![(n.at.clone(), Key::Mark(mark, None))],
                _ => {
                    self.notes.add(&n.at, "fwmark", "it is no mark: the virtual server is left out");
                    Vec::new()
                }
            },
            (Some("group"), Some(name)) => match self.groups.get(name) {
                Some(group) => {
                    let group: &Node = group;
                    group.inside().iter().flat_map(|e| self.entry(e)).collect()
                }
                None => {
                    self.notes.add(
                        &n.at,
                        "group",
                        format!("there is no virtual_server_group `{name}`: the virtual server is left out"),
                    );
                    Vec::new()
                }
            },
            (Some(ip), port) => match address(ip, port) {
                Some((ip, port)) => vec![(n.at.clone(), Key::Address(ip, port))],
                None => {
                    self.notes.add(
                        &n.at,
                        "virtual_server",
                        format!("`{}` is no address: the virtual server is left out", n.args.join(" ")),
                    );
                    Vec::new()
                }
            },
            (None, _) => {
                self.notes.add(&n.at, "virtual_server", "it has no address: left out");
                Vec::new()
            }
        }
    }

    /// An entry of a group: `IP [PORT]`, a range of addresses, a network, a mark.
    fn entry(&mut self, e: &Node) -> Vec<(Source, Key)> {
        let one = |key| vec![(e.at.clone(), key)];
        if e.name == "fwmark" {
            let v6 = match e.arg(1) {
                Some("inet6") => Some(true),
                Some("inet") => Some(false),
                _ => None,
            };
            return match e.arg(0).and_then(|m| m.parse().ok()).filter(|m| *m > 0) {
                Some(mark) => one(Key::Mark(mark, v6)),
                None => {
                    self.notes.add(&e.at, "fwmark", "it is no mark: left out");
                    Vec::new()
                }
            };
        }
        let (ip, port) = if e.name == "range" {
            (e.arg(0).unwrap_or_default(), e.arg(1))
        } else {
            (e.name.as_str(), e.arg(0))
        };
        let port = match port.map_or(Some(0), |p| p.parse::<u16>().ok()) {
            Some(port) => port,
            None => {
                self.notes.add(&e.at, ip, "its port is no number: left out");
                return Vec::new();
            }
        };
        match network::range(ip) {
            Some(all) => {
                all.into_iter().take(MAX_SERVICES).map(|ip| (e.at.clone(), Key::Address(ip, port))).collect()
            }
            None => {
                self.notes.add(
                    &e.at,
                    ip,
                    "it is no address, range or network of at most 65536 addresses: left out",
                );
                Vec::new()
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "one keyword after the other")]
    fn service(&mut self, n: &Node, pin: bool) -> Service {
        let mut s = Service { pin, mode: Mode { name: "nat", tunnel: None }, ..Service::default() };
        let mut scheduler_flags: Vec<&str> = Vec::new();
        let (mut timeout, mut granularity, mut engine) = (None, None, None);
        let mut user = None;
        // what servers and checkers inherit may stand behind them
        for inner in n.inside() {
            if s.timing.take(inner, &mut self.notes) {
                continue;
            }
            match inner.name.as_str() {
                "lb_kind" | "lvs_method" => s.mode = self.mode(inner).unwrap_or(s.mode),
                "inhibit_on_failure" => s.inhibit = flag(inner),
                _ => {}
            }
        }
        for inner in n.inside() {
            let arg = inner.arg(0).unwrap_or_default();
            let line = &mut s.lines;
            match inner.name.as_str() {
                "lb_kind" | "lvs_method" | "inhibit_on_failure" | "real_server" => {}
                "delay_loop" | "connect_timeout" | "delay_before_retry" | "warmup" | "retry"
                | "nb_get_retry" | "alpha" | "virtualhost" => {}
                "lb_algo" | "lvs_sched" | "lvs_scheduler" => match arg {
                    known if SCHEDULERS.contains(&known) => {
                        let _ = writeln!(line, "scheduler = {}", quoted(known));
                    }
                    "conhash" => {
                        self.notes.add(
                            &inner.at,
                            "conhash",
                            "a scheduler of DPVS: `mh` is taken, which hashes consistently too",
                        );
                        line.push_str("scheduler = \"mh\"\n");
                    }
                    other => self.notes.add(
                        &inner.at,
                        &inner.name,
                        format!("there is no scheduler `{other}`: `wlc` is taken"),
                    ),
                },
                "sh-port" | "mh-port" | "sh-fallback" | "mh-fallback" | "flag-1" | "flag-2" | "flag-3" => {
                    scheduler_flags.push(&inner.name);
                }
                "ops" => line.push_str("one_packet = true\n"),
                "persistence_timeout" => {
                    timeout = Some(match inner.arg(0) {
                        None => 360,
                        Some(t) => t.parse::<u64>().unwrap_or_else(|_| {
                            self.notes.add(&inner.at, &inner.name, "it is no number: 360 s is taken");
                            360
                        }),
                    });
                }
                "persistence_granularity" => granularity = network::prefix(arg),
                "persistence_engine" if arg == "sip" => engine = Some("sip"),
                "protocol" => s.protocol = Some(arg.to_ascii_lowercase()),
                "ip_family" => s.ipv6 = arg == "inet6",
                "snmp_name" => {
                    let _ = writeln!(line, "name = {}", quoted(arg));
                }
                "quorum" | "hysteresis" => match arg.parse::<u32>() {
                    Ok(v) if v <= i32::MAX as u32 => {
                        let _ = writeln!(line, "{} = {v}", inner.name);
                    }
                    _ => self.notes.add(&inner.at, &inner.name, "it is no number: left out"),
                },
                "omega" if flag(inner) => line.push_str("down_at_stop = true\n"),
                "omega" => {}
                "quorum_up" | "quorum_down" => {
                    let key = if inner.name == "quorum_up" { "up_command" } else { "down_command" };
                    user = self.program(inner, key, &mut s.lines).or(user);
                }
                "sorry_server" => match address(arg, inner.arg(1)) {
                    Some(at) => s.sorry = Some(at),
                    None => self.notes.add(&inner.at, "sorry_server", "it is no address: left out"),
                },
                "sorry_server_inhibit" if flag(inner) => line.push_str("sorry_inhibit = true\n"),
                "sorry_server_inhibit" => {}
                "sorry_server_lvs_method" => {
                    if let Some(mode) = self.mode(inner) {
                        let _ = writeln!(s.lines, "sorry_mode = \"{}\"", mode.name);
                    }
                }
                "laddr_group_name" => self.local_group(inner),
                "ha_suspend" => self.notes.add(
                    &inner.at,
                    "ha_suspend",
                    "softlvs has no VRRP whose address could be missing: left out",
                ),
                "smtp_alert" | "no_smtp_alert" => {
                    self.notes.add(
                        &inner.at,
                        &inner.name,
                        "softlvs sends no mail; up_command and down_command can: left out",
                    );
                }
                "hashed" => {
                    self.notes.add(&inner.at, "hashed", "services are always found by hash: nothing to do")
                }
                name => self.notes.add(&inner.at, name, "no counterpart in a virtual_server: left out"),
            }
        }
        if let Some(who) = user {
            let _ = writeln!(s.lines, "command_user = {}", quoted(&who));
        }
        if !scheduler_flags.is_empty() {
            let _ = writeln!(s.lines, "scheduler_flags = {}", list(&scheduler_flags));
        }
        if s.inhibit {
            s.lines.push_str("on_failure = \"inhibit\"\n");
        }
        if let Some(t) = timeout.filter(|t| *t > 0) {
            let mut parts = vec![format!("timeout = \"{}s\"", t.min(31_535_999))];
            parts.extend(granularity.map(|g| format!("netmask = {g}")));
            parts.extend(engine.map(|e| format!("engine = \"{e}\"")));
            let _ = writeln!(s.lines, "persistence = {{ {} }}", parts.join(", "));
            s.persistent = true;
        }
        for inner in n.inside().iter().filter(|i| i.name == "real_server") {
            match address(inner.arg(0).unwrap_or_default(), inner.arg(1)) {
                Some((ip, port)) => {
                    let real = self.real(inner, ip, port, &s);
                    match s.reals.iter().any(|r| (r.ip, r.port) == (ip, port)) {
                        true => self.notes.add(&inner.at, "real_server", "it is there already: left out"),
                        false => s.reals.push(real),
                    }
                }
                None => self.notes.add(&inner.at, "real_server", "it has no address: left out"),
            }
        }
        s
    }

    fn mode(&mut self, n: &Node) -> Option<Mode> {
        let name = match n.arg(0).unwrap_or_default() {
            "NAT" => "nat",
            "DR" => "dr",
            "TUN" => "tun",
            "FNAT" => "fullnat",
            other => {
                self.notes.add(&n.at, &n.name, format!("there is no method `{other}`: NAT is taken"));
                return None;
            }
        };
        let mut tunnel = Vec::new();
        let mut words = n.args.iter().skip(1).map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "type" => match words.next() {
                    Some(kind @ ("ipip" | "gre" | "gue")) => tunnel.push(format!("type = \"{kind}\"")),
                    other => self.notes.add(
                        &n.at,
                        "type",
                        format!("there is no tunnel `{}`: ipip is taken", other.unwrap_or_default()),
                    ),
                },
                "port" => match words.next().and_then(|p| p.parse::<u16>().ok()) {
                    Some(port) => tunnel.push(format!("port = {port}")),
                    None => self.notes.add(&n.at, "port", "it is no port: left out"),
                },
                "nocsum" => tunnel.push("checksum = \"none\"".to_owned()),
                kind @ ("csum" | "remcsum") => tunnel.push(format!("checksum = \"{kind}\"")),
                other => self.notes.add(&n.at, other, "not known here: left out"),
            }
        }
        Some(Mode { name, tunnel: (!tunnel.is_empty()).then(|| format!("{{ {} }}", tunnel.join(", "))) })
    }

    /// A program; gives the user it is to run as.
    fn program(&mut self, n: &Node, key: &str, lines: &mut String) -> Option<String> {
        let mut argv = command(n);
        let mut user = None;
        // a script in quotes may be followed by its user and group
        if n.args.len() > 1 && n.args[0].contains(char::is_whitespace) {
            argv = command(&Node { args: vec![n.args[0].clone()], ..n.clone() });
            user = Some(n.args[1..].join(":"));
        }
        if argv.is_empty() {
            self.notes.add(&n.at, &n.name, "it names no program: left out");
            return None;
        }
        if user.is_none() {
            self.notes.add(&n.at, &n.name, "it runs as `nobody`: say command_user for somebody else");
        }
        let _ = writeln!(lines, "{key} = {}", list(&argv));
        user
    }

    fn local_group(&mut self, n: &Node) {
        let name = n.arg(0).unwrap_or_default();
        let Some(group) = self.local_groups.get(name) else {
            return self.notes.add(
                &n.at,
                "laddr_group_name",
                format!("there is no local_address_group `{name}`: left out"),
            );
        };
        for e in group.inside() {
            match network::range(&e.name) {
                Some(all) => {
                    let (first, last) = (all.first(), all.last());
                    if let (Some(a), Some(b)) = (first, last) {
                        self.local.insert(if a == b { a.to_string() } else { format!("{a}-{b}") });
                    }
                    if e.arg(0).is_some() {
                        self.notes.add(
                            &e.at,
                            &e.name,
                            "local addresses are used on every port, not on one device",
                        );
                    }
                }
                None => self.notes.add(&e.at, &e.name, "it is no address: left out"),
            }
        }
    }

    fn real(&mut self, n: &Node, ip: IpAddr, port: u16, s: &Service) -> Real {
        let mut timing = Timing::default();
        let mut real = Real {
            ip,
            port,
            lines: String::new(),
            mode: s.mode.clone(),
            checks: Vec::new(),
            at: n.at.clone(),
        };
        let rest: Vec<&Node> = n.inside().iter().filter(|i| !timing.take(i, &mut self.notes)).collect();
        let timing = s.timing.with(&timing);
        let own = |word: &str| matches!(word, "lb_kind" | "lvs_method");
        let method = rest.iter().find(|i| own(&i.name)).and_then(|i| i.arg(0));
        let by_host = method.map_or(!maps(s.mode.name), |m| matches!(m, "DR" | "TUN"));
        let asked = Some(port).filter(|p| s.pin && *p != 0);
        for inner in rest {
            let arg = inner.arg(0).unwrap_or_default();
            match inner.name.as_str() {
                "weight" => match arg.parse::<u32>() {
                    Ok(w) if w <= i32::MAX as u32 => {
                        let _ = writeln!(real.lines, "weight = {w}");
                    }
                    _ => self.notes.add(&inner.at, "weight", "it is no weight: 1 is taken"),
                },
                "lb_kind" | "lvs_method" => {
                    if let Some(mode) = self.mode(inner) {
                        let _ = writeln!(real.lines, "mode = \"{}\"", mode.name);
                        real.mode = mode;
                    }
                }
                "uthreshold" | "lthreshold" => match arg.parse::<u32>() {
                    Ok(v) => {
                        let key =
                            if inner.name == "uthreshold" { "upper_threshold" } else { "lower_threshold" };
                        let _ = writeln!(real.lines, "{key} = {v}");
                    }
                    Err(_) => self.notes.add(&inner.at, &inner.name, "it is no number: left out"),
                },
                "inhibit_on_failure" => {
                    let how = if flag(inner) { "inhibit" } else { "remove" };
                    let _ = writeln!(real.lines, "on_failure = \"{how}\"");
                }
                "notify_up" | "notify_down" => {
                    let key = if inner.name == "notify_up" { "up_command" } else { "down_command" };
                    let user = self.program(inner, key, &mut real.lines);
                    if user.is_some() {
                        self.notes.add(
                            &inner.at,
                            &inner.name,
                            "programs of servers run as the service's command_user",
                        );
                    }
                }
                "snmp_name" => {
                    let _ = writeln!(real.lines, "name = {}", quoted(arg));
                }
                "smtp_alert" | "no_smtp_alert" => {
                    self.notes.add(
                        &inner.at,
                        &inner.name,
                        "softlvs sends no mail; up_command and down_command can: left out",
                    );
                }
                name if CHECKERS.contains(&name) => {
                    for text in checker::lower(inner, &timing, asked, by_host, &self.world, &mut self.notes) {
                        let name = self.check(name, text);
                        real.checks.push(name);
                    }
                }
                "BFD_CHECK" => self.notes.add(&inner.at, "BFD_CHECK", "softlvs does not speak BFD: left out"),
                name => self.notes.add(&inner.at, name, "no counterpart in a real_server: left out"),
            }
        }
        real
    }

    /// The name of a check with these lines; one check serves all who ask for the same.
    fn check(&mut self, kind: &str, text: String) -> String {
        if let Some(name) = self.checks.get(&text) {
            return name.clone();
        }
        let kind = kind.trim_end_matches("_CHECK").trim_end_matches("_GET").to_ascii_lowercase();
        let name = format!("{kind}-{}", self.checks.len() + 1);
        let _ = write!(self.check_text, "\n[[check]]\nname = {}\n{text}", quoted(&name));
        self.checks.insert(text, name.clone());
        name
    }
}

pub(super) fn maps(mode: &str) -> bool {
    matches!(mode, "nat" | "fullnat")
}

/// `IP [PORT]`
fn address(ip: &str, port: Option<&str>) -> Option<(IpAddr, u16)> {
    let port = match port {
        None => 0,
        Some(p) => p.parse().ok()?,
    };
    Some((ip.parse().ok()?, port))
}
