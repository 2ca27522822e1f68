//! Extractors of what a request carries besides its payload: who calls, from where, and until when.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postroad_proto::Time;

use super::{FromRequest, Request};
use crate::caller::Caller;
use crate::clock;
use crate::context::Identity as Known;
use crate::error::Error;
use crate::transport::PeerInfo;

/// Who calls.
///
/// `Identity` alone is what the server has found out by certificate and token: a [`Caller`], which
/// may be anonymous. `Identity<T>` is who a hook has found the caller to be, by
/// [`Request::set_identity`] with a value of that type; a hook may set a [`Caller`] as well, which
/// then goes before the server's.
///
/// A route that asks for a type of its own answers `SRV-E-500` where no hook has set a value of it:
/// that is a mistake of the service's author, because the hook should have refused the call.
///
/// ```
/// use postroad::extract::Identity;
/// use postroad::{Error, Router, code};
///
/// let router = Router::new().route("Orders.cancel", async |Identity(caller): Identity| {
///     match caller.has_role("boss") {
///         true => Ok(format!("cancelled by {caller}")),
///         false => Err(Error::new(code!("AUT-E-403"), "only a boss cancels")),
///     }
/// });
/// # let _ = router;
/// ```
#[derive(Clone, Debug)]
pub struct Identity<T = Caller>(pub Arc<T>);

impl<S, T: Send + Sync + 'static> FromRequest<S> for Identity<T> {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        let known = request.identity.clone();
        let known = known.and_then(|identity| identity.downcast::<T>().ok());
        let found = || -> Option<Arc<T>> {
            let is_caller = TypeId::of::<T>() == TypeId::of::<Caller>();
            let caller = is_caller.then(|| Arc::new(request.caller().clone()) as Known)?;
            caller.downcast().ok()
        };
        known.or_else(found).map(Self).ok_or_else(|| {
            let text = format!("route {}: no hook has said who calls", request.route());
            Error::internal(text)
        })
    }
}

/// When the answer is of no use any more.
///
/// ```
/// use postroad::Router;
/// use postroad::extract::Deadline;
///
/// let router = Router::new().route("report", async |deadline: Deadline| match deadline.left() {
///     Some(left) => format!("as good as it gets in {left:?}"),
///     None => "the whole of it".to_owned(),
/// });
/// # let _ = router;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Time);

impl Deadline {
    /// How much time is left; zero when it has passed, `None` if the answer may take for ever.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        (self.0 != Time::NEVER).then(|| self.0.since(clock::now()))
    }

    /// When it is, by the clock of the runtime; `None` if the answer may take for ever. For
    /// [`tokio::time::timeout_at`].
    #[must_use]
    pub fn at(&self) -> Option<tokio::time::Instant> {
        (self.0 != Time::NEVER).then(|| clock::instant(self.0))
    }
}

impl<S> FromRequest<S> for Deadline {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        Ok(Self(request.deadline))
    }
}

/// Who sent the request: address, certificate, process, agent. Its `Display` is the address.
#[derive(Clone, Debug)]
pub struct Peer(pub Arc<PeerInfo>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
