//! Two workers: the same cells as with one, over devices with two queues.

use softlvs::lab::{Io, Mode};
use softlvs::real::Encapsulation;

use crate::cell::{self, Attach};

const TWO: Attach = Attach { generic: false, inherit: false, workers: 2, web: "" };

macro_rules! cells {
    ($($name:ident: $mode:ident $io:ident $ipv6:literal;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                cell::run_with(Mode::$mode, Io::$io, $ipv6, Encapsulation::Ipip, TWO);
            }
        })*
    };
}

cells! {
    nat_raw_ipv4: Nat Packet false;
    nat_raw_ipv6: Nat Packet true;
    nat_tap_ipv4: Nat Tap false;
    nat_tap_ipv6: Nat Tap true;
    fullnat_raw_ipv4: FullNat Packet false;
    fullnat_raw_ipv6: FullNat Packet true;
    fullnat_tap_ipv4: FullNat Tap false;
    dr_raw_ipv4: Dr Packet false;
    dr_tap_ipv4: Dr Tap false;
    tun_raw_ipv4: Tun Packet false;
    tun_tap_ipv4: Tun Tap false;
}
