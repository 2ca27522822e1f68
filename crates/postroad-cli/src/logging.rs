//! Logs on stderr, as `--log` says.

use std::io::IsTerminal;

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
        Command::Serve(_) if is_watched() => "info,postroad::server=warn",
        Command::Serve(_) => "info",
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
    Ok(guard)
}

#[cfg(test)]
mod tests {
    use super::*;

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
