//! Addresses, masks and numbers as `ipvsadm` reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Refusal;
use super::names::Names;
use crate::svc::{Proto, ServiceKey};

/// A decimal number as strtol(3) reads it, with blanks and a sign before it and nothing behind.
pub(super) fn number(text: &str, min: i64, max: i64) -> Option<i64> {
    let (n, rest) = strtol(text)?;
    n.filter(|n| rest.is_empty() && (min..=max).contains(n))
}

/// The number at the beginning of a text as atoi(3) reads it; 0 for none.
pub(super) fn leading_number(text: &str) -> i64 {
    strtol(text).and_then(|(n, _)| n).unwrap_or(0)
}

/// Number and rest; the number is `None` when it is too large, the whole `None` when there is none.
fn strtol(text: &str) -> Option<(Option<i64>, &str)> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let len = digits.bytes().take_while(u8::is_ascii_digit).count();
    let sign = text.len() - digits.len();
    let number = &text[..sign + len];
    (len > 0).then(|| (number.parse().ok(), &text[sign + len..]))
}

/// A firewall mark.
pub(super) fn fwmark(text: &str) -> Result<u32, Refusal> {
    number(text, 1, i64::from(u32::MAX))
        .map(|n| n as u32)
        .ok_or_else(|| Refusal::usage(format!("invalid fwmark value `{text}' specified")))
}

/// IPv4: a dotted mask, with holes or without, or whatever else inet_aton(3) reads.
pub(super) fn netmask4(text: &str, names: &Names) -> Result<u32, Refusal> {
    let mask = inet_aton(text).or_else(|| names.address(text));
    mask.map(u32::from).ok_or_else(|| Refusal::usage("illegal virtual server persistent mask specified"))
}

pub(super) fn virtual_address(proto: Proto, text: &str, names: &Names) -> Result<ServiceKey, Refusal> {
    let (ip, port) = address(Some(proto), text, names)
        .ok_or_else(|| Refusal::usage("illegal virtual server address[:port] specified"))?;
    Ok(ServiceKey::Address { proto, ip, port: port.unwrap_or(0) })
}

pub(super) fn real_address(
    proto: Option<Proto>,
    text: &str,
    names: &Names,
) -> Result<(IpAddr, Option<u16>), Refusal> {
    address(proto, text, names).ok_or_else(|| Refusal::usage("illegal real server address[:port] specified"))
}

/// `a.b.c.d[:port]`, `name[:port]`, `[v6]:port`, or a bare IPv6 address. Brackets want a port, a number
/// alone is no address (IPVS-RULES 105b).
fn address(proto: Option<Proto>, text: &str, names: &Names) -> Option<(IpAddr, Option<u16>)> {
    let port = |p: &str| {
        let n = number(p, 0, 65_535).map(|n| n as u16);
        n.or_else(|| names.port(proto?, p))
    };
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (text, bracketed) = match text.strip_prefix('[') {
        Some(inside) => {
            let (ip, rest) = inside.split_once(']')?;
            (ip, Some(rest.strip_prefix(':')?))
        }
        None => (text, None),
    };
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Some((IpAddr::V6(ip), bracketed.map(port).map_or(Some(None), |p| p.map(Some))?));
    }
    // the port behind brackets around anything else is lost, as ipvsadm loses it
    let (host, p) = text.rsplit_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
    let ip = inet_aton(host).or_else(|| names.address(host))?;
    Some((IpAddr::V4(ip), p.map(port).map_or(Some(None), |p| p.map(Some))?))
}

/// The old forms of IPv4 addresses: `1.2.3` is `1.2.0.3`, parts may be octal or hexadecimal, and what
/// stands behind a blank is not looked at (inet_aton(3); IPVS-RULES 101).
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let text = text.split([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']).next()?;
    let part = |p: &str| match p.strip_prefix("0x").or_else(|| p.strip_prefix("0X")) {
        _ if p.contains(['+', '-']) => None,
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if p.len() > 1 && p.starts_with('0') => u32::from_str_radix(p, 8).ok(),
        None => p.parse::<u32>().ok(),
    };
    let parts: Vec<u32> = text.split('.').map(part).collect::<Option<_>>()?;
    let (last, lead) = parts.split_last()?;
    if lead.len() > 3 || lead.iter().any(|p| *p > 255) {
        return None;
    }
    let room = 32 - 8 * lead.len() as u32;
    if room < 32 && *last >> room != 0 {
        return None;
    }
    let high = lead.iter().enumerate().fold(0u32, |a, (i, p)| a | p << (24 - 8 * i));
    Some(Ipv4Addr::from(high | last))
}

/// Unicast or one of our own addresses (IPVS-RULES 105c).
pub(super) fn can_be_real_server(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified()),
        IpAddr::V6(ip) => {
            let mapped = ip.to_ipv4_mapped().is_some();
            !(ip.is_multicast() || ip.is_unspecified() || ip.is_unicast_link_local() || mapped)
        }
    }
}

/// An address as ipvsadm prints it: `10.1.0.100:80`, `[2001:db8::1]:80`; with names where they are known.
pub(super) fn endpoint(ip: IpAddr, port: u16, proto: Option<Proto>, names: Option<&Names>) -> String {
    let host = names.and_then(|n| n.host(ip)).map_or_else(|| ip.to_string(), str::to_owned);
    let service = names.zip(proto).and_then(|(n, proto)| n.service(proto, port));
    let port = service.map_or_else(|| port.to_string(), str::to_owned);
    if ip.is_ipv6() { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_c_library_reads_them() {
        assert_eq!(number(" +5", 0, 9), Some(5));
        assert_eq!(number("007", 0, 9), Some(7));
        for text in ["", "-", "5 ", "0x5", "10", "-1", "99999999999999999999"] {
            assert_eq!(number(text, 0, 9), None, "{text}");
        }
        assert_eq!((leading_number("64x"), leading_number("x")), (64, 0));
    }
}
