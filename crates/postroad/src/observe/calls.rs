//! Calls and one-way messages, at both ends. The target of their log lines is `postroad::call`.

use std::any::Any;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::code::{Code, Retry};
use postroad_proto::session::{DropReason, RefusalReason};
use postroad_proto::trace::Trace;

use super::counters::{Counters, count};
use super::log_rate::LogKind;
use super::trace;
use crate::clock;
use crate::error::{CallError, Error};
use crate::extract::{Origin, Request};
use crate::transport::PeerInfo;

/// What is told of a request when it is over.
pub(crate) struct CallRecord<'a> {
    pub(crate) origin: &'a Arc<Origin>,
    pub(crate) trace: Option<Trace>,
    /// When it began, if that is known.
    pub(crate) since: Option<Time>,
}

/// What is known of a request from its begin on, if somebody watches calls.
pub(crate) struct Watched {
    since: Time,
    /// What a handler logs stands within it, so that it has the request's route, trace and peer.
    pub(crate) span: tracing::Span,
}

/// When a request begins. `None` unless somebody watches calls: reading the clock would be a good
/// part of what a short handler costs. It goes before all that the request's trace is handed to.
#[inline]
pub(crate) fn begin(request: &mut Request) -> Option<Box<Watched>> {
    match trace::is_watched() {
        true => Some(watch(request)),
        false => None,
    }
}

#[cold]
fn watch(request: &mut Request) -> Box<Watched> {
    // Drawn here, at the edge, if the caller has none: the handler's own calls then belong to it.
    request.draw_trace(trace::new);
    let trace = request.trace().map(tracing::field::display);
    let span = tracing::debug_span!(
        target: "postroad::call", "request", route = request.route(), trace, peer = %request.peer()
    );
    Box::new(Watched {
        since: clock::now(),
        span,
    })
}

impl Watched {
    pub(crate) fn since(&self) -> Time {
        self.since
    }
}

impl<'a> CallRecord<'a> {
    pub(crate) fn of(request: &'a Request, watched: Option<&Watched>) -> Self {
        Self {
            origin: &request.origin,
            trace: request.trace().copied(),
            since: watched.map(Watched::since),
        }
    }

    /// Counts and logs a panic, and makes the caller's error of it.
    #[cold]
    pub(crate) fn panicked(&self, counters: &Counters, payload: &(dyn Any + Send)) -> Error {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("of an unprintable kind");
        let trace = self.trace.unwrap_or_else(trace::new);
        count(&counters.panicked, 1);
        if counters.logs.allow(LogKind::Panicked) {
            tracing::error!(
                target: "postroad::call", peer = %self.origin.peer, route = %self.origin.route,
                %trace, panic = text, "handler panicked"
            );
        }
        // The panic's text may name what callers must not know. The operator finds it in the log
        // by the trace.
        Error::internal("the handler failed unexpectedly")
            .with_retry(Retry::IfIdempotent, Duration::ZERO)
            .with_trace(trace)
    }

    /// Counts a failure and logs the end of a request, if somebody watches calls.
    #[cold]
    pub(crate) fn observe(&self, counters: &Counters, mut error: Option<&mut Error>) {
        if let Some(error) = &mut error {
            count(&counters.failed, 1);
            // A failure gets a trace even if the caller has asked for none: the id is what leads
            // from the caller's error to the server's log.
            error.set_trace(|| self.trace.unwrap_or_else(trace::new));
        }
        if let Some(audit) = counters.audit.get() {
            let error = error.as_deref();
            let trace = error.and_then(Error::trace).or(self.trace);
            let took = self.since.map(|since| clock::now().since(since));
            audit.handled(self.origin, trace, took, error);
        }
        if trace::is_watched() {
            let since = self.since;
            let micros = since.map(|since| clock::now().since(since).as_micros() as u64);
            let error = error.as_deref();
            let trace = error.and_then(Error::trace).or(self.trace);
            let trace = trace.map(tracing::field::display);
            let error = error.map(tracing::field::display);
            tracing::debug!(
                target: "postroad::call", peer = %self.origin.peer,
                connection = self.origin.peer.connection().number(), route = %self.origin.route,
                trace, micros, error, "handled"
            );
        }
    }
}

/// Counts requests whose handlers were started.
pub(crate) fn started(counters: &Counters, many: u64) {
    count(&counters.started, many);
}

/// Counts and logs a call that its connection has answered with an error by itself.
#[cold]
pub(crate) fn refused_on_arrival(counters: &Counters, peer: &PeerInfo, reason: RefusalReason) {
    count(&counters.failed, 1);
    if let Some(counter) = counters.refused.get(reason as usize) {
        count(counter, 1);
    }
    tracing::debug!(
        target: "postroad::call", %peer, connection = peer.connection().number(),
        reason = reason.word(), "refused"
    );
}

/// Counts and logs a request that was not started, and gives its error a trace.
#[cold]
pub(crate) fn refuse(counters: &Counters, peer: &PeerInfo, route: &str, error: Error) -> Error {
    let error = error.with_trace(trace::new());
    count(&counters.failed, 1);
    if let Some(audit) = counters.audit.get() {
        audit.refused(peer, &peer.caller(), route, &error);
    }
    tracing::debug!(
        target: "postroad::call", %peer, connection = peer.connection().number(), route,
        trace = error.trace().map(tracing::field::display), %error, "refused"
    );
    error
}

/// Counts and logs a one-way message that no handler has taken, which nobody else can be told of.
#[cold]
pub(crate) fn dropped(counters: &Counters, peer: &PeerInfo, error: &Error) {
    count(&counters.dropped, 1);
    if counters.logs.allow(LogKind::Dropped) {
        tracing::warn!(
            target: "postroad::call", %peer, connection = peer.connection().number(),
            trace = error.trace().map(tracing::field::display), %error,
            "one-way message dropped"
        );
    }
}

/// Counts and logs one-way messages that were dropped before their routes were looked up.
#[cold]
pub(crate) fn dropped_on_arrival(
    counters: &Counters,
    peer: &PeerInfo,
    many: usize,
    reason: DropReason,
) {
    let (code, text) = match reason {
        DropReason::Late => (Code::DEADLINE, "the deadline had passed when it arrived"),
        DropReason::NoRoom => (Code::OVERLOADED, "no room for another large message now"),
        DropReason::Refused => (Code::BAD_REQUEST, "it cannot be read, or names no route"),
        DropReason::Unfinished => (Code::DEADLINE, "the rest of it did not come in time"),
        _ => (
            Code::CANCELLED,
            "the connection ended before it was started",
        ),
    };
    for _ in 0..many {
        count(&counters.failed, 1);
        dropped(counters, peer, &Error::of(code, text));
    }
}

/// Logs the end of a client's call.
#[cold]
pub(crate) fn called(
    target: &dyn Display,
    route: &str,
    trace: Option<&Trace>,
    error: Option<&CallError>,
) {
    let trace = trace.map(tracing::field::display);
    let error = error.map(tracing::field::display);
    tracing::debug!(target: "postroad::call", endpoint = %target, route, trace, error, "called");
}

/// Logs the end of one of a pipeline's calls, which has a tag.
#[cold]
pub(crate) fn piped(target: &dyn Display, route: &str, tag: u64, error: Option<&CallError>) {
    let error = error.map(tracing::field::display);
    tracing::debug!(target: "postroad::call", endpoint = %target, route, tag, error, "called");
}
