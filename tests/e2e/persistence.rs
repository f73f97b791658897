//! Persistence: whatever the scheduler would do, all connections of a client go to one server.

use softlvs::lab::{Io, Mode};
use softlvs::real::Encapsulation;

use crate::cell::{Attach, Cell};
use crate::traffic;

fn stays(mode: Mode, ipv6: bool) {
    let attach = Attach { web: "persistence = { timeout = \"5m\" }\n", ..Attach::default() };
    let mut cell = Cell::start_with(mode, Io::Packet, ipv6, Encapsulation::Ipip, attach);
    let to = cell.tcp();
    let first = cell.client().run(|| traffic::parallel(to, 20)).unwrap();
    let second = cell.client().run(|| traffic::parallel(to, 20)).unwrap();
    assert_eq!(first.iter().map(|(_, n)| n).collect::<Vec<_>>(), [&20], "{first:?}");
    assert_eq!(first, second, "closed connections count too");
    cell.stop();
}

crate::in_namespaces! {
    fn a_client_stays_with_its_server_in_every_mode() {
        for mode in [Mode::Nat, Mode::FullNat, Mode::Dr, Mode::Tun] {
            for ipv6 in [false, true] {
                stays(mode, ipv6);
            }
        }
    }
}
