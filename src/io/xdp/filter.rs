//! The program on an interface, its maps, and how it comes and goes.
//!
//! The program is attached by a link: when the process ends, however it ends, the kernel takes the program off
//! and closes the sockets. Addresses change in the maps while it runs.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::claims::{Claims, Entries};
use super::explain::{self, Doing};
use super::program::{Parameters, Take, build};
use crate::addr::Mac;
use crate::io::OpenError;
use crate::io::sys::bpf::{Attach, Kind, Link, Map, MapKind, Program};
use crate::io::sys::{link, packet};

/// Most single addresses and networks, real servers included.
const HOSTS: u32 = 1 << 18;
/// See [`HOSTS`].
const NETS: u32 = 1 << 14;
/// Most queues of an interface.
pub const QUEUES: u32 = 256;

/// How the program may be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver if it can, else at the entrance of the kernel's stack.
    #[default]
    Auto,
    /// Only in the driver.
    Native,
    /// Only at the entrance of the stack.
    Generic,
}

/// The program of one interface; shared by its ports and whoever changes what is claimed.
#[derive(Debug)]
pub struct Filter {
    interface: String,
    mac: Mac,
    inherited: bool,
    mode: XdpMode,
    hosts: Map,
    nets: Map,
    sockets: Map,
    program: Program,
    frags: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    attached: Option<Attached>,
    entries: Entries,
}

#[derive(Debug)]
struct Attached {
    link: Link,
    ifindex: u32,
    how: Attach,
    /// Holds the interface's membership for a MAC that is not its own.
    _member: Option<std::os::fd::OwnedFd>,
}

impl Filter {
    /// Makes maps and program; nothing is attached yet.
    ///
    /// # Errors
    /// No privilege, no BPF in the kernel.
    pub fn new(interface: &str, mac: Mac, inherited: bool, mode: XdpMode) -> Result<Filter, OpenError> {
        let map = |kind, key, value, entries, name| {
            Map::create(kind, key, value, entries, name)
                .map_err(|e| explain::failure(interface, Doing::Maps, &e))
        };
        let hosts = map(MapKind::Hash, 16, 4, HOSTS, "softlvs_hosts")?;
        let nets = map(MapKind::Lpm, 20, 4, NETS, "softlvs_nets")?;
        let sockets = map(MapKind::Xsk, 4, 4, QUEUES, "softlvs_socks")?;
        let code = build(&Parameters {
            mac,
            inherited,
            hosts: hosts.number(),
            nets: nets.number(),
            take: Take::Redirect(sockets.number()),
        })
        .map_err(|e| explain::failure(interface, Doing::Program, &io::Error::other(e)))?;
        let load = |frags| Program::load(&code, Kind::Xdp { frags }, "softlvs");
        let (program, frags) = match load(true) {
            Ok(program) => (program, true),
            // kernels before 5.18 do not know packets in pieces
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                return Err(explain::failure(interface, Doing::Program, &e));
            }
            Err(_) => (load(false).map_err(|e| explain::failure(interface, Doing::Program, &e))?, false),
        };
        let state = Mutex::default();
        let interface = interface.to_owned();
        Ok(Filter { interface, mac, inherited, mode, hosts, nets, sockets, program, frags, state })
    }

    /// Attaches the program, unless it is on the interface already. Says how and on which interface.
    ///
    /// # Errors
    /// Another program is there, the driver cannot, the interface has gone.
    pub fn attach(&self) -> io::Result<(Attach, u32)> {
        let mut state = self.state();
        let ifindex = link::index(&self.interface)?;
        if let Some(a) = &state.attached
            && a.ifindex == ifindex
            && a.link.interface().is_ok_and(|on| on == Some(ifindex))
        {
            return Ok((a.how, ifindex));
        }
        state.attached = None;
        let (link, how) = match self.mode {
            XdpMode::Native => (Link::attach(&self.program, ifindex, Attach::Native)?, Attach::Native),
            XdpMode::Generic => (Link::attach(&self.program, ifindex, Attach::Generic)?, Attach::Generic),
            XdpMode::Auto => match Link::attach(&self.program, ifindex, Attach::Native) {
                Ok(link) => (link, Attach::Native),
                Err(e) if explain::occupied(&e) || e.raw_os_error() == Some(libc::EPERM) => return Err(e),
                Err(_) => (Link::attach(&self.program, ifindex, Attach::Generic)?, Attach::Generic),
            },
        };
        let member = if self.inherited {
            None
        } else {
            // never bound: it receives nothing, it only keeps the card open for the director's MAC
            let fd = packet::open()?;
            packet::receive_for(std::os::fd::AsFd::as_fd(&fd), ifindex, self.mac)?;
            Some(fd)
        };
        state.attached = Some(Attached { link, ifindex, how, _member: member });
        Ok((how, ifindex))
    }

    /// True while the program is on the interface; somebody may have taken it off.
    pub fn is_attached(&self) -> bool {
        let state = self.state();
        state.attached.as_ref().is_some_and(|a| a.link.interface().is_ok_and(|on| on == Some(a.ifindex)))
    }

    /// Makes the maps say what `claims` say. Everything new comes before anything old goes.
    ///
    /// # Errors
    /// There are too many addresses; the maps say what they said before.
    pub fn update(&self, claims: &Claims) -> Result<(), OpenError> {
        let entries = claims.entries();
        let mut state = self.state();
        if let Err(e) = self.write(&state.entries, &entries) {
            // what did not fit is not there, so the way back always fits
            let _ = self.write(&entries, &state.entries);
            return Err(explain::failure(&self.interface, Doing::Addresses, &e));
        }
        state.entries = entries;
        Ok(())
    }

    fn write(&self, from: &Entries, to: &Entries) -> io::Result<()> {
        for (key, flags) in &to.hosts {
            if from.hosts.get(key) != Some(flags) {
                self.hosts.set(key, &flags.to_ne_bytes())?;
            }
        }
        for (key, flags) in &to.nets {
            if from.nets.get(key) != Some(flags) {
                self.nets.set(&prefix(key), &flags.to_ne_bytes())?;
            }
        }
        for key in from.hosts.keys().filter(|k| !to.hosts.contains_key(*k)) {
            self.hosts.remove(key)?;
        }
        for key in from.nets.keys().filter(|k| !to.nets.contains_key(*k)) {
            self.nets.remove(&prefix(key))?;
        }
        Ok(())
    }

    /// The map that queues put their sockets into.
    pub fn sockets(&self) -> &Map {
        &self.sockets
    }
    /// The program takes packets in pieces.
    pub fn takes_frags(&self) -> bool {
        self.frags
    }
    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }
    /// The director's MAC, and whether it is the interface's own.
    pub fn mac(&self) -> (Mac, bool) {
        (self.mac, self.inherited)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prefix((bits, key): &(u32, super::claims::Key)) -> [u8; 20] {
    let mut out = [0; 20];
    out[..4].copy_from_slice(&bits.to_ne_bytes());
    out[4..].copy_from_slice(key);
    out
}
