//! One load from several machines: what workers measure together, and what becomes of it when one
//! is lost, hangs, or somebody loses patience.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Instant;

use crate::support::{
    Node, PATIENCE, Worker, bench, counting_server, json, number, postroad, report, run, signal,
    sum, text, wait,
};
use postroad::RunningServer;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

#[test]
fn workers_make_one_load_together() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let workers = [Worker::start(), Worker::start()];
    let both = workers
        .each_ref()
        .map(|worker| worker.address.as_str())
        .join(",");
    for (load, calls) in [
        (&["--calls", "1001", "--callers", "10"][..], 1001.0),
        (
            &["--rate", "333", "--duration", "1s", "--threads", "2"],
            333.0,
        ),
    ] {
        let more = [
            "--workers",
            &both,
            "--interval",
            "100ms",
            "--max-lateness",
            "10s",
        ];
        let report = json(&node.tcp(), &[load, &more].concat());
        assert_eq!(number(&report, "/answered"), calls);
        assert_eq!(number(&report, "/latency_ns/count"), calls);
        assert_eq!(sum(&report, "answered"), calls);
        let of = |worker: usize| number(&report, &format!("/workers/{worker}/answered"));
        assert_eq!(of(0) + of(1), calls);
        assert!((of(0) - of(1)).abs() <= 1.0, "{report}");
        assert_eq!(report["validity"]["complete"], true);
        assert!(number(&report, "/workers/0/start_rtt_ns") > 0.0);
        for (number_of, worker) in workers.iter().enumerate() {
            let cost = |name: &str| number(&report, &format!("/workers/{number_of}/cost/{name}"));
            assert_eq!(cost("pid"), f64::from(worker.child.id()));
            assert!(cost("cpu_per_call_ns") > 0.0 && cost("memory_peak_bytes") > 0.0);
        }
    }
    let gone = format!("{both},127.0.0.1:1");
    let output = bench(&node.tcp(), &["--workers", &gone, "--callers", "10"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(text(&output.stderr).contains("worker 127.0.0.1:1: "));
    assert!(output.stdout.is_empty(), "nothing has begun");
    // The good ones are free at once.
    let again = json(
        &node.tcp(),
        &["--workers", &both, "--callers", "2", "--calls", "10"],
    );
    assert_eq!(number(&again, "/answered"), 10.0);
}

#[test]
fn a_lost_worker_is_named_and_the_run_is_incomplete() {
    let runtime = Runtime::new().expect("a runtime");
    let calls = Arc::new(Semaphore::new(0));
    let server = runtime.block_on(counting_server("127.0.0.1:0", &calls));
    let url = format!("tcp://{}", server.addresses()[0]);
    let (mut lost, kept) = (Worker::start(), Worker::start());
    let both = format!("{},{}", lost.address, kept.address);
    let mut command = postroad();
    command.args([
        "bench", &url, "--route", "count", "--rate", "200", "--warmup", "0s",
    ]);
    command.args([
        "--duration",
        "2s",
        "--interval",
        "100ms",
        "--workers",
        &both,
    ]);
    command.args(["--max-lateness", "10s", "--output", "json"]);
    let coordinator = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let coordinator = coordinator.expect("it was built");
    let called = runtime.block_on(calls.acquire_many(100));
    called.expect("it is not closed").forget();
    lost.child.kill().expect("it runs");
    let output = coordinator.wait_with_output().expect("it ends");
    let report = report(&output, 1);
    assert_eq!(report["validity"]["complete"], false);
    assert_eq!(report["validity"]["valid"], true, "what there is, is right");
    let reason = report["validity"]["reasons"][0]
        .as_str()
        .unwrap_or_default();
    assert!(
        reason.contains(&format!("worker {} was lost", lost.address)),
        "{reason}"
    );
    assert!(report["workers"][1]["lost"].is_null());
    assert_eq!(number(&report, "/workers/1/answered"), 200.0);
    assert!(number(&report, "/workers/0/answered") < 200.0);
}

/// A server that counts its calls, and a coordinator of these workers.
struct Load {
    runtime: Runtime,
    calls: Arc<Semaphore>,
    server: RunningServer,
    url: String,
}

impl Load {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let calls = Arc::new(Semaphore::new(0));
        let server = runtime.block_on(counting_server("127.0.0.1:0", &calls));
        let url = format!("tcp://{}", server.addresses()[0]);
        Self {
            runtime,
            calls,
            server,
            url,
        }
    }

    fn begin(&self, workers: &[Worker; 2]) -> Child {
        let both = format!("{},{}", workers[0].address, workers[1].address);
        let mut command = postroad();
        command.args(["bench", &self.url, "--route", "count", "--workers", &both]);
        command.args(["--rate", "1000", "--warmup", "0s", "--duration", "1h"]);
        command.args(["--interval", "100ms", "--max-lateness", "10s"]);
        command.args(["--output", "json"]);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it was built")
    }

    fn wait_for(&self, calls: u32) {
        let called = self.runtime.block_on(self.calls.acquire_many(calls));
        called.expect("it is not closed").forget();
    }
}

#[test]
fn who_insists_with_ctrl_c_keeps_what_was_reported_and_is_told_what_is_missing() {
    let load = Load::new();
    let workers = [Worker::start(), Worker::start()];
    let mut bench = load.begin(&workers);
    load.wait_for(300);
    signal(&workers[1].child, "STOP");
    // The other goes on alone, for a few intervals.
    load.wait_for(300);
    signal(&bench, "INT");
    // The load has ended, and the one that can has told so, when another run can follow there.
    let begin = Instant::now();
    loop {
        let other = ["--calls", "1", "--callers", "1", "--route", "count"];
        let first = ["--workers", &workers[0].address, "--warmup", "0s"];
        if run(&[&["bench", &load.url], &other[..], &first].concat())
            .status
            .success()
        {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "it never ends");
    }
    signal(&bench, "INT");
    assert_eq!(wait(&mut bench).code(), Some(130));
    let out = bench.stdout.take().expect("it is piped");
    let report: Value = serde_json::from_reader(out).expect("a report");
    let of = |worker: usize| number(&report, &format!("/workers/{worker}/answered"));
    assert!(of(0) > of(1) && of(1) > 0.0, "{report}");
    assert_eq!(number(&report, "/answered"), of(0) + of(1), "all that came");
    assert_eq!(number(&report, "/answered"), sum(&report, "answered"));
    assert_eq!(report["validity"]["complete"], false);
    let reasons = report["validity"]["reasons"].to_string();
    assert!(
        reasons.contains(&format!("worker {} was lost", workers[1].address)),
        "{reasons}"
    );
    assert!(report["workers"][0]["lost"].is_null(), "{report}");
}

#[test]
fn ctrl_c_while_workers_connect_leaves_those_that_have_free() {
    let load = Load::new();
    let workers = [Worker::start(), Worker::start()];
    signal(&workers[1].child, "STOP");
    let mut bench = load.begin(&workers);
    let begin = Instant::now();
    while load.server.stats().open == 0 {
        assert!(begin.elapsed() < PATIENCE, "the first does not connect");
        std::thread::yield_now();
    }
    // It has been given its run when another is refused there.
    loop {
        let other = ["--calls", "1", "--callers", "1", "--route", "count"];
        let first = ["--workers", &workers[0].address, "--warmup", "0s"];
        let refused = run(&[&["bench", &load.url], &other[..], &first].concat());
        if text(&refused.stderr).contains("another run is going on") {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "it never begins");
    }
    signal(&bench, "INT");
    assert_eq!(wait(&mut bench).code(), Some(130));
    let first = ["--workers", &workers[0].address, "--route", "count"];
    let calls = ["--calls", "10", "--callers", "2"];
    let free = json(&load.url, &[&first[..], &calls].concat());
    assert_eq!(number(&free, "/answered"), 10.0);
    signal(&workers[1].child, "CONT");
}
