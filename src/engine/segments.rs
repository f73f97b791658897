//! Super-frames of connections a helper reads along with: a text of another length cannot be put into one
//! packet that stands for many, so they are cut first and go on one by one.

use super::family::IpFamily;
use super::input::Arrival;
use super::post::Recipient;
use super::{Core, DropReason, Taken, Verdict};
use crate::buf::{Out, PacketBuf};
use crate::svc::Snapshot;
use crate::wire::offload::{self, SegmentCsum};
use crate::wire::{Meta, Parsed, parse};

impl Core {
    /// Takes a super-frame as the packets it stands for, in their order.
    #[cold]
    pub(super) fn one_by_one<A: IpFamily>(
        &mut self,
        snap: &Snapshot,
        at: Arrival,
        meta: &Meta,
        pkt: &PacketBuf<'_>,
        out: &mut Out,
    ) -> Verdict {
        let Some(&link) = self.links.get(usize::from(at.port.0)) else {
            return Verdict::Drop(DropReason::DeviceDown);
        };
        let mut pieces = Vec::new();
        let keep = |_: &mut Out, piece| pieces.push(piece);
        if let Err(why) = offload::segment(pkt, meta, usize::MAX, SegmentCsum::Partial, out, keep) {
            return Verdict::Drop(why);
        }
        for mut piece in pieces {
            let verdict = piece.edit(|p| match parse(p.bytes(), link) {
                Ok(Parsed::Ip(meta)) => {
                    let tuple = A::tuple(p.bytes(), &meta);
                    let hash = A::table(&mut self.tables).hash(&tuple);
                    self.ip::<A>(snap, at, meta, hash, p, out)
                }
                Ok(_) => Verdict::Drop(DropReason::BadSegmentation),
                Err(why) => Verdict::Drop(why),
            });
            match verdict {
                Verdict::Send(port) => out.push(port, piece),
                Verdict::Taken(_) => out.recycle(piece),
                Verdict::HandTo(worker) => self.hand(Recipient::Worker(worker), at, piece),
                Verdict::Drop(why) => {
                    self.host.drops.count(why);
                    out.recycle(piece);
                }
            }
        }
        Verdict::Taken(Taken::Split)
    }
}
