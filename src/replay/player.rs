//! A scenario played through the engine.

use std::net::IpAddr;
use std::sync::Arc;

use super::compare::{self, Context, Emitted};
use super::scenario::{Scenario, Step, Text, unhex};
use super::{decode, frame, picks, session, setup, texts};
use crate::addr::Mac;
use crate::buf::{HEADROOM, MAX_FRAME, Offload, Out, PacketBuf};
use crate::engine::{Engine, EngineOptions, PortId, Verdict};
use crate::host::HostOptions;
use crate::ipvsadm::list::Source;
use crate::ipvsadm::stats::RATE_INTERVAL;
use crate::ipvsadm::{Baseline, Command, Names, Rates, Refusal, Show, apply, conns, list, parse};
use crate::svc::Catalog;
use crate::time::{Mono, Span};

/// How a scenario ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything as recorded.
    Same,
    /// The first difference, as one line.
    Differs(String),
    /// The scenario does something that cannot be played, and what.
    Unsupported(String),
}

/// Listings are taken this long after their step.
const TEXT_DELAY_MS: u64 = 2;
/// Connections of a replay; recordings have some thousand at most.
const CONNECTIONS: u32 = 65_536;

/// Plays a scenario and compares.
pub fn play(scenario: &Scenario) -> Outcome {
    play_verbose(scenario, &mut |_| {})
}

/// Plays a scenario; every packet in, every packet out and every listing is also told to `tell`.
///
/// No recording tells how late the kernel's timers were: the same in all of it, but at any place in their
/// steps. So the session begins at one time after the other until one of them explains everything.
pub fn play_verbose(scenario: &Scenario, tell: &mut dyn FnMut(&str)) -> Outcome {
    let outcome = play_at(scenario, Mono::ZERO, tell);
    if !matches!(outcome, Outcome::Differs(_)) {
        return outcome;
    }
    let again = |n: u64, step: Span| play_at(scenario, Mono(n * step.0), &mut |_| {});
    // what differs in the same way whenever it begins has nothing to do with timers
    let depends = (1..8).any(|n| again(n, TIMER_STRIDE) != outcome);
    let mut starts = 1..TIMER_PERIOD.0 / TIMER_STEP.0;
    if depends && starts.any(|n| again(n, TIMER_STEP) == Outcome::Same) { Outcome::Same } else { outcome }
}

/// The longest step of the kernel's timers in the recordings, that of 300 s and 900 s.
const TIMER_PERIOD: Span = Span::from_millis(16_384);
/// The finest, that of 1 s.
const TIMER_STEP: Span = Span::from_millis(32);
/// Goes through the steps of seconds, through those of a minute and through those of five in few strides.
const TIMER_STRIDE: Span = Span::from_millis(2_048 + 256 + 32);
/// The recording host was left alone for so long before the first step.
const SETTLE: Span = Span::from_millis(300);

fn play_at(scenario: &Scenario, start: Mono, tell: &mut dyn FnMut(&str)) -> Outcome {
    if scenario.kind == "cli" {
        return session::play(scenario, tell);
    }
    if !scenario.kind.is_empty() {
        return Outcome::Unsupported(format!("sessions of kind `{}` are not played", scenario.kind));
    }
    let mut player = match Player::new(scenario, start, tell) {
        Ok(p) => p,
        Err(why) => return Outcome::Unsupported(why),
    };
    match player.run() {
        Ok(()) => {}
        Err(Stop::Unsupported(why)) => return Outcome::Unsupported(why),
        Err(Stop::Differs(why)) => return Outcome::Differs(why),
    }
    player.verdict()
}

enum Stop {
    Unsupported(String),
    Differs(String),
}

struct Player<'s, 't> {
    scenario: &'s Scenario,
    tell: &'t mut dyn FnMut(&str),
    catalog: Catalog,
    zero: Baseline,
    /// The estimator with every phase its timer may have had in the recording, and its next tick. Phases
    /// that contradict a recorded listing are dropped.
    rates: Vec<(Mono, Rates)>,
    engine: Engine,
    out: Out,
    memory: Vec<u8>,
    /// When the session begins.
    start: Mono,
    now: Mono,
    step: usize,
    emitted: Vec<Emitted>,
    inputs: Vec<Option<Vec<u8>>>,
    verdicts: Vec<String>,
    own: Vec<IpAddr>,
    /// Listings that differ, by step.
    text_differences: Vec<(usize, String)>,
    keep_discovery: bool,
}

impl<'s, 't> Player<'s, 't> {
    fn new(
        scenario: &'s Scenario,
        born: Mono,
        tell: &'t mut dyn FnMut(&str),
    ) -> Result<Player<'s, 't>, String> {
        let mut catalog = Catalog::new(Arc::new(setup::plan(scenario)?));
        catalog.now = born;
        let options = EngineOptions {
            connection_limit: CONNECTIONS,
            seed: 1,
            host: HostOptions { icmp_limit: None, announce: false, midnight_ms: 0 },
            ..EngineOptions::default()
        };
        let mut engine = Engine::new(born, options, catalog.commit()).map_err(|e| e.to_string())?;
        // one after the other: some take effect at once, others when a timer comes around
        for (name, value) in &scenario.sysctls {
            setup::sysctl(name, value, &mut catalog.sysctl)?;
            engine.on_snapshot(born, catalog.commit());
        }
        let mut zero = Baseline::default();
        let mut errors = Vec::new();
        for line in &scenario.ipvsadm {
            let done = command(line, &mut catalog, &mut zero);
            if let Err(e) = done {
                errors.push(format!("ipvsadm {line}: rc={} {}\n", e.code, e.text));
            }
            // each line was a transaction of its own: schedulers see one change after the other
            catalog.commit();
        }
        if errors != scenario.errors {
            let odd = errors.iter().find(|e| !scenario.errors.contains(e));
            let odd = odd.or(scenario.errors.iter().find(|e| !errors.contains(e)));
            return Err(format!("ipvsadm refused: {:?}", odd.map_or("", |o| o.trim_end())));
        }
        engine.on_snapshot(born, catalog.commit());
        let own = scenario.ports.iter().flat_map(|p| &p.addrs);
        let own = own.filter_map(|a| a.split('/').next()?.parse().ok()).collect();
        let keep_discovery =
            scenario.expect.iter().flatten().any(|e| e.frame_hex.get(24..28) == Some("0806"));
        Ok(Player {
            scenario,
            tell,
            catalog,
            zero,
            rates: phases(scenario, born + SETTLE),
            engine,
            out: Out::new(),
            memory: vec![0; HEADROOM + MAX_FRAME],
            start: born + SETTLE,
            now: born,
            step: 0,
            emitted: Vec::new(),
            inputs: vec![None; scenario.steps.len()],
            verdicts: vec!["no packet".into(); scenario.steps.len()],
            own,
            text_differences: Vec::new(),
            keep_discovery,
        })
    }

    fn run(&mut self) -> Result<(), Stop> {
        let mut texts = self.scenario.texts.iter().peekable();
        for (i, step) in self.scenario.steps.iter().enumerate() {
            self.advance(step.at_ms);
            self.step = i;
            self.act(step)?;
            while let Some(text) = texts.next_if(|t| t.after_step <= i) {
                self.advance(text.at_ms.max(step.at_ms + TEXT_DELAY_MS));
                self.list(text)?;
            }
        }
        let late = self
            .scenario
            .expect
            .iter()
            .flatten()
            .filter_map(|e| Some(self.scenario.steps.get(e.in_step)?.at_ms + e.late_ms?));
        if let Some(last) = late.max() {
            self.advance(last + last / 10);
        }
        Ok(())
    }

    /// Milliseconds since the session began.
    fn at_ms(&self) -> u64 {
        self.now.since(self.start).as_millis()
    }

    /// Lets time pass, with everything that is due on the way.
    fn advance(&mut self, to_ms: u64) {
        let to = (self.start + Span::from_millis(to_ms)).max(self.now);
        loop {
            let ticks = self.rates.iter().map(|(at, _)| *at);
            let due = self.engine.poll_timeout().into_iter().chain(ticks).min();
            let Some(due) = due.filter(|d| *d <= to) else { break };
            // a timer that stays due must not stop the clock: the engine works in bounded portions
            let stuck = due <= self.now;
            self.now = if stuck { (self.now + Span::from_millis(1)).min(to) } else { due };
            for (at, rates) in self.rates.iter_mut().filter(|(at, _)| *at <= self.now) {
                rates.tick(self.catalog.services());
                *at = *at + RATE_INTERVAL;
            }
            self.engine.on_timeout(self.now, &mut self.out);
            self.drain();
            if stuck && self.now >= to {
                break;
            }
        }
        self.now = to;
    }

    fn act(&mut self, step: &Step) -> Result<(), Stop> {
        if let Some(cmd) = &step.cmd {
            let line = cmd.strip_prefix("ipvsadm ").ok_or_else(|| {
                Stop::Unsupported(format!("step {}: the recording host ran `{cmd}`", self.step))
            })?;
            self.catalog.now = self.now;
            let done = command(line, &mut self.catalog, &mut self.zero);
            let was = self.scenario.cmd_results.iter().find(|r| r.step == self.step && r.rc != 0);
            let same = match (&done, was) {
                (Ok(_), None) => true,
                (Err(e), Some(was)) => {
                    i32::from(e.code) == was.rc && e.text.trim_end() == was.stderr.trim_end()
                }
                _ => false,
            };
            if !same {
                let done = done.map_or_else(|e| format!("rc={} {e}", e.code), |_| "done".to_owned());
                let was = was.map_or("done".to_owned(), |was| format!("rc={} {}", was.rc, was.stderr));
                return Err(Stop::Differs(format!("step {}: `{cmd}`: {done}, expected {was}", self.step)));
            }
            if let Ok(Command::Zero(key)) = done {
                let services = self.catalog.services().iter();
                for s in services.filter(|s| key.is_none_or(|k| k == s.spec.key)) {
                    self.rates.iter_mut().for_each(|(_, rates)| rates.zero(s));
                }
            }
            self.commit();
        }
        for (name, value) in &step.sysctl {
            setup::sysctl(name, value, &mut self.catalog.sysctl).map_err(Stop::Unsupported)?;
            self.commit();
        }
        let (port, bytes) = match (&step.frame_hex, &step.tcp) {
            (Some(hex), _) => {
                let name = step.port.as_deref().unwrap_or("");
                let port = self.scenario.ports.iter().position(|p| p.name == name);
                let port = port.ok_or_else(|| Stop::Unsupported(format!("no port is named `{name}`")))?;
                (port, unhex(hex).map_err(Stop::Unsupported)?)
            }
            (None, Some(shorthand)) => self.shorthand(shorthand).map_err(Stop::Unsupported)?,
            (None, None) => return Ok(()),
        };
        let at = self.at_ms();
        (self.tell)(&format!("{at} in  {}", decode::frame(&bytes)));
        let told = self.engine.explain(self.now, PortId(port as u16), &bytes, Offload::NONE);
        let mut packet = PacketBuf::empty(&mut self.memory, HEADROOM);
        packet.fill(&bytes);
        let verdict = self.engine.on_packet(self.now, PortId(port as u16), &mut packet, &mut self.out);
        let sent = match verdict {
            Verdict::Send(port) => Some((port, packet.bytes().to_vec())),
            Verdict::Taken(_) | Verdict::HandTo(_) | Verdict::Drop(_) => None,
        };
        if !told.is_ok_and(|t| t.verdict == verdict && t.output == sent) {
            return Err(Stop::Differs("the packet was explained otherwise".to_owned()));
        }
        self.verdicts[self.step] = format!("{verdict:?}");
        self.inputs[self.step] = Some(bytes);
        (self.tell)(&format!("        {verdict:?}"));
        if let Some((port, bytes)) = sent {
            self.keep(port, bytes);
        }
        self.drain();
        Ok(())
    }

    fn commit(&mut self) {
        self.catalog.now = self.now;
        self.engine.on_snapshot(self.now, self.catalog.commit());
    }

    fn shorthand(&self, text: &str) -> Result<(usize, Vec<u8>), String> {
        let port =
            self.scenario.ports.iter().position(|p| p.name == "wan").ok_or("no port is named `wan`")?;
        let wan = &self.scenario.ports[port];
        let gateway = wan.gateway.map(IpAddr::V4);
        let from = wan.neigh.iter().find(|n| Some(n.ip) == gateway).or(wan.neigh.first());
        let from: Mac = from.ok_or("port `wan` has no neighbour")?.mac.parse()?;
        Ok((port, frame::tcp(text, wan.mac.parse()?, from)?))
    }

    fn drain(&mut self) {
        while let Some((port, packet)) = self.out.pop() {
            let bytes = packet.bytes().to_vec();
            self.keep(port, bytes);
            self.out.recycle(packet);
        }
    }

    fn keep(&mut self, port: PortId, bytes: Vec<u8>) {
        let name = self.scenario.ports.get(usize::from(port.0)).map_or("?", |p| &p.name).to_string();
        let at_ms = self.at_ms();
        (self.tell)(&format!("{at_ms} out {name} {}", decode::frame(&bytes)));
        if self.keep_discovery || !is_discovery(&bytes) {
            self.emitted.push(Emitted { step: self.step, at_ms, port: name, bytes });
        }
    }

    fn list(&mut self, text: &Text) -> Result<(), Stop> {
        if text.args.starts_with('!') {
            // a look at the recording host's kernel, which is not there
            return Ok(());
        }
        let words: Vec<_> = text.args.split_whitespace().collect();
        let what = match parse(&words) {
            Ok(Command::List(what)) => what,
            Ok(Command::Save(true)) => {
                let got = list::rules(self.catalog.services(), None);
                if let Err(why) = texts::compare(text, &got) {
                    self.text_differences.push((text.after_step, format!("ipvsadm {}: {why}", text.args)));
                }
                return Ok(());
            }
            other => return Err(Stop::Unsupported(format!("listing `{}`: {other:?}", text.args))),
        };
        let at = self.at_ms();
        let none = Rates::default();
        let source = Source {
            services: self.catalog.services(),
            zero: &self.zero,
            rates: &none,
            timeouts: &self.catalog.timeouts,
            names: &Names::default(),
        };
        let compared = match what.show {
            Show::Connections { persistence } => {
                let got = conns::listing(
                    self.engine.connections(self.now).chain(self.engine.templates(self.now)),
                    persistence,
                );
                (self.tell)(&format!("{at} ipvsadm {}\n{got}", text.args));
                texts::compare(text, &got)
            }
            Show::Rate | Show::Stats if !self.rates.is_empty() => {
                let services = self.catalog.services();
                let one = |(_, rates): &(Mono, Rates)| {
                    let zero = rates.as_of_tick(services);
                    let source = Source { rates, zero: &zero, ..source };
                    texts::compare(text, &list::listing(source, &what).unwrap_or_default())
                };
                let results: Vec<_> = self.rates.iter().map(one).collect();
                match results.iter().any(Result::is_ok) {
                    true => {
                        let mut fits = results.iter().map(Result::is_ok);
                        self.rates.retain(|_| fits.next().unwrap_or(false));
                        Ok(())
                    }
                    false => results.into_iter().collect(),
                }
            }
            _ => {
                let got = list::listing(source, &what).unwrap_or_default();
                (self.tell)(&format!("{at} ipvsadm {}\n{got}", text.args));
                texts::compare(text, &got)
            }
        };
        if let Err(why) = compared {
            self.text_differences.push((text.after_step, format!("ipvsadm {}: {why}", text.args)));
        }
        Ok(())
    }

    /// The first thing that differs: frames first, since a listing follows from them.
    fn verdict(&self) -> Outcome {
        let notes: Vec<_> = self.scenario.steps.iter().map(|s| s.note.clone()).collect();
        let times: Vec<_> = self.scenario.steps.iter().map(|s| s.at_ms).collect();
        let cx = Context {
            inputs: &self.inputs,
            times: &times,
            notes: &notes,
            own: &self.own,
            verdicts: &self.verdicts,
        };
        let frames = match &self.scenario.expect {
            Some(expected) => compare::frames(expected, &self.emitted, &cx),
            None => Ok(()),
        };
        let picked = picks::check(self.scenario, &self.emitted, &cx);
        let text = self.text_differences.first();
        let text = text.map(|(step, why)| format!("{}: {why}", compare::step_name(*step, &cx)));
        match frames.err().or(picked.err()).or(text) {
            None => match self.engine.check() {
                Ok(()) => Outcome::Same,
                Err(why) => Outcome::Differs(format!("at the end: {why}")),
            },
            Some(why) => Outcome::Differs(why),
        }
    }
}

/// The kernel's estimator ticks from a moment no recording tells: all phases are tried, 10 ms apart.
fn phases(scenario: &Scenario, start: Mono) -> Vec<(Mono, Rates)> {
    let zeroes = scenario.steps.iter().filter_map(|s| s.cmd.as_deref()).any(|c| c.contains("-Z"));
    let wanted = zeroes || scenario.texts.iter().any(|t| t.args.contains("--rate"));
    let steps = if wanted { RATE_INTERVAL.as_millis() / 10 } else { 0 };
    (1..=steps).map(|i| (start + Span::from_millis(i * 10), Rates::default())).collect()
}

fn command(line: &str, catalog: &mut Catalog, zero: &mut Baseline) -> Result<Command, Refusal> {
    let words: Vec<_> = line.split_whitespace().collect();
    let command = parse(&words)?;
    apply(&command, catalog, zero)?;
    Ok(command)
}

/// ARP, neighbour discovery and group membership were left out of the recordings.
fn is_discovery(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x06]) => true,
        Some([0x08, 0x00]) => frame.get(23) == Some(&2),
        Some([0x86, 0xdd]) => match frame.get(20) {
            // behind a hop-by-hop header comes nothing but listener reports
            Some(0) => frame.get(54) == Some(&58),
            Some(58) => matches!(frame.get(54), Some(130..=133 | 135 | 136 | 143)),
            _ => false,
        },
        _ => false,
    }
}
