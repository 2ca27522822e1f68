//! One frame after the other: what each kind does.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::{Callee, CancelReason, Drain, Event, Native, Role};
use crate::Time;
use crate::code::{Code, Retry};
use crate::error_body::ErrorBody;
use crate::frame::{CRITICAL, Head, HeadWords, Kind, MESSAGE_ID, MORE, PARTS, PartTag, Parts};
use crate::limits::ROUTE_NAME_MAX;
use crate::session::assembly::{Known, Message, Unkept};
use crate::session::slots::Accepted;
use crate::session::{CallId, CloseReason, Failure, Reply, RouteRef, Sink};
use crate::text::Printable;
use crate::trace::Trace;
use crate::wire_error::{WireError, WireFault};

/// Takes the parts off the body, and reads them; most frames have none.
#[inline]
fn split_parts(head: &Head, body: &mut Bytes) -> Result<Option<Box<Known>>, WireError> {
    if head.has_parts() {
        read_parts(body).map(|known| Some(Box::new(known)))
    } else {
        Ok(None)
    }
}

fn read_parts(body: &mut Bytes) -> Result<Known, WireError> {
    let mut known = Known::default();
    let (parts, end) = Parts::split(body)?;
    let wrong = |what: &str| WireError::new(WireFault::Parts, 16, what.to_owned());
    for part in parts {
        let part = part?;
        match part.tag & !CRITICAL {
            tag if tag == PartTag::RouteName as u8 => known.route = Some(route_name(part.value)?),
            tag if tag == PartTag::Trace as u8 => {
                let trace = Trace::from_wire(part.value);
                let trace = trace.ok_or_else(|| wrong("trace context is not 25 bytes"))?;
                known.extras.trace = Some(trace);
            }
            tag if tag == PartTag::WholeLength as u8 => {
                let bytes = part
                    .value
                    .try_into()
                    .map_err(|_| wrong("whole length is not 4 bytes"))?;
                known.whole = Some(u32::from_le_bytes(bytes) as usize);
            }
            tag if (PartTag::Metadata as u8..=PartTag::Sequence as u8).contains(&tag) => {}
            _ if part.tag & CRITICAL != 0 => known.refused = Some(part.tag),
            _ => {}
        }
    }
    known.extras.parts = body.slice(2..end);
    body.advance(end);
    Ok(known)
}

fn route_name(value: &[u8]) -> Result<Arc<str>, WireError> {
    if value.is_empty() || value.len() > ROUTE_NAME_MAX {
        let detail = format!(
            "route name of {} bytes, 1 to {ROUTE_NAME_MAX} are allowed",
            value.len()
        );
        return Err(WireError::new(WireFault::Length, 16, detail));
    }
    let name = std::str::from_utf8(value)
        .map_err(|error| WireError::new(WireFault::Utf8, 16 + error.valid_up_to(), "route name"))?;
    Ok(name.into())
}

/// A message that comes whole is as long as it says, if it says so (M-025).
fn check_whole(message: &Message) -> Result<(), WireError> {
    let len = message.payload.len();
    match message.whole() {
        Some(whole) if whole != len => {
            let detail = format!("the whole length is {whole}, the message has {len} bytes");
            Err(WireError::new(WireFault::Length, 16, detail).with_id(message.head.id))
        }
        _ => Ok(()),
    }
}

/// Outside of calls nobody can be told: a critical part that is not understood ends the connection
/// (M-031).
#[inline]
fn refuse_critical(head: &Head, known: Option<&Known>) -> Result<(), WireError> {
    let Some(tag) = known.and_then(|known| known.refused) else {
        return Ok(());
    };
    let detail = format!("critical part 0x{tag:02x} is not understood");
    Err(WireError::new(WireFault::Parts, 16, detail).with_id(head.id))
}

#[cold]
fn never_defined(id: u32, route: u16) -> WireError {
    let detail = format!("route number {route} was never defined");
    WireError::new(WireFault::Id, 6, detail).with_id(id)
}

fn wrong_state(head: &Head, kind: Kind) -> WireError {
    let detail = format!("{} is not allowed here", kind.name());
    WireError::new(WireFault::State, 3, detail).with_id(head.id)
}

impl Native {
    #[inline]
    pub(super) fn receive(
        &mut self,
        now: Time,
        words: HeadWords,
        body: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        // Nearly all frames are whole messages without parts; their bodies go where they belong
        // without being moved on the way.
        if words.class() & (MORE | PARTS) == 0 {
            let kind = words.kind();
            if kind == Kind::Response as u8 && self.role == Role::Client {
                self.receive_whole_response(words, body, sink);
                return Ok(());
            }
            let is_request = kind == Kind::Request as u8 || kind == Kind::OneWay as u8;
            if is_request && self.role == Role::Server {
                return self.receive_whole_request(now, words, body, sink);
            }
        }
        self.receive_other(now, words.head(), body, sink)
    }

    /// What is rarer, or more than a whole message without parts.
    #[inline(never)]
    fn receive_other(
        &mut self,
        now: Time,
        head: Head,
        body: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        // Kinds with bit 7 set that are not known are skipped (M-013); the decoder has refused the
        // others.
        let Some(kind) = Kind::from_wire(head.kind) else {
            return Ok(());
        };
        match (kind, self.role) {
            (Kind::Response, Role::Client) => self.receive_response(head, body, sink),
            (Kind::Request | Kind::OneWay, Role::Server) => {
                self.receive_request(now, head, body, sink)
            }
            (Kind::Error, Role::Client) => self.receive_error(&head, body, sink),
            (Kind::Data, _) => self.receive_data(now, &head, &body, sink),
            (Kind::Cancel, Role::Server) => {
                self.receive_cancel(now, &head);
                Ok(())
            }
            (Kind::Route, Role::Server) => self.receive_route(&head, &body),
            (Kind::Ping, _) => {
                let pong = Head {
                    id: head.id,
                    ..Head::new(Kind::Pong)
                };
                // While the server drains, it says that no call is on its way any more (M-028).
                match self.drain {
                    Drain::Told => self.outbox.push_behind(pong, &body),
                    _ => self.outbox.push_control(pong, &body),
                }
                Ok(())
            }
            (Kind::Pong, _) => {
                self.receive_pong(now, &head, &body);
                Ok(())
            }
            (Kind::GoAway, Role::Client) => {
                self.receive_go_away(now);
                Ok(())
            }
            (Kind::Fault, _) => {
                let text = String::from_utf8_lossy(body.get(8..).unwrap_or_default());
                self.close(now, CloseReason::Fault(Printable(&text).to_string()));
                Ok(())
            }
            // Laid out, and not agreed on by this version: streams, acknowledgements, publications.
            _ => Err(wrong_state(&head, kind)),
        }
    }

    #[inline]
    fn callee(&mut self) -> &mut Callee {
        let Self { callee, config, .. } = self;
        callee.get_or_insert_with(|| Callee::new(config.limits.max_calls))
    }

    fn receive_route(&mut self, head: &Head, body: &Bytes) -> Result<(), WireError> {
        let number = head.id as usize;
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
        routes[number] = Some(route_name(body)?);
        Ok(())
    }

    #[inline]
    fn receive_request(
        &mut self,
        now: Time,
        head: Head,
        mut body: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        let known = split_parts(&head, &mut body)?;
        let is_call = self.check_request(head.kind, head.id, head.route)?;
        let deadline = Time::from_micros_left(now, head.arg);
        let parts = known.as_deref();
        if is_call && !self.accept(now, head.id, head.priority(), deadline, parts)? {
            return Ok(());
        }
        if !is_call {
            refuse_critical(&head, known.as_deref())?;
        }
        let message = Message {
            head,
            known,
            deadline,
            payload: body,
        };
        if head.has_more() {
            return self.begin(now, message, sink);
        }
        check_whole(&message)?;
        self.deliver(now, message, sink);
        Ok(())
    }

    /// A request or one-way message of one frame without parts.
    #[inline]
    pub(super) fn receive_whole_request(
        &mut self,
        now: Time,
        words: HeadWords,
        payload: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        let (id, route) = (words.id(), words.route());
        let is_call = self.check_request(words.kind(), id, route)?;
        let deadline = Time::from_micros_left(now, words.arg());
        let is_wanted = if is_call {
            self.accept(now, id, words.class() & 7, deadline, None)?
        } else {
            deadline > now
        };
        if !is_wanted {
            return Ok(());
        }
        sink.request(|request| {
            request.id = is_call.then_some(CallId(id));
            request.route = match route {
                0 => RouteRef::Unsaid,
                number => RouteRef::Number(number),
            };
            request.set_flags(words.class(), words.form());
            request.deadline = deadline;
            request.extras = None;
            request.payload = payload;
        });
        Ok(())
    }

    /// An answer of one frame without parts.
    #[inline]
    pub(super) fn receive_whole_response(
        &mut self,
        words: HeadWords,
        payload: Bytes,
        sink: &mut impl Sink,
    ) {
        let id = CallId(words.id());
        if self.end_call(id) {
            let codec = words.form() & 15;
            sink.replied(id, Reply { codec, payload });
            self.after_call();
        }
    }

    /// Whether it is a call; fails if it is neither that nor a one-way message.
    #[inline]
    fn check_request(&self, kind: u8, id: u32, route: u16) -> Result<bool, WireError> {
        let is_call = kind == Kind::Request as u8;
        if is_call == (id & MESSAGE_ID != 0) {
            let detail = "bit 31 of the id tells one-way messages from calls";
            return Err(WireError::new(WireFault::Id, 8, detail).with_id(id));
        }
        if route != 0 && self.route_name(route).is_none() {
            return Err(never_defined(id, route));
        }
        Ok(is_call)
    }

    /// Takes a slot for a call; false if it was answered at once and is not to be started.
    #[inline]
    fn accept(
        &mut self,
        now: Time,
        id: u32,
        priority: u8,
        deadline: Time,
        known: Option<&Known>,
    ) -> Result<bool, WireError> {
        let slots = &mut self.callee().slots;
        let accepted = slots.accept(CallId(id), deadline, priority, now);
        if accepted != Accepted::New && !self.accept_again(CallId(id), priority, accepted)? {
            return Ok(false);
        }
        if deadline <= now || known.is_some() || self.drain != Drain::No {
            let refusal = self.refusal_of(now, deadline, known);
            if let Some(error) = refusal {
                self.respond(now, CallId(id), Err(&error));
                return Ok(false);
            }
        }
        Ok(true)
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
                self.assembly.forget(older.0);
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
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Why a call that has just arrived is not started, if so.
    fn refusal_of(&self, now: Time, deadline: Time, known: Option<&Known>) -> Option<ErrorBody> {
        if deadline <= now {
            return Some(ErrorBody::new(
                Code::DEADLINE,
                "the deadline had passed when the call arrived",
            ));
        }
        if let Some(tag) = known.and_then(|known| known.refused) {
            let text = format!("critical part 0x{tag:02x} is not understood");
            return Some(ErrorBody::new(Code::UNSUPPORTED, text));
        }
        if matches!(self.drain, Drain::Second { .. }) {
            let error = ErrorBody::new(Code::DRAINING, "the server is shutting down");
            return Some(error.with_retry(self.drain_retry));
        }
        None
    }

    fn begin(&mut self, now: Time, first: Message, sink: &mut impl Sink) -> Result<(), WireError> {
        let (limits, id) = (&self.config.limits, first.head.id);
        let wrong = |detail: String| WireError::new(WireFault::Length, 16, detail).with_id(id);
        let missing = || wrong("first of several fragments without its whole length".to_owned());
        let whole = first.whole().ok_or_else(missing)?;
        if whole > limits.max_message {
            let max = limits.max_message;
            return Err(wrong(format!(
                "message of {whole} bytes, at most {max} are accepted"
            )));
        }
        let room = (limits.assembly_max, limits.assemblies);
        match self.assembly.begin(first, whole, room) {
            Ok(()) => Ok(()),
            Err(Unkept::Wrong(error)) => Err(error.with_id(id)),
            Err(Unkept::NoRoom) => {
                self.refuse_message(now, id, sink);
                Ok(())
            }
        }
    }

    /// There is no room for another large message: a call is told so, an answer's call ends without
    /// it.
    fn refuse_message(&mut self, now: Time, id: u32, sink: &mut impl Sink) {
        let error = ErrorBody::new(Code::OVERLOADED, "no room for another large message now");
        if self.role == Role::Client {
            // The handler has run.
            let error = error.with_retry(Retry::IfIdempotent);
            let failure = Failure::Remote(Box::new(error));
            self.finish(CallId(id), Err(failure), sink);
        } else if id & MESSAGE_ID == 0 {
            self.respond(now, CallId(id), Err(&error.with_retry(Retry::Here)));
        }
    }

    fn receive_data(
        &mut self,
        now: Time,
        head: &Head,
        body: &Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        if (head.arg == 1) != (self.role == Role::Client) || head.arg > 1 {
            return Err(wrong_state(head, Kind::Data));
        }
        let Some(message) = self.assembly.add(head, body)? else {
            return Ok(());
        };
        let id = CallId(head.id);
        if self.role == Role::Client {
            let reply = Reply {
                codec: message.head.codec(),
                payload: message.payload,
            };
            self.finish(id, Ok(reply), sink);
        } else if message.deadline <= now && head.id & MESSAGE_ID == 0 {
            self.refuse_late(now, id);
        } else {
            self.deliver(now, message, sink);
        }
        Ok(())
    }

    #[inline]
    fn deliver(&mut self, now: Time, message: Message, sink: &mut impl Sink) {
        let Message {
            head,
            known,
            deadline,
            payload,
        } = message;
        let is_call = head.kind == Kind::Request as u8;
        // A message that nobody can be told about is served also while calls are refused.
        if !is_call && deadline <= now {
            return;
        }
        let (route, extras) = match known {
            None => (None, None),
            Some(known) => (known.route, Some(Box::new(known.extras))),
        };
        let route = match route {
            Some(name) if head.route == 0 => RouteRef::Name(name),
            None if head.route == 0 => RouteRef::Unsaid,
            _ => RouteRef::Number(head.route),
        };
        sink.request(|request| {
            request.id = is_call.then_some(CallId(head.id));
            request.route = route;
            request.set_flags(head.class, head.form);
            request.deadline = deadline;
            request.extras = extras;
            request.payload = payload;
        });
    }

    #[inline]
    fn receive_response(
        &mut self,
        head: Head,
        mut body: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        let known = split_parts(&head, &mut body)?;
        let id = CallId(head.id);
        refuse_critical(&head, known.as_deref())?;
        if head.has_more() {
            if !self.is_calling(id) {
                self.finish_call(id);
                return Ok(());
            }
            let deadline = Time::NEVER;
            let message = Message {
                head,
                known,
                deadline,
                payload: body,
            };
            return self.begin(Time(0), message, sink);
        }
        let reply = Reply {
            codec: head.codec(),
            payload: body,
        };
        self.finish(id, Ok(reply), sink);
        Ok(())
    }

    fn receive_error(
        &mut self,
        head: &Head,
        mut body: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        let known = split_parts(head, &mut body)?;
        refuse_critical(head, known.as_deref())?;
        let error = ErrorBody::decode(body).ok_or_else(|| {
            WireError::new(WireFault::Reserved, 16, "error body does not parse").with_id(head.id)
        })?;
        let error = ErrorBody {
            retry_after_ms: head.arg,
            trace: known.and_then(|known| known.extras.trace),
            ..error
        };
        let failure = Failure::Remote(Box::new(error));
        self.finish(CallId(head.id), Err(failure), sink);
        Ok(())
    }

    fn receive_cancel(&mut self, now: Time, head: &Head) {
        let id = CallId(head.id);
        if self.finish_request(id).is_some() {
            self.assembly.forget(head.id);
            let reason = if head.arg == 2 {
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
            self.outbox.forget_answer(head.id);
        }
    }

    fn receive_pong(&mut self, now: Time, head: &Head, body: &Bytes) {
        if let Some(stamp) = body.first_chunk::<8>() {
            let sent = Time(u64::from_le_bytes(*stamp));
            // A stamp from the future is not ours.
            if sent <= now {
                self.heartbeat.measured(now.since(sent));
                if let Some(round_trip) = self.heartbeat.round_trip() {
                    self.events.push_back(Event::RoundTrip(round_trip));
                }
            }
        }
        if self.drain_ping == Some(head.id) {
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
}
