//! What works here: devices, privileges, kernel features. Everything is tried, in a namespace that is thrown
//! away where it would leave something behind.

use std::fs::OpenOptions;
use std::io::ErrorKind;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Ability;
use crate::io::sys::netlink::Netlink;
use crate::io::sys::ns::NetNs;
use crate::io::tap::TapConfig;
use crate::io::tun::TunConfig;
use crate::io::xdp::XdpConfig;
use crate::io::{OpenError, TapPort, TunPort, XdpPort};

const DEVICE: &str = "/dev/net/tun";
/// Bits of capabilities (linux/capability.h).
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const SYS_ADMIN: u32 = 21;
const BPF: u32 = 39;

/// Tries everything.
pub fn abilities() -> Vec<Ability> {
    let here = Capabilities::here();
    vec![
        capabilities(here),
        tun_device(),
        tap(),
        tun(),
        packet(),
        xdp(),
        network_namespaces(),
        user_namespaces(),
        guard(),
    ]
}

fn works(name: &'static str, detail: impl Into<String>) -> Ability {
    Ability { name, works: true, detail: detail.into(), remedy: String::new() }
}
fn fails(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Ability {
    Ability { name, works: false, detail: detail.into(), remedy: remedy.into() }
}

/// The effective capabilities of this process.
#[derive(Clone, Copy)]
struct Capabilities(u64);

impl Capabilities {
    fn here() -> Capabilities {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Capabilities::of(&status)
    }
    fn of(status: &str) -> Capabilities {
        let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
        Capabilities(line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0))
    }
    fn has(self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }
}

fn capabilities(here: Capabilities) -> Ability {
    let all = [
        ("CAP_NET_ADMIN", NET_ADMIN),
        ("CAP_NET_RAW", NET_RAW),
        ("CAP_BPF", BPF),
        ("CAP_SYS_ADMIN", SYS_ADMIN),
    ];
    let (has, lacks): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, bit)| here.has(*bit));
    let names = |list: &[(&str, u32)]| list.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
    if here.has(NET_ADMIN) && here.has(NET_RAW) {
        works("privileges", names(&has))
    } else {
        fails(
            "privileges",
            format!("missing: {}", names(&lacks)),
            "run as root, in `unshare -Urn`, or `setcap cap_net_admin,cap_net_raw+ep` on the program",
        )
    }
}

fn tun_device() -> Ability {
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => works("/dev/net/tun", "can be opened"),
        Err(e) => fails("/dev/net/tun", e.to_string(), device_remedy(e.kind())),
    }
}

fn device_remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => {
            "`modprobe tun`; where the node is missing `mkdir -p /dev/net && mknod /dev/net/tun c 10 200`; in a container `--device /dev/net/tun`"
        }
        ErrorKind::PermissionDenied => {
            "as root: `chmod 0666 /dev/net/tun`, which is what most distributions do"
        }
        _ => "in a container allow the device: `--device /dev/net/tun`",
    }
}

/// Opens a port in a namespace of its own; without the right to make one, here would be the wrong place to
/// leave a device behind.
fn in_namespace<R: Send>(open: impl FnOnce() -> Result<R, OpenError> + Send) -> Result<R, OpenError> {
    let plain = |e: std::io::Error| {
        OpenError::new(
            "cannot try it",
            format!("no network namespace can be made ({e})"),
            "run `softlvs doctor` as root or in `unshare -Urn`",
        )
    };
    let ns = NetNs::new().map_err(plain)?;
    ns.run(|| Ok(open())).map_err(plain)?
}

fn device<R: Send>(
    name: &'static str,
    what: &str,
    open: impl FnOnce() -> Result<R, OpenError> + Send,
) -> Ability {
    match in_namespace(open) {
        Ok(_) => works(name, what),
        Err(e) => fails(name, e.to_string(), e.help.unwrap_or_default()),
    }
}

fn tap() -> Ability {
    let config = TapConfig { name: "softlvs-try".to_owned(), ..TapConfig::default() };
    device("tap", "a TAP device can be made (--tap)", || TapPort::open(&config))
}

fn tun() -> Ability {
    let config = TunConfig { name: "softlvs-try".to_owned(), ..TunConfig::default() };
    device("tun", "a TUN device can be made (--tun)", || TunPort::open(&config))
}

fn packet() -> Ability {
    let none = SockFlag::empty();
    match socket(AddressFamily::Packet, SockType::Raw, none, None) {
        Ok(_) => works("packet", "raw sockets can be opened (--packet)"),
        Err(e) => fails(
            "packet",
            format!("no raw socket: {e}"),
            "run as root or in `unshare -Urn`, or `setcap cap_net_raw+ep` on the program",
        ),
    }
}

fn xdp() -> Ability {
    let config = XdpConfig { interface: "softlvs-try".to_owned(), ..XdpConfig::default() };
    device("xdp", "AF_XDP sockets can be opened (--xdp)", || {
        let plain = |e| OpenError::plain("cannot make a pair of interfaces to try it on", &e);
        let mut links = Netlink::open().map_err(plain)?;
        links.add_veth("softlvs-try", "softlvs-peer", None).map_err(plain)?;
        for name in ["softlvs-try", "softlvs-peer"] {
            let index = links.index(name).map_err(plain)?;
            links.set_up(index, true).map_err(plain)?;
        }
        XdpPort::open(&config)
    })
}

fn network_namespaces() -> Ability {
    match NetNs::new() {
        Ok(_) => works("namespaces", "network namespaces can be made (softlvs lab)"),
        Err(e) => fails(
            "namespaces",
            e.to_string(),
            "as an ordinary user: `unshare -Urn`, if user namespaces are allowed (below)",
        ),
    }
}

fn user_namespaces() -> Ability {
    let read = |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
    let switches = [
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    for (path, off, command) in switches {
        if read(path) == off {
            return fails("user namespaces", format!("{path} is {off}"), format!("as root: `{command}`"));
        }
    }
    if std::fs::metadata("/proc/self/ns/user").is_err() {
        return fails("user namespaces", "the kernel has none", "run as root instead");
    }
    works("user namespaces", "ordinary users may make them")
}

fn guard() -> Ability {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).map(|d| d.join("nft")).find(|p| p.is_file());
    match found {
        Some(path) => works("nft", format!("{} (guard = true)", path.display())),
        None => fails("nft", "the program nft is not installed, guard = true needs it", "install nftables"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let c = Capabilities::of("Name:\tx\nCapEff:\t0000000000003000\n");
        assert!(c.has(NET_ADMIN) && c.has(NET_RAW) && !c.has(BPF));
        assert!(!Capabilities::of("CapEff:\tnonsense").has(NET_RAW));
    }

    #[test]
    fn whatever_does_not_work_comes_with_a_remedy() {
        for a in abilities() {
            assert!(a.works || !a.remedy.is_empty(), "{a:?}");
            assert!(!a.detail.is_empty());
        }
    }
}
