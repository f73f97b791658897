//! One service: quorum, sorry server, panic, and what becomes of each of its servers.

use super::spec::{AdminState, OnFailure, PanicUse, Policy};

/// What a real server is to be for its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It serves, with this weight where it is not the configured one.
    Serve(Option<u32>),
    /// It stays with weight 0; its connections go on.
    Drain,
    /// It stays with weight 0, and is known not to work.
    Inhibit,
    /// As that, and what is left of its connections is reset.
    Cut,
    /// It is not in the service.
    Remove,
}

/// A server as the policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Its checks and its traffic say that it works.
    pub healthy: bool,
    /// Weight as configured.
    pub weight: u32,
    /// Weight a check gave.
    pub answer: Option<u32>,
    /// What the operator wants.
    pub state: AdminState,
    /// Its own way to fail.
    pub on_failure: Option<OnFailure>,
    /// The deadline of its drain is over.
    pub cut: bool,
}

/// What is remembered of a service from one decision to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Enough healthy weight.
    pub quorum: bool,
    /// Too little healthy weight, by the panic threshold.
    pub panic: bool,
    /// The sorry server serves.
    pub sorry: bool,
}

impl Default for Standing {
    fn default() -> Standing {
        Standing { quorum: true, panic: false, sorry: false }
    }
}

/// What a service is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// To be remembered.
    pub standing: Standing,
    /// One for each server, in order.
    pub wishes: Vec<Wish>,
    /// Healthy weight.
    pub alive: u64,
}

/// Decides by what is known now and `before`.
pub fn decide(policy: &Policy, before: Standing, reals: &[View]) -> Decision {
    let weight = |r: &View| u64::from(r.answer.unwrap_or(r.weight));
    let counts = |r: &&View| r.state == AdminState::Up;
    let alive: u64 = reals.iter().filter(counts).filter(|r| r.healthy).map(weight).sum();
    let total: u64 = reals.iter().filter(counts).map(|r| u64::from(r.weight)).sum();

    let (quorum, slack) = (u64::from(policy.quorum), u64::from(policy.hysteresis));
    // up at quorum + hysteresis, down below quorum - hysteresis, and never up with nothing at all
    let needed = if before.quorum { quorum.saturating_sub(slack) } else { quorum + slack };
    let quorum = alive > 0 && alive >= needed;
    let panic = policy.panic.filter(|p| alive * 100 < total * u64::from(p.below));
    let using = panic.map(|p| p.using);
    let has_sorry = policy.sorry.is_some();
    let sorry = has_sorry && (using == Some(PanicUse::Sorry) || !quorum && using != Some(PanicUse::All));

    let wish = |r: &View| {
        let failed = match r.on_failure.unwrap_or(policy.on_failure) {
            OnFailure::Remove => Wish::Remove,
            OnFailure::Inhibit => Wish::Inhibit,
        };
        match (r.state, using) {
            (AdminState::Drain { .. }, _) if r.cut => Wish::Cut,
            (AdminState::Drain { .. }, _) => Wish::Drain,
            (AdminState::Maintenance, _) => failed,
            (AdminState::Up, Some(PanicUse::None)) => failed,
            (AdminState::Up, _) if sorry => match policy.sorry_inhibit {
                true => Wish::Inhibit,
                false => Wish::Remove,
            },
            (AdminState::Up, Some(PanicUse::All)) => Wish::Serve(None),
            (AdminState::Up, _) if r.healthy => Wish::Serve(r.answer.filter(|w| *w != r.weight)),
            (AdminState::Up, _) => failed,
        }
    };
    let standing = Standing { quorum, panic: panic.is_some(), sorry };
    Decision { standing, wishes: reals.iter().map(wish).collect(), alive }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::health::Panic;
    use crate::svc::{DestSpec, Forward};

    fn real(healthy: bool, weight: u32) -> View {
        View { healthy, weight, answer: None, state: AdminState::Up, on_failure: None, cut: false }
    }

    fn sorry() -> Option<DestSpec> {
        let ip = "10.0.0.99".parse().unwrap();
        Some(DestSpec {
            name: String::new(),
            ip,
            port: 80,
            weight: 1,
            forward: Forward::Nat,
            upper: 0,
            lower: 0,
        })
    }

    const IN: Wish = Wish::Serve(None);

    #[test]
    fn a_failed_server_leaves_or_stays_with_weight_zero() {
        let reals = [real(true, 1), real(false, 1)];
        let d = decide(&Policy::default(), Standing::default(), &reals);
        assert_eq!(d.wishes, [IN, Wish::Remove]);
        let inhibit = Policy { on_failure: OnFailure::Inhibit, ..Policy::default() };
        assert_eq!(decide(&inhibit, Standing::default(), &reals).wishes, [IN, Wish::Inhibit]);
    }

    #[test]
    fn the_quorum_counts_weight_and_has_hysteresis() {
        let p = Policy { quorum: 10, hysteresis: 3, ..Policy::default() };
        let mut s = Standing::default();
        for (weight, up) in
            [(10, true), (7, true), (6, false), (10, false), (12, false), (13, true), (7, true)]
        {
            s = decide(&p, s, &[real(true, weight), real(false, 100)]).standing;
            assert_eq!(s.quorum, up, "{weight}");
        }
    }

    #[test]
    fn the_sorry_server_replaces_those_that_are_left() {
        let p = Policy { quorum: 2, sorry: sorry(), ..Policy::default() };
        let reals = [real(true, 1), real(false, 1)];
        let d = decide(&p, Standing::default(), &reals);
        assert!(d.standing.sorry && !d.standing.quorum);
        assert_eq!(d.wishes, [Wish::Remove, Wish::Remove]);
        let p = Policy { sorry_inhibit: true, ..p };
        assert_eq!(decide(&p, Standing::default(), &reals).wishes, [Wish::Inhibit, Wish::Inhibit]);
        let p = Policy { sorry: None, ..p };
        assert_eq!(decide(&p, Standing::default(), &reals).wishes, [IN, Wish::Remove], "nobody better");
    }

    #[test]
    fn panic_uses_whom_it_was_told_to() {
        let reals = [real(true, 1), real(false, 1), real(false, 1)];
        let with =
            |using| Policy { panic: Some(Panic { below: 50, using }), sorry: sorry(), ..Policy::default() };
        let d = decide(&with(PanicUse::All), Standing::default(), &reals);
        assert_eq!((d.wishes, d.standing.panic), (vec![IN; 3], true));
        assert_eq!(decide(&with(PanicUse::None), Standing::default(), &reals).wishes, [Wish::Remove; 3]);
        let d = decide(&with(PanicUse::Sorry), Standing::default(), &reals);
        assert!(d.standing.sorry && d.wishes == [Wish::Remove; 3]);
        let calm = [real(true, 1), real(true, 1), real(false, 1)];
        assert!(!decide(&with(PanicUse::All), Standing::default(), &calm).standing.panic);
    }

    #[test]
    fn what_the_operator_says_comes_before_what_the_checks_say() {
        let reals = [
            View { state: AdminState::Drain { deadline: None }, ..real(false, 1) },
            View { state: AdminState::Maintenance, ..real(true, 1) },
            View { answer: Some(7), ..real(true, 1) },
        ];
        let d = decide(&Policy::default(), Standing::default(), &reals);
        assert_eq!(d.wishes, [Wish::Drain, Wish::Remove, Wish::Serve(Some(7))]);
        assert_eq!(d.alive, 7);
    }

    proptest! {
        /// A server known to be dead is used only by `panic = "all"`; with `sorry` nobody else serves.
        #[test]
        fn a_dead_server_is_never_picked_silently(
            reals in prop::collection::vec((any::<bool>(), 0u32..10), 0..8),
            quorum in 0u32..20, below in 0u32..=100, using in 0..4, quorate in any::<bool>(),
            with_sorry in any::<bool>(),
        ) {
            let using = [None, Some(PanicUse::All), Some(PanicUse::None), Some(PanicUse::Sorry)][using as usize];
            let policy = Policy {
                quorum,
                panic: using.map(|using| Panic { below, using }),
                sorry: sorry().filter(|_| with_sorry),
                ..Policy::default()
            };
            let views: Vec<View> = reals.iter().map(|(h, w)| real(*h, *w)).collect();
            let d = decide(&policy, Standing { quorum: quorate, ..Standing::default() }, &views);
            for (wish, view) in d.wishes.iter().zip(&views) {
                let all = d.standing.panic && using == Some(PanicUse::All);
                prop_assert!(view.healthy || all || !matches!(wish, Wish::Serve(_)));
                prop_assert!(!d.standing.sorry || !matches!(wish, Wish::Serve(_)));
            }
            // deciding again changes nothing
            prop_assert_eq!(decide(&policy, d.standing, &views).wishes.len(), views.len());
        }
    }
}
