//! Joins a session to a runtime: one future a connection, no task, timer or allocation a call.
//!
//! Whoever has something to say encodes it under the connection's lock, and either writes it or
//! leaves it to the driver; [`connection`] tells which, [`line`] who may write, and [`wakeups`]
//! when the driver is woken. The driver is the only one that reads. Bytes are read without the
//! lock, parsed under it, and handlers run without it.
//!
//! # The life of a driver
//!
//! ```text
//!                the session          the last bytes          the peer has hung up,
//!                is over              were taken              or it takes too long
//!      Running ------------> Flushing ------------> Lingering ---------------------> done
//!         |                     |
//!         |  the peer takes     |  the end of a client, or the peer takes nothing
//!         |  nothing any more   |
//!         +--> done             +--> done
//! ```
//!
//! # A turn
//!
//! Each time the driver is woken it runs a few rounds of these steps, until nothing is left to be
//! done now, or until it has done its share: so many rounds, or so many bytes read. Then it goes
//! behind all other connections of its reactor, those included whose bytes the runtime has not
//! asked for yet:
//!
//! 1. **receive**: read once and let the session parse it, which fills a [`RequestBatch`], or finds
//!    callers for answers;
//! 2. **start** the handlers of these requests, as long as their answers find room;
//! 3. **transmit**: encode the answers that were made at once, and write what there is;
//! 4. **drive_timer**: set the one timer for all of the session's timeouts, and run those that are
//!    due;
//! 5. **rest**: sleep, or with the low-latency preset look once more for what is expected soon.
//!
//! The first round always transmits and drives the timer, unless it receives something: these may
//! be what the driver was woken for. Between the steps a copy of how things stand ([`Status`])
//! saves asking under the lock.

mod alarm;
mod batch;
mod budget;
mod connection;
mod in_place_queue;
mod inbox;
mod line;
mod link;
#[cfg(test)]
mod model;
mod pipes;
mod polling;
mod request_queue;
mod serving;
mod status;
mod transmit;
mod waiters;
mod wakeups;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use postroad_proto::session::{CloseReason, DropReason, Session};
use tokio::runtime::RuntimeFlavor;
use tokio::sync::watch;

use crate::clock;
use crate::observe::counters::Counters;
use crate::preset::Preset;
use crate::transport::{PeerInfo, Stream};

use alarm::Alarm;
use batch::Gathered;
pub(crate) use batch::{Answered, Answers, RequestBatch};
pub(crate) use budget::Budget;
pub(crate) use connection::Connection;
pub(crate) use inbox::READ_MAX;
use inbox::{Inbox, Leftover};
pub(crate) use link::LinkState;
pub(crate) use pipes::{PipeKey, PipedFailure, PipelineAnswers};
use polling::Polling;
pub(crate) use request_queue::{Forget, RequestQueue};
pub(crate) use serving::Serving;
use status::Status;
pub(crate) use waiters::WaiterKey;

/// Rounds of a turn before other tasks have theirs. Each starts at most one batch of requests.
const ROUNDS: usize = 16;
/// Bytes that are read in a turn before other tasks have theirs, about. Rounds alone are no bound:
/// a peer that sends nothing but small frames that start no handler would have 16 full buffers
/// parsed, which are 250,000 frames. This many bytes are at most 16,000 frames, or 0.3 ms.
const TURN_BYTES: usize = 256 * 1024;
/// How long a closed connection may take none of its last bytes.
const FLUSH_STALL: Duration = Duration::from_secs(10);
/// How long a closed connection is read on, so that its last words are not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

/// See the module's drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    /// The session is over; its last bytes are being written.
    Flushing,
    /// The end was said; what still comes is thrown away.
    Lingering,
}

/// What came of trying to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Bytes were read, or requests started; there may be more.
    Received,
    /// Nothing has come. The task is woken when something does.
    Idle,
    /// The session takes no more, or handlers are not started, until answers have left.
    Paused,
}

/// Whether callers that can run get to run before the driver writes, so that their calls leave
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callers {
    /// The runtime of one thread sees to that: it runs tasks in the order in which they were woken,
    /// and a server has no callers.
    RunBefore,
    /// A runtime of many threads runs next what was woken last. So the driver would run after the
    /// first caller instead of after the last, and has to go to the end of the queue by itself.
    MayWait,
    /// They had their turn: the driver went to the end of the queue and comes from there.
    HadTurn,
}

/// What the driver of an end that serves hands requests to, and where it counts those that do not
/// get there.
type Served = (Box<dyn Serving>, Arc<Counters>);

/// Drives one connection to its end, which is its output.
#[must_use = "a connection does nothing unless its driver is polled"]
pub(crate) struct ConnectionDriver {
    connection: Arc<Connection>,
    inbox: Inbox,
    /// What is left in the inbox. Here because it fits beside the two small fields below, while in
    /// the inbox it would take eight bytes of each idle connection.
    leftover: Leftover,
    alarm: Alarm,
    life: Life,
    callers: Callers,
    /// How things stood after the last step.
    status: Status,
    /// Of a server.
    serving: Option<Box<dyn Serving>>,
    /// Whether to poll before sleeping, where that is done at all.
    polling: Option<Box<Polling>>,
    /// The waker that the connection knows.
    waker: Option<Waker>,
    /// Requests whose handlers were not started yet, because answers wait to be read.
    left: Option<Box<Gathered>>,
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
        let driver = Self::new(stream, session, peer, Some(link), None, preset);
        (driver, watcher)
    }

    /// Joins a stream and a server's session, whose requests `service` handles; what is dropped
    /// before it gets there is counted.
    pub(crate) fn server(
        stream: Stream,
        session: Session,
        peer: PeerInfo,
        serving: Box<dyn Serving>,
        counters: Arc<Counters>,
        preset: Preset,
    ) -> Self {
        let served = Some((serving, counters));
        Self::new(stream, session, peer, None, served, preset)
    }

    /// An end that may call has a `link`, one that serves has what it is `served` by.
    fn new(
        stream: Stream,
        session: Session,
        peer: PeerInfo,
        link: Option<watch::Sender<LinkState>>,
        served: Option<Served>,
        preset: Preset,
    ) -> Self {
        let (reader, writer) = stream.split();
        let polling = Polling::new(preset.spin());
        let (serving, counters) = served.unzip();
        let may_call = link.is_some();
        let flavor = tokio::runtime::Handle::current().runtime_flavor();
        let callers = if may_call && flavor != RuntimeFlavor::CurrentThread {
            Callers::MayWait
        } else {
            Callers::RunBefore
        };
        // The driver of an end that only serves writes by itself nearly always, and so is awake
        // afterwards anyway.
        let polls_for_answers = may_call && polling.is_some();
        let connection = Connection::new(session, writer, peer, link, counters, polls_for_answers);
        let status = connection.hand_out_first();
        Self {
            connection: Arc::new(connection),
            inbox: Inbox::new(reader),
            leftover: Leftover::Beginning,
            alarm: Alarm::new(),
            life: Life::Running,
            callers,
            status,
            serving,
            polling,
            waker: None,
            left: None,
        }
    }

    /// Whether the peer may call this end.
    fn serves(&self) -> bool {
        self.serving.is_some()
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Tells the connection whom to wake, if that is another task than the last time.
    fn register(&mut self, cx: &Context<'_>) {
        let known = self.waker.as_ref();
        if known.is_some_and(|waker| waker.will_wake(cx.waker())) {
            return;
        }
        self.connection.register(cx.waker());
        self.waker = Some(cx.waker().clone());
        self.alarm.forget_task();
        // What happened before this woke nobody, or another task.
        self.status = self.connection.status(self.alarm.armed());
    }

    /// Runs a turn with the thread's lists, and with requests that an earlier turn has left.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut gathered = self.left.take().unwrap_or_else(Gathered::take);
        self.register(cx);
        if let Some(serving) = &mut self.serving {
            serving.begin_turn();
        }
        gathered.bytes_read = 0;
        self.resume(&mut gathered);
        let polled = self.poll_rounds(cx, &mut gathered);
        if polled.is_ready() {
            self.lose(&mut gathered);
        }
        if self.status.is_cut {
            go_behind_others(cx);
        }
        if gathered.batch.arrived.is_empty() {
            gathered.give_back();
        } else {
            self.left = Some(gathered);
        }
        polled
    }

    /// Goes on with requests that an earlier turn has left, if there are any.
    fn resume(&mut self, gathered: &mut Gathered) {
        if gathered.batch.arrived.is_empty() {
            return;
        }
        // Much may have happened since these requests came.
        gathered.now = clock::now();
        self.status = self.connection.status(self.alarm.armed());
        if self.status.is_closed {
            self.lose(gathered);
        }
    }

    /// Drops requests that nobody starts any more, and counts the one-way messages. Those who wait
    /// for answers hear of it.
    #[cold]
    fn lose(&self, gathered: &mut Gathered) {
        let messages = gathered.batch.arrived.clear();
        self.connection
            .count_dropped(messages, DropReason::Unstarted);
    }

    /// The steps of a turn, in rounds; ready when the session is over.
    ///
    /// ```text
    /// after a round                             the turn          who goes on with it
    /// ----------------------------------------  ----------------  -----------------------------
    /// the session is over                       is over: ready    the driver: the last bytes
    /// callers may have more to send (round 1)   is put off        this task, behind them
    /// no more requests may be held              ends              whoever starts one of them
    /// nothing is left to be done now            ends              the transport, the timer, or a
    ///                                                             wake-up (`wakeups.rs`)
    /// so many bytes were read or written        is cut            this task, behind all others
    /// something came, or may have come          goes on           the next of so many rounds
    /// ```
    fn poll_rounds(&mut self, cx: &mut Context<'_>, gathered: &mut Gathered) -> Poll<()> {
        for round in 0..ROUNDS {
            let is_first = round == 0;
            let progress = self.receive(cx, gathered);
            if progress == Progress::Received {
                if let Some(polling) = &mut self.polling {
                    polling.wake();
                }
                if self.has_to_transmit(gathered) {
                    self.transmit(cx, gathered);
                }
            } else {
                if is_first && self.lets_callers_run() {
                    // To the end of the queue, from where another thread may take it.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if is_first {
                    self.transmit(cx, gathered);
                }
                // Whoever has read in this turn knows the time: a timer that is set for later need
                // not be asked.
                if is_first || !self.alarm.is_ahead(self.status.due, gathered.now) {
                    self.drive_timer(cx, gathered);
                }
            }
            if self.status.is_closed {
                return Poll::Ready(());
            }
            if !self.takes_requests() {
                self.drive_timer(cx, gathered);
                return self.end_of_turn();
            }
            if !self.goes_on(progress, gathered) && !self.rest(cx, gathered, progress, is_first) {
                return Poll::Pending;
            }
            if gathered.bytes_read >= TURN_BYTES || self.status.is_cut {
                break;
            }
        }
        // Other tasks have their turn. Time passes also while bytes keep coming.
        self.poll_alarm(cx, gathered);
        go_behind_others(cx);
        Poll::Pending
    }

    /// Whether the service takes more requests now. It is asked after the step that writes, so that
    /// a wake-up which comes from here on is not lost.
    fn takes_requests(&mut self) -> bool {
        let has_room = self.status.has_room;
        let serving = self.serving.as_mut();
        serving.is_none_or(|serving| serving.takes_requests(has_room))
    }

    /// What a turn that ends here says: ready when the session is over.
    fn end_of_turn(&self) -> Poll<()> {
        match self.status.is_closed {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Step 1: reads once and lets the session take it, unless there is something to go on with.
    fn receive(&mut self, cx: &mut Context<'_>, gathered: &mut Gathered) -> Progress {
        if !gathered.batch.arrived.is_empty() {
            if !self.status.has_room {
                return Progress::Paused;
            }
            // The requests before them may have taken long.
            gathered.now = clock::now();
            self.start(gathered);
            return Progress::Received;
        }
        if !self.status.wants_read {
            return Progress::Paused;
        }
        if self.inbox.has_frames(self.leftover) {
            // What was left while reading was paused comes before anything new.
            gathered.now = clock::now();
            self.parse(gathered);
            return Progress::Received;
        }
        match self.inbox.poll_read(cx) {
            Poll::Pending => Progress::Idle,
            Poll::Ready(read) => self.take(read, gathered),
        }
    }

    /// Lets the session take what a read has brought.
    fn take(&mut self, read: io::Result<usize>, gathered: &mut Gathered) -> Progress {
        gathered.now = clock::now();
        let error = match read {
            Ok(read) if read > 0 => {
                gathered.bytes_read += read;
                self.parse(gathered);
                return Progress::Received;
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        let unread = self.inbox.bytes();
        self.status = self.connection.handle_end(gathered.now, unread, error);
        Progress::Idle
    }

    /// Lets the session take what was read, and starts handlers.
    fn parse(&mut self, gathered: &mut Gathered) {
        let armed = self.alarm.armed();
        let buf = self.inbox.bytes_mut();
        let batch = &mut gathered.batch;
        (self.status, self.leftover) =
            self.connection
                .handle_bytes(gathered.now, buf, batch, armed);
        if let Some(credentials) = gathered.batch.presented.take()
            && let Some(serving) = &mut self.serving
        {
            serving.judge(&self.connection, credentials);
        }
        self.start(gathered);
    }

    /// Step 2: starts handlers, as long as their answers find room.
    fn start(&mut self, gathered: &mut Gathered) {
        let arrived = &mut gathered.batch.arrived;
        match &mut self.serving {
            Some(serving) if self.status.has_room && !arrived.is_empty() => {
                let answers = &mut gathered.answers;
                serving.start(&self.connection, gathered.now, arrived, answers);
            }
            Some(_) => {}
            // Nobody is served.
            None => drop(arrived.clear()),
        }
    }

    /// Whether there is something for step 3.
    fn has_to_transmit(&self, gathered: &Gathered) -> bool {
        !gathered.answers.is_empty() || self.status.has_output || self.connection.buffers()
    }

    /// Step 3: encodes the answers that were made at once, and writes what there is.
    fn transmit(&mut self, cx: &mut Context<'_>, gathered: &mut Gathered) {
        let answers = &mut gathered.answers;
        let batch = &mut gathered.batch;
        let armed = self.alarm.armed();
        self.status = self.connection.poll_transmit(cx, answers, batch, armed);
    }

    /// Step 4: sets the timer, and runs what is due until nothing is.
    fn drive_timer(&mut self, cx: &mut Context<'_>, gathered: &mut Gathered) {
        while self.poll_alarm(cx, gathered) {
            self.transmit(cx, gathered);
        }
    }

    /// Sets the one timer for all of the session's timeouts, and runs those that are due; whether
    /// any was.
    fn poll_alarm(&mut self, cx: &mut Context<'_>, gathered: &mut Gathered) -> bool {
        if self.alarm.poll(cx, self.status.due).is_pending() {
            return false;
        }
        gathered.now = clock::now();
        let batch = &mut gathered.batch;
        self.status = self.connection.handle_timeout(gathered.now, batch);
        // A good moment to give memory back: it is rare, and it comes at every heartbeat.
        if let Some(serving) = &mut self.serving
            && self.connection.release_memory()
        {
            serving.release_memory();
        }
        true
    }

    /// Whether there is something to receive at once. What has paused the reading may have been
    /// written by this turn; if it was not, whoever ends the pause wakes this task.
    fn goes_on(&self, progress: Progress, gathered: &Gathered) -> bool {
        match progress {
            Progress::Received => true,
            Progress::Idle => false,
            Progress::Paused if gathered.batch.arrived.is_empty() => self.status.wants_read,
            Progress::Paused => self.status.has_room,
        }
    }

    /// Step 5: nothing is left to be done now. Looks once more for what this end waits for, if that
    /// is probably close: a client for the answers to its calls, a server for the next request.
    /// Whether something came; otherwise the task sleeps, or comes back after all others that can
    /// run.
    fn rest(
        &mut self,
        cx: &mut Context<'_>,
        gathered: &mut Gathered,
        progress: Progress,
        is_first: bool,
    ) -> bool {
        let serves = self.serves();
        let Some(polling) = &mut self.polling else {
            return false;
        };
        if progress != Progress::Idle {
            return false;
        }
        // One that serves nobody has nothing to expect without a call.
        if !serves && !self.status.is_calling {
            polling.wake();
            return false;
        }
        // The address is the connection's as long as it lives.
        let connection = Arc::as_ptr(&self.connection).addr();
        let Some(read) = polling.look_again(cx, &mut self.inbox, connection, is_first) else {
            return false;
        };
        self.take(read, gathered);
        if self.has_to_transmit(gathered) {
            self.transmit(cx, gathered);
        }
        true
    }

    /// Whether callers that can run should run first, so that their calls leave together.
    fn lets_callers_run(&mut self) -> bool {
        self.callers = match self.callers {
            Callers::RunBefore => return false,
            Callers::MayWait if self.connection.expects_more() => Callers::HadTurn,
            Callers::MayWait | Callers::HadTurn => Callers::MayWait,
        };
        self.callers == Callers::HadTurn
    }

    /// Writes the last bytes and says the end. A peer that takes nothing of them for a while is
    /// given up.
    fn poll_flushing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.connection.taken();
        if let Poll::Ready(drained) = self.connection.poll_drained(cx) {
            drained?;
            return self.connection.poll_shutdown(cx);
        }
        if self.connection.taken() > before {
            self.alarm.ring_in(FLUSH_STALL);
        }
        let rings = self.alarm.poll_ring(cx);
        rings.map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits until the peer has hung up, but not for long.
    fn poll_lingering(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.alarm.poll_ring(cx).is_ready() {
            return Poll::Ready(());
        }
        self.inbox.poll_discard(cx)
    }
}

/// Wakes the task again, but only after all others of its reactor, those included that wait for
/// sockets: the runtime asks for the state of its sockets before it runs a task that has yielded,
/// while one that wakes itself runs up to 61 times before the runtime asks.
fn go_behind_others(cx: &mut Context<'_>) {
    // The future is dropped at once: all that is wanted of it is the wake-up that it has arranged.
    let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
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
            match this.life {
                Life::Running => {
                    ready!(this.poll_turn(cx));
                    if let Some(serving) = &mut this.serving {
                        serving.end();
                    }
                    let reason = this.connection.close_reason();
                    if matches!(reason, CloseReason::WriteStall(_)) && this.serves() {
                        // It may be one that sends everything before it reads. What the kernel
                        // holds for it is lost to a reset, but not to an orderly end.
                        let _ = this.connection.poll_shutdown(cx);
                        this.life = Life::Lingering;
                        this.alarm.ring_in(LINGER);
                        continue;
                    }
                    if is_deaf(&reason) {
                        return Poll::Ready(reason);
                    }
                    this.life = Life::Flushing;
                    this.alarm.ring_in(FLUSH_STALL);
                }
                Life::Flushing => {
                    let flushed = ready!(this.poll_flushing(cx));
                    // One that only calls has said all it wanted. The last words of one that serves
                    // must survive what is still on its way.
                    if flushed.is_err() || !this.serves() {
                        return Poll::Ready(this.connection.close_reason());
                    }
                    this.life = Life::Lingering;
                    this.alarm.ring_in(LINGER);
                }
                Life::Lingering => {
                    ready!(this.poll_lingering(cx));
                    return Poll::Ready(this.connection.close_reason());
                }
            }
        }
    }
}

impl Drop for ConnectionDriver {
    /// A runtime that is torn down takes the driver with it.
    fn drop(&mut self) {
        if let Some(mut gathered) = self.left.take() {
            self.lose(&mut gathered);
        }
        self.connection.leave();
    }
}
