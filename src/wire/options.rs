//! Options of the IPv4 header (RFC 791 section 3.1, RFC 781), as the kernel takes part in them
//! (`ip_options_compile`, `ip_forward_options`, `ip_options_echo`).
//!
//! A router records its address and the time where a packet asks for it. It does so at once when the packet
//! comes in, with the address it was sent to, and changes its mind when the packet leaves for elsewhere.

use arrayvec::ArrayVec;

use super::{be32, ipv4, put16, put32, sum};

/// Most bytes of options a header can have.
pub const MOST: usize = 40;

const END: u8 = 0;
const NOP: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIME_STAMP: u8 = 68;
const LOOSE_ROUTE: u8 = 131;
const CIPSO: u8 = 134;
const STRICT_ROUTE: u8 = 137;
const ROUTER_ALERT: u8 = 148;

/// Kinds of time stamp: times only, addresses and times, times of the addresses named.
const TIMES: u8 = 0;
const ADDRESSED: u8 = 1;
const NAMED: u8 = 3;

/// Where the options are that a router takes part in, as offsets from the IP header; 0: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Record route.
    pub record: u8,
    /// Time stamp.
    pub stamp: u8,
    /// A security label (CIPSO).
    pub label: u8,
    /// There is a source route.
    pub source_route: bool,
    /// An address was recorded here.
    pub recorded: bool,
    /// An address was put before a time here.
    pub addressed: bool,
    /// A time was noted here.
    pub timed: bool,
}

/// What there is to write into options.
pub struct Here<'a> {
    /// The director's address.
    pub address: u32,
    /// Milliseconds since midnight UT.
    pub time: u32,
    /// May this be some other host's address (kernel: `RTN_UNICAST`)?
    pub elsewhere: &'a dyn Fn(u32) -> bool,
}

/// Takes part in the options of `header`, a whole IPv4 header; its checksum is left as it was.
///
/// # Errors
/// The offset of the byte that makes no sense, beside what was done until then.
pub fn receive(header: &mut [u8], here: &Here<'_>) -> (Options, Result<(), u8>) {
    let mut seen = Options::default();
    let mut at = ipv4::LEN;
    while at < header.len() {
        match header[at] {
            END => {
                header[at..].fill(END);
                break;
            }
            NOP => {
                at += 1;
                continue;
            }
            _ => {}
        }
        let len = header.get(at + 1).map_or(0, |n| usize::from(*n));
        let rest = header.len() - at;
        let Some(option) = header.get_mut(at..at + len).filter(|_| len >= 2 && len <= rest) else {
            return (seen, Err(at as u8));
        };
        if let Err(wrong) = one(option, at as u8, &mut seen, here) {
            return (seen, Err(at as u8 + wrong));
        }
        at += len;
    }
    (seen, Ok(()))
}

/// Takes part in one option, which begins at `at`.
fn one(option: &mut [u8], at: u8, seen: &mut Options, here: &Here<'_>) -> Result<(), u8> {
    let len = option.len();
    match option[0] {
        LOOSE_ROUTE | STRICT_ROUTE => {
            if seen.source_route {
                return Err(0);
            }
            at_least(option, 3, 4)?;
            seen.source_route = true;
        }
        RECORD_ROUTE => {
            if seen.record != 0 {
                return Err(0);
            }
            at_least(option, 3, 4)?;
            let next = usize::from(option[2]);
            if next <= len {
                if next + 3 > len {
                    return Err(2);
                }
                put32(option, next - 1, here.address);
                option[2] += 4;
                seen.recorded = true;
            }
            seen.record = at;
        }
        TIME_STAMP => {
            if seen.stamp != 0 {
                return Err(0);
            }
            at_least(option, 4, 5)?;
            time_stamp(option, seen, here)?;
            seen.stamp = at;
        }
        ROUTER_ALERT if len < 4 => return Err(1),
        ROUTER_ALERT => {}
        CIPSO => {
            // nothing here knows what a label means, as on a kernel without labels
            seen.label = at;
            return Err(if len < 8 { 1 } else { 2 });
        }
        _ => {}
    }
    Ok(())
}

/// Is the option as long as its kind has to be, and does its pointer point behind its head?
fn at_least(option: &[u8], len: usize, pointer: u8) -> Result<(), u8> {
    match option.get(2) {
        Some(p) if option.len() >= len => {
            if *p < pointer {
                Err(2)
            } else {
                Ok(())
            }
        }
        _ => Err(1),
    }
}

fn time_stamp(option: &mut [u8], seen: &mut Options, here: &Here<'_>) -> Result<(), u8> {
    let (len, next) = (option.len(), usize::from(option[2]));
    let kind = option[3] & 15;
    if next > len {
        // no room: only counted
        if kind != NAMED {
            if option[3] >> 4 == 15 {
                return Err(3);
            }
            option[3] += 1 << 4;
        }
        return Ok(());
    }
    if next + 3 > len || (matches!(kind, ADDRESSED | NAMED) && next + 7 > len) {
        return Err(2);
    }
    match kind {
        TIMES => {
            put32(option, next - 1, here.time);
            option[2] += 4;
        }
        ADDRESSED => {
            put32(option, next - 1, here.address);
            put32(option, next + 3, here.time);
            option[2] += 8;
        }
        NAMED if !(here.elsewhere)(be32(option, next - 1)) => {
            put32(option, next + 3, here.time);
            option[2] += 8;
        }
        _ => return Ok(()),
    }
    (seen.timed, seen.addressed) = (true, kind == ADDRESSED);
    Ok(())
}

/// The packet leaves, from `address` where it does not stay here: that is what is recorded (but not beside
/// its time, `1-options-nat4`), and the header's checksum is made to fit.
pub fn leave(header: &mut [u8], seen: &Options, address: Option<u32>) {
    if let Some(address) = address {
        let at = usize::from(seen.record);
        let next = header.get(at + 2).map_or(0, |n| usize::from(*n));
        if seen.recorded && next > 5 && at + next - 1 <= header.len() {
            put32(header, at + next - 5, address);
        }
    }
    put16(header, ipv4::field::CHECKSUM, 0);
    let check = sum::checksum(header);
    put16(header, ipv4::field::CHECKSUM, check);
}

/// The options of an answer to a packet: what it recorded comes back, and goes on being recorded.
/// Nothing when they cannot be answered.
pub fn echo(header: &[u8], seen: &Options, here: &Here<'_>) -> Option<ArrayVec<u8, MOST>> {
    let mut answer = ArrayVec::new();
    let find = |at: u8| {
        let option = header.get(usize::from(at)..).filter(|_| at != 0)?;
        let len = usize::from(*option.get(1)?);
        option.get(..len).filter(|o| o.len() > 2)
    };
    if let Some(option) = find(seen.record) {
        let mut option: ArrayVec<u8, MOST> = option.try_into().ok()?;
        let next = usize::from(option[2]);
        if seen.recorded && next <= option.len() {
            if next + 3 > option.len() {
                return None;
            }
            put32(&mut option, next - 1, here.address);
            option[2] += 4;
        }
        answer.try_extend_from_slice(&option).ok()?;
    }
    if let Some(option) = find(seen.stamp) {
        let mut option: ArrayVec<u8, MOST> = option.try_into().ok()?;
        let mut next = usize::from(option[2]);
        let kind = option.get(3).map_or(0, |k| k & 15);
        if next <= option.len() {
            if seen.addressed {
                if next + 3 > option.len() {
                    return None;
                }
                put32(&mut option, next - 1, here.address);
                next += 4;
            }
            if seen.timed && kind == NAMED {
                if next + 7 <= option.len() && !(here.elsewhere)(be32(&option, next - 1)) {
                    put32(&mut option, next + 3, here.time);
                    next += 8;
                }
            } else if seen.timed {
                if next + 3 > option.len() {
                    return None;
                }
                put32(&mut option, next - 1, here.time);
                next += 4;
            }
            option[2] = next as u8;
        }
        answer.try_extend_from_slice(&option).ok()?;
    }
    if let Some(option) = find(seen.label) {
        answer.try_extend_from_slice(option).ok()?;
    }
    while answer.len() % 4 != 0 {
        answer.try_push(END).ok()?;
    }
    Some(answer)
}

/// Which options there are in a header that was received earlier.
pub fn recall(header: &[u8]) -> Options {
    let mut seen = Options::default();
    let mut at = ipv4::LEN;
    while let Some(kind) = header.get(at).filter(|k| **k != END) {
        let len = if *kind == NOP { 1 } else { header.get(at + 1).map_or(0, |n| usize::from(*n)) };
        let next = header.get(at + 2).copied().unwrap_or(0);
        match *kind {
            RECORD_ROUTE => (seen.record, seen.recorded) = (at as u8, next > 4),
            TIME_STAMP => {
                let kind = header.get(at + 3).map_or(0, |k| k & 15);
                seen.stamp = at as u8;
                seen.timed = next > 5;
                seen.addressed = next > 5 && kind == ADDRESSED;
            }
            _ => {}
        }
        if len == 0 {
            break;
        }
        at += len;
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 0x0a01_0064;
    const TIME: u32 = 0x0102_0304;

    fn header(options: &[u8]) -> Vec<u8> {
        let mut h = vec![0; ipv4::LEN];
        h.extend(options);
        h[0] = 0x40 | (h.len() / 4) as u8;
        let check = sum::checksum(&h);
        put16(&mut h, ipv4::field::CHECKSUM, check);
        h
    }

    fn received(options: &[u8]) -> (Vec<u8>, Options, Result<(), u8>) {
        let mut h = header(options);
        let here = Here { address: OWN, time: TIME, elsewhere: &|a| a != OWN };
        let (seen, result) = receive(&mut h, &here);
        (h, seen, result)
    }

    #[test]
    fn a_route_is_recorded_where_there_is_room_and_again_when_the_packet_leaves() {
        let (mut h, seen, result) = received(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(result, Ok(()));
        assert_eq!(h[20..], [7, 11, 8, 10, 1, 0, 100, 0, 0, 0, 0, 0]);
        leave(&mut h, &seen, Some(0x0a02_0001));
        assert_eq!(h[20..], [7, 11, 8, 10, 2, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(sum::checksum(&h), 0);
        let there = Here { address: 0x0909_0909, time: TIME, elsewhere: &|_| true };
        let answer = echo(&h, &seen, &there).unwrap();
        assert_eq!(answer[..], [7, 11, 12, 10, 2, 0, 1, 9, 9, 9, 9, 0]);
        let (full, seen, result) = received(&[7, 7, 8, 1, 2, 3, 4, 0]);
        assert_eq!((&full[20..], result), (&[7, 7, 8, 1, 2, 3, 4, 0][..], Ok(())));
        assert!(!seen.recorded);
    }

    #[test]
    fn times_are_noted_by_kind_and_missed_ones_counted() {
        let (h, seen, _) = received(&[68, 8, 5, 0, 0, 0, 0, 0]);
        assert_eq!((&h[20..], seen.addressed), (&[68, 8, 9, 0, 1, 2, 3, 4][..], false));
        let (h, seen, _) = received(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((&h[20..], seen.addressed), (&[68, 12, 13, 1, 10, 1, 0, 100, 1, 2, 3, 4][..], true));
        let (h, _, _) = received(&[68, 12, 5, 3, 10, 1, 0, 100, 0, 0, 0, 0]);
        assert_eq!(h[20..], [68, 12, 13, 3, 10, 1, 0, 100, 1, 2, 3, 4]);
        let (h, seen, _) = received(&[68, 12, 5, 3, 9, 9, 9, 9, 0, 0, 0, 0]);
        assert_eq!((h[22], seen.timed), (5, false), "it asks for somebody else's time");
        let (h, _, result) = received(&[68, 4, 5, 0xe0]);
        assert_eq!((h[23], result), (0xf0, Ok(())));
        assert_eq!(received(&[68, 4, 5, 0xf0]).2, Err(23));
    }

    #[test]
    fn what_makes_no_sense_is_pointed_at() {
        for (options, at) in [
            (&[68, 2, 0, 0][..], 21),
            (&[1, 7, 40, 0], 21),
            (&[7, 3, 3, 0], 22),
            (&[7, 8, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0], 99),
            (&[7, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0], 22),
            (&[7, 3, 4, 7, 3, 4, 0, 0], 23),
            (&[134, 4, 0, 0], 21),
            (&[134, 8, 0, 0, 0, 0, 0, 0], 22),
            (&[148, 3, 0, 0], 21),
            (&[131, 3, 2, 0], 22),
            (&[131, 3, 4, 131, 3, 4, 0, 0], 23),
            (&[1, 1, 1, 7], 23),
            (&[200, 4, 0, 0], 99),
            (&[200, 5, 0, 0], 20),
        ] {
            let (_, _, result) = received(options);
            assert_eq!(result, if at == 99 { Ok(()) } else { Err(at) }, "{options:?}");
        }
        assert!(received(&[131, 7, 4, 1, 2, 3, 4, 0]).1.source_route);
    }

    #[test]
    fn nothing_panics_and_headers_keep_their_length() {
        let mut seed = 1u64;
        for _ in 0..200_000 {
            let mut options = Vec::new();
            let len = 4 * (1 + seed as usize % 10);
            while options.len() < len {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let kinds = [0, 1, 7, 68, 131, 134, 137, 148, 3, 4, 5, 8, 12];
                let small = (seed >> 40) as u8 % 14;
                options.push(if seed >> 60 < 8 { kinds[(seed >> 33) as usize % 13] } else { small });
            }
            let (mut h, seen, _) = received(&options);
            assert_eq!(h.len(), 20 + len);
            let here = Here { address: OWN, time: TIME, elsewhere: &|a| a % 2 == 0 };
            if let Some(answer) = echo(&h, &seen, &here) {
                assert_eq!(answer.len() % 4, 0);
            }
            leave(&mut h, &seen, Some(OWN));
            let again = recall(&h);
            leave(&mut h, &again, Some(OWN));
            assert_eq!(sum::checksum(&h), 0);
        }
    }
}
