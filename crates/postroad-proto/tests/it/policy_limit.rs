//! The adaptive limit before a simulated server: c workers, exponential service times, Poisson
//! arrivals. `POSTROAD_LIMIT_SEEDS=N` runs more seeds, `POSTROAD_LIMIT_SEED=N` one of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{AdaptiveLimit, AdaptiveLimitConfig, Random, Verdict};

use crate::fleet::{failing, number};
use crate::policy::{MS, SECOND};

const SEEDS: u64 = 120;

/// What decides how many may be in hand.
enum Limit {
    Adaptive(Box<AdaptiveLimit>),
    Fixed(usize),
}

impl Limit {
    fn limit(&self) -> usize {
        match self {
            Self::Adaptive(limit) => limit.limit(),
            Self::Fixed(limit) => *limit,
        }
    }
}

/// What happened in one stretch of time.
#[derive(Debug, Default)]
struct Seen {
    /// Latencies of what was answered, nanoseconds.
    took: Vec<u64>,
    refused: u64,
    length: u64,
}

impl Seen {
    fn p99(&mut self) -> u64 {
        self.took.sort_unstable();
        self.took[self.took.len() * 99 / 100]
    }

    /// What was answered, as a share of what these workers can do in the time.
    fn goodput(&self, workers: usize, service: u64) -> f64 {
        self.took.len() as f64 * service as f64 / (self.length as f64 * workers as f64)
    }

    fn refused_share(&self) -> f64 {
        self.refused as f64 / (self.refused + self.took.len() as u64).max(1) as f64
    }
}

/// A server in virtual time.
struct Server {
    random: Random,
    now: u64,
    workers: usize,
    /// Mean time that a request is worked on, nanoseconds.
    service: u64,
    waiting: VecDeque<u64>,
    /// When each running request ends, and when it arrived.
    running: BinaryHeap<Reverse<(u64, u64)>>,
    next_arrival: u64,
}

impl Server {
    fn new(seed: u64, workers: usize, service: u64) -> Self {
        Self {
            random: Random::new(seed),
            now: 1_000 * SECOND,
            workers,
            service,
            waiting: VecDeque::new(),
            running: BinaryHeap::new(),
            next_arrival: 1_000 * SECOND,
        }
    }

    fn exponential(&mut self, mean: f64) -> u64 {
        let uniform = (self.random.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        (-(1.0 - uniform).ln() * mean) as u64
    }

    fn in_hand(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    fn start(&mut self, arrived: u64) {
        let takes = self.exponential(self.service as f64).max(1);
        self.running.push(Reverse((self.now + takes, arrived)));
    }

    /// Runs for so long at so many times its capacity.
    fn run(&mut self, limit: &Limit, load: f64, length: u64) -> Seen {
        let end = self.now + length;
        let gap = self.service as f64 / self.workers as f64 / load;
        let mut seen = Seen {
            length,
            ..Seen::default()
        };
        self.next_arrival = self.now + self.exponential(gap);
        loop {
            let ends = self.running.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
            let next = ends.min(self.next_arrival);
            if next > end {
                self.now = end;
                return seen;
            }
            self.now = next;
            if ends <= self.next_arrival {
                self.finish(limit, &mut seen);
            } else {
                self.next_arrival += self.exponential(gap).max(1);
                if self.in_hand() >= limit.limit() {
                    seen.refused += 1;
                } else if self.running.len() < self.workers {
                    self.start(self.now);
                } else {
                    self.waiting.push_back(self.now);
                }
            }
        }
    }

    fn finish(&mut self, limit: &Limit, seen: &mut Seen) {
        let in_hand = self.in_hand();
        let Some(Reverse((_, arrived))) = self.running.pop() else {
            return;
        };
        let took = self.now - arrived;
        seen.took.push(took);
        if let Limit::Adaptive(limit) = limit {
            let took = Duration::from_nanos(took);
            limit.sample(
                Time(self.now),
                Time(arrived),
                took,
                in_hand,
                Verdict::Success,
            );
        }
        while self.running.len() < self.workers
            && let Some(arrived) = self.waiting.pop_front()
        {
            self.start(arrived);
        }
    }
}

/// A server, and how long each load lasts.
#[derive(Clone, Copy, Debug)]
struct Kind {
    workers: usize,
    service: u64,
    length: u64,
}

const KINDS: [Kind; 5] = [
    kind(4, 20_000, SECOND),
    kind(8, MS, 5 * SECOND),
    kind(32, 50 * MS, 40 * SECOND),
    kind(16, 200 * MS, 160 * SECOND),
    kind(64, 200 * MS, 80 * SECOND),
];

const fn kind(workers: usize, service: u64, length: u64) -> Kind {
    Kind {
        workers,
        service,
        length,
    }
}

impl Kind {
    /// The time to get used to a change: 2 s, or less where all is over sooner.
    fn settle(self) -> u64 {
        (2 * SECOND).min(self.length / 4)
    }

    fn adaptive(self, seed: u64) -> Limit {
        let config = AdaptiveLimitConfig {
            // So that there are probes within the short time that the fastest server is looked at.
            probe_every: Duration::from_nanos((self.length / 4).min(2 * SECOND)),
            ..AdaptiveLimitConfig::default()
        };
        Limit::Adaptive(Box::new(AdaptiveLimit::new(config, seed)))
    }
}

/// What a step of the load to twice the capacity and back does.
#[derive(Debug)]
struct Step {
    goodput: f64,
    /// p99 during the overload and after it, as multiples of that before it.
    p99: f64,
    p99_after: f64,
    refused_after: f64,
}

fn step(kind: Kind, limit: &Limit, seed: u64) -> Step {
    let mut server = Server::new(seed, kind.workers, kind.service);
    let settle = kind.settle();
    server.run(limit, 0.5, settle);
    let mut before = server.run(limit, 0.5, kind.length);
    server.run(limit, 2.0, settle);
    let mut during = server.run(limit, 2.0, kind.length);
    server.run(limit, 0.5, settle);
    let mut after = server.run(limit, 0.5, kind.length / 2);
    let unloaded = before.p99() as f64;
    Step {
        goodput: during.goodput(kind.workers, kind.service),
        p99: during.p99() as f64 / unloaded,
        p99_after: after.p99() as f64 / unloaded,
        refused_after: after.refused_share(),
    }
}

impl Step {
    fn holds(&self) -> bool {
        self.goodput >= 0.95
            && self.p99 <= 2.0
            && self.p99_after <= 1.3
            && self.refused_after <= 0.01
    }
}

/// Checks all seeds that are to be run, or the one that is asked for.
fn check_seeds(each: impl Fn(u64) + Sync) {
    if let Some(seed) = number("POSTROAD_LIMIT_SEED") {
        return each(seed);
    }
    let failed = failing(number("POSTROAD_LIMIT_SEEDS").unwrap_or(SEEDS), each);
    assert!(
        failed.is_empty(),
        "failed with POSTROAD_LIMIT_SEED={failed:?}"
    );
}

#[test]
fn twice_the_load_costs_neither_goodput_nor_latency() {
    check_seeds(|seed| {
        let kind = KINDS[seed as usize % KINDS.len()];
        let step = step(kind, &kind.adaptive(seed), seed);
        assert!(step.holds(), "{kind:?} {step:?}");
    });
}

#[test]
fn without_an_adaptive_limit_the_same_step_is_felt() {
    for seed in 0..3 {
        for kind in KINDS {
            let unlimited = step(kind, &Limit::Fixed(usize::MAX), seed);
            assert!(
                unlimited.p99 > 2.0 && !unlimited.holds(),
                "{kind:?} {unlimited:?}"
            );
        }
        // What is right for one is wrong for another.
        let fixed = |kind| step(kind, &Limit::Fixed(40), seed);
        let slow = fixed(KINDS[0]);
        assert!(slow.p99 > 2.0, "{slow:?}");
        let idle = fixed(KINDS[4]);
        assert!(idle.goodput < 0.7, "{idle:?}");
    }
}

/// What holds under twice the load after the server has changed.
fn after_a_change(kind: Kind, change: fn(&mut Server), seed: u64) -> (f64, f64) {
    let limit = kind.adaptive(seed);
    let mut server = Server::new(seed, kind.workers, kind.service);
    server.run(&limit, 2.0, kind.length);
    change(&mut server);
    // By then a probe has noticed.
    server.run(&limit, 2.0, kind.length.max(3 * SECOND));
    let mut then = server.run(&limit, 2.0, kind.length);
    let mut unloaded = Server::new(seed, server.workers, server.service);
    let mut unloaded = unloaded.run(&Limit::Fixed(usize::MAX), 0.5, kind.length);
    let p99 = then.p99() as f64 / unloaded.p99() as f64;
    (then.goodput(server.workers, server.service), p99)
}

/// What may happen to a server while it runs.
type Change = (&'static str, fn(&mut Server));

const CHANGES: [Change; 4] = [
    ("half the workers", |server| server.workers /= 2),
    ("twice the workers", |server| server.workers *= 2),
    ("twice as slow", |server| server.service *= 2),
    ("twice as fast", |server| server.service /= 2),
];

#[test]
fn half_or_twice_the_capacity_is_noticed_while_it_runs() {
    check_seeds(|seed| {
        let kind = KINDS[seed as usize % KINDS.len()];
        let (name, change) = CHANGES[seed as usize % CHANGES.len()];
        let (goodput, p99) = after_a_change(kind, change, seed);
        assert!(
            goodput >= 0.95 && p99 <= 2.0,
            "{name}, {kind:?}: goodput {goodput}, p99 {p99} times that without load"
        );
    });
}

/// A limit, and a service that is told of one request after the other.
struct Driven {
    limit: AdaptiveLimit,
    now: u64,
}

impl Driven {
    fn new(config: AdaptiveLimitConfig) -> Self {
        Self {
            limit: AdaptiveLimit::new(config, 7),
            now: 1_000 * SECOND,
        }
    }

    /// So many requests end, 1 ms apart, and the limit is always reached.
    fn end(&mut self, requests: usize, took: u64, outcome: Verdict) {
        for _ in 0..requests {
            self.now += MS;
            let began = Time(self.now - took);
            let took = Duration::from_nanos(took);
            let in_hand = self.limit.limit();
            self.limit
                .sample(Time(self.now), began, took, in_hand, outcome);
        }
    }
}

#[test]
fn if_all_fail_it_is_halved_down_to_the_floor() {
    let config = AdaptiveLimitConfig {
        floor: 8,
        ..AdaptiveLimitConfig::default()
    };
    let mut driven = Driven::new(config);
    let mut seen = vec![driven.limit.limit()];
    for _ in 0..2_000 {
        driven.end(1, 100_000, Verdict::Failure);
        if seen.last() != Some(&driven.limit.limit()) {
            seen.push(driven.limit.limit());
        }
    }
    assert_eq!(seen, [40, 20, 10, 8]);
    driven.end(2_000, 100_000, Verdict::Unknown);
    assert_eq!(driven.limit.limit(), 8, "who gave up says nothing");
}

#[test]
fn it_stays_between_floor_and_cap() {
    let config = AdaptiveLimitConfig {
        floor: 8,
        cap: 60,
        start: 1_000,
        ..AdaptiveLimitConfig::default()
    };
    let mut driven = Driven::new(config);
    assert_eq!(driven.limit.limit(), 60);
    // As fast with more in hand as with less: it grows.
    driven.end(20_000, 100_000, Verdict::Success);
    assert_eq!(driven.limit.limit(), 60);
    // The latency is what is in hand: one worker.
    let mut least = usize::MAX;
    for _ in 0..20_000 {
        let took = driven.limit.limit() as u64 * 100_000;
        driven.end(1, took, Verdict::Success);
        least = least.min(driven.limit.limit());
    }
    assert!(
        least >= 4 && driven.limit.limit() <= 9,
        "{least} {}",
        driven.limit.limit()
    );
    let nothing = AdaptiveLimitConfig {
        floor: 0,
        cap: 0,
        start: 0,
        ..AdaptiveLimitConfig::default()
    };
    assert_eq!(AdaptiveLimit::new(nothing, 1).limit(), 1);
}

#[test]
fn requests_that_began_before_a_probe_do_not_count() {
    let mut driven = Driven::new(AdaptiveLimitConfig::default());
    let late = Time(driven.now);
    driven.end(250, 10 * MS, Verdict::Success);
    let during = driven.limit.limit();
    assert!(during < 40, "it probes: {during}");
    assert_eq!(driven.limit.settled(), 40);
    // What waited in the old queue ends now, and would make the probe see a queue.
    for _ in 0..5_000 {
        driven.now += MS;
        let took = Duration::from_nanos(driven.now - late.0);
        driven
            .limit
            .sample(Time(driven.now), late, took, 28, Verdict::Success);
        assert_eq!(driven.limit.limit(), during);
    }
    driven.end(250, 10 * MS, Verdict::Success);
    assert!(driven.limit.limit() > during, "the same latency: no queue");
}

#[test]
fn probes_of_different_servers_do_not_coincide() {
    let config = AdaptiveLimitConfig {
        cap: 60,
        ..AdaptiveLimitConfig::default()
    };
    let first_probe = |seed| {
        let mut driven = Driven::new(config);
        driven.limit = AdaptiveLimit::new(config, seed);
        driven.end(3_000, 100_000, Verdict::Success);
        assert_eq!(driven.limit.limit(), 60);
        let each = (0..30_000).find(|_| {
            driven.end(1, 100_000, Verdict::Success);
            driven.limit.limit() < 60
        });
        each.expect("it probes within 30 s")
    };
    let mut moments: Vec<usize> = (0..20).map(first_probe).collect();
    moments.sort_unstable();
    moments.dedup();
    assert!(moments.len() >= 7, "{moments:?}");
}

#[test]
fn a_clock_that_went_back_does_not_stop_it() {
    let mut driven = Driven::new(AdaptiveLimitConfig::default());
    driven.end(1_000, 100_000, Verdict::Success);
    driven.now = SECOND;
    driven.end(5_000, 100_000, Verdict::Failure);
    assert_eq!(driven.limit.limit(), 4);
}

#[test]
fn no_two_samples_are_taken_within_a_tenth_of_a_millisecond() {
    let limit = AdaptiveLimit::new(AdaptiveLimitConfig::default(), 1);
    let now = 1_000 * SECOND;
    // 20,000 failures within 20 ms are 200 samples, which halve it once; all would a hundred times.
    for n in 0..20_000 {
        let (now, took) = (Time(now + n * 1_000), Duration::from_nanos(500));
        limit.sample(now, Time(now.0 - 500), took, 40, Verdict::Failure);
    }
    assert_eq!(limit.limit(), 20);
}

#[test]
fn threads_do_not_wait_for_each_other_and_it_stays_within_its_bounds() {
    let limit = AdaptiveLimit::new(AdaptiveLimitConfig::default(), 1);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let limit = &limit;
            scope.spawn(move || {
                for n in 0..200_000_u64 {
                    let now = Time(1_000 * SECOND + n * 10_000 + thread);
                    let took = Duration::from_nanos(50_000);
                    let in_hand = limit.limit();
                    limit.sample(now, now.before(took), took, in_hand, Verdict::Success);
                    assert!((2..=10_000).contains(&limit.limit()));
                }
            });
        }
    });
    assert!(limit.limit() > 40, "the same latency with more in hand");
}
