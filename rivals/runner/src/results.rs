//! All numbers of a run: medians over rounds, their spread, and ratios within a round.

use std::collections::BTreeMap;

use crate::measure::Report;
use crate::rows::{CELLS, Metric, ROWS, Row};

/// Reports by cell and row, one a round; none where the row failed.
#[derive(Debug, Default)]
pub(crate) struct Results {
    rounds: BTreeMap<(String, String), Vec<Option<Report>>>,
}

impl Results {
    pub(crate) fn add(&mut self, cell: &str, row: &str, report: Option<Report>) {
        let key = (cell.to_owned(), row.to_owned());
        self.rounds.entry(key).or_default().push(report);
    }

    fn all(&self, cell: &str, row: &str) -> &[Option<Report>] {
        let key = (cell.to_owned(), row.to_owned());
        self.rounds.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The rows of a cell that have a number, in the order of the table.
    pub(crate) fn rows(&self, cell: &str) -> impl Iterator<Item = &'static Row> {
        ROWS.iter()
            .filter(move |row| self.all(cell, row.name).iter().any(Option::is_some))
    }

    /// Each round's number.
    pub(crate) fn values(&self, cell: &str, row: &str, metric: Metric) -> Vec<f64> {
        let reports = self.all(cell, row).iter().flatten();
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

    /// The median of the ratios of two rows, each taken within one round.
    pub(crate) fn ratio(
        &self,
        cell: &str,
        row: &str,
        reference: &str,
        metric: Metric,
    ) -> Option<f64> {
        let pairs = self.all(cell, row).iter().zip(self.all(cell, reference));
        let ratios = pairs.filter_map(|(ours, theirs)| {
            Some(ours.as_ref()?.get(metric)? / theirs.as_ref()?.get(metric)?)
        });
        median(ratios.collect())
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = &'static crate::rows::Cell> {
        CELLS
            .iter()
            .filter(|cell| self.rows(cell.name).next().is_some())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
}
