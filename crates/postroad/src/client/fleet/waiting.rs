//! Waiting for a server that can take a message: bounded in time and number, fair, and over at once
//! where waiting cannot help.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::CallInfo;

use super::{Fleet, Member, Place};
use crate::clock;
use crate::driver::Connection;
use crate::error::CallError;

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
    ) -> Result<(Arc<Connection>, Place), CallError> {
        if let Some(picked) = self.untried(info) {
            return Ok(picked);
        }
        if self.fleet.is_closed() {
            return Err(self.fleet.not_connected());
        }
        if let Some(error) = self.fleet.all_open() {
            return Err(error);
        }
        if self.is_full {
            return self.wait_for_room(info).await;
        }
        self.wait_for_server(info).await
    }

    /// Picks a few times, since picking may draw one that was tried already.
    fn untried(&mut self, info: &CallInfo<'_>) -> Option<(Arc<Connection>, Place)> {
        for _ in 0..=2 * self.tried.len() {
            let (connection, place) = self.fleet.pick(info, self.avoid.as_deref())?;
            let is_tried = |tried: &Arc<Connection>| Arc::ptr_eq(tried, &connection);
            if !self.tried.iter().any(is_tried) {
                self.tried.push(Arc::clone(&connection));
                return Some((connection, place));
            }
            super::release(place.member(), place.permit, clock::now());
        }
        None
    }

    async fn wait_for_server(
        &mut self,
        info: &CallInfo<'_>,
    ) -> Result<(Arc<Connection>, Place), CallError> {
        let fleet = self.fleet;
        let max = fleet.config.connection.limits.max_calls;
        let Some(_counted) = Counted::enter(&fleet.waiting, max) else {
            let target = &fleet.target;
            let text = format!("{max} callers wait for a server of {target} already");
            return Err(CallError::Busy(text));
        };
        fleet.wake_all();
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
                news.await;
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
    ) -> Result<(Arc<Connection>, Place), CallError> {
        let fleet = self.fleet;
        let pool = &fleet.policies.pool;
        let full = |text: String| {
            let target = &fleet.target;
            CallError::Busy(format!(
                "every connection to {target} has as many calls in flight as it may, and {text}"
            ))
        };
        let Some(_counted) = Counted::enter(&fleet.waiting_for_room, pool.pending) else {
            let pending = pool.pending;
            return Err(full(format!(
                "{pending} callers wait already (pool.pending)"
            )));
        };
        let until = self.deadline.min(clock::now() + pool.wait);
        let wait = async {
            loop {
                let freed = fleet.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                self.tried.clear();
                if let Some(picked) = self.untried(info) {
                    return picked;
                }
                // News is for those without a connection; one that was lost wakes nobody here.
                let _ = tokio::time::timeout(Duration::from_millis(50), freed).await;
            }
        };
        match tokio::time::timeout_at(clock::instant(until), wait).await {
            Ok(picked) => Ok(picked),
            Err(_) => Err(full("none had room in time (pool.wait)".to_owned())),
        }
    }
}
