//! The HdrHistogram log, version 1.3: what HistogramLogProcessor, HistogramLogAnalyzer, and the
//! readers of a dozen languages take. Values are nanoseconds; the column of the maximum is in
//! milliseconds, as the Java library writes it.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry, LogIteratorError};

use crate::report::{Interval, Report};

pub(crate) fn text(report: &Report) -> String {
    let mut out = format!(
        "#[Logged by {}]\n#[Histogram log format version 1.3]\n",
        report.program
    );
    let started = humantime::parse_rfc3339_weak(&report.started).ok();
    let since_1970 = started.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    // Timestamps of intervals count from the beginning of the measurement.
    let warmup = report.load.warmup_seconds;
    let _ = writeln!(
        out,
        "#[StartTime: {:.3} (seconds since epoch), {} and {warmup} s of warm-up]",
        since_1970.unwrap_or_default().as_secs_f64() + warmup,
        report.started
    );
    let columns = [
        "StartTimestamp",
        "Interval_Length",
        "Interval_Max",
        "Interval_CompressedHistogram",
    ];
    let _ = writeln!(out, "\"{}\"", columns.join("\",\""));
    // Behind the load calls may only have failed, of which a log knows nothing.
    let is_of_load = |at: f64| at < report.load.duration_seconds;
    let tells = |interval: &Interval| is_of_load(interval.at_seconds) || interval.answered > 0;
    let last = report.series.iter().rposition(tells);
    for interval in &report.series[..last.map_or(0, |last| last + 1)] {
        let _ = writeln!(
            out,
            "{:.3},{:.3},{:.3},{}",
            interval.at_seconds,
            interval.seconds,
            // A log has no word for nothing.
            interval.max_ns.unwrap_or(0) as f64 / 1e6,
            interval.hdr.base64()
        );
    }
    out
}

/// One interval of a log.
pub(crate) struct Logged {
    pub(crate) tag: Option<String>,
    pub(crate) duration: Duration,
    pub(crate) histogram: Histogram<u64>,
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("line {line} is not one of an HdrHistogram log")]
    NotALog { line: usize },
    #[error("interval {number}: {why}")]
    Histogram { number: usize, why: String },
}

/// Reads a log in the V2 encoding, compressed or not, whoever wrote it.
pub(crate) fn read(text: &[u8]) -> Result<Vec<Logged>, LogError> {
    let mut intervals = Vec::new();
    for entry in IntervalLogIterator::new(text) {
        let LogEntry::Interval(interval) = entry.map_err(|error| not_a_log(text, &error))? else {
            continue;
        };
        let bytes = STANDARD.decode(interval.encoded_histogram());
        let histogram = bytes.map_err(|error| error.to_string()).and_then(|bytes| {
            let read = Deserializer::new().deserialize(&mut bytes.as_slice());
            read.map_err(|error| format!("{error}; only the V2 encoding is read"))
        });
        let number = intervals.len() + 1;
        intervals.push(Logged {
            tag: interval.tag().map(|tag| tag.as_str().to_owned()),
            duration: interval.duration(),
            histogram: histogram.map_err(|why| LogError::Histogram { number, why })?,
        });
    }
    Ok(intervals)
}

fn not_a_log(text: &[u8], error: &LogIteratorError) -> LogError {
    let LogIteratorError::ParseError { offset } = error;
    let before = &text[..(*offset).min(text.len())];
    LogError::NotALog {
        line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn what_is_written_is_read_back_call_for_call() {
        let report = example::open_run(1);
        let text = text(&report);
        assert!(
            text.contains("#[StartTime: 1790000005."),
            "{}",
            &text[..200]
        );
        let intervals = read(text.as_bytes()).expect("it is a log");
        assert_eq!(intervals.len(), report.series.len());
        let calls: u64 = intervals.iter().map(|logged| logged.histogram.len()).sum();
        assert_eq!(calls, report.answered);
        for (logged, interval) in intervals.iter().zip(&report.series) {
            assert_eq!(logged.histogram, interval.hdr.histogram());
            assert_eq!(logged.duration, Duration::from_secs_f64(interval.seconds));
        }
    }

    #[test]
    fn what_only_failed_behind_the_load_is_not_in_the_log() {
        let mut report = example::open_run(1);
        let loaded = report.series.len();
        let empty = Interval {
            at_seconds: 60.0,
            answered: 0,
            hdr: (&example::histogram()).into(),
            ..report.series[0].clone()
        };
        report.series.push(empty.clone());
        let lines = |report: &Report| read(text(report).as_bytes()).expect("it is a log").len();
        assert_eq!(lines(&report), loaded);
        report.series.push(Interval {
            at_seconds: 61.0,
            ..report.series[0].clone()
        });
        assert_eq!(lines(&report), loaded + 2, "without holes");
    }

    #[test]
    fn a_log_of_another_program_is_read_and_a_wrong_line_is_named() {
        // Its maker is beside it.
        let log = include_bytes!("../../../tests/hlog/other-tool.hlog");
        let intervals = read(log).expect("it is a log");
        let seconds = |logged: &Logged| logged.duration.as_secs();
        assert_eq!(intervals.iter().map(seconds).collect::<Vec<_>>(), [10, 10]);
        for (logged, factor) in intervals.iter().zip(1..) {
            let histogram = &logged.histogram;
            let median = histogram.value_at_quantile(0.5) as f64;
            assert_eq!(histogram.len(), 1_000);
            assert!(
                (median / f64::from(factor * 500_000) - 1.0).abs() < 0.001,
                "{median}"
            );
        }
        let error = read(b"#[StartTime: 1.0 (seconds)]\n0.1,0.2\n").map(|_| ());
        assert_eq!(
            error.expect_err("it is cut").to_string(),
            "line 2 is not one of an HdrHistogram log"
        );
        let error = read(b"0.1,1.0,2.0,AAAA\n")
            .map(|_| ())
            .expect_err("no histogram");
        assert!(error.to_string().starts_with("interval 1: "), "{error}");
    }
}
