//! Laws of words: what may not be written, or not here.

use super::Violation;
use super::imports::{Import, imports, mentions};
use super::lexer::Kind;
use super::source::{Source, closing, in_folder};

/// The only file that may hold `unsafe`: libFuzzer calls it from C, with a pointer. It has
/// one exported symbol and one block.
const UNSAFE_ALLOWED: &str = "fuzz/src/libfuzzer.rs";

/// The crates that see neither clock, chance, disk, network nor thread, and say nothing.
const PURE: &[&str] = &["crates/postroad-proto/src/", "crates/postroad-log/src/"];

/// Banned in a pure crate wherever these tokens stand.
const IMPURE_PHRASES: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "thread_rng",
    "getrandom",
    "std::net",
    "std::fs",
    "std::io",
    "std::thread",
    "tokio",
    "async",
    "println!",
    "eprintln!",
    "print!",
    "eprint!",
];

/// Banned in a pure crate as the first part of a path; an own module may have the name.
const IMPURE_CRATES: &[&str] = &["rand", "tracing", "log"];

/// The crates that return what they have to say: a program above them prints it, and ends.
const QUIET: &[&str] = &["crates/postroad-bench/src/"];

/// Banned in a quiet crate wherever these tokens stand.
const LOUD_PHRASES: &[&str] = &[
    "println!",
    "eprintln!",
    "print!",
    "eprint!",
    "process::exit",
    "ExitCode",
    "io::stdout",
    "io::stderr",
];

/// The crate in which one module alone tells an operator anything.
const OBSERVED: &str = "crates/postroad/src/";
/// That module.
const OBSERVER: &str = "crates/postroad/src/observe/";

const UNBOUNDED: &[&str] = &[
    "unbounded_channel",
    "mpsc::unbounded",
    "channel::unbounded",
    "flume::unbounded",
];

pub(crate) fn check(source: &Source<'_>, found: &mut Vec<Violation>) {
    let mut report = |index: usize, law, message: String| {
        found.push(Violation::new(
            source.path,
            source.line_of(index),
            law,
            message,
        ));
    };
    let imports = imports(&source.code);
    sleeps(source, &imports, &mut report);
    purity(source, &imports, &mut report);
    quiet(source, &imports, &mut report);
    observed(source, &imports, &mut report);
    unbounded(source, &imports, &mut report);
    no_unsafe(source, &mut report);
    loud_failures(source, &mut report);
    ignored_tests(source, &mut report);
    unfinished(source, found);
}

type Report<'r> = dyn FnMut(usize, &'static str, String) + 'r;

fn sleeps(source: &Source<'_>, imports: &[Import<'_>], report: &mut Report<'_>) {
    for phrase in ["thread::sleep", "time::sleep"] {
        for at in mentions(source, imports, phrase) {
            let paused = source.has_comment(source.line_of(at), "tidy: paused clock");
            if source.in_test(at) && !paused {
                let message = format!("`{phrase}` in a test: wait for the event instead");
                report(at, "sleep", message);
            }
        }
    }
}

fn purity(source: &Source<'_>, imports: &[Import<'_>], report: &mut Report<'_>) {
    let Some(home) = PURE.iter().find(|home| source.path.starts_with(*home)) else {
        return;
    };
    for phrase in IMPURE_PHRASES {
        for at in mentions(source, imports, phrase) {
            report(at, "pure", format!("`{phrase}` is banned in {home}"));
        }
    }
    for name in IMPURE_CRATES {
        let named = source.find(&format!("{name}::")).into_iter();
        // `crate::log::` is a module of our own.
        let as_root = named.filter(|at| *at == 0 || !source.code[at - 1].is(":"));
        let imported = imports
            .iter()
            .filter(|import| import.path.first() == Some(name))
            .map(|import| import.at);
        for at in as_root.chain(imported) {
            report(at, "pure", format!("`{name}::` is banned in {home}"));
        }
    }
}

/// Log lines are written in one module, so that one place decides how loudly an operator is told
/// what, and how often.
fn observed(source: &Source<'_>, imports: &[Import<'_>], report: &mut Report<'_>) {
    if !source.path.starts_with(OBSERVED) || source.path.starts_with(OBSERVER) {
        return;
    }
    let named = source.find("tracing::").into_iter();
    let imported = imports
        .iter()
        .filter(|import| import.path.first() == Some(&"tracing"))
        .map(|import| import.at);
    for at in named.chain(imported) {
        let message = format!("`tracing` is named in {OBSERVER} alone; call a function there");
        report(at, "observe", message);
    }
}

fn quiet(source: &Source<'_>, imports: &[Import<'_>], report: &mut Report<'_>) {
    let Some(home) = QUIET.iter().find(|home| source.path.starts_with(*home)) else {
        return;
    };
    for phrase in LOUD_PHRASES {
        for at in mentions(source, imports, phrase) {
            report(at, "quiet", format!("`{phrase}` is banned in {home}"));
        }
    }
}

fn unbounded(source: &Source<'_>, imports: &[Import<'_>], report: &mut Report<'_>) {
    for phrase in UNBOUNDED {
        for at in mentions(source, imports, phrase) {
            report(
                at,
                "unbounded",
                format!("`{phrase}`: every queue has a bound"),
            );
        }
    }
    let message = "`mpsc::channel` of std has no bound: use `sync_channel`";
    for at in source.find("mpsc::channel") {
        let mut call = at + 4;
        if source.code.get(call).is_some_and(|token| token.is(":")) {
            // A turbofish: the call's bracket stands right after its `>`.
            let rest = &source.code[call..];
            let close = rest
                .windows(2)
                .position(|two| two[0].is(">") && two[1].is("("));
            call = close.map_or(source.code.len(), |offset| call + offset + 1);
        }
        let is_call = source.code.get(call).is_some_and(|token| token.is("("));
        // With an argument it is the bounded channel of tokio.
        if is_call && closing(&source.code, call) == call + 1 {
            report(at, "unbounded", message.to_owned());
        }
    }
    for import in imports {
        if import.path == ["std", "sync", "mpsc", "channel"] {
            report(import.at, "unbounded", message.to_owned());
        }
    }
}

fn no_unsafe(source: &Source<'_>, report: &mut Report<'_>) {
    let mut exports = 0;
    let mut blocks = 0;
    for at in source.find("unsafe") {
        let mut allowed = false;
        if source.path == UNSAFE_ALLOWED {
            let is_export = source
                .find("#[unsafe(no_mangle)]")
                .contains(&(at.saturating_sub(2)));
            exports += usize::from(is_export);
            blocks += usize::from(!is_export);
            allowed = exports <= 1 && blocks <= 1 && (is_export || is_explained(source, at));
        }
        if !allowed {
            report(at, "unsafe", "`unsafe` is forbidden".to_owned());
        }
    }
}

/// Whether a comment right above says why the `unsafe` is sound.
fn is_explained(source: &Source<'_>, at: usize) -> bool {
    let line = source.line_of(at);
    let above = line.saturating_sub(3)..line;
    let mut near = above.filter(|line| source.has_comment(*line, "SAFETY:"));
    near.next().is_some()
}

fn loud_failures(source: &Source<'_>, report: &mut Report<'_>) {
    for at in source.find(".unwrap()") {
        if !source.in_test(at) && !source.is_demo() {
            let message = "`.unwrap()`: answer the error, or `.expect` with the invariant";
            report(at, "unwrap", message.to_owned());
        }
    }
    for at in source.find(".expect(") {
        let Some(message) = source.code.get(at + 3) else {
            continue;
        };
        let words = message.text.trim_matches('"').split_whitespace().count();
        if message.kind == Kind::Str && words < 2 {
            let message = "`.expect` must name the invariant in at least two words";
            report(at, "expect", message.to_owned());
        }
    }
}

fn ignored_tests(source: &Source<'_>, report: &mut Report<'_>) {
    for at in source.find("#[") {
        let end = closing(&source.code, at + 1);
        let attribute = source.code.get(at + 2..end).unwrap_or_default();
        let Some(first) = attribute.first() else {
            continue;
        };
        let conditional = first.is("cfg_attr") && attribute.iter().any(|token| token.is("ignore"));
        if first.is("ignore") || conditional {
            let message = "an ignored test proves nothing: assert what happens, or delete it";
            report(at, "ignored-test", message.to_owned());
        }
    }
}

/// Marks of unfinished work, in code, comments and strings.
fn unfinished(source: &Source<'_>, found: &mut Vec<Violation>) {
    let mut report = |line: usize, word: &str| {
        let message = format!("`{word}`: finish it, or write it down where it will be read");
        found.push(Violation::new(source.path, line, "unfinished", message));
    };
    // This crate has to name in strings what it forbids.
    let own = in_folder(source.path, &["xtask"]);
    for token in source.code.iter().chain(&source.comments) {
        if own && token.kind == Kind::Str {
            continue;
        }
        for (offset, text) in token.text.lines().enumerate() {
            for word in text.split(|c: char| c != '_' && !c.is_alphanumeric()) {
                if ["TODO", "FIXME", "XXX"].contains(&word) {
                    report(token.line + offset, word);
                }
            }
        }
    }
    for word in ["todo!", "unimplemented!", "dbg!"] {
        for at in source.find(word) {
            report(source.line_of(at), word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The laws that the text breaks, in order of the lines.
    fn laws(path: &str, text: &str) -> Vec<&'static str> {
        let mut found = Vec::new();
        check(&Source::new(path, text), &mut found);
        found.sort();
        found.dedup();
        found.iter().map(|found| found.law).collect()
    }

    #[test]
    fn sleeping_is_banned_in_tests_but_for_the_paused_clock() {
        for text in [
            "thread::sleep(d)",
            "tokio::time::sleep(d)",
            "use tokio::time::{Duration, sleep};",
        ] {
            assert_eq!(laws("tests/a.rs", text), ["sleep"], "{text}");
            assert_eq!(laws("src/lib.rs", text), [""; 0], "{text}");
            let marked = format!("{text} // tidy: paused clock");
            assert_eq!(laws("tests/a.rs", &marked), [""; 0], "{text}");
        }
        assert_eq!(
            laws(
                "src/a.rs",
                "#[cfg(test)] mod t { fn f() { thread::sleep(d) } }"
            ),
            ["sleep"]
        );
        assert_eq!(laws("tests/a.rs", "time::sleep_until(t)"), [""; 0]);
    }

    #[test]
    fn pure_crates_see_no_world() {
        let home = "crates/postroad-proto/src/lib.rs";
        for text in [
            "Instant::now()",
            "std::time::SystemTime::now()",
            "rand::random()",
            "use rand::Rng;",
            "thread_rng()",
            "use std::{collections::HashMap, io};",
            "use std::{fs::File, mem};",
            "std::net::IpAddr",
            "async fn f() {}",
            "tracing::info!(x)",
            "log::warn!(x)",
            "println!()",
            "use tokio::sync::Notify;",
        ] {
            assert!(laws(home, text).contains(&"pure"), "{text}");
            assert_eq!(
                laws("crates/postroad/src/observe/calls.rs", text),
                [""; 0],
                "{text}"
            );
        }
        for text in [
            "// std::io",
            "use std::time::Instant;",
            "use crate::log::Log; crate::rand::Seed",
            "\"println!\"",
            "use std::collections::{io_like, HashMap as fs};",
        ] {
            assert_eq!(laws(home, text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_library_does_not_print_or_end_the_process() {
        let quiet = "crates/postroad-bench/src/run.rs";
        for text in [
            "fn f() { println!(\"done\") }",
            "fn f() { std::process::exit(1) }",
            "use std::process::ExitCode;",
        ] {
            assert_eq!(laws(quiet, text), ["quiet"], "{text}");
            assert!(laws("crates/postroad-cli/src/main.rs", text).is_empty());
        }
        let driver = "crates/postroad/src/driver/mod.rs";
        let observer = "crates/postroad/src/observe/calls.rs";
        let logs = "fn f() { tracing::debug!(x = 1, \"y\"); }";
        assert_eq!(laws(driver, logs), ["observe"]);
        assert!(laws(observer, logs).is_empty());
        assert!(laws(quiet, "/// println!(\"{report}\")\nfn f() {}").is_empty());
    }

    #[test]
    fn channels_have_bounds() {
        for text in [
            "mpsc::unbounded_channel()",
            "use tokio::sync::mpsc::{unbounded_channel};",
            "std::sync::mpsc::channel()",
            "mpsc::channel::<(u8, ())>()",
            "use std::sync::mpsc::{Sender, channel};",
        ] {
            assert_eq!(laws("src/lib.rs", text), ["unbounded"], "{text}");
        }
        for text in [
            "mpsc::channel(64)",
            "mpsc::channel::<u8>(64)",
            "mpsc::sync_channel(1)",
        ] {
            assert_eq!(laws("src/lib.rs", text), [""; 0], "{text}");
        }
    }

    #[test]
    fn unsafe_is_only_where_c_calls_in() {
        let export = "#[unsafe(no_mangle)] fn f() {}\n";
        let block = "// SAFETY: because\nlet x = unsafe { y };\n";
        assert_eq!(laws("src/lib.rs", block), ["unsafe"]);
        assert_eq!(laws("src/lib.rs", "#![forbid(unsafe_code)]"), [""; 0]);
        assert_eq!(laws("src/lib.rs", export), ["unsafe"]);
        assert_eq!(laws(UNSAFE_ALLOWED, &format!("{export}{block}")), [""; 0]);
        assert_eq!(laws(UNSAFE_ALLOWED, "unsafe { y }"), ["unsafe"]);
        assert_eq!(laws(UNSAFE_ALLOWED, &block.repeat(2)), ["unsafe"]);
    }

    #[test]
    fn failures_are_answered_or_explained() {
        assert_eq!(laws("src/lib.rs", "x.unwrap()"), ["unwrap"]);
        assert_eq!(laws("examples/a.rs", "x.unwrap()"), [""; 0]);
        assert_eq!(
            laws(
                "src/lib.rs",
                "/// x.unwrap()\n#[test] fn f() { x.unwrap() }"
            ),
            [""; 0]
        );
        assert_eq!(laws("src/lib.rs", "x.unwrap_or(y)"), [""; 0]);
        assert_eq!(laws("src/lib.rs", "x.expect(\"reason\")"), ["expect"]);
        assert_eq!(
            laws("src/lib.rs", "x.expect(\"the slot is held\")"),
            [""; 0]
        );
    }

    #[test]
    fn ignored_tests_and_unfinished_work_are_found() {
        assert_eq!(
            laws("src/a.rs", "#[ignore = \"slow\"] fn f() {}"),
            ["ignored-test"]
        );
        assert_eq!(
            laws("src/a.rs", "#[cfg_attr(unix, ignore)] fn f() {}"),
            ["ignored-test"]
        );
        for text in [
            "// TODO: x",
            "/* a\nFIXME */",
            "todo!()",
            "dbg!(x)",
            "\"XXX\"",
        ] {
            assert_eq!(laws("src/a.rs", text), ["unfinished"], "{text}");
        }
        assert_eq!(laws("xtask/src/a.rs", "\"TODO\""), [""; 0]);
        assert_eq!(laws("src/a.rs", "XXXL; \"todo!\"; MY_TODO"), [""; 0]);
    }
}
