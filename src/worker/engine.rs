//! The engine as what a worker drives.

use super::Director;
use crate::buf::{Out, PacketBuf};
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
        Engine::on_burst(self, now, port, burst, verdicts, out);
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
