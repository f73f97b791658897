//! Addresses: MAC, address with prefix, end-point. IP addresses are `std::net::IpAddr`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// True for broadcast and multicast addresses (group bit set).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
    /// The Ethernet group address of an IPv6 multicast address (RFC 2464 section 7).
    pub fn of_multicast6(ip: Ipv6Addr) -> Mac {
        let o = ip.octets();
        Mac([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl FromStr for Mac {
    type Err = String;
    fn from_str(s: &str) -> Result<Mac, String> {
        let mut m = [0u8; 6];
        let mut parts = s.split(':');
        for byte in &mut m {
            let part = parts.next().unwrap_or("");
            *byte = (part.len() <= 2)
                .then(|| u8::from_str_radix(part, 16).ok())
                .flatten()
                .ok_or_else(|| format!("`{s}` is not a MAC address such as 02:00:00:00:00:01"))?;
        }
        match parts.next() {
            None => Ok(Mac(m)),
            Some(_) => Err(format!("`{s}` is not a MAC address such as 02:00:00:00:00:01")),
        }
    }
}

/// An address with its prefix length, such as `192.0.2.2/24`; host bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The address, host bits included.
    pub addr: IpAddr,
    /// Prefix length in bits, at most 32 or 128.
    pub len: u8,
}

impl Cidr {
    /// An address with a prefix length; `None` when the length does not fit the family.
    pub fn new(addr: IpAddr, len: u8) -> Option<Cidr> {
        (len <= if addr.is_ipv4() { 32 } else { 128 }).then_some(Cidr { addr, len })
    }
    /// The address alone: /32 or /128.
    pub fn host(addr: IpAddr) -> Cidr {
        Cidr { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }
    /// True when `ip` is of the same family and inside the network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        mask(self.addr, self.len) == mask(ip, self.len) && self.addr.is_ipv4() == ip.is_ipv4()
    }
    /// The network address: host bits cleared.
    pub fn network(&self) -> IpAddr {
        mask(self.addr, self.len)
    }
    /// The IPv4 directed broadcast address of networks up to /30.
    pub fn broadcast4(&self) -> Option<Ipv4Addr> {
        match self.addr {
            IpAddr::V4(a) if self.len <= 30 => {
                Some(Ipv4Addr::from(u32::from(a) | u32::MAX.checked_shr(self.len.into()).unwrap_or(0)))
            }
            _ => None,
        }
    }
}

/// `ip` with all bits after the first `len` cleared.
pub fn mask(ip: IpAddr, len: u8) -> IpAddr {
    match ip {
        IpAddr::V4(a) => {
            let m = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(a) & m))
        }
        IpAddr::V6(a) => {
            let m = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(a) & m))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(s: &str) -> Result<Cidr, String> {
        let bad = || format!("`{s}` is not an address with prefix such as 192.0.2.2/24 or 2001:db8::2/64");
        let (a, l) = s.split_once('/').ok_or_else(bad)?;
        Cidr::new(a.parse().map_err(|_| bad())?, l.parse().map_err(|_| bad())?).ok_or_else(bad)
    }
}

/// An address and port, printed as `192.0.2.1:80` or `[2001:db8::1]:80`.
pub type Endpoint = std::net::SocketAddr;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_keeps_host_bits_and_knows_its_network() {
        let c: Cidr = "192.0.2.77/24".parse().unwrap();
        assert_eq!(c.to_string(), "192.0.2.77/24");
        assert_eq!(c.network().to_string(), "192.0.2.0");
        assert!(c.contains("192.0.2.1".parse().unwrap()));
        assert!(!c.contains("192.0.3.1".parse().unwrap()));
        assert!(!c.contains("::c000:201".parse().unwrap()));
        assert_eq!(c.broadcast4().unwrap().to_string(), "192.0.2.255");
        assert!("192.0.2.1/33".parse::<Cidr>().is_err());
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("8.8.8.8".parse().unwrap()));
    }

    #[test]
    fn mac_round_trips_and_rejects_nonsense() {
        let m: Mac = "02:00:00:00:01:fe".parse().unwrap();
        assert_eq!(m.to_string(), "02:00:00:00:01:fe");
        for bad in ["", "02:00:00:00:01", "02:00:00:00:01:fe:00", "gg:00:00:00:00:00", "002:0:0:0:0:0"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
