//! What a call carries besides its payload, and how it reaches the calls that a handler makes.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::frame::{PartTag, Parts};
use postroad_proto::trace::Trace;

use crate::caller::Caller;
use crate::clock;
use crate::transport::PeerInfo;

/// The circumstances of the request that is being handled.
///
/// A handler takes it as an extractor, and a method of a typed service as its first argument after
/// `&self`, by value or as `&CallContext`. Callers do not see that argument:
///
/// ```
/// use postroad::{CallContext, Error};
///
/// #[postroad::service]
/// trait Orders {
///     async fn place(&self, cx: &CallContext, item: String) -> Result<u64, Error>;
/// }
///
/// struct Shop;
///
/// impl Orders for Shop {
///     async fn place(&self, cx: &CallContext, item: String) -> Result<u64, Error> {
///         let tenant = cx.metadata("tenant").unwrap_or_default();
///         println!("{item} for {tenant:?} of {:?}, {:?} left", cx.peer(), cx.time_left());
///         Ok(1)
///     }
/// }
/// # fn client(orders: OrdersClient) {
/// let placed = orders.place("nails".to_owned());
/// # drop(placed);
/// # }
/// ```
///
/// A handler's own calls inherit deadline, trace and priority: they end no later, belong to the
/// same trace and have the same priority, unless the call says otherwise. If the request was sent
/// again by its caller, the handler's own calls are not sent again. Work that outlives the
/// handler in a task of its own does not inherit them. Metadata is not passed on, because what one
/// service was told in confidence is not meant for the next.
#[derive(Clone)]
pub struct CallContext {
    inherited: Inherited,
    /// `None` where nothing but what is inherited is known; see [`CallContext::current`].
    request: Option<FromRequest>,
}

/// What a context knows from the request itself.
#[derive(Clone)]
struct FromRequest {
    origin: Arc<Origin>,
    parts: Bytes,
    identity: Option<Identity>,
}

/// Where the requests of one connection for one route come from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) route: Arc<str>,
    pub(crate) peer: Arc<PeerInfo>,
    pub(crate) protocol: &'static str,
    /// Who the server has found it to be.
    pub(crate) caller: Caller,
}

/// Keys and values of the metadata among a frame's parts.
pub(crate) fn metadata_pairs(raw: &Bytes) -> impl Iterator<Item = (String, Bytes)> {
    let parts = Parts::new(raw).flatten();
    let metadata = parts.filter(|part| part.tag & 0x7f == PartTag::Metadata as u8);
    metadata.filter_map(|part| {
        let (len, rest) = part.value.split_first()?;
        let key = std::str::from_utf8(rest.get(..usize::from(*len))?).ok()?;
        let value = raw.slice_ref(&rest[usize::from(*len)..]);
        Some((key.to_owned(), value))
    })
}

/// Who a hook has found the caller to be; the type is the hook's own.
pub(crate) type Identity = Arc<dyn Any + Send + Sync>;

/// The part of the circumstances that a handler's own calls inherit. It is copied for every
/// request, so it has no more than that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inherited {
    pub(crate) deadline: Time,
    pub(crate) priority: u8,
    /// The request was sent again, or nobody may send it again. Its handler's calls are not retried
    /// then: retries at each hop would multiply.
    pub(crate) no_retry: bool,
    pub(crate) trace: Option<Trace>,
}

/// The context of the handler that runs on this thread.
///
/// This is an `Option<Inherited>` in six cells. One cell would have to be written whole, and a
/// value that is put together field by field and copied whole right after that has to wait until
/// all its fields are stored (a store-forwarding stall, about 15 cycles). It is written for every
/// request, so each field is stored where it stays, and a trace only if there is one.
struct Current {
    /// Whether a handler runs. If not, the other cells hold what the last one left.
    is_set: Cell<bool>,
    deadline: Cell<Time>,
    priority: Cell<u8>,
    no_retry: Cell<bool>,
    /// Whether `trace` belongs to this handler and not to an earlier one.
    has_trace: Cell<bool>,
    trace: Cell<Option<Trace>>,
}

impl Current {
    fn get(&self) -> Option<Inherited> {
        self.is_set.get().then(|| Inherited {
            deadline: self.deadline.get(),
            priority: self.priority.get(),
            no_retry: self.no_retry.get(),
            trace: self.has_trace.get().then(|| self.trace.get()).flatten(),
        })
    }

    #[inline]
    fn set(&self, deadline: Time, priority: u8, no_retry: bool, trace: Option<&Trace>) {
        self.is_set.set(true);
        self.deadline.set(deadline);
        self.priority.set(priority);
        self.no_retry.set(no_retry);
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
        no_retry: Cell::new(false),
        has_trace: Cell::new(false),
        trace: Cell::new(None),
    } };
}

impl CallContext {
    /// The context of the handler that runs on this thread now, as its calls inherit it: deadline,
    /// priority and trace. It has neither peer nor metadata; a handler that needs them takes the
    /// context as an argument.
    #[must_use]
    pub fn current() -> Option<Self> {
        Inherited::current().map(|inherited| Self {
            inherited,
            request: None,
        })
    }

    /// The context of a request.
    pub(crate) fn new(
        inherited: Inherited,
        origin: Arc<Origin>,
        parts: Bytes,
        identity: Option<Identity>,
    ) -> Self {
        Self {
            inherited,
            request: Some(FromRequest {
                origin,
                parts,
                identity,
            }),
        }
    }

    /// Time until the answer is of no use any more; `None` without a deadline.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let deadline = self.inherited.deadline;
        (deadline != Time::NEVER).then(|| deadline.since(clock::now()))
    }

    /// 0 to 7, 7 most urgent.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.inherited.priority
    }

    /// Whether the request was sent again by its caller, or nobody may send it again. The handler's
    /// own calls are not sent again then, because retries at each hop would multiply.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        self.inherited.no_retry
    }

    /// The trace that the call belongs to, if its caller has said one.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        self.inherited.trace
    }

    /// The route that the request came by; empty for [`Self::current`].
    #[must_use]
    pub fn route(&self) -> &str {
        self.request
            .as_ref()
            .map_or("", |request| &request.origin.route)
    }

    /// Who sent the request: address, certificate, process, agent. `None` for [`Self::current`].
    #[must_use]
    pub fn peer(&self) -> Option<&PeerInfo> {
        self.request.as_ref().map(|request| &*request.origin.peer)
    }

    /// The value of a metadata key.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<Bytes> {
        let parts = &self.request.as_ref()?.parts;
        let mut pairs = metadata_pairs(parts);
        pairs
            .find(|(found, _)| found == key)
            .map(|(_, value)| value)
    }

    /// Who calls, as the server has found out by certificate and token.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.request.as_ref().map(|request| &request.origin.caller)
    }

    /// Who a hook has found the caller to be, if it has said so by
    /// [`Request::set_identity`](crate::extract::Request::set_identity) with a value of this type.
    #[must_use]
    pub fn identity<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.request.as_ref()?.identity.as_ref()?.downcast_ref()
    }
}

impl fmt::Debug for CallContext {
    /// Without metadata and identity: what is debugged may end in a log, and tokens are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallContext")
            .field("route", &self.route())
            .field("peer", &self.peer())
            .field("time_left", &self.time_left())
            .field("priority", &self.priority())
            .field("trace", &self.trace())
            .finish_non_exhaustive()
    }
}

impl Inherited {
    /// What calls inherit that are made on this thread now; `None` outside a handler.
    #[inline]
    pub(crate) fn current() -> Option<Self> {
        CURRENT.with(Current::get)
    }
}

/// A handler's future: its context is the current one while it runs.
pub(crate) struct Scoped<F> {
    context: Inherited,
    future: F,
}

impl<F> Scoped<F> {
    pub(crate) fn new(context: Inherited, future: F) -> Self {
        Self { context, future }
    }

    pub(crate) fn trace(&self) -> Option<Trace> {
        self.context.trace
    }
}

/// While it lives, handlers run in contexts of their own. It puts the outer context back when it is
/// dropped, also if a handler panics. Only a server that is polled within a handler has an outer
/// context, so it is boxed: nearly every scope is one null pointer.
pub(crate) struct Scope(Option<Box<Inherited>>);

impl Scope {
    pub(crate) fn enter() -> Self {
        Self(CURRENT.with(Current::get).map(Box::new))
    }

    /// The context of the handler that is next.
    #[inline]
    pub(crate) fn set(&self, deadline: Time, priority: u8, no_retry: bool, trace: Option<&Trace>) {
        CURRENT.with(|current| current.set(deadline, priority, no_retry, trace));
    }
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        CURRENT.with(|current| match &self.0 {
            Some(outer) => {
                let trace = outer.trace.as_ref();
                current.set(outer.deadline, outer.priority, outer.no_retry, trace);
            }
            None => current.is_set.set(false),
        });
    }
}

impl<F: Future + Unpin> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { context, future } = &mut *self;
        let scope = Scope::enter();
        let trace = context.trace.as_ref();
        scope.set(context.deadline, context.priority, context.no_retry, trace);
        Pin::new(future).poll(cx)
    }
}
