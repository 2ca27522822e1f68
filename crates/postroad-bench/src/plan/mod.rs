//! What a run does: checked once, then the same for every thread and every worker.

pub(crate) mod config;
pub(crate) mod mix;
pub(crate) mod schedule;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use postroad::config::{Backoff, Preset};
use postroad::discovery::Target;
use postroad::{Bytes, ClientConfig, Endpoint, Protocol};
use serde::{Deserialize, Serialize};

use config::{CONNECTIONS_MAX, LoadConfig, SIZE_MAX, Spacing, THREADS_MAX};
use mix::Mix;
use schedule::Arrival;

use crate::error::Error;
use crate::report::{Load, Loop};

/// Calls that an open loop has in flight at most; what is due beyond them counts as not sent.
pub(crate) const IN_FLIGHT_MAX: usize = 50_000;
/// Bounds of the first and of each wait before a lost connection is dialled again.
const REDIAL_FIRST: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(1);
/// Route that is called when none is named: what every node echoes.
const ROUTE: &str = "postroad/echo";
/// The same where a route is a code.
const ROUTE_OF_DIALECT: &str = "command/1";
/// Measured time of a run that names none.
const DURATION: Duration = Duration::from_secs(5);
/// The same when a number of calls ends it.
const DURATION_MAX: Duration = Duration::from_secs(86_400);
/// Intervals of a run: a day of seconds.
const INTERVALS_MAX: u32 = 86_400;
/// Bytes of a file of payloads.
const PAYLOADS_MAX: u64 = 64 * 1024 * 1024;

/// When calls are made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Shape {
    Closed { callers: u32 },
    Open(Arrival),
}

/// What calls carry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Payload {
    Sizes(Mix<u32>),
    /// Taken in turn.
    File {
        name: String,
        bodies: Vec<Vec<u8>>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) url: String,
    pub(crate) route: String,
    pub(crate) shape: Shape,
    /// Of all workers.
    pub(crate) connections: u32,
    /// Name of what the connections are tuned for.
    pub(crate) preset: String,
    /// Of each worker.
    pub(crate) threads: u32,
    pub(crate) payload: Payload,
    pub(crate) priority: Mix<u8>,
    pub(crate) timeout: Mix<Duration>,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    pub(crate) interval: Duration,
    /// Measured calls after which the run ends.
    pub(crate) calls: Option<u64>,
    pub(crate) seed: u64,
    /// Which worker this is, and of how many.
    pub(crate) worker: (u32, u32),
}

/// One thread's share of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) number: u32,
    pub(crate) of: u32,
}

impl Part {
    /// Of things that are dealt out one by one.
    pub(crate) fn share(self, total: u64) -> u64 {
        let (number, of) = (u64::from(self.number), u64::from(self.of));
        total / of + u64::from(number < total % of)
    }
}

impl Payload {
    fn read(path: &Path, by_line: bool) -> Result<Self, Error> {
        let name = path.display().to_string();
        let wrong =
            |what: &dyn std::fmt::Display| Error::asked(format!("--payload {name}: {what}"));
        // A device or a pipe has no size and may have no end: it is read as far as the bound.
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| {
            let size = file.metadata()?.len();
            file.take(PAYLOADS_MAX + 1).read_to_end(&mut bytes)?;
            Ok(size)
        });
        let size = read.map_err(|error| wrong(&error))?;
        if bytes.len() as u64 > PAYLOADS_MAX {
            let size = match size {
                0..=PAYLOADS_MAX => format!("over {PAYLOADS_MAX}"),
                size => size.to_string(),
            };
            return Err(wrong(&format_args!("{size} bytes; at most {PAYLOADS_MAX}")));
        }
        if bytes.is_empty() {
            return Err(wrong(
                &"it is empty; --size 0 sends calls without a payload",
            ));
        }
        let check = |body: &[u8]| match body.len() as u64 {
            0..=SIZE_MAX => Ok(()),
            size => Err(wrong(&format_args!(
                "a payload of {size} bytes; at most {SIZE_MAX}"
            ))),
        };
        if !by_line {
            check(&bytes)?;
            let bodies = vec![bytes];
            return Ok(Self::File { name, bodies });
        }
        let bodies = bytes
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec());
        let bodies: Vec<_> = bodies.filter(|line| !line.is_empty()).collect();
        if bodies.is_empty() {
            return Err(wrong(&"no line with a payload; write one a line"));
        }
        bodies.iter().try_for_each(|body| check(body))?;
        Ok(Self::File { name, bodies })
    }

    /// Leaves out the newline at a file's end where the end of a line is the dialect's own: every
    /// editor writes one.
    fn fit(mut self, endpoint: Option<&Endpoint>) -> Self {
        let is_line = matches!(endpoint.map(Endpoint::protocol), Some(Protocol::Dialect(codec))
            if codec.dialect.name() == "line");
        if is_line && let Self::File { bodies, .. } = &mut self {
            for body in bodies.iter_mut().filter(|body| body.ends_with(b"\n")) {
                body.pop();
                if body.ends_with(b"\r") {
                    body.pop();
                }
            }
        }
        self
    }

    /// What a body of [`Self::bodies`] is on the command line.
    pub(crate) fn name(&self, number: usize) -> String {
        match self {
            Self::Sizes(mix) => {
                let size = mix.values().nth(number).copied().unwrap_or_default();
                format!("--size {size}")
            }
            Self::File { name, bodies } if bodies.len() == 1 => format!("--payload {name}"),
            Self::File { name, .. } => format!("--payload {name}, payload {}", number + 1),
        }
    }

    /// One for each value of a mix, or each of the file.
    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        match self {
            Self::Sizes(mix) => {
                let sizes = mix.values().map(|size| vec![b'x'; *size as usize]);
                sizes.map(Bytes::from).collect()
            }
            Self::File { bodies, .. } => bodies.iter().cloned().map(Bytes::from).collect(),
        }
    }
}

impl Plan {
    pub(crate) fn new(run: &LoadConfig) -> Result<Self, Error> {
        let rate = run.rate.clone().map(match run.arrival {
            Spacing::Constant => Arrival::Constant,
            Spacing::Poisson => Arrival::Poisson,
        });
        let shape = match (rate, run.burst) {
            (Some(rate), Some(burst)) => Shape::Open(Arrival::Both(Box::new(rate), burst)),
            (Some(rate), None) => Shape::Open(rate),
            (None, Some(burst)) => Shape::Open(Arrival::Burst(burst)),
            (None, None) => Shape::Closed {
                callers: run.callers,
            },
        };
        let steps = match &shape {
            Shape::Open(arrival) => arrival.time(),
            Shape::Closed { .. } => None,
        };
        if let (Some(steps), Some(duration)) = (steps, run.duration)
            && steps > duration
        {
            return Err(Error::asked(format!(
                "--rate has steps of {steps:?}, which --duration {duration:?} would cut off"
            )));
        }
        let is_ramp = matches!(&shape, Shape::Open(arrival) if arrival.is_ramp());
        if is_ramp && run.calls.is_some() && run.duration.is_none() {
            return Err(Error::asked(
                "--rate A..B grows over the measured time: with --calls, give --duration too",
            ));
        }
        let fitting = run.interval.saturating_mul(INTERVALS_MAX);
        let until_calls = run.calls.map(|_| DURATION_MAX.min(fitting));
        let duration = run.duration.or(steps).or(until_calls).unwrap_or(DURATION);
        let workers = run.workers.len().max(1) as u32;
        let parts = run.threads.saturating_mul(workers);
        let url = run.url.clone();
        let target: Target = url.parse()?;
        let endpoint = target.endpoint();
        let payload = match &run.payload {
            None => Payload::Sizes(run.size.clone()),
            Some(path) => Payload::read(path, run.payload_lines)?.fit(endpoint),
        };
        let is_native = !matches!(endpoint.map(Endpoint::protocol), Some(Protocol::Dialect(_)));
        let route = if is_native { ROUTE } else { ROUTE_OF_DIALECT };
        let plan = Self {
            url,
            route: run.route.clone().unwrap_or_else(|| route.to_owned()),
            shape,
            connections: run.connections.unwrap_or(parts),
            preset: run.preset.to_string(),
            threads: run.threads,
            payload,
            priority: run.priority.clone(),
            timeout: run.timeout.clone(),
            warmup: run.warmup,
            duration,
            interval: run.interval,
            calls: run.calls,
            seed: run.seed,
            worker: (0, workers),
        };
        plan.check()?;
        Ok(plan)
    }

    /// What a single value cannot tell. A worker checks again what it is sent.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.threads > THREADS_MAX || self.connections > CONNECTIONS_MAX {
            return Err(Error::asked(format!(
                "{} threads and {} connections; at most {THREADS_MAX} and {CONNECTIONS_MAX}",
                self.threads, self.connections
            )));
        }
        let (parts, connections) = (u64::from(self.parts()), self.connections);
        let sharing = format!("{} workers of {} threads", self.worker.1, self.threads);
        if u64::from(connections) < parts {
            return Err(Error::asked(format!(
                "--connections {connections} is too few for {sharing}; write {parts} or more"
            )));
        }
        if let Shape::Closed { callers } = self.shape
            && u64::from(callers) < parts
        {
            return Err(Error::asked(format!(
                "--callers {callers} is too few for {sharing}; write {parts} or more"
            )));
        }
        self.check_calls()?;
        if self.duration.is_zero() {
            return Err(Error::asked("--duration 0s measures nothing; write 5s"));
        }
        if self.interval.is_zero()
            || self.duration.as_nanos() / self.interval.as_nanos() > INTERVALS_MAX.into()
        {
            return Err(Error::asked(format!(
                "--interval {:?} is too short for --duration {:?}; at most {INTERVALS_MAX} fit",
                self.interval, self.duration
            )));
        }
        self.url.parse::<Target>()?;
        self.preset.parse::<Preset>().map_err(Error::asked)?;
        Ok(())
    }

    /// Refuses calls that can never be made, whatever the server does.
    fn check_calls(&self) -> Result<(), Error> {
        if self.parts() == 0 {
            return Err(Error::asked("no thread makes calls; ask for 1 or more"));
        }
        if let Payload::Sizes(mix) = &self.payload
            && let Some(size) = mix.values().find(|size| u64::from(**size) > SIZE_MAX)
        {
            return Err(Error::asked(format!(
                "a payload of {size} bytes; at most {SIZE_MAX}"
            )));
        }
        if let Some(priority) = self.priority.values().find(|priority| **priority > 7) {
            return Err(Error::asked(format!("priority {priority}; 0 to 7")));
        }
        if self.timeout.values().any(Duration::is_zero) {
            return Err(Error::asked("a deadline of no time; write 50ms"));
        }
        match &self.shape {
            Shape::Open(arrival) => arrival.check().map_err(Error::asked),
            Shape::Closed { .. } => Ok(()),
        }
    }

    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::default();
        // It was checked.
        config.connection.preset = self.preset.parse().unwrap_or_default();
        // As many as are asked for: the server says what it takes.
        config.connection.limits.max_calls = 65_536;
        // A caller that waits for a connection gives up when its call does.
        config.max_wait = self.timeout.values().max().copied().unwrap_or_default();
        // How long a server was gone is to be seen, not how patient clients are by default.
        config.backoff = Backoff {
            first: REDIAL_FIRST,
            max: REDIAL_MAX,
            attempts: None,
        };
        config
    }

    fn parts(&self) -> u32 {
        self.threads.saturating_mul(self.worker.1)
    }

    /// The share of a thread of this worker.
    pub(crate) fn part(&self, thread: u32) -> Part {
        let (worker, _) = self.worker;
        Part {
            number: worker * self.threads + thread,
            of: self.parts(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.shape, Shape::Open(_))
    }

    pub(crate) fn describe(&self) -> Load {
        let (shape, callers, arrival) = match &self.shape {
            Shape::Closed { callers } => (Loop::Closed, Some(*callers), None),
            Shape::Open(arrival) => (Loop::Open, None, Some(arrival)),
        };
        Load {
            shape,
            callers,
            rate_due: arrival.map(|arrival| arrival.rate_mean(self.duration)),
            arrival: arrival.map(ToString::to_string),
            connections: self.connections,
            preset: self.preset.clone(),
            threads: self.parts(),
            size: match &self.payload {
                Payload::Sizes(mix) => mix.to_string(),
                Payload::File { name, bodies } if bodies.len() == 1 => name.clone(),
                Payload::File { name, bodies } => format!("{name}, {} lines", bodies.len()),
            },
            priority: self.priority.to_string(),
            timeout: self.timeout.text(|time| {
                humantime::format_duration(*time)
                    .to_string()
                    .replace(' ', "")
            }),
            warmup_seconds: self.warmup.as_secs_f64(),
            duration_seconds: self.duration.as_secs_f64(),
            interval_seconds: self.interval.as_secs_f64(),
            seed: self.seed,
        }
    }

    /// The same for worker `number`.
    pub(crate) fn of_worker(&self, number: u32) -> Self {
        Self {
            worker: (number, self.worker.1),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::schedule::{Burst, Rate};
    use super::*;

    #[test]
    fn a_load_that_can_never_be_made_is_refused_with_the_reason() {
        let load = || LoadConfig::new("tcp://127.0.0.1:1");
        let burst = Burst {
            calls: 0,
            every: Duration::from_secs(1),
        };
        for (wrong, says) in [
            (
                LoadConfig {
                    rate: Some(Rate::Constant(f64::NAN)),
                    ..load()
                },
                "are possible",
            ),
            (
                LoadConfig {
                    burst: Some(burst),
                    ..load()
                },
                "1 to 50000 calls",
            ),
            (
                LoadConfig {
                    threads: 0,
                    ..load()
                },
                "no thread makes calls",
            ),
            (
                LoadConfig {
                    priority: Mix::one(8),
                    ..load()
                },
                "0 to 7",
            ),
            (
                LoadConfig {
                    timeout: Mix::one(Duration::ZERO),
                    ..load()
                },
                "a deadline of no time",
            ),
            (
                LoadConfig {
                    size: Mix::one(u32::MAX),
                    ..load()
                },
                "at most 16777216",
            ),
        ] {
            let refused = Plan::new(&wrong).expect_err("it cannot be made");
            assert!(refused.to_string().contains(says), "{refused}");
        }
        Plan::new(&load()).expect("it can be made");
    }
}
