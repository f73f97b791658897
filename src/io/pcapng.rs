//! Capture files in the pcapng format (draft-ietf-opsawg-pcapng): what is needed to read packets, and to
//! write them with the port they came in on and a comment.

use std::io::{self, Read, Write};

use super::pcap::{self, PcapError, Record};
use crate::time::Span;
use crate::wire::Link;

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const SIMPLE: u32 = 3;
/// Options: end, comment, name of an interface, resolution of its times.
const END: u16 = 0;
const COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
/// Nanoseconds.
const NANOS: u8 = 9;
/// Longest block that is read.
const MAX_BLOCK: u32 = 1 << 20;
const MAX_PACKET: u32 = 262_144;

/// Writes a capture, little-endian, nanoseconds.
#[derive(Debug)]
pub struct Writer<W: Write> {
    to: W,
    ports: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Writes the section header and the interfaces known so far, the director's ports.
    ///
    /// # Errors
    /// What writing said.
    pub fn new(to: W, ports: &[(String, Link)]) -> io::Result<Writer<W>> {
        let mut w = Writer { to, ports: Vec::new() };
        let mut body = BYTE_ORDER.to_le_bytes().to_vec();
        body.extend_from_slice(&[1, 0, 0, 0]);
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        w.block(SECTION, &body)?;
        for (name, link) in ports {
            w.port(name, *link)?;
        }
        Ok(w)
    }

    /// The place of a port in the capture, which learns of it now if it did not know it.
    ///
    /// # Errors
    /// What writing said.
    pub fn port(&mut self, name: &str, link: Link) -> io::Result<u32> {
        if let Some(at) = self.ports.iter().position(|known| known == name) {
            return Ok(at as u32);
        }
        let kind = match link {
            Link::Ethernet => pcap::LINKTYPE_ETHERNET,
            Link::Ip => pcap::LINKTYPE_RAW,
        };
        let mut body = (kind as u16).to_le_bytes().to_vec();
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&MAX_PACKET.to_le_bytes());
        option(&mut body, IF_NAME, name.as_bytes());
        option(&mut body, IF_TSRESOL, &[NANOS]);
        option(&mut body, END, &[]);
        self.block(INTERFACE, &body)?;
        self.ports.push(name.to_owned());
        Ok(self.ports.len() as u32 - 1)
    }

    /// Writes a packet that came in on a port (its place in the list), with a comment.
    ///
    /// # Errors
    /// What writing said.
    pub fn write(&mut self, port: u32, at: Span, frame: &[u8], comment: &str) -> io::Result<()> {
        let frame = &frame[..frame.len().min(MAX_PACKET as usize)];
        let len = frame.len() as u32;
        let mut body = Vec::with_capacity(frame.len() + comment.len() + 48);
        for word in [port, (at.0 >> 32) as u32, at.0 as u32, len, len] {
            body.extend_from_slice(&word.to_le_bytes());
        }
        padded(&mut body, frame);
        // an option has at most 65,535 bytes; cut between characters
        let end = (0..=comment.len().min(65_000)).rev().find(|i| comment.is_char_boundary(*i));
        option(&mut body, COMMENT, &comment.as_bytes()[..end.unwrap_or(0)]);
        option(&mut body, END, &[]);
        self.block(PACKET, &body)
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// What writing said.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let total = (body.len() as u32 + 12).to_le_bytes();
        self.to.write_all(&kind.to_le_bytes())?;
        self.to.write_all(&total)?;
        self.to.write_all(body)?;
        self.to.write_all(&total)
    }
}

fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend_from_slice(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    padded(body, value);
}

/// Reads the packets of a capture, a block at a time; other blocks are passed over.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    big: bool,
    /// Links of the section's interfaces with the bytes before each packet, or the type that cannot be read.
    links: Vec<Result<(Link, usize), u32>>,
    count: u64,
}

impl<R: Read> Reader<R> {
    /// A reader behind the first four bytes of the file, which said that it is pcapng.
    fn behind_magic(from: R) -> Result<Reader<R>, PcapError> {
        let mut reader = Reader { from, big: false, links: Vec::new(), count: 0 };
        reader.section()?;
        Ok(reader)
    }

    /// Reads the next packet into `bytes`, with what it begins with; `None` at the end of the file.
    ///
    /// # Errors
    /// The file is broken, or the packet is of a link that cannot be read.
    pub fn read(&mut self, bytes: &mut Vec<u8>) -> Result<Option<(Record, Link)>, PcapError> {
        loop {
            let mut kind = [0; 4];
            match self.from.read(&mut kind)? {
                0 => return Ok(None),
                n => self.fill(&mut kind[n..])?,
            }
            let kind = self.word(&kind, 0);
            if kind == SECTION {
                self.section()?;
                continue;
            }
            let body = self.body()?;
            match kind {
                INTERFACE if body.len() >= 8 => {
                    let kind = u32::from(self.half(&body, 0));
                    self.links.push(pcap::link_of(kind).ok_or(kind));
                }
                PACKET if body.len() >= 20 => {
                    let (high, low) = (self.word(&body, 4), self.word(&body, 8));
                    let at = Span(u64::from(high) << 32 | u64::from(low));
                    let (len, wire_len) = (self.word(&body, 12), self.word(&body, 16));
                    let port = self.word(&body, 0) as usize;
                    return self.packet(port, &body[20..], len, Record { at, wire_len }, bytes).map(Some);
                }
                SIMPLE if body.len() >= 4 => {
                    let wire_len = self.word(&body, 0);
                    let len = wire_len.min(body.len() as u32 - 4);
                    return self
                        .packet(0, &body[4..], len, Record { at: Span::ZERO, wire_len }, bytes)
                        .map(Some);
                }
                _ => {}
            }
        }
    }

    fn packet(
        &mut self,
        port: usize,
        data: &[u8],
        len: u32,
        record: Record,
        bytes: &mut Vec<u8>,
    ) -> Result<(Record, Link), PcapError> {
        self.count += 1;
        let data = data.get(..len as usize).ok_or(PcapError::Truncated(self.count))?;
        let link = self.links.get(port).ok_or(PcapError::NoInterface(self.count, port as u32))?;
        let (link, before) = link.map_err(PcapError::LinkType)?;
        bytes.clear();
        bytes.extend_from_slice(data.get(before..).unwrap_or_default());
        Ok((Record { wire_len: record.wire_len.saturating_sub(before as u32), ..record }, link))
    }

    /// The rest of a section header: it says the byte order of all that follows.
    fn section(&mut self) -> Result<(), PcapError> {
        let mut head = [0; 8];
        self.fill(&mut head)?;
        self.big = match u32::from_le_bytes([head[4], head[5], head[6], head[7]]) {
            BYTE_ORDER => false,
            other if other.swap_bytes() == BYTE_ORDER => true,
            _ => return Err(PcapError::NotPcap),
        };
        let total = self.word(&head, 0);
        let rest = total.checked_sub(12).filter(|n| *n <= MAX_BLOCK).ok_or(PcapError::NotPcap)?;
        let mut rest = vec![0; rest as usize];
        self.fill(&mut rest)?;
        self.links.clear();
        Ok(())
    }

    /// The body of a block behind its type.
    fn body(&mut self) -> Result<Vec<u8>, PcapError> {
        let mut total = [0; 4];
        self.fill(&mut total)?;
        let total = self.word(&total, 0);
        let len = total.checked_sub(12).filter(|n| *n <= MAX_BLOCK);
        let len = len.ok_or(PcapError::TooLong(self.count + 1, total))?;
        let mut body = vec![0; len as usize];
        self.fill(&mut body)?;
        self.fill(&mut [0; 4])?;
        Ok(body)
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), PcapError> {
        self.from.read_exact(into).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => PcapError::Truncated(self.count + 1),
            _ => PcapError::Io(e),
        })
    }
    fn word(&self, b: &[u8], at: usize) -> u32 {
        let w = u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        if self.big { w.swap_bytes() } else { w }
    }
    fn half(&self, b: &[u8], at: usize) -> u16 {
        let w = u16::from_le_bytes([b[at], b[at + 1]]);
        if self.big { w.swap_bytes() } else { w }
    }
}

/// The packet with this number, counted from 1, of a capture in either format; `None` when it has fewer.
///
/// # Errors
/// The file is no capture, broken before that packet, or of a link that cannot be read.
pub fn nth(mut from: impl Read, number: u64) -> Result<Option<(Link, Vec<u8>)>, PcapError> {
    let mut magic = [0; 4];
    from.read_exact(&mut magic).map_err(|_| PcapError::NotPcap)?;
    let mut bytes = Vec::new();
    if u32::from_le_bytes(magic) == SECTION {
        let mut reader = Reader::behind_magic(from)?;
        let mut last = None;
        for _ in 0..number {
            match reader.read(&mut bytes)? {
                Some((_, link)) => last = Some(link),
                None => return Ok(None),
            }
        }
        return Ok(last.map(|link| (link, bytes)));
    }
    let mut reader = pcap::Reader::new(io::Cursor::new(magic).chain(from))?;
    let mut last = None;
    for _ in 0..number {
        last = reader.read(&mut bytes)?;
        if last.is_none() {
            return Ok(None);
        }
    }
    Ok(last.map(|_| (reader.link(), bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        let ports = [("wan".to_owned(), Link::Ethernet), ("tun".to_owned(), Link::Ip)];
        let mut w = Writer::new(&mut file, &ports).unwrap();
        w.write(0, Span(5_000_000_001), &[1; 61], "dropped: no_service").unwrap();
        w.write(1, Span(6), &[2; 40], "").unwrap();
        w.flush().unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = file();
        assert_eq!(nth(&file[..], 1).unwrap(), Some((Link::Ethernet, vec![1; 61])));
        assert_eq!(nth(&file[..], 2).unwrap(), Some((Link::Ip, vec![2; 40])));
        assert_eq!(nth(&file[..], 3).unwrap(), None);
        assert_eq!(nth(&file[..], 0).unwrap(), None);
        assert!(file.windows(19).any(|w| w == b"dropped: no_service"));
        let mut old = Vec::new();
        pcap::Writer::new(&mut old, Link::Ip).unwrap().write(Span(1), &[3; 20]).unwrap();
        assert_eq!(nth(&old[..], 1).unwrap(), Some((Link::Ip, vec![3; 20])));
    }

    #[test]
    fn what_a_cooked_capture_puts_before_a_packet_counts_nowhere() {
        let mut file = file();
        // the link type of the first interface, behind a section of 28 bytes
        file[36] = 113;
        let mut reader = Reader::behind_magic(&file[4..]).unwrap();
        let mut bytes = Vec::new();
        let (record, link) = reader.read(&mut bytes).unwrap().unwrap();
        assert_eq!((record.wire_len, link, bytes), (45, Link::Ip, vec![1; 45]));
    }

    #[test]
    fn broken_files_are_refused_wherever_they_break() {
        let file = file();
        for end in 0..file.len() {
            let cut = &file[..end];
            if let Ok(Some(packet)) = nth(cut, 2) {
                panic!("{end} of {} bytes are enough for {packet:?}", file.len());
            }
        }
        assert!(matches!(nth(&[7; 100][..], 1), Err(PcapError::NotPcap)));
        let mut long = file;
        // the first interface, behind a section of 28 bytes, says that it has four gigabytes
        long[32..36].fill(0xff);
        assert!(nth(&long[..], 2).is_err());
    }
}
