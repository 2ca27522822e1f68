//! Rates: the bound of both shapes, exact waits, and equality with a bucket of tokens.
//! `POSTROAD_RATE_ARRIVALS=N` compares with the bucket for more arrivals.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{Random, Rate, RateConfig, RateExceeded, Shape};
use proptest::prelude::*;

use crate::policy::{MS, SECOND};

const START: u64 = 1_000 * SECOND;

fn fifty(shape: Shape) -> RateConfig {
    RateConfig::per_second(50, 10, shape)
}

/// How many pass one after the other at this moment.
fn passing(rate: &Rate, config: &RateConfig, now: u64) -> u32 {
    (0..)
        .take_while(|_| rate.take(config, Time(now), 1).is_ok())
        .count() as u32
}

#[test]
fn a_bucket_lets_a_burst_pass_and_a_leaky_one_spaces_evenly() {
    let (rate, config) = (Rate::new(), fifty(Shape::Bucket));
    assert_eq!(passing(&rate, &config, START), 10);
    assert_eq!(passing(&rate, &config, START + 19 * MS), 0);
    assert_eq!(passing(&rate, &config, START + 100 * MS), 5);
    assert_eq!(passing(&rate, &config, START + 10 * SECOND), 10);

    let (rate, config) = (Rate::new(), fifty(Shape::Leaky));
    let passed: Vec<u64> = (0..1_000)
        .filter(|ms| rate.take(&config, Time(START + ms * MS), 1).is_ok())
        .collect();
    assert_eq!(passed, (0..50).map(|n| n * 20).collect::<Vec<_>>());
}

#[test]
fn retry_after_is_exact_and_what_can_never_pass_says_so() {
    for shape in [Shape::Bucket, Shape::Leaky] {
        let (rate, config) = (Rate::new(), fifty(shape));
        passing(&rate, &config, START);
        for n in [1, 3, 10] {
            let error = rate.take(&config, Time(START + 7), n).unwrap_err();
            let wait = error.retry_after().expect("it may pass later");
            let then = START + 7 + wait.as_nanos() as u64;
            assert!(
                rate.take(&config, Time(then - 1), n).is_err(),
                "{shape:?} {n}"
            );
            let other = Rate::new();
            passing(&other, &config, START);
            assert_eq!(other.take(&config, Time(then), n), Ok(()), "{shape:?} {n}");
        }
        let error = rate.take(&config, Time(START + SECOND), 11).unwrap_err();
        assert_eq!(error, RateExceeded::Never { n: 11, burst: 10 });
        assert_eq!(error.retry_after(), None);
        let text = error.to_string();
        assert_eq!(
            text,
            "11 at once can never pass, because the burst is 10; ask for fewer at a time"
        );
    }
    let (rate, config) = (Rate::new(), fifty(Shape::Bucket));
    passing(&rate, &config, START);
    let error = rate.take(&config, Time(START), 1).unwrap_err();
    assert_eq!(error.to_string(), "the rate is exceeded; ask again in 20ms");
}

#[test]
fn a_rate_is_never_higher_than_asked_for_and_may_be_lower_than_one_a_second() {
    let each = |config: RateConfig| config.nanos_each;
    assert_eq!(
        each(RateConfig::per_second(3, 1, Shape::Bucket)),
        333_333_334
    );
    assert_eq!(each(RateConfig::per_second(0, 1, Shape::Bucket)), SECOND);
    let minute = Duration::from_secs(60);
    assert_eq!(
        each(RateConfig::new(10, minute, 1, Shape::Bucket)),
        6 * SECOND
    );
    assert_eq!(each(RateConfig::per_second(u32::MAX, 1, Shape::Bucket)), 1);
}

#[test]
fn one_that_is_idle_is_as_good_as_new() {
    let (rate, config) = (Rate::new(), fifty(Shape::Bucket));
    assert!(rate.is_idle(Time(START)));
    rate.take(&config, Time(START), 3).unwrap();
    assert!(!rate.is_idle(Time(START + 60 * MS - 1)) && rate.is_idle(Time(START + 60 * MS)));
    assert_eq!(passing(&rate, &config, START + 60 * MS), 10);
}

#[test]
fn a_clock_that_went_back_or_a_smaller_burst_does_not_refuse_for_ever() {
    let (rate, config) = (Rate::new(), fifty(Shape::Bucket));
    passing(&rate, &config, START);
    assert_eq!(
        passing(&rate, &config, SECOND),
        10,
        "a clock that went back"
    );
    let smaller = RateConfig {
        burst: 1,
        ..RateConfig::per_second(1_000, 1, Shape::Bucket)
    };
    let error = rate.take(&smaller, Time(SECOND), 1);
    assert_eq!(error, Ok(()), "what is owed at the old rate is forgotten");
    assert_eq!(rate.take(&config, Time(u64::MAX - 1), 1), Ok(()));
}

/// A bucket of tokens as it is written in textbooks, in nanoseconds of credit.
struct Bucket {
    credit: u64,
    last: u64,
}

impl Bucket {
    fn take(&mut self, config: &RateConfig, now: u64, n: u32) -> Result<(), Duration> {
        let most = config.nanos_each * u64::from(config.burst);
        self.credit = (self.credit + now - self.last).min(most);
        self.last = now;
        let cost = config.nanos_each * u64::from(n);
        if self.credit < cost {
            return Err(Duration::from_nanos(cost - self.credit));
        }
        self.credit -= cost;
        Ok(())
    }
}

#[test]
fn it_decides_as_a_bucket_of_tokens_does() {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let arrivals = number("POSTROAD_RATE_ARRIVALS").unwrap_or(100_000);
    let (mut passed, mut refused) = (0, 0);
    for seed in 0..10 {
        let mut random = Random::new(seed);
        let mut next = |end: u64| random.bits() % end;
        let config =
            RateConfig::per_second(1 + next(10_000) as u32, 1 + next(20) as u32, Shape::Bucket);
        let most = config.nanos_each * u64::from(config.burst);
        let (rate, mut bucket) = (
            Rate::new(),
            Bucket {
                credit: most,
                last: START,
            },
        );
        let mut now = START;
        for arrival in 0..arrivals / 10 {
            // A little less time than what is asked for needs, and now and then a pause.
            let n = 1 + next(u64::from(config.burst)) as u32;
            let mean = config.nanos_each * u64::from(n);
            now += if next(100) == 0 {
                next(3 * most)
            } else {
                next(2 * mean) * 9 / 10
            };
            let expected = bucket.take(&config, now, n).map_err(RateExceeded::Wait);
            let taken = rate.take(&config, Time(now), n);
            assert_eq!(taken, expected, "seed {seed}, arrival {arrival}");
            if taken.is_ok() {
                passed += 1;
            } else {
                refused += 1;
            }
        }
    }
    assert!(
        passed * 10 > arrivals && refused * 10 > arrivals,
        "{passed} {refused}"
    );
}

proptest! {
    /// In any time t no more than burst + t * rate pass, and a leaky one lets no two pass closer
    /// together than the first of them pays for.
    #[test]
    fn no_window_of_time_sees_more_than_the_bound(
        steps in prop::collection::vec((0..60 * MS, 1..6_u32), 1..200),
        burst in 5..20_u32,
        is_leaky in any::<bool>(),
    ) {
        let shape = if is_leaky { Shape::Leaky } else { Shape::Bucket };
        let config = RateConfig::per_second(50, burst, shape);
        let (rate, mut now, mut passed) = (Rate::new(), START, Vec::new());
        for (later, n) in steps {
            now += later;
            if rate.take(&config, Time(now), n).is_ok() {
                passed.push((now, n));
            }
        }
        for (first, (from, _)) in passed.iter().enumerate() {
            let mut sum = 0;
            for (to, n) in &passed[first..] {
                sum += u64::from(*n);
                let most = u64::from(burst) + (to - from) / config.nanos_each;
                prop_assert!(sum <= most, "{sum} of {most} from {from} to {to}");
            }
        }
        for pair in passed.windows(2).filter(|_| is_leaky) {
            prop_assert!(pair[1].0 - pair[0].0 >= u64::from(pair[0].1) * config.nanos_each);
        }
    }
}

#[test]
fn many_threads_together_take_exactly_what_there_is() {
    let (rate, config) = (
        Rate::new(),
        RateConfig::per_second(1_000_000, 1_000, Shape::Bucket),
    );
    let (clock, taken) = (AtomicU64::new(START), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50_000 {
                    let now = Time(clock.fetch_add(100, Relaxed));
                    taken.fetch_add(u64::from(rate.take(&config, now, 1).is_ok()), Relaxed);
                }
            });
        }
    });
    // 200,000 asked at ten times the rate: the burst, and one for each microsecond.
    let (taken, most) = (taken.into_inner(), 1_000 + 20_000);
    assert!(taken <= most && taken + 5 >= most, "{taken} of {most}");
}
