//! The state machine of one connection, of either end, in any protocol: see [`Session`].

mod assembly;
mod call;
mod config;
mod detect;
mod dialect;
mod event;
mod failure;
mod frames;
mod heartbeat;
mod idle;
mod liveness;
mod native;
mod outbox;
mod parsed_parts;
mod sink;
mod slots;
mod spoken;
mod timers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

pub use call::{Call, CallId, Extras, Reply, Request, RouteRef};
pub use config::{Config, DialectConfig, Mapping, features};
pub use event::{Credentials, Denial, Event, PeerHello};
pub use failure::{CancelReason, CloseReason, DropReason, Failure, RefusalReason, Shortage};
pub use sink::{Arrivals, SINK_ROOM, Sink};

use detect::Detect;
use dialect::DialectSession;
use native::Native;
use timers::Timers;

use crate::Time;
use crate::code::{Code, Retry};
use crate::error_body::ErrorBody;
use crate::wire_error::{WireError, WireFault};

/// One end of one connection, in any protocol: bytes and time in; requests, answers, events and
/// bytes out.
///
/// A session does no I/O, reads no clock and never waits. Its driver does these for it, with four
/// kinds of methods:
///
/// - **Getters** take `&self` and say how things stand: [`Self::wants_read`], [`Self::has_room`],
///   [`Self::has_output`], [`Self::is_closed`], and figures such as [`Self::calls_in_flight`].
/// - **`handle_*`** tell the session what has happened outside of it: bytes were read
///   ([`Self::handle_bytes`]), the transport ended ([`Self::handle_end`]), it takes bytes or
///   refuses them ([`Self::handle_written`]), time has passed ([`Self::handle_timeout`], and
///   [`Self::expire`] for a part of that).
/// - **Commands** are what users of the connection want: [`Self::call`], [`Self::send`],
///   [`Self::cancel`], [`Self::respond`], [`Self::drain`], [`Self::turn_away`],
///   [`Self::admit`], [`Self::deny`], [`Self::close`].
/// - **`poll_*`** take out what the session wants done.
///
/// # Order
/// After any `handle_*` or command, the driver
///
/// 1. takes what is in its [`Sink`], and polls [`Self::poll_event`] until `None`;
/// 2. polls [`Self::poll_transmit`] until it has nothing, and writes it;
/// 3. arms one timer for [`Self::poll_timeout`], at which it calls [`Self::handle_timeout`];
/// 4. once everything is written, closes the transport if [`Self::is_closed`].
///
/// Requests and answers go into the sink while bytes are decoded, everything else into events. So
/// a request may be in the sink whose [`Event::Cancelled`] is polled after it: a request that has
/// not been started is dropped then.
///
/// Nothing is unbounded. Decoding stops where the sink is full or [`Self::wants_read`] is false;
/// bytes that were not taken stay in the buffer, and are handed in again when there is room.
///
/// # Time
/// Every `now` comes from one clock and must not be before an earlier `now` of the same session.
/// It may lag: what is late is then found late, and nothing worse. A deadline counts as passed at
/// its very moment.
///
/// # After an error
/// A session that finds an error is closed at once: [`Event::Closed`] is its last event, calls of
/// this end have ended before it, and what it still has to say (an error reply, FAULT) is in its
/// output. `handle_*` and commands do nothing from then on.
#[derive(Debug)]
pub struct Session(Inner);

/// Boxed, because a session begins as one and becomes another ([`Detect`]), and they differ in
/// size.
#[derive(Debug)]
enum Inner {
    Native(Box<Native>),
    Dialect(Box<DialectSession>),
    /// The first bytes have not said yet what the peer speaks.
    Detect(Box<Detect>),
}

/// Calls the same method of whichever session it is.
macro_rules! each {
    ($self:expr, $session:ident => $call:expr) => {
        match &$self.0 {
            Inner::Native($session) => $call,
            Inner::Dialect($session) => $call,
            Inner::Detect($session) => $call,
        }
    };
    (mut $self:expr, $session:ident => $call:expr) => {
        match &mut $self.0 {
            Inner::Native($session) => $call,
            Inner::Dialect($session) => $call,
            Inner::Detect($session) => $call,
        }
    };
}

impl Session {
    /// The client end of the native protocol; HELLO is ready to be written.
    #[must_use]
    pub fn client(config: impl Into<Arc<Config>>, now: Time) -> Self {
        Self(Inner::Native(Box::new(Native::client(config.into(), now))))
    }

    /// The server end of the native protocol, whose session `id` names. The time for the opening
    /// begins `now`.
    #[must_use]
    pub fn server(config: impl Into<Arc<Config>>, id: [u8; 16], now: Time) -> Self {
        Self(Inner::Native(Box::new(Native::server(
            config.into(),
            id,
            now,
        ))))
    }

    /// The client end of a dialect.
    #[must_use]
    pub fn dialect_client(
        config: impl Into<Arc<Config>>,
        dialect: DialectConfig,
        now: Time,
    ) -> Self {
        Self(Inner::Dialect(Box::new(DialectSession::client(
            config.into(),
            dialect,
            now,
        ))))
    }

    /// The server end of a dialect.
    #[must_use]
    pub fn dialect_server(
        config: impl Into<Arc<Config>>,
        dialect: DialectConfig,
        now: Time,
    ) -> Self {
        Self(Inner::Dialect(Box::new(DialectSession::server(
            config.into(),
            dialect,
            now,
        ))))
    }

    /// The server end of whatever the first bytes say; `id` names the session if it is native.
    #[must_use]
    pub fn detect(
        config: impl Into<Arc<Config>>,
        mapping: Arc<Mapping>,
        id: [u8; 16],
        now: Time,
    ) -> Self {
        Self(Inner::Detect(Box::new(Detect::new(
            config.into(),
            mapping,
            id,
            now,
        ))))
    }

    /// Takes what has been read. Requests and answers go into `sink`; other events of the same
    /// bytes are polled afterwards, so a request that was called off behind them has its
    /// [`Event::Cancelled`] then.
    ///
    /// Bytes stay in `buf` if they are the beginning of a frame, and if the session stopped in
    /// front of them: because the sink has no room, or because [`Self::wants_read`] is false. Call
    /// again with the same buffer, without waiting for new bytes, once neither is so.
    pub fn handle_bytes(&mut self, now: Time, buf: &mut BytesMut, sink: &mut impl Sink) {
        if let Inner::Detect(detect) = &mut self.0 {
            match detect.decide(now, buf) {
                Some(session) => self.0 = session.0,
                None => return,
            }
        }
        match &mut self.0 {
            Inner::Native(session) => session.handle_bytes(now, buf, sink),
            Inner::Dialect(session) => session.handle_bytes(now, buf, sink),
            Inner::Detect(_) => {}
        }
    }

    /// The transport will bring no more bytes; `buf` holds those that were left.
    pub fn handle_end(&mut self, now: Time, buf: &BytesMut, error: Option<String>) {
        each!(mut self, session => session.handle_end(now, buf, error));
    }

    /// Time has passed: does everything that is due, such as heartbeats and giving memory back, and
    /// closes a session whose peer is silent or stalled.
    pub fn handle_timeout(&mut self, now: Time) {
        each!(mut self, session => session.handle_timeout(now));
    }

    /// Ends the calls and requests whose deadlines have passed, and nothing else.
    ///
    /// A driver that was held up calls this before it writes, so that a call which is late is taken
    /// back instead of being sent. [`Self::handle_timeout`] also judges the peer, which is only
    /// fair once what came meanwhile was read and what can be written was written.
    pub fn expire(&mut self, now: Time) {
        each!(mut self, session => session.expire(now));
    }

    /// The transport has taken bytes (`blocked` false) or refuses any (`blocked` true).
    pub fn handle_written(&mut self, now: Time, blocked: bool) {
        each!(mut self, session => session.handle_written(now, blocked));
    }

    /// Makes a call. It ends exactly once with this id: with its answer in the [`Sink`], or with
    /// [`Event::Failed`].
    ///
    /// # Errors
    /// If it cannot be made now; nothing was sent then.
    #[inline]
    pub fn call(&mut self, now: Time, call: &Call<'_>) -> Result<CallId, Failure> {
        match &mut self.0 {
            Inner::Native(session) => session.call(now, call),
            Inner::Dialect(session) => session.call(now, call),
            Inner::Detect(_) => Err(Failure::NotOpen),
        }
    }

    /// Sends a one-way message: nobody answers it, and nobody hears of it again. Where a dialect
    /// has only calls, it is one whose answer is dropped.
    ///
    /// # Errors
    /// If it cannot be queued now; nothing was sent then.
    pub fn send(&mut self, now: Time, call: &Call<'_>) -> Result<(), Failure> {
        match &mut self.0 {
            Inner::Native(session) => session.send(now, call),
            Inner::Dialect(session) => session.send(now, call),
            Inner::Detect(_) => Err(Failure::NotOpen),
        }
    }

    /// Gives a call up: no event follows, and the other end is told.
    pub fn cancel(&mut self, now: Time, id: CallId) {
        match &mut self.0 {
            Inner::Native(session) => session.cancel(now, id),
            Inner::Dialect(session) => session.cancel(now, id),
            Inner::Detect(_) => {}
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
        match &mut self.0 {
            Inner::Native(session) => session.respond(now, id, answer),
            Inner::Dialect(session) => {
                session.respond(now, id, answer.cloned().map_err(ErrorBody::clone))
            }
            Inner::Detect(_) => false,
        }
    }

    /// Asks the other end for no more, finishes what was accepted, then closes; after `grace` at
    /// the latest.
    pub fn drain(&mut self, now: Time, grace: Duration) {
        each!(mut self, session => session.drain(now, grace));
    }

    /// Whether the other end can be told to leave, so that a drain loses nothing that it may be
    /// sending now. A dialect has no word for it, and an opening that is drained is refused.
    #[must_use]
    pub fn can_ask_to_leave(&self) -> bool {
        match &self.0 {
            Inner::Native(session) => session.is_open(),
            _ => false,
        }
    }

    /// As a server: the credentials that the client has brought suffice, and it is welcome. Nothing
    /// happens unless it waits for that.
    pub fn admit(&mut self, now: Time) {
        if let Inner::Native(session) = &mut self.0 {
            session.admit(now);
        }
    }

    /// As a server: the credentials that the client has brought do not suffice. Tells it why, and
    /// whether it may try again with the same, and closes. Nothing happens unless it waits for
    /// that.
    pub fn deny(&mut self, now: Time, denial: Denial) {
        if let Inner::Native(session) = &mut self.0 {
            session.deny(now, denial);
        }
    }

    /// As a server: there is no room for this connection. Tells the client so, in words of its
    /// protocol if that is known, and closes.
    pub fn turn_away(&mut self, now: Time, shortage: Shortage) {
        match &mut self.0 {
            Inner::Native(session) => session.turn_away(now, shortage),
            Inner::Dialect(session) => session.turn_away(now, shortage),
            Inner::Detect(session) => session.turn_away(shortage),
        }
    }

    /// As a server: closes because all connections together hold too much memory, and this one the
    /// most: `held` bytes. Answers that wait to be written are lost; the client is told why, if its
    /// protocol has words for it.
    pub fn make_room(&mut self, now: Time, held: usize) {
        match &mut self.0 {
            Inner::Native(session) => session.make_room(now, held),
            Inner::Dialect(session) => session.make_room(now, held),
            Inner::Detect(session) => session.close(now, CloseReason::Memory(held)),
        }
    }

    /// Closes; calls in flight end with an error.
    pub fn close(&mut self, now: Time, reason: CloseReason) {
        each!(mut self, session => session.close(now, reason));
    }

    /// What has happened; see the order above.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        each!(mut self, session => session.poll_event())
    }

    /// Appends the next bytes to write; false if there are none.
    #[inline]
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        each!(mut self, session => session.poll_transmit(out))
    }

    /// Bytes that wait to be taken by [`Self::poll_transmit`] before a message of this priority
    /// that is queued now, about. A dialect's leave in their order.
    #[must_use]
    pub fn unsent_before(&self, priority: u8) -> usize {
        match &self.0 {
            Inner::Native(session) => session.unsent_before(priority),
            Inner::Dialect(session) => session.unsent(),
            Inner::Detect(_) => 0,
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

    /// Whether more bytes should be read and handed in. Not while the peer has made too much grow:
    /// events that were not polled, answers that it does not read, requests in flight where the
    /// protocol cannot refuse them. It turns true by polling, by writing and by answering.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        each!(self, session => session.wants_read())
    }

    /// Whether answers find room in the output. While they do not, a driver starts no requests that
    /// have arrived, though they are in its hands already: their answers would become errors.
    #[must_use]
    pub fn has_room(&self) -> bool {
        match &self.0 {
            Inner::Native(session) => session.has_room(),
            Inner::Dialect(session) => session.has_room(),
            Inner::Detect(_) => true,
        }
    }

    /// Whether the session is over: the transport is to be closed when everything is written.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        each!(self, session => session.is_closed())
    }

    /// Whether it is known to speak the native protocol, which tells its peer how much time a
    /// message has left; a dialect cannot say that.
    #[must_use]
    pub fn is_native(&self) -> bool {
        matches!(self.0, Inner::Native(_))
    }

    /// The name behind a [`RouteRef::Number`].
    #[must_use]
    pub fn route_name(&self, number: u16) -> Option<&Arc<str>> {
        match &self.0 {
            Inner::Native(session) => session.route_name(number),
            _ => None,
        }
    }

    /// Calls that this end has in flight.
    #[must_use]
    pub fn calls_in_flight(&self) -> usize {
        match &self.0 {
            Inner::Native(session) => session.calls_in_flight(),
            Inner::Dialect(session) => session.calls_in_flight(),
            Inner::Detect(_) => 0,
        }
    }

    /// Requests that this end is serving.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        match &self.0 {
            Inner::Native(session) => session.requests_in_flight(),
            Inner::Dialect(session) => session.requests_in_flight(),
            Inner::Detect(_) => 0,
        }
    }

    /// `native`, a dialect's name, or `auto` while it is not known.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match &self.0 {
            Inner::Native(_) => "native",
            Inner::Dialect(session) => session.dialect().name(),
            Inner::Detect(_) => "auto",
        }
    }

    /// Answers that came for calls that were over (M-016).
    #[must_use]
    pub fn late_answers(&self) -> u64 {
        match &self.0 {
            Inner::Native(session) => session.late_answers(),
            Inner::Dialect(session) => session.late_answers(),
            Inner::Detect(_) => 0,
        }
    }

    /// Whether the other end has said anything since the connection was opened. A server that takes
    /// connections and drops each at once has not.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        match &self.0 {
            Inner::Native(session) => session.has_heard(),
            Inner::Dialect(session) => session.has_heard(),
            Inner::Detect(_) => false,
        }
    }

    /// Bytes of messages that the session holds now: incomplete ones, and answers that wait to be
    /// written. Unlike [`Self::memory`] it can be asked after every step.
    #[must_use]
    #[inline]
    pub fn held(&self) -> usize {
        match &self.0 {
            Inner::Native(session) => session.held(),
            Inner::Dialect(session) => session.held(),
            Inner::Detect(_) => 0,
        }
    }

    /// Bytes that the session holds now; never more than
    /// [`Limits::memory_max`](crate::limits::Limits::memory_max).
    #[must_use]
    pub fn memory(&self) -> usize {
        match &self.0 {
            Inner::Native(session) => session.memory(),
            Inner::Dialect(session) => session.memory(),
            Inner::Detect(_) => 0,
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

/// The fault of a peer that ended the stream with `left` bytes of an incomplete frame.
#[cold]
fn cut_short(left: usize) -> WireError {
    let detail = format!("the stream ended {left} bytes into a frame");
    WireError::new(WireFault::Truncated, left, detail)
}

/// Takes the next event out of a session's queue. Requests and answers go into the sink, so events
/// are rare: a connection that has none keeps no memory for them.
#[inline]
fn next_event(events: &mut VecDeque<Event>) -> Option<Event> {
    let event = events.pop_front();
    if event.is_none() && events.capacity() > 0 {
        *events = VecDeque::new();
    }
    event
}
