//! Emitted frames against recorded ones.

use std::net::IpAddr;

use super::scenario::{Expected, unhex};
use super::{clock, decode};
use crate::wire::sum;

/// A frame the engine sent.
#[derive(Clone, Debug)]
pub(super) struct Emitted {
    /// The step during or after which it was sent.
    pub step: usize,
    /// Milliseconds of simulated time.
    pub at_ms: u64,
    /// Name of the port.
    pub port: String,
    /// The frame.
    pub bytes: Vec<u8>,
}

/// What is needed to judge a frame.
pub(super) struct Context<'a> {
    /// Frames that were put in, by step.
    pub inputs: &'a [Option<Vec<u8>>],
    /// Time of each step in milliseconds.
    pub times: &'a [u64],
    /// What to call each step.
    pub notes: &'a [String],
    /// Every address of the director, VIPs included.
    pub own: &'a [IpAddr],
    /// What became of the packet of each step.
    pub verdicts: &'a [String],
}

/// The first difference, or none. Frames of one step are compared in order; late ones (timers) by
/// content and time.
pub(super) fn frames(expected: &[Expected], got: &[Emitted], cx: &Context<'_>) -> Result<(), String> {
    let mut left: Vec<&Emitted> = got.iter().collect();
    let mut wanted = Vec::with_capacity(expected.len());
    for e in expected {
        let bytes = unhex(&e.frame_hex).map_err(|why| format!("expected frame: {why}"))?;
        let free = free_bytes(e, &bytes, cx);
        match e.late_ms {
            None => wanted.push((e, bytes, free)),
            Some(late) => {
                let due = cx.times.get(e.in_step).copied().unwrap_or(0) + late;
                let near = |g: &Emitted| due.abs_diff(g.at_ms) <= 500 + late / 10;
                let at = left.iter().position(|g| {
                    g.port == e.port && near(g) && first_difference(&bytes, &g.bytes, &free).is_none()
                });
                match at {
                    Some(at) => drop(left.remove(at)),
                    None => {
                        let late = left.iter().filter(|g| near(g)).map(|g| decode::frame(&g.bytes));
                        return Err(format!(
                            "{}: nothing like it {late_ms} ms later on {}: {}; sent about then: {:?}",
                            step_name(e.in_step, cx),
                            e.port,
                            e.note,
                            late.collect::<Vec<_>>(),
                            late_ms = e.late_ms.unwrap_or(0),
                        ));
                    }
                }
            }
        }
    }
    let mut left = left.into_iter().peekable();
    for (e, bytes, free) in &wanted {
        let step = step_name(e.in_step, cx);
        let Some(g) = left.next() else {
            return Err(format!(
                "{step}: nothing sent ({}), expected on {}: {}",
                verdict(e.in_step, cx),
                e.port,
                e.note
            ));
        };
        if g.step < e.in_step {
            return Err(format!(
                "{}: sent on {} too much: {}",
                step_name(g.step, cx),
                g.port,
                decode::frame(&g.bytes)
            ));
        }
        if g.step > e.in_step {
            return Err(format!(
                "{step}: not sent ({}), expected on {}: {}",
                verdict(e.in_step, cx),
                e.port,
                e.note
            ));
        }
        if g.port != e.port {
            return Err(format!(
                "{step}: sent on {} instead of {}: {}",
                g.port,
                e.port,
                decode::frame(&g.bytes)
            ));
        }
        if let Some(at) = first_difference(bytes, &g.bytes, free) {
            return Err(format!(
                "{step}: byte {at} of {} on {}: got {}, expected {} | got {} | expected {}",
                bytes.len(),
                e.port,
                window(&g.bytes, at),
                window(bytes, at),
                decode::frame(&g.bytes),
                if e.note.is_empty() { decode::frame(bytes) } else { e.note.clone() },
            ));
        }
        if let Some(what) = wrong_sum(&g.bytes, free) {
            return Err(format!("{step}: wrong {what} on {}: {}", e.port, decode::frame(&g.bytes)));
        }
    }
    match left.next() {
        None => Ok(()),
        Some(g) => Err(format!(
            "{}: sent on {} too much: {}",
            step_name(g.step, cx),
            g.port,
            decode::frame(&g.bytes)
        )),
    }
}

/// `step 3 (client SYN)`
pub(super) fn step_name(step: usize, cx: &Context<'_>) -> String {
    match cx.notes.get(step).map(String::as_str) {
        None | Some("") => format!("step {step}"),
        Some(note) => format!("step {step} ({note})"),
    }
}

pub(super) fn verdict<'a>(step: usize, cx: &Context<'a>) -> &'a str {
    cx.verdicts.get(step).map_or("no packet", String::as_str)
}

/// The first byte that differs and is not free; a length is a difference at the shorter end.
pub(super) fn first_difference(want: &[u8], got: &[u8], free: &[bool]) -> Option<usize> {
    let differ = want.iter().zip(got).enumerate();
    let mut differ = differ.filter(|(i, (w, g))| w != g && !free.get(*i).copied().unwrap_or(false));
    differ.next().map(|(i, _)| i).or_else(|| (want.len() != got.len()).then(|| want.len().min(got.len())))
}

fn window(bytes: &[u8], at: usize) -> String {
    let end = (at + 4).min(bytes.len());
    if at >= end { "the end".into() } else { decode::hex(&bytes[at..end]) }
}

/// Bytes that need not be equal: those recorded as random, and the identification with the header
/// checksum of IPv4 packets that the director itself begins without DF.
fn free_bytes(e: &Expected, bytes: &[u8], cx: &Context<'_>) -> Vec<bool> {
    let mut free = vec![false; bytes.len()];
    for r in &e.random {
        let end = r.offset.saturating_add(r.len).min(bytes.len());
        free[r.offset.min(end)..end].fill(true);
    }
    clock::mark(bytes, &mut free);
    if bytes.len() >= 34 && bytes[12..14] == [0x08, 0x00] && bytes[20] & 0x40 == 0 {
        let source = IpAddr::from([bytes[26], bytes[27], bytes[28], bytes[29]]);
        let input = cx.inputs.get(e.in_step).and_then(Option::as_ref);
        // translated packets have our source address too, but keep the identification they came with
        let passed_on = input.is_some_and(|i| i.get(18..20) == Some(&bytes[18..20]));
        if cx.own.contains(&source) && !passed_on {
            free[18..20].fill(true);
            free[24..26].fill(true);
        }
    }
    free
}

/// A free IPv4 header checksum must still be right.
fn wrong_sum(frame: &[u8], free: &[bool]) -> Option<&'static str> {
    let end = 14 + usize::from(frame.get(14)? & 15) * 4;
    let ipv4 = frame[12..14] == [0x08, 0x00] && free.get(24).copied().unwrap_or(false);
    (ipv4 && !sum::header_ok(frame.get(14..end)?)).then_some("IPv4 header checksum")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_bytes_are_skipped_and_lengths_count() {
        let free = [false, true, false];
        assert_eq!(first_difference(&[1, 2, 3], &[1, 9, 3], &free), None);
        assert_eq!(first_difference(&[1, 2, 3], &[1, 9, 4], &free), Some(2));
        assert_eq!(first_difference(&[1, 2, 3], &[1, 2], &free), Some(2));
    }

    #[test]
    fn missing_superfluous_and_late_frames_are_told_apart() {
        let expected = |step, late_ms| Expected {
            in_step: step,
            port: "lan".into(),
            frame_hex: "0102".into(),
            note: "a frame".into(),
            late_ms,
            random: Vec::new(),
        };
        let sent = |step, at_ms| Emitted { step, at_ms, port: "lan".into(), bytes: vec![1, 2] };
        let cx = Context {
            inputs: &[],
            times: &[0, 100],
            notes: &["first".into(), "second".into()],
            own: &[],
            verdicts: &["Drop".into(), "Drop".into()],
        };
        assert_eq!(frames(&[expected(0, None)], &[sent(0, 0)], &cx), Ok(()));
        let late = frames(&[expected(0, Some(30_000))], &[sent(1, 29_000)], &cx);
        assert_eq!(late, Ok(()));
        assert!(
            frames(&[expected(0, None)], &[], &cx)
                .unwrap_err()
                .contains("step 0 (first): nothing sent (Drop)")
        );
        assert!(
            frames(&[], &[sent(1, 100)], &cx).unwrap_err().contains("step 1 (second): sent on lan too much")
        );
    }
}
