//! When a run ends early, and when it has failed.

use std::time::Duration;

use super::args::Bounds;
use super::recorder::Chunk;
use super::report::{Report, Threshold};

/// Why the run has to end now, if it has.
pub(super) fn stop(bounds: &Bounds, last: &Chunk, total: &Chunk) -> Option<String> {
    let failed = total.failed();
    if let Some(limit) = bounds.stop_errors.filter(|limit| failed >= *limit) {
        return Some(format!(
            "{failed} calls have failed (--stop-errors {limit})"
        ));
    }
    let p99 = Duration::from_nanos(last.latency.value_at_quantile(0.99));
    let limit = bounds.stop_p99.filter(|limit| p99 > *limit)?;
    Some(format!(
        "p99 of an interval was {p99:.1?} (--stop-p99 {limit:?})"
    ))
}

/// Every threshold that was asked for, missed or not.
pub(super) fn all(bounds: &Bounds, report: &Report) -> Vec<Threshold> {
    let latency = &report.latency_ns;
    // Without an answer there is no latency to be content with.
    let is_silent = report.answered == 0;
    let slower = [
        ("max-p50", bounds.max_p50, latency.p50),
        ("max-p99", bounds.max_p99, latency.p99),
        ("max-p999", bounds.max_p999, latency.p999),
    ];
    let slower = slower.into_iter().filter_map(|(name, limit, nanos)| {
        let (limit, time) = (limit?, Duration::from_nanos(nanos));
        let measured = if is_silent {
            "no answer".to_owned()
        } else {
            format!("{time:?}")
        };
        Some(threshold(
            name,
            format!("{limit:?}"),
            measured,
            is_silent || time > limit,
        ))
    });
    let rate = bounds.min_rate.map(|limit| {
        let measured = format!("{:.0}", report.rate);
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
