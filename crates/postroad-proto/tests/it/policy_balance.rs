//! Balancing: whom slow, failing, cold and lost endpoints leave their calls to.

use postroad_proto::Time;
use postroad_proto::policy::{Ask, Balance, Ending, Random, Why};
use proptest::prelude::*;

use crate::policy::{Endpoint, Fleet, MS, SECOND, balancer, endpoints, share_of_last};

/// The share of the last of ten endpoints in the first second, and the one after it, percent.
fn shares(balance: Balance, worsen: impl Fn(&mut Endpoint), seed: u64) -> (f64, f64) {
    let mut ten = endpoints(10);
    worsen(&mut ten[9]);
    let balancer = balancer(balance, &ten);
    let (mut fleet, mut random) = (Fleet::default(), Random::new(seed));
    let mut run = |span| share_of_last(&fleet.run(&balancer, &ten, 2_000, span, &mut random));
    (run((SECOND, 2 * SECOND)), run((2 * SECOND, 3 * SECOND)))
}

fn slow(endpoint: &mut Endpoint) {
    endpoint.takes = 100 * MS;
}

fn failing_fast(endpoint: &mut Endpoint) {
    endpoint.takes = 10_000;
    endpoint.ending = Ending::Lost { sent: true };
}

#[test]
fn an_endpoint_ten_times_slower_gets_under_2_percent_within_a_second() {
    for seed in 0..50 {
        let (first, then) = shares(Balance::P2c, slow, seed);
        assert!(first < 2.0 && then < 2.0, "seed {seed}: {first} {then}");
    }
    let (first, then) = shares(Balance::RoundRobin, slow, 1);
    assert!(first > 9.0 && then > 9.0, "without: {first} {then}");
}

#[test]
fn an_endpoint_that_fails_in_10_microseconds_gets_under_1_percent() {
    for seed in 0..50 {
        let (first, then) = shares(Balance::P2c, failing_fast, seed);
        assert!(first < 1.0 && then < 1.0, "seed {seed}: {first} {then}");
    }
    // Fewest calls in flight is what a fast failing endpoint always has.
    let (first, _) = shares(Balance::LeastInFlight, failing_fast, 1);
    assert!(first > 10.0, "without: {first}");
    let fast_not_failing = |endpoint: &mut Endpoint| endpoint.takes = 10_000;
    let (_, then) = shares(Balance::P2c, fast_not_failing, 1);
    assert!(then > 15.0, "without the failure it is the best: {then}");
}

#[test]
fn a_healed_endpoint_is_back_within_three_decays() {
    for worsen in [slow, failing_fast] {
        for seed in 0..10 {
            let mut ten = endpoints(10);
            worsen(ten.last_mut().unwrap());
            let balancer = balancer(Balance::P2c, &ten);
            let (mut fleet, mut random) = (Fleet::default(), Random::new(seed));
            fleet.run(&balancer, &ten, 1_000, (SECOND, 5 * SECOND), &mut random);
            let last = ten.last_mut().unwrap();
            (last.takes, last.ending) = (10 * MS, Ending::Answered);
            let mut run = |span| fleet.run(&balancer, &ten, 1_000, span, &mut random);
            run((5 * SECOND, 35 * SECOND));
            let share = share_of_last(&run((35 * SECOND, 40 * SECOND)));
            assert!(share > 5.0, "seed {seed}: {share}");
        }
    }
}

#[test]
fn equal_endpoints_get_equal_shares() {
    for (balance, most) in [
        (Balance::RoundRobin, 0.001),
        (Balance::Weighted, 0.001),
        (Balance::P2c, 27.9),
        (Balance::LeastInFlight, 27.9),
    ] {
        let ten = endpoints(10);
        let balancer = balancer(balance, &ten);
        let mut random = Random::new(7);
        let span = (SECOND, 11 * SECOND);
        let got = Fleet::default().run(&balancer, &ten, 1_000, span, &mut random);
        // 27.9: the bound of chi squared with nine degrees of freedom for one in a thousand.
        let square = |got: &u64| (*got as f64 - 1000.0).powi(2) / 1000.0;
        let chi: f64 = got.iter().map(square).sum();
        assert!(chi < most, "{balance}: {chi} {got:?}");
    }
}

#[test]
fn a_new_endpoint_gets_its_share_slowly_and_then_whole() {
    for balance in [
        Balance::RoundRobin,
        Balance::Weighted,
        Balance::LeastInFlight,
        Balance::P2c,
    ] {
        let ten = endpoints(10);
        let balancer = balancer(balance, &ten);
        let (mut fleet, mut random) = (Fleet::default(), Random::new(3));
        fleet.run(&balancer, &ten, 2_000, (SECOND, 2 * SECOND), &mut random);
        ten[9].load.became_healthy(Time(2 * SECOND));
        let mut run = |from: u64, to: u64| {
            let span = (from * SECOND, to * SECOND);
            share_of_last(&fleet.run(&balancer, &ten, 2_000, span, &mut random))
        };
        let (first, later) = (run(2, 3), run(13, 15));
        assert!(first < 4.0, "{balance}: {first}");
        assert!(later > 8.0, "{balance}: {later}");
    }
}

fn ask(key: u64) -> Ask {
    Ask {
        key: Some(key),
        ..Ask::default()
    }
}

/// Where each of 20,000 keys goes, by identity.
fn homes(endpoints: &[Endpoint]) -> Vec<u64> {
    let balancer = balancer(Balance::Hash, endpoints);
    let home = |key| {
        let index = balancer
            .pick(endpoints, &ask(key), || 0, None)
            .expect("all are up");
        endpoints[index].identity
    };
    (0..20_000).map(home).collect()
}

#[test]
fn an_endpoint_that_comes_or_goes_moves_its_share_of_the_keys() {
    let twenty = endpoints(20);
    let mut nineteen = endpoints(20);
    let gone = nineteen.remove(7).identity;
    let (before, after) = (homes(&twenty), homes(&nineteen));
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    let owned = before.iter().filter(|home| **home == gone).count();
    assert_eq!(moved, owned, "only the keys of the one that has gone");
    assert!(moved < 20_000 / 20 * 13 / 10, "{moved}");
}

#[test]
fn a_hot_key_does_not_overload_its_endpoint() {
    let ten = endpoints(10);
    let hashed = balancer(Balance::Hash, &ten);
    for _ in 0..1_000 {
        let index = hashed.pick(&ten, &ask(42), || 0, None).unwrap();
        ten[index].load.start();
    }
    let most = ten.iter().map(|one| one.load.in_flight()).max().unwrap();
    assert!(
        most <= 126,
        "at most 1.25 times the mean, rounded up: {most}"
    );
}

#[test]
fn ten_thousand_endpoints_are_balanced_and_a_pick_asks_few_of_them() {
    let many = endpoints(10_000);
    for balance in Balance::ALL {
        let balancer = balancer(balance, &many);
        let mut random = Random::new(1);
        let mut why = Why::new(Time(0));
        let picked = balancer.pick(&many, &ask(5), || random.bits(), Some(&mut why));
        assert!(picked.is_some_and(|index| index < many.len()), "{balance}");
        assert!(why.to_string().lines().count() <= 9, "{balance}: {why}");
    }
}

#[test]
fn weight_0_means_nothing_unless_all_have_it() {
    for balance in Balance::ALL {
        let mut three = endpoints(3);
        for one in &mut three {
            one.weight = 0;
        }
        let mut random = Random::new(9);
        let all_zero = balancer(balance, &three);
        assert!(
            all_zero
                .pick(&three, &ask(1), || random.bits(), None)
                .is_some()
        );
        three[1].weight = 5;
        let one = balancer(balance, &three);
        for key in 0..100 {
            let picked = one.pick(&three, &ask(key), || random.bits(), None);
            assert_eq!(picked, Some(1), "{balance}");
        }
    }
}

#[test]
fn a_record_says_who_was_considered_and_why_not() {
    let mut two = endpoints(2);
    two[0].is_up = false;
    let mut why = Why::new(Time(0));
    why.set_names(vec!["a:1".to_owned(), "b:2".to_owned()]);
    let balancer = balancer(Balance::P2c, &two);
    balancer.pick(&two, &ask(1), || 0, Some(&mut why));
    why.verdict(Time(2 * MS), "budget", "spent");
    let text = why.to_string();
    for line in [
        "p2c picked b:2",
        "a:1: may not take calls",
        "2.000 ms  budget: spent",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

proptest! {
    /// Whoever is picked may take a call and has weight; nobody is picked only if nobody may; the
    /// endpoint to be avoided is picked only if it is the last.
    #[test]
    fn a_pick_is_usable_whenever_one_is(
        balance in 0..5_usize,
        states in prop::collection::vec((any::<bool>(), 0..4_u32, 0..9_u32), 0..80),
        avoid in prop::option::of(0..90_usize),
        seed: u64,
    ) {
        let mut all = endpoints(states.len());
        for (one, (is_up, weight, calls)) in all.iter_mut().zip(&states) {
            (one.is_up, one.weight) = (*is_up, *weight);
            (0..*calls).for_each(|_| one.load.start());
        }
        let balancer = balancer(Balance::ALL[balance], &all);
        let all_zero = all.iter().all(|one| one.weight == 0);
        let usable = |one: &Endpoint| one.is_up && (all_zero || one.weight > 0);
        let mut random = Random::new(seed);
        for key in 0..20 {
            let ask = Ask { avoid, ..ask(key) };
            let picked = balancer.pick(&all, &ask, || random.bits(), None);
            let others = (0..all.len()).filter(|at| Some(*at) != avoid && usable(&all[*at]));
            match picked {
                None => prop_assert!(!all.iter().any(usable)),
                Some(at) if Some(at) == avoid => prop_assert_eq!(others.count(), 0),
                Some(at) => prop_assert!(usable(&all[at])),
            }
        }
    }
}
