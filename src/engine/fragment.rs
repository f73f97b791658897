//! Fragments: put together here, handled as one datagram, cut again on the way out (IPVS-RULES 36 to 41).

use super::family::IpFamily;
use super::input::Arrival;
use super::post::Recipient;
use super::{Core, DropReason, Taken, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::conn::key::Tuple;
use crate::conn::table::Side;
use crate::host::IcmpError;
use crate::host::frag::{Insert, fragment_header};
use crate::svc::Snapshot;
use crate::time::Mono;
use crate::wire::{Family, Meta, Parsed, ipv6, parse};

impl Core {
    pub(super) fn fragment<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: &Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let (src, dst) = (meta.src(pkt.bytes()), meta.dst(pkt.bytes()));
        if let Some(why) = self.host.check_source(at.port, src).or_else(|| self.host.check_dest(at.port, dst))
        {
            return Verdict::Drop(why);
        }
        // on its way through, each IPv4 fragment is a packet that has its own hops left
        let local = self.host.owns(at.port, dst).is_unicast();
        if !A::V6 && !local && snap.net.marks.is_empty() && meta.ttl <= 1 {
            if meta.frag_offset == 0 {
                self.host.error(at.now, IcmpError::TimeExceeded, at.port, pkt.bytes(), meta, None, out);
            }
            return Verdict::Drop(DropReason::TtlExpired);
        }
        // memory is for what may be ours: packets to us, to marked services, and real servers' replies
        let ours = local || !snap.net.marks.is_empty();
        if !ours && !snap.net.forwarding && !snap.reals.contains_key(&src) {
            return Verdict::Drop(DropReason::NotOurs);
        }
        let (mut whole, largest) = match self.frags.insert(at.now, at.port, pkt.bytes(), meta, out) {
            Insert::Incomplete => {
                self.tell_fragment(meta, || "kept until the others come".to_owned());
                return Verdict::Taken(Taken::Reassembling);
            }
            Insert::Drop(why) => {
                self.tell_fragment(meta, || format!("cannot be used: {}", why.name()));
                return Verdict::Drop(why);
            }
            Insert::Complete(whole, largest) => (whole, largest),
        };
        let bytes = whole.bytes().len();
        self.tell_fragment(meta, || format!("the last one: a datagram in a frame of {bytes} bytes"));
        // the fragments were ours, the datagram may be another worker's
        let largest = largest.min(usize::from(u16::MAX)) as u16;
        let at = Arrival { largest, handed: false, plain: false, ..at };
        let link = self.links[usize::from(at.port.0)];
        let verdict = whole.edit(|p| match parse(p.bytes(), link) {
            Ok(Parsed::Ip(meta)) if !meta.is_fragment() && !is_atomic(p.bytes(), &meta) => {
                let hash = A::table(&mut self.tables).hash(&A::tuple(p.bytes(), &meta));
                self.ip::<A>(snap, at, meta, hash, p, out)
            }
            Ok(_) => Verdict::Drop(DropReason::BadFragment),
            Err(why) => Verdict::Drop(why),
        });
        match verdict {
            Verdict::Send(port) => {
                out.push(port, whole);
                Verdict::Taken(Taken::Split)
            }
            Verdict::HandTo(worker) => {
                self.hand(Recipient::Worker(worker), at, whole);
                Verdict::Taken(Taken::Handed)
            }
            other => {
                out.recycle(whole);
                other
            }
        }
    }

    /// Tells senders whose datagrams stayed incomplete (IPVS-RULES 40).
    pub(super) fn fragment_timeouts(&mut self, snap: &Snapshot, now: Mono, out: &mut Out) {
        let (host, links) = (&mut self.host, &self.links);
        let (mut told4, mut told6) = (Vec::new(), Vec::new());
        self.frags.on_timeout(now, out, |out, port, first| {
            if let Some(link) = links.get(usize::from(port.0))
                && let Ok(Parsed::Ip(meta)) = parse(first.bytes(), *link)
            {
                let kind = IcmpError::ReassemblyTimeout;
                host.recall_options(first.bytes(), &meta, true);
                let bytes = host.error(now, kind, port, first.bytes(), &meta, None, out) as u64;
                match meta.family {
                    _ if bytes == 0 => {}
                    Family::V4 => told4.push((u32::tuple(first.bytes(), &meta), bytes)),
                    Family::V6 => told6.push((u128::tuple(first.bytes(), &meta), bytes)),
                }
            }
            out.recycle(first);
        });
        self.count_told(snap, &told4);
        self.count_told(snap, &told6);
    }

    /// What the director tells a client whose real server answers by itself counts as that one's output,
    /// as in [`Core::deliver`].
    fn count_told<A: IpFamily>(&mut self, snap: &Snapshot, told: &[(Tuple<A>, u64)]) {
        for (tuple, bytes) in told {
            let table = A::table(&mut self.tables);
            let found = table.lookup(tuple).map(|(slot, side)| (table.get(slot), side));
            if let Some((conn, Side::Client)) = found
                && !conn.two_keys()
                && let Some(dest) = snap.dest(conn.dest).filter(|d| d.available)
            {
                dest.count_output(self.worker, *bytes);
            }
        }
    }
}

/// Is this an IPv6 packet with a fragment header although it is whole (RFC 6946)? It goes on without.
#[inline]
pub(super) fn is_atomic(frame: &[u8], meta: &Meta) -> bool {
    let (l3, l4) = (meta.l3 as usize, meta.l4 as usize);
    l4 - l3 > ipv6::LEN && frame[l3] >> 4 == 6 && fragment_header(frame, l3, l4).is_some()
}
