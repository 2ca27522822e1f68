//! One run: from a plan to a report.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use postroad::Endpoint;

use super::args::Run;
use super::coordinator::Coordinator;
use super::ends::Watched;
use super::engine::Generator;
use super::plan::Plan;
use super::progress::Progress;
use super::recorder::Chunk;
use super::report::{
    Distribution, Ends, FORMAT, Interval, Machine, Priority, Report, Validity, Worker,
};
use super::threshold;
use crate::exit::Failed;
use crate::signals::Signals;
use crate::terminal::tell;

/// A last interval shorter than this share of one belongs to the one before.
const SLIVER: f64 = 0.1;

/// Who makes the calls.
enum Source {
    Here(Generator),
    Workers(Coordinator),
}

impl Source {
    async fn prepare(run: &Run, plan: &Arc<Plan>) -> Result<Self, Failed> {
        Ok(if run.workers.is_empty() {
            Self::Here(Generator::prepare(plan).await?)
        } else {
            Self::Workers(Coordinator::prepare(plan, &run.workers).await?)
        })
    }

    async fn start(&mut self) -> Instant {
        match self {
            Self::Here(generator) => generator.start(),
            Self::Workers(coordinator) => coordinator.start().await,
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
}

/// What has been measured so far.
struct Measured {
    total: Chunk,
    series: Vec<Interval>,
    client: Watched,
    server: Watched,
    /// Why the run ended before its time.
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
    let mut source = tokio::select! {
        prepared = Source::prepare(run, &plan) => prepared?,
        code = signals.next() => return Ok(Outcome::NotBegun(code)),
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
        stopped: None,
    };
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    if plan.warmup.is_zero() {
        // A short run would be over before a timer of a millisecond.
        measured.look();
    }
    let begin = source.start().await;
    let interrupted = gather(run, &plan, &mut source, begin, &mut measured, &mut signals).await;
    let lost = source.connections_lost();
    if lost > 0 {
        tell(format_args!(
            "warning: {lost} connections were lost and have not come back"
        ));
    }
    let report = Box::new(measured.report(run, &plan, started, source.workers()));
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
        let may_look = look < start + plan.duration;
        tokio::select! {
            chunk = source.next() => {
                let Some(chunk) = chunk else { break };
                // The few calls that end behind the last interval are no interval of their own.
                let begun = plan.interval.as_secs_f64() * chunk.number as f64;
                let is_whole = begun < plan.duration.as_secs_f64();
                if is_whole {
                    progress.show(&chunk, &measured.total);
                }
                measured.add(&chunk, plan.interval);
                if measured.stopped.is_none() && is_whole {
                    let overdue = measured.overdue(run.bounds.stop_p99);
                    measured.stopped =
                        threshold::stop(&run.bounds, &chunk, &measured.total, overdue);
                    if measured.stopped.is_some() {
                        source.stop();
                    }
                }
            }
            () = tokio::time::sleep_until(look.into()), if may_look => {
                measured.look();
                look += plan.interval;
            }
            code = signals.next() => {
                source.stop();
                // The second insists: what workers still have is given up.
                if interrupted.replace(code).is_some() {
                    break;
                }
                measured.stopped = Some("it was interrupted".to_owned());
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

    /// Calls that were due so long before the end of the last interval and have not ended: at least
    /// so many.
    fn overdue(&self, limit: Option<Duration>) -> u64 {
        let (Some(limit), Some(last)) = (limit, self.series.last()) else {
            return 0;
        };
        let before = last.at_seconds + last.seconds - limit.as_secs_f64();
        let is_old = |each: &&Interval| each.at_seconds + each.seconds < before + 1e-6;
        let old: u64 = self.series.iter().filter(is_old).map(|each| each.due).sum();
        old.saturating_sub(self.total.answered() + self.total.failed())
    }

    /// The time that was measured is known only now: the last interval may be short, and those
    /// behind it are none. What callers still waited for at the end makes no interval of its own.
    fn finish_series(&mut self) -> f64 {
        let seconds = self.total.until.as_secs_f64();
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
        if let [.., before, last] = self.series.as_mut_slice()
            && last.seconds < before.seconds * SLIVER
        {
            before.extend(last);
            self.series.pop();
        }
        for (number, interval) in self.series.iter_mut().enumerate() {
            interval.client = self.client.sample(number);
            interval.server = self.server.sample(number);
        }
        seconds
    }

    fn report(mut self, run: &Run, plan: &Plan, started: String, workers: Vec<Worker>) -> Report {
        let seconds = self.finish_series();
        let total = &self.total;
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
            validity: validity(run, plan, total, &workers),
            stopped: self.stopped,
            seconds,
            answered: total.answered(),
            failed: total.failed(),
            not_sent: total.not_sent,
            held: total.held,
            unfinished: total.unfinished(),
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

/// Whether the numbers say something about the server, and why not.
fn validity(run: &Run, plan: &Plan, total: &Chunk, workers: &[Worker]) -> Validity {
    let mut reasons = Vec::new();
    let late = Duration::from_nanos(total.lateness.value_at_quantile(0.99));
    if plan.is_open() && late > run.bounds.max_lateness {
        reasons.push(format!(
            "the generator itself was {late:.1?} late at p99, over {:?} (--max-lateness): the \
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
    let lost = workers.iter().filter_map(|worker| {
        let why = worker.lost.as_ref()?;
        Some(format!("worker {} was lost: {why}", worker.name))
    });
    let reasons_before = reasons.len();
    reasons.extend(lost);
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
