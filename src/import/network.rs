//! Addresses: ranges of groups, and a port of the director that fits what was found.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most addresses of one range.
const MOST: u128 = 65_536;

/// The addresses of a configuration.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub vips: BTreeSet<IpAddr>,
    pub reals: BTreeSet<IpAddr>,
    /// A server needs a connected network.
    pub near: bool,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn ip(v4: bool, n: u128) -> IpAddr {
    if v4 { Ipv4Addr::from_bits(n as u32).into() } else { Ipv6Addr::from_bits(n).into() }
}

/// `a.b.c.d`, `a.b.c.d-e`, `a-b`, `net/len`: the addresses, the lowest first.
pub(super) fn range(text: &str) -> Option<Vec<IpAddr>> {
    if let Some((net, len)) = text.split_once('/') {
        let (net, len): (IpAddr, u32) = (net.parse().ok()?, len.parse().ok()?);
        let bits: u32 = if net.is_ipv4() { 32 } else { 128 };
        let free = bits.checked_sub(len).filter(|f| *f <= 16)?;
        let first = number(net) >> free << free;
        // the ends of an IPv4 network are nobody's
        let ends = u128::from(net.is_ipv4() && free >= 2);
        return Some((first + ends..first + (1 << free) - ends).map(|n| ip(net.is_ipv4(), n)).collect());
    }
    let (first, last) = match text.split_once('-') {
        None => (text, None),
        Some((a, b)) => (a, Some(b)),
    };
    let first: IpAddr = first.parse().ok()?;
    let last = match (last, first) {
        (None, _) => first,
        (Some(b), _) if b.contains(['.', ':']) => {
            b.parse().ok().filter(|l: &IpAddr| l.is_ipv4() == first.is_ipv4())?
        }
        // only the last part
        (Some(b), IpAddr::V4(a)) => {
            let [x, y, z, _] = a.octets();
            Ipv4Addr::new(x, y, z, b.parse().ok()?).into()
        }
        (Some(b), IpAddr::V6(a)) => {
            ip(false, a.to_bits() >> 16 << 16 | u128::from(u16::from_str_radix(b, 16).ok()?))
        }
    };
    let (a, b) = (number(first), number(last));
    (a <= b && b - a < MOST).then(|| (a..=b).map(|n| ip(first.is_ipv4(), n)).collect())
}

/// A netmask or a length of a prefix; `None` when it groups nobody.
pub(super) fn prefix(text: &str) -> Option<u32> {
    if let Ok(mask) = text.parse::<Ipv4Addr>() {
        let bits = mask.to_bits();
        return Some(bits.leading_ones()).filter(|n| bits.count_ones() == *n && *n > 0);
    }
    text.parse().ok().filter(|n| (1..=128).contains(n))
}

impl Seen {
    /// A `[[port]]` in the networks of the servers.
    pub fn port(&self, local: &BTreeSet<String>) -> String {
        let nets: BTreeSet<(bool, u128)> = self.reals.iter().map(|r| (r.is_ipv4(), net(*r))).collect();
        let nets: Vec<(bool, u128)> = match (nets.is_empty(), self.vips.first()) {
            (true, Some(vip)) => vec![(vip.is_ipv4(), net(*vip))],
            (true, None) => vec![(true, u128::from(Ipv4Addr::new(192, 0, 2, 0).to_bits()))],
            (false, _) => nets.into_iter().collect(),
        };
        let taken: BTreeSet<IpAddr> = local
            .iter()
            .filter_map(|l| range(l))
            .flatten()
            .chain(self.reals.iter().copied())
            .chain(self.vips.iter().copied())
            .collect();
        let free = |(v4, net): &(bool, u128)| {
            // from above: routers like the low ones
            let own = (2..=253u128).rev().map(|n| ip(*v4, net + n)).find(|a| !taken.contains(a))?;
            Some(format!("\"{own}/{}\"", if *v4 { 24 } else { 64 }))
        };
        let addresses: Vec<String> = nets.iter().filter_map(free).collect();
        let mut out = String::from(
            "\n# The director has addresses of its own, beside those of the host: look these over, and the device.\n",
        );
        out += &format!("[[port]]\ntap = \"tap0\"\naddresses = [{}]\n", addresses.join(", "));
        out
    }
}

fn net(of: IpAddr) -> u128 {
    let free = if of.is_ipv4() { 8 } else { 64 };
    number(of) >> free << free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_groups() {
        let all = |t: &str| range(t).map(|r| (r.len(), r[0].to_string(), r[r.len() - 1].to_string()));
        let some = |n, a: &str, b: &str| Some((n, a.to_owned(), b.to_owned()));
        assert_eq!(all("10.0.0.1"), some(1, "10.0.0.1", "10.0.0.1"));
        assert_eq!(all("10.0.0.1-10"), some(10, "10.0.0.1", "10.0.0.10"));
        assert_eq!(all("10.0.0.250-10.0.1.2"), some(9, "10.0.0.250", "10.0.1.2"));
        assert_eq!(all("10.0.0.0/30"), some(2, "10.0.0.1", "10.0.0.2"));
        assert_eq!(all("2001:db8::1-a"), some(10, "2001:db8::1", "2001:db8::a"));
        for bad in
            ["", "x", "10.0.0.9-1", "10.0.0.0/8", "10.0.0.1-300", "::/0", "10.0.0.1-::1", "10.0.0.0/99"]
        {
            assert_eq!(range(bad), None, "{bad}");
        }
        assert_eq!(
            (prefix("255.255.255.0"), prefix("24"), prefix("255.0.255.0"), prefix("0")),
            (Some(24), Some(24), None, None)
        );
    }
}
