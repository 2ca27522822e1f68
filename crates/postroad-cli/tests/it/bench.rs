//! The load tester as a program: what it counts, what it refuses, and how it ends.

use std::process::Stdio;
use std::sync::Arc;

use crate::support::{
    Node, Worker, bench, counting_server, json, number, postroad, report, run, signal, sum, text,
    wait,
};
use serde_json::Value;
use tokio::sync::Semaphore;

#[test]
fn every_call_is_counted_once_in_its_interval() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let load = [
        "--duration",
        "500ms",
        "--interval",
        "100ms",
        "--callers",
        "4",
    ];
    let closed = json(&node.tcp(), &load);
    assert!(number(&closed, "/answered") > 100.0);
    assert_eq!(number(&closed, "/answered"), sum(&closed, "answered"));
    assert_eq!(
        number(&closed, "/answered"),
        number(&closed, "/latency_ns/count")
    );
    assert_eq!(
        number(&closed, "/received_bytes"),
        64.0 * number(&closed, "/answered")
    );
    assert_eq!(
        number(&closed, "/ends/server/pid"),
        f64::from(node.child.id())
    );
    assert!(number(&closed, "/ends/client/cpu_seconds") > 0.0);
    assert!(number(&closed, "/series/0/client/memory_bytes") > 0.0);
    // What is behind the last interval is hardly anything.
    let cpu = sum(&closed, "client/cpu_seconds") / number(&closed, "/ends/client/cpu_seconds");
    assert!((0.9..=1.0 + 1e-9).contains(&cpu), "{cpu}");
    let at: Vec<_> = (0..5)
        .map(|n| number(&closed, &format!("/series/{n}/at_seconds")))
        .collect();
    assert_eq!(at, [0.0, 0.1, 0.2, 0.30000000000000004, 0.4]);
}

#[test]
fn the_last_answers_of_a_closed_loop_make_no_interval_of_their_own() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let load = ["--duration", "300ms", "--interval", "300ms"];
    // Every caller still waits for an answer when the time is over.
    let report = json(&node.tcp(), &load);
    let series = report["series"].as_array().expect("a series");
    let short = |interval: &&Value| number(interval, "/seconds") < 0.03;
    assert_eq!(series.iter().filter(short).count(), 0, "{series:?}");
    assert_eq!(number(&report, "/answered"), sum(&report, "answered"));
    assert!((sum(&report, "seconds") - number(&report, "/seconds")).abs() < 1e-6);
}

#[test]
fn a_preset_is_told_to_the_connections_and_written_down() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    for preset in ["default", "low-latency", "throughput"] {
        let load = ["--calls", "50", "--callers", "1", "--preset", preset];
        assert_eq!(json(&node.tcp(), &load)["load"]["preset"], preset);
    }
}

#[test]
fn a_run_that_cannot_start_leaves_no_files_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("before.csv"), "kept").expect("it is written");
    let files = [
        "--json",
        &path("run.json"),
        "--html",
        &path("run.html"),
        "--csv",
        &path("before.csv"),
    ]
    .map(str::to_owned);
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    assert_eq!(bench("tcp://127.0.0.1:1", &files).status.code(), Some(69));
    let left = std::fs::read_dir(folder.path()).expect("it is there");
    let left: Vec<_> = left
        .map(|entry| entry.expect("it is read").file_name())
        .collect();
    assert_eq!(left, ["before.csv"]);
    let kept = std::fs::read_to_string(path("before.csv")).expect("it is there");
    assert_eq!(kept, "kept");
}

#[test]
fn a_pipe_is_written_if_somebody_reads_it_and_refused_if_not() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe").display().to_string();
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo is there").success());
    let load = ["--calls", "20", "--csv", &pipe];
    let refused = bench(&node.tcp(), &load);
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(said.contains("start its reader first"), "{said}");
    let reads = pipe.clone();
    let reader = std::thread::spawn(move || std::fs::read_to_string(reads));
    // Until the reader is there.
    let written = loop {
        let written = bench(&node.tcp(), &load);
        match written.status.code() {
            Some(2) => continue,
            code => break code,
        }
    };
    assert_eq!(written, Some(0));
    let read = reader.join().expect("it does not panic");
    assert!(read.expect("it is text").lines().count() > 1);
}

#[test]
fn an_open_loop_makes_exactly_the_calls_that_are_due() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    // Steps: 100 + 50 calls. Bursts: at 0, 200, 400 ms. A ramp: the area under it.
    for (load, calls) in [
        (&["--rate", "300", "--duration", "500ms"][..], 150.0),
        (&["--rate", "1000:100ms,250:200ms"], 150.0),
        (&["--burst", "40:200ms", "--duration", "500ms"], 120.0),
        (
            &[
                "--rate",
                "100",
                "--burst",
                "40:200ms",
                "--duration",
                "500ms",
            ],
            170.0,
        ),
        (&["--rate", "100..900", "--duration", "400ms"], 200.0),
        (
            &["--rate", "400", "--duration", "1s", "--calls", "77"],
            77.0,
        ),
        (
            &["--rate", "300", "--duration", "500ms", "--threads", "3"],
            150.0,
        ),
    ] {
        let report = json(&node.tcp(), &[load, &["--max-lateness", "10s"]].concat());
        assert_eq!(number(&report, "/answered"), calls, "{load:?}");
        assert_eq!(sum(&report, "due"), calls, "{load:?}");
        assert_eq!(number(&report, "/lateness_ns/count"), calls, "{load:?}");
    }
    let poisson = [
        "--rate",
        "1000",
        "--arrival",
        "poisson",
        "--duration",
        "300ms",
    ];
    let answered = |seed: &str| {
        let load = [&poisson[..], &["--seed", seed, "--max-lateness", "10s"]].concat();
        number(&json(&node.tcp(), &load), "/answered")
    };
    assert_eq!(answered("5"), answered("5"), "the same seed, the same load");
    assert!((200.0..400.0).contains(&answered("6")));
}

#[test]
fn a_rate_counts_the_pause_behind_the_last_call() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let bursts = ["--burst", "100:500ms", "--max-lateness", "10s"];
    let whole = json(&node.tcp(), &[&bursts[..], &["--duration", "1s"]].concat());
    assert_eq!(number(&whole, "/answered"), 200.0);
    assert!(number(&whole, "/seconds") >= 1.0, "{whole}");
    assert!(number(&whole, "/rate") <= 200.0, "{whole}");
    // What ends a run early shortens its time.
    let cut = json(&node.tcp(), &[&bursts[..], &["--calls", "150"]].concat());
    assert_eq!(number(&cut, "/answered"), 150.0);
    assert!((0.5..1.0).contains(&number(&cut, "/seconds")), "{cut}");
}

#[test]
fn a_closed_stdout_costs_neither_files_nor_the_verdict() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.csv");
    for (more, code) in [(&[][..], 1), (&["--max-p99", "1ns"], 99)] {
        let mut command = postroad();
        command.args(["bench", &node.tcp(), "--warmup", "0s", "--calls", "50"]);
        command.arg("--csv").arg(&path).args(more);
        let mut bench = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built");
        drop(bench.stdout.take());
        assert_eq!(wait(&mut bench).code(), Some(code), "{more:?}");
        let written = std::fs::read_to_string(&path).expect("it was written");
        assert!(written.lines().count() > 1, "{written}");
        std::fs::remove_file(&path).expect("it is there");
    }
}

#[test]
fn every_dialect_can_be_loaded() {
    for dialect in [
        "session", "sequence", "opcode", "priority", "compact", "line",
    ] {
        let node = Node::start(&[&format!("tcp+{dialect}://127.0.0.1:0")]);
        let url = format!("tcp+{dialect}://{}", node.addresses[0]);
        let report = json(&url, &["--calls", "200", "--callers", "8"]);
        assert_eq!(number(&report, "/answered"), 200.0, "{dialect}: {report}");
    }
}

#[test]
fn mixes_are_drawn_and_priorities_reported_by_themselves() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let load = [
        "--calls",
        "2000",
        "--priority",
        "7:25%,3:75%",
        "--size",
        "10:50%,1KiB:50%",
    ];
    let report = json(
        &node.tcp(),
        &[&load[..], &["--timeout", "4s:50%,5s:50%"]].concat(),
    );
    let of =
        |number_of: usize, name: &str| number(&report, &format!("/priorities/{number_of}/{name}"));
    assert_eq!((of(0, "priority"), of(1, "priority")), (7.0, 3.0));
    assert_eq!(of(0, "answered") + of(1, "answered"), 2000.0);
    assert!((400.0..600.0).contains(&of(0, "answered")), "{report}");
    let mean = number(&report, "/sent_bytes") / 2000.0;
    assert!((450.0..585.0).contains(&mean), "{mean}");
    let said = text(&bench(&node.tcp(), &load).stdout);
    assert!(
        said.contains("priority 7") && said.contains("p99.99"),
        "{said}"
    );
}

#[test]
fn payloads_come_from_a_file_whole_or_line_by_line() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "one\r\nfour\n\n").expect("it is written");
    let path = file.path().display().to_string();
    let sent = |more: &[&str]| {
        let load = ["--calls", "10", "--callers", "1", "--payload", &path];
        number(
            &json(&node.tcp(), &[&load[..], more].concat()),
            "/sent_bytes",
        )
    };
    assert_eq!(sent(&[]), 110.0);
    assert_eq!(sent(&["--payload-lines"]), 35.0);
}

#[test]
fn thresholds_are_kept_missed_or_not_to_be_judged() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let code = |more: &[&str]| {
        let output = bench(&node.tcp(), &[&["--calls", "50"], more].concat());
        output.status.code()
    };
    let kept = [
        "--max-p50",
        "10s",
        "--max-p99",
        "10s",
        "--max-p999",
        "10s",
        "--min-rate",
        "1",
    ];
    assert_eq!(
        code(&[&kept[..], &["--max-errors", "0", "--max-error-rate", "0%"]].concat()),
        Some(0)
    );
    for missed in [
        &["--max-p50", "1ns"][..],
        &["--max-p99", "1ns"],
        &["--max-p999", "1ns"],
        &["--min-rate", "1000000000"],
        &["--max-errors", "49", "--route", "no/route"],
        &["--max-error-rate", "99%", "--route", "no/route"],
        &["--max-p50", "10s", "--route", "no/route"],
        &["--stop-p99", "1ns", "--callers", "1"],
        &["--stop-errors", "50", "--route", "no/route"],
    ] {
        assert_eq!(code(missed), Some(99), "{missed:?}");
    }
    // Without an answer nothing is kept, however few failures were asked for.
    let all_fail = ["--max-errors", "50", "--route", "no/route"];
    assert_eq!(code(&all_fail), Some(98));
    let url = node.tcp();
    let none_due = ["bench", &url, "--rate", "0.001", "--duration", "1ms"];
    let none = run(&[&none_due[..], &["--warmup", "1ms", "--max-errors", "0"]].concat());
    assert_eq!(none.status.code(), Some(98));
    // Nothing is as punctual as this.
    let late = ["--rate", "500", "--max-lateness", "1ns"];
    assert_eq!(code(&[&late[..], &["--max-p99", "10s"]].concat()), Some(98));
    // Who was late blames nobody, and says what was to be judged.
    let missed = bench(
        &node.tcp(),
        &[&late[..], &["--calls", "50", "--max-p999", "1ns"]].concat(),
    );
    assert_eq!(missed.status.code(), Some(98));
    let said = text(&missed.stderr);
    assert!(
        said.contains("late at p99.9, over 1ns") && said.contains("missed --max-p999"),
        "{said}"
    );
    let output = bench(&node.tcp(), &[&late[..], &["--calls", "50"]].concat());
    assert_eq!(output.status.code(), Some(0), "nothing was to be judged");
    assert!(
        text(&output.stdout).contains("INVALID"),
        "{}",
        text(&output.stdout)
    );
    assert!(text(&output.stderr).contains("late at p99, over 1ns"));
}

#[test]
fn a_stop_condition_ends_a_run_long_before_its_time() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let load = [
        "--duration",
        "1h",
        "--interval",
        "100ms",
        "--route",
        "no/route",
    ];
    let stop = ["--stop-errors", "10", "--output", "json"];
    let output = bench(&node.tcp(), &[&load[..], &stop].concat());
    let report = report(&output, 99);
    let why = report["stopped"].as_str().unwrap_or_default();
    assert!(why.contains("--stop-errors 10"), "{why}");
    assert!(number(&report, "/errors/SRV-E-404") >= 10.0);
}

#[test]
fn wrong_input_is_refused_before_anything_starts() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file()
        .set_len(16 * 1024 * 1024 + 1)
        .expect("a disk");
    let large = file.path().display().to_string();
    // Nobody listens there: what is refused is refused before that is found out.
    let url = "tcp://127.0.0.1:1";
    for (arguments, says) in [
        (&["--rate", "0"][..], "0.001 to 10000000"),
        (&["--rate", "1..x"], "write 20000 or 0.5"),
        (&["--rate", "10", "--callers", "5"], "cannot be used with"),
        (&["--arrival", "poisson"], "--rate"),
        (&["--burst", "10"], "write 500:1s"),
        (&["--size", "64:90%,1:5%"], "add up to 95%"),
        (&["--priority", "9"], "write 0 to 7"),
        (&["--timeout", "0s"], "write 50ms"),
        (&["--duration", "0s"], "--duration 0s"),
        (
            &["--duration", "20h", "--interval", "100ms"],
            "--interval 100ms is too short",
        ),
        (&["--interval", "1ms"], "at least 100ms"),
        (&["--threads", "4", "--connections", "2"], "write 4 or more"),
        (&["--threads", "4", "--callers", "2"], "write 4 or more"),
        (&["--payload", "/no/such/file"], "--payload /no/such/file"),
        (&["--payload", "/dev/zero"], "over 67108864 bytes; at most"),
        (
            &["--payload", &large],
            "a payload of 16777217 bytes; at most 16777216",
        ),
        (&["--preset", "fast"], "default, low-latency, throughput"),
        (
            &["--burst", "5:1s", "--callers", "5"],
            "cannot be used with",
        ),
        (&["--payload-lines"], "--payload"),
        (&["--payload", "/dev/null"], "--size 0 sends"),
        (&["--rate", "1..9", "--calls", "5"], "give --duration too"),
        (
            &["--rate", "9:1s,5:1s", "--duration", "1500ms"],
            "steps of 2s",
        ),
        (&["--calls", "0"], "--calls"),
        (&["--max-error-rate", "2"], "write 0.1%"),
        (&["--server-pid", "4294967295"], "no such process"),
    ] {
        let output = bench(url, arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    assert_eq!(run(&["bench"]).status.code(), Some(2));
    assert_eq!(bench("no endpoint", &[]).status.code(), Some(2));
    assert_eq!(bench(url, &[]).status.code(), Some(69));
}

#[test]
fn ctrl_c_prints_what_was_measured_so_far() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let calls = Arc::new(Semaphore::new(0));
    let server = runtime.block_on(counting_server("127.0.0.1:0", &calls));
    let url = format!("tcp://{}", server.addresses()[0]);
    for workers in [&[][..], &["--workers"]] {
        let worker = Worker::start();
        let mut command = postroad();
        command.args([
            "bench",
            &url,
            "--route",
            "count",
            "--callers",
            "2",
            "--warmup",
            "0s",
        ]);
        command
            .args(["--duration", "1h", "--output", "json"])
            .args(workers);
        if !workers.is_empty() {
            command.arg(&worker.address);
        }
        let mut bench = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built");
        let called = runtime.block_on(calls.acquire_many(1000));
        called.expect("it is not closed").forget();
        signal(&bench, "INT");
        let mut out = bench.stdout.take().expect("it is piped");
        assert_eq!(wait(&mut bench).code(), Some(130));
        let report: Value = serde_json::from_reader(&mut out).expect("a report");
        assert!(number(&report, "/answered") > 0.0, "{report}");
        assert_eq!(
            number(&report, "/failed"),
            0.0,
            "what was in flight is no failure"
        );
        assert_eq!(report["stopped"], "it was interrupted");
        assert_eq!(report["validity"]["complete"], true, "{report}");
        assert_eq!(number(&report, "/answered"), sum(&report, "answered"));
        let ended = number(&report, "/answered") + number(&report, "/unfinished");
        assert_eq!(ended, sum(&report, "due"));
    }
}

#[test]
fn more_connections_than_open_files_are_refused_before_any_is_made() {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -n 100; exec \"$@\"", "sh"]);
    shell.arg(env!("CARGO_BIN_EXE_postroad"));
    shell.args(["bench", "tcp://127.0.0.1:1", "--connections", "200"]);
    let refused = shell.output().expect("there is a shell");
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(why.contains("ulimit -n"), "{why}");
    assert!(why.contains("200 connections are 200 open files"), "{why}");
    assert!(why.contains("at most 36 connections"), "{why}");
}

#[test]
fn a_report_that_is_killed_while_it_is_written_leaves_the_old_one_whole() {
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let (run, page) = (
        folder.path().join("run.json"),
        folder.path().join("run.html"),
    );
    let load = ["--duration", "100ms", "--json"];
    let made = bench(
        &node.tcp(),
        &[&load[..], &[&run.display().to_string()]].concat(),
    );
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    std::fs::write(&page, "the old page").expect("it is written");
    let rewrite = |limit: &str| {
        // A file that grows over the limit has its writer killed (SIGXFSZ): in the middle of the
        // page, which is larger.
        let script = format!("ulimit -c 0; ulimit -f {limit}; exec \"$@\"");
        let mut shell = std::process::Command::new("sh");
        shell.args([
            "-c",
            &script,
            "sh",
            env!("CARGO_BIN_EXE_postroad"),
            "bench",
            "report",
        ]);
        shell.arg(&run).arg("--html").arg(&page);
        shell.status().expect("there is a shell")
    };
    let killed = rewrite("8");
    assert_eq!(killed.code(), None, "it was not killed");
    assert_eq!(std::fs::read(&page).expect("it is there"), b"the old page");
    assert_eq!(rewrite("unlimited").code(), Some(0));
    let written = std::fs::read_to_string(&page).expect("it is there");
    assert!(written.len() > 8 * 1024 && written.trim_end().ends_with("</html>"));
}
