//! `softlvs real MODE --check`: what is broken by hand is named, and its remedy, run as printed, mends it.

use std::process::Command;

use softlvs::lab::layout::Mode;
use softlvs::real::Role;

use crate::doctor::Clinic;
use crate::in_namespaces;

/// Runs `softlvs real ... --check` on rs1: exit status and what it said.
fn check(clinic: &Clinic, more: &[&str]) -> (i32, String) {
    let host = clinic.topology.layout.hosts.iter().find(|h| h.name == "rs1").unwrap();
    let mut words: Vec<String> = vec!["real".into()];
    match host.role.as_ref().unwrap() {
        Role::Nat { gateway } => words.extend(["nat".into(), "--gateway".into(), gateway.to_string()]),
        Role::Dr { vips } => words.extend(["dr".into(), "--vip".into(), vips[0].to_string()]),
        Role::Tun { vips, .. } => words.extend(["tun".into(), "--vip".into(), vips[0].to_string()]),
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_softlvs"));
    command.args(words).arg("--check").args(more);
    clinic.ns("rs1").confine(&mut command).unwrap();
    let out = command.output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr);
    (out.status.code().unwrap(), said)
}

const BROKEN: &[(Mode, &str, &str)] = &[
    (Mode::Nat, "ip route del default", "default route through 10.0.0.1: there is none"),
    (Mode::Nat, "ip route replace default via 10.0.0.12", "it goes through 10.0.0.12"),
    (Mode::Dr, "ip addr del 192.0.2.10/32 dev lo", "192.0.2.10/32 on lo: 192.0.2.10 is nowhere"),
    (Mode::Dr, "ip addr add 192.0.2.10/24 dev eth0", "192.0.2.10/24 is on eth0"),
    (Mode::Dr, "echo 0 > /proc/sys/net/ipv4/conf/all/arp_ignore", "arp_ignore = 1: it is 0, 0 on eth0"),
    (Mode::Dr, "echo 1 > /proc/sys/net/ipv4/conf/all/arp_announce", "arp_announce = 2: it is 1, 0 on eth0"),
    (Mode::Tun, "ip addr del 192.0.2.10/32 dev lvstun0", "192.0.2.10/32 on lvstun0: 192.0.2.10 is nowhere"),
    (Mode::Tun, "echo 2 > /proc/sys/net/ipv4/conf/lvstun0/rp_filter", "conf.lvstun0.rp_filter = 2"),
    (Mode::Tun, "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter", "conf.all.rp_filter = 1"),
    (Mode::Tun, "ip link set lvstun0 down", "lvstun0 is up: it is down"),
    (Mode::Tun, "echo 0 > /proc/sys/net/ipv4/conf/all/arp_ignore", "arp_ignore = 1: it is 0"),
];

in_namespaces! {
    fn real_check_names_what_is_broken_by_hand_and_its_remedy_mends_it() {
        for (mode, line, says) in BROKEN {
            let clinic = Clinic::new(*mode, true, false);
            let (code, said) = check(&clinic, &[]);
            assert!(code == 0 && !said.contains("missing"), "{mode:?}: {said}");
            clinic.sh("rs1", line);
            let (code, said) = check(&clinic, &[]);
            assert!(code == 1 && said.contains(says), "{line}: {code}: {said}");
            let remedy = said.lines().find_map(|l| l.strip_prefix("remedy:  ")).unwrap();
            clinic.sh("rs1", remedy);
            let (code, said) = check(&clinic, &["-o", "json"]);
            assert!(code == 0 && said.contains("\"right\":true,\"role\""), "{line}: {remedy}: {said}");
        }
    }
}

in_namespaces! {
    fn real_check_says_what_a_bare_host_lacks_and_changes_nothing() {
        for mode in [Mode::Dr, Mode::Tun] {
            let clinic = Clinic::new(mode, true, true);
            let (code, said) = check(&clinic, &["-o", "json"]);
            let json: serde_json::Value = serde_json::from_str(&said).unwrap();
            assert_eq!((code, &json["right"]), (1, &serde_json::json!(false)), "{said}");
            let steps = json["steps"].as_array().unwrap();
            assert!(steps.iter().all(|s| s["right"] == false && !s["remedy"][0].is_null()), "{said}");
            assert_eq!(check(&clinic, &["-o", "json"]), (code, said));
            if mode == Mode::Tun {
                let remedy = steps[0]["remedy"][0].as_str().unwrap();
                assert_eq!(remedy, "softlvs real tun --vip 192.0.2.10 --tunnel ipip --device lvstun0");
            }
            let (code, said) = check(&clinic, &["--undo"]);
            assert!(code == 2 && said.contains("cannot be used together"), "{said}");
        }
    }
}
