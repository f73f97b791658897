//! The `tcp` shorthand: `SRC:SPORT>DST:DPORT FLAGS seq=N ack=N [id=N]` to an Ethernet frame.

use std::net::{IpAddr, SocketAddr};

use crate::addr::Mac;
use crate::wire::sum;

/// Letters of the TCP flags from bit 0 on.
const FLAGS: &str = "FSRPAUEC";

/// Builds the frame: TTL 64, DF, window 64240, no options, no payload, right checksums.
pub(super) fn tcp(shorthand: &str, to: Mac, from: Mac) -> Result<Vec<u8>, String> {
    let bad = |what: &str| format!("`{shorthand}`: {what}");
    let mut words = shorthand.split_whitespace();
    let (src, dst) = words.next().and_then(|w| w.split_once('>')).ok_or_else(|| bad("no addresses"))?;
    let (src, dst) =
        (endpoint(src).ok_or_else(|| bad("source"))?, endpoint(dst).ok_or_else(|| bad("destination"))?);
    let mut flags = 0u8;
    for letter in words.next().ok_or_else(|| bad("no flags"))?.chars().filter(|c| *c != '-') {
        let bit = FLAGS.find(letter).ok_or_else(|| bad("unknown flag"))?;
        flags |= 1 << bit;
    }
    let (mut seq, mut ack, mut id) = (0u32, 0u32, 0u32);
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| bad("a word without `=`"))?;
        let value: u32 = value.parse().map_err(|_| bad("not a number"))?;
        match key {
            "seq" => seq = value,
            "ack" => ack = value,
            "id" => id = value,
            _ => return Err(bad("unknown key")),
        }
    }
    let mut segment = Vec::with_capacity(20);
    segment.extend(src.port().to_be_bytes());
    segment.extend(dst.port().to_be_bytes());
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    segment.extend([5 << 4, flags]);
    segment.extend(64_240u16.to_be_bytes());
    segment.extend([0; 4]);
    let mut frame = [to.0, from.0].concat();
    let mut pseudo = Vec::with_capacity(40);
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            frame.extend([0x08, 0x00]);
            let mut ip = vec![0x45, 0, 0, 40];
            ip.extend((id as u16).to_be_bytes());
            ip.extend([0x40, 0, 64, 6, 0, 0]);
            ip.extend(s.octets());
            ip.extend(d.octets());
            let check = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&check);
            pseudo.extend(s.octets());
            pseudo.extend(d.octets());
            frame.extend(ip);
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend(s.octets());
            frame.extend(d.octets());
            pseudo.extend(s.octets());
            pseudo.extend(d.octets());
        }
        _ => return Err(bad("two families")),
    }
    pseudo.extend([0, 6, 0, 20]);
    let check = checksum(&[&pseudo, &segment]);
    segment[16..18].copy_from_slice(&check);
    frame.extend(segment);
    Ok(frame)
}

/// `10.1.0.100:80`, `[2001:db8::1]:80`; in recorded picks also `2001:db8::1:80` without brackets.
pub(super) fn endpoint(text: &str) -> Option<SocketAddr> {
    if let Ok(a) = text.parse() {
        return Some(a);
    }
    let (ip, port) = text.rsplit_once(':')?;
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let joined = parts.concat();
    sum::checksum(&joined).to_be_bytes()
}

/// The same frame one hop on, as direct routing makes it: other MAC addresses, TTL one less.
pub(super) fn routed(frame: &[u8], to: Mac, from: Mac) -> Vec<u8> {
    let mut f = frame.to_vec();
    f[..6].copy_from_slice(&to.0);
    f[6..12].copy_from_slice(&from.0);
    match f.get(12..14) {
        Some([0x08, 0x00]) if f.len() >= 34 => {
            f[22] = f[22].wrapping_sub(1);
            f[24..26].fill(0);
            let len = 14 + usize::from(f[14] & 15) * 4;
            let check = checksum(&[&f[14..len.min(frame.len())]]);
            f[24..26].copy_from_slice(&check);
        }
        Some([0x86, 0xdd]) if f.len() >= 54 => f[21] = f[21].wrapping_sub(1),
        _ => {}
    }
    f
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::scenario::unhex;

    const TO: Mac = Mac([2, 0, 0, 0, 1, 1]);
    const FROM: Mac = Mac([2, 0, 0, 0, 1, 0xfe]);

    #[test]
    fn shorthand_is_the_recorded_frame() {
        // an ACK of 1-fwd-nat-tcp4-fin
        let want = "0200000001010200000001fe080045000028200240004006e630c63364050a0100649c400050000003e90007a1215010faf03ea40000";
        let got = tcp("198.51.100.5:40000>10.1.0.100:80 A seq=1001 ack=500001 id=8194", TO, FROM);
        assert_eq!(got, unhex(want));
        assert!(tcp("198.51.100.5:40000>10.1.0.100:80 Q seq=1", TO, FROM).is_err());
        let v6 = tcp("[2001:db8:c::5]:1>[2001:db8:1::100]:80 - seq=1 ack=0", TO, FROM).unwrap();
        assert_eq!((v6.len(), v6[14], v6[67]), (74, 0x60, 0));
    }

    #[test]
    fn one_hop_on_keeps_the_checksum_right() {
        let f = tcp("198.51.100.5:40000>10.1.0.100:80 S seq=1 ack=0 id=1", TO, FROM).unwrap();
        let r = routed(&f, FROM, TO);
        assert_eq!(r[22], 63);
        assert_eq!(checksum(&[&r[14..34]]), [0, 0]);
    }
}
