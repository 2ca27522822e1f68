//! The two errors of a user: what a handler answers with, and why a call has no answer.

use std::fmt;
use std::io;
use std::time::Duration;

use postroad_proto::code::{Code, Fault, Retry};
use postroad_proto::error_body::{Cause, ErrorBody};
use postroad_proto::policy::ConnectionState;
use postroad_proto::session::{CloseReason, Failure};
use postroad_proto::trace::Trace;

/// What [`Error::new`] takes for a code: a [`Code`], which is well-formed, or text.
pub trait ErrorCode {
    /// The code.
    ///
    /// # Errors
    /// The text, if it is not a code.
    fn to_code(&self) -> Result<Code, String>;
}

impl ErrorCode for Code {
    fn to_code(&self) -> Result<Code, String> {
        Ok(*self)
    }
}

impl ErrorCode for str {
    fn to_code(&self) -> Result<Code, String> {
        Code::parse(self).map_err(|_| self.to_owned())
    }
}

impl ErrorCode for String {
    fn to_code(&self) -> Result<Code, String> {
        self.as_str().to_code()
    }
}

impl<T: ErrorCode + ?Sized> ErrorCode for &T {
    fn to_code(&self) -> Result<Code, String> {
        (**self).to_code()
    }
}

/// An error's code, checked while it is compiled.
///
/// ```
/// use postroad::{Error, code};
///
/// let error = Error::new(code!("ORD-E-102"), "the order cannot be filled");
/// assert_eq!(error.code(), code!("ORD-E-102"));
/// ```
///
/// A code of another form does not compile:
///
/// ```compile_fail
/// let error = postroad::Error::new(postroad::code!("NOT_FOUND"), "no such order");
/// ```
#[macro_export]
macro_rules! code {
    ($text:literal) => {
        const { $crate::Code::literal($text) }
    };
}

/// What a handler answers with when it fails: a code, a message, and the chain of causes across
/// services.
///
/// ```
/// use postroad::Error;
///
/// let empty = Error::new("INV-E-003", "the shelf is empty");
/// let order = Error::new("ORD-E-102", "the order cannot be filled").caused_by(empty);
/// assert_eq!(
///     order.to_string(),
///     "ORD-E-102 the order cannot be filled, caused by INV-E-003 the shelf is empty"
/// );
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<ErrorBody>);

impl Error {
    /// An error with a code of the form `ORD-E-102`: three capital letters, `E`, three digits.
    ///
    /// Write the code as [`code!`](crate::code)`("ORD-E-102")`, which does not compile if it is
    /// malformed. A code that is text is read at run time: a malformed one becomes `SRV-E-500`, its
    /// text goes before the message, and callers that look for that code will never see it.
    #[must_use]
    pub fn new(code: impl ErrorCode, message: impl Into<String>) -> Self {
        match code.to_code() {
            Ok(code) => Self::of(code, message),
            Err(malformed) => Self::malformed(&malformed, message.into()),
        }
    }

    #[cold]
    fn malformed(code: &str, message: String) -> Self {
        Self::of(Code::INTERNAL, format!("{code} {message}"))
    }

    pub(crate) fn of(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorBody::new(code, message)))
    }

    /// `SRV-E-400`: the request cannot be understood.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::of(Code::BAD_REQUEST, message)
    }

    /// `SRV-E-500`: something failed here.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::of(Code::INTERNAL, message)
    }

    /// Appends the chain of `cause`: why this happened, the root last.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Self>) -> Self {
        let cause = cause.into();
        self.0.trace = self.0.trace.or(cause.0.trace);
        self.0.causes.extend(cause.0.causes);
        self
    }

    /// Says whether the call may be sent again. The promise of *here* and *elsewhere* is that
    /// nothing was done.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry, after: Duration) -> Self {
        self.0.retry = retry;
        self.0.retry_after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
        self
    }

    pub(crate) fn with_trace(mut self, trace: Trace) -> Self {
        self.0.trace.get_or_insert(trace);
        self
    }

    /// The error's own code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code()
    }

    /// The error's own message.
    #[must_use]
    pub fn message(&self) -> &str {
        self.0.causes.first().map_or("", |cause| &cause.message)
    }

    /// The chain: the error itself first, the root cause last.
    #[must_use]
    pub fn causes(&self) -> &[Cause] {
        &self.0.causes
    }

    /// The trace of the failed call, to find it in logs of every service it went through.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        self.0.trace
    }

    /// Whether the call may be sent again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Not sooner than this, if the server has said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.0.retry_after_ms > 0).then(|| Duration::from_millis(self.0.retry_after_ms.into()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self}")?;
        if let Some(trace) = self.0.trace {
            write!(f, ", trace {trace}")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for Error {}

impl From<ErrorBody> for Error {
    fn from(body: ErrorBody) -> Self {
        Self(Box::new(body))
    }
}

impl Error {
    /// As it is sent.
    pub(crate) fn body(&self) -> &ErrorBody {
        &self.0
    }

    /// Names the trace by which it is found again, unless one is named.
    pub(crate) fn set_trace(&mut self, trace: impl FnOnce() -> Trace) {
        self.0.trace.get_or_insert_with(trace);
    }
}

impl From<CallError> for Error {
    /// A call that another call needed: the remote chain goes on, everything else begins one.
    fn from(error: CallError) -> Self {
        match error {
            CallError::Remote(error) => {
                // Whatever was not started there, something was started here.
                error.with_retry(Retry::Never, Duration::ZERO)
            }
            other => Self::of(other.code(), other.to_string()),
        }
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server has answered with an error.
    #[error("{0}")]
    Remote(Error),
    /// The deadline has passed.
    #[error("CLI-E-504 deadline of {timeout:?} exceeded")]
    Deadline {
        /// The time that the call had.
        timeout: Duration,
        /// Whether the server may have got it.
        sent: bool,
    },
    /// The connection ended before the answer came.
    #[error("NET-E-502 connection lost {}: {reason}", lost(*.sent))]
    Lost {
        /// Why it ended.
        reason: CloseReason,
        /// Whether the server may have got it.
        sent: bool,
    },
    /// There is no connection.
    #[error("NET-E-503 no connection to {endpoint} ({state}): {reason}")]
    NotConnected {
        /// Where to.
        endpoint: String,
        /// How the connection stands. `Closing` and `Closed` say that none will follow: the client
        /// was closed, its runtime has ended, or it has given up as it was told to.
        state: ConnectionState,
        /// Why the last attempt failed, how many have failed since when, and when the next is.
        reason: String,
    },
    /// Too many callers wait for a connection already, or too many calls are in flight on it.
    #[error("CLI-E-429 {0}")]
    Busy(String),
    /// No server has answered lately, so none is asked for a while.
    #[error("CLI-E-503 no server of {target} answers; one is tried again in {retry_after:.1?}")]
    BreakerOpen {
        /// Where to.
        target: String,
        /// When the next call may be tried.
        retry_after: Duration,
    },
    /// The request cannot be sent.
    #[error("CLI-E-400 {0}")]
    Unsendable(String),
    /// The value cannot be encoded, or the answer not be decoded.
    #[error("CLI-E-422 {0}")]
    Codec(#[from] CodecError),
}

fn lost(sent: bool) -> &'static str {
    if sent {
        "after the request was sent"
    } else {
        "before the request was sent"
    }
}

impl CallError {
    /// The code that logs and causes show.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Remote(error) => error.code(),
            Self::Deadline { .. } => const { Code::literal("CLI-E-504") },
            Self::Lost { .. } => const { Code::literal("NET-E-502") },
            Self::NotConnected { .. } => const { Code::literal("NET-E-503") },
            Self::Busy(_) => const { Code::literal("CLI-E-429") },
            Self::BreakerOpen { .. } => const { Code::literal("CLI-E-503") },
            Self::Unsendable(_) => const { Code::literal("CLI-E-400") },
            Self::Codec(_) => const { Code::literal("CLI-E-422") },
        }
    }

    /// Who has to change something.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Remote(_) => Fault::Peer,
            Self::Unsendable(_) | Self::Codec(_) => Fault::Caller,
            _ => Fault::Environment,
        }
    }

    /// Whether the call may be sent again: *here* and *elsewhere* mean that it was certainly not
    /// started.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Remote(error) => error.retry(),
            Self::Deadline { sent: false, .. } | Self::Lost { sent: false, .. } => Retry::Here,
            Self::Deadline { .. } | Self::Lost { .. } => Retry::IfIdempotent,
            // A client that is closed stays closed; in every other state it goes on dialling.
            Self::NotConnected {
                state: ConnectionState::Closing | ConnectionState::Closed,
                ..
            } => Retry::Never,
            Self::NotConnected { .. } | Self::Busy(_) | Self::BreakerOpen { .. } => Retry::Here,
            Self::Unsendable(_) | Self::Codec(_) => Retry::Never,
        }
    }

    /// Not sooner than this, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Remote(error) => error.retry_after(),
            Self::BreakerOpen { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// What a caller is told of a call that a session did not take or that has no answer.
    ///
    /// `None` if the session takes no calls now. That is no error of the call: nothing was sent, so
    /// another connection may take it. Only whoever knows of other connections can say what comes
    /// of it, and the type sees to it that they are asked.
    pub(crate) fn from_failure(failure: Failure, timeout: Duration) -> Option<Self> {
        Some(match failure {
            Failure::NotOpen => return None,
            Failure::Remote(error) => Self::Remote(Error(error)),
            Failure::Deadline { sent } => Self::Deadline { timeout, sent },
            Failure::Lost { reason, sent } => Self::Lost { reason, sent },
            Failure::TooManyCalls(_) | Failure::Full(_) => Self::Busy(failure.to_string()),
            Failure::Unsendable(_) => Self::Unsendable(failure.to_string()),
            // A failure that is added later must not turn what may be sent again into an error that
            // forbids it.
            other if other.retry().was_not_started() => Self::Busy(other.to_string()),
            other => Self::Unsendable(other.to_string()),
        })
    }
}

/// A value that a codec cannot write, or bytes that it cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{codec}: {detail}")]
pub struct CodecError {
    /// The codec's name.
    pub codec: &'static str,
    /// What was wrong, and where if the codec knows.
    pub detail: String,
}

/// Why an endpoint cannot be used, dialled or listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The URL is not an endpoint.
    #[error("{url:?} is not an endpoint: {detail}")]
    Endpoint {
        /// What was given.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Nobody has registered this transport.
    #[error("no transport {scheme:?}; there are {known}")]
    UnknownTransport {
        /// What was asked for.
        scheme: String,
        /// What there is.
        known: String,
    },
    /// The operating system, or the other end, says no.
    #[error("{action} {endpoint}: {source}")]
    Io {
        /// `connect to`, `listen on`.
        action: &'static str,
        /// Where.
        endpoint: String,
        /// What it says.
        source: io::Error,
    },
}

impl TransportError {
    /// Who has to change something.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } => Fault::Environment,
            _ => Fault::Caller,
        }
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Io { .. } => Retry::Here,
            _ => Retry::Never,
        }
    }
}
