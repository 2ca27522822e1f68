//! Whose turn it is of eight priorities: the most important first, and none of them never.
//!
//! What is guaranteed is counted in work, not in turns or time: a level that waits becomes *due*
//! when so much work was done since its last turn that it has its share coming, and a level that
//! is due is served before the most important one. So a server that is a hundred times as fast
//! keeps the same shares, and a level of long requests gets no more than one of short ones.
//!
//! With `C` the longest piece of work and `c` what the level's last turn cost, in nanoseconds of
//! work that all levels together are charged:
//!
//! - a level that goes on waiting gets its next turn before more than `each * c + 8 * C` is done;
//! - of any work `W` in which it always waits, it gets at least `W / each - 9 * C`;
//! - of any work `W` in which something less important than the most important always waits, all
//!   such levels together get at least `W * lower_per_mille / 1000 - 9 * C`;
//! - the most important level gets all the rest: of any work `W` in which it always waits at least
//!   `W * (1 - lower_per_mille / 1000 - 7 / each) - 9 * C`, if nothing ages;
//! - in time, a level waits for at most `7 * aging` and until whoever serves asks again.
//!
//! The queues of a connection's [outbox](crate::session) have a bound of their own. They cannot use
//! this one without loss: what they hand over at a time is a whole chunk of frames of one class,
//! and to ask for each frame would cut the chunks up; and each of many connections would have to
//! hold the levels.

use std::time::Duration;

use super::window::nanos;
use crate::Time;

/// What less important levels are guaranteed.
///
/// # Defaults
/// Together 5 % of the work, each that waits one part in 127, and a turn after a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderConfig {
    /// What the levels below the most important one that waits get together, of a thousand; at
    /// most 500. 0 guarantees nothing.
    pub lower_per_mille: u32,
    /// Each level that waits gets one part in so many; at least 16. 0 guarantees nothing.
    pub each: u32,
    /// A level that waits for so long gets a turn whatever its share; there is one such turn in
    /// this time for all levels. `None` for none.
    pub aging: Option<Duration>,
}

impl Default for OrderConfig {
    fn default() -> Self {
        Self {
            lower_per_mille: 50,
            each: 127,
            aging: Some(Duration::from_secs(1)),
        }
    }
}

impl OrderConfig {
    /// Strictly by importance: less important levels may wait for ever.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            lower_per_mille: 0,
            each: 0,
            aging: None,
        }
    }
}

const LEVELS: usize = 8;
/// How much work lies between two turns of who has no guarantee.
const NEVER: u64 = u64::MAX;

/// Whose turn it is. Levels are 0 to 7, 7 the most important.
#[derive(Clone, Debug)]
pub struct Levels {
    /// Work between two turns of one level, for each nanosecond that its turn takes.
    each: u64,
    /// The same in thousandths, for the lower levels together.
    lower: u64,
    /// Nanoseconds.
    aging: u64,
    /// All work that was charged, nanoseconds.
    work: u64,
    /// Levels that had something to do when asked last, a bit each.
    waiting: u8,
    /// The work at which a level is due; not in the past when it begins to wait.
    due: [u64; LEVELS],
    /// The same of all below the most important one.
    lower_due: u64,
    /// Since when a level has waited for a turn. A [`Time`].
    since: [u64; LEVELS],
    /// When a level got a turn because it had aged. A [`Time`].
    aged_at: u64,
}

impl Levels {
    /// Nothing waits yet.
    #[must_use]
    pub fn new(config: OrderConfig) -> Self {
        let lower = u64::from(config.lower_per_mille.min(500));
        Self {
            each: match config.each {
                0 => NEVER,
                each => u64::from(each.max(16)),
            },
            lower: 1_000_000_u64.checked_div(lower).unwrap_or(NEVER),
            aging: config.aging.map_or(NEVER, nanos),
            work: 0,
            waiting: 0,
            due: [0; LEVELS],
            lower_due: 0,
            since: [0; LEVELS],
            aged_at: 0,
        }
    }

    /// The level whose turn it is, of those that have something to do: bit p of `waiting` is set
    /// for level p. `None` if nobody has.
    ///
    /// [`Self::charge`] has to follow before the next question.
    pub fn pick(&mut self, waiting: u8, now: Time) -> Option<u8> {
        let top = waiting.checked_ilog2()? as usize;
        let lower = waiting & !(1 << top);
        if self.waiting != waiting {
            self.note_waiting(waiting, now);
        }
        let picked = match lower {
            0 => top,
            _ => self.pick_lower(lower, now).unwrap_or(top),
        };
        self.since[picked] = now.0;
        Some(picked as u8)
    }

    /// Notes what has begun to wait: it is due now at the earliest, for what was not used while
    /// there was nothing to do is not saved.
    fn note_waiting(&mut self, waiting: u8, now: Time) {
        for level in bits(waiting & !self.waiting) {
            self.due[level] = self.due[level].max(self.work);
            self.since[level] = now.0;
        }
        if is_single(self.waiting) {
            self.lower_due = self.lower_due.max(self.work);
        }
        self.waiting = waiting;
    }

    /// The one of these levels that is served before the most important one, if any.
    fn pick_lower(&mut self, lower: u8, now: Time) -> Option<usize> {
        let due = bits(lower).min_by_key(|level| self.due[*level])?;
        if self.due[due] <= self.work && self.each != NEVER {
            return Some(due);
        }
        if self.lower_due <= self.work && self.lower != NEVER {
            return lower.checked_ilog2().map(|level| level as usize);
        }
        // A clock that went back makes nobody old.
        let aged = bits(lower).min_by_key(|level| self.since[*level])?;
        let is_old = now.0.saturating_sub(self.since[aged]) >= self.aging
            && now.0.saturating_sub(self.aged_at) >= self.aging;
        if is_old {
            self.aged_at = now.0;
        }
        is_old.then_some(aged)
    }

    /// What the turn of a level costs, nanoseconds of work.
    ///
    /// Who serves several at a time charges when a turn begins what it usually takes, because many
    /// turns may begin before the first ends; a charge for the rest may follow.
    pub fn charge(&mut self, level: u8, cost: u64) {
        let (index, cost) = (usize::from(level) % LEVELS, cost.max(1));
        // Whoever is served late is due as much sooner, and whoever is served early no later.
        let next = |due: u64, gap: u64| due.min(self.work).saturating_add(gap);
        self.due[index] = next(self.due[index], cost.saturating_mul(self.each));
        if self.waiting >> index > 1 {
            self.lower_due = next(self.lower_due, cost.saturating_mul(self.lower) / 1000);
        }
        self.work = self.work.saturating_add(cost);
    }
}

/// Whether at most one bit is set.
fn is_single(mask: u8) -> bool {
    mask & mask.wrapping_sub(1) == 0
}

/// The numbers of the bits that are set, from the lowest.
fn bits(mut mask: u8) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (bit < LEVELS as u32).then_some(bit as usize)
    })
}
