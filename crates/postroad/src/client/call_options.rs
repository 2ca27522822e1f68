//! Settings of a call that are decided before it is known which call that will be.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::trace::Trace;

/// Settings for the calls of a typed client, given by its method `with`.
///
/// What is not set is as for any other call: the client's timeout, priority 3 or that of the
/// handler that calls, and so on. [`CallBuilder::options`](super::CallBuilder::options) takes them
/// too.
///
/// ```
/// use std::time::Duration;
///
/// use postroad::{CallError, Error};
///
/// #[postroad::service]
/// trait Orders {
///     async fn place(&self, item: String) -> Result<u64, Error>;
/// }
///
/// async fn buy(orders: OrdersClient) -> Result<u64, CallError> {
///     // For every call of this handle, and of those made from it:
///     let orders = orders.with(|call| call.timeout(Duration::from_secs(2)));
///     // For one call more than that:
///     let urgent = orders.with(|call| call.priority(7).metadata("tenant", "acme"));
///     urgent.place("nails".to_owned()).await
/// }
/// ```
#[derive(Clone, Default)]
#[must_use = "options do nothing until a call has them"]
pub struct CallOptions {
    pub(super) timeout: Option<Duration>,
    pub(super) priority: Option<u8>,
    pub(super) attempt: u8,
    pub(super) no_retry: bool,
    pub(super) is_idempotent: bool,
    pub(super) trace: Option<Trace>,
    pub(super) metadata: Vec<(String, Bytes)>,
}

impl CallOptions {
    /// Nothing is set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The deadline; see [`CallBuilder::timeout`](super::CallBuilder::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// 0 to 7, 7 most urgent; more is taken for 7.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority.min(7));
        self
    }

    /// The trace that the call belongs to. Default: that of the handler that makes the call.
    pub fn trace(mut self, trace: Trace) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Adds a key and its value.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// The call may be run twice; see [`CallBuilder::idempotent`](super::CallBuilder::idempotent).
    pub fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Which attempt this is, 0 the first, at most 7.
    pub fn attempt(mut self, attempt: u8) -> Self {
        self.attempt = attempt.min(7);
        self
    }

    /// Nobody on the way may send the call again.
    pub fn no_retry(mut self) -> Self {
        self.no_retry = true;
        self
    }
}

impl fmt::Debug for CallOptions {
    /// Without the values of the metadata: tokens are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.metadata.iter().map(|(key, _)| key.as_str()).collect();
        f.debug_struct("CallOptions")
            .field("timeout", &self.timeout)
            .field("priority", &self.priority)
            .field("attempt", &self.attempt)
            .field("no_retry", &self.no_retry)
            .field("trace", &self.trace)
            .field("metadata_keys", &keys)
            .finish()
    }
}

/// A call or message on its way out, as a hook sees it; see
/// [`Client::before`](super::Client::before).
#[derive(Debug)]
pub struct Outgoing<'a> {
    pub(super) route: &'a str,
    pub(super) trace: Option<Trace>,
    pub(super) metadata: Vec<(String, Bytes)>,
}

impl Outgoing<'_> {
    /// Where it goes.
    #[must_use]
    pub fn route(&self) -> &str {
        self.route
    }

    /// Adds a key and its value to its metadata.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<Bytes>) {
        self.metadata.push((key.into(), value.into()));
    }

    /// Says which trace it belongs to. A trace that the call names itself goes before.
    pub fn trace(&mut self, trace: Trace) {
        self.trace = Some(trace);
    }
}

/// What runs before every call and message of a client.
#[derive(Clone)]
pub(super) struct Hook(Arc<dyn Fn(&mut Outgoing<'_>) + Send + Sync>);

impl Hook {
    /// A hook that runs after `earlier`, if there is one.
    pub(super) fn after(
        earlier: Option<Self>,
        hook: impl Fn(&mut Outgoing<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self(match earlier {
            None => Arc::new(hook),
            Some(earlier) => Arc::new(move |outgoing| {
                (earlier.0)(outgoing);
                hook(outgoing);
            }),
        })
    }

    /// What it has to say of a message for this route.
    #[cold]
    pub(super) fn run<'a>(&self, route: &'a str) -> Outgoing<'a> {
        let mut outgoing = Outgoing {
            route,
            trace: None,
            metadata: Vec::new(),
        };
        (self.0)(&mut outgoing);
        outgoing
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}
