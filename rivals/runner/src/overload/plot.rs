//! A number against the offered load, as a picture: a panel for each case, a line for each system.

use std::fmt::Write;

use super::cases::{CASES, Case, LOADS, System};
use super::results::{Cell, Results, Sample, Spread};

const PANEL: [f64; 2] = [420.0, 300.0];
/// Left, top, right and bottom of the field in its panel.
const FIELD: [f64; 4] = [60.0, 34.0, 400.0, 250.0];
const HEAD: f64 = 54.0;

/// What a picture shows.
pub(crate) struct Plot {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    /// Whether each line of the scale is ten times the one below.
    pub(crate) is_logarithmic: bool,
    pub(crate) value: fn(&Sample) -> f64,
}

pub(crate) static PLOTS: [Plot; 3] = [
    Plot {
        file: "overload-goodput.svg",
        title: "Answers in time, of the capacity",
        unit: "%",
        is_logarithmic: false,
        value: |sample| 100.0 * sample.goodput,
    },
    Plot {
        file: "overload-p99.svg",
        title: "99th percentile of the most important tenth, of those that were answered",
        unit: "ms",
        is_logarithmic: true,
        value: |sample| sample.important_p99_ms,
    },
    Plot {
        file: "overload-important.svg",
        title: "The most important tenth: how many of them were answered",
        unit: "%",
        is_logarithmic: false,
        value: |sample| 100.0 * sample.important_answered,
    },
];

/// From numbers to places in a panel.
struct Scale {
    low: f64,
    high: f64,
    is_logarithmic: bool,
}

impl Scale {
    fn of(plot: &Plot, results: &Results) -> Self {
        if !plot.is_logarithmic {
            return Self {
                low: 0.0,
                high: 120.0,
                is_logarithmic: false,
            };
        }
        let all = || {
            let samples = results.cells().flat_map(|(_, samples)| samples);
            let values = samples.map(plot.value).filter(|value| *value > 0.0);
            values.map(f64::log10)
        };
        Self {
            low: all().reduce(f64::min).unwrap_or(0.0).floor(),
            high: all().reduce(f64::max).unwrap_or(1.0).ceil(),
            is_logarithmic: true,
        }
    }

    fn y(&self, value: f64) -> f64 {
        let value = match self.is_logarithmic {
            true => value.max(1e-3).log10(),
            false => value,
        };
        let part = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        FIELD[3] - part * (FIELD[3] - FIELD[1])
    }

    /// Where lines are drawn.
    fn lines(&self) -> Vec<f64> {
        match self.is_logarithmic {
            true => (self.low as i32..=self.high as i32)
                .map(|power| 10f64.powi(power))
                .collect(),
            false => (0..=6).map(|step| f64::from(step) * 20.0).collect(),
        }
    }
}

/// Loads stand as far apart as their logarithms.
fn x(load: f64) -> f64 {
    let (first, last) = (LOADS[0].log10(), LOADS[LOADS.len() - 1].log10());
    FIELD[0] + 10.0 + (load.log10() - first) / (last - first) * (FIELD[2] - FIELD[0] - 20.0)
}

impl Plot {
    pub(crate) fn svg(&self, results: &Results) -> String {
        let scale = Scale::of(self, results);
        let [width, height] = [2.0 * PANEL[0], HEAD + 2.0 * PANEL[1]];
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"20\" y=\"22\" font-size=\"15\" font-weight=\"bold\" \
             fill=\"#222\">{}</text>\n",
            self.title
        );
        for (number, system) in System::ALL.into_iter().enumerate() {
            let left = 130.0f64.mul_add(number as f64, 20.0);
            // Writing to a text cannot fail.
            let _ = writeln!(
                out,
                "<rect x=\"{left}\" y=\"34\" width=\"14\" height=\"10\" fill=\"{}\"/>\
                 <text x=\"{}\" y=\"43\" fill=\"#222\">{}</text>",
                system.colour(),
                left + 20.0,
                system.name()
            );
        }
        for (number, case) in CASES.iter().enumerate() {
            let left = PANEL[0] * (number % 2) as f64;
            let top = PANEL[1].mul_add((number / 2) as f64, HEAD);
            let panel = self.panel(case, &scale, results);
            let _ = writeln!(out, "<g transform=\"translate({left} {top})\">{panel}</g>");
        }
        out.push_str("</svg>\n");
        out
    }

    fn panel(&self, case: &Case, scale: &Scale, results: &Results) -> String {
        let [left, top, right, bottom] = FIELD;
        let mut out = format!(
            "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\" fill=\"#222\">{}</text>\n",
            top - 12.0,
            case.name
        );
        for value in scale.lines() {
            let y = scale.y(value);
            let _ = writeln!(
                out,
                "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{value} {}</text>",
                left - 6.0,
                y + 4.0,
                self.unit
            );
        }
        for load in LOADS {
            let x = x(load);
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#eee\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{load}</text>",
                bottom + 16.0
            );
        }
        let _ = writeln!(
            out,
            "<text x=\"{right}\" y=\"{}\" text-anchor=\"end\" fill=\"#666\">\
             offered, times the capacity; bars: all rounds</text>",
            bottom + 34.0
        );
        for system in System::ALL {
            out.push_str(&self.line(case, system, scale, results));
        }
        out
    }

    /// The medians of a system, joined, each with a bar from the least to the greatest round.
    fn line(&self, case: &Case, system: System, scale: &Scale, results: &Results) -> String {
        let spread = |load| results.spread(Cell::at(case.name, system, load), self.value);
        let points = case
            .loads()
            .filter_map(|load| Some((x(load), spread(load)?)));
        let points: Vec<(f64, Spread)> = points.collect();
        let colour = system.colour();
        let path = points
            .iter()
            .map(|(x, spread)| format!("{x:.1},{:.1}", scale.y(spread.median)));
        let path: Vec<String> = path.collect();
        let mut out = format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            path.join(" ")
        );
        for (x, spread) in points {
            let (low, high) = (scale.y(spread.least), scale.y(spread.greatest));
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\" \
                 stroke=\"{colour}\" stroke-width=\"4\" stroke-opacity=\"0.4\"/>\
                 <circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                scale.y(spread.median)
            );
        }
        out
    }
}
