//! What the program prints: in which form, in which colours, and on which stream.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::exit;

use clap::ValueEnum;

/// When output is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal; NO_COLOR, CLICOLOR_FORCE and TERM=dumb are obeyed.
    Auto,
    Always,
    Never,
}

/// The form of what is printed on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// Paints text, or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style(bool);

impl Style {
    /// As the flag, the environment and the terminal say, in this order.
    pub(crate) fn new(color: Color, stream: &impl IsTerminal) -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if is_set("NO_COLOR") => false,
            Color::Auto if is_set("CLICOLOR_FORCE") => true,
            Color::Auto => stream.is_terminal() && !is_dumb,
        })
    }

    pub(crate) fn is_on(self) -> bool {
        self.0
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// The program's exit code where data cannot be written; that of any other failure.
const UNWRITTEN: i32 = 1;

/// Writes a line of data. A reader that has seen enough (`| head`) ends the program quietly; a disk
/// that is full ends it with words.
pub(crate) fn say(line: impl fmt::Display) {
    if !put(line) {
        exit(UNWRITTEN);
    }
}

/// The same with bytes as they are.
pub(crate) fn write_data(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if !is_written(out.write_all(bytes).and_then(|()| out.flush())) {
        exit(UNWRITTEN);
    }
}

/// The same where the program goes on: whether the line was written.
pub(crate) fn put(line: impl fmt::Display) -> bool {
    is_written(writeln!(io::stdout().lock(), "{line}"))
}

/// Whether it went well; says why not, unless it is only that nobody reads any more.
fn is_written(result: io::Result<()>) -> bool {
    let Err(error) = result else {
        return true;
    };
    if error.kind() != io::ErrorKind::BrokenPipe {
        tell(format_args!("error: stdout: {error}"));
    }
    false
}

/// Writes a line for people. Where nobody hears it, nothing else suffers.
pub(crate) fn tell(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
