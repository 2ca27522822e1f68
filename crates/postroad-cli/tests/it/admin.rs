//! How a node tells how it does: the program, its probe, and Prometheus' own judge of metrics.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::support::{has_peer, peer, postroad, run, signal, text, wait};

/// A node with a port of its own for health and metrics; killed when it is dropped.
struct Told {
    child: Child,
    node: String,
    admin: String,
}

impl Told {
    fn start(arguments: &[&str]) -> Self {
        let mut command = postroad();
        command.args(["--log", "off", "serve", "--listen", "tcp://127.0.0.1:0"]);
        let child = command.args(arguments).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the program was built");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut lines = out.lines().map(|line| line.expect("it is text"));
        let mut address = |word: &str| {
            let line = lines.next().expect("the node says where it listens");
            assert!(line.starts_with(word), "{line}");
            line.rsplit(' ').next().expect("an address").to_owned()
        };
        let (node, admin) = (address("listening "), address("admin "));
        Self { child, node, admin }
    }

    fn get(&self, path: &str, header: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it is text");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        body.to_owned()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_probe_says_by_its_exit_code_how_a_node_does() {
    let mut told = Told::start(&["--admin", "http://127.0.0.1:0"]);
    let url = format!("http://{}", told.admin);
    for (flag, word) in [
        ("--live", "live\n"),
        ("--ready", "ready\n"),
        ("--startup", "started\n"),
    ] {
        let output = run(&["probe", &url, flag]);
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(0), word.to_owned())
        );
    }
    let output = run(&["probe", &url]);
    assert_eq!(
        text(&output.stdout),
        "ready\n",
        "readiness is what is asked for by default"
    );
    let output = run(&["probe", &format!("http://{}", told.node), "--timeout", "2s"]);
    assert_eq!(output.status.code(), Some(69), "{}", text(&output.stderr));
    signal(&told.child, "TERM");
    assert_eq!(wait(&mut told.child).code(), Some(0));
    let output = run(&["probe", &url]);
    assert_eq!(output.status.code(), Some(69));
    let said = text(&output.stderr);
    assert!(
        said.contains("refused") && said.contains("hint: is a node running there"),
        "{said}"
    );
}

#[test]
fn an_address_that_others_could_reach_is_refused_before_anything_listens() {
    let output = run(&["serve", "--admin", "http://0.0.0.0:7490"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.contains("can be reached from other machines"),
        "{said}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("node.toml");
    std::fs::write(&file, "[admin]\nlisten = \"http://10.0.0.1:1\"\n").expect("it is ours");
    let output = run(&["config", "check", file.to_str().expect("it is text")]);
    assert_eq!(output.status.code(), Some(78));
    let said = text(&output.stderr);
    assert!(
        said.contains("line 2, column 10") && said.contains("http://127.0.0.1:PORT"),
        "{said}"
    );
}

#[test]
fn a_taken_address_ends_a_node_that_was_told_to_use_it() {
    let told = Told::start(&["--admin", "http://127.0.0.1:0"]);
    let taken = format!("http://{}", told.admin);
    let output = run(&["serve", "--listen", "tcp://127.0.0.1:0", "--admin", &taken]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("in use") && said.contains("--admin"),
        "{said}"
    );
}

#[test]
fn a_node_goes_on_without_health_and_metrics_if_the_default_address_is_taken() {
    // Of two nodes without a word about it, at most one has the address; this test does not mind
    // which node of another test has it.
    let start = || {
        let mut command = postroad();
        command.args(["serve", "--listen", "tcp://127.0.0.1:0"]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut node = command.spawn().expect("it was built");
        let err = BufReader::new(node.stderr.take().expect("it is piped"));
        let mut lines = err.lines().map_while(Result::ok);
        let said = lines.find(|line| line.contains("Initializing")).map(|_| ());
        said.expect("it serves");
        node
    };
    let mut nodes = [start(), start()];
    for node in &mut nodes {
        signal(node, "TERM");
        assert_eq!(wait(node).code(), Some(0));
    }
}

#[test]
fn prometheus_own_tool_and_parser_find_nothing_wrong_with_the_metrics() {
    let told = Told::start(&["--practice", "--admin", "http://127.0.0.1:0"]);
    let node = format!("tcp://{}", told.node);
    assert_eq!(
        run(&["call", &node, "postroad/echo"]).status.code(),
        Some(0)
    );
    let plain = told.get("/metrics", "");
    let open = told.get(
        "/metrics",
        "Accept: application/openmetrics-text;version=1.0.0\r\n",
    );
    assert!(open.ends_with("# EOF\n") && !plain.contains("# EOF"));
    assert!(
        plain.contains("postroad_server_requests_started_total 1\n"),
        "{plain}"
    );
    if has_peer("promtool", "prometheus") {
        let mut tool = Command::new("promtool");
        let tool = tool.args(["check", "metrics"]).stdin(Stdio::piped());
        let tool = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut tool = tool.expect("it is there");
        let mut input = tool.stdin.take().expect("it is piped");
        input.write_all(plain.as_bytes()).expect("it reads");
        drop(input);
        let output = tool.wait_with_output().expect("it ends");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    }
    let has_parser = Command::new("python3")
        .args(["-c", "import prometheus_client"])
        .stderr(Stdio::null())
        .status();
    if !has_parser.is_ok_and(|status| status.success()) {
        let wants = std::env::var("POSTROAD_TEST_PEERS").unwrap_or_default();
        assert_ne!(wants, "require", "pip install prometheus_client");
        eprintln!("NOT RUN: pip install prometheus_client");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("metrics");
    std::fs::write(&file, open).expect("it is ours");
    let program = "import sys\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
        for family in read(open(sys.argv[1]).read()): print(family.name, family.type)";
    let read = peer(Command::new("python3").args(["-c", program]).arg(&file));
    for family in [
        "postroad_server_requests_started counter",
        "postroad_build info",
    ] {
        assert!(read.lines().any(|line| line == family), "{read}");
    }
}
