//! The lab's traffic: a small HTTP/1.1 file server and a client that checks every byte it gets.

use std::fs;
use std::io::{self, BufRead, BufReader, PipeWriter, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

use crate::io::sys::ns::NetNs;

/// Header that names the real server.
pub const SERVER_HEADER: &str = "X-Real-Server";
/// How long client and server wait for each other.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request line and header of a request.
const HEADER_LIMIT: u64 = 16 * 1024;

/// A running file server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    /// Requests answered with 200.
    pub answered: Arc<AtomicU64>,
    lifeline: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `folder` as `name` on every address of `ns`.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn start(ns: &NetNs, name: &str, port: u16, ipv6: bool, folder: &Path) -> io::Result<Server> {
        let any: IpAddr = if ipv6 {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        };
        let listener = ns.run(|| TcpListener::bind((any, port)))?;
        listener.set_nonblocking(true)?;
        let answered = Arc::new(AtomicU64::new(0));
        let (end, lifeline) = io::pipe()?;
        let site = Arc::new(Site { name: name.into(), folder: folder.into(), answered: answered.clone() });
        let thread = std::thread::Builder::new().name(format!("http-{name}")).spawn(move || {
            loop {
                let mut ready = [
                    PollFd::new(listener.as_fd(), PollFlags::POLLIN),
                    PollFd::new(end.as_fd(), PollFlags::POLLIN),
                ];
                let _ = poll(&mut ready, PollTimeout::NONE);
                if ready[1].revents().is_some_and(|r| !r.is_empty()) {
                    return;
                }
                while let Ok((stream, _)) = listener.accept() {
                    let site = site.clone();
                    let answer = std::thread::Builder::new().name("http".into());
                    // Out of threads: the client sees a closed connection.
                    let _ = answer.spawn(move || site.answer(&stream));
                }
            }
        })?;
        Ok(Server { answered, lifeline: Some(lifeline), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.lifeline = None;
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

struct Site {
    name: String,
    folder: PathBuf,
    answered: Arc<AtomicU64>,
}

impl Site {
    /// One request, one answer, end of connection.
    fn answer(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut lines = BufReader::new(stream.take(HEADER_LIMIT)).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        for line in lines {
            if line?.is_empty() {
                break;
            }
        }
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (status, body) = match (method, self.find(target)) {
            ("GET" | "HEAD", Some(path)) => match fs::read(path) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", b"not found\n".to_vec()),
            },
            ("GET" | "HEAD", None) => ("404 Not Found", b"not found\n".to_vec()),
            _ => ("405 Method Not Allowed", b"only GET and HEAD\n".to_vec()),
        };
        if status.starts_with("200") {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        let mut out = format!(
            "HTTP/1.1 {status}\r\n{SERVER_HEADER}: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.name,
            body.len()
        )
        .into_bytes();
        if method != "HEAD" {
            out.extend_from_slice(&body);
        }
        let mut stream = stream;
        stream.write_all(&out)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        // Closing with unread bytes would send a reset that can overtake the answer.
        io::copy(&mut stream.take(HEADER_LIMIT), &mut io::sink()).map(drop)
    }

    /// A file below the folder; nothing above it.
    fn find(&self, target: &str) -> Option<PathBuf> {
        let path = target.split(['?', '#']).next()?.trim_start_matches('/');
        let path = Path::new(if path.is_empty() { "index.html" } else { path });
        path.components()
            .all(|c| matches!(c, Component::Normal(_)))
            .then(|| self.folder.join(path))
            .filter(|p| p.is_file())
    }
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Which real server answered.
    pub server: String,
    /// Body.
    pub body: Vec<u8>,
}

/// Requests `path` from the calling thread's namespace.
///
/// # Errors
/// The connection was refused or timed out, or the answer is not HTTP.
pub fn get(from: Option<IpAddr>, to: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = open(from, to, PATIENCE)?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: softlvs-lab\r\nConnection: close\r\n\r\n")
            .as_bytes(),
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| io::Error::other(format!("no HTTP answer in {} bytes", bytes.len())))
}

/// True when something at `to` answers at all, be it with a refusal.
pub fn answers(to: SocketAddr, patience: Duration) -> bool {
    match open(None, to, patience) {
        Ok(_) => true,
        Err(e) => e.kind() == io::ErrorKind::ConnectionRefused,
    }
}

/// Connects, from a given address if one is given; std cannot bind before it connects.
fn open(from: Option<IpAddr>, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(patience))?;
    if let Some(from) = from {
        // Without it the port is chosen before the peer is known and the address runs out of ports early.
        let _ = setsockopt(&stream, sockopt::IpBindAddressNoPort, &true);
        bind(stream.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    }
    match connect(stream.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => Ok(stream),
        // socket(7): a connect that exceeds the send timeout ends so.
        Err(nix::errno::Errno::EINPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
        Err(e) => Err(e.into()),
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        head.split("\r\n")
            .filter_map(|l| l.split_once(':'))
            .find(|(k, _)| k.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim())
    };
    let body = bytes[end + 4..].to_vec();
    let complete = header("Content-Length").and_then(|l| l.parse().ok()) == Some(body.len());
    complete.then(|| Answer { status, server: header(SERVER_HEADER).unwrap_or("").to_owned(), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_off_answer_is_no_answer() {
        let whole = b"HTTP/1.1 200 OK\r\nx-real-server: rs1\r\ncontent-length: 3\r\n\r\nabc";
        let a = parse(whole).unwrap();
        assert_eq!((a.status, a.server.as_str(), a.body.as_slice()), (200, "rs1", &b"abc"[..]));
        for n in 0..whole.len() {
            assert_eq!(parse(&whole[..n]), None);
        }
    }

    #[test]
    fn nothing_above_the_folder_is_served() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("index.html"), "x").unwrap();
        let site = Site { name: "rs1".into(), folder: dir.path().into(), answered: Arc::default() };
        assert!(site.find("/").is_some());
        assert!(site.find("/index.html?a=b").is_some());
        for bad in ["/../etc/passwd", "//etc/passwd", "/./index.html/..", "/nothing", ""] {
            let found = site.find(bad);
            assert!(found.is_none() || found.as_deref() == Some(&dir.path().join("index.html")), "{bad}");
        }
    }

    #[test]
    fn files_arrive_whole_over_loopback_of_an_own_namespace() {
        let Ok(ns) = NetNs::new() else { return };
        let dir = tempfile::tempdir().unwrap();
        let body: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        fs::write(dir.path().join("big"), &body).unwrap();
        let _server = Server::start(&ns, "rs7", 8080, false, dir.path()).unwrap();
        let to = "127.0.0.1:8080".parse().unwrap();
        let a = ns.run(|| get(None, to, "/big")).unwrap();
        assert_eq!((a.status, a.server, a.body == body), (200, "rs7".into(), true));
        assert_eq!(ns.run(|| get(None, to, "/none")).unwrap().status, 404);
        assert!(ns.run(|| Ok(answers("127.0.0.1:81".parse().unwrap(), PATIENCE))).unwrap());
    }
}
