//! The generator: threads that make calls, each with its own runtime, connections and recorder.

mod closed;
mod line;
mod open;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad::Bytes;
use rustix::process::{Resource, getrlimit};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use crate::error::Error;
use crate::plan::mix::Dice;
use crate::plan::schedule::Schedule;
use crate::plan::{IN_FLIGHT_MAX, Part, Payload, Plan, Shape};
use crate::record::gather::Gather;
use crate::record::losses::Losses;
use crate::record::{Chunk, Recorder, Sent, nanos};
use crate::targets::postroad::Postroad;
use crate::targets::{Call, Connection, Target};

/// Intervals of all threads that wait for being gathered.
const CHUNKS_WAITING: usize = 64;

/// Connections that a thread dials at once.
const DIALLED: usize = 64;

/// Open files that are not connections: reports, timers and event queues of threads, libraries.
const FILES_BESIDE: u64 = 64;

/// Tasks that have their turn before sockets are looked at again, if so many can go on: as many
/// connections may have answers to take.
const TURNS: u32 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// Since when.
    Running(Instant),
    /// Calls in flight are dropped, and count as nothing.
    Stopped,
}

enum FromThread {
    Chunk(Box<Chunk>),
    Ended {
        losses: Losses,
        /// Why its load ended before its time, if nobody asked for that.
        gave_up: Option<String>,
    },
}

/// Threads that are connected and wait for the start, or make calls.
pub(crate) struct Generator {
    phase: watch::Sender<Phase>,
    received: mpsc::Receiver<(usize, FromThread)>,
    gather: Gather,
    running: usize,
    losses: Losses,
    /// Why a part of the load is missing, if it is.
    gave_up: Option<String>,
}

impl Generator {
    /// Starts the threads and connects them all.
    pub(crate) async fn prepare(plan: &Arc<Plan>) -> Result<Self, Error> {
        check_open_files(plan)?;
        Self::prepare_for(plan, &Postroad::new(plan)?).await
    }

    /// The same for one kind of target, for which the compiler makes the whole engine.
    async fn prepare_for(plan: &Arc<Plan>, target: &impl Target) -> Result<Self, Error> {
        let threads = plan.threads as usize;
        let (phase, phases) = watch::channel(Phase::Waiting);
        let (sender, received) = mpsc::channel(CHUNKS_WAITING);
        let mut connected = Vec::new();
        for number in 0..threads {
            let (ready, is_ready) = oneshot::channel();
            let (plan, target, phases) = (Arc::clone(plan), target.clone(), phases.clone());
            let chunks = Chunks {
                number,
                sender: sender.clone(),
            };
            let name = format!("load {number}");
            std::thread::Builder::new()
                .name(name)
                .spawn(move || generate(&plan, &target, ready, phases, &chunks))?;
            connected.push(is_ready);
        }
        for is_ready in connected {
            let gone = |_| io::Error::other("it has ended");
            is_ready.await.map_err(gone)??;
        }
        Ok(Self {
            phase,
            received,
            gather: Gather::new(threads),
            running: threads,
            losses: Losses::default(),
            gave_up: None,
        })
    }

    /// Begins the load now.
    pub(crate) fn start(&self) -> Instant {
        let now = Instant::now();
        self.phase.send_replace(Phase::Running(now));
        now
    }

    /// Ends the load now.
    pub(crate) fn stop(&self) {
        self.phase.send_replace(Phase::Stopped);
    }

    /// The next interval of all threads; none when the load is over. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Chunk> {
        loop {
            if let Some(chunk) = self.gather.next() {
                return Some(chunk);
            }
            if self.running == 0 {
                return None;
            }
            let (number, message) = self.received.recv().await?;
            self.take(number, message);
        }
    }

    fn take(&mut self, number: usize, message: FromThread) {
        match message {
            FromThread::Chunk(chunk) => self.gather.add(number, *chunk),
            FromThread::Ended { losses, gave_up } => {
                self.gather.ended(number);
                self.running -= 1;
                self.losses += losses;
                let gave_up = gave_up.map(|why| format!("load thread {number} gave up: {why}"));
                self.gave_up = self.gave_up.take().or(gave_up);
            }
        }
    }

    /// Waits no longer for threads that have not reported everything.
    pub(crate) fn give_up(&mut self) {
        while let Ok((number, message)) = self.received.try_recv() {
            self.take(number, message);
        }
        for number in 0..self.gather.sources() {
            if !self.gather.has_ended(number) {
                let why = "it had not reported everything when the run was given up";
                self.take(
                    number,
                    FromThread::Ended {
                        losses: Losses::default(),
                        gave_up: Some(why.to_owned()),
                    },
                );
            }
        }
    }

    /// Why a part of the load is missing, if it is.
    pub(crate) fn gave_up(&self) -> Option<String> {
        self.gave_up.clone()
    }

    /// Connections that were lost, when the load is over.
    pub(crate) fn losses(&self) -> Losses {
        self.losses
    }
}

/// Says before the first connection is made that not all can be made: each is an open file of this
/// process, and the system bounds those.
fn check_open_files(plan: &Plan) -> Result<(), Error> {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return Ok(());
    };
    let parts = (0..plan.threads).map(|thread| plan.part(thread));
    let connections: u64 = parts.map(|part| part.share(plan.connections.into())).sum();
    if plan.url.starts_with("mem:") || connections + FILES_BESIDE <= limit {
        return Ok(());
    }
    Err(Error::OpenFiles {
        connections,
        limit,
        connections_max: limit.saturating_sub(FILES_BESIDE),
    })
}

/// Where a thread sends what it has recorded.
struct Chunks {
    number: usize,
    sender: mpsc::Sender<(usize, FromThread)>,
}

impl Chunks {
    async fn send(&self, message: FromThread) {
        // Without a receiver nobody wants to know.
        let _ = self.sender.send((self.number, message)).await;
    }
}

impl Drop for Chunks {
    /// Nobody has to wait for a thread that has panicked.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ended = FromThread::Ended {
                losses: Losses::default(),
                gave_up: Some("it panicked".to_owned()),
            };
            let _ = self.sender.blocking_send((self.number, ended));
        }
    }
}

/// What the calls of a thread need.
struct Thread<C> {
    /// When the load began.
    begin: Instant,
    connections: Vec<C>,
    plan: Arc<Plan>,
    bodies: Vec<Bytes>,
    /// Next line of a file of payloads, and how many threads share them.
    line: Cell<usize>,
    lines_apart: usize,
    dice: RefCell<Dice>,
    /// The priority and deadline of every call, if there is nothing to choose.
    always: Option<(u8, Duration)>,
    /// Measured calls that may still be made.
    calls_left: Cell<u64>,
    /// How often a connection was lost.
    lost: Cell<u64>,
    recorder: Recorder,
}

/// A call that has to wait before it can be made.
struct KeptCall {
    body: Bytes,
    priority: u8,
    timeout: Duration,
}

impl KeptCall {
    fn of(call: &Call<'_>) -> Self {
        Self {
            body: call.body.clone(),
            priority: call.priority,
            timeout: call.timeout,
        }
    }

    fn call(&self) -> Call<'_> {
        Call {
            body: &self.body,
            priority: self.priority,
            timeout: self.timeout,
        }
    }
}

/// What has to be known of a call when it has ended.
fn sent(call: &Call<'_>) -> Sent {
    Sent {
        bytes: call.body.len(),
        priority: call.priority,
    }
}

impl<C: Connection> Thread<C> {
    fn new(begin: Instant, connections: Vec<C>, plan: &Arc<Plan>, part: Part) -> Self {
        let bodies = plan.payload.bodies();
        Self {
            begin,
            connections,
            plan: Arc::clone(plan),
            always: always(plan, &bodies),
            line: Cell::new(part.number as usize % bodies.len()),
            lines_apart: part.of as usize,
            bodies,
            dice: RefCell::new(Dice::new(plan.seed, u64::from(part.number) + 1)),
            calls_left: Cell::new(plan.calls.map_or(u64::MAX, |calls| part.share(calls))),
            lost: Cell::new(0),
            recorder: Recorder::new(
                plan.warmup,
                plan.duration,
                plan.interval,
                !plan.priority.is_single(),
            ),
        }
    }

    /// Nanoseconds since the load began.
    #[inline]
    fn now(&self) -> u64 {
        nanos(self.begin.elapsed())
    }

    /// The moment of so many nanoseconds since the load began.
    fn moment(&self, nanos: u64) -> tokio::time::Instant {
        (self.begin + Duration::from_nanos(nanos)).into()
    }

    /// Whether a call that is due then may be made; if so, it is.
    #[inline]
    fn takes(&self, due: u64) -> bool {
        self.takes_of(due, 1) > 0
    }

    /// How many of so many calls that are due then may be made; those are.
    #[inline]
    fn takes_of(&self, due: u64, calls: u64) -> u64 {
        if !self.recorder.counts(due) {
            return calls;
        }
        let left = self.calls_left.get();
        self.calls_left.set(left.saturating_sub(calls));
        calls.min(left)
    }

    #[inline]
    fn next_call(&self) -> Call<'_> {
        if let Some((priority, timeout)) = self.always {
            return Call {
                body: &self.bodies[0],
                priority,
                timeout,
            };
        }
        let mut dice = self.dice.borrow_mut();
        let number = match &self.plan.payload {
            Payload::Sizes(mix) => mix.pick(&mut dice),
            Payload::File { .. } => {
                let line = self.line.get();
                self.line.set((line + self.lines_apart) % self.bodies.len());
                line
            }
        };
        Call {
            body: &self.bodies[number],
            priority: *self.plan.priority.draw(&mut dice),
            timeout: *self.plan.timeout.draw(&mut dice),
        }
    }

    fn losses(&self) -> Losses {
        let is_lost = |connection: &&C| !C::is_connected(&connection.status().borrow());
        let at_end = self.connections.iter().filter(is_lost).count() as u64;
        Losses {
            // One that is lost right now may not have been counted yet.
            in_all: self.lost.get().max(at_end),
            at_end,
        }
    }

    /// Counts how often a connection is lost. The status says only what it is now, so this has to
    /// look each time that it changes; a connection is dialled again after a pause that is far
    /// longer than this task waits for its turn. Without an end.
    async fn count_losses(&self, connection: usize) {
        let mut status = self.connections[connection].status();
        let mut was_connected = true;
        loop {
            let is_connected = C::is_connected(&status.borrow_and_update());
            if was_connected && !is_connected {
                self.lost.set(self.lost.get() + 1);
            }
            was_connected = is_connected;
            if status.changed().await.is_err() {
                return;
            }
        }
    }
}

/// What a task has ended with, if it was not aborted. Its panic is not taken for its end.
fn pass_panic_on<T>(ended: Result<T, JoinError>) -> Option<T> {
    let error = match ended {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    if let Ok(panic) = error.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
    None
}

/// A thread's life.
fn generate<T: Target>(
    plan: &Arc<Plan>,
    target: &T,
    ready: oneshot::Sender<Result<(), Error>>,
    mut phases: watch::Receiver<Phase>,
    chunks: &Chunks,
) {
    let part = plan.part(chunks.number as u32);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(TURNS)
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error.into()))),
    };
    runtime.block_on(async {
        let share = part.share(plan.connections.into());
        match connect(target, share).await {
            Err(error) => drop(ready.send(Err(error))),
            Ok(connections) => {
                let _ = ready.send(Ok(()));
                let ended = load(plan, part, connections, &mut phases, chunks).await;
                chunks.send(ended).await;
                // What the kernel counts of a thread goes with it, and is still to be read.
                let _gone = phases.wait_for(|_| false).await;
            }
        }
    });
}

/// Makes so many connections.
async fn connect<T: Target>(target: &T, share: u64) -> Result<Vec<T::Connection>, Error> {
    let (mut connections, mut dialling) = (Vec::new(), JoinSet::new());
    for _ in 0..share {
        if dialling.len() >= DIALLED {
            connections.extend(dialled(&mut dialling).await?);
        }
        dialling.spawn_local(target.connect());
    }
    while let Some(connection) = dialled(&mut dialling).await? {
        connections.push(connection);
    }
    Ok(connections)
}

/// The next connection that is there.
async fn dialled<C: 'static>(dialling: &mut JoinSet<Result<C, Error>>) -> Result<Option<C>, Error> {
    match dialling.join_next().await.and_then(pass_panic_on) {
        Some(connected) => connected.map(Some),
        None => Ok(None),
    }
}

/// Waits for the start and makes calls until the end.
async fn load<C: Connection>(
    plan: &Arc<Plan>,
    part: Part,
    connections: Vec<C>,
    phases: &mut watch::Receiver<Phase>,
    chunks: &Chunks,
) -> FromThread {
    let mut gave_up = None;
    let started = phases.wait_for(|phase| *phase != Phase::Waiting).await;
    let begin = match started.as_deref() {
        Ok(Phase::Running(begin)) => *begin,
        _ => {
            return FromThread::Ended {
                losses: Losses::default(),
                gave_up,
            };
        }
    };
    drop(started);
    let thread = Rc::new(Thread::new(begin, connections, plan, part));
    // They end with this function.
    let mut counting = JoinSet::new();
    for connection in 0..thread.connections.len() {
        let thread = Rc::clone(&thread);
        counting.spawn_local(async move { thread.count_losses(connection).await });
    }
    // A task of its own is polled when it has something to do, not when the others have.
    let working = tokio::task::spawn_local({
        let thread = Rc::clone(&thread);
        async move { work(&thread, part).await }
    });
    let abort = working.abort_handle();
    tokio::select! {
        result = working => match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => gave_up = Some(format!("its timer fails: {error}")),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        },
        () = report(&thread, begin + plan.warmup, plan.interval, chunks) => {}
        _ = phases.wait_for(|phase| *phase == Phase::Stopped) => {}
    }
    abort.abort();
    for chunk in thread.recorder.rest(thread.now()) {
        chunks.send(FromThread::Chunk(Box::new(chunk))).await;
    }
    FromThread::Ended {
        losses: thread.losses(),
        gave_up,
    }
}

fn always(plan: &Plan, bodies: &[Bytes]) -> Option<(u8, Duration)> {
    let is_single = bodies.len() == 1 && plan.priority.is_single() && plan.timeout.is_single();
    let first = plan.priority.values().zip(plan.timeout.values()).next();
    let (priority, timeout) = first.filter(|_| is_single)?;
    Some((*priority, *timeout))
}

async fn work<C: Connection>(thread: &Rc<Thread<C>>, part: Part) -> io::Result<()> {
    let plan = &thread.plan;
    match &plan.shape {
        Shape::Closed { callers } => {
            closed::run(thread, part.share(u64::from(*callers))).await;
            Ok(())
        }
        Shape::Open(arrival) => {
            let schedule = Schedule::new(arrival, plan.seed, plan.warmup, plan.duration);
            let schedule = schedule.part(part.number as usize, part.of as usize);
            let in_flight_max = IN_FLIGHT_MAX / part.of as usize;
            open::run(thread, schedule, in_flight_max).await
        }
    }
}

/// Sends every interval when it is over; without an end. Nothing is taken that could not be sent:
/// the end of the load cancels this.
async fn report<C: Connection>(
    thread: &Rc<Thread<C>>,
    start: Instant,
    interval: Duration,
    chunks: &Chunks,
) {
    let mut over = start + interval;
    loop {
        tokio::time::sleep_until(over.into()).await;
        while let Ok(permit) = chunks.sender.reserve().await {
            match thread.recorder.next_finished(thread.now()) {
                Some(chunk) => permit.send((chunks.number, FromThread::Chunk(Box::new(chunk)))),
                None => break,
            }
        }
        over += interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::plan::schedule::Arrival;
    use crate::targets::prompt::Prompt;

    const CALLS: u64 = 5_000;

    /// What a load on this target has made: so many calls, then it ends.
    async fn total(target: &Prompt, shape: Shape) -> Chunk {
        let mut plan = example::plan("mem://nobody", shape);
        plan.connections = 3;
        plan.calls = Some(CALLS);
        plan.interval = Duration::from_secs(60);
        let prepared = Generator::prepare_for(&Arc::new(plan), target).await;
        let mut generator = prepared.expect("there is nothing to wait for");
        generator.start();
        let mut total = Chunk::new(0);
        while let Some(chunk) = generator.next().await {
            total.add(&chunk);
        }
        assert_eq!(generator.losses(), Losses::default());
        total
    }

    #[tokio::test]
    async fn both_loops_make_their_calls_on_any_target() {
        let many = Prompt { in_flight_max: 64 };
        let one_by_one = Prompt { in_flight_max: 1 };
        for target in [&many, &one_by_one] {
            let open = Shape::Open("100000".parse().map(Arrival::Constant).expect("a rate"));
            for shape in [Shape::Closed { callers: 30 }, open] {
                let total = total(target, shape).await;
                let ended = (total.due, total.answered(), total.failed());
                assert_eq!(ended, (CALLS, CALLS, 0), "{target:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_target_takes_messages_too() {
        let link = Prompt { in_flight_max: 1 }.connect().await;
        let body = Bytes::from_static(b"x");
        let call = Call {
            body: &body,
            priority: 3,
            timeout: Duration::from_secs(1),
        };
        let sent = link.expect("it is there").send(&call).await;
        assert_eq!(sent, Ok(()));
    }
}
