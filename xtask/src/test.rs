//! `cargo xtask test`: everything that a change has to pass.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use crate::{shell, summary, tidy};

/// Programs that the whole-program tests talk to, and what each is for.
const PEERS: &[(&str, &str)] = &[
    ("java", "runs JMeter"),
    ("jmeter", "load plans and result files"),
    ("python3", "clients written without this code"),
    ("openssl", "certificates and TLS peers"),
    ("go", "a load generator that shares no code"),
];

/// Read by the tests: `auto` skips a missing peer and says so, `require` fails, `skip` skips.
const PEERS_SETTING: &str = "POSTROAD_TEST_PEERS";

/// Runs the tests, then tidy, and sums up; returns the code of the first step that fails.
pub(crate) fn run(ci: bool) -> u8 {
    let given = env::var(PEERS_SETTING).ok();
    let setting = peers_setting(ci, given.as_deref());
    shell::say(&peer_report(setting, |peer| shell::which(peer).is_some()));

    shell::say("== cargo test --workspace --all-features\n");
    let began = Instant::now();
    let (status, summary) = summary::watch(
        shell::cargo()
            .args(["test", "--workspace", "--all-features"])
            .env(PEERS_SETTING, setting),
    );
    let mut code = shell::outcome("cargo test", status);
    if code == 0 {
        shell::say("== examples\n");
        code = run_examples();
    }
    if code == 0 {
        shell::say("== tidy\n");
        code = tidy::run();
        if code != 0 {
            shell::complain("step `tidy` failed");
        }
    }
    shell::say(&summary.text(&skipped_peers(setting), began.elapsed()));
    code
}

/// Runs each example of the library to its end. They assert what they show; the tests before have
/// compiled them.
fn run_examples() -> u8 {
    let folder = shell::root().join("crates/postroad/examples");
    let names = match examples(&folder) {
        Ok(names) => names,
        Err(error) => {
            shell::complain(&format!("{}: {error}", folder.display()));
            return shell::FAILED;
        }
    };
    for name in names {
        let mut run = shell::cargo();
        run.args(["run", "--quiet", "-p", "postroad", "--all-features"]);
        let status = run.args(["--example", &name]).status();
        let code = shell::outcome(&format!("example {name}"), status);
        if code != 0 {
            return code;
        }
    }
    0
}

/// The names of the examples in this folder.
fn examples(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|ending| ending == "rs")
            && let Some(name) = path.file_stem()
        {
            names.insert(name.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The peers whose tests did nothing in this run.
fn skipped_peers(setting: &str) -> Vec<&'static str> {
    let names = PEERS.iter().map(|(peer, _)| *peer);
    names
        .filter(|peer| setting == "skip" || shell::which(peer).is_none())
        .collect()
}

/// CI decides for itself, so that a stray variable cannot turn a missing peer into a pass.
fn peers_setting(ci: bool, given: Option<&str>) -> &str {
    if ci {
        "require"
    } else {
        given.unwrap_or("auto")
    }
}

fn peer_report(setting: &str, present: impl Fn(&str) -> bool) -> String {
    let mut report = format!("== external peers ({PEERS_SETTING}={setting})\n");
    for (peer, purpose) in PEERS {
        let state = if present(peer) { "present" } else { "MISSING" };
        report.push_str(&format!("{peer:<8} {state:<8} {purpose}\n"));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_run() {
        let names = examples(&shell::root().join("crates/postroad/examples")).unwrap();
        for name in ["service", "tls", "signals", "dialect_server"] {
            assert!(names.contains(name), "{name} of {names:?}");
        }
    }

    #[test]
    fn ci_requires_every_peer_whatever_the_environment_says() {
        assert_eq!(peers_setting(true, Some("skip")), "require");
        assert_eq!(peers_setting(false, Some("skip")), "skip");
        assert_eq!(peers_setting(false, None), "auto");
    }

    #[test]
    fn the_report_names_each_peer_and_whether_it_is_there() {
        let report = peer_report("auto", |peer| peer == "java");
        assert!(report.contains("java     present"));
        assert!(report.contains("jmeter   MISSING"));
    }
}
