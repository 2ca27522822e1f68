//! Leaving a service alone that does not answer.

use std::sync::Arc;
use std::task::{Context, Poll};

use postroad_proto::policy::{Breaker, Permit, Verdict};
use postroad_proto::session::Reply;
use tower::{Layer, Service};

use super::{Answering, Call};
use crate::client::channel::ending;
use crate::client::policies::BreakerPolicy;
use crate::clock;
use crate::error::CallError;

/// Refuses calls with [`CallError::BreakerOpen`] while too many of them fail, and tries with one
/// now and then whether that is over. An error that a handler answers with is no failure. All
/// services that one layer is put around share its breaker.
#[derive(Clone, Debug)]
pub struct BreakerLayer(Arc<Named>);

#[derive(Debug)]
struct Named {
    name: String,
    breaker: Breaker,
}

impl BreakerLayer {
    /// A closed breaker; errors call what it guards by this name.
    #[must_use]
    pub fn new(name: impl Into<String>, policy: BreakerPolicy) -> Self {
        let (name, breaker) = (name.into(), Breaker::new(policy.config()));
        Self(Arc::new(Named { name, breaker }))
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = BreakerService<S>;

    fn layer(&self, inner: S) -> BreakerService<S> {
        let breaker = Arc::clone(&self.0);
        BreakerService { inner, breaker }
    }
}

/// What [`BreakerLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct BreakerService<S> {
    inner: S,
    breaker: Arc<Named>,
}

/// A call that was let through: the breaker hears of its end, also if nobody waits for that.
struct Passed {
    breaker: Arc<Named>,
    permit: Permit,
    verdict: Verdict,
}

impl Drop for Passed {
    fn drop(&mut self) {
        let breaker = &self.breaker.breaker;
        breaker.finish(clock::now(), self.permit, self.verdict);
    }
}

impl<S> Service<Call> for BreakerService<S>
where
    S: Service<Call, Response = Reply, Error = CallError> + Clone,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = CallError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Answering {
        let breaker = Arc::clone(&self.breaker);
        let permit = match breaker.breaker.admit(clock::now()) {
            Ok(permit) => permit,
            Err(open) => {
                // What was made ready is not used: another takes its place.
                self.inner = self.inner.clone();
                let (target, retry_after) = (breaker.name.clone(), open.wait);
                let error = CallError::BreakerOpen {
                    target,
                    retry_after,
                };
                return Box::pin(async { Err(error) });
            }
        };
        let mut passed = Passed {
            breaker,
            permit,
            verdict: Verdict::Unknown,
        };
        let answering = self.inner.call(call);
        Box::pin(async move {
            let result = answering.await;
            passed.verdict = match &result {
                Ok(_) => Verdict::Success,
                Err(error) => Verdict::of(&ending(error)),
            };
            drop(passed);
            result
        })
    }
}
