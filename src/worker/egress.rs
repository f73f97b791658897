//! The way out: packets grouped by port, made to fit the device, sent in order, losses counted.

use arrayvec::ArrayVec;

use super::Director;
use super::lane::{Lane, Lanes};
use crate::buf::{Csum, Out, OwnedPacket, PacketBuf};
use crate::engine::{DropReason, PortId, Verdict};
use crate::io::fit::{Need, need};
use crate::io::{BURST, Burst, SendReport};
use crate::time::Mono;
use crate::tunnel::whole;
use crate::wire::offload::{self, SegmentCsum};
use crate::wire::{Link, Parsed, parse, sctp};

type Batch<'a, 'm> = ArrayVec<&'a mut PacketBuf<'m>, BURST>;

/// Buffers of the way out.
#[derive(Default)]
pub(super) struct Egress {
    /// Segments of super-frames a device cannot take.
    segments: Out,
}

impl Egress {
    /// Sends the packets of a burst whose verdict says so, port by port.
    pub(super) fn burst(
        &mut self,
        now: Mono,
        lanes: &mut Lanes,
        burst: &mut Burst<'_>,
        verdicts: &[Verdict],
        director: &mut impl Director,
    ) {
        let mut wanted = 0u64;
        let mut lost = 0;
        for verdict in verdicts {
            if let Verdict::Send(PortId(p)) = verdict {
                if usize::from(*p) < lanes.ports() { wanted |= 1 << p } else { lost += 1 }
            }
        }
        if lost > 0 {
            director.device_drop(PortId(lanes.ports() as u16), DropReason::DeviceDown, lost);
        }
        while wanted != 0 {
            let id = PortId(wanted.trailing_zeros() as u16);
            wanted &= wanted - 1;
            let Some(lane) = lanes.way_out(id) else { continue };
            let mut batch = Batch::new();
            for (packet, verdict) in burst.iter_mut().zip(verdicts) {
                if *verdict == Verdict::Send(id) {
                    self.add(now, lane, id, &mut batch, packet, director);
                }
            }
            send(now, lane, id, &mut batch, director);
        }
    }

    /// Sends what the director made, in the order in which it was made.
    pub(super) fn queue(
        &mut self,
        now: Mono,
        lanes: &mut Lanes,
        out: &mut Out,
        director: &mut impl Director,
    ) {
        let mut held = ArrayVec::<OwnedPacket, BURST>::new();
        let mut next = out.pop();
        while let Some((id, first)) = next.take() {
            held.push(first);
            while !held.is_full() {
                match out.pop() {
                    Some((same, packet)) if same == id => held.push(packet),
                    other => {
                        next = other;
                        break;
                    }
                }
            }
            if held.is_full() {
                next = out.pop();
            }
            match lanes.way_out(id) {
                Some(lane) => {
                    let mut views: ArrayVec<PacketBuf<'_>, BURST> =
                        held.iter_mut().map(OwnedPacket::view).collect();
                    let mut batch = Batch::new();
                    for packet in &mut views {
                        self.add(now, lane, id, &mut batch, packet, director);
                    }
                    send(now, lane, id, &mut batch, director);
                }
                None => director.device_drop(id, DropReason::DeviceDown, held.len() as u64),
            }
            for packet in held.drain(..) {
                out.recycle(packet);
            }
        }
    }

    /// Puts a packet into the batch, after what its port's device needs was done to it.
    fn add<'a, 'm>(
        &mut self,
        now: Mono,
        lane: &mut Lane,
        id: PortId,
        batch: &mut Batch<'a, 'm>,
        packet: &'a mut PacketBuf<'m>,
        director: &mut impl Director,
    ) {
        let info = lane.port.info();
        let link = info.link;
        let fits = match need(packet.bytes(), &packet.offload, info.offload, link) {
            Ok(Need::Nothing) => Ok(true),
            Ok(Need::Complete) => complete(packet).map(|()| true),
            Ok(Need::Segment) => {
                let how = if info.offload.csum { SegmentCsum::Partial } else { SegmentCsum::Complete };
                // what came before it must leave before it
                send(now, lane, id, batch, director);
                self.segment(packet, link, how, id).map(|()| false)
            }
            Err(why) => Err(why),
        };
        match fits {
            Ok(true) => {
                if batch.is_full() {
                    send(now, lane, id, batch, director);
                }
                batch.push(packet);
            }
            Ok(false) => self.send_segments(now, lane, id, director),
            Err(why) => director.device_drop(id, why, 1),
        }
    }

    fn segment(
        &mut self,
        packet: &PacketBuf<'_>,
        link: Link,
        how: SegmentCsum,
        id: PortId,
    ) -> Result<(), DropReason> {
        let (frame, segments) = (packet.bytes(), &mut self.segments);
        if let Some(inside) = whole::find(frame, &packet.offload, link) {
            whole::segment(packet, &inside, how, segments, |out, p| out.push(id, p))?;
            return Ok(());
        }
        let Parsed::Ip(meta) = parse(frame, link)? else { return Err(DropReason::BadSegmentation) };
        let any = usize::from(u16::MAX);
        offload::segment(packet, &meta, any, how, segments, |out, p| out.push(id, p))?;
        Ok(())
    }

    fn send_segments(&mut self, now: Mono, lane: &mut Lane, id: PortId, director: &mut impl Director) {
        let mut held = ArrayVec::<OwnedPacket, BURST>::new();
        while !self.segments.is_empty() {
            held.extend(std::iter::from_fn(|| self.segments.pop()).map(|(_, p)| p).take(BURST));
            let mut views: ArrayVec<PacketBuf<'_>, BURST> = held.iter_mut().map(OwnedPacket::view).collect();
            let mut batch: Batch<'_, '_> = views.iter_mut().collect();
            send(now, lane, id, &mut batch, director);
            drop(batch);
            drop(views);
            for packet in held.drain(..) {
                self.segments.recycle(packet);
            }
        }
    }
}

/// Completes a partial checksum: SCTP's is a CRC, which no virtio-net header can ask a device for.
fn complete(packet: &mut PacketBuf<'_>) -> Result<(), DropReason> {
    match packet.offload.csum {
        Csum::Partial { start, offset } if usize::from(offset) == sctp::field::CHECKSUM => {
            let from = packet.bytes_mut().get_mut(usize::from(start)..).ok_or(DropReason::BadOffload)?;
            sctp::fill(from).ok_or(DropReason::BadOffload)?;
            packet.offload.csum = Csum::Complete;
            Ok(())
        }
        _ => offload::complete_checksum(packet),
    }
}

/// Hands a batch to the device and empties it; counts what was lost.
fn send(now: Mono, lane: &mut Lane, id: PortId, batch: &mut Batch<'_, '_>, director: &mut impl Director) {
    if batch.is_empty() {
        return;
    }
    let mut report = SendReport::default();
    if lane.works()
        && let Err(e) = lane.port.send_burst(batch, &mut report)
    {
        lane.fail(now, &e);
    }
    let down = batch.len().saturating_sub(report.total());
    lane.counters.sent(&report, down);
    let losses = [
        (DropReason::DeviceFull, report.full),
        (DropReason::DeviceRefused, report.refused),
        (DropReason::DeviceDown, down),
    ];
    for (why, n) in losses {
        if n > 0 {
            director.device_drop(id, why, n as u64);
        }
    }
    batch.clear();
}
