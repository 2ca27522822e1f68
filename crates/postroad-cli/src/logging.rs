//! Logs on stderr, as `--log` says.

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

use crate::args::{Arguments, Command, LogFormat};
use crate::exit::Failed;
use crate::terminal::Style;

/// Installs the log. A node says what it does; tools only what goes wrong, which they report
/// themselves.
///
/// Lines go through a bounded queue to a thread of their own: a terminal that is stopped, a full
/// disk or a closed pipe never holds up a node. Lines that find no place are dropped and counted.
/// What is returned writes the last lines when it is dropped.
pub(crate) fn start(arguments: &Arguments, style: Style) -> Result<WorkerGuard, Failed> {
    let default = match arguments.command {
        Command::Serve(_) => "info",
        Command::DemoNode(_) => "off",
        _ => "error",
    };
    let filter = EnvFilter::try_new(arguments.log.as_deref().unwrap_or(default));
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
