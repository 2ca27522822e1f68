//! One run: from a plan to a report.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use postroad::discovery::Target;

use crate::bounds::{self, Bounds};
use crate::engine::Generator;
use crate::error::Error;
use crate::fleet::coordinator::Coordinator;
use crate::plan::Plan;
use crate::plan::config::LoadConfig;
use crate::record::Chunk;
use crate::record::ends::Watched;
use crate::record::losses::Losses;
use crate::report::{
    Distribution, Ends, FORMAT, Interval, Machine, Priority, Report, Silence, Validity, Worker,
};
use crate::targets;
use crate::watcher::{Progress, Watcher};

/// A last interval shorter than this share of one belongs to the one before.
const SLIVER: f64 = 0.1;

/// Who makes the calls.
enum Source {
    Here(Generator),
    Workers(Coordinator),
}

impl Source {
    /// Connects; none if it was interrupted meanwhile.
    async fn prepare(test: &LoadTest, watcher: &mut impl Watcher) -> Result<Option<Self>, Error> {
        let plan = &test.plan;
        if !test.workers.is_empty() {
            let prepared = Coordinator::prepare(plan, &test.workers, watcher).await?;
            return Ok(prepared.map(Self::Workers));
        }
        tokio::select! {
            prepared = Generator::prepare(plan) => Ok(Some(Self::Here(prepared?))),
            () = watcher.interrupted() => Ok(None),
        }
    }

    /// Begins the load, everywhere; none if it was interrupted meanwhile.
    async fn start(&mut self, watcher: &mut impl Watcher) -> Option<Instant> {
        match self {
            Self::Here(generator) => Some(generator.start()),
            Self::Workers(coordinator) => coordinator.start(watcher).await,
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

    fn losses(&self) -> Losses {
        match self {
            Self::Here(generator) => generator.losses(),
            Self::Workers(coordinator) => coordinator.losses(),
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
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was measured, to its end or until it was interrupted; then
    /// [`stopped`](Report::stopped) says so.
    Measured(Box<Report>),
    /// It was interrupted before the load had begun: nothing was measured.
    NotBegun,
}

/// A load that was checked and can be made.
#[derive(Clone, Debug)]
pub struct LoadTest {
    plan: Arc<Plan>,
    workers: Vec<String>,
    server_pid: Option<u32>,
    bounds: Bounds,
}

impl LoadTest {
    /// Checks what is wanted, as far as that is possible without a connection: it reads the file of
    /// payloads and calls nobody.
    ///
    /// # Errors
    ///
    /// [`Error::Asked`] and [`Error::Endpoint`] say what is wrong and what to ask for instead.
    pub fn new(config: LoadConfig) -> Result<Self, Error> {
        if let Some(pid) = config.server_pid
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            return Err(Error::asked(format!(
                "--server-pid {pid}: there is no such process; write the server's"
            )));
        }
        let plan = Plan::new(&config)?;
        targets::check(&plan)?;
        Ok(Self {
            plan: Arc::new(plan),
            workers: config.workers,
            server_pid: config.server_pid,
            bounds: config.bounds,
        })
    }

    /// Whether a warm-up comes before the measurement.
    pub fn warms_up(&self) -> bool {
        !self.plan.warmup.is_zero()
    }

    /// Connects, makes the calls and says what was measured. Needs a Tokio runtime with all its
    /// drivers enabled; the calls themselves are made on threads of their own.
    ///
    /// Not cancel safe: a future that is dropped half way ends the load and loses what was
    /// measured. A [`Watcher`] ends it properly.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] or [`Error::Worker`] if not every connection can be made, and
    /// [`Error::System`] if a thread cannot be started. Calls that fail are no error: they are what
    /// the report tells of.
    pub async fn run(&self, watcher: &mut impl Watcher) -> Result<Outcome, Error> {
        let target: Target = self.plan.url.parse()?;
        let Some(mut source) = Source::prepare(self, watcher).await? else {
            return Ok(Outcome::NotBegun);
        };
        let client = if self.workers.is_empty() {
            Watched::this_process()
        } else {
            Watched::unknown("the calls were made by workers, which say what theirs cost")
        };
        let mut measured = Measured {
            total: Chunk::new(0),
            series: Vec::new(),
            client,
            server: Watched::server(self.server_pid, target.endpoint()),
            last: Chunk::new(0),
            stopped: None,
        };
        let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        if self.plan.warmup.is_zero() {
            // A short run would be over before a timer of a millisecond.
            measured.look();
        }
        let Some(begin) = source.start(watcher).await else {
            return Ok(Outcome::NotBegun);
        };
        gather(self, &mut source, begin, &mut measured, watcher).await;
        let report = measured.report(self, started, &source);
        Ok(Outcome::Measured(Box::new(report)))
    }
}

/// Takes every interval until the load is over.
async fn gather(
    test: &LoadTest,
    source: &mut Source,
    begin: Instant,
    measured: &mut Measured,
    watcher: &mut impl Watcher,
) {
    let plan = &test.plan;
    let start = begin + plan.warmup;
    let mut look = start;
    if plan.warmup.is_zero() {
        look += plan.interval;
    }
    let mut is_interrupted = false;
    loop {
        tokio::select! {
            // Each interval needs its look, however late this is.
            biased;
            () = tokio::time::sleep_until(look.into()) => {
                measured.look();
                look += plan.interval;
            }
            () = watcher.interrupted() => {
                source.stop();
                // The second insists: what has not been reported is given up.
                if is_interrupted {
                    source.give_up();
                }
                is_interrupted = true;
                measured.stopped = Some("it was interrupted".to_owned());
            }
            chunk = source.next() => {
                let Some(chunk) = chunk else { break };
                let begun = plan.interval.as_secs_f64() * chunk.number as f64;
                let is_loaded = begun < plan.duration.as_secs_f64();
                if is_loaded {
                    watcher.progress(&Progress::new(plan, &chunk, &measured.total));
                }
                measured.add(&chunk, plan.interval);
                if measured.judge(&test.bounds, plan.interval, chunk, is_loaded) {
                    source.stop();
                }
            }
        }
    }
    measured.look();
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
        self.stopped = bounds::stop(bounds, &self.last, &self.total, overdue).map(|why| {
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

    fn report(mut self, test: &LoadTest, started: String, source: &Source) -> Report {
        self.finish_series();
        let plan = &test.plan;
        let (total, workers) = (&self.total, source.workers());
        let seconds = total.until.as_secs_f64();
        let priorities = total.priorities.iter().rev();
        let sent = total.sent();
        let losses = source.losses();
        let mut report = Report {
            format: FORMAT,
            program: concat!("postroad ", env!("CARGO_PKG_VERSION")).to_owned(),
            machine: machine(),
            started,
            url: plan.url.clone(),
            route: plan.route.clone(),
            load: plan.describe(),
            validity: validity(test, total, source),
            stopped: self.stopped,
            seconds,
            answered: total.answered(),
            failed: total.failed(),
            not_sent: total.not_sent,
            held: total.held,
            unfinished: total.unfinished(),
            connections_lost: losses.at_end,
            losses: losses.in_all,
            silence: Silence {
                seconds: total.silence.time.as_secs_f64(),
                since: total.silence.since.as_secs_f64(),
            },
            errors: total.errors.clone(),
            examples: total.examples.clone(),
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
                    errors: share.errors.clone(),
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
        report.thresholds = bounds::all(&test.bounds, &report);
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
fn validity(test: &LoadTest, total: &Chunk, source: &Source) -> Validity {
    let (plan, bounds) = (&test.plan, &test.bounds);
    let mut reasons = Vec::new();
    // The generator may not be late where a threshold would call that the server's doing.
    let (share, name) = match bounds.max_p999 {
        Some(_) => (0.999, "p99.9"),
        None => (0.99, "p99"),
    };
    let late = Duration::from_nanos(total.lateness.value_at_quantile(share));
    if plan.is_open() && late > bounds.max_lateness {
        reasons.push(format!(
            "the generator itself was {late:.1?} late at {name}, over {:?} (--max-lateness): the \
             latencies are not the server's alone",
            bounds.max_lateness
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
