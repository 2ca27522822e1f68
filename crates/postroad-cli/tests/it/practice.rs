//! The practice routes through the real program.

use crate::support::{Node, run, text};

/// What a call of the program prints, or its error.
fn call(node: &Node, route: &str, payload: &str) -> Result<String, String> {
    let output = run(&["call", &node.tcp(), route, payload]);
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

fn practising() -> Node {
    Node::with(&["--practice", "--listen", "tcp://127.0.0.1:0"], 1)
}

#[test]
fn practice_routes_do_what_they_are_told() {
    let node = practising();
    let call = |route: &str, payload: &str| call(&node, route, payload);
    assert_eq!(
        call("practice/sleep", r#"{"ms": 1}"#).as_deref(),
        Ok("{\"ms\":1}\n")
    );
    assert_eq!(
        call("practice/spin", r#"{"us": 200}"#).as_deref(),
        Ok("{\"us\":200}\n")
    );
    for count in 1..4 {
        let answer = call("practice/count", r#"{"key": "a"}"#);
        assert_eq!(answer, Ok(format!("{{\"key\":\"a\",\"count\":{count}}}\n")));
    }
    let other = call("practice/count", r#"{"key": "b"}"#);
    assert_eq!(other.as_deref(), Ok("{\"key\":\"b\",\"count\":1}\n"));
    let bytes = call("practice/size", r#"{"bytes": 65536}"#).expect("it answers");
    assert_eq!(bytes.trim_end().len(), 65_536);
    let failed = call("practice/fail", r#"{"code": "PRC-E-001"}"#).expect_err("always");
    assert!(failed.contains("PRC-E-001"), "{failed}");
    let share = r#"{"code": "PRC-E-002", "share": 0.5}"#;
    let failed: Vec<_> = (0..6)
        .map(|_| call("practice/fail", share).is_err())
        .collect();
    assert_eq!(failed, [false, true, false, true, false, true]);
}

#[test]
fn bad_input_is_refused_with_field_and_bound() {
    let node = practising();
    for (route, payload, expected) in [
        (
            "practice/sleep",
            r#"{"ms": 60001}"#,
            "ms = 60001 is out of bounds: at most 60000",
        ),
        (
            "practice/spin",
            r#"{"us": 1000001}"#,
            "us = 1000001 is out of bounds: at most 1000000",
        ),
        (
            "practice/size",
            r#"{"bytes": 8388609}"#,
            "bytes = 8388609 is out of bounds",
        ),
        (
            "practice/fail",
            r#"{"code": "oops"}"#,
            "code: \"oops\" is not an error code",
        ),
        (
            "practice/fail",
            r#"{"code": "PRC-E-001", "share": 2}"#,
            "share = 2 is out of bounds",
        ),
        (
            "practice/sleep",
            r#"{"seconds": 1}"#,
            "unknown field `seconds`, expected `ms`",
        ),
        ("practice/count", "{}", "missing field `key`"),
    ] {
        let error = call(&node, route, payload).expect_err(route);
        assert!(
            error.contains("SRV-E-400") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn practice_routes_are_listed_with_their_types_and_absent_unless_asked_for() {
    let node = practising();
    let listed = text(&run(&["ls", &node.tcp()]).stdout);
    let line = listed
        .lines()
        .find(|line| line.starts_with("practice/count"));
    let line = line.expect("it is listed");
    assert!(
        line.contains("{key: String}") && line.contains("how often"),
        "{line}"
    );
    assert!(listed.contains("; idempotent"), "{listed}");
    let plain = Node::start(&["tcp://127.0.0.1:0"]);
    assert!(!text(&run(&["ls", &plain.tcp()]).stdout).contains("practice/"));
}
