//! The native protocol's session. `docs/protocol.md` numbers the rules that are named here.
//!
//! ```text
//! Opening --WELCOME--> Open --end, fault, timeout, close--> Closed
//!    |                  |  ^        (between HELLO and WELCOME a server may wait: Judging)
//!    +--REFUSE, fault---+--|----> Closed
//!                       v  |
//!              draining (phase 1, phase 2), calls still finish
//! ```

mod commands;
mod opening;
mod receive;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::assembly::Assembly;
use super::idle::Idle;
use super::liveness::{GRACE, LATE_MIN, Liveness};
use super::outbox::Outbox;
use super::slots::{CalleeSlots, CallerSlots};
use super::timers::{Timer, Timers};
use super::{
    CallId, CancelReason, CloseReason, Config, DropReason, Event, Failure, Shortage, Sink,
    cut_short, next_event, spoken,
};
use crate::Time;
use crate::code::Retry;
use crate::frame::{FrameDecoder, Head, Kind, MESSAGE_ID, Run};
use crate::limits::{DRAIN_PHASE_MAX, EVENTS_MAX};
use crate::wire_error::WireError;
use opening::Settled;

/// Who dials: decides what the opening is, and nothing else. What an end may do afterwards is said
/// by [`Native::serves`] and [`Native::may_call`], since both ends may call one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// HELLO or WELCOME is awaited until then.
    Opening(Time),
    /// The client's credentials are being judged until then.
    Judging(Time),
    Open,
    Closed,
}

/// How far a drain has come (M-028).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// No new calls are wanted; those that come are served until the PONG, or then.
    First {
        second: Time,
        end: Time,
    },
    /// New calls are refused.
    Second {
        end: Time,
    },
    /// The server told this client to stop.
    Told,
}

/// What the other end announced.
#[derive(Clone, Copy, Debug)]
struct Peer {
    max_frame: u32,
    max_message: u32,
    max_routes: u16,
}

/// What only the end that calls needs. Apart, because servers have many connections.
#[derive(Debug)]
struct Caller {
    slots: CallerSlots,
    routes: HashMap<Arc<str>, u16>,
    /// The route of the last call, and its number.
    last_route: Option<(Arc<str>, u16)>,
    next_message: u32,
}

impl Caller {
    fn new() -> Box<Self> {
        Box::new(Self {
            slots: CallerSlots::new(0),
            routes: HashMap::new(),
            last_route: None,
            next_message: 0,
        })
    }
}

/// What the end that is called needs. Apart, because many connections are idle.
#[derive(Debug)]
struct Callee {
    slots: CalleeSlots,
    routes: Vec<Option<Arc<str>>>,
}

impl Callee {
    #[cold]
    fn new(max_calls: usize) -> Box<Self> {
        Box::new(Self {
            slots: CalleeSlots::new(max_calls),
            routes: Vec::new(),
        })
    }
}

/// One end of a native connection.
#[derive(Debug)]
pub(super) struct Native {
    config: Arc<Config>,
    /// Names the session, if this end is the server.
    id: [u8; 16],
    role: Role,
    /// Whether the peer may call this end.
    serves: bool,
    phase: Phase,
    drain: Drain,
    /// What refused requests are told about trying again.
    drain_retry: Retry,
    peer: Peer,
    decoder: FrameDecoder,
    outbox: Outbox,
    /// Of an end that may call.
    caller: Option<Box<Caller>>,
    /// Of an end that serves, once it was told a route or called.
    callee: Option<Box<Callee>>,
    /// The HELLO whose credentials are being judged.
    judged: Option<Box<Settled>>,
    assembly: Assembly,
    liveness: Liveness,
    events: VecDeque<Event>,
    next_ping: u32,
    drain_ping: Option<u32>,
    /// Of a server whose connections may not be idle for ever.
    idle: Option<Box<Idle>>,
    /// Bytes of the stream before the frame that is decoded now.
    offset: u64,
}

impl Native {
    pub(super) fn client(config: Arc<Config>, now: Time) -> Self {
        let mut session = Self::new(config, Role::Client, now);
        session.send_hello();
        session
    }

    pub(super) fn server(config: Arc<Config>, id: [u8; 16], now: Time) -> Self {
        let idle = Idle::new(now, config.idle);
        Self {
            id,
            idle,
            ..Self::new(config, Role::Server, now)
        }
    }

    fn new(config: Arc<Config>, role: Role, now: Time) -> Self {
        let limits = &config.limits;
        Self {
            id: [0; 16],
            role,
            serves: role == Role::Server,
            phase: Phase::Opening(now + config.handshake),
            drain: Drain::No,
            drain_retry: Retry::Elsewhere,
            peer: Peer {
                max_frame: 0,
                max_message: 0,
                max_routes: 0,
            },
            decoder: FrameDecoder {
                max_body: limits.max_frame,
                checksum: false,
            },
            outbox: Outbox::new(false),
            caller: (role == Role::Client).then(Caller::new),
            callee: None,
            judged: None,
            assembly: Assembly::default(),
            liveness: Liveness::new(now, config.heartbeat),
            events: VecDeque::new(),
            next_ping: 0,
            drain_ping: None,
            idle: None,
            offset: 0,
            config,
        }
    }

    #[inline]
    pub(super) fn handle_bytes(&mut self, now: Time, buf: &mut BytesMut, sink: &mut impl Sink) {
        let before = self.offset;
        if let Err(mut error) = self.take_bytes(now, buf, sink) {
            if self.offset == 0 {
                error = spoken::with_guess(error, buf, "native");
            }
            self.fault(now, error);
        }
        if self.phase == Phase::Closed {
            return buf.clear();
        }
        let made_progress = self.offset > before;
        let is_partial = !buf.is_empty() && self.wants_read() && sink.room() > 0;
        self.liveness.handle_read(now, is_partial, made_progress);
    }

    /// Takes what is whole, until the session or the sink wants no more.
    #[inline]
    fn take_bytes(
        &mut self,
        now: Time,
        buf: &mut BytesMut,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        while matches!(self.phase, Phase::Opening(_)) && self.wants_read() {
            let before = buf.len();
            if !self.handle_opening(now, buf)? {
                return Ok(());
            }
            self.offset += (before - buf.len()) as u64;
        }
        if matches!(self.phase, Phase::Judging(_)) && !buf.is_empty() {
            return Err(opening::too_early());
        }
        while self.phase == Phase::Open && self.wants_read() && sink.room() > 0 {
            let mut run = self.decoder.take_run(buf, sink.room());
            if run.rest().is_empty() {
                // What there is, is not whole yet; it may be wrong already.
                return self.decoder.check(buf);
            }
            let result = self.take_run(now, &mut run, sink);
            if !run.rest().is_empty() {
                let mut rest = BytesMut::with_capacity(run.rest().len() + buf.len());
                rest.extend_from_slice(run.rest());
                rest.extend_from_slice(buf);
                *buf = rest;
            }
            result?;
        }
        Ok(())
    }

    /// Takes frames, until the session wants no more.
    #[inline]
    fn take_run(
        &mut self,
        now: Time,
        run: &mut Run,
        sink: &mut impl Sink,
    ) -> Result<(), WireError> {
        let begin = self.offset;
        while let Some((head, body)) = run.take()? {
            self.receive(now, head, body, sink)?;
            self.offset = begin + run.taken() as u64;
            if self.phase != Phase::Open || !self.wants_read() {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn handle_end(&mut self, now: Time, buf: &BytesMut, error: Option<String>) {
        if self.phase == Phase::Closed {
            return;
        }
        let is_drained = self.drain != Drain::No && self.in_flight() == 0;
        match error {
            Some(error) => self.close(now, CloseReason::Transport(error)),
            None if !buf.is_empty() && self.wants_read() => {
                self.fault(now, cut_short(buf.len()));
            }
            None if is_drained => self.close(now, self.drained()),
            None => self.close(now, CloseReason::Peer),
        }
    }

    fn expire_calls(&mut self, now: Time) {
        let caller = self.caller.as_mut();
        for id in caller.map_or_else(Vec::new, |caller| caller.slots.expire(now)) {
            self.expire_call(id);
        }
        // The last call may have been what a drain waited for.
        self.continue_drain(now);
    }

    fn expire_requests(&mut self, now: Time) {
        let callee = self.callee.as_mut();
        for id in callee.map_or_else(Vec::new, |callee| callee.slots.expire(now)) {
            self.expire_request(now, id);
        }
        // The last request may have been what a drain waited for.
        self.continue_drain(now);
    }

    fn beat(&mut self, now: Time) {
        match self.liveness.beat(now, self.has_room()) {
            Ok(true) => drop(self.send_ping(now)),
            Ok(false) => {}
            Err(dead) => self.close(now, dead),
        }
    }

    /// Gives back what calls have made grow.
    fn release_memory(&mut self) {
        if self.in_flight() == 0 {
            self.outbox.release_memory();
            if let Some(callee) = &mut self.callee {
                callee.slots.release_memory();
            }
        }
    }

    pub(super) fn handle_written(&mut self, now: Time, blocked: bool) {
        if blocked {
            self.outbox.detach();
        }
        self.liveness.handle_written(now, blocked);
    }

    fn send_ping(&mut self, now: Time) -> u32 {
        let id = self.next_ping;
        self.next_ping = id.wrapping_add(1);
        self.outbox
            .push_control(Head::new(Kind::Ping).with_id(id), &now.0.to_le_bytes());
        id
    }

    fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Opening(_) | Phase::Judging(_))
    }

    /// Whether this end may call the peer.
    #[inline]
    fn may_call(&self) -> bool {
        self.caller.is_some()
    }

    fn in_flight(&self) -> usize {
        self.calls_in_flight() + self.requests_in_flight()
    }

    /// Ends the session because of what the peer sent, and tells it so (M-023). The place of the
    /// error counts from the frame that was decoded last.
    fn fault(&mut self, now: Time, error: WireError) {
        let at = self.offset + error.at;
        let error = WireError { at, ..error };
        if self.is_opening() {
            self.refuse_malformed(&error);
        } else {
            let text = format!("{} {error}", crate::code::Code::PROTOCOL);
            let mut body = error.at.to_le_bytes().to_vec();
            body.extend_from_slice(crate::text::cut_at_char(&text, 512).as_bytes());
            self.outbox.push_control(Head::new(Kind::Fault), &body);
        }
        self.close(now, CloseReason::Protocol(error));
    }

    pub(super) fn close(&mut self, _now: Time, reason: CloseReason) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        let caller = self.caller.as_ref();
        for id in caller.map_or_else(Vec::new, |caller| caller.slots.ids()) {
            if let Some(call) = self.finish_call(id) {
                let sent = !self.outbox.withdraw(call.position, id.0);
                let failure = Failure::Lost {
                    reason: reason.clone(),
                    sent,
                };
                self.events.push_back(Event::Failed(id, failure));
            }
        }
        let callee = self.callee.as_ref();
        for id in callee.map_or_else(Vec::new, |callee| callee.slots.ids()) {
            self.finish_request(id);
            self.events
                .push_back(Event::Cancelled(id, CancelReason::Lost));
        }
        // No fragment comes any more. Calls were called off above.
        self.drop_unfinished(Time::NEVER);
        self.events.push_back(Event::Closed(reason));
    }

    /// Drops the requests and one-way messages whose time is up by `now` and that are not whole.
    fn drop_unfinished(&mut self, now: Time) {
        for id in self.assembly.expire(now) {
            if id & MESSAGE_ID == 0 {
                self.refuse_unfinished(now, CallId(id));
            } else {
                let dropped = Event::Dropped(DropReason::Unfinished);
                self.events.push_back(dropped);
            }
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(super) fn drain(&mut self, now: Time, grace: Duration) {
        if self.drain != Drain::No || self.phase == Phase::Closed {
            return;
        }
        if self.is_opening() {
            self.refuse_draining();
            return self.close(now, CloseReason::Drained);
        }
        let end = now + grace;
        if self.serves {
            self.send_go_away(now, 1, end);
            self.drain_ping = Some(self.send_ping(now));
            let second = (now + DRAIN_PHASE_MAX).min(end);
            self.drain = Drain::First { second, end };
        } else {
            // The client needs to ask nobody: it sends no new calls and leaves when the last has
            // ended.
            self.drain = Drain::Second { end };
        }
        self.continue_drain(now);
    }

    fn send_go_away(&mut self, now: Time, phase: u32, end: Time) {
        let millis = u32::try_from(end.since(now).as_millis()).unwrap_or(u32::MAX);
        let head = Head::new(Kind::GoAway)
            .with_id(phase)
            .with_arg(millis)
            .with_route(1);
        let mut body = vec![self.drain_retry.to_wire()];
        body.extend_from_slice(self.parting_words().as_bytes());
        self.outbox.push_control(head, &body);
    }

    /// Why the client is asked to leave.
    fn parting_words(&self) -> &'static str {
        match &self.idle {
            Some(idle) if idle.is_over() => "the connection was idle for too long",
            _ => "the server is shutting down",
        }
    }

    /// Why a drain ends.
    fn drained(&self) -> CloseReason {
        match self.config.idle {
            Some(time) if self.idle.as_ref().is_some_and(|idle| idle.is_over()) => {
                CloseReason::Idle(time)
            }
            _ => CloseReason::Drained,
        }
    }

    /// Asks a client to leave that has had nothing to say for too long.
    fn look_whether_idle(&mut self, now: Time) {
        let (is_busy, offset) = (self.in_flight() > 0, self.offset);
        let is_draining = self.drain != Drain::No;
        let Some(idle) = &mut self.idle else { return };
        let seen = offset.wrapping_sub(idle.heartbeats);
        if idle.look(now, seen, is_busy || is_draining).is_some() {
            // It may come again, also to this server.
            self.drain_retry = Retry::Here;
            self.drain(now, 2 * DRAIN_PHASE_MAX);
        }
    }

    /// Ends a connection that holds too much, and lets go what it holds.
    pub(super) fn make_room(&mut self, now: Time, held: usize) {
        if self.phase == Phase::Closed {
            return;
        }
        self.outbox.clear();
        if self.phase == Phase::Open {
            let mut body = vec![Retry::Elsewhere.to_wire()];
            body.extend_from_slice(Shortage::Memory.text().as_bytes());
            let head = Head::new(Kind::GoAway).with_id(2).with_route(1);
            self.outbox.push_control(head, &body);
        }
        self.close(now, CloseReason::Memory(held));
    }

    fn continue_drain(&mut self, now: Time) {
        if let Drain::First { second, end } = self.drain
            && (second <= now || self.drain_ping.is_none())
        {
            self.send_go_away(now, 2, end);
            self.drain = Drain::Second { end };
        }
        let done = self.in_flight() == 0;
        match self.drain {
            // Requests may be on their way that were sent before GOAWAY was read: the client ends
            // the connection when it has all its answers, and only one that does not is cut.
            Drain::Second { end } if done && self.serves && end > now => {
                let end = end.min(now + DRAIN_PHASE_MAX);
                self.drain = Drain::Second { end };
            }
            Drain::Second { end } if done || end <= now => self.close(now, self.drained()),
            Drain::Told if done => self.close(now, CloseReason::Drained),
            _ => {}
        }
    }

    #[inline]
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        next_event(&mut self.events)
    }

    #[inline]
    pub(super) fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        self.outbox.transmit(out)
    }

    pub(super) fn unsent_before(&self, priority: u8) -> usize {
        self.outbox.len_before(priority)
    }

    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.outbox.has_output()
    }

    #[inline]
    pub(super) fn wants_read(&self) -> bool {
        self.has_room() && self.events.len() < EVENTS_MAX
    }

    pub(super) fn has_room(&self) -> bool {
        // Only what the peer has made grow keeps this end from reading. An end that stopped for
        // calls of its own would wait for a peer that waits for it, so where it may call, its
        // queues do not count, though answers may be among them: these are bounded by
        // `outbox_max`.
        let provoked = if self.may_call() {
            self.outbox.control_len()
        } else {
            self.outbox.len()
        };
        provoked < self.config.limits.outbox_pause
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    pub(super) fn route_name(&self, number: u16) -> Option<&Arc<str>> {
        let callee = self.callee.as_ref()?;
        callee.routes.get(usize::from(number))?.as_ref()
    }

    pub(super) fn calls_in_flight(&self) -> usize {
        let caller = self.caller.as_ref();
        caller.map_or(0, |caller| caller.slots.in_flight())
    }

    pub(super) fn requests_in_flight(&self) -> usize {
        let callee = self.callee.as_ref();
        callee.map_or(0, |callee| callee.slots.in_flight())
    }

    pub(super) fn has_heard(&self) -> bool {
        self.liveness.has_heard()
    }

    pub(super) fn late_answers(&self) -> u64 {
        self.caller.as_ref().map_or(0, |caller| caller.slots.late)
    }

    #[inline]
    pub(super) fn held(&self) -> usize {
        self.outbox.len() + self.assembly.bytes()
    }

    pub(super) fn memory(&self) -> usize {
        let caller = self.caller.as_ref();
        let routes_out = caller.map_or(0, |caller| caller.routes.len());
        let routes_in = self.callee.iter().flat_map(|callee| &callee.routes);
        let bytes_of = |name: &Option<Arc<str>>| 64 + name.as_ref().map_or(0, |name| name.len());
        let routes = routes_in.map(bytes_of).sum::<usize>() + routes_out * 64;
        let events = self.events.len() * size_of::<Event>();
        let calls = self.in_flight() * 160;
        size_of::<Self>() + self.outbox.len() + self.assembly.bytes() + routes + events + calls
    }
}

impl Timers for Native {
    #[inline]
    fn due(&self, timer: Timer) -> Time {
        match (self.phase, timer) {
            (Phase::Opening(due) | Phase::Judging(due), Timer::Handshake) => return due,
            (Phase::Opening(_) | Phase::Judging(_) | Phase::Closed, _) => return Time::NEVER,
            (Phase::Open, _) => {}
        }
        let (caller, callee) = (self.caller.as_ref(), self.callee.as_ref());
        match timer {
            // A native session is told of no fault late, and its opening is over.
            Timer::LateFault | Timer::Handshake => Time::NEVER,
            Timer::WriteStall => self.liveness.write_stall_due(&self.config),
            Timer::ReadStall => self.liveness.read_stall_due(&self.config),
            Timer::CallDeadlines => caller.map_or(Time::NEVER, |caller| caller.slots.deadline()),
            Timer::RequestDeadlines => callee.map_or(Time::NEVER, |callee| callee.slots.deadline()),
            Timer::Drain => match self.drain {
                Drain::First { second, .. } => second,
                Drain::Second { end } => end,
                Drain::No | Drain::Told => Time::NEVER,
            },
            Timer::Idle => self.idle.as_ref().map_or(Time::NEVER, |idle| idle.due()),
            // Once in a heartbeat's interval, so that a busy connection hardly ever has to take the
            // memory again.
            Timer::ReleaseMemory | Timer::Heartbeat => self.liveness.heartbeat_due(),
        }
    }

    fn fire(&mut self, now: Time, timer: Timer) {
        match timer {
            Timer::LateFault => {}
            Timer::Handshake => match self.phase {
                // A process that was stopped meanwhile looks once more; see `Liveness::stalled`.
                Phase::Opening(due) if now.since(due) >= LATE_MIN => {
                    self.phase = Phase::Opening(now + GRACE);
                }
                Phase::Judging(due) if now.since(due) >= LATE_MIN => {
                    self.phase = Phase::Judging(now + GRACE);
                }
                _ => self.close(now, CloseReason::HandshakeTimeout(self.config.handshake)),
            },
            Timer::WriteStall | Timer::ReadStall => {
                if let Some(reason) = self.liveness.stalled(now, &self.config) {
                    self.close(now, reason);
                }
            }
            Timer::CallDeadlines => self.expire_calls(now),
            Timer::RequestDeadlines => self.expire_requests(now),
            Timer::Drain => self.continue_drain(now),
            Timer::Idle => self.look_whether_idle(now),
            // The heartbeat, which is due at the same time, moves both.
            Timer::ReleaseMemory => {
                self.drop_unfinished(now);
                self.release_memory();
            }
            Timer::Heartbeat => self.beat(now),
        }
    }
}
