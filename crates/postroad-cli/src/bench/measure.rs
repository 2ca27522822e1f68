//! What is recorded of each call, and when it counts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use postroad::{Bytes, CallError};

/// Longest latency that a histogram holds; longer ones count as this.
const LONGEST: u64 = 3600 * 1_000_000_000;

/// The result of a load.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Of the calls that were answered, nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// How late the generator itself was, nanoseconds; of an open loop.
    pub(super) lateness: Histogram<u64>,
    /// Calls that failed, by code.
    pub(super) errors: BTreeMap<String, u64>,
    /// Calls that were due and could not be sent, because too many were in flight.
    pub(super) not_sent: u64,
    /// Time that was measured.
    pub(super) time: Duration,
}

impl Measured {
    fn new() -> Self {
        let histogram = || {
            Histogram::new_with_max(LONGEST, 3)
                .expect("three digits up to an hour is a valid histogram")
        };
        Self {
            latency: histogram(),
            lateness: histogram(),
            errors: BTreeMap::new(),
            not_sent: 0,
            time: Duration::ZERO,
        }
    }

    pub(super) fn failed(&self) -> u64 {
        self.errors.values().sum::<u64>() + self.not_sent
    }

    /// Answered calls a second.
    pub(super) fn rate(&self) -> f64 {
        self.latency.len() as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Records calls that were due within the measured time.
pub(super) struct Recorder {
    start: Instant,
    pub(super) end: Instant,
    measured: RefCell<Measured>,
    /// When the last answer came that counts.
    last: Cell<Instant>,
}

impl Recorder {
    pub(super) fn new(start: Instant, end: Instant) -> Self {
        Self {
            start,
            end,
            measured: RefCell::new(Measured::new()),
            last: Cell::new(start),
        }
    }

    fn counts(&self, due: Instant) -> bool {
        (self.start..self.end).contains(&due)
    }

    pub(super) fn record(&self, due: Instant, result: &Result<Bytes, CallError>) {
        if !self.counts(due) {
            return;
        }
        let mut measured = self.measured.borrow_mut();
        match result {
            Ok(_) => {
                self.last.set(Instant::now());
                measured
                    .latency
                    .saturating_record(due.elapsed().as_nanos() as u64);
            }
            Err(error) => *measured.errors.entry(error.code().to_string()).or_default() += 1,
        }
    }

    pub(super) fn late(&self, due: Instant) {
        if self.counts(due) {
            let late = due.elapsed().as_nanos() as u64;
            self.measured.borrow_mut().lateness.saturating_record(late);
        }
    }

    pub(super) fn not_sent(&self, due: Instant) {
        if self.counts(due) {
            self.measured.borrow_mut().not_sent += 1;
        }
    }

    pub(super) fn so_far(&self) -> String {
        let now = Instant::now();
        if now < self.start {
            return "warming up".to_owned();
        }
        let measured = self.measured.borrow();
        let seconds = now.min(self.end).duration_since(self.start).as_secs_f64();
        let quantile = |q| Duration::from_nanos(measured.latency.value_at_quantile(q));
        format!(
            "{seconds:.1} s  {:.0} calls/s  p50 {:.1?}  p99 {:.1?}  {} failed",
            measured.latency.len() as f64 / seconds.max(1e-9),
            quantile(0.5),
            quantile(0.99),
            measured.failed(),
        )
    }

    pub(super) fn take(&self) -> Measured {
        let mut measured = self.measured.borrow().clone();
        // A server that answers late is not faster for it: what was due is divided by the time
        // until its last answer.
        let until = Instant::now().min(self.end).max(self.last.get());
        measured.time = until.saturating_duration_since(self.start);
        measured
    }
}
