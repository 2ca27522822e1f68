//! Several nodes behind one client: services of the configuration, why a call went where it went,
//! and nodes that register in a real etcd while they, and it, come and go.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use postroad::Client;
use postroad::client::Explanation;

use crate::support::{Node, has_peer, run, signal, text};

/// How soon traffic is spread again after nodes are back: a client dials a server that was long
/// gone every 30 s, and registrations are renewed within that time.
const SPREAD_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn a_service_of_the_configuration_is_called_by_its_name() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("postroad.toml");
    let text_of_file = format!(
        "[service.orders]\ntarget = \"{},{}\"\nbalance = \"round-robin\"\n\
         idempotent = [\"postroad/*\"]\n",
        node.tcp(),
        node.addresses[0]
    );
    std::fs::write(&file, text_of_file).expect("it is written");
    let file = file.to_str().expect("it is text");
    let call = ["call", "orders", "postroad/echo", "7", "--config", file];
    let output = run(&call);
    assert_eq!(text(&output.stdout), "7\n", "{}", text(&output.stderr));
    let output = run(&[&call[..], &["--explain"]].concat());
    let why = text(&output.stderr);
    assert!(why.contains("round-robin picked tcp://127.0.0.1"), "{why}");
    let output = run(&["call", "order", "postroad/echo", "7", "--config", file]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(error.contains("there are orders"), "{error}");
    let listed = text(&run(&["ls", "orders", "--config", file]).stdout);
    assert!(listed.contains("postroad/health"), "{listed}");
}

#[test]
fn mistakes_in_a_service_and_in_register_have_their_places() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("postroad.toml");
    let file = file.to_str().expect("it is text");
    for (written, says) in [
        (
            "[service.a]\nbalanse = \"p2c\"\n",
            "line 2, column 1: unknown key `balanse`",
        ),
        (
            "[service.a]\ntarget = \"tcp://h:1\"\nretry = { attemps = 2 }\n",
            "line 3, column 11: unknown key `attemps`",
        ),
        (
            "[service.a]\ntarget = \"tcp://h:1\"\nbalance = \"p3c\"\n",
            "line 3, column 11",
        ),
        (
            "[service.a]\ntarget = \"tcp://h:1\"\nretry = { attempts = 9 }\n",
            "line 3, column 22: retry.attempts = 9",
        ),
        (
            "[service.a]\ntimeout = \"1s\"\n",
            "line 1, column 10: missing key `target`",
        ),
        (
            "[service.a]\ntarget = \"tcp+morse://h:1\"\n",
            "line 2, column 10",
        ),
        (
            "[register]\nat = \"tcp://h:1\"\n",
            "line 2, column 6: \"tcp://h:1\" is no registry",
        ),
        (
            "[register]\nweigth = 1\nat = \"etcd://h:1/a\"\n",
            "did you mean `weight`?",
        ),
        (
            "[[listen]]\nurl = \"tcp://0.0.0.0:7400\"\n[register]\nat = \"etcd://h:1/a\"\n",
            "say how others reach this node",
        ),
    ] {
        std::fs::write(file, written).expect("it is written");
        let output = run(&["config", "check", file]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{written}{error}");
        assert!(error.contains(says), "{written}{error}");
    }
    std::fs::write(file, "[service.a]\ntarget = \"tcp://h:1\"\n").expect("it is written");
    let printed = text(&run(&["config", "print", file]).stdout);
    assert!(
        printed.contains("[service.a]\ntarget = \"tcp://h:1\""),
        "{printed}"
    );
    assert!(printed.contains("postroad.toml:2"), "{printed}");
}

/// An etcd of the test's own; killed when it is dropped.
struct Etcd {
    child: Child,
    port: u16,
    peers: u16,
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound").port()
}

impl Etcd {
    fn start(data: &Path) -> Self {
        let (port, peers) = (free_port(), free_port());
        let child = Self::spawn(data, port, peers);
        Self { child, port, peers }
    }

    fn spawn(data: &Path, port: u16, peers: u16) -> Child {
        let client = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peers}");
        let mut etcd = Command::new("etcd");
        etcd.arg("--data-dir").arg(data);
        etcd.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        etcd.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        etcd.args(["--initial-cluster", &format!("default={peer}")]);
        let etcd = etcd.stdout(Stdio::null()).stderr(Stdio::null());
        etcd.spawn().expect("etcd is there")
    }

    fn stop(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    fn start_again(&mut self, data: &Path) {
        self.child = Self::spawn(data, self.port, self.peers);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Calls without a pause, and what became of them.
struct Load {
    client: Client,
    began: Instant,
    calls: u32,
    failed: Vec<String>,
}

impl Load {
    fn say(&self, what: &str) {
        let since = self.began.elapsed().as_secs_f64();
        println!(
            "{since:7.2} s  {:>6} calls, {} failed; {what}",
            self.calls,
            self.failed.len()
        );
    }

    async fn call(&mut self) -> Option<String> {
        let why = Explanation::default();
        let call = self
            .client
            .request("postroad/echo")
            .idempotent()
            .explain(&why);
        let answer = call.call_raw("hello").await;
        self.calls += 1;
        let why = why.take().to_string();
        if let Err(error) = answer {
            self.failed.push(format!("{error}\n{why}"));
            return None;
        }
        // The last that was picked has answered.
        let mut picked = why.lines().filter_map(|line| line.split("picked ").nth(1));
        picked.next_back().map(str::to_owned)
    }

    /// Calls for this time.
    async fn run(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.call().await;
            pass(Duration::from_millis(2)).await;
        }
    }

    /// Calls until each of these nodes has answered some.
    async fn spread(&mut self, nodes: &[&Node]) {
        let began = Instant::now();
        let mut answered = vec![0; nodes.len()];
        while answered.iter().any(|many| *many < 5) {
            assert!(
                began.elapsed() < SPREAD_WITHIN,
                "traffic is not spread: {answered:?}"
            );
            if let Some(url) = self.call().await
                && let Some(at) = nodes.iter().position(|node| node.tcp() == url)
            {
                answered[at] += 1;
            }
            pass(Duration::from_millis(2)).await;
        }
        let took = began.elapsed();
        self.say(&format!(
            "spread over {} nodes after {took:.1?}",
            nodes.len()
        ));
    }
}

/// Lets time pass.
async fn pass(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

/// A node that registers itself.
fn registered(file: &str, address: &str) -> Node {
    let url = format!("tcp://{address}");
    Node::with(&["--config", file, "--listen", &url], 1)
}

#[tokio::test]
async fn idempotent_calls_go_on_while_one_registered_node_is_up() {
    if !has_peer("etcd", "etcd-server") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("etcd");
    let mut etcd = Etcd::start(&data);
    let at = format!("etcd://127.0.0.1:{}/orders", etcd.port);
    let file = folder.path().join("postroad.toml");
    std::fs::write(&file, format!("[register]\nat = \"{at}\"\n")).expect("it is written");
    let file = file.to_str().expect("it is text");
    let one = registered(file, "127.0.0.1:0");
    let mut two = registered(file, "127.0.0.1:0");
    let mut three = registered(file, "127.0.0.1:0");
    // A stopped node takes calls and is silent: when half of a call's time has passed, another node
    // is asked.
    let client = Client::builder(&at).timeout(Duration::from_secs(2));
    let client = client.build().expect("it is right");
    // The first list may be short: etcd starts while the nodes register.
    let found = async {
        while client
            .request("postroad/echo")
            .call_raw("first")
            .await
            .is_err()
        {
            pass(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(20), found).await;
    found.expect("the nodes are found");
    let began = Instant::now();
    let (calls, failed) = (0, Vec::new());
    let mut load = Load {
        client,
        began,
        calls,
        failed,
    };
    load.spread(&[&one, &two, &three]).await;
    signal(&one.child, "STOP");
    load.say("SIGSTOP to the first");
    load.run(Duration::from_secs(3)).await;
    signal(&two.child, "KILL");
    load.say("SIGKILL to the second");
    load.run(Duration::from_secs(3)).await;
    signal(&one.child, "CONT");
    load.say("SIGCONT to the first");
    load.spread(&[&one, &three]).await;
    signal(&three.child, "TERM");
    load.say("SIGTERM to the third");
    load.run(Duration::from_secs(2)).await;
    assert_eq!(three.wait().code(), Some(0));
    load.say("the third has ended in order");
    etcd.stop();
    load.say("etcd is stopped");
    load.run(Duration::from_secs(3)).await;
    etcd.start_again(&data);
    let _ = two.child.wait();
    two = registered(file, &two.addresses[0]);
    three = registered(file, &three.addresses[0]);
    load.say("etcd and all nodes are started again");
    load.spread(&[&one, &two, &three]).await;
    load.say("the end");
    assert!(load.failed.is_empty(), "{}", load.failed.join("\n"));
}
