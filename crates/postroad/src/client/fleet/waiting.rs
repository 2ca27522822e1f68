//! Waiting for a server that can take a message: bounded in time and number, fair, and over at once
//! where waiting cannot help.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::CallInfo;

use super::{Fleet, Member, Pick};
use crate::clock;
use crate::driver::Connection;
use crate::error::CallError;

/// How often those who wait look again although nothing was told.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Servers for one message, one after the other, until one takes it.
pub(in crate::client) struct Waiting<'a> {
    fleet: &'a Fleet,
    deadline: Time,
    /// A member to leave out, because an earlier attempt has failed there.
    avoid: Option<Arc<Member>>,
    /// Connections that have not taken the message since anything changed.
    tried: Vec<Arc<Connection>>,
    /// Whether the last one was full, and not closing.
    is_full: bool,
    /// The place among those who wait for room, and until when it may be kept. It is kept from one
    /// offer to the next.
    room: Option<(Counted<'a>, Time)>,
}

/// Counts one who waits, also if its future is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    /// `None` if as many wait already as may.
    fn enter(counter: &'a AtomicUsize, most: usize) -> Option<Self> {
        let before = counter.fetch_add(1, Ordering::Relaxed);
        let counted = Self(counter);
        (before < most).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'a> Waiting<'a> {
    pub(in crate::client) fn new(
        fleet: &'a Fleet,
        deadline: Time,
        avoid: Option<Arc<Member>>,
    ) -> Self {
        Self {
            fleet,
            deadline,
            avoid,
            tried: Vec::new(),
            is_full: false,
            room: None,
        }
    }

    /// The connection that was given out last has not taken the message, because it has as many as
    /// it may.
    pub(in crate::client) fn was_full(&mut self) {
        self.is_full = true;
    }

    /// The next server, as soon as there is one.
    ///
    /// # Errors
    /// If there is none in time, too many wait already, or waiting cannot help.
    pub(in crate::client) async fn next(
        &mut self,
        info: &CallInfo<'_>,
    ) -> Result<(Arc<Connection>, Pick), CallError> {
        if let Some(picked) = self.untried(info) {
            return Ok(picked);
        }
        if self.fleet.is_closed() {
            return Err(self.fleet.not_connected());
        }
        if let Some(error) = self.fleet.all_open() {
            return Err(error);
        }
        if std::mem::take(&mut self.is_full) {
            return self.wait_for_room(info).await;
        }
        self.wait_for_server(info).await
    }

    /// Picks a few times, since picking may draw one that was tried already.
    fn untried(&mut self, info: &CallInfo<'_>) -> Option<(Arc<Connection>, Pick)> {
        let mut avoid = self.avoid.clone();
        for _ in 0..=2 * self.tried.len() {
            let (connection, pick) = self.fleet.pick(info, avoid.as_deref())?;
            let is_tried = |tried: &Arc<Connection>| Arc::ptr_eq(tried, &connection);
            if !self.tried.iter().any(is_tried) {
                self.tried.push(Arc::clone(&connection));
                return Some((connection, pick));
            }
            super::release(pick.member(), pick.permit, clock::now());
            avoid = Some(Arc::clone(pick.member()));
        }
        None
    }

    async fn wait_for_server(
        &mut self,
        info: &CallInfo<'_>,
    ) -> Result<(Arc<Connection>, Pick), CallError> {
        let fleet = self.fleet;
        let max = fleet.config.connection.limits.max_calls;
        let Some(_counted) = Counted::enter(&fleet.waiting, max) else {
            let target = &fleet.target;
            let text = format!("{max} callers wait for a server of {target} already");
            return Err(CallError::Busy(text));
        };
        fleet.wake_for_caller();
        fleet.ask_for_attempts();
        let until = self.deadline.min(clock::now() + fleet.config.max_wait);
        let wait = async {
            loop {
                let news = fleet.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if let Some(picked) = self.untried(info) {
                    return Ok(picked);
                }
                if fleet.is_closed() {
                    return Err(fleet.not_connected());
                }
                if let Some(error) = fleet.all_open() {
                    return Err(error);
                }
                // A breaker or an ejection ends without news.
                let _ = tokio::time::timeout(LOOK_AGAIN, news).await;
                self.tried.clear();
            }
        };
        match tokio::time::timeout_at(clock::instant(until), wait).await {
            Ok(picked) => picked,
            Err(_) => Err(fleet.not_connected()),
        }
    }

    async fn wait_for_room(
        &mut self,
        info: &CallInfo<'_>,
    ) -> Result<(Arc<Connection>, Pick), CallError> {
        let fleet = self.fleet;
        let pool = &fleet.policies.pool;
        let until = match &self.room {
            Some((_, until)) => *until,
            None => {
                let Some(counted) = Counted::enter(&fleet.waiting_for_room, pool.pending) else {
                    let pending = pool.pending;
                    let text = format!("{pending} callers wait already (pool.pending)");
                    return Err(self.full(&text));
                };
                let until = self.deadline.min(clock::now() + pool.wait);
                self.room = Some((counted, until));
                until
            }
        };
        loop {
            // A call that ends leaves a permit, also if nobody waits just then.
            let freed = tokio::time::timeout(LOOK_AGAIN, fleet.freed.notified());
            let in_time = tokio::time::timeout_at(clock::instant(until), freed).await;
            if fleet.is_closed() {
                return Err(fleet.not_connected());
            }
            if in_time.is_err() {
                return Err(self.full("none had room in time (pool.wait)"));
            }
            self.tried.clear();
            if let Some(picked) = self.untried(info) {
                return Ok(picked);
            }
        }
    }

    fn full(&self, why: &str) -> CallError {
        let target = &self.fleet.target;
        CallError::Busy(format!(
            "every connection to {target} has as many calls in flight as it may, and {why}"
        ))
    }
}
