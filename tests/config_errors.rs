//! Every mistake in a configuration has its own message: place, key, reason, remedy.
//!
//! `SOFTLVS_PRINT=1 cargo test --test config_errors -- --nocapture` prints what each case says now.

use proptest::prelude::*;
use softlvs::config::{Diagnostic, Severity, check, schema};

/// A network most cases stand on: six lines.
const NET: &str = "\
[[port]]
tap = \"tap0\"
addresses = [\"10.0.0.2/24\"]
[[service]]
address = \"10.0.0.10:80\"
";

struct Case {
    name: &'static str,
    text: String,
    /// `LINE:COLUMN KEY | WHY | HELP`, errors only.
    says: &'static [&'static str],
}

fn case(name: &'static str, text: impl Into<String>, says: &'static [&'static str]) -> Case {
    Case { name, text: text.into(), says }
}

fn net(more: &str) -> String {
    format!("{NET}{more}")
}

fn short(d: &Diagnostic) -> String {
    format!("{}:{} {} | {} | {}", d.line, d.column, d.key, d.why, d.help)
}

fn errors(text: &str) -> Vec<Diagnostic> {
    match check(text, "f.toml") {
        Ok(_) => Vec::new(),
        Err(all) => all.into_iter().filter(|d| d.severity == Severity::Error).collect(),
    }
}

include!("config/cases.rs");

#[test]
fn every_mistake_has_its_message() {
    let print = std::env::var_os("SOFTLVS_PRINT").is_some();
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 35);
    for c in &cases {
        let said: Vec<String> = errors(&c.text).iter().map(short).collect();
        if print {
            println!("@@{}", c.name);
            said.iter().for_each(|s| println!("{s}"));
        }
        if said != c.says {
            wrong.push(format!("{}:\n  said     {said:#?}\n  expected {:#?}", c.name, c.says));
        }
    }
    assert!(wrong.is_empty() || print, "{}", wrong.join("\n"));
}

#[test]
fn every_case_without_its_mistake_is_accepted() {
    let good = net("[[service.real]]\naddress = \"10.0.0.11\"\n");
    assert!(check(&good, "f.toml").is_ok());
}

#[test]
fn the_sample_files_are_accepted() {
    for entry in std::fs::read_dir("tests/config").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            if let Err(all) = check(&text, &path.display().to_string()) {
                panic!("{}", all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

#[test]
fn the_example_of_the_contract_is_accepted_with_what_it_cannot_do_said() {
    let plan = check(include_str!("config/spec.toml"), "spec.toml").unwrap();
    let warned: Vec<&str> = plan.warnings.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(warned, ["route[0].via", "service[0].scheduler_flags[0]", "service[0].real[0].tunnel",]);
    assert_eq!(plan.services.len(), 1);
    assert_eq!(plan.ports[0].addresses.len(), 2);
    assert_eq!(plan.local_addresses.len(), 1);
}

#[test]
fn a_message_shows_the_line_and_points_at_the_value() {
    let text = net("[[service.real]]\naddress = \"10.0.9.11:80\"\n");
    let all = check(&text, "/etc/softlvs/softlvs.toml").unwrap_err();
    assert_eq!(
        all[0].to_string(),
        "error: /etc/softlvs/softlvs.toml:7:11: service[0].real[0].address: no route leads to 10.0.9.11\n  \
           |\n7 | address = \"10.0.9.11:80\"\n  |           ^^^^^^^^^^^^^^\nhelp: add an address of its network \
         to a port, or a [[route]] or gateway towards it"
    );
}

#[test]
fn the_plan_holds_what_the_file_says() {
    use softlvs::svc::{Forward, SchedulerKind, ServiceKey, Tunnel, TunnelCsum};
    let plan = check(include_str!("config/one-arm.toml"), "one-arm.toml").unwrap();
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    let (web, servers) = &plan.services[0];
    assert_eq!(web.scheduler, SchedulerKind::Rr);
    let forward: Vec<Forward> = servers.iter().map(|d| d.forward).collect();
    assert_eq!(
        forward,
        [
            Forward::Dr,
            Forward::Tun(Tunnel::Ipip),
            Forward::Tun(Tunnel::Gue { port: 6080, csum: TunnelCsum::Csum }),
        ]
    );
    assert!(servers.iter().all(|d| d.port == 80 && d.weight == 1));
    assert_eq!(plan.services[1].0.persistence.unwrap().netmask, 24);
    assert!(plan.services[2].0.one_packet);
    assert_eq!(plan.services[3].0.key, ServiceKey::Mark { mark: 7, v6: false });
    assert_eq!(plan.marks[0].ports, Some((8000, 8099)));
}

/// Enough of a validator for the schema we publish: types, properties, enums, bounds.
fn validates(schema: &serde_json::Value, value: &toml::Value, path: &str) -> Result<(), String> {
    if let Some(options) = schema.get("oneOf").and_then(|o| o.as_array()) {
        return options
            .iter()
            .any(|o| validates(o, value, path).is_ok())
            .then_some(())
            .ok_or_else(|| format!("{path}: none of oneOf"));
    }
    let kind = match value {
        toml::Value::String(_) => "string",
        toml::Value::Integer(_) => "integer",
        toml::Value::Boolean(_) => "boolean",
        toml::Value::Array(_) => "array",
        toml::Value::Table(_) => "object",
        _ => "other",
    };
    if schema["type"] != kind {
        return Err(format!("{path}: {kind} is not {}", schema["type"]));
    }
    match value {
        toml::Value::String(s) => {
            let named = |k: &str| schema.get(k).and_then(|e| e.as_array());
            if named("enum").is_some_and(|e| !e.iter().any(|w| w == s.as_str()))
                || schema.get("const").is_some_and(|c| c != s.as_str())
            {
                return Err(format!("{path}: `{s}` is not in the enum"));
            }
        }
        toml::Value::Integer(n) => {
            let within = |low: i64, high: i64| (low..=high).contains(n);
            if !within(schema["minimum"].as_i64().unwrap_or(*n), schema["maximum"].as_i64().unwrap_or(*n)) {
                return Err(format!("{path}: {n} is out of bounds"));
            }
        }
        toml::Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                validates(&schema["items"], item, &format!("{path}[{i}]"))?;
            }
        }
        toml::Value::Table(table) => {
            for (key, item) in table {
                let below = match schema.get("properties").and_then(|p| p.get(key)) {
                    Some(s) => s,
                    None if schema["additionalProperties"].is_object() => &schema["additionalProperties"],
                    None => return Err(format!("{path}.{key}: not in the schema")),
                };
                validates(below, item, &format!("{path}.{key}"))?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[test]
fn the_published_schema_takes_the_sample_files_and_refuses_a_typo() {
    let schema = schema::schema();
    for entry in std::fs::read_dir("tests/config").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let value: toml::Value =
                std::fs::read_to_string(&path).unwrap().parse::<toml::Table>().unwrap().into();
            validates(&schema, &value, &path.display().to_string()).unwrap();
        }
    }
    let typo: toml::Value = "[director]\nmod = \"nat\"".parse::<toml::Table>().unwrap().into();
    assert!(validates(&schema, &typo, "").is_err());
}

#[test]
fn a_change_of_any_single_line_never_panics() {
    let text = include_str!("config/spec.toml");
    let lines: Vec<&str> = text.lines().collect();
    for skip in 0..lines.len() {
        for with in ["", "[[service.real]]", "= 1", "x = {", "address = \"[::1]:0\"", "\u{feff}é = '"] {
            let changed: Vec<&str> =
                lines.iter().enumerate().map(|(i, l)| if i == skip { with } else { l }).collect();
            let _ = check(&changed.join("\n"), "f")
                .map_err(|e| e.iter().map(ToString::to_string).collect::<String>());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,200}") {
        let _ = check(&text, "f").map_err(|all| all.iter().map(ToString::to_string).collect::<String>());
    }

    #[test]
    fn text_that_looks_like_a_configuration_never_panics(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "[[port]]\n", "[[service]]\n", "[[service.real]]\n", "[director]\n", "[sysctl]\n", "[[route]]\n",
                "[[mark]]\n", "[timeouts]\n", "tap = \"t0\"\n", "tun = \"u0\"\n", "addresses = [\"10.0.0.2/24\"]\n",
                "addresses = [\"::/0\", \"0.0.0.0/0\"]\n", "address = \"10.0.0.9:0\"\n", "address = \"[::1]:65535\"\n",
                "mode = \"tun\"\n", "mode = \"dr\"\n", "via = \"10.0.0.1\"\n", "to = \"0.0.0.0/0\"\n",
                "to = \"::/0\"\n", "via = \"::2\"\n", "fwmark = 1\n", "mtu = 68\n", "tcp = \"1s\"\n",
                "tunnel = { type = \"gue\" }\n", "persistence = {}\n", "gateway = \"10.0.0.1\"\n",
                "local_addresses = [\"::-::ffff\", \"10.0.0.1\"]\n", "sync_ports = -9223372036854775808\n",
                "mark = 1\n", "é = 1\n", "a.b.c = 1\n", "x = [1, {y=2}]\n", "address = 0x10\n",
            ]),
            0..40,
        )
    ) {
        let text: String = words.concat();
        let _ = check(&text, "f").map_err(|all| all.iter().map(ToString::to_string).collect::<String>());
    }
}

#[test]
fn every_key_is_in_the_reference() {
    fn names(schema: &serde_json::Value, all: &mut Vec<String>) {
        for (key, below) in schema["properties"].as_object().into_iter().flatten() {
            all.push(format!("`{key}`"));
            names(below, all);
            names(&below["items"], all);
        }
    }
    let reference = include_str!("../docs/configuration.md");
    let mut all = Vec::new();
    let schema = schema::schema();
    for top in schema["properties"].as_object().unwrap().values() {
        names(top, &mut all);
        names(&top["items"], &mut all);
    }
    all.retain(|key| !reference.contains(key));
    assert!(all.is_empty(), "not in docs/configuration.md: {all:?}");
}
