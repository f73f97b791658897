fn cases() -> Vec<Case> {
    let port = |more: &str| format!("[[port]]\ntap = \"tap0\"\naddresses = [\"10.0.0.2/24\"]\n{more}");
    let service = |more: &str| {
        format!(
            "{}[[service]]\naddress = \"10.0.0.10:80\"\n{more}",
            "[[port]]\ntap = \"tap0\"\naddresses = [\"10.0.0.2/24\"]\n"
        )
    };
    let real = |more: &str| net(&format!("[[service.real]]\naddress = \"10.0.0.11\"\n{more}"));
    vec![
        case(
            "syntax",
            "[director\nmode = \"nat\"",
            &["1:10  | unclosed table, expected `]` | the file must be TOML 1.0"],
        ),
        case(
            "empty file",
            "",
            &[
                r#"0:0  | there is no port: packets have nowhere to come from | add a [[port]] with tap = "tap0", or give --tap, --tun, --packet or --port"#,
            ],
        ),
        case(
            "unknown table",
            port("[directory]\n"),
            &["4:2 directory | unknown key | did you mean `director`?"],
        ),
        case(
            "typo in a key",
            net("shceduler = \"rr\""),
            &["6:1 service[0].shceduler | unknown key | did you mean `scheduler`?"],
        ),
        case(
            "unknown key with nothing near",
            real("colour = 1"),
            &[
                "8:1 service[0].real[0].colour | unknown key | known keys here: name, address, weight, upper_threshold, lower_threshold, mode, tunnel, check, state, drain_deadline, on_failure, up_command, down_command",
            ],
        ),
        case(
            "wrong type",
            port("mtu = \"1500\""),
            &["4:7 port[0].mtu | expected a whole number, found a string | for example: mtu = 1500"],
        ),
        case(
            "list expected",
            "[[port]]\ntap = \"tap0\"\naddresses = \"10.0.0.2/24\"",
            &[
                r#"3:13 port[0].addresses | expected a list of strings, found a string | for example: addresses = ["192.0.2.2/24"]"#,
            ],
        ),
        case(
            "tables expected",
            format!("service = 1\n{}", port("")),
            &[
                "1:11 service | expected a list of tables, found a whole number | begin each with a line [[service]]",
            ],
        ),
        case(
            "table expected",
            service("[service.persistence]\ntimeout = 3"),
            &[
                r#"7:11 service[0].persistence.timeout | expected a string, found a whole number | for example: timeout = "5m""#,
            ],
        ),
        case(
            "workers of a wrong type",
            port("[director]\nworkers = \"many\""),
            &[
                r#"5:11 director.workers | expected "auto" or a whole number from 1, found a string | for example: workers = 1"#,
            ],
        ),
        case(
            "several at once",
            real("weight = -1\nmodee = 1\n[director]\nmode = \"natt\""),
            &[
                "8:10 service[0].real[0].weight | -1 is out of range | weight is a whole number from 0 to 2147483647",
                "9:1 service[0].real[0].modee | unknown key | did you mean `mode`?",
                "11:8 director.mode | `natt` is not known here | did you mean `nat`? Known are: nat, fullnat, tun, dr",
            ],
        ),
        case(
            "a check without a name or a type",
            port("[[check]]\nnamee = \"a\""),
            &[
                "4:1 check[0] | `name` is missing | for example: name = \"alive\"",
                "4:1 check[0] | `type` is missing | for example: type = \"http\"",
                "5:1 check[0].namee | unknown key | did you mean `name`?",
            ],
        ),
        case(
            "a check that is not there",
            real("check = [\"alife\"]\n[[check]]\nname = \"alive\"\ntype = \"tcp\""),
            &["8:10 service[0].real[0].check[0] | there is no check `alife` | did you mean `alive`?"],
        ),
        case(
            "a key of another type of check",
            real("check = \"a\"\n[[check]]\nname = \"a\"\ntype = \"tcp\"\npath = \"/x\""),
            &[
                "12:1 check[0].path | `path` belongs to checks of type http and https | leave it out: this one is of type tcp",
            ],
        ),
        case(
            "values of checks",
            real(
                "check = \"a\"\n[[check]]\nname = \"a\"\ntype = \"http\"\npath = \"x y\"\nstatus = [\"99\"]\nbody = \"(\"\ninterval = \"0s\"",
            ),
            &[
                "12:8 check[0].path | `x y` is not a path | it begins with `/` and has no spaces: \"/health?full=1\"",
                "13:11 check[0].status[0] | `99` is not a range of status codes | codes are 100 to 599: \"200\" or \"200-299\"",
                "14:8 check[0].body | `(` is not a regular expression: error: unclosed group | the syntax is that of the Rust crate regex: no look-around, no back references",
                "15:12 check[0].interval | it cannot be zero | write for example \"1s\"",
            ],
        ),
        case(
            "a program without its path",
            real("check = \"a\"\n[[check]]\nname = \"a\"\ntype = \"exec\"\ncommand = [\"check\"]\nport = 80"),
            &[
                "12:12 check[0].command[0] | `check` is not the path of a program | write it from the root, such as \"/usr/local/bin/check\"; there is no shell and no search",
                "13:8 check[0].port | a check of type exec has no port | leave `port` out",
            ],
        ),
        case(
            "the virtual address of a server behind nat",
            real("check = \"a\"\n[[check]]\nname = \"a\"\ntype = \"tcp\"\nvia = \"vip\""),
            &[
                "8:9 service[0].real[0].check | `a` asks for the virtual address, which 10.0.0.11 does not have in mode nat | write via = \"host\" or via = \"director\", or leave `via` out",
            ],
        ),
        case(
            "policy that cannot be",
            net("scheduler = \"sh\"\nslow_start = \"10s\"\nhysteresis = 5\npanic = { below = 50, use = \"sorry\" }\nsorry_mode = \"nat\""),
            &[
                "7:14 service[0].slow_start | the scheduler sh finds servers by hash and cannot pass one over | leave `slow_start` out, or use another scheduler",
                "8:14 service[0].hysteresis | the hysteresis is larger than the quorum (1) | the service could never go down by its quorum",
                "9:29 service[0].panic.use | there is no sorry server | add sorry_server = \"10.0.0.99:80\"",
                "10:14 service[0].sorry_mode | there is no sorry server | add sorry_server = \"10.0.0.99:80\"",
            ],
        ),
        case(
            "a state that is none",
            real("state = \"drained\""),
            &["8:9 service[0].real[0].state | `drained` is not known here | did you mean `drain`? Known are: up, drain, maintenance"],
        ),
        case(
            "port without device",
            "[[port]]\naddresses = [\"10.0.0.2/24\"]",
            &[
                r#"1:1 port[0] | the port has no device | say one of tap, tun, packet, xdp or device, for example: tap = "tap0""#,
            ],
        ),
        case(
            "port with two devices",
            port("tun = \"tun0\""),
            &[
                "4:7 port[0].tun | the port has a device already (`tap`) | a port is one device: begin another [[port]] for the second",
            ],
        ),
        case(
            "device name",
            "[[port]]\ntap = \"a/b\"\naddresses = [\"10.0.0.2/24\"]",
            &[
                "2:7 port[0].tap | `a/b` cannot be the name of an interface | 1 to 15 characters, without spaces, `/`, `:` and `%`",
            ],
        ),
        case(
            "device twice",
            port("[[port]]\nname = \"b\"\ntun = \"tap0\"\naddresses = [\"10.0.1.2/24\"]"),
            &[
                "6:7 port[1].tun | `tap0` is the device of another port already | the other one is port[0].tap",
            ],
        ),
        case(
            "port name twice",
            port("name = \"a\"\n[[port]]\nname = \"a\"\ntap = \"tap1\"\naddresses = [\"10.0.1.2/24\"]"),
            &["6:8 port[1].name | two ports have the name `a` | the other one is port[0].name"],
        ),
        case(
            "port without address",
            "[[port]]\ntap = \"tap0\"\n[[service]]\naddress = \"10.0.0.10:80\"",
            &[
                r#"2:7 port[0].tap | the port has no address | add addresses = ["192.0.2.2/24"] (--address 192.0.2.2/24), with --host-address the director takes the next free one of that network"#,
            ],
        ),
        case(
            "address without prefix",
            "[[port]]\ntap = \"tap0\"\naddresses = [\"10.0.0.2\"]",
            &[
                "3:14 port[0].addresses[0] | `10.0.0.2` has no prefix length | write it with the size of its network, such as 10.0.0.2/24",
            ],
        ),
        case(
            "address with a bad prefix",
            "[[port]]\ntap = \"tap0\"\naddresses = [\"10.0.0.2/33\"]",
            &["3:14 port[0].addresses[0] | `/33` is not a prefix length of 10.0.0.2 | it is 0 to 32"],
        ),
        case(
            "network address",
            "[[port]]\ntap = \"tap0\"\naddresses = [\"10.0.0.0/24\"]",
            &[
                "3:14 port[0].addresses[0] | 10.0.0.0 is the address of the network itself | write the director's own address in it, with the same prefix length",
            ],
        ),
        case(
            "broadcast address",
            "[[port]]\ntap = \"tap0\"\naddresses = [\"10.0.0.255/24\"]",
            &[
                "3:14 port[0].addresses[0] | 10.0.0.255 is the broadcast address of its network | write the director's own address in it, with the same prefix length",
            ],
        ),
        case(
            "address twice",
            "[[port]]\ntap = \"tap0\"\naddresses = [\"10.0.0.2/24\", \"10.0.0.2/16\"]",
            &["3:29 port[0].addresses[1] | 10.0.0.2 is an address of the director twice | say it once"],
        ),
        case(
            "gateway elsewhere",
            port("gateway = \"10.0.1.1\""),
            &[
                "4:11 port[0].gateway | 10.0.1.1 is on no network of this port | the port is on 10.0.0.0/24; write a router there, or add an address of its network",
            ],
        ),
        case(
            "gateway of the other family",
            port("gateway = \"fe80::1\""),
            &[
                "4:11 port[0].gateway | `fe80::1` is an IPv6 address, IPv4 is meant here | the IPv6 gateway belongs to `gateway6`",
            ],
        ),
        case(
            "gateway is ourselves",
            port("gateway = \"10.0.0.2\""),
            &["4:11 port[0].gateway | 10.0.0.2 is the director's own address | write the router's address"],
        ),
        case(
            "group MAC",
            port("mac = \"01:00:5e:00:00:01\""),
            &[
                "4:7 port[0].mac | `01:00:5e:00:00:01` is a group address, no station can have it | the first byte must be even; 02 begins a local address",
            ],
        ),
        case(
            "MAC on TUN",
            "[[port]]\ntun = \"tun0\"\nmac = \"02:00:00:00:00:01\"\naddresses = [\"10.0.0.2/24\"]",
            &["3:7 port[0].mac | a TUN device has no MAC address | leave `mac` out, or use a TAP device"],
        ),
        case(
            "inherit on TAP",
            port("mac = \"inherit\""),
            &[
                "4:7 port[0].mac | the MAC address of a TAP device belongs to the kernel's side | leave `mac` out to have one made up, or say one such as 02:00:00:00:00:01",
            ],
        ),
        case(
            "MTU out of range",
            port("mtu = 67"),
            &["4:7 port[0].mtu | 67 is out of range | mtu is a whole number from 68 to 65535"],
        ),
        case(
            "MTU too small for IPv6",
            "[[port]]\ntap = \"tap0\"\nmtu = 1000\naddresses = [\"2001:db8::2/64\"]",
            &["3:7 port[0].mtu | IPv6 needs an MTU of 1280, this is 1000 | write mtu = 1280 or more"],
        ),
        case(
            "what only XDP has",
            port("xdp_mode = \"native\"\nbusy_poll = \"50us\""),
            &[
                "4:12 port[0].xdp_mode | a tap port has no `xdp_mode` | it is for xdp ports; leave it out",
                "5:13 port[0].busy_poll | a tap port has no `busy_poll` | it is for xdp ports; leave it out",
            ],
        ),
        case(
            "looking for too long",
            port("[director]\nlinger = \"2s\""),
            &[
                r#"5:10 director.linger | `2s` is not a time from 0us to 100ms | write it as "50us" or "1ms""#,
            ],
        ),
        case(
            "busy polling for too long",
            "[[port]]\nxdp = \"eth0\"\nbusy_poll = \"1s\"\naddresses = [\"10.0.0.2/24\"]",
            &[
                r#"3:13 port[0].busy_poll | `1s` is not a time from 1us to 100ms | write it as "50us" or "1ms""#,
            ],
        ),
        case(
            "queues",
            port("queues = 4"),
            &[],
        ),
        case(
            "guard on TAP",
            port("guard = true"),
            &[
                "4:9 port[0].guard | a tap device needs no guard | the kernel does not see its packets; leave `guard` out",
            ],
        ),
        case(
            "neighbour elsewhere",
            port("neighbors = { \"10.1.0.1\" = \"02:00:00:00:00:01\" }"),
            &[
                "4:15 port[0].neighbors.10.1.0.1 | 10.1.0.1 is on no network of this port | a neighbour is a station of a connected network",
            ],
        ),
        case(
            "neighbour that is none",
            port("neighbors = { \"web\" = \"02:00:00:00:00:0x\" }"),
            &[
                "4:15 port[0].neighbors.web | `web` is not an IP address | write it as 192.0.2.1 or 2001:db8::1",
                "4:23 port[0].neighbors.web | `02:00:00:00:00:0x` is not a MAC address | write it as 02:00:00:00:00:01",
            ],
        ),
        case(
            "workers",
            port("queues = 4\n[director]\nworkers = 2"),
            &["4:10 port[0].queues | each worker has one queue of a port, and there are 2 workers | write queues = 2 or leave it out, or workers = 4 in [director]"],
        ),
        case(
            "connection limit",
            port("[director]\nconnection_limit = 0"),
            &[
                "5:20 director.connection_limit | 0 is out of range | connection_limit is a whole number from 1 to 1000000000",
            ],
        ),
        case(
            "local range of two families",
            port("[director]\nlocal_addresses = [\"10.0.0.1-::2\"]"),
            &[
                "5:20 director.local_addresses[0] | `10.0.0.1-::2` begins and ends in different address families | write one range for IPv4 and one for IPv6",
            ],
        ),
        case(
            "local range upside down",
            port("[director]\nlocal_addresses = [\"10.0.0.9-10.0.0.1\"]"),
            &[
                r#"5:20 director.local_addresses[0] | `10.0.0.9-10.0.0.1` ends before it begins | write "10.0.0.1-10.0.0.9""#,
            ],
        ),
        case(
            "local range too large",
            port("[director]\nlocal_addresses = [\"10.0.0.1-10.9.0.1\"]"),
            &[
                "5:20 director.local_addresses[0] | `10.0.0.1-10.9.0.1` has more than 65536 addresses | each address gives over 60,000 ports towards every real server; a few are enough",
            ],
        ),
        case(
            "local ranges overlap",
            port("[director]\nlocal_addresses = [\"10.0.0.5-10.0.0.9\", \"10.0.0.9\"]"),
            &[
                "5:41 director.local_addresses[1] | the range overlaps another one | the other one is director.local_addresses[0]",
            ],
        ),
        case(
            "local range holds a real server",
            format!("{}[director]\nlocal_addresses = [\"10.0.0.5-10.0.0.20\"]", real("")),
            &[
                "9:20 director.local_addresses[0] | the range holds 10.0.0.11, the address of another station | local addresses belong to the director: leave that one out",
            ],
        ),
        case(
            "duration without unit",
            port("[timeouts]\ntcp = \"900\""),
            &[
                r#"5:7 timeouts.tcp | `900` is not a duration: the unit is missing | write a whole number with its unit: "250ms", "30s", "15m", "1h" or "1d""#,
            ],
        ),
        case(
            "duration of milliseconds",
            port("[timeouts]\ntcp = \"250ms\""),
            &[
                "5:7 timeouts.tcp | `250ms` is not a timeout: it must be whole seconds, at least one | timeouts of connections count in seconds, as `ipvsadm --set` does",
            ],
        ),
        case(
            "timeout as a number",
            port("[timeouts]\nudp = 300"),
            &[r#"5:7 timeouts.udp | expected a string, found a whole number | for example: udp = "5m""#],
        ),
        case(
            "unknown sysctl",
            port("[sysctl]\nconn_reuse_mod = 1"),
            &["5:1 sysctl.conn_reuse_mod | unknown setting | did you mean `conn_reuse_mode`?"],
        ),
        case(
            "sysctl out of range",
            port("[sysctl]\ndrop_entry = 4"),
            &[
                "5:14 sysctl.drop_entry | `4` is not a whole number from 0 to 3 | the default of drop_entry is 0",
            ],
        ),
        case(
            "sysctl of a wrong type",
            port("[sysctl]\ndrop_entry = true"),
            &["5:14 sysctl.drop_entry | expected a whole number | for example: drop_entry = 0"],
        ),
        case(
            "route without via",
            port("[[route]]\nto = \"10.1.0.0/16\""),
            &[r#"4:1 route[0] | `via` is missing | for example: via = "10.0.0.254""#],
        ),
        case(
            "route to nowhere",
            port("[[route]]\nto = \"10.1.0.0/16\"\nvia = \"10.9.0.1\""),
            &[
                "6:7 route[0].via | 10.9.0.1 is on no connected network and no route leads to it | write a router of a connected network, or add an address of its network to a port",
            ],
        ),
        case(
            "route of two families",
            port("[[route]]\nto = \"2001:db8::/32\"\nvia = \"10.0.0.1\""),
            &[
                "6:7 route[0].via | the router 10.0.0.1 and the destinations 2001:db8::/32 are of different address families | a route leads to a router of its own family",
            ],
        ),
        case(
            "route twice",
            port(
                "[[route]]\nto = \"10.1.0.0/16\"\nvia = \"10.0.0.1\"\n[[route]]\nto = \"10.1.0.0/16\"\nvia = \"10.0.0.3\"",
            ),
            &["8:6 route[1].to | there is a route to 10.1.0.0/16 already | one route for each network"],
        ),
        case(
            "mark of everything",
            port("[[mark]]\nmark = 7"),
            &[
                "4:1 mark[0] | the rule would mark every packet | say which: to, ports, protocol or several of them",
            ],
        ),
        case(
            "mark zero",
            port("[[mark]]\nmark = 0\nports = \"90-80\""),
            &[
                "5:8 mark[0].mark | 0 is out of range | mark is a whole number from 1 to 4294967295",
                r#"6:9 mark[0].ports | `90-80` ends before it begins | write "80-90""#,
            ],
        ),
        case(
            "service without address",
            port("[[service]]\nname = \"web\""),
            &[
                r#"4:1 service[0] | `address` is missing | for example: address = "192.0.2.10:80", or fwmark = 7"#,
            ],
        ),
        case(
            "service with address and mark",
            service("fwmark = 7"),
            &[
                "6:10 service[0].fwmark | a service has an address or a fwmark, not both | make two services of it",
            ],
        ),
        case(
            "service address without port",
            port("[[service]]\naddress = \"10.0.0.10\""),
            &[
                r#"5:11 service[0].address | `10.0.0.10` has no port | write it with its port, such as "10.0.0.10:80""#,
            ],
        ),
        case(
            "IPv6 without brackets",
            port("[[service]]\naddress = \"2001:db8::10:80\""),
            &[
                r#"5:11 service[0].address | `2001:db8::10:80` has no port | write it with its port, such as "[2001:db8::10:80]:80""#,
            ],
        ),
        case(
            "service address that is a name",
            port("[[service]]\naddress = \"www.example.org:80\""),
            &[
                r#"5:11 service[0].address | `www.example.org:80` is not ADDRESS:PORT | write it as "192.0.2.10:80" or "[2001:db8::10]:80"; names are not looked up"#,
            ],
        ),
        case(
            "service twice",
            service("[[service]]\naddress = \"10.0.0.10:80\"\nprotocol = \"tcp\""),
            &["7:11 service[1].address | the service is there already | the other one is service[0].address"],
        ),
        case(
            "service name twice",
            service("name = \"a\"\n[[service]]\nname = \"a\"\naddress = \"10.0.0.10:81\""),
            &["8:8 service[1].name | two services have the name `a` | the other one is service[0].name"],
        ),
        case(
            "VIP is multicast",
            port("[[service]]\naddress = \"224.0.0.1:80\""),
            &[
                "5:11 service[0].address | 224.0.0.1 is a multicast address | a virtual address is one that clients can send to",
            ],
        ),
        case(
            "VIP is the gateway",
            port("gateway = \"10.0.0.1\"\n[[service]]\naddress = \"10.0.0.1:80\""),
            &[
                "6:11 service[0].address | 10.0.0.1 is the address of a gateway | the director would take it from the router",
            ],
        ),
        case(
            "unknown port",
            service("ports = [\"tap1\"]"),
            &["6:10 service[0].ports[0] | no port has the name `tap1` | did you mean `tap0`?"],
        ),
        case(
            "unknown scheduler",
            service("scheduler = \"wlcc\""),
            &[
                "6:13 service[0].scheduler | `wlcc` is not known here | did you mean `wlc`? Known are: rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos",
            ],
        ),
        case(
            "scheduler with nothing near",
            service("scheduler = \"leastload\""),
            &[
                "6:13 service[0].scheduler | `leastload` is not known here | known are: rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos",
            ],
        ),
        case(
            "flag of the other scheduler",
            service("scheduler = \"mh\"\nscheduler_flags = [\"sh-port\"]"),
            &[
                r#"7:20 service[0].scheduler_flags[0] | `sh-port` is a flag of sh, the scheduler is mh | write "mh-port""#,
            ],
        ),
        case(
            "unknown flag",
            service("scheduler_flags = [\"sh-prt\"]"),
            &[
                "6:19 service[0].scheduler_flags | `sh-prt` is not known here | did you mean `sh-port`? Known are: sh-port, sh-fallback, mh-port, mh-fallback, flag-1, flag-2, flag-3",
            ],
        ),
        case(
            "port zero",
            port("[[service]]\naddress = \"10.0.0.10:0\""),
            &[
                r#"5:11 service[0].address | Zero port specified for non-persistent service | port 0 stands for every port: add persistence = { timeout = "5m" }, or write the port"#,
            ],
        ),
        case(
            "netmask of IPv6 on IPv4",
            service("persistence = { netmask = 64 }"),
            &[
                "6:27 service[0].persistence.netmask | 64 is out of range: the service is IPv4 | an IPv4 prefix length is 1 to 32",
            ],
        ),
        case(
            "persistence engine on TCP",
            service("persistence = { engine = \"sip\" }"),
            &[
                r#"6:26 service[0].persistence.engine | the persistence engine sip is for UDP | leave `engine` out, or write protocol = "udp""#,
            ],
        ),
        case(
            "one_packet on TCP",
            service("one_packet = true"),
            &[
                r#"6:14 service[0].one_packet | one-packet scheduling is for UDP | leave `one_packet` out, or write protocol = "udp""#,
            ],
        ),
        case(
            "protocol on a mark",
            port("[[service]]\nfwmark = 7\nprotocol = \"udp\""),
            &[
                "6:12 service[0].protocol | a service by fwmark takes every protocol its mark is on | leave `protocol` out here and say it in the [[mark]] rule",
            ],
        ),
        case(
            "unknown mode",
            real("mode = \"masq\""),
            &["8:8 service[0].real[0].mode | `masq` is not known here | known are: nat, fullnat, tun, dr"],
        ),
        case(
            "real server without address",
            net("[[service.real]]\nweight = 1"),
            &[r#"6:1 service[0].real[0] | `address` is missing | for example: address = "10.0.0.11:8080""#],
        ),
        case(
            "real server twice",
            real("[[service.real]]\naddress = \"10.0.0.11:80\""),
            &[
                "9:11 service[0].real[1].address | the real server is there already | a service has each server once",
            ],
        ),
        case(
            "real server that no route reaches",
            net("[[service.real]]\naddress = \"10.9.0.11:80\""),
            &[
                "7:11 service[0].real[0].address | no route leads to 10.9.0.11 | add an address of its network to a port, or a [[route]] or gateway towards it",
            ],
        ),
        case(
            "real server is the director",
            net("[[service.real]]\naddress = \"10.0.0.2:81\""),
            &[
                "7:11 service[0].real[0].address | 10.0.0.2 is the director's own address: packets would go round in circles | write the real server's own address",
            ],
        ),
        case(
            "real server is multicast",
            net("[[service.real]]\naddress = \"224.0.0.9:81\""),
            &[
                "7:11 service[0].real[0].address | 224.0.0.9 is a multicast address | a real server has a unicast address of its own",
            ],
        ),
        case(
            "real server is link-local",
            net("mode = \"tun\"\n[[service.real]]\naddress = \"fe80::9\""),
            &[
                "8:11 service[0].real[0].address | fe80::9 is a link-local address | a real server has a unicast address of its own",
            ],
        ),
        case(
            "families mixed",
            net("[[service.real]]\naddress = \"[2001:db8::11]:80\""),
            &[
                r#"7:11 service[0].real[0].address | the service is IPv4 and the real server IPv6: only mode tun joins them, this is nat | write mode = "tun", or the server's address of the other family"#,
            ],
        ),
        case(
            "weight",
            real("weight = 2147483648"),
            &[
                "8:10 service[0].real[0].weight | 2147483648 is out of range | weight is a whole number from 0 to 2147483647",
            ],
        ),
        case(
            "thresholds",
            real("upper_threshold = 5\nlower_threshold = 6"),
            &[
                "9:19 service[0].real[0].lower_threshold | the lower threshold 6 is above the upper one 5 | write a smaller one; 0 means three quarters of the upper one",
            ],
        ),
        case(
            "lower threshold alone",
            real("lower_threshold = 6"),
            &[
                "8:19 service[0].real[0].lower_threshold | a lower threshold without an upper one has no effect | add upper_threshold",
            ],
        ),
        case(
            "port mapping in tun",
            net("[[service.real]]\naddress = \"10.0.0.11:8080\"\nmode = \"tun\""),
            &[
                "7:11 service[0].real[0].address | mode tun cannot map ports: packets arrive at port 80, not 8080 | leave the port out, or use mode nat or fullnat",
            ],
        ),
        case(
            "port mapping in dr",
            net("mode = \"dr\"\n[[service.real]]\naddress = \"10.0.0.11:8080\""),
            &[
                "8:11 service[0].real[0].address | mode dr cannot map ports: packets arrive at port 80, not 8080 | leave the port out, or use mode nat or fullnat",
            ],
        ),
        case(
            "port zero of a real server",
            net("[[service.real]]\naddress = \"10.0.0.11:0\""),
            &[
                "7:11 service[0].real[0].address | port 0 is no port to send to | leave the port out to keep the service's (80)",
            ],
        ),
        case(
            "real port on every port",
            port(
                "[[service]]\naddress = \"10.0.0.10:0\"\npersistence = {}\n[[service.real]]\naddress = \"10.0.0.11:80\"",
            ),
            &[
                "8:11 service[0].real[0].address | a service on every port keeps the packet's port, 80 would be ignored | leave the port out",
            ],
        ),
        case(
            "DR over TUN",
            "[director]\nmode = \"dr\"\n[[port]]\ntun = \"tun0\"\naddresses = [\"10.0.0.2/24\"]\n[[service]]\naddress = \"10.0.0.10:80\"\n[[service.real]]\naddress = \"10.0.0.11\"",
            &[
                "9:11 service[0].real[0].address | mode dr cannot reach 10.0.0.11 over `tun0`: a TUN device has no MAC addresses to rewrite | use a TAP or packet port, or mode nat, fullnat or tun",
            ],
        ),
        case(
            "DR over a router",
            port(
                "gateway = \"10.0.0.1\"\n[[service]]\naddress = \"10.0.0.10:80\"\nmode = \"dr\"\n[[service.real]]\naddress = \"10.9.0.11\"",
            ),
            &[
                "9:11 service[0].real[0].address | mode dr cannot reach 10.9.0.11 over the router 10.0.0.1: the router would send it back to the VIP | put the server and a port of the director on one network, or use mode tun",
            ],
        ),
        case(
            "tunnel without source",
            port(
                "gateway6 = \"fe80::1\"\n[[service]]\naddress = \"10.0.0.10:80\"\nmode = \"tun\"\n[[service.real]]\naddress = \"2001:db8::11\"",
            ),
            &[
                "9:11 service[0].real[0].address | no source for the tunnel: port `tap0` has no IPv6 address | add one to the port's `addresses`",
            ],
        ),
        case(
            "fullnat without local address",
            port(
                "gateway6 = \"fe80::1\"\n[[service]]\naddress = \"[2001:db8::10]:80\"\nmode = \"fullnat\"\n[[service.real]]\naddress = \"2001:db8::11\"",
            ),
            &[
                "9:11 service[0].real[0].address | no local address for fullnat: port `tap0` has no IPv6 address | add local_addresses to [director], or an address to the port",
            ],
        ),
        case(
            "gue without port",
            real("mode = \"tun\"\ntunnel = { type = \"gue\" }"),
            &[
                r#"9:10 service[0].real[0].tunnel | a gue tunnel needs the UDP port of the server | for example: tunnel = { type = "gue", port = 6080 }"#,
            ],
        ),
        case(
            "ipip with a port and checksum",
            real("mode = \"tun\"\ntunnel = { type = \"ipip\", port = 4, checksum = \"csum\" }"),
            &[
                r#"9:34 service[0].real[0].tunnel.port | an ipip tunnel has no port | leave `port` out, or write type = "gue""#,
                "9:48 service[0].real[0].tunnel.checksum | an ipip tunnel has no checksum | leave `checksum` out, or use gre or gue",
            ],
        ),
        case(
            "remcsum on gre",
            real("mode = \"tun\"\ntunnel = { type = \"gre\", checksum = \"remcsum\" }"),
            &[
                r#"9:37 service[0].real[0].tunnel.checksum | remcsum is for gue | a gre tunnel has checksum "none" or "csum""#,
            ],
        ),
        case(
            "MTU too small for a tunnel",
            "[[port]]\ntap = \"tap0\"\nmtu = 1290\naddresses = [\"10.0.0.2/24\", \"2001:db8::2/64\"]\n[[service]]\naddress = \"[2001:db8::10]:80\"\nmode = \"tun\"\n[[service.real]]\naddress = \"10.0.0.11\"\ntunnel = { type = \"gre\" }",
            &[
                "10:10 service[0].real[0].tunnel | an MTU of 1290 leaves too little for packets inside this tunnel | raise the port's `mtu` to 1304 or more",
            ],
        ),
        case(
            "http for others without protection",
            port("[director]\nhttp = \"0.0.0.0:9980\""),
            &[
                "5:8 director.http | 0.0.0.0:9980 can be reached by others, and there is neither a token nor TLS | write 127.0.0.1:PORT or [::1]:PORT, or add http_token_file, http_certificate_file and http_key_file",
            ],
        ),
        case(
            "http for others with a token alone",
            port("[director]\nhttp = \"[2001:db8::2]:9980\"\nhttp_token_file = \"/t\""),
            &[
                "5:8 director.http | [2001:db8::2]:9980 can be reached by others, and there is no TLS: whoever listens on the way learns the token | add http_certificate_file and http_key_file",
            ],
        ),
        case(
            "http for others with TLS alone",
            port("[director]\nhttp = \"192.0.2.2:9980\"\nhttp_certificate_file = \"/c\"\nhttp_key_file = \"/k\""),
            &[
                "5:8 director.http | 192.0.2.2:9980 can be reached by others, and there is no token | add http_token_file = \"/etc/softlvs/http-token\"",
            ],
        ),
        case(
            "half of TLS",
            port("[director]\nhttp = \"192.0.2.2:9980\"\nhttp_token_file = \"/t\"\nhttp_key_file = \"/k\""),
            &[
                "7:17 director.http_key_file | the private key has no certificate | add http_certificate_file = \"/etc/softlvs/http-certificate.pem\"",
            ],
        ),
        case(
            "protection of nothing, and files without a name",
            port("[director]\nhttp_token_file = \"/t\"\nhttp_certificate_file = \"\""),
            &[
                "5:19 director.http_token_file | there is no `http` that it could protect | add http = \"0.0.0.0:9980\" (or --http), or leave it out",
                "6:25 director.http_certificate_file | it names no file | write the path of a file",
            ],
        ),
    ]
}
