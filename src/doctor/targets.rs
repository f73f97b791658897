//! What a client would ask of a service, so that its real servers can be asked in the client's place.

use std::net::IpAddr;

use crate::addr::Cidr;
use crate::config::Plan;
use crate::svc::{Proto, ServiceKey, ServiceSpec};

/// A port where nobody is expected to listen; who has the address refuses.
const DISCARD: u16 = 9;
/// Networks of a mark with more host bits stand for other people's addresses (a transparent cache's, a
/// router's), not for virtual ones that every real server has.
const HOST_BITS: u8 = 8;

/// The question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its protocol.
    pub proto: Proto,
    /// The virtual address, where there is one.
    pub vip: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// Somebody is to listen there; otherwise a refusal is as good an answer.
    pub listens: bool,
}

impl Target {
    /// Of a service by mark: the first address and port that the file's rule gives the mark.
    pub fn of(plan: &Plan, service: &ServiceSpec) -> Target {
        let any = |vip| Target { proto: Proto::Tcp, vip, port: DISCARD, listens: false };
        match service.key {
            ServiceKey::Address { ip, port: 0, .. } => any(Some(ip)),
            ServiceKey::Address { proto, ip, port } => Target { proto, vip: Some(ip), port, listens: true },
            ServiceKey::Mark { mark, v6 } => {
                let of_family = |to: &Cidr| to.addr.is_ipv6() == v6;
                let rule = plan.marks.iter().find(|r| r.mark == mark && r.to.as_ref().is_none_or(of_family));
                let vip = rule.and_then(|r| r.to).and_then(|to| first(&to));
                match rule.and_then(|r| r.ports) {
                    None => any(vip),
                    Some((port, _)) => Target {
                        proto: rule.and_then(|r| r.proto).unwrap_or(Proto::Tcp),
                        vip,
                        port,
                        listens: true,
                    },
                }
            }
        }
    }
}

/// The first address of a small network that a host can have.
fn first(net: &Cidr) -> Option<IpAddr> {
    let bits = if net.addr.is_ipv4() { 32 } else { 128 } - net.len;
    if bits > HOST_BITS {
        return None;
    }
    let base = net.network();
    Some(match base {
        _ if bits < 2 => base,
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) + 1).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + 1).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check;

    #[test]
    fn a_mark_is_asked_for_by_its_rule_and_a_service_of_all_ports_by_any() {
        let text = "[[port]]\ntap = \"t\"\naddresses = [\"10.0.0.2/24\", \"2001:db8::2/64\"]\n\
            [[mark]]\nmark = 7\nto = \"192.0.2.20/30\"\nports = \"8000-8099\"\nprotocol = \"sctp\"\n\
            [[mark]]\nmark = 8\nto = \"2001:db8:9::7/128\"\n\
            [[mark]]\nmark = 9\nports = \"80\"\nprotocol = \"tcp\"\n\
            [[mark]]\nmark = 10\nto = \"10.0.0.0/8\"\n\
            [[service]]\nfwmark = 7\n[[service]]\nfwmark = 8\nfamily = \"ipv6\"\n[[service]]\nfwmark = 9\n\
            [[service]]\nfwmark = 10\n[[service]]\nfwmark = 11\n\
            [[service]]\naddress = \"192.0.2.1:0\"\npersistence = { timeout = \"60s\" }\n\
            [[service]]\naddress = \"192.0.2.1:53\"\nprotocol = \"udp\"\n";
        let plan = check(text, "f").unwrap_or_else(|all| panic!("{}", all[0]));
        let ip = |t: &str| Some(t.parse().unwrap());
        let found: Vec<_> = plan.services.iter().map(|(s, _)| Target::of(&plan, s)).collect();
        let found: Vec<_> = found.iter().map(|t| (t.proto, t.vip, t.port, t.listens)).collect();
        assert_eq!(
            found,
            [
                (Proto::Sctp, ip("192.0.2.21"), 8000, true),
                (Proto::Tcp, ip("2001:db8:9::7"), 9, false),
                (Proto::Tcp, None, 80, true),
                (Proto::Tcp, None, 9, false),
                (Proto::Tcp, None, 9, false),
                (Proto::Tcp, ip("192.0.2.1"), 9, false),
                (Proto::Udp, ip("192.0.2.1"), 53, true),
            ]
        );
    }
}
