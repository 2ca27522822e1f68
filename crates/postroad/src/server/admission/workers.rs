//! The threads of routes that compute or block.
//!
//! The threads are the runtime's own for blocking work; how many of them work at once is a
//! [`Limit`], so the most important request gets the next that is free, and their number can be
//! changed while they work.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::session::Reply;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::limit::{Limit, Permit};
use crate::clock;
use crate::error::Error;
use crate::observe::node;
use crate::transport::BoxFuture;

/// A handler that works longer than this, while others wait for its thread, is named in the log.
const SUSPICIOUS: Duration = Duration::from_secs(30);

/// The worker pool of a server.
#[derive(Debug)]
pub(crate) struct Workers {
    pub(crate) limit: Arc<Limit>,
    busy: Mutex<HashMap<u64, (Arc<str>, Time)>>,
    jobs: AtomicU64,
    /// When the log named busy workers last, nanoseconds.
    named: AtomicU64,
}

/// A job's entry among those that are busy, while it lives.
struct Busy {
    workers: Arc<Workers>,
    job: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let busy = &self.workers.busy;
        let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.job);
    }
}

impl Workers {
    pub(crate) fn of(many: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: Limit::of(many),
            busy: Mutex::default(),
            jobs: AtomicU64::new(0),
            named: AtomicU64::new(0),
        })
    }

    fn enter(self: &Arc<Self>, route: &Arc<str>) -> Busy {
        let job = self.jobs.fetch_add(1, Ordering::Relaxed);
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(job, (Arc::clone(route), clock::now()));
        Busy {
            workers: Arc::clone(self),
            job,
        }
    }

    /// Runs a handler on a worker. It goes on there until it waits for something if this is
    /// dropped, and has its permits as long: of the worker, and of its route.
    pub(crate) async fn run(
        self: Arc<Self>,
        permits: [Option<Permit>; 2],
        route: Arc<str>,
        handler: BoxFuture<'static, Result<Reply, Error>>,
    ) -> Result<Reply, Error> {
        let (alive, gone) = oneshot::channel::<()>();
        let runtime = Handle::current();
        let busy = self.enter(&route);
        let job = move || {
            let _busy = busy;
            let answer = runtime.block_on(async {
                tokio::select! {
                    biased;
                    // A job whose caller left while it waited for its thread is not begun.
                    _ = gone => None,
                    answer = handler => Some(answer),
                }
            });
            for permit in permits.into_iter().flatten() {
                match &answer {
                    Some(answer) => permit.finish(answer.is_ok()),
                    None => drop(permit),
                }
            }
            answer
        };
        let answer = tokio::task::spawn_blocking(job).await;
        drop(alive);
        match answer {
            Ok(answer) => answer.unwrap_or_else(|| Err(Error::internal("the caller has gone"))),
            // As if it had panicked here: whoever polls this counts it and tells the caller.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::internal("the server is being shut down")),
        }
    }

    /// Somebody has to wait for a worker: if one has been busy for long, the log says with what.
    pub(crate) fn look_for_stuck(&self) {
        let now = clock::now();
        let named = Time(self.named.load(Ordering::Relaxed));
        if now.since(named) < SUSPICIOUS {
            return;
        }
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = busy.values().min_by_key(|(_, since)| *since);
        if let Some((route, since)) = oldest
            && now.since(*since) >= SUSPICIOUS
        {
            self.named.store(now.0, Ordering::Relaxed);
            node::worker_is_stuck(route, now.since(*since), busy.len());
        }
    }
}
