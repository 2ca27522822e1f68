//! The dialects' client against a server in another language that shares no code with it and checks
//! every frame.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{has_peer, root};
use postroad::{CallError, Client, ConnectionState, Retry};

/// The independent server; killed when it is dropped.
struct Peer {
    child: Child,
    url: String,
}

impl Peer {
    fn start(dialect: &str, options: &[(&str, &str)], chunks: &str) -> Self {
        let mut command = Command::new("python3");
        command
            .arg(root().join("tests/peers/dialect_server.py"))
            .arg(dialect);
        for (name, value) in options {
            command.args([format!("--{name}"), (*value).to_owned()]);
        }
        let mut child = command
            .env("DIALECT_SERVER_CHUNKS", chunks)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        out.read_line(&mut line).expect("it says where it listens");
        let address = line.trim().trim_start_matches("listening ").to_owned();
        let query: Vec<_> = options
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let url = format!("tcp+{dialect}://{address}?{}", query.join("&"));
        Self { child, url }
    }

    /// What it found wrong with the client's frames.
    fn end(mut self) -> String {
        let _ = self.child.kill();
        let mut said = String::new();
        let mut err = self.child.stderr.take().expect("it is piped");
        err.read_to_string(&mut said).expect("it is text");
        said
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn call(client: &Client, text: &str) -> Result<String, CallError> {
    let answer = client
        .request("command/0x17")
        .call_raw(text.to_owned())
        .await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Everything that the server can do to a client, but what ends the connection.
async fn answers(client: &Client, has_ids: bool) {
    for text in ["hello", "x", "grüße €", &"long ".repeat(2000)] {
        assert_eq!(call(client, text).await.expect("an echo"), text);
    }
    let failure = call(client, "fail on purpose")
        .await
        .expect_err("it is asked to fail");
    assert_eq!(failure.to_string(), "APP-E-042 on purpose");
    let calls: Vec<_> = (0..300)
        .map(|n| {
            let client = client.clone();
            let text = if n % 50 == 0 {
                format!("slow 30 {n}")
            } else {
                n.to_string()
            };
            tokio::spawn(async move { (call(&client, &text).await, text) })
        })
        .collect();
    for task in calls {
        let (answer, text) = task.await.expect("no panic");
        assert_eq!(answer.expect("an echo"), text);
    }
    let swapped = tokio::join!(call(client, "swap"), call(client, "after"));
    assert_eq!(
        (
            swapped.0.expect("held back"),
            swapped.1.expect("it came first")
        ),
        ("swap".into(), "after".into())
    );
    assert_eq!(call(client, "twice").await.expect("it comes once"), "twice");
    let late = client
        .request("command/0x17")
        .timeout(Duration::from_millis(100));
    let late = late.call_raw("late").await.expect_err("it comes too late");
    assert!(
        matches!(late, CallError::Deadline { .. }) || !has_ids,
        "{late}"
    );
    for n in 0..100 {
        assert_eq!(
            call(client, &n.to_string()).await.expect("an echo"),
            n.to_string()
        );
    }
    client
        .request("command/0x17")
        .send_bytes(0, "one way".into())
        .await
        .expect("it is sent");
    assert_eq!(
        call(client, "still in step").await.expect("an echo"),
        "still in step"
    );
}

/// What ends the connection: calls in flight end clearly, and the client comes back.
async fn breaks(client: &Client) {
    let mut state = client.state();
    for text in ["close", "junk"] {
        let lost = call(client, text).await.expect_err("the connection ends");
        assert!(matches!(lost, CallError::Lost { sent: true, .. }), "{lost}");
        assert_eq!(lost.retry(), Retry::IfIdempotent);
        client.try_now();
        let back = state.wait_for(|state| *state == ConnectionState::Connected);
        tokio::time::timeout(Duration::from_secs(20), back)
            .await
            .expect("it comes in time")
            .expect("the client lives");
        assert_eq!(call(client, "back").await.expect("an echo"), "back");
    }
}

fn check(dialect: &str, options: &[(&str, &str)]) {
    if !has_peer("python3", "python3") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    for chunks in ["0", "1"] {
        let peer = Peer::start(dialect, options, chunks);
        runtime.block_on(async {
            let client = Client::connect(&peer.url).await.expect("the peer listens");
            answers(
                &client,
                matches!(dialect, "session" | "sequence" | "priority"),
            )
            .await;
            breaks(&client).await;
            client.close().await;
        });
        assert_eq!(peer.end(), "", "{dialect}: what the peer found wrong");
    }
}

#[test]
fn the_session_client_satisfies_an_independent_server() {
    for crc in ["ibm-3740", "modbus", "kermit"] {
        check("session", &[("crc", crc)]);
    }
}

#[test]
fn the_sequence_client_satisfies_an_independent_server() {
    check("sequence", &[]);
}

#[test]
fn the_opcode_client_satisfies_an_independent_server() {
    check("opcode", &[]);
}

#[test]
fn the_priority_client_satisfies_an_independent_server() {
    for header in ["9", "10", "12"] {
        check("priority", &[("header", header)]);
    }
}

#[test]
fn the_compact_client_satisfies_an_independent_server() {
    check("compact", &[]);
}

#[test]
fn the_line_client_satisfies_an_independent_server() {
    check("line", &[]);
}
