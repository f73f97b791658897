//! Packets whose transport header is cut off after its ports (vectors `7-garbage-*`).
//!
//! The kernel finds the connection of such a packet by its four bytes of ports, counts it and re-arms the
//! timer; the state stays, since there are no flags to read. TUN and DR touch nothing behind the IP header
//! and send it on. NAT has a checksum to write and no place for it: dropped, but counted. Nothing else
//! takes such a packet, so that everybody else can trust [`Meta`]'s promise.

use super::family::IpFamily;
use super::inbound::timeout;
use super::input::Arrival;
use super::{Core, DropReason, Verdict};
use crate::buf::{Offload, Out, PacketBuf};
use crate::conn::table::Side;
use crate::host::options;
use crate::svc::{Proto, Snapshot};
use crate::wire::meta::parse_quoted;
use crate::wire::{Family, Meta};

const DROP: Verdict = Verdict::Drop(DropReason::ShortTransport);

impl Core {
    /// A packet that [`crate::wire::parse`] refused for its short transport header and nothing else.
    #[cold]
    pub(super) fn stub(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let l3 = self.links.get(usize::from(at.port.0)).map_or(0, |link| link.header_len());
        let family = match pkt.bytes().get(l3).map(|b| b >> 4) {
            Some(4) => Family::V4,
            Some(6) => Family::V6,
            _ => return DROP,
        };
        let Ok(meta) = parse_quoted(pkt.bytes(), l3, family) else { return DROP };
        // the kernel sees first fragments after reassembly only; short ones are an attack, not traffic
        if meta.is_fragment() || Proto::from_number(meta.proto).is_none() || pkt.offload != Offload::NONE {
            return DROP;
        }
        pkt.truncate(meta.end as usize);
        if options::any(&meta)
            && let Some(verdict) = self.options::<u32>(snap, at, &meta, pkt, out)
        {
            return verdict;
        }
        match family {
            Family::V4 => self.stub_of::<u32>(snap, at, meta, pkt, out),
            Family::V6 => self.stub_of::<u128>(snap, at, meta, pkt, out),
        }
    }

    fn stub_of<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: Meta,
        pkt: &mut PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let tuple = A::tuple(pkt.bytes(), &meta);
        let found = A::table(&mut self.tables).lookup(&tuple).filter(|_| !snap.services.is_empty());
        let Some((slot, Side::Client)) = found else {
            return self.steered(at, &meta, pkt, out).filter(|_| found.is_none()).unwrap_or(DROP);
        };
        let table = A::table(&mut self.tables);
        let conn = table.get_mut(slot);
        let Some(dest) = snap.dest(conn.dest).filter(|d| d.available) else { return DROP };
        conn.packets = conn.packets.wrapping_add(1);
        let conn = *conn;
        table.touch(slot, at.now, timeout(snap, dest, conn.state));
        let bytes = meta.ip_len() as u64;
        dest.count_input(self.worker, bytes);
        if conn.two_keys() {
            return DROP;
        }
        self.deliver::<A>(snap, at, meta, pkt, &conn, dest, out)
    }
}
