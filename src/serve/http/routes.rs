//! Everything that can be asked, once: the dispatch, the OpenAPI document and the tests read this table.

use std::pin::Pin;

use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use super::answer::{Body, Trouble};
use super::{Context, change, connections, doctor, events, explain, health, metrics, openapi, view};
use crate::serve::entry::Pass;

/// What answers.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Trouble>> + Send>>;

/// One thing that can be asked.
pub struct Route {
    /// `GET`, `POST`, ...
    pub method: Method,
    /// Path with `{names}` for what varies.
    pub path: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Names of what may stand behind `?`, each with a line.
    pub query: &'static [(&'static str, &'static str)],
    /// A body is read.
    pub takes_body: bool,
    /// Served over TCP too.
    pub public: bool,
    /// Does it.
    pub run: fn(Context, Call) -> Answer,
}

/// What was asked.
#[derive(Debug)]
pub struct Call {
    /// What stood in the places of the path's `{names}`, decoded.
    pub path: Vec<String>,
    /// What stood behind `?`, decoded.
    pub query: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// What kind of answer is wanted.
    pub accept: String,
    /// The body is TOML.
    pub toml: bool,
    /// By what an answer that goes on and on may go on; the owner's always may.
    pub pass: Option<Pass>,
}

impl Call {
    /// From the parts of a request.
    ///
    /// # Errors
    /// The query is not encoded rightly.
    pub fn new(parts: &Parts, path: Vec<String>, body: Bytes) -> Result<Call, Trouble> {
        let mut query = Vec::new();
        for pair in parts.uri.query().unwrap_or("").split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            query.push((decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?));
        }
        let header = |name| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        let toml = header(CONTENT_TYPE).starts_with("application/toml");
        Ok(Call { path, query, body, accept: header(ACCEPT), toml, pass: None })
    }
    /// A value behind `?`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    /// True for `name`, `name=1`, `name=true`, `name=yes`; false for their contraries and when it is not there.
    ///
    /// # Errors
    /// It is neither.
    pub fn flag(&self, name: &str) -> Result<bool, Trouble> {
        match self.get(name) {
            Some("" | "1" | "true" | "yes") => Ok(true),
            None | Some("0" | "false" | "no") => Ok(false),
            Some(other) => Err(Trouble::bad(format!("{name}: `{other}` is not known"), "1 or 0")),
        }
    }
}

macro_rules! route {
    ($method:ident $path:literal, $run:path, $about:literal $([$query:expr])? $(, $mark:ident)*) => {{
        #[allow(unused_mut)]
        let mut r = Route {
            method: Method::$method,
            path: $path,
            about: $about,
            query: &[],
            takes_body: false,
            public: false,
            run: |context, call| Box::pin($run(context, call)),
        };
        $(r.query = $query;)?
        $(r.$mark = true;)*
        r
    }};
}

const LIST: &[(&str, &str)] = &[
    ("protocol", "tcp, udp or sctp"),
    ("client", "client address, with or without port"),
    ("service", "virtual address, with or without port"),
    ("real", "real server's address, with or without port"),
    ("state", "name of the state, such as ESTABLISHED"),
    ("limit", "format json: most rows of this page (1 to 10000, 1000 when not said)"),
    ("cursor", "format json: `next` of the page before"),
    ("format", "json (a page), ndjson, ipvsadm or proc (all rows as a stream)"),
    ("numeric", "format ipvsadm: addresses only"),
    ("persistence", "format ipvsadm: with the columns of persistence engines"),
];
const DRY: &[(&str, &str)] = &[("dry_run", "1: only tell what would change")];
const SAVE: &[(&str, &str)] =
    &[("format", "toml or ipvsadm (lines as of `ipvsadm -S`, thresholds included)")];

const LIVE: &[(&str, &str)] = &[
    ("filter", "conditions such as `tcp and dst port 80 and dropped`; every packet when not said"),
    ("count", "end after so many packets"),
];

impl Route {
    /// What stands behind `?` is all known here. Who looks after monitoring may add what he likes.
    ///
    /// # Errors
    /// A name that is not, or that is there twice.
    pub fn knows(&self, call: &Call) -> Result<(), Trouble> {
        if !self.path.starts_with("/v1/") {
            return Ok(());
        }
        let again =
            |(i, (name, _)): &(usize, &(String, String))| call.query[..*i].iter().any(|(n, _)| n == name);
        if let Some((_, (name, _))) = call.query.iter().enumerate().find(again) {
            return Err(Trouble::bad(format!("`{name}` stands behind ? more than once"), "say it once"));
        }
        let known: Vec<&str> = self.query.iter().map(|(name, _)| *name).collect();
        let Some((name, _)) = call.query.iter().find(|(name, _)| !known.contains(&name.as_str())) else {
            return Ok(());
        };
        let help = match known.as_slice() {
            [] => "nothing stands behind ? here".to_owned(),
            all => format!("known are: {}", all.join(", ")),
        };
        Err(Trouble::bad(format!("`{name}` is not known behind ?"), help))
    }
}

/// The table.
pub fn all() -> Vec<Route> {
    vec![
        route!(GET "/healthz", view::healthz, "Is it alive", public),
        route!(GET "/metrics", metrics::metrics, "Prometheus metrics", public),
        route!(GET "/v1/openapi.json", openapi::get, "This description", public),
        route!(GET "/v1/status", view::status, "What runs, in short", public),
        route!(GET "/v1/ports", view::ports, "Ports with their counters", public),
        route!(GET "/v1/counters", view::counters, "Counters of packets, drops by reason, what the director itself said", public),
        route!(POST "/v1/explain", explain::explain, "Why a packet goes where it goes (a flow or a frame)", takes_body),
        route!(GET "/v1/explain/live", explain::live, "The same of what passes, as a stream of JSON lines" [LIVE]),
        route!(POST "/v1/doctor", doctor::ask, "What is wrong around ports, found by asking their networks from the director: {\"ports\": [\"outside\"]}, all of them when not said", takes_body),
        route!(GET "/v1/services", view::services, "Services with their real servers", public),
        route!(POST "/v1/services", change::add_service, "Add a service (keys as in [[service]] of the file)", takes_body),
        route!(GET "/v1/services/{kind}/{address}", view::service, "One service", public),
        route!(PUT "/v1/services/{kind}/{address}", change::put_service, "Make a service what the body says, add it when it is not there", takes_body),
        route!(DELETE "/v1/services/{kind}/{address}", change::delete_service, "Remove a service; its connections go on"),
        route!(POST "/v1/services/{kind}/{address}/zero", change::zero_service, "Set its counters to zero", takes_body),
        route!(GET "/v1/services/{kind}/{address}/reals", view::reals, "Real servers of a service", public),
        route!(POST "/v1/services/{kind}/{address}/reals", change::add_real, "Add a real server (keys as in [[service.real]])", takes_body),
        route!(PUT "/v1/services/{kind}/{address}/reals/{real}", change::put_real, "Make a real server what the body says, add it when it is not there", takes_body),
        route!(DELETE "/v1/services/{kind}/{address}/reals/{real}", change::delete_real, "Remove a real server; its connections go on"),
        route!(GET "/v1/connections", connections::get, "Connections, a page or all of them" [LIST], public),
        route!(GET "/v1/timeouts", view::timeouts, "Timeouts of connections in seconds", public),
        route!(PUT "/v1/timeouts", change::put_timeouts, "Set timeouts: {\"tcp\": 900, \"tcp_fin\": 120, \"udp\": 300}, each optional", takes_body),
        route!(GET "/v1/sysctls", view::sysctls, "Settings of net.ipv4.vs", public),
        route!(PUT "/v1/sysctls", change::put_sysctls, "Set settings, all or none: {\"expire_nodest_conn\": 1}", takes_body),
        route!(GET "/v1/events", events::get, "Events from now on, as NDJSON or (Accept: text/event-stream) as server-sent events", public),
        route!(GET "/v1/health", health::get, "What the checks of real servers found, and what follows from it", public),
        route!(GET "/v1/config", view::config, "The configuration as it runs, as a file" [SAVE]),
        route!(POST "/v1/config", change::config, "Replace the whole configuration (TOML or JSON), all or nothing" [DRY], takes_body),
        route!(POST "/v1/counters/zero", change::zero, "Set all counters of services to zero", takes_body),
        route!(POST "/v1/ipvsadm", change::ipvsadm, "Run an ipvsadm command line: {\"args\": [\"-Ln\"], \"stdin\": \"\", \"hosts\": \"\", \"services\": \"\"}", takes_body),
        route!(GET "/v1/proc/{file}", view::proc_file, "The text of /proc/net/ip_vs and its like", public),
    ]
}

/// The route of a request, with what stood in its path.
///
/// # Errors
/// There is none, or not with this method.
pub fn find(method: &Method, path: &str, owner: bool) -> Result<(Route, Vec<String>), Trouble> {
    let segments = segments(path)?;
    let mut allowed = Vec::new();
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    for route in all() {
        let Some(captured) = capture(route.path, &segments) else { continue };
        if route.method != *method {
            allowed.push(route.method.to_string());
        } else if !owner && !route.public {
            return Err(Trouble::new(
                StatusCode::FORBIDDEN,
                "this is told through the control socket only",
                "",
            ));
        } else {
            return Ok((route, captured));
        }
    }
    if allowed.is_empty() {
        return Err(Trouble::missing("there is nothing at this path"));
    }
    let allowed = allowed.join(", ");
    let why = format!("{method} is not for this path");
    Err(Trouble::new(StatusCode::METHOD_NOT_ALLOWED, why, format!("allowed: {allowed}"))
        .header("allow", allowed))
}

/// Path segments, decoded one by one, so that an encoded slash stays within its segment.
fn segments(path: &str) -> Result<Vec<String>, Trouble> {
    let path = path.strip_prefix('/').ok_or_else(|| Trouble::bad("a path begins with a slash", ""))?;
    path.split('/').map(decode).collect()
}

fn capture(pattern: &str, segments: &[String]) -> Option<Vec<String>> {
    let mut captured = Vec::new();
    let mut wanted = pattern.trim_start_matches('/').split('/');
    for segment in segments {
        let want = wanted.next()?;
        if want.starts_with('{') {
            if segment.is_empty() {
                return None;
            }
            captured.push(segment.clone());
        } else if want != segment {
            return None;
        }
    }
    wanted.next().is_none().then_some(captured)
}

/// Percent-decoding, strict: two digits behind each sign, text in UTF-8, no control characters.
fn decode(text: &str) -> Result<String, Trouble> {
    let bad = || Trouble::bad("the address is not encoded rightly", "encode characters as %XX of UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return Err(bad()) };
        let digit = |b: u8| (b as char).to_digit(16);
        let (high, low) = digit(*high).zip(digit(*low)).ok_or_else(bad)?;
        bytes.push((high * 16 + low) as u8);
        rest = tail;
    }
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    if text.chars().any(char::is_control) { Err(bad()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &str, path: &str, owner: bool) -> Result<Vec<String>, u16> {
        find(&method.parse().unwrap(), path, owner)
            .map(|(_, captured)| captured)
            .map_err(|t| t.into_response().status().as_u16())
    }

    #[test]
    fn paths_lead_to_one_route_or_say_why_not() {
        assert_eq!(status("GET", "/v1/services", true), Ok(vec![]));
        let six = "/v1/services/tcp/%5B2001:db8::10%5D:80/reals/10.0.0.11%3A8080";
        let captured = vec!["tcp".to_owned(), "[2001:db8::10]:80".into(), "10.0.0.11:8080".into()];
        assert_eq!(status("DELETE", six, true), Ok(captured));
        assert_eq!(status("HEAD", "/v1/status", false), Ok(vec![]));
        for (method, path, owner, wanted) in [
            ("GET", "/", true, 404),
            ("GET", "/v1", true, 404),
            ("GET", "/v1/services/", true, 404),
            ("GET", "//v1/services", true, 404),
            ("GET", "/v1/../v1/services", true, 404),
            ("GET", "/v1/%2e%2e/services", true, 404),
            ("GET", "/v1%2fservices", true, 404),
            ("GET", "/v1/proc/..%2f..%2fetc%2fpasswd/x", true, 404),
            ("GET", "/v1/services/tcp/%00", true, 400),
            ("GET", "/v1/services/tcp/%zz", true, 400),
            ("GET", "/v1/services/tcp/%f", true, 400),
            ("GET", "/v1/services/tcp/%ff", true, 400),
            ("DELETE", "/v1/services", true, 405),
            ("PATCH", "/v1/status", true, 405),
            ("GET", "/v1/config", false, 403),
            ("POST", "/v1/ipvsadm", false, 403),
        ] {
            assert_eq!(status(method, path, owner), Err(wanted), "{method} {path}");
        }
    }

    #[test]
    fn what_stands_behind_the_question_mark_is_known_or_refused() {
        let ask = |path: &str| {
            let (parts, ()) = hyper::Request::get(path).body(()).unwrap().into_parts();
            let (route, captured) = find(&parts.method, parts.uri.path(), true)?;
            route.knows(&Call::new(&parts, captured, Bytes::new())?)
        };
        for fine in [
            "/v1/connections?state=CLOSE&limit=1",
            "/metrics?compat=node",
            "/v1/config?format=toml",
            "/v1/status?",
        ] {
            assert!(ask(fine).is_ok(), "{fine}");
        }
        for typo in [
            "/v1/connections?sate=CLOSE",
            "/v1/connections?limit=1&limit=2",
            "/v1/status?x",
            "/v1/config?dryrun=1",
        ] {
            assert_eq!(ask(typo).unwrap_err().into_response().status(), StatusCode::BAD_REQUEST, "{typo}");
        }
    }

    #[test]
    fn what_is_public_changes_nothing() {
        for route in all().iter().filter(|r| r.public) {
            assert_eq!(route.method, Method::GET, "{}", route.path);
        }
    }
}
