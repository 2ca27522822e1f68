//! The results as Markdown, which also reads well in a terminal.

use std::fmt::Write;

use crate::results::Results;
use crate::rows::{Cell, Kind, Metric};

const FLOOR: &str = "raw blocking";
const OURS: &str = "postroad ct";

/// One table a cell.
pub(crate) fn tables(results: &Results) -> String {
    let mut text = String::new();
    for cell in results.cells() {
        let table = table(results, cell);
        // Writing to a text cannot fail.
        let (name, title) = (cell.name, cell.title);
        let (rounds, commit) = results.origin(cell.name);
        let origin = match commit {
            "" => format!("Rounds: {rounds}."),
            commit => format!("Rounds: {rounds}, at {commit}."),
        };
        let _ = writeln!(text, "## {name}: {title}\n\n{origin}\n\n{table}");
    }
    text
}

fn table(results: &Results, cell: &Cell) -> String {
    let columns = columns(cell);
    let mut head = vec!["row".to_owned()];
    head.extend(columns.iter().map(|metric| metric.title().to_owned()));
    head.extend(["spread", "to raw blocking", "to postroad ct"].map(str::to_owned));
    let rows = results.rows(cell.name).map(|row| {
        let name = match row.kind {
            Kind::Floor => format!("*{}*", row.name),
            Kind::Rival => row.name.to_owned(),
            Kind::Postroad => format!("**{}**", row.name),
        };
        let mut line = vec![name];
        for metric in &columns {
            let value = results.median(cell.name, row.name, *metric);
            line.push(value.map_or_else(|| "-".to_owned(), |value| show(*metric, value)));
        }
        let spread = results.spread(cell.name, row.name, cell.by);
        line.push(spread.map_or_else(|| "-".to_owned(), percent));
        for reference in [FLOOR, OURS] {
            let ratio = results.ratio(cell.name, row.name, &[reference], cell.by);
            line.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")));
        }
        line
    });
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    aligned(&lines)
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

fn columns(cell: &Cell) -> Vec<Metric> {
    match (cell.name, cell.by) {
        (_, Metric::Frame) => vec![Metric::Frame],
        ("C 64 B" | "C 1 KiB", _) => vec![Metric::Rate],
        ("D", _) => vec![Metric::Memory, Metric::Rate, Metric::P50, Metric::P99],
        _ => vec![Metric::P50, Metric::P99, Metric::Rate, Metric::Cpu],
    }
}

/// A number in the unit that people read it in.
pub(crate) fn show(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Rate if value >= 1e6 => format!("{:.2} M", value / 1e6),
        Metric::Rate => format!("{:.1} k", value / 1e3),
        Metric::Memory => format!("{:.1} KiB", value / 1024.0),
        Metric::Frame => format!("{value:.1} ns"),
        Metric::Cpu => format!("{:.2} us", value / 1e3),
        Metric::P50 | Metric::P99 => format!("{:.1} us", value / 1e3),
    }
}

/// Lines of a Markdown table: the first column to the left, numbers to the right.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "| {cell:<width$} "),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(*width);
                text.push_str(&if column == 0 {
                    format!("| {dashes} ")
                } else {
                    format!("| {}: ", &dashes[1..])
                });
            }
            text.push_str("|\n");
        }
    }
    text
}
