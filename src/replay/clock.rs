//! Bytes of recorded frames that carry the clock of the recording: ICMP time stamp replies, and the time
//! stamps that IPv4 options ask for, with the checksums over both.

use crate::tunnel::quoted_inner;
use crate::wire::meta::parse_quoted;
use crate::wire::{Family, ipv4, number, udp};

/// Marks them.
pub(super) fn mark(frame: &[u8], free: &mut [bool]) {
    let family = match frame.get(12..14) {
        Some([0x08, 0x00]) => Family::V4,
        Some([0x86, 0xdd]) => Family::V6,
        _ => return,
    };
    let Ok(meta) = parse_quoted(frame, 14, family) else { return };
    let mut set = |from: usize, len: usize| {
        if let Some(bytes) = free.get_mut(from..from + len) {
            bytes.fill(true);
        }
    };
    let l4 = usize::from(meta.l4);
    let mut stamps = |l3: usize| {
        let found = time_stamps(frame, l3);
        if found.is_empty() {
            return false;
        }
        set(l3 + ipv4::field::CHECKSUM, 2);
        found.iter().for_each(|at| set(*at, 4));
        true
    };
    if family == Family::V4 {
        stamps(14);
    }
    let gue = (meta.proto == number::UDP).then_some(meta.dport);
    if !meta.is_fragment()
        && let Ok(inner) = quoted_inner(frame, &meta, gue)
    {
        if inner.family == Family::V4 && stamps(usize::from(inner.l3)) {
            match meta.proto {
                number::GRE if frame[l4] & 0x80 != 0 => set(l4 + 4, 2),
                number::UDP => set(l4 + udp::field::CHECKSUM, 2),
                _ => {}
            }
        }
        return;
    }
    if (family, meta.proto) == (Family::V4, number::ICMP) {
        match frame.get(l4) {
            Some(14) => {
                set(l4 + 2, 2);
                set(l4 + 12, 8);
            }
            Some(3 | 4 | 5 | 11 | 12) if stamps(l4 + 8) => set(l4 + 2, 2),
            _ => {}
        }
    }
}

/// Where the options of the IPv4 header at `l3` hold times.
fn time_stamps(frame: &[u8], l3: usize) -> Vec<usize> {
    let Some(header) = frame.get(l3).filter(|b| **b >> 4 == 4).map(|b| usize::from(b & 15) * 4) else {
        return Vec::new();
    };
    let mut at = l3 + ipv4::LEN;
    let mut found = Vec::new();
    while at + 3 < (l3 + header).min(frame.len()) {
        let len = usize::from(frame[at + 1]);
        match frame[at] {
            0 => break,
            1 => {
                at += 1;
                continue;
            }
            68 => {
                let (first, step) = if frame[at + 3] & 15 == 0 { (4, 4) } else { (8, 8) };
                found.extend((first..len).step_by(step).map(|n| at + n));
            }
            _ => {}
        }
        if len < 2 {
            break;
        }
        at += len;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_options_are_found_behind_their_addresses() {
        let mut packet = vec![0u8; 44];
        packet[0] = 0x4b;
        packet[20..]
            .copy_from_slice(&[1, 68, 12, 9, 0, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(time_stamps(&packet, 0), [25, 29]);
        packet[24] = 1;
        assert_eq!(time_stamps(&packet, 0), [29]);
    }
}
