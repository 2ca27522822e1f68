//! A bound on the deadlines of calls.

use std::task::{Context, Poll};
use std::time::Duration;

use tower::{Layer, Service};

use super::Call;

/// Gives every call a deadline: calls that have none, or a later one, have this. Unlike tower's
/// timeout the server hears of it, and never starts what is too late.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer(Duration);

impl DeadlineLayer {
    /// At most so long from when the call is made.
    #[must_use]
    pub fn new(most: Duration) -> Self {
        Self(most)
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        let most = self.0;
        DeadlineService { inner, most }
    }
}

/// What [`DeadlineLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
    most: Duration,
}

impl<S: Service<Call>> Service<Call> for DeadlineService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> S::Future {
        let timeout = call.options.timeout.unwrap_or(self.most);
        call.options.timeout = Some(timeout.min(self.most));
        self.inner.call(call)
    }
}
