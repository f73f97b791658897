//! Imports of small configurations, each with what became of it.

use std::collections::HashMap;

use super::*;
use crate::config::{Plan, check};
use crate::health::{AdminState, CheckKind, OnFailure, Start};
use crate::svc::{Forward, SchedulerKind, ServiceKey};
use crate::time::Span;

struct Memory(HashMap<&'static str, &'static str>);

impl Files for Memory {
    fn read(&mut self, _: &str, pattern: &str) -> Result<Vec<(String, String)>, String> {
        let found = self.0.get(pattern).ok_or("there is no such file")?;
        Ok(vec![(pattern.to_owned(), (*found).to_owned())])
    }
    fn instance(&self) -> String {
        "lb1".to_owned()
    }
    fn variable(&self, name: &str) -> Option<String> {
        (name == "VIP_NET").then(|| "192.0.2".to_owned())
    }
}

fn import(text: &str) -> Imported {
    from_keepalived(text, "k.conf", &mut Memory(HashMap::new()))
}

fn plan(i: &Imported) -> Plan {
    let text = format!("{}{}", i.port, i.text);
    check(&text, "converted").unwrap_or_else(|all| {
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        panic!("{}\n{text}", all.join("\n"))
    })
}

fn notes(i: &Imported) -> Vec<String> {
    i.notes.iter().map(ToString::to_string).collect()
}

const WEB: &str = r#"
! a comment
virtual_server 192.0.2.10 80 {
    delay_loop 6
    lb_algo wrr
    lb_kind NAT
    persistence_timeout 50
    protocol TCP
    quorum 2
    hysteresis 1
    alpha
    omega
    quorum_up "/etc/up.sh all" root
    sorry_server 10.0.0.99 80
    real_server 10.0.0.11 8080 {
        weight 3
        inhibit_on_failure
        HTTP_GET {
            url {
                path /health?full=1
                status_code 200-204 301
                regex "ok|fine"
                regex_options caseless
            }
            url {
                path /other
                digest 9b3a0c85a887a256d6939da88aabd8cd
            }
            connect_timeout 3
            retry 3
            delay_before_retry 2.5
            http_protocol 1.1
            connect_port 8081
        }
    }
    real_server 10.0.0.12 8080 {
        TCP_CHECK {
            connect_timeout 2
        }
        notify_down "/etc/down.sh x"
    }
}
"#;

#[test]
fn a_web_service_keeps_everything() {
    let i = import(WEB);
    let p = plan(&i);
    let (spec, reals) = &p.services[0];
    assert_eq!(
        spec.key,
        ServiceKey::Address { proto: crate::svc::Proto::Tcp, ip: "192.0.2.10".parse().unwrap(), port: 80 }
    );
    assert_eq!((spec.scheduler, spec.persistence.unwrap().timeout.as_secs()), (SchedulerKind::Wrr, 50));
    assert_eq!((reals[0].weight, reals[0].port, reals[0].forward), (3, 8080, Forward::Nat));
    let h = &p.health.services[0];
    assert_eq!((h.policy.quorum, h.policy.hysteresis, h.policy.omega), (2, 1, true));
    assert_eq!(h.policy.sorry.as_ref().unwrap().ip.to_string(), "10.0.0.99");
    let up = h.policy.up_command.as_ref().unwrap();
    assert_eq!((up.argv.join(" "), up.user.as_deref()), ("/etc/up.sh all".into(), Some("root")));
    assert_eq!((h.reals[0].on_failure, h.reals[0].state), (Some(OnFailure::Inhibit), AdminState::Up));
    assert_eq!(h.reals[1].down_command.as_ref().unwrap().argv, ["/etc/down.sh", "x"]);
    let http = &p.health.checks[h.reals[0].checks[0]];
    let t = http.timing;
    assert_eq!((t.interval.as_secs(), t.timeout.as_secs(), t.fall, t.rise), (6, 3, 4, 1));
    assert_eq!((t.retry_delay, t.start, t.dampening), (Some(Span::from_millis(2500)), Start::Down, None));
    assert_eq!(http.port, Some(8081));
    let CheckKind::Http { requests, .. } = &http.kind else { panic!("{:?}", http.kind) };
    assert_eq!(requests[0].status, [(200, 204), (301, 301)]);
    assert_eq!(requests[0].body.as_deref(), Some("(?i)ok|fine"));
    assert_eq!(requests[1].digest.as_deref(), Some("9b3a0c85a887a256d6939da88aabd8cd"));
    assert_eq!(p.health.checks[h.reals[1].checks[0]].kind, CheckKind::Tcp);
    assert_eq!(
        notes(&i),
        ["k.conf:40: notify_down: it runs as `nobody`: say command_user for somebody else"]
    );
}

#[test]
fn every_checker_is_a_check() {
    let mut text = String::from("virtual_server 192.0.2.10 53 {\nprotocol UDP\nlb_algo rr\n");
    let checkers = [
        "SSL_GET { \nurl { \n path / \n virtualhost www.example.org \n } \n enable_sni \n }",
        "SMTP_CHECK {\n helo_name lb.example.org\n host {\n connect_ip 10.0.0.1\n connect_port 26\n }\n host {\n connect_port 27\n }\n }",
        "DNS_CHECK {\n type A\n name example.org\n }",
        "UDP_CHECK {\n payload 0001ff\n require_reply 00xx\n min_reply_length 2\n max_reply_length 40\n }",
        "PING_CHECK {\n retry 2\n }",
        "MISC_CHECK {\n misc_path \"/bin/check -a b\"\n misc_timeout 3\n misc_dynamic\n user nobody\n }",
        "FILE_CHECK {\n track_file load\n }",
    ];
    for (n, c) in checkers.iter().enumerate() {
        text += &format!("real_server 10.0.0.{} 53 {{\n{c}\n}}\n", n + 11);
    }
    text += "}\ntrack_file load {\n file /run/load\n weight -2\n}\n";
    let i = import(&text);
    assert_eq!(notes(&i), [""; 0]);
    let p = plan(&i);
    let kinds: Vec<&str> = p.health.services[0]
        .reals
        .iter()
        .flat_map(|r| &r.checks)
        .map(|c| p.health.checks[*c].kind.name())
        .collect();
    assert_eq!(kinds, ["https", "smtp", "smtp", "dns", "udp", "ping", "exec", "file"]);
    let exec = p.health.checks.iter().find(|c| c.kind.name() == "exec").unwrap();
    assert_eq!((exec.timing.timeout.as_secs(), exec.timing.fall), (3, 1));
    let file = p.health.checks.iter().find(|c| c.kind.name() == "file").unwrap();
    assert_eq!(file.kind, CheckKind::File { path: "/run/load".into(), factor: -2 });
}

#[test]
fn equal_checkers_are_one_check() {
    let mut text = String::from("virtual_server 192.0.2.10 80 {\n");
    for n in 11..41 {
        text += &format!("real_server 10.0.0.{n} 80 {{\nTCP_CHECK {{\nconnect_timeout 2\n}}\n}}\n");
    }
    assert_eq!(plan(&import(&(text + "}"))).health.checks.len(), 1);
}

#[test]
fn groups_marks_and_local_addresses() {
    let text = "
virtual_server_group web {
    192.0.2.10 80
    192.0.2.20-22 8000
    fwmark 7
}
local_address_group snat { 10.0.0.200-203 eth1 }
virtual_server group web {
    lvs_sched sh
    sh-port
    lvs_method FNAT
    laddr_group_name snat
    protocol TCP
    real_server 10.0.0.11 8080 { weight 2 }
}
";
    let i = import(text);
    let p = plan(&i);
    assert_eq!((i.services, p.services.len()), (5, 5));
    assert!(p.services.iter().all(|(s, r)| s.flags.port && r[0].forward == Forward::FullNat));
    assert_eq!(p.local_addresses[0].last.to_string(), "10.0.0.203");
    assert!(notes(&i).iter().any(|n| n.starts_with("k.conf:5: fwmark: ")), "{:?}", notes(&i));
}

#[test]
fn tunnels_and_direct_routing_keep_the_port() {
    let text = "
virtual_server 192.0.2.10 80 {
    lb_kind TUN type gue port 6080 csum
    real_server 10.0.0.11 80 { }
    real_server 10.0.0.12 8080 { lvs_method DR }
}
";
    let i = import(text);
    let p = plan(&i);
    assert!(matches!(p.services[0].1[0].forward, Forward::Tun(crate::svc::Tunnel::Gue { port: 6080, .. })));
    assert_eq!((p.services[0].1[1].forward, p.services[0].1[1].port), (Forward::Dr, 80));
    assert!(notes(&i)[0].contains("cannot map ports"));
}

#[test]
fn definitions_sequences_and_includes_are_followed() {
    let text = r"
$VIP=192.0.2.10
$BODY=TCP_CHECK { \
      connect_timeout 1 \
      }
include reals.conf
virtual_server ${VIP} 80 {
    lb_algo $ALGO
    ~SEQ(n, 11, 13) real_server 10.0.0.$n 80 { weight $n }
    real_server 10.0.0.20 80 {
        $BODY
    }
}
";
    let mut files = Memory(HashMap::from([("reals.conf", "$ALGO=lc\n")]));
    let i = from_keepalived(text, "k.conf", &mut files);
    assert_eq!(notes(&i), [""; 0]);
    let p = plan(&i);
    let (spec, reals) = &p.services[0];
    assert_eq!(spec.scheduler, SchedulerKind::Lc);
    assert_eq!(reals.iter().map(|r| r.weight).collect::<Vec<_>>(), [11, 12, 13, 1]);
    assert_eq!(p.health.checks[0].timing.timeout.as_secs(), 1);
}

/// The example of keepalived's documentation for definitions of several lines in one another.
#[test]
fn definitions_of_several_lines_hold_others_and_are_filled_in_when_they_are_named() {
    let text = r"
$RS= \
    real_server 10.0.${VS_NUM}.${RS_NUM} 8080 { \
        weight ${RS_NUM} \
        @lb1 TCP_CHECK { \
        @lb1     connect_timeout ${TIMEOUT}  \
        @lb1 } \
        @^lb1 nonsense \
    }

$VS= \
    virtual_server ${_ENV VIP_NET}.${VS_NUM} 80 { \
        $ALGO_LINE \
        $RS_NUM=1 \
        $RS \
        ~SEQ(RS_NUM, 2, 3) $RS \
    }
@lb2 $TIMEOUT=9
@lb1 $TIMEOUT=3    # seconds
@lb2 $ALGO= \
    nothing \
    at all
$ALGO=lc ! least connections
$ONLY_HERE=@lb1
$ALGO_LINE=${ONLY_HERE} lb_algo $ALGO
~LST({VS_NUM, ALGO}, {10, rr}, {20, wrr}) $VS
$VS_NUM=30
$VS
";
    let i = import(text);
    assert_eq!(notes(&i), [""; 0]);
    let p = plan(&i);
    let all: Vec<String> = p
        .services
        .iter()
        .map(|(s, reals)| {
            let ServiceKey::Address { ip, .. } = s.key else { panic!("{:?}", s.key) };
            let reals: Vec<String> = reals.iter().map(|r| format!("{}*{}", r.ip, r.weight)).collect();
            format!("{ip} {} {}", s.scheduler.name(), reals.join(" "))
        })
        .collect();
    assert_eq!(
        all,
        [
            "192.0.2.10 rr 10.0.10.1*1 10.0.10.2*2 10.0.10.3*3",
            "192.0.2.20 wrr 10.0.20.1*1 10.0.20.2*2 10.0.20.3*3",
            "192.0.2.30 lc 10.0.30.1*1 10.0.30.2*2 10.0.30.3*3",
        ]
    );
    assert_eq!(p.health.checks[0].timing.timeout.as_secs(), 3);
}

#[test]
fn lines_for_other_instances_are_left_out_and_includes_behind_conditions_too() {
    let text = "@lb2 virtual_server 192.0.2.1 80 {
@^lb1 virtual_server 192.0.2.2 80 {
@lb1 virtual_server 192.0.2.3 80 {
@^lb2 real_server 10.0.0.1 80 {
}
}
@lb1 include more.conf
";
    let mut files = Memory(HashMap::from([("more.conf", "virtual_server 192.0.2.4 80 {\n}\n")]));
    let i = from_keepalived(text, "k.conf", &mut files);
    assert_eq!(i.services, 1);
    assert_eq!(
        notes(&i),
        ["k.conf:7: include: it comes out of a condition, sequence or definition: left out"]
    );
    assert!(i.text.contains("192.0.2.3"), "{}", i.text);
}

#[test]
fn what_has_no_counterpart_is_named_with_its_line() {
    let text = "global_defs {
  router_id LVS_1
  lvs_timeouts tcp 60 tcpfin 10 udp 20
  vrrp_strict
}
vrrp_instance VI_1 {
  state MASTER
}
virtual_server 192.0.2.10 80 {
  ha_suspend
  nat_mask 255.255.255.0
  lb_algo magic
  real_server 10.0.0.11 80 {
    BFD_CHECK { name x }
    TCP_CHECK { bind_if eth0 }
  }
}
include missing.conf
colour blue
";
    let i = import(text);
    let n = notes(&i);
    let p = plan(&i);
    assert_eq!(
        (p.timeouts.tcp.as_secs(), p.timeouts.tcp_fin.as_secs(), p.timeouts.udp.as_secs()),
        (60, 10, 20)
    );
    for (line, word) in [
        (2, "router_id"),
        (4, "vrrp_strict"),
        (6, "vrrp_instance"),
        (10, "ha_suspend"),
        (11, "nat_mask"),
        (12, "lb_algo"),
        (14, "BFD_CHECK"),
        (15, "bind_if"),
        (18, "include"),
        (19, "colour"),
    ] {
        assert!(
            n.iter().any(|n| n.starts_with(&format!("k.conf:{line}: {word}: "))),
            "{line} {word}: {n:#?}"
        );
    }
    assert_eq!(n.len(), 10, "{n:#?}");
}

#[test]
fn of_a_keyword_that_is_said_twice_the_last_one_counts() {
    let i = import(
        "global_defs {\nlvs_timeouts tcp 5\nlvs_timeouts tcp 60\n}\nvirtual_server 192.0.2.10 80 {\nlb_algo rr\n\
         quorum 1\nquorum 2\nlb_algo wrr\nreal_server 10.0.0.11 80 {\nweight 1\nweight 7\n}\n}\n",
    );
    let p = plan(&i);
    assert_eq!((p.services[0].0.scheduler, p.services[0].1[0].weight), (SchedulerKind::Wrr, 7));
    assert_eq!((p.health.services[0].policy.quorum, p.timeouts.tcp.as_secs()), (2, 60));
    let said: Vec<String> = i.notes.iter().map(|n| n.word.clone()).collect();
    assert_eq!(said, ["quorum", "scheduler", "weight", "tcp"], "{:?}", notes(&i));
}

#[test]
fn broken_files_are_taken_as_far_as_they_go() {
    for text in [
        "virtual_server 192.0.2.10 80 {\nreal_server 10.0.0.11 80 {\n",
        "}\n}\nvirtual_server 192.0.2.10 80 {\nreal_server 10.0.0.11 80 {\n}\n}\n}",
        "virtual_server 192.0.2.10 80\n{\nreal_server 10.0.0.11 80\n{\nweight x\n}\n}",
    ] {
        let i = import(text);
        assert!(!i.notes.is_empty(), "{text}");
        assert_eq!(plan(&i).services[0].1.len(), 1, "{text}");
    }
    assert_eq!(import("\"\\").services, 0);
}

#[test]
fn includes_and_definitions_without_end_are_cut_off() {
    let mut files = Memory(HashMap::from([("a", "include a\n")]));
    let i = from_keepalived("include a\n", "k.conf", &mut files);
    assert!(notes(&i)[0].contains("without end"));
    let i = import("$A= \\\n$A \\\n$A\n$A\n");
    assert!(notes(&i).iter().any(|n| n.contains("without end")), "{:?}", notes(&i).len());
    let i = import("$A=$B\n$B=$A\nx $A\n");
    assert!(notes(&i).iter().any(|n| n.contains("without end")), "{:?}", notes(&i));
    let i = import("~SEQ(n, 1, 99999999) x\n$L=aaaaaaaaaaaaaaaa$M\n$M=bbbbbbbbbbbbbbbbb\n");
    assert!(notes(&i)[0].contains("no end"));
    let i = import("~SEQ(a, 9999) ~SEQ(b, 9999) ~SEQ(c, 9999) @none x\n");
    assert!(notes(&i)[0].contains("the rest was left out"), "{:?}", notes(&i));
}

#[test]
fn ipvsadm_text_is_recognised_and_converted() {
    let text = "-A -t 192.0.2.10:80 -s wrr -p 300 -M 255.255.255.0\n-a -t 192.0.2.10:80 -r 10.0.0.11:8080 -m -w 3 -x 9 -y 4\n\
                -A -u 192.0.2.11:53 -s rr -o\n-a -u 192.0.2.11:53 -r 10.0.0.12:53 -i -w 1\n-A -f 7 -s sh -b sh-port\n-a -f 7 -r 10.0.0.13:0 -g -w 1\n\
                -E -t 192.0.2.99:80 -s rr\n-L\n";
    assert!(is_ipvsadm(text) && !is_ipvsadm(WEB));
    let i = from_ipvsadm(text, "rules");
    let p = plan(&i);
    assert_eq!(p.services.len(), 3);
    let (spec, reals) = &p.services[0];
    assert_eq!(
        (spec.persistence.unwrap().netmask, reals[0].port, reals[0].upper, reals[0].lower),
        (24, 8080, 9, 4)
    );
    assert!(matches!(p.services[1].1[0].forward, Forward::Tun(crate::svc::Tunnel::Ipip)));
    assert_eq!((p.services[2].1[0].forward, p.services[2].0.flags.port), (Forward::Dr, true));
    assert_eq!(notes(&i).len(), 2, "{:?}", notes(&i));
    assert!(notes(&i)[0].starts_with("rules:7: -E: "));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever stands in a file: nothing breaks, and what comes out is TOML.
        #[test]
        fn any_text_is_taken(words in prop::collection::vec(prop::sample::select(vec![
            "virtual_server", "192.0.2.1", "80", "{", "}", "\n", "real_server", "10.0.0.1", "TCP_CHECK", "HTTP_GET",
            "url", "path", "/x", "fwmark", "7", "group", "g", "virtual_server_group", "\"", "$A=", "$A", "~SEQ(a,1,3)",
            "weight", "-1", "persistence_timeout", "include", "x", "sorry_server", "MISC_CHECK", "misc_path", "lb_kind",
            "TUN", "type", "gue", "quorum_up", "@x", "#", "!", "é\u{7}", "retry", "0.5",
        ]), 0..120)) {
            let text = words.join(" ").replace(" \n ", "\n");
            let i = import(&text);
            let all = format!("{}{}", i.port, i.text);
            // semantic mistakes of the source may be refused, never the syntax
            if let Err(messages) = check(&all, "f") {
                for m in messages {
                    prop_assert!(!m.why.contains("TOML") && !m.key.is_empty() , "{m}\n{all}");
                }
            }
        }
    }
}
