//! The program on an interface, its maps, and how it comes and goes.
//!
//! The program is attached by a link: when the process ends, however it ends, the kernel takes the program off
//! and closes the sockets. Addresses change in the maps while it runs; when what packets are dealt out to workers by
//! changes, another program takes its place, which has to be loaded first: milliseconds with many addresses, in a
//! thread of its own, while packets are dealt out as before.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::claims::{Claims, Entries};
use super::explain::{self, Doing};
use super::program::{Parameters, Take, build};
use crate::addr::Mac;
use crate::engine::steer::Outline;
use crate::io::OpenError;
use crate::io::steering::Steps;
use crate::io::sys::bpf::{Attach, Kind, Link, Map, MapKind, Program};
use crate::io::sys::{link, packet};

/// Most single addresses and networks, real servers included.
const HOSTS: u32 = 1 << 18;
/// See [`HOSTS`].
const NETS: u32 = 1 << 14;
/// Its name, for those who look.
const NAME: &str = "softlvs";
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
    workers: u32,
    frags: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    program: Program,
    attached: Option<Attached>,
    entries: Entries,
    /// What the program is to deal packets out by.
    outline: Option<Outline>,
    /// It does so already, by this or an earlier one.
    steers: bool,
    /// The log says already that it does not.
    told: bool,
    /// A thread loads a program; it looks for another outline before it ends.
    loading: bool,
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
    /// Makes maps and program for so many workers; nothing is attached yet.
    ///
    /// # Errors
    /// No privilege, no BPF in the kernel.
    pub fn new(
        interface: &str,
        mac: Mac,
        inherited: bool,
        mode: XdpMode,
        workers: u32,
    ) -> Result<Filter, OpenError> {
        let map = |kind, key, value, entries, name| {
            Map::create(kind, key, value, entries, name)
                .map_err(|e| explain::failure(interface, Doing::Maps, &e))
        };
        let hosts = map(MapKind::Hash, 16, 4, HOSTS, "softlvs_hosts")?;
        let nets = map(MapKind::Lpm, 20, 4, NETS, "softlvs_nets")?;
        let sockets = map(MapKind::Xsk, 4, 4, QUEUES * places(workers), "softlvs_socks")?;
        let maps = [hosts.number(), nets.number(), sockets.number()];
        let code = build(&parameters(mac, inherited, maps, workers, None))
            .map_err(|e| explain::failure(interface, Doing::Program, &io::Error::other(e)))?;
        let load = |frags| Program::load(&code, Kind::Xdp { frags }, NAME);
        let (program, frags) = match load(true) {
            Ok(program) => (program, true),
            // kernels before 5.18 do not know packets in pieces
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                return Err(explain::failure(interface, Doing::Program, &e));
            }
            Err(_) => (load(false).map_err(|e| explain::failure(interface, Doing::Program, &e))?, false),
        };
        let state = State {
            program,
            attached: None,
            entries: Entries::default(),
            outline: None,
            steers: false,
            told: false,
            loading: false,
        };
        let (interface, state) = (interface.to_owned(), Mutex::new(state));
        Ok(Filter { interface, mac, inherited, mode, hosts, nets, sockets, workers, frags, state })
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
            XdpMode::Native => (Link::attach(&state.program, ifindex, Attach::Native)?, Attach::Native),
            XdpMode::Generic => (Link::attach(&state.program, ifindex, Attach::Generic)?, Attach::Generic),
            XdpMode::Auto => match Link::attach(&state.program, ifindex, Attach::Native) {
                Ok(link) => (link, Attach::Native),
                Err(e) if explain::occupied(&e) || e.raw_os_error() == Some(libc::EPERM) => return Err(e),
                Err(_) => (Link::attach(&state.program, ifindex, Attach::Generic)?, Attach::Generic),
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

    /// Deals packets out by this outline from now on, or soon.
    pub fn steer(self: &Arc<Self>, outline: &Outline) {
        let mut state = self.state();
        if self.workers < 2 || state.outline.as_ref() == Some(outline) {
            return;
        }
        state.outline = Some(outline.clone());
        if !state.steers {
            drop(state);
            return self.renew();
        }
        if !std::mem::replace(&mut state.loading, true) {
            let filter = self.clone();
            let renew = move || filter.renew();
            state.loading = std::thread::Builder::new().name("lvs-steer".to_owned()).spawn(renew).is_ok();
        }
    }

    /// Loads programs until the one that runs is that of the outline.
    fn renew(&self) {
        let mut state = self.state();
        while let Some(outline) = state.outline.clone() {
            drop(state);
            let loaded = self.load(&outline);
            state = self.state();
            if state.outline.as_ref() != Some(&outline) {
                continue;
            }
            let replaced = loaded.and_then(|program| {
                if let Some(attached) = &state.attached {
                    attached.link.replace(&program)?;
                }
                state.program = program;
                Ok(())
            });
            match replaced {
                Ok(()) => state.steers = true,
                Err(_) if std::mem::replace(&mut state.told, true) => {}
                Err(error) => {
                    warn!(interface = %self.interface, %error, "XDP goes on to deal packets out as before: some are handed over between workers");
                }
            }
            break;
        }
        state.loading = false;
    }

    fn load(&self, outline: &Outline) -> io::Result<Program> {
        let maps = [self.hosts.number(), self.nets.number(), self.sockets.number()];
        let steps = Some(Steps::new(outline));
        let code = build(&parameters(self.mac, self.inherited, maps, self.workers, steps))
            .map_err(io::Error::other)?;
        Program::load(&code, Kind::Xdp { frags: self.frags }, NAME)
    }

    /// How many workers receive from it.
    pub fn workers(&self) -> u32 {
        self.workers
    }
    /// The map that queues put their sockets into.
    pub fn sockets(&self) -> &Map {
        &self.sockets
    }
    /// Place of a worker's socket for a queue in that map.
    pub fn place(&self, queue: u32, worker: u32) -> u32 {
        queue * places(self.workers) + worker
    }
    /// All places of a queue: one for each worker and, behind them, its own.
    pub fn places(&self, queue: u32) -> Range<u32> {
        let n = places(self.workers);
        queue * n..(queue + 1) * n
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

/// Places of a queue in the map of sockets.
fn places(workers: u32) -> u32 {
    if workers > 1 { workers + 1 } else { 1 }
}

fn parameters(
    mac: Mac,
    inherited: bool,
    [hosts, nets, sockets]: [i32; 3],
    workers: u32,
    steps: Option<Steps>,
) -> Parameters {
    let take = Take::Redirect { sockets, places: places(workers) };
    Parameters { mac, inherited, hosts, nets, take, steps }
}

fn prefix((bits, key): &(u32, super::claims::Key)) -> [u8; 20] {
    let mut out = [0; 20];
    out[..4].copy_from_slice(&bits.to_ne_bytes());
    out[4..].copy_from_slice(key);
    out
}
