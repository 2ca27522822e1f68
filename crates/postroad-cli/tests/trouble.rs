//! The load tester when things go wrong around it: a server that goes away, is full or says
//! nothing, and somebody who loses patience.
//!
//! In a program of its own, beside which no other test runs: it judges how late calls are.

#[path = "it/support.rs"]
mod support;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postroad::{Bytes, Router, RunningServer, Server, ServerConfig};
use serde_json::Value;
use support::{PATIENCE, counting_server, number, postroad, report, run, signal, wait};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::sleep_until;

/// Until it gives something.
fn at_last<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    let accept = || match listener.accept() {
        Ok((stream, _)) => Some(stream),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    };
    at_last("nobody dials", accept)
}

/// A load on a server that goes away after some calls.
struct Outage {
    runtime: Runtime,
    load: Child,
    at: String,
    /// Listens in the server's place, and knows nothing.
    gone: TcpListener,
    since: Instant,
}

impl Outage {
    fn begin(load: &[&str]) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let calls = Arc::new(Semaphore::new(0));
        let server = runtime.block_on(counting_server("127.0.0.1:0", &calls));
        let at = server.addresses()[0].clone();
        let mut command = postroad();
        command.args(["bench", &format!("tcp://{at}"), "--route", "count"]);
        command
            .args(["--warmup", "0s", "--output", "json"])
            .args(load);
        let load = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let load = load.spawn().expect("it was built");
        let called = runtime.block_on(calls.acquire_many(500));
        called.expect("it is not closed").forget();
        let since = Instant::now();
        drop(server);
        let gone = at_last("its port is not free", || TcpListener::bind(&at).ok());
        gone.set_nonblocking(true).expect("it is a socket");
        Self {
            runtime,
            load,
            at,
            gone,
            since,
        }
    }

    /// Lets the generator dial so often in vain.
    fn last(&self, attempts: u32) {
        for _ in 0..attempts {
            drop(accept(&self.gone));
        }
    }

    /// Another server takes its place until the load is over: the report, and for how many seconds
    /// there was none.
    fn end(self) -> (Value, f64) {
        drop(self.gone);
        let gone_for = self.since.elapsed().as_secs_f64();
        let calls = Arc::new(Semaphore::new(0));
        let _server = self.runtime.block_on(counting_server(&self.at, &calls));
        let ended = self.load.wait_with_output().expect("it ends");
        (report(&ended, 0), gone_for)
    }
}

#[test]
fn what_was_due_while_the_server_was_gone_is_late_and_not_the_generators_fault() {
    let load = ["--rate", "10000", "--duration", "3s", "--timeout", "30s"];
    let outage = Outage::begin(&[&load[..], &["--max-lateness", "10s"]].concat());
    outage.last(4);
    let (report, gone_for) = outage.end();
    assert_eq!(report["validity"]["valid"], true, "{}", report["validity"]);
    let lost = report["errors"].as_object().expect("by code");
    assert!(lost.keys().all(|code| code == "NET-E-502"), "{lost:?}");
    assert_eq!(number(&report, "/not_sent"), 0.0);
    let ended = number(&report, "/answered") + number(&report, "/failed");
    assert_eq!((ended, number(&report, "/unfinished")), (30_000.0, 0.0));
    assert!(
        number(&report, "/failed") < 2_000.0,
        "only what was in flight"
    );
    let lost = ["/losses", "/connections_lost"].map(|name| number(&report, name));
    assert_eq!(lost, [1.0, 0.0], "it was lost, and came back");
    assert!(number(&report, "/held") > 5_000.0 * gone_for, "{gone_for}");
    let longest = number(&report, "/latency_ns/max") / 1e9;
    assert!(longest > 0.9 * gone_for, "{longest} of {gone_for}");
    let late = number(&report, "/lateness_ns/p99") / 1e9;
    assert!(late < gone_for, "{late} of {gone_for} would be its own");
}

#[test]
fn calls_whose_time_is_over_are_not_made_wherever_they_stand() {
    let load = ["--rate", "1000", "--duration", "3s", "--connections", "2"];
    let mix = ["--timeout", "30s:50%,50ms:50%", "--max-lateness", "10s"];
    let outage = Outage::begin(&[&load[..], &mix].concat());
    outage.last(8);
    let (report, gone_for) = outage.end();
    // Half of what was due had 50 ms, and nearly all of the outage was longer ago than that.
    let over = number(&report, "/errors/NET-E-503");
    assert!(over > 250.0 * (gone_for - 0.2), "{over} in {gone_for}");
    // The generator is back a little later than the server.
    let longest = number(&report, "/latency_ns/max") / 1e9;
    assert!(over < 600.0 * longest + 50.0, "{over} in {longest}");
    let ended = number(&report, "/answered") + number(&report, "/failed");
    assert_eq!(ended, 3_000.0);
}

#[test]
fn an_outage_that_ends_with_ctrl_c_is_not_hidden() {
    let load = ["--rate", "2000", "--duration", "1h", "--timeout", "10m"];
    let mut outage = Outage::begin(&load);
    outage.last(3);
    signal(&outage.load, "INT");
    assert_eq!(wait(&mut outage.load).code(), Some(130));
    let out = outage.load.stdout.take().expect("it is piped");
    let report: Value = serde_json::from_reader(out).expect("a report");
    let (unfinished, held) = (number(&report, "/unfinished"), number(&report, "/held"));
    assert!(held > 0.0 && unfinished >= held, "{unfinished} of {held}");
}

/// Answers after five milliseconds, and takes few calls at once.
async fn narrow() -> RunningServer {
    let router = Router::new().route("slow", async || {
        sleep_until(tokio::time::Instant::now() + Duration::from_millis(5)).await;
        Bytes::new()
    });
    let mut config = ServerConfig::default();
    config.connection.limits.max_calls = 4;
    let endpoint = "tcp://127.0.0.1:0".parse().expect("a URL");
    let server = Server::new(router).config(config).listen(endpoint);
    server.start().await.expect("there are ports")
}

#[test]
fn calls_wait_for_a_connection_that_is_full_and_are_late_for_it() {
    let runtime = Runtime::new().expect("a runtime");
    let server = runtime.block_on(narrow());
    let url = format!("tcp://{}", server.addresses()[0]);
    let load = ["--warmup", "0s", "--duration", "1s", "--route", "slow"];
    let bursts = ["--burst", "20:100ms", "--max-lateness", "10s"];
    let bench = [&["bench", &url], &load[..], &bursts, &["--output", "json"]].concat();
    let report = report(&run(&bench), 0);
    assert_eq!(report["validity"]["valid"], true, "{}", report["validity"]);
    assert_eq!(number(&report, "/answered"), 200.0);
    assert_eq!(number(&report, "/held"), 160.0, "four of each burst leave");
    // The last four of a burst wait for four others before them.
    let longest = number(&report, "/latency_ns/max") / 1e6;
    assert!(longest > 24.0, "{longest} ms");
}

#[test]
fn ctrl_c_ends_a_run_that_is_still_connecting() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    silent.set_nonblocking(true).expect("it is a socket");
    let url = format!("tcp://{}", silent.local_addr().expect("it is bound"));
    let mut command = postroad();
    command.args(["bench", &url, "--output", "json"]);
    let load = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut load = load.spawn().expect("it was built");
    let _stream = accept(&silent);
    let begin = Instant::now();
    signal(&load, "INT");
    assert_eq!(wait(&mut load).code(), Some(130));
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "it just timed out"
    );
}

/// A server at an address of its own.
fn serve(runtime: &Runtime, router: Router) -> (RunningServer, String) {
    let endpoint = "tcp://127.0.0.1:0".parse().expect("a URL");
    let server = Server::new(router).listen(endpoint).start();
    let server = runtime.block_on(server).expect("there are ports");
    let url = format!("tcp://{}", server.addresses()[0]);
    (server, url)
}

/// Answers all calls but some, by their number.
fn silent_at(is_silent: fn(usize) -> bool) -> Router {
    let calls = Arc::new(AtomicUsize::new(0));
    Router::new().route("some", move || {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            if is_silent(call) {
                std::future::pending::<()>().await;
            }
            Bytes::new()
        }
    })
}

#[test]
fn a_stop_condition_sees_calls_that_are_never_answered() {
    let runtime = Runtime::new().expect("a runtime");
    let (_server, url) = serve(&runtime, silent_at(|_| true));
    for load in [["--rate", "100"], ["--callers", "3"]] {
        let times = ["--warmup", "0s", "--duration", "1h", "--timeout", "1h"];
        let stop = ["--interval", "100ms", "--stop-p99", "200ms"];
        let route = ["bench", &url, "--route", "some", "--output", "json"];
        let ended = run(&[&route[..], &load, &times, &stop].concat());
        let report = report(&ended, 99);
        assert!(number(&report, "/unfinished") >= 3.0, "{report}");
    }
}

#[test]
fn a_stop_condition_is_looked_at_also_when_all_calls_have_been_made() {
    let runtime = Runtime::new().expect("a runtime");
    let router = Router::new().route("late", async || {
        sleep_until(tokio::time::Instant::now() + Duration::from_millis(600)).await;
        Bytes::new()
    });
    let (_server, url) = serve(&runtime, router);
    let load = ["--warmup", "0s", "--rate", "100", "--route", "late"];
    let times = ["--duration", "200ms", "--interval", "200ms"];
    let stop = ["--stop-p99", "400ms", "--output", "json"];
    let bench = [&["bench", &url], &load[..], &times, &stop].concat();
    let report = report(&run(&bench), 99);
    let why = report["stopped"].as_str().unwrap_or_default();
    assert!(why.contains("when all calls had been made"), "{why}");
    assert_eq!(number(&report, "/answered"), 20.0, "they are waited for");
}

#[test]
fn a_stop_condition_sees_the_few_that_are_never_answered_among_many() {
    let runtime = Runtime::new().expect("a runtime");
    let (_server, url) = serve(&runtime, silent_at(|call| call.is_multiple_of(20)));
    let load = ["--warmup", "0s", "--rate", "1000", "--route", "some"];
    let times = ["--duration", "1h", "--timeout", "1h", "--interval", "200ms"];
    // Long enough for a machine that stands still to answer all others in time.
    let stop = ["--stop-p99", "5s", "--output", "json"];
    let bench = [&["bench", &url], &load[..], &times, &stop].concat();
    let report = report(&run(&bench), 99);
    let (unfinished, answered) = (number(&report, "/unfinished"), number(&report, "/answered"));
    assert!(unfinished < 0.2 * answered, "{unfinished} of {answered}");
}

#[test]
fn calls_that_never_end_do_not_take_anything_from_the_rate_of_the_others() {
    let runtime = Runtime::new().expect("a runtime");
    let (_server, url) = serve(&runtime, silent_at(|call| call == 199));
    let load = ["--warmup", "0s", "--rate", "200", "--duration", "1s"];
    let times = ["--timeout", "3s", "--route", "some", "--output", "json"];
    let ended = run(&[&["bench", &url], &load[..], &times].concat());
    let report = report(&ended, 0);
    assert_eq!(number(&report, "/failed"), 1.0);
    assert!(number(&report, "/seconds") < 2.5, "until the last answer");
    assert!(number(&report, "/rate") > 199.0 / 2.5, "{report}");
    let last = report["series"].as_array().and_then(|series| series.last());
    let last = last.expect("a series");
    assert!(
        number(last, "/at_seconds") > 2.5,
        "the failure has its place"
    );
}

#[test]
fn a_server_that_is_gone_for_good_does_not_look_fine_to_a_closed_loop() {
    let load = ["--callers", "4", "--duration", "3s", "--timeout", "500ms"];
    let outage = Outage::begin(&[&load[..], &["--interval", "200ms"]].concat());
    let ended = outage.load.wait_with_output().expect("it ends");
    let report = report(&ended, 0);
    assert_eq!(number(&report, "/connections_lost"), 1.0);
    let page = tempfile::tempdir().expect("a folder");
    let (run_at, page_at) = (page.path().join("run.json"), page.path().join("run.html"));
    std::fs::write(&run_at, report.to_string()).expect("it is written");
    let (run_at, page_at) = (run_at.display().to_string(), page_at.display().to_string());
    let made = run(&["bench", "report", &run_at, "--html", &page_at]);
    assert!(made.status.success());
    let page = std::fs::read_to_string(page_at).expect("it was made");
    assert!(page.contains("1 connection lost and not back at the end"));
    assert!(page.contains("nothing was answered for"));
    assert!(!page.contains("nothing speaks against"));
}
