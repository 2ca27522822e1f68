//! The session of a dialect: one of the small protocols that `docs/dialects.md` describes.
//!
//! A dialect has no opening and no flow control, and an answer is found by its id or by its turn:
//! in a dialect without ids, answers have to leave in the order in which their requests came.

mod client;
mod server;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::idle::Idle;
use super::liveness::Liveness;
use super::slots::CallerSlots;
use super::timers::{Timer, Timers};
use super::{
    CallId, CancelReason, CloseReason, Config, DialectConfig, Event, Failure, Mapping, PeerHello,
    Sink, cut_short, next_event, spoken,
};
use crate::Time;
use crate::code::Code;
use crate::dialect::{
    Correlation, Dialect, DialectCodec, DialectFrame, FrameKind, Reader, ReplyFrame,
};
use crate::error_body::ErrorBody;
use crate::limits::EVENTS_MAX;
use crate::wire_error::WireError;

/// Bytes that are handed to the transport at a time.
const TRANSMIT_BYTES: usize = 64 * 1024;

/// A request that this end serves, with what its answer has to repeat.
#[derive(Debug)]
struct Pending {
    /// The id that the client gave it; 0 where the dialect has none.
    wire_id: u32,
    code: u8,
    priority: u8,
    /// When the answer is of no use any more; never, if the envelope does not say.
    deadline: Time,
    /// The envelope in which the client expects the answer.
    reply: ReplyFrame,
    /// The answer, if it is ready and waits for the answers before it.
    answer: Option<DialectFrame>,
}

/// One end of a dialect's connection.
#[derive(Debug)]
pub(super) struct DialectSession {
    config: Arc<Config>,
    codec: DialectCodec,
    mapping: Arc<Mapping>,
    closed: bool,
    /// Set while the session drains: it reads no new requests, and closes when those in flight have
    /// ended, or at this moment.
    draining: Option<Time>,
    /// Encoded frames that wait to be written.
    out: BytesMut,
    events: VecDeque<Event>,
    /// Bytes of the stream that were decoded, for the place of an error.
    offset: u64,
    /// Client: the calls in flight.
    caller: CallerSlots,
    /// Client, dialects without ids: the calls in the order in which their answers will come. A
    /// call that was given up keeps its turn, because its answer comes all the same.
    turns: VecDeque<CallId>,
    /// Client, dialects with ids: ids on the wire of calls that were given up and may still be
    /// answered. None is used again before its answer has come, or that would reach another call.
    given_up: HashSet<u32>,
    liveness: Liveness,
    /// Of a server whose connections may not be idle for ever.
    idle: Option<Box<Idle>>,
    /// Client: a deadline has passed since the other end said anything. An answer that waits for
    /// its turn is no excuse for silence any more.
    is_overdue: bool,
    /// Client: when the heartbeat was sent that has no answer yet.
    ping_sent: Option<Time>,
    /// Server: requests in flight by their ids, so that answering them in any order costs no
    /// search.
    pending: BTreeMap<u32, Pending>,
    /// Server, dialects without ids: the order in which requests came and answers have to leave.
    order: VecDeque<u32>,
    /// Server, `session`: the ids on the wire that are in flight.
    wire_ids: BTreeSet<u32>,
    /// Server: the requests in flight that have a deadline, the earliest first.
    deadlines: BTreeSet<(Time, u32)>,
    /// Server: the next request's id.
    next: u32,
    /// Server: bytes of answers that wait for their turn.
    held: usize,
    /// When memory that frames have made grow is given back, if no call is in flight then.
    release_at: Time,
    /// A fault, and when it was found. The requests in front of it are to be served first, so the
    /// session ends with the next wakeup, which is due at once.
    failing: Option<(Time, WireError)>,
}

impl DialectSession {
    pub(super) fn client(config: Arc<Config>, dialect: DialectConfig, now: Time) -> Self {
        let mut session = Self::new(config, dialect, Reader::Client, now);
        let max = session
            .config
            .limits
            .max_calls
            .min(client::id_slots(session.codec.dialect));
        session.caller.set_max(max);
        session
    }

    pub(super) fn server(config: Arc<Config>, dialect: DialectConfig, now: Time) -> Self {
        let idle = Idle::new(now, config.idle);
        Self {
            idle,
            ..Self::new(config, dialect, Reader::Server, now)
        }
    }

    fn new(config: Arc<Config>, dialect: DialectConfig, reader: Reader, now: Time) -> Self {
        let DialectConfig { mut codec, mapping } = dialect;
        codec.reader = reader;
        let protocol = codec.dialect.name();
        let opened = Event::Opened(Box::new(PeerHello {
            protocol,
            version: 1,
            agent: String::new(),
            credentials: None,
        }));
        Self {
            codec,
            mapping,
            closed: false,
            draining: None,
            out: BytesMut::new(),
            events: VecDeque::from([opened]),
            offset: 0,
            caller: CallerSlots::new(0),
            turns: VecDeque::new(),
            given_up: HashSet::new(),
            liveness: Liveness::new(now, config.heartbeat),
            idle: None,
            is_overdue: false,
            ping_sent: None,
            pending: BTreeMap::new(),
            order: VecDeque::new(),
            wire_ids: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            next: 0,
            held: 0,
            release_at: Time::NEVER,
            failing: None,
            config,
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.codec.dialect
    }

    /// Whether this end may call the peer. In a dialect only the end that dials may.
    fn may_call(&self) -> bool {
        self.codec.reader == Reader::Client
    }

    /// Whether the peer may call this end.
    fn serves(&self) -> bool {
        self.codec.reader == Reader::Server
    }

    pub(super) fn handle_bytes(&mut self, now: Time, buf: &mut BytesMut, sink: &mut impl Sink) {
        let mut made_progress = false;
        while self.wants_read() && !self.closed && sink.room() > 0 {
            let before = buf.len();
            let step = self.codec.decode(buf).and_then(|frame| {
                let Some(frame) = frame else { return Ok(false) };
                self.is_overdue = false;
                self.receive(now, frame, sink).map(|()| true)
            });
            match step {
                Ok(true) => {
                    made_progress = true;
                    self.offset += (before - buf.len()) as u64;
                }
                Ok(false) => break,
                Err(mut error) => {
                    if self.offset == 0 {
                        error = spoken::with_guess(error, buf, self.codec.dialect.name());
                    }
                    buf.clear();
                    // The requests before it in the same piece of bytes are served first, as they
                    // would be if the fault had come in a piece of its own.
                    if self.pending.is_empty() {
                        self.fault(now, error);
                    } else {
                        self.failing = Some((now, error));
                    }
                    return;
                }
            }
        }
        if self.closed {
            buf.clear();
        }
        if made_progress {
            self.release_memory_later(now);
        }
        let is_partial = !buf.is_empty() && self.wants_read() && sink.room() > 0;
        self.liveness.handle_read(now, is_partial, made_progress);
    }

    fn receive(
        &mut self,
        now: Time,
        frame: DialectFrame,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        match frame.kind {
            FrameKind::Ping => {
                self.receive_ping(frame);
                Ok(())
            }
            FrameKind::Pong => {
                if let Some(sent) = self.ping_sent.take() {
                    self.events.extend(self.liveness.handle_pong(now, sent));
                }
                Ok(())
            }
            FrameKind::Request | FrameKind::OneWay if self.serves() => {
                self.receive_request(now, frame, sink)
            }
            FrameKind::Response | FrameKind::Error if self.may_call() => {
                self.receive_answer(now, frame, sink);
                Ok(())
            }
            // An answer to an end that does not call, or a request to one that does not serve. It
            // does no harm, and is counted as an answer without a call.
            _ => {
                self.caller.late += 1;
                Ok(())
            }
        }
    }

    /// Encodes a frame. An answer that the dialect cannot express, such as one that is too large,
    /// becomes an error.
    fn put(&mut self, frame: &DialectFrame) {
        if let Err(error) = self.codec.encode(frame, &mut self.out) {
            let text = format!("{} the answer cannot be sent: {error}", Code::TOO_LARGE);
            let frame = DialectFrame {
                kind: FrameKind::Error,
                payload: text.into(),
                ..frame.clone()
            };
            let result = self.codec.encode(&frame, &mut self.out);
            debug_assert!(
                result.is_ok(),
                "an error within the limit always fits: {result:?}"
            );
        }
    }

    pub(super) fn handle_end(&mut self, now: Time, buf: &BytesMut, error: Option<String>) {
        if self.closed {
            return;
        }
        if let Some(error) = error {
            return self.close(now, CloseReason::Transport(error));
        }
        if !buf.is_empty() && self.wants_read() {
            let mut error = cut_short(buf.len()).with_id(self.codec.peek_id(buf));
            if self.offset == 0 {
                error = spoken::with_guess(error, buf, self.codec.dialect.name());
            }
            return self.fault(now, error);
        }
        if !self.serves() || self.pending.is_empty() {
            return self.close(now, CloseReason::Peer);
        }
        // The peer has closed only its own direction. It has asked everything and still reads the
        // answers, which `printf ... | nc` does, for one.
        self.draining.get_or_insert(now + self.config.read_stall);
    }

    fn expire_calls(&mut self, now: Time) {
        for id in self.caller.expire(now) {
            self.is_overdue = true;
            self.give_up(now, id);
            let failure = Failure::Deadline { sent: true };
            self.events.push_back(Event::Failed(id, failure));
        }
        // The last call may have been what a drain waited for.
        self.finish_drain(now);
    }

    /// Whether this end sends heartbeats. One that only serves answers them.
    fn beats(&self) -> bool {
        self.may_call() && self.config.has_heartbeat
    }

    fn beat(&mut self, now: Time) {
        let hears = self.has_room() && !self.may_be_held_up();
        match self.liveness.beat(now, hears) {
            Ok(true) => {
                self.ping_sent.get_or_insert(now);
                self.put(&DialectFrame::new(FrameKind::Ping, Bytes::new()));
            }
            Ok(false) => {}
            Err(dead) => self.close(now, dead),
        }
    }

    /// Whether the answer to a heartbeat may have to wait behind the answer to a call.
    ///
    /// With ids on the wire it never does. Where answers come in turn, a call that takes long holds
    /// it up, and that is no sign of a dead path until a call's deadline has passed in silence.
    fn may_be_held_up(&self) -> bool {
        let comes_in_turn = self.codec.dialect.correlation() == Correlation::Fifo;
        comes_in_turn && self.caller.in_flight() > 0 && !self.is_overdue
    }

    /// Asks for the memory that frames have made grow to be given back in an interval of
    /// heartbeats.
    fn release_memory_later(&mut self, now: Time) {
        self.release_at = self.release_at.min(now + self.config.heartbeat);
    }

    /// Gives back what frames have made grow, or tries again later if calls are in flight. This is
    /// done once in an interval of heartbeats, so that a busy connection hardly ever has to take
    /// the memory again.
    fn release_memory(&mut self, now: Time) {
        let is_busy = self.caller.in_flight() > 0 || !self.pending.is_empty();
        if is_busy || self.has_output() {
            self.release_at = now + self.config.heartbeat;
            return;
        }
        self.release_at = Time::NEVER;
        self.out = BytesMut::new();
        // An empty tree that was used keeps a node; a new one has no memory.
        self.pending = BTreeMap::new();
        self.wire_ids = BTreeSet::new();
        self.deadlines = BTreeSet::new();
        self.order = VecDeque::new();
        self.turns.shrink_to_fit();
        self.given_up.shrink_to_fit();
    }

    pub(super) fn handle_written(&mut self, now: Time, blocked: bool) {
        self.liveness.handle_written(now, blocked);
    }

    /// Ends the session because of what the peer sent. An end that serves says why, in an error of
    /// the dialect.
    fn fault(&mut self, now: Time, error: WireError) {
        if self.serves() {
            let body = ErrorBody::new(Code::PROTOCOL, error.to_string());
            let (kind, payload) = (FrameKind::Error, server::error_text(&body));
            self.put(&DialectFrame {
                kind,
                code: 0,
                id: error.id,
                priority: 0,
                payload,
            });
        }
        let at = self.offset + error.at;
        self.close(now, CloseReason::Protocol(WireError { at, ..error }));
    }

    pub(super) fn close(&mut self, _now: Time, reason: CloseReason) {
        if self.closed {
            return;
        }
        self.closed = true;
        for id in self.caller.ids() {
            self.caller.finish(id);
            let failure = Failure::Lost {
                reason: reason.clone(),
                sent: true,
            };
            self.events.push_back(Event::Failed(id, failure));
        }
        self.order.clear();
        self.wire_ids.clear();
        self.deadlines.clear();
        for (id, pending) in std::mem::take(&mut self.pending) {
            if pending.answer.is_none() {
                let cancelled = Event::Cancelled(CallId(id), CancelReason::Lost);
                self.events.push_back(cancelled);
            }
        }
        self.events.push_back(Event::Closed(reason));
    }

    pub(super) fn drain(&mut self, now: Time, grace: Duration) {
        self.draining.get_or_insert(now + grace);
        self.finish_drain(now);
    }

    /// Ends a connection that has had nothing to say for too long: a dialect has no word for
    /// asking it to leave.
    fn look_whether_idle(&mut self, now: Time) {
        let (is_busy, requests) = (!self.pending.is_empty(), u64::from(self.next));
        let Some(idle) = &mut self.idle else { return };
        if let Some(time) = idle.look(now, requests, is_busy) {
            self.close(now, CloseReason::Idle(time));
        }
    }

    fn finish_drain(&mut self, now: Time) {
        if self.draining.is_some() && self.pending.is_empty() && self.caller.in_flight() == 0 {
            self.close(now, CloseReason::Drained);
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        next_event(&mut self.events)
    }

    pub(super) fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        if self.out.is_empty() {
            return false;
        }
        // A piece at a time: what was handed out is not counted here any more, so all at once would
        // let twice as much wait as the bound says.
        let piece = self.out.len().min(TRANSMIT_BYTES);
        out.extend_from_slice(&self.out[..piece]);
        self.out.advance(piece);
        if self.out.is_empty() {
            // Back to the beginning of the buffer, of which all is free now.
            let _ = self.out.try_reclaim(self.out.capacity() + 1);
        }
        true
    }

    pub(super) fn unsent(&self) -> usize {
        self.out.len()
    }

    #[inline]
    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    pub(super) fn wants_read(&self) -> bool {
        self.pending.len() < self.config.limits.max_calls
            && self.events.len() < EVENTS_MAX
            && self.failing.is_none()
            && self.has_room()
            && (self.draining.is_none() || !self.serves())
    }

    pub(super) fn has_room(&self) -> bool {
        // An end that calls always reads. If it stopped because its own requests wait to be
        // written, it would wait for a peer that waits for it.
        self.may_call() || self.out.len() + self.held < self.config.limits.outbox_pause
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn calls_in_flight(&self) -> usize {
        self.caller.in_flight()
    }

    pub(super) fn requests_in_flight(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn has_heard(&self) -> bool {
        self.liveness.has_heard()
    }

    pub(super) fn late_answers(&self) -> u64 {
        self.caller.late
    }

    #[inline]
    pub(super) fn held(&self) -> usize {
        self.out.len() + self.held
    }

    pub(super) fn memory(&self) -> usize {
        let events = self.events.len() * size_of::<Event>();
        let pending = self.pending.len() * size_of::<Pending>();
        size_of::<Self>() + self.out.len() + self.held + events + pending
    }
}

impl Timers for DialectSession {
    fn due(&self, timer: Timer) -> Time {
        if self.closed {
            return Time::NEVER;
        }
        match timer {
            Timer::LateFault => self
                .failing
                .as_ref()
                .map_or(Time::NEVER, |(since, _)| *since),
            // A dialect has no opening.
            Timer::Handshake => Time::NEVER,
            Timer::RequestDeadlines => self.deadlines.first().map_or(Time::NEVER, |(at, _)| *at),
            Timer::WriteStall => self.liveness.write_stall_due(&self.config),
            Timer::ReadStall => self.liveness.read_stall_due(&self.config),
            Timer::CallDeadlines => self.caller.deadline(),
            Timer::Drain => self.draining.unwrap_or(Time::NEVER),
            Timer::Idle => self.idle.as_ref().map_or(Time::NEVER, |idle| idle.due()),
            Timer::ReleaseMemory => self.release_at,
            Timer::Heartbeat if self.beats() => self.liveness.heartbeat_due(),
            Timer::Heartbeat => Time::NEVER,
        }
    }

    fn fire(&mut self, now: Time, timer: Timer) {
        match timer {
            Timer::LateFault => {
                if let Some((_, error)) = self.failing.take() {
                    self.fault(now, error);
                }
            }
            Timer::Handshake => {}
            Timer::RequestDeadlines => self.expire_requests(now),
            Timer::WriteStall | Timer::ReadStall => {
                if let Some(reason) = self.liveness.stalled(now, &self.config) {
                    self.close(now, reason);
                }
            }
            Timer::CallDeadlines => self.expire_calls(now),
            Timer::Drain => self.close(now, CloseReason::Drained),
            Timer::Idle => self.look_whether_idle(now),
            Timer::ReleaseMemory => self.release_memory(now),
            Timer::Heartbeat => self.beat(now),
        }
    }
}

#[cfg(test)]
mod tests;
