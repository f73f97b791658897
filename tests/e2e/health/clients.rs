//! Clients that ask all the time, and how late the machine is meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use softlvs::io::sys::ns::NetNs;

/// Longest wait of a client.
const PATIENCE: Duration = Duration::from_millis(300);

/// One request over a connection of its own: who answered, or nobody did.
pub fn ask(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    request(&mut stream)
}

/// One request over a connection: who answered.
pub fn request(stream: &mut TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").ok()?;
    let mut buf = [0; 512];
    let n = stream.read(&mut buf).ok()?;
    let text = String::from_utf8_lossy(&buf[..n]).into_owned();
    if !text.starts_with("HTTP/1.1 200") {
        return None;
    }
    text.rsplit("\r\n").next().map(str::to_owned)
}

/// Clients that ask all the time, each when its last question is over. Failures with the time they began.
pub struct Clients {
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Vec<Instant>>>,
    answered: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    pub fn start(ns: &NetNs, to: SocketAddr, n: usize) -> Clients {
        let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let answered = Arc::new(AtomicU64::new(0));
        let threads = (0..n)
            .map(|_| {
                let (stop, failed, answered) = (stop.clone(), failed.clone(), answered.clone());
                ns.spawn("client", move || {
                    while !stop.load(SeqCst) {
                        let began = Instant::now();
                        match ask(to) {
                            Some(_) => drop(answered.fetch_add(1, SeqCst)),
                            None => failed.lock().unwrap().push(began),
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                })
                .unwrap()
            })
            .collect();
        Clients { stop, failed, answered, threads }
    }

    pub fn failures(&self) -> usize {
        self.failed.lock().unwrap().len()
    }

    /// When those began that failed, and how many were answered.
    pub fn stop(self) -> (Vec<Instant>, u64) {
        self.stop.store(true, SeqCst);
        self.threads.into_iter().for_each(|t| t.join().unwrap());
        let mut failed = self.failed.lock().unwrap().clone();
        failed.sort();
        (failed, self.answered.load(SeqCst))
    }
}

/// How late this machine wakes up, while it is measured.
pub struct Noise(Arc<AtomicBool>, std::thread::JoinHandle<Duration>);

impl Noise {
    pub fn start() -> Noise {
        let stop = Arc::new(AtomicBool::new(false));
        let s = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !s.load(SeqCst) {
                let began = Instant::now();
                std::thread::sleep(Duration::from_millis(5));
                worst = worst.max(began.elapsed().saturating_sub(Duration::from_millis(5)));
            }
            worst
        });
        Noise(stop, thread)
    }
    pub fn worst(self) -> Duration {
        self.0.store(true, SeqCst);
        self.1.join().unwrap()
    }
}
