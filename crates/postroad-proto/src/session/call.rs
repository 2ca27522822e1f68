//! What a call and a request are made of: ids, routes, payloads, and what comes with them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::Time;
use crate::frame::Head;
use crate::trace::Trace;

/// A call in flight on one connection: a slot and the generation that guards it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(pub(super) u32);

impl CallId {
    pub(crate) fn new(index: u16, generation: u16) -> Self {
        Self(u32::from(generation) << 16 | u32::from(index))
    }

    /// The slot: small, dense, used again after the call.
    #[must_use]
    pub fn index(self) -> u16 {
        self.0 as u16
    }

    /// What tells it from other calls of its slot.
    #[must_use]
    pub fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

/// How a request names its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteRef {
    /// By a number of this connection; see
    /// [`Session::route_name`](super::Session::route_name).
    Number(u16),
    /// By its name.
    Name(Arc<str>),
    /// By a code of the dialect that the listener's table does not have.
    Code(u8),
    /// Not at all: the dialect has no codes, and the listener names no route.
    Unsaid,
}

/// A request or one-way message that has arrived whole, within its deadline.
#[derive(Clone, Debug)]
pub struct Request {
    /// To answer by; `None` for a one-way message.
    pub id: Option<CallId>,
    /// What it is for.
    pub route: RouteRef,
    /// 0 to 7, 7 most urgent.
    pub priority: u8,
    /// 0 to 2.
    pub qos: u8,
    /// Payload codec; see `docs/protocol.md`.
    pub codec: u8,
    /// 0 is the first.
    pub attempt: u8,
    /// Nobody may send it again.
    pub no_retry: bool,
    /// When the answer is of no use any more.
    pub deadline: Time,
    /// What few requests carry, and so is not moved with all of them.
    pub extras: Option<Box<Extras>>,
    /// A slice of the read buffer.
    pub payload: Bytes,
}

impl Default for Request {
    /// An empty one, to be filled.
    fn default() -> Self {
        Self {
            id: None,
            route: RouteRef::Unsaid,
            priority: 0,
            qos: 0,
            codec: 0,
            attempt: 0,
            no_retry: false,
            deadline: Time::NEVER,
            extras: None,
            payload: Bytes::new(),
        }
    }
}

impl Request {
    /// Takes the small fields of a native head.
    #[inline]
    pub(super) fn set_flags(&mut self, head: Head) {
        self.priority = head.priority();
        self.qos = head.qos();
        self.codec = head.codec();
        self.attempt = head.attempt();
        self.no_retry = head.is_no_retry();
    }

    /// The trace it belongs to.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        self.extras.as_ref()?.trace
    }
}

/// What a request can carry besides its payload.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// The trace it belongs to.
    pub trace: Option<Trace>,
    /// Raw parts of the frame, empty or to be read with [`crate::frame::Parts`].
    pub parts: Bytes,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Payload codec.
    pub codec: u8,
    /// The payload.
    pub payload: Bytes,
}

/// A call or one-way message to make.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The route's name.
    pub route: &'a str,
    /// The payload.
    pub payload: &'a Bytes,
    /// Its codec.
    pub codec: u8,
    /// 0 to 7, 7 most urgent.
    pub priority: u8,
    /// When the answer is of no use any more.
    pub deadline: Time,
    /// 0 is the first.
    pub attempt: u8,
    /// Nobody may send it again.
    pub no_retry: bool,
    /// The trace it belongs to.
    pub trace: Option<&'a Trace>,
    /// Keys and values.
    pub metadata: &'a [(String, Bytes)],
}
