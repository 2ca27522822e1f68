//! Trace ids: drawn only for calls that somebody looks at, and for those that fail.

use postroad_proto::error::Trace;

/// Whether somebody looks at calls.
#[inline(always)]
pub(crate) fn is_watched() -> bool {
    tracing::enabled!(target: "postroad::call", tracing::Level::DEBUG)
}

/// A new trace with a new root span, sampled.
pub(crate) fn new() -> Trace {
    Trace {
        id: rand::random(),
        span: rand::random(),
        flags: 1,
    }
}

/// The same trace, as the next hop sees it: under a span of this one.
pub(crate) fn child_of(trace: Trace) -> Trace {
    Trace {
        span: rand::random(),
        ..trace
    }
}
