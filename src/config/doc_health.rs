//! Health as written: checks, and what services and real servers say about them.

use std::net::IpAddr;

use super::diag::{At, Complaint, Place, Report};
use super::doc::{Mode, missing, number, plain, word};
use super::read::View;
use super::values;
use crate::health::spec::HttpVersion;
use crate::health::{OnFailure, PanicUse, Start, Via};
use crate::time::Span;

/// Types of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Type {
    Tcp,
    Http,
    Https,
    Dns,
    Udp,
    Ping,
    Smtp,
    Exec,
    File,
}

impl Type {
    /// All of them with their names.
    pub const ALL: [(&'static str, Type); 9] = [
        ("tcp", Type::Tcp),
        ("http", Type::Http),
        ("https", Type::Https),
        ("dns", Type::Dns),
        ("udp", Type::Udp),
        ("ping", Type::Ping),
        ("smtp", Type::Smtp),
        ("exec", Type::Exec),
        ("file", Type::File),
    ];
}

/// `[[check]]` or `[[check.request]]`: one request.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct RequestDoc {
    pub path: Option<At<String>>,
    pub host: Option<At<String>>,
    pub status: Vec<At<(u16, u16)>>,
    pub body: Option<At<String>>,
    pub not_body: Option<At<String>>,
    pub digest: Option<At<String>>,
}

/// `[[check]]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct CheckDoc {
    pub place: Place,
    pub name: Option<At<String>>,
    pub kind: Option<At<Type>>,
    pub interval: Option<At<Span>>,
    pub timeout: Option<At<Span>>,
    pub rise: Option<At<u32>>,
    pub fall: Option<At<u32>>,
    pub retry_delay: Option<At<Span>>,
    pub warmup: Option<At<Span>>,
    pub jitter: Option<At<u32>>,
    pub start: Option<At<Start>>,
    pub dampening: Option<At<bool>>,
    pub via: Option<At<Via>>,
    pub address: Option<At<IpAddr>>,
    pub port: Option<At<u16>>,
    pub bind: Option<At<IpAddr>>,
    pub request: RequestDoc,
    pub requests: Vec<RequestDoc>,
    pub version: Option<At<HttpVersion>>,
    pub sni: Option<At<String>>,
    pub ca: Option<At<String>>,
    pub query: Option<At<String>>,
    pub record: Option<At<u16>>,
    pub payload: Option<At<Vec<u8>>>,
    pub reply: Option<At<Vec<Option<u8>>>>,
    pub require_reply: Option<At<bool>>,
    pub min_reply: Option<At<u32>>,
    pub max_reply: Option<At<u32>>,
    pub helo: Option<At<String>>,
    pub command: Vec<At<String>>,
    pub user: Option<At<String>>,
    pub dynamic: Option<At<bool>>,
    pub file: Option<At<String>>,
    pub factor: Option<At<i32>>,
    /// Keys that are there, with their places: those of another type are refused.
    pub said: Vec<At<&'static str>>,
}

/// What a service says about health.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct ServiceHealthDoc {
    pub checks: Vec<At<String>>,
    pub quorum: Option<At<u32>>,
    pub hysteresis: Option<At<u32>>,
    pub sorry: Option<At<(IpAddr, Option<u16>)>>,
    pub sorry_mode: Option<At<Mode>>,
    pub sorry_inhibit: Option<At<bool>>,
    pub on_failure: Option<At<OnFailure>>,
    pub slow_start: Option<At<Span>>,
    pub panic_below: Option<At<u32>>,
    pub panic_use: Option<At<PanicUse>>,
    pub passive: Option<PassiveDoc>,
    pub up_command: Vec<At<String>>,
    pub down_command: Vec<At<String>>,
    pub command_user: Option<At<String>>,
    pub down_at_stop: Option<At<bool>>,
    pub announce: Option<At<String>>,
}

/// `passive` of a service.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct PassiveDoc {
    pub failures: Option<At<u32>>,
    pub window: Option<At<Span>>,
    pub hold: Option<At<Span>>,
}

/// States of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StateWord {
    Up,
    Drain,
    Maintenance,
}

/// What a real server says about health.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct RealHealthDoc {
    pub checks: Vec<At<String>>,
    /// The key is there: an empty list means "none".
    pub has_checks: bool,
    pub state: Option<At<StateWord>>,
    pub deadline: Option<At<Span>>,
    pub on_failure: Option<At<OnFailure>>,
    pub up_command: Vec<At<String>>,
    pub down_command: Vec<At<String>>,
}

const ON_FAILURE: [(&str, OnFailure); 2] = [("remove", OnFailure::Remove), ("inhibit", OnFailure::Inhibit)];
/// Versions of HTTP.
pub const VERSIONS: [(&str, HttpVersion); 3] =
    [("1.0", HttpVersion::V10), ("1.0C", HttpVersion::V10Close), ("1.1", HttpVersion::V11)];
const STARTS: [(&str, Start); 3] = [("up", Start::Up), ("down", Start::Down), ("first", Start::First)];
/// Ways of a check.
pub const VIAS: [(&str, Via); 4] =
    [("host", Via::Host), ("real", Via::Real), ("director", Via::Director), ("vip", Via::Vip)];
const PANIC: [(&str, PanicUse); 3] =
    [("all", PanicUse::All), ("none", PanicUse::None), ("sorry", PanicUse::Sorry)];
const STATES: [(&str, StateWord); 3] =
    [("up", StateWord::Up), ("drain", StateWord::Drain), ("maintenance", StateWord::Maintenance)];
/// Record types of DNS.
pub const RECORDS: [(&str, u16); 9] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("ANY", 255),
];

/// Keys that belong to some types only.
const SPECIAL: [&str; 22] = [
    "path",
    "host",
    "status",
    "body",
    "not_body",
    "digest",
    "version",
    "request",
    "sni",
    "ca",
    "query",
    "record",
    "payload",
    "reply",
    "require_reply",
    "min_reply",
    "max_reply",
    "helo",
    "command",
    "dynamic",
    "file",
    "factor",
];

fn request(t: &View<'_>, r: &mut Report) -> RequestDoc {
    RequestDoc {
        path: t.text("path", http_path, r),
        host: t.text("host", host, r),
        status: t.texts("status", status, r),
        body: t.text("body", regex, r),
        not_body: t.text("not_body", regex, r),
        digest: t.text("digest", digest, r),
    }
}

/// Reads a `[[check]]`.
pub fn check(t: &View<'_>, r: &mut Report) -> CheckDoc {
    missing(t, "name", "\"alive\"", r);
    missing(t, "type", "\"http\"", r);
    let said = SPECIAL.iter().filter(|k| t.has(k));
    CheckDoc {
        place: t.place.clone(),
        name: t.text("name", values::name, r),
        kind: t.text("type", word(&Type::ALL), r),
        interval: t.text("interval", span, r),
        timeout: t.text("timeout", span, r),
        rise: number(t.int("rise")),
        fall: number(t.int("fall")),
        retry_delay: t.text("retry_delay", values::duration, r),
        warmup: t.text("warmup", values::duration, r),
        jitter: number(t.int("jitter")),
        start: t.text("start", word(&STARTS), r),
        dampening: t.bool("dampening"),
        via: t.text("via", word(&VIAS), r),
        address: t.text("address", values::ip, r),
        port: number(t.int("port")),
        bind: t.text("bind", values::ip, r),
        request: request(t, r),
        requests: t.tables("request", r).iter().map(|q| request(q, r)).collect(),
        version: t.text("version", word(&VERSIONS), r),
        sni: t.text("sni", host, r),
        ca: t.text("ca", file, r),
        query: t.text("query", dns_name, r),
        record: t.text("record", word(&RECORDS), r),
        payload: t.text("payload", hex, r),
        reply: t.text("reply", pattern, r),
        require_reply: t.bool("require_reply"),
        min_reply: number(t.int("min_reply")),
        max_reply: number(t.int("max_reply")),
        helo: t.text("helo", host, r),
        command: t.texts("command", plain, r),
        user: t.text("user", user, r),
        dynamic: t.bool("dynamic"),
        file: t.text("file", file, r),
        factor: number(t.int("factor")),
        said: said.map(|k| At::new(*k, t.place_of(k))).collect(),
    }
}

/// Reads what a service says.
pub fn service(t: &View<'_>, r: &mut Report) -> ServiceHealthDoc {
    let panic = t.table("panic", r);
    if let Some(p) = &panic {
        missing(p, "below", "50", r);
        missing(p, "use", "\"all\"", r);
    }
    ServiceHealthDoc {
        checks: t.texts("check", values::name, r),
        quorum: number(t.int("quorum")),
        hysteresis: number(t.int("hysteresis")),
        sorry: t.text("sorry_server", values::endpoint_or_ip, r),
        sorry_mode: t.text("sorry_mode", word(&Mode::ALL), r),
        sorry_inhibit: t.bool("sorry_inhibit"),
        on_failure: t.text("on_failure", word(&ON_FAILURE), r),
        slow_start: t.text("slow_start", values::duration, r),
        panic_below: panic.as_ref().and_then(|p| number(p.int("below"))),
        panic_use: panic.as_ref().and_then(|p| p.text("use", word(&PANIC), r)),
        passive: t.table("passive", r).map(|p| PassiveDoc {
            failures: number(p.int("failures")),
            window: p.text("window", span, r),
            hold: p.text("hold", span, r),
        }),
        up_command: t.texts("up_command", plain, r),
        down_command: t.texts("down_command", plain, r),
        command_user: t.text("command_user", user, r),
        down_at_stop: t.bool("down_at_stop"),
        announce: t.text("announce", values::interface, r),
    }
}

/// Reads what a real server says.
pub fn real(t: &View<'_>, r: &mut Report) -> RealHealthDoc {
    RealHealthDoc {
        checks: t.texts("check", values::name, r),
        has_checks: t.has("check"),
        state: t.text("state", word(&STATES), r),
        deadline: t.text("drain_deadline", span, r),
        on_failure: t.text("on_failure", word(&ON_FAILURE), r),
        up_command: t.texts("up_command", plain, r),
        down_command: t.texts("down_command", plain, r),
    }
}

/// A length of time that is not nothing.
fn span(s: &str) -> Result<Span, Complaint> {
    match values::duration(s)? {
        Span::ZERO => Err(Complaint::new("it cannot be zero", "write for example \"1s\"")),
        span => Ok(span),
    }
}

fn printable(s: &str) -> bool {
    !s.is_empty() && s.len() <= 1024 && !s.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// A path of a request; what could end the line of the request is refused.
///
/// # Errors
/// What is wrong with it.
pub fn http_path(s: &str) -> Result<String, Complaint> {
    if s.starts_with('/') && printable(s) {
        return Ok(s.to_owned());
    }
    Err(Complaint::new(
        format!("`{s}` is not a path"),
        "it begins with `/` and has no spaces: \"/health?full=1\"",
    ))
}

/// A host name, perhaps with a port.
///
/// # Errors
/// What is wrong with it.
pub fn host(s: &str) -> Result<String, Complaint> {
    if printable(s) && !s.contains('/') {
        return Ok(s.to_owned());
    }
    Err(Complaint::new(format!("`{s}` is not a host name"), "for example: \"www.example.org\""))
}

fn file(s: &str) -> Result<String, Complaint> {
    if s.starts_with('/') && !s.contains('\0') {
        return Ok(s.to_owned());
    }
    Err(Complaint::new(format!("`{s}` is not the path of a file"), "write it from the root: \"/run/weight\""))
}

/// `200` or `200-299`.
///
/// # Errors
/// What is wrong with it.
pub fn status(s: &str) -> Result<(u16, u16), Complaint> {
    let (a, b) = s.split_once('-').unwrap_or((s, s));
    match (a.trim().parse::<u16>(), b.trim().parse::<u16>()) {
        (Ok(a), Ok(b)) if a <= b && (100..=599).contains(&a) && b <= 599 => Ok((a, b)),
        _ => Err(Complaint::new(
            format!("`{s}` is not a range of status codes"),
            "codes are 100 to 599: \"200\" or \"200-299\"",
        )),
    }
}

/// A regular expression.
///
/// # Errors
/// What is wrong with it.
pub fn regex(s: &str) -> Result<String, Complaint> {
    match crate::probe::text::pattern(s) {
        Ok(_) => Ok(s.to_owned()),
        Err(e) => Err(Complaint::new(
            format!("`{s}` is not a regular expression: {e}"),
            "the syntax is that of the Rust crate regex: no look-around, no back references",
        )),
    }
}

fn digest(s: &str) -> Result<String, Complaint> {
    if s.len() == 32 && s.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(s.to_ascii_lowercase());
    }
    Err(Complaint::new(
        format!("`{s}` is not an MD5 digest"),
        "it has 32 hexadecimal digits (genhash, md5sum)",
    ))
}

/// A domain name.
///
/// # Errors
/// What is wrong with it.
pub fn dns_name(s: &str) -> Result<String, Complaint> {
    let bare = s.strip_suffix('.').unwrap_or(s);
    let fine = bare.is_empty() && s == "." || bare.split('.').all(|l| (1..=63).contains(&l.len()));
    if fine && bare.len() <= 253 && bare.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(s.to_owned());
    }
    Err(Complaint::new(
        format!("`{s}` is not a domain name"),
        "for example: \"example.org\", or \".\" for the root",
    ))
}

fn digits(s: &str) -> Option<Vec<&str>> {
    let s = s.trim();
    (s.is_ascii() && s.len().is_multiple_of(2))
        .then(|| (0..s.len()).step_by(2).map(|i| &s[i..i + 2]).collect())
}

/// Bytes in hexadecimal digits.
///
/// # Errors
/// What is wrong with it.
pub fn hex(s: &str) -> Result<Vec<u8>, Complaint> {
    let joined: String = s.split_whitespace().collect();
    let bytes = digits(&joined).and_then(|d| d.iter().map(|b| byte(b)).collect::<Option<Vec<u8>>>());
    bytes.filter(|b| b.len() <= 1400).ok_or_else(|| {
        Complaint::new(format!("`{s}` is not bytes in hexadecimal digits"), "two digits a byte: \"0001ff\"")
    })
}

fn byte(s: &str) -> Option<u8> {
    s.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(s, 16).ok())?
}

/// Bytes in hexadecimal digits, `xx` for any.
///
/// # Errors
/// What is wrong with it.
pub fn pattern(s: &str) -> Result<Vec<Option<u8>>, Complaint> {
    let joined: String = s.split_whitespace().collect();
    let one = |d: &&str| if d.eq_ignore_ascii_case("xx") { Some(None) } else { byte(d).map(Some) };
    digits(&joined).and_then(|d| d.iter().map(one).collect::<Option<Vec<_>>>()).ok_or_else(|| {
        Complaint::new(
            format!("`{s}` is not bytes in hexadecimal digits"),
            "two digits a byte, xx for any byte: \"0001xxff\"",
        )
    })
}

/// `user` or `user:group`.
///
/// # Errors
/// What is wrong with it.
pub fn user(s: &str) -> Result<String, Complaint> {
    let part = |p: &str| !p.is_empty() && p.len() <= 32 && !p.chars().any(|c| c.is_control() || c == '/');
    if s.split(':').count() <= 2 && s.split(':').all(part) {
        return Ok(s.to_owned());
    }
    Err(Complaint::new(format!("`{s}` is not a user"), "write \"user\" or \"user:group\""))
}
