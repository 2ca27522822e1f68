//! The runs of each side, from whatever files hold them.

use std::fs;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

use crate::error::Error;
use crate::report::files::{self, hlog};
use crate::report::{End, Loop, Report};

/// The percentiles that are compared.
pub(crate) const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// Calls that have to lie beyond a percentile, or it says more about chance than about the server.
const BEYOND: f64 = 10.0;

/// What one run, or one interval of it, measured; what it cannot say is missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Answered calls a second.
    pub(crate) rate: Option<f64>,
    /// Failed calls as a share of all.
    pub(crate) errors: Option<f64>,
    /// Nanoseconds at each of [`QUANTILES`].
    pub(crate) latency: [Option<f64>; QUANTILES.len()],
    /// Processor time of the server for a call, nanoseconds.
    pub(crate) server_cpu: Option<f64>,
}

impl Sample {
    /// Of the calls that a histogram holds.
    fn of(histogram: &Histogram<u64>, seconds: f64) -> Self {
        let calls = histogram.len() as f64;
        let at = |quantile: f64| {
            let beyond = calls * (1.0 - quantile) + 1e-6;
            (beyond >= BEYOND).then(|| histogram.value_at_quantile(quantile) as f64)
        };
        Self {
            rate: (seconds > 0.0).then(|| calls / seconds),
            latency: QUANTILES.map(at),
            ..Self::default()
        }
    }
}

/// One run as it is compared.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) name: String,
    /// The load in words, equal for equal loads; logs do not know theirs.
    pub(crate) load: Option<String>,
    pub(crate) is_open: Option<bool>,
    /// Why its numbers are not to be believed.
    pub(crate) doubts: Vec<String>,
    pub(crate) whole: Sample,
    pub(crate) intervals: Vec<Sample>,
    /// All latencies: two runs that have the same are one.
    pub(crate) latency: Histogram<u64>,
}

/// Files and folders, separated by commas.
pub(crate) fn read_side(side: &str, unit: f64, tag: Option<&str>) -> Result<Vec<Run>, Error> {
    let mut runs: Vec<Run> = Vec::new();
    for path in side.split(',').filter(|path| !path.is_empty()) {
        for file in files_of(Path::new(path))? {
            let mut run = read_run(&file, unit, tag)?;
            let is_same = |other: &&Run| other.latency == run.latency && !run.latency.is_empty();
            if let Some(other) = runs.iter().find(is_same) {
                let why = format!("it has the latencies of {}, so it counts twice", other.name);
                run.doubts.push(why);
            }
            runs.push(run);
        }
    }
    if runs.is_empty() {
        return Err(Error::NoRun(side.to_owned()));
    }
    Ok(runs)
}

/// The file itself, or the results within a folder in order of their names. A log beside a result
/// of the same name is of the same run, and says less.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|error| Error::file(path, error))?;
    let entries: Result<Vec<_>, _> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect();
    let mut found = entries.map_err(|error| Error::file(path, error))?;
    found.retain(|file| {
        let is_result = file.extension().is_some_and(|end| end == "json");
        is_result || is_log(file) && !file.with_extension("json").exists()
    });
    found.sort();
    Ok(found)
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "hlog")
}

fn read_run(path: &Path, unit: f64, tag: Option<&str>) -> Result<Run, Error> {
    let name = path.display().to_string();
    if !is_log(path) {
        return Ok(from_report(name, &files::read(path)?));
    }
    let bytes = fs::read(path).map_err(|error| Error::file(path, error))?;
    let mut intervals = hlog::read(&bytes).map_err(|error| Error::file(path, error))?;
    intervals.retain(|logged| logged.tag.as_deref() == tag);
    if intervals.is_empty() {
        let why = tag.map_or_else(
            || "no interval without a tag; --tag NAME chooses one".to_owned(),
            |tag| format!("no interval with the tag {tag:?}"),
        );
        return Err(Error::file(path, why));
    }
    Ok(from_log(name, &intervals, unit))
}

pub(crate) fn from_report(name: String, report: &Report) -> Run {
    let share = |answered: u64, failed: u64| {
        let all = answered + failed;
        (all > 0).then(|| failed as f64 / all as f64)
    };
    let latency = report.latency_ns.hdr.histogram();
    let mut whole = Sample::of(&latency, report.seconds);
    whole.errors = share(report.answered, report.failed);
    whole.server_cpu = match &report.ends.server {
        End::Measured(usage) => usage.cpu_per_call_ns,
        End::Unknown { .. } => None,
    };
    // Behind the load only what was late still ends.
    let loaded = report.series.iter();
    let loaded = loaded.filter(|each| each.at_seconds < report.load.duration_seconds);
    let intervals = loaded.map(|interval| Sample {
        errors: share(interval.answered, interval.failed),
        ..Sample::of(&interval.hdr.histogram(), interval.seconds)
    });
    let validity = &report.validity;
    let mut doubts = validity.reasons.clone();
    if doubts.is_empty() && !(validity.valid && validity.complete) {
        doubts.push("it is marked as invalid".to_owned());
    }
    if let Some(stopped) = &report.stopped {
        doubts.push(format!("it was stopped: {stopped}"));
    }
    Run {
        name,
        load: Some(load(report)),
        is_open: Some(report.load.shape == Loop::Open),
        doubts,
        whole,
        intervals: intervals.collect(),
        latency,
    }
}

/// What has to be equal for runs to be comparable; the target may differ, as may seed and time.
fn load(report: &Report) -> String {
    let load = &report.load;
    let shape = match load.shape {
        Loop::Closed => format!("closed loop, {} callers", load.callers.unwrap_or_default()),
        Loop::Open => format!(
            "open loop, {}",
            load.arrival.as_deref().unwrap_or("unknown")
        ),
    };
    format!(
        "{shape}, {} connections, {} threads, preset {}, route {}, payload {}, priority {}, \
         deadline {}, {} s after {} s",
        load.connections,
        load.threads,
        load.preset,
        report.route,
        load.size,
        load.priority,
        load.timeout,
        load.duration_seconds,
        load.warmup_seconds
    )
}

fn from_log(name: String, intervals: &[hlog::Logged], unit: f64) -> Run {
    let in_ns = |mut sample: Sample| {
        sample.latency = sample.latency.map(|value| value.map(|value| value * unit));
        sample
    };
    let mut all = intervals[0].histogram.clone();
    all.auto(true);
    let mut seconds = intervals[0].duration.as_secs_f64();
    for logged in &intervals[1..] {
        all.add(&logged.histogram)
            .expect("a histogram that resizes takes every value");
        seconds += logged.duration.as_secs_f64();
    }
    let of =
        |logged: &hlog::Logged| in_ns(Sample::of(&logged.histogram, logged.duration.as_secs_f64()));
    Run {
        name,
        load: None,
        is_open: None,
        doubts: Vec::new(),
        whole: in_ns(Sample::of(&all, seconds)),
        intervals: intervals.iter().map(of).collect(),
        latency: all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::report::Interval;

    #[test]
    fn a_percentile_that_a_handful_of_calls_decides_is_missing() {
        let mut histogram = example::histogram();
        (1..=1_000).for_each(|ns| histogram.saturating_record(ns));
        let sample = Sample::of(&histogram, 2.0);
        assert_eq!(sample.rate, Some(500.0));
        assert_eq!(sample.latency[..3], [Some(500.0), Some(900.0), Some(990.0)]);
        assert_eq!(sample.latency[3], None, "one call is beyond p99.9");
    }

    #[test]
    fn a_run_says_the_same_as_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let report = example::open_run(3);
        let (json, log) = (folder.path().join("a.json"), folder.path().join("b.hlog"));
        let wanted = files::ReportFiles {
            json: Some(json),
            hlog: Some(log),
            ..Default::default()
        };
        files::write(&wanted, &report).expect("they are written");
        let side = folder.path().display().to_string();
        let twice = read_side(&side, 1.0, None).expect("they are read");
        assert!(twice[0].doubts.is_empty());
        let doubt = &twice[1].doubts[0];
        assert!(doubt.contains("counts twice"), "{doubt}");
        let read = |file: &str| read_side(&format!("{side}/{file}"), 1.0, None);
        let (json, log) = (read("a.json"), read("b.hlog"));
        let (json, log) = (json.expect("it is read"), log.expect("it is read"));
        let (json, log) = (&json[0], &log[0]);
        assert_eq!(
            (json.whole.latency, json.whole.rate),
            (log.whole.latency, log.whole.rate)
        );
        assert_eq!(json.intervals.len(), log.intervals.len());
        assert_eq!(json.intervals[7].latency, log.intervals[7].latency);
        assert!(json.whole.errors.is_some() && log.whole.errors.is_none());
    }

    #[test]
    fn a_log_beside_its_result_is_no_run_of_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        for (seed, name) in [(3, "a"), (4, "b")] {
            let path = |end: &str| Some(folder.path().join(name).with_extension(end));
            let wanted = files::ReportFiles {
                json: path("json"),
                hlog: path("hlog"),
                ..Default::default()
            };
            files::write(&wanted, &example::open_run(seed)).expect("they are written");
        }
        let side = folder.path().display().to_string();
        let runs = read_side(&side, 1.0, None).expect("they are read");
        assert_eq!(runs.len(), 2);
        assert!(runs.iter().all(|run| run.name.ends_with(".json")));
    }

    #[test]
    fn intervals_behind_the_load_are_no_samples() {
        let mut report = example::open_run(3);
        let last = report.series[59].clone();
        report.series.push(Interval {
            at_seconds: 60.0,
            ..last
        });
        let run = from_report("made up".to_owned(), &report);
        assert_eq!(run.intervals.len(), 60);
    }

    #[test]
    fn a_log_of_another_tool_is_read_in_its_unit() {
        let log = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hlog/other-tool.hlog");
        let runs = read_side(log, 1e3, None).expect("it is read");
        let p50 = runs[0].intervals[0].latency[0].expect("there are a thousand calls");
        assert!((p50 / 5e8 - 1.0).abs() < 0.001, "microseconds: {p50}");
        assert_eq!(runs[0].whole.rate, Some(100.0));
        let error = read_side(log, 1.0, Some("x")).expect_err("no such tag");
        assert!(format!("{error:?}").contains("no interval with the tag"));
    }
}
