//! The result of a run, as it is written to a file and read back: everything that tables, pages
//! and comparisons say comes from here.

pub mod files;
pub(crate) mod page;
mod table;
pub(crate) mod units;
mod verdict;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

pub use table::{Paint, Plain, text};
pub use verdict::Verdict;

/// Number of this format; it grows when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// Share of failed or unfinished calls above which the percentiles come with a warning.
const SHARE_NOTED: f64 = 0.01;

/// A run and what was measured in it. Counts, rates and latencies are of the measured time, which
/// begins after the warm-up; a call belongs to it when it was due in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Name and version of the program that measured.
    pub program: String,
    /// Where it ran.
    pub machine: Machine,
    /// When the load began, RFC 3339 in UTC.
    pub started: String,
    /// Endpoint that was called.
    pub url: String,
    /// Route that was called.
    pub route: String,
    /// What load was asked for.
    pub load: Load,
    /// Whether the numbers say something about the server.
    pub validity: Validity,
    /// Which stop condition was met, or that it was interrupted.
    pub stopped: Option<String>,
    /// Time from the beginning of the measurement until its end or the last answer that counts,
    /// whichever is later; shorter only where a number of calls, a stop condition or a signal ended
    /// it.
    pub seconds: f64,
    /// Answered calls.
    pub answered: u64,
    /// All that were due and not answered: the sum of `errors`, and `not_sent`.
    pub failed: u64,
    /// Calls that were due and not sent, because too many were in flight here.
    pub not_sent: u64,
    /// Calls that became due while their connection took none, because it was gone or carried as
    /// many as its server allows: they were made as soon as it did, or failed when their time was
    /// over. Of an open loop.
    #[serde(default)]
    pub held: u64,
    /// Calls that were due and neither answered nor failed when the run was ended before its time.
    #[serde(default)]
    pub unfinished: u64,
    /// Connections that were lost and had not come back at the end.
    #[serde(default)]
    pub connections_lost: u64,
    /// How often connections were lost in all, whether or not they came back; one that is lost
    /// again counts again.
    #[serde(default)]
    pub losses: u64,
    /// The longest time in which calls of a generator's thread waited and none was answered.
    #[serde(default)]
    pub silence: Silence,
    /// Calls that failed, by code.
    pub errors: BTreeMap<String, u64>,
    /// One reason for each of these codes, in words.
    #[serde(default)]
    pub examples: BTreeMap<String, String>,
    /// Answered calls a second.
    pub rate: f64,
    /// Bytes of payloads of answered calls.
    pub sent_bytes: u64,
    /// Bytes of the payloads of answers.
    pub received_bytes: u64,
    /// From when a call was due (open loop) or sent (closed loop) to its answer; answered calls.
    pub latency_ns: Distribution,
    /// How late the generator itself sent, after a call was due; of an open loop.
    pub lateness_ns: Option<Distribution>,
    /// One for each priority, the most urgent first, when there are several.
    pub priorities: Vec<Priority>,
    /// In order of time and without holes.
    pub series: Vec<Interval>,
    /// What the load cost both ends.
    pub ends: Ends,
    /// One for each worker of a distributed run.
    pub workers: Vec<Worker>,
    /// The thresholds that were asked for.
    pub thresholds: Vec<Threshold>,
}

impl Report {
    /// What the percentiles do not tell: that more than one call in a hundred failed, or was still
    /// waited for when the run was ended; that connections were lost; that nothing was answered for
    /// longer than calls take; that a latency is in part the generator's own.
    pub fn warnings(&self) -> Vec<String> {
        let all = self.answered + self.failed + self.unfinished;
        let noted = [
            (self.failed, "failed"),
            (self.unfinished, "had not ended when the run did"),
        ];
        let noted = noted.into_iter().filter_map(|(calls, what)| {
            let share = calls as f64 / all.max(1) as f64;
            (self.answered > 0 && share > SHARE_NOTED).then(|| {
                format!(
                    "{:.1} % of the calls {what}: the percentiles are those of answered calls only",
                    100.0 * share
                )
            })
        });
        let lost = (self.losses.max(self.connections_lost) > 0).then(|| self.lost());
        let own = self.validity.valid.then(|| self.generators_share());
        let own = own.flatten();
        noted.chain(lost).chain(self.silence()).chain(own).collect()
    }

    /// Where lateness of the generator makes more than a fifth of a latency: every such percentile.
    fn generators_share(&self) -> Option<String> {
        let lateness = self.lateness_ns.as_ref()?.quantiles();
        let both = self.latency_ns.quantiles().into_iter().zip(lateness);
        // The maxima may be of different calls.
        let large = both.filter(|((name, latency), (_, late))| {
            *name != "max" && late.saturating_mul(5) > *latency
        });
        let large: Vec<_> = large
            .map(|((name, latency), (_, late))| {
                let (late, latency) = (late as f64, latency as f64);
                let share = 100.0 * late / latency.max(1.0);
                let (late, latency) = (units::time(late), units::time(latency));
                format!("{name} {late} of {latency} ({share:.0} %)")
            })
            .collect();
        (!large.is_empty()).then(|| {
            format!(
                "a fifth or more of a latency is the generator's own lateness: {}",
                large.join(", ")
            )
        })
    }

    /// What became of the connections that were lost.
    fn lost(&self) -> String {
        // Files of before know only the connections that stayed away.
        let losses = units::counted(self.losses.max(self.connections_lost), "connection");
        match self.connections_lost {
            0 => format!("{losses} lost, and all were back at the end"),
            away if away >= self.losses => format!("{losses} lost and not back at the end"),
            away => format!(
                "{losses} lost and {} not back at the end",
                units::count(away)
            ),
        }
    }

    /// The longest time in which calls waited and none was answered, if the percentiles hide it:
    /// the callers of a closed loop make no calls meanwhile that would be slow.
    fn silence(&self) -> Option<String> {
        let Silence { seconds, since } = self.silence;
        // Who waits longer than the load lasted tells nothing of the time behind its end.
        let within = seconds.min((self.seconds - since).max(0.0));
        let share = within / self.seconds.max(1e-9);
        let is_told = seconds * 1e9 <= self.latency_ns.p99 as f64;
        (self.answered > 0 && share > SHARE_NOTED && !is_told).then(|| {
            format!(
                "nothing was answered for {within:.1} s, from second {since:.1} on, though calls \
                 waited: that is {:.0} % of the measured time, and longer than p99",
                100.0 * share
            )
        })
    }
}

/// A time without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    /// Its length.
    pub seconds: f64,
    /// When it began, from the beginning of the measurement.
    pub since: f64,
}

/// Where the generator ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Such as `Linux 6.18.5`.
    pub system: String,
    /// Model of the processor.
    pub processor: String,
    /// Cores that the generator may use.
    pub cores: usize,
}

/// When calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loop {
    /// Callers that wait for their answers.
    Closed,
    /// Calls that are due at moments which do not depend on answers.
    Open,
}

/// What load was asked for. Texts are in the form that the command line takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// When calls are made.
    #[serde(rename = "loop")]
    pub shape: Loop,
    /// Callers of a closed loop.
    pub callers: Option<u32>,
    /// Calls due a second, as a mean over the measured time; of an open loop.
    pub rate_due: Option<f64>,
    /// When calls are due, such as `constant 20000/s`; of an open loop.
    pub arrival: Option<String>,
    /// Connections of all threads.
    pub connections: u32,
    /// What the connections of the generator were tuned for.
    #[serde(default = "preset_of_before")]
    pub preset: String,
    /// Threads of all workers.
    pub threads: u32,
    /// Such as `64` or `64:90%,4096:10%`, or the file that payloads came from.
    pub size: String,
    /// Such as `3` or `7:5%,3:95%`.
    pub priority: String,
    /// Deadline of calls, such as `5s` or `50ms:10%,5s:90%`.
    pub timeout: String,
    /// Time of load before the measurement.
    pub warmup_seconds: f64,
    /// Measured time that was asked for.
    pub duration_seconds: f64,
    /// Time of one part of the series.
    pub interval_seconds: f64,
    /// What all random choices come from.
    pub seed: u64,
}

/// Files of before do not name the only one that there was.
fn preset_of_before() -> String {
    "default".to_owned()
}

/// Whether the numbers say something about the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// Whether the latencies are the server's.
    pub valid: bool,
    /// Whether every worker has reported everything.
    pub complete: bool,
    /// Why not, in sentences; empty when the run is valid and complete.
    pub reasons: Vec<String>,
}

/// Nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Calls.
    pub count: u64,
    /// The least.
    pub min: u64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The standard deviation.
    pub stdev: f64,
    /// The median.
    pub p50: u64,
    /// 75 % are not above it.
    pub p75: u64,
    /// 90 % are not above it.
    pub p90: u64,
    /// 99 % are not above it.
    pub p99: u64,
    /// 99.9 % are not above it.
    #[serde(rename = "p99.9")]
    pub p999: u64,
    /// 99.99 % are not above it.
    #[serde(rename = "p99.99")]
    pub p9999: u64,
    /// The most.
    pub max: u64,
    /// All of it.
    pub hdr: Hdr,
}

impl Distribution {
    /// The percentiles with the names that people know them by.
    pub fn quantiles(&self) -> [(&'static str, u64); 7] {
        [
            ("p50", self.p50),
            ("p75", self.p75),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p999),
            ("p99.99", self.p9999),
            ("max", self.max),
        ]
    }
}

impl From<&Histogram<u64>> for Distribution {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            min: histogram.min(),
            mean: histogram.mean(),
            stdev: histogram.stdev(),
            p50: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
            hdr: histogram.into(),
        }
    }
}

/// A whole histogram of nanoseconds, packed: HdrHistogram's V2 encoding with DEFLATE, whose base64
/// is also what a line of an `.hlog` holds. Unpacked it takes a quarter of a megabyte, and there is
/// one for each interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hdr(Vec<u8>);

impl Hdr {
    /// Unpacked.
    pub fn histogram(&self) -> Histogram<u64> {
        Deserializer::new()
            .deserialize(&mut self.0.as_slice())
            .expect("it was packed here or unpacked once when it was read")
    }

    /// The packed bytes as text.
    pub fn base64(&self) -> String {
        STANDARD.encode(&self.0)
    }
}

impl From<&Histogram<u64>> for Hdr {
    fn from(histogram: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(histogram, &mut bytes)
            .expect("a vector takes what is written, and the counts are far below 2^63");
        Self(bytes)
    }
}

impl Serialize for Hdr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.base64())
    }
}

impl<'de> Deserialize<'de> for Hdr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        let histogram = Deserializer::new().deserialize::<u64, _>(&mut bytes.as_slice());
        histogram
            .map(|_| Self(bytes))
            .map_err(|error| D::Error::custom(format!("not a packed histogram: {error}")))
    }
}

/// The calls of one priority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Priority {
    /// 0 to 7, 7 most urgent.
    pub priority: u8,
    /// Answered calls.
    pub answered: u64,
    /// Failed calls.
    pub failed: u64,
    /// The errors, by code: which of them the server refused. Without calls that were not sent.
    #[serde(default)]
    pub errors: BTreeMap<String, u64>,
    /// Latencies of the answered calls.
    pub latency_ns: Distribution,
}

/// What happened in a part of the measured time. Calls are due, late and not sent in the interval
/// in which the generator took them up; they are answered and failed in the interval of their end,
/// so a stall shows as no answers and then as long ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Begin, from the beginning of the measurement.
    pub at_seconds: f64,
    /// Its length.
    pub seconds: f64,
    /// Calls that were taken up.
    pub due: u64,
    /// Answered calls.
    pub answered: u64,
    /// Errors and calls that were not sent.
    pub failed: u64,
    /// The errors, by code.
    #[serde(default)]
    pub errors: BTreeMap<String, u64>,
    /// Calls that were due and had not ended at its end.
    #[serde(default)]
    pub waiting: u64,
    /// Answered calls a second.
    pub rate: f64,
    /// Of the calls that were answered; absent, as the next two, when none was.
    pub p50_ns: Option<u64>,
    /// The 99th percentile.
    pub p99_ns: Option<u64>,
    /// The longest.
    pub max_ns: Option<u64>,
    /// All latencies.
    pub hdr: Hdr,
    /// Longest lateness of the generator; of an open loop.
    pub late_max_ns: Option<u64>,
    /// What the generator did in it.
    pub client: Option<Sample>,
    /// What the server did in it.
    pub server: Option<Sample>,
}

impl Interval {
    /// Takes in the one that follows.
    pub(crate) fn extend(&mut self, next: &Self) {
        let mut latency = self.hdr.histogram();
        latency.auto(true);
        latency
            .add(next.hdr.histogram())
            .expect("a histogram that resizes takes every value");
        self.seconds += next.seconds;
        self.due += next.due;
        self.answered += next.answered;
        self.failed += next.failed;
        self.waiting = next.waiting;
        add_errors(&mut self.errors, &next.errors);
        self.rate = self.answered as f64 / self.seconds;
        let known = Some(&latency).filter(|latency| !latency.is_empty());
        self.p50_ns = known.map(|latency| latency.value_at_quantile(0.5));
        self.p99_ns = known.map(|latency| latency.value_at_quantile(0.99));
        self.max_ns = known.map(Histogram::max);
        self.late_max_ns = self.late_max_ns.max(next.late_max_ns);
        self.hdr = (&latency).into();
        self.client = sum(self.client, next.client);
        self.server = sum(self.server, next.server);
    }
}

/// What an end did in two intervals that follow each other. The second may have been too short for
/// a look of its own: then the first's has seen it.
fn sum(sample: Option<Sample>, next: Option<Sample>) -> Option<Sample> {
    let sample = sample?;
    Some(next.map_or(sample, |next| Sample {
        cpu_seconds: sample.cpu_seconds + next.cpu_seconds,
        memory_bytes: next.memory_bytes,
    }))
}

/// Codes that are told apart: a server may make them up.
const CODES_MAX: usize = 64;
/// What all others are counted as.
const OTHER_CODES: &str = "other codes";

/// Adds up failed calls by code.
pub(crate) fn add_errors(sum: &mut BTreeMap<String, u64>, other: &BTreeMap<String, u64>) {
    for (code, count) in other {
        add_error(sum, code, *count);
    }
}

/// Counts so many calls that failed with this code; whether they are the first that are counted so.
pub(crate) fn add_error(sum: &mut BTreeMap<String, u64>, code: &str, count: u64) -> bool {
    let is_known = sum.contains_key(code);
    let code = if is_known || sum.len() < CODES_MAX {
        code
    } else {
        OTHER_CODES
    };
    if let Some(calls) = sum.get_mut(code) {
        *calls += count;
        return false;
    }
    sum.insert(code.to_owned(), count);
    true
}

/// One end at work during an interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds of processor time spent in the interval.
    pub cpu_seconds: f64,
    /// Resident memory at its end.
    pub memory_bytes: u64,
}

/// What the load cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ends {
    /// The generator.
    pub client: End,
    /// The server.
    pub server: End,
}

/// What the load cost one end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum End {
    /// What was measured.
    Measured(Usage),
    /// It could not be read.
    Unknown {
        /// Why.
        unknown: String,
    },
}

/// A process during the measured time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Number of the process.
    pub pid: u32,
    /// User and system time.
    pub cpu_seconds: f64,
    /// By answered and failed calls; absent when there were none.
    pub cpu_per_call_ns: Option<f64>,
    /// Resident memory, of a sample an interval.
    pub memory_peak_bytes: u64,
    /// Resident memory, as a mean of the samples.
    pub memory_mean_bytes: u64,
    /// Times that its threads waited by themselves.
    pub voluntary_switches: u64,
    /// Times that the kernel took the processor from one of its threads.
    pub involuntary_switches: u64,
}

/// One worker's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its address, as it was given.
    pub name: String,
    /// Answered calls.
    pub answered: u64,
    /// Failed calls.
    pub failed: u64,
    /// Answered calls a second.
    pub rate: f64,
    /// How long the message that starts it took there and back; it began within this time. None of
    /// one that did not begin.
    pub start_rtt_ns: u64,
    /// What its calls cost it.
    #[serde(default = "cost_of_before")]
    pub cost: End,
    /// Why it has not reported everything, if it has not.
    pub lost: Option<String>,
}

/// Files of before do not say what a worker spent.
fn cost_of_before() -> End {
    let unknown = "it was not written down".to_owned();
    End::Unknown { unknown }
}

/// A bound that a run was asked to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// As on the command line, without dashes: `max-p99`.
    pub name: String,
    /// As on the command line.
    pub limit: String,
    /// In the same form.
    pub measured: String,
    /// Whether it was missed.
    pub missed: bool,
}
