use super::*;

fn words(line: &str) -> Result<Command, Refusal> {
    parse(&line.split_whitespace().collect::<Vec<_>>())
}

fn refused(line: &str) -> (String, u8) {
    let e = words(line).expect_err(line);
    (e.text, e.code)
}

fn dest(line: &str) -> DestSpec {
    match words(line) {
        Ok(Command::AddDest(_, d) | Command::EditDest(_, d)) => d,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn defaults_are_wlc_route_weight_1_and_the_services_port() {
    let Ok(Command::AddService(s)) = words("-A -t 10.1.0.100:80") else { panic!() };
    assert_eq!((s.scheduler, s.persistence, s.one_packet), (SchedulerKind::Wlc, None, false));
    let d = dest("-a -t 10.1.0.100:80 -r 10.2.0.11");
    assert_eq!((d.port, d.weight, d.forward), (80, 1, Forward::Dr));
    assert_eq!(dest("-e -f 3 -r 10.2.0.11 -m").port, 0);
}

#[test]
fn short_options_cluster_and_long_ones_take_equal_signs() {
    let Ok(Command::AddService(s)) = words("-At 10.1.0.100:110 -srr") else { panic!() };
    assert_eq!(s.scheduler, SchedulerKind::Rr);
    let line =
        "--add-service --tcp-service 10.1.0.100:111 --scheduler wrr --persistent=77 --netmask 255.255.0.0";
    let Ok(Command::AddService(s)) = words(line) else { panic!() };
    assert_eq!(s.persistence, Some(Persistence { timeout: Span::from_secs(77), netmask: 16 }));
    let Ok(Command::List(l)) = words("-Lnc") else { panic!() };
    assert_eq!((l.show, l.numeric), (Show::Connections { persistence: false }, true));
}

#[test]
fn tunnels_of_all_kinds() {
    let tun = |rest: &str| match words(&format!("-a -t 10.1.0.100:80 -r 10.2.0.15:96 -i {rest}")) {
        Ok(Command::AddDest(_, DestSpec { forward: Forward::Tun(t), .. })) => Ok(t),
        Ok(other) => panic!("{other:?}"),
        Err(e) => Err(e.text),
    };
    assert_eq!(tun(""), Ok(Tunnel::Ipip));
    assert_eq!(tun("--tun-type gre --tun-csum"), Ok(Tunnel::Gre { csum: TunnelCsum::Csum }));
    let gue = Tunnel::Gue { port: 6080, csum: TunnelCsum::RemCsum };
    assert_eq!(tun("--tun-type gue --tun-port 6080 --tun-remcsum"), Ok(gue));
    for (rest, text) in [
        ("--tun-type gue", "You need to supply the 'tun-port' option for the 'gue' tunnel type"),
        ("--tun-type gue --tun-port 0", "illegal tunnel port specified"),
        ("--tun-type nosuch", "illegal tunnel type specified"),
        ("--tun-type ipip --tun-csum", "Illegal 'tun-csum' option with the 'ipip' tunnel type"),
        ("--tun-type gre --tun-port 5", "Illegal 'tun-port' option with the 'gre' tunnel type"),
        (
            "--tun-type gue --tun-port 1 --tun-csum --tun-remcsum",
            "The option 'tun-remcsum' conflicts with the 'tun-csum' option in the 'gue' tunnel type",
        ),
    ] {
        assert_eq!(tun(rest), Err(text.to_string()), "{rest}");
    }
}

#[test]
fn addresses_as_the_recorded_command_reads_them() {
    let key = |a: &str| match words(&format!("-D -t {a}")) {
        Ok(Command::DeleteService(ServiceKey::Address { ip, port, .. })) => Some((ip.to_string(), port)),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    };
    assert_eq!(key("1.2.3:80"), Some(("1.2.0.3".into(), 80)));
    assert_eq!(key("::1:80"), Some(("::1:80".into(), 0)));
    assert_eq!(key("[::1]:80"), Some(("::1".into(), 80)));
    for bad in
        ["10.1.0.100:65536", "10.1.0.100:-1", "10.1.0.100:http", "1.2.3.400:80", "10.1.0.100:81:82", "[::1"]
    {
        assert_eq!(key(bad), None, "{bad}");
    }
    assert!(words("-a -f 4 -6 -r [2001:db8:2::11] -m").is_err());
    assert!(words("-a -f 4 -6 -r [2001:db8:2::11]:0 -m").is_ok());
}

#[test]
fn refusals_have_the_recorded_words_and_exit_status() {
    for (line, text, code) in [
        ("-X", HINT, 255),
        ("garbage", HINT, 255),
        ("-A", "You need to supply the 'service-address' option for the 'add-service' command", 2),
        ("-A -t", "-t: missing argument", 255),
        ("-A -t 10.1.0.100:0 -s rr", "Zero port specified for non-persistent service", 2),
        ("-A -t 10.1.0.100:90 -u 10.1.0.100:91", "multiple 'service-address' options specified", 2),
        ("-A -f 0 -s rr", "invalid fwmark value `0' specified", 2),
        ("-A -f 4294967296 -s rr", "invalid fwmark value `4294967296' specified", 2),
        ("-A -t 10.1.0.100:92 -6 -s rr", "-6 used before -f\n", 2),
        ("-A -t 10.1.0.100:93 -s rr -p -1", "-1: unknown option", 255),
        ("-A -t 10.1.0.100:95 -s rr -p 31536000", "invalid timeout value `31536000' specified", 2),
        ("-A -t 10.1.0.100:106 -s rr -o", "One-Packet Scheduling is only for UDP virtual services", 2),
        ("-A -t 10.1.0.100:107 -s rr -w 3", "Illegal 'weight' option with the 'add-service' command", 2),
        ("-A -t 10.1.0.100:109 -s rr extra args", "unexpected argument extra", 2),
        (
            "-a -t 10.1.0.100:80",
            "You need to supply the 'real-server' option for the 'add-server' command",
            2,
        ),
        ("-a -t 10.1.0.100:80 -r 10.2.0.14:81 -m -g", "multiple 'forwarding-method' options specified", 2),
        ("-a -t 10.1.0.100:80 -r 10.2.0.14:82 -m -w -1", "illegal weight specified", 2),
        ("-a -t 10.1.0.100:80 -r 10.2.0.14:94 -m -x abc", "illegal u_threshold specified", 2),
        ("--set 1 2", "--set option requires 3 timeout values", 2),
        ("--set 1 2 3 4", "unexpected argument 4", 2),
        ("-L --timeout --stats", "options conflicts in the list command", 2),
        ("-C -t 10.1.0.100:1", "Illegal 'service-address' option with the 'flush' command", 2),
    ] {
        assert_eq!(refused(line), (text.to_string(), code), "{line}");
    }
}

#[test]
fn the_service_is_looked_for_before_its_scheduler_and_the_real_server_before_its_address() {
    use crate::ipvsadm::check;
    use crate::svc::Catalog;
    let mut c = Catalog::default();
    c.add_service(ServiceSpec::new(ServiceKey::Address {
        proto: Proto::Tcp,
        ip: "10.1.0.1".parse().unwrap(),
        port: 80,
    }))
    .unwrap();
    // asked of the kernel
    for (line, text) in [
        ("-A -t 10.1.0.1:80 -s nosuch", "Service already exists"),
        ("-E -t 10.1.0.99:80 -s nosuch", "No such service"),
        ("-E -t 10.1.0.1:80 -s rr --pe nosuch", "Scheduler or persistence engine not found"),
        ("-A -t 10.1.0.1:81 -s twos", "Scheduler or persistence engine not found"),
        ("-a -t 10.1.0.99:80 -r 224.0.0.1 -m", "Service not defined"),
        ("-a -t 10.1.0.1:80 -r 224.0.0.1 -m -y 5", "Numerical result out of range"),
        (
            "-a -t 10.1.0.1:80 -r 224.0.0.1 -m",
            "Invalid operation.  Possibly wrong module version, address not unicast, ...",
        ),
    ] {
        let refused = check(&words(line).unwrap(), &c).expect_err(line);
        assert_eq!((refused.text.as_str(), refused.code), (text, 255), "{line}");
    }
}

#[test]
fn options_are_read_as_popt_reads_them() {
    for (line, text, code) in [
        ("-A=foo -t 10.1.0.1:93", HINT, 255),
        ("--list=foo", HINT, 255),
        ("-nL", HINT, 255),
        ("-LA", "invalid option `-LA'", 2),
        ("-a -t 10.1.0.1:80 -r 10.2.0.9 -w abc -Q", "illegal weight specified", 2),
        ("-a -t 10.1.0.1:80 -r 10.2.0.9 -Q -w abc", "-Q: unknown option", 255),
        ("-A -s -t 10.1.0.1:90", "unexpected argument 10.1.0.1:90", 2),
        ("-A -t 10.1.0.1:99 -- -s rr", "unexpected argument -s", 2),
        ("-Ln -b sh-port", "incompatible scheduler flag `sh-port'", 2),
        ("-a -s rr", "You need to supply the 'service-address' option for the 'add-server' command", 2),
        ("-A -w 3 -m -t 10.1.0.1:81", "Illegal 'forwarding-method' option with the 'add-service' command", 2),
        ("-R -t 10.1.0.1:80", "Illegal 'service-address' option with the 'restore' command", 2),
    ] {
        assert_eq!(refused(line), (text.to_string(), code), "{line}");
    }
    assert_eq!(words("-hL"), Ok(Command::Help));
    assert_eq!(words("-v --nonsense"), Ok(Command::Version));
    assert!(matches!(words("-A -t=10.1.0.1:96 -p=50 -s=rr"), Ok(Command::AddService(_))));
}
