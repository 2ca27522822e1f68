//! Thousands of seeded conversations over bad wires. A seed decides latency, jitter, the size of
//! pieces, cuts at any byte, silence, flipped bits, peers that do not read, whole connections
//! delivered twice and in another order, and what handlers do. The seed that failed is printed;
//! `POSTROAD_SIM_SEED=N` runs it alone, `POSTROAD_SIM_SEEDS=N` runs more of them.
//!
//! Invariants: no reply reaches the wrong call, every call ends exactly once, no request starts
//! past its deadline, memory stays under the written bound.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{Conditions, End, Pair, call};
use bytes::{BufMut, Bytes, BytesMut};
use postroad_proto::Time;
use postroad_proto::code::Code;
use postroad_proto::dialect::{Dialect, DialectCodec, Reader};
use postroad_proto::error_body::ErrorBody;
use postroad_proto::limits::Limits;
use postroad_proto::policy::Random;
use postroad_proto::session::{
    Arrivals, CallId, Config, DialectConfig, Event, Failure, Mapping, Reply, Request, SINK_ROOM,
    Session, Sink,
};

const SEEDS: u64 = 4000;

/// Calls that ended, and those of them that had their reply: a simulation in which nothing happens
/// proves nothing.
static ENDED: AtomicU64 = AtomicU64::new(0);
static ANSWERED: AtomicU64 = AtomicU64::new(0);
/// How often a session stopped decoding because its sink was full.
static STOPPED: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    CutToServer,
    CutToClient,
    SilentServer,
    SilentClient,
    FlippedBit,
    ClientReadsNothing,
    Drain,
}

const FAULTS: [Fault; 8] = [
    Fault::None,
    Fault::CutToServer,
    Fault::CutToClient,
    Fault::SilentServer,
    Fault::SilentClient,
    Fault::FlippedBit,
    Fault::ClientReadsNothing,
    Fault::Drain,
];

/// One connection's story.
struct Story {
    pair: Pair,
    random: Random,
    outstanding: HashMap<CallId, (u64, Time)>,
    /// Answers that the server's handlers will give, and when.
    working: VecDeque<(Time, Request)>,
    next: u64,
    finished: u64,
    limits: Limits,
}

fn limits() -> Limits {
    Limits {
        max_calls: 64,
        max_message: 256 * 1024,
        outbox_max: 4 << 20,
        assembly_max: 1 << 20,
        max_dialect_payload: 64 * 1024,
        ..Limits::default()
    }
}

fn millis(random: &mut Random, most: u64) -> Duration {
    Duration::from_millis(random.below(most))
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let now = Time(1_000_000_000 + random.below(1 << 40));
        let config = Config {
            limits: limits(),
            heartbeat: Duration::from_millis(50 + random.below(500)),
            handshake: Duration::from_secs(1),
            read_stall: Duration::from_secs(1),
            write_stall: Duration::from_secs(1),
            ..Config::default()
        };
        let dialect = [
            None,
            None,
            None,
            Some(Dialect::Sequence),
            Some(Dialect::Compact),
            Some(Dialect::Priority),
        ][random.below(6) as usize];
        let (client, server) = match dialect {
            None => (
                Session::client(config.clone(), now),
                Session::server(config.clone(), [0; 16], now),
            ),
            Some(dialect) => {
                let mut codec = DialectCodec::new(dialect, Reader::Client);
                codec.max_payload = config.limits.max_dialect_payload;
                let dialect = DialectConfig {
                    codec,
                    mapping: Mapping::default().into(),
                };
                let client = Session::dialect_client(config.clone(), dialect.clone(), now);
                (
                    client,
                    Session::dialect_server(config.clone(), dialect, now),
                )
            }
        };
        let mut pair = Pair::of(client, server, now, random.bits());
        // Half of the stories have a sink as large as the driver's, the others a small one.
        for end in [&mut pair.client, &mut pair.server] {
            let room = if random.below(2) == 0 {
                SINK_ROOM
            } else {
                1 + random.below(SINK_ROOM as u64) as usize
            };
            end.arrivals = Arrivals::new(room);
        }
        pair.conditions = Conditions {
            latency: millis(&mut random, 30),
            jitter: millis(&mut random, 20),
            piece_max: 1 << (3 + random.below(14)),
        };
        let (outstanding, working) = (HashMap::new(), VecDeque::new());
        Self {
            pair,
            random,
            outstanding,
            working,
            next: 1,
            finished: 0,
            limits: config.limits,
        }
    }

    fn call_something(&mut self) {
        let len = match self.random.below(20) {
            0 => self.random.below(60_000),
            1 => self.random.below(2_000),
            _ => self.random.below(64),
        };
        let mut payload = BytesMut::with_capacity(len as usize + 8);
        payload.put_u64(self.next);
        payload.put_bytes(self.next as u8, len as usize);
        let payload = payload.freeze();
        let deadline = self.pair.now + Duration::from_millis(1 + self.random.below(800));
        let routes = ["a", "b", "service/method"];
        let route = routes[self.random.below(3) as usize];
        let mut spec = call(route, &payload, deadline);
        spec.priority = self.random.below(8) as u8;
        if self.random.below(8) == 0 {
            let _ = self.pair.client.session.send(self.pair.now, &spec);
        } else if let Ok(id) = self.pair.client.session.call(self.pair.now, &spec) {
            let older = self.outstanding.insert(id, (self.next, deadline));
            assert_eq!(older, None, "an id was given to two live calls");
        }
        self.next += 1;
    }

    fn serve(&mut self) {
        while let Some(request) = self.pair.request() {
            assert!(
                request.deadline > self.pair.now,
                "started past its deadline"
            );
            let at = self.pair.now + millis(&mut self.random, 40);
            if request.id.is_some() && self.random.below(10) > 0 {
                self.working.push_back((at, request));
            }
        }
        while let Some(event) = self.pair.server.events.pop_front() {
            if let Event::Cancelled(id, _) = event {
                self.working.retain(|(_, request)| request.id != Some(id));
            }
        }
        let now = self.pair.now;
        let (due, later) = self.working.drain(..).partition(|(at, _)| *at <= now);
        self.working = later;
        let due: VecDeque<(Time, Request)> = due;
        for (_, request) in due {
            let Some(id) = request.id else { continue };
            let answer = match self.random.below(10) {
                0 => Err(ErrorBody::new(Code::INTERNAL, "as the seed says")),
                _ => Ok(Reply {
                    codec: 0,
                    payload: request.payload,
                }),
            };
            self.pair.server.session.respond(now, id, answer);
        }
    }

    fn collect(&mut self) {
        self.pair.client.events.clear();
        while let Some((id, result)) = self.pair.client.finished.pop_front() {
            let ended = self.outstanding.remove(&id);
            let (number, _) = ended.expect("a call ended that was not in flight");
            self.finished += 1;
            ENDED.fetch_add(1, Ordering::Relaxed);
            ANSWERED.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
            if let Ok(Reply { payload, .. }) = result {
                let found = payload
                    .first_chunk::<8>()
                    .map(|bytes| u64::from_be_bytes(*bytes));
                assert_eq!(found, Some(number), "a reply reached the wrong call");
                assert!(
                    payload[8..].iter().all(|byte| *byte == number as u8),
                    "a torn reply"
                );
            } else if let Err(Failure::Remote(error)) = result {
                assert!(!error.causes.is_empty());
            }
        }
    }

    fn strike(&mut self, fault: Fault) {
        let at = self.random.below(3000) as usize;
        match fault {
            Fault::None => {}
            Fault::CutToServer => {
                let cut = self.pair.to_server.recorded.len() + at;
                self.pair.to_server.cut_after = Some(cut);
            }
            Fault::CutToClient => {
                let cut = self.pair.to_client.recorded.len() + at;
                self.pair.to_client.cut_after = Some(cut);
            }
            Fault::SilentServer => self.pair.to_client.is_silent = true,
            Fault::SilentClient => self.pair.to_server.is_silent = true,
            // Where nothing is checked, nothing can be found.
            Fault::FlippedBit if self.pair.client.session.protocol() != "native" => {}
            Fault::FlippedBit => {
                let bit = 1 << self.random.below(8);
                let ends = [&mut self.pair.server, &mut self.pair.client];
                let [server, client] = ends;
                let end: &mut End = if at.is_multiple_of(2) { server } else { client };
                let byte = end.buf.len().checked_sub(1);
                byte.into_iter().for_each(|byte| end.buf[byte] ^= bit);
            }
            Fault::ClientReadsNothing => {
                self.pair.client.reads_nothing = true;
                self.pair.server.session.handle_written(self.pair.now, true);
            }
            Fault::Drain => self
                .pair
                .server
                .session
                .drain(self.pair.now, Duration::from_secs(1)),
        }
    }

    /// Jumps from event to event; handlers and callers act at each.
    fn run_for(&mut self, time: Duration) {
        let until = self.pair.now + time;
        loop {
            self.pair.step();
            self.serve();
            self.collect();
            self.pair.transmit();
            match self.pair.next_at() {
                Some(next) if next <= until => self.pair.now = self.pair.now.max(next),
                _ => break,
            }
        }
        self.pair.now = until;
    }

    /// Runs to the end; what the client sent, for replaying it.
    fn run(mut self, seed: u64) -> Vec<u8> {
        let fault = FAULTS[(seed % FAULTS.len() as u64) as usize];
        let strike_at = self.random.below(60);
        let flips = fault == Fault::FlippedBit;
        for turn in 0..80 {
            if turn == strike_at {
                self.strike(fault);
            }
            for _ in 0..self.random.below(6) {
                self.call_something();
            }
            if let Some(id) = self.outstanding.keys().next().copied()
                && self.random.below(6) == 0
            {
                self.pair.client.session.cancel(self.pair.now, id);
                self.outstanding.remove(&id);
            }
            let step = millis(&mut self.random, 12);
            self.run_for(step);
        }
        for _ in 0..400 {
            self.run_for(Duration::from_millis(20));
        }
        assert!(
            self.outstanding.is_empty(),
            "calls are left hanging: {:?}",
            self.outstanding
        );
        let bound = self.limits.memory_max();
        assert!(
            self.pair.memory_peak <= bound,
            "{} bytes, bound {bound}",
            self.pair.memory_peak
        );
        assert!(
            self.finished > 0 || fault != Fault::None || flips,
            "nothing happened"
        );
        let stops = self.pair.client.stops + self.pair.server.stops;
        STOPPED.fetch_add(stops as u64, Ordering::Relaxed);
        self.pair.to_server.recorded
    }
}

/// A whole connection's bytes once more, in other pieces, to a server that never met this client.
fn replay(recorded: &[u8], seed: u64) {
    let mut random = Random::new(seed);
    let mut now = Time(1 + random.below(1 << 50));
    let config = Config {
        limits: limits(),
        ..Config::default()
    };
    let mut session = Session::detect(config, Mapping::default().into(), [0; 16], now);
    let (mut buf, mut rest, mut out) = (BytesMut::new(), recorded, Vec::new());
    let mut arrivals = Arrivals::new(1 + random.below(SINK_ROOM as u64) as usize);
    while !rest.is_empty() && !session.is_closed() {
        let len = 1 + random.below(rest.len().min(5000) as u64) as usize;
        buf.extend_from_slice(&rest[..len]);
        rest = &rest[len..];
        loop {
            session.handle_bytes(now, &mut buf, &mut arrivals);
            let must_go_on = arrivals.room() == 0 && !buf.is_empty();
            for request in arrivals.requests.drain(..) {
                assert!(request.deadline > now, "started past its deadline");
                let reply = Reply {
                    codec: 0,
                    payload: request.payload,
                };
                // A CANCEL in the same piece has called it off already.
                let _ = request.id.map(|id| session.respond(now, id, Ok(reply)));
            }
            while session.poll_event().is_some() {}
            if !must_go_on {
                break;
            }
        }
        while session.poll_transmit(&mut out) {
            out.clear();
        }
        now = now + millis(&mut random, 5);
        session.handle_timeout(now);
    }
    assert!(session.memory() <= limits().memory_max());
}

fn run_seed(seed: u64) {
    let first = Story::new(seed).run(seed);
    let second = Story::new(seed ^ 0x5555_5555).run(seed + 1);
    // Both connections once more, the later one first.
    replay(&second, seed);
    replay(&first, seed + 1);
    replay(&[&first[..first.len() / 2], &second[..]].concat(), seed + 2);
}

#[test]
fn every_seed_keeps_the_invariants() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("POSTROAD_SIM_SEED") {
        return run_seed(seed);
    }
    let seeds = number("POSTROAD_SIM_SEEDS").unwrap_or(SEEDS);
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    std::thread::scope(|scope| {
        let failed: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || {
                    (worker..seeds).step_by(workers as usize).find(|&seed| {
                        let result = std::panic::catch_unwind(|| run_seed(seed));
                        result.is_err()
                    })
                })
            })
            .filter_map(|worker| worker.join().ok().flatten())
            .collect();
        assert!(
            failed.is_empty(),
            "failed with POSTROAD_SIM_SEED={failed:?}"
        );
    });
    let (ended, answered) = (
        ENDED.load(Ordering::Relaxed),
        ANSWERED.load(Ordering::Relaxed),
    );
    println!("{seeds} seeds: {ended} calls ended, {answered} of them with their reply");
    let stopped = STOPPED.load(Ordering::Relaxed);
    println!("the sinks were full {stopped} times");
    assert!(
        answered > 20 * seeds && ended - answered > seeds && stopped > seeds / 4,
        "too little happened"
    );
}

#[test]
fn a_wire_that_carries_a_byte_at_a_time_changes_nothing() {
    let mut pair = Pair::new(Config::default(), Config::default());
    pair.conditions.piece_max = 1;
    pair.run_for(Duration::from_secs(1));
    let deadline = pair.now + Duration::from_secs(5);
    let payload = Bytes::from(vec![3; 100_000]);
    let spec = call("x", &payload, deadline);
    let id = pair
        .client
        .session
        .call(pair.now, &spec)
        .expect("the session is open");
    pair.run_for(Duration::from_millis(100));
    assert_eq!(pair.echo_all(), 1);
    pair.run_for(Duration::from_millis(100));
    let reply = pair
        .finished(id)
        .and_then(Result::ok)
        .expect("the echo has come");
    assert_eq!(reply.payload, payload);
}
