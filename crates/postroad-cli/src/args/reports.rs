//! What `bench` writes, compares and measures of codecs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Output, count, duration};

#[derive(Debug, Args)]
pub(crate) struct BenchCodec {
    /// Runs of each measurement, whose median counts.
    #[arg(long, default_value_t = 15, value_parser = count(10_000))]
    pub(crate) runs: u32,
    /// How long a run takes.
    #[arg(long, value_parser = duration, default_value = "10ms")]
    pub(crate) time: Duration,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
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

#[derive(Debug, Args)]
pub(crate) struct ReportTool {
    /// What `--json` has written.
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) files: ReportFiles,
}
