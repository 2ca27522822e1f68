//! The real program as a process, and real peers beside it.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test uses the part that it needs"
)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad::{Bytes, Router, Server};
use serde_json::Value;
use tokio::sync::Semaphore;

pub fn postroad() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postroad"));
    command.stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// The program, which heeds a hangup even if the tests were started by `nohup`.
pub fn postroad_heeding_hangups() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_postroad")]);
    command.stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    postroad()
        .args(arguments)
        .output()
        .expect("the program was built")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A node; killed when it is dropped.
pub struct Node {
    pub child: Child,
    pub addresses: Vec<String>,
}

impl Node {
    pub fn start(urls: &[&str]) -> Self {
        let listen = urls.iter().flat_map(|url| ["--listen", url]);
        Self::with(listen.collect::<Vec<_>>().as_slice(), urls.len())
    }

    pub fn with(arguments: &[&str], listeners: usize) -> Self {
        let mut command = postroad();
        command.args(["--log", "off", "serve"]).args(arguments);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let addresses = out.lines().take(listeners).map(|line| {
            let line = line.expect("the node says where it listens");
            line.rsplit(' ').next().expect("an address").to_owned()
        });
        let addresses = addresses.collect();
        Self { child, addresses }
    }

    pub fn tcp(&self) -> String {
        format!("tcp://{}", self.addresses[0])
    }

    pub fn port(&self) -> &str {
        self.addresses[0].rsplit(':').next().expect("a port")
    }

    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits for the end, within ten seconds.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Resident memory, KiB.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the node runs");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS is there");
        line.split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok())
            .expect("a number")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker; killed when it is dropped.
pub struct Worker {
    pub child: Child,
    pub address: String,
}

impl Worker {
    pub fn start() -> Self {
        let mut command = postroad_heeding_hangups();
        command.args(["bench", "worker", "--listen", "127.0.0.1:0"]);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        out.read_line(&mut line).expect("it says where it listens");
        let address = line
            .trim()
            .rsplit(' ')
            .next()
            .expect("an address")
            .to_owned();
        Self { child, address }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(sent.expect("kill is there").success());
}

pub fn wait(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            return status;
        }
        std::thread::yield_now();
    }
    panic!("the process did not end within ten seconds");
}

/// Whether a peer is there. `POSTROAD_TEST_PEERS=require` makes a missing one a failure, which is
/// what CI does.
pub fn has_peer(name: &str, package: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {name}")])
        .output();
    let is_there = found.is_ok_and(|output| output.status.success());
    if !is_there {
        let wants = std::env::var("POSTROAD_TEST_PEERS").unwrap_or_default();
        assert_ne!(
            wants, "require",
            "{name} is missing: apt-get install {package}"
        );
        eprintln!("NOT RUN: {name} is missing; apt-get install {package}");
    }
    is_there
}

/// Runs a peer, which must succeed within two minutes; what it said.
pub fn peer(command: &mut Command) -> String {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is there");
    let (mut out, mut err) = (String::new(), String::new());
    child
        .stdout
        .take()
        .expect("it is piped")
        .read_to_string(&mut out)
        .expect("it is text");
    child
        .stderr
        .take()
        .expect("it is piped")
        .read_to_string(&mut err)
        .expect("it is text");
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{command:?} failed: {out}\n{err}");
    out
}

/// A load test without a warm-up.
pub fn bench(url: &str, more: &[&str]) -> Output {
    run(&[&["bench", url, "--warmup", "0s"], more].concat())
}

/// The report of a load test that ends well.
pub fn json(url: &str, more: &[&str]) -> Value {
    report(&bench(url, &[more, &["--output", "json"]].concat()), 0)
}

/// The report of a load test; it must have ended with this code.
pub fn report(output: &Output, code: i32) -> Value {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

pub fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no {pointer} in {report}"))
}

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Of all intervals.
pub fn sum(report: &Value, name: &str) -> f64 {
    let series = report["series"].as_array().expect("a series");
    series
        .iter()
        .map(|interval| number(interval, &format!("/{name}")))
        .sum()
}

/// A server that says when it has been called often enough.
pub async fn counting_server(at: &str, calls: &Arc<Semaphore>) -> postroad::RunningServer {
    let calls = Arc::clone(calls);
    let router = Router::new().route("count", move || {
        let calls = Arc::clone(&calls);
        async move {
            calls.add_permits(1);
            Bytes::new()
        }
    });
    let endpoint = format!("tcp://{at}").parse().expect("a URL");
    let server = Server::new(router).listen(endpoint).start();
    server.await.expect("the address is free")
}
