//! Which differences are real.

use super::runs::{QUANTILES, Run, Sample};
use crate::statistics::{Shift, holm, median, rank_sum, shift, smallest_p};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Rate,
    Errors,
    /// Index into [`QUANTILES`].
    Latency(usize),
    ServerCpu,
}

impl Metric {
    pub(crate) const ALL: [Self; 3 + QUANTILES.len()] = [
        Self::Rate,
        Self::Latency(0),
        Self::Latency(1),
        Self::Latency(2),
        Self::Latency(3),
        Self::Errors,
        Self::ServerCpu,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Errors => "errors",
            Self::Latency(at) => ["p50", "p90", "p99", "p99.9"][at],
            Self::ServerCpu => "server-cpu",
        }
    }

    fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Rate => sample.rate,
            Self::Errors => sample.errors,
            Self::Latency(at) => sample.latency[at],
            Self::ServerCpu => sample.server_cpu,
        }
    }

    /// How `b` differs from `a`: as a share of `a`, but shares of errors, which may be zero, by
    /// their difference.
    fn change(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Errors => b - a,
            // Nothing against nothing, as in the intervals of a stall.
            _ if a == b => 0.0,
            _ => b / a - 1.0,
        }
    }

    /// The change in the direction in which things get worse.
    pub(crate) fn worse(self, change: f64) -> f64 {
        if self == Self::Rate { -change } else { change }
    }
}

/// Whether runs are the samples, or the intervals within them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Runs,
    Intervals,
}

/// One metric of both sides.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) metric: Metric,
    /// Samples of each side.
    pub(crate) samples: (usize, usize),
    pub(crate) medians: (f64, f64),
    /// Whether it is not the same in all samples.
    pub(crate) varies: bool,
    /// Of `b` against `a`, see [`Metric::change`].
    pub(crate) change: Shift,
    /// Cliff's delta.
    pub(crate) delta: f64,
    pub(crate) p: f64,
    /// After Holm's correction over all metrics.
    pub(crate) p_holm: f64,
    pub(crate) is_real: bool,
}

/// The comparison of two sides.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) unit: Unit,
    pub(crate) alpha: f64,
    pub(crate) differences: Vec<Difference>,
    pub(crate) warnings: Vec<String>,
}

impl Comparison {
    pub(crate) fn new(a: &[Run], b: &[Run], unit: Unit, alpha: f64) -> Self {
        let samples = |runs: &[Run]| -> Vec<Sample> {
            match unit {
                Unit::Runs => runs.iter().map(|run| run.whole.clone()).collect(),
                Unit::Intervals => runs.iter().flat_map(|run| run.intervals.clone()).collect(),
            }
        };
        let (left, right) = (samples(a), samples(b));
        let differences = Metric::ALL.into_iter();
        let differences = differences.filter_map(|metric| difference(metric, unit, &left, &right));
        let mut differences: Vec<Difference> = differences.collect();
        // What is the same in all samples, as when no call fails, is not a test that can err.
        let tested = differences
            .iter_mut()
            .filter(|difference| difference.varies);
        let mut tested: Vec<&mut Difference> = tested.collect();
        let p: Vec<f64> = tested.iter().map(|difference| difference.p).collect();
        for (difference, p) in tested.iter_mut().zip(holm(&p)) {
            difference.p_holm = p;
            difference.is_real = p < alpha;
        }
        let sides = (left.len(), right.len());
        Self {
            warnings: warnings(a, b, unit, sides, p.len(), alpha),
            unit,
            alpha,
            differences,
        }
    }

    /// Whether any difference could have been found at all.
    pub(crate) fn is_able_at_all(&self) -> bool {
        self.differences.iter().any(|each| self.is_able(each))
    }

    /// Whether a difference of this metric could have been found at all, however large.
    pub(crate) fn is_able(&self, difference: &Difference) -> bool {
        let tested = self.differences.iter().filter(|each| each.varies);
        let metrics = tested.count().max(1) as f64;
        let (a, b) = difference.samples;
        smallest_p(a, b) * metrics < self.alpha
    }
}

/// None if a side has not measured the metric. A run that lacks it counts as that; an interval may,
/// as those of a stall do.
fn difference(metric: Metric, unit: Unit, a: &[Sample], b: &[Sample]) -> Option<Difference> {
    let values = |samples: &[Sample]| -> Option<Vec<f64>> {
        let values: Vec<f64> = samples
            .iter()
            .filter_map(|sample| metric.of(sample))
            .collect();
        let is_whole = unit == Unit::Intervals || values.len() == samples.len();
        (is_whole && !values.is_empty()).then_some(values)
    };
    let (a, b) = (values(a)?, values(b)?);
    let ranks = rank_sum(&a, &b);
    Some(Difference {
        metric,
        samples: (a.len(), b.len()),
        medians: (median(&a), median(&b)),
        varies: a.iter().chain(&b).any(|value| *value != a[0]),
        change: shift(&a, &b, |a, b| metric.change(a, b)),
        delta: ranks.delta,
        p: ranks.p,
        p_holm: 1.0,
        is_real: false,
    })
}

fn warnings(
    a: &[Run],
    b: &[Run],
    unit: Unit,
    sides: (usize, usize),
    metrics: usize,
    alpha: f64,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let least = smallest_p(sides.0, sides.1);
    let corrected = (least * metrics as f64).min(1.0);
    if corrected >= alpha {
        let enough = (1..100).find(|runs| smallest_p(*runs, *runs) * (metrics as f64) < alpha);
        warnings.push(format!(
            "{} and {} samples can show no p below {least:.3}, or {corrected:.3} over {metrics} \
             metrics, however large a difference is; take {} runs a side",
            sides.0,
            sides.1,
            enough.unwrap_or(100)
        ));
    }
    if unit == Unit::Intervals {
        warnings.push(
            "the samples are intervals, which are alike within a run: a difference between them \
             may be one of these runs and not of the programs; repeat the runs"
                .to_owned(),
        );
    }
    let is_open = |runs: &[Run]| runs.iter().any(|run| run.is_open == Some(true));
    if is_open(a) || is_open(b) {
        warnings.push(
            "in an open loop the rate is what was asked for, as long as the server keeps up"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::{self, Draw};

    /// A run whose metrics vary by 2 % from run to run, `slower` times as slow as usual.
    fn run(draw: &mut Draw, slower: f64) -> Run {
        let mut noisy = |value: f64| Some(value * (1.0 + 0.02 * draw.normal()));
        let whole = Sample {
            rate: noisy(50_000.0 / slower),
            errors: Some(0.0),
            latency: [1e5, 2e5, 5e5, 9e5].map(|ns| noisy(ns * slower)),
            server_cpu: noisy(8e3),
        };
        Run {
            name: "made up".to_owned(),
            load: None,
            is_open: None,
            doubts: Vec::new(),
            whole,
            intervals: Vec::new(),
            latency: example::histogram(),
        }
    }

    fn compare(draw: &mut Draw, runs: usize, slower: f64) -> Comparison {
        let mut side = |slower| (0..runs).map(|_| run(draw, slower)).collect::<Vec<_>>();
        let (a, b) = (side(1.0), side(slower));
        Comparison::new(&a, &b, Unit::Runs, 0.05)
    }

    #[test]
    fn equal_programs_are_called_different_no_more_often_than_alpha_says() {
        let mut draw = Draw::new(2026);
        let trials = 2_000;
        let (mut any, mut first) = (0, 0);
        for _ in 0..trials {
            let found = compare(&mut draw, 8, 1.0);
            any += u32::from(
                found
                    .differences
                    .iter()
                    .any(|difference| difference.is_real),
            );
            first += u32::from(found.differences[0].p < 0.05);
        }
        let (any, first) = (f64::from(any) / 2e3, f64::from(first) / 2e3);
        // Three standard deviations of a share of 5 % in 2,000 trials are 1.5 %. The exact test of
        // 8 and 8 rejects 4.98 % of the time, so a single metric may not be far below either.
        assert!(any <= 0.065, "over all metrics: {any}");
        assert!((0.035..=0.065).contains(&first), "the rate alone: {first}");
    }

    #[test]
    fn five_per_cent_are_found_with_ten_runs_a_side_and_never_with_three() {
        let mut draw = Draw::new(7);
        let mut found = 0;
        for _ in 0..200 {
            let comparison = compare(&mut draw, 10, 1.05);
            let p50 = &comparison.differences[1];
            assert_eq!(p50.metric, Metric::Latency(0));
            found += u32::from(p50.is_real);
            let few = compare(&mut draw, 3, 1.5);
            assert!(few.differences.iter().all(|difference| !difference.is_real));
            assert!(
                !few.is_able(&few.differences[1]) && few.warnings[0].contains("take 5 runs a side"),
                "{few:?}"
            );
        }
        assert!(found >= 180, "a power of nine in ten: {found} of 200");
    }

    #[test]
    fn intervals_of_confidence_hold_the_true_change_as_often_as_they_say() {
        let mut draw = Draw::new(11);
        let holds = |found: &Comparison| {
            let (low, high) = found.differences[1].change.interval.expect("eight a side");
            (low..=high).contains(&0.05)
        };
        let held = (0..1_000)
            .filter(|_| holds(&compare(&mut draw, 8, 1.05)))
            .count();
        assert!((930..=985).contains(&held), "{held} of 1,000");
    }

    #[test]
    fn what_a_side_has_not_measured_is_not_compared() {
        let mut draw = Draw::new(1);
        let a = [run(&mut draw, 1.0), run(&mut draw, 1.0)];
        let mut b = a.clone();
        b[1].whole.server_cpu = None;
        let found = Comparison::new(&a, &b, Unit::Runs, 0.05);
        let has = |metric| found.differences.iter().any(|found| found.metric == metric);
        assert!(!has(Metric::ServerCpu) && has(Metric::Errors));
    }

    #[test]
    fn a_metric_that_few_samples_have_cannot_be_decided_though_others_can() {
        let mut draw = Draw::new(3);
        let mut side = || (0..9).map(|_| run(&mut draw, 1.0)).collect::<Vec<_>>();
        let (mut a, mut b) = (side(), side());
        let intervals = |runs: &mut Vec<Run>| {
            for (number, run) in runs.iter_mut().enumerate() {
                run.intervals = vec![run.whole.clone()];
                // As a p99.9 that only the fullest intervals have.
                if number > 1 {
                    run.intervals[0].latency[3] = None;
                }
            }
        };
        intervals(&mut a);
        intervals(&mut b);
        let found = Comparison::new(&a, &b, Unit::Intervals, 0.05);
        let able = |metric| {
            let mut of = found.differences.iter();
            let difference = of.find(|found| found.metric == metric);
            found.is_able(difference.expect("both sides have it"))
        };
        assert!(able(Metric::Latency(0)) && !able(Metric::Latency(3)));
    }

    #[test]
    fn worse_is_a_lower_rate_and_a_longer_latency() {
        assert_eq!(Metric::Rate.worse(-0.1), 0.1);
        assert_eq!(Metric::Latency(2).worse(0.1), 0.1);
        assert_eq!(Metric::Rate.change(0.0, 0.0), 0.0);
        assert!((Metric::Errors.change(0.01, 0.03) - 0.02).abs() < 1e-12);
        assert!((Metric::Latency(0).change(200.0, 210.0) - 0.05).abs() < 1e-12);
    }
}
