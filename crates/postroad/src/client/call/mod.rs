//! One call: its settings, its deadline, its way to an answer.

mod governed;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::policy::{CallInfo, Ending, Outcome};
use postroad_proto::session::{Call, Reply};
use postroad_proto::trace::Trace;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::attempt::{InFlight, Offered, Sent, at_once, offered, patiently};
use super::call_options::{CallOptions, Hook};
use super::channel::{Channel, Lease};
use super::values::{DefaultCodec, decode, encode, to_json};
use super::why::{Explanation, Recorder};
use crate::codec::{Codec, numbers};
use crate::context::Inherited;
use crate::driver::Budget;
use crate::error::{CallError, CodecError};
use crate::observe::{calls, trace};
use crate::transport::BoxFuture;
use governed::Tries;

/// A call with settings of its own, made by [`Client::request`](super::Client::request).
///
/// ```
/// # async fn run(client: postroad::Client) -> Result<(), postroad::CallError> {
/// use std::time::Duration;
///
/// let twice: i64 = client
///     .request("math/double")
///     .timeout(Duration::from_millis(200))
///     .priority(7)
///     .metadata("tenant", "acme")
///     .call(&21)
///     .await?;
/// # let _ = twice;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a call does nothing until it is sent"]
pub struct CallBuilder<'a> {
    channel: &'a Channel,
    default_codec: DefaultCodec,
    route: &'a str,
    timeout: Option<Duration>,
    priority: Option<u8>,
    attempt: u8,
    no_retry: bool,
    is_idempotent: bool,
    extras: Option<Box<Extras>>,
}

/// What few calls have, and so is not moved with all of them.
#[derive(Clone, Default)]
struct Extras {
    trace: Option<Trace>,
    metadata: Vec<(String, Bytes)>,
    key: Option<Bytes>,
    explanation: Option<Explanation>,
    /// The explanation was drawn by the client, which is told it.
    is_sampled: bool,
}

impl<'a> CallBuilder<'a> {
    #[inline]
    pub(super) fn new(channel: &'a Channel, default_codec: DefaultCodec, route: &'a str) -> Self {
        Self {
            channel,
            default_codec,
            route,
            timeout: None,
            priority: None,
            attempt: 0,
            no_retry: false,
            is_idempotent: false,
            extras: None,
        }
    }

    /// The deadline: everything is charged to it, waiting for a connection included.
    /// Default: [`ClientConfig::timeout`](super::ClientConfig::timeout). A handler's calls end no
    /// later than the handler's own.
    #[inline]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// 0 to 7, 7 most urgent; more is taken for 7. Default 3, or that of the handler that makes the
    /// call.
    #[inline]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority.min(7));
        self
    }

    /// The trace that the call belongs to. Default: that of the handler that makes the call.
    #[inline]
    pub fn trace(mut self, trace: Trace) -> Self {
        self.extras.get_or_insert_default().trace = Some(trace);
        self
    }

    /// Adds a key and its value.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let metadata = &mut self.extras.get_or_insert_default().metadata;
        metadata.push((key.into(), value.into()));
        self
    }

    /// Takes these settings; those that they leave open stay as they are, and metadata is added.
    pub fn options(mut self, options: &CallOptions) -> Self {
        self.timeout = options.timeout.or(self.timeout);
        self.priority = options.priority.or(self.priority);
        self.attempt = self.attempt.max(options.attempt);
        self.no_retry |= options.no_retry;
        self.is_idempotent |= options.is_idempotent;
        if options.trace.is_some() || !options.metadata.is_empty() {
            let extras = self.extras.get_or_insert_default();
            extras.trace = options.trace.or(extras.trace);
            extras.metadata.extend_from_slice(&options.metadata);
        }
        self
    }

    /// Takes what a client's hook says of it.
    #[cold]
    pub(super) fn hooked(mut self, hook: &Hook) -> Self {
        let outgoing = hook.run(self.route);
        let extras = self.extras.get_or_insert_default();
        extras.trace = outgoing.trace;
        extras.metadata = outgoing.metadata;
        self
    }

    /// Which attempt this is, 0 the first, at most 7.
    #[inline]
    pub fn attempt(mut self, attempt: u8) -> Self {
        self.attempt = attempt.min(7);
        self
    }

    /// Nobody on the way may send the call again.
    #[inline]
    pub fn no_retry(mut self) -> Self {
        self.no_retry = true;
        self
    }

    /// The call may be run twice, so that a client of several servers may send it again when it
    /// cannot be known whether it was run.
    #[inline]
    pub fn idempotent(mut self) -> Self {
        self.is_idempotent = true;
        self
    }

    /// Calls with equal keys go to the same server, as long as it can take them, if the client
    /// balances by [`Balance::Hash`](super::Balance::Hash).
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.extras.get_or_insert_default().key = Some(key.into());
        self
    }

    /// Writes down why the call goes where it goes: which servers were considered, which policy has
    /// said what. It costs nothing where it is not used.
    pub fn explain(mut self, into: &Explanation) -> Self {
        self.extras.get_or_insert_default().explanation = Some(into.clone());
        self
    }

    /// Calls with a value in the client's codec, and takes another value in place of an answer if
    /// the call is refused here because no server answers lately.
    ///
    /// # Errors
    /// Why there is no answer, unless that is [`CallError::BreakerOpen`].
    pub async fn call_or<Q, R>(
        self,
        request: &Q,
        fallback: impl FnOnce() -> R,
    ) -> Result<R, CallError>
    where
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        match self.call(request).await {
            Err(CallError::BreakerOpen { .. }) => Ok(fallback()),
            result => result,
        }
    }

    /// Calls with a value in the client's codec.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn call<Q, R>(self, request: &Q) -> Result<R, CallError>
    where
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let (codec, payload) = self.encode(request)?;
        let reply = self.run(codec, payload).await?;
        decode(&reply)
    }

    /// Calls with values of a codec of your choice.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn call_with<Q, R, C>(self, codec: &C, request: &Q) -> Result<R, CallError>
    where
        C: Codec<Q> + Codec<R>,
    {
        let (number, payload) = encode(codec, request)?;
        let reply = self.run(number, payload).await?;
        Ok(Codec::<R>::decode(codec, &reply.payload)?)
    }

    /// Calls by name with a JSON value, as a person does who has no types.
    ///
    /// # Errors
    /// Why there is no answer; also if the answer is neither JSON nor MessagePack nor text.
    pub async fn call_json(
        self,
        value: &serde_json::Value,
    ) -> Result<serde_json::Value, CallError> {
        let (codec, payload) = self.encode(value)?;
        let reply = self.run(codec, payload).await?;
        let text = || {
            std::str::from_utf8(&reply.payload)
                .ok()
                .map(serde_json::Value::from)
        };
        to_json(reply.codec, &reply.payload)
            .or_else(text)
            .ok_or_else(|| {
                let detail = format!(
                    "{} bytes of codec {} are no text",
                    reply.payload.len(),
                    reply.codec
                );
                CallError::Codec(CodecError {
                    codec: "JSON",
                    detail,
                })
            })
    }

    /// Calls with bytes.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn call_raw(
        self,
        payload: impl Into<Bytes>,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send {
        Raw(self.run(numbers::RAW, payload.into()))
    }

    /// Calls with bytes of a codec by number, and tells the answer's.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn call_bytes(self, codec: u8, payload: Bytes) -> Result<(u8, Bytes), CallError> {
        let reply = self.run(codec, payload).await?;
        Ok((reply.codec, reply.payload))
    }

    /// Sends a value that nobody answers.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub async fn send<Q: Serialize + ?Sized>(self, message: &Q) -> Result<(), CallError> {
        let (codec, payload) = self.encode(message)?;
        self.send_bytes(codec, payload).await
    }

    /// Sends bytes that nobody answers.
    ///
    /// # Errors
    /// If they cannot be sent.
    pub async fn send_bytes(self, codec: u8, payload: Bytes) -> Result<(), CallError> {
        let context = Inherited::current();
        let budget = self.budget(context.as_ref());
        let trace = self.trace_of(context.as_ref());
        let call = self.spec(codec, &payload, context.as_ref(), trace.as_deref());
        let info = self.info(&call, false, budget);
        // A task that sends without end must let the driver run, or nothing is ever written.
        tokio::task::coop::consume_budget().await;
        let offer = |lease: Lease, budget| self.offer_one_way(&lease, call.clone(), budget);
        match at_once(self.channel, &info, |lease| offer(lease, budget)) {
            Ok(Sent::Now(())) => Ok(()),
            Ok(Sent::Wait | Sent::Full) => patiently(self.channel, &info, budget, offer).await,
            Err(error) => Err(*error),
        }
    }

    fn offer_one_way(&self, lease: &Lease, mut call: Call<'_>, budget: Budget) -> Offered<()> {
        let result = lease.connection().send(&mut call, budget);
        let sent = offered(self.channel, lease, budget.timeout, result)?;
        if let Sent::Now(()) = sent {
            self.channel.finish(lease, || Outcome {
                ending: Ending::Handed,
                timing: None,
            });
        }
        Ok(sent)
    }

    fn encode<Q: Serialize + ?Sized>(&self, value: &Q) -> Result<(u8, Bytes), CallError> {
        self.default_codec.encode(value)
    }

    /// The time that the call has; every wait is charged to it.
    #[inline]
    fn budget(&self, context: Option<&Inherited>) -> Budget {
        let timeout = self.timeout;
        Budget::within(
            timeout.unwrap_or_else(|| self.channel.timeout_of(self.route)),
            context.map_or(Time::NEVER, |context| context.deadline),
        )
    }

    #[inline]
    fn trace_of(&self, context: Option<&Inherited>) -> Option<Box<Trace>> {
        let own = self
            .extras
            .as_ref()
            .and_then(|extras| extras.trace.as_ref());
        trace::of_call(own.or_else(|| context?.trace.as_ref()))
    }

    /// The call as the session takes it. The connection sets its deadline when it takes the call,
    /// because only then is it known how much of its time was waited for.
    #[inline]
    fn spec<'b>(
        &'b self,
        codec: u8,
        payload: &'b Bytes,
        context: Option<&Inherited>,
        trace: Option<&'b Trace>,
    ) -> Call<'b> {
        let extras = self.extras.as_ref();
        Call {
            route: self.route,
            payload,
            codec,
            priority: self
                .priority
                .or(context.map(|context| context.priority))
                .unwrap_or_else(|| self.channel.priority_of(self.route)),
            deadline: Time::NEVER,
            attempt: self.attempt,
            no_retry: self.no_retry || context.is_some_and(|context| context.no_retry),
            trace,
            metadata: extras.map_or(&[], |extras| &extras.metadata),
        }
    }

    #[inline]
    fn run(self, codec: u8, payload: Bytes) -> Calling<'a> {
        Calling {
            builder: self,
            codec,
            payload,
            stage: Stage::New,
        }
    }

    /// What the channel may look at to pick a connection.
    #[inline]
    fn info<'b>(&'b self, call: &Call<'b>, is_answered: bool, budget: Budget) -> CallInfo<'b> {
        let extras = self.extras.as_deref();
        CallInfo {
            route: call.route,
            is_answered,
            is_idempotent: self.is_idempotent,
            priority: call.priority,
            attempt: call.attempt,
            no_retry: call.no_retry,
            timeout: budget.timeout,
            key: extras.and_then(|extras| extras.key.as_deref()),
        }
    }

    /// Whether somebody wants to know why the call goes where it goes.
    #[inline]
    fn is_explained(&self) -> bool {
        let extras = self.extras.as_deref();
        extras.is_some_and(|extras| extras.explanation.is_some())
    }

    /// Writes down what is decided, if somebody wants to know.
    fn recorder(&self) -> Recorder {
        let extras = self.extras.as_deref();
        Recorder::new(extras.and_then(|extras| extras.explanation.clone()))
    }

    /// Tells whoever watches calls how this one has ended.
    #[inline]
    fn observe(&self, trace: Option<&Trace>, error: Option<&CallError>) {
        if trace::is_watched() {
            self.write_event(trace, error);
        }
    }

    #[cold]
    fn write_event(&self, trace: Option<&Trace>, error: Option<&CallError>) {
        calls::called(self.channel.target(), self.route, trace, error);
    }
}

impl fmt::Debug for CallBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallBuilder")
            .field("target", &self.channel.target().to_string())
            .field("route", &self.route)
            .field("timeout", &self.timeout)
            .field("priority", &self.priority)
            .field("attempt", &self.attempt)
            .field("no_retry", &self.no_retry)
            .finish_non_exhaustive()
    }
}

/// A call that a connection has taken, and its trace, which is for whoever watches.
type Taken<'a> = (InFlight<'a>, Option<Box<Trace>>);

/// How far a call has come.
enum Stage<'a> {
    /// It is offered to a connection when it is first polled.
    New,
    /// No connection has taken it yet, or it is sent again, and so on. That is rare and needs much
    /// room, so it has its memory elsewhere: this future is moved for every call.
    Governed(BoxFuture<'a, Result<Reply, CallError>>),
    /// A connection has taken it.
    Sent(Taken<'a>),
    /// It could not be sent, and the caller knows.
    Over,
}

/// One call, from being made to its answer.
///
/// ```text
/// New --taken--> Sent --answer, failure--> ready
///  |              |                          ^
///  +----------> Governed --------------------+
/// ```
///
/// It is written by hand because an `async fn` keeps what it was given and what it works on in
/// different places, and so moves both for every call.
struct Calling<'a> {
    builder: CallBuilder<'a>,
    codec: u8,
    payload: Bytes,
    stage: Stage<'a>,
}

impl<'a> Calling<'a> {
    /// Offers the call to the connection that there is now.
    #[inline]
    fn begin(&mut self, waker: &Waker) -> Offered<()> {
        let builder = &self.builder;
        let context = Inherited::current();
        let budget = builder.budget(context.as_ref());
        let trace = builder.trace_of(context.as_ref());
        let (codec, payload) = (self.codec, &self.payload);
        let mut call = builder.spec(codec, payload, context.as_ref(), trace.as_deref());
        let info = builder.info(&call, true, budget);
        let begun = builder.channel.admit(&info).and_then(|()| {
            let Some(lease) = builder.channel.pick(&info) else {
                return Ok(Sent::Wait);
            };
            InFlight::begin(builder.channel, lease, &mut call, budget, waker)
        });
        match begun {
            Ok(Sent::Now(in_flight)) => {
                self.stage = Stage::Sent((in_flight, trace));
                Ok(Sent::Now(()))
            }
            Ok(Sent::Wait | Sent::Full) => Ok(Sent::Wait),
            Err(error) => {
                builder.observe(trace.as_deref(), Some(&error));
                Err(error)
            }
        }
    }

    /// From here on the call waits, or is sent again.
    #[cold]
    fn govern(&mut self, tries: Tries) {
        self.govern_late(tries, None);
    }

    /// The same with an attempt that has not been answered for long.
    #[cold]
    fn govern_late(&mut self, tries: Tries, late: Option<InFlight<'a>>) {
        let (builder, payload) = (self.builder.clone(), self.payload.clone());
        let governed = builder.govern(self.codec, payload, tries, late);
        self.stage = Stage::Governed(Box::pin(governed));
    }

    /// No answer yet. Whoever was woken without one looks how late it is.
    #[cold]
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, CallError>> {
        if let Stage::Sent((in_flight, _)) = &self.stage
            && let Some(tries) = self.builder.tries_when_late(in_flight)
            && let Stage::Sent((late, _)) = std::mem::replace(&mut self.stage, Stage::Over)
        {
            self.govern_late(tries, Some(late));
            return self.poll_governed(cx);
        }
        Poll::Pending
    }

    #[cold]
    fn poll_governed(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, CallError>> {
        let Stage::Governed(governed) = &mut self.stage else {
            // It was ready before.
            return Poll::Pending;
        };
        let result = ready!(governed.as_mut().poll(cx));
        self.stage = Stage::Over;
        Poll::Ready(result)
    }

    #[inline]
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, CallError>> {
        let Stage::Sent((in_flight, trace)) = &mut self.stage else {
            return self.poll_governed(cx);
        };
        // Handed on as it is, because a result is large: moving it from stage to stage costs time.
        let Poll::Ready(result) = Pin::new(&mut *in_flight).poll(cx) else {
            return self.poll_late(cx);
        };
        if let Err(error) = &result
            && let Some(tries) = self.builder.tries_after(in_flight, error)
        {
            self.govern(tries);
            return self.poll_governed(cx);
        }
        self.builder
            .observe(trace.as_deref(), result.as_ref().err());
        Poll::Ready(result)
    }
}

impl Future for Calling<'_> {
    type Output = Result<Reply, CallError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Stage::New = self.stage {
            if self.builder.is_governed() {
                self.builder.draw_sample();
                self.govern(Tries::none());
                return self.poll_governed(cx);
            }
            match self.begin(cx.waker()) {
                // The waker is registered with the call.
                Ok(Sent::Now(())) => return Poll::Pending,
                Ok(Sent::Wait | Sent::Full) => self.govern(Tries::admitted()),
                Err(error) => {
                    self.stage = Stage::Over;
                    return Poll::Ready(Err(*error));
                }
            }
        }
        self.poll_answer(cx)
    }
}

/// A call whose answer is bytes. A future of its own for the same reason as [`Calling`].
struct Raw<'a>(Calling<'a>);

impl Future for Raw<'_> {
    type Output = Result<Bytes, CallError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_ok(|reply| reply.payload)
    }
}
