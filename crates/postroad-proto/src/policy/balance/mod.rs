//! Which endpoint gets the next call.
//!
//! All ways look at the same small view of an endpoint ([`Candidate`]), skip those that cannot take
//! a call, and need no lock: what depends on the list alone ([`Balancer`]) is made anew when the
//! list changes, and what depends on the moment is read from each endpoint's [`Load`].

mod ring;
mod schedule;

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::Ring;
use schedule::Schedule;

use super::load::Load;
use crate::Time;

/// Up to so many endpoints are all looked at by those ways that look for the least.
const LOOK_AT_ALL: usize = 32;
/// Of more, so many are looked at.
const LOOK_AT: usize = 8;

/// A way to share calls among endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// One after the other, by weight, spread evenly (nginx's smooth weighted round robin).
    Weighted,
    /// Whichever has the fewest calls in flight for its weight.
    LeastInFlight,
    /// The better of two that are drawn at random, by latency, calls in flight and weight (power of
    /// two choices with peak EWMA).
    #[default]
    P2c,
    /// Calls with equal keys to the same endpoint, as long as it has no more than a quarter above
    /// its share of what is in flight (consistent hashing with bounded loads). Calls without a key
    /// go as by [`Self::P2c`].
    Hash,
}

impl Balance {
    /// All ways, and their names.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("round-robin", Self::RoundRobin),
        ("weighted", Self::Weighted),
        ("least-in-flight", Self::LeastInFlight),
        ("p2c", Self::P2c),
        ("hash", Self::Hash),
    ];

    /// Its name in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(_, way)| *way == self);
        named.map_or("", |(name, _)| name)
    }
}

/// No way to balance has this name; these there are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no way to balance is called {0:?}; there are round-robin, weighted, least-in-flight, p2c, hash"
)]
pub struct UnknownBalance(String);

impl FromStr for Balance {
    type Err = UnknownBalance;

    fn from_str(name: &str) -> Result<Self, UnknownBalance> {
        let named = Self::NAMES.iter().find(|(known, _)| *known == name);
        named
            .map(|(_, way)| *way)
            .ok_or_else(|| UnknownBalance(name.to_owned()))
    }
}

/// What balancing looks at.
pub trait Candidate {
    /// Whether it can take a call now.
    fn is_usable(&self, now: Time) -> bool;
    /// Its calls in flight and latency.
    fn load(&self) -> &Load;
    /// Its share, relative to the others; 0 is nothing, unless all are 0.
    fn weight(&self) -> u32;
    /// What it is known by: a key stays with its endpoint over changes of the list.
    fn name(&self) -> &str;
}

/// One way to balance, prepared for one list of endpoints.
#[derive(Debug)]
pub struct Balancer {
    way: Balance,
    /// Whether every weight is 0, so that none is heeded.
    is_weightless: bool,
    turn: AtomicU64,
    schedule: Schedule,
    ring: Ring,
}

impl Balancer {
    /// For a list, whose order stays the same from here on.
    pub fn new<'a, C: Candidate + 'a>(
        way: Balance,
        list: impl ExactSizeIterator<Item = &'a C> + Clone,
        seed: u64,
    ) -> Self {
        let is_weightless = list.clone().all(|candidate| candidate.weight() == 0);
        let weight = |candidate: &C| if is_weightless { 1 } else { candidate.weight() };
        let schedule = match way {
            Balance::Weighted => Schedule::new(list.clone().map(weight)),
            _ => Schedule::default(),
        };
        let ring = match way {
            Balance::Hash => Ring::new(list.map(|one| (one.name(), weight(one)))),
            _ => Ring::default(),
        };
        Self {
            way,
            is_weightless,
            // Clients that start together do not all begin with the first.
            turn: AtomicU64::new(seed >> 8),
            schedule,
            ring,
        }
    }

    /// The place in the list of the endpoint that gets the next call; `None` if none can take one.
    /// The one in `avoid` is taken only if there is no other. The list must be the one that this
    /// was made for; `random` is drawn as often as is needed.
    pub fn pick<C: Candidate>(
        &self,
        list: &[impl AsRef<C>],
        key: Option<&[u8]>,
        avoid: Option<usize>,
        mut random: impl FnMut() -> u64,
        now: Time,
    ) -> Option<usize> {
        let is_usable = |at: usize| {
            let candidate = list[at].as_ref();
            Some(at) != avoid
                && (self.is_weightless || candidate.weight() > 0)
                && candidate.is_usable(now)
        };
        let picked = match (self.way, key) {
            _ if list.is_empty() => return None,
            (Balance::RoundRobin, _) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize;
                around(turn, list.len()).find(|at| is_usable(*at))
            }
            (Balance::Weighted, _) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                self.schedule.from(turn).find(|at| is_usable(*at))
            }
            (Balance::LeastInFlight, _) => {
                let cost = |at: usize| self.cost_in_flight(list[at].as_ref());
                least(list.len(), random() as usize, is_usable, cost)
            }
            (Balance::Hash, Some(key)) => self.ring.pick(key, list, is_usable),
            (Balance::P2c | Balance::Hash, _) => {
                let cost = |at: usize| self.cost(list[at].as_ref(), now);
                of_two(list.len(), &mut random, is_usable, cost)
            }
        };
        picked.or_else(|| avoid.filter(|at| list[*at].as_ref().is_usable(now)))
    }

    fn cost<C: Candidate>(&self, candidate: &C, now: Time) -> u64 {
        // Weights are shares of a whole, and costs are large, so that dividing loses little.
        candidate.load().cost(now) / u64::from(self.weight(candidate))
    }

    fn cost_in_flight<C: Candidate>(&self, candidate: &C) -> u64 {
        let in_flight = u64::from(candidate.load().in_flight()) + 1;
        (in_flight << 20) / u64::from(self.weight(candidate))
    }

    fn weight<C: Candidate>(&self, candidate: &C) -> u32 {
        if self.is_weightless {
            1
        } else {
            candidate.weight().max(1)
        }
    }
}

/// All places, from one of them on.
fn around(from: usize, many: usize) -> impl Iterator<Item = usize> {
    let from = from % many;
    (from..many).chain(0..from)
}

/// The usable place of least cost, of all or of some that are next to each other.
fn least(
    many: usize,
    from: usize,
    is_usable: impl Fn(usize) -> bool,
    cost: impl Fn(usize) -> u64,
) -> Option<usize> {
    let usable = around(from, many).filter(|at| is_usable(*at));
    let looked_at = if many <= LOOK_AT_ALL { many } else { LOOK_AT };
    usable.take(looked_at).min_by_key(|at| cost(*at))
}

/// The better of two usable places.
fn of_two(
    many: usize,
    random: &mut impl FnMut() -> u64,
    is_usable: impl Fn(usize) -> bool,
    cost: impl Fn(usize) -> u64,
) -> Option<usize> {
    let drawn = random();
    let (one, other) = (drawn as u32 as usize, (drawn >> 32) as usize);
    let first = around(one, many).find(|at| is_usable(*at))?;
    let second = around(other, many).find(|at| *at != first && is_usable(*at));
    Some(match second {
        Some(second) if cost(second) < cost(first) => second,
        _ => first,
    })
}
