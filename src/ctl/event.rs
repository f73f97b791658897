//! What happened beside packets, for whoever listens.

use std::net::IpAddr;

use super::overlay::{Overlay, RealKey};
use crate::addr::Mac;
use crate::config::apply::Changes;

/// One event. Listeners that are too slow miss some and are told how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What runs was changed, and is now of this generation.
    Changed {
        /// Counts changes.
        generation: u64,
        /// What changed.
        changes: Changes,
    },
    /// A whole configuration was refused; what runs is as it was.
    Refused {
        /// Why.
        why: String,
    },
    /// A health check laid something over a real server, or took it away (`None`).
    Overlaid {
        /// The real server.
        real: RealKey,
        /// What lies over it now.
        overlay: Option<Overlay>,
    },
    /// What the health checks found, and what follows from it.
    Health(crate::health::Event),
    /// Another station says that it has an address of the director.
    AddressConflict {
        /// Name of the port.
        port: String,
        /// The address.
        ip: IpAddr,
        /// Who says so.
        mac: Mac,
    },
    /// A neighbour moved to another MAC address.
    NeighborMoved {
        /// Name of the port.
        port: String,
        /// The neighbour.
        ip: IpAddr,
        /// Where it was.
        from: Mac,
        /// Where it is.
        to: Mac,
    },
    /// A neighbour does not answer.
    NeighborFailed {
        /// Name of the port.
        port: String,
        /// The neighbour.
        ip: IpAddr,
    },
}
