//! The load tester against servers whose latencies, stalls and errors are known: what it reports
//! has to follow from them.
//!
//! A server answers at a moment that it computes, not after a sleep. It can only be later than
//! that, by what the scheduler makes of two busy processes: so no reported percentile may be under
//! the true one, and none more than [`ALLOWANCE`] over it. The load tester's own arithmetic is
//! checked to three digits elsewhere, on a server that needs no scheduler.
//!
//! In a program of its own, beside which no other test runs: it measures times.

#[path = "it/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postroad::extract::State;
use postroad::{Bytes, Error, Router, RunningServer, Server};
use serde_json::Value;
use support::text;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// By how much a reported time may be over the true one: the millisecond of the runtime's timer,
/// and waiting for a processor on a machine with two, which the tests of a workspace share.
const ALLOWANCE: Duration = Duration::from_millis(25);

/// One measurement at a time: two would be each other's noise.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn serve<S: Clone + Send + Sync + 'static>(router: Router<S>) -> (RunningServer, String) {
    let endpoint = "tcp://127.0.0.1:0".parse().expect("an endpoint");
    let server = Server::new(router).listen(endpoint);
    let server = server.start().await.expect("the port is free");
    let url = format!("tcp://{}", server.addresses()[0]);
    (server, url)
}

/// Loads the route `tested` and reads the report.
async fn bench(url: &str, more: &'static [&'static str]) -> Value {
    let url = url.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let always = ["bench", &url, "--route", "tested", "--output", "json"];
        support::run(&[&always[..], more].concat())
    });
    let output = run.await.expect("it does not panic");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

fn latency(report: &Value, name: &str) -> Duration {
    let ns = report["latency_ns"][name].as_u64();
    Duration::from_nanos(ns.expect("every report has it"))
}

/// Not under the truth but by a histogram's three digits, and over it by the allowance at most.
fn assert_follows(report: &Value, name: &str, truth: Duration) {
    let said = latency(report, name);
    let range = truth.mul_f64(0.999)..=truth.mul_f64(1.001) + ALLOWANCE;
    assert!(
        range.contains(&said),
        "{name} is {said:?}, and in truth {truth:?}"
    );
}

#[tokio::test]
async fn percentiles_of_a_known_distribution_are_reported() {
    let _alone = ALONE.lock().await;
    // Of a hundred calls 85 take 20 ms, 13 take 60 ms, 2 take 150 ms.
    let router = Router::with_state(Arc::new(AtomicU64::new(0)));
    let router = router.route("tested", async |State(calls): State<Arc<AtomicU64>>| {
        let takes = match calls.fetch_add(1, Ordering::Relaxed) % 100 {
            0..85 => 20,
            85..98 => 60,
            _ => 150,
        };
        sleep_until(Instant::now() + Duration::from_millis(takes)).await;
    });
    let (_server, url) = serve(router).await;
    for shape in [
        &["--rate", "500", "--warmup", "0s", "--duration", "2s"][..],
        &[
            "--callers",
            "20",
            "--warmup",
            "0s",
            "--calls",
            "1000",
            "--duration",
            "60s",
        ],
    ] {
        let report = bench(&url, shape).await;
        assert_eq!(report["answered"], 1_000, "{}", report["errors"]);
        for (name, truth) in [
            ("min", 20),
            ("p50", 20),
            ("p75", 20),
            ("p90", 60),
            ("p99", 150),
            ("max", 150),
        ] {
            assert_follows(&report, name, Duration::from_millis(truth));
        }
        let mean = report["latency_ns"]["mean"]
            .as_f64()
            .expect("it has a mean")
            / 1e6;
        let truth = 0.85 * 20.0 + 0.13 * 60.0 + 0.02 * 150.0;
        assert!(
            (truth..truth + 25.0).contains(&mean),
            "{mean} ms, and in truth {truth} ms"
        );
    }
}

/// Answers at once, but stands still for half a second, 0.7 s after its first call.
fn stalling() -> Router<Arc<std::sync::OnceLock<Instant>>> {
    let router = Router::with_state(Arc::default());
    router.route(
        "tested",
        async |State(first): State<Arc<std::sync::OnceLock<Instant>>>| {
            let first = *first.get_or_init(Instant::now);
            let (begin, end) = (Duration::from_millis(700), Duration::from_millis(1_200));
            if (begin..end).contains(&first.elapsed()) {
                sleep_until(first + end).await;
            }
        },
    )
}

#[tokio::test]
async fn an_open_loop_reports_a_stall_that_a_closed_one_hides() {
    let _alone = ALONE.lock().await;
    let (_server, url) = serve(stalling()).await;
    let open = ["--rate", "500", "--warmup", "0s", "--duration", "2s"];
    let open: &'static [&'static str] = Box::leak(Box::new(open));
    let report = bench(&url, open).await;
    // 250 of the 1,000 calls fall into the stall, and wait 500 ms, 498 ms, ... 2 ms. So the 10
    // slowest of all waited over 480 ms, and the 100 slowest over 300 ms.
    assert_eq!(report["answered"], 1_000, "{}", report["errors"]);
    assert!(
        latency(&report, "p50") < ALLOWANCE,
        "three in four never met the stall"
    );
    // The stall is cut into calls two milliseconds apart, so each may be one of them off.
    let off = Duration::from_millis(2);
    for (name, truth) in [("p90", 300), ("p99", 480), ("max", 500)] {
        assert_follows(&report, name, Duration::from_millis(truth) - off);
    }

    let (_server, url) = serve(stalling()).await;
    let closed = ["--callers", "2", "--warmup", "0s", "--duration", "2s"];
    let closed: &'static [&'static str] = Box::leak(Box::new(closed));
    let report = bench(&url, closed).await;
    let answered = report["answered"].as_u64().expect("a number");
    assert!(answered > 2_000, "two callers make few calls: {answered}");
    // Both callers met it once each: two calls of thousands.
    assert!(
        latency(&report, "p99") < ALLOWANCE,
        "{:?}",
        latency(&report, "p99")
    );
    assert_follows(&report, "max", Duration::from_millis(500) - off);
}

#[tokio::test]
async fn errors_are_counted_exactly_by_code() {
    let _alone = ALONE.lock().await;
    type Said = Arc<std::sync::Mutex<BTreeMap<&'static str, u64>>>;
    let router = Router::with_state((Arc::new(AtomicU64::new(0)), Said::default()));
    let router = router.route(
        "tested",
        async |State((calls, said)): State<(Arc<AtomicU64>, Said)>| -> Result<Bytes, Error> {
            let code = match calls.fetch_add(1, Ordering::Relaxed) {
                call if call % 10 == 3 => "TST-E-010",
                call if call % 25 == 4 => "TST-E-025",
                _ => "",
            };
            *said.lock().expect("nobody panics").entry(code).or_default() += 1;
            if code.is_empty() {
                Ok(Bytes::new())
            } else {
                Err(Error::new(code, "it was to fail"))
            }
        },
    );
    let (_server, url) = serve(router).await;
    let calls = [
        "--calls",
        "5000",
        "--callers",
        "7",
        "--warmup",
        "0s",
        "--duration",
        "60s",
    ];
    let report = bench(&url, Box::leak(Box::new(calls))).await;
    // Every tenth, and every twenty-fifth, which is never a tenth too.
    assert_eq!(report["errors"]["TST-E-010"], 500, "{}", report["errors"]);
    assert_eq!(report["errors"]["TST-E-025"], 200, "{}", report["errors"]);
    assert_eq!(
        (&report["answered"], &report["failed"]),
        (&4_300.into(), &700.into())
    );
}
