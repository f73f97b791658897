//! One line about a frame for people who look for a difference. Never fails, never trusts a length.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What a frame is, from the outside in.
pub(super) fn frame(f: &[u8]) -> String {
    let mut out = String::new();
    // writing to a String cannot fail
    let _ = match f.get(12..14) {
        Some([0x08, 0x00] | [0x86, 0xdd]) => {
            let _ = write!(out, "to {} ", crate::addr::Mac([f[0], f[1], f[2], f[3], f[4], f[5]]));
            ip(&mut out, &f[14..], 0)
        }
        Some([0x08, 0x06]) => write!(out, "ARP {}", hex(&f[14..])),
        Some(t) => write!(out, "ethertype {}", hex(t)),
        None => write!(out, "{} bytes", f.len()),
    };
    out
}

/// Plain hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

fn word(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |w| u16::from_be_bytes([w[0], w[1]]))
}

fn ip(out: &mut String, b: &[u8], depth: u8) -> std::fmt::Result {
    match b.first().map(|v| v >> 4) {
        Some(4) if b.len() >= 20 => {
            let a = |at: usize| Ipv4Addr::new(b[at], b[at + 1], b[at + 2], b[at + 3]);
            let frag = word(b, 6);
            write!(
                out,
                "{}>{} len={} ttl={} tos={:#x} id={:#x}",
                a(12),
                a(16),
                word(b, 2),
                b[8],
                b[1],
                word(b, 4)
            )?;
            for (bit, name) in [(0x4000, " DF"), (0x2000, " MF")] {
                out.push_str(if frag & bit != 0 { name } else { "" });
            }
            if frag & 0x1fff != 0 {
                write!(out, " off={}", (frag & 0x1fff) * 8)?;
                return Ok(());
            }
            transport(out, b[9], b.get(usize::from(b[0] & 15) * 4..).unwrap_or(&[]), depth)
        }
        Some(6) if b.len() >= 40 => {
            let a = |at: usize| {
                let mut o = [0; 16];
                o.copy_from_slice(&b[at..at + 16]);
                Ipv6Addr::from(o)
            };
            write!(out, "{}>{} len={} hl={} {}", a(8), a(24), word(b, 4), b[7], hex(&b[..4]))?;
            if b[6] == 44 && b.len() >= 48 {
                let off = word(b, 42);
                write!(out, " frag off={}{}", off & 0xfff8, if off & 1 != 0 { " M" } else { "" })?;
                return if off & 0xfff8 == 0 { transport(out, b[40], &b[48..], depth) } else { Ok(()) };
            }
            transport(out, b[6], &b[40..], depth)
        }
        _ => write!(out, "IP? {}", hex(b.get(..20).unwrap_or(b))),
    }
}

fn transport(out: &mut String, proto: u8, b: &[u8], depth: u8) -> std::fmt::Result {
    let inner = |out: &mut String, at: usize| {
        out.push_str(" [ ");
        let r = if depth < 2 { ip(out, b.get(at..).unwrap_or(&[]), depth + 1) } else { Ok(()) };
        out.push_str(" ]");
        r
    };
    match proto {
        6 if b.len() >= 14 => {
            let flags: String =
                (0..8).filter(|i| b[13] >> i & 1 == 1).filter_map(|i| "FSRPAUEC".chars().nth(i)).collect();
            let n = |at: usize| u32::from(word(b, at)) << 16 | u32::from(word(b, at + 2));
            write!(out, " | TCP {}>{} [{flags}] seq={} ack={}", word(b, 0), word(b, 2), n(4), n(8))
        }
        17 | 132 if b.len() >= 8 => {
            let name = if proto == 17 { "UDP" } else { "SCTP" };
            write!(out, " | {name} {}>{} {}", word(b, 0), word(b, 2), hex(&b[4..8]))
        }
        1 if b.len() >= 8 => {
            write!(out, " | ICMP type={} code={} rest={}", b[0], b[1], hex(&b[4..8]))?;
            if matches!(b[0], 3 | 4 | 5 | 11 | 12) { inner(out, 8) } else { Ok(()) }
        }
        58 if b.len() >= 8 => {
            write!(out, " | ICMPv6 type={} code={} rest={}", b[0], b[1], hex(&b[4..8]))?;
            if b[0] < 128 { inner(out, 8) } else { Ok(()) }
        }
        4 | 41 => inner(out, 0),
        47 if b.len() >= 4 => {
            write!(out, " | GRE {}", hex(&b[..4]))?;
            inner(out, if b[0] & 0x80 != 0 { 8 } else { 4 })
        }
        _ => write!(out, " | protocol {proto}, {} bytes", b.len()),
    }
}
