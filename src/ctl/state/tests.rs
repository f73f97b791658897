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

/// Configurations that the project shows or tests with, each with where it is from.
fn samples() -> Vec<(String, Plan)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    for folder in ["tests/config", "examples", "demo", "netns", "docs", ""] {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else { continue };
        for path in entries.map(|e| e.unwrap().path()) {
            let name = path.display().to_string();
            match path.extension().and_then(|e| e.to_str()) {
                Some("toml") if !name.ends_with("Cargo.toml") => texts.push((name, read(&path))),
                Some("md") => {
                    let text = read(&path);
                    let blocks = text.split("```toml\n").skip(1).filter_map(|b| b.split_once("\n```"));
                    texts.extend(blocks.map(|(block, _)| (name.clone(), format!("{block}\n"))));
                }
                _ => {}
            }
        }
    }
    for mode in crate::lab::layout::Mode::ALL {
        for ipv6 in [false, true] {
            let layout =
                crate::lab::layout::Layout::new(mode, ipv6, 3, crate::real::Encapsulation::Gue(6080));
            texts.push((format!("lab {mode:?} {ipv6}"), layout.toml(crate::lab::layout::Io::Tap, "wlc")));
        }
    }
    // what is shown in parts is a part of a whole configuration
    let whole = |text: String| {
        let net =
            "[[port]]\ntap = \"tap0\"\naddresses = [\"10.0.0.2/24\", \"192.0.2.2/24\", \"10.9.0.2/24\"]\n";
        check(&text, "sample").or_else(|_| check(&format!("{text}{net}"), "sample")).ok()
    };
    texts.into_iter().filter_map(|(name, text)| Some((name, whole(text)?))).collect()
}

/// Changes what runs as commands, settings and health checks do; what is refused is refused.
fn disturb(state: &mut State, (what, which, n): (u8, u8, u8)) {
    let services = state.services();
    let Some((spec, reals)) = services.get(usize::from(which) % services.len().max(1)) else { return };
    let real = reals.get(usize::from(n) % reals.len().max(1));
    let n = u32::from(n);
    let _ = match (what % 9, real) {
        (0, Some(r)) => state.command(&Command::EditDest(spec.key, DestSpec { weight: n, ..r.clone() })),
        (1, Some(r)) => {
            state.command(&Command::EditDest(spec.key, DestSpec { upper: n + 9, lower: n, ..r.clone() }))
        }
        (2, Some(r)) if r.forward.translates() && r.port != 0 => {
            let another = DestSpec { port: r.port % 60_000 + 1, name: String::new(), ..r.clone() };
            state.command(&Command::AddDest(spec.key, another))
        }
        (3, Some(r)) => state.command(&Command::DeleteDest(spec.key, r.ip, r.port)),
        (4, _) => {
            let all = crate::svc::SchedulerKind::ALL;
            let (scheduler, _) = all[n as usize % all.len()];
            state.command(&Command::EditService(ServiceSpec {
                scheduler,
                flags: Default::default(),
                ..spec.clone()
            }))
        }
        (5, _) => match spec.key {
            ServiceKey::Address { proto, ip, port } if port != 0 => {
                let key = ServiceKey::Address { proto, ip, port: port % 60_000 + 1000 };
                let name = String::new();
                state.command(&Command::AddService(ServiceSpec { key, name, ..spec.clone() }))
            }
            _ => Ok(()),
        },
        (6, _) if n > 200 => state.command(&Command::DeleteService(spec.key)),
        (6, _) => state.command(&Command::Set([n, 0, n * 2].map(|s| crate::time::Span::from_secs(s.into())))),
        (7, _) => {
            let _ = state.set_sysctl("expire_nodest_conn", &(n % 2).to_string());
            let _ = state.set_sysctl("sync_threshold", &format!("{} {}", n % 5, n + 5));
            Ok(())
        }
        (_, Some(r)) => {
            let key = RealKey { service: spec.key, ip: r.ip, port: r.port };
            let overlay = [Overlay::Weight(n), Overlay::Remove, Overlay::Inhibit][n as usize % 3].clone();
            let _ = state.overlay(key, Some(overlay));
            Ok(())
        }
        _ => Ok(()),
    };
}

#[test]
fn every_sample_saved_and_applied_changes_nothing() {
    let samples = samples();
    let with_checks = samples.iter().filter(|(_, p)| !p.health.checks.is_empty()).count();
    assert!(samples.len() >= 12 && with_checks >= 2, "{} {with_checks}", samples.len());
    for (name, plan) in samples {
        saved_and_applied(&name, State::new(plan, Catalog::default()).unwrap());
    }
}

/// The file of what runs, applied to what runs.
fn saved_and_applied(name: &str, mut state: State) {
    let current = state.current();
    let text = crate::config::save::file(&current);
    let plan = check(&text, name).unwrap_or_else(|all| panic!("{name}: {}\n{text}", all[0]));
    assert_eq!(plan.ports, current.ports, "{name}\n{text}");
    assert_eq!(plan.http, current.http, "{name}\n{text}");
    assert_eq!(plan.health.checks, current.health.checks, "{name}\n{text}");
    for s in &plan.health.services {
        let then = current.health.services.iter().find(|o| o.key == s.key);
        if let Some(then) = then {
            let mut policy = then.policy.clone();
            // beside a scheduler by hash it is a comment
            policy.slow_start = policy.slow_start.filter(|_| !text.contains("# slow_start"));
            assert_eq!(s.policy, policy, "{name}\n{text}");
            for r in &s.reals {
                let then = then.reals.iter().find(|o| o.at == r.at);
                // weight and forwarding are the real server's, which commands change
                let says = |r: &crate::health::RealHealth| {
                    (r.checks.clone(), r.state, r.on_failure, r.up_command.clone(), r.down_command.clone())
                };
                assert!(then.is_none_or(|then| says(then) == says(r)), "{name}: {r:?} {then:?}\n{text}");
            }
        }
    }
    let before = state.clone();
    let changes = state.apply(Arc::new(plan)).unwrap();
    assert!(changes.is_empty(), "{name}: {changes}\n{text}");
    assert_eq!(crate::ctl::diff::lines(&before, &state), Vec::<String>::new(), "{name}\n{text}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, ..Default::default() })]

    #[test]
    fn what_was_changed_at_run_time_is_saved_with_the_rest(
        steps in proptest::collection::vec(proptest::prelude::any::<(u8, u8, u8)>(), 1..40)
    ) {
        for (name, plan) in samples() {
            let mut state = State::new(plan, Catalog::default()).unwrap();
            steps.iter().for_each(|step| disturb(&mut state, *step));
            saved_and_applied(&name, state);
        }
    }
}

#[test]
fn a_file_that_no_check_would_take_says_why() {
    let mut state = started(&[(11, 1)]);
    command(&mut state, "-a -t 10.0.0.100:80 -r 172.16.0.1:80 -m").unwrap();
    let text = crate::config::save::file(&state.current());
    assert!(text.contains("# service[0].real[1].address: no route leads to 172.16.0.1\n"), "{text}");
    assert!(text.contains("\naddress = \"172.16.0.1\"\n"), "{text}");
}
