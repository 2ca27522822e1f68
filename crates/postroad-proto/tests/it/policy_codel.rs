//! The queue discipline: what is dropped of a queue that stays long, and what is not.

use std::collections::VecDeque;
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{Codel, CodelConfig, Queued, Random};

use crate::policy::{MS, SECOND};

const START: u64 = 1_000 * SECOND;

/// A queue whose requests take 0.1 ms: target 1 ms, interval 20 ms.
fn dequeue(codel: &mut Codel, now: u64, waited: u64) -> Queued {
    let usual = Duration::from_micros(100);
    let waited = Duration::from_nanos(waited);
    codel.on_dequeue(Time(START + now), waited, waited, usual)
}

fn codel() -> Codel {
    Codel::new(CodelConfig::default())
}

#[test]
fn a_queue_that_is_long_for_a_whole_interval_drops_but_never_the_first_of_one() {
    let mut codel = codel();
    for ms in 0..20 {
        assert_eq!(dequeue(&mut codel, ms * MS, 3 * MS), Queued::Run, "{ms}");
        assert!(!codel.is_overloaded());
    }
    for ms in 20..100 {
        let expected = if ms % 20 == 0 {
            Queued::Run
        } else {
            Queued::Drop
        };
        assert_eq!(dequeue(&mut codel, ms * MS, 3 * MS), expected, "{ms}");
        assert!(codel.is_overloaded());
    }
    let just = dequeue(&mut codel, 101 * MS, 2 * MS);
    assert_eq!(just, Queued::Run, "twice the target is not too long");
}

#[test]
fn one_that_did_not_wait_shows_that_the_queue_is_good() {
    let mut codel = codel();
    for ms in 0..200 {
        // Every tenth request finds it empty; the others come in a burst.
        let waited = if ms % 10 == 5 { 0 } else { 50 * MS };
        assert_eq!(dequeue(&mut codel, ms * MS, waited), Queued::Run, "{ms}");
    }
    for ms in 200..240 {
        dequeue(&mut codel, ms * MS, 50 * MS);
    }
    assert!(codel.is_overloaded());
    codel.on_empty();
    assert!(!codel.is_overloaded());
    assert_eq!(dequeue(&mut codel, 241 * MS, 50 * MS), Queued::Run);
}

#[test]
fn after_a_pause_or_a_clock_that_went_back_it_begins_anew() {
    let mut codel = codel();
    for ms in 0..60 {
        dequeue(&mut codel, ms * MS, 50 * MS);
    }
    assert!(codel.is_overloaded());
    assert_eq!(dequeue(&mut codel, 10 * SECOND, 50 * MS), Queued::Run);
    assert!(!codel.is_overloaded());
    for ms in 10_000..10_060 {
        dequeue(&mut codel, ms * MS, 50 * MS);
    }
    assert!(codel.is_overloaded());
    for ms in 0..40 {
        dequeue(&mut codel, ms * MS, 0);
    }
    assert!(
        !codel.is_overloaded(),
        "the intervals go on at the earlier time"
    );
}

#[test]
fn target_and_interval_follow_what_requests_usually_take() {
    for (usual, target) in [
        (0, MS / 2),
        (20_000, MS / 2),
        (MS, 10 * MS),
        (50 * MS, 500 * MS),
    ] {
        let usual = Duration::from_nanos(usual);
        let at = |waited: u64| {
            let mut codel = codel();
            let mut overloaded_at = None;
            for n in 0..100 {
                let now = Time(START + n * target);
                let waited = Duration::from_nanos(waited);
                codel.on_dequeue(now, waited, waited, usual);
                if codel.is_overloaded() {
                    overloaded_at = overloaded_at.or(Some(n));
                }
            }
            overloaded_at
        };
        assert_eq!(at(target), None, "{usual:?}");
        let interval = at(target + 1).expect("it is overloaded");
        // The first interval of all has the shortest target.
        assert!(
            (20..=41).contains(&interval),
            "{usual:?}: after {interval} targets"
        );
    }
}

/// One worker that is offered twice what it can do, each request with so much time. The share of
/// its work that was done in time.
fn goodput(deadline: u64, mut codel: Option<Codel>, seed: u64) -> f64 {
    let service = 100_000;
    let mut random = Random::new(seed);
    let (mut queue, mut now, mut next, mut good) = (VecDeque::new(), START, START, 0);
    let end = START + 5 * SECOND;
    while now < end {
        while next <= now {
            queue.push_back(next);
            next += random.bits() % service;
        }
        let newest_first = codel.as_ref().is_some_and(Codel::is_overloaded);
        let oldest = queue.front().map_or(0, |first| now - first);
        let taken = if newest_first {
            queue.pop_back()
        } else {
            queue.pop_front()
        };
        let Some(arrived) = taken else {
            codel.iter_mut().for_each(Codel::on_empty);
            now = next;
            continue;
        };
        let waited = Duration::from_nanos(now - arrived);
        let usual = Duration::from_nanos(service);
        let judged = codel.as_mut().map_or(Queued::Run, |codel| {
            codel.on_dequeue(Time(now), waited, Duration::from_nanos(oldest), usual)
        });
        if judged == Queued::Drop {
            continue;
        }
        now += service;
        good += u64::from(now - arrived <= deadline);
    }
    (good * service) as f64 / (end - START) as f64
}

#[test]
fn twice_the_load_leaves_nine_tenths_of_the_capacity_to_what_is_in_time() {
    for seed in 0..50 {
        let with = goodput(5 * MS, Some(codel()), seed);
        assert!(with >= 0.9, "seed {seed}: {with}");
        let without = goodput(5 * MS, None, seed);
        assert!(without < 0.01, "seed {seed}, without: {without}");
    }
}
