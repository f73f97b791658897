//! What is refused before anything is looked at: names that are not ours (DNS rebinding), other sites
//! (cross-site requests), changes over TCP, and changes that a plain form could send.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Version};

use super::answer::Trouble;

/// How far the other end of a connection is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Through the control socket, by its owner: everything.
    Owner,
    /// Over TCP on this address: only to look.
    Reader(SocketAddr),
}

impl Trust {
    /// True when it may change something.
    pub fn may_change(&self) -> bool {
        *self == Trust::Owner
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
    if let Trust::Reader(here) = trust
        && !host.is_none_or(|h| host_is_ours(h, *here))
    {
        return Err(Trouble::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this is not the host that was asked for",
            format!("ask for http://{here}/ or http://localhost:{}/", here.port()),
        ));
    }
    if let Some(origin) = one(&parts.headers, ORIGIN.as_str())? {
        let name = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let ours = match trust {
            // no page comes through a socket
            Trust::Owner => false,
            Trust::Reader(here) => name.is_some_and(|n| host_is_ours(n, *here)),
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
    if !looks && parts.method != Method::DELETE {
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

/// The address that is listened on, or localhost; a name could be made to lead here by anybody.
fn host_is_ours(host: &str, here: SocketAddr) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port.parse::<u16>().ok()),
        _ => (host, Some(80)),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse::<IpAddr>();
    port == Some(here.port())
        && (name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip == here.ip() || ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn names_that_are_not_ours_are_refused_over_tcp() {
        let tcp = Trust::Reader("127.0.0.1:9980".parse().unwrap());
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
        let tcp = Trust::Reader("127.0.0.1:9980".parse().unwrap());
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
        let tcp = Trust::Reader("127.0.0.1:9980".parse().unwrap());
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            assert_eq!(ask(&tcp, method, &[("host", "localhost:9980"), json]), 403, "{method}");
        }
    }
}
