//! Ways to a server: through the host's own network stack, or the director's.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::DuplexStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::Trouble;
use super::stack::{self, Stack};
use crate::health::{Job, Via};

/// Where the checks' packets go out.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    /// The director's own.
    pub stack: Option<Stack>,
}

/// A connected stream.
pub enum Stream {
    /// Of the host's kernel.
    Host(TcpStream),
    /// Of the director.
    Own(DuplexStream),
}

impl Stream {
    /// Ends the connection by a reset, which leaves nothing behind on either side.
    pub fn reset_on_close(self) {
        match self {
            Stream::Host(s) => {
                // without it the connection is closed in the usual way
                let _ = s.set_zero_linger();
            }
            // it always does
            Stream::Own(_) => {}
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Host(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Own(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Host(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Own(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Host(s) => Pin::new(s).poll_flush(cx),
            Stream::Own(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Host(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Own(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

/// A connected pair of datagram ends.
pub enum Datagrams {
    /// Of the host's kernel.
    Host(UdpSocket),
    /// Of the director.
    Own(stack::Datagrams),
}

impl Datagrams {
    /// Sends one.
    ///
    /// # Errors
    /// What the network or the server says.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Datagrams::Host(s) => s.send(bytes).await.map(drop),
            Datagrams::Own(s) => s.send(bytes).await,
        }
    }
    /// Waits for one; `ECONNREFUSED` when an ICMP error says that nobody listens.
    ///
    /// # Errors
    /// What the network or the server says.
    pub async fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Datagrams::Host(s) => s.recv(into).await,
            Datagrams::Own(s) => s.recv(into).await,
        }
    }
}

impl Dialer {
    /// Opens a connection to the server of a check.
    ///
    /// # Errors
    /// It is not accepted, or cannot be tried.
    pub async fn connect(&self, job: &Job) -> Result<Stream, Trouble> {
        let what = format!("connecting to {}", job.to);
        match job.via {
            Via::Host | Via::Real => match host_tcp(job).await {
                Ok(stream) => Ok(Stream::Host(stream)),
                Err(e) if self.instead(job, &e) => self.own()?.connect(job).await.map(Stream::Own),
                Err(e) => Err(Trouble::of(&what, &e)),
            },
            Via::Director | Via::Vip => self.own()?.connect(job).await.map(Stream::Own),
        }
    }
    /// Opens a datagram socket towards the server of a check.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn datagrams(&self, job: &Job) -> Result<Datagrams, Trouble> {
        let what = format!("sending to {}", job.to);
        match job.via {
            Via::Host | Via::Real => match host_udp(job).await {
                Ok(socket) => Ok(Datagrams::Host(socket)),
                Err(e) if self.instead(job, &e) => self.own()?.datagrams(job).await.map(Datagrams::Own),
                Err(e) => Err(Trouble::of(&what, &e)),
            },
            Via::Director | Via::Vip => self.own()?.datagrams(job).await.map(Datagrams::Own),
        }
    }
    /// Asks for an echo from the director itself.
    ///
    /// # Errors
    /// There is none.
    pub async fn echo(&self, job: &Job) -> super::Finding {
        self.own()?.echo(job).await
    }

    /// The host's kernel has no way there, and nobody said that it should be the one to ask.
    pub(super) fn instead(&self, job: &Job, e: &io::Error) -> bool {
        use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT, ENETUNREACH};
        // no route, no address of that family, no such family
        let no_way = matches!(e.raw_os_error(), Some(ENETUNREACH | EADDRNOTAVAIL | EAFNOSUPPORT));
        let may = matches!(job.check.via, None | Some(Via::Real));
        no_way && may && job.check.bind.is_none() && self.stack.is_some()
    }

    fn own(&self) -> Result<&Stack, Trouble> {
        self.stack.as_ref().ok_or_else(|| Trouble::Unchecked("there is no director to ask from".to_owned()))
    }
}

async fn host_tcp(job: &Job) -> io::Result<TcpStream> {
    let socket = if job.to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = job.check.bind {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(job.to).await
}

async fn host_udp(job: &Job) -> io::Result<UdpSocket> {
    let any: SocketAddr = if job.to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let from = job.check.bind.map_or(any, |ip| SocketAddr::new(ip, 0));
    let socket = UdpSocket::bind(from).await?;
    socket.connect(job.to).await?;
    Ok(socket)
}
