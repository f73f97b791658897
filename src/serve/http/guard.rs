//! What is refused before anything is looked at: names that are not ours (DNS rebinding), those without a
//! token, other sites (cross-site requests), changes over TCP, and changes that a plain form could send.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Version};

use tracing::warn;

use super::answer::Trouble;
use crate::serve::entry::{Admission, Entry, Pass};
use crate::worker::clock;

/// How far the other end of a connection is trusted.
#[derive(Clone)]
pub enum Trust {
    /// Through the control socket, by its owner: everything.
    Owner,
    /// Over TCP: only to look.
    Reader(Visitor),
}

/// The other end of a TCP connection.
#[derive(Clone)]
pub struct Visitor {
    /// Where it came to.
    pub here: SocketAddr,
    /// Where it comes from.
    pub peer: IpAddr,
    /// TLS is spoken.
    pub tls: bool,
    /// Who decides about it.
    pub entry: Arc<Entry>,
}

impl Trust {
    /// True when it may change something.
    pub fn may_change(&self) -> bool {
        matches!(self, Trust::Owner)
    }
    /// By what an answer that goes on and on may go on.
    pub fn pass(&self, headers: &HeaderMap) -> Option<Pass> {
        let Trust::Reader(visitor) = self else { return None };
        Some(visitor.entry.pass(headers.get(AUTHORIZATION).map(|v| v.as_bytes())))
    }
}

/// Checks the head of a request.
///
/// # Errors
/// Why it is refused.
pub fn check(parts: &Parts, trust: &Trust) -> Result<(), Trouble> {
    if parts.version != Version::HTTP_11 && parts.version != Version::HTTP_10 {
        return Err(Trouble::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 is spoken here", ""));
    }
    let hosts = parts.headers.get_all(HOST).iter().count();
    let host = one(&parts.headers, HOST.as_str())?;
    if hosts > 1 || parts.version == Version::HTTP_11 && hosts == 0 {
        return Err(Trouble::bad("a request has one Host header", ""));
    }
    // RFC 9112 section 3.2.2: a whole URI in the request line says whom it is for, whatever Host says
    let host = parts.uri.authority().map(|a| a.as_str()).or(host);
    if let Trust::Reader(visitor) = trust {
        if !host.is_none_or(|h| visitor.asks_for_us(h)) {
            return Err(visitor.misdirected());
        }
        visitor.admitted(&parts.headers)?;
    }
    if let Some(origin) = one(&parts.headers, ORIGIN.as_str())? {
        let name = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let ours = match trust {
            // no page comes through a socket
            Trust::Owner => false,
            Trust::Reader(visitor) => name.is_some_and(|n| visitor.asks_for_us(n)),
        };
        if !ours {
            return Err(Trouble::new(StatusCode::FORBIDDEN, "requests of other sites are refused", ""));
        }
    }
    let looks = matches!(parts.method, Method::GET | Method::HEAD);
    if !looks && !trust.may_change() {
        return Err(Trouble::new(
            StatusCode::FORBIDDEN,
            "over TCP one may look and not touch",
            "use the control socket: curl --unix-socket PATH http://localhost/v1/...",
        ));
    }
    // other methods are no route's, and are told so
    if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
        let kind = one(&parts.headers, CONTENT_TYPE.as_str())?.unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        if !matches!(kind, "application/json" | "application/toml") {
            return Err(Trouble::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "a change needs a content type that no plain form sends",
                "add -H 'content-type: application/json' (or application/toml for a configuration)",
            ));
        }
    }
    Ok(())
}

fn one<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Trouble> {
    let value = headers.get(name).map(|v| v.to_str());
    value.transpose().map_err(|_| Trouble::bad(format!("header {name} is not text"), ""))
}

impl Visitor {
    /// The address that was come to, a name of the certificate, or localhost on this host; any other name
    /// could be made to lead here by anybody.
    fn asks_for_us(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port.parse::<u16>().ok()),
            _ => (host, Some(if self.tls { 443 } else { 80 })),
        };
        if port != Some(self.here.port()) {
            return false;
        }
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let here = self.here.ip().to_canonical();
        let of_this_host = || match bare.parse::<IpAddr>() {
            Ok(ip) => ip == here || here.is_loopback() && ip.is_loopback(),
            Err(_) => here.is_loopback() && name.eq_ignore_ascii_case("localhost"),
        };
        of_this_host() || self.entry.names(bare)
    }
    fn misdirected(&self) -> Trouble {
        let here = self.here;
        let scheme = if self.tls { "https" } else { "http" };
        let mut help = format!("ask for {scheme}://{here}/");
        if here.ip().to_canonical().is_loopback() {
            help += &format!(" or {scheme}://localhost:{}/", here.port());
        }
        if self.tls {
            help += ", or by a name of the certificate";
        }
        Trouble::new(StatusCode::MISDIRECTED_REQUEST, "this is not the host that was asked for", help)
    }
    /// It has a token where one is asked for; the answer does not say what is wrong with another one.
    fn admitted(&self, headers: &HeaderMap) -> Result<(), Trouble> {
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let one = shown.next().filter(|_| shown.next().is_none());
        match self.entry.admit(clock::now(), self.peer, one.map(|v| v.as_bytes())) {
            Admission::Granted => Ok(()),
            Admission::Refused => Err(Trouble::new(
                StatusCode::UNAUTHORIZED,
                "a token is asked for here",
                "send the header authorization: Bearer TOKEN",
            )
            .header("www-authenticate", "Bearer realm=\"softlvs\"".to_owned())),
            Admission::TooMany(first) => {
                if first {
                    warn!(peer = %self.peer, "too many wrong tokens: it is not listened to for a second");
                }
                let status = StatusCode::TOO_MANY_REQUESTS;
                Err(Trouble::new(status, "too many wrong tokens", "wait a second")
                    .header("retry-after", "1".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::plan::{HttpPlan, TlsFiles};

    fn ask(trust: &Trust, method: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = hyper::Request::builder().method(method).uri("/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        match check(&parts, trust) {
            Ok(()) => 200,
            Err(trouble) => trouble.into_response().status().as_u16(),
        }
    }

    /// Over TCP, as `plan` has it.
    fn tcp(here: &str, token_file: Option<String>, tls: Option<TlsFiles>) -> Trust {
        let here: SocketAddr = here.parse().unwrap();
        let tls_spoken = tls.is_some();
        let entry = Entry::open(HttpPlan { address: here, token_file, tls }).unwrap();
        let peer = "10.0.0.9".parse().unwrap();
        Trust::Reader(Visitor { here, peer, tls: tls_spoken, entry: Arc::new(entry) })
    }

    fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    #[test]
    fn a_whole_uri_says_whom_a_request_is_for() {
        let tcp = tcp("127.0.0.1:9980", None, None);
        let status = |uri: &str| {
            let request = hyper::Request::get(uri).header("host", "localhost:9980").body(()).unwrap();
            check(&request.into_parts().0, &tcp).map_err(|t| t.into_response().status().as_u16())
        };
        assert_eq!(status("http://localhost:9980/v1/status"), Ok(()));
        assert_eq!(status("http://evil.example/v1/status"), Err(421));
        assert_eq!(status("http://evil.example:9980/v1/status"), Err(421));
    }

    #[test]
    fn a_token_is_asked_for_in_one_header_and_guessing_ends() {
        let folder = tempfile::tempdir().unwrap();
        let tcp = tcp("127.0.0.1:9980", Some(file(&folder, "t", "0123456789abcdef\n")), None);
        let host = ("host", "localhost:9980");
        let right = ("authorization", "Bearer 0123456789abcdef");
        assert_eq!(ask(&tcp, "GET", &[host, right]), 200);
        // what is refused for another reason is refused with a token too
        assert_eq!(ask(&tcp, "POST", &[host, right, ("content-type", "application/json")]), 403);
        assert_eq!(ask(&tcp, "GET", &[("host", "evil.example:9980"), right]), 421);
        assert_eq!(ask(&tcp, "GET", &[host, right, ("origin", "http://evil.example")]), 403);
        for wrong in
            [&[host][..], &[host, right, right], &[host, ("authorization", "Bearer 0123456789abcdee")]]
        {
            assert_eq!(ask(&tcp, "GET", wrong), 401);
        }
        // within how many depends on the clock
        assert!((0..10_000).any(|_| ask(&tcp, "POST", &[host]) == 429));
    }

    #[test]
    fn the_answer_to_those_without_a_token_says_how_to_ask_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let Trust::Reader(visitor) =
            tcp("127.0.0.1:9980", Some(file(&folder, "t", "0123456789abcdef")), None)
        else {
            unreachable!()
        };
        let (parts, _) = visitor.admitted(&HeaderMap::new()).unwrap_err().into_response().into_parts();
        assert_eq!(parts.headers["www-authenticate"], "Bearer realm=\"softlvs\"");
    }

    #[test]
    fn with_tls_the_names_of_the_certificate_are_ours() {
        let folder = tempfile::tempdir().unwrap();
        let pem = file(&folder, "pem", include_str!("../../../tests/probe/server.pem"));
        let tls = TlsFiles { certificate: pem.clone(), key: pem };
        let tcp = tcp("192.0.2.2:9980", None, Some(tls));
        for (host, status) in [
            ("www.example.org:9980", 200),
            ("WWW.example.org:9980", 200),
            ("192.0.2.2:9980", 200),
            ("www.example.org", 421),
            ("example.org:9980", 421),
            ("a.www.example.org:9980", 421),
            ("localhost:9980", 421),
            ("127.0.0.1:9980", 421),
            ("192.0.2.3:9980", 421),
            ("[::1]:9980", 421),
        ] {
            assert_eq!(ask(&tcp, "GET", &[("host", host)]), status, "{host}");
        }
        let from = |origin| ask(&tcp, "GET", &[("host", "www.example.org:9980"), ("origin", origin)]);
        assert_eq!(from("https://www.example.org:9980"), 200);
        assert_eq!(from("https://example.org:9980"), 403);
    }

    #[test]
    fn names_that_are_not_ours_are_refused_over_tcp() {
        let tcp = tcp("127.0.0.1:9980", None, None);
        for (host, status) in [
            ("127.0.0.1:9980", 200),
            ("localhost:9980", 200),
            ("LOCALHOST:9980", 200),
            ("[::1]:9980", 200),
            ("127.0.0.1", 421),
            ("127.0.0.1:80", 421),
            ("evil.example:9980", 421),
            ("127.0.0.1.evil.example:9980", 421),
            ("localhost.evil.example:9980", 421),
            ("10.0.0.1:9980", 421),
            ("", 421),
        ] {
            assert_eq!(ask(&tcp, "GET", &[("host", host)]), status, "{host}");
            assert_eq!(ask(&Trust::Owner, "GET", &[("host", host)]), 200, "{host}");
        }
        assert_eq!(ask(&tcp, "GET", &[]), 400);
        assert_eq!(ask(&tcp, "GET", &[("host", "localhost:9980"), ("host", "x")]), 400);
    }

    #[test]
    fn other_sites_are_refused_everywhere() {
        let tcp = tcp("127.0.0.1:9980", None, None);
        let host = ("host", "localhost:9980");
        assert_eq!(ask(&tcp, "GET", &[host, ("origin", "http://localhost:9980")]), 200);
        for origin in ["http://evil.example", "null", "https://localhost:9981", "file://"] {
            assert_eq!(ask(&tcp, "GET", &[host, ("origin", origin)]), 403, "{origin}");
            assert_eq!(ask(&Trust::Owner, "GET", &[host, ("origin", origin)]), 403, "{origin}");
        }
    }

    #[test]
    fn changes_need_the_socket_and_a_content_type_no_form_sends() {
        let (host, json) = (("host", "localhost"), ("content-type", "application/json; charset=utf-8"));
        for method in ["POST", "PUT", "PATCH"] {
            assert_eq!(ask(&Trust::Owner, method, &[host, json]), 200);
            assert_eq!(ask(&Trust::Owner, method, &[host, ("content-type", "text/plain")]), 415);
            assert_eq!(ask(&Trust::Owner, method, &[host]), 415);
        }
        let tcp = tcp("127.0.0.1:9980", None, None);
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            assert_eq!(ask(&tcp, method, &[("host", "localhost:9980"), json]), 403, "{method}");
        }
    }
}
