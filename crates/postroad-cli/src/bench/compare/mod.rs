//! `postroad bench compare`: which differences between runs are real.

mod runs;
mod table;
mod verdict;

use std::process::ExitCode;

use super::args::{self, Gate, LogUnit, SampleUnit};
use crate::exit::{self, Failed};
use crate::terminal::{Output, say, tell};
use runs::Run;
use verdict::{Comparison, Difference, Metric, Unit};

use super::units;

pub(crate) fn run(compare: &args::Compare) -> Result<ExitCode, Failed> {
    let gates = compare
        .fail_if
        .iter()
        .map(check)
        .collect::<Result<Vec<_>, _>>()?;
    let unit = match compare.unit {
        LogUnit::Ns => 1.0,
        LogUnit::Us => 1e3,
        LogUnit::Ms => 1e6,
        LogUnit::S => 1e9,
    };
    let read = |side: &str| runs::read_side(side, unit, compare.tag.as_deref());
    let (a, b) = (read(&compare.a)?, read(&compare.b)?);
    let doubts = doubts(&a, &b);
    if !doubts.is_empty() && !compare.force {
        let failed = Failed::new(exit::FAILED, doubts.join("\n  "));
        return Err(failed.hint("--force compares them all the same"));
    }
    let samples = match compare.by {
        Some(SampleUnit::Run) => Unit::Runs,
        Some(SampleUnit::Interval) => Unit::Intervals,
        None if a.len() > 1 && b.len() > 1 => Unit::Runs,
        None => Unit::Intervals,
    };
    let mut found = Comparison::new(&a, &b, samples, compare.alpha);
    found.warnings.splice(0..0, doubts);
    if found.differences.is_empty() {
        return Err(Failed::new(
            exit::FAILED,
            "both sides have measured nothing in common",
        ));
    }
    match compare.output {
        Output::Text => table::print(&a, &b, &found),
        Output::Json => say(table::json(&a, &b, &found)),
    }
    found
        .warnings
        .iter()
        .for_each(|warning| tell(format_args!("warning: {warning}")));
    decide(&gates, &found)
}

/// What speaks against comparing these runs at all.
fn doubts(a: &[Run], b: &[Run]) -> Vec<String> {
    let all = || a.iter().chain(b);
    let invalid = all().flat_map(|run| {
        let name = &run.name;
        run.doubts
            .iter()
            .map(move |doubt| format!("{name} is not to be believed: {doubt}"))
    });
    let mut doubts: Vec<String> = invalid.collect();
    let known: Vec<(&String, &String)> = all()
        .filter_map(|run| Some((&run.name, run.load.as_ref()?)))
        .collect();
    if let Some((first, load)) = known.first()
        && let Some((other, differs)) = known.iter().find(|(_, other)| other != load)
    {
        doubts.push(format!(
            "the loads differ: {first} has {load}, and {other} has {differs}"
        ));
    }
    doubts
}

/// The metrics that a gate watches, and how much worse they may get.
struct Watched {
    gate: Gate,
    metrics: Vec<Metric>,
}

fn check(gate: &Gate) -> Result<Watched, Failed> {
    let is_slower = |metric: &Metric| matches!(metric, Metric::Rate | Metric::Latency(_));
    let is_named = |metric: &Metric| metric.name() == gate.metric;
    let metrics: Vec<Metric> = Metric::ALL
        .into_iter()
        .filter(|metric| is_named(metric) || (gate.metric == "slower" && is_slower(metric)))
        .collect();
    if metrics.is_empty() {
        let names = Metric::ALL.map(Metric::name).join(", ");
        let why = format!("--fail-if {}: write slower or one of {names}", gate.metric);
        return Err(Failed::usage(why));
    }
    let gate = gate.clone();
    Ok(Watched { gate, metrics })
}

/// A gate is missed by a difference that is real and large enough. One that could not be missed,
/// whatever the difference, is not kept either.
fn decide(gates: &[Watched], found: &Comparison) -> Result<ExitCode, Failed> {
    for watched in gates {
        let name = &watched.gate.metric;
        let measured: Vec<&Difference> = found
            .differences
            .iter()
            .filter(|difference| watched.metrics.contains(&difference.metric))
            .collect();
        if !measured.iter().any(|difference| found.is_able(difference)) {
            let why = if measured.is_empty() {
                "it was not measured on both sides"
            } else {
                "there are too few samples of it to show any difference"
            };
            return Err(Failed::new(
                exit::FAILED,
                format!("--fail-if {name} cannot be decided: {why}"),
            ));
        }
        let is_missed = |difference: &&&Difference| {
            let worse = difference.metric.worse(difference.change.estimate);
            difference.is_real && worse >= watched.gate.limit
        };
        if let Some(missed) = measured.iter().find(is_missed) {
            return Err(Failed::new(
                exit::THRESHOLD,
                format!(
                    "{} is worse by {}, and {} were allowed",
                    missed.metric.name(),
                    units::percent(missed.metric.worse(missed.change.estimate)),
                    units::percent(watched.gate.limit)
                ),
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}
