//! Which differences between runs are real.

mod runs;
mod table;
mod verdict;

use serde_json::Value;

use crate::error::Error;
use crate::report::{Report, units};
use runs::Run;
use verdict::{Comparison, Difference, Metric, Unit};

/// What counts as one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleUnit {
    /// A whole run: the honest choice where there are several on each side.
    Run,
    /// One interval of a run.
    Interval,
}

/// What may not get worse, and by how much.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// `slower`, which is the rate and all percentiles, or the name of one metric such as `p99`.
    pub metric: String,
    /// A share: 0.05 is 5 %.
    pub limit: f64,
}

/// How two sides are compared.
#[derive(Clone, Debug)]
pub struct CompareConfig {
    /// What counts as one measurement; by default runs if there are several on each side.
    pub by: Option<SampleUnit>,
    /// How often a difference may be called real where there is none: over 0, below 0.5.
    pub alpha: f64,
    /// What may not get worse.
    pub gates: Vec<Gate>,
    /// Whether invalid runs and different loads are compared too.
    pub force: bool,
    /// Nanoseconds that 1 stands for in an HdrHistogram log, which does not say it itself.
    pub log_unit_ns: f64,
    /// Tag of the intervals to take from HdrHistogram logs; by default those without one.
    pub tag: Option<String>,
}

impl Default for CompareConfig {
    fn default() -> Self {
        Self {
            by: None,
            alpha: 0.05,
            gates: Vec::new(),
            force: false,
            log_unit_ns: 1.0,
            tag: None,
        }
    }
}

/// What the gates of a comparison say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateVerdict {
    /// Nothing got worse by more than it may.
    Kept,
    /// Something did; what.
    Missed(String),
    /// A gate could not have been missed, whatever the difference; why.
    Undecided(String),
}

/// Two sides, compared.
#[derive(Clone, Debug)]
pub struct Compared {
    a: Vec<Run>,
    b: Vec<Run>,
    found: Comparison,
    gates: Vec<Watched>,
}

/// Compares runs from files. Each side is a list, separated by commas, of results for programs,
/// HdrHistogram logs of any tool, and folders of them.
///
/// # Errors
///
/// [`Error::Asked`] for a gate on something that is not measured, [`Error::NoRun`] and
/// [`Error::File`] if there is nothing to compare, and [`Error::Doubtful`] if something speaks
/// against comparing these runs, unless that is forced.
pub fn compare(a: &str, b: &str, config: &CompareConfig) -> Result<Compared, Error> {
    // What is asked for wrongly is said before any file is read.
    let gates = gates(config)?;
    let read = |side: &str| runs::read_side(side, config.log_unit_ns, config.tag.as_deref());
    let (a, b) = (read(a)?, read(b)?);
    Compared::new(a, b, gates, config)
}

/// Compares reports that are at hand.
///
/// # Errors
///
/// As [`compare`], but that no file is read.
pub fn compare_reports(
    a: &[Report],
    b: &[Report],
    config: &CompareConfig,
) -> Result<Compared, Error> {
    let gates = gates(config)?;
    let runs = |side: &str, reports: &[Report]| -> Vec<Run> {
        let numbered = reports.iter().enumerate();
        let runs = numbered
            .map(|(number, report)| runs::from_report(format!("{side}{}", number + 1), report));
        runs.collect()
    };
    let (a, b) = (runs("a", a), runs("b", b));
    for (side, runs) in [("a", &a), ("b", &b)] {
        if runs.is_empty() {
            return Err(Error::NoRun(side.to_owned()));
        }
    }
    Compared::new(a, b, gates, config)
}

impl Compared {
    fn new(
        a: Vec<Run>,
        b: Vec<Run>,
        gates: Vec<Watched>,
        config: &CompareConfig,
    ) -> Result<Self, Error> {
        let doubts = doubts(&a, &b);
        if !doubts.is_empty() && !config.force {
            return Err(Error::Doubtful {
                reasons: doubts,
                is_forceable: true,
            });
        }
        let samples = match config.by {
            Some(SampleUnit::Run) => Unit::Runs,
            Some(SampleUnit::Interval) => Unit::Intervals,
            None if a.len() > 1 && b.len() > 1 => Unit::Runs,
            None => Unit::Intervals,
        };
        let mut found = Comparison::new(&a, &b, samples, config.alpha);
        found.warnings.splice(0..0, doubts);
        if found.differences.is_empty() {
            let why = "both sides have measured nothing in common".to_owned();
            return Err(Error::Doubtful {
                reasons: vec![why],
                is_forceable: false,
            });
        }
        Ok(Self { a, b, found, gates })
    }

    /// The comparison as a table for a terminal, and how it was made.
    pub fn text(&self) -> String {
        table::text(&self.a, &self.b, &self.found)
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        table::json(&self.a, &self.b, &self.found)
    }

    /// What should be kept in mind when it is read.
    pub fn warnings(&self) -> &[String] {
        &self.found.warnings
    }

    /// What the gates say.
    pub fn verdict(&self) -> GateVerdict {
        decide(&self.gates, &self.found)
    }
}

/// All gates of a comparison, with the metrics that they watch.
fn gates(config: &CompareConfig) -> Result<Vec<Watched>, Error> {
    config.gates.iter().map(check).collect()
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
#[derive(Clone, Debug)]
struct Watched {
    gate: Gate,
    metrics: Vec<Metric>,
}

fn check(gate: &Gate) -> Result<Watched, Error> {
    let is_slower = |metric: &Metric| matches!(metric, Metric::Rate | Metric::Latency(_));
    let is_named = |metric: &Metric| metric.name() == gate.metric;
    let metrics: Vec<Metric> = Metric::ALL
        .into_iter()
        .filter(|metric| is_named(metric) || (gate.metric == "slower" && is_slower(metric)))
        .collect();
    if metrics.is_empty() {
        let names = Metric::ALL.map(Metric::name).join(", ");
        let why = format!("--fail-if {}: write slower or one of {names}", gate.metric);
        return Err(Error::asked(why));
    }
    let gate = gate.clone();
    Ok(Watched { gate, metrics })
}

/// A gate is missed by a difference that is real and large enough. One that could not be missed,
/// whatever the difference, is not kept either.
fn decide(gates: &[Watched], found: &Comparison) -> GateVerdict {
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
            return GateVerdict::Undecided(format!("--fail-if {name} cannot be decided: {why}"));
        }
        let is_missed = |difference: &&&Difference| {
            let worse = difference.metric.worse(difference.change.estimate);
            difference.is_real && worse >= watched.gate.limit
        };
        if let Some(missed) = measured.iter().find(is_missed) {
            return GateVerdict::Missed(format!(
                "{} is worse by {}, and {} were allowed",
                missed.metric.name(),
                units::percent(missed.metric.worse(missed.change.estimate)),
                units::percent(watched.gate.limit)
            ));
        }
    }
    GateVerdict::Kept
}
