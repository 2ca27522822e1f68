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
mod call;
mod config;
mod detect;
mod dialect;
mod event;
mod failure;
mod frames;
mod heartbeat;
mod native;
mod outbox;
mod parsed_parts;
mod sink;
mod slots;
mod stalls;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

pub use call::{Call, CallId, Extras, Reply, Request, RouteRef};
pub use config::{Config, DialectConfig, Mapping, features};
pub use detect::Detect;
pub use dialect::DialectSession;
pub use event::Event;
pub use failure::{CancelReason, CloseReason, Failure};
pub use native::Native;
pub use sink::{Arrivals, Sink};

use stalls::Stalls;

use crate::Time;
use crate::code::{Code, Retry};
use crate::error_body::ErrorBody;

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

    /// Takes what has been read. Requests and answers go into `sink`; other events of the same
    /// bytes are polled afterwards, so a request that was called off behind them has its
    /// [`Event::Cancelled`] then.
    ///
    /// Bytes stay in `buf` if they are the beginning of a frame, and if the session stopped in
    /// front of them: because the sink has no room, or because [`Self::wants_read`] is false. Call
    /// again with the same buffer, without waiting for new bytes, once neither is so.
    pub fn handle_bytes(&mut self, now: Time, buf: &mut BytesMut, sink: &mut impl Sink) {
        if let Self::Detect(detect) = self {
            match detect.decide(now, buf) {
                Some(session) => *self = session,
                None => return,
            }
        }
        match self {
            Self::Native(session) => session.handle_bytes(now, buf, sink),
            Self::Dialect(session) => session.handle_bytes(now, buf, sink),
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

    /// Makes a call. It ends exactly once with this id: with its answer in the [`Sink`], or with
    /// [`Event::Failed`].
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
