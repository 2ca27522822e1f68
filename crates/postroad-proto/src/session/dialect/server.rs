//! The server's end: requests in, routes found, answers in their turn.

use bytes::Bytes;

use super::{DialectSession, Pending};
use crate::Time;
use crate::code::Code;
use crate::dialect::{
    Correlation, Dialect, DialectFrame, ERROR_BYTES, Envelope, FrameKind, Opened, ReplyFrame,
    Target,
};
use crate::error_body::ErrorBody;
use crate::session::{CallId, CloseReason, Mapping, Reply, Request, RouteRef, Sink, no_room};
use crate::wire_error::{WireError, WireFault};

impl DialectSession {
    /// Answers a heartbeat; where answers are known by their turn, it waits for its own.
    pub(super) fn receive_ping(&mut self, ping: DialectFrame) {
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

    pub(super) fn receive_request(
        &mut self,
        frame: DialectFrame,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
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
        let codec = self.codec_of_payload();
        sink.request(|request| {
            *request = Request {
                id: is_call.then_some(id),
                route,
                priority: frame.priority,
                codec,
                payload,
                ..Request::default()
            };
        });
        Ok(())
    }

    /// A JSON envelope holds JSON; the others and plain dialects hold bytes.
    pub(super) fn codec_of_payload(&self) -> u8 {
        match self.mapping.envelope {
            Some(Envelope::Json) => 1,
            _ => 0,
        }
    }

    /// Finds the route: in the envelope, in the code table, or the listener's fixed one.
    pub(super) fn open(&self, frame: &DialectFrame) -> Result<(RouteRef, Opened), ErrorBody> {
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
    pub(super) fn is_unknown(&self, code: u8) -> bool {
        let Mapping { codes, fixed, .. } = &*self.mapping;
        !codes.is_empty() && fixed.is_none() && !codes.contains_key(&code)
    }

    /// Keeps an answer until its turn, or sends it.
    pub(super) fn answer(&mut self, id: CallId, answer: Result<Reply, ErrorBody>) -> bool {
        let Some(at) = self.pending.iter().position(|pending| pending.id == id) else {
            return false;
        };
        let pending = &self.pending[at];
        if pending.answer.is_some() {
            return false;
        }
        let queued = self.out.len() + self.held;
        let max = self.config.limits.outbox_max;
        let answer = answer.and_then(|reply| no_room(&reply, queued, max).map_or(Ok(reply), Err));
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

    pub(in crate::session) fn turn_away(&mut self, now: Time) {
        let body = ErrorBody::new(Code::OVERLOADED, "too many connections");
        self.put(&DialectFrame::new(FrameKind::Error, error_text(&body)));
        self.close(now, CloseReason::TurnedAway);
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

/// `CODE message`, on one line.
pub(super) fn error_text(error: &ErrorBody) -> Bytes {
    let mut text = error.to_string();
    text.retain(|c| c != '\r');
    let text = text.replace('\n', " ");
    Bytes::copy_from_slice(crate::text::cut_at_char(&text, ERROR_BYTES).as_bytes())
}
