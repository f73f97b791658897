//! What Linux' connection tracking is tested with (`tools/testing/selftests/net/netfilter`), told to a
//! director. IPVS sits beside that machinery and follows flags only: it knows no sequence numbers and no
//! windows. So where the original says "invalid, stays as it was", IPVS moves its state and the ends judge
//! the segment themselves. Each test says which of the two it is.

mod common;

use std::collections::BTreeMap;

use common::*;
use softlvs::engine::{DropReason, Taken, Verdict};
use softlvs::svc::{Forward, Proto, Tunnel};

const BOTH_WAYS: [Forward; 2] = [Forward::Nat, Forward::FullNat];

/// A client's segment in the connection from port 4000.
fn segment(v6: bool, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    let n = net(v6);
    Pkt::segment(n.client(4000), n.vip(), flags, seq, ack, data).frame()
}

fn bytes_at(frame: &[u8], at: usize) -> u32 {
    let at = Seen::of(frame).l4 + at;
    u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

#[test]
fn rst_invalid_any_reset_closes_here_and_the_server_judges_it() {
    // original: RSTs at 0, 1000000, 42 and 3000 are invalid, 3001 closes. IPVS: the first one closes its
    // entry (10 s), all pass with their numbers, and the flow lives on with its next segment.
    for v6 in [false, true] {
        for forward in BOTH_WAYS {
            for seq in [0, 1_000_000, 42, 3000, 3001] {
                let n = net(v6);
                let mut lab = Lab::new(forward);
                let syn = lab.establish(n.client(4000));
                let (verdict, sent) = lab.give(WAN, &segment(v6, RST, seq, 0, b""));
                assert_eq!(verdict, Verdict::Send(LAN));
                assert_eq!(bytes_at(&sent[0].bytes, 4), seq, "sequence numbers are carried as they are");
                assert_eq!((lab.only().0, lab.only().2), ("CLOSE", 10));
                // the server knew better: its data still finds the client, and the client's its server
                let (verdict, sent) = lab.answer(&syn, ACK);
                assert_eq!(verdict, Verdict::Send(WAN));
                assert_eq!(Seen::of(&sent[0].bytes).dst, n.client(4000));
                let (verdict, _) = lab.client_sends(n.client(4000), ACK);
                assert_eq!(verdict, Verdict::Send(LAN));
                // in CLOSE until a SYN, its time running from the last packet
                assert_eq!(lab.state(), "CLOSE");
                lab.wait(11);
                assert_eq!(lab.engine.connection_count(), 0);
            }
        }
    }
}

#[test]
fn syn_challenge_ack_the_challenge_passes_and_the_reset_clears() {
    for forward in BOTH_WAYS {
        for v6 in [false, true] {
            let n = net(v6);
            let mut lab = Lab::new(forward);
            let first = lab.establish(n.client(4000));
            // a client that forgot everything begins again on the same port
            let again = lab.syn(n.client(4000));
            assert_eq!(Seen::of(&again.bytes).dst, Seen::of(&first.bytes).dst, "same server (rule 81)");
            assert_eq!(lab.state(), "ESTABLISHED");
            // the server's challenge ACK reaches it (RFC 5961 section 4)
            let (verdict, sent) = lab.answer(&again, ACK);
            assert_eq!(verdict, Verdict::Send(WAN));
            assert_eq!(Seen::of(&sent[0].bytes).dst, n.client(4000));
            let (verdict, _) = lab.client_sends(n.client(4000), RST);
            assert_eq!((verdict, lab.state()), (Verdict::Send(LAN), "CLOSE"));
            // the next SYN makes a new flow at once
            let new = lab.syn(n.client(4000));
            assert_eq!(lab.state(), "SYN_RECV");
            assert_ne!(Seen::of(&new.bytes).dst.ip(), Seen::of(&first.bytes).dst.ip(), "scheduled anew");
            let _ = lab.answer(&new, SYN | ACK);
            let _ = lab.client_sends(n.client(4000), ACK);
            assert_eq!(lab.state(), "ESTABLISHED");
        }
    }
}

#[test]
fn synack_reuse_a_port_used_again_is_never_in_the_way() {
    // P-12: a thousand connections from one port, each at once after the other
    for forward in BOTH_WAYS {
        let n = net(false);
        let mut lab = Lab::new(forward);
        for round in 0..1000 {
            let syn = lab.establish(n.client(4000));
            if round % 2 == 0 {
                let _ = lab.client_sends(n.client(4000), FIN | ACK);
                let _ = lab.answer(&syn, FIN | ACK);
                let _ = lab.client_sends(n.client(4000), ACK);
                assert_eq!(lab.state(), "TIME_WAIT");
            } else {
                let _ = lab.answer(&syn, RST);
                assert_eq!(lab.state(), "CLOSE");
            }
            lab.wait_ms(1);
        }
        assert_eq!(lab.engine.connection_count(), 1);
    }
}

#[test]
fn synack_old_an_answer_to_an_older_syn_passes_and_changes_nothing() {
    // original: 1 invalid, state stays. IPVS: a SYN+ACK in SYN_RECV keeps SYN_RECV, whatever it acknowledges.
    let n = net(false);
    let mut lab = Lab::new(Forward::Nat);
    let syn = lab.syn(n.client(4000));
    let (verdict, _) = lab.answer(&syn, SYN | ACK);
    assert_eq!((verdict, lab.state()), (Verdict::Send(WAN), "SYN_RECV"));
    // the client resets what it does not know: that too leaves SYN_RECV (rule 73)
    let (verdict, _) = lab.client_sends(n.client(4000), RST);
    assert_eq!((verdict, lab.state()), (Verdict::Send(LAN), "SYN_RECV"));
    let _ = lab.syn(n.client(4000));
    let _ = lab.answer(&syn, SYN | ACK);
    let _ = lab.client_sends(n.client(4000), ACK);
    assert_eq!(lab.state(), "ESTABLISHED");
}

#[test]
fn inexact_rst_after_a_fin_is_fine() {
    for forward in BOTH_WAYS {
        let n = net(false);
        let mut lab = Lab::new(forward);
        let syn = lab.establish(n.client(4000));
        let _ = lab.client_sends(n.client(4000), FIN | ACK);
        assert_eq!(lab.only().2, 60, "CLOSE_WAIT");
        let (verdict, _) = lab.answer(&syn, RST);
        assert_eq!((verdict, lab.only().0, lab.only().2), (Verdict::Send(WAN), "CLOSE", 10));
    }
}

#[test]
fn ack_loss_stall_data_sent_again_passes() {
    for forward in MODES {
        for v6 in [false, true] {
            let n = net(v6);
            let mut lab = Lab::new(forward);
            let _ = lab.syn(n.client(4000));
            let _ = lab.client_sends(n.client(4000), ACK);
            for (seq, ack) in [(1001, 5001), (2001, 5001), (1001, 5001), (1001, 1), (0, 0)] {
                let (verdict, sent) = lab.give(WAN, &segment(v6, ACK, seq, ack, b"again"));
                assert_eq!(verdict, Verdict::Send(LAN));
                assert!(sent[0].bytes.ends_with(b"again"));
                assert_eq!((lab.only().0, lab.only().2), ("ESTABLISHED", 900));
            }
        }
    }
}

#[test]
fn ipip_mtu_datagrams_arrive_whole_over_a_narrower_tunnel() {
    // 1,400 bytes of UDP, three times, where the tunnel's path takes 1,400: whole and in fragments
    for fragmented in [false, true] {
        let n = net(false);
        let mut catalog = catalog(Forward::Tun(Tunnel::Ipip), 1);
        let mut plan = plan();
        plan.ports[1].mtu = 1400;
        catalog.net = std::sync::Arc::new(plan);
        let mut lab = Lab::of(catalog, 10);
        for _ in 0..3 {
            let p = Pkt::udp(n.client(4000), n.vip(), &[5; 1400]);
            let mut sent = Vec::new();
            if fragmented {
                assert_eq!(lab.give(WAN, &p.piece(0..800, true)).0, Verdict::Taken(Taken::Reassembling));
                sent.extend(lab.give(WAN, &p.piece(800..1408, false)).1);
            } else {
                sent.extend(lab.give(WAN, &p.frame()).1);
            }
            // what the other end of the tunnel puts together again
            let mut outer = BTreeMap::new();
            for s in &sent {
                let seen = Seen::of(&s.bytes);
                assert!(seen.len <= 1400, "{} bytes on a link of 1,400", seen.len);
                assert!(ip_sum_right(&s.bytes));
                let frag = u16::from_be_bytes([s.bytes[20], s.bytes[21]]);
                outer.insert(usize::from(frag & 0x1fff) * 8, s.bytes[34..14 + seen.len].to_vec());
            }
            let whole: Vec<u8> = outer.into_values().flatten().collect();
            assert_eq!(whole.len(), 1428);
            assert!(whole.ends_with(&[5; 1400]));
        }
    }
}

#[test]
fn icmp_related_exactly_one_error_of_the_right_size() {
    // a hop with an MTU of 1,280 behind the director: its error arrives at the client once, about the
    // packet the client sent, in NAT
    for v6 in [false, true] {
        for forward in BOTH_WAYS {
            let n = net(v6);
            let mut lab = Lab::new(forward);
            let syn = lab.establish(n.client(4000));
            let data = vec![1; 1400];
            let (_, sent) = lab.give(WAN, &segment(v6, ACK, 1001, 5001, &data));
            let limit = if v6 { 1232 } else { 548 };
            let quoted = &sent[0].bytes[14..][..limit];
            let kind = if v6 { (2, 0) } else { (3, 4) };
            let seen = Seen::of(&syn.bytes);
            let error = Pkt::icmp(n.rs(7), seen.src.ip(), kind, 1280, quoted).to(LAN_MAC);
            let (verdict, sent) = lab.give(LAN, &error.frame());
            assert_eq!((verdict, sent.len()), (Verdict::Send(WAN), 1), "{forward:?}");
            let told = Seen::of(&sent[0].bytes);
            assert_eq!((told.src.ip(), told.dst.ip()), (n.vip, n.client));
            assert_eq!(told.len, if v6 { 1280 } else { 576 });
            assert_eq!(bytes_at(&sent[0].bytes, 4), 1280);
            sums_right(&sent[0].bytes);
            let inner = Seen::of(&[&[0; 14][..], &sent[0].bytes[told.l4 + 8..]].concat());
            assert_eq!((inner.src, inner.dst), (n.client(4000), n.vip()));
        }
    }
}

#[test]
fn tcp_unreplied_syns_that_keep_coming_keep_the_entry_and_a_removed_server_ends_it() {
    // original: an unanswered SYN times out although SYNs keep coming, so that a later rule applies. IPVS:
    // every packet re-arms (rule 72), so the entry stays with its server while the client insists. What
    // makes a later change apply is the server's weight or removal.
    let n = net(false);
    let mut lab = Lab::of(catalog(Forward::Nat, 1), 10);
    let first = Seen::of(&lab.syn(n.client(4000)).bytes).dst;
    for _ in 0..10 {
        lab.wait(30);
        let again = Seen::of(&lab.syn(n.client(4000)).bytes).dst;
        assert_eq!((again, lab.only().2), (first, 60));
    }
    // a second server comes, the first one is drained; expire_nodest_conn makes a SYN leave it (rule 84)
    let key = key(Proto::Tcp, false);
    lab.catalog.add_dest(&key, dest(n.rs(1), 8080, 1, Forward::Nat)).unwrap();
    lab.catalog.edit_dest(&key, dest(n.rs(0), 8080, 0, Forward::Nat)).unwrap();
    lab.commit();
    assert_eq!(Seen::of(&lab.syn(n.client(4000)).bytes).dst, first, "with expire_nodest_conn=0 it stays");
    lab.catalog.sysctl.expire_nodest_conn = true;
    lab.commit();
    assert_eq!(Seen::of(&lab.syn(n.client(4000)).bytes).dst.ip(), n.rs(1));
    // removed without expire_nodest_conn: silence, until a minute without packets has passed
    lab.catalog.sysctl.expire_nodest_conn = false;
    lab.catalog.remove_dest(&key, n.rs(1), 8080).unwrap();
    lab.catalog.edit_dest(&key, dest(n.rs(0), 8080, 1, Forward::Nat)).unwrap();
    lab.commit();
    let (verdict, sent) = lab.client_sends(n.client(4000), SYN);
    assert_eq!((verdict, sent.len()), (Verdict::Drop(DropReason::DestinationGone), 0));
    lab.wait(61);
    assert_eq!(Seen::of(&lab.syn(n.client(4000)).bytes).dst.ip(), n.rs(0));
}

#[test]
fn clash_parallel_datagrams_of_one_socket_are_one_connection() {
    // 128 datagrams before any answer, three servers: one flow, one server, 128 answers from the VIP
    for forward in BOTH_WAYS {
        for v6 in [false, true] {
            let n = net(v6);
            let mut lab = Lab::of(catalog(forward, 3), 1000);
            let mut seen = Vec::new();
            for i in 0..128u8 {
                let (verdict, sent) = lab.give(WAN, &Pkt::udp(n.client(4000), n.vip(), &[i]).frame());
                assert_eq!(verdict, Verdict::Send(LAN));
                seen.push(Seen::of(&sent[0].bytes));
            }
            assert_eq!(lab.engine.connection_count(), 1);
            assert!(seen.iter().all(|s| (s.src, s.dst) == (seen[0].src, seen[0].dst)));
            for (i, s) in seen.iter().enumerate() {
                let reply = Pkt::udp(s.dst, s.src, &[i as u8]).to(LAN_MAC).frame();
                let (verdict, sent) = lab.give(LAN, &reply);
                assert_eq!(verdict, Verdict::Send(WAN));
                let back = Seen::of(&sent[0].bytes);
                assert_eq!((back.src, back.dst), (n.vip(), n.client(4000)));
                assert_eq!(sent[0].bytes.last(), Some(&(i as u8)));
                sums_right(&sent[0].bytes);
            }
        }
    }
}
