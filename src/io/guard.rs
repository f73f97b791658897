//! The host kernel beside the director: where it would answer or forward the same packets, and the rule
//! that keeps it from it.
//!
//! A raw port shares its interface with the kernel's stack. If the kernel owns a VIP it answers every
//! SYN with a reset; if it forwards (`ip_forward = 1`) each packet goes out twice. On a TAP or TUN port a
//! VIP owned by the kernel never reaches the device. Softlvs refuses to start then, or with `guard =
//! true` has `nft` drop the frames on the interface before the kernel's stack sees them, which is behind
//! the place where packet sockets get theirs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use super::OpenError;
use super::sys::ns::NetNs;
use crate::addr::Mac;

/// The interface on which the kernel of this network namespace owns `ip`.
///
/// # Errors
/// The list of addresses cannot be read.
pub fn kernel_owns(ip: IpAddr) -> io::Result<Option<String>> {
    Ok(kernel_addresses()?.into_iter().find(|(_, own)| *own == ip).map(|(name, _)| name))
}

/// All addresses of the kernel of this network namespace with their interfaces.
///
/// # Errors
/// The list cannot be read.
pub fn kernel_addresses() -> io::Result<Vec<(String, IpAddr)>> {
    Ok(nix::ifaddrs::getifaddrs()?
        .filter_map(|i| {
            let at = i.address?;
            let ip = match (at.as_sockaddr_in(), at.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => return None,
            };
            Some((i.interface_name, ip))
        })
        .collect())
}

/// True when the kernel of this network namespace forwards packets of that family. A kernel without the
/// family forwards none.
pub fn ip_forward(v6: bool) -> bool {
    let path = if v6 { "/proc/sys/net/ipv6/conf/all/forwarding" } else { "/proc/sys/net/ipv4/ip_forward" };
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}

/// A port as far as the host kernel is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// Interface name.
    pub interface: String,
    /// It is a raw or XDP port: the kernel sees the same frames.
    pub shared: bool,
    /// The director's MAC on it.
    pub mac: Option<Mac>,
    /// The interface's own MAC.
    pub device_mac: Option<Mac>,
}

/// Looks for what the kernel would do beside the director: `addresses` are all VIPs and DIPs, `families`
/// says whether IPv4 and IPv6 packets are expected.
///
/// # Errors
/// What it would do, and what to change.
pub fn check(ports: &[Exposure], addresses: &[IpAddr], guarded: bool) -> Result<(), OpenError> {
    let kernel =
        kernel_addresses().map_err(|e| OpenError::plain("cannot read the kernel's addresses", &e))?;
    let shared = |name: &str| ports.iter().any(|p| p.shared && p.interface == name);
    for ip in addresses {
        let Some((name, _)) = kernel.iter().find(|(_, own)| own == ip) else { continue };
        // a guard keeps the kernel out of what comes in by shared interfaces; only a TAP or TUN loses
        if guarded && ports.iter().all(|p| p.shared) {
            continue;
        }
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let mut help = format!(
            "remove it from the kernel: `ip address del {ip}/{bits} dev {name}` (with its own prefix length)"
        );
        if ports.iter().any(|p| p.shared) {
            help += ", or set `guard = true` on the raw ports";
        }
        let what = format!("{ip} is configured in the kernel too, on {name}");
        let why = if shared(name) || ports.iter().any(|p| p.shared) {
            "the kernel would answer beside softlvs, with resets"
        } else {
            "the kernel keeps its packets, softlvs would never see them"
        };
        return Err(OpenError::new(what, why, help));
    }
    if guarded {
        return Ok(());
    }
    for port in ports.iter().filter(|p| p.shared) {
        // an address of our own is another station's to the kernel, it forwards nothing sent to it
        if port.mac.is_some() && port.mac != port.device_mac {
            continue;
        }
        for v6 in [false, true] {
            if addresses.iter().any(|ip| ip.is_ipv6() == v6) && ip_forward(v6) {
                let key = if v6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
                return Err(OpenError::new(
                    format!("the kernel forwards packets beside softlvs on {}", port.interface),
                    format!(
                        "{key} = 1, and the port has the interface's own MAC: every packet would go out twice"
                    ),
                    format!("`sysctl -w {key}=0`, or a MAC of its own for the port, or `guard = true` on it"),
                ));
            }
        }
    }
    Ok(())
}

/// An installed rule; dropped, it is removed.
#[derive(Debug)]
pub struct Guard {
    table: String,
    /// Where the rule is: the thread that drops it may live elsewhere.
    ns: NetNs,
}

impl Guard {
    /// Has `nft` keep frames for the director from the kernel's stack on one interface: those to the
    /// director's own MAC, and packets, ARP requests and neighbour solicitations for `addresses`. With an
    /// inherited MAC also everything that is not for an address of the kernel, which it could only forward.
    /// A rule left by an earlier run on the same interface is replaced.
    ///
    /// # Errors
    /// `nft` is missing or refused.
    pub fn install(port: &Exposure, addresses: &[IpAddr]) -> Result<Guard, OpenError> {
        let table = table_name(&port.interface);
        let ns = NetNs::current().map_err(|e| OpenError::plain(WHAT, &e))?;
        run(&ns, &rules(&table, port, addresses, &kernel_besides(addresses)))?;
        Ok(Guard { table, ns })
    }

    /// Makes installed rules those for other `addresses`, all in one transaction of `nft`: there is no moment
    /// without a rule, and when it is refused the old ones stay. `ports` in the order of the guards.
    ///
    /// # Errors
    /// `nft` refused.
    pub fn renew(guards: &[Guard], ports: &[&Exposure], addresses: &[IpAddr]) -> Result<(), OpenError> {
        let Some(first) = guards.first() else { return Ok(()) };
        let own = kernel_besides(addresses);
        let script: String =
            guards.iter().zip(ports).map(|(g, port)| rules(&g.table, port, addresses, &own)).collect();
        run(&first.ns, &script)
    }
}

/// The kernel's addresses that are not the director's.
fn kernel_besides(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let kernel = kernel_addresses().unwrap_or_default();
    kernel.into_iter().map(|(_, ip)| ip).filter(|ip| !addresses.contains(ip)).collect()
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = run(&self.ns, &format!("delete table netdev {}\n", self.table)) {
            tracing::warn!(table = %self.table, %error, "guard rule could not be removed");
        }
    }
}

fn table_name(interface: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("softlvs_{}", interface.chars().map(safe).collect::<String>())
}

fn rules(table: &str, port: &Exposure, addresses: &[IpAddr], kernel: &[IpAddr]) -> String {
    let set = |v6: bool, of: &[IpAddr]| {
        let of: BTreeSet<_> = of.iter().filter(|ip| ip.is_ipv6() == v6).map(IpAddr::to_string).collect();
        (!of.is_empty()).then(|| of.into_iter().collect::<Vec<_>>().join(", "))
    };
    let mut r = String::new();
    // made and deleted first, so that what an earlier run left is gone
    let _ = writeln!(
        r,
        "table netdev {table}\ndelete table netdev {table}\ntable netdev {table} {{\nchain in {{"
    );
    let _ = writeln!(
        r,
        "type filter hook ingress device \"{}\" priority -500; policy accept;",
        port.interface.replace('"', "")
    );
    if let Some(ips) = set(false, addresses) {
        let _ = writeln!(r, "ip daddr {{ {ips} }} drop\narp daddr ip {{ {ips} }} drop");
    }
    if let Some(ips) = set(true, addresses) {
        let _ = writeln!(r, "ip6 daddr {{ {ips} }} drop");
    }
    for ip in addresses {
        // RFC 4861 4.3: the target follows 8 bytes of ICMPv6 header. `icmpv6 taddr` needs nftables 1.0.7.
        if let IpAddr::V6(ip) = ip {
            let _ = writeln!(r, "icmpv6 type nd-neighbor-solicit @th,64,128 {:#034x} drop", ip.to_bits());
        }
    }
    match port.mac {
        Some(mac) if Some(mac) != port.device_mac => {
            let _ = writeln!(r, "ether daddr {mac} drop");
        }
        Some(mac) => {
            for (v6, word) in [(false, "ip"), (true, "ip6")] {
                let not = set(v6, kernel).map(|ips| format!("daddr != {{ {ips} }}"));
                let kind = if v6 { "ip6" } else { "ip" };
                let rest = not.map_or_else(|| format!("ether type {kind}"), |n| format!("{word} {n}"));
                let _ = writeln!(r, "ether daddr {mac} {rest} drop");
            }
        }
        None => {}
    }
    r.push_str("}\n}\n");
    r
}

const WHAT: &str = "cannot set the guard rule";
const NEEDS: &str = "nft needs CAP_NET_ADMIN in this network namespace, and Linux 4.2 or later; or leave `guard` out \
                     and take the VIPs off the kernel";

fn run(ns: &NetNs, script: &str) -> Result<(), OpenError> {
    let fail = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => OpenError::new(
            WHAT,
            "the program `nft` is not there",
            "install nftables, or leave `guard` out and take the VIPs off the kernel",
        ),
        io::ErrorKind::PermissionDenied => OpenError::new(WHAT, e.to_string(), NEEDS),
        _ => OpenError::plain(WHAT, &e),
    };
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // a container that has CAP_NET_ADMIN may change its own namespace, but enter none, not even that
    let here = NetNs::current().and_then(|n| n.id()).map_err(fail)?;
    if ns.id().map_err(fail)? != here {
        ns.confine(&mut nft).map_err(fail)?;
    }
    let mut child = nft.spawn().map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        // when nft has gone already its message says why
        let _ = stdin.write_all(script.as_bytes());
    }
    let done = child.wait_with_output().map_err(fail)?;
    if done.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&done.stderr);
    let first = text.lines().next().unwrap_or("nft failed").to_owned();
    Err(OpenError::new(WHAT, first, NEEDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(mac: [u8; 6], device: [u8; 6]) -> Exposure {
        Exposure {
            interface: "eth0.7".to_owned(),
            shared: true,
            mac: Some(Mac(mac)),
            device_mac: Some(Mac(device)),
        }
    }

    #[test]
    fn loopback_belongs_to_the_kernel_and_that_is_an_error_with_a_remedy() {
        let lo: IpAddr = "127.0.0.1".parse().unwrap();
        if kernel_owns(lo).unwrap().is_none() {
            println!("skipped: loopback is down here");
            return;
        }
        let e = check(&[port([2; 6], [4; 6])], &[lo], false).unwrap_err();
        assert!(e.to_string().contains("127.0.0.1 is configured in the kernel too, on lo"), "{e}");
        assert!(e.help.unwrap().contains("guard = true"));
        check(&[port([2; 6], [4; 6])], &[lo], true).unwrap();
        let tap = Exposure { shared: false, ..port([2; 6], [4; 6]) };
        let e = check(&[tap], &[lo], true).unwrap_err();
        assert!(e.to_string().contains("softlvs would never see them"), "{e}");
        check(&[port([2; 6], [4; 6])], &["192.0.2.1".parse().unwrap()], false).unwrap();
    }

    #[test]
    fn rules_name_what_is_dropped_and_replace_old_ones() {
        let vips: Vec<IpAddr> = ["192.0.2.10", "2001:db8::10"].map(|s| s.parse().unwrap()).to_vec();
        let own = rules(&table_name("eth0.7"), &port([2; 6], [4; 6]), &vips, &["10.0.0.1".parse().unwrap()]);
        assert!(own.starts_with("table netdev softlvs_eth0_7\ndelete table"), "{own}");
        for part in [
            "device \"eth0.7\"",
            "ip daddr { 192.0.2.10 } drop",
            "arp daddr ip { 192.0.2.10 } drop",
            "ip6 daddr { 2001:db8::10 } drop",
            "icmpv6 type nd-neighbor-solicit @th,64,128 0x20010db8000000000000000000000010 drop",
            "ether daddr 02:02:02:02:02:02 drop",
        ] {
            assert!(own.contains(part), "{part} in {own}");
        }
        let same = rules("t", &port([4; 6], [4; 6]), &vips, &["10.0.0.1".parse().unwrap()]);
        assert!(same.contains("ether daddr 04:04:04:04:04:04 ip daddr != { 10.0.0.1 } drop"), "{same}");
        assert!(same.contains("ether daddr 04:04:04:04:04:04 ether type ip6 drop"), "{same}");
    }
}
