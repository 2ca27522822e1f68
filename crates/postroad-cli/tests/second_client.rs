//! `postroad bench` and a load generator in Go that shares no code with it, on one server: both
//! have to report the same of it.
//!
//! The server's time decides, not the machine's: it answers at moments that it computes, so both
//! are late by the same few milliseconds at most, and neither is ever early.
//!
//! In a program of its own, beside which no other test runs: it measures times.

#[path = "it/support.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postroad::extract::State;
use postroad::{Bytes, Router, RunningServer, Server};
use serde_json::Value;
use support::{has_peer, peer, root, text};
use tokio::time::{Instant, sleep_until};

/// By how much two times may differ, in milliseconds: the runtime's timer and waiting for a
/// processor on a machine that the tests of a workspace share.
const ALLOWANCE: f64 = 25.0;

/// Of a hundred calls 85 take 20 ms, 13 take 60 ms, 2 take 150 ms; each is answered with what it
/// carries, which the Go program checks.
async fn serve() -> (RunningServer, String) {
    let router = Router::with_state(Arc::new(AtomicU64::new(0)));
    let router = router.route(
        "tested",
        async |State(calls): State<Arc<AtomicU64>>, body: Bytes| {
            let takes = match calls.fetch_add(1, Ordering::Relaxed) % 100 {
                0..85 => 20,
                85..98 => 60,
                _ => 150,
            };
            sleep_until(Instant::now() + Duration::from_millis(takes)).await;
            body
        },
    );
    let endpoint = "tcp+sequence://127.0.0.1:0?route=tested";
    let server = Server::new(router).listen(endpoint.parse().expect("an endpoint"));
    let server = server.start().await.expect("the port is free");
    let address = server.addresses()[0].to_string();
    (server, address)
}

fn build(program: &Path) {
    let mut command = Command::new("go");
    command.current_dir(root().join("rivals/go"));
    // A checkout of another user's is built too.
    command.args(["build", "-buildvcs=false", "-o"]);
    peer(command.arg(program).arg("."));
}

fn bench(address: &str, more: &[&str]) -> Value {
    let url = format!("tcp+sequence://{address}");
    let always = [
        "bench",
        &url,
        "--warmup",
        "0s",
        "--duration",
        "2s",
        "--output",
        "json",
    ];
    let output = support::run(&[&always[..], more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

fn go(program: &Path, address: &str, more: &[&str]) -> Value {
    let mut command = Command::new(program);
    command.args(["load", "--at", address, "--warm-up", "0"]);
    let said = peer(command.args(["--seconds", "2"]).args(more));
    serde_json::from_str(&said).expect("it is JSON")
}

fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no {pointer} in {report}"))
}

/// The same percentiles, in milliseconds, and the same number of calls a second.
fn assert_agree(bench: &Value, go: &Value) {
    for name in ["p50", "p90", "p99"] {
        let ours = number(bench, &format!("/latency_ns/{name}")) / 1e6;
        let theirs = number(go, &format!("/{name}")) / 1e6;
        assert!(
            (ours - theirs).abs() < ALLOWANCE,
            "{name}: {ours} and {theirs} ms"
        );
    }
    // One call that waited for a processor is the whole of a maximum.
    for (report, max) in [(bench, "/latency_ns/max"), (go, "/max")] {
        let max = number(report, max) / 1e6;
        assert!(max >= 150.0, "the slowest calls take 150 ms, not {max}");
    }
    let (ours, theirs) = (number(bench, "/rate"), number(go, "/rate"));
    assert!(
        (ours / theirs - 1.0).abs() < 0.35,
        "{ours} and {theirs} calls/s"
    );
}

#[test]
fn a_load_generator_that_shares_no_code_reports_the_same_of_a_server() {
    if !has_peer("go", "golang-go") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("rival-go");
    build(&program);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_server, address) = runtime.block_on(serve());

    let closed = bench(&address, &["--callers", "20"]);
    assert_agree(&closed, &go(&program, &address, &["--in-flight", "20"]));

    let open = bench(&address, &["--rate", "500"]);
    let theirs = go(&program, &address, &["--rate", "500"]);
    assert_agree(&open, &theirs);
    assert_eq!(number(&open, "/answered"), 1_000.0);
    assert_eq!(number(&theirs, "/calls"), 1_000.0);
    assert_eq!(number(&theirs, "/rate"), 500.0);
}
