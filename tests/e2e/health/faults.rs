//! What can happen to a real server, in every forwarding mode: the last new connection goes there within
//! `FALL` intervals and 100 ms, and flows of other servers stay where they are.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use softlvs::addr::Cidr;
use softlvs::io::sys::netlink::Netlink;
use softlvs::lab::{Io, Mode};
use softlvs::real::Encapsulation;

use super::clients::{Clients, Noise, request};
use super::cluster::{Cluster, FALL, How, INTERVAL, Setup};
use crate::in_namespaces;
use crate::traffic;

/// Long flows that are open before a fault.
const FLOWS: usize = 30;

/// A fault of rs2, from a cluster where all is well to one where all is well again.
fn fault(
    c: &mut Cluster<'_>,
    what: &str,
    hurt: impl FnOnce(&mut Cluster<'_>),
    heal: impl FnOnce(&mut Cluster<'_>),
) {
    let what = format!("{} {what}", c.setup.mode.name());
    let (down, up) = (c.count(": down: "), c.count(": up: "));
    let to = c.vip();
    let mut flows: Vec<(String, TcpStream)> = Vec::new();
    for _ in 0..FLOWS {
        let mut stream = c.client().run(|| traffic::connect(to)).unwrap();
        let name = request(&mut stream).unwrap_or_else(|| panic!("{what}: no answer before the fault"));
        flows.push((name, stream));
    }
    let of = |name: &str| flows.iter().filter(|(n, _)| n == name).count();
    // a client's port of before may bring it to its server of before
    for name in ["rs1", "rs2", "rs3"] {
        assert!(of(name) >= FLOWS / 6, "{what}: {} flows of {name}", of(name));
    }
    let clients = Clients::start(c.client(), to, 4);
    // longer than from one check to the next: nothing is found where nothing is wrong
    std::thread::sleep(INTERVAL * 3 / 2);
    assert_eq!((clients.failures(), c.count(": down: ")), (0, down), "{what}: failures before it");
    let noise = Noise::start();
    let began = Instant::now();
    hurt(c);
    c.wait_for(": down: ", down + 1);
    std::thread::sleep(INTERVAL * 2);
    let worst = noise.worst();
    let (failed, answered) = clients.stop();
    assert!(!failed.is_empty(), "{what}: nobody noticed, so it was no fault");
    let last = failed.last().map_or(Duration::ZERO, |t| t.saturating_duration_since(began));
    let bound = INTERVAL * FALL + Duration::from_millis(100);
    println!(
        "{what}: last connection {last:?} after the fault (bound {bound:?}, the machine {worst:?} late), {answered} answered"
    );
    assert!(last <= bound + worst * 3, "{what}: {last:?}");
    assert!(answered > 20, "{what}: {answered}");
    assert_eq!(c.count(": down: "), down + 1, "{what}: no other server");
    for (name, stream) in flows.iter_mut().filter(|(name, _)| name != "rs2") {
        assert_eq!(request(stream).as_ref(), Some(&*name), "{what}: a flow of {name} moved");
    }
    heal(c);
    c.wait_for(": up: ", up + 1);
}

/// What can happen to a server's program.
fn faults_of_the_program(c: &mut Cluster<'_>) {
    let be = |how: How| move |c: &mut Cluster<'_>| c.reals[1].be(how);
    fault(c, "stopped", |c| c.reals[1].stop(), |c| c.reals[1].begin());
    fault(c, "frozen", |c| c.reals[1].freeze(true), |c| c.reals[1].freeze(false));
    fault(c, "slow", be(How::Slow), be(How::Fine));
    fault(c, "wrong answers", be(How::Wrong), be(How::Fine));
    fault(c, "resets", be(How::Resets), be(How::Fine));
}

/// Takes the VIP from rs2, or puts it back.
fn vip(c: &mut Cluster<'_>, there: bool, device: &str) {
    let addr = c.topology.layout.vip;
    let own = Cidr { addr, len: if addr.is_ipv4() { 32 } else { 128 } };
    let change = || {
        let mut netlink = Netlink::open()?;
        if there {
            let index = netlink.index(device)?;
            return netlink.add_address(index, own, true);
        }
        for a in netlink.addresses()?.into_iter().filter(|a| a.cidr.addr == addr) {
            netlink.delete_address(a.index, a.cidr)?;
        }
        Ok(())
    };
    c.topology.node("rs2").unwrap().ns.run(change).unwrap();
}

fn decapsulator(c: &mut Cluster<'_>, there: bool) {
    let change = || {
        let mut netlink = Netlink::open()?;
        let index = netlink.index(softlvs::real::DEVICE)?;
        netlink.set_up(index, there)
    };
    c.topology.node("rs2").unwrap().ns.run(change).unwrap();
}

in_namespaces! {
    fn servers_behind_nat_that_stop_freeze_are_slow_wrong_or_reset_get_no_new_connections() {
        faults_of_the_program(&mut Cluster::start(Setup::of(Mode::Nat)));
    }
}

in_namespaces! {
    fn servers_behind_fullnat_that_stop_freeze_are_slow_wrong_or_reset_get_no_new_connections() {
        faults_of_the_program(&mut Cluster::start(Setup::of(Mode::FullNat)));
    }
}

in_namespaces! {
    fn servers_behind_dr_that_stop_freeze_are_slow_wrong_reset_or_lose_the_vip_get_no_new_connections() {
        let mut c = Cluster::start(Setup::of(Mode::Dr));
        faults_of_the_program(&mut c);
        fault(&mut c, "lost the VIP", |c| vip(c, false, "lo"), |c| vip(c, true, "lo"));
    }
}

in_namespaces! {
    fn servers_behind_tun_that_stop_freeze_are_slow_wrong_reset_or_lose_vip_or_tunnel_get_no_new_connections() {
        let mut c = Cluster::start(Setup::of(Mode::Tun));
        faults_of_the_program(&mut c);
        let device = softlvs::real::DEVICE;
        fault(&mut c, "lost the VIP", |c| vip(c, false, device), |c| vip(c, true, device));
        fault(&mut c, "lost its decapsulator", |c| decapsulator(c, false), |c| decapsulator(c, true));
    }
}

in_namespaces! {
    fn two_workers_find_faults_as_soon_as_one_does() {
        for mode in [Mode::Nat, Mode::Dr] {
            let mut c = Cluster::start(Setup { workers: 2, ..Setup::of(mode) });
            fault(&mut c, "frozen, two workers", |c| c.reals[1].freeze(true), |c| c.reals[1].freeze(false));
            fault(&mut c, "stopped, two workers", |c| c.reals[1].stop(), |c| c.reals[1].begin());
        }
    }
}

in_namespaces! {
    fn faults_are_found_on_tap_ports_and_with_ipv6_and_other_tunnels_too() {
        let v6 = |mode| Setup { ipv6: true, ..Setup::of(mode) };
        let gue = Setup { encapsulation: Encapsulation::Gue(6080), ..Setup::of(Mode::Tun) };
        let mut setups = vec![v6(Mode::Dr), v6(Mode::FullNat), gue];
        if crate::gate::io(Io::Tap) {
            setups.push(Setup { io: Io::Tap, ..Setup::of(Mode::Nat) });
            setups.push(Setup { io: Io::Tap, workers: 2, ..Setup::of(Mode::Tun) });
        }
        for setup in setups {
            let mut c = Cluster::start(setup);
            fault(&mut c, "frozen", |c| c.reals[1].freeze(true), |c| c.reals[1].freeze(false));
        }
    }
}
