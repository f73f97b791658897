//! Packets with options in their IPv4 header: what the host's stack does with them before anything else
//! looks at the packet (kernel: `ip_rcv_options`), and what is left to do when it leaves.

use std::net::IpAddr;

use super::family::IpFamily;
use super::input::Arrival;
use super::{Core, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::host::Route;
use crate::svc::{Proto, Snapshot};
use crate::wire::Meta;

impl Core {
    /// Takes part in the options of a packet that came in. A verdict: that was all that is done with it.
    #[cold]
    #[inline(never)]
    pub(super) fn options<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: &Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Option<Verdict> {
        let (src, dst) = (meta.src(pkt.bytes()), meta.dst(pkt.bytes()));
        let proto = Proto::from_number(meta.proto);
        let marked = !snap.net.marks.is_empty() && snap.mark_of(proto, dst, meta.dport) != 0;
        let ours = self.host.owns(at.port, dst).is_unicast() || marked;
        let martian = self.host.check_source(at.port, src).or_else(|| self.host.check_dest(at.port, dst));
        if at.largest != 0 || martian.is_some() {
            // its fragments were here before, or it will be dropped
            self.host.recall_options(pkt.bytes(), meta, ours);
            return None;
        }
        let known =
            !meta.is_fragment() && A::table(&mut self.tables).lookup(&A::tuple(pkt.bytes(), meta)).is_some();
        if !known && let Some(verdict) = self.steered(at, meta, pkt, out) {
            return Some(verdict);
        }
        self.host.receive_options(at.now, at.port, meta, ours, pkt, out).err().map(Verdict::Drop)
    }

    /// A packet for somebody else leaves with what it has recorded.
    #[inline]
    pub(super) fn forward_options(&mut self, route: &Route, meta: &Meta, pkt: &mut PacketBuf<'_>) {
        if crate::host::options::any(meta) {
            let own = self.host.source_for(route, false);
            self.host.leave_options(meta, pkt, own);
        }
    }

    /// A packet leaves that a connection knows: as the service's address where that one speaks.
    #[inline]
    pub(super) fn leave_options(&mut self, meta: &Meta, pkt: &mut PacketBuf<'_>, from: Option<IpAddr>) {
        if crate::host::options::any(meta) {
            self.host.leave_options(meta, pkt, from);
        }
    }
}
