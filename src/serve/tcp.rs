//! The TCP port: for those of this host who may look, and with a token and TLS for those of others.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::info;

use super::Control;
use super::entry::Entry;
use super::http::guard::{Trust, Visitor};
use super::http::{Context, connection};
use super::listen::{CONNECTIONS, pause};
use crate::failure::Failure;

/// How long a client may take until TLS is agreed on.
const AGREEMENT: Duration = Duration::from_secs(10);
/// First byte of TLS: the record type of a handshake.
const HANDSHAKE: u8 = 0x16;
/// What is said to those who speak HTTP where TLS is spoken.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n\
    content-length: 73\r\n\r\n{\"errors\": [{\"error\": \"TLS is spoken here\", \"help\": \"ask for https://\"}]}";

/// The open TCP port.
pub struct TcpDoor {
    listener: TcpListener,
    entry: Arc<Entry>,
}

impl TcpDoor {
    /// Opens the TCP port.
    ///
    /// # Errors
    /// It is not to be had.
    pub async fn open(entry: Arc<Entry>) -> Result<TcpDoor, Failure> {
        let address = entry.address();
        let listener = TcpListener::bind(address).await.map_err(|e| {
            Failure::run(
                format!("cannot listen on {address}"),
                e.to_string(),
                "choose another address with --http",
            )
        })?;
        Ok(TcpDoor { listener, entry })
    }

    /// Lets people look, for as long as the task runs.
    pub async fn serve(self, control: Control) {
        let TcpDoor { listener, entry } = self;
        let Ok(address) = listener.local_addr() else { return };
        info!("{}://{address}/metrics", if entry.tls().is_some() { "https" } else { "http" });
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(room) = room.clone().acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    pause("HTTP port", &e).await;
                    continue;
                }
            };
            // one that has enough of them finds this one closed
            let Some(place) = entry.place(peer.ip()) else { continue };
            let Ok(here) = stream.local_addr() else { continue };
            let tls = entry.tls();
            let visitor = Visitor { here, peer: peer.ip(), tls: tls.is_some(), entry: entry.clone() };
            let context = Context { control: control.clone(), trust: Trust::Reader(visitor) };
            tokio::spawn(async move {
                match tls {
                    None => connection(stream, context).await,
                    Some(tls) => secured(stream, TlsAcceptor::from(tls), context).await,
                }
                drop((place, room));
            });
        }
    }
}

/// TLS first; a client that does not come to terms in time has ended its connection.
async fn secured(mut stream: TcpStream, acceptor: TlsAcceptor, context: Context) {
    let agreed = timeout(AGREEMENT, async {
        let mut first = [0; 1];
        let plain = stream.peek(&mut first).await.is_ok_and(|n| n == 1 && first[0] != HANDSHAKE);
        if plain && first[0].is_ascii_uppercase() {
            // it may have gone away
            let _ = stream.write_all(NOT_TLS).await;
            let _ = stream.shutdown().await;
            return None;
        }
        acceptor.accept(stream).await.ok()
    });
    if let Ok(Some(stream)) = agreed.await {
        connection(stream, context).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_those_without_tls_is_as_long_as_it_says() {
        let text = std::str::from_utf8(NOT_TLS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
