//! Two workers: the same cells as with one, over devices with two queues; devices that deal packets out by their
//! owners, so that none is handed over.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use softlvs::lab::{Io, Mode};
use softlvs::real::Encapsulation;

use crate::cell::{self, Attach, Cell};
use crate::{gate, traffic};

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
    nat_xdp_ipv4: Nat Xdp false;
    fullnat_xdp_ipv6: FullNat Xdp true;
    tun_xdp_ipv4: Tun Xdp false;
}

/// TCP and UDP that is whole: no packet comes to another worker than its owner. Programs of raw sockets need no
/// privilege, those of TAP devices can be loaded by root outside of user namespaces.
fn nothing_is_handed_over(mode: Mode, io: Io, ipv6: bool) {
    if !gate::io(io) || (io == Io::Tap && !gate::xdp()) {
        return;
    }
    let mut cell = Cell::start_with(mode, io, ipv6, Encapsulation::Ipip, TWO);
    assert_eq!(handed_over(&cell), 0, "handed over");
    let opened = cell.counter("opened");
    assert!(opened >= 160, "{opened} connections");
    let log = cell.director.log();
    assert!(!log.contains("does not steer"), "{log}");
    cell.stop();
}

/// Connections and datagrams of a hundred clients; how many packets were handed over.
fn handed_over(cell: &Cell) -> u64 {
    let (tcp, udp) = (cell.tcp(), cell.udp());
    let before = cell.counter("handed");
    cell.client().run(|| traffic::parallel(tcp, 100)).unwrap();
    for i in 0..60 {
        cell.client().run(|| traffic::ask_udp(udp, &format!("datagram {i}"))).unwrap();
    }
    cell.client().run(|| traffic::upload(tcp)).unwrap();
    cell.client().run(|| traffic::download(tcp)).unwrap();
    cell.counter("handed") - before
}

macro_rules! dealt_out {
    ($($name:ident: $mode:ident $io:ident $ipv6:literal;)*) => {
        $(crate::in_namespaces! {
            fn $name() {
                nothing_is_handed_over(Mode::$mode, Io::$io, $ipv6);
            }
        })*
    };
}

dealt_out! {
    dealt_out_nat_raw_ipv4: Nat Packet false;
    dealt_out_nat_raw_ipv6: Nat Packet true;
    dealt_out_nat_tap_ipv4: Nat Tap false;
    dealt_out_nat_tap_ipv6: Nat Tap true;
    dealt_out_fullnat_raw_ipv4: FullNat Packet false;
    dealt_out_fullnat_raw_ipv6: FullNat Packet true;
    dealt_out_fullnat_tap_ipv4: FullNat Tap false;
    dealt_out_fullnat_tap_ipv6: FullNat Tap true;
    dealt_out_dr_raw_ipv4: Dr Packet false;
    dealt_out_dr_raw_ipv6: Dr Packet true;
    dealt_out_dr_tap_ipv4: Dr Tap false;
    dealt_out_dr_tap_ipv6: Dr Tap true;
    dealt_out_nat_xdp_ipv4: Nat Xdp false;
    dealt_out_nat_xdp_ipv6: Nat Xdp true;
    dealt_out_fullnat_xdp_ipv4: FullNat Xdp false;
    dealt_out_fullnat_xdp_ipv6: FullNat Xdp true;
    dealt_out_dr_xdp_ipv4: Dr Xdp false;
    dealt_out_dr_xdp_ipv6: Dr Xdp true;
}

crate::in_namespaces! {
    /// Without the privilege to load programs packets are handed over, and the log says so once for each port.
    fn without_the_privilege_packets_are_handed_over_and_the_log_says_so() {
        if !gate::tap() || !gate::program("setpriv") {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("softlvs");
        let unable = "setpriv --bounding-set -bpf,-sys_admin";
        let text = format!("#!/bin/sh\nexec {unable} {} \"$@\"\n", env!("CARGO_BIN_EXE_softlvs"));
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let tap = Io::Tap;
        let mut cell = Cell::start_program(&script, Mode::Nat, tap, false, Encapsulation::Ipip, TWO);
        assert_ne!(handed_over(&cell), 0, "a hash that is not ours names every owner");
        reload(&cell);
        let log = cell.director.log();
        let lines: Vec<&str> = log.lines().filter(|l| l.contains("does not steer")).collect();
        let ports = cell.topology.layout.director().nics.len();
        assert_eq!(lines.len(), ports, "{log}");
        assert!(lines.iter().all(|line| line.contains("CAP_BPF")), "{log}");
        cell.stop();
    }
}

/// One virtual address more, by command.
fn reload(cell: &Cell) {
    let program = Path::new(env!("CARGO_BIN_EXE_softlvs"));
    let out = std::process::Command::new(program)
        .args(["ipvsadm", "-A", "-t", "192.0.2.77:99"])
        .env("SOFTLVS_CONTROL", cell.control())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
