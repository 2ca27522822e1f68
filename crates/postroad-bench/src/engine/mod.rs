//! The generator: threads that make calls, each with its own runtime, connections and recorder.

mod closed;
mod line;
mod open;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad::client::ConnectError;
use postroad::{Bytes, CallError, Client, ConnectionState};
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
        let threads = plan.threads as usize;
        let (phase, phases) = watch::channel(Phase::Waiting);
        let (sender, received) = mpsc::channel(CHUNKS_WAITING);
        let mut connected = Vec::new();
        for number in 0..threads {
            let (ready, is_ready) = oneshot::channel();
            let (plan, phases) = (Arc::clone(plan), phases.clone());
            let chunks = Chunks {
                number,
                sender: sender.clone(),
            };
            let name = format!("load {number}");
            std::thread::Builder::new()
                .name(name)
                .spawn(move || generate(&plan, ready, phases, &chunks))?;
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
    Err(Error::asked(format!(
        "{connections} connections are {connections} open files, and this process may have \
         {limit}: raise the limit (ulimit -n) or ask for at most {} connections",
        limit.saturating_sub(FILES_BESIDE)
    )))
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
struct Thread {
    /// When the load began.
    begin: Instant,
    clients: Vec<Client>,
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

/// One call's choices.
struct Job<'a> {
    body: &'a Bytes,
    priority: u8,
    timeout: Duration,
}

/// The same for a call that has to wait before it can be made.
struct KeptJob {
    body: Bytes,
    priority: u8,
    timeout: Duration,
}

impl KeptJob {
    fn job(&self) -> Job<'_> {
        Job {
            body: &self.body,
            priority: self.priority,
            timeout: self.timeout,
        }
    }
}

impl Job<'_> {
    fn kept(&self) -> KeptJob {
        KeptJob {
            body: self.body.clone(),
            priority: self.priority,
            timeout: self.timeout,
        }
    }

    fn sent(&self) -> Sent {
        Sent {
            bytes: self.body.len(),
            priority: self.priority,
        }
    }
}

impl Thread {
    fn new(begin: Instant, clients: Vec<Client>, plan: &Arc<Plan>, part: Part) -> Self {
        let bodies = plan.payload.bodies();
        Self {
            begin,
            clients,
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
    fn job(&self) -> Job<'_> {
        if let Some((priority, timeout)) = self.always {
            return Job {
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
        Job {
            body: &self.bodies[number],
            priority: *self.plan.priority.draw(&mut dice),
            timeout: *self.plan.timeout.draw(&mut dice),
        }
    }

    fn client(&self, connection: usize) -> &Client {
        &self.clients[connection]
    }

    /// Not `async`: a call should not be moved once more before it is made.
    #[inline]
    fn call<'a>(
        &'a self,
        client: &'a Client,
        job: &Job<'_>,
    ) -> impl Future<Output = Result<Bytes, CallError>> + 'a {
        let request = client.request(&self.plan.route);
        let request = request.priority(job.priority).timeout(job.timeout);
        request.call_raw(job.body.clone())
    }

    fn losses(&self) -> Losses {
        let is_lost = |client: &&Client| *client.state().borrow() != ConnectionState::Connected;
        let at_end = self.clients.iter().filter(is_lost).count() as u64;
        Losses {
            // One that is lost right now may not have been counted yet.
            in_all: self.lost.get().max(at_end),
            at_end,
        }
    }

    /// Counts how often a connection is lost. The state says only what it is now, so this has to
    /// look each time that it changes; a connection is dialled again after a pause that is far
    /// longer than this task waits for its turn. Without an end.
    async fn count_losses(&self, connection: usize) {
        let mut state = self.client(connection).state();
        let mut was_connected = true;
        loop {
            let is_connected = *state.borrow_and_update() == ConnectionState::Connected;
            if was_connected && !is_connected {
                self.lost.set(self.lost.get() + 1);
            }
            was_connected = is_connected;
            if state.changed().await.is_err() {
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
fn generate(
    plan: &Arc<Plan>,
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
        match connect(plan, part).await {
            Err(error) => drop(ready.send(Err(error.into()))),
            Ok(clients) => {
                let _ = ready.send(Ok(()));
                let ended = load(plan, part, clients, &mut phases, chunks).await;
                chunks.send(ended).await;
                // What the kernel counts of a thread goes with it, and is still to be read.
                let _gone = phases.wait_for(|_| false).await;
            }
        }
    });
}

async fn connect(plan: &Plan, part: Part) -> Result<Vec<Client>, ConnectError> {
    let endpoint: postroad::Endpoint = plan.url.parse()?;
    let (mut clients, mut dialling) = (Vec::new(), JoinSet::new());
    for _ in 0..part.share(plan.connections.into()) {
        if dialling.len() >= DIALLED {
            clients.extend(dialled(&mut dialling).await?);
        }
        dialling.spawn_local(Client::connect_with(endpoint.clone(), plan.client_config()));
    }
    while let Some(client) = dialled(&mut dialling).await? {
        clients.push(client);
    }
    Ok(clients)
}

/// The next connection that is there.
async fn dialled(
    dialling: &mut JoinSet<Result<Client, ConnectError>>,
) -> Result<Option<Client>, ConnectError> {
    match dialling.join_next().await.and_then(pass_panic_on) {
        Some(connected) => connected.map(Some),
        None => Ok(None),
    }
}

/// Waits for the start and makes calls until the end.
async fn load(
    plan: &Arc<Plan>,
    part: Part,
    clients: Vec<Client>,
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
    let thread = Rc::new(Thread::new(begin, clients, plan, part));
    // They end with this function.
    let mut counting = JoinSet::new();
    for connection in 0..thread.clients.len() {
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

async fn work(thread: &Rc<Thread>, part: Part) -> io::Result<()> {
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
async fn report(thread: &Rc<Thread>, start: Instant, interval: Duration, chunks: &Chunks) {
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
