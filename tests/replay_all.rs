//! Every capture of a corpus through every mode: no panic, no broken invariant, no packet that grew out of
//! nothing. The corpus is not part of the project: `SOFTLVS_CORPUS` names its folder, else it is looked for
//! beside the project; without one the test says so and passes.
#![cfg(feature = "daemon")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use softlvs::engine::{Taken, Verdict};
use softlvs::io::pcap::Reader;
use softlvs::svc::Forward;
use softlvs::wire::{Link, Parsed, parse};

fn corpus() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/pcaps");
    let folder = std::env::var_os("SOFTLVS_CORPUS").map_or_else(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The packets of a file, each as a frame. Files that are no captures are taken as one frame: the corpus has
/// such from fuzzers.
fn frames(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let Ok(mut reader) = Reader::new(&file[..]) else { return vec![file] };
    let link = reader.link();
    let (mut frames, mut bytes) = (Vec::new(), Vec::new());
    while let Ok(Some(_)) = reader.read(&mut bytes) {
        if link == Link::Ip {
            let kind: [u8; 2] =
                if bytes.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
            frames.push([&WAN_MAC.0[..], &GW_MAC.0, &kind, &bytes].concat());
        } else {
            frames.push(bytes.clone());
        }
    }
    frames.retain(|f| f.len() <= 65_000);
    frames
}

/// The packet as it is, for us, and for the VIP: a capture is about other people's addresses.
fn variants(frame: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![frame.to_vec()];
    if frame.len() < 14 {
        return all;
    }
    let mut ours = frame.to_vec();
    ours[..6].copy_from_slice(&WAN_MAC.0);
    all.push(ours.clone());
    let n = net(frame[12] == 0x86);
    let (vip, at) = (octets(n.vip), if n.v6 { 38 } else { 30 });
    if ours.len() >= at + vip.len() {
        ours[at..at + vip.len()].copy_from_slice(&vip);
        if !n.v6 {
            let end = (14 + usize::from(ours[14] & 15) * 4).min(ours.len());
            ours[24..26].fill(0);
            let check = !fold(&[&ours[14..end]]);
            ours[24..26].copy_from_slice(&check.to_be_bytes());
        }
        all.push(ours.clone());
        // and to the service's port
        let l4 = if n.v6 { 54 } else { 14 + usize::from(ours[14] & 15) * 4 };
        if ours.len() >= l4 + 4 {
            ours[l4 + 2..l4 + 4].copy_from_slice(&80u16.to_be_bytes());
            all.push(ours);
        }
    }
    all
}

fn play(forward: Forward, files: &[PathBuf]) -> (u64, u64) {
    let mut lab = Lab::of(catalog(forward, 2), 100_000);
    for path in files {
        let quiet = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for frame in frames(path) {
                for frame in variants(&frame) {
                    for port in [WAN, LAN] {
                        let (verdict, sent) = lab.give_fast(port, &frame);
                        let extra = sent.len() - usize::from(matches!(verdict, Verdict::Send(_)));
                        // fragments of a datagram are as many as it takes
                        let bytes: usize = sent.iter().map(|s| s.bytes.len()).sum();
                        let cut = verdict == Verdict::Taken(Taken::Split) || bytes > 1400;
                        assert!(extra <= 2 || cut, "{verdict:?}: {extra} packets for one");
                        for s in &sent {
                            if let Ok(Parsed::Ip(_)) = parse(&s.bytes, Link::Ethernet) {
                                assert!(ip_sum_right(&s.bytes), "header checksum");
                            }
                        }
                    }
                }
                lab.wait_ms(20);
            }
        }));
        assert!(quiet.is_ok(), "{} in {forward:?}", path.display());
        if let Err(broken) = lab.engine.check() {
            panic!("{} in {forward:?}: {broken}", path.display());
        }
    }
    let counters = lab.engine.counters();
    lab.wait(3600);
    lab.engine.check().unwrap();
    assert_eq!(lab.engine.connection_count(), 0);
    (counters.received, counters.forwarded)
}

#[test]
fn every_capture_through_every_mode() {
    let Some(folder) = corpus() else {
        println!("skipped: no corpus");
        return;
    };
    let mut found = Vec::new();
    files(&folder, &mut found);
    found.sort();
    for forward in MODES {
        let (received, forwarded) = play(forward, &found);
        println!("{}: {received} packets of {} files, {forwarded} forwarded", forward.name(), found.len());
        assert!(received > 0 && forwarded > 0);
    }
}
