//! Fragments of one datagram kept until it is whole (IPVS-RULES 36-41).
//!
//! Theory of operation: each fragment is kept as the frame it came in, so that the first one can be quoted
//! when time runs out. Pieces never overlap: an exact repetition is ignored, anything else that overlaps
//! ends the datagram (rule 39, RFC 5722), for a receiver that keeps the first bytes and one that keeps the
//! last would see two different packets. The whole carries the headers of the first fragment.
//!
//! Memory is bounded three ways: fragments per datagram, bytes per datagram, bytes altogether. When the
//! last is reached the *oldest* datagrams go. The kernel refuses new ones instead; then a trickle of
//! fragments that never complete keeps everybody out for 30 s at a time, while real datagrams are whole
//! within milliseconds.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::buf::{Out, OwnedPacket};
use crate::engine::{DropReason, PortId};
use crate::time::{Mono, Span, fires};
use crate::wire::fragment::HEADER6;
use crate::wire::{Family, Meta, be16, be32, ipv4, ipv6, number, put16, sum};

/// Bounds of a [`Reassembly`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragLimits {
    /// Bytes of all kept fragments, their bookkeeping included (kernel: `ipfrag_high_thresh`, 4 MiB).
    pub memory: usize,
    /// Most fragments of one datagram.
    pub pieces: usize,
    /// How long the first fragment that came waits for the rest (rule 40; kernel: `ipfrag_time`).
    pub timeout: Span,
    /// The same for IPv6 (RFC 8200 section 4.5; kernel: `nf_conntrack_frag6_timeout`).
    pub timeout6: Span,
}

impl FragLimits {
    fn timeout(&self, family: Family) -> Span {
        if family == Family::V4 { self.timeout } else { self.timeout6 }
    }
}

impl Default for FragLimits {
    fn default() -> FragLimits {
        // 256 pieces: 64 KiB over a link with an MTU of 296, the smallest still seen
        let (timeout, timeout6) = (Span::from_secs(30), Span::from_secs(60));
        FragLimits { memory: 4 << 20, pieces: 256, timeout, timeout6 }
    }
}

/// What became of a fragment.
#[derive(Debug)]
pub enum Insert {
    /// Kept, or the repetition of one that is kept.
    Incomplete,
    /// It was the missing one: the whole datagram in a frame with the first fragment's link header, its
    /// checksums as the sender made them; and the IP length of the largest fragment, to which it is cut
    /// again on its way out (rule 37). For packets from [`Out`]: give it back there.
    Complete(OwnedPacket, usize),
    /// It cannot be used; with overlaps and contradictions the whole datagram is forgotten.
    Drop(DropReason),
}

/// Datagrams that ended otherwise than whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragStats {
    /// Whole datagrams.
    pub completed: u64,
    /// Time ran out.
    pub expired: u64,
    /// Pushed out by newer ones.
    pub evicted: u64,
    /// Ended by an overlap, a contradiction or too many pieces.
    pub spoilt: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    /// IPv4 only: in IPv6 it is not part of the identity (RFC 8200 section 4.5).
    proto: u8,
    port: PortId,
}

/// One kept fragment.
#[derive(Clone, Debug)]
struct Piece {
    /// Of the datagram's payload.
    offset: usize,
    /// Payload bytes.
    len: usize,
    /// Where the payload begins in the frame.
    at: usize,
    frame: OwnedPacket,
}

/// What one kept fragment costs.
fn cost(frame_len: usize) -> usize {
    // buffers come in steps of 2 KiB, see `OwnedPacket`
    (crate::buf::HEADROOM + frame_len).next_multiple_of(2048) + size_of::<Piece>()
}

#[derive(Clone, Debug)]
struct Datagram {
    /// Its key in [`Reassembly::order`].
    place: (Mono, u64),
    /// In order of offset, without overlaps.
    pieces: Vec<Piece>,
    /// Payload length, once the last fragment is here.
    total: Option<usize>,
    received: usize,
    memory: usize,
    /// IP length of the largest fragment, and of the largest one with DF.
    largest: usize,
    largest_df: usize,
    /// A bit for each ECN value seen.
    ecn: u8,
    /// Of the first fragment, once it is here.
    head: Head,
}

/// The headers a whole datagram takes from its first fragment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head {
    /// Offset of the IP header.
    l3: usize,
    /// Offset behind the headers that stay.
    end: usize,
    /// IPv6: where the next-header field is that named the fragment header, and what it becomes.
    next_at: usize,
    next: u8,
}

/// One fragment as its headers describe it.
struct Part {
    id: u32,
    offset: usize,
    len: usize,
    /// Where its payload begins in the frame.
    at: usize,
    more: bool,
    ip_len: usize,
    df: bool,
    ecn: u8,
    head: Head,
}

impl Part {
    fn read(frame: &[u8], meta: &Meta) -> Result<Part, DropReason> {
        const BAD: DropReason = DropReason::BadFragment;
        let (l3, end) = (meta.l3 as usize, meta.end as usize);
        if end > frame.len() || usize::from(meta.l4) > end {
            return Err(BAD);
        }
        let ip = frame.get(l3..end).ok_or(BAD)?;
        let (id, df, ecn, head, at) = match meta.family {
            Family::V4 => {
                let at = usize::from(meta.l4);
                if !meta.is_fragment() {
                    return Err(BAD);
                }
                let id = u32::from(be16(ip, ipv4::field::ID));
                let df = be16(ip, ipv4::field::FRAGMENT) & ipv4::DF != 0;
                (id, df, ip[ipv4::field::TOS] & 3, Head { l3, end: at, ..Head::default() }, at)
            }
            Family::V6 => {
                let head = fragment_header(frame, l3, end).ok_or(BAD)?;
                (be32(frame, head.end + 4), false, ip[1] >> 4 & 3, head, head.end + HEADER6)
            }
        };
        let (offset, more) = (usize::from(meta.frag_offset), meta.more_fragments);
        let mut len = end - at;
        if more && meta.family == Family::V4 {
            len &= !7; // as the kernel does; an IPv6 fragment like this is an error (RFC 8200 section 4.5)
        }
        let fixed = if meta.family == Family::V6 { ipv6::LEN } else { 0 };
        let largest = head.end - l3 - fixed + offset + len;
        if len == 0 || more && len % 8 != 0 || largest > usize::from(u16::MAX) {
            return Err(BAD);
        }
        Ok(Part { id, offset, len, at, more, ip_len: end - l3, df, ecn, head })
    }
}

/// Finds the fragment header of an IPv6 packet at `l3`.
pub(crate) fn fragment_header(frame: &[u8], l3: usize, end: usize) -> Option<Head> {
    let (mut next_at, mut at) = (l3 + ipv6::field::NEXT, l3 + ipv6::LEN);
    while at + HEADER6 <= end {
        match frame[next_at] {
            number::FRAGMENT => return Some(Head { l3, end: at, next_at, next: frame[at] }),
            number::HOPOPTS | number::ROUTING | number::DSTOPTS => {
                next_at = at;
                at += 8 + usize::from(frame[at + 1]) * 8;
            }
            _ => return None,
        }
    }
    None
}

/// Datagrams on their way to being whole.
#[derive(Clone, Debug)]
pub struct Reassembly {
    limits: FragLimits,
    datagrams: BTreeMap<Key, Datagram>,
    /// The next to time out first, then by serial number.
    order: BTreeMap<(Mono, u64), Key>,
    serial: u64,
    memory: usize,
    stats: FragStats,
    /// Lengths of the payloads of the fragments that made up the datagram last given out, in order.
    pub cuts: Vec<u16>,
}

impl Reassembly {
    /// Nothing kept.
    pub fn new(limits: FragLimits) -> Reassembly {
        Reassembly {
            limits,
            datagrams: BTreeMap::new(),
            order: BTreeMap::new(),
            serial: 0,
            memory: 0,
            stats: FragStats::default(),
            cuts: Vec::new(),
        }
    }
    /// How datagrams ended.
    pub fn stats(&self) -> FragStats {
        self.stats
    }
    /// Datagrams kept at the moment.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }
    /// True when nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }
    /// Bytes kept at the moment, by the measure of [`FragLimits::memory`].
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Takes a fragment ([`Meta::is_fragment`]) that came in on `port`. Buffers come from `out` and go
    /// back there.
    pub fn insert(&mut self, now: Mono, port: PortId, frame: &[u8], meta: &Meta, out: &mut Out) -> Insert {
        let part = match Part::read(frame, meta) {
            Ok(part) => part,
            Err(why) => return Insert::Drop(why),
        };
        let key = Key {
            src: meta.src(frame),
            dst: meta.dst(frame),
            id: part.id,
            proto: if meta.family == Family::V4 { meta.proto } else { 0 },
            port,
        };
        let memory = cost(meta.end as usize);
        if memory > self.limits.memory || self.limits.pieces == 0 {
            return Insert::Drop(DropReason::FragmentLimit);
        }
        if !self.datagrams.contains_key(&key) {
            self.serial += 1;
            let timeout = self.limits.timeout(meta.family);
            let place = (fires(now + timeout, timeout), self.serial);
            self.datagrams.insert(key, Datagram::new(place));
            self.order.insert(place, key);
        }
        // there: either it was or it was just put in
        let Some(datagram) = self.datagrams.get_mut(&key) else {
            return Insert::Drop(DropReason::FragmentLimit);
        };
        match datagram.place(&part, self.limits.pieces) {
            Place::Repeated => return Insert::Incomplete,
            Place::Spoilt(why) => {
                self.stats.spoilt += 1;
                self.forget(&key, out);
                return Insert::Drop(why);
            }
            Place::At(at) => {
                let frame = out.copy_of(&frame[..meta.end as usize], crate::buf::Offload::NONE);
                let piece = Piece { offset: part.offset, len: part.len, at: part.at, frame };
                datagram.take(at, piece, &part, memory);
                self.memory += memory;
            }
        }
        if datagram.total == Some(datagram.received) {
            let whole = datagram.join(meta.family, out);
            let largest = datagram.largest;
            self.cuts.clear();
            self.cuts.extend(datagram.pieces.iter().map(|p| p.len as u16));
            let ended = if whole.is_ok() { &mut self.stats.completed } else { &mut self.stats.spoilt };
            *ended += 1;
            self.forget(&key, out);
            return match whole {
                Ok(packet) => Insert::Complete(packet, largest),
                Err(why) => Insert::Drop(why),
            };
        }
        self.make_room(out);
        if self.datagrams.contains_key(&key) {
            Insert::Incomplete
        } else {
            Insert::Drop(DropReason::FragmentLimit)
        }
    }

    /// When [`Reassembly::on_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.order.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Forgets datagrams whose time ran out. `each` gets the first fragment of those that have one, to be
    /// quoted in an ICMP time exceeded (11/1 or 3/1): the port it came in on and the frame as it came.
    pub fn on_timeout(
        &mut self,
        now: Mono,
        out: &mut Out,
        mut each: impl FnMut(&mut Out, PortId, OwnedPacket),
    ) {
        while let Some((_, key)) = self.order.first_key_value().filter(|((at, _), _)| *at <= now) {
            let key = *key;
            self.stats.expired += 1;
            let Some(mut datagram) = self.remove(&key) else { return };
            if datagram.pieces.first().is_some_and(|p| p.offset == 0) {
                each(out, key.port, datagram.pieces.remove(0).frame);
            }
            datagram.pieces.drain(..).for_each(|p| out.recycle(p.frame));
        }
    }

    /// Pushes out the oldest datagrams until the limit is kept.
    fn make_room(&mut self, out: &mut Out) {
        while self.memory > self.limits.memory {
            let Some((_, key)) = self.order.first_key_value() else { return };
            let key = *key;
            self.stats.evicted += 1;
            self.forget(&key, out);
        }
    }
    fn forget(&mut self, key: &Key, out: &mut Out) {
        if let Some(datagram) = self.remove(key) {
            datagram.pieces.into_iter().for_each(|p| out.recycle(p.frame));
        }
    }
    fn remove(&mut self, key: &Key) -> Option<Datagram> {
        let datagram = self.datagrams.remove(key)?;
        self.order.remove(&datagram.place);
        self.memory -= datagram.memory;
        Some(datagram)
    }
}

/// Where a fragment goes in its datagram.
enum Place {
    At(usize),
    Repeated,
    Spoilt(DropReason),
}

impl Datagram {
    fn new(place: (Mono, u64)) -> Datagram {
        let pieces = Vec::new();
        let head = Head::default();
        Datagram {
            place,
            pieces,
            total: None,
            received: 0,
            memory: 0,
            largest: 0,
            largest_df: 0,
            ecn: 0,
            head,
        }
    }
    fn place(&self, part: &Part, most: usize) -> Place {
        let end = part.offset + part.len;
        let known = self.pieces.last().map_or(0, |p| p.offset + p.len);
        let contradicts = match self.total {
            Some(total) => end > total || (!part.more && end != total),
            None => !part.more && end < known,
        };
        if contradicts {
            return Place::Spoilt(DropReason::BadFragment);
        }
        let at = self.pieces.partition_point(|p| p.offset + p.len <= part.offset);
        if self.pieces.get(at).is_some_and(|p| p.offset < end) {
            // kernel, `inet_frag_queue_insert`: what adds no byte to an unbroken run is a repetition
            let mut covered = part.offset;
            for p in &self.pieces[at..] {
                if p.offset > covered || covered >= end {
                    break;
                }
                covered = p.offset + p.len;
            }
            let repeated = covered >= end;
            return if repeated { Place::Repeated } else { Place::Spoilt(DropReason::BadFragment) };
        }
        if self.pieces.len() >= most {
            return Place::Spoilt(DropReason::FragmentLimit);
        }
        Place::At(at)
    }
    fn take(&mut self, at: usize, piece: Piece, part: &Part, memory: usize) {
        let end = piece.offset + piece.len;
        if !part.more {
            self.total = Some(end);
        }
        self.received += piece.len;
        self.memory += memory;
        self.largest = self.largest.max(part.ip_len);
        if part.df {
            self.largest_df = self.largest_df.max(part.ip_len);
        }
        self.ecn |= 1 << part.ecn;
        if part.offset == 0 {
            self.head = part.head;
        }
        self.pieces.insert(at, piece);
    }
    /// The whole datagram, once every byte is there.
    fn join(&self, family: Family, out: &mut Out) -> Result<OwnedPacket, DropReason> {
        const NOT_ECT: u8 = 1;
        const CE: u8 = 0b11;
        // RFC 3168 section 5.3: congestion seen by one fragment is seen by all, ECN on some only is a fault
        if self.ecn & NOT_ECT != 0 && self.ecn != NOT_ECT {
            return Err(DropReason::BadFragment);
        }
        let congested = self.ecn & (1 << CE) != 0;
        let first = self.pieces.first().filter(|p| p.offset == 0).ok_or(DropReason::BadFragment)?;
        let Head { l3, end: headers, next_at, next } = self.head;
        let length = headers - l3 + self.received;
        let fixed = if family == Family::V6 { ipv6::LEN } else { 0 };
        if length - fixed > usize::from(u16::MAX) {
            return Err(DropReason::BadFragment);
        }
        let mut packet = out.packet(l3 + length);
        packet.edit(|p| {
            let bytes = p.bytes_mut();
            bytes[..headers].copy_from_slice(&first.frame.bytes()[..headers]);
            for piece in &self.pieces {
                let to = headers + piece.offset;
                let payload = &piece.frame.bytes()[piece.at..piece.at + piece.len];
                bytes[to..to + piece.len].copy_from_slice(payload);
            }
            let ip = &mut bytes[l3..];
            match family {
                Family::V4 => {
                    put16(ip, ipv4::field::TOTAL, length as u16);
                    // rule 38; kernel: DF only when no larger fragment came without it
                    let df = self.largest_df > 0 && self.largest_df == self.largest;
                    put16(ip, ipv4::field::FRAGMENT, if df { ipv4::DF } else { 0 });
                    if congested {
                        ip[ipv4::field::TOS] |= CE;
                    }
                    put16(ip, ipv4::field::CHECKSUM, 0);
                    let checksum = sum::checksum(&ip[..headers - l3]);
                    put16(ip, ipv4::field::CHECKSUM, checksum);
                }
                Family::V6 => {
                    put16(ip, ipv6::field::PAYLOAD, (length - ipv6::LEN) as u16);
                    ip[next_at - l3] = next;
                    if congested {
                        ip[1] |= CE << 4;
                    }
                }
            }
        });
        Ok(packet)
    }
}

#[cfg(test)]
mod tests;
