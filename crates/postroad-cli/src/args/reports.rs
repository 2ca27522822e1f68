//! What `bench` writes, compares and measures of codecs.

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
