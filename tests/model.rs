//! The engine against a slow and obvious director: a map of connections, a list of servers, and the rules
//! of IPVS written down plainly. Any list of operations must leave both with the same connections at the
//! same servers in the same states, with the same counts and the same time left.

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use common::*;
use proptest::prelude::*;
use softlvs::svc::{DestSpec, Forward, Proto, SchedulerFlags, SchedulerKind, ServiceSpec, Tunnel};

const SERVERS: usize = 4;

/// Rule 76, columns: NONE ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN
/// SYNACK; rows: SYN, FIN, ACK, RST.
const COLUMNS: &str = "NO ES SS SR FW TW CL CW LA LI SA";
const FROM_CLIENT: [&str; 4] = [
    "SR ES ES SR SR SR SR SR SR SR SR",
    "CL CW SS TW TW TW CL CW LA LI TW",
    "ES ES SS ES FW TW CL CW CL LI ES",
    "CL CL CL SR CL CL CL CL LA LI SR",
];
const FROM_SERVER: [&str; 4] = [
    "SS ES SS SR SS SS SS SS SS LI SR",
    "TW FW SS TW FW TW CL TW LA LI TW",
    "ES ES SS ES FW TW CL CW LA ES ES",
    "CL CL SS CL CL TW CL CL CL CL CL",
];
const CLIENT_ONLY: [&str; 4] = [
    "SR ES ES SR SR SR SR SR SR SR SR",
    "CL FW SS TW FW TW CL CW LA LI TW",
    "ES ES SS ES FW TW CL CW CL LI ES",
    "CL CL CL SR CL CL CL CL LA LI CL",
];

/// Rule 75: RST, SYN, FIN, ACK; none of them closes.
fn step(table: &[&'static str; 4], state: &str, flags: u8) -> &'static str {
    let row = match flags {
        f if f & RST != 0 => 3,
        f if f & SYN != 0 => 0,
        f if f & FIN != 0 => 1,
        f if f & ACK != 0 => 2,
        _ => return "CL",
    };
    let column = COLUMNS.split(' ').position(|s| s == state).unwrap();
    table[row].split(' ').nth(column).unwrap()
}

/// Rule 72.
fn name_and_seconds(state: &str) -> (&'static str, u64) {
    match state {
        "NO" => ("NONE", 2),
        "ES" => ("ESTABLISHED", 900),
        "SS" => ("SYN_SENT", 120),
        "SR" => ("SYN_RECV", 60),
        "FW" => ("FIN_WAIT", 120),
        "TW" => ("TIME_WAIT", 120),
        "CL" => ("CLOSE", 10),
        "CW" => ("CLOSE_WAIT", 60),
        "LA" => ("LAST_ACK", 30),
        "LI" => ("LISTEN", 120),
        "SA" => ("SYNACK", 120),
        "UDP" => ("UDP", 300),
        other => panic!("{other}"),
    }
}

/// When a timer for a minute's end goes off: at the end of its step of 512 ticks (rule 79).
fn timer(at: u64) -> u64 {
    (at / 2048 + 1) * 2048
}

/// Rule 47.
fn is_active(state: &str) -> bool {
    ["ES", "SS", "SR", "SA"].contains(&state)
}

#[derive(Clone, Debug)]
struct Server {
    weight: u32,
    upper: u32,
    lower: u32,
    overloaded: bool,
    listed: bool,
    /// The last weight that was not zero, for `mh`.
    last_weight: u32,
    /// Removed and not forgotten.
    removed: bool,
    /// It had connections when it was looked at last after that.
    busy: bool,
    /// When it was found to have none.
    idle: Option<u64>,
}

#[derive(Clone, Debug)]
struct Conn {
    server: usize,
    state: &'static str,
    /// In milliseconds.
    deadline: u64,
    answered: bool,
}

struct Model {
    kind: SchedulerKind,
    flags: SchedulerFlags,
    proto: Proto,
    forward: Forward,
    servers: Vec<Server>,
    /// Newest first (rule 42).
    list: Vec<usize>,
    conns: BTreeMap<SocketAddr, Conn>,
    /// A connection that makes room for a new one on its tuple, and counts until that has its server.
    leaving: Option<Conn>,
    now: u64,
    reuse_mode: u32,
    nodest: bool,
    // rr and wrr: the server picked last; wrr: requirement, its start and its step
    last: Option<usize>,
    need: i64,
    top: i64,
    fall: i64,
    /// sh, dh, mh.
    table: Vec<Option<usize>>,
    /// lblc, lblcr: servers of the VIP, newest first.
    remembered: Option<Vec<usize>>,
    /// When removed servers are looked at next.
    sweep_at: Option<u64>,
}

fn hash256(v: u32) -> usize {
    (v.wrapping_mul(0x61c8_8647) >> 24) as usize
}
fn word(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(a) => a.into(),
        IpAddr::V6(_) => unreachable!(),
    }
}
/// SipHash-1-3 of a 32-bit word (rule 53).
fn sip(value: u32, key: u64) -> usize {
    let mut v = [
        0x736f_6d65_7073_6575 ^ key,
        0x646f_7261_6e64_6f6d ^ key,
        0x6c79_6765_6e65_7261 ^ key,
        0x7465_6462_7974_6573 ^ key,
    ];
    let round = |v: &mut [u64; 4]| {
        v[0] = v[0].wrapping_add(v[1]);
        v[2] = v[2].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[1]);
        v[0] = v[0].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].rotate_left(32);
    };
    let message = 4 << 56 | u64::from(value);
    v[3] ^= message;
    round(&mut v);
    v[0] ^= message;
    v[2] ^= 0xff;
    for _ in 0..3 {
        round(&mut v);
    }
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32 as usize
}
const MH: usize = 4093;
const K1: u64 = 2_654_435_761;
const K2: u64 = 2_654_446_892;

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Model {
    fn bound(&self, s: usize) -> impl Iterator<Item = &Conn> {
        self.conns.values().chain(&self.leaving).filter(move |c| c.server == s)
    }
    fn active(&self, s: usize) -> u64 {
        self.bound(s).filter(|c| is_active(c.state)).count() as u64
    }
    fn inactive(&self, s: usize) -> u64 {
        self.bound(s).filter(|c| !is_active(c.state)).count() as u64
    }
    fn weight(&self, s: usize) -> u64 {
        self.servers[s].weight.into()
    }
    fn usable(&self, s: usize) -> bool {
        self.servers[s].weight > 0 && !self.servers[s].overloaded
    }
    fn load(&self, s: usize) -> u64 {
        self.active(s) * 256 + self.inactive(s)
    }

    /// Rule 88, when a connection was bound or released, and at `-a` and `-e` (7-thresh-edit: a limit below
    /// the present count refuses the next connection).
    fn thresholds(&mut self, s: usize) {
        let total = self.active(s) + self.inactive(s);
        let server = &mut self.servers[s];
        let (upper, lower) = (u64::from(server.upper), u64::from(server.lower));
        if upper != 0 && total >= upper {
            server.overloaded = true;
        }
        let recovered = match (lower, upper) {
            (0, 0) => true,
            (0, _) => total * 4 < upper * 3,
            _ => total < lower,
        };
        if recovered {
            server.overloaded = false;
        }
    }
    fn configure(&mut self, s: usize, weight: u32, upper: u32, lower: u32) {
        let server = &mut self.servers[s];
        (server.weight, server.upper, server.lower) = (weight, upper, lower);
        if weight > 0 {
            server.last_weight = weight;
        }
        self.thresholds(s);
    }

    fn add(&mut self, s: usize, weight: u32, upper: u32, lower: u32) {
        self.committed();
        self.servers[s].overloaded &= self.conns.values().any(|c| c.server == s);
        self.configure(s, weight, upper, lower);
        self.servers[s].listed = true;
        self.servers[s].removed = false;
        self.list.insert(0, s);
        self.changed(true);
    }
    fn remove(&mut self, s: usize) {
        self.committed();
        let at = self.list.iter().position(|x| *x == s).unwrap();
        if self.kind == SchedulerKind::Rr && self.last == Some(s) {
            self.last = at.checked_sub(1).map(|i| self.list[i]);
        }
        self.list.remove(at);
        self.servers[s].listed = false;
        self.servers[s].removed = true;
        let busy = self.bound(s).next().is_some();
        self.servers[s].busy = busy;
        self.servers[s].idle = None;
        self.sweep_at.get_or_insert(timer(self.now + 60_000));
        self.changed(true);
        self.committed();
        self.end_orphans();
    }
    /// A timer of a minute looks at removed servers: the third time it meets one without connections, that
    /// is forgotten. Seen with the next change.
    fn committed(&mut self) {
        let mut looks = Vec::new();
        while let Some(at) = self.sweep_at.filter(|at| *at <= self.now) {
            looks.push(at);
            self.sweep_at = Some(timer(at + 60_000));
        }
        for s in 0..SERVERS {
            let busy = self.bound(s).next().is_some();
            let server = &mut self.servers[s];
            if !server.removed {
                continue;
            }
            if !busy {
                // when its connections ended nobody knows: just now
                let seen = if server.busy { looks.len().saturating_sub(1) } else { 0 };
                for at in &looks[seen..] {
                    let since = *server.idle.get_or_insert(*at);
                    server.removed &= at - since < 120_000;
                }
            }
            server.busy = busy;
            if !server.removed
                && let Some(remembered) = &mut self.remembered
            {
                remembered.retain(|r| *r != s);
            }
        }
        if !self.servers.iter().any(|s| s.removed) {
            self.sweep_at = None;
        }
    }
    /// Rule 83.
    fn end_orphans(&mut self) {
        if self.nodest {
            let servers = &self.servers;
            self.conns.retain(|_, c| servers[c.server].listed);
        }
    }

    /// Tables and turns after `-a`, `-d` (members) and `-e`.
    fn changed(&mut self, members: bool) {
        use SchedulerKind::*;
        let list = self.list.clone();
        match self.kind {
            Wrr => {
                let weights: Vec<i64> = list.iter().map(|s| self.weight(*s) as i64).collect();
                self.fall = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
                self.top = weights.iter().max().unwrap_or(&0) - (self.fall - 1);
                self.last = None;
                if self.need > self.top || self.need == 0 {
                    self.need = self.top;
                } else if self.fall > 1 {
                    self.need = self.need / self.fall * self.fall + 1;
                }
            }
            Sh => {
                self.table.clear();
                while !list.is_empty() && self.table.len() < 256 {
                    for s in &list {
                        for _ in 0..self.servers[*s].weight.max(1) {
                            self.table.push(Some(*s));
                        }
                    }
                }
                self.table.truncate(256);
            }
            Dh if members => {
                self.table = if list.is_empty() {
                    vec![]
                } else {
                    (0..256).map(|i| Some(list[i % list.len()])).collect()
                };
            }
            Mh => self.maglev(),
            _ => {}
        }
    }
    /// Rules 53 and 54.
    fn maglev(&mut self) {
        self.table = vec![None; MH];
        let last = |s: &usize| i64::from(self.servers[*s].last_weight);
        let step = self.list.iter().fold(0, |a, s| gcd(a, last(s)));
        if step == 0 {
            return;
        }
        let heaviest = self.list.iter().map(last).max().unwrap() / step;
        let shift = (64 - heaviest.leading_zeros()).saturating_sub(6);
        let mut walks: Vec<(usize, usize, usize, i64)> = self
            .list
            .iter()
            .map(|s| {
                let (name, rport) =
                    (word(net(false).rs(*s as u8)), if self.forward.translates() { 8080 } else { 80 });
                let name = name.wrapping_add(rport);
                let turns = ((last(s) / step) >> shift).max(1);
                (*s, sip(name, K1) % MH, sip(name, K2) % (MH - 1) + 1, turns)
            })
            .collect();
        let mut filled = 0;
        loop {
            for (s, at, skip, turns) in &mut walks {
                for _ in 0..*turns {
                    while self.table[*at].is_some() {
                        *at = (*at + *skip) % MH;
                    }
                    self.table[*at] = Some(*s);
                    filled += 1;
                    if filled == MH {
                        return;
                    }
                }
            }
        }
    }

    fn least(&self, among: &[usize], load: impl Fn(usize) -> u64) -> Option<usize> {
        let mut best: Option<usize> = None;
        for s in among.iter().copied().filter(|s| self.usable(*s)) {
            if best.is_none_or(|b| load(b) * self.weight(s) > load(s) * self.weight(b)) {
                best = Some(s);
            }
        }
        best
    }
    fn heaviest(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best: Option<usize> = None;
        for s in self.list.iter().copied().filter(|s| self.usable(*s) && may(*s)) {
            if best.is_none_or(|b| self.weight(s) > self.weight(b)) {
                best = Some(s);
            }
        }
        best
    }
    fn too_busy(&self, s: usize) -> bool {
        self.active(s) > self.weight(s) && self.list.iter().any(|o| self.active(*o) * 2 < self.weight(*o))
    }

    /// Rules 43 to 57.
    fn pick(&mut self, client: SocketAddr) -> Option<usize> {
        use SchedulerKind::*;
        let list = self.list.clone();
        let port = if self.flags.port { u32::from(client.port()) } else { 0 };
        let source = word(client.ip()).wrapping_add(port);
        match self.kind {
            Rr => {
                let start = self.last.and_then(|l| list.iter().position(|s| *s == l)).map_or(0, |i| i + 1);
                let n = list.len();
                let found = (0..n).map(|i| list[(start + i) % n]).find(|s| self.usable(*s))?;
                self.last = Some(found);
                Some(found)
            }
            Wrr => self.pick_wrr(&list),
            Lc => {
                let mut best: Option<usize> = None;
                for s in list.into_iter().filter(|s| self.usable(*s)) {
                    if best.is_none_or(|b| self.load(s) < self.load(b)) {
                        best = Some(s);
                    }
                }
                best
            }
            Wlc => self.least(&list, |s| self.load(s)),
            Sed => self.least(&list, |s| self.active(s) + 1),
            Nq => list
                .iter()
                .copied()
                .find(|s| self.usable(*s) && self.active(*s) == 0)
                .or_else(|| self.least(&list, |s| self.active(s) + 1)),
            Fo => self.heaviest(|_| true),
            Ovf => self.heaviest(|s| self.active(s) <= self.weight(s)),
            Sh => {
                let home = hash256(source);
                let at = |b: usize| self.table.get(b).copied().flatten().filter(|s| self.usable(*s));
                at(home).or_else(|| {
                    let tries = if self.flags.fallback { 256 } else { 0 };
                    (0..tries).find_map(|o| at((home + (o + home) % 256) % 256))
                })
            }
            Dh => {
                let bucket = hash256(word(net(false).vip));
                self.table.get(bucket).copied().flatten().filter(|s| self.usable(*s))
            }
            Mh => {
                let home = sip(source, K1) % MH;
                let first = self.table.get(home).copied().flatten()?;
                if self.usable(first) {
                    return Some(first);
                }
                let tries = if self.flags.fallback { MH } else { 0 };
                (0..tries)
                    .map(|o| sip(source.wrapping_add(((o + home) % MH) as u32), K1) % MH)
                    .find_map(|at| self.table[at].filter(|s| self.usable(*s)))
            }
            Lblc => {
                let known = self.remembered.as_ref().and_then(|r| r.first().copied());
                if let Some(s) = known
                    && self.servers[s].listed
                    && self.weight(s) > 0
                    && !self.too_busy(s)
                {
                    return Some(s);
                }
                let found = self.least(&list, |s| self.load(s))?;
                self.remembered = Some(vec![found]);
                Some(found)
            }
            Lblcr => {
                if let Some(known) = self.remembered.clone() {
                    let listed: Vec<_> = known.iter().copied().filter(|s| self.servers[*s].listed).collect();
                    if let Some(s) = self.least(&listed, |s| self.load(s)).filter(|s| !self.too_busy(*s)) {
                        return Some(s);
                    }
                    let found = self.least(&list, |s| self.load(s))?;
                    if !known.contains(&found) {
                        self.remembered.as_mut().unwrap().insert(0, found);
                    }
                    return Some(found);
                }
                let found = self.least(&list, |s| self.load(s))?;
                self.remembered = Some(vec![found]);
                Some(found)
            }
            Twos => unreachable!(),
        }
    }
    /// Rule 45: rounds of a falling requirement. Every server is looked at with the lowest requirement
    /// before the walk gives up; it ends at the head of the list, or where it stood when only those up to
    /// there were left to look at.
    fn pick_wrr(&mut self, list: &[usize]) -> Option<usize> {
        if self.top <= 0 {
            return None;
        }
        let began = self.last.and_then(|l| list.iter().position(|s| *s == l));
        let mut next = began.map_or(0, |i| i + 1);
        let (mut stop, mut lowest, mut again) = (None, false, false);
        loop {
            for (i, s) in list.iter().enumerate().skip(next) {
                if !self.servers[*s].overloaded && self.weight(*s) as i64 >= self.need {
                    self.last = Some(*s);
                    return Some(*s);
                }
                if stop == Some(i) {
                    self.last = Some(*s);
                    return None;
                }
            }
            next = 0;
            self.need -= self.fall;
            if self.need <= 0 {
                self.need = self.top;
                if lowest || began.is_none() {
                    self.last = None;
                    return None;
                }
                again = true;
            }
            lowest = self.need <= self.fall;
            if lowest && again {
                stop = began;
            }
        }
    }

    fn close(&mut self, client: SocketAddr) {
        let gone = self.conns.remove(&client).unwrap();
        self.thresholds(gone.server);
    }
    fn moved(&mut self, client: SocketAddr, state: &'static str) {
        let now = self.now;
        let c = self.conns.get_mut(&client).unwrap();
        c.state = state;
        c.deadline = now + name_and_seconds(state).1 * 1000;
    }
    fn client_sent(&mut self, client: SocketAddr, flags: u8) {
        self.client_packet(client, flags);
        if let Some(gone) = self.leaving.take() {
            self.thresholds(gone.server);
        }
    }
    fn client_packet(&mut self, client: SocketAddr, flags: u8) {
        let tcp = self.proto == Proto::Tcp;
        if let Some(c) = self.conns.get(&client).cloned() {
            let server = self.servers[c.server].clone();
            // rules 81 and 84
            let anew = tcp
                && flags & SYN != 0
                && (self.nodest && server.weight == 0
                    || match c.state {
                        _ if self.reuse_mode == 0 => false,
                        "TW" | "CL" => true,
                        "FW" => self.reuse_mode & 2 != 0 && !c.answered && !self.forward.translates(),
                        _ => false,
                    });
            if !anew && server.listed {
                let table = if self.forward.translates() { &FROM_CLIENT } else { &CLIENT_ONLY };
                let next = if tcp { step(table, c.state, flags) } else { "UDP" };
                return self.moved(client, next);
            }
            // rules 82 and 83
            if !anew && !self.nodest {
                return;
            }
            self.close(client);
            if anew {
                let server = c.server;
                self.leaving = Some(c);
                self.thresholds(server);
            }
        }
        // rule 80
        if tcp && (flags & SYN == 0 || flags & RST != 0) {
            return;
        }
        let Some(server) = self.pick(client) else { return };
        let state = if tcp { "NO" } else { "UDP" };
        self.conns.insert(client, Conn { server, state, deadline: 0, answered: false });
        self.thresholds(server);
        let table = if self.forward.translates() { &FROM_CLIENT } else { &CLIENT_ONLY };
        self.moved(client, if tcp { step(table, state, flags) } else { state });
    }
    fn server_sent(&mut self, client: SocketAddr, flags: u8) {
        let Some(c) = self.conns.get_mut(&client) else { return };
        c.answered = true;
        let state = c.state;
        let next = if self.proto == Proto::Tcp { step(&FROM_SERVER, state, flags) } else { state };
        self.moved(client, next);
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Op {
    Client(u8, u8, u8),
    Reply(prop::sample::Index, u8),
    /// Seconds.
    Wait(u64),
    /// `-a`, or `-e` where the server is there: server, weight, upper, lower.
    Put(usize, u32, u32, u32),
    Remove(usize),
    Reuse(u32),
    NoDest(bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let flags = prop::sample::select(vec![SYN, SYN, SYN, ACK, ACK, FIN | ACK, RST, 0, SYN | ACK, SYN | RST]);
    let replies = prop::sample::select(vec![SYN | ACK, SYN | ACK, ACK, ACK, FIN | ACK, RST, 0]);
    let op = prop_oneof![
        12 => (0u8..24, 0u8..3, flags).prop_map(|(c, p, f)| Op::Client(c, p, f)),
        6 => (any::<prop::sample::Index>(), replies).prop_map(|(i, f)| Op::Reply(i, f)),
        2 => prop_oneof![1u64..20, 20u64..200, 200u64..1000].prop_map(Op::Wait),
        2 => (0..SERVERS, 0u32..5, 0u32..7, 0u32..4)
            .prop_map(|(s, w, u, l)| Op::Put(s, w, if u < 3 { 0 } else { u }, if u < 3 { 0 } else { l.min(u) })),
        1 => (0..SERVERS).prop_map(Op::Remove),
        1 => (0u32..4).prop_map(Op::Reuse),
        1 => any::<bool>().prop_map(Op::NoDest),
    ];
    prop::collection::vec(op, 1..140)
}

/// Later by this much everything has happened, in ms: a bucket and a tick.
const LATE: u64 = 300;

/// The end of the step of the kernel's timers that a deadline lies in, in ms (IPVS-RULES 79).
fn end_of_step(deadline: u64, timeout: u64) -> u64 {
    let step = match timeout {
        0..2_016 => 32,
        2_016..16_128 => 256,
        16_128..129_024 => 2_048,
        _ => 16_384,
    };
    (deadline / step + 1) * step
}

fn compare(lab: &Lab, model: &mut Model, op: &Op) {
    let now = model.now;
    let rows: BTreeMap<SocketAddr, _> = lab.engine.connections(lab.now).map(|r| (r.client, r)).collect();
    // in the moment after its end both are right; expiry in order, for the thresholds
    let end = |c: &Conn| end_of_step(c.deadline, name_and_seconds(c.state).1 * 1000);
    let mut due: Vec<_> =
        model.conns.iter().map(|(k, c)| (end(c), *k)).filter(|(end, _)| *end <= now).collect();
    due.sort();
    for (end, client) in due {
        if !rows.contains_key(&client) {
            model.close(client);
        } else {
            assert!(now <= end + LATE, "{client} lives {} ms too long", now - end);
        }
    }
    let want: Vec<_> = model.conns.keys().collect();
    assert_eq!(rows.keys().collect::<Vec<_>>(), want, "connections after {op:?}");
    for (client, c) in &model.conns {
        let row = &rows[client];
        let rs = net(false).rs(c.server as u8);
        assert_eq!((row.dest.ip(), row.state), (rs, name_and_seconds(c.state).0), "{client} after {op:?}");
        let left = c.deadline.saturating_sub(now);
        assert!(row.expires.as_millis().abs_diff(left) <= LATE, "{client}: {left} ms left, {row:?}");
    }
    let key = key(model.proto, false);
    for dest in &lab.catalog.service(&key).unwrap().dests {
        let s = (0..SERVERS).find(|s| net(false).rs(*s as u8) == dest.spec.ip).unwrap();
        let counts = (u64::from(dest.active()), u64::from(dest.inactive()));
        assert_eq!(counts, (model.active(s), model.inactive(s)), "server {s} after {op:?}");
        assert_eq!(dest.overloaded(), model.servers[s].overloaded, "server {s} after {op:?}");
    }
    lab.engine.check().unwrap();
}

fn play(kind: SchedulerKind, flags: SchedulerFlags, forward: Forward, proto: Proto, ops: Vec<Op>) {
    let mut catalog = catalog(forward, 0);
    let key = key(proto, false);
    catalog.remove_service(&key).unwrap();
    catalog.add_service(ServiceSpec { scheduler: kind, flags, ..ServiceSpec::new(key) }).unwrap();
    let mut lab = Lab::of(catalog, 1000);
    let server = Server {
        weight: 0,
        upper: 0,
        lower: 0,
        overloaded: false,
        listed: false,
        last_weight: 0,
        removed: false,
        busy: false,
        idle: None,
    };
    let mut model = Model {
        kind,
        flags,
        proto,
        forward,
        servers: vec![server; SERVERS],
        list: Vec::new(),
        conns: BTreeMap::new(),
        leaving: None,
        now: 0,
        reuse_mode: 1,
        nodest: false,
        last: None,
        need: 0,
        top: 0,
        fall: 1,
        table: Vec::new(),
        remembered: None,
        sweep_at: None,
    };
    let n = net(false);
    let port = if forward.translates() { 8080 } else { 80 };
    let start = [Op::Put(0, 1, 0, 0), Op::Put(1, 2, 0, 0), Op::Put(2, 3, 0, 0)];
    for op in start.into_iter().chain(ops) {
        match &op {
            Op::Client(c, p, flags) => {
                let client = sock(n.nth_client(u32::from(*c)), 4000 + u16::from(*p));
                let frame = match proto {
                    Proto::Tcp => Pkt::tcp(client, n.vip(), *flags),
                    _ => Pkt::udp(client, n.vip(), b"x"),
                };
                let _ = lab.give_fast(WAN, &frame.frame());
                model.client_sent(client, *flags);
            }
            Op::Reply(i, flags) => {
                if !forward.translates() || model.conns.is_empty() {
                    continue;
                }
                let (client, c) = model.conns.iter().nth(i.index(model.conns.len())).unwrap();
                let (client, src) = (*client, sock(n.rs(c.server as u8), 8080));
                let frame = match proto {
                    Proto::Tcp => Pkt::tcp(src, client, *flags),
                    _ => Pkt::udp(src, client, b"y"),
                };
                let _ = lab.give_fast(LAN, &frame.to(LAN_MAC).frame());
                model.server_sent(client, *flags);
            }
            Op::Wait(secs) => {
                lab.wait(*secs);
                model.now += secs * 1000;
            }
            Op::Put(s, weight, upper, lower) => {
                let listed = model.servers[*s].listed;
                // what weight a server that comes back had last is no rule of ours
                let weight = if listed { *weight } else { (*weight).max(1) };
                let spec =
                    DestSpec { upper: *upper, lower: *lower, ..dest(n.rs(*s as u8), port, weight, forward) };
                if listed {
                    lab.catalog.edit_dest(&key, spec).unwrap();
                    model.configure(*s, weight, *upper, *lower);
                    model.changed(false);
                } else {
                    lab.catalog.add_dest(&key, spec).unwrap();
                    model.add(*s, weight, *upper, *lower);
                }
                lab.commit();
                model.committed();
            }
            Op::Remove(s) => {
                if model.servers[*s].listed {
                    lab.catalog.remove_dest(&key, n.rs(*s as u8), port).unwrap();
                    lab.commit();
                    model.remove(*s);
                }
            }
            Op::Reuse(mode) => {
                lab.catalog.sysctl.conn_reuse_mode = *mode;
                lab.commit();
                model.reuse_mode = *mode;
                model.committed();
            }
            Op::NoDest(on) => {
                lab.catalog.sysctl.expire_nodest_conn = *on;
                lab.commit();
                model.nodest = *on;
                model.committed();
                model.end_orphans();
            }
        }
        compare(&lab, &mut model, &op);
    }
}

const FORWARDS: [Forward; 3] = [Forward::Nat, Forward::Dr, Forward::Tun(Tunnel::Ipip)];

macro_rules! schedulers {
    ($($name:ident $kind:ident $flags:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]
            $(
                #[test]
                fn $name(ops in ops(), mode in 0usize..3, udp: bool) {
                    let proto = if udp { Proto::Udp } else { Proto::Tcp };
                    play(SchedulerKind::$kind, $flags, FORWARDS[mode], proto, ops);
                }
            )*
        }
    };
}

const PLAIN: SchedulerFlags = SchedulerFlags { port: false, fallback: false };
const BOTH: SchedulerFlags = SchedulerFlags { port: true, fallback: true };

schedulers! {
    rr_as_the_rules_say Rr PLAIN;
    wrr_as_the_rules_say Wrr PLAIN;
    lc_as_the_rules_say Lc PLAIN;
    wlc_as_the_rules_say Wlc PLAIN;
    sed_as_the_rules_say Sed PLAIN;
    nq_as_the_rules_say Nq PLAIN;
    fo_as_the_rules_say Fo PLAIN;
    ovf_as_the_rules_say Ovf PLAIN;
    sh_as_the_rules_say Sh PLAIN;
    sh_with_port_and_fallback_as_the_rules_say Sh BOTH;
    dh_as_the_rules_say Dh PLAIN;
    mh_as_the_rules_say Mh PLAIN;
    mh_with_port_and_fallback_as_the_rules_say Mh BOTH;
    lblc_as_the_rules_say Lblc PLAIN;
    lblcr_as_the_rules_say Lblcr PLAIN;
}

#[test]
fn a_removed_server_is_looked_at_every_minute_of_a_long_silence() {
    let silence = [Op::Client(0, 0, SYN), Op::Remove(2), Op::Wait(553)];
    let back = [Op::Put(0, 0, 0, 0), Op::Client(0, 0, SYN), Op::Wait(62), Op::Put(2, 0, 0, 0)];
    let ops = silence.into_iter().chain(back).chain([Op::Client(0, 1, SYN)]).collect();
    play(SchedulerKind::Lblcr, PLAIN, Forward::Nat, Proto::Udp, ops);
}
