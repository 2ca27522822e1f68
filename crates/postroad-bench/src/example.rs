//! Runs made up for tests: a server whose latencies are drawn from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::plan::mix::{Dice, Mix};
use crate::plan::{Payload, Plan, Shape};
use crate::report::{
    Distribution, End, Ends, FORMAT, Interval, Load, Loop, Machine, Report, Sample, Silence, Usage,
    Validity,
};

/// Numbers drawn from a seed.
pub(crate) struct Draw(Dice);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Dice::new(seed, 0))
    }

    /// From 0 up to 1.
    fn share(&mut self) -> f64 {
        self.0.unit()
    }

    /// Normal with mean 0 and deviation 1, by Box and Muller.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.share()).cos()
    }
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(3_600_000_000_000, 3).expect("three digits up to an hour")
}

/// An open loop of a minute at 20,000 calls a second. After half a
/// minute the server stalls for 1.5 s.
pub(crate) fn open_run(seed: u64) -> Report {
    let mut draw = Draw::new(seed);
    let (mut all, mut late) = (histogram(), histogram());
    let series: Vec<Interval> = (0..60)
        .map(|second| interval(second, &mut draw, &mut all, &mut late))
        .collect();
    let failed = series.iter().map(|interval| interval.failed).sum();
    Report {
        format: FORMAT,
        program: "postroad 0.1.0".to_owned(),
        machine: Machine {
            system: "Linux 6.18.5".to_owned(),
            processor: "Example CPU 3000".to_owned(),
            cores: 4,
        },
        started: "2026-09-21T14:13:20.5Z".to_owned(),
        url: "tcp://10.0.0.7:7400".to_owned(),
        route: "postroad/echo".to_owned(),
        load: load(seed),
        validity: Validity {
            valid: true,
            complete: true,
            reasons: Vec::new(),
        },
        stopped: None,
        seconds: 60.0,
        answered: all.len(),
        failed,
        not_sent: 0,
        held: 0,
        unfinished: 0,
        connections_lost: 0,
        losses: 0,
        silence: Silence::default(),
        errors: BTreeMap::from([("SRV-E-503".to_owned(), failed)]),
        examples: BTreeMap::from([("SRV-E-503".to_owned(), "it goes away".to_owned())]),
        rate: all.len() as f64 / 60.0,
        sent_bytes: all.len() * 64,
        received_bytes: all.len() * 64,
        latency_ns: (&all).into(),
        lateness_ns: Some(Distribution::from(&late)),
        priorities: Vec::new(),
        series,
        ends: Ends {
            client: End::Measured(usage(4711, 12.0)),
            server: End::Measured(usage(815, 21.0)),
        },
        workers: Vec::new(),
        thresholds: Vec::new(),
    }
}

fn interval(
    second: u32,
    draw: &mut Draw,
    all: &mut Histogram<u64>,
    late: &mut Histogram<u64>,
) -> Interval {
    let (stalled, recovers) = (second == 30, second == 31);
    let failed = if recovers || stalled { 120 } else { 0 };
    let answered: u64 = match second {
        30 => 2_000,
        31 => 38_000,
        _ => 20_000,
    };
    let mut histogram = histogram();
    for _ in 0..answered {
        let quick = 180_000.0 * (0.35 * draw.normal()).exp();
        let waited = if recovers { 1.5e9 * draw.share() } else { 0.0 };
        histogram.saturating_record((quick + waited) as u64);
    }
    let late_ns = (20_000.0 * (0.8 * draw.normal()).exp()) as u64;
    late.saturating_record_n(late_ns, 20_000);
    *all += &histogram;
    let sample = |cpu: f64, memory: f64| Sample {
        cpu_seconds: (cpu * answered as f64 / 200.0).round() / 100.0,
        memory_bytes: (memory * 1_048_576.0) as u64,
    };
    Interval {
        at_seconds: second.into(),
        seconds: 1.0,
        due: 20_000,
        answered,
        failed,
        errors: BTreeMap::from([("SRV-E-503".to_owned(), failed)]),
        waiting: 0,
        rate: answered as f64,
        p50_ns: Some(histogram.value_at_quantile(0.5)),
        p99_ns: Some(histogram.value_at_quantile(0.99)),
        max_ns: Some(histogram.max()),
        hdr: (&histogram).into(),
        late_max_ns: Some(late_ns),
        client: Some(sample(0.2 + 0.01 * draw.share(), 14.0)),
        server: Some(sample(0.35 + 0.02 * draw.share(), 22.0 + draw.share())),
    }
}

fn load(seed: u64) -> Load {
    Load {
        shape: Loop::Open,
        callers: None,
        rate_due: Some(20_000.0),
        arrival: Some("constant 20000/s".to_owned()),
        connections: 4,
        preset: "default".to_owned(),
        threads: 1,
        size: "64".to_owned(),
        priority: "3".to_owned(),
        timeout: "5s".to_owned(),
        warmup_seconds: 5.0,
        duration_seconds: 60.0,
        interval_seconds: 1.0,
        seed,
    }
}

fn usage(pid: u32, cpu_seconds: f64) -> Usage {
    Usage {
        pid,
        cpu_seconds,
        cpu_per_call_ns: Some(cpu_seconds * 1e9 / 1_200_000.0),
        memory_peak_bytes: 24 << 20,
        memory_mean_bytes: 22 << 20,
        voluntary_switches: 120_000,
        involuntary_switches: 340,
    }
}

/// An hour of it.
pub(crate) fn plan(url: &str, shape: Shape) -> Plan {
    let hour = Duration::from_secs(3600);
    Plan {
        url: url.to_owned(),
        route: "postroad/echo".to_owned(),
        shape,
        connections: 1,
        preset: "default".to_owned(),
        threads: 1,
        payload: Payload::Sizes(Mix::one(64)),
        priority: Mix::one(3),
        timeout: Mix::one(Duration::from_secs(20)),
        warmup: Duration::ZERO,
        duration: hour,
        interval: hour,
        calls: None,
        seed: 1,
        worker: (0, 1),
    }
}
