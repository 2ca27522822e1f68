//! How much may be sent again: a share of the calls of the last while, and a little besides.
//!
//! One budget is shared by everything that sends a call once more: retries, calls taken back from a
//! connection that has ended, and hedges. It is spent when the decision falls, so attempts that
//! still wait for their backoff are counted.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::time::Duration;

use super::window::nanos;
use crate::Time;

/// How large a [`Budget`] is.
///
/// # Defaults
/// 20 % of the calls of the last 10 s, and 10 a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    /// Further attempts allowed for each thousand calls.
    pub per_mille: u32,
    /// Further attempts a second that are allowed however few calls there are.
    pub reserve_per_second: u32,
    /// How long a call allows something; at least 10 ms.
    pub window: Duration,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            per_mille: 200,
            reserve_per_second: 10,
            window: Duration::from_secs(10),
        }
    }
}

/// Spans that the window is divided into.
const SPANS: usize = 10;
/// What one further attempt costs; a call brings in [`BudgetConfig::per_mille`] of it.
const COST: i64 = 1000;

/// A budget in thousandths of an attempt, exact in integers.
///
/// `balance` always is the sum of `spans` once those who add have done both of their additions, and
/// spending is one compare-and-exchange on it. So however many threads spend, never more is spent
/// than there is.
#[derive(Debug)]
pub struct Budget {
    per_mille: i64,
    reserve: i64,
    span: u64,
    balance: AtomicI64,
    spans: [AtomicI64; SPANS],
    /// Number of the latest span that was begun.
    latest: AtomicU64,
    /// Whether a thread is emptying spans that have left the window.
    is_moving: AtomicBool,
}

impl Budget {
    /// A budget with nothing but its reserve.
    #[must_use]
    pub fn new(config: BudgetConfig) -> Self {
        let window = nanos(config.window).max(SPANS as u64 * 1_000_000);
        let reserve = u128::from(config.reserve_per_second) * COST as u128;
        let reserve = reserve * u128::from(window) / 1_000_000_000;
        Self {
            per_mille: i64::from(config.per_mille),
            reserve: i64::try_from(reserve).unwrap_or(i64::MAX / 2),
            span: window / SPANS as u64,
            balance: AtomicI64::new(0),
            spans: [const { AtomicI64::new(0) }; SPANS],
            latest: AtomicU64::new(0),
            is_moving: AtomicBool::new(false),
        }
    }

    /// A call was made for the first time. Its further attempts are not noted.
    pub fn note_call(&self, now: Time) {
        let span = self.span(now);
        span.fetch_add(self.per_mille, Relaxed);
        self.balance.fetch_add(self.per_mille, Relaxed);
    }

    /// Pays for one further attempt; false, and nothing is paid, if there is not enough.
    #[must_use]
    pub fn try_spend(&self, now: Time) -> bool {
        let span = self.span(now);
        let pay = |balance: i64| (balance + self.reserve >= COST).then_some(balance - COST);
        let is_paid = self.balance.fetch_update(Relaxed, Relaxed, pay).is_ok();
        if is_paid {
            span.fetch_sub(COST, Relaxed);
        }
        is_paid
    }

    /// Gives back what was paid for an attempt that was not made after all.
    pub fn give_back(&self, now: Time) {
        self.span(now).fetch_add(COST, Relaxed);
        self.balance.fetch_add(COST, Relaxed);
    }

    /// Further attempts that could be paid for now.
    #[must_use]
    pub fn available(&self, now: Time) -> u64 {
        self.span(now);
        let left = (self.balance.load(Relaxed) + self.reserve) / COST;
        u64::try_from(left).unwrap_or(0)
    }

    /// The span of this moment, after those that have left the window were emptied. A clock that
    /// went back stays in the latest span.
    fn span(&self, now: Time) -> &AtomicI64 {
        let number = now.0 / self.span;
        let latest = self.latest.load(Acquire);
        if number <= latest {
            return &self.spans[(latest % SPANS as u64) as usize];
        }
        // One thread moves on; the others do not wait for it and use the span that was the latest.
        if self.is_moving.swap(true, Acquire) {
            return &self.spans[(latest % SPANS as u64) as usize];
        }
        let latest = self.latest.load(Relaxed);
        if number > latest {
            for begun in (latest + 1..=number).take(SPANS) {
                // What others add meanwhile is not taken out with what is old.
                let span = &self.spans[(begun % SPANS as u64) as usize];
                let old = span.load(Relaxed);
                span.fetch_sub(old, Relaxed);
                self.balance.fetch_sub(old, Relaxed);
            }
            self.latest.store(number, Release);
        }
        self.is_moving.store(false, Release);
        let latest = self.latest.load(Relaxed);
        &self.spans[(latest % SPANS as u64) as usize]
    }
}
