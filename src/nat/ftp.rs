//! FTP control connections: what they say about data connections, and how to say it otherwise.
//!
//! # Theory of operation
//! FTP (RFC 959, RFC 2428) names the end of each data connection in the text of its control connection.
//! Behind NAT that end has to be another one, so the text is replaced ([`splice`]), and because it may
//! change its length everything after it moves: each direction has a [`Shift`], added to sequence numbers
//! on the way and taken off the acknowledgements that come back ([`shift`]), SACK blocks included.
//!
//! What counts as a command and as a reply is the kernel's choice (`ip_vs_ftp`): a command or reply is
//! seen only at the start of a segment and only whole, except that `PASV` and `EPSV` are found anywhere in
//! it. A segment that holds less is left alone. Numbers out of range are not wrapped but refused.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use arrayvec::ArrayString;

use crate::buf::{Csum, PacketBuf};
use crate::wire::sum::{self, Delta};
use crate::wire::{Family, Meta, be16, be32, be128, ipv4, ipv6, number, put16, put32, tcp};

/// An end of a data connection, as a control connection names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its address; `None` where the text leaves it out (229).
    pub ip: Option<IpAddr>,
    /// Its port, never 0.
    pub port: u16,
    /// Where the text stands in the payload.
    pub at: Range<usize>,
    /// Delimiter of the extended form; `None` for six numbers.
    pub delimiter: Option<u8>,
}

/// How the client wants the server's end to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passive {
    /// `PASV`, answered by 227.
    Pasv,
    /// `EPSV`, answered by 229.
    Epsv,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The server shall listen.
    Passive(Passive),
    /// The server shall connect to this place (`PORT`, `EPRT`).
    Active(Place),
}

/// The command in a client's segment, if it is one about data connections.
pub fn command(payload: &[u8], v6: bool) -> Option<Command> {
    for rest in (0..payload.len().saturating_sub(5)).map(|at| &payload[at..]) {
        if !v6 && starts(rest, b"PASV\r\n") {
            return Some(Command::Passive(Passive::Pasv));
        }
        if starts(rest, b"EPSV\r") {
            return Some(Command::Passive(Passive::Epsv));
        }
        if starts(rest, b"EPSV ") {
            let own: &[u8] = if v6 { b"2\r" } else { b"1\r" };
            return rest[5..].starts_with(own).then_some(Command::Passive(Passive::Epsv));
        }
    }
    if !v6 && starts(payload, b"PORT") {
        return six_numbers(payload, 4, b' ').map(Command::Active);
    }
    if starts(payload, b"EPRT") {
        return extended(payload, 4, b' ', v6, false).map(Command::Active);
    }
    None
}

/// The server's end in its answer to a passive command.
pub fn reply(payload: &[u8], kind: Passive, v6: bool) -> Option<Place> {
    match kind {
        Passive::Pasv if payload.starts_with(b"227 ") => six_numbers(payload, 4, b'('),
        Passive::Epsv if payload.starts_with(b"229 ") => extended(payload, 4, b'(', v6, true),
        _ => None,
    }
}

fn starts(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word))
}

/// `h1,h2,h3,h4,p1,p2` behind `skip`, which a digit may stand in for.
fn six_numbers(text: &[u8], from: usize, skip: u8) -> Option<Place> {
    let first = text.get(from..)?.iter().position(|c| c.is_ascii_digit())? + from;
    let before = &text[from..first];
    if let Some(found) = before.iter().position(|c| *c == skip)
        && before[found..].iter().any(|c| *c != skip)
    {
        return None;
    }
    let (mut n, mut i, mut at, mut digits) = ([0u8; 6], 0, first, 0);
    loop {
        match *text.get(at)? {
            c @ b'0'..=b'9' => {
                n[i] = n[i].checked_mul(10)?.checked_add(c - b'0')?;
                digits += 1;
            }
            b',' if i < 5 && digits > 0 => (i, digits) = (i + 1, 0),
            _ => break,
        }
        at += 1;
    }
    let port = u16::from_be_bytes([n[4], n[5]]);
    (i == 5 && digits > 0 && port != 0).then(|| Place {
        ip: Some(Ipv4Addr::new(n[0], n[1], n[2], n[3]).into()),
        port,
        at: first..at,
        delimiter: None,
    })
}

/// `|family|address|port|` behind `skip`; replies leave family and address out.
fn extended(text: &[u8], from: usize, skip: u8, v6: bool, is_reply: bool) -> Option<Place> {
    let skipped = text.get(from..)?.iter().position(|c| *c == skip)? + from;
    let start = text[skipped..].iter().position(|c| *c != skip)? + skipped;
    let delimiter = text[start];
    if !(33..=126).contains(&delimiter) {
        return None;
    }
    let mut at = start + 1;
    let mut field = || {
        let len = text.get(at..)?.iter().take(46).position(|c| *c == delimiter)?;
        let field = std::str::from_utf8(&text[at..at + len]).ok()?;
        at += len + 1;
        Some(field)
    };
    let (family, address, port) = (field()?, field()?, field()?);
    let ip = match (family, v6) {
        ("", _) if is_reply && address.is_empty() => None,
        ("1", false) => Some(address.parse::<Ipv4Addr>().ok()?.into()),
        ("2", true) => Some(address.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    if !port.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let port = port.parse().ok().filter(|p| *p != 0)?;
    Some(Place { ip, port, at: start..at, delimiter: Some(delimiter) })
}

/// Longest text of a place: the extended form with an IPv6 address.
pub type Text = ArrayString<64>;

/// The text for a place, in the form of the one it stands for. Replies of the extended form name the port
/// only: the client takes the address it is talking to.
pub fn text(like: &Place, ip: IpAddr, port: u16) -> Text {
    let mut t = Text::new();
    // cannot fail: 64 bytes hold every form
    let _ = match (like.delimiter, like.ip, ip) {
        (None, _, IpAddr::V4(ip)) => {
            let ([a, b, c, d], [high, low]) = (ip.octets(), port.to_be_bytes());
            write!(t, "{a},{b},{c},{d},{high},{low}")
        }
        (Some(d), None, _) => {
            let d = d as char;
            write!(t, "{d}{d}{d}{port}{d}")
        }
        (d, _, ip) => {
            let (d, family) = (d.unwrap_or(b'|') as char, if ip.is_ipv6() { 2 } else { 1 });
            write!(t, "{d}{family}{d}{ip}{d}{port}{d}")
        }
    };
    t
}

/// How far one direction of a connection has moved (kernel: `nf_ct_seqadj`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// Sequence number of the last segment that changed its length.
    from: u32,
    /// What is added up to there.
    before: i32,
    /// What is added behind it.
    after: i32,
}

fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

impl Shift {
    /// May the segment with this sequence number change its length? Older ones must not any more.
    pub fn allows(&self, seq: u32) -> bool {
        self.before == self.after || is_after(seq, self.from)
    }
    /// The segment with this (original) sequence number became longer by `by` bytes.
    pub fn add(&mut self, seq: u32, by: i32) {
        if by != 0 && self.allows(seq) {
            let after = self.after.wrapping_add(by);
            *self = Shift { from: seq, before: self.after, after };
        }
    }
    /// A sequence number on its way.
    pub fn seq(&self, seq: u32) -> u32 {
        let by = if is_after(seq, self.from) { self.after } else { self.before };
        seq.wrapping_add_signed(by)
    }
    /// An acknowledgement on its way back.
    pub fn ack(&self, ack: u32) -> u32 {
        let early = ack.wrapping_sub(self.before as u32);
        if is_after(early, self.from) { ack.wrapping_sub(self.after as u32) } else { early }
    }
    /// True when nothing moved.
    pub fn is_none(&self) -> bool {
        (self.before, self.after) == (0, 0)
    }
}

/// The TCP header with its options and where the payload begins, if it fits the packet.
fn header_len(frame: &[u8], meta: &Meta) -> Option<usize> {
    if meta.proto != number::TCP || meta.is_fragment() {
        return None;
    }
    let l4 = frame.get(meta.l4 as usize..meta.end as usize)?;
    let len = usize::from(*l4.get(tcp::field::OFFSET)? >> 4) * 4;
    (len >= tcp::LEN && len <= l4.len()).then_some(len)
}

/// Payload of a TCP packet; empty when its header does not fit it.
pub fn payload<'f>(frame: &'f [u8], meta: &Meta) -> &'f [u8] {
    let start = header_len(frame, meta).map(|len| meta.l4 as usize + len);
    start.and_then(|start| frame.get(start..meta.end as usize)).unwrap_or_default()
}

/// Sequence number of a TCP packet.
pub fn sequence(frame: &[u8], meta: &Meta) -> Option<u32> {
    header_len(frame, meta).map(|_| be32(frame, meta.l4 as usize + tcp::field::SEQ))
}

/// Moves a packet's sequence number by its own direction's shift, and what it acknowledges by the other's.
pub fn shift(pkt: &mut PacketBuf<'_>, meta: &Meta, own: &Shift, other: &Shift) {
    let summed_later = matches!(pkt.offload.csum, Csum::Partial { .. });
    let Some(len) = header_len(pkt.bytes(), meta) else { return };
    let l4 = meta.l4 as usize;
    let Some(header) = pkt.bytes_mut().get_mut(l4..l4 + len) else { return };
    let mut delta = Delta::new();
    let seq = be32(header, tcp::field::SEQ);
    put32(header, tcp::field::SEQ, own.seq(seq));
    delta = delta.dword(seq, own.seq(seq));
    if header[tcp::field::FLAGS] & tcp::flag::ACK != 0 {
        let ack = be32(header, tcp::field::ACK);
        put32(header, tcp::field::ACK, other.ack(ack));
        delta = delta.dword(ack, other.ack(ack));
        if len > tcp::LEN {
            // options may stand at odd offsets, but all of them together begin and end at even ones
            let options = &mut header[tcp::LEN..];
            let old = sum::fold(sum::sum(options));
            shift_sack(options, other);
            delta = delta.word(old, sum::fold(sum::sum(options)));
        }
    }
    if !summed_later {
        let field = delta.apply(be16(header, tcp::field::CHECKSUM));
        put16(header, tcp::field::CHECKSUM, field);
    }
}

/// Moves the blocks of SACK options (RFC 2018).
fn shift_sack(options: &mut [u8], other: &Shift) {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        match kind {
            0 => return,
            1 => at += 1,
            _ => {
                let Some(&len) = options.get(at + 1) else { return };
                let end = at + usize::from(len);
                if len < 2 || end > options.len() {
                    return;
                }
                if kind == 5 && len % 8 == 2 {
                    for edge in (at + 2..end).step_by(4) {
                        let moved = other.ack(be32(options, edge));
                        put32(options, edge, moved);
                    }
                }
                at = end;
            }
        }
    }
}

/// True when the TCP checksum is right or will be: a packet that nobody will accept says nothing.
pub fn is_intact(pkt: &PacketBuf<'_>, meta: &Meta) -> bool {
    if pkt.offload.csum != Csum::Complete {
        return true;
    }
    let frame = pkt.bytes();
    let l4 = frame.get(meta.l4 as usize..meta.end as usize).unwrap_or_default();
    sum::fold(pseudo(frame, meta, l4.len()) + sum::sum(l4)) == 0xffff
}

fn pseudo(frame: &[u8], meta: &Meta, len: usize) -> u64 {
    let l3 = meta.l3 as usize;
    match meta.family {
        Family::V4 => {
            let word = |at| be32(frame, l3 + at).to_be_bytes();
            sum::pseudo4(word(ipv4::field::SRC), word(ipv4::field::DST), number::TCP, len as u32)
        }
        Family::V6 => {
            let wide = |at| be128(frame, l3 + at).to_be_bytes();
            sum::pseudo6(&wide(ipv6::field::SRC), &wide(ipv6::field::DST), number::TCP, len as u32)
        }
    }
}

/// Replaces `at` of the payload by `text`: lengths and checksums follow. `None`, and nothing is changed,
/// for super-frames and where it does not fit: neither the packet's memory nor 65,535 bytes of IP.
pub fn splice(pkt: &mut PacketBuf<'_>, meta: &Meta, at: &Range<usize>, text: &[u8]) -> Option<Meta> {
    let header = header_len(pkt.bytes(), meta)?;
    let (l3, l4, end) = (meta.l3 as usize, meta.l4 as usize, meta.end as usize);
    let (from, to) = (l4 + header + at.start, l4 + header + at.end);
    if from > to || to > end || end != pkt.len() || pkt.offload.gso.is_some() {
        return None;
    }
    let new_end = end - at.len() + text.len();
    if new_end - l3 > usize::from(u16::MAX) || new_end.saturating_sub(end) > pkt.tailroom() {
        return None;
    }
    pkt.set_len(new_end.max(end));
    let frame = pkt.bytes_mut();
    frame.copy_within(to..end, from + text.len());
    frame[from..from + text.len()].copy_from_slice(text);
    pkt.truncate(new_end);
    let meta = Meta { end: new_end as u32, ..*meta };
    let frame = pkt.bytes_mut();
    match meta.family {
        Family::V4 => {
            let (old, new) = (be16(frame, l3 + ipv4::field::TOTAL), (new_end - l3) as u16);
            put16(frame, l3 + ipv4::field::TOTAL, new);
            let field = Delta::new().word(old, new).apply(be16(frame, l3 + ipv4::field::CHECKSUM));
            put16(frame, l3 + ipv4::field::CHECKSUM, field);
        }
        Family::V6 => put16(frame, l3 + ipv6::field::PAYLOAD, (new_end - l3 - ipv6::LEN) as u16),
    }
    let field = l4 + tcp::field::CHECKSUM;
    if let Csum::Partial { .. } = pkt.offload.csum {
        let frame = pkt.bytes_mut();
        let delta = Delta::new().word((end - l4) as u16, (new_end - l4) as u16);
        let partial = delta.apply_partial(be16(frame, field));
        put16(frame, field, partial);
    } else {
        let frame = pkt.bytes_mut();
        put16(frame, field, 0);
        let whole = !sum::fold(pseudo(frame, &meta, new_end - l4) + sum::sum(&frame[l4..]));
        put16(frame, field, whole);
        pkt.offload.csum = Csum::Complete;
    }
    Some(meta)
}

#[cfg(test)]
mod tests;
