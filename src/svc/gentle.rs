//! Slow start on the packet path: a server on its way back takes no more than its share of new connections.
//!
//! For each new connection of its service such a server earns its share of credit; it is passed over until
//! that makes a whole connection. Everything happens under the scheduler's lock, and only while a service
//! has such a server.

use std::sync::atomic::Ordering::Relaxed;

use super::{DestLive, Service};

/// Credit for one connection; shares are parts of it.
pub const WHOLE: u32 = 1 << 16;

impl DestLive {
    /// Bounds the server's part of its service's new connections, in parts of [`WHOLE`]; `None` lifts it.
    /// Say so to its service too: [`Service::set_gentle`].
    pub fn set_share(&self, share: Option<u32>) {
        let share = share.unwrap_or(0);
        if share == 0 {
            self.credit.store(0, Relaxed);
        }
        self.held.store(share != 0 && self.credit.load(Relaxed) < WHOLE, Relaxed);
        self.share.store(share, Relaxed);
    }
}

impl DestLive {
    /// Is its share bounded?
    pub fn has_share(&self) -> bool {
        self.share.load(Relaxed) != 0
    }
}

impl Service {
    /// Some server of this service has a bounded share.
    pub fn set_gentle(&self, gentle: bool) {
        self.gentle.store(gentle, Relaxed);
    }
    /// Has any?
    #[inline]
    pub fn is_gentle(&self) -> bool {
        self.gentle.load(Relaxed)
    }
    /// A new connection comes: those with a bounded share earn it.
    pub fn earn(&self) {
        for d in &self.dests {
            let share = d.live.share.load(Relaxed);
            if share != 0 {
                let credit = (d.live.credit.load(Relaxed) + share).min(WHOLE + share);
                d.live.credit.store(credit, Relaxed);
                d.live.held.store(credit < WHOLE, Relaxed);
            }
        }
    }
    /// The server at `index` takes the connection.
    pub fn spend(&self, index: usize) {
        let Some(live) = self.dests.get(index).map(|d| &d.live) else { return };
        if live.share.load(Relaxed) != 0 {
            live.credit.store(live.credit.load(Relaxed).saturating_sub(WHOLE), Relaxed);
        }
    }
    /// Nobody else is to be had: whoever was passed over may take the next one.
    pub fn lift(&self) {
        self.dests.iter().for_each(|d| d.live.held.store(false, Relaxed));
    }
}
