//! Plain clients and servers over the kernel's own sockets. Servers and clients are threads of one process,
//! so both compare with the same bytes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use softlvs::io::sys::ns::{NetNs, set_sysctl};

/// Bytes of a bulk transfer.
pub const BULK: usize = 10 << 20;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is sent in a bulk transfer: nothing that repeats, so that a lost, doubled or moved piece shows.
pub fn bulk() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let mut bytes = Vec::with_capacity(BULK);
        while bytes.len() < BULK {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            bytes.extend_from_slice(&x.to_le_bytes());
        }
        bytes
    })
}

/// A real server: TCP and UDP on threads of its own until it is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Serves in `ns`. The UDP address is the one replies come from.
    pub fn start(ns: &NetNs, name: &str, tcp: SocketAddr, udp: SocketAddr) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let (listener, socket) = ns
            .run(|| Ok((when_free(|| TcpListener::bind(tcp))?, when_free(|| UdpSocket::bind(udp))?)))
            .unwrap_or_else(|e| panic!("{name}: cannot serve {tcp} and {udp}: {e}"));
        listener.set_nonblocking(true).unwrap();
        let (name, of_tcp, stopped) = (name.to_owned(), name.to_owned(), stop.clone());
        let accept = std::thread::spawn(move || {
            while wait(&listener, &stopped) {
                while let Ok((stream, peer)) = listener.accept() {
                    let name = of_tcp.clone();
                    std::thread::spawn(move || {
                        // What went wrong is told by the client's side.
                        let _ = serve(stream, peer, &name);
                    });
                }
            }
        });
        let stopped = stop.clone();
        let reply = std::thread::spawn(move || {
            let mut buf = vec![0; 1 << 16];
            while wait(&socket, &stopped) {
                let Ok((n, peer)) = socket.recv_from(&mut buf) else { continue };
                // The first line is the question; what follows goes back as it is.
                let line = buf[..n].iter().position(|b| *b == b'\n').unwrap_or(n);
                let marker = String::from_utf8_lossy(&buf[..line]);
                let mut reply = format!("{marker} {name} {peer}").into_bytes();
                reply.extend_from_slice(&buf[line..n]);
                let _ = socket.send_to(&reply, peer);
            }
        });
        Server { stop, threads: vec![accept, reply] }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
    }
}

/// Does it as soon as nothing is busy any more: a process that another test is just starting holds copies of
/// every socket and file until its exec.
pub fn when_free<S>(mut how: impl FnMut() -> io::Result<S>) -> io::Result<S> {
    let begin = Instant::now();
    loop {
        match how() {
            Err(e) if busy(&e) && begin.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

fn busy(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::ExecutableFileBusy)
}

/// Waits for input; false when it is time to stop.
fn wait(fd: &impl AsFd, stop: &AtomicBool) -> bool {
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(50u8)).is_ok_and(|n| n > 0) {
            return true;
        }
    }
}

fn serve(stream: TcpStream, peer: SocketAddr, name: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    patient(&stream)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        match line.trim_end() {
            "upload" => {
                let mut got = Vec::with_capacity(BULK);
                reader.read_to_end(&mut got)?;
                let verdict = difference(&got).map_or("same".into(), |d| d);
                return writeln!(stream, "{verdict}");
            }
            "download" => {
                stream.write_all(bulk())?;
                return stream.shutdown(std::net::Shutdown::Write);
            }
            marker => stream.write_all(format!("{marker} {name} {peer}\n").as_bytes())?,
        }
        line.clear();
    }
    Ok(())
}

/// Where bytes differ from [`bulk`], if they do.
fn difference(got: &[u8]) -> Option<String> {
    let want = bulk();
    if got == want {
        return None;
    }
    let at = got.iter().zip(want).position(|(a, b)| a != b).unwrap_or(got.len().min(want.len()));
    Some(format!("{} bytes of {}, first difference at {at}", got.len(), want.len()))
}

fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)
}

/// Connects; says to whom when it fails.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))
        .map_err(|e| io::Error::new(e.kind(), format!("connect {to}: {e}")))?;
    patient(&stream)?;
    Ok(stream)
}

/// Sends the bulk and learns from the server whether it arrived byte for byte.
pub fn upload(to: SocketAddr) -> io::Result<Duration> {
    let begin = Instant::now();
    let mut stream = connect(to)?;
    stream.write_all(b"upload\n")?;
    stream.write_all(bulk()).map_err(|e| named("upload", e))?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut verdict = String::new();
    stream.read_to_string(&mut verdict).map_err(|e| named("verdict on the upload", e))?;
    match verdict.trim_end() {
        "same" => Ok(begin.elapsed()),
        other => Err(io::Error::other(format!("upload: the server got {other}"))),
    }
}

/// Fetches the bulk and compares it byte for byte.
pub fn download(to: SocketAddr) -> io::Result<Duration> {
    let begin = Instant::now();
    let mut stream = connect(to)?;
    stream.write_all(b"download\n")?;
    let mut got = Vec::with_capacity(BULK);
    stream.read_to_end(&mut got).map_err(|e| named(&format!("download after {} bytes", got.len()), e))?;
    match difference(&got) {
        None => Ok(begin.elapsed()),
        Some(d) => Err(io::Error::other(format!("download: got {d}"))),
    }
}

/// Name of the server that answered and whom it saw as its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub server: String,
    pub client: SocketAddr,
}

fn answer(text: &str, marker: &str) -> io::Result<Answer> {
    let read = || {
        let mut words = text.trim_end().strip_prefix(marker)?.split_whitespace();
        Some(Answer { server: words.next()?.to_owned(), client: words.next()?.parse().ok()? })
    };
    read().ok_or_else(|| io::Error::other(format!("`{marker}` was answered with `{text}`")))
}

/// One small request over TCP; also gives the client's own address.
pub fn ask_tcp(to: SocketAddr, marker: &str) -> io::Result<(Answer, SocketAddr)> {
    let stream = connect(to)?;
    let own = stream.local_addr()?;
    Ok((ask(&stream, marker)?, own))
}

/// One small request over a connection.
pub fn ask(mut stream: &TcpStream, marker: &str) -> io::Result<Answer> {
    stream.write_all(format!("{marker}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(|e| named(marker, e))?;
    answer(&line, marker)
}

/// One request over UDP, sent again when it is lost on the way. The answer has to come from where the
/// question went: the socket is connected.
pub fn ask_udp(to: SocketAddr, marker: &str) -> io::Result<(Answer, SocketAddr)> {
    let (reply, own) = exchange(to, marker.as_bytes())?;
    Ok((answer(&String::from_utf8_lossy(&reply), marker)?, own))
}

/// A request over UDP with so many bytes that come back unchanged.
pub fn ask_big_udp(to: SocketAddr, size: usize) -> io::Result<Answer> {
    let body = &bulk()[..size];
    let (reply, _) = exchange(to, &[b"big\n", body].concat())?;
    let line = reply.len().saturating_sub(size + 1);
    if reply[line..] != [b"\n", body].concat() {
        return Err(io::Error::other(format!("UDP {to}: {size} bytes came back changed")));
    }
    answer(&String::from_utf8_lossy(&reply[..line]), "big")
}

fn exchange(to: SocketAddr, request: &[u8]) -> io::Result<(Vec<u8>, SocketAddr)> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buf = vec![0; 1 << 16];
    for _ in 0..5 {
        match socket.send(request).and_then(|_| socket.recv(&mut buf)) {
            Ok(n) => {
                buf.truncate(n);
                return Ok((buf, socket.local_addr()?));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // An ICMP error told the kernel of a smaller MTU: next time it cuts the datagram to that.
            Err(e) if e.raw_os_error() == Some(nix::libc::EMSGSIZE) => {}
            Err(e) => return Err(named(&format!("UDP {to}"), e)),
        }
    }
    let size = request.len();
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("UDP {to}: no answer to {size} bytes")))
}

/// `n` connections open at the same time, each with a request of its own; who answered how often.
pub fn parallel(to: SocketAddr, n: usize) -> io::Result<Vec<(String, usize)>> {
    let open: Vec<TcpStream> = (0..n).map(|_| connect(to)).collect::<io::Result<_>>()?;
    for (i, mut s) in open.iter().enumerate() {
        s.write_all(format!("number-{i}\n").as_bytes())?;
    }
    let mut shares: Vec<(String, usize)> = Vec::new();
    for (i, s) in open.iter().enumerate() {
        let mut line = String::new();
        BufReader::new(s).read_line(&mut line).map_err(|e| named(&format!("connection {i} of {n}"), e))?;
        let server = answer(&line, &format!("number-{i}"))?.server;
        match shares.iter_mut().find(|(s, _)| *s == server) {
            Some((_, count)) => *count += 1,
            None => shares.push((server, 1)),
        }
    }
    shares.sort();
    Ok(shares)
}

/// Pings `n` times and wants exactly one answer each: a second one would be the kernel forwarding beside us.
pub fn ping(to: IpAddr, n: u8) -> io::Result<()> {
    // Ping sockets are open to this group only.
    set_sysctl("net.ipv4.ping_group_range", "0 0")?;
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    let socket = UdpSocket::from(fd);
    socket.connect(SocketAddr::new(to, 0))?;
    let mut buf = [0; 256];
    for sequence in 1..=n {
        let mut echo = vec![request, 0, 0, 0, 0, 0, 0, sequence];
        echo.extend_from_slice(b"softlvs end to end");
        socket.send(&echo)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let got = socket.recv(&mut buf).map_err(|e| named(&format!("ping {to}"), e))?;
        if buf[0] != reply || buf[7] != sequence || buf[8..got] != echo[8..] {
            return Err(io::Error::other(format!("ping {to}: wrong answer {:?}", &buf[..got])));
        }
    }
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    match socket.recv(&mut buf) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => Err(io::Error::other(format!("ping {to}: more than one answer each: {other:?}"))),
    }
}

/// Waits until `to` refuses connections: then who owns the address is there, and no connection was made.
pub fn wait_for_refusal(to: SocketAddr, mut alive: impl FnMut() -> bool) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match TcpStream::connect_timeout(&to, Duration::from_millis(250)) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            _ if !alive() => return Err(io::Error::other("the director ended")),
            _ if begin.elapsed() > PATIENCE => return Err(io::Error::other(format!("{to} does not answer"))),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn named(what: &str, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{what}: {e}"))
}
