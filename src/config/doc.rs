//! The configuration as written: every value of the right form, with the place where it was said, and
//! nothing yet about whether the values go together (`check` does that).
//!
//! The command line makes the same document (`cli/mean.rs`), so that both are checked by the same rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use toml::de::{DeTable, DeValue};

use super::diag::{At, Complaint, Place, Report, nearest};
use super::doc_health;
use super::keys;
use super::read::{View, integer, parsed};
use super::sysctl;
use super::values;
use crate::addr::{Cidr, Mac};
use crate::host::{AddrRange, Closed};
use crate::io::xdp::XdpMode;
use crate::io::{MacChoice, OffloadMode};
use crate::svc::{PersistenceEngine, Proto, SchedulerKind};
use crate::time::Span;

/// Forwarding method by name, without its tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `nat`, the default.
    #[default]
    Nat,
    /// `fullnat`
    FullNat,
    /// `tun`
    Tun,
    /// `dr`
    Dr,
}

impl Mode {
    /// All of them with their names.
    pub const ALL: [(&'static str, Mode); 4] =
        [("nat", Mode::Nat), ("fullnat", Mode::FullNat), ("tun", Mode::Tun), ("dr", Mode::Dr)];
}

/// What a port attaches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A TAP device, made when it is not there.
    Tap(String),
    /// A TUN device, made when it is not there.
    Tun(String),
    /// An AF_PACKET socket on an existing interface.
    Packet(String),
    /// An AF_XDP socket on an existing interface.
    Xdp(String),
    /// The best of XDP and AF_PACKET that works on an existing interface.
    Auto(String),
}

impl Device {
    /// Name of the interface.
    pub fn name(&self) -> &str {
        match self {
            Device::Tap(n) | Device::Tun(n) | Device::Packet(n) | Device::Xdp(n) | Device::Auto(n) => n,
        }
    }
    /// `tap`, `tun`, `packet`, `xdp`, `device`: the key in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Device::Tap(_) => "tap",
            Device::Tun(_) => "tun",
            Device::Packet(_) => "packet",
            Device::Xdp(_) => "xdp",
            Device::Auto(_) => "device",
        }
    }
    /// True for ports that carry bare IP packets.
    pub fn is_l3(&self) -> bool {
        matches!(self, Device::Tun(_))
    }
    /// True when the device is made when it is not there and the kernel's side of it is ours to set up.
    pub fn is_virtual(&self) -> bool {
        matches!(self, Device::Tap(_) | Device::Tun(_))
    }
}

/// `[director]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct DirectorDoc {
    pub mode: Option<At<Mode>>,
    pub connection_limit: Option<At<u32>>,
    /// `None` inside for `auto`.
    pub workers: Option<At<Option<u32>>>,
    pub linger: Option<At<Span>>,
    pub forwarding: Option<At<bool>>,
    pub ftp: Option<At<bool>>,
    pub closed: Option<At<Closed>>,
    pub local_addresses: Vec<At<AddrRange>>,
    pub control: Option<At<String>>,
    pub proc: Option<At<String>>,
    pub http: Option<At<SocketAddr>>,
    pub http_token_file: Option<At<String>>,
    pub http_certificate_file: Option<At<String>>,
    pub http_key_file: Option<At<String>>,
    pub notify_fifo: Option<At<String>>,
}

/// `[timeouts]`, of the director or of a service.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct TimeoutsDoc {
    pub tcp: Option<At<Span>>,
    pub tcp_fin: Option<At<Span>>,
    pub udp: Option<At<Span>>,
}

/// `[[port]]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct PortDoc {
    pub place: Place,
    pub name: Option<At<String>>,
    pub device: Option<At<Device>>,
    pub mac: Option<At<MacChoice>>,
    pub addresses: Vec<At<Cidr>>,
    /// `addresses` is there, even if what is in it is wrong.
    pub has_addresses: bool,
    pub gateway: Option<At<Ipv4Addr>>,
    pub gateway6: Option<At<Ipv6Addr>>,
    pub mtu: Option<At<u32>>,
    pub queues: Option<At<u32>>,
    pub offload: Option<At<OffloadMode>>,
    pub guard: Option<At<bool>>,
    pub xdp_mode: Option<At<XdpMode>>,
    pub busy_poll: Option<At<u32>>,
    pub neighbors: Vec<(At<IpAddr>, At<Mac>)>,
    /// Addresses for the kernel's side of the device (command line only).
    pub host_addresses: Vec<At<Cidr>>,
}

/// `[[route]]`
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct RouteDoc {
    pub place: Place,
    pub to: At<Cidr>,
    pub via: Option<At<IpAddr>>,
    pub port: Option<At<String>>,
}

/// `[[mark]]`
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct MarkDoc {
    pub place: Place,
    pub mark: At<u32>,
    pub to: Option<At<Cidr>>,
    pub ports: Option<At<(u16, u16)>>,
    pub proto: Option<At<Proto>>,
}

/// `persistence` of a service.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct PersistenceDoc {
    pub place: Place,
    pub timeout: Option<At<Span>>,
    pub netmask: Option<At<u8>>,
    pub engine: Option<At<PersistenceEngine>>,
}

/// `[[service]]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct ServiceDoc {
    pub place: Place,
    pub name: Option<At<String>>,
    pub address: Option<At<(IpAddr, u16)>>,
    pub fwmark: Option<At<u32>>,
    /// An address or mark was said, right or wrong.
    pub has_key: bool,
    /// True for `ipv6`.
    pub family6: Option<At<bool>>,
    pub proto: Option<At<Proto>>,
    pub ports: Vec<At<String>>,
    pub scheduler: Option<At<SchedulerKind>>,
    pub flags: Vec<At<String>>,
    pub persistence: Option<PersistenceDoc>,
    pub mode: Option<At<Mode>>,
    pub one_packet: Option<At<bool>>,
    pub timeouts: TimeoutsDoc,
    pub mss_clamp: Option<At<bool>>,
    pub health: doc_health::ServiceHealthDoc,
    pub reals: Vec<RealDoc>,
}

/// `tunnel` of a real server.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct TunnelDoc {
    pub place: Place,
    pub kind: Option<At<String>>,
    pub port: Option<At<u16>>,
    pub checksum: Option<At<String>>,
}

/// `[[service.real]]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct RealDoc {
    pub place: Place,
    pub name: Option<At<String>>,
    pub address: Option<At<(IpAddr, Option<u16>)>>,
    /// An address was said, right or wrong.
    pub has_address: bool,
    pub weight: Option<At<u32>>,
    pub upper: Option<At<u32>>,
    pub lower: Option<At<u32>>,
    pub mode: Option<At<Mode>>,
    pub tunnel: Option<TunnelDoc>,
    pub health: doc_health::RealHealthDoc,
}

/// The whole file.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Doc {
    pub director: DirectorDoc,
    pub timeouts: TimeoutsDoc,
    pub sysctl: Vec<(&'static str, At<sysctl::Value>)>,
    pub ports: Vec<PortDoc>,
    pub routes: Vec<RouteDoc>,
    pub marks: Vec<MarkDoc>,
    pub services: Vec<ServiceDoc>,
    pub checks: Vec<doc_health::CheckDoc>,
}

/// Reads the text of a file. What is wrong goes into `report`, what is right into the document.
pub fn read(text: &str, report: &mut Report) -> Doc {
    let (tree, broken) = DeTable::parse_recoverable(text);
    if !broken.is_empty() {
        // After a syntax error keys and tables may be taken for others: only the syntax is spoken of.
        for e in broken {
            let place = Place { key: String::new(), span: Some(e.span().unwrap_or(0..0)) };
            report.error(&place, e.message().replace('\n', "; "), "the file must be TOML 1.0");
        }
        return Doc::default();
    }
    let root = View::open(keys::FILE, tree.get_ref(), Place::default(), report);
    let r = report;
    Doc {
        director: root.table("director", r).map(|t| director(&t, r)).unwrap_or_default(),
        timeouts: root.table("timeouts", r).map(|t| timeouts(&t, r)).unwrap_or_default(),
        sysctl: root.entries("sysctl").into_iter().filter_map(|(k, v)| setting(&k, &v, r)).collect(),
        ports: root.tables("port", r).iter().map(|t| port(t, r)).collect(),
        routes: root.tables("route", r).iter().filter_map(|t| route(t, r)).collect(),
        marks: root.tables("mark", r).iter().filter_map(|t| mark(t, r)).collect(),
        services: root.tables("service", r).iter().map(|t| service(t, r)).collect(),
        checks: root.tables("check", r).iter().map(|t| doc_health::check(t, r)).collect(),
    }
}

pub(super) fn word<T: Copy>(words: &[(&str, T)]) -> impl Fn(&str) -> Result<T, Complaint> {
    // Choices are checked by the reader; what it let through is in the list.
    move |s| {
        words.iter().find(|(n, _)| *n == s).map(|(_, v)| *v).ok_or_else(|| Complaint::new("not known", ""))
    }
}

const ENGINES: [(&str, PersistenceEngine); 1] = [("sip", PersistenceEngine::Sip)];
const PROTOCOLS: [(&str, Proto); 3] = [("tcp", Proto::Tcp), ("udp", Proto::Udp), ("sctp", Proto::Sctp)];

const XDP_MODES: [(&str, XdpMode); 3] =
    [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
const OFFLOAD: [(&str, OffloadMode); 3] =
    [("auto", OffloadMode::Auto), ("on", OffloadMode::On), ("off", OffloadMode::Off)];

pub(super) fn number<T: TryFrom<i64>>(v: Option<At<i64>>) -> Option<At<T>> {
    let v = v?;
    Some(At::new(T::try_from(v.value).ok()?, v.place))
}

pub(super) fn plain(s: &str) -> Result<String, Complaint> {
    Ok(s.to_owned())
}

fn director(t: &View<'_>, r: &mut Report) -> DirectorDoc {
    let workers = t.int("workers").map(|n| At::new(u32::try_from(n.value).ok(), n.place));
    DirectorDoc {
        mode: t.text("mode", word(&Mode::ALL), r),
        connection_limit: number(t.int("connection_limit")),
        workers: workers.or_else(|| Some(At::new(None, t.text("workers", plain, r)?.place))),
        linger: t.text("linger", values::linger, r),
        forwarding: t.bool("forwarding"),
        ftp: t.bool("ftp"),
        closed: t.text("closed", word(&[("reject", Closed::Reject), ("drop", Closed::Drop)]), r),
        local_addresses: t.texts("local_addresses", values::range, r),
        control: t.text("control", plain, r),
        proc: t.text("proc", plain, r),
        http: t.text("http", values::socket, r),
        http_token_file: t.text("http_token_file", values::path, r),
        http_certificate_file: t.text("http_certificate_file", values::path, r),
        http_key_file: t.text("http_key_file", values::path, r),
        notify_fifo: t.text("notify_fifo", plain, r),
    }
}

fn timeouts(t: &View<'_>, r: &mut Report) -> TimeoutsDoc {
    TimeoutsDoc {
        tcp: t.text("tcp", values::timeout, r),
        tcp_fin: t.text("tcp_fin", values::timeout, r),
        udp: t.text("udp", values::timeout, r),
    }
}

fn setting(
    key: &At<String>,
    value: &At<&DeValue<'_>>,
    r: &mut Report,
) -> Option<(&'static str, At<sysctl::Value>)> {
    let Some(known) = sysctl::find(&key.value) else {
        let help = match nearest(&key.value, sysctl::ALL.iter().map(|k| k.name)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "known are the names under net.ipv4.vs, such as conn_reuse_mode".to_owned(),
        };
        r.error(&key.place, "unknown setting", help);
        return None;
    };
    let text = match (value.value, integer(value.value)) {
        (DeValue::String(s), _) => s.to_string(),
        (_, Some(n)) => n.to_string(),
        _ => {
            r.error(
                &value.place,
                "expected a whole number",
                format!("for example: {} = {}", known.name, known.default),
            );
            return None;
        }
    };
    match known.parse(&text) {
        Ok(v) => Some((known.name, At::new(v, value.place.clone()))),
        Err(c) => {
            r.error(&value.place, c.why, c.help);
            None
        }
    }
}

fn port(t: &View<'_>, r: &mut Report) -> PortDoc {
    type Kind = (&'static str, fn(String) -> Device);
    const KINDS: [Kind; 5] = [
        ("tap", Device::Tap),
        ("tun", Device::Tun),
        ("packet", Device::Packet),
        ("xdp", Device::Xdp),
        ("device", Device::Auto),
    ];
    let mut device: Option<At<Device>> = None;
    for (key, make) in KINDS {
        if !t.has(key) {
            continue;
        }
        let Some(name) = t.text(key, values::interface, r) else { continue };
        if let Some(first) = &device {
            r.error(
                &name.place,
                format!("the port has a device already (`{}`)", first.value.kind()),
                "a port is one device: begin another [[port]] for the second",
            );
        } else {
            device = Some(At::new(make(name.value), name.place));
        }
    }
    if !KINDS.iter().any(|(k, _)| t.has(k)) {
        r.error(
            &t.place,
            "the port has no device",
            "say one of tap, tun, packet, xdp or device, for example: tap = \"tap0\"",
        );
    }
    let mac_choice = |s: &str| match s {
        "inherit" => Ok(MacChoice::Inherit),
        _ => values::mac(s).map(MacChoice::Own),
    };
    let mut neighbors = Vec::new();
    for (k, v) in t.entries("neighbors") {
        let key = match values::ip(&k.value) {
            Ok(ip) => Some(At::new(ip, k.place)),
            Err(c) => {
                r.error(&k.place, c.why, c.help);
                None
            }
        };
        let mac = parsed(v.value, v.place, values::mac, r);
        neighbors.extend(key.zip(mac));
    }
    PortDoc {
        place: t.place.clone(),
        name: t.text("name", values::name, r),
        device,
        mac: t.text("mac", mac_choice, r),
        addresses: t.texts("addresses", values::cidr, r),
        has_addresses: t.has("addresses"),
        gateway: t.text("gateway", values::ip4, r),
        gateway6: t.text("gateway6", values::ip6, r),
        mtu: number(t.int("mtu")),
        queues: number(t.int("queues")),
        offload: t.text("offload", word(&OFFLOAD), r),
        guard: t.bool("guard"),
        xdp_mode: t.text("xdp_mode", word(&XDP_MODES), r),
        busy_poll: t.text("busy_poll", values::microseconds, r),
        neighbors,
        host_addresses: Vec::new(),
    }
}

pub(super) fn missing(t: &View<'_>, key: &str, example: &str, r: &mut Report) {
    if !t.has(key) {
        r.error(&t.place, format!("`{key}` is missing"), format!("for example: {key} = {example}"));
    }
}

fn route(t: &View<'_>, r: &mut Report) -> Option<RouteDoc> {
    missing(t, "to", "\"10.2.0.0/16\"", r);
    let via = t.text("via", values::ip, r);
    let port = t.text("port", values::name, r);
    if let (Some(_), Some(port)) = (&via, &port) {
        r.error(
            &port.place,
            "a route has `via` or `port`, not both",
            "leave out `port`: the router is found by itself",
        );
    }
    if !t.has("via") && !t.has("port") {
        r.error(&t.place, "`via` is missing", "for example: via = \"10.0.0.254\"");
    }
    Some(RouteDoc { place: t.place.clone(), to: t.text("to", values::cidr, r)?, via, port })
}

fn mark(t: &View<'_>, r: &mut Report) -> Option<MarkDoc> {
    missing(t, "mark", "7", r);
    if !["to", "ports", "protocol"].iter().any(|k| t.has(k)) {
        r.error(
            &t.place,
            "the rule would mark every packet",
            "say which: to, ports, protocol or several of them",
        );
    }
    let to = t.text("to", values::cidr_or_ip, r);
    let ports = t.text("ports", values::ports, r);
    let proto = t.text("protocol", word(&PROTOCOLS), r);
    Some(MarkDoc { place: t.place.clone(), mark: number(t.int("mark"))?, to, ports, proto })
}

fn service(t: &View<'_>, r: &mut Report) -> ServiceDoc {
    let persistence = t.table("persistence", r).map(|p| PersistenceDoc {
        place: p.place.clone(),
        timeout: p.text("timeout", values::timeout, r),
        netmask: number(p.int("netmask")),
        engine: p.text("engine", word(&ENGINES), r),
    });
    let scheduler = |s: &str| s.parse::<SchedulerKind>().map_err(|()| Complaint::new("not known", ""));
    ServiceDoc {
        place: t.place.clone(),
        name: t.text("name", values::name, r),
        address: t.text("address", values::endpoint, r),
        fwmark: number(t.int("fwmark")),
        has_key: t.has("address") || t.has("fwmark"),
        family6: t.text("family", word(&[("ipv4", false), ("ipv6", true)]), r),
        proto: t.text("protocol", word(&PROTOCOLS), r),
        ports: t.texts("ports", values::name, r),
        scheduler: t.text("scheduler", scheduler, r),
        flags: t.texts("scheduler_flags", plain, r),
        persistence,
        mode: t.text("mode", word(&Mode::ALL), r),
        one_packet: t.bool("one_packet"),
        timeouts: t.table("timeouts", r).map(|t| timeouts(&t, r)).unwrap_or_default(),
        mss_clamp: t.bool("mss_clamp"),
        health: doc_health::service(t, r),
        reals: t.tables("real", r).iter().map(|t| real(t, r)).collect(),
    }
}

fn real(t: &View<'_>, r: &mut Report) -> RealDoc {
    let tunnel = t.table("tunnel", r).map(|u| TunnelDoc {
        place: u.place.clone(),
        kind: u.text("type", plain, r),
        port: number(u.int("port")),
        checksum: u.text("checksum", plain, r),
    });
    missing(t, "address", "\"10.0.0.11:8080\"", r);
    RealDoc {
        place: t.place.clone(),
        name: t.text("name", values::name, r),
        address: t.text("address", values::endpoint_or_ip, r),
        has_address: t.has("address"),
        weight: number(t.int("weight")),
        upper: number(t.int("upper_threshold")),
        lower: number(t.int("lower_threshold")),
        mode: t.text("mode", word(&Mode::ALL), r),
        tunnel,
        health: doc_health::real(t, r),
    }
}
