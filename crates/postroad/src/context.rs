//! What a call carries besides its payload, and how it reaches the calls that a handler makes.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::trace::Trace;

use crate::clock;

/// The circumstances of the request that is being handled.
///
/// A handler's own calls inherit them: they end no later, belong to the same trace and have the
/// same priority, unless the call says otherwise. Work that outlives the handler in a task of its
/// own does not inherit them.
#[derive(Clone, Copy, Debug)]
pub struct CallContext {
    pub(crate) deadline: Time,
    pub(crate) priority: u8,
    pub(crate) trace: Option<Trace>,
}

/// The context of the handler that runs on this thread.
///
/// This is an `Option<CallContext>` in five cells. One cell would have to be written whole, and a
/// value that is put together field by field and copied whole right after that has to wait until
/// all its fields are stored (a store-forwarding stall, about 15 cycles). It is written for every
/// request, so each field is stored where it stays, and a trace only if there is one.
struct Current {
    /// Whether a handler runs. If not, the other cells hold what the last one left.
    is_set: Cell<bool>,
    deadline: Cell<Time>,
    priority: Cell<u8>,
    /// Whether `trace` belongs to this handler and not to an earlier one.
    has_trace: Cell<bool>,
    trace: Cell<Option<Trace>>,
}

impl Current {
    fn get(&self) -> Option<CallContext> {
        self.is_set.get().then(|| CallContext {
            deadline: self.deadline.get(),
            priority: self.priority.get(),
            trace: self.has_trace.get().then(|| self.trace.get()).flatten(),
        })
    }

    #[inline]
    fn set(&self, deadline: Time, priority: u8, trace: Option<&Trace>) {
        self.is_set.set(true);
        self.deadline.set(deadline);
        self.priority.set(priority);
        self.has_trace.set(trace.is_some());
        if let Some(trace) = trace {
            self.trace.set(Some(*trace));
        }
    }
}

thread_local! {
    static CURRENT: Current = const { Current {
        is_set: Cell::new(false),
        deadline: Cell::new(Time::NEVER),
        priority: Cell::new(0),
        has_trace: Cell::new(false),
        trace: Cell::new(None),
    } };
}

impl CallContext {
    /// The context of the handler that runs on this thread now.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.with(Current::get)
    }

    /// Time until the answer is of no use any more; `None` without a deadline.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        (self.deadline != Time::NEVER).then(|| self.deadline.since(clock::now()))
    }

    /// 0 to 7, 7 most urgent.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.priority
    }

    /// The trace that the call belongs to, if its caller has said one.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        self.trace
    }
}

/// A handler's future: its context is the current one while it runs.
pub(crate) struct Scoped<F> {
    context: CallContext,
    future: F,
}

impl<F> Scoped<F> {
    pub(crate) fn new(context: CallContext, future: F) -> Self {
        Self { context, future }
    }

    pub(crate) fn trace(&self) -> Option<Trace> {
        self.context.trace
    }
}

/// While it lives, handlers run in contexts of their own. It puts the outer context back when it is
/// dropped, also if a handler panics. Only a server that is polled within a handler has an outer
/// context, so it is boxed: nearly every scope is one null pointer.
pub(crate) struct Scope(Option<Box<CallContext>>);

impl Scope {
    pub(crate) fn enter() -> Self {
        Self(CURRENT.with(Current::get).map(Box::new))
    }

    /// The context of the handler that is next.
    #[inline]
    pub(crate) fn set(&self, deadline: Time, priority: u8, trace: Option<&Trace>) {
        CURRENT.with(|current| current.set(deadline, priority, trace));
    }
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        CURRENT.with(|current| match &self.0 {
            Some(outer) => current.set(outer.deadline, outer.priority, outer.trace.as_ref()),
            None => current.is_set.set(false),
        });
    }
}

impl<F: Future + Unpin> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { context, future } = &mut *self;
        let scope = Scope::enter();
        scope.set(context.deadline, context.priority, context.trace.as_ref());
        Pin::new(future).poll(cx)
    }
}
