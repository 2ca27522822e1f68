//! Sending failed calls again.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use postroad_proto::Time;
use postroad_proto::policy::{Budget, Ending, Failed, RetryConfig};
use postroad_proto::session::Reply;
use tower::{Layer, Service};

use super::{Answering, Call};
use crate::client::channel::ending;
use crate::client::policies::RetryPolicy;
use crate::clock;
use crate::error::CallError;

/// Sends calls again that have failed, as long as that is safe and the budget pays for it: those
/// that certainly were not started, and those that are declared idempotent by their options. All
/// services that one layer is put around share its budget.
#[derive(Clone, Debug)]
pub struct RetryLayer(Arc<Retry>);

#[derive(Debug)]
struct Retry {
    config: RetryConfig,
    budget: Budget,
}

impl RetryLayer {
    /// With a budget that has nothing but its reserve.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        let budget = Budget::new(policy.budget());
        let config = policy.config();
        Self(Arc::new(Retry { config, budget }))
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = RetryService<S>;

    fn layer(&self, inner: S) -> RetryService<S> {
        let retry = Arc::clone(&self.0);
        RetryService { inner, retry }
    }
}

/// What [`RetryLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct RetryService<S> {
    inner: S,
    retry: Arc<Retry>,
}

impl<S> Service<Call> for RetryService<S>
where
    S: Service<Call, Response = Reply, Error = CallError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Reply;
    type Error = CallError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Answering {
        // The one that is ready is taken, another stays.
        let other = self.inner.clone();
        let inner = mem::replace(&mut self.inner, other);
        let retry = Arc::clone(&self.retry);
        Box::pin(async move { retry.run(inner, call).await })
    }
}

impl Retry {
    async fn run<S>(&self, mut inner: S, mut call: Call) -> Result<Reply, CallError>
    where
        S: Service<Call, Response = Reply, Error = CallError>,
    {
        let began = clock::now();
        let timeout = call.options.timeout;
        let deadline = timeout.map_or(Time::NEVER, |timeout| began + timeout);
        self.budget.note_call(began);
        let first = call.options.attempt;
        let mut made = 0_u8;
        loop {
            // The rule bounds the attempts.
            made = made.saturating_add(1);
            call.options.attempt = first.saturating_add(made - 1).min(7);
            let error = match inner.call(call.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let Some(after) = self.judge(&call, &error, made, deadline) else {
                return Err(error);
            };
            tokio::time::sleep(after).await;
            poll_fn(|cx| inner.poll_ready(cx)).await?;
            if timeout.is_some() {
                call.options.timeout = Some(deadline.since(clock::now()));
            }
        }
    }

    /// How long to wait before the next attempt; `None` if this was the last.
    fn judge(
        &self,
        call: &Call,
        error: &CallError,
        made: u8,
        deadline: Time,
    ) -> Option<std::time::Duration> {
        let ending = ending(error);
        let is_unsent = matches!(
            ending,
            Ending::Lost { sent: false } | Ending::Deadline { sent: false }
        );
        let failed = Failed {
            retry: ending.retry(),
            is_unsent,
            hint: error.retry_after(),
            is_idempotent: call.options.is_idempotent,
            no_retry: call.options.no_retry,
            sent: made,
            unsent: if is_unsent { made } else { 0 },
            deadline,
        };
        let random = rand::random();
        let again = self
            .config
            .decide(clock::now(), &failed, &self.budget, random);
        again.ok().map(|again| again.after)
    }
}
