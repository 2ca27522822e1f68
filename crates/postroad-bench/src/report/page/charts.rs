//! Which charts a run makes.

use super::axis::Axis;
use super::svg::{Chart, Mark, Series};
use crate::report::units;
use crate::report::{Distribution, Interval, Loop, Report, Sample};

const WIDE: (f64, f64) = (1080.0, 340.0);
const HALF: (f64, f64) = (530.0, 240.0);

/// Steps between one nine and the next.
const STEPS: i32 = 16;

pub(crate) fn draw(report: &Report) -> String {
    let mut charts = vec![percentiles(report)];
    if !report.series.is_empty() {
        charts.push(latency(report));
        charts.push(rate(report));
        charts.extend((report.failed > 0).then(|| errors(report)));
        charts.extend(lateness(report));
        charts.extend(processor(report));
        charts.extend(memory(report));
        // Two stand in a row. Where one would be left alone, the most important has a whole row.
        if charts.len() % 2 == 0 {
            (charts[1].width, charts[1].height) = WIDE;
        }
    }
    charts.iter().map(Chart::draw).collect()
}

/// Latency over percentiles: the whole distribution, the rare long calls in full view.
fn percentiles(report: &Report) -> Chart {
    let mut series = vec![curve("latency", 1, Mark::Area, &report.latency_ns)];
    for (at, priority) in report.priorities.iter().enumerate() {
        let name = format!("priority {}", priority.priority);
        series.push(curve(&name, 2 + at % 5, Mark::Line, &priority.latency_ns));
    }
    // By the calls: a generator that is punctual to some nanoseconds would take most of the axis.
    let y = Axis::log(values(&series), units::round_time);
    if let Some(lateness) = &report.lateness_ns {
        series.push(curve("generator late", 0, Mark::Dashed, lateness));
    }
    let latency = &report.latency_ns;
    let says = format!(
        "Half of the calls were answered within {}, 99 of 100 within {}, 999 of 1,000 within {}; \
         the slowest took {}.",
        units::time(latency.p50 as f64),
        units::time(latency.p99 as f64),
        units::time(latency.p999 as f64),
        units::time(latency.max as f64)
    );
    Chart {
        title: "Latency by percentile",
        says,
        x: Axis::nines(latency.count, units::percentile),
        y,
        x_name: "calls that were at most this slow",
        series,
        width: WIDE.0,
        height: WIDE.1,
    }
}

/// A distribution's percentiles, up to the one that a single call decides.
fn curve(name: &str, colour: usize, mark: Mark, distribution: &Distribution) -> Series {
    let histogram = distribution.hdr.histogram();
    let count = histogram.len().max(1) as f64;
    let steps = 0..=(count.log10() * f64::from(STEPS)).floor() as i32;
    let quantiles = steps.map(|step| 1.0 - 10_f64.powf(-f64::from(step) / f64::from(STEPS)));
    let last = 1.0 - 1.0 / count;
    let quantiles = quantiles.filter(|quantile| *quantile < last);
    let at = |quantile| (quantile, Some(histogram.value_at_quantile(quantile) as f64));
    let longest = (last, Some(histogram.max() as f64));
    Series {
        name: name.to_owned(),
        colour,
        mark,
        points: quantiles.map(at).chain([longest]).collect(),
    }
}

fn latency(report: &Report) -> Chart {
    let line = |name, colour, of: fn(&Interval) -> Option<u64>| {
        over_time(report, name, colour, Mark::Line, |interval| {
            // Files of before have a zero where there was no answer.
            let nanos = of(interval).filter(|_| interval.answered > 0);
            nanos.map(|ns| ns as f64)
        })
    };
    let series = vec![
        line("max", 3, |interval| interval.max_ns),
        line("p99", 2, |interval| interval.p99_ns),
        line("p50", 1, |interval| interval.p50_ns),
    ];
    let silent = report
        .series
        .iter()
        .filter(|interval| interval.answered == 0);
    let says = match silent.count() {
        0 => "Of the calls that ended in each interval.".to_owned(),
        silent => format!(
            "Of the calls that ended in each interval. Gaps are intervals without an answer: \
             {silent} of {}.",
            report.series.len()
        ),
    };
    Chart {
        title: "Latency over time",
        says,
        y: Axis::log(values(&series), units::round_time),
        ..timeline(report, series)
    }
}

fn rate(report: &Report) -> Chart {
    let due = |interval: &Interval| Some(interval.due as f64 / interval.seconds);
    let mut series = vec![over_time(report, "answered", 1, Mark::Area, |interval| {
        Some(interval.rate)
    })];
    let mut says = format!(
        "{} calls were answered, {} a second on average.",
        units::count(report.answered),
        units::number(report.rate)
    );
    if report.load.shape == Loop::Open {
        series.push(over_time(report, "due", 0, Mark::Dashed, due));
        says.push_str(" Where answered is below due, the server was behind or calls failed.");
    }
    Chart {
        title: "Rate over time",
        says,
        y: Axis::from_zero(values(&series), per_second),
        ..timeline(report, series)
    }
}

fn errors(report: &Report) -> Chart {
    let width = report.load.interval_seconds.min(report.seconds);
    let failed = over_time(report, "failed", 2, Mark::Bars(width), |interval| {
        Some(interval.failed as f64 / interval.seconds)
    });
    let mut series = vec![failed];
    if report.errors.len() + usize::from(report.not_sent > 0) > 1 {
        // What the bars consist of, where it is not one thing.
        let codes = report.errors.keys().enumerate();
        series.extend(codes.map(|(at, code)| {
            over_time(report, code, 3 + at % 4, Mark::Line, |interval| {
                let count = interval.errors.get(code).copied().unwrap_or(0);
                Some(count as f64 / interval.seconds)
            })
        }));
    }
    let all = report.answered + report.failed;
    let says = format!(
        "{} of {} calls failed, {}.",
        units::count(report.failed),
        units::count(all),
        units::percent(report.failed as f64 / all as f64)
    );
    Chart {
        title: "Errors over time",
        says,
        y: Axis::from_zero(values(&series), per_second),
        ..timeline(report, series)
    }
}

fn lateness(report: &Report) -> Option<Chart> {
    let whole = report.lateness_ns.as_ref()?;
    let late = |interval: &Interval| interval.late_max_ns.map(|ns| ns as f64);
    let series = vec![over_time(report, "longest", 4, Mark::Line, late)];
    Some(Chart {
        title: "Lateness of the generator",
        says: format!(
            "How long after its due moment a call was sent: {} at p99, {} at most. This part of a \
             latency is the generator's, not the server's.",
            units::time(whole.p99 as f64),
            units::time(whole.max as f64)
        ),
        y: Axis::log(values(&series), units::round_time),
        ..timeline(report, series)
    })
}

fn processor(report: &Report) -> Option<Chart> {
    let series = both_ends(report, |sample, seconds| sample.cpu_seconds / seconds);
    (!series.is_empty()).then(|| Chart {
        title: "Processor time",
        says: format!(
            "Cores kept busy. The generator's machine lends it {}.",
            units::count(report.machine.cores as u64)
        ),
        y: Axis::from_zero(values(&series), units::number),
        ..timeline(report, series)
    })
}

fn memory(report: &Report) -> Option<Chart> {
    let series = both_ends(report, |sample, _| sample.memory_bytes as f64 / MIB);
    (!series.is_empty()).then(|| Chart {
        title: "Memory",
        says: "Resident memory at the end of each interval.".to_owned(),
        y: Axis::from_zero(values(&series), mib),
        ..timeline(report, series)
    })
}

const MIB: f64 = 1_048_576.0;

fn mib(value: f64) -> String {
    format!("{} MiB", units::number(value))
}

fn per_second(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M/s", units::number(value / 1e6)),
        value if value >= 1e4 => format!("{} k/s", units::number(value / 1e3)),
        value => format!("{}/s", units::number(value)),
    }
}

fn seconds(value: f64) -> String {
    format!("{} s", units::number(value))
}

/// Both ends, as far as they were measured.
fn both_ends(report: &Report, value: fn(&Sample, f64) -> f64) -> Vec<Series> {
    let line = |name, colour, of: fn(&Interval) -> Option<Sample>| {
        over_time(report, name, colour, Mark::Line, |interval| {
            of(interval).map(|sample| value(&sample, interval.seconds))
        })
    };
    let series = [
        line("generator", 0, |interval| interval.client),
        line("server", 1, |interval| interval.server),
    ];
    let is_known = |series: &Series| series.points.iter().any(|(_, value)| value.is_some());
    series.into_iter().filter(is_known).collect()
}

fn over_time(
    report: &Report,
    name: &str,
    colour: usize,
    mark: Mark,
    value: impl Fn(&Interval) -> Option<f64>,
) -> Series {
    // A line's point stands in the middle of its interval, a bar begins with it.
    let middle = if matches!(mark, Mark::Bars(_)) {
        0.0
    } else {
        0.5
    };
    let point = |interval: &Interval| {
        let at = interval.at_seconds + middle * interval.seconds;
        (at, value(interval))
    };
    Series {
        name: name.to_owned(),
        colour,
        mark,
        points: report.series.iter().map(point).collect(),
    }
}

fn values(series: &[Series]) -> impl Iterator<Item = f64> {
    let points = series.iter().flat_map(|series| &series.points);
    points.filter_map(|(_, value)| *value)
}

/// What the charts over time have in common.
fn timeline(report: &Report, series: Vec<Series>) -> Chart {
    let end = |interval: &Interval| interval.at_seconds + interval.seconds;
    let end = report.series.iter().map(end).fold(0.0, f64::max);
    Chart {
        title: "",
        says: String::new(),
        x: Axis::between(0.0, end, seconds),
        y: Axis::from_zero(values(&series), units::number),
        x_name: "",
        series,
        width: HALF.0,
        height: HALF.1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_a_server_that_is_nearly_idle_can_be_told_apart() {
        for busy in [0.000_4, 0.003, 0.04, 0.5, 7.0] {
            let axis = Axis::from_zero([busy].into_iter(), units::number);
            let mut labels: Vec<_> = axis.ticks.iter().map(|tick| units::number(*tick)).collect();
            let all = labels.len();
            labels.dedup();
            assert_eq!(labels.len(), all, "{labels:?}");
        }
    }
}
