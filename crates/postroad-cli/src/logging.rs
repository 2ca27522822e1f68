//! Logs on stderr, as `--log` says.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

use crate::args::{Arguments, Command, LogFormat};
use crate::exit::Failed;
use crate::terminal::Style;

/// What a filter can be set to.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Crates that log: the first part of every target.
const CRATES: [&str; 7] = [
    "postroad",
    "postroad_bench",
    "postroad_proto",
    "mio",
    "rustls",
    "tokio",
    "tokio_rustls",
];

/// Panics that are logged at most. The counters of a node have them all.
const PANICS_A_SECOND: u32 = 10;

/// How alike two words must be for one to be a slip of the other; 1 is the same word.
const ALIKE: f64 = 0.7;

/// Refuses a filter that names a target that nobody logs to: it would silence everything without a
/// word, most likely because of a slip in a level.
fn check(filter: &str) -> Result<(), String> {
    for directive in filter.split(',').map(str::trim) {
        let name = directive.split(['=', '[']).next().unwrap_or_default();
        let target = name.split("::").next().unwrap_or_default();
        let is_level = |name: &str| {
            let is_word = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(name));
            is_word || name.parse().is_ok_and(|level: usize| level < LEVELS.len())
        };
        if target.is_empty() || CRATES.contains(&target) || is_level(directive) {
            continue;
        }
        let known = LEVELS.iter().chain(&CRATES);
        let alike = known.map(|known| (strsim::jaro_winkler(target, known), known));
        let alike = alike.max_by(|a, b| a.0.total_cmp(&b.0));
        let meant = match alike {
            Some((alike, known)) if alike >= ALIKE => format!("; did you mean `{known}`?"),
            _ => String::new(),
        };
        let levels = LEVELS.join(", ");
        return Err(format!(
            "{target:?} is neither a level ({levels}) nor a crate that logs{meant}"
        ));
    }
    Ok(())
}

/// Whether somebody sees both what the program prints and what it logs, on one terminal.
pub(crate) fn is_watched() -> bool {
    std::io::stdout().is_terminal() && std::io::stderr().is_terminal()
}

/// Installs the log. A node says what it does; tools only what goes wrong, which they report
/// themselves.
///
/// Lines go through a bounded queue to a thread of their own: a terminal that is stopped, a full
/// disk or a closed pipe never holds up a node. Lines that find no place are dropped and counted.
/// What is returned writes the last lines when it is dropped.
pub(crate) fn start(arguments: &Arguments, style: Style) -> Result<WorkerGuard, Failed> {
    let default = match arguments.command {
        // The banner says where it listens.
        // What rustls warns of is told by the line that says which handshake has failed.
        Command::Serve(_) if is_watched() => "info,rustls=error,postroad::server=warn",
        Command::Serve(_) => "info,rustls=error",
        Command::DemoNode(_) => "off",
        _ => "error",
    };
    let filter = arguments.log.as_deref().unwrap_or(default);
    check(filter).map_err(|what| Failed::usage(format!("--log: {what}")))?;
    let filter = EnvFilter::try_new(filter);
    let filter = filter.map_err(|error| Failed::usage(format!("--log: {error}")))?;
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    let log = log.log_internal_errors(false);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(style.is_on()).init(),
        LogFormat::Json => log.json().init(),
    }
    log_panics();
    Ok(guard)
}

/// Has panics logged, with their place, as everything else is: a line of the log instead of text
/// between its lines, and through its queue, so that no thread waits for whoever reads it. Where
/// nothing is logged, they go to stderr as they do in every program.
fn log_panics() {
    let raw = std::panic::take_hook();
    let rate = Mutex::new((Instant::now(), 0));
    std::panic::set_hook(Box::new(move |panic| {
        if !tracing::enabled!(target: "postroad::panic", tracing::Level::ERROR) {
            return raw(panic);
        }
        if !is_within_rate(&mut rate.lock().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let text = panic.payload_as_str().unwrap_or("of an unprintable kind");
        let place = panic.location().map(tracing::field::display);
        let backtrace = Backtrace::capture();
        let is_captured = backtrace.status() == BacktraceStatus::Captured;
        let backtrace = is_captured.then(|| tracing::field::display(backtrace));
        let thread = thread::current();
        tracing::error!(
            target: "postroad::panic", place, thread = thread.name(), backtrace, "panicked: {text}"
        );
    }));
}

/// Whether one more panic is to be logged: of a second, since when the first of these was, so many
/// were.
fn is_within_rate((since, logged): &mut (Instant, u32)) -> bool {
    if since.elapsed() >= Duration::from_secs(1) {
        (*since, *logged) = (Instant::now(), 0);
    }
    *logged += 1;
    *logged <= PANICS_A_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Kept(std::sync::Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("nobody panics with it").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_a_line_of_the_log_with_its_place_and_many_are_not_all_logged() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt()
            .json()
            .with_writer(move || writer.clone())
            .finish();
        log_panics();
        tracing::subscriber::with_default(log, || {
            for number in 0..3 * PANICS_A_SECOND {
                let panicked = std::panic::catch_unwind(|| panic!("the {number}th of many"));
                panicked.expect_err("it panics");
            }
        });
        let written = kept.0.lock().expect("nobody panics with it").clone();
        let lines: Vec<serde_json::Value> = serde_json::Deserializer::from_slice(&written)
            .into_iter()
            .collect::<Result<_, _>>()
            .expect("each line is JSON");
        let fields = &lines[0]["fields"];
        assert_eq!(fields["message"], "panicked: the 0th of many");
        let place = fields["place"].as_str().expect("it has a place");
        assert!(place.contains("logging.rs:"), "{place}");
        assert_eq!(lines[0]["target"], "postroad::panic");
        let many = lines.len() as u32;
        assert!(
            (PANICS_A_SECOND..3 * PANICS_A_SECOND).contains(&many),
            "{many}"
        );
    }

    #[test]
    fn a_filter_that_would_silence_everything_is_refused() {
        for filter in [
            "info",
            "WARN",
            "3",
            "off,postroad::call=debug",
            "warn, rustls=info,",
            "postroad[request{route=a}]=debug",
            "[request]=debug",
        ] {
            assert_eq!(check(filter), Ok(()), "{filter}");
        }
        for (filter, meant) in [
            ("infoo", "did you mean `info`?"),
            ("warn,postraod::call=debug", "did you mean `postroad`?"),
            ("9", "neither a level"),
        ] {
            let error = check(filter).unwrap_err();
            assert!(error.contains(meant), "{error}");
        }
    }
}
