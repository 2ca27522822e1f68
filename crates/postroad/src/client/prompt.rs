//! Sending that nearly always is done at once.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::session::{Call, Failure};
use postroad_proto::trace::Trace;

use super::Client;
use super::call::PRIORITY;
use crate::codec::numbers;
use crate::error::CallError;
use crate::transport::BoxFuture;

/// Bytes after which the driver may write before more are made.
pub(super) const BATCH: usize = 64 * 1024;
/// Calls or messages that are made under one lock at most, of those that are made together.
pub(super) const TOGETHER: usize = 32;
/// Unsent bytes over which a sender waits: few enough to stay in a processor's cache.
pub(super) const WINDOW: usize = 256 * 1024;

/// What all that one sender sends has in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) route: String,
    pub(super) priority: u8,
    pub(super) codec: u8,
    pub(super) timeout: Duration,
}

impl Common {
    pub(super) fn new(client: &Client, route: &str) -> Self {
        Self {
            route: route.to_owned(),
            priority: PRIORITY,
            codec: numbers::RAW,
            timeout: client.keeper.config.timeout,
        }
    }

    /// One of its messages or calls; its deadline is set when it is made.
    #[inline]
    pub(super) fn call<'a>(&'a self, payload: &'a Bytes, trace: Option<&'a Trace>) -> Call<'a> {
        Call {
            route: &self.route,
            payload,
            codec: self.codec,
            priority: self.priority,
            deadline: Time::NEVER,
            attempt: 0,
            no_retry: false,
            trace,
            metadata: &[],
        }
    }
}

/// Who sends one thing after the other.
pub(super) trait Prompt: Send {
    /// What is sent.
    type Item: Default + Send + Unpin;

    /// Sends without waiting, unless it has to.
    fn send_at_once(&mut self, item: &Self::Item) -> Result<(), Unsent>;

    /// Waits for what has to be waited for, and sends.
    fn send_patiently(
        &mut self,
        item: Self::Item,
    ) -> impl Future<Output = Result<(), CallError>> + Send;
}

/// Why nothing was sent: one that travels in a register.
pub(super) enum Unsent {
    /// It has to wait.
    MustWait,
    Failed(Box<CallError>),
}

impl Unsent {
    #[cold]
    pub(super) fn of(failure: Failure, timeout: Duration) -> Self {
        match failure {
            Failure::NotOpen => Self::MustWait,
            failure => Self::Failed(Box::new(CallError::from_failure(failure, timeout))),
        }
    }
}

/// Sends when it is first polled, if it can. An `async fn` would keep room for all that it may have
/// to wait for, and that is moved, twice, for every message; here it has its memory elsewhere.
pub(super) struct Sending<'a, P: Prompt> {
    sender: Option<&'a mut P>,
    item: P::Item,
    patient: Option<BoxFuture<'a, Result<(), CallError>>>,
}

impl<'a, P: Prompt> Sending<'a, P> {
    #[inline]
    pub(super) fn new(sender: &'a mut P, item: P::Item) -> Self {
        Self {
            sender: Some(sender),
            item,
            patient: None,
        }
    }
}

impl<P: Prompt> Future for Sending<'_, P> {
    type Output = Result<(), CallError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(sender) = this.sender.take() {
            match sender.send_at_once(&this.item) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(Unsent::Failed(error)) => return Poll::Ready(Err(*error)),
                Err(Unsent::MustWait) => {}
            }
            let item = std::mem::take(&mut this.item);
            this.patient = Some(Box::pin(sender.send_patiently(item)));
        }
        let Some(patient) = &mut this.patient else {
            // It was ready before.
            return Poll::Pending;
        };
        let result = ready!(patient.as_mut().poll(cx));
        this.patient = None;
        Poll::Ready(result)
    }
}
