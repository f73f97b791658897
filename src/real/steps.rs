//! One step of preparing a real server: done, printed as a shell command, and taken back exactly.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::addr::Cidr;
use crate::io::sys::netlink::{Netlink, Route, default_net};
use crate::io::sys::ns::{NetNs, set_sysctl, sysctl};

/// Something a real server needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A kernel setting of this network namespace.
    Sysctl {
        /// Key with dots.
        key: String,
        /// Value wanted.
        value: String,
    },
    /// An address on a device.
    Address {
        /// Device name.
        device: String,
        /// Address with prefix.
        cidr: Cidr,
    },
    /// A device brought up.
    LinkUp {
        /// Device name.
        device: String,
    },
    /// The default route of the gateway's family.
    DefaultRoute {
        /// The router.
        gateway: IpAddr,
    },
    /// No reverse path filter on one device, the others keep theirs.
    NoReversePathFilter {
        /// Device name.
        device: String,
    },
}

/// How something done is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undo {
    /// Set the value that was there.
    Sysctl {
        /// Key.
        key: String,
        /// Value before.
        was: String,
    },
    /// Take the address away.
    Address {
        /// Device name.
        device: String,
        /// Address with prefix.
        cidr: String,
    },
    /// Bring the device down again.
    LinkDown {
        /// Device name.
        device: String,
    },
    /// Delete a device that was made.
    Link {
        /// Device name.
        device: String,
    },
    /// Delete our default route and put the earlier one back.
    DefaultRoute {
        /// Our router.
        gateway: IpAddr,
        /// The router before: address (if any), device name (if any), metric, onlink.
        was: Option<(Option<IpAddr>, Option<String>, u32, bool)>,
    },
}

impl Step {
    /// Does it unless it is so already, records in the journal how to take it back, says what was done.
    ///
    /// # Errors
    /// What could not be done, with its name.
    pub fn apply(&self, journal: &mut Journal) -> io::Result<String> {
        let mut nl = Netlink::open()?;
        match self {
            Step::Sysctl { key, value } => change_sysctl(key, value, journal),
            Step::Address { device, cidr } => {
                let index = nl.index(device)?;
                if nl.addresses()?.iter().any(|a| a.index == index && a.cidr == *cidr) {
                    return Ok(format!("{cidr} is on {device} already"));
                }
                nl.add_address(index, *cidr, true)?;
                journal.push(Undo::Address { device: device.clone(), cidr: cidr.to_string() });
                Ok(format!("{cidr} put on {device}"))
            }
            Step::LinkUp { device } => {
                let link = nl.link(device)?;
                if link.up {
                    return Ok(format!("{device} is up already"));
                }
                nl.set_up(link.index, true)?;
                journal.push(Undo::LinkDown { device: device.clone() });
                Ok(format!("{device} brought up"))
            }
            Step::DefaultRoute { gateway } => default_route(*gateway, &mut nl, journal),
            Step::NoReversePathFilter { device } => no_rp_filter(device, &mut nl, journal),
        }
    }

    /// The equivalent shell commands.
    pub fn shell(&self) -> Vec<String> {
        let ip = |v4: bool| if v4 { "ip" } else { "ip -6" };
        match self {
            Step::Sysctl { key, value } => vec![format!("sysctl -w {key}={value}")],
            Step::Address { device, cidr } => {
                let v4 = cidr.addr.is_ipv4();
                vec![format!("{} addr add {cidr} dev {device}{}", ip(v4), if v4 { "" } else { " nodad" })]
            }
            Step::LinkUp { device } => vec![format!("ip link set {device} up")],
            Step::DefaultRoute { gateway } if gateway.is_ipv4() => {
                vec![format!("ip route replace default via {gateway}")]
            }
            Step::DefaultRoute { gateway } => {
                vec![format!("ip -6 route replace default via {gateway} metric 1")]
            }
            Step::NoReversePathFilter { device } => vec![
                "sysctl -w net.ipv4.conf.all.rp_filter=0".into(),
                format!("sysctl -w net.ipv4.conf.{}.rp_filter=0", device.replace('.', "/")),
            ],
        }
    }
}

fn change_sysctl(key: &str, value: &str, journal: &mut Journal) -> io::Result<String> {
    let was = sysctl(key)?;
    if was == value {
        return Ok(format!("{key} is {value} already"));
    }
    set_sysctl(key, value)?;
    journal.push(Undo::Sysctl { key: key.to_owned(), was: was.clone() });
    Ok(format!("{key} set to {value} (was {was})"))
}

/// The kernel takes the larger of `all` and the device (ip-sysctl, rp_filter), so `all` must be 0; the
/// other devices get what `all` gave them before.
fn no_rp_filter(device: &str, nl: &mut Netlink, journal: &mut Journal) -> io::Result<String> {
    let key = |d: &str| format!("net.ipv4.conf.{}.rp_filter", d.replace('.', "/"));
    let all = sysctl(&key("all"))?;
    if all != "0" {
        let number = |s: &str| s.parse::<u32>().unwrap_or(0);
        for link in nl.links()?.iter().filter(|l| l.name != device) {
            let own = sysctl(&key(&link.name))?;
            if number(&own) < number(&all) {
                change_sysctl(&key(&link.name), &all, journal)?;
            }
        }
        change_sysctl(&key("all"), "0", journal)?;
    }
    change_sysctl(&key(device), "0", journal)?;
    Ok(format!("reverse path filter off on {device}"))
}

fn default_route(gateway: IpAddr, nl: &mut Netlink, journal: &mut Journal) -> io::Result<String> {
    let v4 = gateway.is_ipv4();
    // IPv6 routes made without a metric have 1024; ours must win.
    let ours = Route { metric: if v4 { 0 } else { 1 }, ..Route::default_via(gateway) };
    let routes = nl.routes(v4)?;
    let same_place = routes.iter().find(|r| r.to == default_net(v4) && r.metric == ours.metric);
    if same_place.is_some_and(|r| r.via == Some(gateway)) {
        return Ok(format!("the default route goes through {gateway} already"));
    }
    let was = match same_place {
        None => None,
        Some(r) => {
            let device = nl.links()?.into_iter().find(|l| Some(l.index) == r.dev).map(|l| l.name);
            Some((r.via, device, r.metric, r.onlink))
        }
    };
    if let Some(r) = same_place {
        nl.delete_route(*r)?;
    }
    if let Err(e) = nl.add_route(ours, false) {
        if let Some(r) = same_place {
            nl.add_route(*r, false)?;
        }
        return Err(io::Error::new(
            e.kind(),
            format!("{e}; help: the gateway must be an address on a network of this host"),
        ));
    }
    journal.push(Undo::DefaultRoute { gateway, was });
    Ok(format!("default route set through {gateway}"))
}

impl Undo {
    /// The device that what was done is bound to, and gone with.
    fn device(&self) -> Option<&str> {
        match self {
            Undo::Address { device, .. } | Undo::LinkDown { device } | Undo::Link { device } => Some(device),
            Undo::Sysctl { .. } | Undo::DefaultRoute { .. } => None,
        }
    }

    fn apply(&self) -> io::Result<()> {
        let mut nl = Netlink::open()?;
        match self {
            Undo::Sysctl { key, was } => set_sysctl(key, was),
            Undo::Address { device, cidr } => {
                let cidr = cidr.parse().map_err(io::Error::other)?;
                let index = nl.index(device)?;
                nl.delete_address(index, cidr)
            }
            Undo::LinkDown { device } => {
                let index = nl.index(device)?;
                nl.set_up(index, false)
            }
            Undo::Link { device } => {
                let index = nl.index(device)?;
                nl.delete_link(index)
            }
            Undo::DefaultRoute { gateway, was } => {
                let v4 = gateway.is_ipv4();
                nl.delete_route(Route { metric: u32::from(!v4), ..Route::default_via(*gateway) })?;
                let Some((via, device, metric, onlink)) = was else { return Ok(()) };
                let dev = device.as_ref().map(|d| nl.index(d)).transpose()?;
                let back = Route { to: default_net(v4), via: *via, dev, onlink: *onlink, metric: *metric };
                nl.add_route(back, false)
            }
        }
    }

    fn shell(&self) -> String {
        match self {
            Undo::Sysctl { key, was } => format!("{key} set back to {was}"),
            Undo::Address { device, cidr } => format!("{cidr} taken off {device}"),
            Undo::LinkDown { device } => format!("{device} brought down"),
            Undo::Link { device } => format!("{device} deleted"),
            Undo::DefaultRoute { gateway, was: None } => format!("default route through {gateway} removed"),
            Undo::DefaultRoute { gateway, was: Some(_) } => {
                format!("default route through {gateway} replaced by the earlier one")
            }
        }
    }
}

/// What was done, in order, and so what is to be taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal(Vec<Undo>);

impl Journal {
    /// Records one thing done.
    pub fn push(&mut self, undo: Undo) {
        self.0.push(undo);
    }

    /// True when nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes everything back, last first; goes on after an error. What is gone already (a device that went
    /// with its process) is as good as taken back. Says what was done, and what could not be.
    pub fn undo(&mut self) -> Vec<Result<String, String>> {
        let mut told = Vec::new();
        while let Some(undo) = self.0.pop() {
            match undo.apply() {
                Ok(()) => told.push(Ok(undo.shell())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => told.push(Err(e.to_string())),
            }
        }
        told
    }

    /// Adds to what is on file for this role and namespace.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, role: &str) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut all = Journal::load(role)?;
        all.0.extend(self.0.iter().cloned());
        let path = journal_path(role)?;
        let fresh = path.with_extension("new");
        let mut file =
            fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(&all)?)?;
        fs::rename(fresh, path)
    }

    /// What is on file for this role and namespace; empty when there is no file.
    ///
    /// # Errors
    /// The file cannot be read or is not a journal.
    pub fn load(role: &str) -> io::Result<Journal> {
        let path = journal_path(role)?;
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| io::Error::other(format!("{}: {e}", path.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Journal::default()),
            Err(e) => Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
        }
    }

    /// What a process that was killed has left on file: its devices are gone, settings stayed behind. Empty
    /// while a device is there, as its process lives.
    ///
    /// # Errors
    /// As [`Journal::load`].
    pub fn orphaned(role: &str) -> io::Result<Journal> {
        let left = Journal::load(role)?;
        let mut nl = Netlink::open()?;
        let lives = left.0.iter().filter_map(Undo::device).any(|d| nl.index(d).is_ok());
        Ok(if lives { Journal::default() } else { left })
    }

    /// Takes over what was done before: it is taken back last.
    pub fn adopt(&mut self, earlier: Journal) {
        self.0.splice(0..0, earlier.0);
    }

    /// Removes the file.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(role: &str) -> io::Result<()> {
        match fs::remove_file(journal_path(role)?) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// One file for each role and network namespace: the namespace's number is part of the name because
/// namespaces share the file system.
fn journal_path(role: &str) -> io::Result<PathBuf> {
    let uid = nix::unistd::geteuid();
    let dir = match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if uid.is_root() => PathBuf::from("/run/softlvs"),
        Some(dir) => PathBuf::from(dir).join("softlvs"),
        None => PathBuf::from(format!("/tmp/softlvs-{uid}")),
    };
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display())));
        }
        _ => {}
    }
    // Somebody else's directory of this name could feed us what to undo.
    let meta = fs::symlink_metadata(&dir)?;
    if !meta.is_dir() || meta.uid() != uid.as_raw() {
        return Err(io::Error::other(format!("{} is not ours; help: remove it", dir.display())));
    }
    Ok(dir.join(format!("real-{role}-{}.json", NetNs::current()?.id()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::{Role, prepare};

    #[test]
    fn what_was_there_before_comes_back() {
        let Ok(ns) = NetNs::new() else {
            eprintln!("skipped: no right to make network namespaces");
            return;
        };
        ns.run(|| {
            let mut nl = Netlink::open()?;
            nl.add_veth("v0", "v1", None)?;
            let v0 = nl.index("v0")?;
            nl.set_up(v0, true)?;
            nl.add_address(v0, "10.0.0.11/24".parse().unwrap(), true)?;
            nl.add_route(Route::default_via("10.0.0.254".parse().unwrap()), false)?;
            set_sysctl("net.ipv4.conf.all.arp_announce", "1")?;
            let before = (nl.routes(true)?, nl.addresses()?);

            let mut nat = prepare(&Role::Nat { gateway: "10.0.0.1".parse().unwrap() })?;
            let gateways: Vec<_> = nl.routes(true)?.iter().filter_map(|r| r.via).collect();
            assert_eq!(gateways, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
            let mut dr = prepare(&Role::Dr { vips: vec!["192.0.2.10".parse().unwrap()] })?;
            assert_eq!(sysctl("net.ipv4.conf.all.arp_announce")?, "2");
            assert!(prepare(&Role::Dr { vips: vec!["192.0.2.10".parse().unwrap()] })?.journal.is_empty());

            for told in dr.journal.undo().into_iter().chain(nat.journal.undo()) {
                told.unwrap();
            }
            assert_eq!((nl.routes(true)?, nl.addresses()?), before);
            assert_eq!(sysctl("net.ipv4.conf.all.arp_announce")?, "1");
            assert_eq!(sysctl("net.ipv4.conf.all.arp_ignore")?, "0");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn a_gateway_off_every_network_is_refused_and_the_old_route_stays() {
        let Ok(ns) = NetNs::new() else { return };
        ns.run(|| {
            let e = prepare(&Role::Nat { gateway: "10.9.9.9".parse().unwrap() }).unwrap_err();
            assert!(e.to_string().contains("help: the gateway must be"), "{e}");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn other_devices_keep_their_reverse_path_filter() {
        let Ok(ns) = NetNs::new() else { return };
        ns.run(|| {
            Netlink::open()?.add_veth("v0", "v1", None)?;
            set_sysctl("net.ipv4.conf.all.rp_filter", "1")?;
            set_sysctl("net.ipv4.conf.v0.rp_filter", "0")?;
            set_sysctl("net.ipv4.conf.v1.rp_filter", "0")?;
            let mut journal = Journal::default();
            Step::NoReversePathFilter { device: "v1".into() }.apply(&mut journal)?;
            let rp = |d: &str| sysctl(&format!("net.ipv4.conf.{d}.rp_filter"));
            assert_eq!((rp("all")?, rp("v0")?, rp("v1")?), ("0".into(), "1".into(), "0".into()));
            journal.undo();
            assert_eq!((rp("all")?, rp("v0")?, rp("v1")?), ("1".into(), "0".into(), "0".into()));
            Ok(())
        })
        .unwrap();
    }
}
