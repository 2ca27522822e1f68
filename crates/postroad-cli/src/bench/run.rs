//! One run: from a plan to a report.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use postroad::Endpoint;

use super::args::{Bounds, Run};
use super::coordinator::Coordinator;
use super::ends::Watched;
use super::engine::Generator;
use super::plan::Plan;
use super::progress::Progress;
use super::recorder::Chunk;
use super::report::{
    Distribution, Ends, FORMAT, Interval, Machine, Priority, Report, Silence, Validity, Worker,
};
use super::threshold;
use crate::exit::Failed;
use crate::signals::Signals;

/// A last interval shorter than this share of one belongs to the one before.
const SLIVER: f64 = 0.1;

/// Who makes the calls.
enum Source {
    Here(Generator),
    Workers(Coordinator),
}

impl Source {
    /// Connects; or the code of a signal that came meanwhile.
    async fn prepare(
        run: &Run,
        plan: &Arc<Plan>,
        signals: &mut Signals,
    ) -> Result<Result<Self, ExitCode>, Failed> {
        if !run.workers.is_empty() {
            let prepared = Coordinator::prepare(plan, &run.workers, signals).await?;
            return Ok(prepared.map(Self::Workers));
        }
        tokio::select! {
            prepared = Generator::prepare(plan) => Ok(Ok(Self::Here(prepared?))),
            code = signals.next() => Ok(Err(code)),
        }
    }

    /// Begins the load, everywhere; or the code of a signal that came meanwhile.
    async fn start(&mut self, signals: &mut Signals) -> Result<Instant, ExitCode> {
        match self {
            Self::Here(generator) => Ok(generator.start()),
            Self::Workers(coordinator) => coordinator.start(signals).await,
        }
    }

    /// What has not been reported by now is given up.
    fn give_up(&mut self) {
        match self {
            Self::Here(generator) => generator.give_up(),
            Self::Workers(coordinator) => coordinator.give_up(),
        }
    }

    fn stop(&self) {
        match self {
            Self::Here(generator) => generator.stop(),
            Self::Workers(coordinator) => coordinator.stop(),
        }
    }

    async fn next(&mut self) -> Option<Chunk> {
        match self {
            Self::Here(generator) => generator.next().await,
            Self::Workers(coordinator) => coordinator.next().await,
        }
    }

    fn connections_lost(&self) -> usize {
        match self {
            Self::Here(generator) => generator.connections_lost(),
            Self::Workers(coordinator) => coordinator.connections_lost(),
        }
    }

    fn workers(&self) -> Vec<Worker> {
        match self {
            Self::Here(_) => Vec::new(),
            Self::Workers(coordinator) => coordinator.workers(),
        }
    }

    /// What is missing in the numbers, other than what workers have not reported.
    fn missing(&self) -> Option<String> {
        match self {
            Self::Here(generator) => generator.gave_up(),
            Self::Workers(_) => None,
        }
    }
}

/// What has been measured so far.
struct Measured {
    total: Chunk,
    series: Vec<Interval>,
    client: Watched,
    server: Watched,
    /// The last interval that was loaded, and what ended behind it.
    last: Chunk,
    /// Which stop condition was met, or that it was interrupted.
    stopped: Option<String>,
}

/// How a run ended.
pub(super) enum Outcome {
    Measured {
        report: Box<Report>,
        /// After a signal, its exit code.
        interrupted: Option<ExitCode>,
    },
    /// A signal came before the load; its exit code.
    NotBegun(ExitCode),
}

pub(super) async fn measure(run: &Run, plan: Plan) -> Result<Outcome, Failed> {
    if let Some(pid) = run.server_pid
        && !Path::new(&format!("/proc/{pid}")).exists()
    {
        return Err(Failed::usage(format!(
            "--server-pid {pid}: there is no such process; write the server's"
        )));
    }
    let mut signals = Signals::listen()?;
    let endpoint: Endpoint = plan.url.parse()?;
    let plan = Arc::new(plan);
    let mut source = match Source::prepare(run, &plan, &mut signals).await? {
        Ok(source) => source,
        Err(code) => return Ok(Outcome::NotBegun(code)),
    };
    let client = if run.workers.is_empty() {
        Watched::this_process()
    } else {
        Watched::unknown("the calls were made by workers, which say what theirs cost")
    };
    let mut measured = Measured {
        total: Chunk::new(0),
        series: Vec::new(),
        client,
        server: Watched::server(run.server_pid, &endpoint),
        last: Chunk::new(0),
        stopped: None,
    };
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    if plan.warmup.is_zero() {
        // A short run would be over before a timer of a millisecond.
        measured.look();
    }
    let begin = match source.start(&mut signals).await {
        Ok(begin) => begin,
        Err(code) => return Ok(Outcome::NotBegun(code)),
    };
    let interrupted = gather(run, &plan, &mut source, begin, &mut measured, &mut signals).await;
    let report = Box::new(measured.report(run, &plan, started, &source));
    Ok(Outcome::Measured {
        report,
        interrupted,
    })
}

/// Takes every interval until the load is over; the code of the signal that ended it.
async fn gather(
    run: &Run,
    plan: &Plan,
    source: &mut Source,
    begin: Instant,
    measured: &mut Measured,
    signals: &mut Signals,
) -> Option<ExitCode> {
    let start = begin + plan.warmup;
    let mut look = start;
    if plan.warmup.is_zero() {
        look += plan.interval;
    }
    let mut interrupted = None;
    let mut progress = Progress::new(plan);
    loop {
        tokio::select! {
            // Each interval needs its look, however late this is.
            biased;
            () = tokio::time::sleep_until(look.into()) => {
                measured.look();
                look += plan.interval;
            }
            code = signals.next() => {
                source.stop();
                // The second insists: what has not been reported is given up.
                if interrupted.replace(code).is_some() {
                    source.give_up();
                }
                measured.stopped = Some("it was interrupted".to_owned());
            }
            chunk = source.next() => {
                let Some(chunk) = chunk else { break };
                let begun = plan.interval.as_secs_f64() * chunk.number as f64;
                let is_loaded = begun < plan.duration.as_secs_f64();
                if is_loaded {
                    progress.show(&chunk, &measured.total);
                }
                measured.add(&chunk, plan.interval);
                if measured.judge(&run.bounds, plan.interval, chunk, is_loaded) {
                    source.stop();
                }
            }
        }
    }
    progress.clear();
    measured.look();
    interrupted
}

impl Measured {
    fn look(&mut self) {
        self.client.look();
        self.server.look();
    }

    fn add(&mut self, chunk: &Chunk, interval: Duration) {
        self.total.add(chunk);
        let latency = Some(&chunk.latency).filter(|latency| !latency.is_empty());
        let quantile = |quantile| latency.map(|latency| latency.value_at_quantile(quantile));
        let late = &chunk.lateness;
        self.series.push(Interval {
            at_seconds: interval.as_secs_f64() * chunk.number as f64,
            seconds: interval.as_secs_f64(),
            due: chunk.due,
            answered: chunk.answered(),
            failed: chunk.failed(),
            errors: chunk.errors.clone(),
            waiting: chunk.waiting.values().sum(),
            rate: chunk.answered() as f64 / interval.as_secs_f64(),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            max_ns: latency.map(Histogram::max),
            hdr: (&chunk.latency).into(),
            late_max_ns: (!late.is_empty()).then(|| late.max()),
            client: None,
            server: None,
        });
    }

    /// Looks whether a stop condition is met now that this interval is over; whether the load is to
    /// end for that. Calls that end behind the load count as those of its last interval: they are
    /// few, and make none of their own.
    fn judge(
        &mut self,
        bounds: &Bounds,
        interval: Duration,
        chunk: Chunk,
        is_loaded: bool,
    ) -> bool {
        let overdue = overdue(&chunk, interval, bounds.stop_p99);
        if is_loaded {
            self.last = chunk;
        } else {
            self.last.add(&chunk);
        }
        if self.stopped.is_some() {
            return false;
        }
        self.stopped = threshold::stop(bounds, &self.last, &self.total, overdue).map(|why| {
            if is_loaded {
                why
            } else {
                format!("{why}, when all calls had been made")
            }
        });
        self.stopped.is_some() && is_loaded
    }

    /// The time that was measured is known only now: the last interval may be short, and those
    /// behind it are none. What callers still waited for at the end makes no interval of its own.
    fn finish_series(&mut self) {
        let seconds = self.total.ended.as_secs_f64();
        let is_empty = |last: &Interval| {
            last.at_seconds >= seconds && last.answered + last.failed + last.due == 0
        };
        while self.series.last().is_some_and(is_empty) {
            self.series.pop();
        }
        if let Some(last) = self.series.last_mut()
            && seconds > last.at_seconds
        {
            last.seconds = last.seconds.min(seconds - last.at_seconds);
            last.rate = last.answered as f64 / last.seconds;
        }
        for (number, interval) in self.series.iter_mut().enumerate() {
            interval.client = self.client.sample(number);
            interval.server = self.server.sample(number);
        }
        if let [.., before, last] = self.series.as_mut_slice()
            && last.seconds < before.seconds * SLIVER
        {
            before.extend(last);
            self.series.pop();
        }
    }

    fn report(mut self, run: &Run, plan: &Plan, started: String, source: &Source) -> Report {
        self.finish_series();
        let (total, workers) = (&self.total, source.workers());
        let seconds = total.until.as_secs_f64();
        let priorities = total.priorities.iter().rev();
        let sent = total.sent();
        let mut report = Report {
            format: FORMAT,
            program: concat!("postroad ", env!("CARGO_PKG_VERSION")).to_owned(),
            machine: machine(),
            started,
            url: plan.url.clone(),
            route: plan.route.clone(),
            load: plan.describe(),
            validity: validity(run, plan, total, source),
            stopped: self.stopped,
            seconds,
            answered: total.answered(),
            failed: total.failed(),
            not_sent: total.not_sent,
            held: total.held,
            unfinished: total.unfinished(),
            connections_lost: source.connections_lost() as u64,
            silence: Silence {
                seconds: total.silence.time.as_secs_f64(),
                since: total.silence.since.as_secs_f64(),
            },
            errors: total.errors.clone(),
            rate: total.answered() as f64 / seconds.max(1e-9),
            sent_bytes: total.sent_bytes,
            received_bytes: total.received_bytes,
            latency_ns: (&total.latency).into(),
            lateness_ns: plan.is_open().then(|| (&total.lateness).into()),
            priorities: priorities
                .map(|(priority, share)| Priority {
                    priority: *priority,
                    answered: share.latency.len(),
                    failed: share.failed,
                    latency_ns: Distribution::from(&share.latency),
                })
                .collect(),
            series: self.series,
            ends: Ends {
                client: self.client.end(sent),
                server: self.server.end(sent),
            },
            workers,
            thresholds: Vec::new(),
        };
        report.thresholds = threshold::all(&run.bounds, &report);
        report
    }
}

/// Calls that were due longer ago than that when an interval was over, and had not ended.
fn overdue(chunk: &Chunk, interval: Duration, limit: Option<Duration>) -> u64 {
    let Some(limit) = limit else { return 0 };
    // Those that were due in an interval which had ended so long before.
    let back = limit.as_nanos().div_ceil(interval.as_nanos().max(1));
    let old = chunk.waiting.iter();
    let old = old.filter(|(number, _)| u128::from(**number) + back <= chunk.number.into());
    old.map(|(_, calls)| calls).sum()
}

/// Whether the numbers say something about the server, and why not.
fn validity(run: &Run, plan: &Plan, total: &Chunk, source: &Source) -> Validity {
    let mut reasons = Vec::new();
    // The generator may not be late where a threshold would call that the server's doing.
    let (share, name) = match run.bounds.max_p999 {
        Some(_) => (0.999, "p99.9"),
        None => (0.99, "p99"),
    };
    let late = Duration::from_nanos(total.lateness.value_at_quantile(share));
    if plan.is_open() && late > run.bounds.max_lateness {
        reasons.push(format!(
            "the generator itself was {late:.1?} late at {name}, over {:?} (--max-lateness): the \
             latencies are not the server's alone",
            run.bounds.max_lateness
        ));
    }
    if total.refused > 0 {
        let what = if plan.is_open() {
            "a lower --rate"
        } else {
            "fewer --callers"
        };
        reasons.push(format!(
            "the generator refused {} calls itself, because its connections had too many in \
             flight: give more --connections or {what}",
            total.refused
        ));
    }
    if total.answered() == 0 {
        reasons.push("no call was answered".to_owned());
    }
    let valid = reasons.is_empty();
    let lost = source.workers().into_iter().filter_map(|worker| {
        let why = worker.lost?;
        Some(format!("worker {} was lost: {why}", worker.name))
    });
    let reasons_before = reasons.len();
    reasons.extend(lost.chain(source.missing()));
    Validity {
        valid,
        complete: reasons.len() == reasons_before,
        reasons,
    }
}

fn machine() -> Machine {
    let system = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Machine {
        system: format!("{} {}", text(system.sysname()), text(system.release())),
        processor: model.map_or("unknown", |(_, model)| model).to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }
}
