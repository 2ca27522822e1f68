//! The circuit breaker and the ejection of outliers.

use postroad_proto::Time;
use postroad_proto::policy::{
    Breaker, BreakerConfig, BreakerState, Ejector, Outlier, OutlierConfig, Permit, Random, Verdict,
};
use proptest::prelude::*;

use crate::policy::{MS, SECOND};

const START: Time = Time(1_000 * SECOND);

fn at(millis: u64) -> Time {
    Time(START.0 + millis * MS)
}

fn breaker() -> Breaker {
    Breaker::new(BreakerConfig::default())
}

fn call(breaker: &Breaker, now: Time, verdict: Verdict) -> Option<BreakerState> {
    let permit = breaker.admit(now).expect("the breaker lets calls pass");
    breaker.finish(now, permit, verdict)
}

/// A breaker that has opened at `START`.
fn opened() -> Breaker {
    let breaker = breaker();
    for _ in 0..19 {
        assert_eq!(call(&breaker, START, Verdict::Failure), None);
    }
    let opened = call(&breaker, START, Verdict::Failure);
    assert_eq!(opened, Some(BreakerState::Open));
    breaker
}

#[test]
fn it_opens_at_half_of_twenty_and_not_below() {
    opened();
    let breaker = breaker();
    for n in 0..1_000 {
        let verdict = if n % 100 < 51 {
            Verdict::Success
        } else {
            Verdict::Failure
        };
        assert_eq!(call(&breaker, START, verdict), None, "49 % at call {n}");
    }
    // What happened before the window is forgotten.
    assert_eq!(call(&breaker, at(11_000), Verdict::Failure), None);
}

#[test]
fn it_sleeps_lets_one_probe_pass_and_closes_or_sleeps_again() {
    let breaker = opened();
    let error = breaker.admit(at(1_000)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the circuit breaker is Open; ask again in 4s"
    );
    assert!(!breaker.would_admit(at(4_999)) && breaker.would_admit(at(5_000)));
    let probe = breaker.admit(at(5_000)).unwrap();
    assert!(probe.is_probe && breaker.state() == BreakerState::HalfOpen);
    assert!(breaker.admit(at(5_001)).is_err(), "one probe at a time");
    let state = breaker.finish(at(5_100), probe, Verdict::Failure);
    assert_eq!(state, Some(BreakerState::Open));
    let probe = breaker.admit(at(10_100)).unwrap();
    let state = breaker.finish(at(10_200), probe, Verdict::Success);
    assert_eq!(state, Some(BreakerState::Closed));
    let state = call(&breaker, at(10_200), Verdict::Failure);
    assert_eq!(state, None, "the window begins anew");
}

#[test]
fn a_probe_that_never_answers_or_is_given_up_does_not_wedge_it() {
    let breaker = opened();
    let lost = breaker.admit(at(5_000)).unwrap();
    assert!(breaker.admit(at(9_999)).is_err());
    let second = breaker.admit(at(10_000)).unwrap();
    assert_eq!(breaker.finish(at(10_001), lost, Verdict::Success), None);
    assert_eq!(breaker.finish(at(10_002), second, Verdict::Unknown), None);
    let third = breaker.admit(at(10_003)).unwrap();
    let state = breaker.finish(at(10_004), third, Verdict::Success);
    assert_eq!(state, Some(BreakerState::Closed));
}

#[test]
fn outcomes_of_calls_that_began_in_an_earlier_state_do_not_count() {
    let breaker = breaker();
    let late: Vec<Permit> = (0..200).map(|_| breaker.admit(START).unwrap()).collect();
    let (first, rest) = late.split_at(20);
    for permit in first {
        breaker.finish(START, *permit, Verdict::Failure);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    let probe = breaker.admit(at(5_000)).unwrap();
    let (half_open, closed) = rest.split_at(90);
    for permit in half_open {
        assert_eq!(breaker.finish(at(5_001), *permit, Verdict::Failure), None);
    }
    breaker.finish(at(5_002), probe, Verdict::Success);
    for permit in closed {
        assert_eq!(breaker.finish(at(5_003), *permit, Verdict::Failure), None);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn a_clock_that_jumps_does_not_keep_it_open() {
    let breaker = opened();
    assert!(
        breaker.would_admit(Time(SECOND)),
        "back by a quarter of an hour"
    );
    let probe = breaker.admit(Time(SECOND)).unwrap();
    let state = breaker.finish(Time(SECOND), probe, Verdict::Success);
    assert_eq!(state, Some(BreakerState::Closed));
    assert!(opened().admit(Time(u64::MAX - 1)).unwrap().is_probe);
}

#[test]
fn several_probes_close_it_when_all_have_succeeded() {
    let breaker = Breaker::new(BreakerConfig {
        probes: 3,
        ..BreakerConfig::default()
    });
    for _ in 0..20 {
        call(&breaker, START, Verdict::Failure);
    }
    let probes: Vec<Permit> = (0..3).map(|_| breaker.admit(at(5_000)).unwrap()).collect();
    assert!(breaker.admit(at(5_000)).is_err());
    let states = probes
        .iter()
        .map(|probe| breaker.finish(at(5_001), *probe, Verdict::Success));
    let closed = Some(BreakerState::Closed);
    assert_eq!(states.collect::<Vec<_>>(), [None, None, closed]);
}

proptest! {
    /// Whatever happens in whatever order: no more probes at a time than may be, nothing passes
    /// while it sleeps, and once calls succeed again it closes.
    #[test]
    fn it_never_lets_too_many_pass_and_always_closes_again(
        steps in prop::collection::vec((0..3_u8, 0..400_u64, any::<prop::sample::Index>()), 1..400),
        probes in 1..4_u8,
    ) {
        let config = BreakerConfig { probes, ..BreakerConfig::default() };
        let breaker = Breaker::new(config);
        let (mut now, mut flying, mut opened) = (0, Vec::<Permit>::new(), None);
        for (kind, later, which) in steps {
            now += later;
            if kind == 0 || flying.is_empty() {
                if let Ok(permit) = breaker.admit(at(now)) {
                    let slept = opened.is_none_or(|since| now >= since + 5_000);
                    prop_assert!(slept, "passed while asleep");
                    prop_assert_eq!(permit.is_probe, breaker.state() == BreakerState::HalfOpen);
                    flying.push(permit);
                }
            } else {
                let permit = flying.swap_remove(which.index(flying.len()));
                let verdict = [Verdict::Failure, Verdict::Success][usize::from(kind == 1)];
                match breaker.finish(at(now), permit, verdict) {
                    Some(BreakerState::Open) => opened = Some(now),
                    Some(_) => opened = None,
                    None => {}
                }
            }
        }
        for _ in 0..2 * u64::from(probes) + 2 {
            now += 5_000;
            if let Ok(permit) = breaker.admit(at(now)) {
                breaker.finish(at(now), permit, Verdict::Success);
            }
        }
        prop_assert_eq!(breaker.state(), BreakerState::Closed);
    }
}

fn ejector() -> Ejector {
    Ejector::new(OutlierConfig::default())
}

fn fail(outlier: &Outlier, times: u32) -> u32 {
    (0..times).fold(0, |_, _| outlier.observe(Verdict::Failure))
}

fn eject(all: &[Outlier], index: usize, now: Time) -> bool {
    ejector().eject(all, index, |one| one, |_| true, now, 0)
}

fn fleet(count: usize) -> Vec<Outlier> {
    (0..count).map(|_| Outlier::new()).collect()
}

#[test]
fn five_failures_in_a_row_eject_for_longer_each_time() {
    let all = fleet(10);
    assert!(!ejector().is_enough(fail(&all[0], 4)));
    assert_eq!(all[0].observe(Verdict::Success), 0);
    assert!(ejector().is_enough(fail(&all[0], 5)));
    let mut now = 0;
    for seconds in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
        assert!(eject(&all, 0, at(now)));
        let end = now + seconds * 1_000;
        assert!(all[0].is_ejected(at(end - 1)) && !all[0].is_ejected(at(end)));
        assert!(!all[0].is_ejected(Time(0)), "the clock went back");
        now = end;
    }
}

#[test]
fn no_more_than_a_tenth_is_ejected_and_never_the_last() {
    for (count, most) in [(1, 0), (2, 1), (3, 1), (10, 1), (20, 2), (39, 3)] {
        let all = fleet(count);
        let ejected = (0..count)
            .filter(|index| eject(&all, *index, START))
            .count();
        assert_eq!(ejected, most, "of {count}");
    }
    let two = fleet(2);
    let is_first = |one: &Outlier| std::ptr::eq(one, &two[0]);
    let is_ejected = ejector().eject(&two, 0, |one| one, is_first, START, 0);
    assert!(!is_ejected, "the other one may not take calls");
}

#[test]
fn a_sweep_ejects_who_does_worse_than_the_others_and_nobody_if_all_do_badly() {
    let sweep = |failures: [u32; 10], calls: u32| {
        let all = fleet(10);
        for (one, failures) in all.iter().zip(failures) {
            for call in 0..calls {
                one.observe(if call < failures {
                    Verdict::Failure
                } else {
                    Verdict::Success
                });
            }
        }
        let mut random = Random::new(1);
        ejector().sweep(&all, |one| one, |_| true, START, || random.bits());
        (0..10)
            .filter(|index| all[*index].is_ejected(START))
            .collect::<Vec<_>>()
    };
    assert_eq!(sweep([0, 1, 0, 2, 30, 1, 0, 1, 2, 0], 100), [4]);
    let too_few_calls = sweep([0, 1, 0, 2, 30, 1, 0, 1, 2, 0], 99);
    assert!(too_few_calls.is_empty());
    assert!(sweep([50; 10], 100).is_empty());
    assert_eq!(sweep([100; 10], 100).len(), 1, "an outage ejects a tenth");
}
