//! What a generator says, of whichever server.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::cases::DEADLINES;
use crate::Result;

/// Length of an interval of the series, seconds.
pub(crate) const INTERVAL: f64 = 0.1;
/// Answers count from then on, seconds: what was due before the measurement has ended by then.
const SETTLED: f64 = DEADLINES[1] as f64 / 1e3 + INTERVAL;

/// The calls of one priority.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Share {
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    /// Without answer in time.
    pub(crate) failed: u64,
    pub(crate) p99_ms: f64,
}

impl Share {
    pub(crate) fn all(&self) -> u64 {
        self.answered + self.refused + self.failed
    }
}

/// Calls that ended in a tenth of a second.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Interval {
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) p99_ms: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Measured {
    /// The load's.
    pub(crate) seconds: f64,
    pub(crate) late_ms: f64,
    pub(crate) priorities: BTreeMap<u8, Share>,
    pub(crate) series: Vec<Interval>,
}

impl Measured {
    /// From the report of `postroad bench`.
    pub(crate) fn of_report(report: &Value) -> Result<Self> {
        let missing = || format!("not a report of postroad bench: {report}");
        let millis = |value: &Value| value.as_f64().unwrap_or(0.0) / 1e6;
        let mut priorities = BTreeMap::new();
        for each in report["priorities"].as_array().ok_or_else(missing)? {
            let count = |value: &Value| value.as_u64().unwrap_or(0);
            let refused = count(&each["errors"]["SRV-E-429"]);
            let share = Share {
                answered: count(&each["answered"]),
                refused,
                failed: count(&each["failed"]) - refused,
                p99_ms: millis(&each["latency_ns"]["p99"]),
            };
            let priority = u8::try_from(count(&each["priority"]))?;
            priorities.insert(priority, share);
        }
        let series = report["series"].as_array().ok_or_else(missing)?;
        let series = series.iter().map(|each| Interval {
            answered: each["answered"].as_u64().unwrap_or(0),
            failed: each["failed"].as_u64().unwrap_or(0),
            p99_ms: millis(&each["p99_ns"]),
        });
        Ok(Self {
            seconds: report["load"]["duration_seconds"]
                .as_f64()
                .ok_or_else(missing)?,
            late_ms: millis(&report["lateness_ns"]["p99"]),
            priorities,
            series: series.collect(),
        })
    }

    /// Answers a second while the load lasted.
    pub(crate) fn goodput(&self) -> f64 {
        let (first, end) = (interval(SETTLED), interval(self.seconds));
        let counted = self.series.iter().take(end).skip(first);
        let answered: u64 = counted.map(|interval| interval.answered).sum();
        answered as f64 / ((end - first) as f64 * INTERVAL)
    }

    /// Seconds from `since` until the first half of a second in which no call failed and none took
    /// longer than `p99_ms` at the 99th percentile.
    pub(crate) fn normal_after(&self, since: f64, p99_ms: f64) -> Option<f64> {
        let is_normal = |each: &Interval| each.failed == 0 && each.p99_ms <= p99_ms;
        let after = self.series.get(interval(since)..)?;
        let first = after
            .windows(5)
            .position(|half| half.iter().all(is_normal))?;
        Some(first as f64 * INTERVAL)
    }

    /// The median of the series' 99th percentiles from then on to the end of the load.
    pub(crate) fn usual_p99(&self, since: f64) -> f64 {
        let series = self.series.iter().take(interval(self.seconds));
        let mut usual: Vec<f64> = series
            .skip(interval(since))
            .map(|each| each.p99_ms)
            .collect();
        usual.sort_by(f64::total_cmp);
        usual.get(usual.len() / 2).copied().unwrap_or(0.0)
    }

    pub(crate) fn share(&self, priority: u8) -> Share {
        self.priorities.get(&priority).copied().unwrap_or_default()
    }
}

/// The number of the interval that begins then.
fn interval(seconds: f64) -> usize {
    (seconds / INTERVAL).round() as usize
}
