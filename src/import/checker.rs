//! Checkers of `keepalived.conf` as `[[check]]`.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::tree::Node;
use super::words::parameters;
use super::{Notes, Source, list, quoted};
use crate::config::doc_health;

/// Checkers by their words.
pub(super) const CHECKERS: [&str; 9] = [
    "TCP_CHECK",
    "HTTP_GET",
    "SSL_GET",
    "SMTP_CHECK",
    "DNS_CHECK",
    "UDP_CHECK",
    "PING_CHECK",
    "MISC_CHECK",
    "FILE_CHECK",
];

/// What can be said in a service, a server or a checker; the innermost counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Timing {
    pub delay_loop: Option<u64>,
    pub connect_timeout: Option<u64>,
    pub retry: Option<u32>,
    pub delay_before_retry: Option<u64>,
    pub warmup: Option<u64>,
    pub alpha: Option<bool>,
    pub virtualhost: Option<String>,
}

impl Timing {
    /// Takes a statement if it is one of these.
    pub fn take(&mut self, n: &Node, notes: &mut Notes) -> bool {
        let mut ms = |slot: &mut Option<u64>| match n.arg(0).and_then(millis) {
            Some(v) => *slot = Some(v),
            None => notes.add(&n.at, &n.name, "it is no length of time in seconds: left out"),
        };
        match n.name.as_str() {
            "delay_loop" => ms(&mut self.delay_loop),
            "connect_timeout" => ms(&mut self.connect_timeout),
            "delay_before_retry" => ms(&mut self.delay_before_retry),
            "warmup" => ms(&mut self.warmup),
            "retry" | "nb_get_retry" => match n.arg(0).and_then(|a| a.parse().ok()) {
                Some(v) => self.retry = Some(v),
                None => notes.add(&n.at, &n.name, "it is no number: left out"),
            },
            "alpha" => self.alpha = Some(flag(n)),
            "virtualhost" => self.virtualhost = n.arg(0).map(str::to_owned),
            _ => return false,
        }
        true
    }
    /// With what is said further inside put over it.
    pub fn with(&self, inner: &Timing) -> Timing {
        Timing {
            delay_loop: inner.delay_loop.or(self.delay_loop),
            connect_timeout: inner.connect_timeout.or(self.connect_timeout),
            retry: inner.retry.or(self.retry),
            delay_before_retry: inner.delay_before_retry.or(self.delay_before_retry),
            warmup: inner.warmup.or(self.warmup),
            alpha: inner.alpha.or(self.alpha),
            virtualhost: inner.virtualhost.clone().or_else(|| self.virtualhost.clone()),
        }
    }
}

/// A keyword that stands alone, or with `true`, `yes`, `on`.
pub(super) fn flag(n: &Node) -> bool {
    !matches!(n.arg(0), Some("false" | "no" | "off"))
}

/// Seconds, perhaps with a fraction, in milliseconds.
pub(super) fn millis(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if text.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let thousandths: u64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    whole.checked_mul(1000)?.checked_add(thousandths).filter(|ms| *ms < 31_535_999_000)
}

/// A length of time as TOML.
pub(super) fn span(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("\"{}s\"", ms / 1000) } else { format!("\"{ms}ms\"") }
}

/// Things defined elsewhere that checkers refer to.
#[derive(Debug, Default)]
pub(super) struct World<'a> {
    /// `track_file NAME { file PATH weight N }`
    pub track_files: Vec<&'a Node>,
    /// `SSL { ca FILE }`
    pub ca: Option<String>,
}

/// A checker as the lines of a `[[check]]` without its name; several where it asks several hosts.
/// `port`: the one to ask where the checker names none. `by_host`: the host asks, as keepalived does, where
/// softlvs would go the way of the traffic.
pub(super) fn lower(
    n: &Node,
    outer: &Timing,
    port: Option<u16>,
    by_host: bool,
    world: &World<'_>,
    notes: &mut Notes,
) -> Vec<String> {
    let mut own = Timing::default();
    let mut rest: Vec<&Node> = Vec::new();
    for inner in n.inside() {
        if !own.take(inner, notes) {
            rest.push(inner);
        }
    }
    let (default_retry, default_delay) = match n.name.as_str() {
        "HTTP_GET" | "SSL_GET" => (1, Some(3000)),
        "MISC_CHECK" => (0, Some(1000)),
        "DNS_CHECK" => (3, None),
        _ => (1, Some(1000)),
    };
    let t = outer.with(&own);
    // what stands further out counts for programs only from `alpha` on (keepalived.conf(5))
    let t = if n.name == "MISC_CHECK" { Timing { retry: own.retry, connect_timeout: None, ..t } } else { t };
    let interval = t.delay_loop.unwrap_or(60_000).max(50);
    let mut c = Check { host: t.virtualhost.clone(), port, ..Check::default() };
    for inner in &rest {
        c.common(inner, notes);
        if inner.name == "misc_timeout" {
            c.timeout = inner.arg(0).and_then(millis).map(|ms| ms.max(1));
        }
    }
    let timeout =
        c.timeout.or(t.connect_timeout).unwrap_or(if n.name == "MISC_CHECK" { interval } else { 5000 });
    let mut head = String::new();
    let _ = writeln!(head, "interval = {}", span(interval));
    let _ = writeln!(head, "timeout = {}", span(timeout.max(1)));
    let _ = writeln!(head, "rise = 1");
    let _ = writeln!(head, "fall = {}", t.retry.unwrap_or(default_retry).min(999) + 1);
    let _ =
        writeln!(head, "retry_delay = {}", span(t.delay_before_retry.or(default_delay).unwrap_or(interval)));
    if let Some(w) = t.warmup {
        let _ = writeln!(head, "warmup = {}", span(w));
    }
    let _ = writeln!(head, "dampening = false");
    if by_host && !matches!(n.name.as_str(), "MISC_CHECK" | "FILE_CHECK") {
        let _ = writeln!(head, "via = \"real\"");
    }
    if t.alpha == Some(true) {
        let _ = writeln!(head, "start = \"down\"");
    }
    let body = match n.name.as_str() {
        "TCP_CHECK" => with_target("tcp", &c, ""),
        "PING_CHECK" => with_target("ping", &Check { port: None, ..c.clone() }, ""),
        "HTTP_GET" => http("http", n, &rest, &mut c, world, notes),
        "SSL_GET" => http("https", n, &rest, &mut c, world, notes),
        "SMTP_CHECK" => return smtp(&rest, &c, &head, notes),
        "DNS_CHECK" => dns(&rest, &c, notes),
        "UDP_CHECK" => udp(&rest, &c, notes),
        "MISC_CHECK" => misc(n, &rest, notes),
        _ => file(n, &rest, world, notes),
    };
    body.map(|b| vec![head + &b]).unwrap_or_default()
}

#[derive(Clone, Debug, Default)]
struct Check {
    address: Option<IpAddr>,
    port: Option<u16>,
    bind: Option<IpAddr>,
    host: Option<String>,
    timeout: Option<u64>,
}

const ELSEWHERE: &str = "no counterpart: left out";

impl Check {
    /// What every checker may say.
    fn common(&mut self, n: &Node, notes: &mut Notes) {
        let mut ip = |slot: &mut Option<IpAddr>| match n.arg(0).and_then(|a| a.parse().ok()) {
            Some(v) => *slot = Some(v),
            None => notes.add(&n.at, &n.name, "it is no address: left out"),
        };
        match n.name.as_str() {
            "connect_ip" => ip(&mut self.address),
            "bindto" => ip(&mut self.bind),
            "connect_port" => match n.arg(0).and_then(|a| a.parse().ok()).filter(|p| *p > 0) {
                Some(p) => self.port = Some(p),
                None => notes.add(&n.at, &n.name, "it is no port: left out"),
            },
            "bind_if" | "bind_port" | "fwmark" => {
                notes.add(&n.at, &n.name, "checks choose neither interface, source port nor mark: left out");
            }
            "log_all_failures" => {
                notes.add(&n.at, &n.name, "the last failure of every check is in the status: left out");
            }
            _ => {}
        }
    }
    fn lines(&self) -> String {
        let mut out = String::new();
        if let Some(a) = self.address {
            let _ = writeln!(out, "address = \"{a}\"");
        }
        if let Some(p) = self.port {
            let _ = writeln!(out, "port = {p}");
        }
        if let Some(b) = self.bind {
            let _ = writeln!(out, "bind = \"{b}\"");
        }
        out
    }
}

const COMMON: [&str; 7] =
    ["connect_ip", "connect_port", "bindto", "bind_if", "bind_port", "fwmark", "log_all_failures"];

fn unknown(n: &Node, notes: &mut Notes) {
    if !COMMON.contains(&n.name.as_str()) {
        notes.add(&n.at, &n.name, "not known in this checker: left out");
    }
}

fn with_target(kind: &str, c: &Check, more: &str) -> Option<String> {
    Some(format!("type = \"{kind}\"\n{}{more}", c.lines()))
}

/// A value that our own configuration would refuse is noted and left out.
fn checked<T>(
    at: &Source,
    word: &str,
    value: &str,
    parse: impl Fn(&str) -> Result<T, crate::config::diag::Complaint>,
    notes: &mut Notes,
) -> Option<T> {
    parse(value).map_err(|c| notes.add(at, word, format!("{}: left out", c.why))).ok()
}

fn http(
    kind: &str,
    n: &Node,
    rest: &[&Node],
    c: &mut Check,
    world: &World<'_>,
    notes: &mut Notes,
) -> Option<String> {
    let mut requests = Vec::new();
    let mut version = "1.0";
    let mut sni = None;
    for inner in rest {
        match inner.name.as_str() {
            "url" => requests.push(url(inner, c, notes)),
            "http_protocol" => match inner.arg(0) {
                Some(v @ ("1.0" | "1.0C" | "1.1")) => {
                    version = doc_health::VERSIONS.iter().find(|(n, _)| *n == v).map_or("1.0", |(n, _)| n);
                }
                Some("1.0c" | "1.0K" | "1.0k") => version = "1.0C",
                Some("1.1K" | "1.1k") => version = "1.1",
                _ => notes.add(&inner.at, &inner.name, "not a version of HTTP: left out"),
            },
            // the virtual host is asked for anyway
            "enable_sni" => {}
            "sni_name" => {
                sni = inner.arg(0).and_then(|s| checked(&inner.at, "sni_name", s, doc_health::host, notes))
            }
            "fast_recovery" => {
                notes.add(&inner.at, &inner.name, "a check succeeds when all its requests do: left out")
            }
            "tls_compliant" => {
                notes.add(&inner.at, &inner.name, "TLS is always spoken by the book: left out")
            }
            _ => unknown(inner, notes),
        }
    }
    if requests.is_empty() {
        notes.add(&n.at, &n.name, "it has no url: `/` is asked for");
        requests.push("path = \"/\"\n".to_owned());
    }
    let mut more = format!("version = \"{version}\"\n");
    if kind == "https" {
        if let Some(name) = sni {
            let _ = writeln!(more, "sni = {}", quoted(&name));
        }
        if let Some(ca) = &world.ca {
            let _ = writeln!(more, "ca = {}", quoted(ca));
        }
    }
    if requests.len() == 1 {
        more += &requests[0];
    } else {
        for r in &requests {
            let _ = write!(more, "[[check.request]]\n{r}");
        }
    }
    with_target(kind, c, &more)
}

fn url(n: &Node, c: &Check, notes: &mut Notes) -> String {
    let mut out = String::new();
    let mut host = c.host.clone();
    let mut status = Vec::new();
    let (mut body, mut options) = (None, String::new());
    let mut negative = false;
    let mut path = None;
    for inner in n.inside() {
        let arg = inner.arg(0).unwrap_or_default();
        match inner.name.as_str() {
            "path" => path = checked(&inner.at, "path", arg, doc_health::http_path, notes),
            "virtualhost" => host = Some(arg.to_owned()),
            "digest" => {
                let fine = arg.len() == 32 && arg.bytes().all(|b| b.is_ascii_hexdigit());
                match fine {
                    true => {
                        let _ = writeln!(out, "digest = {}", quoted(arg));
                    }
                    false => notes.add(&inner.at, "digest", "it is no MD5 digest: left out"),
                }
            }
            "status_code" => {
                for a in &inner.args {
                    if checked(&inner.at, "status_code", a, doc_health::status, notes).is_some() {
                        status.push(a.clone());
                    }
                }
            }
            "regex" => {
                negative = false;
                body = Some((inner.at.clone(), inner.args.join(" ")));
            }
            "regex_no_match" if inner.args.is_empty() => negative = true,
            "regex_no_match" => {
                negative = true;
                body = Some((inner.at.clone(), inner.args.join(" ")));
            }
            "regex_options" => {
                for a in &inner.args {
                    match a.as_str() {
                        "caseless" => options.push('i'),
                        "multiline" => options.push('m'),
                        "dotall" => options.push('s'),
                        "extended" => options.push('x'),
                        "ungreedy" => options.push('U'),
                        "utf" | "ucp" => {}
                        other => notes.add(&inner.at, "regex_options", format!("`{other}` has {ELSEWHERE}")),
                    }
                }
            }
            "regex_stack" => {}
            "regex_min_offset" | "regex_max_offset" => {
                notes.add(&inner.at, &inner.name, "the expression is looked for in the whole body: left out");
            }
            "tls_compliant" => {
                notes.add(&inner.at, &inner.name, "TLS is always spoken by the book: left out")
            }
            other => notes.add(&inner.at, other, "not known in `url`: left out"),
        }
    }
    let mut all = format!("path = {}\n", quoted(path.as_deref().unwrap_or("/")));
    if let Some(host) = host.and_then(|h| checked(&n.at, "virtualhost", &h, doc_health::host, notes)) {
        let _ = writeln!(all, "host = {}", quoted(&host));
    }
    if !status.is_empty() {
        let _ = writeln!(all, "status = {}", list(&status));
    }
    if let Some((at, text)) = body {
        let text = if options.is_empty() { text } else { format!("(?{options}){text}") };
        if let Some(text) = checked(&at, "regex", &text, doc_health::regex, notes) {
            let _ = writeln!(all, "{} = {}", if negative { "not_body" } else { "body" }, quoted(&text));
        }
    }
    all + &out
}

fn smtp(rest: &[&Node], c: &Check, head: &str, notes: &mut Notes) -> Vec<String> {
    let mut helo = None;
    let mut hosts = Vec::new();
    for inner in rest {
        match inner.name.as_str() {
            "helo_name" => {
                helo = inner.arg(0).and_then(|h| checked(&inner.at, "helo_name", h, doc_health::host, notes))
            }
            "host" => {
                let mut own = c.clone();
                for n in inner.inside() {
                    own.common(n, notes);
                    unknown(n, notes);
                }
                hosts.push(own);
            }
            _ => unknown(inner, notes),
        }
    }
    if hosts.is_empty() {
        hosts.push(c.clone());
    }
    let more = helo.map(|h| format!("helo = {}\n", quoted(&h))).unwrap_or_default();
    hosts.iter().filter_map(|h| with_target("smtp", h, &more)).map(|b| head.to_owned() + &b).collect()
}

fn dns(rest: &[&Node], c: &Check, notes: &mut Notes) -> Option<String> {
    let mut more = String::new();
    for inner in rest {
        let arg = inner.arg(0).unwrap_or_default();
        match inner.name.as_str() {
            "type" => match doc_health::RECORDS.iter().find(|(n, _)| n.eq_ignore_ascii_case(arg)) {
                Some((n, _)) => {
                    let _ = writeln!(more, "record = \"{n}\"");
                }
                None => notes.add(
                    &inner.at,
                    "type",
                    format!("record type `{arg}` is not known: SOA is asked for"),
                ),
            },
            "name" => {
                if let Some(name) = checked(&inner.at, "name", arg, doc_health::dns_name, notes) {
                    let _ = writeln!(more, "query = {}", quoted(&name));
                }
            }
            _ => unknown(inner, notes),
        }
    }
    with_target("dns", c, &more)
}

fn udp(rest: &[&Node], c: &Check, notes: &mut Notes) -> Option<String> {
    let mut more = String::new();
    for inner in rest {
        let joined: String = inner.args.concat();
        match inner.name.as_str() {
            "payload" => {
                if checked(&inner.at, "payload", &joined, doc_health::hex, notes).is_some() {
                    let _ = writeln!(more, "payload = {}", quoted(&joined));
                }
            }
            "require_reply" => {
                let _ = writeln!(more, "require_reply = true");
                if !joined.is_empty()
                    && checked(&inner.at, "require_reply", &joined, doc_health::pattern, notes).is_some()
                {
                    let _ = writeln!(more, "reply = {}", quoted(&joined));
                }
            }
            word @ ("min_reply_length" | "max_reply_length") => match joined.parse::<u16>() {
                Ok(n) => {
                    let _ = writeln!(more, "{} = {n}", &word[..9]);
                }
                Err(_) => notes.add(&inner.at, word, "it is no number: left out"),
            },
            _ => unknown(inner, notes),
        }
    }
    with_target("udp", c, &more)
}

fn misc(n: &Node, rest: &[&Node], notes: &mut Notes) -> Option<String> {
    let (mut argv, mut more) = (Vec::new(), String::new());
    for inner in rest {
        match inner.name.as_str() {
            "misc_path" => argv = command(inner),
            "misc_timeout" if inner.arg(0).and_then(millis).is_some() => {}
            "misc_timeout" => {
                notes.add(&inner.at, &inner.name, "it is no length of time in seconds: left out")
            }
            "misc_dynamic" => more += "dynamic = true\n",
            "user" => {
                let who = inner.args.join(":");
                if let Some(who) = checked(&inner.at, "user", &who, doc_health::user, notes) {
                    more += &format!("user = {}\n", quoted(&who));
                }
            }
            _ => unknown(inner, notes),
        }
    }
    if argv.is_empty() {
        notes.add(&n.at, &n.name, "it has no misc_path: the checker is left out");
        return None;
    }
    if !more.contains("user = ") {
        notes.add(&n.at, "misc_path", "it runs as `nobody`: say `user` in the check for somebody else");
    }
    Some(format!("type = \"exec\"\ncommand = {}\n{more}", list(&argv)))
}

/// A program with its arguments, from one quoted string or several words. One without a path is looked
/// for by `env`.
pub(super) fn command(n: &Node) -> Vec<String> {
    let mut argv: Vec<String> = if n.args.len() == 1 { parameters(&n.args[0]) } else { n.args.clone() };
    if argv.first().is_some_and(|p| !p.starts_with('/')) {
        argv.insert(0, "/usr/bin/env".to_owned());
    }
    argv
}

fn file(n: &Node, rest: &[&Node], world: &World<'_>, notes: &mut Notes) -> Option<String> {
    let (mut path, mut factor) = (None, 1i64);
    for inner in rest {
        match inner.name.as_str() {
            "track_file" => {
                let name = inner.arg(0).unwrap_or_default();
                let known = world.track_files.iter().find(|t| t.arg(0) == Some(name));
                let of = |t: &&Node, word: &str| {
                    t.inside().iter().find(|i| i.name == word).and_then(|i| i.arg(0).map(str::to_owned))
                };
                path = known.and_then(|t| of(t, "file"));
                if let Some(w) = known.and_then(|t| of(t, "weight")).and_then(|w| w.parse().ok()) {
                    factor = w;
                }
                if path.is_none() && name.starts_with('/') {
                    path = Some(name.to_owned());
                }
                if path.is_none() {
                    notes.add(&inner.at, "track_file", format!("`{name}` is not defined"));
                }
            }
            "weight" => {
                if let Some(w) = inner.arg(0).and_then(|w| w.parse::<i64>().ok()) {
                    factor = if inner.arg(1) == Some("reverse") { -w } else { w };
                }
            }
            _ => unknown(inner, notes),
        }
    }
    let Some(path) = path.filter(|p| p.starts_with('/')) else {
        notes.add(&n.at, &n.name, "it has no file: the checker is left out");
        return None;
    };
    Some(format!("type = \"file\"\nfile = {}\nfactor = {}\n", quoted(&path), factor.clamp(-254, 254)))
}
