//! Numbers for Prometheus: who has some adds them, and here they become text.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

/// Series of one metric at most. Labels that others choose would otherwise fill the memory of
/// whoever scrapes.
const SERIES_MAX: usize = 1_024;

/// Has numbers to show: what a server counts, or what your program does.
///
/// It is asked at each scrape and should answer at once: keep numbers in atomics, and give them out
/// here. The same metric may come from several sources, with other labels.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use postroad::admin::{Format, MetricSource, Metrics};
///
/// #[derive(Clone, Default)]
/// struct Orders(Arc<AtomicU64>);
///
/// impl MetricSource for Orders {
///     fn collect(&self, metrics: &mut Metrics) {
///         let taken = self.0.load(Ordering::Relaxed);
///         metrics.counter("shop_orders_total", "Orders that were taken.").add(&[], taken);
///     }
/// }
///
/// let mut metrics = Metrics::new();
/// Orders::default().collect(&mut metrics);
/// assert!(metrics.render(Format::Text).ends_with("\nshop_orders_total 0\n"));
/// ```
pub trait MetricSource: Send + Sync {
    /// Adds what there is now. Names have letters, digits and `_`, a counter's ends with `_total`,
    /// and units are base units: seconds, bytes.
    fn collect(&self, metrics: &mut Metrics);
}

/// The forms in which metrics can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The form that an HTTP client prefers, by its header `Accept`. Without a preference it is
    /// [`Self::Text`].
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let (mut text, mut open) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let (mut weight, mut version) = (1.0, "1.0.0");
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match key.trim() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => version = value.trim(),
                    _ => {}
                }
            }
            let best = match media {
                "application/openmetrics-text" if version == "1.0.0" => &mut open,
                "text/plain" => &mut text,
                _ => continue,
            };
            *best = f64::max(*best, weight);
        }
        match open > text {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    /// What the text is, as the header `Content-Type` says it.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A number of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Number {
    /// A whole number, exact up to the last digit.
    Whole(u64),
    /// Any other.
    Real(f64),
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<bool> for Number {
    fn from(is_so: bool) -> Self {
        Self::Whole(is_so.into())
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl From<Duration> for Number {
    /// In seconds.
    fn from(time: Duration) -> Self {
        Self::Real(time.as_secs_f64())
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(f, "{number}"),
            Self::Real(f64::INFINITY) => f.write_str("+Inf"),
            Self::Real(f64::NEG_INFINITY) => f.write_str("-Inf"),
            Self::Real(number) => write!(f, "{number}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Info,
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    help: String,
    /// Labels in braces, or nothing, and the value; in the order in which they came.
    series: Vec<(String, Number)>,
    left_out: u64,
}

/// Metrics of one scrape, by name.
#[derive(Debug, Default)]
pub struct Metrics(BTreeMap<String, Family>);

/// The series of one metric.
#[derive(Debug)]
pub struct Series<'a>(&'a mut Family);

impl Metrics {
    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A number that only grows. Its name ends with `_total`.
    pub fn counter(&mut self, name: &str, help: &str) -> Series<'_> {
        self.family(name, Kind::Counter, help)
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> Series<'_> {
        self.family(name, Kind::Gauge, help)
    }

    /// What is said by labels alone; the value is 1. Its name ends with `_info`.
    pub fn info(&mut self, name: &str, help: &str) -> Series<'_> {
        self.family(name, Kind::Info, help)
    }

    fn family(&mut self, name: &str, kind: Kind, help: &str) -> Series<'_> {
        let family = self.0.entry(valid(name)).or_insert_with(|| Family {
            kind,
            help: help.to_owned(),
            series: Vec::new(),
            left_out: 0,
        });
        Series(family)
    }

    /// All of them as text.
    #[must_use]
    pub fn render(mut self, format: Format) -> String {
        let left_out = self.0.values().map(|family| family.left_out).sum::<u64>();
        let help = "Series left out of this scrape: their metric has too many.";
        self.gauge("postroad_metrics_left_out", help)
            .add(&[], left_out);
        let mut text = String::new();
        for (name, family) in &self.0 {
            family.write(&mut text, name, format);
        }
        if format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

impl Series<'_> {
    /// Adds a series, by its labels' names and values. No two of a metric may have the same.
    pub fn add(&mut self, labels: &[(&str, &str)], value: impl Into<Number>) -> &mut Self {
        if self.0.series.len() >= SERIES_MAX {
            self.0.left_out += 1;
            return self;
        }
        let labels = labels
            .iter()
            .map(|(name, value)| format!("{}=\"{}\"", valid(name), escaped(value, true)));
        let labels = labels.collect::<Vec<_>>().join(",");
        let labels = match labels.is_empty() {
            true => labels,
            false => format!("{{{labels}}}"),
        };
        self.0.series.push((labels, value.into()));
        self
    }
}

impl Family {
    fn write(&self, text: &mut String, name: &str, format: Format) {
        let (family, word) = match (self.kind, format) {
            (Kind::Counter, Format::Text) => (name, "counter"),
            (Kind::Gauge, _) => (name, "gauge"),
            // The older format has no such kind.
            (Kind::Info, Format::Text) => (name, "gauge"),
            (Kind::Counter, Format::OpenMetrics) => (without(name, "_total"), "counter"),
            (Kind::Info, Format::OpenMetrics) => (without(name, "_info"), "info"),
        };
        let is_open = format == Format::OpenMetrics;
        let mut line = |line: fmt::Arguments<'_>| {
            let _ = writeln!(text, "{line}");
        };
        line(format_args!("# TYPE {family} {word}"));
        let unit = ["seconds", "bytes"].into_iter();
        let unit = unit.filter(|unit| is_open && family.ends_with(&format!("_{unit}")));
        unit.for_each(|unit| line(format_args!("# UNIT {family} {unit}")));
        line(format_args!(
            "# HELP {family} {}",
            escaped(&self.help, is_open)
        ));
        for (labels, value) in &self.series {
            line(format_args!("{name}{labels} {value}"));
        }
    }
}

fn without<'a>(name: &'a str, ending: &str) -> &'a str {
    name.strip_suffix(ending).unwrap_or(name)
}

/// The name with `_` in the place of what no name may have.
fn valid(name: &str) -> String {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let fit = |(at, c): (usize, char)| match is_letter(c) || (at > 0 && c.is_ascii_digit()) {
        true => c,
        false => '_',
    };
    name.chars().enumerate().map(fit).collect()
}

/// The text as it may stand in a line, and between quotes if they are escaped too.
fn escaped(text: &str, has_quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    match has_quotes {
        true => text.replace('"', "\\\""),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metrics {
        let mut metrics = Metrics::new();
        let mut closed = metrics.counter("shop_closed_total", "Doors \\ that\nclosed.");
        closed.add(&[("why", "a \"draft\"\n"), ("door", "1")], 3_u64);
        let mut age = metrics.gauge("shop_age_seconds", "Age.");
        age.add(&[], Duration::from_millis(1_500));
        metrics
            .info("shop_build_info", "Build.")
            .add(&[("version", "1")], 1_u64);
        metrics
    }

    #[test]
    fn the_text_format_says_kind_and_help_and_escapes_what_would_break_a_line() {
        let expected = r##"# TYPE postroad_metrics_left_out gauge
# HELP postroad_metrics_left_out Series left out of this scrape: their metric has too many.
postroad_metrics_left_out 0
# TYPE shop_age_seconds gauge
# HELP shop_age_seconds Age.
shop_age_seconds 1.5
# TYPE shop_build_info gauge
# HELP shop_build_info Build.
shop_build_info{version="1"} 1
# TYPE shop_closed_total counter
# HELP shop_closed_total Doors \\ that\nclosed.
shop_closed_total{why="a \"draft\"\n",door="1"} 3
"##;
        assert_eq!(sample().render(Format::Text), expected);
    }

    #[test]
    fn openmetrics_names_a_family_without_its_ending_says_units_and_ends() {
        let text = sample().render(Format::OpenMetrics);
        for line in [
            "# TYPE shop_closed counter",
            "# UNIT shop_age_seconds seconds",
            "# TYPE shop_build info",
            "shop_build_info{version=\"1\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn a_metric_has_a_bounded_number_of_series_and_the_rest_is_counted() {
        let mut metrics = Metrics::new();
        let mut many = metrics.gauge("many", "Many.");
        for at in 0..SERIES_MAX + 7 {
            many.add(&[("at", &at.to_string())], at);
        }
        let text = metrics.render(Format::Text);
        assert_eq!(text.matches("many{").count(), SERIES_MAX);
        assert!(text.contains("postroad_metrics_left_out 7\n"));
    }

    #[test]
    fn the_form_is_chosen_by_what_the_client_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,\
            */*;q=0.1";
        for (accept, expected) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/plain", Format::Text),
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            (
                "text/plain, application/openmetrics-text; q=0.5",
                Format::Text,
            ),
            ("application/openmetrics-text; q=nonsense", Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }

    #[test]
    fn names_that_would_break_the_text_are_made_to_fit() {
        let mut metrics = Metrics::new();
        metrics
            .gauge("1 a{b}\n", "Wrong.")
            .add(&[("x=\"", "")], 1_u64);
        let text = metrics.render(Format::Text);
        assert!(text.contains("__a_b__{x__=\"\"} 1\n"), "{text}");
    }
}
