//! Who may look over TCP: those with a token where one is asked for, asked by a name that is ours, and
//! none of them so often or with so many connections that others are kept out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use super::credentials::Credentials;
use crate::config::plan::HttpPlan;
use crate::failure::Failure;
use crate::time::{Mono, Span};

/// Wrong tokens of a peer within [`WINDOW`]; then it is not listened to until the window is over.
const WRONG: u32 = 10;
/// Time in which wrong tokens are counted.
const WINDOW: Span = Span::from_secs(1);
/// Connections of a peer at a time. This host may have all there are.
const OF_A_PEER: u32 = 32;
/// Most peers whose wrong tokens are remembered.
const REMEMBERED: usize = 1024;

/// The entrance over TCP.
pub struct Entry {
    plan: HttpPlan,
    credentials: RwLock<Arc<Credentials>>,
    peers: Mutex<Peers>,
    renewed: watch::Sender<()>,
}

#[derive(Default)]
struct Peers {
    /// When the window began, and the wrong tokens in it.
    wrong: HashMap<IpAddr, (Mono, u32)>,
    connections: HashMap<IpAddr, u32>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is answered.
    Granted,
    /// The token is missing or wrong.
    Refused,
    /// There were too many wrong ones; true the first time.
    TooMany(bool),
}

impl Entry {
    /// Reads what is needed to let people in.
    ///
    /// # Errors
    /// A file is not to be had or of no use.
    pub fn open(plan: HttpPlan) -> Result<Entry, Failure> {
        let credentials = RwLock::new(Arc::new(Credentials::read(&plan)?));
        Ok(Entry { plan, credentials, peers: Mutex::default(), renewed: watch::Sender::default() })
    }
    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.plan.address
    }
    /// Reads the files again; what they hold from then on is what the result is given to [`Entry::renew`] for.
    ///
    /// # Errors
    /// As [`Entry::open`]; what holds stays.
    pub fn read_again(&self) -> Result<Renewal, Failure> {
        Credentials::read(&self.plan).map(|read| Renewal(Arc::new(read)))
    }
    /// From the next request and the next connection on, this holds.
    pub fn renew(&self, renewal: Renewal) {
        *self.credentials.write().unwrap_or_else(PoisonError::into_inner) = renewal.0;
        self.renewed.send_replace(());
    }
    fn credentials(&self) -> Arc<Credentials> {
        self.credentials.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// TLS for the next connection, when it is spoken.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.credentials().tls()
    }
    /// True for names and addresses that the certificate stands for.
    pub fn names(&self, host: &str) -> bool {
        self.credentials().names(host)
    }
    /// Judges a request by its `Authorization` header.
    pub fn admit(&self, now: Mono, peer: IpAddr, header: Option<&[u8]>) -> Admission {
        let credentials = self.credentials();
        if credentials.is_open() {
            return Admission::Granted;
        }
        let peer = network(peer);
        let mut peers = self.peers();
        if let Some((began, wrong)) = peers.wrong.get_mut(&peer)
            && now.since(*began) < WINDOW
            && *wrong >= WRONG
        {
            *wrong = wrong.saturating_add(1);
            return Admission::TooMany(*wrong == WRONG + 1);
        }
        if header.is_some_and(|h| credentials.admits(h)) {
            return Admission::Granted;
        }
        if peers.wrong.len() >= REMEMBERED {
            peers.wrong.retain(|_, (began, _)| now.since(*began) < WINDOW);
        }
        if peers.wrong.len() >= REMEMBERED {
            // who has that many addresses is not bounded by counting at each
            return Admission::Refused;
        }
        let (began, wrong) = peers.wrong.entry(peer).or_insert((now, 0));
        if now.since(*began) >= WINDOW {
            (*began, *wrong) = (now, 0);
        }
        *wrong += 1;
        Admission::Refused
    }
    /// For an answer that goes on and on: tells when this `Authorization` header admits nobody any more.
    pub fn pass(self: &Arc<Self>, header: Option<&[u8]>) -> Pass {
        let renewed = self.renewed.subscribe();
        Pass { entry: self.clone(), header: header.unwrap_or_default().to_vec(), renewed }
    }
    /// A place for a connection; `None` when this peer has enough of them.
    pub fn place(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let peer = network(peer);
        let mut peers = self.peers();
        let taken = peers.connections.entry(peer).or_insert(0);
        if *taken >= OF_A_PEER && !peer.is_loopback() {
            return None;
        }
        *taken += 1;
        Some(Place { entry: self.clone(), peer })
    }
    fn peers(&self) -> std::sync::MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Credentials that were read and do not hold yet.
pub struct Renewal(Arc<Credentials>);

/// What an answer goes on by: the header it was asked for with. Shows nothing of it.
pub struct Pass {
    entry: Arc<Entry>,
    header: Vec<u8>,
    renewed: watch::Receiver<()>,
}

impl Pass {
    /// Returns when the tokens were read again and the one that was shown is not among them.
    pub async fn ends(&mut self) {
        while self.entry.credentials().admits(&self.header) {
            if self.renewed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pass")
    }
}

/// The place of a connection; free again when it is dropped.
pub struct Place {
    entry: Arc<Entry>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.entry.peers();
        if let Some(taken) = peers.connections.get_mut(&self.peer) {
            *taken -= 1;
            if *taken == 0 {
                peers.connections.remove(&self.peer);
            }
        }
    }
}

/// What one station has of addresses: an IPv6 host has a whole /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => Ipv6Addr::from(u128::from(ip) & (!0 << 64)).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn with_token(folder: &tempfile::TempDir, token: &str) -> Entry {
        let file = folder.path().join("token");
        std::fs::write(&file, token).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let token_file = Some(file.display().to_string());
        Entry::open(HttpPlan { address: "127.0.0.1:1".parse().unwrap(), token_file, tls: None }).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const RIGHT: Option<&[u8]> = Some(b"Bearer 0123456789abcdef");

    #[test]
    fn a_peer_that_guesses_is_not_listened_to_and_others_are() {
        let folder = tempfile::tempdir().unwrap();
        let entry = with_token(&folder, "0123456789abcdef");
        let at = Mono::from_millis;
        let (bad, good) = (ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        for i in 0..10 {
            assert_eq!(entry.admit(at(i), bad, Some(b"Bearer x")), Admission::Refused);
        }
        assert_eq!(entry.admit(at(11), bad, RIGHT), Admission::TooMany(true));
        assert_eq!(entry.admit(at(12), ip("2001:db8::2"), None), Admission::TooMany(false));
        assert_eq!(entry.admit(at(12), good, RIGHT), Admission::Granted);
        assert_eq!(entry.admit(at(1000), bad, RIGHT), Admission::Granted);
        assert_eq!(entry.admit(at(1000), bad, None), Admission::Refused);
    }

    #[test]
    fn the_memory_for_wrong_tokens_is_bounded_and_guessing_from_everywhere_too() {
        let folder = tempfile::tempdir().unwrap();
        let entry = with_token(&folder, "0123456789abcdef");
        for i in 0..100_000u32 {
            entry.admit(Mono(u64::from(i)), IpAddr::V4(i.into()), None);
        }
        assert!(entry.peers().wrong.len() <= REMEMBERED);
        assert_eq!(entry.admit(Mono::from_millis(1), ip("10.9.9.9"), RIGHT), Admission::Granted);
    }

    #[test]
    fn another_token_holds_when_it_was_read_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let entry = with_token(&folder, "0123456789abcdef");
        let file = folder.path().join("token");
        let (now, peer) = (Mono::ZERO, ip("10.0.0.1"));
        std::fs::write(&file, "fedcba9876543210").unwrap();
        let next = entry.read_again().unwrap();
        assert_eq!(entry.admit(now, peer, RIGHT), Admission::Granted);
        entry.renew(next);
        assert_eq!(entry.admit(now, peer, RIGHT), Admission::Refused);
        assert_eq!(entry.admit(now, peer, Some(b"Bearer fedcba9876543210")), Admission::Granted);
        std::fs::write(&file, "").unwrap();
        assert!(entry.read_again().is_err());
        assert_eq!(entry.admit(now, peer, Some(b"Bearer fedcba9876543210")), Admission::Granted);
    }

    #[tokio::test]
    async fn what_was_begun_with_a_token_ends_with_it_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Arc::new(with_token(&folder, "0123456789abcdef"));
        let file = folder.path().join("token");
        let mut pass = entry.pass(RIGHT);
        let mut ends = Box::pin(pass.ends());
        assert!(!is_ready(ends.as_mut()));
        // another one beside it
        std::fs::write(&file, "fedcba9876543210\n0123456789abcdef\n").unwrap();
        entry.renew(entry.read_again().unwrap());
        assert!(!is_ready(ends.as_mut()));
        std::fs::write(&file, "fedcba9876543210\n").unwrap();
        let next = entry.read_again().unwrap();
        assert!(!is_ready(ends.as_mut()));
        entry.renew(next);
        assert!(is_ready(ends.as_mut()));
    }

    /// True when it is ready without waiting.
    fn is_ready(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.poll(&mut context).is_ready()
    }

    #[test]
    fn a_peer_has_so_many_connections_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Arc::new(with_token(&folder, "0123456789abcdef"));
        let peer = ip("10.0.0.1");
        let mut places: Vec<Place> = (0..OF_A_PEER).filter_map(|_| entry.place(peer)).collect();
        assert_eq!(places.len(), OF_A_PEER as usize);
        assert!(entry.place(peer).is_none() && entry.place(ip("::ffff:10.0.0.1")).is_none());
        assert!(entry.place(ip("10.0.0.2")).is_some());
        places.pop();
        assert!(entry.place(peer).is_some());
        drop(places);
        assert!(entry.peers().connections.is_empty());
        let all: Vec<_> = (0..100).filter_map(|_| entry.place(ip("127.0.0.1"))).collect();
        assert_eq!(all.len(), 100);
    }
}
