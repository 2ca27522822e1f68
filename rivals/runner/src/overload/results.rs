//! What was measured, over rounds.

use std::collections::BTreeMap;
use std::fmt;

use super::cases::{PRIORITIES, System};
use super::cost::Costs;
use super::measured::Measured;

/// One load of one system; loads in thousandths, to be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) case: &'static str,
    load: u32,
    pub(crate) system: System,
}

impl Cell {
    pub(crate) fn at(case: &'static str, system: System, load: f64) -> Self {
        Self {
            case,
            load: (load * 1e3) as u32,
            system,
        }
    }

    pub(crate) fn load(self) -> f64 {
        f64::from(self.load) / 1e3
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.system.name();
        write!(f, "{:<12} {name:<14} {:>4}x", self.case, self.load())
    }
}

/// What is told of a cell in one round. Shares are parts of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Calls a second.
    pub(crate) capacity: f64,
    /// Of the capacity.
    pub(crate) goodput: f64,
    /// Of the most important calls.
    pub(crate) important_answered: f64,
    pub(crate) important_refused: f64,
    pub(crate) important_p99_ms: f64,
    /// To that of half of the capacity.
    pub(crate) important_ratio: f64,
    /// What the least important had of all answers.
    pub(crate) least: f64,
    pub(crate) late_ms: f64,
}

impl Sample {
    pub(crate) fn of(measured: &Measured, capacity: f64, unloaded_p99_ms: f64) -> Self {
        let important = measured.share(PRIORITIES[0].0);
        let least = measured.share(PRIORITIES[PRIORITIES.len() - 1].0);
        let all = important.all().max(1) as f64;
        let answered: u64 = measured.priorities.values().map(|each| each.answered).sum();
        Self {
            capacity,
            goodput: measured.goodput() / capacity,
            important_answered: important.answered as f64 / all,
            important_refused: important.refused as f64 / all,
            important_p99_ms: important.p99_ms,
            important_ratio: important.p99_ms / unloaded_p99_ms.max(1e-3),
            least: least.answered as f64 / answered.max(1) as f64,
            late_ms: measured.late_ms,
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "capacity {:>6.0}/s  goodput {:>5.1} %  most important: answered {:>5.1} %, refused \
             {:>5.2} %, p99 {:>7.2} ms ({:.2})  least {:>4.1} %  late {:.2} ms",
            self.capacity,
            100.0 * self.goodput,
            100.0 * self.important_answered,
            100.0 * self.important_refused,
            self.important_p99_ms,
            self.important_ratio,
            100.0 * self.least,
            self.late_ms
        )
    }
}

#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) costs: Vec<Costs>,
    cells: BTreeMap<Cell, Vec<Sample>>,
    /// Seconds until all was normal again, if it was.
    recoveries: BTreeMap<(&'static str, System), Vec<Option<f64>>>,
}

/// The median of several rounds, and the least and the greatest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: *values.get(values.len() / 2)?,
            least: *values.first()?,
            greatest: *values.last()?,
        })
    }
}

impl Results {
    pub(crate) fn add(&mut self, cell: Cell, sample: Sample) {
        self.cells.entry(cell).or_default().push(sample);
    }

    pub(crate) fn recovered(&mut self, case: &'static str, system: System, after: Option<f64>) {
        let all = self.recoveries.entry((case, system)).or_default();
        all.push(after);
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = (Cell, &[Sample])> {
        self.cells
            .iter()
            .map(|(cell, samples)| (*cell, samples.as_slice()))
    }

    /// A number of a cell over all rounds.
    pub(crate) fn spread(&self, cell: Cell, what: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.cells.get(&cell)?.iter().map(what))
    }

    pub(crate) fn recoveries(&self, case: &'static str, system: System) -> &[Option<f64>] {
        self.recoveries
            .get(&(case, system))
            .map_or(&[], Vec::as_slice)
    }
}
