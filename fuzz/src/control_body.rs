//! Requests to the control socket, without the socket: the first line is a method and a path, the rest is the
//! body. A path leads to one route or is refused; a body is a service or real server that the rules of the
//! file accept, or is refused with a reason.

use softlvs::config::{check, save};
use softlvs::ctl::State;
use softlvs::serve::http::{change, routes};
use softlvs::svc::Catalog;

const FILE: &str = "[[port]]\ntap = \"t\"\naddresses = [\"10.0.0.2/24\", \"2001:db8::2/64\"]\n\
                    [[service]]\naddress = \"10.0.0.100:80\"\n[[service.real]]\naddress = \"10.0.0.11\"\n";

pub fn run(data: &[u8]) {
    let (head, body) = data.split_at(data.iter().position(|b| *b == b'\n').unwrap_or(data.len()));
    let head = String::from_utf8_lossy(head);
    let (method, path) = head.split_once(' ').unwrap_or(("GET", &head));
    if let Ok(method) = method.parse() {
        for owner in [true, false] {
            if let Ok((route, captured)) = routes::find(&method, path, owner) {
                assert_eq!(captured.len(), route.path.matches('{').count(), "{path}");
                assert!(owner || route.public, "{path}");
            }
        }
    }
    let Ok(plan) = check(FILE, "f") else { panic!("the file is right") };
    let Ok(state) = State::new(plan, Catalog::default()) else { panic!("the plan is right") };
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else { return };
    if !value.is_object() {
        return;
    }
    if let Ok((spec, reals)) = change::service_body(&state, value.clone()) {
        let mut text = save::base(&state.plan);
        save::service(&mut text, &spec, &reals);
        let again = check(&text, "g").unwrap_or_else(|e| panic!("{}\n{text}", e[0]));
        assert_eq!(again.services, [(spec, reals)]);
    }
    let key = state.catalog.services()[0].spec.key;
    let _ = change::real_body(&state, &key, value);
}
