//! The budget, retries, hedges, throttling and the pool.

use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::code::Retry;
use postroad_proto::policy::{
    Budget, BudgetConfig, Failed, Hedge, HedgeConfig, NoHedge, NoRetry, PoolConfig, PoolCounts,
    Random, RetryConfig, Throttle, ThrottleConfig,
};
use proptest::prelude::*;

use crate::policy::{MS, SECOND};

/// Attempts made for `calls` calls at an even rate, all of which fail.
fn attempts_of_total_failure(budget: &Budget, calls: u64, rate: u64) -> u64 {
    let mut attempts = 0;
    for call in 0..calls {
        let now = Time(call * SECOND / rate);
        budget.note_call(now);
        attempts += 1;
        attempts += (0..2).filter(|_| budget.try_spend(now)).count() as u64;
    }
    attempts
}

#[test]
fn total_failure_multiplies_the_load_by_1_2_and_the_reserve() {
    for rate in [1, 10, 100, 1_000, 20_000] {
        let seconds = 60;
        let calls = rate * seconds;
        let budget = Budget::new(BudgetConfig::default());
        let attempts = attempts_of_total_failure(&budget, calls, rate);
        let most = calls * 12 / 10 + 10 * (seconds + 10);
        assert!(
            attempts <= most,
            "{rate} calls a second: {attempts} of {most}"
        );
    }
    let without = Budget::new(BudgetConfig {
        per_mille: 2_000,
        ..BudgetConfig::default()
    });
    assert_eq!(attempts_of_total_failure(&without, 6_000, 100), 18_000);
}

#[test]
fn threads_together_spend_no_more_than_there_is() {
    let config = BudgetConfig {
        per_mille: 100,
        reserve_per_second: 0,
        ..BudgetConfig::default()
    };
    let budget = Budget::new(config);
    let spent: usize = std::thread::scope(|scope| {
        let spend = |thread: u64| {
            let budget = &budget;
            move || {
                let times = (0..20_000).map(|n| Time(n * SECOND / 5_000 + thread));
                times
                    .filter(|now| {
                        budget.note_call(*now);
                        budget.try_spend(*now)
                    })
                    .count()
            }
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(spend(thread))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    // 80,000 calls in four seconds, and nothing has left the window: exactly a tenth.
    assert_eq!(spent, 8_000);
}

#[test]
fn what_is_older_than_the_window_pays_for_nothing() {
    let budget = Budget::new(BudgetConfig {
        reserve_per_second: 0,
        ..BudgetConfig::default()
    });
    (0..1_000).for_each(|_| budget.note_call(Time(SECOND / 2)));
    assert_eq!(budget.available(Time(9 * SECOND)), 200);
    assert_eq!(budget.available(Time(11 * SECOND)), 0);
    assert!(
        !budget.try_spend(Time(0)),
        "a clock that went back brings nothing back"
    );
    assert_eq!(Budget::new(BudgetConfig::default()).available(Time(0)), 100);
}

proptest! {
    #[test]
    fn a_budget_of_any_share_is_exact(
        per_mille in 0..1_000_u32,
        reserve in 0..20_u32,
        gaps in prop::collection::vec(0..200 * MS, 1..2_000),
    ) {
        let budget = Budget::new(BudgetConfig {
            per_mille,
            reserve_per_second: reserve,
            ..BudgetConfig::default()
        });
        let (mut now, mut calls, mut spent) = (0, 0_u64, 0_u64);
        for gap in gaps {
            now += gap;
            calls += 1;
            budget.note_call(Time(now));
            while budget.try_spend(Time(now)) {
                spent += 1;
            }
            if now < 9 * SECOND {
                let exact = (calls * u64::from(per_mille) + u64::from(reserve) * 10_000) / 1_000;
                prop_assert_eq!(spent, exact);
            }
        }
        let windows = now / (9 * SECOND) + 1;
        let most = calls * u64::from(per_mille) / 1_000 + u64::from(reserve) * 10 * windows;
        prop_assert!(spent <= most, "{} of {}", spent, most);
    }
}

fn failed() -> Failed {
    Failed {
        retry: Retry::IfIdempotent,
        is_unsent: false,
        hint: None,
        is_idempotent: true,
        no_retry: false,
        sent: 1,
        unsent: 0,
        deadline: Time(60 * SECOND),
    }
}

fn decide(failed: Failed, random: u64) -> Result<Duration, NoRetry> {
    let budget = Budget::new(BudgetConfig::default());
    let decided = RetryConfig::default().decide(Time(0), &failed, &budget, random);
    decided.map(|again| again.after)
}

#[test]
fn waits_are_drawn_about_one_and_three_seconds_and_leave_time_for_the_attempt() {
    for (sent, mean) in [(1, 1.0), (2, 3.0)] {
        let failed = Failed { sent, ..failed() };
        let mut random = Random::new(3);
        let waits = (0..10_000).map(|_| decide(failed, random.bits()).unwrap().as_secs_f64());
        let waits: Vec<f64> = waits.collect();
        let average = waits.iter().sum::<f64>() / 10_000.0;
        assert!((average / mean - 1.0).abs() < 0.05, "{average}");
        assert!(waits.iter().all(|wait| *wait < 2.0 * mean));
        assert!(waits.iter().any(|wait| *wait < 0.05 * mean), "full jitter");
    }
    let short = Failed {
        deadline: Time(250 * MS),
        ..failed()
    };
    assert!(decide(short, u64::MAX).unwrap() <= Duration::from_millis(125));
}

#[test]
fn a_call_is_sent_again_only_if_that_is_safe_allowed_and_in_time() {
    let base = failed();
    for (failed, reason) in [
        (
            Failed {
                retry: Retry::Never,
                ..base
            },
            NoRetry::Final,
        ),
        (
            Failed {
                is_idempotent: false,
                ..base
            },
            NoRetry::NotIdempotent,
        ),
        (
            Failed {
                no_retry: true,
                ..base
            },
            NoRetry::Forbidden,
        ),
        (Failed { sent: 3, ..base }, NoRetry::AttemptsUsed),
        (
            Failed {
                deadline: Time(0),
                ..base
            },
            NoRetry::NoTime,
        ),
        (
            Failed {
                hint: Some(Duration::from_secs(60)),
                ..base
            },
            NoRetry::NoTime,
        ),
        (
            Failed {
                is_unsent: true,
                unsent: 17,
                ..base
            },
            NoRetry::AttemptsUsed,
        ),
    ] {
        assert_eq!(decide(failed, 0), Err(reason), "{failed:?}");
    }
    let not_started = Failed {
        retry: Retry::Elsewhere,
        is_idempotent: false,
        ..base
    };
    assert_eq!(decide(not_started, u64::MAX), Ok(Duration::ZERO));
    let hint = Failed {
        hint: Some(Duration::from_secs(7)),
        ..base
    };
    for random in [0, u64::MAX] {
        let after = decide(hint, random).unwrap();
        assert!(after >= Duration::from_secs(7) && after < Duration::from_secs(10));
    }
}

#[test]
fn what_never_left_this_end_costs_no_budget_and_what_was_sent_does() {
    let budget = Budget::new(BudgetConfig {
        reserve_per_second: 0,
        ..BudgetConfig::default()
    });
    let config = RetryConfig::default();
    let sent = config.decide(Time(0), &failed(), &budget, 0);
    assert_eq!(sent, Err(NoRetry::BudgetSpent));
    let unsent = Failed {
        retry: Retry::Here,
        is_unsent: true,
        sent: 0,
        unsent: 1,
        no_retry: true,
        ..failed()
    };
    let again = config.decide(Time(0), &unsent, &budget, u64::MAX).unwrap();
    assert!(again.elsewhere && again.after.is_zero());
}

/// What 60,000 calls took, in ascending order, and how many were hedged.
fn hedged(hedge: Option<&Hedge>, seed: u64) -> (Vec<u64>, u64) {
    let budget = Budget::new(BudgetConfig::default());
    let mut random = Random::new(seed);
    // Of each hundred first attempts one takes 20 times as long, at a random place: one more would
    // be more than the extra load allows. Of hedges each does so with a chance of 1 %.
    let mut straggler = 0;
    let mut draw = |call: Option<u64>, random: &mut Random| {
        if call.is_some_and(|call| call % 100 == 0) {
            straggler = random.below(100);
        }
        let straggles = match call {
            Some(call) => call % 100 == straggler,
            None => random.below(100) == 0,
        };
        (8 * MS + random.below(4 * MS)) * if straggles { 20 } else { 1 }
    };
    let mut ends = std::collections::BTreeMap::<(u64, u64), u64>::new();
    let (mut all, mut extra) = (Vec::new(), 0);
    for call in 0..60_000 {
        let now = call * MS;
        while let Some(first) = ends.first_entry().filter(|first| first.key().0 <= now) {
            let ((end, _), took) = first.remove_entry();
            if let Some(hedge) = hedge {
                hedge.observe(Time(end), Duration::from_nanos(took));
            }
        }
        budget.note_call(Time(now));
        let mut took = draw(Some(call), &mut random);
        let delay = hedge.and_then(|hedge| hedge.begin(Time(now)));
        if let (Some(hedge), Some(delay)) = (hedge, delay) {
            let delay = delay.as_nanos() as u64;
            let at = Time(now + delay);
            if took > delay && hedge.decide(at, true, false, &budget).is_ok() {
                extra += 1;
                took = took.min(delay + draw(None, &mut random));
            }
        }
        ends.insert((now + took, call), took);
        all.push(took);
    }
    all.sort_unstable();
    (all, extra)
}

#[test]
fn hedging_with_1_percent_extra_load_cuts_stragglers_fivefold() {
    let p999 = |took: &[u64]| took[took.len() * 999 / 1000];
    for seed in 0..30 {
        let hedge = Hedge::new(HedgeConfig::default());
        let (with, extra) = hedged(Some(&hedge), seed);
        let (without, _) = hedged(None, seed);
        let (with, without) = (p999(&with), p999(&without));
        assert!(
            with * 5 <= without,
            "seed {seed}: {with} {without}, {extra} hedges"
        );
        assert!(extra <= 600, "seed {seed}: {extra} hedges");
    }
}

#[test]
fn hedging_stops_in_an_outage() {
    let budget = Budget::new(BudgetConfig::default());
    let hedge = Hedge::new(HedgeConfig::default());
    for call in 0..5_000 {
        hedge.begin(Time(call * MS));
        hedge.observe(Time(call * MS), Duration::from_millis(10));
    }
    let mut hedges = [0; 10];
    let mut last = None;
    for call in 5_000..15_000_u64 {
        let now = Time(call * MS);
        assert!(hedge.begin(now).is_some(), "every call is slow");
        last = Some(hedge.decide(now, true, false, &budget));
        hedges[(call as usize - 5_000) / 1_000] += u64::from(last == Some(Ok(())));
    }
    assert!(hedges[0] <= 150, "all are slow: {hedges:?}");
    assert_eq!(hedges[1..], [0; 9]);
    assert_eq!(last, Some(Err(NoHedge::Outage)));
}

#[test]
fn a_call_is_hedged_only_if_it_may_run_twice_and_there_is_a_budget() {
    let hedge = Hedge::new(HedgeConfig::default());
    let budget = Budget::new(BudgetConfig::default());
    assert_eq!(hedge.begin(Time(0)), None, "nothing is known yet");
    let decide = |idempotent, no_retry| hedge.decide(Time(0), idempotent, no_retry, &budget);
    assert_eq!(decide(false, false), Err(NoHedge::NotIdempotent));
    assert_eq!(decide(true, true), Err(NoHedge::Forbidden));
    assert_eq!(decide(true, false), Err(NoHedge::ExtraLoadSpent));
    for _ in 0..100 {
        hedge.begin(Time(0));
    }
    let empty = Budget::new(BudgetConfig {
        reserve_per_second: 0,
        ..BudgetConfig::default()
    });
    let refused = hedge.decide(Time(0), true, false, &empty);
    assert_eq!(refused, Err(NoHedge::BudgetSpent));
    assert_eq!(decide(true, false), Ok(()), "the extra load was given back");
}

/// Calls of a hundred thousand that reach a service which accepts so many of a hundred.
fn reached(throttle: &Throttle, accepts: u64, priority: u8) -> u64 {
    let mut random = Random::new(5);
    let reaches = |call: &u64| {
        let now = Time(call * MS);
        let is_sent = throttle.admit(now, priority, || random.bits()).is_ok();
        if is_sent && random.below(100) >= accepts {
            throttle.refused(now);
        }
        is_sent
    };
    (0..100_000).filter(reaches).count() as u64
}

#[test]
fn who_is_refused_asks_less_and_the_most_urgent_is_held_back_last() {
    let throttle = || Throttle::new(ThrottleConfig::default());
    assert_eq!(reached(&throttle(), 100, 3), 100_000, "nothing is refused");
    assert_eq!(reached(&throttle(), 60, 3), 100_000, "less than half is");
    let outage = reached(&throttle(), 0, 3);
    assert!(
        (24_000..27_000).contains(&outage),
        "a quarter goes on asking: {outage}"
    );
    let (usual, urgent) = (reached(&throttle(), 30, 3), reached(&throttle(), 30, 7));
    assert!(usual < 90_000 && urgent > 99_000, "{usual} {urgent}");
    let quiet = throttle();
    let slowly = (0..300).all(|call| quiet.admit(Time(call * SECOND), 3, || 0).is_ok());
    assert!(slowly, "one call a second is never held back");
}

#[test]
fn a_throttle_forgets_an_outage_after_two_minutes() {
    let throttle = Throttle::new(ThrottleConfig::default());
    reached(&throttle, 0, 3);
    assert_eq!(throttle.share(Time(100 * SECOND), 3), 750);
    for call in 0..1_000 {
        let _ = throttle.admit(Time(225 * SECOND + call * MS), 3, || u64::MAX);
    }
    assert_eq!(throttle.share(Time(226 * SECOND), 3), 0);
}

#[test]
fn a_further_connection_is_wanted_when_all_that_there_are_are_saturated() {
    let config = PoolConfig::default();
    let wanted = |open, dialling, saturated| {
        config.wanted(&PoolCounts {
            open,
            dialling,
            saturated,
            ..PoolCounts::default()
        })
    };
    assert_eq!(wanted(0, 0, 0), 1, "the first");
    assert_eq!(wanted(0, 1, 0), 1, "the first is being dialled");
    assert_eq!(wanted(3, 0, 2), 3, "one has room");
    assert_eq!(wanted(3, 0, 3), 4);
    assert_eq!(wanted(3, 1, 3), 4, "one at a time");
    assert_eq!(wanted(100, 0, 100), 100);
}

#[test]
fn waiting_is_bounded_in_number_and_time_and_idle_connections_end() {
    let config = PoolConfig::default();
    let waiting = |waiting| PoolCounts {
        waiting,
        ..PoolCounts::default()
    };
    let left = Duration::from_secs(5);
    assert_eq!(config.may_wait(&waiting(19), left), Ok(config.wait));
    let error = config.may_wait(&waiting(20), left).unwrap_err();
    assert!(error.to_string().contains("20 callers wait already"));
    let open = |open| PoolCounts {
        open,
        ..PoolCounts::default()
    };
    assert!(config.closes_idle(&open(6), config.idle_timeout));
    assert!(!config.closes_idle(&open(5), config.idle_timeout));
    assert!(!config.closes_idle(&open(6), Duration::from_secs(29)));
    assert_eq!(config.expires(Time(5), 7), Time::NEVER);
    let aged = PoolConfig {
        age: Some(Duration::from_secs(100)),
        ..config
    };
    assert_eq!(aged.expires(Time(0), 0), Time(90 * SECOND));
    let last = aged.expires(Time(0), u64::MAX);
    assert!(last > Time(109 * SECOND) && last < Time(110 * SECOND));
}

#[test]
fn a_call_is_late_when_half_of_its_time_has_passed_and_others_are_much_quicker() {
    let retry = RetryConfig::default();
    let ms = Duration::from_millis;
    let is_late = |sent, waited, usual| retry.is_late(sent, ms(waited), ms(1_000), usual);
    assert!(!is_late(1, 499, None) && is_late(1, 500, None));
    assert!(is_late(1, 500, Some(ms(100))), "others are quicker");
    assert!(!is_late(1, 500, Some(ms(300))) && is_late(1, 900, Some(ms(300))));
    assert!(is_late(2, 500, None) && !is_late(3, 500, None), "attempts");
    assert!(!retry.is_late(1, ms(9), ms(10), None), "noise");
}
