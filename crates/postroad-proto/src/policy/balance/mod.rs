//! Which endpoint gets a call.
//!
//! A [`Balancer`] belongs to one list of endpoints: what can be worked out beforehand (a schedule,
//! a ring) is, and a changed list gets a balancer of its own. To pick takes no lock and no memory.

mod ring;
mod schedule;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use self::ring::Ring;
use self::schedule::Schedule;
use super::why::{Considered, Step, WHY_CANDIDATES_MAX, Why};
use super::window::below;
use super::{Load, RAMP_WHOLE};
use crate::Time;

/// How endpoints are picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balance {
    /// Each in its turn.
    RoundRobin,
    /// Each in its turn, as often as its weight says, and never in bunches.
    Weighted,
    /// The one with the fewest calls in flight for its weight. Of many endpoints a sample is asked.
    LeastInFlight,
    /// The better of two random ones, by latency, failures, calls in flight and weight.
    #[default]
    P2c,
    /// The same endpoint for the same key, unless it has much more in flight than the others.
    Hash,
}

impl Balance {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::RoundRobin,
        Self::Weighted,
        Self::LeastInFlight,
        Self::P2c,
        Self::Hash,
    ];

    /// The name in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Weighted => "weighted",
            Self::LeastInFlight => "least-in-flight",
            Self::P2c => "p2c",
            Self::Hash => "hash",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|balance| balance.name() == name)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a balancer has to know of an endpoint.
pub trait Candidate {
    /// Its load.
    fn load(&self) -> &Load;

    /// Its weight among the others; 0 means that it gets nothing, unless all have 0. It stays as
    /// long as the list of endpoints does.
    fn weight(&self) -> u32 {
        1
    }

    /// What tells it from the others on every client and after every restart, such as
    /// [`hash_key`] of its address.
    fn identity(&self) -> u64;

    /// Whether it may be given a call now: connected or about to be, not ejected, not draining, its
    /// breaker not open.
    fn may_take(&self, now: Time) -> bool;
}

impl<C: Candidate + ?Sized> Candidate for Arc<C> {
    fn load(&self) -> &Load {
        (**self).load()
    }

    fn weight(&self) -> u32 {
        (**self).weight()
    }

    fn identity(&self) -> u64 {
        (**self).identity()
    }

    fn may_take(&self, now: Time) -> bool {
        (**self).may_take(now)
    }
}

/// A number for a key or an address. Every client computes the same one.
#[must_use]
pub fn hash_key(key: &[u8]) -> u64 {
    // FNV-1a, whose last bits are mixed well by the finish of SplitMix64.
    let hash = key.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    });
    mix(hash)
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// What one pick is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Calls with the same key should go to the same endpoint, if the balance is [`Balance::Hash`].
    pub key: Option<u64>,
    /// Where the call has just failed: another endpoint is picked if there is one.
    pub avoid: Option<usize>,
    /// The present time.
    pub now: Time,
}

/// Up to so many endpoints are all asked for their calls in flight; of more, [`SAMPLE`] are.
const ASK_ALL_MAX: usize = 32;
const SAMPLE: usize = 8;
/// What an endpoint without history is taken to need if its rival has none either.
const UNKNOWN_LATENCY: Duration = Duration::from_millis(1);

/// Picks endpoints of one list.
#[derive(Debug)]
pub struct Balancer {
    balance: Balance,
    turn: AtomicU64,
    /// Whether weights mean nothing, because all are 0.
    all_zero: bool,
    schedule: Schedule,
    ring: Ring,
}

impl Balancer {
    /// For this list, which every [`Balancer::pick`] is given again.
    #[must_use]
    pub fn new<C: Candidate>(balance: Balance, candidates: &[C]) -> Self {
        let all_zero = candidates.iter().all(|one| one.weight() == 0);
        let weight = |one: &C| if all_zero { 1 } else { one.weight() };
        let weights = || candidates.iter().map(weight);
        let (mut schedule, mut ring) = (Schedule::default(), Ring::default());
        match balance {
            Balance::Weighted => schedule = Schedule::new(&weights().collect::<Vec<_>>()),
            Balance::Hash => {
                let identities = candidates.iter().map(C::identity);
                ring = Ring::new(&identities.zip(weights()).collect::<Vec<_>>());
            }
            Balance::RoundRobin | Balance::LeastInFlight | Balance::P2c => {}
        }
        Self {
            balance,
            turn: AtomicU64::new(0),
            all_zero,
            schedule,
            ring,
        }
    }

    /// How it picks.
    #[must_use]
    pub fn balance(&self) -> Balance {
        self.balance
    }

    /// The place in the list of the endpoint that gets a call; `None` if none may take one.
    ///
    /// The endpoint to be avoided is picked only if there is no other. What is random comes from
    /// `random`, 64 bits at a time.
    pub fn pick<C: Candidate>(
        &self,
        candidates: &[C],
        ask: &Ask,
        random: impl FnMut() -> u64,
        why: Option<&mut Why>,
    ) -> Option<usize> {
        let mut choice = Choice {
            candidates,
            ask,
            all_zero: self.all_zero,
            random,
            considered: why.as_ref().map(|_| Vec::new()),
            more: 0,
        };
        let picked = match (self.balance, candidates.len()) {
            (_, 0) => None,
            (Balance::RoundRobin, _) => self.in_turn(&mut choice),
            (Balance::Weighted, _) => self.scheduled(&mut choice),
            (Balance::LeastInFlight, _) => choice.least_in_flight(),
            (Balance::P2c, _) => choice.better_of_two(),
            (Balance::Hash, _) => self.hashed(&mut choice),
        };
        let picked = picked.or_else(|| choice.avoided());
        if let Some(why) = why {
            let step = Step::Pick {
                by: self.balance.name(),
                considered: choice.considered.unwrap_or_default(),
                more: choice.more,
                picked,
            };
            why.note(ask.now, step);
        }
        picked
    }

    /// Whoever is passed over uses up a turn, so that its neighbour does not get twice as much.
    fn in_turn<C: Candidate, R: FnMut() -> u64>(
        &self,
        choice: &mut Choice<'_, C, R>,
    ) -> Option<usize> {
        let count = choice.candidates.len() as u64;
        for _ in 0..count {
            let index = (self.turn.fetch_add(1, Relaxed) % count) as usize;
            if choice.is_usable(index) && choice.is_warm(index) {
                return Some(index);
            }
        }
        choice.scan()
    }

    fn scheduled<C: Candidate, R: FnMut() -> u64>(
        &self,
        choice: &mut Choice<'_, C, R>,
    ) -> Option<usize> {
        for _ in 0..choice.candidates.len() {
            let index = self.schedule.at(self.turn.fetch_add(1, Relaxed))?;
            if choice.is_usable(index) && choice.is_warm(index) {
                return Some(index);
            }
        }
        choice.scan()
    }

    fn hashed<C: Candidate, R: FnMut() -> u64>(
        &self,
        choice: &mut Choice<'_, C, R>,
    ) -> Option<usize> {
        let key = choice.ask.key.unwrap_or_else(&mut choice.random);
        let mut first = None;
        let mut bound = None;
        for index in self.ring.from(key) {
            if first == Some(index) || !choice.is_usable(index) {
                continue;
            }
            let load = choice.candidates[index].load().in_flight();
            if load == 0 {
                return Some(index);
            }
            let bound = *bound.get_or_insert_with(|| choice.bound());
            choice.score(index, u64::from(load));
            if bound.has_room(u64::from(load), choice.weight(index)) {
                return Some(index);
            }
            first.get_or_insert(index);
        }
        first.or_else(|| choice.scan())
    }
}

/// One pick while it is made.
struct Choice<'a, C, R> {
    candidates: &'a [C],
    ask: &'a Ask,
    all_zero: bool,
    random: R,
    considered: Option<Vec<Considered>>,
    more: usize,
}

impl<C: Candidate, R: FnMut() -> u64> Choice<'_, C, R> {
    fn weight(&self, index: usize) -> u32 {
        if self.all_zero {
            1
        } else {
            self.candidates[index].weight()
        }
    }

    fn is_usable(&mut self, index: usize) -> bool {
        let Some(one) = self.candidates.get(index) else {
            return false;
        };
        let reason = if self.ask.avoid == Some(index) {
            "has just failed this call"
        } else if !self.all_zero && one.weight() == 0 {
            "has weight 0"
        } else if !one.may_take(self.ask.now) {
            "may not take calls"
        } else {
            return true;
        };
        self.record(index, None, Some(reason));
        false
    }

    /// Whether an endpoint in its slow start takes this turn; a warm one always does.
    fn is_warm(&mut self, index: usize) -> bool {
        let ramp = self.candidates[index].load().ramp(self.ask.now);
        let is_warm =
            ramp >= RAMP_WHOLE || below((self.random)(), u64::from(RAMP_WHOLE)) < u64::from(ramp);
        if !is_warm {
            self.record(index, None, Some("is in its slow start"));
        }
        is_warm
    }

    fn score(&mut self, index: usize, score: u64) {
        self.record(index, Some(score), None);
    }

    fn record(&mut self, index: usize, score: Option<u64>, passed_over: Option<&'static str>) {
        let Some(considered) = &mut self.considered else {
            return;
        };
        if considered.len() < WHY_CANDIDATES_MAX {
            considered.push(Considered {
                index,
                score,
                passed_over,
            });
        } else {
            self.more += 1;
        }
    }

    fn random_index(&mut self) -> usize {
        below((self.random)(), self.candidates.len() as u64) as usize
    }

    /// Any usable endpoint: the first behind a random place.
    fn scan(&mut self) -> Option<usize> {
        let (start, count) = (self.random_index(), self.candidates.len());
        (start..start + count)
            .map(|at| at % count)
            .find(|&index| self.is_usable(index))
    }

    /// The endpoint to be avoided, if it may take the call.
    fn avoided(&self) -> Option<usize> {
        let index = self.ask.avoid?;
        let one = self.candidates.get(index)?;
        (self.weight(index) > 0 && one.may_take(self.ask.now)).then_some(index)
    }

    fn least_in_flight(&mut self) -> Option<usize> {
        let count = self.candidates.len();
        let (start, asks_all) = (self.random_index(), count <= ASK_ALL_MAX);
        let mut best: Option<(u64, usize)> = None;
        for turn in 0..if asks_all { count } else { SAMPLE } {
            let index = match asks_all {
                true => (start + turn) % count,
                false => self.random_index(),
            };
            if !self.is_usable(index) {
                continue;
            }
            let load = self.candidates[index].load();
            let calls = (u64::from(load.in_flight()) + 1) << 20;
            let weight = u64::from(self.weight(index)) * u64::from(load.ramp(self.ask.now));
            let score = calls * u64::from(RAMP_WHOLE) / weight.max(1);
            self.score(index, score);
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, index));
            }
        }
        best.map(|(_, index)| index).or_else(|| self.scan())
    }

    fn better_of_two(&mut self) -> Option<usize> {
        let count = self.candidates.len() as u64;
        let one = self.random_index();
        if count == 1 {
            return self.is_usable(one).then_some(one);
        }
        let other = match count {
            2 => 1 - one,
            _ => (one + 1 + below((self.random)(), count - 1) as usize) % count as usize,
        };
        match (self.is_usable(one), self.is_usable(other)) {
            (true, true) => Some(self.better(one, other)),
            (true, false) => Some(one),
            (false, true) => Some(other),
            (false, false) => self.scan(),
        }
    }

    fn better(&mut self, one: usize, other: usize) -> usize {
        let now = self.ask.now;
        let load = |index: usize| self.candidates[index].load();
        let known = [load(one).latency(now), load(other).latency(now)];
        // Whoever is unknown counts as fast as its rival, and so calls in flight decide.
        let of = |it: usize| known[it].or(known[1 - it]).unwrap_or(UNKNOWN_LATENCY);
        let first = load(one).score(now, self.weight(one), of(0));
        let second = load(other).score(now, self.weight(other), of(1));
        self.score(one, first);
        self.score(other, second);
        if second < first { other } else { one }
    }

    /// How much an endpoint may have in flight while the others have what they have.
    fn bound(&mut self) -> Bound {
        let count = self.candidates.len();
        let asks_all = count <= 2 * ASK_ALL_MAX;
        let mut bound = Bound::default();
        for turn in 0..count.min(2 * ASK_ALL_MAX) {
            let index = if asks_all { turn } else { self.random_index() };
            bound.calls += u64::from(self.candidates[index].load().in_flight());
            if self.candidates[index].may_take(self.ask.now) {
                bound.weights += u64::from(self.weight(index));
            }
        }
        bound
    }
}

/// Calls in flight and weights of all endpoints, or of a sample of them.
#[derive(Clone, Copy, Default)]
struct Bound {
    calls: u64,
    weights: u64,
}

impl Bound {
    /// Whether one more call leaves an endpoint within 1.25 times its share of all calls in
    /// flight. A share is rounded up, so that there always is room somewhere.
    fn has_room(self, load: u64, weight: u32) -> bool {
        let share = (self.calls + 1) * u64::from(weight) * 5;
        load < share.div_ceil((self.weights * 4).max(1))
    }
}
