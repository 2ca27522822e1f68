//! The client for code that is not async.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder as Thread, JoinHandle};
use std::time::Duration;

use postroad_proto::Time;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use super::{CallBuilder, Client, ClientConfig, ConnectError};
use crate::clock;
use crate::endpoint::Endpoint;
use crate::error::{CallError, TransportError};

/// How long dropping a client may take.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// The longest pause between calls in which the client's thread does not drive.
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// A [`Client`] for threads. Must not be used on a runtime's thread.
///
/// While calls follow each other within 10 ms, a thread that waits for its answer drives the
/// connection itself, so that no other has to be woken for it; of several, one drives for all. For
/// the rest of the time there is a thread of the client's own, which sleeps while nothing is to be
/// done.
///
/// ```no_run
/// let client = postroad::BlockingClient::connect("tcp://127.0.0.1:7400")?;
/// let twice: i64 = client.call("math/double", &21)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BlockingClient {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

impl BlockingClient {
    /// Connects with default settings.
    ///
    /// # Errors
    /// If the URL is wrong, the thread cannot be started, or the first attempt fails.
    pub fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::connect_with(url.parse::<Endpoint>()?, ClientConfig::default())
    }

    /// Connects with these settings.
    ///
    /// # Errors
    /// If settings or endpoint are wrong, the thread cannot be started, or the first attempt fails.
    pub fn connect_with(endpoint: Endpoint, config: ClientConfig) -> Result<Self, ConnectError> {
        let url = endpoint.to_string();
        let fail = |source: io::Error| TransportError::Io {
            action: "start a thread for",
            endpoint: url.clone(),
            source,
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(fail)?;
        let client = runtime.block_on(Client::connect_with(endpoint, config))?;
        let shared = Arc::new(Shared::new(client, runtime));
        let keeper = {
            let (shared, thread) = (Arc::clone(&shared), Thread::new());
            let thread = thread.name("postroad-client".to_owned());
            thread.spawn(move || shared.keep()).map_err(fail)?
        };
        Ok(Self {
            shared,
            keeper: Some(keeper),
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
        self.shared.run(self.client().call(route, request))
    }

    /// Sends a value that nobody answers.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn send<Q: Serialize + ?Sized>(&self, route: &str, message: &Q) -> Result<(), CallError> {
        self.shared.run(self.client().send(route, message))
    }

    /// Runs a call with settings of its own: `client.with("route", |call|
    /// call.priority(7).call(&1))`. The future must not block: other callers and their deadlines
    /// may depend on this thread while it runs.
    pub fn with<'a, F, T>(&'a self, route: &'a str, run: impl FnOnce(CallBuilder<'a>) -> F) -> T
    where
        F: Future<Output = T>,
    {
        self.shared.run(run(self.client().request(route)))
    }

    /// Ends the connection after what was sent has left; dropping the client does the same.
    pub fn close(self) {}

    /// The client within, for what blocking code does not need: its state, `try_now`. What it is
    /// used for on another runtime may take 10 ms more while threads call.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.shared.client
    }
}

impl Drop for BlockingClient {
    /// Messages that were sent without waiting for an answer are still on their way.
    fn drop(&mut self) {
        // From here this thread drives.
        self.shared.end();
        let close = async { tokio::time::timeout(CLOSE_MAX, self.client().close()).await };
        let _ = self.shared.runtime.block_on(close);
        if let Some(keeper) = self.keeper.take() {
            // It runs nothing that panics and is not caught.
            let _ = keeper.join();
        }
    }
}

/// Of a thread that waits.
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

/// The runtime, which is driven by whoever waits on it first; when that thread has what it waited
/// for, another goes on.
#[derive(Debug)]
struct Shared {
    client: Client,
    runtime: Runtime,
    /// The client's thread should leave the runtime to callers.
    sent_away: Notify,
    /// It has, and does not drive until it is called back or no call has come for a while.
    is_aside: AtomicBool,
    /// Threads that wait: one of them drives.
    waiting: AtomicUsize,
    /// When the last call ended that somebody has waited for.
    last_end: AtomicU64,
    called_back: Mutex<bool>,
    changed: Condvar,
    has_ended: AtomicBool,
}

impl Shared {
    fn new(client: Client, runtime: Runtime) -> Self {
        Self {
            client,
            runtime,
            sent_away: Notify::new(),
            is_aside: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            last_end: AtomicU64::new(0),
            called_back: Mutex::new(false),
            changed: Condvar::new(),
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
                self.send_away();
            }
            polled
        }));
        let has_waited = waiting.take().is_some();
        if has_waited {
            self.last_end.store(clock::now().0, Ordering::Relaxed);
        }
        // What was ready at once has run nothing of what it has left to be done, and what has
        // waited nothing of what it has left since. Another who waits drives, or comes by here.
        let must_drive =
            self.waiting.load(Ordering::SeqCst) == 0 && self.is_aside.load(Ordering::SeqCst);
        if must_drive && (!has_waited || self.client.has_left()) {
            self.call_back();
        }
        output
    }

    /// Somebody waits, and so drives: the client's thread need not, if that happens often.
    fn send_away(&self) {
        if !self.is_aside.load(Ordering::Relaxed) && !self.pause().is_zero() {
            // Not for later: whoever calls then will say so.
            self.sent_away.notify_waiters();
        }
    }

    /// How long the client's thread may stand aside, if no other call ends.
    fn pause(&self) -> Duration {
        let last = Time(self.last_end.load(Ordering::Relaxed));
        (last + PAUSE_MAX).since(clock::now())
    }

    /// The client's thread is to drive again.
    fn call_back(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
        self.sent_away.notify_one();
        self.call_back();
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        let guard = self.called_back.lock();
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    /// As the client's thread: drives, or stands aside.
    fn keep(&self) {
        while !self.has_ended.load(Ordering::SeqCst) {
            self.runtime.block_on(self.sent_away.notified());
            self.is_aside.store(true, Ordering::SeqCst);
            // Whoever has left something before this did not know of it.
            if !self.client.has_left() {
                self.stand_aside();
            }
            self.is_aside.store(false, Ordering::SeqCst);
        }
    }

    /// Until somebody calls back, or no call has ended for a while.
    fn stand_aside(&self) {
        let mut called_back = self.lock();
        loop {
            let pause = self.pause();
            if *called_back || pause.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(called_back, pause);
            (called_back, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        *called_back = false;
    }
}
