//! Asking a second time when an answer takes unusually long.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use postroad_proto::Time;
use postroad_proto::code::Retry;
use postroad_proto::policy::{Budget, BudgetConfig, Hedge};
use postroad_proto::session::Reply;
use tower::{Layer, Service};

use super::{Answering, Call};
use crate::client::policies::HedgePolicy;
use crate::clock;
use crate::error::CallError;

/// Makes a call once more that takes longer than nearly all others do, if its options declare it
/// idempotent, and takes the answer that comes first. Only a share of the calls is made twice, and
/// none before 100 were seen. It helps where the service below goes to several servers.
#[derive(Clone, Debug)]
pub struct HedgeLayer(Arc<Hedging>);

#[derive(Debug)]
struct Hedging {
    hedge: Hedge,
    budget: Budget,
}

impl HedgeLayer {
    /// Before anything is known.
    #[must_use]
    pub fn new(policy: HedgePolicy) -> Self {
        Self(Arc::new(Hedging {
            hedge: Hedge::new(policy.config()),
            budget: Budget::new(BudgetConfig::default()),
        }))
    }
}

impl<S> Layer<S> for HedgeLayer {
    type Service = HedgeService<S>;

    fn layer(&self, inner: S) -> HedgeService<S> {
        let hedging = Arc::clone(&self.0);
        HedgeService { inner, hedging }
    }
}

/// What [`HedgeLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct HedgeService<S> {
    inner: S,
    hedging: Arc<Hedging>,
}

impl<S> Service<Call> for HedgeService<S>
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
        let hedging = Arc::clone(&self.hedging);
        Box::pin(async move {
            let began = clock::now();
            let result = hedging.run(inner, call, began).await;
            // A failure that came fast says nothing about how long answers take.
            if matches!(result, Ok(_) | Err(CallError::Deadline { .. })) {
                let now = clock::now();
                hedging.hedge.observe(now, now.since(began));
            }
            result
        })
    }
}

impl Hedging {
    async fn run<S>(&self, mut inner: S, call: Call, began: Time) -> Result<Reply, CallError>
    where
        S: Service<Call, Response = Reply, Error = CallError>,
    {
        self.budget.note_call(began);
        let delay = self.hedge.begin(began);
        let options = &call.options;
        let (is_idempotent, no_retry) = (options.is_idempotent, options.no_retry);
        let mut again = call.clone();
        let mut first = Box::pin(inner.call(call));
        let Some(delay) = delay else {
            return first.await;
        };
        tokio::select! {
            biased;
            result = &mut first => return result,
            () = tokio::time::sleep(delay) => {}
        }
        let now = clock::now();
        let decided = self
            .hedge
            .decide(now, is_idempotent, no_retry, &self.budget);
        if decided.is_err() {
            return first.await;
        }
        // It has what is left of the time.
        let timeout = again.options.timeout;
        again.options.timeout = timeout.map(|time| time.saturating_sub(now.since(began)));
        again.options.attempt = again.options.attempt.saturating_add(1).min(7);
        let mut second = Box::pin(async {
            poll_fn(|cx| inner.poll_ready(cx)).await?;
            inner.call(again).await
        });
        let is_final = |error: &CallError| error.retry() == Retry::Never;
        tokio::select! {
            result = &mut first => match result {
                Err(error) if !is_final(&error) => second.await,
                result => result,
            },
            result = &mut second => match result {
                Err(error) if !is_final(&error) => first.await,
                result => result,
            },
        }
    }
}
