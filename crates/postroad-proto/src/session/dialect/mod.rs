//! The session of a dialect: frames of one codec, answers matched by id or by turn.
//! `docs/dialects.md`.

mod client;
mod server;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::heartbeat::{Beat, Heartbeat};
use super::slots::CallerSlots;
use super::{
    CallId, CancelReason, CloseReason, Config, DialectConfig, Event, Failure, Mapping, PeerHello,
    Sink, Stalls, earliest,
};
use crate::Time;
use crate::code::Code;
use crate::dialect::{
    Correlation, Dialect, DialectCodec, DialectFrame, FrameKind, Reader, ReplyFrame,
};
use crate::error_body::ErrorBody;
use crate::limits::EVENTS_MAX;
use crate::wire_error::{WireError, WireFault};

/// A request that is being served, and what its answer has to repeat.
#[derive(Debug)]
struct Pending {
    wire_id: u32,
    code: u8,
    priority: u8,
    reply: ReplyFrame,
    /// In its turn: the answer that waits for those before it.
    answer: Option<DialectFrame>,
}

/// One end of a dialect's connection.
#[derive(Debug)]
pub(super) struct DialectSession {
    config: Arc<Config>,
    codec: DialectCodec,
    mapping: Arc<Mapping>,
    closed: bool,
    /// No new requests are read; closes when those in flight have ended.
    draining: Option<Time>,
    out: BytesMut,
    events: VecDeque<Event>,
    stalls: Stalls,
    offset: u64,
    /// Client: guards and deadlines of calls.
    caller: CallerSlots,
    /// Client, FIFO dialects: whose answer comes next. A call that was given up keeps its turn.
    turns: VecDeque<CallId>,
    /// Client, dialects with ids: ids on the wire of calls that were given up and may still be
    /// answered. None is used again before its answer has come, or that would reach another call.
    given_up: HashSet<u32>,
    /// Client: a deadline has passed since the other end said anything. An answer that waits for
    /// its turn is no excuse for silence any more.
    is_overdue: bool,
    heartbeat: Heartbeat,
    ping_sent: Option<Time>,
    /// Server: requests in flight by their ids, so that answering them in any order costs no
    /// search.
    pending: BTreeMap<u32, Pending>,
    /// Server, FIFO dialects: ids in the order in which requests came and answers have to leave.
    order: VecDeque<u32>,
    /// Server, `session`: the ids on the wire that are in flight.
    wire_ids: BTreeSet<u32>,
    /// Server: the next request's id.
    next: u32,
    held: usize,
    /// When memory that frames have made grow is given back, if no call is in flight then.
    release_at: Time,
    /// A fault that was found behind requests that were not handed out yet, and when: the next
    /// wakeup, which is due at once, ends the connection.
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
        Self::new(config, dialect, Reader::Server, now)
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
            stalls: Stalls::default(),
            offset: 0,
            caller: CallerSlots::new(0),
            turns: VecDeque::new(),
            given_up: HashSet::new(),
            is_overdue: false,
            heartbeat: Heartbeat::new(now, config.heartbeat),
            ping_sent: None,
            pending: BTreeMap::new(),
            order: VecDeque::new(),
            wire_ids: BTreeSet::new(),
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

    fn is_client(&self) -> bool {
        self.codec.reader == Reader::Client
    }

    pub(super) fn handle_bytes(&mut self, now: Time, buf: &mut BytesMut, sink: &mut impl Sink) {
        let mut made_progress = false;
        while self.wants_read() && !self.closed && sink.room() > 0 {
            let before = buf.len();
            let step = self.codec.decode(buf).and_then(|frame| {
                let Some(frame) = frame else { return Ok(false) };
                self.heartbeat.received(now);
                self.is_overdue = false;
                self.receive(now, frame, sink).map(|()| true)
            });
            match step {
                Ok(true) => {
                    made_progress = true;
                    self.offset += (before - buf.len()) as u64;
                }
                Ok(false) => break,
                Err(error) => {
                    buf.clear();
                    // What came before it in the same piece is served first, as if it had come
                    // alone.
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
        self.stalls.handle_rest(now, is_partial, made_progress);
    }

    fn receive(
        &mut self,
        now: Time,
        frame: DialectFrame,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        match (frame.kind, self.codec.reader) {
            (FrameKind::Ping, _) => {
                self.receive_ping(frame);
                Ok(())
            }
            (FrameKind::Pong, _) => {
                if let Some(sent) = self.ping_sent.take() {
                    self.heartbeat.measured(now.since(sent));
                    if let Some(round_trip) = self.heartbeat.round_trip() {
                        self.events.push_back(Event::RoundTrip(round_trip));
                    }
                }
                Ok(())
            }
            (FrameKind::Request | FrameKind::OneWay, Reader::Server) => {
                self.receive_request(frame, sink)
            }
            (FrameKind::Response | FrameKind::Error, Reader::Client) => {
                self.receive_answer(now, frame, sink);
                Ok(())
            }
            // An answer to nobody's question: counted like a late one, and harmless.
            _ => {
                self.caller.late += 1;
                Ok(())
            }
        }
    }

    /// Encodes a frame; an answer that the dialect cannot say becomes an error that it can.
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
            let detail = format!("the stream ended {} bytes into a frame", buf.len());
            let error = WireError::new(WireFault::Truncated, buf.len(), detail);
            return self.fault(now, error.with_id(self.codec.peek_id(buf)));
        }
        if self.is_client() || self.pending.is_empty() {
            return self.close(now, CloseReason::Peer);
        }
        // Half-closed: the peer has asked everything it wants and still reads its answers.
        self.draining.get_or_insert(now + self.config.read_stall);
    }

    pub(super) fn handle_timeout(&mut self, now: Time) {
        if self.closed {
            return;
        }
        if let Some((_, error)) = self.failing.take() {
            return self.fault(now, error);
        }
        if let Some(reason) = self.stalls.check(now, &self.config) {
            return self.close(now, reason);
        }
        if self.draining.is_some_and(|end| end <= now) {
            return self.close(now, CloseReason::Drained);
        }
        self.expire(now);
        if self.closed {
            return;
        }
        if self.release_at <= now {
            self.release_memory(now);
        }
        if self.is_client() && self.config.has_heartbeat {
            let hears = self.has_room() && !self.may_be_held_up();
            match self.heartbeat.handle_timeout(now, hears) {
                Beat::Nothing => {}
                Beat::Ping => {
                    self.ping_sent.get_or_insert(now);
                    self.put(&DialectFrame::new(FrameKind::Ping, Bytes::new()));
                }
                Beat::Dead => {
                    let silence = self.heartbeat.silence(now);
                    self.close(now, CloseReason::HeartbeatTimeout(silence));
                }
            }
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

    pub(super) fn expire(&mut self, now: Time) {
        for id in self.caller.expire(now) {
            self.is_overdue = true;
            self.give_up(now, id);
            let failure = Failure::Deadline { sent: true };
            self.events.push_back(Event::Failed(id, failure));
        }
        // The last call may have been what a drain waited for.
        self.finish_drain(now);
    }

    /// Frames make memory grow, and that is to be given back.
    fn release_memory_later(&mut self, now: Time) {
        self.release_at = self.release_at.min(now + self.config.heartbeat);
    }

    /// Gives back what frames have made grow. Once in a heartbeat's interval, so that whoever is
    /// busy hardly ever has to take it again.
    fn release_memory(&mut self, now: Time) {
        let is_busy = self.caller.in_flight() > 0 || !self.pending.is_empty();
        if is_busy || self.has_output() {
            self.release_at = now + self.config.heartbeat;
            return;
        }
        self.release_at = Time::NEVER;
        self.out = BytesMut::new();
        // An empty tree would keep a node.
        self.pending = BTreeMap::new();
        self.wire_ids = BTreeSet::new();
        self.order = VecDeque::new();
        self.turns.shrink_to_fit();
        self.given_up.shrink_to_fit();
        self.events.shrink_to_fit();
    }

    pub(super) fn handle_written(&mut self, now: Time, blocked: bool) {
        self.stalls.handle_written(now, blocked);
    }

    /// Answers with the dialect's error, and closes.
    fn fault(&mut self, now: Time, error: WireError) {
        if !self.is_client() {
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

    fn finish_drain(&mut self, now: Time) {
        if self.draining.is_some() && self.pending.is_empty() && self.caller.in_flight() == 0 {
            self.close(now, CloseReason::Drained);
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        if self.out.is_empty() {
            return false;
        }
        out.extend_from_slice(&self.out);
        self.out.clear();
        true
    }

    pub(super) fn unsent(&self) -> usize {
        self.out.len()
    }

    #[inline]
    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        if self.closed {
            return None;
        }
        if let Some((since, _)) = self.failing {
            return Some(since);
        }
        let beats = self.is_client() && self.config.has_heartbeat;
        let heartbeat = beats.then(|| self.heartbeat.due());
        earliest([
            heartbeat,
            self.stalls.due(&self.config),
            self.caller.deadline(),
            self.draining,
            Some(self.release_at).filter(|at| *at != Time::NEVER),
        ])
    }

    pub(super) fn wants_read(&self) -> bool {
        self.pending.len() < self.config.limits.max_calls
            && self.events.len() < EVENTS_MAX
            && self.failing.is_none()
            && self.has_room()
            && (self.is_client() || self.draining.is_none())
    }

    pub(super) fn has_room(&self) -> bool {
        // A client that stopped reading for its own requests would wait for a server that waits for
        // it.
        self.is_client() || self.out.len() + self.held < self.config.limits.outbox_pause
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
        self.heartbeat.has_heard()
    }

    pub(super) fn late_answers(&self) -> u64 {
        self.caller.late
    }

    pub(super) fn memory(&self) -> usize {
        let events = self.events.len() * size_of::<Event>();
        let pending = self.pending.len() * size_of::<Pending>();
        size_of::<Self>() + self.out.len() + self.held + events + pending
    }
}
