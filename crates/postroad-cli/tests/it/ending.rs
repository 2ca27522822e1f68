//! A node that is told to end under load loses no call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad::{Client, ClientConfig};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::support::{Node, PATIENCE, postroad, run, signal, text, wait};

/// Calls a second, and for how long. Few enough that a busy machine does not queue more of them
/// than a client lets wait.
const RATE: u64 = 1_000;
const LASTS: Duration = Duration::from_secs(4);
/// The calls that became due within this are made together.
const TICK: Duration = Duration::from_millis(1);

/// A node that serves on for so long after it was told to end.
fn node(lameduck: &str) -> Node {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("node.toml");
    let text = format!("[server]\nlameduck = \"{lameduck}\"\n[admin]\nlisten = \"off\"\n");
    std::fs::write(&file, text).expect("it is ours");
    let file = file.to_str().expect("it is text");
    let arguments = [
        "--practice",
        "--listen",
        "tcp://127.0.0.1:0",
        "--config",
        file,
    ];
    Node::with(&arguments, 1)
}

/// Makes calls in an open loop, each of which counts, and has `at_half` done after half of them.
/// What each was answered.
async fn load(client: &Arc<Client>, at_half: impl FnOnce()) -> Vec<Result<u64, String>> {
    let mut ticks = tokio::time::interval(TICK);
    // What a tick that came late leaves is made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut calls, mut at_half) = (JoinSet::new(), Some(at_half));
    let all = LASTS.as_millis() / TICK.as_millis();
    for at in 0..all {
        ticks.tick().await;
        if at >= all / 2
            && let Some(at_half) = at_half.take()
        {
            at_half();
        }
        for _ in 0..RATE / 1_000 {
            let client = Arc::clone(client);
            calls.spawn(async move {
                let key = json!({"key": "a"});
                let call = client.request("practice/count").timeout(PATIENCE);
                let answer: Result<Value, _> = call.call(&key).await;
                let answer = answer.map_err(|error| format!("{error:?}"))?;
                answer["count"].as_u64().ok_or_else(|| answer.to_string())
            });
        }
    }
    calls.join_all().await
}

/// Two nodes under load, of which one is told to end. No call may fail, and none may be executed
/// twice, although none of them says that it could be.
async fn end_under_load(lameduck: &str) {
    let (mut ending, staying) = (node(lameduck), node("0s"));
    let target = format!("tcp://{},{}", ending.addresses[0], staying.addresses[0]);
    let config = ClientConfig::default();
    let client = Client::new(target.parse().expect("a target"), config).expect("it is right");
    let client = Arc::new(client);
    let child = &ending.child;
    let answers = load(&client, || signal(child, "TERM")).await;
    let failed: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    assert!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert_eq!(ending.wait().code(), Some(0));

    // Each node has counted its calls from 1. So if each was executed once, the numbers that one
    // node has given are there twice, up to what the other gave, and none is missing.
    let mut counts: Vec<_> = answers.into_iter().filter_map(Result::ok).collect();
    counts.sort_unstable();
    let most = counts.last().copied().unwrap_or_default();
    let times = |count| counts.iter().filter(|other| **other == count).count();
    let few = counts.len() as u64 - most;
    assert_eq!(
        (times(1), times(few), times(few + 1)),
        (2, 2, 1),
        "both had calls"
    );
    counts.dedup();
    assert_eq!(
        counts.len() as u64,
        most,
        "a call was executed and not answered"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_at_once_under_load_loses_no_call_of_a_client_of_two() {
    end_under_load("0s").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_serves_on_for_a_second_under_load_loses_no_call_of_a_client_of_two() {
    end_under_load("1s").await;
}

#[test]
fn a_second_signal_ends_a_node_at_once_that_still_serves() {
    let signals = [
        ("TERM", "TERM", 143),
        ("INT", "TERM", 143),
        ("TERM", "INT", 130),
    ];
    for (first, second, code) in signals {
        let mut command = postroad();
        command.args(["--log", "off", "serve", "--listen", "tcp://127.0.0.1:0"]);
        command.args(["--admin", "http://127.0.0.1:0"]);
        let command = command.env("POSTROAD_SERVER__LAMEDUCK", "60s");
        let mut child = command
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("it was built");
        let out = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
        let lines = std::io::BufRead::lines(out).take(2);
        let address = |line: std::io::Result<String>| {
            let line = line.expect("it is text");
            line.rsplit(' ').next().expect("an address").to_owned()
        };
        let addresses: Vec<_> = lines.map(address).collect();
        let (node, admin) = (&addresses[0], format!("http://{}", addresses[1]));
        signal(&child, first);
        let began = Instant::now();
        let said = loop {
            let output = run(&["probe", &admin]);
            if output.status.code() == Some(1) {
                break text(&output.stderr);
            }
            assert!(began.elapsed() < PATIENCE, "{}", text(&output.stdout));
        };
        assert!(
            said.contains("ShuttingDown: it finishes what was accepted"),
            "{said}"
        );
        assert_eq!(run(&["probe", &admin, "--live"]).status.code(), Some(0));
        let echo = run(&["call", &format!("tcp://{node}"), "postroad/echo", "7"]);
        assert_eq!(text(&echo.stdout), "7\n", "{}", text(&echo.stderr));
        signal(&child, second);
        assert_eq!(wait(&mut child).code(), Some(code));
    }
}
