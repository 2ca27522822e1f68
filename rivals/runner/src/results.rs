//! All numbers: medians over rounds, their spread, and ratios within a round.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::measure::Report;
use crate::rows::{CELLS, Cell, Kind, Metric, ROWS, Row};

/// What was measured, by cell.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Results {
    cells: BTreeMap<String, Measured>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Measured {
    /// The state of the repository, as git describes it.
    commit: String,
    /// One report a round, by row; none where the row failed.
    rows: BTreeMap<String, Vec<Option<Report>>>,
}

impl Results {
    /// What earlier runs have left, if they have.
    pub(crate) fn load(file: &Path) -> Result<Self> {
        match fs::read_to_string(file) {
            Ok(text) => Ok(serde_json::from_str(&text)?),
            Err(_) => Ok(Self::default()),
        }
    }

    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        Ok(fs::write(file, serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// Replaces the cells that were measured again, whole.
    pub(crate) fn replace(&mut self, newer: Self, commit: &str) {
        for (name, mut measured) in newer.cells {
            commit.clone_into(&mut measured.commit);
            self.cells.insert(name, measured);
        }
    }

    pub(crate) fn add(&mut self, cell: &str, row: &str, report: Option<Report>) {
        let rows = &mut self.cells.entry(cell.to_owned()).or_default().rows;
        rows.entry(row.to_owned()).or_default().push(report);
    }

    fn rounds(&self, cell: &str, row: &str) -> &[Option<Report>] {
        let measured = self.cells.get(cell);
        measured
            .and_then(|measured| measured.rows.get(row))
            .map_or(&[], Vec::as_slice)
    }

    /// How often a cell was measured, and of which state of the repository.
    pub(crate) fn origin(&self, cell: &str) -> (usize, &str) {
        self.cells.get(cell).map_or((0, ""), |measured| {
            let rounds = measured.rows.values().map(Vec::len).max().unwrap_or(0);
            (rounds, measured.commit.as_str())
        })
    }

    /// The cells that have a number, in the order of the table.
    pub(crate) fn cells(&self) -> impl Iterator<Item = &'static Cell> {
        CELLS
            .iter()
            .filter(|cell| self.rows(cell.name).next().is_some())
    }

    /// The rows of a cell that have a number, in the order of the table.
    pub(crate) fn rows(&self, cell: &str) -> impl Iterator<Item = &'static Row> {
        ROWS.iter()
            .filter(move |row| self.rounds(cell, row.name).iter().any(Option::is_some))
    }

    fn values(&self, cell: &str, row: &str, metric: Metric) -> Vec<f64> {
        let reports = self.rounds(cell, row).iter().flatten();
        reports.filter_map(|report| report.get(metric)).collect()
    }

    pub(crate) fn median(&self, cell: &str, row: &str, metric: Metric) -> Option<f64> {
        median(self.values(cell, row, metric))
    }

    /// (greatest - least) / median.
    pub(crate) fn spread(&self, cell: &str, row: &str, metric: Metric) -> Option<f64> {
        let values = self.values(cell, row, metric);
        let least = values.iter().copied().reduce(f64::min)?;
        let greatest = values.iter().copied().reduce(f64::max)?;
        Some((greatest - least) / median(values)?)
    }

    /// The best median among the rows of one kind, and whose it is.
    pub(crate) fn best(
        &self,
        cell: &str,
        kind: Kind,
        metric: Metric,
    ) -> Option<(&'static str, f64)> {
        let rows = self.rows(cell).filter(|row| row.kind == kind);
        let medians = rows.filter_map(|row| Some((row.name, self.median(cell, row.name, metric)?)));
        medians.reduce(|one, other| {
            if metric.better(one.1, other.1) == one.1 {
                one
            } else {
                other
            }
        })
    }

    /// The median of the ratios, each taken within one round, of a row to the best of others.
    pub(crate) fn ratio(
        &self,
        cell: &str,
        row: &str,
        others: &[&str],
        metric: Metric,
    ) -> Option<f64> {
        let number =
            |row: &str, round: usize| self.rounds(cell, row).get(round)?.as_ref()?.get(metric);
        let ratios = (0..self.origin(cell).0).filter_map(|round| {
            let theirs = others.iter().filter_map(|other| number(other, round));
            Some(number(row, round)? / theirs.reduce(|one, other| metric.better(one, other))?)
        });
        median(ratios.collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(calls: u64) -> Option<Report> {
        let text = format!(
            r#"{{"calls":{calls},"seconds":1,"p50":0,"p99":0,"max":0,"own_cpu":0,"other_cpu":0,
            "connection_bytes":0}}"#
        );
        Some(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_a_failed_round_is_left_out() {
        let mut results = Results::default();
        for (ours, theirs) in [(10, 5), (400, 100), (30, 10), (7, 0)] {
            results.add("S", "postroad ct", report(ours));
            results.add("S", "tarpc ct", report(theirs).filter(|_| theirs > 0));
        }
        let ratio = results.ratio("S", "postroad ct", &["tarpc ct"], Metric::Rate);
        assert_eq!(ratio, Some(3.0));
        assert_eq!(results.median("S", "postroad ct", Metric::Rate), Some(20.0));
        assert_eq!(results.spread("S", "tarpc ct", Metric::Rate), Some(9.5));
        assert_eq!(
            results.best("S", Kind::Rival, Metric::Rate),
            Some(("tarpc ct", 10.0))
        );
    }
}
