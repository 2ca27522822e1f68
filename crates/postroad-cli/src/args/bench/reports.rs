//! What `bench` writes, compares and measures of codecs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use postroad_bench::compare::{CompareConfig, Gate};
use postroad_bench::{compare, report};

use super::count;
use crate::terminal::Output;
use crate::times::duration;

#[derive(Debug, Args)]
pub(crate) struct Codec {
    /// Runs of each measurement, whose median counts.
    #[arg(long, default_value_t = 15, value_parser = count(10_000))]
    pub(crate) runs: u32,
    /// How long a run takes.
    #[arg(long, value_parser = run_time, default_value = "10ms")]
    pub(crate) time: Duration,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

fn run_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time < Duration::from_micros(100) {
        return Err("at least 100us; shorter runs measure the clock".to_owned());
    }
    Ok(time)
}

/// Files that a run is written to.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct ReportFiles {
    /// Write the result as one page for people, with charts.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write the result for programs, and for `bench compare`.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write what happened over time, a line an interval.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write the latencies as an HdrHistogram log, which other tools read.
    #[arg(long, value_name = "FILE")]
    pub(crate) hlog: Option<PathBuf>,
}

impl ReportFiles {
    /// The same for the library that writes them.
    pub(crate) fn files(&self) -> report::files::ReportFiles {
        report::files::ReportFiles {
            html: self.html.clone(),
            json: self.json.clone(),
            csv: self.csv.clone(),
            hlog: self.hlog.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Rewrite {
    /// What `--json` has written.
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) files: ReportFiles,
}

/// What counts as one measurement in a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SampleUnit {
    Run,
    Interval,
}

/// Unit of the values in an HdrHistogram log, which does not say it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogUnit {
    Ns,
    Us,
    Ms,
    S,
}

fn gate(text: &str) -> Result<Gate, String> {
    let parsed = text.split_once(':').and_then(|(metric, limit)| {
        let limit: f64 = limit.strip_suffix('%')?.trim().parse().ok()?;
        (limit >= 0.0 && limit.is_finite()).then(|| Gate {
            metric: metric.to_owned(),
            limit: limit / 100.0,
        })
    });
    parsed.ok_or_else(|| "write slower:5%, p99:10% or errors:0.1%".to_owned())
}

fn probability(text: &str) -> Result<f64, String> {
    let value = text.parse().ok();
    let value = value.filter(|value| *value > 0.0 && *value < 0.5);
    value.ok_or_else(|| "write a number above 0 and below 0.5, such as 0.05".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Runs before: results of `bench --json`, .hlog files of any tool, or folders of them,
    /// separated by commas.
    pub(crate) a: String,
    /// Runs after.
    pub(crate) b: String,
    /// What counts as one measurement; by default runs if there are several on each side.
    #[arg(long, value_enum)]
    pub(crate) by: Option<SampleUnit>,
    /// How often a difference may be called real where there is none.
    #[arg(long, value_parser = probability, default_value = "0.05", value_name = "P")]
    pub(crate) alpha: f64,
    /// Exit with 99 if this got worse by so much and the difference is real: slower:5%, p99:10%,
    /// errors:0.1%; may be repeated.
    #[arg(long, value_parser = gate, value_name = "WHAT:LIMIT")]
    pub(crate) fail_if: Vec<Gate>,
    /// Compare invalid runs and different loads too.
    #[arg(long)]
    pub(crate) force: bool,
    /// Unit of the values in .hlog files.
    #[arg(long, value_enum, default_value_t = LogUnit::Ns)]
    pub(crate) unit: LogUnit,
    /// Tag of the intervals to take from .hlog files; by default those without one.
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

impl Compare {
    /// How these flags want the sides compared.
    pub(crate) fn config(&self) -> CompareConfig {
        CompareConfig {
            by: self.by.map(|by| match by {
                SampleUnit::Run => compare::SampleUnit::Run,
                SampleUnit::Interval => compare::SampleUnit::Interval,
            }),
            alpha: self.alpha,
            gates: self.fail_if.clone(),
            force: self.force,
            log_unit_ns: match self.unit {
                LogUnit::Ns => 1.0,
                LogUnit::Us => 1e3,
                LogUnit::Ms => 1e6,
                LogUnit::S => 1e9,
            },
            tag: self.tag.clone(),
        }
    }
}
