//! Every forwarding mode, over every kind of port, in both families.

use softlvs::lab::{Io, Mode};
use softlvs::real::Encapsulation;

use crate::cell;

macro_rules! cells {
    ($($name:ident: $mode:ident $io:ident $ipv6:literal $encapsulation:expr;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                cell::run(Mode::$mode, Io::$io, $ipv6, $encapsulation);
            }
        })*
    };
}

const IPIP: Encapsulation = Encapsulation::Ipip;
const GRE: Encapsulation = Encapsulation::Gre;
const GUE: Encapsulation = Encapsulation::Gue(6080);

cells! {
    nat_raw_ipv4: Nat Packet false IPIP;
    nat_raw_ipv6: Nat Packet true IPIP;
    nat_tap_ipv4: Nat Tap false IPIP;
    nat_tap_ipv6: Nat Tap true IPIP;
    fullnat_raw_ipv4: FullNat Packet false IPIP;
    fullnat_raw_ipv6: FullNat Packet true IPIP;
    fullnat_tap_ipv4: FullNat Tap false IPIP;
    fullnat_tap_ipv6: FullNat Tap true IPIP;
    dr_raw_ipv4: Dr Packet false IPIP;
    dr_raw_ipv6: Dr Packet true IPIP;
    dr_tap_ipv4: Dr Tap false IPIP;
    dr_tap_ipv6: Dr Tap true IPIP;
    tun_ipip_raw_ipv4: Tun Packet false IPIP;
    tun_ipip_raw_ipv6: Tun Packet true IPIP;
    tun_ipip_tap_ipv4: Tun Tap false IPIP;
    tun_ipip_tap_ipv6: Tun Tap true IPIP;
    tun_gre_raw_ipv4: Tun Packet false GRE;
    tun_gre_raw_ipv6: Tun Packet true GRE;
    tun_gre_tap_ipv4: Tun Tap false GRE;
    tun_gre_tap_ipv6: Tun Tap true GRE;
    tun_gue_raw_ipv4: Tun Packet false GUE;
    tun_gue_raw_ipv6: Tun Packet true GUE;
    tun_gue_tap_ipv4: Tun Tap false GUE;
    tun_gue_tap_ipv6: Tun Tap true GUE;
    nat_xdp_ipv4: Nat Xdp false IPIP;
    nat_xdp_ipv6: Nat Xdp true IPIP;
    fullnat_xdp_ipv4: FullNat Xdp false IPIP;
    fullnat_xdp_ipv6: FullNat Xdp true IPIP;
    dr_xdp_ipv4: Dr Xdp false IPIP;
    dr_xdp_ipv6: Dr Xdp true IPIP;
    tun_ipip_xdp_ipv4: Tun Xdp false IPIP;
    tun_ipip_xdp_ipv6: Tun Xdp true IPIP;
    tun_gre_xdp_ipv4: Tun Xdp false GRE;
    tun_gre_xdp_ipv6: Tun Xdp true GRE;
    tun_gue_xdp_ipv4: Tun Xdp false GUE;
    tun_gue_xdp_ipv6: Tun Xdp true GUE;
}
