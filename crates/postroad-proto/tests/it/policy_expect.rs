//! What a route usually takes, and which requests are refused because their time is too short.

use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{Prospect, Random, Usual, UsualConfig};

use crate::policy::{MS, SECOND};

const START: u64 = 1_000 * SECOND;
const NO_WAIT: Duration = Duration::ZERO;

fn usual(samples: u32, took: Duration) -> Usual {
    let usual = Usual::new(UsualConfig::default());
    (0..samples).for_each(|_| usual.sample(took));
    usual
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn nothing_is_refused_for_want_of_samples() {
    let usual = usual(19, millis(10));
    for n in 0..1_000 {
        let now = Time(START + n * MS);
        assert_eq!(usual.admits(now, NO_WAIT, NO_WAIT, 100), Prospect::Good);
    }
    usual.sample(millis(10));
    assert!(usual.is_known() && !usual.fits(millis(9), NO_WAIT));
}

#[test]
fn a_request_fits_if_its_time_is_enough_for_waiting_and_running() {
    let usual = usual(100, millis(10));
    assert!(usual.fits(millis(10), NO_WAIT) && !usual.fits(millis(9), NO_WAIT));
    let wait = Usual::wait(40 * MS, 4);
    assert_eq!(wait, millis(10));
    assert!(usual.fits(millis(20), wait) && !usual.fits(millis(19), wait));
    assert_eq!(
        Usual::wait(40 * MS, 0),
        millis(40),
        "no workers are as good as one"
    );
}

/// Asks 100 times a second for 60 s, and says what share was refused, in thousandths. What is let
/// in takes so long, of which the estimate knows nothing.
fn refused(usual: &Usual, remaining: Duration, takes: Duration) -> u64 {
    let (mut refused, asked) = (0, 6_000);
    for n in 0..asked {
        let now = Time(START + n * 10 * MS);
        match usual.admits(now, remaining, NO_WAIT, 5) {
            Prospect::Poor => usual.prove(now, takes > remaining),
            Prospect::Good => {}
            Prospect::Refused => refused += 1,
        }
    }
    refused * 1000 / asked
}

#[test]
fn a_wrong_estimate_refuses_at_most_a_fifth_and_a_proven_one_all() {
    let wrong = refused(&usual(100, millis(10)), millis(5), millis(1));
    assert!((150..=200).contains(&wrong), "{wrong}");
    let right = refused(&usual(100, millis(10)), millis(5), millis(10));
    // When nobody is let in any more the proof is forgotten after 10 s, and is given anew.
    assert!(right >= 950, "{right}");
    assert_eq!(refused(&usual(100, millis(10)), millis(10), millis(10)), 0);
}

#[test]
fn who_comes_alone_is_always_let_in() {
    let usual = usual(100, millis(10));
    for n in 0..1_000 {
        let now = Time(START + n * MS);
        usual.prove(now, true);
        assert_eq!(usual.admits(now, millis(1), NO_WAIT, 0), Prospect::Poor);
    }
    assert!(usual.is_proven(Time(START + SECOND)));
    assert_eq!(
        usual.admits(Time(START + SECOND), millis(1), NO_WAIT, 1),
        Prospect::Refused
    );
    assert!(
        !usual.is_proven(Time(START + 20 * SECOND)),
        "a proof does not hold for ever"
    );
}

#[test]
fn mean_and_high_follow_whatever_the_route_takes() {
    for mean in [20_000.0, 1e6, 200e6] {
        for seed in 0..20 {
            let usual = Usual::new(UsualConfig::default());
            let mut random = Random::new(seed);
            for _ in 0..20_000 {
                let uniform = (random.bits() >> 11) as f64 / (1_u64 << 53) as f64;
                usual.sample(Duration::from_nanos((-(1.0 - uniform).ln() * mean) as u64));
            }
            let (is, high) = (
                usual.mean().as_nanos() as f64,
                usual.high().as_nanos() as f64,
            );
            assert!(
                (0.4..2.0).contains(&(is / mean)),
                "seed {seed}: mean {is} of {mean}"
            );
            // 95 of 100 exponential times are below three times the mean.
            assert!(
                (2.2..4.0).contains(&(high / mean)),
                "seed {seed}: high {high} of {mean}"
            );
        }
    }
    let usual = usual(1_000, millis(1));
    (0..100).for_each(|_| usual.sample(millis(100)));
    assert!(usual.mean() > millis(95), "{:?}", usual.mean());
    (0..200).for_each(|_| usual.sample(millis(1)));
    assert!(usual.mean() < millis(2), "{:?}", usual.mean());
}
