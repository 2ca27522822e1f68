//! The client's end: it sends calls, and finds the call of each answer by id or by turn.

use bytes::Bytes;

use super::DialectSession;
use crate::Time;
use crate::code::{Code, Retry};
use crate::dialect::metadata;
use crate::dialect::{Correlation, Dialect, DialectFrame, Envelope, FrameKind, Metadata, Packet};
use crate::error_body::{Cause, ErrorBody};
use crate::session::outbox::{Position, cannot_queue};
use crate::session::slots::Outgoing;
use crate::session::{Call, CallId, Failure, Reply, Sink};

/// Calls that a client of the `priority` dialect can have in flight. Ten bits of an id on the wire
/// number the slot, and 0 means no slot.
pub(super) const PRIORITY_SLOTS: usize = (1 << 10) - 1;

/// Calls that were given up and whose answers may still come, at most. Another end that leaves so
/// many unanswered has lost them, and the connection is replaced by one whose ids are all new.
const GIVEN_UP_MAX: usize = 1 << 16;

/// How many slots the ids of a dialect can tell apart.
pub(super) fn id_slots(dialect: Dialect) -> usize {
    if dialect == Dialect::Priority {
        PRIORITY_SLOTS
    } else {
        crate::limits::CALLS_MAX
    }
}

impl DialectSession {
    /// Ends the call that an answer or an error is for.
    pub(super) fn receive_answer(&mut self, now: Time, frame: DialectFrame, sink: &mut impl Sink) {
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
                codec: self.mapping.payload_codec(),
                payload,
            })
        };
        if self.caller.finish(id).is_some() {
            match result {
                Ok(reply) => sink.replied(id, reply),
                Err(failure) => sink.failed(id, failure),
            }
        }
        self.finish_drain(now);
    }

    /// The call that an id on the wire stands for, if it is in flight.
    pub(super) fn answered(&mut self, wire_id: u32) -> Option<CallId> {
        // Nearly always there are none, and then nothing is hashed.
        if !self.given_up.is_empty() && self.given_up.remove(&wire_id) {
            return None;
        }
        if self.codec.dialect != Dialect::Priority {
            return wire_id.checked_sub(1).map(CallId);
        }
        let index = (wire_id & PRIORITY_SLOTS as u32).checked_sub(1)?;
        let id = self.caller.live_at(index as u16)?;
        (self.wire_id(id) == wire_id).then_some(id)
    }

    /// The id of the next call. Ids come round: sixteen bits soon, and 32 bits after 32,768 calls,
    /// because the slot that became free last is used first. An id is passed over while an answer
    /// for its former call may still come.
    pub(super) fn next_id(&mut self) -> Option<CallId> {
        for _ in 0..PRIORITY_SLOTS {
            let id = self.caller.peek()?;
            if !self.given_up.contains(&self.wire_id(id)) {
                return Some(id);
            }
            self.caller.skip();
        }
        None
    }

    /// Ends a call before its answer has come. Its id, or its turn, stays taken until then, since
    /// the answer would be taken for that of another call otherwise.
    pub(super) fn give_up(&mut self, now: Time, id: CallId) {
        if self.codec.dialect.correlation() == Correlation::Id {
            self.given_up.insert(self.wire_id(id));
            if self.given_up.len() >= GIVEN_UP_MAX {
                self.draining.get_or_insert(now + self.config.read_stall);
            }
        }
        self.caller.finish(id);
    }

    /// Takes an answer out of its envelope. Only the `packet` envelope wraps answers, and a peer
    /// that sends them bare is understood too.
    pub(super) fn unwrap_reply(&self, payload: Bytes) -> Bytes {
        match self.mapping.envelope {
            Some(Envelope::Packet) => {
                Packet::decode(payload.clone()).map_or(payload, |packet| packet.payload)
            }
            _ => payload,
        }
    }

    /// The id of a call on the wire: its slot and generation, with as many bits as the dialect has
    /// for them. It is never 0, which stands for "no id" in errors.
    pub(super) fn wire_id(&self, id: CallId) -> u32 {
        match self.codec.dialect {
            Dialect::Priority => {
                let slot = (u32::from(id.index()) + 1) & PRIORITY_SLOTS as u32;
                slot | (u32::from(id.generation()) & 0x3F) << 10
            }
            Dialect::Session | Dialect::Sequence => id.0 + 1,
            _ => 0,
        }
    }

    pub(in crate::session) fn call(
        &mut self,
        now: Time,
        call: &Call<'_>,
    ) -> Result<CallId, Failure> {
        self.check_sendable(now, call)?;
        let Some(id) = self.next_id() else {
            return Err(Failure::TooManyCalls(self.caller.in_flight()));
        };
        // Calls that were given up keep their turns, and count as calls until their answers come.
        if self.turns.len() >= self.config.limits.max_calls {
            return Err(Failure::TooManyCalls(self.turns.len()));
        }
        self.put_request(now, FrameKind::Request, self.wire_id(id), call)?;
        self.caller.occupy(Outgoing {
            deadline: call.deadline,
            position: Position::default(),
        });
        if self.codec.dialect.correlation() == Correlation::Fifo {
            self.turns.push_back(id);
        }
        Ok(id)
    }

    pub(in crate::session) fn send(&mut self, now: Time, call: &Call<'_>) -> Result<(), Failure> {
        if self.codec.dialect == Dialect::Sequence {
            self.check_sendable(now, call)?;
            return self.put_request(now, FrameKind::OneWay, 0, call);
        }
        // The other dialects have no one-way messages: every request is answered. So this is a call
        // that is given up at once, and whose answer is dropped.
        let id = self.call(now, call)?;
        self.give_up(now, id);
        Ok(())
    }

    /// Why a call cannot be sent now, if so. Nothing has changed then.
    pub(super) fn check_sendable(&self, now: Time, call: &Call<'_>) -> Result<(), Failure> {
        if self.closed || self.draining.is_some() || !self.may_call() {
            return Err(Failure::NotOpen);
        }
        if call.deadline <= now {
            return Err(Failure::Deadline { sent: false });
        }
        let (len, max) = (call.payload.len(), self.config.limits.outbox_max);
        if self.out.len() + len > max {
            return Err(cannot_queue(self.out.len(), len, max));
        }
        Ok(())
    }

    /// Encodes a request: its route becomes a code and, with an envelope, part of the payload.
    pub(super) fn put_request(
        &mut self,
        now: Time,
        kind: FrameKind,
        id: u32,
        call: &Call<'_>,
    ) -> Result<(), Failure> {
        let unsendable = Failure::Unsendable;
        let dialect = self.codec.dialect;
        let code = self
            .mapping
            .code_of(dialect, call.route)
            .map_err(unsendable)?;
        let payload = match self.mapping.envelope {
            Some(envelope) => {
                let metadata = metadata_of(envelope, now, call).map_err(unsendable)?;
                envelope
                    .wrap(call.route, code, metadata, call.payload.clone())
                    .map_err(|error| unsendable(error.to_string()))?
            }
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
        self.release_memory_later(now);
        self.codec
            .encode(&frame, &mut self.out)
            .map_err(|error| unsendable(error.to_string()))
    }

    pub(in crate::session) fn cancel(&mut self, now: Time, id: CallId) {
        if self.caller.is_live(id) {
            self.give_up(now, id);
            self.finish_drain(now);
        }
    }
}

/// What the envelope of a call says about it.
///
/// The design of `protobuf` has this map, so its peers expect it. In `json` it is ours, and a peer
/// may refuse keys that it does not know: there a call says its time only if it has to say more.
fn metadata_of(envelope: Envelope, now: Time, call: &Call<'_>) -> Result<Metadata, String> {
    let has_more = call.trace.is_some() || !call.metadata.is_empty();
    if !envelope.has_metadata() || (envelope == Envelope::Json && !has_more) {
        return Ok(Metadata::new());
    }
    let left = (call.deadline != Time::NEVER).then(|| call.deadline.since(now));
    metadata::write(call.metadata, call.trace, left)
}

/// Reads an error of the form `CODE message`. Any other text becomes the message of an internal
/// error.
fn parse_error(payload: &Bytes) -> ErrorBody {
    let text = String::from_utf8_lossy(payload);
    let (code, message) = match text.split_once(' ') {
        Some((code, message)) => (Code::parse(code), message),
        None => (Code::parse(&text), ""),
    };
    // A dialect does not say whether a call may be tried again. These two codes mostly mean that
    // the call was not started, but a handler may use them too, so only idempotent calls are safe.
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
