//! Schedulers against naive models, and their bounds.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::svc::{DestSpec, Forward, ServiceId};

fn dest(n: u32, weight: u32) -> Arc<Dest> {
    let ip = Ipv4Addr::from(0x0a02_0000 + n).into();
    let spec =
        DestSpec { name: String::new(), ip, port: 80, weight, forward: Forward::Nat, upper: 0, lower: 0 };
    Arc::new(Dest {
        id: DestId(n),
        service: ServiceId(0),
        spec,
        live: Arc::default(),
        timeouts: Default::default(),
        mss_clamp: false,
        stats: Default::default(),
        service_stats: Default::default(),
        available: true,
        ending: crate::svc::Ending::No,
    })
}

fn dests(weights: &[u32]) -> Vec<Arc<Dest>> {
    weights.iter().enumerate().map(|(i, w)| dest(i as u32, *w)).collect()
}

fn key(n: u32) -> PickKey {
    let ip = |net: u32| IpAddr::from(Ipv4Addr::from(net.wrapping_add(n)));
    PickKey { src: ip(0xc633_6400), sport: n as u16, dst: ip(0x0a09_0000), random: u64::from(n) << 32 }
}

fn make(kind: SchedulerKind, list: &[Arc<Dest>]) -> Scheduler {
    Scheduler::new(kind, SchedulerFlags::default(), list)
}

/// Sets counts of a server by binding connections.
fn load(dest: &Dest, active: u32, inactive: u32) {
    (0..active).for_each(|_| dest.bind(true));
    (0..inactive).for_each(|_| dest.bind(false));
}

#[test]
fn no_scheduler_picks_without_servers() {
    for (kind, name) in SchedulerKind::ALL {
        assert_eq!(make(kind, &[]).pick(Mono::ZERO, &[], &key(1)), None, "{name}");
        let list = dests(&[0, 0]);
        assert_eq!(make(kind, &list).pick(Mono::ZERO, &list, &key(1)), None, "{name}");
    }
}

#[test]
fn wrr_with_a_huge_and_an_overloaded_weight_does_not_walk_billions_of_rounds() {
    let mut list = dests(&[0x7fff_ffff, 1]);
    Arc::make_mut(&mut list[0]).spec.upper = 1;
    load(&list[0], 1, 0);
    let mut s = make(SchedulerKind::Wrr, &list);
    for _ in 0..1000 {
        assert_eq!(s.pick(Mono::ZERO, &list, &key(0)), Some(1));
    }
}

#[test]
fn rr_goes_on_behind_a_removed_server() {
    let mut list = dests(&[1, 1, 1, 1]);
    let mut s = make(SchedulerKind::Rr, &list);
    assert_eq!(s.pick(Mono::ZERO, &list, &key(0)), Some(0));
    assert_eq!(s.pick(Mono::ZERO, &list, &key(0)), Some(1));
    let gone = list.remove(1);
    s.removed(&list, gone.id, 1);
    assert_eq!(s.pick(Mono::ZERO, &list, &key(0)).map(|i| list[i].id), Some(DestId(2)));
}

#[test]
fn mh_client_of_a_quiesced_server_returns_to_it() {
    let mut list = dests(&[1, 2, 3]);
    let mut s = make(SchedulerKind::Mh, &list);
    let home: Vec<_> = (0..200).map(|n| s.pick(Mono::ZERO, &list, &key(n))).collect();
    Arc::make_mut(&mut list[2]).spec.weight = 0;
    s.edited(&list, DestId(2));
    for (n, was) in home.iter().enumerate() {
        let now = s.pick(Mono::ZERO, &list, &key(n as u32));
        assert_eq!(now, was.filter(|i| *i != 2));
    }
    Arc::make_mut(&mut list[2]).spec.weight = 3;
    s.edited(&list, DestId(2));
    let back: Vec<_> = (0..200).map(|n| s.pick(Mono::ZERO, &list, &key(n))).collect();
    assert_eq!(back, home);
}

#[test]
fn schedulers_that_go_by_counts_have_no_state_and_pick_the_same_without_it() {
    let list = dests(&[3, 1, 0, 2]);
    for _ in 0..20 {
        for (kind, name) in SchedulerKind::ALL {
            let mut s = make(kind, &list);
            assert_eq!(goes_by_counts(kind), matches!(s.state, State::None), "{name}");
            let without = pick_by_counts(kind, &list, &key(7));
            let with = s.pick(Mono::ZERO, &list, &key(7)).filter(|_| goes_by_counts(kind));
            assert_eq!(without, with, "{name}");
            // `ovf` has none when every server has as many connections as its weight
            let some = kind == SchedulerKind::Ovf || with.is_some();
            assert_eq!(some, goes_by_counts(kind), "{name}");
        }
        list[pick_by_counts(SchedulerKind::Wlc, &list, &key(7)).unwrap()].bind(true);
    }
}

#[test]
fn remembered_servers_are_found_in_an_older_list() {
    let new = dests(&[1, 1, 1]);
    let old = vec![new[2].clone(), new[0].clone()];
    for kind in [SchedulerKind::Sh, SchedulerKind::Dh, SchedulerKind::Mh] {
        let mut s = make(kind, &new);
        for n in 0..500 {
            let (a, b) = (s.pick(Mono::ZERO, &new, &key(n)), s.pick(Mono::ZERO, &old, &key(n)));
            assert_eq!(a.map(|i| new[i].id).filter(|id| id.0 != 1), b.map(|i| old[i].id), "{kind:?}");
        }
    }
}

#[test]
fn lblc_forgets_at_the_half_hourly_check_and_not_before() {
    let list = dests(&[1, 1]);
    let mut s = make(SchedulerKind::Lblc, &list);
    s.set_expiration(Span::from_secs(120));
    s.sweep(Mono::ZERO);
    assert_eq!(s.pick(Mono::ZERO, &list, &key(1)), Some(0));
    load(&list[0], 1, 0);
    assert_eq!(s.clone().pick(Mono::from_millis(1_799_000), &list, &key(1)), Some(0));
    assert_eq!(s.pick(Mono::from_millis(1_801_000), &list, &key(1)), Some(1));
    // years of silence are caught up with at once
    assert_eq!(s.pick(Mono(u64::MAX / 2), &list, &key(1)), Some(1));
}

#[test]
fn lblc_memory_is_bounded() {
    let list = dests(&[1, 1]);
    let mut s = make(SchedulerKind::Lblc, &list);
    for n in 0..100_000u32 {
        let key = PickKey { dst: Ipv4Addr::from(n).into(), ..key(0) };
        assert!(s.pick(Mono::ZERO, &list, &key).is_some());
    }
    let State::Lblc(cache) = &s.state else { panic!() };
    assert!(cache.len() <= 65_536);
    s.sweep(Mono::from_millis(7 * 60_000));
    let State::Lblc(cache) = &s.state else { panic!() };
    assert!(cache.len() <= 65_536 - 8_192);
}

#[test]
fn lblcr_set_grows_under_overload_and_shrinks_after_the_expiration() {
    let list = dests(&[1, 1, 10]);
    let mut s = make(SchedulerKind::Lblcr, &list);
    s.set_expiration(Span::from_secs(60));
    load(&list[1], 1, 0);
    load(&list[2], 1, 0);
    assert_eq!(s.pick(Mono::ZERO, &list, &key(1)), Some(0));
    load(&list[0], 5, 0);
    assert_eq!(s.pick(Mono::ZERO, &list, &key(1)), Some(2), "grown by the least loaded one");
    let later = Mono::from_millis(61_000);
    s.pick(later, &list, &key(1));
    let State::Lblc(cache) = &s.state else { panic!() };
    assert_eq!(cache.members(key(1).dst), [DestId(2)], "the most loaded one left");
}

#[test]
fn twos_prefers_the_less_loaded_of_its_two_draws() {
    let list = dests(&[1, 1]);
    load(&list[0], 10, 0);
    let mut s = make(SchedulerKind::Twos, &list);
    let mut x = 1u64;
    let mut count = [0; 2];
    for _ in 0..3000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        count[s.pick(Mono::ZERO, &list, &PickKey { random: x, ..key(0) }).unwrap()] += 1;
    }
    // draws 0, 1 -> first and 2 -> second: both first with (2/3)^2
    assert!((1200..1460).contains(&count[0]), "{count:?}");
}

/// One server in a naive model.
fn overheads(list: &[Arc<Dest>]) -> Vec<(f64, u32)> {
    list.iter().map(|d| (f64::from(d.active()) * 256.0 + f64::from(d.inactive()), d.weight())).collect()
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0u32..20, 1..12)
}

proptest! {
    #[test]
    fn rr_and_wrr_give_exact_shares_in_each_cycle(weights in weights(), skip in 0usize..50) {
        let list = dests(&weights);
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let step = gcd(weights.iter().copied());
        for (kind, share) in [
            (SchedulerKind::Rr, weights.iter().map(|w| u32::from(*w > 0)).collect::<Vec<_>>()),
            (SchedulerKind::Wrr, weights.iter().map(|w| w / step).collect()),
        ] {
            let mut s = make(kind, &list);
            (0..skip).for_each(|_| { s.pick(Mono::ZERO, &list, &key(0)); });
            let mut seen = vec![0u32; list.len()];
            for _ in 0..share.iter().sum() {
                seen[s.pick(Mono::ZERO, &list, &key(0)).unwrap()] += 1;
            }
            for (seen, share) in seen.iter().zip(&share) {
                // any window of one cycle's length is exact for rr; wrr's windows may straddle by one
                prop_assert!(seen.abs_diff(*share) <= u32::from(kind == SchedulerKind::Wrr && skip > 0));
            }
        }
    }

    #[test]
    fn picks_are_usable_whatever_happens(
        kind in 0usize..14,
        flags in (any::<bool>(), any::<bool>()),
        start in weights(),
        steps in proptest::collection::vec((0u8..6, any::<u32>(), 0u32..6), 1..150),
    ) {
        let mut list = dests(&start);
        let flags = SchedulerFlags { port: flags.0, fallback: flags.1 };
        let mut s = Scheduler::new(SchedulerKind::ALL[kind].0, flags, &list);
        let mut next = 1000;
        let mut now = Mono::ZERO;
        for (what, n, weight) in steps {
            let at = n as usize % list.len().max(1);
            match what {
                0 if !list.is_empty() => {
                    let gone = list.remove(at);
                    s.removed(&list, gone.id, at);
                }
                1 => {
                    next += 1;
                    list.insert(0, dest(next, weight));
                    s.added(&list, DestId(next));
                }
                2 if !list.is_empty() => {
                    let spec = &mut Arc::make_mut(&mut list[at]).spec;
                    (spec.weight, spec.upper) = (weight, n % 4);
                    let id = list[at].id;
                    list[at].refresh_overload();
                    s.edited(&list, id);
                }
                3 if !list.is_empty() && list[at].active() > 0 => list[at].unbind(true),
                _ => {
                    now = now + Span::from_secs(u64::from(n % 300));
                    let any_usable = list.iter().any(|d| d.usable());
                    match s.pick(now, &list, &key(n)) {
                        Some(i) if s.kind() == SchedulerKind::Lblc => prop_assert!(list[i].weight() > 0),
                        Some(i) => prop_assert!(list[i].usable()),
                        // hashes may refuse (rules 50, 52, 54), ovf may be full, the others never
                        None => prop_assert!(!any_usable || matches!(s.kind(),
                            SchedulerKind::Sh | SchedulerKind::Dh | SchedulerKind::Mh | SchedulerKind::Ovf)),
                    }
                }
            }
            for _ in 0..n % 3 {
                if let Some(i) = s.pick(now, &list, &key(n)) {
                    list[i].bind(what % 2 == 0);
                }
            }
        }
    }

    #[test]
    fn least_loaded_schedulers_agree_with_division(
        servers in proptest::collection::vec((0u32..9, 0u32..30, 0u32..300), 1..10),
    ) {
        let list = dests(&servers.iter().map(|s| s.0).collect::<Vec<_>>());
        list.iter().zip(&servers).for_each(|(d, s)| load(d, s.1, s.2));
        // first of the least; quotients of such small numbers differ by far more than an f64 can blur
        let naive = |value: &dyn Fn(usize) -> f64| {
            let mut best: Option<usize> = None;
            for i in (0..list.len()).filter(|i| servers[*i].0 > 0) {
                if best.is_none_or(|b| value(i) < value(b)) {
                    best = Some(i);
                }
            }
            best
        };
        let over = overheads(&list);
        let pick = |kind| make(kind, &list).pick(Mono::ZERO, &list, &key(0));
        prop_assert_eq!(pick(SchedulerKind::Lc), naive(&|i| over[i].0));
        prop_assert_eq!(pick(SchedulerKind::Wlc), naive(&|i| over[i].0 / f64::from(over[i].1)));
        let sed = |i: usize| (f64::from(servers[i].1) + 1.0) / f64::from(servers[i].0);
        prop_assert_eq!(pick(SchedulerKind::Sed), naive(&sed));
        let idle = (0..list.len()).find(|i| servers[*i].0 > 0 && servers[*i].1 == 0);
        prop_assert_eq!(pick(SchedulerKind::Nq), idle.or_else(|| naive(&sed)));
        prop_assert_eq!(pick(SchedulerKind::Fo), naive(&|i| -f64::from(servers[i].0)));
    }

    #[test]
    fn wrr_agrees_with_a_walk_of_every_round(
        weights in weights(),
        changes in proptest::collection::vec((any::<bool>(), any::<usize>(), 0u32..20), 0..60),
    ) {
        let mut list = dests(&weights);
        let mut s = make(SchedulerKind::Wrr, &list);
        let (mut at, mut need) = (usize::MAX, 0i64);
        let bounds = |list: &[Arc<Dest>]| {
            let step = i64::from(gcd(list.iter().map(|d| d.weight())).max(1));
            (list.iter().map(|d| i64::from(d.weight())).max().unwrap() - step + 1, step)
        };
        need += bounds(&list).0;
        for (edit, n, weight) in changes {
            if edit {
                let i = n % list.len();
                Arc::make_mut(&mut list[i]).spec.weight = weight;
                s.edited(&list, DestId(i as u32));
                let (top, step) = bounds(&list);
                at = usize::MAX;
                need = if need > top || need == 0 { top } else if step > 1 { need / step * step + 1 } else { need };
            }
            let (top, step) = bounds(&list);
            let naive = (top > 0).then(|| loop {
                at = at.wrapping_add(1);
                if at >= list.len() {
                    at = usize::MAX;
                    need = if need - step > 0 { need - step } else { top };
                } else if i64::from(list[at].weight()) >= need {
                    break at;
                }
            });
            prop_assert_eq!(s.pick(Mono::ZERO, &list, &key(0)), naive);
        }
    }

    #[test]
    fn maglev_shares_follow_the_weights(weights in proptest::collection::vec(1u32..5, 2..8)) {
        let list = dests(&weights);
        let State::Mh(m) = make(SchedulerKind::Mh, &list).state else { panic!() };
        let mut share = HashMap::new();
        m.owners().for_each(|id| *share.entry(id).or_insert(0u32) += 1);
        let total: u32 = weights.iter().sum();
        for (i, w) in weights.iter().enumerate() {
            let ideal = 4093.0 * f64::from(*w) / f64::from(total);
            // whole visits of `weight` entries: off by at most one visit
            prop_assert!((f64::from(share[&DestId(i as u32)]) - ideal).abs() <= f64::from(*w) + 1.0);
        }
    }
}
