//! Capture files in the classic pcap format (draft-ietf-opsawg-pcap): reader, writer, and ports on them.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use super::{Burst, Port, PortError, PortInfo, SendReport, SlotIter, room};
use crate::buf::{HEADROOM, MAX_FRAME, Offload, PacketBuf};
use crate::time::{Mono, Span};
use crate::wire::Link;

const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
pub(super) const LINKTYPE_ETHERNET: u32 = 1;
pub(super) const LINKTYPE_RAW: u32 = 101;
/// What packets of a link type begin with, and how many bytes of the capture's own stand before it.
pub(super) fn link_of(kind: u32) -> Option<(Link, usize)> {
    match kind {
        LINKTYPE_ETHERNET => Some((Link::Ethernet, 0)),
        // raw IP of either version; 12 and 14 are what some systems write for it
        LINKTYPE_RAW | 12 | 14 | 228 | 229 => Some((Link::Ip, 0)),
        // BSD loopback: the address family
        0 | 108 => Some((Link::Ip, 4)),
        // Linux cooked, as of `tcpdump -i any`, and its second version
        113 => Some((Link::Ip, 16)),
        276 => Some((Link::Ip, 20)),
        _ => None,
    }
}

/// Longest record accepted; what is longer is a broken file, not a packet (libpcap's own limit).
const MAX_RECORD: u32 = 262_144;

/// What is wrong with a capture file.
#[derive(Debug)]
pub enum PcapError {
    /// Reading failed.
    Io(io::Error),
    /// The file does not begin like a capture.
    NotPcap,
    /// A link type that [`link_of`] does not know.
    LinkType(u32),
    /// The file ends inside the record with this number, counted from 1.
    Truncated(u64),
    /// The record with this number is of an interface that the file does not tell of (pcapng).
    NoInterface(u64, u32),
    /// The record with this number says it has this many bytes.
    TooLong(u64, u32),
}

impl fmt::Display for PcapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PcapError::Io(e) => write!(f, "{e}"),
            PcapError::NotPcap => f.write_str("it is no capture (pcap or pcapng)"),
            PcapError::LinkType(t) => {
                write!(f, "link type {t} cannot be read: Ethernet, raw IP and Linux cooked captures can")
            }
            PcapError::Truncated(n) => write!(f, "the file ends inside record {n}"),
            PcapError::NoInterface(n, port) => {
                write!(f, "record {n} is of interface {port}, which the file does not tell of")
            }
            PcapError::TooLong(n, len) => write!(f, "record {n} says it has {len} bytes"),
        }
    }
}

impl std::error::Error for PcapError {}

impl From<io::Error> for PcapError {
    fn from(e: io::Error) -> PcapError {
        PcapError::Io(e)
    }
}

/// A packet of a capture; its bytes are in the buffer given to [`Reader::read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Time of capture since the epoch.
    pub at: Span,
    /// Length on the wire, which may be more than was captured.
    pub wire_len: u32,
}

/// Reads a capture from any source, a record at a time.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    swapped: bool,
    nanos: bool,
    link: Link,
    /// Bytes before each packet.
    before: usize,
    count: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the file header.
    ///
    /// # Errors
    /// [`PcapError::NotPcap`], [`PcapError::LinkType`], or what reading said.
    pub fn new(mut from: R) -> Result<Reader<R>, PcapError> {
        let mut h = [0; 24];
        from.read_exact(&mut h).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => PcapError::NotPcap,
            _ => PcapError::Io(e),
        })?;
        let magic = u32::from_le_bytes([h[0], h[1], h[2], h[3]]);
        let (swapped, nanos) = match (magic, magic.swap_bytes()) {
            (MAGIC_MICROS, _) => (false, false),
            (MAGIC_NANOS, _) => (false, true),
            (_, MAGIC_MICROS) => (true, false),
            (_, MAGIC_NANOS) => (true, true),
            _ => return Err(PcapError::NotPcap),
        };
        // the upper bits say whether a frame check sequence follows
        let kind = word(&h, 20, swapped) & 0x0fff_ffff;
        let (link, before) = link_of(kind).ok_or(PcapError::LinkType(kind))?;
        Ok(Reader { from, swapped, nanos, link, before, count: 0 })
    }

    /// What the packets begin with.
    pub fn link(&self) -> Link {
        self.link
    }

    /// Reads the next packet into `bytes`; `None` at the end of the file.
    ///
    /// # Errors
    /// [`PcapError::Truncated`], [`PcapError::TooLong`], or what reading said.
    pub fn read(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Record>, PcapError> {
        let mut h = [0; 16];
        let mut have = 0;
        while have < h.len() {
            match self.from.read(&mut h[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(PcapError::Truncated(self.count + 1)),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.count += 1;
        let get = |at| word(&h, at, self.swapped);
        let len = get(8);
        if len > MAX_RECORD {
            return Err(PcapError::TooLong(self.count, len));
        }
        bytes.clear();
        bytes.resize(len as usize, 0);
        self.from.read_exact(bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => PcapError::Truncated(self.count),
            _ => PcapError::Io(e),
        })?;
        bytes.drain(..self.before.min(bytes.len()));
        let fraction = u64::from(get(4)) * if self.nanos { 1 } else { 1000 };
        let at = Span((u64::from(get(0)) * 1_000_000_000).saturating_add(fraction));
        Ok(Some(Record { at, wire_len: get(12).saturating_sub(self.before as u32) }))
    }
}

fn word(b: &[u8], at: usize, swapped: bool) -> u32 {
    let w = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    if swapped { w.swap_bytes() } else { w }
}

/// Writes a capture: little-endian, nanoseconds.
#[derive(Debug)]
pub struct Writer<W: Write> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// Writes the file header.
    ///
    /// # Errors
    /// What writing said.
    pub fn new(mut to: W, link: Link) -> io::Result<Writer<W>> {
        let mut h = [0; 24];
        h[..4].copy_from_slice(&MAGIC_NANOS.to_le_bytes());
        h[4] = 2; // version 2.4
        h[6] = 4;
        h[16..20].copy_from_slice(&MAX_RECORD.to_le_bytes());
        let kind = match link {
            Link::Ethernet => LINKTYPE_ETHERNET,
            Link::Ip => LINKTYPE_RAW,
        };
        h[20..24].copy_from_slice(&kind.to_le_bytes());
        to.write_all(&h)?;
        Ok(Writer { to })
    }

    /// Writes a packet with its time.
    ///
    /// # Errors
    /// What writing said.
    pub fn write(&mut self, at: Span, frame: &[u8]) -> io::Result<()> {
        let frame = &frame[..frame.len().min(MAX_RECORD as usize)];
        let mut h = [0; 16];
        h[..4].copy_from_slice(&(at.as_secs() as u32).to_le_bytes());
        h[4..8].copy_from_slice(&((at.0 % 1_000_000_000) as u32).to_le_bytes());
        h[8..12].copy_from_slice(&(frame.len() as u32).to_le_bytes());
        h[12..16].copy_from_slice(&(frame.len() as u32).to_le_bytes());
        self.to.write_all(&h)?;
        self.to.write_all(frame)
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// What writing said.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// When the packets of a capture are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One after the other without waiting.
    AtOnce,
    /// As far apart as they were captured.
    AsCaptured,
}

/// A port that replays a capture and takes no packet.
#[derive(Debug)]
pub struct PcapIn<R> {
    reader: Reader<R>,
    info: PortInfo,
    pace: Pace,
    bytes: Vec<u8>,
    /// Distance of the packet in `bytes` from the first one; `None` when there is no further packet.
    next: Option<Span>,
    first: Span,
    start: Option<Mono>,
    now: Mono,
    /// Why the capture ended, when it was not at its end.
    error: Option<PcapError>,
}

impl<R: Read> PcapIn<R> {
    /// Replays `reader` as a port that says `info` of itself (its link is the capture's).
    pub fn new(reader: Reader<R>, info: PortInfo, pace: Pace) -> PcapIn<R> {
        let link = reader.link();
        let mut port = PcapIn {
            reader,
            info: PortInfo { link, ..info },
            pace,
            bytes: Vec::new(),
            next: None,
            first: Span::ZERO,
            start: None,
            now: Mono::ZERO,
            error: None,
        };
        if let Some(record) = port.advance() {
            port.first = record.at;
            port.next = Some(Span::ZERO);
        }
        port
    }

    /// True when every packet was handed out.
    pub fn is_done(&self) -> bool {
        self.next.is_none()
    }
    /// What was wrong with the file, when it ended early.
    pub fn error(&self) -> Option<&PcapError> {
        self.error.as_ref()
    }

    fn advance(&mut self) -> Option<Record> {
        match self.reader.read(&mut self.bytes) {
            Ok(record) => record,
            Err(e) => {
                self.error = Some(e);
                None
            }
        }
    }
    fn due(&self) -> Option<Mono> {
        let next = self.next?;
        Some(match self.pace {
            Pace::AtOnce => Mono::ZERO,
            Pace::AsCaptured => self.start.unwrap_or(self.now) + next,
        })
    }
}

impl<R: Read + Send> Port for PcapIn<R> {
    fn info(&self) -> &PortInfo {
        &self.info
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn ready_at(&mut self, now: Mono) -> Option<Mono> {
        self.now = now;
        self.start.get_or_insert(now);
        self.due()
    }
    fn recv_burst<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) -> Result<(), PortError> {
        // nobody has told the time yet: the replay has not begun
        if self.start.is_none() && self.pace == Pace::AsCaptured {
            return Ok(());
        }
        while room(slots, burst) > 0 && self.due().is_some_and(|at| at <= self.now) {
            if self.bytes.len() <= MAX_FRAME {
                // room said there is one
                let Some(slot) = slots.next() else { break };
                let mut packet = PacketBuf::empty(slot, HEADROOM);
                packet.fill(&self.bytes);
                burst.push(packet);
            }
            self.next = self.advance().map(|r| Span(r.at.0.saturating_sub(self.first.0)));
        }
        Ok(())
    }
    fn send_burst(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        report: &mut SendReport,
    ) -> Result<(), PortError> {
        report.refused += packets.len();
        Ok(())
    }
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A port that writes what is sent to a capture and receives nothing.
#[derive(Debug)]
pub struct PcapOut<W: Write> {
    writer: Writer<W>,
    info: PortInfo,
    clock: fn() -> Mono,
}

impl<W: Write> PcapOut<W> {
    /// A sink that says `info` of itself and stamps packets with `clock`.
    ///
    /// # Errors
    /// What writing the header said.
    pub fn new(to: W, info: PortInfo, clock: fn() -> Mono) -> io::Result<PcapOut<W>> {
        Ok(PcapOut { writer: Writer::new(to, info.link)?, info, clock })
    }
}

impl<W: Write + Send> Port for PcapOut<W> {
    fn info(&self) -> &PortInfo {
        &self.info
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn recv_burst<'m>(&mut self, _: &mut SlotIter<'m>, _: &mut Burst<'m>) -> Result<(), PortError> {
        Ok(())
    }
    fn send_burst(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        report: &mut SendReport,
    ) -> Result<(), PortError> {
        let at = Span((self.clock)().0);
        for packet in packets {
            self.writer.write(at, packet.bytes()).map_err(PortError::Gone)?;
            report.sent += 1;
        }
        self.writer.flush().map_err(PortError::Gone)
    }
    fn reopen(&mut self) -> io::Result<()> {
        Err(io::Error::other("a capture file cannot be continued after an error"))
    }
}

/// A packet without offload, for callers that read captures into their own buffers.
pub fn packet_of<'m>(mem: &'m mut [u8], bytes: &[u8]) -> PacketBuf<'m> {
    let mut packet = PacketBuf::empty(mem, HEADROOM);
    packet.fill(bytes);
    packet.offload = Offload::NONE;
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Mac;
    use crate::host::OffloadCaps;
    use crate::io::{Slots, mem};

    fn capture(records: &[(u64, &[u8])], link: Link) -> Vec<u8> {
        let mut file = Vec::new();
        let mut w = Writer::new(&mut file, link).unwrap();
        for (ns, bytes) in records {
            w.write(Span(*ns), bytes).unwrap();
        }
        file
    }
    fn all(file: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, PcapError> {
        let mut r = Reader::new(file)?;
        let (mut found, mut bytes) = (Vec::new(), Vec::new());
        while let Some(record) = r.read(&mut bytes)? {
            found.push((record.at.0, bytes.clone()));
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_reads_back_in_both_byte_orders_and_resolutions() {
        let file = capture(&[(5_000_000_123, &[1, 2, 3]), (6_000_000_000, &[])], Link::Ip);
        let want = vec![(5_000_000_123, vec![1, 2, 3]), (6_000_000_000, vec![])];
        assert_eq!(all(&file).unwrap(), want);
        assert_eq!(Reader::new(&file[..]).unwrap().link(), Link::Ip);
        // the same file as a big-endian machine would have written it, in microseconds
        let mut big = file.clone();
        for at in [0, 16, 20, 24, 28, 32, 36, 43, 47, 51, 55] {
            big[at..at + 4].reverse();
        }
        big[..4].copy_from_slice(&MAGIC_MICROS.to_be_bytes());
        assert_eq!(all(&big).unwrap()[0], (5_000_123_000, vec![1, 2, 3]));
    }

    #[test]
    fn broken_files_have_their_error_and_nothing_panics() {
        assert!(matches!(all(&[]), Err(PcapError::NotPcap)));
        assert!(matches!(all(&[0x0a; 40]), Err(PcapError::NotPcap)));
        let good = capture(&[(1, &[9; 60]), (2, &[8; 60])], Link::Ethernet);
        for cut in 24..good.len() {
            match all(&good[..cut]) {
                Ok(found) => assert!(cut == 24 || (cut == 100 && found.len() == 1)),
                Err(PcapError::Truncated(n)) => assert_eq!(n, if cut < 100 { 1 } else { 2 }),
                Err(e) => panic!("{cut}: {e}"),
            }
        }
        let mut long = good.clone();
        long[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(all(&long), Err(PcapError::TooLong(1, u32::MAX))));
        let mut link = good.clone();
        link[20] = 105;
        assert!(matches!(all(&link), Err(PcapError::LinkType(105))));
        let mut seed = 7u64;
        for _ in 0..2000 {
            let mut bad = good.clone();
            for _ in 0..4 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) as usize % bad.len();
                bad[at] = (seed >> 24) as u8;
            }
            let _ = all(&bad);
        }
    }

    #[test]
    fn cooked_captures_are_read_as_the_packets_inside() {
        let mut file = capture(&[(1, &[7; 60]), (2, &[8; 10])], Link::Ethernet);
        for (kind, before) in [(113u32, 16), (276, 20), (108, 4), (228, 0)] {
            file[20..24].copy_from_slice(&kind.to_le_bytes());
            assert_eq!(Reader::new(&file[..]).unwrap().link(), Link::Ip);
            let lengths: Vec<usize> = all(&file).unwrap().iter().map(|(_, bytes)| bytes.len()).collect();
            assert_eq!(lengths, [60 - before, 10usize.saturating_sub(before)], "{kind}");
        }
    }

    #[test]
    fn replay_keeps_the_distances_between_packets() {
        let file = capture(&[(70_000_000_000, &[1; 60]), (70_005_000_000, &[2; 60])], Link::Ethernet);
        let info = mem::info("replay", Mac::default(), OffloadCaps::default());
        let mut port = PcapIn::new(Reader::new(&file[..]).unwrap(), info, Pace::AsCaptured);
        let mut slots = Slots::new(4, 2048);
        let mut take = |port: &mut PcapIn<_>| {
            let mut burst = Burst::new();
            port.recv_burst(&mut slots.iter(), &mut burst).unwrap();
            burst.iter().map(|p| p.bytes()[0]).collect::<Vec<_>>()
        };
        assert!(take(&mut port).is_empty());
        let start = Mono::from_millis(1000);
        assert_eq!(port.ready_at(start), Some(start));
        assert_eq!(take(&mut port), [1]);
        assert_eq!(port.ready_at(start), Some(Mono::from_millis(1005)));
        assert!(take(&mut port).is_empty());
        port.ready_at(Mono::from_millis(1005));
        assert_eq!(take(&mut port), [2]);
        assert!(port.is_done() && port.error().is_none());
        assert_eq!(port.ready_at(Mono::from_millis(2000)), None);
    }
}
