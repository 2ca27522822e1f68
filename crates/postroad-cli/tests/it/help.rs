//! The help, the completions and the manual pages.

use crate::support::{run, text};

const COMMANDS: [&str; 10] = [
    "serve",
    "call",
    "ls",
    "probe",
    "decode",
    "bench",
    "demo",
    "config",
    "completions",
    "man",
];

#[test]
fn every_command_has_examples_and_global_options_stand_last() {
    let below = [
        "bench worker",
        "bench compare",
        "bench report",
        "bench codec",
    ];
    for command in COMMANDS
        .iter()
        .chain(&below)
        .chain(&["config check", "config print"])
    {
        let words: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let help = text(&run(&words).stdout);
        let global = help.find("Global options:");
        let global = global.unwrap_or_else(|| panic!("{command}: {help}"));
        let headings = help[global..].lines().skip(1).filter(|line| {
            line.ends_with(':') && !line.starts_with(' ') && !line.starts_with("Examples")
        });
        assert_eq!(headings.collect::<Vec<_>>(), Vec::<&str>::new(), "{help}");
        let example = format!("postroad {command}");
        assert!(
            help[global..].contains("\nExamples:\n") && help[global..].contains(&example),
            "{help}"
        );
    }
}

#[test]
fn flags_of_a_load_test_stand_under_what_they_are_about() {
    let help = text(&run(&["bench", "--help"]).stdout);
    for (heading, flags) in [
        ("Load:", &["--route", "--rate", "--timeout"][..]),
        (
            "Connections and threads:",
            &["--connections", "--preset", "--workers"],
        ),
        ("Duration:", &["--duration", "--warmup", "--calls"]),
        ("Files:", &["--html", "--hlog"]),
        (
            "Stop conditions and thresholds:",
            &["--stop-errors", "--max-p99", "--max-error-rate"],
        ),
        ("Global options:", &["--color", "--log-format"]),
    ] {
        let begin = help.find(&format!("\n{heading}\n"));
        let part = &help[begin.unwrap_or_else(|| panic!("{heading} in {help}"))..];
        let lines = part.lines().skip(2);
        let lines: Vec<_> = lines
            .take_while(|line| line.is_empty() || line.starts_with(' '))
            .collect();
        for flag in flags {
            let is_there = lines.iter().any(|line| {
                line.trim_start().starts_with(flag) || line.contains(&format!(", {flag}"))
            });
            assert!(is_there, "{flag} under {heading}: {lines:?}");
        }
    }
}

#[test]
fn values_that_can_be_counted_are_completed() {
    let script = text(&run(&["completions", "bash"]).stdout);
    for values in [
        "native session sequence opcode priority compact line",
        "ibm-3740 modbus xmodem arc kermit",
        "default low-latency throughput",
    ] {
        assert!(script.contains(values), "{values}");
    }
    let output = run(&["decode", "--dialect", "sesion", "00"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("'session'"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("new");
    let output = run(&["man", "--dir", &pages.display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for command in COMMANDS {
        let page = pages.join(format!("postroad-{command}.1"));
        let page = std::fs::read_to_string(page).expect("it was written");
        assert!(page.contains(".TH ") && page.contains("Examples"), "{page}");
    }
    assert!(pages.join("postroad.1").exists() && pages.join("postroad-bench-worker.1").exists());
    assert!(!pages.join("postroad-demo-node.1").exists(), "it is hidden");
    let output = run(&["man", "--dir", "/dev/null/no"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/dev/null/no"));
}
