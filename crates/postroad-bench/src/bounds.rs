//! When a run ends early, and what is called a failure.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::record::Chunk;
use crate::report::{Report, Threshold};

/// When a run ends early, and what is called a failure. By default nothing but a generator that is
/// itself more than 10 ms late.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// End when so many calls have failed; looked at once an interval, and when all have ended.
    pub stop_errors: Option<u64>,
    /// End when the 99th percentile of an interval is over this.
    pub stop_p99: Option<Duration>,
    /// The run is invalid if the generator of an open loop is later than this at its 99th
    /// percentile, or at its percentile 99.9 where `max_p999` is set.
    pub max_lateness: Duration,
    /// Threshold of the median.
    pub max_p50: Option<Duration>,
    /// Threshold of the 99th percentile.
    pub max_p99: Option<Duration>,
    /// Threshold of the percentile 99.9.
    pub max_p999: Option<Duration>,
    /// Answered calls a second, at least.
    pub min_rate: Option<f64>,
    /// Failed calls, at most.
    pub max_errors: Option<u64>,
    /// Failed calls in per cent of all, at most.
    pub max_error_rate: Option<f64>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            stop_errors: None,
            stop_p99: None,
            max_lateness: Duration::from_millis(10),
            max_p50: None,
            max_p99: None,
            max_p999: None,
            min_rate: None,
            max_errors: None,
            max_error_rate: None,
        }
    }
}

/// Why the run has to end now, if it has. So many calls were due longer ago than a p99 may be, and
/// are still waited for.
pub(crate) fn stop(bounds: &Bounds, last: &Chunk, total: &Chunk, overdue: u64) -> Option<String> {
    let failed = total.failed();
    if let Some(limit) = bounds.stop_errors.filter(|limit| failed >= *limit) {
        return Some(format!(
            "{failed} calls have failed (--stop-errors {limit})"
        ));
    }
    let limit = bounds.stop_p99?;
    match quantile(&last.latency, last.failed() + overdue, 0.99) {
        Some(Reached::Within(p99)) if p99 <= limit => None,
        None => None,
        Some(Reached::Within(p99)) => Some(format!(
            "p99 of an interval was {p99:.1?} (--stop-p99 {limit:?})"
        )),
        Some(Reached::Never) => Some(format!(
            "more than 1% of the calls of an interval failed, or had no answer in that time \
             (--stop-p99 {limit:?})"
        )),
    }
}

/// Within which time a share of calls was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Within(Duration),
    /// So many failed that the share was never reached.
    Never,
}

/// Of all calls, answered or not: one that failed took longer than any that was answered. None
/// without a call.
fn quantile(answered: &Histogram<u64>, failed: u64, quantile: f64) -> Option<Reached> {
    let all = answered.len() + failed;
    if all == 0 {
        return None;
    }
    // The nearest rank, as histograms have it.
    let rank = ((quantile * all as f64 - 1e-9).ceil() as u64).max(1);
    if rank > answered.len() {
        return Some(Reached::Never);
    }
    // Half a call less: what is rounded up again ends at the rank.
    let nanos = answered.value_at_quantile((rank as f64 - 0.5) / answered.len() as f64);
    Some(Reached::Within(Duration::from_nanos(nanos)))
}

/// Every threshold that was asked for, missed or not.
pub(crate) fn all(bounds: &Bounds, report: &Report) -> Vec<Threshold> {
    let slower = [
        ("max-p50", bounds.max_p50, 0.5),
        ("max-p99", bounds.max_p99, 0.99),
        ("max-p999", bounds.max_p999, 0.999),
    ];
    let latency = report.latency_ns.hdr.histogram();
    let slower = slower.into_iter().filter_map(|(name, limit, share)| {
        let limit = limit?;
        let (measured, missed) = match quantile(&latency, report.failed, share) {
            Some(Reached::Within(time)) => (format!("{time:.3?}"), time > limit),
            // Without an answer there is no latency to be content with.
            Some(Reached::Never) if report.answered > 0 => {
                (format!("never, {} calls failed", report.failed), true)
            }
            Some(Reached::Never) | None => ("no answer".to_owned(), true),
        };
        Some(threshold(name, format!("{limit:?}"), measured, missed))
    });
    let rate = bounds.min_rate.map(|limit| {
        let measured = crate::report::units::number(report.rate);
        threshold("min-rate", limit.to_string(), measured, report.rate < limit)
    });
    let errors = bounds.max_errors.map(|limit| {
        let (limit_text, measured) = (limit.to_string(), report.failed.to_string());
        threshold("max-errors", limit_text, measured, report.failed > limit)
    });
    let share = 100.0 * report.failed as f64 / (report.answered + report.failed).max(1) as f64;
    let error_rate = bounds.max_error_rate.map(|limit| {
        let (limit_text, measured) = (format!("{limit}%"), format!("{share:.3}%"));
        threshold("max-error-rate", limit_text, measured, share > limit)
    });
    slower.chain(rate).chain(errors).chain(error_rate).collect()
}

fn threshold(name: &str, limit: String, measured: String, missed: bool) -> Threshold {
    let name = name.to_owned();
    Threshold {
        name,
        limit,
        measured,
        missed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn a_failed_call_is_slower_than_every_answered_one() {
        let mut latency = example::histogram();
        (1..=990).for_each(|micros| latency.saturating_record(micros * 1000));
        let at = |failed, share| quantile(&latency, failed, share);
        let micros = |reached| match reached {
            Some(Reached::Within(time)) => time.as_micros(),
            other => panic!("{other:?}"),
        };
        // The 495th of 990 calls, and the 500th of 1,000.
        assert!(micros(at(0, 0.5)).abs_diff(495) <= 1);
        assert!(micros(at(10, 0.5)).abs_diff(500) <= 1);
        assert!(micros(at(10, 0.99)).abs_diff(990) <= 1);
        assert_eq!(at(11, 0.99), Some(Reached::Never));
        assert_eq!(quantile(&example::histogram(), 0, 0.5), None);
    }
}
