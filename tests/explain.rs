//! What `softlvs explain` says, word for word: every mode, every scheduler, every drop. The texts are in
//! `tests/golden/explain`; `UPDATE_GOLDEN=1 cargo test --test explain` writes them anew, to be read before
//! they are committed.
#![cfg(feature = "daemon")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use softlvs::buf::{Csum, HEADROOM, Offload, Out, PacketBuf};
use softlvs::config::{self, Plan};
use softlvs::engine::{DropReason, Engine, PortId, Verdict};
use softlvs::explain::{Question, Report, answer, offline};
use softlvs::host::{NetPlan, RoutePlan, RouteVia};
use softlvs::svc::{Dest, SchedulerKind};
use softlvs::time::Mono;
use softlvs::wire::Link;

const WAN: PortId = PortId(0);
const LAN: PortId = PortId(1);
const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 9, 9];
const NOW: Mono = Mono::from_millis(60_000);
const SYN: u8 = 2;
const ACK: u8 = 16;

/// Compares a text with the one that is kept.
fn golden(name: &str, text: &str) {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/explain").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{name} differs from {}:\n{text}", path.display());
}

const NETWORK: &str = r#"
[[port]]
name = "wan"
tap = "tap0"
mac = "02:00:00:00:01:01"
addresses = ["192.0.2.2/24", "2001:db8:1::2/64"]
gateway = "192.0.2.1"
gateway6 = "2001:db8:1::1"
mtu = 1500

[[port]]
name = "lan"
tap = "tap1"
mac = "02:00:00:00:02:01"
addresses = ["10.0.0.1/24", "2001:db8:2::1/64"]
mtu = 1500
"#;

/// The network with a service; `head` goes before it, `service` and `real` into the service and its
/// servers.
fn toml(head: &str, service: &str, real: &str) -> String {
    format!(
        "{head}\n{NETWORK}\n[[service]]\nname = \"web\"\naddress = \"192.0.2.10:80\"\nprotocol = \"tcp\"\n{service}\n\
         [[service.real]]\naddress = \"10.0.0.11:80\"\nweight = 1\n{real}\n\
         [[service.real]]\naddress = \"10.0.0.12:80\"\nweight = 2\n{real}\n"
    )
}

fn plan(toml: &str) -> Plan {
    config::check(toml, "test.toml").unwrap_or_else(|all| {
        panic!("{toml}\n{}", all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

fn question(flow: &str) -> Question {
    Question::flow(flow)
}

/// The engine that a question would be put to.
fn engine(toml: &str) -> Engine {
    offline::engine(&plan(toml), &question("tcp 198.51.100.9:40000 > 192.0.2.10:80")).unwrap().engine
}

/// Really gives a frame to the engine.
fn give(e: &mut Engine, port: PortId, frame: &[u8]) -> Verdict {
    let mut mem = vec![0; 70_000];
    let mut pkt = PacketBuf::empty(&mut mem, HEADROOM);
    pkt.fill(frame);
    e.on_packet(NOW, port, &mut pkt, &mut Out::new())
}

fn told(e: &Engine, port: PortId, frame: &[u8], offload: Offload) -> Report {
    let told = e.explain(NOW, port, frame, offload).unwrap();
    Report::new(e, port, frame, false, &told)
}

fn link(to: [u8; 6]) -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    etherparse::PacketBuilder::ethernet2(PEER, to)
}

fn tcp_from(
    to: [u8; 6],
    src: ([u8; 4], u16),
    dst: ([u8; 4], u16),
    flags: u8,
    ttl: u8,
    len: usize,
) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(src.1, dst.1, 1, 1000);
    (header.syn, header.ack, header.rst) = (flags & 2 != 0, flags & 16 != 0, flags & 4 != 0);
    let mut frame = Vec::new();
    link(to).ipv4(src.0, dst.0, ttl).tcp_header(header).write(&mut frame, &vec![7; len]).unwrap();
    frame
}

const CLIENT: ([u8; 4], u16) = ([198, 51, 100, 9], 40_000);
const VIP: ([u8; 4], u16) = ([192, 0, 2, 10], 80);

fn syn() -> Vec<u8> {
    tcp_from(WAN_MAC, CLIENT, VIP, SYN, 64, 0)
}

/// A frame with an IPv4 packet of other protocols; the header checksum is right.
fn ip(to: [u8; 6], src: [u8; 4], dst: [u8; 4], proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    link(to).ipv4(src, dst, 64).write(&mut frame, etherparse::IpNumber(proto), payload).unwrap();
    frame
}

fn sum(bytes: &[u8]) -> [u8; 2] {
    softlvs::wire::sum::checksum(bytes).to_be_bytes()
}

/// Puts the IPv4 header checksum right after a change.
fn resum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[24..26].fill(0);
    let right = sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&right);
    frame
}

fn icmp(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(rest);
    let right = sum(&message);
    message[2..4].copy_from_slice(&right);
    message
}

#[test]
fn every_mode_there_and_back() {
    for (mode, real) in [
        ("nat", ""),
        ("fullnat", ""),
        ("dr", ""),
        ("tun-ipip", "tunnel = { type = \"ipip\" }"),
        ("tun-gre", "tunnel = { type = \"gre\" }"),
        ("tun-gue", "tunnel = { type = \"gue\", port = 6080 }"),
    ] {
        let kind = mode.split('-').next().unwrap();
        let toml = toml(&format!("[director]\nmode = \"{kind}\""), "scheduler = \"rr\"", real);
        let flow = question("tcp 198.51.100.9:40000 > 192.0.2.10:80");
        let report = offline::ask(&plan(&toml), &flow).unwrap();
        golden(&format!("mode-{mode}"), &report.text());
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again.text(), report.text(), "JSON says the same");
        if !matches!(kind, "nat" | "fullnat") {
            continue;
        }
        let mut e = engine(&toml);
        assert_eq!(give(&mut e, WAN, &syn()), Verdict::Send(LAN));
        let row = e.connections(NOW).next().unwrap();
        let reply = format!("tcp {} > {}", row.dest, row.local.unwrap_or(row.client));
        let mut reply = question(&reply);
        reply.flags = Some("SYN+ACK".into());
        golden(&format!("reply-{mode}"), &answer(&e, NOW, &reply).unwrap().text());
        golden(&format!("known-{mode}"), &answer(&e, NOW, &flow).unwrap().text());
    }
}

#[test]
fn every_scheduler_with_what_it_saw_and_the_runner_up() {
    for (_, name) in SchedulerKind::ALL {
        let flags = if name == "sh" { "\nscheduler_flags = [\"sh-port\", \"sh-fallback\"]" } else { "" };
        let toml = toml("[director]\nmode = \"nat\"", &format!("scheduler = \"{name}\"{flags}"), "");
        let mut e = engine(&toml);
        // one connection is there already, so that counts and turns show
        assert_eq!(
            give(&mut e, WAN, &tcp_from(WAN_MAC, ([198, 51, 100, 7], 7), VIP, SYN, 64, 0)),
            Verdict::Send(LAN)
        );
        let report = answer(&e, NOW, &question("tcp 198.51.100.9:40000 > 192.0.2.10:80")).unwrap();
        golden(&format!("scheduler-{name}"), &report.text());
        assert_eq!(give(&mut e, WAN, &syn()), Verdict::Send(LAN));
        let went = e.connections(NOW).find(|row| row.client.port() == 40_000).unwrap().dest;
        assert_eq!(report.server, Some(went.to_string()), "{name}: what is said is what happens");
    }
}

#[test]
fn persistence_marks_one_packet_scheduling_fragments_and_the_directors_own_business() {
    let nat = "[director]\nmode = \"nat\"";
    let mut e = engine(&toml(nat, "persistence = { timeout = \"5m\" }", ""));
    golden("template-none", &told(&e, WAN, &syn(), Offload::NONE).text());
    assert_eq!(give(&mut e, WAN, &syn()), Verdict::Send(LAN));
    let second = tcp_from(WAN_MAC, (CLIENT.0, 40_001), VIP, SYN, 64, 0);
    golden("template-known", &told(&e, WAN, &second, Offload::NONE).text());

    let marked = format!(
        "{nat}\n{NETWORK}\n[[mark]]\nmark = 7\nto = \"192.0.2.20/30\"\nprotocol = \"tcp\"\n\
         [[service]]\nfwmark = 7\nscheduler = \"rr\"\n[[service.real]]\naddress = \"10.0.0.11\"\n"
    );
    golden(
        "mark",
        &told(
            &engine(&marked),
            WAN,
            &tcp_from(WAN_MAC, CLIENT, ([192, 0, 2, 21], 8443), SYN, 64, 0),
            Offload::NONE,
        )
        .text(),
    );

    let e = engine(&toml(nat, "", ""));
    for (name, flow) in [
        ("echo", "icmp 198.51.100.9 > 192.0.2.10"),
        ("closed-port", "tcp 198.51.100.9:40000 > 192.0.2.10:81"),
    ] {
        let report = answer(&e, NOW, &question(flow)).unwrap();
        assert!(!report.is_drop());
        golden(name, &report.text());
    }
    let first = fragment(&syn(), 0, true);
    golden("fragment", &told(&e, WAN, &first, Offload::NONE).text());
}

/// A piece of a packet, not cut: only the field says so.
fn fragment(frame: &[u8], offset: u16, more: bool) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let field = (offset / 8) | if more { 0x2000 } else { 0 };
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    resum(frame)
}

/// Drops that are no engine's verdict on a packet: by devices, of packets that had been taken before, of
/// tunnels that only a real server unwraps, and names that nothing uses.
const NOT_A_VERDICT: &[DropReason] = &[
    DropReason::NeighborFailed,
    DropReason::NeighborQueueFull,
    // an entry makes room for it, unless thousands of gateways are configured
    DropReason::NeighborTableFull,
    // takes somebody who knows the secret of the hash
    DropReason::TableCrowded,
    DropReason::NotSyn,
    DropReason::Nested,
    DropReason::BadTunnel,
    // every packet has headroom for the longest tunnel header
    DropReason::NoHeadroom,
    DropReason::DeviceFull,
    DropReason::DeviceRefused,
    // an engine by itself hands nothing to other workers
    DropReason::HandoverFull,
];

type Case = (DropReason, Engine, PortId, Vec<u8>, Offload);

fn cases() -> Vec<Case> {
    use DropReason as R;
    let nat = "[director]\nmode = \"nat\"";
    let plain = || engine(&toml(nat, "scheduler = \"rr\"", ""));
    let mut all: Vec<Case> = Vec::new();
    let mut case = |why, e, port, frame| all.push((why, e, port, frame, Offload::NONE));

    case(R::ShortFrame, plain(), WAN, vec![1; 10]);
    case(R::OtherStation, plain(), WAN, tcp_from([2, 9, 9, 9, 9, 9], CLIENT, VIP, SYN, 64, 0));
    case(R::GroupFrame, plain(), WAN, tcp_from([0xff; 6], CLIENT, VIP, SYN, 64, 0));
    let mut f = syn();
    f[12..14].copy_from_slice(&[0x88, 0xcc]);
    case(R::EtherType, plain(), WAN, f);
    case(R::ShortIpHeader, plain(), WAN, syn()[..24].to_vec());
    let mut f = syn();
    f[14] = 0x65;
    case(R::BadVersion, plain(), WAN, f);
    let mut f = syn();
    f[14] = 0x44;
    case(R::BadIpHeaderLength, plain(), WAN, f);
    let mut f = syn();
    f[24] ^= 0xff;
    case(R::BadIpChecksum, plain(), WAN, f);
    let mut f = syn();
    f[16..18].copy_from_slice(&[1, 0]);
    case(R::BadIpLength, plain(), WAN, resum(f));
    let mut f = [&WAN_MAC[..], &PEER, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 4, 0, 64]].concat();
    f.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    f.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 6, 9, 0, 0]);
    case(R::BadExtension, plain(), WAN, f);
    case(R::ShortTransport, plain(), WAN, ip(WAN_MAC, CLIENT.0, VIP.0, 6, &[0, 80, 0, 80, 0, 0]));
    case(R::MartianSource, plain(), WAN, tcp_from(WAN_MAC, ([127, 0, 0, 1], 1), VIP, SYN, 64, 0));
    case(R::MartianDestination, plain(), WAN, tcp_from(WAN_MAC, CLIENT, ([127, 0, 0, 1], 1), SYN, 64, 0));
    case(R::NotOurs, plain(), WAN, tcp_from(WAN_MAC, CLIENT, ([203, 0, 113, 9], 80), SYN, 64, 0));
    case(R::BadArp, plain(), LAN, [&LAN_MAC[..], &PEER, &[8, 6], &[0; 28]].concat());
    let mut f = [&WAN_MAC[..], &PEER, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 64]].concat();
    f.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    f.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    f.extend_from_slice(&[135, 0, 0, 0, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    case(R::BadNd, plain(), WAN, icmp6(f));
    let mut f = icmp(8, 0, &[0, 1, 0, 1]);
    f[2] ^= 0xff;
    case(R::BadIcmpChecksum, plain(), WAN, ip(WAN_MAC, CLIENT.0, VIP.0, 1, &f));
    let mut f = tcp_from(WAN_MAC, CLIENT, (VIP.0, 81), SYN, 64, 0);
    f[50] ^= 0xff;
    case(R::BadTransportChecksum, plain(), WAN, f);
    case(R::IcmpIgnored, plain(), WAN, ip(WAN_MAC, CLIENT.0, VIP.0, 1, &icmp(5, 1, &[0; 32])));
    let about = tcp_from(WAN_MAC, VIP, CLIENT, ACK, 64, 0);
    let unknown = icmp(3, 3, &[&[0; 4][..], &about[14..]].concat());
    case(R::IcmpNoConnection, plain(), WAN, ip(WAN_MAC, CLIENT.0, VIP.0, 1, &unknown));
    case(R::TtlExpired, plain(), WAN, tcp_from(WAN_MAC, CLIENT, VIP, SYN, 1, 0));
    let routed = format!(
        "[director]\nmode = \"nat\"\nforwarding = true\n{}",
        NETWORK.replace("gateway = \"192.0.2.1\"\n", "")
    );
    let there = tcp_from(WAN_MAC, CLIENT, ([203, 0, 113, 9], 80), SYN, 64, 0);
    case(R::NoRoute, engine(&routed), WAN, there.clone());
    let mut nowhere = engine(&routed);
    let to = "203.0.113.0/24".parse().unwrap();
    renetted(&mut nowhere, |net| net.routes.push(RoutePlan { to, via: RouteVia::Unreachable }));
    case(R::Unreachable, nowhere, WAN, there);
    let tun = toml("[director]\nmode = \"tun\"", "", "");
    let mut f = tcp_from(WAN_MAC, CLIENT, VIP, SYN, 64, 1450);
    f[20] |= 0x40;
    case(R::TooBig, engine(&tun), WAN, resum(f));
    let closed = toml("[director]\nmode = \"nat\"\nclosed = \"drop\"", "", "");
    case(R::NoService, engine(&closed), WAN, tcp_from(WAN_MAC, CLIENT, (VIP.0, 81), SYN, 64, 0));
    let none = toml(nat, "", "").replace("weight = 1", "weight = 0").replace("weight = 2", "weight = 0");
    case(R::NoDestination, engine(&none), WAN, syn());

    let both = toml(nat, "scheduler = \"rr\"", "");
    let one = both.rsplit_once("[[service.real]]").unwrap().0.to_owned();
    let mut e = engine(&one);
    assert_eq!(give(&mut e, WAN, &syn()), Verdict::Send(LAN));
    removed(&mut e);
    case(R::DestinationGone, e, WAN, tcp_from(WAN_MAC, CLIENT, VIP, ACK, 64, 0));
    let mut e = engine(&toml("[director]\nmode = \"nat\"\nconnection_limit = 1", "", ""));
    assert_eq!(give(&mut e, WAN, &syn()), Verdict::Send(LAN));
    case(R::TableFull, e, WAN, tcp_from(WAN_MAC, (CLIENT.0, 5), VIP, SYN, 64, 0));
    let second = "\n[[service]]\nname = \"second\"\naddress = \"192.0.2.10:81\"\nprotocol = \"tcp\"\n\
                  [[service.real]]\naddress = \"10.0.0.11:80\"\n";
    let mut e = engine(&(one.clone() + second));
    assert_eq!(give(&mut e, WAN, &syn()), Verdict::Send(LAN));
    case(R::ReplyTupleTaken, e, WAN, tcp_from(WAN_MAC, CLIENT, (VIP.0, 81), SYN, 64, 0));
    let full = one.replace("mode = \"nat\"", "mode = \"fullnat\"\nconnection_limit = 100000");
    let mut e = engine(&full);
    for n in 0..64_512u32 {
        let [_, _, a, b] = (n / 60_000 + 1).to_be_bytes();
        let port = (n % 60_000 + 1) as u16;
        assert_eq!(
            give(&mut e, WAN, &tcp_from(WAN_MAC, ([198, 51, a, b], port), VIP, SYN, 64, 0)),
            Verdict::Send(LAN)
        );
    }
    case(R::LocalPortsExhausted, e, WAN, syn());
    let mut no_dip = engine(&tun);
    renetted(&mut no_dip, |net| {
        net.ports.iter_mut().for_each(|p| p.addresses.clear());
        net.routes.push(RoutePlan { to: "10.0.0.0/24".parse().unwrap(), via: RouteVia::Port(1) });
    });
    case(R::NoLocalAddress, no_dip, WAN, syn());
    let ops = toml("[director]\nmode = \"fullnat\"", "one_packet = true", "").replace("\"tcp\"", "\"udp\"");
    let mut datagram = Vec::new();
    link(WAN_MAC).ipv4(CLIENT.0, VIP.0, 64).udp(CLIENT.1, VIP.1).write(&mut datagram, b"q").unwrap();
    case(R::CannotForward, engine(&ops), WAN, datagram.clone());
    case(R::Protocol, plain(), WAN, ip(WAN_MAC, CLIENT.0, VIP.0, 2, &[0; 8]));
    case(R::BadFragment, plain(), WAN, fragment(&syn(), 65_528, true));
    case(R::BadIpOptions, plain(), WAN, with_option(&syn(), [7, 3, 3, 0]));
    case(R::SourceRoute, plain(), WAN, with_option(&syn(), [131, 3, 4, 0]));
    let mut e = plain();
    let long = tcp_from(WAN_MAC, CLIENT, VIP, ACK, 64, 20);
    for n in 1..=256 {
        assert!(!matches!(give(&mut e, WAN, &fragment(&long, n * 40, true)), Verdict::Drop(_)));
    }
    case(R::FragmentLimit, e, WAN, fragment(&long, 257 * 40, true));
    let defence = toml(nat, "", "") + "\n[sysctl]\ndrop_packet = 3\nam_droprate = 1\n";
    case(R::DropPacketDefence, engine(&defence), WAN, syn());
    let sip =
        toml(nat, "persistence = { timeout = \"5m\", engine = \"sip\" }", "").replace("\"tcp\"", "\"udp\"");
    case(R::PersistenceData, engine(&sip), WAN, datagram);
    case(R::DeviceDown, plain(), PortId(7), syn());
    all.push((
        R::BadOffload,
        plain(),
        WAN,
        syn(),
        Offload { csum: Csum::Partial { start: 5000, offset: 16 }, gso: None },
    ));
    let gso = softlvs::buf::Gso { kind: softlvs::buf::GsoKind::Tcp4, size: 0, hdr_len: 54, ecn: false };
    let big = tcp_from(WAN_MAC, CLIENT, VIP, SYN, 64, 4000);
    let partial = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: Some(gso) };
    all.push((R::BadSegmentation, engine(&tun), WAN, big, partial));
    all
}

/// The same IPv4 frame with four bytes of options.
fn with_option(frame: &[u8], option: [u8; 4]) -> Vec<u8> {
    let mut longer = [&frame[..34], &option[..], &frame[34..]].concat();
    longer[14] = 0x46;
    let total = (longer.len() - 14) as u16;
    longer[16..18].copy_from_slice(&total.to_be_bytes());
    longer[24..26].fill(0);
    let check = softlvs::wire::sum::checksum(&longer[14..38]);
    longer[24..26].copy_from_slice(&check.to_be_bytes());
    longer
}

/// Gives a frame with an ICMPv6 message its checksum.
fn icmp6(mut frame: Vec<u8>) -> Vec<u8> {
    let len = (frame.len() - 54) as u32;
    let (src, dst) = (frame[22..38].try_into().unwrap(), frame[38..54].try_into().unwrap());
    let head = softlvs::wire::sum::pseudo6(&src, &dst, 58, len);
    let right = !softlvs::wire::sum::fold(head + softlvs::wire::sum::sum(&frame[54..]));
    frame[56..58].copy_from_slice(&right.to_be_bytes());
    frame
}

/// Changes the network in a way that no configuration file can.
fn renetted(e: &mut Engine, change: impl FnOnce(&mut NetPlan)) {
    let mut snapshot = (**e.snapshot()).clone();
    change(std::sync::Arc::make_mut(&mut snapshot.net));
    snapshot.generation += 1;
    e.on_snapshot(NOW, std::sync::Arc::new(snapshot));
}

/// Takes all real servers away; connections stay.
fn removed(e: &mut Engine) {
    let mut snapshot = (**e.snapshot()).clone();
    for service in &mut snapshot.services {
        std::sync::Arc::make_mut(service).dests.clear();
    }
    for id in 0..snapshot.dests.len() {
        let gone =
            snapshot.dests.get(id).map(|d| std::sync::Arc::new(Dest { available: false, ..(**d).clone() }));
        snapshot.dests.set(id, gone);
    }
    snapshot.generation += 1;
    e.on_snapshot(NOW, std::sync::Arc::new(snapshot));
}

#[test]
fn every_drop_that_an_engine_can_say_is_explained_and_is_what_then_happens() {
    let mut seen = BTreeSet::new();
    for (why, mut e, port, frame, offload) in cases() {
        let report = told(&e, port, &frame, offload);
        assert_eq!(report.drop.as_deref(), Some(why.name()), "{}", report.text());
        golden(&format!("drop-{}", why.name()), &report.text());
        let mut mem = vec![0; 70_000];
        let mut pkt = PacketBuf::empty(&mut mem, HEADROOM);
        pkt.fill(&frame);
        pkt.offload = offload;
        assert_eq!(e.on_packet(NOW, port, &mut pkt, &mut Out::new()), Verdict::Drop(why));
        seen.insert(why);
    }
    for why in DropReason::ALL {
        let excused = NOT_A_VERDICT.contains(why);
        assert!(
            seen.contains(why) != excused,
            "{}: {}",
            why.name(),
            if excused { "is a verdict after all" } else { "has no golden" }
        );
    }
}

#[test]
fn a_captured_frame_is_explained_on_the_port_it_was_for() {
    let frame = tcp_from(LAN_MAC, ([10, 0, 0, 11], 80), CLIENT, ACK, 64, 0);
    let e = engine(&toml("[director]\nmode = \"nat\"", "", ""));
    let report = answer(&e, NOW, &Question::frame(&frame, Link::Ethernet)).unwrap();
    assert_eq!((report.port.as_str(), report.drop.as_deref()), ("lan", Some("not_ours")));
    let bare = Question::frame(&syn()[14..], Link::Ip);
    assert_eq!(answer(&e, NOW, &bare).unwrap().server.as_deref(), Some("10.0.0.12:80"));
    for (frame, why) in [("0", "hexadecimal"), ("zz", "hexadecimal")] {
        let wrong = Question { frame: Some(frame.into()), ..Question::frame(&[], Link::Ethernet) };
        assert!(answer(&e, NOW, &wrong).unwrap_err().why.contains(why));
    }
}
