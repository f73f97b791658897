//! Names of hosts and services, out of the texts of `/etc/hosts` and `/etc/services`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::svc::Proto;

/// The names that are known; none by default.
#[derive(Clone, Debug, Default)]
pub struct Names {
    host_of: HashMap<IpAddr, String>,
    address_of: HashMap<String, Ipv4Addr>,
    service_of: HashMap<(Proto, u16), String>,
    port_of: HashMap<(Proto, String), u16>,
}

impl Names {
    /// Reads both files; what makes no sense is passed over, and the first word on a name counts.
    pub fn read(hosts: &str, services: &str) -> Names {
        let mut names = Names::default();
        for words in lines(hosts) {
            let [address, all @ ..] = &words[..] else { continue };
            let (Ok(ip), Some(first)) = (address.parse::<IpAddr>(), all.first()) else { continue };
            names.host_of.entry(ip).or_insert_with(|| (*first).to_owned());
            if let IpAddr::V4(ip) = ip {
                for name in all {
                    names.address_of.entry(name.to_ascii_lowercase()).or_insert(ip);
                }
            }
        }
        for words in lines(services) {
            let [name, port, aliases @ ..] = &words[..] else { continue };
            let Some((port, proto)) = port.split_once('/') else { continue };
            let proto = match proto {
                "tcp" => Proto::Tcp,
                "udp" => Proto::Udp,
                "sctp" => Proto::Sctp,
                _ => continue,
            };
            let Ok(port) = port.parse::<u16>() else { continue };
            names.service_of.entry((proto, port)).or_insert_with(|| (*name).to_owned());
            for name in std::iter::once(name).chain(aliases) {
                names.port_of.entry((proto, (*name).to_owned())).or_insert(port);
            }
        }
        names
    }
    /// The first name of an address.
    pub fn host(&self, ip: IpAddr) -> Option<&str> {
        self.host_of.get(&ip).map(String::as_str)
    }
    /// The address of a name; names are asked for IPv4 only, as ipvsadm does.
    pub fn address(&self, name: &str) -> Option<Ipv4Addr> {
        self.address_of.get(&name.to_ascii_lowercase()).copied()
    }
    /// The name of a port.
    pub fn service(&self, proto: Proto, port: u16) -> Option<&str> {
        self.service_of.get(&(proto, port)).map(String::as_str)
    }
    /// The port of a name.
    pub fn port(&self, proto: Proto, name: &str) -> Option<u16> {
        self.port_of.get(&(proto, name.to_owned())).copied()
    }
}

/// Words of each line that has any, without comments.
fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let without_comment = |line| str::split(line, '#').next().unwrap_or("");
    text.lines()
        .map(without_comment)
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .filter(|w| !w.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_on_an_address_or_a_name_counts() {
        let hosts =
            "# none\n10.1.0.1 vip v # main\n10.1.0.2 v\n10.1.0.1 other\n::1 loop\nnonsense x\n10.1.0.3\n";
        let services = "http 80/tcp www\ndomain 53/udp\nx 80/ddp\nhttp2 80/tcp\n";
        let n = Names::read(hosts, services);
        assert_eq!(n.host("10.1.0.1".parse().unwrap()), Some("vip"));
        assert_eq!(n.address("V"), Some(Ipv4Addr::new(10, 1, 0, 1)));
        assert_eq!(n.address("loop"), None);
        assert_eq!(n.host("::1".parse().unwrap()), Some("loop"));
        assert_eq!((n.port(Proto::Tcp, "www"), n.port(Proto::Udp, "www")), (Some(80), None));
        assert_eq!((n.service(Proto::Tcp, 80), n.service(Proto::Udp, 53)), (Some("http"), Some("domain")));
    }
}
