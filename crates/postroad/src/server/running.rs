//! A handler that was not done at once, and its place at work.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::admission::Permit;
use super::intake::Refusal;
use super::routes::Dispatch;
use super::share::Holding;
use crate::clock;
use crate::context::Scoped;
use crate::driver::Answered;
use crate::extract::Origin;
use crate::observe::calls::{CallRecord, Watched};
use crate::observe::trace;
use crate::transport::BoxFuture;

/// A place at work, which is given back when it is dropped.
pub(super) struct Place(Arc<Dispatch>);

impl Place {
    /// One more, whatever the bound: whoever starts a handler has looked at it before, and cannot
    /// know whether the handler is done at once.
    pub(super) fn take(dispatch: &Arc<Dispatch>) -> Self {
        dispatch.intake.enter_work();
        Self(Arc::clone(dispatch))
    }

    /// One of those that are left.
    ///
    /// # Errors
    /// Why there is none for a request that is late or not.
    pub(super) fn try_take(
        dispatch: &Arc<Dispatch>,
        is_late: bool,
        level: u8,
    ) -> Result<Self, Refusal> {
        dispatch.intake.try_enter_work(is_late, level)?;
        Ok(Self(Arc::clone(dispatch)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.intake.leave_work();
    }
}

/// A handler that was not done at once: it has a place at work while it lives.
pub(super) struct Running {
    place: Place,
    future: Scoped<BoxFuture<'static, Answered>>,
    origin: Arc<Origin>,
    watched: Option<Box<Watched>>,
    /// Its place among those of its route.
    pub(super) permit: Option<Permit>,
    /// Its part of its connection's share.
    _holding: Option<Holding>,
    is_done: bool,
}

impl Running {
    pub(super) fn new(
        place: Place,
        future: Scoped<BoxFuture<'static, Answered>>,
        origin: &Arc<Origin>,
        watched: Option<Box<Watched>>,
        holding: Option<Holding>,
    ) -> Self {
        Self {
            place,
            future,
            origin: Arc::clone(origin),
            watched,
            permit: None,
            _holding: holding,
            is_done: false,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_done {
            let dispatch = &self.place.0;
            dispatch.cut_off.note(&self.origin.route, clock::now());
        }
    }
}

impl Future for Running {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let this = &mut *self;
        let record = CallRecord {
            origin: &this.origin,
            trace: this.future.trace(),
            since: this.watched.as_deref().map(Watched::since),
        };
        let (future, counters) = (&mut this.future, &this.place.0.counters);
        let polled = catch_unwind(AssertUnwindSafe(|| match &this.watched {
            None => Pin::new(future).poll(cx),
            Some(watched) => watched.span.in_scope(|| Pin::new(future).poll(cx)),
        }));
        let mut answer = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => answer,
            Err(payload) => Err(record.panicked(counters, payload.as_ref())),
        };
        if answer.is_err() || trace::is_watched() {
            record.observe(counters, answer.as_mut().err());
        }
        if let Some(permit) = this.permit.take() {
            permit.finish(answer.is_ok());
        }
        this.is_done = true;
        Poll::Ready(answer)
    }
}
