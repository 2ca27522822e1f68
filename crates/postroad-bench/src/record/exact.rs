//! Numbers against arithmetic: a server that exists only on paper answers at moments that are known
//! to the nanosecond, and the recorder has to say what follows from them, to three digits.

use std::time::Duration;

use super::{Chunk, Recorder, Sent, nanos};
use crate::example::Draw;
use crate::report::Distribution;

const MICRO: Duration = Duration::from_micros(1);
const MILLI: Duration = Duration::from_millis(1);

/// What the recorder says of calls that are due and answered at these moments from the start.
fn recorded(calls: &[(Duration, Duration)]) -> Distribution {
    let long = Duration::from_secs(20);
    let recorder = Recorder::new(Duration::ZERO, long, Duration::from_secs(1), false);
    let sent = Sent {
        bytes: 0,
        priority: 3,
    };
    let mut by_end = calls.to_vec();
    by_end.sort_by_key(|(_, end)| *end);
    for (due, end) in by_end {
        recorder.answered(nanos(due), nanos(end), sent, 0);
    }
    let mut total = Chunk::new(0);
    let chunks = recorder.rest(nanos(long));
    chunks.iter().for_each(|chunk| total.add(chunk));
    Distribution::from(&total.latency)
}

/// To three digits, which is what a histogram keeps.
fn is_close(said: u64, true_ns: u64) -> bool {
    said.abs_diff(true_ns) as f64 <= true_ns as f64 / 1_000.0
}

/// The nearest-rank percentile of the sorted latencies themselves.
fn true_quantile(sorted: &[u64], quantile: f64) -> u64 {
    let rank = (quantile * sorted.len() as f64 - 1e-9).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn check(name: &str, latencies: &[u64]) {
    let spaced = latencies.iter().enumerate();
    let calls = spaced.map(|(at, ns)| {
        let due = 20 * MICRO * at as u32;
        (due, due + Duration::from_nanos(*ns))
    });
    let said = recorded(&calls.collect::<Vec<_>>());
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let quantiles = [0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1.0];
    for ((label, ns), quantile) in said.quantiles().into_iter().zip(quantiles) {
        let truth = true_quantile(&sorted, quantile);
        assert!(is_close(ns, truth), "{name} {label}: {ns}, not {truth}");
    }
    let mean = sorted.iter().sum::<u64>() as f64 / sorted.len() as f64;
    assert!(
        (said.mean / mean - 1.0).abs() < 0.001,
        "{name}: mean {mean}, not {}",
        said.mean
    );
    assert_eq!(said.count, sorted.len() as u64);
    assert!(is_close(said.min, sorted[0]));
}

#[test]
fn percentiles_of_known_distributions_are_right_to_three_digits() {
    let mut draw = Draw::new(42);
    let count = 100_000_u64;
    check(
        "uniform",
        &(1..=count).map(|i| i * 1_000).collect::<Vec<_>>(),
    );
    let skewed = (0..count).map(|_| (2e5 * (1.2 * draw.normal()).exp()) as u64);
    check("log-normal", &skewed.collect::<Vec<_>>());
    let two = (0..count).map(|i| if i % 50 == 0 { 80_000_000 } else { 150_000 });
    check("cache hits and misses", &two.collect::<Vec<_>>());
    check("one call in a hundred thousand", &{
        let mut latencies = vec![100_000; count as usize];
        latencies[77] = 2_000_000_000;
        latencies
    });
}

/// When a server answers that serves in 100 µs, but stands still from 5 s to 5.5 s.
fn answered(asked: Duration) -> Duration {
    let stall = 5_000 * MILLI..5_500 * MILLI;
    let begins = if stall.contains(&asked) {
        stall.end
    } else {
        asked
    };
    begins + 100 * MICRO
}

#[test]
fn an_open_loop_sees_all_of_a_stall() {
    // A call each millisecond for ten seconds: 500 of 10,000 fall into the stall, and wait 500 ms,
    // 499 ms, ... 1 ms.
    let due = (0..10_000).map(|number| number * MILLI);
    let said = recorded(&due.map(|due| (due, answered(due))).collect::<Vec<_>>());
    let expected = [
        ("p90", said.p90, 100 * MICRO),
        // The 100 slowest of 10,000 waited more than 400 ms.
        ("p99", said.p99, 400 * MILLI + 100 * MICRO),
        ("p99.9", said.p999, 490 * MILLI + 100 * MICRO),
        ("max", said.max, 500 * MILLI + 100 * MICRO),
    ];
    for (name, ns, truth) in expected {
        let truth = truth.as_nanos() as u64;
        assert!(is_close(ns, truth), "{name}: {ns}, not {truth}");
    }
}

#[test]
fn a_closed_loop_hides_it() {
    // One caller makes 10,000 calls a second, but only one during the stall.
    let (mut now, mut calls) = (Duration::ZERO, Vec::new());
    while now < 10_000 * MILLI {
        let end = answered(now);
        calls.push((now, end));
        now = end;
    }
    let said = recorded(&calls);
    let (quick, stall) = (100_000, 500_100_000);
    assert!(said.count > 94_000, "{}", said.count);
    assert!(
        is_close(said.p9999, quick),
        "one call of 95,000: {}",
        said.p9999
    );
    assert!(is_close(said.max, stall), "{}", said.max);
}
