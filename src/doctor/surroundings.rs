//! The configuration against this host: interfaces, addresses, sysctls.

use super::Finding;
use crate::config::Plan;
use crate::config::doc::Device;
use crate::config::plan::PortSetup;
use crate::io::MacChoice;
use crate::io::guard::{self, Exposure};
use crate::io::sys::netlink::Netlink;

/// The interface a port shares with the kernel.
pub fn interface(setup: &PortSetup) -> Option<&str> {
    match &setup.device {
        Device::Packet(name) | Device::Xdp(name) | Device::Auto(name) => Some(name),
        Device::Tap(_) | Device::Tun(_) => None,
    }
}

/// Looks; gives for each port whether its interface can be used.
pub fn look(plan: &Plan, findings: &mut Vec<Finding>) -> Vec<bool> {
    let links = Netlink::open().and_then(|mut n| n.links()).unwrap_or_default();
    let mut usable = Vec::new();
    let mut exposed = Vec::new();
    for setup in &plan.ports {
        let Some(name) = interface(setup) else {
            usable.push(false);
            continue;
        };
        let Some(link) = links.iter().find(|l| l.name == name) else {
            let names: Vec<_> = links.iter().map(|l| l.name.as_str()).collect();
            findings.push(Finding::new(
                "interface_missing",
                format!("port {}", setup.name),
                format!("there is no interface {name}"),
                format!("`ip link` lists them; here are: {}", names.join(", ")),
            ));
            usable.push(false);
            continue;
        };
        if !link.up || !link.running {
            let why = if link.up { "has no carrier" } else { "is down" };
            findings.push(Finding::new(
                "interface_down",
                format!("port {}", setup.name),
                format!("interface {name} {why}"),
                if link.up {
                    format!("connect the other end of {name}")
                } else {
                    format!("`ip link set dev {name} up`")
                },
            ));
        }
        if let Some(mtu) = setup.mtu.filter(|mtu| *mtu > link.mtu) {
            findings.push(Finding::new(
                "interface_mtu",
                format!("port {}", setup.name),
                format!("mtu = {mtu} is configured, interface {name} takes {}", link.mtu),
                format!("`ip link set dev {name} mtu {mtu}`, or lower `mtu` of the port"),
            ));
        }
        exposed.push((
            setup,
            Exposure {
                interface: name.to_owned(),
                shared: true,
                mac: match setup.mac {
                    MacChoice::Own(mac) => Some(mac),
                    MacChoice::Inherit => link.mac,
                    MacChoice::Derived => None,
                },
                device_mac: link.mac,
            },
        ));
        usable.push(link.up && link.running);
    }
    kernel(plan, &exposed, findings);
    usable
}

/// What the kernel would do beside the director.
fn kernel(plan: &Plan, exposed: &[(&PortSetup, Exposure)], findings: &mut Vec<Finding>) {
    let dips = plan.ports.iter().flat_map(|p| &p.addresses).map(|a| a.addr);
    let mut own: Vec<_> = plan.vips().chain(dips).collect();
    own.sort_unstable();
    own.dedup();
    let guarded = !exposed.is_empty() && exposed.iter().all(|(setup, _)| setup.guard);
    let ports: Vec<Exposure> = exposed.iter().map(|(_, e)| e.clone()).collect();
    let mut free = Vec::new();
    for ip in own {
        // forwarding is looked at below, for all addresses at once
        let mac_of_its_own =
            |e: &Exposure| Exposure { mac: e.mac.map(|_| crate::addr::Mac([2; 6])), ..e.clone() };
        let quiet: Vec<_> = ports.iter().map(mac_of_its_own).collect();
        match guard::kernel_owns(ip) {
            Ok(Some(_)) => {
                if let Err(e) = guard::check(&quiet, &[ip], guarded) {
                    findings.push(Finding::new(
                        "address_in_kernel",
                        ip,
                        format!("{}: {}", e.what, e.why),
                        e.help.unwrap_or_default(),
                    ));
                }
            }
            _ => free.push(ip),
        }
    }
    for port in &ports {
        // an address of its own keeps the kernel from forwarding; so does one that is made from the name
        if port.mac.is_none() {
            continue;
        }
        if let Err(e) = guard::check(std::slice::from_ref(port), &free, guarded) {
            findings.push(Finding::new(
                "ip_forward",
                &port.interface,
                format!("{}: {}", e.what, e.why),
                e.help.unwrap_or_default(),
            ));
        }
    }
}
