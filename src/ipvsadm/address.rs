//! Addresses, masks and numbers as `ipvsadm` reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Refusal;
use crate::svc::{Proto, ServiceKey};

/// Digits only, at most `max`.
pub(super) fn number(text: &str, max: u32) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<u32>().ok().filter(|n| digits && *n <= max)
}

pub(super) fn full_mask(key: ServiceKey) -> u8 {
    if key.is_v6() { 128 } else { 32 }
}

/// IPv4: a dotted mask; IPv6: a prefix length. Masks with holes are refused, unlike in the kernel.
pub(super) fn netmask(text: &str, v6: bool) -> Result<u8, Refusal> {
    if v6 {
        let len = number(text, 128).filter(|l| *l > 0);
        return len.map(|l| l as u8).ok_or_else(|| Refusal::usage("illegal ipv6 netmask specified"));
    }
    let mask = inet_aton(text).map(u32::from);
    mask.filter(|m| m.leading_ones() + m.trailing_zeros() >= 32).map(|m| m.leading_ones() as u8).ok_or_else(
        || Refusal::usage("illegal netmask specified: it must be a run of ones, as 255.255.255.0"),
    )
}

pub(super) fn virtual_address(proto: Proto, text: &str) -> Result<ServiceKey, Refusal> {
    let (ip, port) =
        address(text).ok_or_else(|| Refusal::usage("illegal virtual server address[:port] specified"))?;
    Ok(ServiceKey::Address { proto, ip, port: port.unwrap_or(0) })
}

pub(super) fn real_address(text: &str) -> Result<(IpAddr, Option<u16>), Refusal> {
    // brackets without a port are refused here, but not for virtual addresses (IPVS-RULES 105b)
    address(text)
        .filter(|(_, port)| port.is_some() || !text.starts_with('['))
        .ok_or_else(|| Refusal::usage("illegal real server address[:port] specified"))
}

/// `a.b.c.d[:port]`, `[v6][:port]`, or a bare IPv6 address.
fn address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let port = |p: &str| number(p, 65_535).map(|p| p as u16);
    if let Some(inside) = text.strip_prefix('[') {
        let (ip, rest) = inside.split_once(']')?;
        let ip = IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?);
        return match rest.strip_prefix(':') {
            Some(p) => Some((ip, Some(port(p)?))),
            None => rest.is_empty().then_some((ip, None)),
        };
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Some((IpAddr::V6(ip), None));
    }
    match text.split_once(':') {
        Some((ip, p)) => Some((IpAddr::V4(inet_aton(ip)?), Some(port(p)?))),
        None => Some((IpAddr::V4(inet_aton(text)?), None)),
    }
}

/// The old forms of IPv4 addresses: `1.2.3` is `1.2.0.3`, parts may be octal or hexadecimal
/// (inet_aton(3); IPVS-RULES 101).
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let part = |p: &str| match p.strip_prefix("0x").or_else(|| p.strip_prefix("0X")) {
        _ if p.starts_with(['+', '-']) => None,
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
        IpAddr::V6(ip) => !(ip.is_multicast() || ip.is_unspecified() || ip.is_unicast_link_local()),
    }
}
