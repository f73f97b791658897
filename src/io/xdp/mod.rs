//! XDP port: AF_XDP sockets behind a program that takes from an interface what belongs to the director.
//!
//! The program ([`program`], the rule it implements is [`claims`]) runs before the kernel's stack. What it
//! redirects the kernel never sees, what it passes on is the kernel's as if nothing were there. It is
//! assembled here ([`crate::io::ebpf`]) and loaded with `bpf(2)`: no compiler, no object file, no library.
//!
//! Each queue of the interface has a socket with frames of its own; with several workers each has a socket on the
//! queues of the others beside ([`guests`]). There is no offload: super-frames for this
//! port are segmented by the worker, partial checksums completed. What locally made frames bring along is
//! found out by looking ([`partial`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::error::PortError;
use super::sys::bpf::Attach;
use super::sys::xsk::{AnyOf, Statistics};
use super::sys::{ethtool, link};
use super::{Burst, Losses, MacChoice, OpenError, Port, PortInfo, SendReport, SlotIter, mac, room};
use crate::addr::Mac;
use crate::buf::{Offload, PacketBuf};
use crate::engine::steer::Outline;
use crate::host::OffloadCaps;
use crate::wire::Link;

pub mod claims;
mod ear;
pub mod explain;
pub mod filter;
pub mod frames;
pub mod guests;
pub mod inbox;
pub mod partial;
pub mod program;
pub mod queue;

pub use claims::Claims;
use ear::Ear;
pub use explain::Doing;
pub use filter::{Filter, XdpMode};
pub use frames::Census;
use guests::{Guests, Hosts};
use queue::{Options, Queue};

/// How often, and after which time, a queue that is still taken is asked for again.
const PATIENCE: u32 = 50;
const STEP: Duration = Duration::from_millis(20);

/// What is wanted of an XDP port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpConfig {
    /// Existing interface.
    pub interface: String,
    /// The director's MAC.
    pub mac: MacChoice,
    /// Where the program is attached.
    pub mode: XdpMode,
    /// Have the kernel poll the driver, for so many microseconds at a time.
    pub busy_poll: Option<u32>,
}

/// One worker's share of an interface: some of its queues, mostly one.
pub struct XdpPort {
    config: XdpConfig,
    filter: Arc<Filter>,
    /// Numbers of the queues.
    numbers: Vec<u32>,
    /// The same, open; empty while out of order.
    queues: Vec<Queue>,
    /// Sockets on the queues of the others.
    guests: Guests,
    /// The latest burst began with them.
    guests_first: bool,
    /// It was said that there are no guests, and why.
    told: bool,
    /// What is announced to everybody, for the port that has the first queue.
    ear: Option<Ear>,
    /// Readiness of all of them in one descriptor.
    any: Option<AnyOf>,
    /// Frames may come with partial checksums and as super-frames.
    local_peers: bool,
    attach: Attach,
    info: PortInfo,
}

impl XdpPort {
    /// Opens an interface whole: all its queues in one port.
    ///
    /// # Errors
    /// [`OpenError`] with the remedy: privilege, kernel, driver, another program.
    pub fn open(config: &XdpConfig) -> Result<XdpPort, OpenError> {
        let mut ports = XdpPort::open_queues(config, 1)?;
        ports.pop().ok_or_else(|| {
            OpenError::new(format!("cannot open an XDP port on {}", config.interface), "it has no queue", "")
        })
    }

    /// Opens an interface for `n` workers: its queues are dealt out to `n` ports.
    ///
    /// # Errors
    /// As [`XdpPort::open`], and when the interface has fewer than `n` queues.
    pub fn open_queues(config: &XdpConfig, n: usize) -> Result<Vec<XdpPort>, OpenError> {
        let name = &config.interface;
        let what = || format!("cannot open an XDP port on {name}");
        let no_device = |e: io::Error| {
            let help = "`ip link` lists the interfaces of this network namespace";
            OpenError::new(what(), e.to_string(), help)
        };
        link::check_name(name).map_err(|e| OpenError::plain(what(), &e))?;
        let Some(device) = link::mac(name).map_err(no_device)? else {
            return Err(OpenError::new(
                what(),
                "it is not an Ethernet interface",
                "choose an Ethernet interface; for an IP link use a TUN port (`--tun NAME`)",
            ));
        };
        let queues = ethtool::receive_queues(name).map_err(no_device)?.min(filter::QUEUES);
        if n == 0 || n > queues as usize {
            return Err(OpenError::new(
                what(),
                format!("{n} workers want a queue each, it has {queues}"),
                format!("`ethtool -L {name} combined {n}` if its driver can, or fewer workers"),
            ));
        }
        let mac = mac::for_packet(name, config.mac, device)?;
        let filter = Arc::new(Filter::new(name, mac, mac == device, config.mode, n as u32)?);
        let hosts = Arc::new(Hosts::default());
        let (attach, _) = filter.attach().map_err(|e| explain::failure(name, Doing::Attach, &e))?;
        let mut ports = Vec::with_capacity(n);
        for i in 0..n as u32 {
            let mut port = XdpPort {
                config: config.clone(),
                filter: filter.clone(),
                numbers: (i..queues).step_by(n).collect(),
                queues: Vec::new(),
                guests: Guests::new(hosts.clone(), i)
                    .map_err(|e| OpenError::new(what(), e.to_string(), ""))?,
                guests_first: false,
                told: false,
                ear: None,
                any: None,
                local_peers: local_peers(name),
                attach,
                info: info(name, device, mac),
            };
            port.start_patiently().map_err(|(doing, e)| explain::failure(name, doing, &e))?;
            ports.push(port);
        }
        ports.iter_mut().for_each(XdpPort::follow);
        Ok(ports)
    }

    /// Starts; the kernel frees the queues of a process that has just ended a moment later.
    fn start_patiently(&mut self) -> Result<(), (Doing, io::Error)> {
        for _ in 0..PATIENCE {
            match self.start() {
                Err((Doing::Queue(queue::Step::Bind), e)) if e.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(STEP);
                }
                done => return done,
            }
        }
        self.start()
    }

    /// Attaches the program where it is not, and opens the queues.
    fn start(&mut self) -> Result<(), (Doing, io::Error)> {
        let name = &self.config.interface;
        let (attach, ifindex) = self.filter.attach().map_err(|e| (Doing::Attach, e))?;
        self.attach = attach;
        let options = Options {
            attach,
            frags: self.filter.takes_frags(),
            frame: self.info.mtu + Link::Ethernet.header_len() as u32,
            busy_poll: self.config.busy_poll,
            waiting: guests::waiting(self.filter.workers()),
        };
        let mut queues = Vec::with_capacity(self.numbers.len());
        for number in &self.numbers {
            let queue = Queue::open(ifindex, *number, &options).map_err(|(s, e)| (Doing::Queue(s), e))?;
            for place in self.filter.places(*number) {
                queue
                    .socket()
                    .enter(self.filter.sockets(), place)
                    .map_err(|e| (Doing::Queue(queue::Step::Enter), e))?;
            }
            queues.push(queue);
        }
        let socket = |e| (Doing::Queue(queue::Step::Socket), e);
        let ear = if self.numbers.contains(&0) { Some(Ear::open(ifindex).map_err(socket)?) } else { None };
        self.any = None;
        if queues.len() > 1 || ear.is_some() || self.filter.workers() > 1 {
            let all = queues.iter().map(Queue::fd).chain(ear.as_ref().map(AsFd::as_fd));
            let all = all.chain(Some(self.guests.bell()));
            self.any = Some(AnyOf::new(all).map_err(socket)?);
        }
        self.ear = ear;
        for queue in &queues {
            self.guests.hosts().publish(ifindex, queue.number(), queue.socket(), queue.source());
        }
        self.queues = queues;
        debug!(interface = %name, how = %self.how(), "XDP port is open");
        Ok(())
    }

    /// Has sockets on the queues of the others, as they come and go.
    fn follow(&mut self) {
        self.guests.look();
        // a queue that is polled is polled by the worker it belongs to
        if self.filter.workers() < 2 || self.attach != Attach::Native || self.config.busy_poll.is_some() {
            return;
        }
        let others = match self.guests.follow(&self.filter, &self.numbers) {
            Ok(others) => others,
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    let name = &self.config.interface;
                    warn!(interface = %name, %error, "no socket on another worker's queue: its packets are handed over");
                }
                true
            }
        };
        if let Some(any) = self.any.as_ref().filter(|_| others) {
            for guest in self.guests.all() {
                // those that are known already stay
                let _ = any.add(guest.fd());
            }
        }
    }

    /// Closes its sockets.
    fn close(&mut self) {
        self.guests.clear(&self.filter);
        self.guests.hosts().withdraw(&self.numbers);
        // a queue takes a new socket only when the old one is closed
        (self.any, self.ear) = (None, None);
        self.queues.clear();
    }

    /// The program with its maps, to be told what belongs to the director.
    pub fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// How it works, for people: `native, copy` and the like.
    pub fn how(&self) -> String {
        let attach = if self.attach == Attach::Native { "native" } else { "generic" };
        let zero = self.queues.iter().all(Queue::is_zero_copy);
        let copy = if zero { "zero-copy" } else { "copy" };
        match self.queues.len() {
            1 => format!("{attach}, {copy}"),
            n => format!("{attach}, {copy}, {n} queues"),
        }
    }

    /// Where the frames of each queue are.
    pub fn census(&self) -> Vec<Census> {
        self.queues.iter().map(Queue::census).collect()
    }

    /// What the kernel lost, each queue.
    pub fn statistics(&self) -> Vec<Statistics> {
        self.queues.iter().map(Queue::statistics).collect()
    }
}

fn info(name: &str, device: Mac, mac: Mac) -> PortInfo {
    PortInfo {
        name: name.to_owned(),
        link: Link::Ethernet,
        device_mac: Some(device),
        mac: Some(mac),
        mtu: link::mtu(name).unwrap_or(1500),
        offload: OffloadCaps::default(),
    }
}

/// True when frames may come from a stack on the same machine, which leaves checksums to devices that are none.
/// A card computes and checks for itself. One that cannot be asked is taken for no card.
pub fn local_peers(interface: &str) -> bool {
    const PARAVIRTUAL: [&str; 4] = ["virtio_net", "vif", "xen_netfront", "hv_netvsc"];
    ethtool::driver(interface).map_or(true, |d| d.bus.is_empty() || PARAVIRTUAL.contains(&d.name.as_str()))
}

impl Port for XdpPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.any {
            Some(any) => Some(any.as_fd()),
            None => self.queues.first().map(Queue::fd),
        }
    }

    fn recv_burst<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) -> Result<(), PortError> {
        let (mtu, local) = (self.info.mtu, self.local_peers);
        let what = |frame: &[u8]| if local { partial::detect(frame, mtu) } else { Offload::NONE };
        let before = burst.len();
        let mut bytes = 0;
        if self.guests.changed() {
            self.follow();
        }
        // bursts begin with another socket in turn, so that a busy one does not starve the others
        self.guests_first = !self.guests_first;
        if self.guests_first {
            self.guests.receive(slots, burst, &mut bytes, what)?;
        }
        for queue in &mut self.queues {
            queue.receive(slots, burst, &mut bytes, what)?;
        }
        if !self.guests_first {
            self.guests.receive(slots, burst, &mut bytes, what)?;
        }
        if self.queues.len() > 1 {
            self.queues.rotate_left(1);
        }
        if burst.len() == before && room(slots, burst) > 0 {
            // woken up by no queue: by an announcement, or is the interface still there?
            if let Some(ear) = &mut self.ear {
                ear.receive(slots, burst);
            }
            self.queues.iter().try_for_each(Queue::call)?;
        }
        Ok(())
    }

    fn send_burst(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        report: &mut SendReport,
    ) -> Result<(), PortError> {
        let longest = self.info.mtu as usize + Link::Ethernet.header_len();
        // one queue, whatever the others are doing: packets of a flow keep their order
        let first = *self.numbers.first().unwrap_or(&0);
        let at = self.queues.iter().position(|q| q.number() == first).unwrap_or(0);
        let Some(queue) = self.queues.get_mut(at) else {
            return Err(super::error::broken(libc::ENODEV));
        };
        let (mut pushed, mut full) = (0, 0);
        for packet in packets {
            let frame = packet.bytes();
            if frame.is_empty() || frame.len() > longest || !queue.carries(frame.len()) {
                report.refused += 1;
            } else if queue.push(frame) {
                pushed += 1;
            } else {
                full += 1;
            }
        }
        let done = queue.transmit();
        report.full += full;
        // what an interface that went away had not taken was not sent
        report.sent += if done.is_err() { pushed - pushed.min(queue.unsent() as usize) } else { pushed };
        done
    }

    fn losses(&mut self) -> Losses {
        let guests = Losses { full: self.guests.full(), ..Losses::default() };
        let one = |queue: &Queue| {
            let s = queue.statistics();
            // what found no frame is among what was dropped, by whomever it was received for
            let dropped = s.dropped + self.guests.hosts().dropped(queue.number());
            let unsuitable = dropped.saturating_sub(s.no_frame);
            Losses { full: s.ring_full, no_frame: s.no_frame, unsuitable, invalid: s.invalid }
        };
        self.queues.iter().map(one).fold(guests, |a, b| a + b)
    }

    fn steer(&mut self, outline: &Outline) {
        // without guests there is nothing to choose from
        if self.attach == Attach::Native && self.config.busy_poll.is_none() {
            self.filter.steer(outline);
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        let name = &self.config.interface.clone();
        let device =
            link::mac(name)?.ok_or_else(|| io::Error::other("it is no Ethernet interface any more"))?;
        if !link::is_up(name)? {
            return Err(io::Error::from_raw_os_error(libc::ENETDOWN));
        }
        // an interface that was only down: the sockets are still bound and everything is in its place
        let bound = !self.queues.is_empty() && self.queues.iter().all(|q| q.call().is_ok());
        if bound && self.filter.attach().is_ok_and(|(how, _)| how == self.attach) {
            return Ok(());
        }
        self.close();
        // the director keeps its MAC even when an interface it was inherited from came back with another
        self.info = info(name, device, self.info.mac.unwrap_or(device));
        self.local_peers = local_peers(name);
        self.start().map_err(|(_, e)| e)
    }
}

impl Drop for XdpPort {
    fn drop(&mut self) {
        self.close();
    }
}
