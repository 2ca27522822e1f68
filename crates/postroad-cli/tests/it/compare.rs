//! `bench compare` and `bench report` as programs: exit codes, and what they say.

use std::fmt::Write;
use std::path::Path;

use crate::support::{Node, run, text};
use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};

/// A log of ten seconds: 2,000 latencies a second spread evenly over 1 ms, times `slower`.
fn log(slower: f64) -> String {
    let mut out = "#[Histogram log format version 1.3]\n".to_owned();
    for second in 0..10 {
        let mut histogram = Histogram::<u64>::new(3).expect("three digits");
        for call in 1..=2_000 {
            let ns = (f64::from(call) * 500.0 * slower) as u64;
            histogram.record(ns).expect("it grows as it must");
        }
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&histogram, &mut bytes)
            .expect("a vector takes it");
        let packed = base64::engine::general_purpose::STANDARD.encode(bytes);
        let _ = writeln!(out, "{second}.000,1.000,1.000,{packed}");
    }
    out
}

/// A folder of runs, each 0.5 % slower than the one before.
fn folder(home: &Path, name: &str, runs: u32, slower: f64) -> String {
    let folder = home.join(name);
    std::fs::create_dir(&folder).expect("a new folder");
    for run in 0..runs {
        let log = log(slower * (1.0 + 0.005 * f64::from(run)));
        std::fs::write(folder.join(format!("{run}.hlog")), log).expect("it is written");
    }
    folder.display().to_string()
}

#[test]
fn a_gate_is_missed_by_what_is_real_and_large_enough() {
    let home = tempfile::tempdir().expect("a folder");
    let before = folder(home.path(), "before", 6, 1.0);
    let after = folder(home.path(), "after", 6, 1.1);
    let compare = |gate: &str| run(&["bench", "compare", &before, &after, "--fail-if", gate]);
    let output = compare("slower:5%");
    assert_eq!(output.status.code(), Some(99), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("B is worse"),
        "{}",
        text(&output.stdout)
    );
    assert!(
        text(&output.stderr).contains("5 % were allowed"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(compare("slower:20%").status.code(), Some(0));
    assert_eq!(compare("p99:20%").status.code(), Some(0));
    let output = compare("errors:1%");
    assert_eq!(output.status.code(), Some(1), "a log counts no errors");
    assert!(text(&output.stderr).contains("not measured on both sides"));
    for wrong in ["slower", "slower:5", "p42:5%", "slower:-1%"] {
        assert_eq!(compare(wrong).status.code(), Some(2), "{wrong}");
    }
    let faster = run(&[
        "bench",
        "compare",
        &after,
        &before,
        "--fail-if",
        "slower:0%",
    ]);
    assert_eq!(
        faster.status.code(),
        Some(0),
        "what got better is no failure"
    );
    assert!(text(&faster.stdout).contains("B is better"));
}

#[test]
fn too_few_runs_are_said_and_decide_no_gate() {
    let home = tempfile::tempdir().expect("a folder");
    let before = folder(home.path(), "before", 2, 1.0);
    let after = folder(home.path(), "after", 2, 3.0);
    let compare = |more: &[&str]| {
        run(&[
            &["bench", "compare", &before, &after, "--output", "json"],
            more,
        ]
        .concat())
    };
    let output = compare(&[]);
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    assert!(
        said.contains("can show no p below 0.333") && said.contains("runs a side"),
        "{said}"
    );
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(
        (&json["able"], &json["samples"]),
        (&false.into(), &"runs".into())
    );
    assert!(
        json["metrics"].as_array().is_some_and(|all| all.len() == 5),
        "{json}"
    );
    let output = compare(&["--fail-if", "slower:5%"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("too few samples"));
    let output = compare(&["--by", "interval"]);
    assert!(
        text(&output.stderr).contains("repeat the runs"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn files_that_hold_no_run_are_named() {
    let home = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, content).expect("it is written");
        path.display().to_string()
    };
    let good = file("good.hlog", &log(1.0));
    for wrong in [
        file("no.json", "{}"),
        file("other.json", "{\"format\": 99}"),
        file("text.hlog", "hello\n"),
        home.path().join("missing.json").display().to_string(),
    ] {
        let output = run(&["bench", "compare", &good, &wrong]);
        assert_eq!(output.status.code(), Some(1), "{wrong}");
        assert!(
            text(&output.stderr).contains(&wrong),
            "{}",
            text(&output.stderr)
        );
        let output = run(&["bench", "report", &wrong, "--html", "/dev/null"]);
        assert_eq!(output.status.code(), Some(1), "{wrong}");
    }
    let output = run(&["bench", "report", &good]);
    assert_eq!(output.status.code(), Some(2), "nothing was asked for");
}

#[test]
fn codecs_are_measured_for_people_and_for_programs() {
    let measure = |output: &str| {
        let quick = ["--runs", "3", "--time", "1ms", "--output", output];
        run(&[&["bench", "codec"], &quick[..]].concat())
    };
    let table = text(&measure("text").stdout);
    for wanted in ["market tick", "MessagePack", "packet", "decode ns"] {
        assert!(table.contains(wanted), "{wanted}: {table}");
    }
    let json: serde_json::Value =
        serde_json::from_slice(&measure("json").stdout).expect("it is JSON");
    let rows = json["codecs"].as_array().expect("a list");
    assert!(rows.len() >= 4 * 3, "{json}");
    for row in rows {
        assert!(
            row["encode"]["ns"].as_f64().is_some_and(|ns| ns > 0.0),
            "{row}"
        );
        assert!(
            row["bytes"].as_u64().is_some_and(|bytes| bytes > 0),
            "{row}"
        );
    }
}

#[test]
fn a_run_is_written_to_every_file_that_was_asked_for() {
    let home = tempfile::tempdir().expect("a folder");
    let node = Node::start(&["tcp://127.0.0.1:0"]);
    let path = |name: &str| home.path().join(name).display().to_string();
    let (html, json, csv, hlog) = (
        path("a.html"),
        path("a.json"),
        path("a.csv"),
        path("a.hlog"),
    );
    let url = node.tcp();
    let short = [
        "bench",
        &url,
        "--warmup",
        "0s",
        "--duration",
        "300ms",
        "--interval",
        "100ms",
    ];
    let files = [
        "--html", &html, "--json", &json, "--csv", &csv, "--hlog", &hlog,
    ];
    let output = run(&[&short[..], &files].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let read = |path: &str| std::fs::read_to_string(path).expect("it was written");
    assert!(read(&html).ends_with("</html>\n") && read(&html).contains(&url));
    let report: serde_json::Value = serde_json::from_str(&read(&json)).expect("it is JSON");
    let intervals = report["series"].as_array().expect("a series").len();
    assert_eq!(read(&csv).lines().count(), 1 + intervals);
    let logged = read(&hlog)
        .lines()
        .filter(|line| line.contains("HISTFAAA"))
        .count();
    assert_eq!(logged, intervals);
    let log = run(&["bench", "compare", &json, &hlog, "--output", "json"]);
    let log: serde_json::Value = serde_json::from_slice(&log.stdout).expect("it is JSON");
    let p50 = &log["metrics"][1];
    assert_eq!(
        (&p50["metric"], &p50["change"]),
        (&"p50".into(), &0.0.into()),
        "{log}"
    );

    let nowhere = path("no/such/folder.html");
    let output = run(&[&short[..], &["--html", &nowhere]].concat());
    assert_eq!(output.status.code(), Some(2), "before anything starts");
    assert!(text(&output.stderr).contains(&nowhere));

    let other = path("b.json");
    let output = run(&[&short[..], &["--callers", "3", "--json", &other]].concat());
    assert_eq!(output.status.code(), Some(0));
    let output = run(&["bench", "compare", &json, &other]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("the loads differ"),
        "{}",
        text(&output.stderr)
    );
    let output = run(&["bench", "compare", &json, &other, "--force"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("warning: the loads differ"));
}
