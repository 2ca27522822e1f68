//! Who follows a run while it lasts, and may end it.

use std::fmt;
use std::time::Duration;

use crate::plan::Plan;
use crate::record::Chunk;

/// Hears how a run goes, and can end it early.
///
/// All methods are called on the task that runs [`LoadTest::run`](crate::LoadTest::run), never on a
/// thread that makes calls, so a slow watcher does not disturb the load.
pub trait Watcher {
    /// Completes when the run is to end before its time. The first time the load ends and what was
    /// measured is reported; the second time, what has not been reported by then is given up. Must
    /// be cancel safe: a request to end that is not taken now has to be returned later.
    fn interrupted(&mut self) -> impl Future<Output = ()>;

    /// An interval of the load is over. By default nothing happens.
    fn progress(&mut self, progress: &Progress) {
        let _ = progress;
    }
}

/// Does not look, and does not end the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn interrupted(&mut self) -> impl Future<Output = ()> {
        std::future::pending()
    }
}

/// How far a run is, and what its last interval was like: a mean over all of it would hide what
/// happens now. [`Display`](fmt::Display) says it in one line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// Measured time so far, and how long it is to be.
    pub at: Duration,
    /// Measured time in all.
    pub of: Duration,
    /// Answered calls a second in the last interval.
    pub rate: f64,
    /// Median, 99th percentile and maximum of the latencies of the last interval; none without an
    /// answer.
    pub latency: Option<[Duration; 3]>,
    /// Calls that have failed so far.
    pub failed: u64,
    /// Calls that were due and have not ended.
    pub waited_for: u64,
    /// Digits after the point that tell one interval's end from the next's.
    digits: usize,
}

impl Progress {
    /// After the interval `last`, with all that came before it.
    pub(crate) fn new(plan: &Plan, last: &Chunk, before: &Chunk) -> Self {
        let (interval, seconds) = (plan.interval.as_secs_f64(), plan.duration.as_secs_f64());
        let at = (interval * (last.number + 1) as f64).min(seconds);
        let begun = interval * last.number as f64;
        let nanos = |quantile| Duration::from_nanos(last.latency.value_at_quantile(quantile));
        let max = Duration::from_nanos(last.latency.max());
        let ended = |chunk: &Chunk| chunk.answered() + chunk.failed();
        Self {
            at: Duration::from_secs_f64(at),
            of: plan.duration,
            rate: last.answered() as f64 / (at - begun).max(1e-9),
            latency: (last.answered() > 0).then(|| [nanos(0.5), nanos(0.99), max]),
            failed: before.failed() + last.failed(),
            waited_for: (before.due + last.due).saturating_sub(ended(before) + ended(last)),
            digits: usize::from(interval.min(seconds).fract() > 0.0),
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, of, digits) = (self.at.as_secs_f64(), self.of.as_secs_f64(), self.digits);
        let rate = crate::report::units::number(self.rate);
        write!(f, "{at:.digits$} of {of:.digits$} s  {rate} calls/s  ")?;
        match self.latency {
            Some([p50, p99, max]) => write!(f, "p50 {p50:.1?}  p99 {p99:.1?}  max {max:.1?}")?,
            None => f.write_str("no answer")?,
        }
        let count = crate::report::units::count;
        let (failed, waited_for) = (count(self.failed), count(self.waited_for));
        write!(f, "  {failed} failed  {waited_for} waited for")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_rates_are_shown_with_their_digits() {
        let mut progress = Progress {
            at: Duration::from_secs(4),
            of: Duration::from_secs(10),
            rate: 0.25,
            latency: None,
            failed: 0,
            waited_for: 1,
            digits: 0,
        };
        assert!(
            progress.to_string().contains("  0.25 calls/s"),
            "{progress}"
        );
        progress.rate = 636_945.2;
        assert!(
            progress.to_string().contains("  636,945 calls/s"),
            "{progress}"
        );
    }
}
