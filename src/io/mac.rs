//! The director's MAC address on a port.
//!
//! It must not be the TAP netdev's own: a bridge keeps that address for itself (a permanent entry) and
//! the director would get no frame at all. It must be stable over restarts, or neighbours keep sending
//! to the old one, and it must differ between machines that use the same port names.

use std::os::unix::fs::MetadataExt;

use super::error::OpenError;
use super::sys::ethtool;
use super::{MacChoice, OpenError as Error};
use crate::addr::Mac;

/// A locally administered unicast address for a port `name`, different from `not`. `place` tells apart
/// machines and network namespaces.
pub fn derive(name: &str, place: &[u8], not: Option<Mac>) -> Mac {
    // FNV-1a: nothing here needs to withstand an attacker, only be spread well
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for b in b"softlvs port ".iter().chain(name.as_bytes()).chain(&[0]).chain(place) {
        h = (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    }
    loop {
        let b = h.to_be_bytes();
        let mac = Mac([(b[0] & 0xfc) | 0x02, b[1], b[2], b[3], b[4], b[5]]);
        if Some(mac) != not {
            return mac;
        }
        h = h.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    }
}

/// This machine and network namespace, for [`derive`]: the machine's id and the namespace's number.
pub fn place() -> Vec<u8> {
    let mut place = std::fs::read("/etc/machine-id").unwrap_or_default();
    let ns = std::fs::metadata("/proc/thread-self/ns/net").map(|m| m.ino()).unwrap_or(0);
    place.extend_from_slice(&ns.to_be_bytes());
    place
}

/// The MAC for a TAP port whose netdev has `device`.
///
/// # Errors
/// When the configured address is the device's own, or cannot be a station's.
pub fn for_tap(name: &str, choice: MacChoice, device: Mac) -> Result<Mac, OpenError> {
    match choice {
        MacChoice::Derived => Ok(derive(name, &place(), Some(device))),
        MacChoice::Own(mac) if mac == device => Err(Error::new(
            format!("TAP device {name}: mac = {mac}"),
            "this is the device's own address, the kernel keeps its frames for itself",
            "leave `mac` out, or choose another such as 02:00:00:00:00:01",
        )),
        MacChoice::Own(mac) => station(name, mac),
        MacChoice::Inherit => Err(Error::new(
            format!("TAP device {name}: mac = \"inherit\""),
            "on a TAP device the device's own address belongs to the kernel",
            "leave `mac` out, or write an address such as 02:00:00:00:00:01",
        )),
    }
}

/// The MAC for a raw or XDP port on an interface that has `device`.
///
/// # Errors
/// When the configured address cannot be a station's, or the interface would get no frame to it.
pub fn for_packet(name: &str, choice: MacChoice, device: Mac) -> Result<Mac, OpenError> {
    // macvlan hands frames out by the addresses of its interfaces, whatever else they ask for
    let only_own = ethtool::driver(name).is_ok_and(|d| d.name == "macvlan");
    choose(name, choice, device, only_own)
}

fn choose(name: &str, choice: MacChoice, device: Mac, only_own: bool) -> Result<Mac, OpenError> {
    match choice {
        MacChoice::Derived if only_own => Ok(device),
        MacChoice::Own(mac) if only_own && mac != device => Err(Error::new(
            format!("port {name}: mac = {mac}"),
            "a macvlan interface gets frames to its own address only",
            format!(
                "leave `mac` out, or give the interface this address: `ip link set {name} address {mac}`"
            ),
        )),
        MacChoice::Derived => Ok(derive(name, &device.0, Some(device))),
        MacChoice::Own(mac) => station(name, mac),
        MacChoice::Inherit => Ok(device),
    }
}

fn station(name: &str, mac: Mac) -> Result<Mac, OpenError> {
    if mac.is_group() || mac == Mac::default() {
        return Err(Error::new(
            format!("port {name}: mac = {mac}"),
            "this is not the address of one station",
            "choose an even first byte, such as 02:00:00:00:00:01",
        ));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_address_is_stable_local_unicast_and_not_the_devices() {
        let a = derive("tap0", b"here", None);
        assert_eq!(a, derive("tap0", b"here", None));
        assert_ne!(a, derive("tap1", b"here", None));
        assert_ne!(a, derive("tap0", b"there", None));
        assert_eq!(a.0[0] & 3, 2);
        let b = derive("tap0", b"here", Some(a));
        assert_ne!(a, b);
        assert_eq!(b.0[0] & 3, 2);
    }

    #[test]
    fn tap_refuses_the_devices_own_address_with_a_remedy() {
        let device = Mac([2, 0, 0, 0, 0, 9]);
        let e = for_tap("tap0", MacChoice::Own(device), device).unwrap_err();
        assert!(e.to_string().contains("the device's own address"), "{e}");
        assert!(e.help.is_some());
        assert!(for_tap("tap0", MacChoice::Inherit, device).is_err());
        assert!(for_tap("tap0", MacChoice::Own(Mac::BROADCAST), device).is_err());
        assert_eq!(for_packet("eth0", MacChoice::Inherit, device).unwrap(), device);
    }

    #[test]
    fn where_only_the_interfaces_own_address_gets_frames_it_is_the_default() {
        let device = Mac([2, 0, 0, 0, 0, 9]);
        let other = Mac([2, 0, 0, 0, 0, 8]);
        for own in [MacChoice::Derived, MacChoice::Inherit, MacChoice::Own(device)] {
            assert_eq!(choose("mv0", own, device, true).unwrap(), device);
        }
        let e = choose("mv0", MacChoice::Own(other), device, true).unwrap_err();
        assert!(e.help.as_ref().is_some_and(|h| h.contains("ip link set mv0 address")), "{e:?}");
        assert_ne!(choose("eth0", MacChoice::Derived, device, false).unwrap(), device);
    }
}
