//! Filters as people write them: `tcp and host 10.0.0.9 and port 80 and dropped`.

use std::str::FromStr;

use crate::config::diag::{Complaint, nearest};
use crate::config::values;
use crate::engine::explain::watch::{Side, Term};
use crate::engine::{DropReason, PortId};
use crate::host::NetPlan;
use crate::wire::number;

/// Conditions that all have to be met; port names are still names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    terms: Vec<Term>,
    on: Vec<String>,
}

const WORDS: [&str; 16] = [
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "host",
    "net",
    "port",
    "src",
    "dst",
    "on",
    "dropped",
    "drop",
    "and",
    "any",
    "source",
    "destination",
];
const HELP: &str = "for example `tcp and dst port 80`, `host 10.0.0.9`, `net 10.0.0.0/8 and dropped`, `drop no_route`, `on wan`";

impl FromStr for Filter {
    type Err = Complaint;
    fn from_str(text: &str) -> Result<Filter, Complaint> {
        let mut filter = Filter::default();
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let mut next = |what: &str| {
                words.next().ok_or_else(|| Complaint::new(format!("`{word}` wants {what} behind it"), HELP))
            };
            let term = match word {
                "and" | "any" => continue,
                "tcp" => Term::Proto(number::TCP),
                "udp" => Term::Proto(number::UDP),
                "sctp" => Term::Proto(number::SCTP),
                "icmp" => Term::Proto(number::ICMP),
                "dropped" => Term::Dropped,
                "drop" => Term::DroppedFor(reason(next("the name of a drop")?)?),
                "on" => {
                    filter.on.push(next("the name of a port")?.to_owned());
                    continue;
                }
                "src" | "source" | "dst" | "destination" => {
                    let side = if word.starts_with('s') { Side::Source } else { Side::Destination };
                    let kind = next("host, net or port")?;
                    end(side, kind, next("an address or a port")?)?
                }
                "host" | "net" | "port" => end(Side::Either, word, next("an address or a port")?)?,
                other => {
                    let help = match nearest(other, WORDS) {
                        Some(meant) => format!("did you mean `{meant}`? {HELP}"),
                        None => HELP.to_owned(),
                    };
                    return Err(Complaint::new(format!("`{other}` is not known in a filter"), help));
                }
            };
            filter.terms.push(term);
        }
        Ok(filter)
    }
}

fn end(side: Side, kind: &str, value: &str) -> Result<Term, Complaint> {
    match kind {
        "host" => values::ip(value).map(|ip| Term::Net(side, crate::addr::Cidr::host(ip))),
        "net" => values::cidr_or_ip(value).map(|net| Term::Net(side, net)),
        "port" => {
            let port = value.parse().ok().filter(|p| *p != 0);
            let port = port.ok_or_else(|| {
                Complaint::new(format!("`{value}` is not a port"), "a number from 1 to 65535")
            })?;
            Ok(Term::Port(side, port))
        }
        other => {
            Err(Complaint::new(format!("`{other}` is no end of a packet"), "known are: host, net, port"))
        }
    }
}

fn reason(name: &str) -> Result<DropReason, Complaint> {
    let all = DropReason::ALL;
    all.iter().find(|r| r.name() == name).copied().ok_or_else(|| {
        let help = match nearest(name, all.iter().map(|r| r.name())) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`softlvs status` lists the drops with their names".to_owned(),
        };
        Complaint::new(format!("no drop is named `{name}`"), help)
    })
}

impl Filter {
    /// The conditions for a director with these ports.
    ///
    /// # Errors
    /// A port is named that is none of its.
    pub fn terms(&self, net: &NetPlan) -> Result<Vec<Term>, Complaint> {
        let mut terms = self.terms.clone();
        for name in &self.on {
            let at = net.ports.iter().position(|p| p.name == *name).ok_or_else(|| {
                let names: Vec<_> = net.ports.iter().map(|p| p.name.as_str()).collect();
                Complaint::new(
                    format!("there is no port `{name}`"),
                    format!("the director's ports are: {}", names.join(", ")),
                )
            })?;
            terms.push(Term::On(PortId(at as u16)));
        }
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_mistakes_come_with_a_remedy() {
        let f: Filter = "tcp and src host 10.0.0.9 and port 80 and drop no_route".parse().unwrap();
        assert_eq!(
            f.terms,
            [
                Term::Proto(6),
                Term::Net(Side::Source, "10.0.0.9/32".parse().unwrap()),
                Term::Port(Side::Either, 80),
                Term::DroppedFor(DropReason::NoRoute),
            ]
        );
        assert_eq!("".parse::<Filter>().unwrap(), Filter::default());
        for (text, why, help) in [
            ("tpc", "`tpc` is not known", "did you mean `tcp`?"),
            ("host", "`host` wants an address", "for example"),
            ("src 10.0.0.9", "`src` wants", ""),
            ("port http", "`http` is not a port", "1 to 65535"),
            ("drop no_rout", "no drop is named", "did you mean `no_route`?"),
        ] {
            let c = text.parse::<Filter>().unwrap_err();
            assert!(c.why.contains(why) && c.help.contains(help), "{text}: {c:?}");
        }
        assert!("on lan".parse::<Filter>().unwrap().terms(&NetPlan::default()).is_err());
    }
}
