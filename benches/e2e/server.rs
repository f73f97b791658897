//! What runs on the real server: nginx for HTTP, and echo services of this program.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

use crate::exec::{self, Running};
use crate::net::Net;
use crate::scratch;

pub const HTTP: u16 = 80;
/// UDP that is thrown away.
pub const DISCARD: u16 = 9;
pub const UDP_ECHO: u16 = 7777;
pub const TCP_ECHO: u16 = 7778;
pub const IPERF: u16 = 5201;
/// Every service with its protocol.
pub const SERVICES: [(u16, &str); 5] =
    [(HTTP, "tcp"), (IPERF, "tcp"), (TCP_ECHO, "tcp"), (UDP_ECHO, "udp"), (DISCARD, "udp")];

/// What every HTTP request is answered with.
pub fn body() -> String {
    let line = "softlvs measures what it says. ";
    line.repeat(1024 / line.len() + 1)[..1024].to_owned()
}

/// Starts all of it; the threads live as long as the program.
pub fn start(net: &Net) -> io::Result<Running> {
    let any = Ipv4Addr::UNSPECIFIED;
    let udp = net.server.ns.run(|| UdpSocket::bind((net.served.unwrap_or(any), UDP_ECHO)))?;
    std::thread::Builder::new().name("udp-echo".into()).stack_size(64 << 10).spawn(move || {
        let mut buf = [0; 2048];
        loop {
            // an error is an ICMP message about an earlier reply
            if let Ok((n, from)) = udp.recv_from(&mut buf) {
                let _ = udp.send_to(&buf[..n], from);
            }
        }
    })?;
    let tcp = net.server.ns.run(|| TcpListener::bind((any, TCP_ECHO)))?;
    std::thread::Builder::new().name("tcp-echo".into()).stack_size(256 << 10).spawn(move || {
        let mut buf = vec![0; 64 << 10];
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
            while let Ok(n @ 1..) = stream.read(&mut buf) {
                if stream.write_all(&buf[..n]).is_err() {
                    break;
                }
            }
        }
    })?;
    let folder = scratch::folder("nginx")?;
    let place = folder.display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|k| format!("{k}_temp_path {place}/{k}; "))
        .concat();
    let conf = format!(
        "user root root; daemon off; master_process off; pid {place}/pid; error_log {place}/error;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600; {temp}\n\
         server {{ listen {HTTP} backlog=4096; location / {{ return 200 '{}'; }} }} }}\n",
        body()
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, conf)?;
    let error = format!("{place}/error");
    Running::start(&net.server.ns, &["nginx", "-e", &error, "-c", &file.to_string_lossy()])
}

/// True when something listens on a TCP port of the calling thread's namespace.
fn listens(port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|table| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        text.lines().any(|l| {
            let mut words = l.split_whitespace().skip(1);
            // proc(5): state 0A is LISTEN
            words.next().is_some_and(|a| a.ends_with(&wanted)) && words.nth(1) == Some("0A")
        })
    })
}

/// Starts an iperf3 server for one test and waits until it listens.
pub fn iperf(net: &Net) -> io::Result<Running> {
    let server = Running::start(&net.server.ns, &["iperf3", "-4", "-s", "-1"])?;
    exec::wait_for("iperf3 -s", Duration::from_secs(3), || {
        net.server.ns.run(|| Ok(listens(IPERF))).unwrap_or(false)
    })?;
    Ok(server)
}
