//! Bursts of packets of chosen flows, and what goes through an engine with them.

use arrayvec::ArrayVec;
use softlvs::buf::{HEADROOM, Out, PacketBuf};
use softlvs::engine::{Engine, PortId, Verdict};
use softlvs::svc::{Forward, Tunnel, TunnelCsum};
use softlvs::time::Mono;
use softlvs::wire::sum::Delta;
use softlvs::wire::{be16, be32, put16, put32, put128};

pub const BURST: usize = 64;
pub const SLOT: usize = 512;

/// Every way to forward, by the name figures are given under.
pub const MODES: [(&str, Forward); 6] = [
    ("nat", Forward::Nat),
    ("fullnat", Forward::FullNat),
    ("dr", Forward::Dr),
    ("ipip", Forward::Tun(Tunnel::Ipip)),
    ("gre", Forward::Tun(Tunnel::Gre { csum: TunnelCsum::None })),
    ("gue", Forward::Tun(Tunnel::Gue { port: 6080, csum: TunnelCsum::None })),
];

/// Frames of one burst, made those of chosen flows by writing address, port and checksums.
pub struct Bursts {
    template: Vec<u8>,
    v6: bool,
    mem: Vec<u8>,
}

impl Bursts {
    pub fn new(v6: bool, flags: u8) -> Bursts {
        Bursts { template: super::tcp_frame(v6, 0, flags), v6, mem: vec![0; BURST * SLOT] }
    }
    pub fn fill(&mut self, mut flow: impl FnMut() -> u32) {
        for slot in self.mem.chunks_exact_mut(SLOT) {
            let frame = &mut slot[HEADROOM..HEADROOM + self.template.len()];
            frame.copy_from_slice(&self.template);
            let i = flow();
            let delta = if self.v6 {
                put128(frame, 22, super::client6(i));
                put16(frame, 54, super::port(i));
                Delta::new()
            } else {
                let (old, new) = (be32(frame, 26), 0x0b00_0000 + i);
                put32(frame, 26, new);
                put16(frame, 34, super::port(i));
                Delta::new().dword(old, new)
            };
            if !self.v6 {
                let sum = delta.apply(be16(frame, 24));
                put16(frame, 24, sum);
            }
        }
    }
    /// The frames as they are now; of no use after tunnelling.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.mem.chunks_exact(SLOT).map(|m| &m[HEADROOM..HEADROOM + self.template.len()])
    }
    pub fn packets(&mut self) -> ArrayVec<PacketBuf<'_>, BURST> {
        let len = self.template.len();
        let chunks = self.mem.chunks_exact_mut(SLOT);
        chunks.map(|m| PacketBuf::new(m, HEADROOM, HEADROOM + len, Default::default())).collect()
    }
}

pub fn run(engine: &mut Engine, now: Mono, bursts: &mut Bursts, out: &mut Out) {
    let mut packets = bursts.packets();
    let mut verdicts = [Verdict::Send(PortId(0)); BURST];
    engine.on_burst(now, PortId(0), &mut packets, &mut verdicts, out);
    assert!(verdicts.iter().all(|v| matches!(v, Verdict::Send(_))), "{:?}", verdicts[0]);
}

pub fn open_flows(engine: &mut Engine, v6: bool, flows: u32, out: &mut Out) {
    for flags in [0x02, 0x10] {
        let mut bursts = Bursts::new(v6, flags);
        let mut next = 0;
        while next < flows {
            bursts.fill(|| {
                next += 1;
                (next - 1) % flows
            });
            run(engine, Mono::from_millis(1), &mut bursts, out);
        }
    }
    assert_eq!(engine.connection_count(), flows as usize);
}
