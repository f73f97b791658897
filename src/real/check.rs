//! What [`super::prepare`] would set, compared with what is there: nothing is changed.

use std::io;
use std::net::IpAddr;

use serde::Serialize;

use super::steps::Step;
use super::{Encapsulation, Role, Where};
use crate::addr::Cidr;
use crate::io::sys::netlink::{LinkInfo, Netlink, default_net};
use crate::io::sys::ns::sysctl;
use crate::wire::number;

/// One thing that the real server needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// What is needed.
    pub step: String,
    /// It is so.
    pub right: bool,
    /// What is there; where it is as needed, nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub found: String,
    /// Commands that mend it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedy: Vec<String>,
}

impl Checked {
    fn right(step: String) -> Checked {
        Checked { step, right: true, found: String::new(), remedy: Vec::new() }
    }
    fn missing(step: String, found: impl Into<String>, remedy: Vec<String>) -> Checked {
        Checked { step, right: false, found: found.into(), remedy }
    }
}

/// Looks at the calling thread's network namespace, step by step.
///
/// # Errors
/// The kernel cannot be asked.
pub fn check(role: &Role) -> io::Result<Vec<Checked>> {
    let mut nl = Netlink::open()?;
    let mut told = Vec::new();
    if let Role::Tun { encapsulation, device, .. } = role {
        let here = nl.links()?.iter().any(|l| l.name == *device);
        let listens = listens(*encapsulation)?;
        for (step, right, found) in [
            (format!("device {device} for unwrapped packets"), here, "there is no such device"),
            (format!("a program that unwraps {encapsulation} packets"), listens, "nobody listens for them"),
        ] {
            told.push(match right {
                true => Checked::right(step),
                false => Checked::missing(step, found, vec![command(role)]),
            });
        }
        if !here {
            // the rest is set up with the device
            return Ok(told);
        }
    }
    for step in role.steps() {
        told.push(match &step {
            Step::Sysctl { key, value } => setting(&step, key, value, &nl.links()?)?,
            Step::Address { device, cidr } => address(&step, device, *cidr, &mut nl)?,
            Step::LinkUp { device } => {
                let needed = format!("{device} is up");
                match nl.link(device)?.up {
                    true => Checked::right(needed),
                    false => Checked::missing(needed, "it is down", step.shell()),
                }
            }
            Step::DefaultRoute { gateway } => default_route(&step, *gateway, &mut nl)?,
            Step::NoReversePathFilter { device } => no_rp_filter(device)?,
        });
    }
    Ok(told)
}

/// The kernel takes the larger of `all` and the interface, so either may have it.
fn setting(step: &Step, key: &str, value: &str, links: &[LinkInfo]) -> io::Result<Checked> {
    let needed = format!("{key} = {value}");
    let enough = |is: &str| match (key.rsplit('.').next(), is) {
        // 2 is stricter and as silent about the VIP
        (Some("arp_ignore"), "2") => true,
        _ => is == value,
    };
    let all = sysctl(key)?;
    if enough(&all) {
        return Ok(Checked::right(needed));
    }
    let mut wrong = Vec::new();
    for link in links.iter().filter(|l| l.up && l.name != "lo") {
        let own = sysctl(&key.replacen(".all.", &format!(".{}.", link.name.replace('.', "/")), 1))?;
        if !enough(&own.clone().max(all.clone())) {
            wrong.push(format!("{own} on {}", link.name));
        }
    }
    if wrong.is_empty() && links.iter().any(|l| l.up && l.name != "lo") {
        return Ok(Checked::right(needed));
    }
    let found = [vec![format!("it is {all}")], wrong].concat().join(", ");
    Ok(Checked::missing(needed, found, step.shell()))
}

fn address(step: &Step, device: &str, cidr: Cidr, nl: &mut Netlink) -> io::Result<Checked> {
    let needed = format!("{cidr} on {device}");
    let index = nl.index(device)?;
    let links = nl.links()?;
    let mut remedy = Vec::new();
    let mut found = Vec::new();
    let mut there = false;
    for other in nl.addresses()?.into_iter().filter(|a| a.cidr.addr == cidr.addr) {
        if (other.index, other.cidr) == (index, cidr) {
            there = true;
            continue;
        }
        // a whole network on lo would make all of it this host's; on a card the VIP is announced
        let name = links.iter().find(|l| l.index == other.index).map_or("?", |l| l.name.as_str());
        found.push(format!("{} is on {name}", other.cidr));
        let ip = if cidr.addr.is_ipv4() { "ip" } else { "ip -6" };
        remedy.push(format!("{ip} addr del {} dev {name}", other.cidr));
    }
    if there && found.is_empty() {
        return Ok(Checked::right(needed));
    }
    if !there {
        remedy.extend(step.shell());
    }
    let found = if found.is_empty() { format!("{} is nowhere", cidr.addr) } else { found.join(", ") };
    Ok(Checked::missing(needed, found, remedy))
}

fn default_route(step: &Step, gateway: IpAddr, nl: &mut Netlink) -> io::Result<Checked> {
    let needed = format!("default route through {gateway}");
    let v4 = gateway.is_ipv4();
    let routes = nl.routes(v4)?;
    let best = routes.iter().filter(|r| r.to == default_net(v4)).min_by_key(|r| r.metric);
    Ok(match best {
        Some(r) if r.via == Some(gateway) => Checked::right(needed),
        None => Checked::missing(needed, "there is none", step.shell()),
        Some(r) => {
            let found = match r.via {
                Some(via) => format!("it goes through {via}"),
                None => "it goes to neighbours only".to_owned(),
            };
            Checked::missing(needed, found, step.shell())
        }
    })
}

fn no_rp_filter(device: &str) -> io::Result<Checked> {
    let needed = format!("no reverse path filter on {device}");
    let key = |d: &str| format!("net.ipv4.conf.{}.rp_filter", d.replace('.', "/"));
    let mut found = Vec::new();
    let mut remedy = Vec::new();
    for name in ["all", device] {
        let is = sysctl(&key(name))?;
        if is != "0" {
            found.push(format!("{} = {is}", key(name)));
            remedy.push(format!("sysctl -w {}=0", key(name)));
        }
    }
    Ok(match found.is_empty() {
        true => Checked::right(needed),
        false => Checked::missing(needed, found.join(", "), remedy),
    })
}

/// Somebody takes tunnel packets: a raw socket for the protocol, or a UDP socket on the port.
fn listens(encapsulation: Encapsulation) -> io::Result<bool> {
    let (files, port) = match encapsulation {
        Encapsulation::Ipip => (["raw", "raw6"], u16::from(number::IPIP)),
        Encapsulation::Gre => (["raw", "raw6"], u16::from(number::GRE)),
        Encapsulation::Gue(port) => (["udp", "udp6"], port),
    };
    let mut text = String::new();
    for file in files {
        match std::fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(more) => text += &more,
            // a host without IPv6
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(has_socket(&text, port))
}

/// A line of `/proc/net/raw` or `/proc/net/udp` has this port (of a raw socket: its protocol).
fn has_socket(text: &str, port: u16) -> bool {
    let local = |line: &str| line.split_whitespace().nth(1)?.rsplit(':').next().map(str::to_owned);
    text.lines().filter_map(local).any(|p| u16::from_str_radix(&p, 16) == Ok(port))
}

/// The command that prepares a real server for this role.
fn command(role: &Role) -> String {
    match role {
        Role::Nat { gateway } => format!("softlvs real nat --gateway {gateway}"),
        Role::Dr { vips } => format!("softlvs real dr{}", options(vips)),
        Role::Tun { vips, encapsulation, device, unwrap } => {
            let who = match unwrap {
                Where::User => "",
                Where::Kernel => " --unwrap kernel",
                Where::Auto => " --unwrap auto",
            };
            format!("softlvs real tun{} --tunnel {encapsulation} --device {device}{who}", options(vips))
        }
    }
}

fn options(vips: &[IpAddr]) -> String {
    vips.iter().map(|v| format!(" --vip {v}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sys::netlink::Route;
    use crate::io::sys::ns::{NetNs, set_sysctl};
    use crate::real::prepare;

    fn wrong(role: &Role) -> Vec<String> {
        let told = check(role).unwrap();
        told.into_iter().filter(|c| !c.right).map(|c| format!("{}: {}", c.step, c.found)).collect()
    }

    #[test]
    fn what_prepare_sets_is_right_and_what_is_broken_by_hand_is_named() {
        let Ok(ns) = NetNs::new() else {
            eprintln!("skipped: no right to make network namespaces");
            return;
        };
        ns.run(|| {
            let mut nl = Netlink::open()?;
            nl.add_veth("v0", "v1", None)?;
            let v0 = nl.index("v0")?;
            nl.set_up(v0, true)?;
            let v1 = nl.index("v1")?;
            nl.set_up(v1, true)?;
            for cidr in ["10.0.0.11/24", "2001:db8::11/64"] {
                nl.add_address(v0, cidr.parse().unwrap(), true)?;
            }
            let vips = vec!["192.0.2.10".parse().unwrap(), "2001:db8:1::10".parse().unwrap()];
            let dr = Role::Dr { vips };
            assert_eq!(wrong(&dr).len(), 4, "{:?}", wrong(&dr));
            prepare(&dr)?;
            assert_eq!(wrong(&dr), Vec::<String>::new());
            // on every interface is as good as for all
            set_sysctl("net.ipv4.conf.all.arp_announce", "0")?;
            set_sysctl("net.ipv4.conf.v0.arp_announce", "2")?;
            assert_eq!(wrong(&dr), ["net.ipv4.conf.all.arp_announce = 2: it is 0, 0 on v1"]);
            set_sysctl("net.ipv4.conf.v1.arp_announce", "2")?;
            assert_eq!(wrong(&dr), Vec::<String>::new());
            nl.add_address(v0, "192.0.2.10/24".parse().unwrap(), true)?;
            assert_eq!(wrong(&dr), ["192.0.2.10/32 on lo: 192.0.2.10/24 is on v0"]);
            for (gateway, other) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
                let (gateway, other): (IpAddr, IpAddr) = (gateway.parse().unwrap(), other.parse().unwrap());
                let nat = Role::Nat { gateway };
                let needed = format!("default route through {gateway}");
                assert_eq!(wrong(&nat), [format!("{needed}: there is none")]);
                nl.add_route(Route { metric: 5, ..Route::default_via(other) }, false)?;
                assert_eq!(wrong(&nat), [format!("{needed}: it goes through {other}")]);
                prepare(&nat)?;
                assert_eq!(wrong(&nat), Vec::<String>::new());
            }
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn sockets_are_found_by_their_protocol_or_port() {
        let text = "  sl  local_address rem_address   st tx_queue\n\
             \x20  4: 00000000:0004 00000000:0000 07 00000000:00000000\n\
             \x20 77: 00000000000000000000000000000000:17C0 00000000000000000000000000000000:0000 07\n";
        assert!(has_socket(text, 4) && has_socket(text, 6080) && !has_socket(text, 47));
        assert!(!has_socket("", 4) && !has_socket("nonsense\n1:", 4));
    }
}
