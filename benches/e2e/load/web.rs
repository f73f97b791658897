//! HTTP: as much as goes (wrk), and at a fixed rate (own client).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Outcome;
use super::wrk;
use crate::exec;
use crate::net::Net;
use crate::server::{HTTP, body};
use crate::stats::percentile;

const CONNECTIONS: &str = "32";
/// Requests a second over one connection, and with a connection each.
const KEPT_RATE: f64 = 1000.0;
const NEW_RATE: f64 = 500.0;
const PATIENCE: Duration = Duration::from_secs(2);

/// wrk with one thread.
pub fn flat_out(net: &Net, keep: bool, seconds: f64) -> io::Result<Outcome> {
    let whole = seconds.ceil().max(1.0);
    let (time, url) = (format!("-d{whole}s"), format!("http://{}:{HTTP}/", net.target));
    let mut line = vec!["wrk", "-t1", "-c", CONNECTIONS, &time, "--latency"];
    if !keep {
        line.extend(["-H", "Connection: close"]);
    }
    line.push(&url);
    let text = exec::run(&net.client.ns, &line, Duration::from_secs_f64(whole + 8.0))?;
    let found =
        wrk::read(&text).ok_or_else(|| io::Error::other(format!("wrk: {}", exec::last_line(&text))))?;
    if found.failed > found.requests / 100.0 {
        return Err(io::Error::other(format!("wrk: {} of {} failed", found.failed, found.requests)));
    }
    let values = [("rate", found.rate), ("p50", found.p50), ("p99", found.p99), ("failed", found.failed)];
    Ok(Outcome::new(&values, Some((found.requests, 1e-6))))
}

/// Requests at a fixed rate for `seconds` in all. The time of each is counted from when it was due, so
/// that one that takes long makes those behind it late as it would make other users wait.
pub fn open_loop(net: &Net, seconds: f64) -> io::Result<Outcome> {
    let to = (net.target, HTTP).into();
    let open = || -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let (mut kept, mut new) = net.client.ns.run(|| {
        let mut stream = open()?;
        request(&mut stream, false)?;
        let kept = at_rate(KEPT_RATE, seconds / 2.0, || request(&mut stream, false))?;
        let new = at_rate(NEW_RATE, seconds / 2.0, || request(&mut open()?, true))?;
        Ok((kept, new))
    })?;
    kept.sort_by(f64::total_cmp);
    new.sort_by(f64::total_cmp);
    let values = [
        ("kept_p50", percentile(&kept, 0.5)),
        ("kept_p99", percentile(&kept, 0.99)),
        ("new_p50", percentile(&new, 0.5)),
        ("new_p99", percentile(&new, 0.99)),
    ];
    Ok(Outcome::new(&values, None))
}

/// Does something `rate` times a second; times in microseconds from when each was due to its end.
fn at_rate(rate: f64, seconds: f64, mut act: impl FnMut() -> io::Result<()>) -> io::Result<Vec<f64>> {
    let n = (rate * seconds).ceil() as u32;
    let start = Instant::now() + Duration::from_millis(1);
    let mut times = Vec::with_capacity(n as usize);
    for i in 0..n {
        let due = start + Duration::from_secs_f64(f64::from(i) / rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // the time the kernel takes to wake this thread is not the director's
        let begun =
            if Instant::now() < due + Duration::from_secs_f64(1.0 / rate) { Instant::now() } else { due };
        act()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// One request; reads the whole answer.
fn request(stream: &mut TcpStream, close: bool) -> io::Result<()> {
    let header = if close { "Connection: close\r\n" } else { "" };
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: vip\r\n{header}\r\n").as_bytes())?;
    let (mut buf, mut have) = ([0; 4096], 0);
    let wanted = body().len();
    loop {
        let n = stream.read(&mut buf[have..])?;
        have += n;
        let head = buf[..have].windows(4).position(|w| w == b"\r\n\r\n");
        if head.is_some_and(|at| have - at - 4 >= wanted) {
            return Ok(());
        }
        if n == 0 || have == buf.len() {
            return Err(io::Error::other(format!("HTTP: {have} bytes that are no whole answer")));
        }
    }
}
