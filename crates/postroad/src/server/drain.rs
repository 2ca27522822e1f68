//! The task of a reactor that starts what is queued.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use postroad_proto::Time;

use super::begun::{Begun, tell};
use super::intake::{Arrival, Decision, Refusal, nanos};
use super::run_queue::{Queued, RunQueue};
use crate::clock;
use crate::context::Scope;
use crate::driver::{Answers, Connection};
use crate::error::Error;
use crate::observe::calls::{CallRecord, refuse};
use crate::route::{Route, Starter};

/// Starters that the task of a reactor keeps. A starter is made for one connection at a time, and
/// this task starts one request at a time, whosever it is.
#[derive(Default)]
struct Starters(Vec<(Arc<Route>, Box<dyn Starter>)>);

/// Starters that are kept; more routes than these are hardly busy at once.
const STARTERS_MAX: usize = 32;

impl Starters {
    fn of(&mut self, route: &Arc<Route>) -> &mut dyn Starter {
        let kept = self.0.iter().position(|(kept, _)| Arc::ptr_eq(kept, route));
        let at = kept.unwrap_or_else(|| {
            if self.0.len() >= STARTERS_MAX {
                self.forget();
            }
            self.0.push((Arc::clone(route), route.starter()));
            self.0.len() - 1
        });
        &mut *self.0[at].1
    }

    fn forget(&mut self) {
        // As in `Lookup::forget`: what a handler has left may panic.
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.clear()));
    }
}

/// Work of the task that starts what is queued, nanoseconds, before the drivers of the reactor have
/// their turn: what they read meanwhile may be more important. Going round costs about 2
/// microseconds.
const DRAINED_AT_ONCE: u64 = 200_000;

/// Starts what is queued on a reactor, until nothing is left.
pub(super) async fn drain(queue: Arc<RunQueue>) {
    let mut queue = Draining {
        queue,
        is_done: false,
    };
    let (mut starters, mut answers) = (Starters::default(), Answers::default());
    let mut now = clock::real();
    let mut turn_began = now;
    while let Some(turn) = queue.take(now) {
        let connection = turn.connection;
        let mut worked = 0;
        if let Some(taken) = turn.taken {
            if taken.item.id.is_some() && !connection.has_room_for_answers() {
                queue.park(&connection, taken);
                continue;
            }
            let route = Arc::clone(&taken.item.route);
            let began = clock::real();
            start_queued(&connection, taken.item, &mut starters, &mut answers);
            now = clock::real();
            worked = nanos(now.since(began));
            route.cost.learn(worked);
            connection.respond_all(&mut answers);
        }
        queue.done(&connection, worked.max(1));
        now = clock::real();
        if nanos(now.since(turn_began)) > DRAINED_AT_ONCE {
            tokio::task::yield_now().await;
            now = clock::real();
            turn_began = now;
        }
    }
    queue.is_done = true;
}

/// The queue of the task that starts what is in it.
struct Draining {
    queue: Arc<RunQueue>,
    /// The queue was empty: the next task may be at work already.
    is_done: bool,
}

impl Deref for Draining {
    type Target = RunQueue;

    fn deref(&self) -> &RunQueue {
        &self.queue
    }
}

impl Drop for Draining {
    /// A runtime that is torn down takes the task with it.
    fn drop(&mut self) {
        if !self.is_done {
            self.queue.abandon();
        }
    }
}

/// Tells the caller of a request that had to make room for a more important one.
#[cold]
pub(super) fn refuse_evicted(connection: &Arc<Connection>, queued: Queued) {
    let dispatch = Arc::clone(queued.dispatch());
    let route = queued.request.route();
    let error = Refusal::QueueFull.error();
    let error = refuse(&dispatch.counters, &connection.peer, route, error);
    let mut answers = Answers::default();
    tell(queued.id, error, &mut answers, &dispatch, connection);
    connection.respond_all(&mut answers);
}

/// Starts one queued request, whose time may have come too late.
fn start_queued(
    connection: &Arc<Connection>,
    queued: Queued,
    starters: &mut Starters,
    answers: &mut Answers,
) {
    let dispatch = Arc::clone(queued.dispatch());
    let counters = &dispatch.counters;
    let Queued {
        route,
        mut request,
        id,
        share,
        guard,
        ..
    } = queued;
    let arrival = Arrival {
        level: request.priority,
        is_late: request.is_expired(),
        is_share_full: share.is_full(id.is_none(), dispatch.intake.share_max()),
        must_wait: false,
    };
    let started = catch_unwind(AssertUnwindSafe(|| {
        let begun = match dispatch.intake.decide(arrival) {
            Decision::Refuse(why) => Err(why),
            _ => {
                let mut begun = Begun {
                    dispatch: &dispatch,
                    connection,
                    id,
                    share: &mut Some(share),
                    permit: None,
                    cut_off: Time::NEVER,
                };
                let scope = Scope::enter();
                let starter = starters.of(&route);
                begun.start_gated(&guard, &route, starter, &mut request, answers, &scope)
            }
        };
        let refused =
            |why: Refusal| refuse(counters, &connection.peer, request.route(), why.error());
        begun.err().map(refused)
    }));
    let error = started.unwrap_or_else(|payload| {
        starters.forget();
        let told = catch_unwind(AssertUnwindSafe(|| {
            let record = CallRecord::of(&request, None);
            let mut error = record.panicked(counters, payload.as_ref());
            record.observe(counters, Some(&mut error));
            error
        }));
        // As in `answer_for_panic`: a subscriber of the logs may panic as well.
        Some(told.unwrap_or_else(|_| Error::internal("the server failed unexpectedly")))
    });
    if let Some(error) = error {
        tell(id, error, answers, &dispatch, connection);
    }
}
