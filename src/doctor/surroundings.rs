//! The configuration against this host: interfaces, addresses, sysctls.

use super::Finding;
use crate::config::Plan;
use crate::config::doc::Device;
use crate::config::plan::PortSetup;
use crate::io::MacChoice;
use crate::io::guard::{self, Exposure};
use crate::io::sys::netlink::{LinkInfo, Netlink};

/// The interface a port shares with the kernel.
pub fn interface(setup: &PortSetup) -> Option<&str> {
    match &setup.device {
        Device::Packet(name) | Device::Xdp(name) | Device::Auto(name) => Some(name),
        Device::Tap(_) | Device::Tun(_) => None,
    }
}

/// Looks; gives for each port whether its interface can be used.
pub fn look(plan: &Plan, findings: &mut Vec<Finding>) -> Vec<bool> {
    let links = settled(plan);
    let mut usable = Vec::new();
    let mut exposed = Vec::new();
    for setup in &plan.ports {
        let Some(name) = interface(setup) else {
            if let Some(link) = links.iter().find(|l| l.name == setup.device.name()) {
                behind(setup, link, findings);
            }
            let name = setup.device.name().to_owned();
            exposed.push((setup, Exposure { interface: name, shared: false, mac: None, device_mac: None }));
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

/// The links, once the kernel has noticed carriers that just came: it takes up to a second.
fn settled(plan: &Plan) -> Vec<LinkInfo> {
    let all = || Netlink::open().and_then(|mut n| n.links()).unwrap_or_default();
    let dark = |links: &[LinkInfo]| {
        let ours = |l: &LinkInfo| plan.ports.iter().any(|p| interface(p) == Some(l.name.as_str()));
        links.iter().any(|l| l.up && !l.running && ours(l))
    };
    let mut links = all();
    for _ in 0..15 {
        if !dark(&links) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        links = all();
    }
    links
}

/// The kernel's side of a TAP or TUN device that is there, because a director runs or somebody made it.
fn behind(setup: &PortSetup, link: &LinkInfo, findings: &mut Vec<Finding>) {
    let (name, about) = (&link.name, format!("port {}", setup.name));
    if !link.up {
        findings.push(Finding::new(
            "interface_down",
            &about,
            format!("{} device {name} is down", setup.device.kind()),
            format!("`ip link set dev {name} up`"),
        ));
    }
    let own = guard::kernel_addresses().unwrap_or_default();
    // the kernel gives every device a link-local address by itself
    let has_address = own.iter().any(|(device, ip)| {
        device == name && !matches!(ip, std::net::IpAddr::V6(ip) if ip.is_unicast_link_local())
    });
    if link.master.is_none() && !has_address {
        let bridge = if setup.device.is_l3() { "" } else { ", or `ip link set dev NAME master BRIDGE`" };
        let example = setup.addresses.first().map_or(String::new(), |c| format!(", in the network of {c}"));
        findings.push(Finding::new(
            "device_unconnected",
            &about,
            format!(
                "{} device {name} has no address on the kernel's side and is in no bridge",
                setup.device.kind()
            ),
            format!(
                "`ip address add ADDRESS dev {name}` (or --host-address){example}{}",
                bridge.replace("NAME", name)
            ),
        ));
    }
    let largest = setup.mtu.filter(|mtu| *mtu > link.mtu);
    if let Some(mtu) = largest {
        findings.push(Finding::new(
            "interface_mtu",
            &about,
            format!("mtu = {mtu} is configured, device {name} takes {}", link.mtu),
            format!("`ip link set dev {name} mtu {mtu}`, or lower `mtu` of the port"),
        ));
    }
}

/// What the kernel would do beside the director.
fn kernel(plan: &Plan, exposed: &[(&PortSetup, Exposure)], findings: &mut Vec<Finding>) {
    let dips = plan.ports.iter().flat_map(|p| &p.addresses).map(|a| a.addr);
    let mut own: Vec<_> = plan.vips().chain(dips).collect();
    own.sort_unstable();
    own.dedup();
    let mut shared = exposed.iter().filter(|(_, e)| e.shared).peekable();
    let guarded = shared.peek().is_some() && shared.all(|(setup, _)| setup.guard);
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
