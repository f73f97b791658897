//! `announce`: where the host can have the virtual address without keeping its packets.

use crate::config::diag::{At, Report};
use crate::config::doc::{Doc, PortDoc};
use crate::svc::{ServiceKey, ServiceSpec};

/// The interface that is to have the virtual address while the service is up.
pub fn announce(
    doc: &Doc,
    spec: &ServiceSpec,
    at: Option<&At<String>>,
    report: &mut Report,
) -> Option<String> {
    let at = at?;
    if matches!(spec.key, ServiceKey::Mark { .. }) {
        report.error(
            &at.place,
            "a service by fwmark has no virtual address to announce",
            "leave `announce` out",
        );
    }
    if doc.ports.iter().any(|p| p.device.as_ref().is_some_and(|d| d.value.name() == at.value)) {
        report.error(
            &at.place,
            format!("`{}` is a port of the director", at.value),
            "use a device of its own: `ip link add dummy0 type dummy`",
        );
    }
    unreachable_by_route(doc, spec, at, report);
    Some(at.value.clone())
}

/// Packets reach a TAP or TUN port through the host's kernel, which keeps those for addresses of its own.
fn unreachable_by_route(doc: &Doc, spec: &ServiceSpec, at: &At<String>, report: &mut Report) {
    let owns = |p: &&PortDoc| {
        let named = p.name.as_ref().is_some_and(|n| spec.ports.contains(&n.value));
        (spec.ports.is_empty() || named) && p.device.as_ref().is_some_and(|d| d.value.is_virtual())
    };
    let (ServiceKey::Address { ip, .. }, Some(port)) = (spec.key, doc.ports.iter().find(owns)) else {
        return;
    };
    let device = port.device.as_ref().map_or("", |d| d.value.name());
    let help = format!(
        "leave `announce` out and let the routing daemon announce the host's route to `{device}` (BIRD: `learn` in \
         protocol kernel; FRR: `redistribute kernel`)"
    );
    let why = format!(
        "with {ip} on `{}` the host's kernel keeps packets for it that are meant for `{device}`",
        at.value
    );
    if port.host_addresses.is_empty() {
        report.warn(&at.place, why, help);
    } else {
        report.error(&at.place, why, help);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::check;
    use crate::config::diag::{At, Place, Report};

    const TOML: &str = "[[port]]\ntap = \"tap0\"\naddresses = [\"192.0.2.2/24\"]\n\
        [[port]]\nname = \"wire\"\npacket = \"eth0\"\naddresses = [\"10.0.0.2/24\"]\n\
        [[service]]\naddress = \"192.0.2.10:80\"\nannounce = \"dummy0\"\n";

    #[test]
    fn an_address_that_the_host_would_keep_from_a_tap_port_is_warned_of() {
        let plan = check(TOML, "f").unwrap();
        assert_eq!(plan.warnings.len(), 1);
        let said = plan.warnings[0].to_string();
        assert!(said.contains("service[0].announce") && said.contains("meant for `tap0`"), "{said}");
        let of_wire = TOML.to_owned() + "ports = [\"wire\"]\n";
        assert!(check(&of_wire, "f").unwrap().warnings.is_empty());
    }

    #[test]
    fn where_the_host_routes_to_the_tap_port_it_is_refused() {
        let mut report = Report::default();
        let mut doc = crate::config::doc::read(TOML, &mut report);
        let host = "192.0.2.1/24".parse().unwrap();
        doc.ports[0].host_addresses.push(At::new(host, Place::option("--host-address")));
        let refused = check::finish(&doc, report, "f", TOML).unwrap_err();
        assert!(refused[0].to_string().contains("redistribute kernel"), "{}", refused[0]);
    }
}
