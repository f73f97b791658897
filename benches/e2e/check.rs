//! Is what arrives what was sent? Asked before each measurement, so that no broken way is a fast one.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::net::Net;
use crate::server::{HTTP, TCP_ECHO, UDP_ECHO, body};

const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes sent and got back: enough for super-frames both ways.
const BULK: usize = 1 << 20;

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn connect(to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// One request with a connection of its own; the answer's body is compared.
pub fn http(net: &Net, patience: Duration) -> io::Result<()> {
    net.client.ns.run(|| {
        let mut stream = connect((net.target, HTTP).into(), patience)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("\r\n\r\n{}", body())) {
            Ok(())
        } else {
            Err(wrong(format!("HTTP: {} bytes that are not the page", answer.len())))
        }
    })
}

/// Sends bytes and gets them back, both at once.
fn bulk(net: &Net) -> io::Result<()> {
    let sent: Vec<u8> = (0..BULK as u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
    net.client.ns.run(|| {
        let stream = connect((net.target, TCP_ECHO).into(), PATIENCE)?;
        let mut got = vec![0; BULK];
        std::thread::scope(|s| {
            let writer = s.spawn(|| (&stream).write_all(&sent));
            (&stream).read_exact(&mut got)?;
            writer.join().unwrap_or_else(|_| Err(wrong("the writer panicked")))
        })?;
        match got.iter().zip(&sent).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => Err(wrong(format!("TCP echo: byte {at} of {BULK} arrived changed"))),
        }
    })
}

fn datagram(net: &Net) -> io::Result<()> {
    net.client.ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((net.target, UDP_ECHO))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut buf = [0; 2048];
        let mut last = wrong("UDP echo: no answer");
        for _ in 0..3 {
            socket.send(&sample())?;
            match socket.recv(&mut buf) {
                Ok(n) if buf[..n] == sample() => return Ok(()),
                Ok(n) => last = wrong(format!("UDP echo: {n} other bytes came back")),
                Err(e) => last = io::Error::new(e.kind(), format!("UDP echo: {e}")),
            }
        }
        Err(last)
    })
}

fn sample() -> [u8; 1000] {
    std::array::from_fn(|i| i as u8)
}

/// Everything that is measured, once.
pub fn all(net: &Net, udp: bool) -> io::Result<()> {
    let named = |what: &str, e: io::Error| io::Error::new(e.kind(), format!("check, {what}: {e}"));
    http(net, PATIENCE).map_err(|e| named("HTTP", e))?;
    bulk(net).map_err(|e| named("1 MiB there and back", e))?;
    if udp {
        datagram(net).map_err(|e| named("UDP", e))?;
    }
    Ok(())
}
