//! The real server's side of each forwarding method: what an LVS real server must be told before it can
//! answer for the VIP. Everything is a list of [`Step`]s, which can be done, printed and taken back.
//!
//! * NAT: replies must pass the director, so it becomes the default router.
//! * DR: the server owns the VIP without saying so on the network.
//! * TUN: the same, and somebody must unwrap the packets: [`tunnel`] does it in this process, without any
//!   kernel module; [`kernel`] in the kernel, where that is allowed.

mod check;
pub mod kernel;
pub mod steps;
pub mod tunnel;
pub mod unwrap;

use std::io;
use std::net::IpAddr;

use crate::addr::Cidr;
pub use check::{Checked, check};
pub use steps::{Journal, Step};
pub use tunnel::Decapsulator;
pub use unwrap::{Encapsulation, Where};

/// Default name of the TUN device that receives unwrapped packets.
pub const DEVICE: &str = "lvstun0";

/// What this real server is prepared for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Replies go back through the director.
    Nat {
        /// The director's address on the real servers' network (DIP).
        gateway: IpAddr,
    },
    /// The VIPs are owned silently.
    Dr {
        /// Virtual addresses.
        vips: Vec<IpAddr>,
    },
    /// The VIPs are owned silently, behind a tunnel.
    Tun {
        /// Virtual addresses.
        vips: Vec<IpAddr>,
        /// Encapsulation the director uses.
        encapsulation: Encapsulation,
        /// Device that receives unwrapped packets.
        device: String,
        /// Who unwraps.
        unwrap: Where,
    },
}

impl Role {
    /// `nat`, `dr`, `tun`: names the journal.
    pub fn name(&self) -> &'static str {
        match self {
            Role::Nat { .. } => "nat",
            Role::Dr { .. } => "dr",
            Role::Tun { .. } => "tun",
        }
    }

    /// The steps, in an order in which nothing is announced that should be silent. For TUN they expect
    /// the device to exist.
    pub fn steps(&self) -> Vec<Step> {
        match self {
            Role::Nat { gateway } => vec![Step::DefaultRoute { gateway: *gateway }],
            Role::Dr { vips } => {
                let mut steps = silence(vips);
                steps
                    .extend(vips.iter().map(|v| Step::Address { device: "lo".into(), cidr: Cidr::host(*v) }));
                steps
            }
            Role::Tun { vips, device, .. } => {
                let mut steps = silence(vips);
                if vips.iter().any(IpAddr::is_ipv4) {
                    // Requests come in on a device that has no route back to the client.
                    steps.push(Step::NoReversePathFilter { device: device.clone() });
                }
                steps.push(Step::LinkUp { device: device.clone() });
                steps.extend(
                    vips.iter().map(|v| Step::Address { device: device.clone(), cidr: Cidr::host(*v) }),
                );
                steps
            }
        }
    }
}

/// ARP settings of every LVS real server that owns a VIP: answer only for addresses of the interface
/// asked (`arp_ignore`), and never name the VIP as sender (`arp_announce`). The kernel takes the larger of
/// `all` and the interface, so `all` is enough. IPv6 needs nothing: neighbour solicitations are answered
/// only for addresses of the interface itself.
fn silence(vips: &[IpAddr]) -> Vec<Step> {
    if !vips.iter().any(IpAddr::is_ipv4) {
        return Vec::new();
    }
    [("arp_ignore", "1"), ("arp_announce", "2")]
        .map(|(k, v)| Step::Sysctl { key: format!("net.ipv4.conf.all.{k}"), value: v.into() })
        .to_vec()
}

/// A prepared real server. For TUN it runs the decapsulator until it is dropped.
#[derive(Debug)]
pub struct Prepared {
    /// What was done, for the user.
    pub told: Vec<String>,
    /// What takes it back.
    pub journal: Journal,
    /// The unwrapping threads (TUN only).
    pub decapsulator: Option<Decapsulator>,
}

/// Prepares the calling thread's network namespace.
///
/// # Errors
/// The step that failed; the steps before it are taken back.
pub fn prepare(role: &Role) -> io::Result<Prepared> {
    let mut told = Vec::new();
    let mut journal = Journal::default();
    let decapsulator = match role {
        Role::Tun { vips, encapsulation, device, unwrap } => {
            Some(Decapsulator::open(device, *encapsulation, *unwrap, vips, &mut journal)?)
        }
        _ => None,
    };
    for step in role.steps() {
        match step.apply(&mut journal) {
            Ok(line) => told.push(line),
            Err(e) => {
                drop(decapsulator);
                journal.undo();
                return Err(e);
            }
        }
    }
    let decapsulator = match decapsulator {
        Some(mut d) => {
            if let Err(e) = d.start() {
                drop(d);
                journal.undo();
                return Err(e);
            }
            told.splice(0..0, d.told().iter().cloned());
            Some(d)
        }
        None => None,
    };
    Ok(Prepared { told, journal, decapsulator })
}

/// The same as shell commands.
pub fn dry_run(role: &Role) -> Vec<String> {
    let mut lines = Vec::new();
    if let Role::Tun { device, encapsulation, unwrap, .. } = role {
        let place = match unwrap {
            Where::User => "in user space",
            Where::Kernel => "in the kernel",
            Where::Auto => "in the kernel where that takes programs, else in user space,",
        };
        lines.push(format!("ip tuntap add mode tun name {device}"));
        lines.push(format!("# unwraps {encapsulation} {place} into {device} while it runs"));
    }
    for step in role.steps() {
        lines.extend(step.shell());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dr_is_silent_before_it_owns_the_vip() {
        let role = Role::Dr { vips: vec!["192.0.2.10".parse().unwrap()] };
        assert_eq!(
            dry_run(&role),
            [
                "sysctl -w net.ipv4.conf.all.arp_ignore=1",
                "sysctl -w net.ipv4.conf.all.arp_announce=2",
                "ip addr add 192.0.2.10/32 dev lo",
            ]
        );
    }

    #[test]
    fn ipv6_needs_the_address_only() {
        let role = Role::Dr { vips: vec!["2001:db8::10".parse().unwrap()] };
        assert_eq!(dry_run(&role), ["ip -6 addr add 2001:db8::10/128 dev lo nodad"]);
        let role = Role::Nat { gateway: "2001:db8::1".parse().unwrap() };
        assert_eq!(dry_run(&role), ["ip -6 route replace default via 2001:db8::1 metric 1"]);
    }

    #[test]
    fn tun_switches_the_reverse_path_filter_off_where_requests_come_in() {
        let role = Role::Tun {
            vips: vec!["192.0.2.10".parse().unwrap()],
            encapsulation: Encapsulation::Ipip,
            device: "lvstun0".into(),
            unwrap: Where::User,
        };
        let lines = dry_run(&role);
        assert!(lines.contains(&"sysctl -w net.ipv4.conf.lvstun0.rp_filter=0".to_owned()), "{lines:?}");
        assert_eq!(lines[0], "ip tuntap add mode tun name lvstun0");
        assert_eq!(lines.last().unwrap(), "ip addr add 192.0.2.10/32 dev lvstun0");
    }
}
