use super::*;
use crate::config::check;
use crate::svc::Proto;

const NET: &str = "[[port]]\ntap = \"t\"\naddresses = [\"10.0.0.2/24\"]\n";

fn plan(reals: &[(u8, u32)]) -> Plan {
    let mut text = format!("{NET}[[service]]\naddress = \"10.0.0.100:80\"\n");
    for (rip, weight) in reals {
        text += &format!("[[service.real]]\naddress = \"10.0.0.{rip}\"\nweight = {weight}\n");
    }
    check(&text, "f").unwrap()
}

fn started(reals: &[(u8, u32)]) -> State {
    State::new(plan(reals), Catalog::default()).unwrap()
}

fn service() -> ServiceKey {
    ServiceKey::Address { proto: Proto::Tcp, ip: "10.0.0.100".parse().unwrap(), port: 80 }
}

fn real(rip: u8) -> RealKey {
    RealKey { service: service(), ip: IpAddr::from([10, 0, 0, rip]), port: 80 }
}

/// Last byte and weight of the real servers that run, by address.
fn running(state: &State) -> Vec<(u8, u32)> {
    let of = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => 0,
    };
    let service = state.catalog.service(&service()).unwrap();
    let mut all: Vec<_> = service.dests.iter().map(|d| (of(d.spec.ip), d.spec.weight)).collect();
    all.sort_unstable();
    all
}

fn command(state: &mut State, line: &str) -> Result<(), Refusal> {
    let words: Vec<&str> = line.split_whitespace().collect();
    state.command(&ipvsadm::parse(&words)?)
}

#[test]
fn a_reload_keeps_what_health_checks_did() {
    let mut state = started(&[(11, 1), (12, 2), (13, 3)]);
    assert_eq!(state.overlay(real(11), Some(Overlay::Weight(0))), Ok(true));
    assert_eq!(state.overlay(real(12), Some(Overlay::Remove)), Ok(true));
    assert_eq!(running(&state), [(11, 0), (13, 3)]);

    let changes = state.apply(Arc::new(plan(&[(11, 1), (12, 2), (13, 3)]))).unwrap();
    assert!(changes.is_empty(), "{changes}");
    state.apply(Arc::new(plan(&[(11, 5), (12, 6), (13, 7), (14, 8)]))).unwrap();
    assert_eq!(running(&state), [(11, 0), (13, 7), (14, 8)]);

    assert_eq!(state.overlay(real(11), None), Ok(true));
    assert_eq!(state.overlay(real(12), None), Ok(true));
    assert_eq!(running(&state), [(11, 5), (12, 6), (13, 7), (14, 8)]);
    assert!(state.overlays.is_empty());
}

#[test]
fn an_overlay_goes_with_its_real_server() {
    let mut state = started(&[(11, 1), (12, 2)]);
    state.overlay(real(11), Some(Overlay::Remove)).unwrap();
    state.apply(Arc::new(plan(&[(12, 2)]))).unwrap();
    state.apply(Arc::new(plan(&[(11, 1), (12, 2)]))).unwrap();
    assert_eq!(running(&state), [(11, 1), (12, 2)]);
    state.overlay(real(11), Some(Overlay::Weight(0))).unwrap();
    command(&mut state, "-D -t 10.0.0.100:80").unwrap();
    assert!(state.overlays.is_empty());
    assert_eq!(state.overlay(real(11), None), Err(CatalogError::ServiceNotDefined));
}

#[test]
fn commands_change_what_is_configured_beneath_an_overlay() {
    let mut state = started(&[(11, 1), (12, 2)]);
    state.overlay(real(11), Some(Overlay::Weight(0))).unwrap();
    state.overlay(real(12), Some(Overlay::Remove)).unwrap();
    command(&mut state, "-e -t 10.0.0.100:80 -r 10.0.0.11:80 -m -w 9").unwrap();
    command(&mut state, "-e -t 10.0.0.100:80 -r 10.0.0.12:80 -m -w 8").unwrap();
    assert_eq!(running(&state), [(11, 0)]);
    let again = command(&mut state, "-a -t 10.0.0.100:80 -r 10.0.0.12:80 -m");
    assert_eq!(again.unwrap_err().text, "Destination already exists");
    let configured: Vec<u32> = state.services()[0].1.iter().map(|d| d.weight).collect();
    assert_eq!(configured, [8, 9]);
    command(&mut state, "-d -t 10.0.0.100:80 -r 10.0.0.12:80").unwrap();
    assert_eq!(state.overlay(real(12), None), Ok(false));
    state.overlay(real(11), None).unwrap();
    assert_eq!(running(&state), [(11, 9)]);
}

#[test]
fn a_sorry_server_is_there_only_as_long_as_it_is_laid_over() {
    let mut state = started(&[(11, 1)]);
    let spec = DestSpec { weight: 7, ip: real(99).ip, ..state.plan.services[0].1[0].clone() };
    assert_eq!(state.overlay(real(99), Some(Overlay::Extra(spec))), Ok(true));
    assert_eq!(running(&state), [(11, 1), (99, 7)]);
    state.apply(Arc::new(plan(&[(11, 2)]))).unwrap();
    assert_eq!(running(&state), [(11, 2), (99, 7)]);
    assert_eq!(state.services()[0].1.len(), 1, "nobody configured it");
    assert_eq!(state.overlay(real(99), None), Ok(true));
    assert_eq!(running(&state), [(11, 2)]);
}

#[test]
fn only_what_is_there_can_be_laid_over() {
    let mut state = started(&[(11, 1)]);
    assert_eq!(state.overlay(real(12), Some(Overlay::Weight(0))), Err(CatalogError::NoSuchDest));
    assert_eq!(state.overlay(real(12), None), Ok(false));
    assert!(state.overlays.is_empty());
}

#[test]
fn adding_the_services_again_in_their_order_makes_the_same_catalog() {
    let state = started(&[(11, 1), (12, 2), (13, 3)]);
    let services = state.services();
    let again = State::new(Plan { services, ..Plan::default() }, Catalog::default()).unwrap();
    let order =
        |s: &State| -> Vec<IpAddr> { s.catalog.services()[0].dests.iter().map(|d| d.spec.ip).collect() };
    assert_eq!(order(&again), order(&state));
}

#[test]
fn settings_are_checked_as_the_kernel_checks_them() {
    let mut state = started(&[]);
    assert!(state.set_sysctl("net.ipv4.vs.drop_entry", "4").is_err());
    assert!(state.set_sysctl("nonsense", "1").is_err());
    state.set_sysctl("drop_entry", "3").unwrap();
    assert_eq!((state.catalog.sysctl.drop_entry, state.sysctl.int("drop_entry")), (3, Some(3)));
}
