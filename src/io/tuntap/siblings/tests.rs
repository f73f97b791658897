//! Real devices with several queues in a network namespace of the test's own; needs the right to make one, access to
//! `/dev/net/tun` and CAP_BPF in the initial user namespace.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::{Queue, Wish};
use super::*;
use crate::engine::{Engine, PortId};
use crate::io::steering::tests::{frames, setup};
use crate::io::sys::netlink::Netlink;
use crate::io::sys::ns::NetNs;
use crate::io::sys::raw::Injector;
use crate::io::sys::tuntap::Kind;
use crate::io::{Burst, OffloadMode, Slots};
use crate::svc::Forward;

const WORKERS: u16 = 3;

/// Runs the test where it may run.
fn inside(test: impl FnOnce() -> io::Result<()> + Send) {
    let may = || -> io::Result<NetNs> {
        std::fs::File::options().read(true).write(true).open(sys::CONTROL)?;
        let nothing = [crate::io::sys::packet::Op { code: 0x06, jt: 0, jf: 0, k: 0 }];
        let code = extended::translate(&nothing).map_err(io::Error::other)?;
        Program::load(&code, bpf::Kind::Filter, "t_may_i")?;
        NetNs::new()
    };
    match may() {
        Ok(ns) => ns.run(test).unwrap(),
        Err(e) => {
            assert!(
                std::env::var_os("CI").is_none_or(|v| v != "true"),
                "with CI=true nothing is skipped: {e}"
            );
            println!("skipped: {e}");
        }
    }
}

fn wish(kind: Kind) -> Wish {
    let name = "tt0".to_owned();
    Wish { kind, name, mtu: None, offload: OffloadMode::Auto, multi_queue: true }
}

fn open(kind: Kind) -> Vec<Queue> {
    let mut queues = vec![Queue::open(&wish(kind)).unwrap()];
    for _ in 1..WORKERS {
        queues.push(queues[0].another().unwrap());
    }
    queues
}

/// The frames of a worker, or all, each with its owner; without the Ethernet header for TUN.
struct Load {
    packets: Vec<(Vec<u8>, u16)>,
    outline: Outline,
}

impl Load {
    fn new(kind: Kind, only: Option<u16>) -> Load {
        let forward = Forward::FullNat;
        let (outline, engine) = setup(WORKERS, forward);
        let owned = |engine: &Engine, (port, mut frame): (PortId, Vec<u8>)| {
            let owner = engine.owner(port, &frame).0;
            if kind == Kind::Tun {
                frame.drain(..14);
            }
            (frame, owner)
        };
        let all = frames(forward, 2000).into_iter().map(|f| owned(&engine, f));
        Load { packets: all.filter(|(_, o)| only.is_none_or(|only| *o == only)).collect(), outline }
    }

    /// Sends all of them; by packet, in the order sent, the queue that it came to.
    fn send(&self, queues: &mut [Queue]) -> Vec<u16> {
        let device = link::index("tt0").unwrap();
        let injector = Injector::open(device).unwrap();
        let mut slots = Slots::for_burst();
        let mut came = Vec::new();
        for (packet, _) in &self.packets {
            injector.send(packet).unwrap();
            // one at a time: no queue is ever full
            'found: loop {
                let mut all: Vec<_> = queues.iter().map(|q| PollFd::new(q.fd(), PollFlags::POLLIN)).collect();
                let called = poll(&mut all, PollTimeout::from(10_000u16)).unwrap();
                assert_ne!(called, 0, "a packet did not arrive");
                for queue in &mut *queues {
                    let (number, mut slots, mut burst) = (queue.number, slots.iter(), Burst::new());
                    queue.recv(&mut slots, &mut burst).unwrap();
                    // the kernel has things to say of its own
                    if burst.iter().any(|p| p.bytes() == packet) {
                        came.push(number);
                        break 'found;
                    }
                }
            }
        }
        came
    }

    /// All of them come to their owners.
    fn check(&self, queues: &mut [Queue]) {
        assert!((0..WORKERS).all(|w| self.packets.iter().any(|(_, owner)| *owner == w)), "all have some");
        let owners: Vec<u16> = self.packets.iter().map(|(_, owner)| *owner).collect();
        assert_eq!(self.send(queues), owners);
    }
}

fn packets_come_to_their_owners(kind: Kind) {
    inside(|| {
        let load = Load::new(kind, None);
        let mut queues = open(kind);
        queues[0].steer(&load.outline);
        load.check(&mut queues);
        // another configuration, and back
        queues[0].steer(&Outline { vips: Vec::new(), fullnat: false, ..load.outline.clone() });
        queues[0].siblings.settle();
        let owners: Vec<u16> = load.packets.iter().map(|(_, owner)| *owner).collect();
        assert_ne!(load.send(&mut queues), owners);
        queues[0].steer(&load.outline);
        queues[0].siblings.settle();
        load.check(&mut queues);
        // the queues of a device that was deleted are attached again in any order, in others than a gap in the
        // old ones would have been filled, too
        for order in [[1, 2, 0], [2, 0, 1], [0, 1, 2]] {
            let mut links = Netlink::open()?;
            let index = links.index("tt0")?;
            links.delete_link(index)?;
            for number in order {
                queues[number].reopen()?;
            }
            load.check(&mut queues);
        }
        Ok(())
    });
}

#[test]
fn packets_of_a_tap_device_come_to_their_owners() {
    packets_come_to_their_owners(Kind::Tap);
}

#[test]
fn packets_of_a_tun_device_come_to_their_owners() {
    packets_come_to_their_owners(Kind::Tun);
}

/// The device's queues as they are, opened without taking off what programs it has.
fn as_it_is() -> Vec<Queue> {
    let siblings = Siblings::default();
    // a queue that it has already, as far as this one knows
    siblings.group().members.join(link::index("tt0").unwrap(), WORKERS);
    (0..WORKERS).map(|number| Queue::join(&wish(Kind::Tap), &siblings, number).unwrap()).collect()
}

/// The kernel's hash deals the packets of one worker out to all queues; a program does not.
#[test]
fn a_device_that_stays_keeps_no_program() {
    inside(|| {
        let load = Load::new(Kind::Tap, Some(1));
        let steered = |mut queues: Vec<Queue>| load.send(&mut queues).iter().all(|queue| *queue == 1);
        let stay = sys::attach("tt0", Kind::Tap, true, true)?;
        sys::set_persistent(stay.as_fd(), true)?;
        drop(stay);
        let mut queues = open(Kind::Tap);
        queues[0].steer(&load.outline);
        // whichever is closed last
        queues.rotate_left(1);
        assert!(steered(queues));
        assert!(!steered(as_it_is()), "left by the queues that were closed");

        // a killed one leaves its program on the device
        let mut members = Members::default();
        (0..WORKERS).for_each(|queue| _ = members.join(1, queue));
        members.steer(&load.outline);
        let code = extended::translate(&members.program().unwrap()).map_err(io::Error::other)?;
        let killed = sys::attach("tt0", Kind::Tap, true, true)?;
        sys::set_steering(killed.as_fd(), Some(Program::load(&code, bpf::Kind::Filter, "t_left")?.as_fd()))?;
        drop(killed);
        assert!(steered(as_it_is()));
        assert!(!steered(open(Kind::Tap)), "left by one that was killed");
        Ok(())
    });
}
