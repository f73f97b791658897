//! One connection: its keys, its state, and what is the same for all its packets.

use super::key::{Addr, Tuple};
use super::state::State;
use super::wheel::{NIL, Tick};
use crate::svc::DestId;
use crate::time::Span;
use crate::wire::plain::{Change, Ends};

/// Which end a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The real server.
    Real,
}

impl Side {
    /// The side a packet from here goes to.
    #[inline(always)]
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Real,
            Side::Real => Side::Client,
        }
    }
}

/// Flags of a connection.
pub mod flag {
    /// The slot is in use.
    pub const LIVE: u16 = 1;
    /// Counted as inactive at its real server (kernel: `IP_VS_CONN_F_INACTIVE`).
    pub const INACTIVE: u16 = 2;
    /// No packet of the real server was seen yet (kernel: `IP_VS_CONN_F_NOOUTPUT`).
    pub const NO_OUTPUT: u16 = 4;
    /// Replies pass here: the connection has a second key.
    pub const TWO_KEYS: u16 = 8;
    /// The source is rewritten too.
    pub const FULLNAT: u16 = 16;
    /// It is counted at its real server.
    pub const BOUND: u16 = 32;
    /// Routed on to where the client sent it, without a real server (`cache_bypass`).
    pub const BYPASS: u16 = 1024;
    /// Tunnelled; with neither this nor `TWO_KEYS` the connection is direct routing.
    pub const TUNNEL: u16 = 64;
    /// It holds a persistence template.
    pub const CONTROLLED: u16 = 128;
    /// Its template was not told yet that it is established.
    pub const UNASSURED: u16 = 256;
    /// A control connection that a helper looks after (kernel: `cp->app`).
    pub const HELPED: u16 = 512;
    /// Its client port is not known yet, the keys have 0 (kernel: `IP_VS_CONN_F_NO_CPORT`).
    pub const AWAITED: u16 = 4096;
    /// A data connection of a helped one (kernel: `cp->control`).
    pub const CHILD: u16 = 2048;
    /// One of its keys is steered to another worker.
    pub const FOREIGN: u16 = 8192;
    /// Packets from the client do not find it: they have port 0, or belong to a younger connection.
    pub const HIDDEN: u16 = 16384;

    // no two share a bit
    const ALL: [u16; 15] = [
        LIVE, INACTIVE, NO_OUTPUT, TWO_KEYS, FULLNAT, BOUND, BYPASS, TUNNEL, CONTROLLED, UNASSURED, HELPED,
        AWAITED, CHILD, FOREIGN, HIDDEN,
    ];
    const _: () = {
        let (mut i, mut seen) = (0, 0);
        while i < ALL.len() {
            assert!(seen & ALL[i] == 0);
            seen |= ALL[i];
            i += 1;
        }
    };
}

/// A connection: one cache line for IPv4, two for IPv6.
///
/// The client's packets need the first line only, but for what FULLNAT sends them on with: the address
/// of the real server is the same for all of its connections, and read elsewhere for IPv6.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Conn<A> {
    // destination before source: as numbers they are then what a frame's ends are, in one read
    /// Virtual address (VIP).
    pub virt: A,
    /// Client address (CIP).
    pub client: A,
    /// Virtual port.
    pub vport: u16,
    /// Client port.
    pub cport: u16,
    /// The port at `local`.
    pub lport: u16,
    /// Real port.
    pub rport: u16,
    /// Protocol number.
    pub proto: u8,
    /// Protocol state.
    pub state: State,
    /// See [`flag`].
    pub flags: u16,
    /// Real server.
    pub dest: DestId,
    /// When it expires unless another packet comes.
    pub deadline: Tick,
    pub(super) armed: Tick,
    /// Packets from the client, as far as sync and defence need them (wraps).
    pub packets: u32,
    /// What its translation does to checksums of the client's packets.
    pub(super) inward: Change,
    /// Where the real server answers to: a local address (LIP) with FULLNAT, otherwise the client's.
    pub local: A,
    /// Real server's address where it is of the same family (RIP).
    pub real: A,
    /// What its translation does to checksums of the real server's packets.
    pub(super) outward: Change,
    pub(super) prev: u32,
    pub(super) next: u32,
    pub(super) age: u32,
}

const _: () = assert!(size_of::<Conn<u32>>() == 64 && size_of::<Conn<u128>>() == 128);
const _: () = assert!(std::mem::offset_of!(Conn<u128>, local) == 64);

impl<A: Addr> Conn<A> {
    /// True for connections whose replies pass the director.
    #[inline]
    pub fn two_keys(&self) -> bool {
        self.flags & flag::TWO_KEYS != 0
    }
    /// Tuple of packets from the client.
    #[inline]
    pub fn client_key(&self) -> Tuple<A> {
        Tuple { src: self.client, dst: self.virt, sport: self.cport, dport: self.vport, proto: self.proto }
    }
    /// Tuple of packets from the real server, as they arrive here.
    #[inline]
    pub fn real_key(&self) -> Tuple<A> {
        Tuple { src: self.real, dst: self.local, sport: self.rport, dport: self.lport, proto: self.proto }
    }
    /// The connection as it will be, not yet in a table; of a packet that leaves none behind (one-packet
    /// scheduling) it never is.
    #[inline]
    pub fn passing(new: &NewConn<A>) -> Conn<A> {
        let (local, lport) = new.local.unwrap_or((new.client.src, new.client.sport));
        let fullnat = if new.local.is_some() { flag::FULLNAT } else { 0 };
        let conn = Conn {
            virt: new.client.dst,
            client: new.client.src,
            local,
            real: new.real.0,
            vport: new.client.dport,
            cport: new.client.sport,
            lport,
            rport: new.real.1,
            inward: Change::default(),
            outward: Change::default(),
            dest: new.dest,
            deadline: Tick(0),
            armed: Tick(0),
            prev: NIL,
            next: NIL,
            age: 0,
            packets: 0,
            proto: new.client.proto,
            state: new.state,
            flags: new.flags | fullnat,
        };
        conn.ready()
    }
    /// With its changes worked out, after its keys were set.
    #[inline]
    pub(super) fn ready(mut self) -> Conn<A> {
        if self.two_keys() {
            [self.inward, self.outward] = A::change(self.ends(Side::Client), self.new_ends(Side::Client));
        }
        self
    }
    /// Ends of the packets that come from this side.
    #[inline(always)]
    pub fn ends(&self, side: Side) -> Ends<A::Pair> {
        match side {
            Side::Client => Ends::new(A::pair(self.client, self.virt), self.cport, self.vport),
            Side::Real => Ends::new(A::pair(self.real, self.local), self.rport, self.lport),
        }
    }
    /// Ends they go on with, where they are translated.
    #[inline(always)]
    pub fn new_ends(&self, side: Side) -> Ends<A::Pair> {
        let other = self.ends(side.other());
        Ends { addresses: A::reversed(other.addresses), ports: other.ports.rotate_left(16) }
    }
    /// The same for the client's packets without FULLNAT, at the address of the real server.
    #[inline(always)]
    pub fn ends_at(&self, real: A) -> Ends<A::Pair> {
        Ends::new(A::pair(self.client, real), self.cport, self.rport)
    }
    /// Sets the deadline. False where that is before the table looks at it next: then
    /// [`super::table::Table::arm_earlier`] is due.
    #[inline(always)]
    #[must_use]
    pub fn goes_on(&mut self, deadline: Tick) -> bool {
        self.deadline = deadline;
        self.armed.until(deadline) >= 0
    }
    /// What their translation does to checksums of the packets that come from this side.
    #[inline(always)]
    pub fn change(&self, side: Side) -> Change {
        match side {
            Side::Client => self.inward,
            Side::Real => self.outward,
        }
    }
    pub(super) fn key(&self, side: Side) -> Tuple<A> {
        match side {
            Side::Client => self.client_key(),
            Side::Real => self.real_key(),
        }
    }
}

/// What is needed to open a connection.
#[derive(Clone, Copy, Debug)]
pub struct NewConn<A> {
    /// Tuple of the client's packet.
    pub client: Tuple<A>,
    /// Real server's address and port.
    pub real: (A, u16),
    /// Local address and port, for FULLNAT.
    pub local: Option<(A, u16)>,
    /// See [`flag`]; `LIVE` and `FULLNAT` are added by themselves.
    pub flags: u16,
    /// Real server.
    pub dest: DestId,
    /// First state.
    pub state: State,
    /// First timeout.
    pub timeout: Span,
}
