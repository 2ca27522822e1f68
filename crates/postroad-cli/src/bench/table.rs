//! A load's result, for people and for programs.

use crate::terminal::{say, tell};
use std::time::Duration;

use super::measure::Measured;
use crate::args;

const QUANTILES: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("max", 1.0),
];

/// Lateness of the generator over which an open loop's numbers are not to be believed.
const LATE_MAX: Duration = Duration::from_millis(10);

fn at(measured: &hdrhistogram::Histogram<u64>, quantile: f64) -> Duration {
    Duration::from_nanos(measured.value_at_quantile(quantile))
}

pub(super) fn text(bench: &args::Bench, measured: &Measured) {
    let shape = match bench.rate {
        None => format!("closed loop, {} callers", bench.callers),
        Some(rate) => format!("open loop, {rate} calls/s due"),
    };
    say(format_args!(
        "{} {}: {shape}, {} connections, {} B",
        bench.url.as_deref().unwrap_or_default(),
        bench.route,
        bench.connections,
        bench.size
    ));
    say(format_args!(
        "answered  {} in {:.1?}, {:.0} calls/s",
        measured.latency.len(),
        measured.time,
        measured.rate()
    ));
    say(format_args!("failed    {}", measured.failed()));
    for (code, count) in &measured.errors {
        say(format_args!("          {count} {code}"));
    }
    if measured.not_sent > 0 {
        say(format_args!(
            "          {} not sent: too many calls were in flight",
            measured.not_sent
        ));
    }
    if !measured.latency.is_empty() {
        for (name, quantile) in QUANTILES {
            say(format_args!(
                "{name:<9} {:.1?}",
                at(&measured.latency, quantile)
            ));
        }
    }
    if bench.rate.is_some() {
        let late = at(&measured.lateness, 0.99);
        say(format_args!("generator {late:.1?} late at p99"));
        if late > LATE_MAX {
            tell(format_args!(
                "warning: the generator itself was late; the latencies are not the server's alone"
            ));
        }
    }
}

pub(super) fn json(bench: &args::Bench, measured: &Measured) -> serde_json::Value {
    let nanos = |q| measured.latency.value_at_quantile(q);
    let quantiles = QUANTILES.map(|(name, q)| (name.to_owned(), nanos(q).into()));
    serde_json::json!({
        "url": bench.url,
        "route": bench.route,
        "callers": bench.rate.is_none().then_some(bench.callers),
        "rate_due": bench.rate,
        "connections": bench.connections,
        "size_bytes": bench.size,
        "seconds": measured.time.as_secs_f64(),
        "answered": measured.latency.len(),
        "failed": measured.failed(),
        "not_sent": measured.not_sent,
        "errors": measured.errors,
        "rate": measured.rate(),
        "latency_ns": serde_json::Value::Object(quantiles.into_iter().collect()),
        "generator_late_p99_ns": measured.lateness.value_at_quantile(0.99),
    })
}
