//! Replays every recorded pick of the kernel's schedulers (vectors of group 4) through `Scheduler`.
//!
//! Only the scheduler is under test: connections are reduced to what moves the counts. SYN and ACK are
//! active, FIN and RST make a connection inactive, UDP is inactive from the start (IPVS-RULES 47).

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use softlvs::sched::{PickKey, Scheduler};
use softlvs::svc::{Dest, DestId, DestSpec, Forward, SchedulerFlags, SchedulerKind, ServiceId};
use softlvs::time::{Mono, Span};
use softlvs::wire::{Link, Parsed, number, parse};

type EndPoint = (IpAddr, u16);

/// Server, active, and when an inactive one ends.
type Conn = (Arc<Dest>, bool, Option<Mono>);

struct Packet {
    src: EndPoint,
    dst: EndPoint,
    /// Letters, or `U` alone for UDP.
    flags: String,
}

fn end_point(s: &str) -> EndPoint {
    let (ip, port) = s.rsplit_once(':').unwrap();
    (ip.trim_matches(['[', ']']).parse().unwrap(), port.parse().unwrap())
}

fn unhex(s: &str) -> Vec<u8> {
    let mut flat = String::new();
    let mut rest = s;
    while let Some(open) = rest.find('(') {
        let close = rest[open..].find(')').unwrap() + open;
        let (byte, times) = rest[open + 1..close].split_once('*').unwrap();
        flat += &rest[..open];
        flat += &byte.repeat(times.parse().unwrap());
        rest = &rest[close + 1..];
    }
    flat += rest;
    (0..flat.len() / 2).map(|i| u8::from_str_radix(&flat[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn packet(step: &Value) -> Option<Packet> {
    if let Some(text) = step["tcp"].as_str() {
        let mut words = text.split(' ');
        let (src, dst) = words.next()?.split_once('>')?;
        return Some(Packet { src: end_point(src), dst: end_point(dst), flags: words.next()?.into() });
    }
    let frame = unhex(step["frame_hex"].as_str()?);
    let Ok(Parsed::Ip(meta)) = parse(&frame, Link::Ethernet) else { return None };
    let flags = match meta.proto {
        number::TCP => "FSRPA"
            .chars()
            .enumerate()
            .filter(|(i, _)| meta.tcp_flags & 1 << i != 0)
            .map(|(_, c)| c)
            .collect(),
        _ => "U".into(),
    };
    Some(Packet { src: (meta.src(&frame), meta.sport), dst: (meta.dst(&frame), meta.dport), flags })
}

/// The value behind a flag of an `ipvsadm` command line.
fn option<'a>(cmd: &'a str, flag: &str) -> Option<&'a str> {
    cmd.split(' ').skip_while(|w| *w != flag).nth(1)
}

struct Replay {
    dests: Vec<Arc<Dest>>,
    sched: Scheduler,
    next_id: u32,
    one_packet: bool,
    conns: HashMap<(EndPoint, EndPoint), Conn>,
}

impl Replay {
    fn add(&mut self, ip: IpAddr, port: u16, weight: u32, upper: u32, lower: u32) {
        let id = DestId(self.next_id);
        self.next_id += 1;
        let spec = DestSpec { name: String::new(), ip, port, weight, forward: Forward::Dr, upper, lower };
        let (live, timeouts) = (Arc::default(), Default::default());
        let (stats, service_stats) = Default::default();
        let dest = Dest {
            id,
            service: ServiceId(0),
            spec,
            live,
            stats,
            timeouts,
            mss_clamp: false,
            service_stats,
            available: true,
            ending: softlvs::svc::Ending::No,
        };
        self.dests.insert(0, Arc::new(dest));
        self.sched.added(&self.dests, id);
    }
    fn command(&mut self, cmd: &str) {
        if cmd.split(' ').nth(1) == Some("-E") {
            let kind = option(cmd, "-s").unwrap().parse().unwrap();
            self.sched.reconfigure(kind, self.sched.flags(), &self.dests);
            return;
        }
        let ip = end_point(option(cmd, "-r").unwrap()).0;
        let weight = option(cmd, "-w").map(|w| w.parse().unwrap());
        let at = self.dests.iter().position(|d| d.spec.ip == ip);
        match cmd.split(' ').nth(1).unwrap() {
            "-a" => self.add(ip, end_point(option(cmd, "-r").unwrap()).1, weight.unwrap(), 0, 0),
            "-e" => {
                let dest = &mut self.dests[at.unwrap()];
                let id = dest.id;
                Arc::make_mut(dest).spec.weight = weight.unwrap();
                self.sched.edited(&self.dests, id);
            }
            "-d" => {
                let id = self.dests.remove(at.unwrap()).id;
                self.sched.removed(&self.dests, id, at.unwrap());
            }
            other => panic!("{other}: {cmd}"),
        }
    }
    fn expire(&mut self, now: Mono) {
        self.conns.retain(|_, (dest, active, ends)| {
            let over = ends.is_some_and(|t| t <= now);
            if over {
                dest.unbind(*active);
            }
            !over
        });
        self.sched.sweep(now);
    }
}

/// Replays one file; returns how many picks were compared.
fn replay(name: &str, v: &Value) -> usize {
    let service = &v["config"]["services"][0];
    let kind: SchedulerKind = service["scheduler"].as_str().unwrap().parse().unwrap();
    let words = service["sched_flags"].as_str().unwrap_or("").to_string();
    let flags = SchedulerFlags { port: words.contains("-port"), fallback: words.contains("-fallback") };
    let mut r = Replay {
        dests: vec![],
        sched: Scheduler::new(kind, flags, &[]),
        next_id: 0,
        one_packet: service["one_packet"].as_bool().unwrap_or(false),
        conns: HashMap::new(),
    };
    for key in ["lblc", "lblcr"] {
        if let Some(s) = v["sysctls"][format!("net.ipv4.vs.{key}_expiration")].as_u64() {
            r.sched.set_expiration(Span::from_secs(s));
        }
    }
    for real in service["reals"].as_array().unwrap() {
        let n = |k: &str| real[k].as_u64().unwrap_or(0) as u32;
        r.add(
            real["addr"].as_str().unwrap().parse().unwrap(),
            n("port") as u16,
            n("weight"),
            n("upper"),
            n("lower"),
        );
    }
    let picks: HashMap<usize, Option<IpAddr>> = v["picks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| match p.as_str() {
            Some(line) => {
                let words: Vec<_> = line.split(' ').collect();
                (words[0].parse().unwrap(), words[2].parse().ok())
            }
            None => (p["step"].as_u64().unwrap() as usize, p["real"].as_str().and_then(|s| s.parse().ok())),
        })
        .collect();
    let mut compared = 0;
    for (i, step) in v["steps"].as_array().unwrap().iter().enumerate() {
        let now = Mono::from_millis(step["at_ms"].as_u64().unwrap());
        r.expire(now);
        if let Some(cmd) = step["cmd"].as_str() {
            r.command(cmd);
            continue;
        }
        let Some(p) = packet(step) else { continue };
        if let Some(expected) = picks.get(&i) {
            let key = PickKey { src: p.src.0, sport: p.src.1, dst: p.dst.0, random: 0 };
            let picked = r.sched.pick(now, &r.dests, &key);
            assert_eq!(picked.map(|i| r.dests[i].spec.ip), *expected, "{name}, step {i}");
            compared += 1;
            if let (Some(at), false) = (picked, r.one_packet) {
                let (dest, active) = (r.dests[at].clone(), p.flags != "U");
                dest.bind(active);
                r.conns.insert((p.src, p.dst), (dest, active, None));
            }
        } else if p.flags.contains(['F', 'R'])
            && let Some((dest, active @ true, ends)) = r.conns.get_mut(&(p.src, p.dst))
        {
            dest.turn(false);
            *active = false;
            *ends = Some(now + Span::from_secs(if p.flags.contains('R') { 10 } else { 120 }));
        }
    }
    compared
}

#[test]
fn every_recorded_pick_of_the_kernel_is_repeated() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors");
    let (mut files, mut picks) = (0, 0);
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if name.starts_with("4-sched-") {
            let n = replay(&name, &serde_json::from_slice(&fs::read(&path).unwrap()).unwrap());
            assert!(n > 0, "{name} holds no pick");
            (files, picks) = (files + 1, picks + n);
        }
    }
    assert_eq!(files, 119);
    assert!(picks >= 7_606, "{picks}");
}
