//! One server in virtual time: workers, a queue for each priority, and what decides over both.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{
    AdaptiveLimit, AdaptiveLimitConfig, Codel, CodelConfig, Levels, OrderConfig, Prospect, Queued,
    Random, Shares, Usual, UsualConfig, Verdict,
};

use crate::policy::SECOND;

#[derive(Clone, Copy, Debug)]
struct Request {
    arrived: u64,
    deadline: u64,
    level: u8,
    prospect: Prospect,
}

/// When it ends, when it came, its priority and deadline, and whether its prospect was poor.
type Running = (u64, u64, u8, u64, bool);

/// What happened in one stretch of time, by priority.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Latencies of what was answered, nanoseconds.
    pub(super) took: [Vec<u64>; 8],
    pub(super) in_time: u64,
    pub(super) refused: [u64; 8],
    pub(super) started_late: u64,
    pub(super) length: u64,
}

impl Seen {
    pub(super) fn p99(&mut self, level: usize) -> u64 {
        let took = &mut self.took[level];
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }

    /// Without load all priorities are the same.
    pub(super) fn p99_of_all(&self) -> u64 {
        let mut took = self.took.concat();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }

    pub(super) fn refused_in_all(&self) -> u64 {
        self.refused.iter().sum()
    }
}

pub(super) struct World {
    random: Random,
    now: u64,
    pub(super) workers: usize,
    /// Mean time that a request is worked on, nanoseconds.
    pub(super) service: u64,
    is_on: bool,
    waiting: [VecDeque<Request>; 8],
    running: BinaryHeap<Reverse<Running>>,
    in_level: [usize; 8],
    limit: AdaptiveLimit,
    shares: Shares,
    levels: Levels,
    codels: [Codel; 8],
    usual: Usual,
}

impl World {
    pub(super) fn new(seed: u64, workers: usize, service: u64, is_on: bool) -> Self {
        Self {
            random: Random::new(seed),
            now: 1_000 * SECOND,
            workers,
            service,
            is_on,
            waiting: Default::default(),
            running: BinaryHeap::new(),
            in_level: [0; 8],
            limit: AdaptiveLimit::new(AdaptiveLimitConfig::default(), seed),
            shares: Shares::default(),
            levels: Levels::new(OrderConfig::default()),
            codels: std::array::from_fn(|_| Codel::new(CodelConfig::default())),
            usual: Usual::new(UsualConfig::default()),
        }
    }

    fn exponential(&mut self, mean: f64) -> u64 {
        let uniform = (self.random.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        ((-(1.0 - uniform).ln() * mean) as u64).max(1)
    }

    fn total(&self) -> usize {
        self.in_level.iter().sum()
    }

    /// Runs for so long at so many times the capacity. A tenth is most important, the rest is
    /// spread evenly.
    pub(super) fn run(&mut self, load: f64, length: u64) -> Seen {
        let end = self.now + length;
        let gap = self.service as f64 / self.workers as f64 / load;
        let mut seen = Seen {
            length,
            ..Seen::default()
        };
        let mut arrival = self.now + self.exponential(gap);
        loop {
            let ends = self
                .running
                .peek()
                .map_or(u64::MAX, |Reverse(first)| first.0);
            if ends.min(arrival) > end {
                self.now = end;
                return seen;
            }
            self.now = ends.min(arrival);
            if ends <= arrival {
                self.finish(&mut seen);
            } else {
                self.arrive(&mut seen);
                arrival += self.exponential(gap);
            }
            while self.running.len() < self.workers && self.start(&mut seen) {}
        }
    }

    fn arrive(&mut self, seen: &mut Seen) {
        let level = match self.random.bits() % 10 {
            0 => 7,
            _ => (self.random.bits() % 7) as u8,
        };
        let remaining = self.service * (50 + self.random.bits() % 150);
        let index = usize::from(level);
        let mut prospect = Prospect::Good;
        if self.is_on {
            let limit = match level {
                7 => self.limit.settled(),
                _ => self.limit.limit(),
            };
            if !self
                .shares
                .admits(level, self.in_level[index], self.total(), limit)
            {
                seen.refused[index] += 1;
                return;
            }
            let ahead: usize = self.waiting[index..].iter().map(VecDeque::len).sum();
            let wait = Usual::wait(ahead as u64 * self.service, self.workers);
            let left = Duration::from_nanos(remaining);
            prospect = self.usual.admits(Time(self.now), left, wait, self.total());
            if prospect == Prospect::Refused {
                seen.refused[index] += 1;
                return;
            }
        }
        self.in_level[index] += 1;
        self.waiting[index].push_back(Request {
            arrived: self.now,
            deadline: self.now + remaining,
            level,
            prospect,
        });
    }

    /// The next request to be run, unless nobody waits: with policies the order of priorities,
    /// without them the oldest.
    fn next(&mut self) -> Option<Request> {
        let waiting = |queues: &[VecDeque<Request>; 8]| {
            (0..8)
                .filter(|level| !queues[*level].is_empty())
                .fold(0, |mask, level| mask | 1 << level)
        };
        if !self.is_on {
            let oldest = |queue: &VecDeque<Request>| queue.front().map(|first| first.arrived);
            let queues = self.waiting.iter_mut().filter(|queue| !queue.is_empty());
            return queues.min_by_key(|queue| oldest(queue))?.pop_front();
        }
        let level = self.levels.pick(waiting(&self.waiting), Time(self.now))?;
        let queue = &mut self.waiting[usize::from(level)];
        if self.codels[usize::from(level)].is_overloaded() {
            queue.pop_back()
        } else {
            queue.pop_front()
        }
    }

    /// Starts or drops one that waits; false if nobody does.
    fn start(&mut self, seen: &mut Seen) -> bool {
        let Some(request) = self.next() else {
            return false;
        };
        let index = usize::from(request.level);
        if self.is_on {
            let waited = self.now - request.arrived;
            let oldest = self.waiting[index]
                .front()
                .map_or(waited, |first| self.now - first.arrived);
            let nanos = Duration::from_nanos;
            let codel = &mut self.codels[index];
            let usual = self.usual.mean();
            let judged = codel.on_dequeue(Time(self.now), nanos(waited), nanos(oldest), usual);
            if judged == Queued::Drop || self.now >= request.deadline {
                self.in_level[index] -= 1;
                seen.refused[index] += 1;
                return true;
            }
            self.levels
                .charge(request.level, self.usual.mean().as_nanos() as u64);
        }
        seen.started_late += u64::from(self.now >= request.deadline);
        let takes = self.exponential(self.service as f64);
        self.usual.sample(Duration::from_nanos(takes));
        let is_poor = request.prospect == Prospect::Poor;
        let running = (
            self.now + takes,
            request.arrived,
            request.level,
            request.deadline,
            is_poor,
        );
        self.running.push(Reverse(running));
        true
    }

    fn finish(&mut self, seen: &mut Seen) {
        let in_hand = self.total();
        let Some(Reverse((_, arrived, level, deadline, is_poor))) = self.running.pop() else {
            return;
        };
        let took = self.now - arrived;
        let now = Time(self.now);
        self.in_level[usize::from(level)] -= 1;
        seen.took[usize::from(level)].push(took);
        seen.in_time += u64::from(self.now <= deadline);
        if is_poor {
            self.usual.prove(now, self.now > deadline);
        }
        let took = Duration::from_nanos(took);
        self.limit
            .sample(now, Time(arrived), took, in_hand, Verdict::Success);
    }
}
