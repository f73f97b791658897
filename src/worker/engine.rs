//! The engine as what a worker drives.

use super::Director;
use crate::buf::{Out, PacketBuf};
use crate::engine::post::Handing;
use crate::engine::steer::Outline;
use crate::engine::{DropReason, Engine, PortId, Verdict};
use crate::time::Mono;

impl Director for Engine {
    fn on_burst(
        &mut self,
        now: Mono,
        port: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        self.catch_up(now);
        Engine::on_burst(self, now, port, burst, verdicts, out);
    }
    fn on_handed(
        &mut self,
        now: Mono,
        port: PortId,
        burst: &mut [PacketBuf<'_>],
        verdicts: &mut [Verdict],
        out: &mut Out,
    ) {
        self.catch_up(now);
        Engine::on_handed(self, now, port, burst, verdicts, out);
    }
    fn on_whole(
        &mut self,
        now: Mono,
        port: PortId,
        largest: u16,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        Engine::on_whole(self, now, port, largest, pkt, out)
    }
    fn on_heard(&mut self, now: Mono, port: PortId, pkt: &mut PacketBuf<'_>, out: &mut Out) {
        Engine::on_heard(self, now, port, pkt, out);
    }
    fn poll_handing(&mut self) -> Option<Handing> {
        Engine::poll_handing(self)
    }
    fn poll_outline(&mut self) -> Option<Outline> {
        Engine::poll_outline(self)
    }
    fn handover_full(&mut self, n: u64) {
        Engine::handover_full(self, n);
    }
    fn poll_timeout(&self) -> Option<Mono> {
        Engine::poll_timeout(self)
    }
    fn on_timeout(&mut self, now: Mono, out: &mut Out) {
        Engine::on_timeout(self, now, out);
    }
    fn device_drop(&mut self, _: PortId, why: DropReason, n: u64) {
        Engine::device_drop(self, why, n);
    }
    fn on_port(&mut self, now: Mono, _: PortId, up: bool, out: &mut Out) {
        // a device that comes back may be a new one: bridges and neighbours have to hear of it again
        if up {
            self.announce(now, out);
        }
    }
}
