//! What `cargo xtask test` says at its end: how many tests ran, which failed, what was left out.
//!
//! A run prints over a thousand lines, so whatever is said at its beginning has scrolled away when
//! it ends. The counts are read from the lines that the test programs print, which pass through
//! unchanged.

use std::io::{self, BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::shell;

/// Counts over all test programs of one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    programs: u64,
    passed: u64,
    ignored: u64,
    /// Names of the tests that failed, in the order in which they ended.
    failed: Vec<String>,
}

/// Runs a `cargo test` command, passes its output through and counts what it reports.
pub(crate) fn watch(command: &mut Command) -> (io::Result<ExitStatus>, Summary) {
    let mut summary = Summary::default();
    let status = run(command, &mut summary, shell::say);
    (status, summary)
}

/// `pass` is told each line as it was printed.
fn run(
    command: &mut Command,
    summary: &mut Summary,
    pass: impl Fn(&str),
) -> io::Result<ExitStatus> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    if let Some(out) = child.stdout.take() {
        let mut out = BufReader::new(out);
        let mut line = Vec::new();
        // Bytes and not text, because a test may print what is not UTF-8.
        while out.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            pass(&text);
            summary.read(text.trim_end());
            line.clear();
        }
    }
    child.wait()
}

impl Summary {
    /// Takes one line of a test program into account.
    fn read(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.programs += 1;
            self.passed += count(rest, "passed");
            self.ignored += count(rest, "ignored");
        } else if let Some(rest) = line.strip_prefix("test ")
            && let Some(name) = rest.strip_suffix(" ... FAILED")
        {
            self.failed.push(name.to_owned());
        }
    }

    /// The last lines of a run. `skipped` names the external peers that were not tried.
    pub(crate) fn text(&self, skipped: &[&str], time: Duration) -> String {
        let seconds = time.as_secs();
        let mut text = format!(
            "== summary: {} tests passed, {} failed, in {} test programs, {} min {} s\n",
            self.passed,
            self.failed.len(),
            self.programs,
            seconds / 60,
            seconds % 60,
        );
        for name in &self.failed {
            text.push_str(&format!("failed: {name}\n"));
        }
        if self.ignored > 0 {
            text.push_str(&format!("ignored: {} tests\n", self.ignored));
        }
        if !skipped.is_empty() {
            let names = skipped.join(", ");
            text.push_str(&format!("tests of these peers were skipped: {names}\n"));
        }
        text
    }
}

/// The number before `what` in `ok. 12 passed; 0 failed; 0 ignored; ..`.
fn count(result: &str, what: &str) -> u64 {
    let words: Vec<&str> = result.split([' ', ';']).collect();
    let pairs = words.windows(2);
    let number = pairs.filter_map(|pair| (pair[1] == what).then_some(pair[0]));
    number.filter_map(|number| number.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn the_counts_of_all_test_programs_are_added_up() {
        let mut summary = Summary::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
            "test result: ok. 40 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out",
        ] {
            summary.read(line);
        }
        let text = summary.text(&["jmeter"], Duration::from_secs(95));
        assert_eq!(
            text,
            "== summary: 42 tests passed, 1 failed, in 2 test programs, 1 min 35 s\n\
             failed: a::c\n\
             ignored: 1 tests\n\
             tests of these peers were skipped: jmeter\n"
        );
    }

    #[test]
    fn nothing_is_said_of_what_did_not_happen() {
        let text = Summary::default().text(&[], Duration::ZERO);
        assert_eq!(
            text,
            "== summary: 0 tests passed, 0 failed, in 0 test programs, 0 min 0 s\n"
        );
    }

    #[test]
    fn output_passes_through_and_the_code_of_the_command_is_kept() {
        let script = "echo 'test result: ok. 5 passed; 0 failed'; exit 7";
        // Not `watch`: it would print the line, and the summary of this run would count it too.
        let (mut summary, passed) = (Summary::default(), RefCell::new(String::new()));
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let status = run(&mut command, &mut summary, |line| {
            passed.borrow_mut().push_str(line);
        });
        assert_eq!(passed.into_inner(), "test result: ok. 5 passed; 0 failed\n");
        assert_eq!(status.ok().and_then(|status| status.code()), Some(7));
        assert_eq!((summary.passed, summary.programs), (5, 1));
    }
}
