//! The program in a terminal: what it prints where, how it ends, and what it survives.

use std::io::Write;
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Node, postroad, run, text, wait};
use postroad::{CallError, Client, Retry};

#[test]
fn calls_print_data_on_stdout_and_errors_on_stderr() {
    let node = Node::start(&["tcp+auto://127.0.0.1:0"]);
    let url = node.tcp();
    let output = run(&["call", &url, "postroad/echo", "{\"a\": 1}"]);
    assert_eq!(
        (text(&output.stdout).as_str(), output.status.code()),
        ("{\"a\": 1}\n", Some(0))
    );
    let output = run(&["call", &url, "no/route"]);
    assert_eq!(
        (text(&output.stdout).as_str(), output.status.code()),
        ("", Some(1))
    );
    let error = text(&output.stderr);
    assert!(
        error.contains("error: SRV-E-404 no route \"no/route\""),
        "{error}"
    );
    assert!(
        error.contains("trace ") && error.contains("hint: `postroad ls URL`"),
        "{error}"
    );
    let output = run(&["ls", &url, "--output", "json"]);
    assert!(text(&output.stdout).contains("\"route\":\"postroad/echo\""));
    let sequence = url.replace("tcp", "tcp+sequence");
    let output = run(&["call", &sequence, "anything", "as it is"]);
    assert_eq!(text(&output.stdout), "as it is\n");
}

#[test]
fn a_payload_comes_from_stdin_and_is_checked() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let mut call = postroad();
    call.args(["call", &node.tcp(), "postroad/echo", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut call = call.spawn().expect("the program was built");
    call.stdin
        .take()
        .expect("it is piped")
        .write_all(b"[1, 2]")
        .expect("it reads");
    let output = call.wait_with_output().expect("it ends");
    assert_eq!(text(&output.stdout), "[1, 2]\n");
    let output = run(&["call", &node.tcp(), "postroad/echo", "not json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the payload is not JSON"));
}

#[test]
fn output_that_nobody_takes_ends_a_tool_quietly_and_a_node_not_at_all() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let shell = |script: String| {
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output();
        output.expect("sh is there")
    };
    let (program, url) = (env!("CARGO_BIN_EXE_postroad"), node.tcp());
    let output = shell(format!(
        "{program} ls {url} | true; {program} completions bash | head -1"
    ));
    assert!(
        !text(&output.stderr).contains("panicked"),
        "{}",
        text(&output.stderr)
    );
    let output = shell(format!("{program} ls {url} > /dev/full"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("No space left"),
        "{}",
        text(&output.stderr)
    );
    let mut logging = postroad();
    logging.args(["--log", "info", "serve", "--listen", "tcp://127.0.0.1:0"]);
    let mut logging = logging
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was built");
    let mut out = std::io::BufReader::new(logging.stdout.take().expect("it is piped"));
    std::io::BufRead::read_line(&mut out, &mut String::new()).expect("it says where it listens");
    drop(logging.stderr.take());
    let killed = std::process::Command::new("kill")
        .arg(logging.id().to_string())
        .status();
    assert!(killed.expect("kill is there").success());
    assert_eq!(
        wait(&mut logging).code(),
        Some(0),
        "its log has no reader, and it ends as it should"
    );
}

#[test]
fn every_exit_code_of_the_table_is_used() {
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(run(&["call", "no endpoint", "x"]).status.code(), Some(2));
    for url in [
        "tcp://127.0.0.1:99999",
        "tcp://127.0.0.1:1?nope=1",
        "tls://h:1?ca=/no/file",
    ] {
        assert_eq!(run(&["call", url, "x"]).status.code(), Some(2), "{url}");
        assert_eq!(run(&["--log", "a=b=c", "ls", url]).status.code(), Some(2));
    }
    assert_eq!(
        run(&["call", "tcp://127.0.0.1:1", "x"]).status.code(),
        Some(69)
    );
    assert_eq!(
        run(&["serve", "--config", "/no/such/file"]).status.code(),
        Some(78)
    );
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let (url, short) = (node.tcp(), ["--duration", "100ms", "--warmup", "0s"]);
    let bench = |more: &[&str]| {
        run(&[&["bench", &url], &short[..], more].concat())
            .status
            .code()
    };
    assert_eq!(bench(&[]), Some(0));
    assert_eq!(bench(&["--max-p99", "1ns"]), Some(99));
    // In a closed loop nothing is late, however busy the machine is.
    assert_eq!(bench(&["--max-errors", "0"]), Some(0));
    let unanswered = ["--route", "no/route", "--max-errors", "1000000000"];
    assert_eq!(bench(&unanswered), Some(98));
    assert_eq!(bench(&["--route", "no/route"]), Some(1));
    let taken = run(&["serve", "--listen", &url]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(text(&taken.stderr).contains("in use"));
}

#[test]
fn a_wrong_configuration_names_file_line_and_column() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[server]\nwrokers = 2\n").expect("it is written");
    let path = file.path().display().to_string();
    for command in [
        &["config", "check", &path][..],
        &["serve", "--config", &path],
    ] {
        let output = run(command);
        assert_eq!(output.status.code(), Some(78));
        let error = text(&output.stderr);
        assert!(
            error.contains(&path) && error.contains("line 2, column 1"),
            "{error}"
        );
    }
    std::fs::write(
        file.path(),
        "[[listen]]\nurl = \"tcp+line://127.0.0.1:0\"\n",
    )
    .expect("it is written");
    assert_eq!(run(&["config", "check", &path]).status.code(), Some(0));
}

#[test]
fn all_mistakes_of_a_configuration_are_shown_at_once_with_place_and_suggestion() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let config = "[server]\ndrian = \"5s\"\ndrain = 20\nworkers = \"two\"\n[limits]\n\
        max_message = \"128MiB\"\nmax_calls = 70000\n[conection]\n[[listen]]\n\
        url = \"tcp+sesion://0.0.0.0:1\"\n[[listen]]\nurl = \"tcp+session://h:1?crd=modbus\"\n\
        [[listen]]\nurl = \"tcp://[::]:7404\"\n[[listen]]\nurl = \"tcp+session://[::]:7404\"\n\
        [[listen]]\nurl = \"tcp://0.0.0.0:7404\"\n";
    std::fs::write(file.path(), config).expect("it is written");
    let output = run(&["config", "check", &file.path().display().to_string()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    for expected in [
        "line 2, column 1",
        "did you mean `drain`?",
        "line 3, column 9: expected a time with its unit: write \"20s\"",
        "line 4, column 11",
        "expected a whole number",
        "line 6, column 15: you set max_message = \"128MiB\", so assembly_max",
        "line 7, column 13: max_calls = 70000 is out of bounds: 1 to 65536",
        "line 8, column 2",
        "did you mean `connection`?",
        "line 10, column 7",
        "did you mean `session`?",
        "line 12, column 7",
        "did you mean `crc`?",
        "line 16, column 7: tcp://[::]:7404 already listens on this address",
        "9 mistakes",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
}

#[test]
fn a_configured_table_routes_commands_and_refuses_unknown_ones() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let config = "[[listen]]\nurl = \"tcp+session://127.0.0.1:0\"\ncodes = { \"0x17\" = \"postroad/echo\", \"0x18\" = \"missing\" }\n";
    std::fs::write(file.path(), config).expect("it is written");
    let node = Node::with(&["--config", &file.path().display().to_string()], 1);
    let url = format!("tcp+session://{}", node.addresses[0]);
    assert_eq!(
        text(&run(&["call", &url, "command/0x17", "hello"]).stdout),
        "hello\n"
    );
    let output = run(&["call", &url, "command/0x18", "hello"]);
    assert!(
        text(&output.stderr).contains("SRV-E-404 no route \"missing\""),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn frames_are_explained_to_the_byte_that_is_wrong() {
    let output = run(&["decode", "ABCD 01 01 00000001 00000007 78"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("sequence id") && said.contains("7 (0x7)") && said.contains("\"x\""),
        "{said}"
    );
    let output = run(&[
        "decode",
        "--dialect",
        "session",
        "074865d3ee000568656c6c4f1314",
    ]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("wrong: checksum at byte 12"), "{said}");
    let output = run(&["decode", "--output", "json", "abcd0109000000010000000178"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(
        (&said[0]["error"]["fault"], &said[0]["error"]["at"]),
        (&"type".into(), &3.into())
    );
    assert_eq!(run(&["decode", "zz"]).status.code(), Some(2));
    let output = run(&["decode", "ABCD 0"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.contains("5 hexadecimal digits: two make a byte"),
        "{said}"
    );
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let said = text(&run(&["completions", shell]).stdout);
        for command in ["serve", "call", "ls", "decode", "bench", "demo", "config"] {
            assert!(said.contains(command), "{shell} {command}");
        }
    }
}

#[test]
fn colours_obey_flag_and_environment() {
    let coloured = |arguments: &[&str], variable: Option<(&str, &str)>| {
        let output = postroad()
            .args(arguments)
            .args(["call", "tcp://127.0.0.1:1", "x"])
            .envs(variable)
            .output();
        text(&output.expect("the program was built").stderr).contains('\x1b')
    };
    assert!(!coloured(&[], None), "a pipe is no terminal");
    assert!(coloured(&["--color", "always"], None));
    assert!(coloured(&[], Some(("CLICOLOR_FORCE", "1"))));
    assert!(!coloured(
        &["--color", "never"],
        Some(("CLICOLOR_FORCE", "1"))
    ));
}

#[test]
fn the_demonstration_sees_everything_that_it_claims() {
    let output = run(&["demo", "--once"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        !said.contains("NOT SO") && said.contains("claims were seen"),
        "{said}"
    );
}

#[test]
fn sigterm_ends_a_node_with_zero_and_sigint_a_bench_with_130() {
    let mut node = Node::start(&["tcp://127.0.0.1:0"]);
    let mut bench = postroad();
    bench
        .args(["bench", &node.tcp(), "--duration", "60s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut bench = bench.spawn().expect("the program was built");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // Its calls show that the load runs, and that it has listened to signals before.
    runtime.block_on(async {
        let client = Client::connect(&node.tcp())
            .await
            .expect("the node listens");
        for _ in 0..1000 {
            client
                .request("postroad/echo")
                .call_raw("x")
                .await
                .expect("an answer");
        }
    });
    let sent = std::process::Command::new("kill")
        .args(["-s", "INT", &bench.id().to_string()])
        .status();
    assert!(sent.expect("kill is there").success());
    assert_eq!(wait(&mut bench).code(), Some(130));
    node.signal("TERM");
    assert_eq!(node.wait().code(), Some(0));
}

#[test]
fn kill_nine_under_load_ends_every_call_clearly_and_the_client_goes_on() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut node = Node::start(&["tcp://127.0.0.1:0"]);
    let url = node.tcp();
    let client = runtime
        .block_on(Client::connect(&url))
        .expect("the node listens");
    let (sender, receiver) = std::sync::mpsc::sync_channel(1000);
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (client, sender) = (client.clone(), sender.clone());
            runtime.spawn(async move {
                let mut answered = 0_u64;
                loop {
                    match client.request("postroad/echo").call_raw("x").await {
                        Ok(_) => answered += 1,
                        Err(error) => {
                            let _ = sender.send((answered, error));
                            return;
                        }
                    }
                    if answered == 100 {
                        let _ = sender.send((answered, CallError::Busy("warm".to_owned())));
                    }
                }
            })
        })
        .collect();
    for _ in 0..32 {
        assert_eq!(
            receiver.recv().expect("a caller").0,
            100,
            "all callers are at work"
        );
    }
    node.child.kill().expect("it is killed");
    for _ in 0..32 {
        let (_, error) = receiver
            .recv_timeout(Duration::from_secs(5))
            .expect("no call hangs");
        let expected = match &error {
            CallError::Lost { sent: true, .. } => Retry::IfIdempotent,
            CallError::Lost { .. } | CallError::NotConnected { .. } | CallError::Busy(_) => {
                Retry::Here
            }
            other => panic!("unexpected: {other}"),
        };
        assert_eq!(error.retry(), expected);
    }
    drop(callers);
    let _node = Node::start(&[&url]);
    let mut last = None;
    let again = async {
        loop {
            match client.request("postroad/echo").call_raw("again").await {
                Ok(answer) => return answer,
                Err(error) => last = Some(error),
            }
            // A client that gave up fails at once, which would keep the time limit from running.
            tokio::task::yield_now().await;
        }
    };
    let answer =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), again).await });
    assert_eq!(answer.ok().as_deref(), Some(&b"again"[..]), "{last:?}");
}

#[test]
fn ten_thousand_silent_connections_cost_little_and_others_are_served() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const CONNECTIONS: usize = 10_000;
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    assert!(
        limit.maximum.is_none_or(|most| most > 11_000),
        "this machine allows too few open files"
    );
    let node = Node::start(&["tcp+auto://127.0.0.1:0", "tcp+line://127.0.0.1:0"]);
    let before = node.memory();
    // Of a dialect: these may stay. The opening's deadline is for those that have not said what
    // they speak.
    let silent: Vec<_> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(&node.addresses[1]).expect("it is accepted"))
        .collect();
    assert_eq!(
        text(&run(&["call", &node.tcp(), "postroad/echo", "1"]).stdout),
        "1\n"
    );
    let each = (node.memory().saturating_sub(before)) as f64 / CONNECTIONS as f64;
    assert!(each < 12.0, "{each:.1} KiB a connection");
    println!("{each:.2} KiB a silent connection");
    drop(silent);
    assert_eq!(
        text(&run(&["call", &node.tcp(), "postroad/echo", "2"]).stdout),
        "2\n"
    );
}
