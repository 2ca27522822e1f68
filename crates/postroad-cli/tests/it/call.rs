//! `postroad call`: where a payload comes from, and what is said about an answer.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::support::{Node, postroad, run, text};

#[test]
fn a_payload_comes_from_a_file() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "{\"a\": 1}").expect("it is written");
    let at = format!("@{}", file.path().display());
    let output = run(&["call", &node.tcp(), "postroad/echo", &at]);
    assert_eq!(text(&output.stdout), "{\"a\": 1}\n");
    std::fs::write(file.path(), [0xff, 0, b'\n']).expect("it is written");
    let output = run(&["call", &node.tcp(), "postroad/echo", &at, "--raw"]);
    assert_eq!(output.stdout, [0xff, 0, b'\n']);
    let mut call = postroad();
    call.args(["call", &node.tcp(), "postroad/echo", "@-"]);
    let call = call.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut call = call.spawn().expect("the program was built");
    let mut stdin = call.stdin.take().expect("it is piped");
    stdin.write_all(b"[1]").expect("it reads");
    drop(stdin);
    let output = call.wait_with_output().expect("it ends");
    assert_eq!(text(&output.stdout), "[1]\n");
}

#[test]
fn a_payload_that_cannot_be_is_refused_with_what_to_do() {
    for (payload, words) in [
        ("@/no/such.json", "/no/such.json: No such file"),
        ("@/no/such.json", "can come from stdin"),
        ("text", "a string has its own quotes: '\"text\"'"),
        ("text", "@FILE reads a file, --raw sends bytes"),
    ] {
        let output = run(&["call", "tcp://127.0.0.1:1", "x", payload]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_refused_payload_is_answered_with_what_the_route_takes() {
    let node = Node::with(&["--practice", "--listen", "tcp://127.0.0.1:0"], 1);
    let output = run(&["call", &node.tcp(), "practice/count", "{}"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let hint = "hint: practice/count takes {key: String}";
    assert!(
        said.contains("missing field `key`") && said.contains(hint),
        "{said}"
    );
}

#[test]
fn a_trace_is_printed_and_stands_in_the_log_of_the_server() {
    let mut node = postroad();
    node.args(["--log", "off,postroad::call=debug"]);
    node.args(["serve", "--listen", "tcp://127.0.0.1:0"]);
    let node = node.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut node = Node {
        child: node.spawn().expect("the program was built"),
        addresses: Vec::new(),
    };
    let mut line = String::new();
    let out = node.child.stdout.take().expect("it is piped");
    BufReader::new(out).read_line(&mut line).expect("a line");
    let url = format!(
        "tcp://{}",
        line.trim().rsplit(' ').next().expect("an address")
    );
    let output = run(&["call", &url, "postroad/echo", "1", "--trace"]);
    assert_eq!(text(&output.stdout), "1\n");
    let said = text(&output.stderr);
    let trace = said.trim().strip_prefix("trace ").expect("a trace");
    assert_eq!(trace.len(), 32);
    let log = node.child.stderr.take().expect("it is piped");
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    let logged = lines
        .find(|line| line.contains("handled"))
        .expect("it is logged");
    assert!(logged.contains(trace), "{logged}");
    let output = run(&["call", "tcp+line://127.0.0.1:1", "x", "1", "--trace"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_larger_answer_is_taken_by_whoever_allows_it() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let config = "[limits]\nmax_message = \"64MiB\"\nmax_dialect_payload = \"4MiB\"\n\
        [[listen]]\nurl = \"tcp://127.0.0.1:0\"\n[[listen]]\nurl = \"tcp+sequence://127.0.0.1:0\"\n";
    std::fs::write(file.path(), config).expect("it is written");
    let node = Node::with(&["--config", &file.path().display().to_string()], 2);
    let payload = tempfile::NamedTempFile::new().expect("a file");
    let at = format!("@{}", payload.path().display());
    let sequence = format!("tcp+sequence://{}", node.addresses[1]);
    for (url, size, allowed) in [(node.tcp(), 20 << 20, "32MiB"), (sequence, 2 << 20, "4MiB")] {
        std::fs::write(payload.path(), vec![b'x'; size]).expect("it is written");
        let arguments = ["call", &url, "postroad/echo", &at, "--raw"];
        assert_ne!(run(&arguments).status.code(), Some(0), "{url}");
        let output = run(&[&arguments[..], &["--max-message", allowed]].concat());
        // A newline ends what is printed of text.
        assert_eq!(
            output.stdout.len(),
            size + 1,
            "{url}: {}",
            text(&output.stderr)
        );
    }
    for size in ["4 apples", "2GiB", "1"] {
        let output = run(&["call", "tcp://127.0.0.1:1", "x", "--max-message", size]);
        assert_eq!(output.status.code(), Some(2), "{size}");
    }
}
