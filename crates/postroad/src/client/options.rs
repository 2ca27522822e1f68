//! What all messages of one producer or pipeline have in common.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::policy::CallInfo;
use postroad_proto::session::Call;
use postroad_proto::trace::Trace;

use super::call_options::Hook;
use crate::codec::numbers;

/// Priority of a message that names none, and is not sent by a handler.
pub(super) const PRIORITY: u8 = 3;
/// Calls or messages that are queued under one lock at most. The lock is a good part of what a
/// message costs; more than so many at a time would keep the driver from it for too long.
pub(super) const BATCH_CALLS: usize = 32;
/// Bytes after which a sender lets the driver write before it makes more.
const BATCH_BYTES: usize = 64 * 1024;
/// Unsent bytes over which a sender waits: few enough to stay in a processor's cache.
const WINDOW_BYTES: usize = 256 * 1024;

/// The settings of a producer or a pipeline.
#[derive(Debug)]
pub(super) struct SendOptions {
    pub(super) route: Arc<str>,
    pub(super) priority: u8,
    pub(super) codec: u8,
    /// Nobody may send the messages again; see [`crate::context::Inherited`].
    pub(super) no_retry: bool,
    /// The deadline of each message, counted from when it is made.
    pub(super) timeout: Duration,
    /// Bytes after which the driver has its turn.
    pub(super) batch: usize,
    /// Unsent bytes over which the sender waits.
    pub(super) window: usize,
    hook: Option<Hook>,
    /// What the hook has said of the present message; empty without one.
    hooked: Hooked,
}

/// What a hook adds to a message.
#[derive(Default)]
struct Hooked {
    trace: Option<Trace>,
    metadata: Vec<(String, Bytes)>,
}

impl fmt::Debug for Hooked {
    /// Without the metadata: tokens are among it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooked").finish_non_exhaustive()
    }
}

impl SendOptions {
    pub(super) fn new(route: &str, timeout: Duration, hook: Option<Hook>) -> Self {
        Self {
            route: route.into(),
            priority: PRIORITY,
            codec: numbers::RAW,
            no_retry: false,
            timeout,
            batch: BATCH_BYTES,
            window: WINDOW_BYTES,
            hook,
            hooked: Hooked::default(),
        }
    }

    /// Lets the client's hook, if there is one, look at the next message. It belongs before every
    /// use of [`Self::call`].
    #[inline]
    pub(super) fn run_hook(&mut self) {
        if let Some(hook) = &self.hook {
            let outgoing = hook.run(&self.route);
            self.hooked = Hooked {
                trace: outgoing.trace,
                metadata: outgoing.metadata,
            };
        }
    }

    /// One of the messages or calls. The connection sets the deadline when it takes it.
    #[inline]
    pub(super) fn call<'a>(&'a self, payload: &'a Bytes, trace: Option<&'a Trace>) -> Call<'a> {
        Call {
            route: &self.route,
            payload,
            codec: self.codec,
            priority: self.priority,
            deadline: Time::NEVER,
            attempt: 0,
            no_retry: self.no_retry,
            trace: trace.or(self.hooked.trace.as_ref()),
            metadata: &self.hooked.metadata,
        }
    }

    /// What the channel may look at to pick a connection. The route is lent by the caller, who may
    /// need the rest of the options meanwhile.
    pub(super) fn info<'a>(&self, route: &'a str, is_answered: bool) -> CallInfo<'a> {
        CallInfo {
            route,
            is_answered,
            is_idempotent: false,
            priority: self.priority,
            attempt: 0,
            no_retry: self.no_retry,
            timeout: self.timeout,
            key: None,
        }
    }
}
