//! Joins a session to a runtime: one future a connection, no task, timer or allocation a call.
//!
//! Whoever has something to say encodes it under the lock. A lone caller then writes to the socket
//! itself; a caller that is not alone leaves its frame to the driver, which runs after all callers
//! that can run, and so writes many frames at once. Bytes are read without the lock, parsed under
//! it, and handlers run without it.

mod batch;
mod budget;
mod connection;
mod spin;
mod waiters;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::BytesMut;
use postroad_proto::Time;
use postroad_proto::session::{CloseReason, Session};
use tokio::runtime::RuntimeFlavor;
use tokio::sync::watch;
use tokio::time::Sleep;

use crate::clock;
use crate::preset::Preset;
use crate::transport::{PeerInfo, Reader, Stream};

use batch::Batch;
pub(crate) use batch::{Answers, RequestBatch};
pub(crate) use budget::Budget;
use connection::Status;
pub(crate) use connection::{Answered, Connection, Forget, LinkState, RequestQueue, Service};
pub(crate) use spin::SPIN;
use spin::Spin;
pub(crate) use waiters::{Answer, PipeKey, PipelineAnswers, WaiterKey};

/// Bytes of a thread's read buffer.
const READ_BYTES: usize = 64 * 1024;
/// Room under which a read buffer is renewed.
const READ_MIN: usize = 16 * 1024;
/// Bytes of the largest read, while reads fill the buffer.
const READ_MAX: usize = 256 * 1024;
/// Bytes of answers that are encoded at a time; before more are made, it is asked whether they find
/// room.
const ANSWERS_AT_ONCE: usize = 256 * 1024;
/// Requests that are taken over at a time: few enough to stay in the nearest cache.
const BATCH_MAX: usize = 128;
/// Looks at a socket before the runtime looks at all of them.
const LOOKS: usize = 8;
/// Rounds of reading and writing before other tasks have their turn.
const ROUNDS: usize = 16;
/// How long a closed connection may take none of its last bytes.
const FLUSH_STALL: Duration = Duration::from_secs(10);
/// How long a closed connection is read on, so that its last words are not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// The session is over; its last bytes are being written.
    Flushing,
    /// The end was said; what still comes is thrown away.
    Lingering,
}

/// What came of trying to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Bytes; there may be more.
    Read,
    /// Nothing now.
    Idle,
    /// The session wants no more now.
    Paused,
}

thread_local! {
    /// The read buffer of the thread: no connection has one of its own while nothing comes, and the
    /// one that is read next finds it in the cache.
    static BUFFER: Cell<BytesMut> = Cell::default();
    /// The lists of the thread, likewise.
    static LISTS: Cell<Option<Box<Lists>>> = const { Cell::new(None) };
}

/// What one run of a driver gathers, in memory that the next one uses again.
#[derive(Debug, Default)]
struct Lists {
    batch: Batch,
    answers: Answers,
    /// The last reading of the clock.
    now: Time,
}

/// Which end a driver drives.
enum Role {
    Client(watch::Sender<LinkState>),
    Server(Box<dyn Service>),
}

/// Drives one connection to its end, which is its output.
#[must_use = "a connection does nothing unless its driver is polled"]
pub(crate) struct ConnectionDriver {
    connection: Arc<Connection>,
    reader: Reader,
    /// What was read and not taken yet: a frame's beginning, or all while reading is paused.
    buf: BytesMut,
    timer: Pin<Box<Sleep>>,
    armed: Time,
    /// The timer knows this task.
    is_timed: bool,
    stage: Stage,
    service: Option<Box<dyn Service>>,
    /// Whether to poll before sleeping, where that is done at all.
    spin: Option<Box<Spin>>,
    /// Driven on threads that run what was woken last next.
    is_overtaking: bool,
    /// Callers had their turn before this one.
    has_waited: bool,
    /// What the session has said last.
    status: Status,
    /// The session took less than what was read.
    has_stopped: bool,
    /// The waker that the connection knows.
    waker: Option<Waker>,
    /// Requests whose handlers were not started yet, because answers wait to be read.
    left: Option<Box<Lists>>,
}

impl ConnectionDriver {
    /// Joins a stream and a client's session; where the connection stands is to be watched.
    pub(crate) fn client(
        stream: Stream,
        session: Session,
        peer: String,
        preset: Preset,
    ) -> (Self, watch::Receiver<LinkState>) {
        let (link, watcher) = watch::channel(LinkState::Opening);
        let peer = PeerInfo::named(peer);
        let driver = Self::new(stream, session, peer, Role::Client(link), preset);
        (driver, watcher)
    }

    /// Joins a stream and a server's session, whose requests `service` handles.
    pub(crate) fn server(
        stream: Stream,
        session: Session,
        peer: PeerInfo,
        service: Box<dyn Service>,
        preset: Preset,
    ) -> Self {
        Self::new(stream, session, peer, Role::Server(service), preset)
    }

    fn new(stream: Stream, session: Session, peer: PeerInfo, role: Role, preset: Preset) -> Self {
        let (reader, writer) = stream.split();
        let spin = Spin::new(preset.spin());
        let (link, service) = match role {
            Role::Client(link) => (Some(link), None),
            Role::Server(service) => (None, Some(service)),
        };
        // A caller that writes itself has to wake a driver that is to poll for the answer.
        let wakes = spin.is_some() && service.is_none();
        let flavor = tokio::runtime::Handle::current().runtime_flavor();
        let is_overtaking = service.is_none() && flavor != RuntimeFlavor::CurrentThread;
        let connection = Connection::new(session, writer, peer, link, wakes);
        let status = connection.hand_out_events();
        Self {
            connection: Arc::new(connection),
            reader,
            buf: BytesMut::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: Time::NEVER,
            is_timed: false,
            stage: Stage::Running,
            service,
            spin,
            is_overtaking,
            has_waited: false,
            status,
            has_stopped: false,
            waker: None,
            left: None,
        }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    fn register(&mut self, cx: &Context<'_>) {
        if !self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            self.connection.register(cx.waker());
            self.waker = Some(cx.waker().clone());
            self.is_timed = false;
            // Whatever happened before nobody was woken for.
            self.status = self.connection.status(self.armed);
        }
    }

    /// Reads once and lets the session take it.
    fn read(&mut self, cx: &mut Context<'_>, lists: &mut Lists) -> Progress {
        if !lists.batch.arrived.is_empty() {
            if !self.status.has_room {
                return Progress::Paused;
            }
            // Those before them may have taken long.
            lists.now = clock::now();
            self.start_arrived(lists);
            return Progress::Read;
        }
        if !self.status.wants_read {
            return Progress::Paused;
        }
        if self.has_stopped && !self.buf.is_empty() {
            // What was left in the buffer while reading was paused comes before anything new.
            lists.now = clock::now();
            self.handle(lists);
            return Progress::Read;
        }
        let room = self.make_room();
        match self.reader.poll_read(cx, &mut self.buf) {
            Poll::Pending => {
                self.rest();
                Progress::Idle
            }
            Poll::Ready(result) => {
                if result.as_ref().is_ok_and(|read| *read == room) && room < READ_MAX {
                    self.buf.reserve((2 * room).min(READ_MAX));
                }
                self.take(result, lists)
            }
        }
    }

    /// Lets the session take what a read has brought.
    #[inline(always)]
    fn take(&mut self, read: io::Result<usize>, lists: &mut Lists) -> Progress {
        lists.now = clock::now();
        let error = match read {
            Ok(read) if read > 0 => {
                self.handle(lists);
                return Progress::Read;
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        self.status = self.connection.handle_end(lists.now, &self.buf, error);
        Progress::Idle
    }

    /// Sees that there is room to read into, and says how many bytes.
    #[inline(always)]
    fn make_room(&mut self) -> usize {
        if self.buf.capacity() < READ_MIN {
            let mut buf = BUFFER.take();
            buf.clear();
            if buf.capacity() < READ_MIN {
                buf.reserve(READ_BYTES);
            }
            buf.extend_from_slice(&self.buf);
            self.buf = buf;
        }
        if self.buf.capacity() - self.buf.len() < READ_MIN {
            self.buf.reserve(READ_BYTES);
        }
        self.buf.capacity() - self.buf.len()
    }

    /// Gives the read buffer back while nothing comes. The beginning of a frame is kept in as much
    /// memory as it takes: a peer that sends a byte must not hold a whole buffer.
    #[inline(always)]
    fn rest(&mut self) {
        if self.buf.len() >= READ_MIN {
            return;
        }
        let mut buf = std::mem::take(&mut self.buf);
        if !buf.is_empty() {
            self.buf = BytesMut::from(&buf[..]);
            buf.clear();
        }
        BUFFER.set(buf);
    }

    /// Lets the session take what was read, and starts handlers.
    fn handle(&mut self, lists: &mut Lists) {
        let connection = &self.connection;
        (self.status, self.has_stopped) =
            connection.handle_bytes(lists.now, &mut self.buf, &mut lists.batch, self.armed);
        self.start_arrived(lists);
    }

    /// Starts handlers, as long as their answers find room.
    fn start_arrived(&mut self, lists: &mut Lists) {
        let arrived = &mut lists.batch.arrived;
        match &mut self.service {
            Some(service) if self.status.has_room && !arrived.is_empty() => {
                service.start(&self.connection, lists.now, arrived, &mut lists.answers);
            }
            Some(_) => {}
            None => arrived.clear(),
        }
    }

    fn must_flush(&self, lists: &Lists) -> bool {
        !lists.answers.is_empty() || self.status.has_output || self.connection.buffers()
    }

    /// Encodes the answers that were made at once, and writes what there is.
    fn flush(&mut self, cx: &mut Context<'_>, lists: &mut Lists) {
        let (answers, batch) = (&mut lists.answers, &mut lists.batch);
        let (connection, armed) = (&self.connection, self.armed);
        self.status = connection.poll_flush(cx, answers, batch, armed);
    }

    /// Arms the one wakeup for all of the session's timers, and runs those that are due; whether
    /// any was.
    fn poll_timer(&mut self, cx: &mut Context<'_>, lists: &mut Lists) -> bool {
        if self.status.due < self.armed {
            self.armed = self.status.due;
            self.is_timed = false;
            self.timer.as_mut().reset(clock::instant(self.armed));
        }
        self.is_timed = true;
        if self.armed == Time::NEVER || self.timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.armed = Time::NEVER;
        lists.now = clock::now();
        self.status = self.connection.handle_timeout(lists.now, &mut lists.batch);
        // This is rare enough, and happens at every heartbeat.
        if let Some(service) = &mut self.service
            && self.connection.rest()
        {
            service.rest();
        }
        true
    }

    /// Looks at once for what this end waits for, if that is probably close: a client for the
    /// answers to its calls, a server for the next request. Whether it was there; if it was not,
    /// this task comes back after all others that can run.
    fn look_again(&mut self, cx: &mut Context<'_>, lists: &mut Lists, is_first: bool) -> bool {
        let is_client = self.service.is_none();
        let Some(spin) = &mut self.spin else {
            return false;
        };
        if is_client && !self.status.is_calling {
            spin.wake();
            return false;
        }
        // A paused clock stands still while this task comes back, and so would never end it.
        let (now, was_polling) = (clock::real(), spin.is_polling());
        if !spin.look_again(now) {
            return false;
        }
        // Not at once: who is put aside by the first turn of the others looks no more.
        let looks_itself = is_first && was_polling;
        if looks_itself && spin::is_alone(Arc::as_ptr(&self.connection).addr(), now) {
            self.make_room();
            let read = self.reader.look(&mut self.buf, LOOKS);
            if !read
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            {
                self.take(read, lists);
                self.spin.as_mut().into_iter().for_each(|spin| spin.wake());
                return true;
            }
            self.rest();
        }
        // The runtime polls its sockets before it runs this task again.
        let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
        false
    }

    /// Whether callers that can run should run first, so that their calls leave together: a runtime
    /// of many threads runs a task that was woken last next, not after the others.
    fn waits_for_callers(&mut self) -> bool {
        if !self.is_overtaking {
            return false;
        }
        self.has_waited = !self.has_waited && self.connection.is_woken();
        self.has_waited
    }

    /// Takes the thread's lists for as long as this task runs, and whatever requests are left.
    fn poll_with_lists(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left.take().or_else(|| LISTS.take());
        let mut lists = left.unwrap_or_default();
        let polled = self.poll_running(cx, &mut lists);
        match lists.batch.arrived.is_empty() {
            true => LISTS.set(Some(lists)),
            false => self.left = Some(lists),
        }
        polled
    }

    fn poll_running(&mut self, cx: &mut Context<'_>, lists: &mut Lists) -> Poll<()> {
        self.register(cx);
        self.service
            .iter_mut()
            .for_each(|service| service.begin_turn());
        if !lists.batch.arrived.is_empty() {
            // Much may have happened since these requests came.
            lists.now = clock::now();
            self.status = self.connection.status(self.armed);
            if self.status.is_closed {
                lists.batch.arrived.clear();
            }
        }
        for round in 0..ROUNDS {
            let progress = self.read(cx, lists);
            let was_read = progress == Progress::Read;
            if round == 0 && !was_read && self.waits_for_callers() {
                // To the back of the queue, from where another thread may take it.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(spin) = &mut self.spin
                && was_read
            {
                spin.wake();
            }
            if was_read && self.must_flush(lists) || !was_read && round == 0 {
                self.flush(cx, lists);
            }
            // Whoever has just read knows the time: a timer that is set need not be asked.
            let is_set = self.is_timed && self.status.due >= self.armed;
            let is_early = round > 0 && is_set && lists.now < self.armed;
            if !was_read && !is_early {
                while self.poll_timer(cx, lists) {
                    self.flush(cx, lists);
                }
            }
            if self.status.is_closed {
                return Poll::Ready(());
            }
            // What paused the reading may have been written just now; if not, whoever ends it wakes
            // this task.
            let goes_on = match progress {
                Progress::Read => true,
                Progress::Idle => false,
                Progress::Paused if lists.batch.arrived.is_empty() => self.status.wants_read,
                Progress::Paused => self.status.has_room,
            };
            // After the flush: a wake-up that comes from here on is not lost.
            let service = self.service.as_mut();
            let may_read = service.is_none_or(|service| service.may_read(self.status.has_room));
            if !may_read {
                while self.poll_timer(cx, lists) {
                    self.flush(cx, lists);
                }
                return match self.status.is_closed {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                };
            }
            if !goes_on {
                if progress != Progress::Idle || !self.look_again(cx, lists, round == 0) {
                    return Poll::Pending;
                }
                if self.must_flush(lists) {
                    self.flush(cx, lists);
                }
            }
        }
        // Time passes also while bytes keep coming.
        self.poll_timer(cx, lists);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the last bytes and says the end. A peer that takes nothing of them for a while is
    /// given up.
    fn poll_flushing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.connection.written();
        if let Poll::Ready(drained) = self.connection.poll_drained(cx) {
            drained?;
            return self.connection.poll_shutdown(cx);
        }
        if self.connection.written() > before {
            self.ring_in(FLUSH_STALL);
        }
        self.timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn ring_in(&mut self, time: Duration) {
        self.timer
            .as_mut()
            .reset(clock::instant(clock::now() + time));
    }

    fn poll_lingering(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            self.buf.clear();
            self.buf.reserve(READ_MIN);
            match ready!(self.reader.poll_read(cx, &mut self.buf)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }
}

/// Whether nobody will take the last words.
fn is_deaf(reason: &CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::WriteStall(_) | CloseReason::HeartbeatTimeout(_) | CloseReason::Transport(_)
    )
}

impl Future for ConnectionDriver {
    type Output = CloseReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let this = self.get_mut();
        loop {
            match this.stage {
                Stage::Running => {
                    ready!(this.poll_with_lists(cx));
                    let reason = this.connection.close_reason();
                    if is_deaf(&reason) {
                        return Poll::Ready(reason);
                    }
                    this.stage = Stage::Flushing;
                    this.ring_in(FLUSH_STALL);
                }
                Stage::Flushing => {
                    let flushed = ready!(this.poll_flushing(cx));
                    // A client has said all it wanted; a server's last words must survive what is
                    // still on its way.
                    if flushed.is_err() || this.service.is_none() {
                        return Poll::Ready(this.connection.close_reason());
                    }
                    this.stage = Stage::Lingering;
                    this.ring_in(LINGER);
                }
                Stage::Lingering => {
                    ready!(this.poll_lingering(cx));
                    return Poll::Ready(this.connection.close_reason());
                }
            }
        }
    }
}

impl Drop for ConnectionDriver {
    /// A runtime that is torn down takes the driver with it: callers must not wait for ever.
    fn drop(&mut self) {
        let reason = CloseReason::Transport("the runtime of the connection has ended".to_owned());
        self.connection.close(reason);
    }
}
