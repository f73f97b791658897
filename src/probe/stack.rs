//! The director's own way: a userspace stack that asks from the director's address, through its ports, and
//! where wanted through the tunnel or MAC address by which the traffic goes.
//!
//! Each check leases a source port and has a stack of its own (smoltcp for TCP) for as long as it runs, so
//! checks know nothing of each other. Answers come from the workers through one bounded channel and are given
//! out by port.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etherparse::PacketBuilder;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};

use super::Trouble;
use crate::engine::checks::{CHECK_PORTS, CheckWay, DOCTOR_PORTS};
use crate::health::{Job, Via};
use crate::serve::workers::Askers;
use crate::wire::meta::parse_quoted;
use crate::wire::{Family, Link, Meta, Parsed, be16, number, parse};
use crate::worker::clock;

/// Packets that may wait for the checks, all together and each.
const WAITING: (usize, usize) = (8192, 64);
/// Largest packet of a check: fits every tunnel over every usual network.
const MTU: usize = 1380;
/// Bytes on their way to and from a check.
const BUFFER: usize = 64 * 1024;

/// Last port that is given out.
const LAST: u16 = *DOCTOR_PORTS.start() - 1;

/// Gives out ports and answers.
#[derive(Clone)]
pub struct Stack(Arc<Inner>);

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stack")
    }
}

struct Inner {
    workers: Askers,
    ports: Mutex<Ports>,
}

struct Ports {
    next: u16,
    taken: HashMap<u16, mpsc::Sender<Vec<u8>>>,
}

/// A source port, until it is dropped.
struct Lease {
    stack: Stack,
    port: u16,
    answers: mpsc::Receiver<Vec<u8>>,
    way: CheckWay,
    from: IpAddr,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stack.ports().taken.remove(&self.port);
    }
}

impl Stack {
    /// A stack over these workers, whose answers to checks come here from now on.
    pub async fn start(workers: Askers) -> Stack {
        let (tell, mut answers) = mpsc::channel::<Vec<u8>>(WAITING.0);
        let tap = move |engine: &mut crate::engine::Engine, _| {
            let tell = tell.clone();
            // a full channel loses packets, as any queue does
            engine.set_tap(move |packet: &[u8]| drop(tell.try_send(packet.to_vec())));
        };
        // the director is stopping: nothing will be asked
        let _ = workers.ask_all(tap).await;
        let ports = Ports { next: *CHECK_PORTS.start(), taken: HashMap::new() };
        let stack = Stack(Arc::new(Inner { workers, ports: Mutex::new(ports) }));
        let out = Arc::downgrade(&stack.0);
        tokio::spawn(async move {
            while let Some(packet) = answers.recv().await {
                let Some(inner) = out.upgrade() else { return };
                if let Some(port) = addressee(&packet) {
                    let ports = inner.ports.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    if let Some(to) = ports.taken.get(&port) {
                        let _ = to.try_send(packet);
                    }
                }
            }
        });
        stack
    }

    fn ports(&self) -> std::sync::MutexGuard<'_, Ports> {
        self.0.ports.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn lease(&self, job: &Job) -> Result<Lease, Trouble> {
        let here = |why: &str| Trouble::Unchecked(why.to_owned());
        let (real, v6) = (job.real.ip(), job.to.is_ipv6());
        let towards = if job.via == Via::Vip { real } else { job.to.ip() };
        let source = self.0.workers.ask(0, move |engine, _| engine.check_source(towards, v6)).await;
        let from = source.map_err(|_| here("the director is stopping"))?;
        let from = from.ok_or_else(|| here("the director has no address on the way to the server"))?;
        let way = match (job.via, job.forward) {
            (Via::Vip, Some(forward)) => CheckWay::Through(real, forward),
            _ => CheckWay::Direct,
        };
        let (tell, answers) = mpsc::channel(WAITING.1);
        let mut ports = self.ports();
        for _ in *CHECK_PORTS.start()..=LAST {
            let port = ports.next;
            ports.next = if port == LAST { *CHECK_PORTS.start() } else { port + 1 };
            if let Entry::Vacant(free) = ports.taken.entry(port) {
                free.insert(tell);
                drop(ports);
                return Ok(Lease { stack: self.clone(), port, answers, way, from });
            }
        }
        Err(here("all source ports of checks are taken"))
    }

    /// Opens a connection to the server of a check.
    ///
    /// # Errors
    /// It is not accepted, or cannot be tried.
    pub async fn connect(&self, job: &Job) -> Result<DuplexStream, Trouble> {
        let lease = self.lease(job).await?;
        let (near, far) = duplex(BUFFER);
        let (tell, connected) = oneshot::channel();
        tokio::spawn(drive(lease, job.to, far, tell));
        match connected.await {
            Ok(Ok(())) => Ok(near),
            Ok(Err(why)) => Err(Trouble::Failed(format!("connecting to {}: {why}", job.to))),
            Err(_) => Err(Trouble::Unchecked("the director is stopping".to_owned())),
        }
    }

    /// Opens a pair of datagram ends towards the server of a check.
    ///
    /// # Errors
    /// It cannot be tried.
    pub async fn datagrams(&self, job: &Job) -> Result<Datagrams, Trouble> {
        let lease = self.lease(job).await?;
        Ok(Datagrams { lease: tokio::sync::Mutex::new(lease), to: job.to })
    }

    /// Asks for an echo.
    ///
    /// # Errors
    /// There is none, or it cannot be tried.
    pub async fn echo(&self, job: &Job) -> super::Finding {
        let mut lease = self.lease(job).await?;
        let tag = getrandom::u64().map_err(|e| Trouble::Unchecked(e.to_string()))?.to_be_bytes();
        let mut packet = Vec::new();
        let built = match (lease.from, job.to.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 64)
                .icmpv4_echo_request(lease.port, 1)
                .write(&mut packet, &tag),
            (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), 64)
                .icmpv6_echo_request(lease.port, 1)
                .write(&mut packet, &tag),
            _ => return Err(Trouble::Unchecked("two address families".to_owned())),
        };
        built.map_err(|e| Trouble::Unchecked(e.to_string()))?;
        lease.send(packet).await?;
        while let Some(answer) = lease.answers.recv().await {
            let Some(meta) = ip(&answer) else { continue };
            let message = answer.get(usize::from(meta.l4)..meta.end as usize).unwrap_or_default();
            if message.get(8..16) == Some(&tag[..]) && matches!(message.first(), Some(0 | 129)) {
                return Ok(crate::health::Outcome::ok("answered"));
            }
        }
        Err(Trouble::Unchecked("the director is stopping".to_owned()))
    }
}

/// Datagrams from the director's own address.
pub struct Datagrams {
    lease: tokio::sync::Mutex<Lease>,
    to: SocketAddr,
}

impl Datagrams {
    /// Sends one.
    ///
    /// # Errors
    /// It cannot be sent.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let lease = self.lease.lock().await;
        let mut packet = Vec::new();
        let ports = (lease.port, self.to.port());
        let built = match (lease.from, self.to.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 64)
                .udp(ports.0, ports.1)
                .write(&mut packet, bytes),
            (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), 64)
                .udp(ports.0, ports.1)
                .write(&mut packet, bytes),
            _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        built.map_err(io::Error::other)?;
        lease.send(packet).await.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))
    }

    /// Waits for one; `ConnectionRefused` when an ICMP error says that nobody listens.
    ///
    /// # Errors
    /// What the network says.
    pub async fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut lease = self.lease.lock().await;
        while let Some(answer) = lease.answers.recv().await {
            let Some(meta) = ip(&answer) else { continue };
            if meta.proto == number::UDP {
                if (meta.src(&answer), meta.sport) != (self.to.ip(), self.to.port()) {
                    continue;
                }
                let data = answer.get(usize::from(meta.l4) + 8..meta.end as usize).unwrap_or_default();
                let n = data.len().min(into.len());
                into[..n].copy_from_slice(&data[..n]);
                return Ok(n);
            }
            if matches!(meta.proto, number::ICMP | number::ICMPV6) {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
        }
        Err(io::Error::from(io::ErrorKind::NotConnected))
    }
}

impl Lease {
    async fn send(&self, packet: Vec<u8>) -> Result<(), Trouble> {
        let way = self.way;
        let workers = &self.stack.0.workers;
        let sent =
            workers.ask_sending(0, move |engine, now, out| engine.send_check(now, &packet, way, out)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(Trouble::Unchecked(format!("the packet cannot be sent: {}", why.name()))),
            Err(_) => Err(Trouble::Unchecked("the director is stopping".to_owned())),
        }
    }
}

fn ip(packet: &[u8]) -> Option<Meta> {
    match parse(packet, Link::Ip) {
        Ok(Parsed::Ip(meta)) => Some(meta),
        _ => None,
    }
}

/// Whose answer it is: the port, the identification of an echo, the port of the quoted packet.
fn addressee(packet: &[u8]) -> Option<u16> {
    let meta = ip(packet)?;
    let l4 = usize::from(meta.l4);
    match meta.proto {
        number::TCP | number::UDP => Some(meta.dport),
        number::ICMP | number::ICMPV6 => {
            if matches!(packet.get(l4), Some(0 | 129)) {
                return (packet.len() >= l4 + 8).then(|| be16(packet, l4 + 4));
            }
            let family = if meta.family == Family::V4 { Family::V4 } else { Family::V6 };
            parse_quoted(packet, l4 + 8, family).ok().map(|quoted| quoted.sport)
        }
        _ => None,
    }
}

/// Packets to and from one connection's stack.
#[derive(Default)]
struct Queues {
    received: VecDeque<Vec<u8>>,
    to_send: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sender<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;
    fn receive(&mut self, _: Instant) -> Option<(Received, Sender<'_>)> {
        Some((Received(self.received.pop_front()?), Sender(&mut self.to_send)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.to_send))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ip;
        caps.max_transmission_unit = MTU;
        // a neighbour in the same machine may leave checksums to a device that is not there
        let mut sums = ChecksumCapabilities::ignored();
        (sums.ipv4, sums.tcp) = (Checksum::Tx, Checksum::Tx);
        caps.checksum = sums;
        caps
    }
}

fn now() -> Instant {
    Instant::from_micros((clock::now().0 / 1000) as i64)
}

/// One connection, until the check drops its end or the server is gone.
async fn drive(
    mut lease: Lease,
    to: SocketAddr,
    app: DuplexStream,
    connected: oneshot::Sender<Result<(), &'static str>>,
) {
    let mut device = Queues::default();
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = getrandom::u64().unwrap_or(u64::from(lease.port));
    let mut stack = Interface::new(config, &mut device, now());
    let (from, remote): (smoltcp::wire::IpAddress, _) = (lease.from.into(), IpEndpoint::from(to));
    let full = if lease.from.is_ipv4() { 32 } else { 128 };
    stack.update_ip_addrs(|all| {
        // there is room for one
        let _ = all.push(IpCidr::new(from, full));
    });
    let routed = match lease.from {
        IpAddr::V4(a) => stack.routes_mut().add_default_ipv4_route(a).is_ok(),
        IpAddr::V6(a) => stack.routes_mut().add_default_ipv6_route(a).is_ok(),
    };
    let buffer = |n| tcp::SocketBuffer::new(vec![0; n]);
    let mut socket = tcp::Socket::new(buffer(BUFFER), buffer(BUFFER / 8));
    socket.set_nagle_enabled(false);
    if !routed || socket.connect(stack.context(), remote, (from, lease.port)).is_err() {
        // who asked has gone away: fine
        let _ = connected.send(Err("the stack refuses"));
        return;
    }
    let mut sockets = SocketSet::new(Vec::with_capacity(1));
    let handle = sockets.add(socket);
    let mut connected = Some(connected);
    let (mut reader, writer) = tokio::io::split(app);
    let mut writer = Some(writer);
    let mut pending: Vec<u8> = Vec::new();
    let mut typed = [0; 4096];
    loop {
        stack.poll(now(), &mut device, &mut sockets);
        for packet in std::mem::take(&mut device.to_send) {
            if lease.send(packet).await.is_err() && connected.is_some() {
                // told as what it is: nobody could be asked
                return;
            }
        }
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        if socket.may_send()
            && let Some(tell) = connected.take()
        {
            let _ = tell.send(Ok(()));
        }
        if !socket.is_open() {
            if let Some(tell) = connected.take() {
                let _ = tell.send(Err("connection refused"));
            }
            if pending.is_empty() && !socket.can_recv() {
                return;
            }
        }
        if pending.is_empty() && socket.can_recv() {
            pending.resize(16 * 1024, 0);
            let n = socket.recv_slice(&mut pending).unwrap_or(0);
            pending.truncate(n);
        }
        if pending.is_empty() && !socket.may_recv() && connected.is_none() {
            // the server has said everything
            writer = None;
        }
        let room = if socket.can_send() { typed.len() } else { 0 };
        let wait = stack.poll_delay(now(), &sockets).map_or(Duration::from_secs(60), Into::into);
        tokio::select! {
            answer = lease.answers.recv() => match answer {
                Some(packet) => device.received.push_back(packet),
                None => return,
            },
            n = reader.read(&mut typed[..room.max(1)]), if room > 0 || connected.is_some() => {
                let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
                match n {
                    Ok(n) if n > 0 => {
                        // the buffer is larger than what is read at once, or the connection is over
                        let _ = socket.send_slice(&typed[..n]);
                    }
                    _ => {
                        socket.abort();
                        stack.poll(now(), &mut device, &mut sockets);
                        for packet in std::mem::take(&mut device.to_send) {
                            // the last word; whether it arrives does not matter
                            let _ = lease.send(packet).await;
                        }
                        return;
                    }
                }
            }
            n = async { match &mut writer { Some(w) => w.write(&pending).await, None => Ok(0) } }, if !pending.is_empty() => {
                match n {
                    Ok(n) if n > 0 => drop(pending.drain(..n)),
                    _ => pending.clear(),
                }
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}
