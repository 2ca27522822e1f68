//! The client for code that is not async.
//!
//! # Who drives the runtime
//!
//! The client has a runtime of one thread, and somebody has to drive it: to read answers, write
//! what is queued, send heartbeats and dial again. A background thread of the client's own does
//! that while nobody calls. If it also did it during a call, every call would wake two threads: the
//! background thread for the answer, and then the caller. So while calls follow each other, the
//! caller that waits drives the runtime itself, and the background thread yields it.
//!
//! ```text
//!                 a caller waits, and a call has ended within YIELD_MAX:
//!                               yield_runtime
//!        +-----------------+ ----------------------> +-------------------+
//!        |   background    |                         |      callers      |
//!        |  thread drives  |                         | drive, if any wait|
//!        +-----------------+ <---------------------- +-------------------+
//!                               resume_background,
//!                 or no call has ended within YIELD_MAX
//! ```
//!
//! Tokio lets one thread at a time drive the runtime. Of several callers that wait, one drives for
//! all, and when it has its answer, another goes on. Nobody drives in one case only: the background
//! thread has yielded and no caller waits. That is fine while nothing is to be done, because it
//! resumes by itself within [`YIELD_MAX`]. If something is left to be written then, the caller that
//! leaves resumes it at once, in [`Shared::run`].
//!
//! No wakeup is lost, because both sides write before they read: the background thread sets
//! `has_yielded` and then asks whether something is left; a caller leaves something and then reads
//! `has_yielded`. Both take the connection's lock in between, so whoever takes it second sees what
//! the first has done.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder as Thread, JoinHandle};
use std::time::Duration;

use postroad_proto::Time;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use super::call::CallBuilder;
use super::config::ClientConfig;
use super::handle::{Client, ConnectError};
use crate::clock;
use crate::discovery::Target;
use crate::error::{CallError, TransportError};

/// How long dropping a client may take: what was sent has this time to leave.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// How long the background thread leaves the runtime alone after a call has ended. Calls that
/// follow each other faster than this never wake it.
const YIELD_MAX: Duration = Duration::from_millis(10);

/// A [`Client`] for threads.
///
/// Connecting and calling on a thread that drives an async runtime panics, because it would hold
/// up all other tasks of that thread: use [`Client`] there, or `tokio::task::spawn_blocking`.
/// Dropping the client is harmless anywhere: its own thread closes the connection. A thread that
/// knows no runtime waits for that, for a second at most, so that a program does not end before
/// what it has sent has left; in async code nobody waits.
///
/// While calls follow each other within 10 ms, a thread that waits for its answer drives the
/// connection itself, so that no other thread has to be woken for it; of several threads that wait,
/// one drives for all. The rest of the time a thread of the client's own drives it, which sleeps
/// while nothing is to be done.
///
/// ```no_run
/// let client = postroad::BlockingClient::connect("tcp://127.0.0.1:7400")?;
/// let twice: i64 = client.call("math/double", &21)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BlockingClient {
    /// `None` only while it is being dropped.
    shared: Option<Arc<Shared>>,
    /// Where this client's share goes when it is dropped, so that the background thread's is the
    /// last.
    parting: SyncSender<Arc<Shared>>,
    background: Option<JoinHandle<()>>,
}

impl BlockingClient {
    /// Connects with default settings.
    ///
    /// # Errors
    /// If the URL is wrong, the thread cannot be started, or the first attempt fails.
    pub fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::connect_with(url.parse::<Target>()?, ClientConfig::default())
    }

    /// Connects with these settings.
    ///
    /// # Errors
    /// If settings or endpoint are wrong, the thread cannot be started, or the first attempt fails.
    pub fn connect_with(target: Target, config: ClientConfig) -> Result<Self, ConnectError> {
        let url = target.to_string();
        let fail = |source: io::Error| TransportError::Io {
            action: "start a thread for",
            endpoint: url.clone(),
            source,
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(fail)?;
        let client = runtime.block_on(Client::connect_with(target, config))?;
        let shared = Arc::new(Shared::new(client, runtime));
        let (parting, parted) = sync_channel::<Arc<Shared>>(1);
        let background = {
            let shared = Arc::clone(&shared);
            let thread = Thread::new().name("postroad-client".to_owned());
            let run = move || {
                shared.run_background();
                // What the client has held is kept until the connection is closed.
                let _parted = parted.recv();
                shared.close();
            };
            thread.spawn(run).map_err(fail)?
        };
        Ok(Self {
            shared: Some(shared),
            parting,
            background: Some(background),
        })
    }

    /// Calls a route with a value and waits for its answer.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn call<Q, R>(&self, route: &str, request: &Q) -> Result<R, CallError>
    where
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.shared().run(self.client().call(route, request))
    }

    /// Sends a value that nobody answers.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn send<Q: Serialize + ?Sized>(&self, route: &str, message: &Q) -> Result<(), CallError> {
        self.shared().run(self.client().send(route, message))
    }

    /// Runs a call with settings of its own: `client.with("route", |call|
    /// call.priority(7).call(&1))`. The future must not block: other callers and their deadlines
    /// may depend on this thread while it runs.
    pub fn with<'a, F, T>(&'a self, route: &'a str, run: impl FnOnce(CallBuilder<'a>) -> F) -> T
    where
        F: Future<Output = T>,
    {
        self.shared().run(run(self.client().request(route)))
    }

    /// Ends the connection after what was sent has left; dropping the client does the same.
    pub fn close(self) {}

    /// The client within, for what blocking code does not need: its state, `try_now`. What it is
    /// used for on another runtime may take 10 ms more while threads call.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.shared().client
    }

    fn shared(&self) -> &Arc<Shared> {
        let shared = self.shared.as_ref();
        shared.expect("it is taken out only when the client is dropped")
    }
}

impl Drop for BlockingClient {
    /// Messages that were sent without waiting for an answer are still on their way, so the
    /// client's own thread closes the connection when they have left. It also drops the runtime:
    /// tokio panics where that is done in async code.
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else {
            return;
        };
        shared.end();
        // Fails only if that thread has panicked; then there is nobody to hand it to.
        let _ = self.parting.send(shared);
        let is_in_async_code = tokio::runtime::Handle::try_current().is_ok();
        if let Some(background) = self.background.take()
            && !is_in_async_code
        {
            // There is nothing to do about a panic there; tokio catches those of its tasks.
            let _ = background.join();
        }
    }
}

/// Counts a thread as one that waits, for as long as it lives: also if its future panics.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What callers and the background thread share. The module says how they take turns.
#[derive(Debug)]
struct Shared {
    client: Client,
    runtime: Runtime,
    /// Tells the background thread to leave the runtime to callers.
    yield_asked: Notify,
    /// The background thread does not drive: callers have to, or must have it resume.
    has_yielded: AtomicBool,
    /// Threads that wait for an answer. If the background thread has yielded, one of them drives.
    waiting: AtomicUsize,
    /// When the last call ended that somebody has waited for.
    last_end: AtomicU64,
    /// The background thread is to drive again now, and not only when it has waited long enough.
    must_resume: Mutex<bool>,
    /// Signalled when `must_resume` is set.
    resume: Condvar,
    /// The client is being dropped.
    has_ended: AtomicBool,
}

impl Shared {
    fn new(client: Client, runtime: Runtime) -> Self {
        Self {
            client,
            runtime,
            yield_asked: Notify::new(),
            has_yielded: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            last_end: AtomicU64::new(0),
            must_resume: Mutex::new(false),
            resume: Condvar::new(),
            has_ended: AtomicBool::new(false),
        }
    }

    /// Waits for a future, and drives the runtime unless another thread does.
    fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let mut waiting = None;
        let output = self.runtime.block_on(std::future::poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() && waiting.is_none() {
                waiting = Some(Waiting::begin(&self.waiting));
                self.yield_runtime();
            }
            polled
        }));
        let has_waited = waiting.take().is_some();
        if has_waited {
            self.last_end.store(clock::now().0, Ordering::Relaxed);
        }
        // A call that never waited has not driven the runtime, so what it queued may be unwritten;
        // one that has waited may have queued more since. If another thread waits, it drives, or
        // comes by here when it leaves.
        let is_undriven =
            self.waiting.load(Ordering::SeqCst) == 0 && self.has_yielded.load(Ordering::SeqCst);
        if is_undriven && (!has_waited || self.client.has_left()) {
            self.resume_background();
        }
        output
    }

    /// A caller waits, and so can drive: the background thread leaves it the runtime, if calls
    /// follow each other. For a lone call that would cost more than it saves.
    fn yield_runtime(&self) {
        if !self.has_yielded.load(Ordering::Relaxed) && !self.yield_left().is_zero() {
            // Only if it waits for this now: a signal that is kept would make it yield later, when
            // perhaps nobody calls.
            self.yield_asked.notify_waiters();
        }
    }

    /// How long the background thread may still leave the runtime alone, if no other call ends.
    fn yield_left(&self) -> Duration {
        let last = Time(self.last_end.load(Ordering::Relaxed));
        (last + YIELD_MAX).since(clock::now())
    }

    /// Has the background thread drive again.
    fn resume_background(&self) {
        *self.lock() = true;
        self.resume.notify_all();
    }

    /// Closes the connection when what was sent has left.
    fn close(&self) {
        let close = async { tokio::time::timeout(CLOSE_MAX, self.client.close()).await };
        let _ = self.runtime.block_on(close);
    }

    fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
        self.yield_asked.notify_one();
        self.resume_background();
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        let guard = self.must_resume.lock();
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    /// As the background thread: drives, or waits while callers do.
    fn run_background(&self) {
        while !self.has_ended.load(Ordering::SeqCst) {
            self.runtime.block_on(self.yield_asked.notified());
            self.has_yielded.store(true, Ordering::SeqCst);
            // A caller that has left something before this could not know that nobody drives.
            if !self.client.has_left() {
                self.wait_to_resume();
            }
            self.has_yielded.store(false, Ordering::SeqCst);
        }
    }

    /// Until a caller says so, or no call has ended for a while.
    fn wait_to_resume(&self) {
        let mut must_resume = self.lock();
        loop {
            let left = self.yield_left();
            if *must_resume || left.is_zero() {
                break;
            }
            let waited = self.resume.wait_timeout(must_resume, left);
            (must_resume, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        *must_resume = false;
    }
}
