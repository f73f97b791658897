//! Writes what passes a port, both ways, to a capture file.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use tracing::warn;

use crate::buf::PacketBuf;
use crate::io::pcap::Writer;
use crate::io::{Burst, Port, PortError, PortInfo, SendReport, SlotIter};
use crate::time::{Mono, Span};

/// A port whose packets are recorded: received ones as they come, sent ones as they are handed over.
#[derive(Debug)]
pub struct Recorder<P, W: Write> {
    inner: P,
    /// `None` after an error: traffic goes on without being recorded.
    writer: Option<Writer<W>>,
    clock: fn() -> Mono,
}

impl<P: Port, W: Write> Recorder<P, W> {
    /// Records `inner` to `to`, with the times of `clock`.
    ///
    /// # Errors
    /// What writing the header said.
    pub fn new(inner: P, to: W, clock: fn() -> Mono) -> io::Result<Recorder<P, W>> {
        let writer = Some(Writer::new(to, inner.info().link)?);
        Ok(Recorder { inner, writer, clock })
    }

    fn record<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) {
        let Some(writer) = &mut self.writer else { return };
        let at = Span((self.clock)().0);
        let mut done = Ok(());
        for frame in frames {
            done = done.and_then(|()| writer.write(at, frame));
        }
        if let Err(error) = done.and_then(|()| writer.flush()) {
            warn!(port = %self.inner.info().name, %error, "recording stopped, traffic goes on");
            self.writer = None;
        }
    }
}

impl<P: Port, W: Write + Send> Port for Recorder<P, W> {
    fn info(&self) -> &PortInfo {
        self.inner.info()
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }
    fn ready_at(&mut self, now: Mono) -> Option<Mono> {
        self.inner.ready_at(now)
    }
    fn recv_burst<'m>(&mut self, slots: &mut SlotIter<'m>, burst: &mut Burst<'m>) -> Result<(), PortError> {
        let before = burst.len();
        let result = self.inner.recv_burst(slots, burst);
        if burst.len() > before {
            self.record(burst[before..].iter().map(PacketBuf::bytes));
        }
        result
    }
    fn send_burst(
        &mut self,
        packets: &mut [&mut PacketBuf<'_>],
        report: &mut SendReport,
    ) -> Result<(), PortError> {
        self.record(packets.iter().map(|p| p.bytes()));
        self.inner.send_burst(packets, report)
    }
    fn reopen(&mut self) -> io::Result<()> {
        self.inner.reopen()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::addr::Mac;
    use crate::buf::{HEADROOM, Offload};
    use crate::host::OffloadCaps;
    use crate::io::mem::{MemPort, info};
    use crate::io::{Slots, pcap};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, b: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(b);
            Ok(b.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn both_directions_are_in_the_capture() {
        let side = |n| info(n, Mac::default(), OffloadCaps::default());
        let (a, mut b) = MemPort::pair(side("a"), side("b"), 8).unwrap();
        let file = Shared::default();
        let mut port = Recorder::new(a, file.clone(), || Mono(77)).unwrap();
        b.push(&[1; 60], Offload::NONE);
        let mut slots = Slots::new(2, 2048);
        port.recv_burst(&mut slots.iter(), &mut Burst::new()).unwrap();
        let mut mem = vec![0; 300];
        let mut p = PacketBuf::empty(&mut mem, HEADROOM);
        p.fill(&[2; 60]);
        port.send_burst(&mut [&mut p], &mut SendReport::default()).unwrap();
        let bytes = file.0.lock().unwrap().clone();
        let mut r = pcap::Reader::new(&bytes[..]).unwrap();
        let mut frame = Vec::new();
        for want in [1, 2] {
            assert_eq!(r.read(&mut frame).unwrap().unwrap().at, Span(77));
            assert_eq!(frame, [want; 60]);
        }
        assert!(r.read(&mut frame).unwrap().is_none());
    }
}
