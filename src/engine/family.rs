//! What the packet path does differently for IPv4 and IPv6: reading tuples and writing headers.

use std::sync::Arc;

use crate::buf::PacketBuf;
use crate::conn::key::{Addr, Tuple};
use crate::conn::table::{Table, flag};
use crate::conn::template::Template;
use crate::engine::DropReason;
use crate::engine::burst::Kind;
use crate::nat::{self, Ends};
use crate::wire::eth::Stations;
use crate::wire::{Meta, be16, be32, be128, ipv4, ipv6, plain};

/// The connection tables.
#[derive(Debug)]
pub struct Tables {
    /// IPv4 clients.
    pub v4: Table<u32>,
    /// IPv6 clients.
    pub v6: Table<u128>,
    /// Templates that IPv4 connections hold, by slot; as long as persistent services needed it.
    pub control4: Vec<Option<Arc<Template>>>,
    /// The same for IPv6.
    pub control6: Vec<Option<Arc<Template>>>,
    /// Live connections that are not here, because this is a part of another engine's tables.
    pub elsewhere: usize,
}

impl Tables {
    /// Live connections.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len() + self.elsewhere
    }
    /// Live FULLNAT connections. Slow.
    pub fn fullnat(&self) -> usize {
        let is = |flags: u16| flags & flag::FULLNAT != 0;
        self.v4.iter().filter(|(_, c)| is(c.flags)).count()
            + self.v6.iter().filter(|(_, c)| is(c.flags)).count()
    }
}

/// A family as the packet path uses it.
pub trait IpFamily: Addr {
    /// True for IPv6.
    const V6: bool;
    /// What its ordinary frames are at first sight.
    const PLAIN: Kind;
    /// Its table.
    fn table(tables: &mut Tables) -> &mut Table<Self>;
    /// The templates its connections hold, by slot.
    fn controls(tables: &mut Tables) -> &mut Vec<Option<Arc<Template>>>;
    /// Addresses and ports of a parsed packet.
    fn tuple(frame: &[u8], meta: &Meta) -> Tuple<Self>;
    /// Rewrites addresses and ports.
    fn rewrite(pkt: &mut PacketBuf<'_>, meta: &Meta, ends: &Ends<Self>) -> Result<(), DropReason>;
    /// Protocol, ends and length of an ordinary frame ([`crate::wire::plain`]).
    fn read(frame: &[u8]) -> Option<(u8, plain::Ends<Self::Pair>, usize)>;
    /// Writes all headers of an ordinary frame, or none.
    fn new_ends(
        frame: &mut [u8],
        proto: u8,
        new: plain::Ends<Self::Pair>,
        change: plain::Change,
        stations: Stations,
    ) -> bool;
    /// Lowers the TTL of an ordinary frame.
    fn hop(frame: &mut [u8]) -> bool;
    /// True when the packet may be cut into fragments on the way.
    fn may_fragment(frame: &[u8], meta: &Meta) -> bool;
}

/// The fixed IP header of a parsed packet, in one piece so that its fields need no checks of their own.
#[inline]
fn header<'f, const N: usize>(frame: &'f [u8], meta: &Meta) -> &'f [u8; N] {
    frame.get(meta.l3 as usize..).and_then(|ip| ip.first_chunk()).unwrap_or(&[0; N])
}

impl IpFamily for u32 {
    const V6: bool = false;
    const PLAIN: Kind = Kind::Plain4;
    #[inline]
    fn table(tables: &mut Tables) -> &mut Table<u32> {
        &mut tables.v4
    }
    fn controls(tables: &mut Tables) -> &mut Vec<Option<Arc<Template>>> {
        &mut tables.control4
    }
    #[inline]
    fn tuple(frame: &[u8], meta: &Meta) -> Tuple<u32> {
        let ip = header::<{ ipv4::LEN }>(frame, meta);
        Tuple {
            src: be32(ip, ipv4::field::SRC),
            dst: be32(ip, ipv4::field::DST),
            sport: meta.sport,
            dport: meta.dport,
            proto: meta.proto,
        }
    }
    #[inline]
    fn rewrite(pkt: &mut PacketBuf<'_>, meta: &Meta, ends: &Ends<u32>) -> Result<(), DropReason> {
        nat::rewrite4(pkt, meta, ends)
    }
    #[inline(always)]
    fn read(frame: &[u8]) -> Option<(u8, plain::Ends<u64>, usize)> {
        plain::read4(frame)
    }
    #[inline(always)]
    fn new_ends(
        frame: &mut [u8],
        proto: u8,
        new: plain::Ends<u64>,
        change: plain::Change,
        stations: Stations,
    ) -> bool {
        plain::new_ends4(frame, proto, new, change, stations)
    }
    #[inline(always)]
    fn hop(frame: &mut [u8]) -> bool {
        plain::hop4(frame)
    }
    fn may_fragment(frame: &[u8], meta: &Meta) -> bool {
        be16(frame, meta.l3 as usize + ipv4::field::FRAGMENT) & ipv4::DF == 0
    }
}

impl IpFamily for u128 {
    const V6: bool = true;
    const PLAIN: Kind = Kind::Plain6;
    #[inline]
    fn table(tables: &mut Tables) -> &mut Table<u128> {
        &mut tables.v6
    }
    fn controls(tables: &mut Tables) -> &mut Vec<Option<Arc<Template>>> {
        &mut tables.control6
    }
    #[inline]
    fn tuple(frame: &[u8], meta: &Meta) -> Tuple<u128> {
        let ip = header::<{ ipv6::LEN }>(frame, meta);
        Tuple {
            src: be128(ip, ipv6::field::SRC),
            dst: be128(ip, ipv6::field::DST),
            sport: meta.sport,
            dport: meta.dport,
            proto: meta.proto,
        }
    }
    #[inline]
    fn rewrite(pkt: &mut PacketBuf<'_>, meta: &Meta, ends: &Ends<u128>) -> Result<(), DropReason> {
        nat::rewrite6(pkt, meta, ends)
    }
    #[inline(always)]
    fn read(frame: &[u8]) -> Option<(u8, plain::Ends<[u128; 2]>, usize)> {
        plain::read6(frame)
    }
    #[inline(always)]
    fn new_ends(
        frame: &mut [u8],
        proto: u8,
        new: plain::Ends<[u128; 2]>,
        change: plain::Change,
        stations: Stations,
    ) -> bool {
        plain::new_ends6(frame, proto, new, change, stations)
    }
    #[inline(always)]
    fn hop(frame: &mut [u8]) -> bool {
        plain::hop6(frame)
    }
    fn may_fragment(_: &[u8], _: &Meta) -> bool {
        false
    }
}
