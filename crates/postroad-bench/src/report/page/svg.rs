//! Charts as inline SVG: lines and bars over two axes.

use std::fmt::Write;

use super::axis::Axis;
use super::escaped;

/// Room around the plot, for the labels.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 36.0;

/// The size for a phone: drawn at its width, since a larger one would shrink with its letters.
const SMALL: (f64, f64) = (340.0, 220.0);
/// What a letter of a label takes, and the room between two labels.
const LETTER: f64 = 6.5;
const BETWEEN: f64 = 8.0;

/// Points up to which each is drawn as a dot that says its value.
const DOTS_MAX: usize = 240;

pub(crate) enum Mark {
    Line,
    /// A line with the room under it filled.
    Area,
    Dashed,
    /// Bars of this width on the horizontal axis, beginning at the point.
    Bars(f64),
}

/// Values of one kind.
pub(crate) struct Series {
    pub(crate) name: String,
    /// Number of the colour in the style sheet.
    pub(crate) colour: usize,
    pub(crate) mark: Mark,
    /// A value that is missing breaks the line.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

pub(crate) struct Chart {
    pub(crate) title: &'static str,
    /// What one sees in it, in a sentence.
    pub(crate) says: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) x_name: &'static str,
    pub(crate) series: Vec<Series>,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Chart {
    /// The chart as a figure with its legend.
    pub(crate) fn draw(&self) -> String {
        let mut out = String::new();
        let class = if self.width > 800.0 {
            " class=\"wide\""
        } else {
            ""
        };
        let _ = write!(
            out,
            "<figure{class}><figcaption><h2>{}</h2><p>{}</p></figcaption><div class=\"legend\">",
            self.title,
            escaped(&self.says)
        );
        for series in &self.series {
            let dashed = if matches!(series.mark, Mark::Dashed) {
                " dashed"
            } else {
                ""
            };
            let _ = write!(
                out,
                "<span><i class=\"c{}{dashed}\"></i>{}</span>",
                series.colour,
                escaped(&series.name)
            );
        }
        out.push_str("</div>");
        let is_short = |series: &Series| series.points.len() <= DOTS_MAX;
        let large = Drawing {
            chart: self,
            width: self.width,
            height: self.height,
            has_dots: self.series.iter().all(is_short),
        };
        large.draw("large", &mut out);
        // Nobody points at a dot with a finger.
        let small = Drawing {
            chart: self,
            width: SMALL.0,
            height: SMALL.1,
            has_dots: false,
        };
        small.draw("small", &mut out);
        out.push_str("</figure>\n");
        out
    }
}

/// A chart at one size. The style sheet shows the one that fits the window.
struct Drawing<'a> {
    chart: &'a Chart,
    width: f64,
    height: f64,
    has_dots: bool,
}

impl Drawing<'_> {
    fn draw(&self, class: &str, out: &mut String) {
        let _ = write!(
            out,
            "<svg class=\"{class}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
            self.width, self.height, self.chart.title
        );
        self.grid(out);
        let series = self.chart.series.iter();
        series.for_each(|series| self.plot(series, out));
        out.push_str("</svg>");
    }

    fn x(&self, value: f64) -> Option<f64> {
        let position = self.chart.x.position(value)?;
        Some(LEFT + position * (self.width - LEFT - RIGHT))
    }

    fn y(&self, value: f64) -> Option<f64> {
        let position = self.chart.y.position(value)?;
        Some(self.floor() - position * (self.floor() - TOP))
    }

    /// The height of the horizontal axis.
    fn floor(&self) -> f64 {
        self.height - BOTTOM
    }

    fn grid(&self, out: &mut String) {
        let (right, floor) = (self.width - RIGHT, self.floor());
        for tick in &self.chart.y.ticks {
            if let Some(y) = self.y(*tick) {
                let label = (self.chart.y.label)(*tick);
                let _ = write!(
                    out,
                    "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>\
                     <text class=\"y\" x=\"{}\" y=\"{:.1}\">{label}</text>",
                    LEFT - 8.0,
                    y + 4.0
                );
            }
        }
        let mut free_from = 0.0;
        for tick in &self.chart.x.ticks {
            if let Some(x) = self.x(*tick) {
                let _ = write!(
                    out,
                    "<path class=\"grid\" d=\"M{x:.1} {TOP}V{}\"/>",
                    floor + 4.0
                );
                let label = (self.chart.x.label)(*tick);
                let half = LETTER * label.chars().count() as f64 / 2.0;
                if x - half >= free_from {
                    let y = floor + 17.0;
                    let _ = write!(
                        out,
                        "<text class=\"x\" x=\"{x:.1}\" y=\"{y:.1}\">{label}</text>"
                    );
                    free_from = x + half + BETWEEN;
                }
            }
        }
        let _ = write!(
            out,
            "<path class=\"axis\" d=\"M{LEFT} {floor}H{right}\"/>\
             <text class=\"name\" x=\"{right}\" y=\"{}\">{}</text>",
            self.height - 4.0,
            self.chart.x_name
        );
    }

    fn plot(&self, series: &Series, out: &mut String) {
        let _ = write!(out, "<g class=\"c{}\">", series.colour);
        if let Mark::Bars(width) = series.mark {
            self.bars(series, width, out);
        } else {
            self.lines(series, out);
        }
        out.push_str("</g>");
    }

    fn bars(&self, series: &Series, width: f64, out: &mut String) {
        for (x, y) in &series.points {
            let Some(value) = y.filter(|value| *value > 0.0) else {
                continue;
            };
            if let (Some(left), Some(right), Some(top)) =
                (self.x(*x), self.x(x + width), self.y(value))
            {
                let wide = (right - left - 1.0).max(1.0);
                let tall = (self.floor() - top).max(1.0);
                let _ = write!(
                    out,
                    "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{wide:.1}\" \
                     height=\"{tall:.1}\"><title>{}</title></rect>",
                    self.tip(series, *x, value)
                );
            }
        }
    }

    fn lines(&self, series: &Series, out: &mut String) {
        let place = |(x, y): &(f64, Option<f64>)| Some((self.x(*x)?, self.y((*y)?)?));
        for run in runs(series.points.iter().map(place)) {
            let mut path = String::new();
            for (at, (x, y)) in run.iter().enumerate() {
                let _ = write!(path, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' });
            }
            if let (Mark::Area, Some(first), Some(last)) = (&series.mark, run.first(), run.last()) {
                let floor = self.floor();
                let _ = write!(
                    out,
                    "<path class=\"area\" d=\"{path}L{:.1} {floor}L{:.1} {floor}Z\"/>",
                    last.0, first.0
                );
            }
            let dashed = if matches!(series.mark, Mark::Dashed) {
                " dashed"
            } else {
                ""
            };
            let _ = write!(out, "<path class=\"line{dashed}\" d=\"{path}\"/>");
        }
        if !self.has_dots {
            return;
        }
        for point in &series.points {
            if let (Some((x, y)), Some(value)) = (place(point), point.1) {
                let _ = write!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.8\"><title>{}</title></circle>",
                    self.tip(series, point.0, value)
                );
            }
        }
    }

    fn tip(&self, series: &Series, x: f64, y: f64) -> String {
        let name = escaped(&series.name);
        format!(
            "{name}: {} at {}",
            (self.chart.y.label)(y),
            (self.chart.x.label)(x)
        )
    }
}

/// What lies between missing points.
fn runs(points: impl Iterator<Item = Option<(f64, f64)>>) -> Vec<Vec<(f64, f64)>> {
    let mut runs = vec![Vec::new()];
    for point in points {
        match (point, runs.last_mut()) {
            (Some(point), Some(run)) => run.push(point),
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_would_lie_over_each_other_are_left_out() {
        let points = (0..=8).map(|at| (f64::from(at) * 1000.0, Some(1.0)));
        let series = Series {
            name: "answered".to_owned(),
            colour: 1,
            mark: Mark::Line,
            points: points.collect(),
        };
        let chart = Chart {
            title: "Rate",
            says: String::new(),
            x: Axis::between(0.0, 8000.0, |value| format!("{value} seconds")),
            y: Axis::from_zero([1.0].into_iter(), |value| value.to_string()),
            x_name: "",
            series: vec![series],
            width: 1080.0,
            height: 240.0,
        };
        let page = chart.draw();
        let (large, small) = page.split_once("class=\"small\"").expect("both sizes");
        let labels = |drawing: &str| drawing.matches(" seconds</text>").count();
        assert_eq!((labels(large), labels(small)), (9, 3));
    }

    #[test]
    fn a_missing_value_breaks_the_line() {
        let at = |x: f64| Some((x, 0.0));
        let found = runs([at(1.0), at(2.0), None, None, at(3.0)].into_iter());
        assert_eq!(found, [vec![(1.0, 0.0), (2.0, 0.0)], vec![(3.0, 0.0)]]);
    }
}
