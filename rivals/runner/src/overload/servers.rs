//! Starts the servers, and loads them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::cases::{Case, DEADLINES, PRIORITIES, System, Work};
use super::measured::Measured;
use crate::Result;
use crate::process::{Running, Scratch, free_address};

/// How long a generator may take beyond its load.
const PATIENCE: Duration = Duration::from_secs(30);
/// Seconds of load before each measurement.
const WARM_UP: f64 = 0.6;

/// The programs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) postroad: PathBuf,
    pub(crate) tonic: PathBuf,
    pub(crate) scratch: Scratch,
}

/// What is offered.
#[derive(Clone, Debug)]
pub(crate) enum Offer {
    /// Callers that wait for their answers, without deadlines, so many seconds.
    Closed(usize, f64),
    /// Rates, each with its seconds.
    Open(Vec<(f64, f64)>),
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    running: Running,
    system: System,
    at: String,
}

impl Programs {
    /// Starts a server for a case. The capacity of tonic is that of its limit when it sheds
    /// nothing.
    pub(crate) fn serve(&self, system: System, case: &Case, sheds: bool) -> Result<Server> {
        let at = free_address()?;
        let (program, arguments) = match system {
            System::Tonic => (&self.tonic, tonic(&at, case, sheds)),
            _ => (
                &self.postroad,
                self.postroad(&at, &config_of(system, case))?,
            ),
        };
        Server::start(program, &arguments, system, at)
    }

    /// Starts Postroad with a configuration.
    pub(crate) fn serve_with(&self, config: &str) -> Result<Server> {
        let at = free_address()?;
        let arguments = self.postroad(&at, config)?;
        Server::start(&self.postroad, &arguments, System::Postroad, at)
    }

    fn postroad(&self, at: &str, config: &str) -> Result<Vec<String>> {
        let file = self.scratch.0.join("overload.toml");
        fs::write(&file, config)?;
        let mut arguments = words(&format!(
            "serve --practice --workers 1 --admin off --log off --listen tcp://{at} --config"
        ));
        arguments.push(file.to_string_lossy().into_owned());
        Ok(arguments)
    }

    pub(crate) fn load(&self, server: &mut Server, case: &Case, offer: &Offer) -> Result<Measured> {
        match server.system {
            System::Tonic => {
                let arguments = self.tonic_load(&server.at, case, offer);
                Ok(serde_json::from_value(
                    server.loaded_by(&self.tonic, &arguments)?,
                )?)
            }
            _ => Measured::of_report(&self.report(server, case.work, &bench(offer))?),
        }
    }

    /// The report of `postroad bench` with these flags.
    pub(crate) fn report(&self, server: &mut Server, work: Work, flags: &str) -> Result<Value> {
        let (route, payload) = match work {
            Work::SleepMs(ms) => ("practice/sleep", format!("{{\"ms\": {ms}}}")),
            Work::SpinUs(us) => ("practice/spin", format!("{{\"us\": {us}}}")),
        };
        let file = self.scratch.0.join("payload.json");
        fs::write(&file, payload)?;
        let mut arguments = words(&format!(
            "bench tcp://{} --route {route} --output json --interval 100ms --max-lateness 1h \
             {flags} --payload",
            server.at
        ));
        arguments.push(file.to_string_lossy().into_owned());
        server.loaded_by(&self.postroad, &arguments)
    }

    fn tonic_load(&self, at: &str, case: &Case, offer: &Offer) -> Vec<String> {
        let work = match case.work {
            Work::SleepMs(ms) => format!("--sleep-ms {ms}"),
            Work::SpinUs(us) => format!("--spin-us {us}"),
        };
        let priorities = PRIORITIES.map(|(level, percent)| format!("{level}:{percent}"));
        let deadlines = DEADLINES.map(|ms| ms.to_string());
        let offered = match offer {
            Offer::Closed(callers, seconds) => format!("--callers {callers} --seconds {seconds}"),
            Offer::Open(steps) => format!(
                "--rate {} --timeout-ms {}",
                steps_of(steps, |rate, ms| format!("{rate}:{}", ms as f64 / 1e3)),
                deadlines.join(",")
            ),
        };
        words(&format!(
            "load --at {at} {work} --warm-up {} --priority {} {offered}",
            WARM_UP,
            priorities.join(",")
        ))
    }
}

impl Server {
    fn start(program: &Path, arguments: &[String], system: System, at: String) -> Result<Self> {
        let mut running = Running::start(program, arguments, false)?;
        running.accepts_at(&at)?;
        Ok(Self {
            running,
            system,
            at,
        })
    }

    /// What a generator says, after which the server must still run.
    fn loaded_by(&mut self, program: &Path, arguments: &[String]) -> Result<Value> {
        let output = Command::new("timeout")
            .arg(PATIENCE.as_secs().to_string())
            .arg(program)
            .args(arguments)
            .output()?;
        self.running.must_run()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = serde_json::from_str(&text).map_err(|error| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            format!("the generator said {text:?} and {complaint:?}: {error}")
        })?;
        Ok(said)
    }
}

/// The flags of `postroad bench`.
fn bench(offer: &Offer) -> String {
    let priorities = PRIORITIES.map(|(level, percent)| format!("{level}:{percent}%"));
    let deadlines = DEADLINES.map(|ms| format!("{ms}ms:50%"));
    let warm_up = WARM_UP * 1e3;
    match offer {
        // The report has priorities only of a mix.
        Offer::Closed(callers, seconds) => format!(
            "--callers {callers} --warmup {warm_up}ms --duration {}ms --priority 4:50%,5:50%",
            seconds * 1e3
        ),
        Offer::Open(steps) => format!(
            "--rate {} --warmup {warm_up}ms --priority {} --timeout {}",
            steps_of(steps, |rate, ms| format!("{rate}:{ms}ms")),
            priorities.join(","),
            deadlines.join(",")
        ),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Whole calls a second, and milliseconds.
fn steps_of(steps: &[(f64, f64)], show: impl Fn(u64, u64) -> String) -> String {
    let steps = steps
        .iter()
        .map(|(rate, seconds)| show(rate.round() as u64, (seconds * 1e3).round() as u64));
    steps.collect::<Vec<_>>().join(",")
}

fn tonic(at: &str, case: &Case, sheds: bool) -> Vec<String> {
    let mut arguments = words(&format!(
        "serve --at {at} --concurrency {}",
        case.concurrency
    ));
    if sheds {
        arguments.push("--shed".to_owned());
    }
    arguments
}

/// The configuration of a node. More calls may be in flight on its one connection than there ever
/// are, so that no other bound is met than those that are compared.
fn config_of(system: System, case: &Case) -> String {
    let limit = match case.work {
        Work::SleepMs(_) => format!("concurrency = {}\n", case.concurrency),
        Work::SpinUs(_) => String::new(),
    };
    let (shed, rule) = match system {
        System::Off => (false, format!("priority = 0\n{limit}")),
        _ => (true, limit),
    };
    format!(
        "[server]\nshed = {shed}\nmax_requests = 100_000\n\n[limits]\nmax_calls = 65536\n\n\
         [[route]]\nname = \"practice/*\"\n{rule}"
    )
}
