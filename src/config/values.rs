//! Forms of values: durations, addresses, ranges. Parsers that say what is wrong and show it right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::diag::Complaint;
use crate::addr::{Cidr, Mac};
use crate::host::AddrRange;
use crate::time::Span;

/// Forms of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A name for people.
    Name,
    /// A file.
    Path,
    /// `127.0.0.1:9980`
    Socket,
    /// `15m`
    Duration,
    /// `50us`
    Microseconds,
    /// Name of a network interface.
    Interface,
    /// An Ethernet address.
    Mac,
    /// An Ethernet address or `inherit`.
    MacOrInherit,
    /// An IP address.
    Ip,
    /// An IPv4 address.
    Ip4,
    /// An IPv6 address.
    Ip6,
    /// An address with prefix length.
    Cidr,
    /// An address with or without prefix length.
    CidrOrIp,
    /// `8000-8099` or `80`
    Ports,
    /// `10.0.0.1-10.0.0.9` or one address
    Range,
    /// Address and port.
    Endpoint,
    /// Address with or without port.
    EndpointOrIp,
}

impl Form {
    /// Regular expression (ECMA 262) for the JSON schema; loose where the checker is strict.
    pub fn pattern(self) -> Option<&'static str> {
        Some(match self {
            Form::Name | Form::Path => return None,
            Form::Interface => "^[^\\s/:]{1,15}$",
            Form::Duration => "^[0-9]+(ms|s|m|h|d)$",
            Form::Microseconds => "^[0-9]+(us|ms)$",
            Form::Mac => "^([0-9A-Fa-f]{1,2}:){5}[0-9A-Fa-f]{1,2}$",
            Form::MacOrInherit => "^(inherit|([0-9A-Fa-f]{1,2}:){5}[0-9A-Fa-f]{1,2})$",
            Form::Ip => "^[0-9A-Fa-f.:]+$",
            Form::Ip4 => "^[0-9.]+$",
            Form::Ip6 => "^[0-9A-Fa-f.:]+$",
            Form::Cidr => "^[0-9A-Fa-f.:]+/[0-9]{1,3}$",
            Form::CidrOrIp => "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$",
            Form::Ports => "^[0-9]{1,5}(-[0-9]{1,5})?$",
            Form::Range => "^[0-9A-Fa-f.:]+(-[0-9A-Fa-f.:]+)?$",
            Form::Socket | Form::Endpoint => "^([0-9.]+|\\[[0-9A-Fa-f.:]+\\]):[0-9]{1,5}$",
            Form::EndpointOrIp => {
                "^([0-9.]+(:[0-9]{1,5})?|\\[[0-9A-Fa-f.:]+\\](:[0-9]{1,5})?|[0-9A-Fa-f.:]+)$"
            }
        })
    }
}

/// Longest duration that is accepted: what a 32-bit count of seconds of `ipvsadm` bears, a year.
pub const MAX_SECONDS: u64 = 31_535_999;

/// `250ms`, `30s`, `15m`, `1h`, `1d`.
///
/// # Errors
/// What is wrong with it.
pub fn duration(s: &str) -> Result<Span, Complaint> {
    let bad = |why: &str| {
        Complaint::new(
            format!("`{s}` is not a duration{why}"),
            "write a whole number with its unit: \"250ms\", \"30s\", \"15m\", \"1h\" or \"1d\"",
        )
    };
    let digits = s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = s.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if !number.is_empty() => return Err(bad(": the unit is missing")),
        _ => return Err(bad("")),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(|| bad(""))?;
    if ms > MAX_SECONDS * 1000 {
        return Err(Complaint::new(format!("`{s}` is too long"), "the longest is 365 days less a second"));
    }
    Ok(Span::from_millis(ms))
}

/// A timeout: at least a second.
///
/// # Errors
/// What is wrong with it.
pub fn timeout(s: &str) -> Result<Span, Complaint> {
    let span = duration(s)?;
    if span.as_millis() < 1000 || span.as_millis() % 1000 != 0 {
        return Err(Complaint::new(
            format!("`{s}` is not a timeout: it must be whole seconds, at least one"),
            "timeouts of connections count in seconds, as `ipvsadm --set` does",
        ));
    }
    Ok(span)
}

/// A short time in microseconds, from 1 us to 100 ms.
///
/// # Errors
/// What is wrong with it.
pub fn microseconds(s: &str) -> Result<u32, Complaint> {
    short_time(s, 1)
}

fn short_time(s: &str, least: u32) -> Result<u32, Complaint> {
    let (number, factor) = match (s.strip_suffix("us"), s.strip_suffix("ms")) {
        (Some(n), _) => (n, 1),
        (_, Some(n)) => (n, 1000),
        _ => ("", 1),
    };
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let us = number.parse::<u32>().ok().filter(|_| digits).and_then(|n| n.checked_mul(factor));
    us.filter(|us| (least..=100_000).contains(us)).ok_or_else(|| {
        let why = format!("`{s}` is not a time from {least}us to 100ms");
        Complaint::new(why, "write it as \"50us\" or \"1ms\"")
    })
}

/// How long a worker looks for packets: `0us`, `100us`, `1ms`.
///
/// # Errors
/// What is wrong with it.
pub fn linger(s: &str) -> Result<Span, Complaint> {
    short_time(s, 0).map(|us| Span::from_micros(us.into()))
}

/// An IP address.
///
/// # Errors
/// What is wrong with it.
pub fn ip(s: &str) -> Result<IpAddr, Complaint> {
    s.parse().map_err(|_| {
        let help = if s.contains('/') { "write the address alone, without prefix length" } else { "" };
        let help = if help.is_empty() { "write it as 192.0.2.1 or 2001:db8::1" } else { help };
        Complaint::new(format!("`{s}` is not an IP address"), help)
    })
}

/// An IPv4 address.
///
/// # Errors
/// What is wrong with it.
pub fn ip4(s: &str) -> Result<Ipv4Addr, Complaint> {
    match ip(s)? {
        IpAddr::V4(a) => Ok(a),
        IpAddr::V6(_) => Err(Complaint::new(
            format!("`{s}` is an IPv6 address, IPv4 is meant here"),
            "the IPv6 gateway belongs to `gateway6`",
        )),
    }
}

/// An IPv6 address.
///
/// # Errors
/// What is wrong with it.
pub fn ip6(s: &str) -> Result<Ipv6Addr, Complaint> {
    match ip(s)? {
        IpAddr::V6(a) => Ok(a),
        IpAddr::V4(_) => Err(Complaint::new(
            format!("`{s}` is an IPv4 address, IPv6 is meant here"),
            "the IPv4 gateway belongs to `gateway`",
        )),
    }
}

/// An address with its prefix length.
///
/// # Errors
/// What is wrong with it.
pub fn cidr(s: &str) -> Result<Cidr, Complaint> {
    s.parse::<Cidr>().map_err(|_| {
        let (address, length) = s.split_once('/').unwrap_or((s, ""));
        match (address.parse::<IpAddr>(), length) {
            (Ok(a), "") => Complaint::new(
                format!("`{s}` has no prefix length"),
                format!(
                    "write it with the size of its network, such as {a}/{}",
                    if a.is_ipv4() { 24 } else { 64 }
                ),
            ),
            (Ok(a), _) => Complaint::new(
                format!("`/{length}` is not a prefix length of {a}"),
                format!("it is 0 to {}", if a.is_ipv4() { 32 } else { 128 }),
            ),
            (Err(_), _) => Complaint::new(
                format!("`{s}` is not an address with prefix length"),
                "write it as 192.0.2.2/24 or 2001:db8::2/64",
            ),
        }
    })
}

/// An address with or without its prefix length.
///
/// # Errors
/// What is wrong with it.
pub fn cidr_or_ip(s: &str) -> Result<Cidr, Complaint> {
    if s.contains('/') { cidr(s) } else { ip(s).map(Cidr::host) }
}

/// The path of a file.
///
/// # Errors
/// There is none.
pub fn path(s: &str) -> Result<String, Complaint> {
    if s.is_empty() || s.contains('\0') {
        return Err(Complaint::new("it names no file", "write the path of a file"));
    }
    Ok(s.to_owned())
}

/// A MAC address that a station can have.
///
/// # Errors
/// What is wrong with it.
pub fn mac(s: &str) -> Result<Mac, Complaint> {
    let mac: Mac = s.parse().map_err(|_| {
        Complaint::new(format!("`{s}` is not a MAC address"), "write it as 02:00:00:00:00:01")
    })?;
    if mac.is_group() {
        return Err(Complaint::new(
            format!("`{s}` is a group address, no station can have it"),
            "the first byte must be even; 02 begins a local address",
        ));
    }
    if mac == Mac::default() {
        return Err(Complaint::new(
            format!("`{s}` is nobody's address"),
            "write one such as 02:00:00:00:00:01",
        ));
    }
    Ok(mac)
}

/// Name of a network interface as the kernel allows it.
///
/// # Errors
/// What is wrong with it.
pub fn interface(s: &str) -> Result<String, Complaint> {
    let bad = s.is_empty()
        || s.len() > 15
        || s == "."
        || s == ".."
        || s.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%'));
    if bad {
        return Err(Complaint::new(
            format!("`{s}` cannot be the name of an interface"),
            "1 to 15 characters, without spaces, `/`, `:` and `%`",
        ));
    }
    Ok(s.to_owned())
}

/// A name for people: anything printable.
///
/// # Errors
/// What is wrong with it.
pub fn name(s: &str) -> Result<String, Complaint> {
    if s.is_empty() || s.chars().count() > 64 || s.chars().any(char::is_control) {
        return Err(Complaint::new(format!("`{s}` cannot be a name"), "1 to 64 printable characters"));
    }
    Ok(s.to_owned())
}

/// An address with a port.
///
/// # Errors
/// What is wrong with it.
pub fn endpoint(s: &str) -> Result<(IpAddr, u16), Complaint> {
    match endpoint_or_ip(s)? {
        (ip, Some(port)) => Ok((ip, port)),
        (ip, None) => {
            let shown = SocketAddr::new(ip, 80);
            Err(Complaint::new(
                format!("`{s}` has no port"),
                format!("write it with its port, such as \"{shown}\""),
            ))
        }
    }
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
///
/// # Errors
/// What is wrong with it.
pub fn endpoint_or_ip(s: &str) -> Result<(IpAddr, Option<u16>), Complaint> {
    if let Ok(ip) = s.parse::<IpAddr>() {
        return Ok((ip, None));
    }
    if let Some(inner) = s.strip_prefix('[').and_then(|r| r.strip_suffix(']'))
        && let Ok(ip) = inner.parse::<Ipv6Addr>()
    {
        return Ok((ip.into(), None));
    }
    let bad = |why: &str, help: &str| Complaint::new(format!("`{s}` is not ADDRESS:PORT{why}"), help);
    let (address, port) = s.rsplit_once(':').ok_or_else(|| {
        bad("", "write it as \"192.0.2.10:80\" or \"[2001:db8::10]:80\"; names are not looked up")
    })?;
    let bare = address.strip_prefix('[').and_then(|r| r.strip_suffix(']'));
    let ip: IpAddr = match bare {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| ()),
        None => address.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| ()),
    }
    .map_err(|()| {
        if bare.is_none() && address.parse::<Ipv6Addr>().is_ok() {
            bad(": an IPv6 address needs brackets before a port", &format!("write \"[{address}]:{port}\""))
        } else {
            bad("", "write it as \"192.0.2.10:80\" or \"[2001:db8::10]:80\"; names are not looked up")
        }
    })?;
    let port = port
        .parse::<u16>()
        .map_err(|_| bad(&format!(": `{port}` is not a port"), "a port is a number from 0 to 65535"))?;
    Ok((ip, Some(port)))
}

/// An address and port to listen on.
///
/// # Errors
/// What is wrong with it.
pub fn socket(s: &str) -> Result<SocketAddr, Complaint> {
    endpoint(s).map(|(ip, port)| SocketAddr::new(ip, port))
}

/// `8000-8099` or `80`.
///
/// # Errors
/// What is wrong with it.
pub fn ports(s: &str) -> Result<(u16, u16), Complaint> {
    let (first, last) = s.split_once('-').unwrap_or((s, s));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        (Ok(first), Ok(last)) => {
            Err(Complaint::new(format!("`{s}` ends before it begins"), format!("write \"{last}-{first}\"")))
        }
        _ => Err(Complaint::new(format!("`{s}` is not a range of ports"), "write \"80\" or \"8000-8099\"")),
    }
}

/// Most addresses in one range of local addresses.
pub const MAX_RANGE: u128 = 65_536;

/// `10.0.0.100-10.0.0.107` or one address.
///
/// # Errors
/// What is wrong with it.
pub fn range(s: &str) -> Result<AddrRange, Complaint> {
    let (first, last) = s.split_once('-').unwrap_or((s, s));
    let (first, last) = match (first.trim().parse::<IpAddr>(), last.trim().parse::<IpAddr>()) {
        (Ok(f), Ok(l)) => (f, l),
        _ => {
            return Err(Complaint::new(
                format!("`{s}` is not a range of addresses"),
                "write \"10.0.0.100-10.0.0.107\" or one address",
            ));
        }
    };
    if first.is_ipv4() != last.is_ipv4() {
        return Err(Complaint::new(
            format!("`{s}` begins and ends in different address families"),
            "write one range for IPv4 and one for IPv6",
        ));
    }
    if number(first) > number(last) {
        return Err(Complaint::new(
            format!("`{s}` ends before it begins"),
            format!("write \"{last}-{first}\""),
        ));
    }
    if number(last) - number(first) >= MAX_RANGE {
        return Err(Complaint::new(
            format!("`{s}` has more than {MAX_RANGE} addresses"),
            "each address gives over 60,000 ports towards every real server; a few are enough",
        ));
    }
    Ok(AddrRange { first, last })
}

/// An address as a number, for ranges.
pub fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Span::from_millis(250)));
        assert_eq!(duration("15m"), Ok(Span::from_secs(900)));
        assert_eq!(duration("1d"), Ok(Span::from_secs(86_400)));
        for bad in ["", "5", "m", "-5s", "5 s", "1.5s", "5x", "99999999999999999999s", "400d", "٣s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(timeout("1500ms").is_err() && timeout("0s").is_err() && timeout("2000ms").is_ok());
    }

    #[test]
    fn endpoints_of_both_families() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert_eq!(endpoint("192.0.2.1:80"), Ok((ip("192.0.2.1"), 80)));
        assert_eq!(endpoint("[2001:db8::1]:443"), Ok((ip("2001:db8::1"), 443)));
        assert_eq!(endpoint_or_ip("2001:db8::1"), Ok((ip("2001:db8::1"), None)));
        assert_eq!(endpoint_or_ip("[2001:db8::1]"), Ok((ip("2001:db8::1"), None)));
        for bad in ["", ":80", "192.0.2.1:", "192.0.2.1:65536", "[192.0.2.1]:80", "web:80", "2001:db8::1:x"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_are_of_one_family_and_in_order() {
        assert!(range("10.0.0.1-10.0.0.9").is_ok() && range("10.0.0.1").is_ok());
        for bad in ["10.0.0.9-10.0.0.1", "10.0.0.1-::2", "10.0.0.1-", "10.0.0.0-11.0.0.0", "a-b"] {
            assert!(range(bad).is_err(), "{bad}");
        }
        assert_eq!(ports("80"), Ok((80, 80)));
        assert!(ports("90-80").is_err() && ports("x").is_err());
    }

    #[test]
    fn a_station_has_no_group_address() {
        assert!(mac("02:00:00:00:00:01").is_ok());
        for bad in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "x"] {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }
}
