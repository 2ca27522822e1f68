//! A comparison for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::runs::Run;
use super::verdict::{Comparison, Difference, Metric, Unit};
use crate::report::units;

pub(crate) fn text(a: &[Run], b: &[Run], found: &Comparison) -> String {
    let mut out = String::new();
    for (side, runs) in [("A", a), ("B", b)] {
        let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        let plural = if runs.len() == 1 { "run" } else { "runs" };
        let _ = writeln!(out, "{side}  {} {plural}: {}", runs.len(), names.join(", "));
    }
    if let Some(load) = a.iter().chain(b).find_map(|run| run.load.as_ref()) {
        let _ = writeln!(out, "   {load}");
    }
    let _ = writeln!(
        out,
        "\n{:<11} {:>10} {:>10} {:>10}  {:<22} {:>6} {:>8}  verdict",
        "metric", "A", "B", "change", "95 % between", "delta", "p"
    );
    for difference in &found.differences {
        let metric = difference.metric;
        let (low, high) = difference.change.interval.map_or_else(
            || ("?".to_owned(), "?".to_owned()),
            |(low, high)| (change(metric, low), change(metric, high)),
        );
        let _ = writeln!(
            out,
            "{:<11} {:>10} {:>10} {:>10}  {:<22} {:>6.2} {:>8}  {}",
            metric.name(),
            value(metric, difference.medians.0),
            value(metric, difference.medians.1),
            change(metric, difference.change.estimate),
            format!("{low} and {high}"),
            difference.delta,
            probability(difference.p_holm),
            verdict(difference)
        );
    }
    let _ = writeln!(out, "\n{}", summary(found));
    out.push_str(&method(found));
    out
}

fn value(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Rate => format!("{}/s", units::number(value)),
        Metric::Errors => units::percent(value),
        Metric::Latency(_) | Metric::ServerCpu => units::time(value),
    }
}

/// Signed per cent; of errors, points.
fn change(metric: Metric, change: f64) -> String {
    let unit = if metric == Metric::Errors { "pt" } else { "%" };
    if change.is_finite() {
        format!("{:+.1} {unit}", change * 100.0)
    } else {
        "?".to_owned()
    }
}

fn probability(p: f64) -> String {
    if p < 0.0001 {
        "<0.0001".to_owned()
    } else {
        format!("{p:.4}")
    }
}

fn verdict(difference: &Difference) -> &'static str {
    let is_worse = difference.metric.worse(difference.change.estimate) > 0.0;
    match (difference.is_real, is_worse) {
        (false, _) => "no difference shown",
        (true, true) => "B is worse",
        (true, false) => "B is better",
    }
}

fn summary(found: &Comparison) -> String {
    let real = found
        .differences
        .iter()
        .filter(|difference| difference.is_real);
    let named = real.map(|difference| {
        let estimate = change(difference.metric, difference.change.estimate);
        format!("{} {estimate}", difference.metric.name())
    });
    let named: Vec<String> = named.collect();
    match (named.is_empty(), found.is_able_at_all()) {
        (false, _) => format!("Real: {}.", named.join(", ")),
        (true, true) => "No difference is shown. That is not proof that there is none: see what \
                         lies between the bounds."
            .to_owned(),
        (true, false) => "Nothing can be shown with so few runs.".to_owned(),
    }
}

fn method(found: &Comparison) -> String {
    let unit = match found.unit {
        Unit::Runs => "runs",
        Unit::Intervals => "intervals",
    };
    format!(
        "Samples are {unit}. A and B are medians; change is Hodges and Lehmann's; p is of the \
         rank-sum test, two-sided, after Holm's correction over all metrics; real is p < {}. \
         Cliff's delta is 1 where each of B is larger than each of A.",
        found.alpha
    )
}

pub(crate) fn json(a: &[Run], b: &[Run], found: &Comparison) -> Value {
    let names = |runs: &[Run]| -> Vec<String> { runs.iter().map(|run| run.name.clone()).collect() };
    let metrics = found.differences.iter().map(|difference| {
        let interval = difference.change.interval;
        json!({
            "metric": difference.metric.name(),
            "samples": [difference.samples.0, difference.samples.1],
            "medians": [difference.medians.0, difference.medians.1],
            "change": difference.change.estimate,
            "change_95": interval.map(|(low, high)| [low, high]),
            "change_is": if difference.metric == Metric::Errors { "difference" } else { "share" },
            "cliffs_delta": difference.delta,
            "p": difference.p,
            "p_holm": difference.p_holm,
            "real": difference.is_real,
            "verdict": verdict(difference),
        })
    });
    json!({
        "a": names(a),
        "b": names(b),
        "samples": match found.unit { Unit::Runs => "runs", Unit::Intervals => "intervals" },
        "alpha": found.alpha,
        "able": found.is_able_at_all(),
        "metrics": metrics.collect::<Vec<_>>(),
        "warnings": found.warnings,
    })
}
