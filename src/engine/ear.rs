//! Frames for somebody beside the packet path: whoever asks the network through a port that only the director has
//! (`softlvs doctor`) hears what comes in and sends frames of his own. Hearing changes nothing about what becomes of
//! a packet, and costs a director that nobody listens to one test a burst.

use super::{Engine, PortId};
use crate::buf::{Offload, Out, PacketBuf};

type Tell = dyn FnMut(PortId, &[u8]) -> bool + Send;

/// Is told of every frame as it came in, with its port; must not wait. False: it wants no more.
pub(super) struct Ear(Box<Tell>);

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ear")
    }
}

impl Engine {
    /// Tells `tell` of every frame that this engine's devices give, until it returns false or somebody else
    /// listens.
    pub fn listen(&mut self, tell: impl FnMut(PortId, &[u8]) -> bool + Send + 'static) {
        self.ear = Some(Ear(Box::new(tell)));
    }
    /// Nobody listens any more.
    pub fn stop_listening(&mut self) {
        self.ear = None;
    }
    /// Sends a frame that is whole: nothing is added and nobody asked.
    pub fn send_frame(&mut self, port: PortId, frame: &[u8], out: &mut Out) {
        let packet = out.copy_of(frame, Offload::NONE);
        out.push(port, packet);
        self.core.counters.made += 1;
    }
    #[cold]
    pub(super) fn overhear(&mut self, port: PortId, burst: &[PacketBuf<'_>]) {
        let Some(Ear(tell)) = &mut self.ear else { return };
        if !burst.iter().all(|pkt| tell(port, pkt.bytes())) {
            self.ear = None;
        }
    }
}
