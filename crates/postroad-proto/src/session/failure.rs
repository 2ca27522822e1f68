//! Why a call has no answer, why a request was called off, and why a connection ended.

use std::time::Duration;

use crate::code::{Fault, Retry};
use crate::error_body::ErrorBody;
use crate::frame::Refuse;
use crate::text::Printable;
use crate::wire_error::WireError;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The other end has answered with an error.
    #[error("{0}")]
    Remote(Box<ErrorBody>),
    /// The deadline has passed.
    #[error("deadline exceeded")]
    Deadline {
        /// Whether the request may have been handed to the transport.
        sent: bool,
    },
    /// The connection ended first.
    #[error("connection lost: {reason}")]
    Lost {
        /// Why it ended.
        reason: CloseReason,
        /// Whether the request may have been handed to the transport.
        sent: bool,
    },
    /// The session does not take calls now: it is not open, or it is being drained.
    #[error("the connection takes no calls now")]
    NotOpen,
    /// As many calls are in flight as the other end accepts.
    #[error("{0} calls are in flight already, as many as the server accepts")]
    TooManyCalls(usize),
    /// Too many bytes wait to be sent already; later there is room again.
    #[error("{0} bytes wait to be sent already")]
    Full(usize),
    /// The request is larger than the other end accepts, or than the dialect can say.
    #[error("request cannot be sent: {0}")]
    Unsendable(String),
}

impl Failure {
    /// Who has to change something.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Remote(_) => Fault::Peer,
            Self::Unsendable(_) => Fault::Caller,
            _ => Fault::Environment,
        }
    }

    /// Whether the call may be sent again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Remote(error) => error.retry,
            Self::Deadline { sent: false } | Self::Lost { sent: false, .. } => Retry::Here,
            Self::Deadline { .. } | Self::Lost { .. } => Retry::IfIdempotent,
            Self::NotOpen | Self::TooManyCalls(_) | Self::Full(_) => Retry::Here,
            Self::Unsendable(_) => Retry::Never,
        }
    }
}

/// Why a request was called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CancelReason {
    /// The caller no longer wants the answer.
    GivenUp,
    /// The deadline has passed.
    Deadline,
    /// The connection has ended.
    Lost,
}

/// Why a one-way message was dropped on arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Its deadline had passed when it was whole.
    Late,
    /// There was no room for putting another large message together.
    NoRoom,
    /// The rest of it did not come in time, or the connection has ended before.
    Unfinished,
    /// Its envelope cannot be read, or it names a route that there cannot be.
    Refused,
    /// The connection has ended before it was started. A session does not say this; its driver
    /// does.
    Unstarted,
}

/// Declares [`RefusalReason`] and the list of all its variants together, so that none can be left
/// out.
macro_rules! refusal_reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Why a session has answered a call with an error by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum RefusalReason {
            $($(#[$doc])* $name,)*
        }

        impl RefusalReason {
            /// All of them; each stands at its own number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The reason in a word or two, as in counters.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

refusal_reasons! {
    /// Its deadline had passed when it was whole.
    Late = "late",
    /// Its slot is beyond the calls that this end accepts.
    TooManyCalls = "too many calls",
    /// There was no room for putting another large message together.
    NoRoom = "no room",
    /// The rest of it did not come in time.
    Unfinished = "unfinished",
    /// It insists on something that nobody here does.
    Unsupported = "unsupported",
    /// The connection is being drained.
    Draining = "draining",
    /// Its envelope cannot be read.
    BadRequest = "bad request",
    /// It names a route that there cannot be.
    NoRoute = "no route",
    /// It was handled, and its answer is larger than the peer accepts, or than there is room for
    /// while the peer reads too slowly.
    NoRoomForAnswer = "no room for answer",
}

/// What there is too much of for one more connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shortage {
    /// As many connections are open as are allowed.
    Connections,
    /// As many as are allowed from one address.
    Address,
    /// All connections together hold as much memory as they may.
    Memory,
}

impl Shortage {
    /// What a peer is told that is turned away.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Connections => "too many connections",
            Self::Address => "too many connections from your address",
            Self::Memory => "the connections hold too much memory together",
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This end has closed it.
    #[error("closed by this end")]
    Local,
    /// The other end has closed it, at a frame's end.
    #[error("closed by the peer")]
    Peer,
    /// There was no room for it when it came.
    #[error("{}", .0.text())]
    TurnedAway(Shortage),
    /// All connections together held too much memory, and this one the most: so many bytes.
    #[error("the connections held too much memory together, and this one the most: {0} bytes")]
    Memory(usize),
    /// Nothing but heartbeats has come for so long.
    #[error("idle for {0:?}")]
    Idle(Duration),
    /// Drained: every call was answered.
    #[error("drained")]
    Drained,
    /// The other end broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(WireError),
    /// The other end says that this one broke the protocol.
    #[error("the peer reports: {0}")]
    Fault(String),
    /// The server refused the opening.
    #[error("{}", refusal(.0))]
    Refused(Box<Refuse>),
    /// The opening took too long.
    #[error("no opening within {0:?}")]
    HandshakeTimeout(Duration),
    /// No sign of life.
    #[error("no sign of life for {0:?}")]
    HeartbeatTimeout(Duration),
    /// A frame began and did not end.
    #[error("a frame was not complete within {0:?}")]
    ReadStall(Duration),
    /// The other end does not read.
    #[error("the peer took no bytes for {0:?}")]
    WriteStall(Duration),
    /// The transport failed.
    #[error("{0}")]
    Transport(String),
}

fn refusal(refuse: &Refuse) -> String {
    let Refuse {
        version_min,
        version_max,
        reason,
        text,
        ..
    } = refuse;
    let text = Printable(text);
    format!(
        "refused ({}): {text} [the peer speaks {version_min} to {version_max}]",
        reason.word()
    )
}

impl CloseReason {
    /// Who has to change something.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Local => Fault::Caller,
            Self::Protocol(_) | Self::Refused(_) | Self::HandshakeTimeout(_) => Fault::Peer,
            Self::Fault(_) => Fault::Caller,
            _ => Fault::Environment,
        }
    }

    /// Whether dialling again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(refuse) => refuse.retry,
            Self::Local => Retry::Never,
            _ => Retry::Here,
        }
    }

    /// A short word for a counter's label.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Peer => "peer",
            Self::Drained => "drained",
            Self::TurnedAway(_) => "turned away",
            Self::Memory(_) => "memory",
            Self::Idle(_) => "idle",
            Self::Protocol(error) => error.fault.word(),
            Self::Fault(_) => "fault",
            Self::Refused(refuse) => refuse.reason.word(),
            Self::HandshakeTimeout(_) => "handshake timeout",
            Self::HeartbeatTimeout(_) => "heartbeat timeout",
            Self::ReadStall(_) => "read stall",
            Self::WriteStall(_) => "write stall",
            Self::Transport(_) => "transport",
        }
    }

    /// Whether the peer is to blame in a way that an operator should see.
    #[must_use]
    pub fn is_protocol_error(&self) -> bool {
        matches!(self, Self::Protocol(_))
    }
}
