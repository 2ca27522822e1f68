//! What can be typed after `postroad bench`.

mod reports;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use postroad::config::Preset;
use postroad_bench::{Burst, CONNECTIONS_MAX, LoadConfig, Mix, Rate, SIZE_MAX, THREADS_MAX};

use super::examples;
use crate::terminal::Output;
use crate::times::duration;
pub(crate) use reports::{Codec, Compare, ReportFiles, Rewrite};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
    #[command(flatten)]
    pub(crate) run: Run,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Load servers for a coordinator that runs elsewhere: `postroad bench URL --workers ADDRESS`.
    #[command(after_long_help = examples::WORKER)]
    Worker(Worker),
    /// Say which differences between runs are real.
    #[command(after_long_help = examples::COMPARE)]
    Compare(Compare),
    /// Make a page and other files from the result of an earlier run.
    #[command(after_long_help = examples::REPORT)]
    Report(Rewrite),
    /// Measure what the payload codecs cost, in bytes and in time.
    #[command(after_long_help = examples::CODEC)]
    Codec(Codec),
}

#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// Where coordinators reach it. Whoever can, may have it load any server: keep it in a network
    /// that you trust.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7480")]
    pub(crate) listen: String,
}

/// From 1 to `max`.
fn count(max: i64) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=max)
}

fn size(text: &str) -> Result<u32, String> {
    let units = [("KiB", 1024), ("MiB", 1024 * 1024), ("B", 1)];
    let unit = units
        .into_iter()
        .find_map(|(unit, bytes)| text.strip_suffix(unit).map(|number| (number, bytes)));
    let (number, bytes) = unit.unwrap_or((text, 1));
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is not a size; write 64, 4KiB, 1MiB"))?;
    let size = number.saturating_mul(bytes);
    if size > SIZE_MAX {
        return Err(format!("{text} is over 16MiB"));
    }
    Ok(size as u32)
}

fn sizes(text: &str) -> Result<Mix<u32>, String> {
    Mix::parse(text, size)
}

fn priorities(text: &str) -> Result<Mix<u8>, String> {
    Mix::parse(text, |value| match value.parse() {
        Ok(priority @ 0..=7) => Ok(priority),
        _ => Err(format!("{value:?} is no priority; write 0 to 7")),
    })
}

fn deadlines(text: &str) -> Result<Mix<Duration>, String> {
    Mix::parse(text, |value| {
        let deadline = duration(value)?;
        if deadline.is_zero() {
            return Err("a deadline of no time; write 50ms".to_owned());
        }
        Ok(deadline)
    })
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < Duration::from_millis(100) {
        return Err("at least 100ms; shorter ones say little and cost much".to_owned());
    }
    Ok(interval)
}

fn burst(text: &str) -> Result<Burst, String> {
    let wrong = || format!("{text:?} is not CALLS:TIME; write 500:1s");
    let (calls, every) = text.split_once(':').ok_or_else(wrong)?;
    let (calls, every) = (calls.parse().map_err(|_| wrong())?, duration(every)?);
    if calls == 0 || calls > 50_000 || every < Duration::from_millis(1) {
        return Err(format!(
            "{text:?}; 1 to 50000 calls, at most once in 1ms, such as 500:1s"
        ));
    }
    Ok(Burst { calls, every })
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
    number
        .filter(|share| (0.0..=100.0).contains(share))
        .ok_or_else(|| format!("{text:?} is no share of calls; write 0.1%"))
}

fn rate_min(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    let number = number.filter(|rate: &f64| *rate >= 0.0 && rate.is_finite());
    number.ok_or_else(|| format!("{text:?} is not calls a second; write 20000"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Spacing {
    /// Evenly.
    Constant,
    /// Independently of each other, as from many users.
    Poisson,
}

/// Headings of the help.
const LOAD: &str = "Load";
const CONNECTIONS: &str = "Connections and threads";
const DURATION: &str = "Duration";
const OUTPUT: &str = "Output";

fn presets() -> impl TypedValueParser<Value = Preset> {
    let names = Preset::ALL.map(|(name, _)| name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Preset>())
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Endpoint to load.
    #[arg(required = true)]
    pub(crate) url: Option<String>,
    /// Route to call; by default postroad/echo, in a dialect command/1.
    #[arg(long, help_heading = LOAD)]
    pub(crate) route: Option<String>,
    /// Closed loop: callers, each with one call in flight.
    #[arg(long, default_value_t = 64, value_parser = count(100_000), help_heading = LOAD)]
    pub(crate) callers: u32,
    /// Open loop: calls a second, due whatever the answers do; latency counts from when a call was
    /// due. 20000, a ramp 100..5000, or steps 1000:10s,5000:20s.
    #[arg(long, conflicts_with = "callers", help_heading = LOAD)]
    pub(crate) rate: Option<Rate>,
    /// How the calls of an open loop are spaced.
    #[arg(
        long, value_enum, default_value_t = Spacing::Constant, requires = "rate",
        help_heading = LOAD
    )]
    pub(crate) arrival: Spacing,
    /// Open loop: so many calls at once, each time, such as 500:1s; with --rate on top of it.
    #[arg(
        long, value_name = "CALLS:TIME", value_parser = burst, conflicts_with = "callers",
        help_heading = LOAD
    )]
    pub(crate) burst: Option<Burst>,
    /// Connections that the calls are spread over; by default one a thread of each worker.
    #[arg(long, value_parser = count(CONNECTIONS_MAX.into()), help_heading = CONNECTIONS)]
    pub(crate) connections: Option<u32>,
    /// What the connections are tuned for.
    #[arg(long, default_value = "default", value_parser = presets(), help_heading = CONNECTIONS)]
    pub(crate) preset: Preset,
    /// Threads that make calls.
    #[arg(
        long, default_value_t = 1, value_parser = count(THREADS_MAX.into()),
        help_heading = CONNECTIONS
    )]
    pub(crate) threads: u32,
    /// How long to measure; by default 5s, or the time of the steps of a rate.
    #[arg(long, short, value_parser = duration, help_heading = DURATION)]
    pub(crate) duration: Option<Duration>,
    /// How long to load before measuring.
    #[arg(long, value_parser = duration, default_value = "1s", help_heading = DURATION)]
    pub(crate) warmup: Duration,
    /// Parts of the measured time that are reported by themselves.
    #[arg(long, value_parser = interval, default_value = "1s", help_heading = DURATION)]
    pub(crate) interval: Duration,
    /// End after so many measured calls.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), help_heading = DURATION)]
    pub(crate) calls: Option<u64>,
    /// Bytes of the payload, or a mix such as 64:90%,4KiB:10%.
    #[arg(long, default_value = "64", value_parser = sizes, help_heading = LOAD)]
    pub(crate) size: Mix<u32>,
    /// File that is the payload.
    #[arg(long, value_name = "FILE", conflicts_with = "size", help_heading = LOAD)]
    pub(crate) payload: Option<PathBuf>,
    /// Each line of the file is a payload; they are taken in turn.
    #[arg(long, requires = "payload", help_heading = LOAD)]
    pub(crate) payload_lines: bool,
    /// 0 to 7, 7 most urgent, or a mix such as 7:5%,3:95%.
    #[arg(long, default_value = "3", value_parser = priorities, help_heading = LOAD)]
    pub(crate) priority: Mix<u8>,
    /// Deadline of each call, or a mix such as 50ms:10%,5s:90%.
    #[arg(long, default_value = "5s", value_parser = deadlines, help_heading = LOAD)]
    pub(crate) timeout: Mix<Duration>,
    /// What random choices come from; the same seed makes the same load.
    #[arg(long, default_value_t = 1, help_heading = LOAD)]
    pub(crate) seed: u64,
    /// Process of the server, if it is not found by its socket.
    #[arg(long, value_name = "PID", help_heading = CONNECTIONS)]
    pub(crate) server_pid: Option<u32>,
    /// Workers that make the calls, instead of this process.
    #[arg(long, value_name = "ADDRESS,...", value_delimiter = ',', help_heading = CONNECTIONS)]
    pub(crate) workers: Vec<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text, help_heading = OUTPUT)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) files: ReportFiles,
    #[command(flatten)]
    pub(crate) bounds: Bounds,
}

/// When to end early, and what to call a failure.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stop conditions and thresholds")]
pub(crate) struct Bounds {
    /// End, with exit code 99, when so many calls have failed; looked at once an interval, and when
    /// all have ended. Where the run is invalid, this and the following exit with 98 instead.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) stop_errors: Option<u64>,
    /// End, with exit code 99, when the 99th percentile of an interval is over this.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) stop_p99: Option<Duration>,
    /// An open loop whose generator is later than this at its 99th percentile, or at 99.9 with
    /// --max-p999, is invalid; with a threshold it exits with 98.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10ms")]
    pub(crate) max_lateness: Duration,
    /// Exit with 99 if the median is over this.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) max_p50: Option<Duration>,
    /// Exit with 99 if the 99th percentile is over this.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) max_p99: Option<Duration>,
    /// Exit with 99 if the percentile 99.9 is over this.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) max_p999: Option<Duration>,
    /// Exit with 99 if fewer calls a second are answered.
    #[arg(long, value_name = "RATE", value_parser = rate_min)]
    pub(crate) min_rate: Option<f64>,
    /// Exit with 99 if more calls than this fail.
    #[arg(long, value_name = "N")]
    pub(crate) max_errors: Option<u64>,
    /// Exit with 99 if more than this share of the calls fails, such as 0.1%.
    #[arg(long, value_name = "SHARE", value_parser = percent)]
    pub(crate) max_error_rate: Option<f64>,
}

impl Run {
    /// What load these flags ask for.
    pub(crate) fn config(&self) -> LoadConfig {
        LoadConfig {
            // Only a subcommand does without a URL, and it makes no load.
            url: self.url.clone().unwrap_or_default(),
            route: self.route.clone(),
            callers: self.callers,
            rate: self.rate.clone(),
            arrival: match self.arrival {
                Spacing::Constant => postroad_bench::Spacing::Constant,
                Spacing::Poisson => postroad_bench::Spacing::Poisson,
            },
            burst: self.burst,
            connections: self.connections,
            preset: self.preset,
            threads: self.threads,
            duration: self.duration,
            warmup: self.warmup,
            interval: self.interval,
            calls: self.calls,
            size: self.size.clone(),
            payload: self.payload.clone(),
            payload_lines: self.payload_lines,
            priority: self.priority.clone(),
            timeout: self.timeout.clone(),
            seed: self.seed,
            server_pid: self.server_pid,
            workers: self.workers.clone(),
            bounds: self.bounds.bounds(),
        }
    }
}

impl Bounds {
    fn bounds(&self) -> postroad_bench::Bounds {
        postroad_bench::Bounds {
            stop_errors: self.stop_errors,
            stop_p99: self.stop_p99,
            max_lateness: self.max_lateness,
            max_p50: self.max_p50,
            max_p99: self.max_p99,
            max_p999: self.max_p999,
            min_rate: self.min_rate,
            max_errors: self.max_errors,
            max_error_rate: self.max_error_rate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_or_say_what_to_write() {
        assert_eq!(
            sizes("64:90%,4KiB:10%").unwrap().to_string(),
            "64:90%,4096:10%"
        );
        assert_eq!(size("16MiB"), Ok(16_777_216));
        assert_eq!(percent("0.1%"), Ok(0.1));
        let errors = [
            (size("17MiB").unwrap_err(), "over 16MiB"),
            (size("4k").unwrap_err(), "write 64, 4KiB, 1MiB"),
            (priorities("8").unwrap_err(), "write 0 to 7"),
            (deadlines("0s:50%,1s:50%").unwrap_err(), "write 50ms"),
            (interval("10ms").unwrap_err(), "at least 100ms"),
            (burst("500").unwrap_err(), "write 500:1s"),
            (burst("0:1s").unwrap_err(), "1 to 50000 calls"),
            (percent("101%").unwrap_err(), "write 0.1%"),
            (rate_min("x").unwrap_err(), "write 20000"),
            (rate_min("inf").unwrap_err(), "write 20000"),
        ];
        for (error, says) in errors {
            assert!(error.contains(says), "{error}");
        }
    }
}
