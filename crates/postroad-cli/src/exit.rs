//! Why the program ends, as an exit code and as words that say what to do next.

use std::fmt;
use std::process::ExitCode;

use postroad::admin::AdminError;
use postroad::client::ConnectError;
use postroad::transport::TransportError;
use postroad::{CallError, Error, StartError};

use crate::terminal::{Style, tell};
use crate::unreachable;

/// Something failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage; clap uses the same.
pub(crate) const USAGE: u8 = 2;
/// Nobody answers there.
pub(crate) const UNAVAILABLE: u8 = 69;
/// Wrong configuration.
pub(crate) const CONFIG: u8 = 78;
/// A threshold cannot be judged, because the measurement is invalid or incomplete.
pub(crate) const INVALID: u8 = 98;
/// A threshold was missed.
pub(crate) const THRESHOLD: u8 = 99;
/// After Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;
/// After SIGTERM, when it came twice.
pub(crate) const TERMINATED: u8 = 143;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failed {
    code: u8,
    lines: Vec<String>,
    hint: Option<String>,
}

impl Failed {
    pub(crate) fn new(code: u8, what: impl ToString) -> Self {
        Self {
            code,
            lines: vec![what.to_string()],
            hint: None,
        }
    }

    pub(crate) fn usage(what: impl ToString) -> Self {
        Self::new(USAGE, what)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with the place where it happened before it.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        if let Some(first) = self.lines.first_mut() {
            first.insert_str(0, &format!("{place}: "));
        }
        self
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    pub(crate) fn print(&self, style: Style) {
        let mut lines = self.lines.iter();
        if let Some(first) = lines.next() {
            tell(format_args!("{} {first}", style.red("error:")));
        }
        lines.for_each(|line| tell(format_args!("  {line}")));
        if let Some(hint) = &self.hint {
            tell(format_args!("{} {hint}", style.bold("hint:")));
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join(", "))
    }
}

fn chain(error: &Error) -> Vec<String> {
    let mut lines: Vec<String> = error.causes().iter().map(ToString::to_string).collect();
    lines
        .iter_mut()
        .skip(1)
        .for_each(|line| line.insert_str(0, "caused by "));
    if let Some(trace) = error.trace() {
        lines.push(format!("trace {trace}"));
    }
    lines
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::NotConnected {
                endpoint, reason, ..
            } => not_connected(&error.code().to_string(), endpoint, reason),
            CallError::Remote(remote) => Self {
                code: FAILED,
                lines: chain(remote),
                hint: (remote.code().as_str() == "SRV-E-404")
                    .then(|| "`postroad ls URL` lists the routes".to_owned()),
            },
            other => Self::new(FAILED, other),
        }
    }
}

/// A tool makes one attempt: how the client would go on is of no use to its user.
fn not_connected(code: &str, endpoint: &str, reason: &str) -> Failed {
    let advice = unreachable::to_connect(endpoint, reason);
    let again = format!("connect to {endpoint}: ");
    let reason = reason.strip_prefix(&again).unwrap_or(reason);
    let reason = match reason.rsplit_once(" (1 attempt has failed") {
        Some((reason, _)) => reason,
        None => reason,
    };
    Failed {
        code: if advice.is_local { FAILED } else { UNAVAILABLE },
        lines: vec![format!("{code} no connection to {endpoint}: {reason}")],
        hint: advice.hint,
    }
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Failed(error) => error.into(),
            ConnectError::Transport(error) => error.into(),
            // What a tool was set to came from its flags.
            other => Self::usage(other),
        }
    }
}

impl From<TransportError> for Failed {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Io { .. } => Self::new(UNAVAILABLE, error),
            _ => Self::usage(error),
        }
    }
}

impl From<StartError> for Failed {
    fn from(error: StartError) -> Self {
        match &error {
            StartError::Transport(TransportError::Io {
                endpoint, source, ..
            }) => Self {
                hint: unreachable::to_listen(endpoint, source).map(str::to_owned),
                ..Self::new(FAILED, &error)
            },
            StartError::Transport(_) | StartError::Config(_) => Self::new(CONFIG, error),
            other => Self::new(FAILED, other),
        }
    }
}

impl From<AdminError> for Failed {
    fn from(error: AdminError) -> Self {
        match &error {
            AdminError::Listen { .. } if error.is_taken() => Self::new(FAILED, error)
                .hint("--admin, or `listen` of [admin], names another address, or off"),
            AdminError::Listen { .. } | AdminError::Thread(_) => Self::new(FAILED, error),
            _ => Self::new(CONFIG, error),
        }
    }
}

impl From<postroad_bench::Error> for Failed {
    fn from(error: postroad_bench::Error) -> Self {
        use postroad_bench::Error as Load;
        match error {
            Load::Asked(_) => Self::usage(error),
            Load::OpenFiles {
                connections_max, ..
            } => Self::new(FAILED, error).hint(match connections_max {
                0 => "raise the limit (`ulimit -n`)".to_owned(),
                max => {
                    format!("raise the limit (`ulimit -n`) or ask for at most {max} connections")
                }
            }),
            Load::NoRun(_) => Self::usage(error)
                .hint("give files of `bench --json`, .hlog files, or a folder of them"),
            Load::Connect(error) => error.into(),
            Load::Endpoint(error) => error.into(),
            Load::Start(error) => error.into(),
            Load::Worker { name, source } => match *source {
                Load::Refused(error) => Self::new(refusal(&error), error),
                source => source.into(),
            }
            .at(format_args!("worker {name}")),
            other => Self::new(FAILED, other),
        }
    }
}

/// The exit code of what a worker refuses: the target that it cannot reach is one that nobody
/// answers at.
fn refusal(error: &CallError) -> u8 {
    match error {
        CallError::Remote(remote) if remote.code().as_str() == postroad_bench::UNREACHABLE => {
            UNAVAILABLE
        }
        _ => FAILED,
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::new(FAILED, error)
    }
}
