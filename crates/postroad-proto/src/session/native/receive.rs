//! Received frames: which of them an end takes, and what each kind does.
//!
//! Every rule stands once, for whole messages and for those in fragments, with and without parts.
//! Nearly all frames are whole messages without parts; for them [`Native::receive`] calls the same
//! functions with `None` for the parts, and as these are inlined there, the compiler leaves out
//! what only parts and fragments need.

use bytes::Bytes;

use super::{Callee, CancelReason, Drain, Event, Native};
use crate::Time;
use crate::code::{Code, Retry};
use crate::error_body::ErrorBody;
use crate::frame::{Head, Kind, MESSAGE_ID, MORE, OF_RESPONSE, PARTS, QOS, frame_bytes};
use crate::limits::HEAD_BYTES;
use crate::session::assembly::{BeginError, Message, Of};
use crate::session::parsed_parts::{
    ParsedParts, check_route, check_whole, refuse_critical, route_name,
};
use crate::session::slots::Accepted;
use crate::session::{
    CallId, CloseReason, DropReason, Failure, RefusalReason, Reply, RouteRef, Sink,
};
use crate::text::printable_within;
use crate::wire_error::{WireError, WireFault};

/// Bytes that are kept of the text of a peer's FAULT: as many as this end would send.
const FAULT_TEXT_MAX: usize = 512;

/// Why a call is not started, for this end and for the caller.
pub(super) type Refusal = (RefusalReason, ErrorBody);

#[cold]
fn never_defined(id: u32, route: u16) -> WireError {
    let detail = format!("route number {route} was never defined");
    WireError::new(WireFault::Id, 6, detail).with_id(id)
}

/// Nothing is acknowledged in this version, and a message without an answer can only be refused by
/// ending the connection (M-034).
#[inline]
fn refuse_qos(head: Head) -> Result<(), WireError> {
    if head.qos() == 0 {
        return Ok(());
    }
    let detail = format!("QoS {} of a message is not acknowledged here", head.qos());
    Err(WireError::new(WireFault::State, 4, detail).with_id(head.id()))
}

#[cold]
fn too_long(head: Head, len: usize, max: usize) -> WireError {
    let detail = format!("message of {len} bytes, at most {max} are accepted");
    WireError::new(WireFault::Length, 16, detail).with_id(head.id())
}

#[cold]
fn wrong_state(head: Head, kind: Kind) -> WireError {
    let detail = format!("{} is not allowed here", kind.name());
    WireError::new(WireFault::State, 3, detail).with_id(head.id())
}

impl Native {
    #[inline]
    pub(super) fn receive(
        &mut self,
        now: Time,
        head: Head,
        body: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        if head.class() & (MORE | PARTS | QOS) == 0 {
            if head.is(Kind::Response) && self.may_call() {
                return self.receive_response(now, head, None, body, sink);
            }
            if (head.is(Kind::Request) || head.is(Kind::OneWay)) && self.serves {
                return self.receive_request(now, head, None, body, sink);
            }
        }
        self.receive_other(now, head, body, sink)
    }

    /// Which frames an open session takes from its peer. What comes in any other state ends the
    /// connection, except that kinds to be skipped are skipped (M-013).
    fn takes(&self, head: Head, kind: Kind) -> bool {
        match kind {
            Kind::Request | Kind::OneWay | Kind::Cancel | Kind::Route => self.serves,
            Kind::Response | Kind::Error | Kind::GoAway => self.may_call(),
            Kind::Data if head.arg() == OF_RESPONSE => self.may_call(),
            Kind::Data => head.arg() == 0 && self.serves,
            Kind::Ping | Kind::Pong | Kind::Fault => true,
            // Laid out, and not agreed on by this version: acknowledgements, publications, streams.
            Kind::Publish | Kind::Ack | Kind::Credit | Kind::Gap => false,
        }
    }

    /// What is rarer, or more than a whole message without parts. Not inlined, so that it does not
    /// take registers from the common path.
    #[inline(never)]
    fn receive_other(
        &mut self,
        now: Time,
        head: Head,
        mut body: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        // The decoder lets only those unknown kinds through that are to be skipped (M-013).
        let Some(kind) = Kind::from_wire(head.kind()) else {
            return Ok(());
        };
        if !self.takes(head, kind) {
            return Err(wrong_state(head, kind));
        }
        match kind {
            Kind::Request | Kind::OneWay => {
                let parts = ParsedParts::split(head, &mut body)?;
                return self.receive_request(now, head, parts, body, sink);
            }
            Kind::Response => {
                let parts = ParsedParts::split(head, &mut body)?;
                return self.receive_response(now, head, parts, body, sink);
            }
            Kind::Error => return self.receive_error(now, head, body, sink),
            Kind::Data => return self.receive_data(now, head, &body, sink),
            Kind::Route => return self.receive_route(head, &body),
            Kind::Cancel => self.receive_cancel(now, head),
            Kind::Ping => {
                self.count_heartbeat(&body);
                self.receive_ping(head, &body)?;
            }
            Kind::Pong => {
                self.count_heartbeat(&body);
                self.receive_pong(now, head, &body);
            }
            Kind::GoAway => self.receive_go_away(now),
            Kind::Fault => {
                let text = printable_within(body.get(8..).unwrap_or_default(), FAULT_TEXT_MAX);
                self.close(now, CloseReason::Fault(text));
            }
            Kind::Publish | Kind::Ack | Kind::Credit | Kind::Gap => {}
        }
        Ok(())
    }

    #[inline]
    fn callee(&mut self) -> &mut Callee {
        let Self { callee, config, .. } = self;
        callee.get_or_insert_with(|| Callee::new(config.limits.max_calls))
    }

    fn receive_route(&mut self, head: Head, body: &Bytes) -> Result<(), WireError> {
        let number = head.id() as usize;
        let bad = |detail: String| Err(WireError::new(WireFault::Id, 8, detail));
        if number == 0 || number > self.config.limits.max_routes {
            let max = self.config.limits.max_routes;
            return bad(format!("route number {number}, 1 to {max} are kept"));
        }
        let routes = &mut self.callee().routes;
        if number >= routes.len() {
            routes.resize(number + 1, None);
        }
        if routes[number].is_some() {
            return bad(format!("route number {number} is defined already"));
        }
        routes[number] = Some(route_name(body, HEAD_BYTES)?);
        Ok(())
    }

    /// A call or a one-way message, or the first fragment of one. Inlined for the frames without
    /// parts, which are nearly all.
    #[inline(always)]
    fn receive_request(
        &mut self,
        now: Time,
        head: Head,
        parts: Option<Box<ParsedParts>>,
        payload: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        let is_call = self.check_request(head)?;
        check_route(head, parts.as_deref())?;
        let deadline = Time::from_micros_left(now, head.arg());
        if !is_call {
            refuse_critical(head, parts.as_deref())?;
            refuse_qos(head)?;
        } else if !self.accept(now, head, deadline, parts.as_deref())? {
            return Ok(());
        }
        if head.has_more() {
            let first = Message {
                head,
                parts,
                deadline,
                payload,
            };
            return self.begin(now, first, sink);
        }
        check_whole(head, parts.as_deref(), payload.len())?;
        self.check_len(head, payload.len())?;
        self.deliver(now, head, parts, deadline, payload, sink);
        Ok(())
    }

    /// Whether it is a call; fails if it is neither that nor a one-way message.
    #[inline]
    fn check_request(&self, head: Head) -> Result<bool, WireError> {
        let is_call = head.is(Kind::Request);
        if is_call == (head.id() & MESSAGE_ID != 0) {
            let detail = "bit 31 of the id tells one-way messages from calls";
            return Err(WireError::new(WireFault::Id, 8, detail).with_id(head.id()));
        }
        if head.route() != 0 && self.route_name(head.route()).is_none() {
            return Err(never_defined(head.id(), head.route()));
        }
        Ok(is_call)
    }

    /// Takes a slot for a call; false if it was answered at once and is not to be started. Inlined
    /// as [`Self::receive_request`] is.
    #[inline(always)]
    fn accept(
        &mut self,
        now: Time,
        head: Head,
        deadline: Time,
        parts: Option<&ParsedParts>,
    ) -> Result<bool, WireError> {
        let id = CallId(head.id());
        let slots = &mut self.callee().slots;
        let accepted = slots.accept(id, deadline, head.priority(), now);
        if accepted != Accepted::New && !self.accept_again(id, head.priority(), accepted)? {
            return Ok(false);
        }
        let is_plain = parts.is_none() && head.qos() == 0;
        if deadline <= now || !is_plain || self.drain != Drain::No {
            let refusal = self.refusal_of(now, head, deadline, parts);
            if let Some(refusal) = refusal {
                self.refuse_call(now, id, refusal);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Answers a call that is not started, unless it is over already.
    #[cold]
    pub(super) fn refuse_call(&mut self, now: Time, id: CallId, (reason, error): Refusal) {
        let Some(call) = self.finish_request(id) else {
            return;
        };
        self.events.push_back(Event::Refused(reason));
        self.send_error(id.0, call.priority, &error);
        if self.drain != Drain::No {
            self.continue_drain(now);
        }
    }

    /// Where the slot was not simply free: whether the call is to be started all the same.
    #[cold]
    fn accept_again(
        &mut self,
        id: CallId,
        priority: u8,
        accepted: Accepted,
    ) -> Result<bool, WireError> {
        match accepted {
            Accepted::New => {}
            Accepted::Replaced(older) => {
                self.assembly.forget(Of::Request, older.0);
                self.events
                    .push_back(Event::Cancelled(older, CancelReason::GivenUp));
            }
            Accepted::Duplicate => {
                let detail = format!("call {id:?} is in flight already");
                return Err(WireError::new(WireFault::Id, 8, detail).with_id(id.0));
            }
            Accepted::Beyond => {
                let max = self.config.limits.max_calls;
                let text = format!("slot {} is beyond the {max} calls accepted", id.index());
                let error = ErrorBody::new(Code::OVERLOADED, text).with_retry(Retry::Here);
                self.send_error(id.0, priority, &error);
                self.events
                    .push_back(Event::Refused(RefusalReason::TooManyCalls));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Why a call that has just arrived is not started, if so.
    fn refusal_of(
        &self,
        now: Time,
        head: Head,
        deadline: Time,
        parts: Option<&ParsedParts>,
    ) -> Option<Refusal> {
        if deadline <= now {
            let text = "the deadline had passed when the call arrived";
            return Some((RefusalReason::Late, ErrorBody::new(Code::DEADLINE, text)));
        }
        let unsupported = |text| {
            let error = ErrorBody::new(Code::UNSUPPORTED, text);
            Some((RefusalReason::Unsupported, error))
        };
        if let Some(tag) = parts.and_then(|parts| parts.refused) {
            return unsupported(format!("critical part 0x{tag:02x} is not understood"));
        }
        if head.qos() > 0 {
            return unsupported(format!("QoS {} is not acknowledged here", head.qos()));
        }
        if matches!(self.drain, Drain::Second { .. }) {
            let error = ErrorBody::new(Code::DRAINING, "the server is shutting down");
            let error = error.with_retry(self.drain_retry);
            return Some((RefusalReason::Draining, error));
        }
        None
    }

    /// The bound on messages holds also for those that are whole in one frame.
    #[inline]
    fn check_len(&self, head: Head, len: usize) -> Result<(), WireError> {
        let max = self.config.limits.max_message;
        if len > max {
            return Err(too_long(head, len, max));
        }
        Ok(())
    }

    /// Keeps the first fragment of a message.
    fn begin(&mut self, now: Time, first: Message, sink: &mut impl Sink) -> Result<(), WireError> {
        let limits = &self.config.limits;
        let (of, id) = (first.of(), first.head.id());
        let wrong = |detail: String| WireError::new(WireFault::Length, 16, detail).with_id(id);
        let missing = || wrong("first of several fragments without its whole length".to_owned());
        let whole = first.whole().ok_or_else(missing)?;
        if whole > limits.max_message {
            return Err(too_long(first.head, whole, limits.max_message));
        }
        match self.assembly.begin(now, first, whole, limits) {
            Ok(()) => Ok(()),
            Err(BeginError::Wrong(error)) => Err(error.with_id(id)),
            Err(BeginError::NoRoom) => {
                self.refuse_message(now, of, id, sink);
                Ok(())
            }
        }
    }

    /// There is no room for another large message: a call is told so, a call of this end ends
    /// without its answer, and a one-way message is dropped.
    fn refuse_message(&mut self, now: Time, of: Of, id: u32, sink: &mut impl Sink) {
        let error = ErrorBody::new(Code::OVERLOADED, "no room for another large message now");
        if of == Of::Response {
            // The handler has run.
            let error = error.with_retry(Retry::IfIdempotent);
            let failure = Failure::Remote(Box::new(error));
            self.finish(now, CallId(id), |id| sink.failed(id, failure));
        } else if id & MESSAGE_ID == 0 {
            let refusal = (RefusalReason::NoRoom, error.with_retry(Retry::Here));
            self.refuse_call(now, CallId(id), refusal);
        } else {
            self.drop_message(DropReason::NoRoom);
        }
    }

    /// A one-way message is not handed out, which nobody but this end's driver can be told.
    #[cold]
    fn drop_message(&mut self, reason: DropReason) {
        self.events.push_back(Event::Dropped(reason));
    }

    fn receive_data(
        &mut self,
        now: Time,
        head: Head,
        body: &Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        let Some(message) = self.assembly.add(now, head, body)? else {
            return Ok(());
        };
        let id = CallId(head.id());
        let is_call = message.head.is(Kind::Request);
        if message.of() == Of::Response {
            let reply = Reply {
                codec: message.head.codec(),
                payload: message.payload,
            };
            self.finish(now, id, |id| sink.replied(id, reply));
        } else if is_call && message.deadline <= now {
            self.refuse_late(now, id);
        } else {
            let Message {
                head,
                parts,
                deadline,
                payload,
            } = message;
            self.deliver(now, head, parts, deadline, payload, sink);
        }
        Ok(())
    }

    /// An answer, or the first fragment of one. Inlined as [`Self::receive_request`] is.
    #[inline(always)]
    fn receive_response(
        &mut self,
        now: Time,
        head: Head,
        parts: Option<Box<ParsedParts>>,
        payload: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        let id = CallId(head.id());
        refuse_critical(head, parts.as_deref())?;
        if head.has_more() {
            if !self.is_calling(id) {
                self.finish_call(id);
                return Ok(());
            }
            let first = Message {
                head,
                parts,
                // The deadline of its call is kept in the call's slot.
                deadline: Time::NEVER,
                payload,
            };
            return self.begin(now, first, sink);
        }
        check_whole(head, parts.as_deref(), payload.len())?;
        self.check_len(head, payload.len())?;
        let codec = head.codec();
        self.finish(now, id, |id| sink.replied(id, Reply { codec, payload }));
        Ok(())
    }

    fn receive_error(
        &mut self,
        now: Time,
        head: Head,
        mut body: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        let parts = ParsedParts::split(head, &mut body)?;
        refuse_critical(head, parts.as_deref())?;
        let error = ErrorBody::decode(body).ok_or_else(|| {
            WireError::new(WireFault::Reserved, 16, "error body does not parse").with_id(head.id())
        })?;
        let error = ErrorBody {
            retry_after_ms: head.arg(),
            trace: parts.and_then(|parts| parts.extras.trace),
            ..error
        };
        let failure = Failure::Remote(Box::new(error));
        self.finish(now, CallId(head.id()), |id| sink.failed(id, failure));
        Ok(())
    }

    fn receive_cancel(&mut self, now: Time, head: Head) {
        let id = CallId(head.id());
        if self.finish_request(id).is_some() {
            self.assembly.forget(Of::Request, id.0);
            let reason = if head.arg() == 2 {
                CancelReason::Deadline
            } else {
                CancelReason::GivenUp
            };
            self.events.push_back(Event::Cancelled(id, reason));
            if self.drain != Drain::No {
                self.continue_drain(now);
            }
        } else {
            // It was answered already; what has not left need not leave any more.
            self.outbox.forget_answer(id.0);
        }
    }

    /// A heartbeat is no reason to take a connection for one that is used.
    fn count_heartbeat(&mut self, body: &Bytes) {
        if let Some(idle) = &mut self.idle {
            let bytes = frame_bytes(body.len(), self.decoder.checksum);
            idle.heartbeats += bytes as u64;
        }
    }

    fn receive_ping(&mut self, head: Head, body: &Bytes) -> Result<(), WireError> {
        let (len, max) = (body.len(), self.peer.max_frame as usize);
        if len > max {
            // Its answer, which has the same body, would be more than it takes (M-009).
            let detail = format!("PING of {len} bytes from a peer that takes {max}");
            return Err(WireError::new(WireFault::Length, 0, detail));
        }
        let pong = Head::new(Kind::Pong).with_id(head.id());
        // While the server drains, a PONG tells it that no call is on its way any more (M-028), so
        // it must not overtake one.
        match self.drain {
            Drain::Told => self.outbox.push_behind(pong, body),
            _ => self.outbox.push_control(pong, body),
        }
        Ok(())
    }

    fn receive_pong(&mut self, now: Time, head: Head, body: &Bytes) {
        if let Some(stamp) = body.first_chunk::<8>() {
            let sent = Time(u64::from_le_bytes(*stamp));
            // A stamp from the future is not ours.
            if sent <= now {
                self.events.extend(self.liveness.handle_pong(now, sent));
            }
        }
        if self.drain_ping == Some(head.id()) {
            self.drain_ping = None;
            self.continue_drain(now);
        }
    }

    fn receive_go_away(&mut self, now: Time) {
        if self.drain == Drain::No {
            self.drain = Drain::Told;
            self.events.push_back(Event::Draining);
        }
        self.continue_drain(now);
    }

    /// Hands a whole request or message to the sink, unless it is a message that is late. A late
    /// call was answered when it was accepted; a late message is dropped. Inlined as
    /// [`Self::receive_request`] is.
    #[inline(always)]
    fn deliver(
        &mut self,
        now: Time,
        head: Head,
        parts: Option<Box<ParsedParts>>,
        deadline: Time,
        payload: Bytes,
        sink: &mut impl Sink,
    ) {
        let is_call = head.is(Kind::Request);
        if !is_call && deadline <= now {
            return self.drop_message(DropReason::Late);
        }
        // Made inside the closure, so that a request is put together where it lies.
        sink.request(|request| {
            let (name, extras) = match parts {
                None => (None, None),
                Some(parts) => (parts.route, Some(Box::new(parts.extras))),
            };
            request.id = is_call.then_some(CallId(head.id()));
            request.route = match (head.route(), name) {
                (0, Some(name)) => RouteRef::Name(name),
                (0, None) => RouteRef::Unsaid,
                (number, _) => RouteRef::Number(number),
            };
            request.set_flags(head);
            request.deadline = deadline;
            request.extras = extras;
            request.payload = payload;
        });
    }
}
