//! The server's end: it takes requests, finds their routes, and sends each answer in its turn.

use bytes::{Bytes, BytesMut};

use super::{DialectSession, Pending};
use crate::Time;
use crate::code::Code;
use crate::dialect::metadata::{self, Said};
use crate::dialect::routes::Mapped;
use crate::dialect::{Correlation, Dialect, DialectFrame, ERROR_BYTES, FrameKind, ReplyFrame};
use crate::error_body::ErrorBody;
use crate::session::{
    CallId, CancelReason, CloseReason, DropReason, Event, Extras, RefusalReason, Reply, Request,
    RouteRef, Shortage, Sink, no_room,
};
use crate::wire_error::{WireError, WireFault};

/// A request out of its envelope.
struct OpenedRequest {
    route: RouteRef,
    said: Said,
    payload: Bytes,
    reply: ReplyFrame,
}

/// Why a request is not handed out, for this end and for the client.
type Refusal = (RefusalReason, ErrorBody);

fn bad_request(text: String) -> Refusal {
    (
        RefusalReason::BadRequest,
        ErrorBody::new(Code::BAD_REQUEST, text),
    )
}

/// What a request carries besides its payload, if anything.
fn extras_of(said: Said) -> Option<Box<Extras>> {
    let Said { trace, parts, .. } = said;
    let has_any = trace.is_some() || !parts.is_empty();
    has_any.then(|| Box::new(Extras { trace, parts }))
}

impl DialectSession {
    /// Answers a heartbeat. In a dialect without ids, the answer has to wait for its turn behind
    /// the answers of earlier requests.
    pub(super) fn receive_ping(&mut self, ping: DialectFrame) {
        // A server that sends heartbeats and does not read the answers gets no more of them,
        // because a client never stops reading and its output would grow without a bound.
        if self.may_call() && self.out.len() > self.config.limits.outbox_pause {
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
        let pong = detached(pong);
        self.held += pong.payload.len();
        let reply = ReplyFrame::Bare;
        let pending = Pending {
            wire_id: 0,
            code: 0,
            priority: 0,
            deadline: Time::NEVER,
            reply,
            answer: Some(pong),
        };
        self.add_pending(id, pending);
    }

    /// Takes a request, and hands it to the sink unless it is refused here.
    ///
    /// # Errors
    /// If the client uses an id that is in flight.
    pub(super) fn receive_request(
        &mut self,
        now: Time,
        frame: DialectFrame,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        let is_call = frame.kind == FrameKind::Request;
        let has_own_id = is_call && self.codec.dialect == Dialect::Session;
        if has_own_id && !self.wire_ids.insert(frame.id) {
            let detail = format!("session id {} is in flight already", frame.id);
            return Err(WireError::new(WireFault::Id, 1, detail).with_id(frame.id));
        }
        let id = CallId(self.next);
        self.next = self.next.wrapping_add(1);
        let opened = self.open(&frame);
        let reply = opened.as_ref().map_or(ReplyFrame::Bare, |open| open.reply);
        let timeout = opened.as_ref().ok().and_then(|open| open.said.timeout);
        let deadline = timeout.map_or(Time::NEVER, |timeout| now + timeout);
        if is_call {
            let DialectFrame {
                id: wire_id,
                code,
                priority,
                ..
            } = frame;
            let pending = Pending {
                wire_id,
                code,
                priority,
                deadline,
                reply,
                answer: None,
            };
            self.add_pending(id, pending);
        }
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.refuse(id, error);
                return Ok(());
            }
        };
        let codec = self.mapping.payload_codec();
        sink.request(|request| {
            *request = Request {
                id: is_call.then_some(id),
                route: opened.route,
                priority: frame.priority,
                codec,
                deadline,
                extras: extras_of(opened.said),
                payload: opened.payload,
                ..Request::default()
            };
        });
        Ok(())
    }

    /// Answers a request that is not handed to the sink, or drops it if it is a one-way message.
    fn refuse(&mut self, id: CallId, (reason, error): Refusal) {
        let is_call = self.answer(id, Err(error));
        self.events.push_back(match is_call {
            true => Event::Refused(reason),
            false => Event::Dropped(DropReason::Refused),
        });
    }

    /// Takes a request out of its envelope and finds its route.
    ///
    /// # Errors
    /// What the client is told if the envelope is wrong or the request has no route.
    fn open(&self, frame: &DialectFrame) -> Result<OpenedRequest, Refusal> {
        let (dialect, mapping) = (self.codec.dialect, &self.mapping);
        let opened = mapping
            .unwrap_request(dialect, frame.code, frame.payload.clone())
            .map_err(|error| bad_request(error.to_string()))?;
        let route = match mapping.route_of(dialect, &opened.target) {
            Mapped::Name(name) => RouteRef::Name(name),
            Mapped::Code(code) => RouteRef::Code(code),
            Mapped::Unsaid => RouteRef::Unsaid,
            Mapped::Nothing(text) => {
                let error = ErrorBody::new(Code::NOT_FOUND, text);
                return Err((RefusalReason::NoRoute, error));
            }
        };
        let said = metadata::read(opened.metadata).map_err(bad_request)?;
        Ok(OpenedRequest {
            route,
            said,
            payload: opened.payload,
            reply: opened.reply,
        })
    }

    /// Answers the requests whose time is up, and has their handlers stopped. The client has given
    /// them up at the same moment, but their turns or ids are taken until they are answered.
    pub(super) fn expire_requests(&mut self, now: Time) {
        while let Some((deadline, id)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let id = CallId(id);
            let late = ErrorBody::new(Code::DEADLINE, "its time was up before it was answered");
            self.answer(id, Err(late));
            let cancelled = Event::Cancelled(id, CancelReason::Deadline);
            self.events.push_back(cancelled);
        }
        self.finish_drain(now);
    }

    /// Sends an answer, or keeps it until its turn. Returns false if the request is not in flight
    /// or was answered before.
    pub(super) fn answer(&mut self, id: CallId, answer: Result<Reply, ErrorBody>) -> bool {
        let queued = self.out.len() + self.held;
        let max = self.config.limits.outbox_max;
        let Some(pending) = self.pending.get_mut(&id.0) else {
            return false;
        };
        if pending.answer.is_some() {
            return false;
        }
        self.deadlines.remove(&(pending.deadline, id.0));
        let answer = answer.and_then(|reply| match no_room(&reply, queued, max) {
            None => Ok(reply),
            Some(error) => {
                let refused = Event::Refused(RefusalReason::NoRoomForAnswer);
                self.events.push_back(refused);
                Err(error)
            }
        });
        let (kind, payload) = match answer {
            Ok(reply) => (FrameKind::Response, pending.reply.wrap(reply.payload)),
            Err(error) => (FrameKind::Error, error_text(&error)),
        };
        let frame = DialectFrame {
            kind,
            code: pending.code,
            id: pending.wire_id,
            priority: pending.priority,
            payload,
        };
        if self.codec.dialect.correlation() == Correlation::Id {
            self.pending.remove(&id.0);
            self.wire_ids.remove(&frame.id);
            self.put(&frame);
            return true;
        }
        self.held += frame.payload.len();
        let is_next = self.order.front() == Some(&id.0);
        pending.answer = Some(if is_next { frame } else { detached(frame) });
        self.put_answers_in_turn();
        true
    }

    /// Sends the answers whose turn has come: all those before the first request that has no answer
    /// yet.
    fn put_answers_in_turn(&mut self) {
        while let Some(first) = self.order.front()
            && let Some(pending) = self.pending.get_mut(first)
            && let Some(frame) = pending.answer.take()
        {
            self.held -= frame.payload.len();
            if let Some(first) = self.order.pop_front() {
                self.pending.remove(&first);
            }
            self.put(&frame);
        }
    }

    /// Remembers a request that is to be answered, or a heartbeat whose answer waits for its turn.
    fn add_pending(&mut self, id: CallId, pending: Pending) {
        if self.codec.dialect.correlation() == Correlation::Fifo {
            self.order.push_back(id.0);
        }
        if pending.deadline != Time::NEVER {
            self.deadlines.insert((pending.deadline, id.0));
        }
        self.pending.insert(id.0, pending);
    }

    pub(in crate::session) fn turn_away(&mut self, now: Time, shortage: Shortage) {
        self.say_shortage(shortage);
        self.close(now, CloseReason::TurnedAway(shortage));
    }

    pub(in crate::session) fn make_room(&mut self, now: Time, held: usize) {
        if self.closed {
            return;
        }
        self.out = BytesMut::new();
        self.say_shortage(Shortage::Memory);
        self.close(now, CloseReason::Memory(held));
    }

    fn say_shortage(&mut self, shortage: Shortage) {
        let body = ErrorBody::new(Code::OVERLOADED, shortage.text());
        self.put(&DialectFrame::new(FrameKind::Error, error_text(&body)));
    }

    pub(in crate::session) fn respond(
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
}

/// A frame that has to wait for its turn, with a payload of its own: a slice would keep the whole
/// read buffer that it was cut from.
fn detached(frame: DialectFrame) -> DialectFrame {
    let payload = Bytes::copy_from_slice(&frame.payload);
    DialectFrame { payload, ..frame }
}

/// An error as `CODE message`, on one line, since one of the dialects consists of lines.
pub(super) fn error_text(error: &ErrorBody) -> Bytes {
    let mut text = error.to_string();
    text.retain(|c| c != '\r');
    let text = text.replace('\n', " ");
    Bytes::copy_from_slice(crate::text::cut_at_char(&text, ERROR_BYTES).as_bytes())
}
