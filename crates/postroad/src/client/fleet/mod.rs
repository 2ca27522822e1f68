//! Several servers behind one client.
//!
//! ```text
//!   Found (discovery) --> supervisor: who is there, probes, pool, ejections
//!                             |
//!                             v
//!   call --> admit --> Roster::pick --> Member --> Keeper --> connection
//!              ^            ^             |
//!              |            |             v
//!           Throttle     Balancer   Load, Breaker, Outlier <-- finish(outcome)
//! ```
//!
//! Picking reads a snapshot and atomic numbers; only callers that find no server wait, in bounded
//! number and time. What becomes of a call that has failed is decided in [`super::governed`].

mod advice;
mod list;
mod member;
mod owner;
mod pool;
mod probe;
mod roster;
mod supervisor;
mod waiting;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::code::Code;
use postroad_proto::policy::{
    Again, Budget, CallInfo, Candidate, ConnectionState, Considered, Ejector, Ending, Failed,
    Hedge, NoHedge, NoRetry, Outcome, Permit, RetryConfig, Throttle, Verdict, WHY_CANDIDATES_MAX,
    Why, hash_key,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::config::ClientConfig;
use super::keeper::Keeper;
use super::options::PRIORITY;
use super::policies::Policies;
use crate::clock;
use crate::discovery::{Found, Target};
use crate::driver::Connection;
use crate::error::{CallError, TransportError};
use crate::observe::fleet as observe;
use crate::transport::{BoxFuture, Transports};

use advice::{Advice, Owner};
pub(super) use member::Member;
use roster::{Roster, Tags};
pub(super) use waiting::Waiting;

/// The latency of a server that has never answered, as it is shown.
const UNKNOWN: Duration = Duration::from_millis(1);

/// How often the pool and the members are looked after.
const TICK: Duration = Duration::from_millis(500);

/// Calls a route of one server, beside all policies: for what a fleet itself wants to know. The
/// body is JSON's `null`.
pub(super) type AskServer = fn(
    server: Arc<Keeper>,
    route: String,
    timeout: Duration,
) -> BoxFuture<'static, Result<Bytes, CallError>>;

/// The servers of one target, and what is decided about them.
pub(super) struct Fleet {
    pub(super) target: Target,
    pub(super) config: ClientConfig,
    policies: Policies,
    /// Shares of the calls by tag; the policies say the first ones.
    tags: Mutex<Tags>,
    transports: Transports,
    roster: ArcSwap<Roster>,
    /// What discovery says, for errors.
    found: watch::Receiver<Found>,
    /// A connection was opened or has ended, or the list has changed.
    news: Arc<Notify>,
    /// When servers were woken for a caller last.
    woken: AtomicU64,
    /// A call was made after a rest.
    awake: Arc<Notify>,
    /// A call has ended while callers wait because every connection is full.
    freed: Notify,
    /// Callers that wait for a server, and those of them that wait because all are full.
    waiting: AtomicUsize,
    waiting_for_room: AtomicUsize,
    state: watch::Sender<ConnectionState>,
    closing: watch::Sender<bool>,
    /// Turns of members that have several connections.
    turn: AtomicU64,
    budget: Budget,
    /// When a call was made last.
    calls: AtomicU64,
    retry: Option<RetryConfig>,
    hedge: Option<Hedge>,
    is_thorough: bool,
    throttle: Option<Throttle>,
    ejector: Option<Ejector>,
    /// What the servers say of their routes.
    owner: ArcSwap<Owner>,
    ask: AskServer,
    /// Where connections are kept, whoever needs them first.
    runtime: Handle,
    /// Drawn once: clients choose different servers of many, and begin at different ones.
    seed: u64,
}

/// A call that has not been answered yet.
pub(super) struct Late<'a> {
    /// Attempts that were sent, and the server that has the last one.
    pub(super) sent: u8,
    pub(super) than: Option<&'a Member>,
    /// How long the last one has waited, and how much time it had.
    pub(super) waited: Duration,
    pub(super) time: Duration,
}

/// A server that was picked for a message.
#[derive(Clone, Debug)]
pub(super) struct Pick {
    member: Arc<Member>,
    permit: Option<Permit>,
}

impl Pick {
    pub(super) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Whether no other message may go with this one.
    pub(super) fn is_probe(&self) -> bool {
        self.permit.is_some_and(|permit| permit.is_probe)
    }
}

impl Fleet {
    /// Follows the target, on the runtime that is there.
    pub(super) fn start(
        target: Target,
        config: ClientConfig,
        transports: &Transports,
        ask: AskServer,
    ) -> Result<Arc<Self>, TransportError> {
        let policies = config.policies.clone().unwrap_or_default();
        let found = target.follow(config.copy.as_deref())?;
        let standby = match &policies.standby {
            Some(standby) => Some(standby.follow(None)?),
            None => None,
        };
        let fleet = Arc::new(Self {
            tags: Mutex::new(policies.tags.clone()),
            transports: transports.clone(),
            roster: ArcSwap::default(),
            found: found.clone(),
            news: Arc::default(),
            woken: AtomicU64::new(0),
            awake: Arc::default(),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            waiting_for_room: AtomicUsize::new(0),
            state: watch::Sender::new(ConnectionState::Connecting),
            closing: watch::Sender::new(false),
            turn: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            budget: Budget::new(policies.budget_config()),
            retry: policies.retry_config(),
            hedge: policies.hedge_config().map(Hedge::new),
            is_thorough: policies.hedge.is_some() || policies.explain > 0,
            throttle: policies.throttle_config().map(Throttle::new),
            ejector: policies.outlier_config().map(Ejector::new),
            owner: ArcSwap::default(),
            ask,
            runtime: Handle::current(),
            seed: rand::random(),
            policies,
            target,
            config,
        });
        supervisor::start(&fleet, found, standby);
        Ok(fleet)
    }

    /// Of the policies as they were given.
    pub(super) fn policies(&self) -> &Policies {
        &self.policies
    }

    pub(super) fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Whether a call may be made at all. It comes before the first attempt of each call.
    #[inline]
    pub(super) fn admit(&self, info: &CallInfo<'_>) -> Result<(), Box<CallError>> {
        let now = clock::now_coarse();
        self.budget.note_call(now);
        let last = Time(self.calls.load(Ordering::Relaxed));
        if last + TICK <= now {
            self.awake.notify_one();
        }
        self.calls.store(now.0, Ordering::Relaxed);
        let Some(throttle) = &self.throttle else {
            return Ok(());
        };
        throttle
            .admit(now, info.priority, rand::random)
            .map_err(|throttled| Box::new(CallError::Busy(format!("{}: {throttled}", self.target))))
    }

    /// A server for a message, and a connection to it that takes messages now.
    #[inline]
    pub(super) fn pick(
        &self,
        info: &CallInfo<'_>,
        avoid: Option<&Member>,
    ) -> Option<(Arc<Connection>, Pick)> {
        let now = clock::now_coarse();
        let roster = self.roster.load();
        let mut random = rand::random::<u64>;
        // Between being found usable and being asked, a breaker may have opened.
        for _ in 0..2 {
            let key = info.key.map(hash_key);
            let member = roster.pick(key, avoid, &mut random, now)?;
            if let Some(picked) = self.enter(member, now) {
                return Some(picked);
            }
        }
        None
    }

    #[inline]
    fn enter(&self, member: &Arc<Member>, now: Time) -> Option<(Arc<Connection>, Pick)> {
        let permit = match &member.breaker {
            Some(breaker) => Some(breaker.admit(now).ok()?),
            None => None,
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let Some(connection) = member.connection(turn) else {
            release(member, permit, now);
            return None;
        };
        let member = Arc::clone(member);
        Some((connection, Pick { member, permit }))
    }

    /// A call was taken by the connection that was picked.
    #[inline]
    pub(super) fn began(&self, pick: &Pick) {
        pick.member.load.start();
    }

    /// So many calls were answered that went with one permission, of which it is not known how long
    /// they took.
    pub(super) fn answered(&self, pick: &Pick, calls: u32) {
        if pick.is_probe() {
            let (ending, timing) = (Ending::Answered, None);
            return (0..calls).for_each(|_| self.finish(pick, &Outcome { ending, timing }));
        }
        let member = &*pick.member;
        member.load.answered(calls);
        member.outlier.succeeded(calls);
        if let (Some(breaker), Some(permit)) = (&member.breaker, pick.permit) {
            breaker.succeeded(clock::now_coarse(), permit, calls);
        }
        if self.waiting_for_room.load(Ordering::Relaxed) > 0 {
            (0..calls).for_each(|_| self.freed.notify_one());
        }
    }

    /// A message has ended that was offered to the connection that was picked.
    pub(super) fn finish(&self, pick: &Pick, outcome: &Outcome) {
        let member = &*pick.member;
        // Most calls of a pipeline are not timed.
        let timing = outcome.timing;
        let now = timing.map_or_else(clock::now_coarse, |timing| timing.began + timing.took);
        if let Ending::NotSent { .. } | Ending::Handed = outcome.ending {
            return release(member, pick.permit, now);
        }
        let verdict = match outcome.ending {
            // It is going away in order. That is no failure, and the next server knows nothing.
            Ending::Refused { code, .. } if code == Code::DRAINING => Verdict::Unknown,
            ending => Verdict::of(&ending),
        };
        let judged = judged(outcome, verdict, member.load.latency(now));
        member.load.finish(now, &judged, None, None);
        if let (Some(hedge), Some(timing)) = (&self.hedge, timing)
            && (verdict != Verdict::Failure || matches!(outcome.ending, Ending::Deadline { .. }))
        {
            hedge.observe(now, timing.took);
        }
        if let (Some(throttle), Ending::Refused { code, .. }) = (&self.throttle, outcome.ending)
            && code == Code::OVERLOADED
        {
            throttle.refused(now);
        }
        self.tell_breaker(pick, verdict, now);
        let in_a_row = member.outlier.observe(verdict);
        if let Some(ejector) = &self.ejector
            && ejector.is_enough(in_a_row)
        {
            self.eject(member, ejector, now);
        }
        if self.waiting_for_room.load(Ordering::Relaxed) > 0 {
            self.freed.notify_one();
        }
    }

    #[inline]
    fn tell_breaker(&self, pick: &Pick, verdict: Verdict, now: Time) {
        if let (Some(breaker), Some(permit)) = (&pick.member.breaker, pick.permit)
            && let Some(state) = breaker.finish(now, permit, verdict)
        {
            observe::breaker(&self.target, &pick.member.instance, state);
            self.news.notify_waiters();
        }
    }

    /// Puts a member aside that has failed too often in a row, unless too many are.
    #[cold]
    fn eject(&self, member: &Member, ejector: &Ejector, now: Time) {
        let roster = self.roster.load();
        let mut members = roster.members.iter();
        let Some(at) = members.position(|known| known.is_same(member)) else {
            return;
        };
        let is_ejected = ejector.eject(
            &roster.members,
            at,
            |member| &member.outlier,
            |member| member.may_take(now),
            now,
            rand::random(),
        );
        if is_ejected {
            observe::ejected(&self.target, &member.instance);
        }
    }

    /// What to do with a call that has failed, and is over otherwise.
    ///
    /// # Errors
    /// Why it is not sent again.
    pub(super) fn judge(&self, failed: &Failed) -> Result<Again, NoRetry> {
        let retry = self.retry.as_ref().ok_or(NoRetry::AttemptsUsed)?;
        retry.decide(clock::now(), failed, &self.budget, rand::random())
    }

    /// Whether a server other than this one can take a call now.
    pub(super) fn has_other(&self, than: Option<&Member>) -> bool {
        self.usual_of_others(than).is_some()
    }

    /// How long the quickest of the servers but this one usually takes, if that is known; `None` if
    /// no other can take a call now.
    fn usual_of_others(&self, than: Option<&Member>) -> Option<Option<Duration>> {
        let now = clock::now();
        let roster = self.roster.load();
        let is_other = |member: &&Arc<Member>| than.is_none_or(|than| !than.is_same(member));
        let others = roster.members.iter().filter(is_other);
        let others = others.filter(|member| member.may_take(now));
        let usual = others.map(|member| member.load.latency(now));
        usual.reduce(|one, other| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        })
    }

    /// Whether a call is sent to another server too, because the one that has taken it is silent.
    /// True has paid for it from the budget.
    pub(super) fn asks_another(&self, info: &CallInfo<'_>, late: &Late<'_>) -> bool {
        let Some(retry) = &self.retry else {
            return false;
        };
        !info.no_retry
            && (info.is_idempotent || self.is_idempotent(info.route))
            && self.usual_of_others(late.than).is_some_and(|usual| {
                retry.is_late(late.sent, late.waited, late.time, usual)
                    && self.budget.try_spend(clock::now())
            })
    }

    /// Has all who wait for an answer look how late it is, so no call needs a timer of its own.
    /// Whether calls are being made.
    fn look_for_late_calls(&self, now: Time) -> bool {
        // Without retries nobody is asked in the place of one that is late.
        if self.retry.is_none() {
            return false;
        }
        let roster = self.roster.load();
        let busy = roster.members.iter();
        let busy = busy.filter(|member| member.load.in_flight() > 0);
        for keeper in busy
            .clone()
            .flat_map(|member| Vec::clone(&member.keepers()))
        {
            if let Some(connection) = keeper.current() {
                connection.wake_callers();
            }
        }
        let last = Time(self.calls.load(Ordering::Relaxed));
        now < last + 2 * TICK || busy.count() > 0
    }

    /// After how long a second server is asked too; `None` if none is.
    pub(super) fn hedge_delay(&self) -> Option<Duration> {
        self.hedge.as_ref()?.begin(clock::now())
    }

    /// Takes one hedge of an idempotent call from the budgets.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn may_hedge(&self) -> Result<(), NoHedge> {
        match &self.hedge {
            Some(hedge) => hedge.decide(clock::now(), true, false, &self.budget),
            None => Err(NoHedge::Forbidden),
        }
    }

    /// Whether calls are ever sent to a second server before the first has answered.
    pub(super) fn has_hedges(&self) -> bool {
        self.hedge.is_some()
    }

    /// Whether calls are hedged or sampled, so that each needs more than its connection.
    #[inline]
    pub(super) fn is_thorough(&self) -> bool {
        self.is_thorough
    }

    /// Draws whether it is written down of a call why it goes where it goes.
    pub(super) fn is_sampled(&self) -> bool {
        let share = u64::from(self.policies.explain);
        share > 0 && rand::random::<u64>() % 1000 < share
    }

    /// What was written down of a sampled call.
    pub(super) fn tell_why(&self, route: &str, why: &Why) {
        match &self.policies.explain_to {
            Some(sink) => sink.tell(route, why),
            None => observe::why(&self.target, route, why),
        }
    }

    /// Whether settings or servers say that a route may be called twice.
    pub(super) fn is_idempotent(&self, route: &str) -> bool {
        self.policies.is_idempotent(route) || self.advice(route).is_idempotent
    }

    /// The deadline of a call that names none: what its route's owner says, or the client's own.
    #[inline]
    pub(super) fn timeout_of(&self, route: &str) -> Duration {
        self.advice(route).timeout().unwrap_or(self.config.timeout)
    }

    /// The priority of a call that names none.
    #[inline]
    pub(super) fn priority_of(&self, route: &str) -> u8 {
        let most = self.advice(route).priority_max();
        most.map_or(PRIORITY, |most| PRIORITY.min(most))
    }

    #[inline]
    fn advice(&self, route: &str) -> Advice {
        let owner = self.owner.load();
        if owner.is_empty() {
            return Advice::default();
        }
        owner.get(route).copied().unwrap_or_default()
    }

    /// All members as the balancing sees them now: names, and what was considered of each.
    pub(super) fn considered(&self) -> (Vec<String>, Vec<Considered>) {
        let now = clock::now();
        let roster = self.roster.load();
        let members = roster.members.iter().take(WHY_CANDIDATES_MAX).enumerate();
        let considered = members.map(|(index, member)| {
            let passed_over = member.refusal(now);
            let latency = member.load.latency(now).unwrap_or(UNKNOWN);
            let score = member.load.score(now, member.weight(), latency);
            let score = passed_over.is_none().then_some(score);
            let considered = Considered {
                index,
                score,
                passed_over,
            };
            (member.instance.to_string(), considered)
        });
        considered.unzip()
    }

    /// Why no server takes a call now, in words.
    pub(super) fn not_connected(&self) -> CallError {
        let state = *self.state.borrow();
        let found = self.found.borrow().to_string();
        let mut reason = found;
        for member in self.roster.load().members.iter().take(3) {
            let now = clock::now();
            if let Some(refusal) = member.refusal(now) {
                let told = member.trouble().unwrap_or_else(|| refusal.to_owned());
                reason = format!("{reason}; {}: {told}", member.instance);
            }
        }
        CallError::NotConnected {
            endpoint: self.target.to_string(),
            state,
            reason,
        }
    }

    /// If servers are connected, but the breaker of each is open: when the first is tried again.
    pub(super) fn all_open(&self) -> Option<CallError> {
        let now = clock::now();
        let roster = self.roster.load();
        let may_come = |member: &Arc<Member>| !member.is_connected() && !member.has_failed();
        if roster.members.iter().any(may_come) {
            return None;
        }
        let connected = roster.members.iter().filter(|member| member.is_connected());
        let waits: Vec<Duration> = connected
            .map(|member| match &member.breaker {
                Some(breaker) => breaker.retry_after(now),
                None => Duration::ZERO,
            })
            .collect();
        let first = waits.iter().min().copied()?;
        (!first.is_zero()).then(|| CallError::BreakerOpen {
            target: self.target.to_string(),
            retry_after: first,
        })
    }

    /// Ready when a server is connected, or it is known that none can be reached for now.
    pub(super) async fn first_attempt(&self) -> Result<(), CallError> {
        let mut state = self.state.subscribe();
        // Whoever waits for a server uses the fleet.
        self.calls.store(clock::now().0, Ordering::Relaxed);
        // Calls that follow at once look like those of a fleet that is looked after already.
        self.awake.notify_one();
        self.wake_all();
        let settled = state.wait_for(|state| *state != ConnectionState::Connecting);
        // A source that does not answer is waited for no longer than a server.
        let settled = tokio::time::timeout(self.config.connect_timeout, settled).await;
        match settled.map(|state| state.map(|state| *state)) {
            Ok(Ok(ConnectionState::Connected)) => Ok(()),
            _ => Err(self.not_connected()),
        }
    }

    /// Dials at once whatever is not connected.
    pub(super) fn try_now(&self) {
        for member in &self.roster.load().members {
            member.wake(self);
            member.keepers().iter().for_each(|keeper| keeper.try_now());
        }
    }

    /// Whether a driver was woken for something and has not run since.
    pub(super) fn has_left(&self) -> bool {
        let roster = self.roster.load();
        roster.members.iter().any(|member| {
            let keepers = member.keepers();
            keepers.iter().any(|keeper| keeper.has_left())
        })
    }

    /// Ends all connections after the calls in flight.
    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        self.news.notify_waiters();
        let roster = self.roster.swap(Arc::default());
        self.state.send_replace(ConnectionState::Closing);
        for member in &roster.members {
            for keeper in member.keepers().iter() {
                keeper.begin_close();
            }
        }
        for member in &roster.members {
            for keeper in member.keepers().iter() {
                keeper.close().await;
            }
        }
        self.state.send_replace(ConnectionState::Closed);
        self.news.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closing.borrow()
    }
}

/// A call with this permission was not made, or its end says nothing.
fn release(member: &Member, permit: Option<Permit>, now: Time) {
    if let (Some(breaker), Some(permit)) = (&member.breaker, permit) {
        breaker.finish(now, permit, Verdict::Unknown);
    }
}

/// The outcome as the load takes it. A server that goes away in order has not failed. One whose
/// answer nobody waits for any more would have taken at least so long: by that a server is known
/// that takes calls and is silent, while others answer in its place.
fn judged(outcome: &Outcome, verdict: Verdict, known: Option<Duration>) -> Outcome {
    let took = outcome.timing.map(|timing| timing.took);
    let is_slower = known.is_some() && took > known;
    let ending = match (verdict, outcome.ending) {
        (Verdict::Unknown, Ending::GivenUp) if is_slower => Ending::Answered,
        (Verdict::Unknown, _) => Ending::GivenUp,
        (Verdict::Success | Verdict::Failure, ending) => ending,
    };
    Outcome { ending, ..*outcome }
}

/// Orders servers differently for each seed, and the same way each time.
fn draw(seed: u64, identity: u64) -> u64 {
    let mixed = (seed ^ identity).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}
