//! `ping`: an echo request is answered.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, socket,
};
use tokio::net::UdpSocket;

use super::dial::Dialer;
use super::{Finding, Trouble};
use crate::health::{Job, Outcome, Via};
use crate::wire::sum;

/// Room for an IPv4 header in front of what raw sockets give.
const MOST: usize = 256;

pub(super) async fn run(job: &Job, dialer: &Dialer) -> Finding {
    if job.via != Via::Host {
        return dialer.echo(job).await;
    }
    let to = job.to.ip();
    let (fd, raw) = open(to)?;
    let err = |e: nix::errno::Errno| Trouble::of("asking", &e.into());
    if let Some(from) = job.check.bind {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0))).map_err(err)?;
    }
    if let Err(e) = connect(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, 0))) {
        if dialer.instead(job, &e.into()) {
            return dialer.echo(job).await;
        }
        return Err(err(e));
    }
    let tag = getrandom::u64().map_err(|e| Trouble::Unchecked(e.to_string()))?.to_be_bytes();
    let request = request(to, tag);
    // the kernel takes a socket for echoes where one for datagrams is meant
    let socket =
        UdpSocket::from_std(std::net::UdpSocket::from(fd)).map_err(|e| Trouble::of("waiting", &e))?;
    socket.send(&request).await.map_err(|e| Trouble::of("asking", &e))?;
    let mut buf = [0; MOST];
    loop {
        let got = socket.recv(&mut buf).await.map_err(|e| Trouble::of("waiting for the echo", &e))?;
        if is_reply(to, raw, &buf[..got], tag) {
            return Ok(Outcome::ok("answered"));
        }
    }
}

/// A socket for echo requests: one for everybody where the kernel gives them, else a raw one.
fn open(to: IpAddr) -> Result<(OwnedFd, bool), Trouble> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    if let Ok(fd) = socket(family, SockType::Datagram, flags, protocol) {
        return Ok((fd, false));
    }
    socket(family, SockType::Raw, flags, protocol).map(|fd| (fd, true)).map_err(|e| {
        Trouble::Unchecked(format!(
            "no socket for pings ({e}): needs CAP_NET_RAW, or the group in net.ipv4.ping_group_range"
        ))
    })
}

/// Type, code, checksum, identification and sequence from the tag, then the tag as data.
pub(super) fn request(to: IpAddr, tag: [u8; 8]) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut p = vec![kind, 0, 0, 0];
    p.extend_from_slice(&tag[..4]);
    p.extend_from_slice(&tag);
    if to.is_ipv4() {
        // the kernel does it for IPv6, whose checksum covers the addresses
        let check = sum::checksum(&p);
        p[2..4].copy_from_slice(&check.to_be_bytes());
    }
    p
}

/// Is it the answer to the request with this tag? `raw`: an IPv4 header may stand before it.
fn is_reply(from: IpAddr, raw: bool, bytes: &[u8], tag: [u8; 8]) -> bool {
    let header = match (from, raw, bytes.first()) {
        (IpAddr::V4(_), true, Some(first)) => usize::from(first & 15) * 4,
        _ => 0,
    };
    let kind = if from.is_ipv4() { 0 } else { 129 };
    let message = bytes.get(header..).unwrap_or_default();
    message.first() == Some(&kind) && message.get(8..16) == Some(&tag[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_request_counts() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let tag = [1, 2, 3, 4, 5, 6, 7, 8];
        let mut answer = request(v4, tag);
        assert!(!is_reply(v4, false, &answer, tag), "the request itself");
        answer[0] = 0;
        assert!(is_reply(v4, false, &answer, tag) && !is_reply(v4, false, &answer, [0; 8]));
        let mut raw = vec![0x46; 24];
        raw.extend_from_slice(&answer);
        assert!(is_reply(v4, true, &raw, tag));
        for n in 0..raw.len() {
            assert!(!is_reply(v4, true, &raw[..n], tag));
        }
        let mut six = request("::1".parse().unwrap(), tag);
        six[0] = 129;
        assert!(is_reply("::1".parse().unwrap(), true, &six, tag));
    }
}
