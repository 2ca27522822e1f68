//! The session of a dialect: frames of one codec, answers matched by id or by turn.
//! `docs/dialects.md`.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::heartbeat::{Beat, Heartbeat};
use super::outbox::Place;
use super::slots::{CallerSlots, Outgoing};
use super::{
    Call, CallId, CancelReason, CloseReason, Config, DialectConfig, Event, Failure, Mapping, Reply,
    Request, RouteRef, Stalls, earliest,
};
use crate::Time;
use crate::dialect::{
    Codec, Correlation, Dialect, DialectFrame, ERROR_BYTES, Envelope, FrameKind, Opened, Packet,
    Reader, ReplyFrame, Target,
};
use crate::error::{Cause, Code, ErrorBody, Retry, WireError, WireFault};
use crate::limits::EVENTS_MAX;

/// A request that is being served, and what its answer has to repeat.
#[derive(Debug)]
struct Pending {
    id: CallId,
    wire_id: u32,
    code: u8,
    priority: u8,
    reply: ReplyFrame,
    /// In its turn: the answer that waits for those before it.
    answer: Option<DialectFrame>,
}

/// One end of a dialect's connection.
#[derive(Debug)]
pub struct DialectSession {
    config: Config,
    codec: Codec,
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
    /// Client, `priority`: ids of calls that were given up and may still be answered.
    given_up: HashSet<u32>,
    heartbeat: Heartbeat,
    ping_sent: Option<Time>,
    /// Server: requests in flight, in the order in which they came. Answers of FIFO dialects leave
    /// in this order.
    pending: VecDeque<Pending>,
    /// Server: the next request's id.
    next: u32,
    held: usize,
    /// A fault that was found behind requests that were not handed out yet; the next wakeup, which is now, ends it.
    failing: Option<WireError>,
}

impl DialectSession {
    pub(super) fn client(config: Config, dialect: DialectConfig, now: Time) -> Self {
        let mut session = Self::new(config, dialect, Reader::Client, now);
        let max = session
            .config
            .limits
            .max_calls
            .min(id_slots(session.codec.dialect));
        session.caller.set_max(max);
        session
    }

    pub(super) fn server(config: Config, dialect: DialectConfig, now: Time) -> Self {
        Self::new(config, dialect, Reader::Server, now)
    }

    fn new(config: Config, dialect: DialectConfig, reader: Reader, now: Time) -> Self {
        let DialectConfig { mut codec, mapping } = dialect;
        codec.reader = reader;
        let protocol = codec.dialect.name();
        let opened = Event::Opened {
            protocol,
            version: 1,
            agent: String::new(),
        };
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
            heartbeat: Heartbeat::new(now, config.heartbeat),
            ping_sent: None,
            pending: VecDeque::new(),
            next: 0,
            held: 0,
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

    pub(super) fn handle_bytes(&mut self, now: Time, buf: &mut BytesMut) {
        let mut made_progress = false;
        while self.wants_read() && !self.closed {
            let before = buf.len();
            let step = self.codec.decode(buf).and_then(|frame| {
                let Some(frame) = frame else { return Ok(false) };
                self.heartbeat.received(now);
                self.receive(now, frame).map(|()| true)
            });
            match step {
                Ok(true) => {
                    made_progress = true;
                    self.offset += (before - buf.len()) as u64;
                }
                Ok(false) => break,
                Err(error) => {
                    buf.clear();
                    // What came before it in the same piece is served first, as if it had come alone.
                    if self.pending.is_empty() {
                        self.fault(now, error);
                    } else {
                        self.failing = Some(error);
                    }
                    return;
                }
            }
        }
        if self.closed {
            buf.clear();
        }
        let is_partial = !buf.is_empty() && self.wants_read();
        self.stalls.handle_rest(now, is_partial, made_progress);
    }

    fn receive(&mut self, now: Time, frame: DialectFrame) -> Result<(), WireError> {
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
            (FrameKind::Request | FrameKind::OneWay, Reader::Server) => self.receive_request(frame),
            (FrameKind::Response | FrameKind::Error, Reader::Client) => {
                self.receive_answer(now, frame);
                Ok(())
            }
            // An answer to nobody's question: counted like a late one, and harmless.
            _ => {
                self.caller.late += 1;
                Ok(())
            }
        }
    }

    /// Answers a heartbeat; where answers are known by their turn, it waits for its own.
    fn receive_ping(&mut self, ping: DialectFrame) {
        // A server that asks and does not read gets no more answers.
        if self.is_client() && self.out.len() > self.config.limits.outbox_pause {
            return;
        }
        let pong = DialectFrame {
            kind: FrameKind::Pong,
            ..ping
        };
        if self.codec.dialect.correlation() == Correlation::Id || self.pending.is_empty() {
            return self.put(&pong);
        }
        let id = CallId(self.next);
        self.next = self.next.wrapping_add(1);
        self.held += pong.payload.len();
        let reply = ReplyFrame::Bare;
        self.pending.push_back(Pending {
            id,
            wire_id: 0,
            code: 0,
            priority: 0,
            reply,
            answer: Some(pong),
        });
    }

    fn receive_request(&mut self, frame: DialectFrame) -> Result<(), WireError> {
        let is_call = frame.kind == FrameKind::Request;
        let in_flight = |pending: &Pending| pending.wire_id == frame.id;
        if self.codec.dialect == Dialect::Session && self.pending.iter().any(in_flight) {
            let detail = format!("session id {} is in flight already", frame.id);
            return Err(WireError::new(WireFault::Id, 1, detail).with_id(frame.id));
        }
        let id = CallId(self.next);
        self.next = self.next.wrapping_add(1);
        let (route, payload, reply, refusal) = match self.open(&frame) {
            Ok((route, opened)) => (route, opened.payload, opened.reply, None),
            Err(error) => (
                RouteRef::Unsaid,
                Bytes::new(),
                ReplyFrame::Bare,
                Some(error),
            ),
        };
        if is_call {
            let DialectFrame {
                id: wire_id,
                code,
                priority,
                ..
            } = frame;
            self.pending.push_back(Pending {
                id,
                wire_id,
                code,
                priority,
                reply,
                answer: None,
            });
        }
        if let Some(error) = refusal {
            self.answer(id, Err(error));
            return Ok(());
        }
        self.events.push_back(Event::Request(Request {
            id: is_call.then_some(id),
            route,
            priority: frame.priority,
            qos: 0,
            codec: self.codec_of_payload(),
            attempt: 0,
            deadline: Time::NEVER,
            trace: None,
            parts: Bytes::new(),
            payload,
        }));
        Ok(())
    }

    /// A JSON envelope holds JSON; the others and plain dialects hold bytes.
    fn codec_of_payload(&self) -> u8 {
        match self.mapping.envelope {
            Some(Envelope::Json) => 1,
            _ => 0,
        }
    }

    /// Finds the route: in the envelope, in the code table, or the listener's fixed one.
    fn open(&self, frame: &DialectFrame) -> Result<(RouteRef, Opened), ErrorBody> {
        let payload = frame.payload.clone();
        let has_codes = matches!(self.codec.dialect, Dialect::Session | Dialect::Opcode);
        let opened = match self.mapping.envelope {
            Some(envelope) => envelope
                .open(payload)
                .map_err(|error| ErrorBody::new(Code::BAD_REQUEST, error.to_string()))?,
            None => {
                let target = if has_codes {
                    Target::Code(frame.code)
                } else {
                    Target::Unsaid
                };
                Opened {
                    target,
                    payload,
                    reply: ReplyFrame::Bare,
                }
            }
        };
        let fixed = || self.mapping.fixed.clone().map(RouteRef::Name);
        let route = match &opened.target {
            Target::Name(name) => RouteRef::Name(name.as_str().into()),
            Target::Code(code) if self.is_unknown(*code) => {
                let kind = if self.codec.dialect == Dialect::Opcode {
                    "opcode"
                } else {
                    "command"
                };
                let text = format!("no route for {kind} 0x{code:02x}");
                return Err(ErrorBody::new(Code::NOT_FOUND, text));
            }
            Target::Code(code) => {
                let named = self.mapping.codes.get(code).cloned().map(RouteRef::Name);
                named.or_else(fixed).unwrap_or(RouteRef::Code(*code))
            }
            Target::Unsaid => fixed().unwrap_or(RouteRef::Unsaid),
        };
        Ok((route, opened))
    }

    /// A listener with a table and no fixed route knows exactly the codes of its table.
    fn is_unknown(&self, code: u8) -> bool {
        let Mapping { codes, fixed, .. } = &*self.mapping;
        !codes.is_empty() && fixed.is_none() && !codes.contains_key(&code)
    }

    /// Keeps an answer until its turn, or sends it.
    fn answer(&mut self, id: CallId, answer: Result<Reply, ErrorBody>) -> bool {
        let Some(at) = self.pending.iter().position(|pending| pending.id == id) else {
            return false;
        };
        let pending = &self.pending[at];
        if pending.answer.is_some() {
            return false;
        }
        let queued = self.out.len() + self.held;
        let answer = super::bounded(answer, queued, self.config.limits.outbox_max);
        let (kind, payload) = match answer {
            Ok(reply) => (FrameKind::Response, pending.reply.wrap(reply.payload)),
            Err(error) => (FrameKind::Error, error_text(&error)),
        };
        let Pending {
            wire_id: id,
            code,
            priority,
            ..
        } = *pending;
        let frame = DialectFrame {
            kind,
            code,
            id,
            priority,
            payload,
        };
        if self.codec.dialect.correlation() == Correlation::Id {
            self.pending.remove(at);
            self.put(&frame);
            return true;
        }
        self.held += frame.payload.len();
        self.pending[at].answer = Some(frame);
        while let Some(frame) = self
            .pending
            .front_mut()
            .and_then(|first| first.answer.take())
        {
            self.held -= frame.payload.len();
            self.pending.pop_front();
            self.put(&frame);
        }
        true
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

    fn receive_answer(&mut self, now: Time, frame: DialectFrame) {
        let id = match self.codec.dialect.correlation() {
            Correlation::Fifo => self.turns.pop_front(),
            Correlation::Id => self.answered(frame.id),
        };
        let Some(id) = id else {
            self.caller.late += 1;
            return;
        };
        let result = if frame.kind == FrameKind::Error {
            Err(Failure::Remote(Box::new(parse_error(&frame.payload))))
        } else {
            let payload = self.unwrap_reply(frame.payload);
            Ok(Reply {
                codec: self.codec_of_payload(),
                payload,
            })
        };
        if self.caller.finish(id).is_some() {
            self.events.push_back(Event::Finished(id, result));
        }
        self.finish_drain(now);
    }

    /// The call that an id on the wire stands for.
    fn answered(&mut self, wire_id: u32) -> Option<CallId> {
        if self.codec.dialect != Dialect::Priority {
            return wire_id.checked_sub(1).map(CallId);
        }
        if self.given_up.remove(&wire_id) {
            return None;
        }
        let index = (wire_id & PRIORITY_SLOTS as u32).checked_sub(1)?;
        let id = self.caller.live_at(index as u16)?;
        (self.wire_id(id) == wire_id).then_some(id)
    }

    /// The id of the next call. Sixteen bits come round soon: an id whose answer may still come is not used.
    fn next_id(&mut self) -> Option<CallId> {
        for _ in 0..PRIORITY_SLOTS {
            let id = self.caller.peek()?;
            if !self.given_up.contains(&self.wire_id(id)) {
                return Some(id);
            }
            self.caller.skip();
        }
        None
    }

    /// A call ends before its answer: its id, or its turn, stays taken until that has come.
    fn give_up(&mut self, id: CallId) {
        if self.codec.dialect == Dialect::Priority {
            self.given_up.insert(self.wire_id(id));
        }
        self.caller.finish(id);
    }

    /// Only `packet` frames its answers too; a peer that does not is taken as it is.
    fn unwrap_reply(&self, payload: Bytes) -> Bytes {
        match self.mapping.envelope {
            Some(Envelope::Packet) => {
                Packet::decode(payload.clone()).map_or(payload, |packet| packet.payload)
            }
            _ => payload,
        }
    }

    /// The id on the wire: slot and generation, as many bits of them as the dialect has, and never 0, which stands for
    /// no id in errors.
    fn wire_id(&self, id: CallId) -> u32 {
        match self.codec.dialect {
            Dialect::Priority => {
                let slot = (u32::from(id.index()) + 1) & PRIORITY_SLOTS as u32;
                slot | (u32::from(id.generation()) & 0x3F) << 10
            }
            Dialect::Session | Dialect::Sequence => id.0 + 1,
            _ => 0,
        }
    }

    pub(super) fn call(&mut self, now: Time, call: &Call<'_>) -> Result<CallId, Failure> {
        self.check_sendable(now, call)?;
        let Some(id) = self.next_id() else {
            return Err(Failure::TooManyCalls(self.caller.in_flight()));
        };
        // Calls that were given up keep their turns; they count until their answers have come.
        if self.turns.len() >= self.config.limits.max_calls {
            return Err(Failure::TooManyCalls(self.turns.len()));
        }
        self.put_request(FrameKind::Request, self.wire_id(id), call)?;
        self.caller.occupy(Outgoing {
            deadline: call.deadline,
            place: Place::default(),
        });
        if self.codec.dialect.correlation() == Correlation::Fifo {
            self.turns.push_back(id);
        }
        Ok(id)
    }

    pub(super) fn send(&mut self, now: Time, call: &Call<'_>) -> Result<(), Failure> {
        if self.codec.dialect == Dialect::Sequence {
            self.check_sendable(now, call)?;
            return self.put_request(FrameKind::OneWay, 0, call);
        }
        // The others answer everything: the answer of a call that is given up at once is dropped.
        let id = self.call(now, call)?;
        self.give_up(id);
        Ok(())
    }

    fn check_sendable(&self, now: Time, call: &Call<'_>) -> Result<(), Failure> {
        if self.closed || self.draining.is_some() || !self.is_client() {
            return Err(Failure::NotOpen);
        }
        if call.deadline <= now {
            return Err(Failure::Deadline { sent: false });
        }
        if self.out.len() + call.payload.len() > self.config.limits.outbox_max {
            return Err(Failure::Full(self.out.len()));
        }
        Ok(())
    }

    fn put_request(&mut self, kind: FrameKind, id: u32, call: &Call<'_>) -> Result<(), Failure> {
        let unsendable = |text: String| Failure::Unsendable(text);
        let code = self.code_of(call.route);
        let payload = match self.mapping.envelope {
            Some(envelope) => envelope
                .wrap(call.route, code, call.payload.clone())
                .map_err(|error| unsendable(error.to_string()))?,
            None => call.payload.clone(),
        };
        let reserved = match self.codec.dialect {
            Dialect::Session => code == 0xFF || code == 0 && payload.is_empty(),
            Dialect::Opcode => code == 0xFF || code == 0,
            _ => false,
        };
        if reserved {
            return Err(unsendable(format!(
                "code 0x{code:02x} is the dialect's own"
            )));
        }
        let frame = DialectFrame {
            kind,
            code,
            id,
            priority: call.priority & 7,
            payload,
        };
        self.codec
            .encode(&frame, &mut self.out)
            .map_err(|error| unsendable(error.to_string()))
    }

    /// The code of a route: the table's, or that of a name such as `command/0x17`, or 1.
    fn code_of(&self, route: &str) -> u8 {
        let named = self
            .mapping
            .codes
            .iter()
            .find(|(_, name)| &***name == route);
        named
            .map(|(code, _)| *code)
            .or_else(|| parse_code(route))
            .unwrap_or(1)
    }

    pub(super) fn cancel(&mut self, id: CallId) {
        if self.caller.is_live(id) {
            self.give_up(id);
        }
    }

    pub(super) fn respond(
        &mut self,
        now: Time,
        id: CallId,
        answer: Result<Reply, ErrorBody>,
    ) -> bool {
        if self.closed || !self.answer(id, answer) {
            return false;
        }
        self.finish_drain(now);
        true
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
        if let Some(error) = self.failing.take() {
            return self.fault(now, error);
        }
        if let Some(reason) = self.stalls.check(now, &self.config) {
            return self.close(now, reason);
        }
        if self.draining.is_some_and(|end| end <= now) {
            return self.close(now, CloseReason::Drained);
        }
        for id in self.caller.expire(now) {
            self.give_up(id);
            let failure = Failure::Deadline { sent: true };
            self.events.push_back(Event::Finished(id, Err(failure)));
        }
        if self.is_client() {
            // An answer that waits for its turn holds the heartbeat back too: its deadline judges.
            let hears = self.has_room() && self.turns.is_empty();
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

    pub(super) fn handle_written(&mut self, now: Time, blocked: bool) {
        self.stalls.handle_written(now, blocked);
    }

    /// Answers with the dialect's error, and closes.
    fn fault(&mut self, now: Time, error: WireError) {
        if !self.is_client() {
            let body = ErrorBody::new(Code::PROTOCOL, error.to_string());
            let (kind, payload) = (FrameKind::Error, error_text(&body));
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
            self.events.push_back(Event::Finished(id, Err(failure)));
        }
        for pending in self
            .pending
            .drain(..)
            .filter(|pending| pending.answer.is_none())
        {
            self.events
                .push_back(Event::Cancelled(pending.id, CancelReason::Lost));
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

    pub(super) fn poll_transmit(&mut self, out: &mut BytesMut) -> bool {
        if self.out.is_empty() {
            return false;
        }
        if out.is_empty() {
            std::mem::swap(out, &mut self.out);
        } else {
            out.extend_from_slice(&self.out);
        }
        self.out.clear();
        true
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        if self.closed {
            return None;
        }
        if self.failing.is_some() {
            return Some(Time(0));
        }
        let heartbeat = self.is_client().then(|| self.heartbeat.due());
        earliest([
            heartbeat,
            self.stalls.due(&self.config),
            self.caller.deadline(),
            self.draining,
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
        // A client that stopped reading for its own requests would wait for a server that waits for it.
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

    pub(super) fn late_answers(&self) -> u64 {
        self.caller.late
    }

    pub(super) fn memory(&self) -> usize {
        let events = self.events.len() * size_of::<Event>();
        let pending = self.pending.len() * size_of::<Pending>();
        size_of::<Self>() + self.out.len() + self.held + events + pending
    }
}

/// Slots of the `priority` dialect's client: ten bits of its ids, of which 0 is none.
const PRIORITY_SLOTS: usize = (1 << 10) - 1;

/// Slots that an id on the wire can tell apart.
fn id_slots(dialect: Dialect) -> usize {
    if dialect == Dialect::Priority {
        PRIORITY_SLOTS
    } else {
        crate::limits::CALLS_MAX
    }
}

/// `CODE message`, on one line.
fn error_text(error: &ErrorBody) -> Bytes {
    let mut text = error.to_string();
    text.retain(|c| c != '\r');
    let text = text.replace('\n', " ");
    Bytes::copy_from_slice(crate::error::cut_at_char(&text, ERROR_BYTES).as_bytes())
}

/// Reads `CODE message`; a peer that says anything else is quoted.
fn parse_error(payload: &Bytes) -> ErrorBody {
    let text = String::from_utf8_lossy(payload);
    let (code, message) = match text.split_once(' ') {
        Some((code, message)) => (Code::parse(code), message),
        None => (Code::parse(&text), ""),
    };
    // A dialect says nothing about trying again. These codes mostly come from calls that were not started, but a
    // handler may use them too.
    let not_started = [Code::OVERLOADED, Code::DRAINING];
    match code {
        Ok(code) => {
            let unclear = not_started.contains(&code);
            let retry = if unclear {
                Retry::IfIdempotent
            } else {
                Retry::Never
            };
            let causes = vec![Cause {
                code,
                message: message.to_owned(),
            }];
            ErrorBody {
                retry,
                retry_after_ms: 0,
                causes,
                trace: None,
            }
        }
        Err(_) => ErrorBody::new(Code::INTERNAL, text.into_owned()),
    }
}

/// The number in `command/0x17`, `opcode/23`.
fn parse_code(route: &str) -> Option<u8> {
    let number = route
        .strip_prefix("command/")
        .or_else(|| route.strip_prefix("opcode/"))?;
    match number.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16).ok(),
        None => number.parse().ok(),
    }
}
