//! Two sessions, a wire between them, and a clock that jumps: every fault a seed can think of.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test uses the part that it needs"
)]

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postroad_proto::Time;
use postroad_proto::frame::{Head, put_frame};
use postroad_proto::policy::Random;
use postroad_proto::session::{
    Arrivals, Call, CallId, CloseReason, Config, Event, Failure, Reply, Request, SINK_ROOM,
    Session, Sink,
};
use postroad_proto::wire_error::WireFault;

/// One direction of a wire: pieces and when they arrive.
#[derive(Debug, Default)]
pub struct Wire {
    pieces: VecDeque<(Time, Bytes)>,
    /// Everything that ever went in, for replaying it.
    pub recorded: Vec<u8>,
    pub end_at: Option<Time>,
    /// Swallows what is sent: the other end hears nothing any more.
    pub is_silent: bool,
    carried: usize,
    /// Cuts the wire after this many bytes.
    pub cut_after: Option<usize>,
}

/// How a wire treats what it carries.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    pub latency: Duration,
    pub jitter: Duration,
    /// Largest piece that arrives at once; smaller ones are drawn.
    pub piece_max: usize,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1),
            jitter: Duration::ZERO,
            piece_max: usize::MAX,
        }
    }
}

impl Wire {
    /// Carries bytes, in order, in pieces that a seed decides.
    pub fn send(&mut self, now: Time, bytes: &[u8], conditions: Conditions, random: &mut Random) {
        self.recorded.extend_from_slice(bytes);
        if self.is_silent || self.end_at.is_some() {
            return;
        }
        let mut bytes = bytes;
        if let Some(cut) = self.cut_after
            && self.carried + bytes.len() >= cut
        {
            bytes = &bytes[..cut - self.carried];
            self.end_at = Some(now + conditions.latency);
        }
        self.carried += bytes.len();
        while !bytes.is_empty() {
            let most = bytes.len().min(conditions.piece_max);
            let len = 1 + random.below(most as u64) as usize;
            let jitter = random.below(conditions.jitter.as_nanos() as u64 + 1);
            let at = now + conditions.latency + Duration::from_nanos(jitter);
            let at = self.pieces.back().map_or(at, |(last, _)| at.max(*last));
            self.pieces
                .push_back((at, Bytes::copy_from_slice(&bytes[..len])));
            bytes = &bytes[len..];
        }
    }

    fn next_at(&self) -> Option<Time> {
        let piece = self.pieces.front().map(|(at, _)| *at);
        piece.or(self.end_at)
    }
}

/// One session, what arrived for it that it has not taken yet, and what it has handed out.
///
/// It treats its session as the real driver does: requests and answers go through a bounded sink,
/// bytes that find no room there stay in the buffer and are handed in again once the sink is
/// empty, and requests are started only while their answers find room.
#[derive(Debug)]
pub struct End {
    pub session: Session,
    pub buf: BytesMut,
    /// The sink; what is in it was handed over and not started.
    pub arrivals: Arrivals,
    /// Requests to start, in their order.
    pub requests: VecDeque<Request>,
    /// How calls of this end have ended.
    pub finished: VecDeque<(CallId, Result<Reply, Failure>)>,
    /// Everything else that has happened.
    pub events: VecDeque<Event>,
    /// How often the sink was full.
    pub stops: usize,
    pub ended: bool,
    /// Takes nothing from the wire and so lets the peer's writes block.
    pub reads_nothing: bool,
}

impl End {
    pub fn new(session: Session) -> Self {
        Self {
            session,
            buf: BytesMut::new(),
            arrivals: Arrivals::new(SINK_ROOM),
            requests: VecDeque::new(),
            finished: VecDeque::new(),
            events: VecDeque::new(),
            stops: 0,
            ended: false,
            reads_nothing: false,
        }
    }

    /// Hands the buffer to the session, again for as long as it stopped only because the sink was
    /// full.
    pub fn take_bytes(&mut self, now: Time) {
        loop {
            let room = self.arrivals.room();
            let before = (self.arrivals.requests.len(), self.arrivals.finished.len());
            self.session
                .handle_bytes(now, &mut self.buf, &mut self.arrivals);
            let requests = self.arrivals.requests.len() - before.0;
            let answers = self.arrivals.finished.len() - before.1;
            assert!(
                requests.max(answers) <= room,
                "{requests} requests, {answers} answers, room for {room}"
            );
            let is_full = self.arrivals.room() == 0;
            self.take_events(now);
            self.stops += usize::from(is_full);
            if !is_full || self.buf.is_empty() || self.arrivals.room() == 0 {
                return;
            }
        }
    }

    /// Takes out what has happened, and starts requests while their answers find room.
    fn take_events(&mut self, now: Time) {
        self.finished.extend(self.arrivals.finished.drain(..));
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Failed(id, failure) => self.finished.push_back((id, Err(failure))),
                event => {
                    if let Event::Cancelled(id, _) = &event {
                        self.arrivals.forget(*id);
                    }
                    self.events.push_back(event);
                }
            }
        }
        if self.session.has_room() {
            // A one-way message that waited in the sink may be late by now; nobody is told.
            let started = self.arrivals.requests.drain(..);
            self.requests
                .extend(started.filter(|request| request.deadline > now));
        }
    }

    /// Whether bytes wait that the session would take now.
    fn must_take(&self) -> bool {
        !self.buf.is_empty() && self.session.wants_read() && self.arrivals.room() > 0
    }
}

/// A client and a server.
#[derive(Debug)]
pub struct Pair {
    pub now: Time,
    pub client: End,
    pub server: End,
    pub to_server: Wire,
    pub to_client: Wire,
    pub conditions: Conditions,
    pub random: Random,
    pub memory_peak: usize,
}

impl Pair {
    pub fn new(client: Config, server: Config) -> Self {
        let now = Time(1_000_000_000);
        Self::of(
            Session::client(client, now),
            Session::server(server, [0; 16], now),
            now,
            1,
        )
    }

    pub fn of(client: Session, server: Session, now: Time, seed: u64) -> Self {
        Self {
            now,
            client: End::new(client),
            server: End::new(server),
            to_server: Wire::default(),
            to_client: Wire::default(),
            conditions: Conditions::default(),
            random: Random::new(seed),
            memory_peak: 0,
        }
    }

    /// A pair that has shaken hands.
    pub fn opened(client: Config, server: Config) -> Self {
        let mut pair = Self::new(client, server);
        pair.run_for(Duration::from_millis(20));
        assert!(
            matches!(pair.client.events.pop_front(), Some(Event::Opened(_))),
            "{pair:?}"
        );
        assert!(matches!(
            pair.server.events.pop_front(),
            Some(Event::Opened(_))
        ));
        pair
    }

    /// Writes what both ends have to write.
    pub fn transmit(&mut self) {
        let (mut out, conditions) = (Vec::new(), self.conditions);
        while self.client.session.poll_transmit(&mut out) {
            self.to_server
                .send(self.now, &out, conditions, &mut self.random);
            out.clear();
        }
        while self.server.session.poll_transmit(&mut out) {
            self.to_client
                .send(self.now, &out, conditions, &mut self.random);
            out.clear();
        }
        for (end, wire) in [
            (&self.client, &mut self.to_server),
            (&self.server, &mut self.to_client),
        ] {
            if end.session.is_closed() && wire.end_at.is_none() {
                wire.end_at = Some(self.now + conditions.latency);
            }
        }
        let memory = self
            .client
            .session
            .memory()
            .max(self.server.session.memory());
        self.memory_peak = self.memory_peak.max(memory);
    }

    /// Delivers what has arrived by now.
    fn deliver(&mut self) {
        for (wire, end) in [
            (&mut self.to_server, &mut self.server),
            (&mut self.to_client, &mut self.client),
        ] {
            while !end.reads_nothing && wire.pieces.front().is_some_and(|(at, _)| *at <= self.now) {
                if let Some((_, bytes)) = wire.pieces.pop_front() {
                    end.buf.extend_from_slice(&bytes);
                    end.take_bytes(self.now);
                }
            }
            if end.must_take() {
                end.take_bytes(self.now);
            }
            let is_over = wire.pieces.is_empty() && wire.end_at.is_some_and(|at| at <= self.now);
            if is_over && !end.ended {
                end.ended = true;
                end.session.handle_end(self.now, &end.buf, None);
            }
            end.take_events(self.now);
        }
    }

    /// The next moment at which anything can happen.
    pub fn next_at(&self) -> Option<Time> {
        let wires = [&self.to_server, &self.to_client]
            .into_iter()
            .zip([&self.server, &self.client])
            .filter(|(wire, end)| !(end.ended || end.reads_nothing && !wire.pieces.is_empty()))
            .filter_map(|(wire, _)| wire.next_at());
        let timers = [
            self.client.session.poll_timeout(),
            self.server.session.poll_timeout(),
        ];
        wires.chain(timers.into_iter().flatten()).min()
    }

    /// Everything that happens at this moment.
    pub fn step(&mut self) {
        self.transmit();
        self.deliver();
        for end in [&mut self.client, &mut self.server] {
            if end.session.poll_timeout().is_some_and(|at| at <= self.now) {
                end.session.handle_timeout(self.now);
            }
            end.take_events(self.now);
        }
        self.transmit();
    }

    /// Jumps from one event to the next until `time` has passed.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.step();
            match self.next_at() {
                Some(next) if next <= until => self.now = self.now.max(next),
                _ => break,
            }
        }
        self.now = until;
        self.step();
    }

    pub fn call(&mut self, payload: &'static [u8], timeout: Duration) -> Result<CallId, Failure> {
        let deadline = self.now + timeout;
        let payload = Bytes::from_static(payload);
        self.client
            .session
            .call(self.now, &call("echo", &payload, deadline))
    }

    /// The next request that the server was given.
    pub fn request(&mut self) -> Option<Request> {
        self.server.requests.pop_front()
    }

    /// How the client's call ended, if it has.
    pub fn finished(&mut self, id: CallId) -> Option<Result<Reply, Failure>> {
        let finished = &mut self.client.finished;
        let at = finished.iter().position(|(found, _)| *found == id)?;
        finished.remove(at).map(|(_, result)| result)
    }

    /// Answers every request that the server has with its own payload.
    pub fn echo_all(&mut self) -> usize {
        let mut echoed = 0;
        while let Some(request) = self.request() {
            if let Some(id) = request.id {
                let reply = Reply {
                    codec: request.codec,
                    payload: request.payload,
                };
                self.server.session.respond(self.now, id, Ok(reply));
                echoed += 1;
            }
        }
        echoed
    }
}

pub fn call<'a>(route: &'a str, payload: &'a Bytes, deadline: Time) -> Call<'a> {
    Call {
        route,
        payload,
        codec: 0,
        priority: 3,
        deadline,
        attempt: 0,
        no_retry: false,
        trace: None,
        metadata: &[],
    }
}

/// Why an end was closed, if it was.
pub fn closed(end: &End) -> Option<&CloseReason> {
    end.events.iter().find_map(|event| match event {
        Event::Closed(reason) => Some(reason),
        _ => None,
    })
}

/// A pair with default settings that has shaken hands.
pub fn opened() -> Pair {
    Pair::opened(Config::default(), Config::default())
}

/// Sends a frame that the client's session would never send.
pub fn inject(pair: &mut Pair, head: Head, parts: &[u8], payload: &[u8]) {
    let mut out = Vec::new();
    put_frame(&mut out, head, parts, payload, true);
    let conditions = pair.conditions;
    pair.to_server
        .send(pair.now, &out, conditions, &mut pair.random);
    pair.run_for(Duration::from_millis(5));
}

/// What the server found wrong.
pub fn protocol_fault(pair: &Pair) -> Option<WireFault> {
    match closed(&pair.server) {
        Some(CloseReason::Protocol(error)) => Some(error.fault),
        _ => None,
    }
}
