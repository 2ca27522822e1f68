//! The one timer of a connection, which rings for all timeouts of its session.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use postroad_proto::Time;
use tokio::time::Sleep;

use crate::clock;

/// A timer that is only ever set to ring earlier. A session's next timeout moves with every
/// call, mostly to a later moment; to ring too early once costs less than to set the timer each
/// time.
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// When it rings; [`Time::NEVER`] if it does not. Every other moment says that the timer was
    /// polled since it was set, so the runtime knows whom to wake.
    armed: Time,
}

impl Alarm {
    /// An alarm that does not ring.
    pub(super) fn new() -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: Time::NEVER,
        }
    }

    /// When it rings; [`Time::NEVER`] if it does not.
    pub(super) fn armed(&self) -> Time {
        self.armed
    }

    /// The driver has moved to another task, which the runtime does not know yet: the alarm has to
    /// be set and polled anew.
    pub(super) fn forget_task(&mut self) {
        self.armed = Time::NEVER;
    }

    /// Whether the timer is set for what is `due` and cannot have rung by `now`, so that it need
    /// not be asked.
    pub(super) fn is_ahead(&self, due: Time, now: Time) -> bool {
        due >= self.armed && now < self.armed
    }

    /// Sees that it rings when something is `due`, if not before; ready when it rings. After that
    /// it does not ring until it is polled again.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, due: Time) -> Poll<()> {
        if due < self.armed {
            self.armed = due;
            self.sleep.as_mut().reset(clock::instant(due));
        }
        if self.armed == Time::NEVER || self.sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.armed = Time::NEVER;
        Poll::Ready(())
    }

    /// Rings so much later than now, whatever was set before: the last bounds of a connection whose
    /// session is over.
    pub(super) fn ring_in(&mut self, time: Duration) {
        self.sleep
            .as_mut()
            .reset(clock::instant(clock::now() + time));
    }

    /// Ready when what was set by [`Self::ring_in`] is over.
    pub(super) fn poll_ring(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}
