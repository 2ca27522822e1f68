//! Trace ids: drawn only for calls that somebody looks at, and for those that fail.

use postroad_proto::trace::Trace;

use super::audit;

/// Whether somebody looks at calls: a log, or an audit that wants them all.
#[inline(always)]
pub(crate) fn is_watched() -> bool {
    tracing::enabled!(target: "postroad::call", tracing::Level::DEBUG) || audit::wants_all()
}

/// A new trace with a new root span, sampled.
pub(crate) fn new() -> Trace {
    Trace {
        id: rand::random(),
        span: rand::random(),
        flags: 1,
    }
}

/// The span of a call within its caller's trace, if there is one. On its own memory, because few
/// calls have one: it costs bytes on the wire, so without a trace it begins where somebody looks.
#[inline]
pub(crate) fn of_call(parent: Option<&Trace>) -> Option<Box<Trace>> {
    match parent {
        Some(parent) => Some(Box::new(child_of(*parent))),
        None => is_watched().then(|| Box::new(new())),
    }
}

/// The same trace, as the next hop sees it: under a span of this one.
fn child_of(trace: Trace) -> Trace {
    Trace {
        span: rand::random(),
        ..trace
    }
}
