//! The state machine of one connection, of either end, in any protocol.
//!
//! Bytes go in by [`Session::handle_bytes`], time by [`Session::handle_timeout`], commands by
//! [`Session::call`],
//! [`Session::respond`] and their like. After any of them, in this order:
//!
//! 1. [`Session::poll_event`] until `None`: what has happened;
//! 2. [`Session::poll_transmit`] until it has nothing: what to write;
//! 3. [`Session::poll_timeout`]: when to call [`Session::handle_timeout`];
//! 4. [`Session::is_closed`]: whether to close the transport once everything is written.
//!
//! The driver also says when the transport ended ([`Session::handle_end`]) and whether it takes
//! bytes ([`Session::handle_written`]).

mod assembly;
mod detect;
mod dialect;
mod frames;
mod heartbeat;
mod native;
mod outbox;
mod sink;
mod slots;
mod stalls;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

pub use detect::Detect;
pub use dialect::DialectSession;
pub use native::Native;
pub use sink::Sink;

use sink::Queue;
use stalls::Stalls;

use crate::Time;
use crate::dialect::{Codec, Envelope};
use crate::error::{Code, ErrorBody, Fault, Printable, Retry, Trace, WireError};
use crate::frame::Refuse;
use crate::limits::{FRAGMENT_BYTES, Limits};

/// A call in flight on one connection: a slot and the generation that guards it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(u32);

impl CallId {
    pub(crate) fn new(index: u16, generation: u16) -> Self {
        Self(u32::from(generation) << 16 | u32::from(index))
    }

    /// The slot: small, dense, used again after the call.
    #[must_use]
    pub fn index(self) -> u16 {
        self.0 as u16
    }

    pub(crate) fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

/// Features of the native protocol, as bits.
pub mod features {
    /// Every frame ends with CRC32C.
    pub const CHECKSUM: u32 = 1 << 0;
    /// What this code can do.
    pub const BUILT: u32 = CHECKSUM;
}

/// Settings of one end's sessions, which share them.
///
/// # Defaults
/// Version 1; a checksum offered; heartbeat 30 s; opening 5 s; 30 s for a frame that has begun, 10
/// s for a write.
#[derive(Clone, Debug)]
pub struct Config {
    /// Lowest version spoken.
    pub version_min: u16,
    /// Highest version spoken.
    pub version_max: u16,
    /// Features offered, bits of [`features`]. Leave out the checksum where the transport has its
    /// own.
    pub offered: u32,
    /// Features without which there is no session.
    pub required: u32,
    /// Bounds.
    pub limits: Limits,
    /// Payload of one fragment, bytes, where the peer's frames have room for it: what an urgent
    /// message may have to wait for.
    pub fragment: usize,
    /// Heartbeat on an otherwise idle connection; the larger of the two ends' is taken. At least 10
    /// ms.
    pub heartbeat: Duration,
    /// Whether a dialect's client sends heartbeats: a peer that does not know them would be taken
    /// for dead.
    pub has_heartbeat: bool,
    /// Time for the whole opening.
    pub handshake: Duration,
    /// Time for a frame that has begun to arrive.
    pub read_stall: Duration,
    /// Time in which a transport that takes nothing must take something.
    pub write_stall: Duration,
    /// Who this is, for the other end's logs.
    pub agent: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version_min: 1,
            version_max: 1,
            offered: features::CHECKSUM,
            required: 0,
            limits: Limits::default(),
            fragment: FRAGMENT_BYTES,
            heartbeat: Duration::from_secs(30),
            has_heartbeat: true,
            handshake: Duration::from_secs(5),
            read_stall: Duration::from_secs(30),
            write_stall: Duration::from_secs(10),
            agent: concat!("postroad/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// How a dialect's frames find their routes at the server, and routes their frames at the client.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    /// Where a frame's route stands.
    pub envelope: Option<Envelope>,
    /// Commands, opcodes or envelope types and their routes.
    pub codes: HashMap<u8, Arc<str>>,
    /// The route of everything that neither says.
    pub fixed: Option<Arc<str>>,
}

/// A dialect of one listener or endpoint.
#[derive(Clone, Debug)]
pub struct DialectConfig {
    /// Codec and its settings; who reads is set by the session.
    pub codec: Codec,
    /// From frames to routes.
    pub mapping: Arc<Mapping>,
}

/// How a request names its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteRef {
    /// By a number of this connection; see [`Session::route_name`].
    Number(u16),
    /// By its name.
    Name(Arc<str>),
    /// By a code of the dialect that the listener's table does not have.
    Code(u8),
    /// Not at all: the dialect has no codes, and the listener names no route.
    Unsaid,
}

/// A request or one-way message that has arrived whole, within its deadline.
#[derive(Clone, Debug)]
pub struct Request {
    /// To answer by; `None` for a one-way message.
    pub id: Option<CallId>,
    /// What it is for.
    pub route: RouteRef,
    /// 0 to 7, 7 most urgent.
    pub priority: u8,
    /// 0 to 2.
    pub qos: u8,
    /// Payload codec; see `docs/protocol.md`.
    pub codec: u8,
    /// 0 is the first.
    pub attempt: u8,
    /// When the answer is of no use any more.
    pub deadline: Time,
    /// What few requests carry, and so is not moved with all of them.
    pub extras: Option<Box<Extras>>,
    /// A slice of the read buffer.
    pub payload: Bytes,
}

impl Default for Request {
    /// An empty one, to be filled.
    fn default() -> Self {
        Self {
            id: None,
            route: RouteRef::Unsaid,
            priority: 0,
            qos: 0,
            codec: 0,
            attempt: 0,
            deadline: Time::NEVER,
            extras: None,
            payload: Bytes::new(),
        }
    }
}

impl Request {
    /// What the bytes `class` and `form` of a native head say.
    #[inline]
    fn set_flags(&mut self, class: u8, form: u8) {
        self.priority = class & 7;
        self.qos = class >> 3 & 3;
        self.codec = form & 15;
        self.attempt = form >> 4 & 7;
    }

    /// The trace it belongs to.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        self.extras.as_ref()?.trace
    }
}

/// What a request can carry besides its payload.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// The trace it belongs to.
    pub trace: Option<Trace>,
    /// Raw parts of the frame, empty or to be read with [`crate::frame::Parts`].
    pub parts: Bytes,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Payload codec.
    pub codec: u8,
    /// The payload.
    pub payload: Bytes,
}

/// A call or one-way message to make.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The route's name.
    pub route: &'a str,
    /// The payload.
    pub payload: &'a Bytes,
    /// Its codec.
    pub codec: u8,
    /// 0 to 7, 7 most urgent.
    pub priority: u8,
    /// When the answer is of no use any more.
    pub deadline: Time,
    /// 0 is the first.
    pub attempt: u8,
    /// Nobody may send it again.
    pub no_retry: bool,
    /// The trace it belongs to.
    pub trace: Option<&'a Trace>,
    /// Keys and values.
    pub metadata: &'a [(String, Bytes)],
}

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
    /// There were too many connections when it came.
    #[error("too many connections")]
    TurnedAway,
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
            Self::TurnedAway => "turned away",
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

/// What has happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The opening is done: calls can be made or will come.
    Opened {
        /// The name of the protocol: `native` or a dialect's.
        protocol: &'static str,
        /// Its version.
        version: u16,
        /// Who the other end says it is.
        agent: String,
    },
    /// A request or one-way message to handle.
    Request(Request),
    /// The request is called off; it must not be answered any more.
    Cancelled(CallId, CancelReason),
    /// A call of this end is over.
    Finished(CallId, Result<Reply, Failure>),
    /// The server wants no new calls here. Dial another connection; this one ends when its calls
    /// have.
    Draining,
    /// A heartbeat came back: the smoothed round trip.
    RoundTrip(Duration),
    /// The connection is over; always the last event.
    Closed(CloseReason),
}

/// A session of any protocol.
#[derive(Debug)]
pub enum Session {
    /// The native protocol.
    Native(Box<Native>),
    /// A dialect.
    Dialect(Box<DialectSession>),
    /// Not known yet.
    Detect(Box<Detect>),
}

/// Calls the same method of whichever session it is.
macro_rules! each {
    ($self:expr, $session:ident => $call:expr) => {
        match $self {
            Session::Native($session) => $call,
            Session::Dialect($session) => $call,
            Session::Detect($session) => $call,
        }
    };
}

impl Session {
    /// The client end of the native protocol; HELLO is ready to be written.
    #[must_use]
    pub fn client(config: impl Into<Arc<Config>>, now: Time) -> Self {
        Self::Native(Box::new(Native::client(config.into(), now)))
    }

    /// The server end of the native protocol, whose session `id` names. The time for the opening
    /// begins `now`.
    #[must_use]
    pub fn server(config: impl Into<Arc<Config>>, id: [u8; 16], now: Time) -> Self {
        Self::Native(Box::new(Native::server(config.into(), id, now)))
    }

    /// The client end of a dialect.
    #[must_use]
    pub fn dialect_client(
        config: impl Into<Arc<Config>>,
        dialect: DialectConfig,
        now: Time,
    ) -> Self {
        Self::Dialect(Box::new(DialectSession::client(
            config.into(),
            dialect,
            now,
        )))
    }

    /// The server end of a dialect.
    #[must_use]
    pub fn dialect_server(
        config: impl Into<Arc<Config>>,
        dialect: DialectConfig,
        now: Time,
    ) -> Self {
        Self::Dialect(Box::new(DialectSession::server(
            config.into(),
            dialect,
            now,
        )))
    }

    /// The server end of whatever the first bytes say; `id` names the session if it is native.
    #[must_use]
    pub fn detect(
        config: impl Into<Arc<Config>>,
        mapping: Arc<Mapping>,
        id: [u8; 16],
        now: Time,
    ) -> Self {
        Self::Detect(Box::new(Detect::new(config.into(), mapping, id, now)))
    }

    /// Takes what has been read. Bytes may stay in `buf`: an incomplete frame, or everything while
    /// [`Self::wants_read`] is false. Call again with the rest once it is true.
    pub fn handle_bytes(&mut self, now: Time, buf: &mut BytesMut) {
        self.handle_bytes_into(now, buf, &mut Queue);
    }

    /// The same, but requests and answers go into `sink` at once instead of being queued as events.
    /// Other events of the same bytes are polled afterwards; a request that was called off
    /// meanwhile has its [`Event::Cancelled`] then.
    pub fn handle_bytes_into(&mut self, now: Time, buf: &mut BytesMut, sink: &mut impl Sink) {
        if let Self::Detect(detect) = self {
            match detect.decide(now, buf) {
                Some(session) => *self = session,
                None => return,
            }
        }
        match self {
            Self::Native(session) => session.handle_bytes(now, buf, sink),
            Self::Dialect(session) => session.handle_bytes(now, buf),
            Self::Detect(_) => {}
        }
    }

    /// The transport will bring no more bytes; `buf` holds those that were left.
    pub fn handle_end(&mut self, now: Time, buf: &BytesMut, error: Option<String>) {
        each!(self, session => session.handle_end(now, buf, error));
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        each!(self, session => session.handle_timeout(now));
    }

    /// Takes back what is late by now, before it is written. All else that time brings is for
    /// [`Self::handle_timeout`], once what came meanwhile was read and what can be was written.
    pub fn expire(&mut self, now: Time) {
        each!(self, session => session.expire(now));
    }

    /// The transport has taken bytes (`blocked` false) or refuses any (`blocked` true).
    pub fn handle_written(&mut self, now: Time, blocked: bool) {
        each!(self, session => session.handle_written(now, blocked));
    }

    /// Makes a call; its end is [`Event::Finished`] with this id, exactly once.
    ///
    /// # Errors
    /// If it cannot be made now; nothing was sent then.
    #[inline]
    pub fn call(&mut self, now: Time, call: &Call<'_>) -> Result<CallId, Failure> {
        match self {
            Self::Native(session) => session.call(now, call),
            Self::Dialect(session) => session.call(now, call),
            Self::Detect(_) => Err(Failure::NotOpen),
        }
    }

    /// Sends a message that nobody answers.
    ///
    /// # Errors
    /// If it cannot be sent now.
    pub fn send(&mut self, now: Time, call: &Call<'_>) -> Result<(), Failure> {
        match self {
            Self::Native(session) => session.send(now, call),
            Self::Dialect(session) => session.send(now, call),
            Self::Detect(_) => Err(Failure::NotOpen),
        }
    }

    /// Gives a call up: no event follows, and the other end is told.
    pub fn cancel(&mut self, now: Time, id: CallId) {
        match self {
            Self::Native(session) => session.cancel(now, id),
            Self::Dialect(session) => session.cancel(now, id),
            Self::Detect(_) => {}
        }
    }

    /// Answers a request. A request that was called off is not answered; whether it still was in
    /// flight.
    #[inline]
    pub fn respond(&mut self, now: Time, id: CallId, answer: Result<Reply, ErrorBody>) -> bool {
        self.respond_with(now, id, answer.as_ref())
    }

    /// The same with an answer that is looked at where it lies.
    #[inline]
    pub fn respond_with(
        &mut self,
        now: Time,
        id: CallId,
        answer: Result<&Reply, &ErrorBody>,
    ) -> bool {
        match self {
            Self::Native(session) => session.respond(now, id, answer),
            Self::Dialect(session) => {
                session.respond(now, id, answer.cloned().map_err(ErrorBody::clone))
            }
            Self::Detect(_) => false,
        }
    }

    /// Asks the other end for no more, finishes what was accepted, then closes; after `grace` at
    /// the latest.
    pub fn drain(&mut self, now: Time, grace: Duration) {
        each!(self, session => session.drain(now, grace));
    }

    /// As a server: there are too many connections. Tells the client so, in words of its protocol
    /// if that is known, and closes.
    pub fn turn_away(&mut self, now: Time) {
        match self {
            Self::Native(session) => session.turn_away(now),
            Self::Dialect(session) => session.turn_away(now),
            Self::Detect(session) => session.close(now, CloseReason::TurnedAway),
        }
    }

    /// Closes; calls in flight end with an error.
    pub fn close(&mut self, now: Time, reason: CloseReason) {
        each!(self, session => session.close(now, reason));
    }

    /// What has happened; see the order above.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        each!(self, session => session.poll_event())
    }

    /// Appends the next bytes to write; false if there are none.
    #[inline]
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        each!(self, session => session.poll_transmit(out))
    }

    /// Bytes that wait to be taken by [`Self::poll_transmit`] before a message of this priority
    /// that is queued now, about. A dialect's leave in their order.
    #[must_use]
    pub fn unsent_before(&self, priority: u8) -> usize {
        match self {
            Self::Native(session) => session.unsent_before(priority),
            Self::Dialect(session) => session.unsent(),
            Self::Detect(_) => 0,
        }
    }

    /// Whether [`Self::poll_transmit`] has something.
    #[must_use]
    #[inline]
    pub fn has_output(&self) -> bool {
        each!(self, session => session.has_output())
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        each!(self, session => session.poll_timeout())
    }

    /// Whether more bytes should be read: not while too much is in flight or unsent.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        each!(self, session => session.wants_read())
    }

    /// Whether answers find room: while they do not, requests that have arrived are not started.
    #[must_use]
    pub fn has_room(&self) -> bool {
        match self {
            Self::Native(session) => session.has_room(),
            Self::Dialect(session) => session.has_room(),
            Self::Detect(_) => true,
        }
    }

    /// Whether the session is over: the transport is to be closed when everything is written.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        each!(self, session => session.is_closed())
    }

    /// The name behind a [`RouteRef::Number`].
    #[must_use]
    pub fn route_name(&self, number: u16) -> Option<&Arc<str>> {
        match self {
            Self::Native(session) => session.route_name(number),
            _ => None,
        }
    }

    /// Calls that this end has in flight.
    #[must_use]
    pub fn calls_in_flight(&self) -> usize {
        match self {
            Self::Native(session) => session.calls_in_flight(),
            Self::Dialect(session) => session.calls_in_flight(),
            Self::Detect(_) => 0,
        }
    }

    /// Requests that this end is serving.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        match self {
            Self::Native(session) => session.requests_in_flight(),
            Self::Dialect(session) => session.requests_in_flight(),
            Self::Detect(_) => 0,
        }
    }

    /// `native`, a dialect's name, or `auto` while it is not known.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Native(_) => "native",
            Self::Dialect(session) => session.dialect().name(),
            Self::Detect(_) => "auto",
        }
    }

    /// Answers that came for calls that were over (M-016).
    #[must_use]
    pub fn late_answers(&self) -> u64 {
        match self {
            Self::Native(session) => session.late_answers(),
            Self::Dialect(session) => session.late_answers(),
            Self::Detect(_) => 0,
        }
    }

    /// Bytes that the session holds now; never more than [`Limits::memory_max`].
    #[must_use]
    pub fn memory(&self) -> usize {
        match self {
            Self::Native(session) => session.memory(),
            Self::Dialect(session) => session.memory(),
            Self::Detect(_) => 0,
        }
    }
}

/// The error that there is no room for an answer: what a peer asks for and does not read is
/// bounded.
#[inline]
fn no_room(reply: &Reply, queued: usize, max: usize) -> Option<ErrorBody> {
    (queued + reply.payload.len() > max).then(|| {
        let text = format!("{queued} bytes of answers wait to be read already");
        ErrorBody::new(Code::TOO_LARGE, text).with_retry(Retry::IfIdempotent)
    })
}

/// The earliest of several moments.
fn earliest(times: impl IntoIterator<Item = Option<Time>>) -> Option<Time> {
    times.into_iter().flatten().min()
}
