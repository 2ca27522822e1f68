//! What signals do to a node, to a load test and to a worker.

use std::io::Write;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;

use crate::support::{
    Worker, counting_server, postroad, postroad_heeding_hangups, signal, text, wait,
};
use postroad::Client;
use tokio::sync::Semaphore;

#[test]
fn a_node_that_cuts_handlers_off_says_how_many_and_of_which_route() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("postroad.toml");
    let text = "[server]\ndrain = \"1s\"\n[[listen]]\nurl = \"tcp://127.0.0.1:0\"\n";
    std::fs::write(&config, text).expect("it is written");
    let mut command = postroad();
    command.args(["serve", "--practice", "--config"]);
    let command = command
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut node = command.spawn().expect("the program was built");
    let out = BufReader::new(node.stdout.take().expect("it is piped"));
    let listening = out.lines().next().expect("a line").expect("it is text");
    let address = listening.rsplit(' ').next().expect("an address");
    let mut log = BufReader::new(node.stderr.take().expect("it is piped")).lines();
    let mut line_with = |word: &str| {
        let lines = log.by_ref().map_while(Result::ok);
        lines.into_iter().find(|line| line.contains(word))
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cut = runtime.block_on(async {
        let client = Client::connect(&format!("tcp://{address}")).await;
        let client = client.expect("it connects");
        let sleep = || {
            client
                .request("practice/sleep")
                .call_raw(r#"{"ms": 50000}"#)
        };
        let end = async {
            // It leaves behind the others, so those have begun when it is answered.
            let answer = client.request("postroad/echo").call_raw("").await;
            answer.expect("it is answered");
            signal(&node, "TERM");
        };
        let (one, two, three, ()) = tokio::join!(sleep(), sleep(), sleep(), end);
        [one, two, three].map(|answer| answer.is_err())
    });
    assert_eq!(cut, [true; 3]);
    let said = line_with("handlers were cut off").expect("it is said");
    assert!(said.contains("ERROR"), "{said}");
    assert!(
        said.contains("handlers=3") && said.contains("practice/sleep (3)"),
        "{said}"
    );
    wait(&mut node);
}

/// A server, and how often it was called: that a load runs shows that its signals are heeded.
struct Called {
    runtime: tokio::runtime::Runtime,
    calls: Arc<Semaphore>,
    url: String,
    _server: postroad::RunningServer,
}

impl Called {
    fn start() -> Self {
        let calls = Arc::new(Semaphore::new(0));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let server = runtime.block_on(counting_server("127.0.0.1:0", &calls));
        let url = format!("tcp://{}", server.addresses()[0]);
        Self {
            runtime,
            calls,
            url,
            _server: server,
        }
    }

    fn wait_for_calls(&self, many: u32) {
        let called = self.calls.acquire_many(many);
        self.runtime.block_on(called).expect("it is open").forget();
    }
}

#[test]
fn a_hangup_ends_a_load_test_as_sigterm_does_and_its_result_is_kept() {
    let called = Called::start();
    let files = tempfile::tempdir().expect("a folder");
    let result = files.path().join("run.json");
    let mut bench = postroad_heeding_hangups();
    bench.args(["bench", &called.url, "--route", "count", "--warmup", "0s"]);
    bench.args(["--duration", "60s", "--json"]).arg(&result);
    let bench = bench.stdout(Stdio::piped()).stderr(Stdio::null());
    let bench = bench.spawn().expect("the program was built");
    called.wait_for_calls(1000);
    signal(&bench, "HUP");
    let output = bench.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(143));
    assert!(text(&output.stdout).contains("answered"));
    let written = std::fs::read(result).expect("it was written");
    let written: serde_json::Value = serde_json::from_slice(&written).expect("it is whole");
    assert!(written.get("series").is_some());
}

#[test]
fn a_hangup_ends_a_worker() {
    let mut worker = Worker::start();
    signal(&worker.child, "HUP");
    assert_eq!(wait(&mut worker.child).code(), Some(0));
}

#[test]
fn what_was_started_by_nohup_outlives_a_hangup() {
    let called = Called::start();
    let mut bench = std::process::Command::new("nohup");
    let program = env!("CARGO_BIN_EXE_postroad");
    bench.args([program, "bench", &called.url, "--route", "count"]);
    bench.args(["--duration", "500ms", "--warmup", "0s"]);
    let bench = bench.stdin(Stdio::null()).stderr(Stdio::null());
    let bench = bench.stdout(Stdio::piped()).spawn();
    let bench = bench.expect("nohup is there");
    called.wait_for_calls(1000);
    signal(&bench, "HUP");
    let output = bench.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[test]
fn a_load_test_whose_progress_nobody_reads_ends_by_a_signal() {
    use rustix::fs::{OFlags, fcntl_setfl};

    let called = Called::start();
    let (_reader, mut stderr) = std::io::pipe().expect("a pipe");
    fcntl_setfl(&stderr, OFlags::NONBLOCK).expect("it is ours");
    while stderr.write(&[b'x'; 4096]).is_ok() {}
    while stderr.write(b"x").is_ok() {}
    fcntl_setfl(&stderr, OFlags::empty()).expect("it is ours");
    let mut bench = postroad();
    bench.args(["bench", &called.url, "--route", "count", "--warmup", "0s"]);
    bench.args(["--rate", "500", "--duration", "60s"]);
    let bench = bench.stdout(Stdio::piped()).stderr(stderr);
    let bench = bench.spawn().expect("the program was built");
    // Six seconds: the first line of progress is due after five, and finds no room.
    called.wait_for_calls(3000);
    signal(&bench, "INT");
    let output = bench.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    assert!(text(&output.stdout).contains("answered"));
}
