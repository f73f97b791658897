//! What the command line means: the file and the options together, checked by the rules of the file.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::args::RunArgs;
use super::error::Failure;
use crate::addr::Cidr;
use crate::config::diag::{At, Complaint, Place, Report, nearest};
use crate::config::doc::{self, Device, Doc, Mode, PortDoc, RealDoc, ServiceDoc};
use crate::config::{Plan, check, keys, values};
use crate::io::MacChoice;
use crate::svc::{Proto, SchedulerKind};

/// Read when it is there and no port was given on the command line.
pub const DEFAULT_FILE: &str = "/etc/softlvs/softlvs.toml";

/// What to run.
#[derive(Debug)]
pub struct Meaning {
    /// The configuration.
    pub plan: Plan,
    /// The file it comes from, if any.
    pub file: Option<PathBuf>,
    /// What to log.
    pub log: tracing::level_filters::LevelFilter,
}

/// Finds out what the options mean. Reads the configuration file, touches nothing else.
///
/// # Errors
/// Everything that is wrong with file and options (exit 2), or that the file cannot be read (exit 1).
pub fn mean(args: &RunArgs) -> Result<Meaning, Failure> {
    let has_port = [&args.tap, &args.tun, &args.packet, &args.xdp, &args.port].iter().any(|p| !p.is_empty());
    let default = Path::new(DEFAULT_FILE);
    if let Some(path) = args.keepalived.as_ref() {
        let imported = super::import::read(path, args.config_id.as_deref())?;
        return resolve(args, Some(path.clone()), imported.text);
    }
    let file = match &args.config {
        Some(path) if !path.as_os_str().is_empty() => Some(path.clone()),
        _ => (!has_port && default.exists()).then(|| default.to_owned()),
    };
    let text = file.as_deref().map(read_file).transpose()?.unwrap_or_default();
    resolve(args, file, text)
}

fn resolve(args: &RunArgs, file: Option<PathBuf>, text: String) -> Result<Meaning, Failure> {
    let name = file.as_ref().map(|f| f.display().to_string()).unwrap_or_default();
    let log = args.log.parse().map_err(|_| {
        Failure::wrong(
            "--log",
            format!("`{}` is not a level", args.log),
            "known are: error, warn, info, debug, trace",
        )
    })?;
    let mut report = Report::default();
    let mut doc = doc::read(&text, &mut report);
    overlay(args, &mut doc, &mut report);
    let plan = check::finish(&doc, report, &name, &text).map_err(|all| Failure::config(&all))?;
    Ok(Meaning { plan, file, log })
}

/// The text of a file.
///
/// # Errors
/// It cannot be read, or is not text.
pub fn read_file(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| {
        let help = match e.kind() {
            std::io::ErrorKind::NotFound => {
                "check the path; without a file give --tap, --tun, --packet or --port"
            }
            std::io::ErrorKind::InvalidData => "the file must be text in UTF-8",
            _ => "",
        };
        Failure::run(format!("cannot read {}", path.display()), e.to_string(), help)
    })
}

/// Puts the options over the document of the file.
pub fn overlay(args: &RunArgs, doc: &mut Doc, r: &mut Report) {
    director(args, doc, r);
    ports(args, doc, r);
    services(args, doc, r);
    if let Some(port) = the_port(doc, args) {
        let taken = taken(doc, &doc.ports[port]);
        own_addresses(&mut doc.ports[port], &taken, r);
        if doc.ports.len() == 1 {
            host_gateway(&mut doc.ports[port]);
        }
    }
}

fn at<T>(
    option: &str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, Complaint>,
    r: &mut Report,
) -> Option<At<T>> {
    let place = Place::option(option);
    match parse(text) {
        Ok(value) => Some(At::new(value, place)),
        Err(c) => {
            r.error(&place, c.why, c.help);
            None
        }
    }
}

fn choice<T: Copy>(words: &[(&str, T)]) -> impl Fn(&str) -> Result<T, Complaint> {
    move |s| {
        let names = || words.iter().map(|(n, _)| *n);
        words.iter().find(|(n, _)| *n == s).map(|(_, v)| *v).ok_or_else(|| {
            let list = names().collect::<Vec<_>>().join(", ");
            let help = match nearest(s, names()) {
                Some(meant) => format!("did you mean `{meant}`? Known are: {list}"),
                None => format!("known are: {list}"),
            };
            Complaint::new(format!("`{s}` is not known here"), help)
        })
    }
}

fn number(low: u32, high: u32) -> impl Fn(&str) -> Result<u32, Complaint> {
    move |s| {
        s.parse().ok().filter(|n| (low..=high).contains(n)).ok_or_else(|| {
            Complaint::new(format!("`{s}` is out of range"), format!("a whole number from {low} to {high}"))
        })
    }
}

fn director(args: &RunArgs, doc: &mut Doc, r: &mut Report) {
    let d = &mut doc.director;
    if let Some(mode) = &args.mode {
        d.mode = at("--mode", mode, choice(&Mode::ALL), r);
    }
    if let Some(workers) = &args.workers {
        let parse = |s: &str| if s == "auto" { Ok(None) } else { number(1, 64)(s).map(Some) };
        d.workers = at("--workers", workers, parse, r);
    }
    if let Some(path) = args.control.as_ref().filter(|p| !p.is_empty()) {
        d.control = Some(At::new(path.clone(), Place::option("--control")));
    }
    if let Some(folder) = args.proc.as_ref().filter(|p| !p.is_empty()) {
        d.proc = Some(At::new(folder.clone(), Place::option("--proc")));
    }
    if let Some(address) = &args.http {
        d.http = at("--http", address, values::socket, r);
    }
}

fn ports(args: &RunArgs, doc: &mut Doc, r: &mut Report) {
    type Kind<'a> = (&'a str, &'a [String], fn(String) -> Device);
    let kinds: [Kind<'_>; 5] = [
        ("--tap", &args.tap, Device::Tap),
        ("--tun", &args.tun, Device::Tun),
        ("--packet", &args.packet, Device::Packet),
        ("--xdp", &args.xdp, Device::Xdp),
        ("--port", &args.port, Device::Auto),
    ];
    for (option, names, make) in kinds {
        for name in names {
            if let Some(name) = at(option, name, values::interface, r) {
                let device = At::new(make(name.value), name.place.clone());
                doc.ports.push(PortDoc { place: name.place, device: Some(device), ..PortDoc::default() });
            }
        }
    }
    let about_one: Vec<&str> = [
        ("--address", !args.address.is_empty()),
        ("--gateway", !args.gateway.is_empty()),
        ("--mac", args.mac.is_some()),
        ("--mtu", args.mtu.is_some()),
        ("--guard", args.guard),
        ("--host-address", !args.host_address.is_empty()),
    ]
    .into_iter()
    .filter_map(|(option, given)| given.then_some(option))
    .collect();
    let Some(index) = the_port(doc, args) else {
        for option in about_one.iter().filter(|_| doc.ports.len() > 1) {
            r.error(
                &Place::option(*option),
                format!("it does not say for which of the {} ports", doc.ports.len()),
                "with several ports write a file with a [[port]] for each (`softlvs --config FILE`)",
            );
        }
        return;
    };
    let port = &mut doc.ports[index];
    if !args.address.is_empty() {
        port.addresses = args.address.iter().filter_map(|a| at("--address", a, values::cidr, r)).collect();
        port.has_addresses = true;
    }
    for gateway in args.gateway.iter().filter_map(|g| at("--gateway", g, values::ip, r)) {
        match gateway.value {
            IpAddr::V4(a) => port.gateway = Some(At::new(a, gateway.place)),
            IpAddr::V6(a) => port.gateway6 = Some(At::new(a, gateway.place)),
        }
    }
    if let Some(mac) = &args.mac {
        let parse = |s: &str| match s {
            "inherit" => Ok(MacChoice::Inherit),
            _ => values::mac(s).map(MacChoice::Own),
        };
        port.mac = at("--mac", mac, parse, r);
    }
    if let Some(mtu) = &args.mtu {
        port.mtu = at("--mtu", mtu, number(68, 65535), r);
    }
    if args.guard {
        port.guard = Some(At::new(true, Place::option("--guard")));
    }
    port.host_addresses =
        args.host_address.iter().filter_map(|a| at("--host-address", a, values::cidr, r)).collect();
}

/// The one port that options such as `--address` are about: the only one of the command line, else the
/// only one of the file.
fn the_port(doc: &Doc, args: &RunArgs) -> Option<usize> {
    let given: usize =
        [&args.tap, &args.tun, &args.packet, &args.xdp, &args.port].iter().map(|p| p.len()).sum();
    match (given, doc.ports.len()) {
        (0, 1) => Some(0),
        (1, n) if doc.ports.last().is_some_and(|p| p.place.span.is_none()) => Some(n - 1),
        _ => None,
    }
}

fn services(args: &RunArgs, doc: &mut Doc, r: &mut Report) {
    if args.vip.is_empty() {
        let needs = [("--real", !args.real.is_empty()), ("--scheduler", args.scheduler.is_some())];
        for (option, _) in needs.iter().filter(|(_, given)| *given) {
            r.error(&Place::option(*option), "there is no service it could belong to", "add --vip ADDR:PORT");
        }
    }
    let known: Vec<(&str, SchedulerKind)> =
        keys::SCHEDULERS.iter().filter_map(|n| Some((*n, n.parse().ok()?))).collect();
    let scheduler = args.scheduler.as_ref().and_then(|s| at("--scheduler", s, choice(&known), r));
    let reals: Vec<RealDoc> = args.real.iter().filter_map(|text| real(text, r)).collect();
    for text in &args.vip {
        let (address, proto) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocols = [("tcp", Proto::Tcp), ("udp", Proto::Udp), ("sctp", Proto::Sctp)];
        let proto = at("--vip", proto, choice(&protocols), r);
        let address = at("--vip", address, values::endpoint, r);
        doc.services.push(ServiceDoc {
            place: Place::option("--vip"),
            address,
            has_key: true,
            proto,
            scheduler: scheduler.clone(),
            reals: reals.clone(),
            ..ServiceDoc::default()
        });
    }
}

/// `ADDR[:PORT][,weight=N][,mode=M]`
fn real(text: &str, r: &mut Report) -> Option<RealDoc> {
    const OPTION: &str = "--real";
    let mut parts = text.split(',');
    let address = at(OPTION, parts.next().unwrap_or_default(), values::endpoint_or_ip, r)?;
    let mut out = RealDoc {
        place: Place::option(OPTION),
        address: Some(address),
        has_address: true,
        ..RealDoc::default()
    };
    for part in parts {
        match part.split_once('=') {
            Some(("weight", n)) => out.weight = at(OPTION, n, number(0, i32::MAX as u32), r),
            Some(("mode", m)) => out.mode = at(OPTION, m, choice(&Mode::ALL), r),
            _ => r.error(
                &Place::option(OPTION),
                format!("`{part}` is not known here"),
                "after the address come ,weight=N and ,mode=M, for example 10.0.0.11:8080,weight=2",
            ),
        }
    }
    Some(out)
}

/// Addresses that are somebody's already.
fn taken(doc: &Doc, port: &PortDoc) -> HashSet<IpAddr> {
    let vips = doc.services.iter().filter_map(|s| s.address.as_ref()).map(|a| a.value.0);
    let reals =
        doc.services.iter().flat_map(|s| &s.reals).filter_map(|d| d.address.as_ref()).map(|a| a.value.0);
    let gateway4 = port.gateway.iter().map(|g| IpAddr::V4(g.value));
    let gateway6 = port.gateway6.iter().map(|g| IpAddr::V6(g.value));
    let hosts = port.host_addresses.iter().map(|h| h.value.addr);
    vips.chain(reals).chain(gateway4).chain(gateway6).chain(hosts).collect()
}

/// A port that has only the kernel's address takes the next free one of the same network for itself.
fn own_addresses(port: &mut PortDoc, taken: &HashSet<IpAddr>, r: &mut Report) {
    if port.has_addresses {
        return;
    }
    for host in port.host_addresses.clone() {
        match next_free(host.value, taken) {
            Some(own) => port.addresses.push(At::new(own, Place::option("--host-address"))),
            None => r.error(
                &host.place,
                format!("the network of {} has no free address for the director", host.value),
                "give a larger network, or say the director's address with --address",
            ),
        }
    }
}

/// With a host behind its only port, the director's way to everybody else is that host: without a gateway
/// clients that the host routes here would get no answer.
fn host_gateway(port: &mut PortDoc) {
    for host in &port.host_addresses {
        match host.value.addr {
            IpAddr::V4(a) if port.gateway.is_none() => {
                port.gateway = Some(At::new(a, host.place.clone()));
            }
            IpAddr::V6(a) if port.gateway6.is_none() => {
                port.gateway6 = Some(At::new(a, host.place.clone()));
            }
            _ => {}
        }
    }
}

/// How far a free address is looked for.
const TRIES: u128 = 4096;

/// The first address after that of `host`, in its network and nobody's; round to the network's beginning.
fn next_free(host: Cidr, taken: &HashSet<IpAddr>) -> Option<Cidr> {
    let bits = if host.addr.is_ipv4() { 32 } else { 128 };
    let free = u32::from(bits - host.len);
    let size = 1u128.checked_shl(free).unwrap_or(u128::MAX);
    let network = values::number(host.network());
    let start = values::number(host.addr) - network;
    (1..size.min(TRIES)).find_map(|step| {
        // Both are below `size`, which is at most 2^128 - 1.
        let offset = start.checked_add(step).map_or(0, |n| n % size);
        let number = network + offset;
        let addr = match host.addr {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(number).ok()?.into()),
            IpAddr::V6(_) => IpAddr::V6(number.into()),
        };
        let own = Cidr { addr, len: host.len };
        let edge = free > 1 && offset == 0 || own.broadcast4().map(IpAddr::V4) == Some(addr);
        (!edge && !taken.contains(&addr)).then_some(own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, Vec<String>> {
        use crate::cli::args::Cli;
        use clap::Parser as _;
        let args =
            Cli::try_parse_from(std::iter::once("softlvs").chain(line.split_whitespace())).unwrap().run;
        let mut report = Report::default();
        let mut doc = Doc::default();
        overlay(&args, &mut doc, &mut report);
        check::finish(&doc, report, "", "").map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    fn refused(line: &str) -> String {
        plan(line).unwrap_err().join("\n")
    }

    #[test]
    fn a_port_alone_starts_and_waits() {
        let plan = plan("--tap tap0 --mode tun").unwrap();
        assert_eq!((plan.ports.len(), plan.services.len()), (1, 0));
        assert!(plan.warnings[0].why.contains("no address"));
    }

    #[test]
    fn the_director_takes_the_next_free_address_of_the_kernels_network() {
        let own = |line: &str| {
            plan(line).unwrap().ports[0].addresses.iter().map(Cidr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(own("--tap t --host-address 10.9.0.1/24"), ["10.9.0.2/24"]);
        assert_eq!(
            own("--tap t --host-address 10.9.0.1/24 --vip 10.9.0.2:80 --real 10.9.0.3:80"),
            ["10.9.0.4/24"]
        );
        assert_eq!(own("--tap t --host-address 10.9.0.254/24"), ["10.9.0.1/24"]);
        assert_eq!(own("--tun t --host-address 10.9.0.0/31"), ["10.9.0.1/31"]);
        assert_eq!(own("--tap t --host-address fd00::ffff/64"), ["fd00::1:0/64"]);
        assert_eq!(
            own("--tap t --host-address 10.9.0.1/24 --host-address fd00::1/64"),
            ["10.9.0.2/24", "fd00::2/64"]
        );
        assert_eq!(own("--tap t --host-address 10.9.0.1/24 --address 10.9.0.77/24"), ["10.9.0.77/24"]);
        assert!(refused("--tap t --host-address 10.9.0.1/32").contains("no free address"));
        assert!(next_free("fe80::1/0".parse().unwrap(), &HashSet::new()).is_some());
        assert!(next_free("255.255.255.255/0".parse().unwrap(), &HashSet::new()).is_some());
    }

    #[test]
    fn the_host_is_the_way_to_everybody_else_unless_a_gateway_is_given() {
        let gateway = |line: &str| plan(line).unwrap().ports[0].gateway.map(|g| g.to_string());
        assert_eq!(gateway("--tap t --host-address 10.9.0.1/24").as_deref(), Some("10.9.0.1"));
        assert_eq!(
            gateway("--tap t --host-address 10.9.0.1/24 --gateway 10.9.0.7").as_deref(),
            Some("10.9.0.7")
        );
        assert_eq!(gateway("--tap t --address 10.9.0.2/24"), None);
    }

    #[test]
    fn a_service_on_the_command_line() {
        let plan = plan(
            "--packet eth0 --address 10.0.0.2/24 --vip 10.0.0.10:80 --vip 10.0.0.10:53/udp \
             --real 10.0.0.11,weight=3 --real 10.0.0.12,mode=dr --scheduler rr",
        )
        .unwrap();
        assert_eq!(plan.services.len(), 2);
        let (service, servers) = &plan.services[1];
        assert_eq!(service.scheduler, SchedulerKind::Rr);
        assert_eq!((servers[0].weight, servers[0].port, servers[1].forward.name()), (3, 53, "dr"));
    }

    #[test]
    fn options_are_refused_by_the_rules_of_the_file() {
        for (line, text) in [
            ("", "error: there is no port"),
            ("--tap t --vip 10.0.0.1:80", "error: --tap: the port has no address"),
            ("--tap t --real 10.0.0.1", "error: --real: there is no service"),
            ("--tap t --scheduler rr", "error: --scheduler: there is no service"),
            ("--tap t --vip 10.0.0.1", "error: --vip: `10.0.0.1` has no port"),
            ("--tap t --vip 10.0.0.1:80/icmp", "error: --vip: `icmp` is not known here"),
            (
                "--tap t --address 10.0.0.2/24 --vip 10.0.0.1:80 --real 10.9.0.1",
                "error: --real: no route leads to 10.9.0.1",
            ),
            (
                "--tap t --address 10.0.0.2/24 --vip 10.0.0.1:80 --real 10.0.0.3,wait=1",
                "error: --real: `wait=1`",
            ),
            ("--tap t --mode natt", "did you mean `nat`?"),
            (
                "--tap t --tap u --address 10.0.0.2/24",
                "error: --address: it does not say for which of the 2 ports",
            ),
            ("--tap t --mtu 12", "error: --mtu: `12` is out of range"),
            ("--tap a/b", "error: --tap: `a/b` cannot be the name"),
            (
                "--packet e --host-address 10.0.0.1/24",
                "error: --host-address: `e` is an interface of the kernel",
            ),
            (
                "--tun t --address 10.0.0.2/24 --mode dr --vip 10.0.0.1:80 --real 10.0.0.3",
                "a TUN device has no MAC",
            ),
            ("--tap t --gateway 10.0.0.1", "error: --gateway: 10.0.0.1 is on no network of this port"),
        ] {
            let said = refused(line);
            assert!(said.contains(text), "{line}:\n{said}");
        }
    }
}
