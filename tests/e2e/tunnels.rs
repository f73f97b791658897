//! Uploads in mode tun where a program in the kernel puts the outer headers in front of super-frames.

use softlvs::lab::{Io, Mode};
use softlvs::real::Encapsulation;

use crate::cell::Cell;
use crate::gate;
use crate::traffic::{self, BULK};
use crate::xdp::detach_by_force;

/// Uploads once; frames the director sent for it.
fn upload(cell: &Cell) -> u64 {
    let (to, before) = (cell.tcp(), cell.director_frames());
    cell.client().run(|| traffic::upload(to)).unwrap();
    cell.director_frames() - before
}

/// Fewer frames than half of what the upload has in packets of the MTU: there were super-frames.
const FEW: u64 = BULK as u64 / 1500 / 2;

fn uploads_stay_whole(io: Io, ipv6: bool, encapsulation: Encapsulation) {
    if !gate::xdp() || !gate::io(io) {
        return;
    }
    let mut cell = Cell::start(Mode::Tun, io, ipv6, encapsulation);
    let frames = upload(&cell);
    assert!(frames < FEW, "{frames} frames left the director for {BULK} bytes");
    cell.stop();
}

macro_rules! whole {
    ($($name:ident: $io:ident $ipv6:literal $encapsulation:expr;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                uploads_stay_whole(Io::$io, $ipv6, $encapsulation);
            }
        })*
    };
}

whole! {
    uploads_stay_whole_in_ipip_raw_ipv4: Packet false Encapsulation::Ipip;
    uploads_stay_whole_in_ipip_raw_ipv6: Packet true Encapsulation::Ipip;
    uploads_stay_whole_in_ipip_tap_ipv4: Tap false Encapsulation::Ipip;
    uploads_stay_whole_in_gre_raw_ipv4: Packet false Encapsulation::Gre;
    uploads_stay_whole_in_gre_tap_ipv6: Tap true Encapsulation::Gre;
    uploads_stay_whole_in_gue_raw_ipv4: Packet false Encapsulation::Gue(6080);
    uploads_stay_whole_in_gue_raw_ipv6: Packet true Encapsulation::Gue(6080);
    uploads_stay_whole_in_gue_tap_ipv4: Tap false Encapsulation::Gue(6080);
}

crate::in_namespaces! {
    fn the_program_comes_with_the_first_super_frame_and_is_put_back_when_it_was_taken_off() {
        if !gate::xdp() || !gate::program("bpftool") {
            return;
        }
        let mut cell = Cell::start(Mode::Tun, Io::Packet, false, Encapsulation::Ipip);
        let to = cell.tcp();
        cell.client().run(|| traffic::ask_tcp(to, "small")).unwrap();
        assert_eq!(detach_by_force(cell.director.pid(), "tcx"), 0, "nothing needed a program yet");
        assert!(upload(&cell) < FEW);
        assert_eq!(detach_by_force(cell.director.pid(), "tcx"), 1);
        // what it should have put a header in front of is lost until the director looks, and sent again
        upload(&cell);
        assert!(upload(&cell) < FEW, "it is there again");
        assert_eq!(detach_by_force(cell.director.pid(), "tcx"), 1);
        cell.stop();
    }
}
