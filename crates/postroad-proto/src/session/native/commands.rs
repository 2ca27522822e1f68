//! What the driver asks a native session to do: to call, to answer, to give a call up.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{CancelReason, Drain, Event, Native, Phase};
use crate::Time;
use crate::code::{Code, Retry};
use crate::error_body::ErrorBody;
use crate::frame::{Head, Kind, MESSAGE_ID, PARTS, PartTag, put_metadata, put_part, put_trace};
use crate::limits::{PARTS_MAX, ROUTE_NAME_MAX, UNFINISHED_MAX};
use crate::session::assembly::Of;
use crate::session::outbox::{Position, cannot_queue};
use crate::session::slots::{Incoming, Outgoing};
use crate::session::{Call, CallId, Failure, RefusalReason, Reply, no_room};

/// Keys that one call may have. The session adds parts of its own, which also count as parts of the
/// frame ([`PARTS_MAX`]).
const CALL_METADATA_MAX: usize = PARTS_MAX - 8;
/// Bytes that the metadata and other parts of one call may take.
const CALL_PARTS_MAX: usize = 7 * 1024;

impl Native {
    #[inline]
    pub(in crate::session) fn call(
        &mut self,
        now: Time,
        call: &Call<'_>,
    ) -> Result<CallId, Failure> {
        self.check_sendable(now, call)?;
        let Some(caller) = &mut self.caller else {
            return Err(Failure::NotOpen);
        };
        let Some(id) = caller.slots.peek() else {
            return Err(Failure::TooManyCalls(caller.slots.in_flight()));
        };
        let position = self.push_call(now, Kind::Request, id.0, call)?;
        if let Some(caller) = &mut self.caller {
            caller.slots.occupy(Outgoing {
                deadline: call.deadline,
                position,
            });
        }
        Ok(id)
    }

    pub(in crate::session) fn send(&mut self, now: Time, call: &Call<'_>) -> Result<(), Failure> {
        self.check_sendable(now, call)?;
        let Some(caller) = &mut self.caller else {
            return Err(Failure::NotOpen);
        };
        let id = caller.next_message | MESSAGE_ID;
        caller.next_message = caller.next_message.wrapping_add(1) & !MESSAGE_ID;
        self.push_call(now, Kind::OneWay, id, call).map(drop)
    }

    /// Why a call or message cannot be sent now, if so. Nothing has changed then.
    #[inline]
    fn check_sendable(&self, now: Time, call: &Call<'_>) -> Result<(), Failure> {
        if self.phase != Phase::Open || self.drain != Drain::No {
            return Err(Failure::NotOpen);
        }
        if call.deadline <= now {
            return Err(Failure::Deadline { sent: false });
        }
        let (len, max) = (call.payload.len(), self.peer.max_message as usize);
        if len > max {
            return Err(too_large(len, max));
        }
        let (queued, max) = (self.outbox.len(), self.config.limits.outbox_max);
        if queued + len > max {
            return Err(cannot_queue(queued, len, max));
        }
        Ok(())
    }

    /// Queues a call or a one-way message; where it is queued.
    #[inline]
    fn push_call(
        &mut self,
        now: Time,
        kind: Kind,
        id: u32,
        call: &Call<'_>,
    ) -> Result<Position, Failure> {
        let route = self.route_number(call.route)?;
        let is_plain = route != 0 && call.trace.is_none() && call.metadata.is_empty();
        let parts = match is_plain {
            true => Vec::new(),
            false => self.parts_of(route, call)?,
        };
        let head = Head::new(kind)
            .with_priority(call.priority)
            .with_codec(call.codec, call.attempt, call.no_retry)
            .with_route(route)
            .with_id(id)
            .with_arg(call.deadline.micros_left(now));
        Ok(self.outbox.push(head, &parts, call.payload))
    }

    /// The parts of a call: what it carries besides its payload. Not inlined, so that it does not
    /// take registers from the calls without parts, which are nearly all.
    #[inline(never)]
    fn parts_of(&self, route: u16, call: &Call<'_>) -> Result<Vec<u8>, Failure> {
        let mut parts = Vec::new();
        if route == 0 {
            put_part(&mut parts, PartTag::RouteName as u8, call.route.as_bytes());
        }
        if let Some(trace) = call.trace {
            put_trace(&mut parts, trace);
        }
        for (key, value) in call.metadata {
            put_metadata(&mut parts, key, value).map_err(Failure::Unsendable)?;
        }
        // Sixteen bytes are left for the length of all parts and for the whole length of a message
        // in fragments, which the outbox adds.
        let room = (self.peer.max_frame as usize).saturating_sub(self.outbox.fragment + 16);
        let room = room.min(CALL_PARTS_MAX);
        if call.metadata.len() > CALL_METADATA_MAX {
            let text = format!(
                "{} metadata, at most {CALL_METADATA_MAX}",
                call.metadata.len()
            );
            return Err(Failure::Unsendable(text));
        }
        if parts.len() > room {
            let text = format!("metadata of {} bytes, at most {room} fit", parts.len());
            return Err(Failure::Unsendable(text));
        }
        Ok(parts)
    }

    /// The number of a route. A new route is defined for the peer if there is room for it;
    /// otherwise the number is 0, and the call carries the route's name (M-020).
    #[inline]
    fn route_number(&mut self, route: &str) -> Result<u16, Failure> {
        let Some(caller) = &mut self.caller else {
            return Err(Failure::NotOpen);
        };
        // Most calls have the same route as the call before, which saves hashing its name.
        if let Some((name, number)) = &caller.last_route
            && **name == *route
        {
            return Ok(*number);
        }
        if let Some((name, number)) = caller.routes.get_key_value(route) {
            caller.last_route = Some((Arc::clone(name), *number));
            return Ok(*number);
        }
        self.define_route(route)
    }

    #[cold]
    fn define_route(&mut self, route: &str) -> Result<u16, Failure> {
        if route.is_empty() || route.len() > ROUTE_NAME_MAX {
            let text = format!(
                "route name of {} bytes, 1 to {ROUTE_NAME_MAX} are allowed",
                route.len()
            );
            return Err(Failure::Unsendable(text));
        }
        let kept = usize::from(self.peer.max_routes).min(self.config.limits.max_routes);
        let Some(caller) = &mut self.caller else {
            return Err(Failure::NotOpen);
        };
        if caller.routes.len() >= kept {
            return Ok(0);
        }
        let number = caller.routes.len() as u16 + 1;
        caller.routes.insert(route.into(), number);
        // Control frames leave before all others, so the peer knows the number before its first
        // use.
        let head = Head::new(Kind::Route).with_id(number.into());
        self.outbox.push_control(head, route.as_bytes());
        Ok(number)
    }

    pub(in crate::session) fn cancel(&mut self, now: Time, id: CallId) {
        if self.is_calling(id)
            && let Some(call) = self.finish_call(id)
        {
            self.take_back(id, call.position, 1);
            self.continue_drain(now);
        }
    }

    pub(super) fn expire_call(&mut self, id: CallId) {
        let Some(call) = self.finish_call(id) else {
            return;
        };
        let sent = self.take_back(id, call.position, 2);
        self.events
            .push_back(Event::Failed(id, Failure::Deadline { sent }));
    }

    /// Takes a call out of the queue, or tells the server that it was given up. That message goes
    /// into the queue of the call's own priority, so that it cannot overtake the call. Returns
    /// whether the call may have been sent.
    fn take_back(&mut self, id: CallId, position: Position, reason: u32) -> bool {
        self.assembly.forget(Of::Response, id.0);
        if self.outbox.withdraw(position, id.0) {
            return false;
        }
        let head = Head::new(Kind::Cancel)
            .with_priority(position.priority())
            .with_id(id.0)
            .with_arg(reason);
        self.outbox.push(head, &[], &Bytes::new());
        true
    }

    /// Ends a call that has its answer: `tell` hands that over, unless the call was over before.
    /// Inlined as [`Self::receive_response`](Native::receive_response) is.
    #[inline(always)]
    pub(super) fn finish(&mut self, now: Time, id: CallId, tell: impl FnOnce(CallId)) {
        if self.end_call(id) {
            tell(id);
            if self.drain != Drain::No {
                self.continue_drain(now);
            }
        }
    }

    pub(super) fn is_calling(&self, id: CallId) -> bool {
        let caller = self.caller.as_ref();
        caller.is_some_and(|caller| caller.slots.is_live(id))
    }

    /// Frees the slot of a call. An id whose call is over counts as a late answer.
    #[inline]
    pub(super) fn finish_call(&mut self, id: CallId) -> Option<Outgoing> {
        self.caller.as_mut()?.slots.finish(id)
    }

    /// Frees the slot of a call, and drops the fragments of its answer. Returns whether the call
    /// was in flight.
    #[inline]
    pub(super) fn end_call(&mut self, id: CallId) -> bool {
        let Some(caller) = &mut self.caller else {
            return false;
        };
        let was_live = caller.slots.finish(id).is_some();
        if was_live {
            self.assembly.forget(Of::Response, id.0);
        }
        was_live
    }

    #[inline]
    pub(super) fn finish_request(&mut self, id: CallId) -> Option<Incoming> {
        self.callee.as_mut()?.slots.finish(id)
    }

    #[inline]
    pub(in crate::session) fn respond(
        &mut self,
        now: Time,
        id: CallId,
        answer: Result<&Reply, &ErrorBody>,
    ) -> bool {
        let Some(callee) = &mut self.callee else {
            return false;
        };
        let Some(call) = callee.slots.finish(id) else {
            return false;
        };
        match answer {
            Ok(reply) => self.send_reply(now, call, reply),
            Err(error) => self.send_error(id.0, call.priority, error),
        }
        if self.drain != Drain::No {
            self.continue_drain(now);
        }
        true
    }

    #[inline]
    fn send_reply(&mut self, now: Time, call: Incoming, reply: &Reply) {
        let (queued, max) = (self.outbox.len(), self.config.limits.outbox_max);
        let (len, len_max) = (reply.payload.len(), self.peer.max_message as usize);
        if queued + len > max || len > len_max {
            return self.refuse_reply(call, reply);
        }
        let head = Head::new(Kind::Response)
            .with_priority(call.priority)
            .with_codec(reply.codec, 0, false)
            .with_id(call.id.0)
            .with_arg(now.micros_since(call.since));
        self.outbox.push(head, &[], &reply.payload);
    }

    #[cold]
    fn refuse_reply(&mut self, call: Incoming, reply: &Reply) {
        let (queued, max) = (self.outbox.len(), self.config.limits.outbox_max);
        let error = no_room(reply, queued, max).unwrap_or_else(|| {
            let (len, max) = (reply.payload.len(), self.peer.max_message);
            let text = format!("answer of {len} bytes, the client accepts {max}");
            ErrorBody::new(Code::TOO_LARGE, text)
        });
        self.send_error(call.id.0, call.priority, &error);
        let refused = Event::Refused(RefusalReason::NoRoomForAnswer);
        self.events.push_back(refused);
    }

    pub(super) fn send_error(&mut self, id: u32, priority: u8, error: &ErrorBody) {
        let mut body = BytesMut::new();
        let mut class = priority;
        if let Some(trace) = &error.trace {
            class |= PARTS;
            let mut parts = BytesMut::new();
            put_trace(&mut parts, trace);
            body.put_u16_le(parts.len() as u16);
            body.put_slice(&parts);
        }
        error.encode(&mut body);
        let head = Head::new(Kind::Error)
            .with_class(class)
            .with_id(id)
            .with_arg(error.retry_after_ms);
        // An error is always one frame. Its causes are bounded, and one that is too large for the
        // frames of this peer is cut down to its code.
        self.outbox
            .push(head, &[], &cut_error(body, self.outbox.fragment, error));
    }

    /// Answers a request whose time was up before it was whole (M-018).
    pub(super) fn refuse_late(&mut self, now: Time, id: CallId) {
        let text = "the deadline passed while fragments were missing";
        let error = ErrorBody::new(Code::DEADLINE, text);
        self.refuse_call(now, id, (RefusalReason::Late, error));
    }

    /// Answers a request the rest of which has not come for so long that it is not waited for any
    /// more.
    pub(super) fn refuse_unfinished(&mut self, now: Time, id: CallId) {
        let text = format!("no fragment of it came for {UNFINISHED_MAX:?}");
        let error = ErrorBody::new(Code::DEADLINE, text).with_retry(Retry::Here);
        self.refuse_call(now, id, (RefusalReason::Unfinished, error));
    }

    /// Stops a request whose time is up. The caller of one that runs needs no answer, because it
    /// has the same deadline. The caller of one that was never whole, and so was never started, is
    /// told so (M-018).
    pub(super) fn expire_request(&mut self, now: Time, id: CallId) {
        if self.assembly.forget(Of::Request, id.0) {
            self.refuse_late(now, id);
        } else if self.finish_request(id).is_some() {
            self.events
                .push_back(Event::Cancelled(id, CancelReason::Deadline));
        }
    }
}

#[cold]
fn too_large(len: usize, max: usize) -> Failure {
    Failure::Unsendable(format!("{len} bytes, the server accepts messages of {max}"))
}

/// The encoded error, or only its code if the peer's frames are too small for its chain.
fn cut_error(body: BytesMut, fragment: usize, error: &ErrorBody) -> Bytes {
    if body.len() <= fragment {
        return body.freeze();
    }
    let mut body = BytesMut::new();
    if error.trace.is_some() {
        body.put_u16_le(0);
    }
    ErrorBody::new(
        error.code(),
        "(the chain of causes is larger than the client accepts)",
    )
    .with_retry(error.retry)
    .encode(&mut body);
    body.freeze()
}
