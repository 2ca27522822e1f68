//! What became of the calls, as the line of JSON that is printed.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tonic::Code;

/// Length of an interval of the series.
const INTERVAL: Duration = Duration::from_millis(100);

/// Longest latency that is told apart, nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Answered,
    /// The server did not take it.
    Refused,
    /// Its time was over, or it failed otherwise.
    Failed,
}

impl End {
    pub(crate) fn of(code: Code) -> Self {
        match code {
            Code::Ok => Self::Answered,
            Code::ResourceExhausted => Self::Refused,
            _ => Self::Failed,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
struct Share {
    answered: u64,
    refused: u64,
    failed: u64,
    p99_ms: f64,
    #[serde(skip)]
    latencies: Option<Histogram<u64>>,
}

/// A tenth of a second; calls count in that in which they ended.
#[derive(Clone, Debug, Default, Serialize)]
struct Interval {
    answered: u64,
    failed: u64,
    p99_ms: f64,
    #[serde(skip)]
    latencies: Option<Histogram<u64>>,
}

/// All that was measured. Times from the beginning of the measurement.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Record {
    seconds: f64,
    /// The 99th percentile of how late the generator was itself.
    late_ms: f64,
    priorities: BTreeMap<u8, Share>,
    series: Vec<Interval>,
    #[serde(skip)]
    lateness: Option<Histogram<u64>>,
}

fn record(histogram: &mut Option<Histogram<u64>>, time: Duration) {
    let new =
        || Histogram::new_with_max(LONGEST, 3).expect("three digits up to a minute are valid");
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    histogram.get_or_insert_with(new).saturating_record(nanos);
}

fn p99(histogram: Option<&Histogram<u64>>) -> f64 {
    histogram.map_or(0.0, |times| times.value_at_quantile(0.99) as f64 / 1e6)
}

impl Record {
    pub(crate) fn late(&mut self, by: Duration) {
        record(&mut self.lateness, by);
    }

    /// A call that was due `due` after the beginning has ended `now`.
    pub(crate) fn ended(&mut self, priority: u8, due: Duration, now: Duration, end: End) {
        let number = (now.as_nanos() / INTERVAL.as_nanos()) as usize;
        if self.series.len() <= number {
            self.series.resize_with(number + 1, Interval::default);
        }
        let (share, interval) = (
            self.priorities.entry(priority).or_default(),
            &mut self.series[number],
        );
        match end {
            End::Answered => {
                let took = now.saturating_sub(due);
                share.answered += 1;
                interval.answered += 1;
                record(&mut share.latencies, took);
                record(&mut interval.latencies, took);
            }
            End::Refused => share.refused += 1,
            End::Failed => share.failed += 1,
        }
        interval.failed += u64::from(!matches!(end, End::Answered));
    }

    /// The load has lasted so long.
    pub(crate) fn finish(mut self, seconds: f64) -> Self {
        self.seconds = seconds;
        self.late_ms = p99(self.lateness.as_ref());
        for share in self.priorities.values_mut() {
            share.p99_ms = p99(share.latencies.as_ref());
        }
        for interval in &mut self.series {
            interval.p99_ms = p99(interval.latencies.as_ref());
        }
        self
    }
}
