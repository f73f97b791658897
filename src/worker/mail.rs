//! What a worker gives to others and gets from them.

use arrayvec::ArrayVec;

use super::Director;
use super::egress::Egress;
use super::lane::Lanes;
use super::ring::{Bell, Inbox, Letter, Matter, Outbox, ring};
use super::stopwatch::{Pace, Stopwatch};
use crate::buf::{Out, OwnedPacket, PacketBuf};
use crate::engine::post::{HOST, Handing, Recipient};
use crate::engine::{PortId, Taken, Verdict};
use crate::io::{BURST, Burst};
use crate::svc::WorkerId;
use crate::time::Mono;

/// The rings of one worker to and from all others; none where there is only one.
#[derive(Default)]
pub(super) struct Mail {
    me: WorkerId,
    /// By worker; `None` at our own place.
    outboxes: Vec<Option<Outbox>>,
    inboxes: Vec<Inbox>,
    stopwatch: Stopwatch,
}

impl Mail {
    /// Rings between the workers that these bells wake.
    pub fn between(bells: &[std::sync::Arc<Bell>]) -> Vec<Mail> {
        let mail = |i| Mail { me: WorkerId(i as u16), ..Mail::default() };
        let mut all: Vec<Mail> = (0..bells.len()).map(mail).collect();
        if bells.len() < 2 {
            return all;
        }
        for from in 0..all.len() {
            for (to, bell) in bells.iter().enumerate() {
                if to == from {
                    all[from].outboxes.push(None);
                    continue;
                }
                let (outbox, inbox) = ring(bell.clone());
                all[from].outboxes.push(Some(outbox));
                all[to].inboxes.push(inbox);
            }
        }
        all
    }

    /// Counts how long the core has others' packets that are ours.
    pub fn pace(&mut self, pace: Pace) {
        self.stopwatch = Stopwatch::new(pace);
    }

    /// Something waits for us.
    pub fn waits(&self) -> bool {
        self.inboxes.iter().any(|inbox| !inbox.is_empty())
    }

    /// Gives away those packets of a burst that are others'.
    pub fn send(
        &mut self,
        port: PortId,
        burst: &[PacketBuf<'_>],
        verdicts: &[Verdict],
        director: &mut impl Director,
    ) {
        for (packet, verdict) in burst.iter().zip(verdicts) {
            if let Verdict::HandTo(WorkerId(owner)) = verdict {
                let outbox = self.outboxes.get_mut(usize::from(*owner)).and_then(Option::as_mut);
                let put = |o: &mut Outbox| o.put(Matter::Owned, port, packet.bytes(), packet.offload);
                if !outbox.is_some_and(put) {
                    director.handover_full(1);
                }
            }
        }
    }

    /// Gives away what the director made for others, and wakes whoever got anything.
    pub fn forward(&mut self, now: Mono, director: &mut impl Director, out: &mut Out) {
        while let Some(Handing { to, port, largest, mut packet }) = director.poll_handing() {
            match to {
                Recipient::Worker(WorkerId(owner)) => {
                    let outbox = self.outboxes.get_mut(usize::from(owner)).and_then(Option::as_mut);
                    let put = |o: &mut Outbox| {
                        o.put(Matter::Whole(largest), port, packet.bytes(), packet.offload())
                    };
                    if !outbox.is_some_and(put) {
                        director.handover_full(1);
                    }
                }
                Recipient::Listeners => {
                    for outbox in self.outboxes.iter_mut().skip(usize::from(HOST.0) + 1).flatten() {
                        // who has no room hears it another time: neighbours are asked again
                        let _ = outbox.put(Matter::Heard, port, packet.bytes(), packet.offload());
                    }
                    if self.me != HOST {
                        packet.edit(|p| director.on_heard(now, port, p, out));
                    }
                }
            }
            out.recycle(packet);
        }
        self.outboxes.iter_mut().flatten().for_each(Outbox::nudge);
    }

    /// Takes up to a burst from every other worker; true when there may be more.
    pub fn receive(
        &mut self,
        now: Mono,
        lanes: &mut Lanes,
        director: &mut impl Director,
        egress: &mut Egress,
        out: &mut Out,
    ) -> bool {
        let mut more = false;
        for inbox in &mut self.inboxes {
            let mut letters = ArrayVec::<Letter, BURST>::new();
            letters.extend(std::iter::from_fn(|| inbox.take()).take(BURST));
            more |= letters.is_full();
            let mut rest = letters.as_mut_slice();
            while let Some(first) = rest.first_mut() {
                let (matter, port) = (first.matter, first.port);
                if matter == Matter::Owned {
                    let same = |l: &Letter| l.matter == matter && l.port == port;
                    let n = rest.iter().take_while(|l| same(l)).count();
                    let (now_due, later) = rest.split_at_mut(n);
                    owned(now, now_due, lanes, director, egress, out, &mut self.stopwatch);
                    rest = later;
                } else {
                    single(now, first, lanes, director, egress, out);
                    rest = &mut rest[1..];
                }
            }
            for letter in letters {
                inbox.give_back(letter.packet);
            }
        }
        more
    }
}

/// Packets that are ours, all from one port.
fn owned(
    now: Mono,
    letters: &mut [Letter],
    lanes: &mut Lanes,
    director: &mut impl Director,
    egress: &mut Egress,
    out: &mut Out,
    stopwatch: &mut Stopwatch,
) {
    let Some(port) = letters.first().map(|l| l.port) else { return };
    let mut burst: Burst<'_> = letters.iter_mut().map(|l| l.packet.view()).collect();
    let mut verdicts = [Verdict::Taken(Taken::Local); BURST];
    let verdicts = &mut verdicts[..burst.len()];
    stopwatch.time(burst.len(), || director.on_handed(now, port, &mut burst, verdicts, out));
    egress.burst(now, lanes, &mut burst, verdicts, director);
}

fn single(
    now: Mono,
    letter: &mut Letter,
    lanes: &mut Lanes,
    director: &mut impl Director,
    egress: &mut Egress,
    out: &mut Out,
) {
    let Letter { matter, port, packet } = letter;
    let mut burst = Burst::new();
    burst.push(OwnedPacket::view(packet));
    match matter {
        Matter::Whole(largest) => {
            let verdict = director.on_whole(now, *port, *largest, &mut burst[0], out);
            egress.burst(now, lanes, &mut burst, &[verdict], director);
        }
        Matter::Owned | Matter::Heard => director.on_heard(now, *port, &mut burst[0], out),
    }
}
