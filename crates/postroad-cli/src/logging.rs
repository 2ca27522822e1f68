//! Logs on stderr, as `--log` says.

use tracing_subscriber::EnvFilter;

use crate::args::{Arguments, Command, LogFormat};
use crate::terminal::Style;

/// Installs the log. A node says what it does; tools only what goes wrong, which they report
/// themselves.
pub(crate) fn start(arguments: &Arguments, style: Style) {
    let default = match arguments.command {
        Command::Serve(_) => "info",
        Command::DemoNode(_) => "off",
        _ => "error",
    };
    let filter = EnvFilter::try_new(arguments.log.as_deref().unwrap_or(default));
    let filter = filter.unwrap_or_else(|error| {
        eprintln!(
            "{} --log: {error}; logging at `{default}`",
            style.red("warning:")
        );
        EnvFilter::new(default)
    });
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(style.is_on()).init(),
        LogFormat::Json => log.json().init(),
    }
}
