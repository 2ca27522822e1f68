//! The results as a picture: a panel of bars for each cell.

use std::fmt::Write;

use crate::results::Results;
use crate::rows::{Cell, Kind, Metric};
use crate::table::show;

const PANELS_ACROSS: usize = 2;
const PANEL: f64 = 520.0;
const NAMES: f64 = 150.0;
const BARS: f64 = 270.0;
const BAR: f64 = 16.0;
const STEP: f64 = 21.0;
const HEAD: f64 = 44.0;
const MARGIN: f64 = 20.0;

/// An SVG; less or more is better as its panels say. Scales are logarithmic: each line is a power
/// of ten.
pub(crate) fn svg(results: &Results) -> String {
    let cells: Vec<&Cell> = results.cells().collect();
    let mut panels = String::new();
    let mut top = MARGIN;
    for across in cells.chunks(PANELS_ACROSS) {
        let mut height: f64 = 0.0;
        for (column, cell) in across.iter().enumerate() {
            let left = MARGIN + column as f64 * PANEL;
            let (panel, tall) = panel(results, cell);
            height = height.max(tall);
            // Writing to a text cannot fail.
            let _ = writeln!(
                panels,
                "<g transform=\"translate({left} {top})\">{panel}</g>"
            );
        }
        top += height + MARGIN;
    }
    let width = 2.0f64.mul_add(MARGIN, PANEL * PANELS_ACROSS as f64);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {top}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{top}\" fill=\"#ffffff\"/>\n{panels}</svg>\n"
    )
}

fn panel(results: &Results, cell: &Cell) -> (String, f64) {
    let rows = results.rows(cell.name);
    let bars = rows.filter_map(|row| Some((row, results.median(cell.name, row.name, cell.by)?)));
    let mut bars: Vec<_> = bars.collect();
    bars.sort_by(|one, other| one.1.total_cmp(&other.1));
    let better = if cell.by == Metric::Rate {
        "more"
    } else {
        "less"
    };
    if cell.by == Metric::Rate {
        bars.reverse();
    }
    let values = || bars.iter().map(|(_, value)| value.log10());
    let low = values().reduce(f64::min).unwrap_or(0.0).floor();
    let high = values()
        .reduce(f64::max)
        .unwrap_or(1.0)
        .ceil()
        .max(low + 1.0);
    let at = |value: f64| NAMES + (value.log10() - low) / (high - low) * BARS;
    let height = STEP.mul_add(bars.len() as f64, HEAD);
    let mut text = format!(
        "<text y=\"12\" font-weight=\"bold\" fill=\"#222\">{}: {}</text>\
         <text y=\"28\" fill=\"#666\">{}, {better} is better; \
         each line is ten times the one before</text>\n",
        cell.name,
        cell.title,
        cell.by.title(),
    );
    for power in low as i32..=high as i32 {
        let x = at(10f64.powi(power));
        let _ = write!(
            text,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{height}\" stroke=\"#ddd\"/>",
            HEAD - 6.0
        );
    }
    for (number, (row, value)) in bars.iter().enumerate() {
        let y = STEP.mul_add(number as f64, HEAD);
        let (end, baseline) = (at(*value), y + BAR - 4.0);
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\" fill=\"#222\">{}</text>\
             <rect x=\"{NAMES}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{baseline}\" fill=\"#222\">{}</text>",
            NAMES - 6.0,
            row.name,
            (end - NAMES).max(1.0),
            colour(row.kind),
            end + 5.0,
            show(cell.by, *value),
        );
    }
    (text, height)
}

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Floor => "#b8b8b8",
        Kind::Rival => "#6c9bc9",
        Kind::Postroad => "#d9622b",
    }
}
