//! One call: its settings, its deadline, its way to an answer.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::session::{Call, Failure, Reply};
use postroad_proto::trace::Trace;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::prompt::Unsent;
use super::{Client, DefaultCodec, encode, to_json};
use crate::codec::{Codec, json, msgpack, numbers};
use crate::context::CallContext;
use crate::driver::{Answer, Budget, Connection, WaiterKey};
use crate::error::{CallError, CodecError};
use crate::trace;

/// Priority of a call that names none, and is not made by a handler.
pub(super) const PRIORITY: u8 = 3;

/// A call with settings of its own.
#[derive(Clone, Debug)]
#[must_use = "a call does nothing until it is sent"]
pub struct CallBuilder<'a> {
    client: &'a Client,
    route: &'a str,
    timeout: Option<Duration>,
    priority: Option<u8>,
    attempt: u8,
    no_retry: bool,
    extras: Option<Box<Extras>>,
}

/// What few calls have, and so is not moved with all of them.
#[derive(Clone, Debug, Default)]
struct Extras {
    trace: Option<Trace>,
    metadata: Vec<(String, Bytes)>,
}

impl<'a> CallBuilder<'a> {
    #[inline]
    pub(super) fn new(client: &'a Client, route: &'a str) -> Self {
        Self {
            client,
            route,
            timeout: None,
            priority: None,
            attempt: 0,
            no_retry: false,
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
        let context = CallContext::current();
        let budget = self.budget(context.as_ref());
        let trace = self.trace_of(context.as_ref());
        let mut call = self.spec(codec, &payload, context.as_ref(), trace.as_deref());
        // Whoever sends without end must not keep the driver from writing.
        tokio::task::coop::consume_budget().await;
        if let Some(connection) = self.client.keeper.current() {
            match connection.send(&mut call, budget) {
                Err(Failure::NotOpen) => {}
                result => return result.map_err(|failure| self.failed(failure, budget.timeout)),
            }
        }
        let (budget, deadline) = budget.starting_now();
        let mut connections = self.client.keeper.connections(deadline);
        loop {
            match connections.next().await?.send(&mut call, budget) {
                Err(Failure::NotOpen) => {}
                result => return result.map_err(|failure| self.failed(failure, budget.timeout)),
            }
        }
    }

    #[cold]
    fn failed(&self, failure: Failure, timeout: Duration) -> CallError {
        match failure {
            Failure::NotOpen => self.client.keeper.not_connected(),
            other => CallError::from_failure(other, timeout),
        }
    }

    fn encode<Q: Serialize + ?Sized>(&self, value: &Q) -> Result<(u8, Bytes), CallError> {
        Ok(match self.client.codec {
            DefaultCodec::Json => (numbers::JSON, json::write(&value)?),
            DefaultCodec::MsgPack => (numbers::MSGPACK, msgpack::write(&value)?),
        })
    }

    /// The time that the call has; every wait is charged to it.
    #[inline]
    fn budget(&self, context: Option<&CallContext>) -> Budget {
        let timeout = self.timeout.unwrap_or(self.client.keeper.config.timeout);
        Budget::within(
            timeout,
            context.map_or(Time::NEVER, |context| context.deadline),
        )
    }

    #[inline]
    fn trace_of(&self, context: Option<&CallContext>) -> Option<Box<Trace>> {
        let own = self
            .extras
            .as_ref()
            .and_then(|extras| extras.trace.as_ref());
        trace::of_call(own.or_else(|| context?.trace.as_ref()))
    }

    /// The call as the session takes it; its deadline is set when it is made.
    #[inline]
    fn spec<'b>(
        &'b self,
        codec: u8,
        payload: &'b Bytes,
        context: Option<&CallContext>,
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
                .unwrap_or(PRIORITY),
            deadline: Time::NEVER,
            attempt: self.attempt,
            no_retry: self.no_retry,
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

    /// Waits for a connection, and for another if that one ends before the call is sent.
    async fn run_patiently(self, codec: u8, payload: Bytes) -> Result<Reply, CallError> {
        let context = CallContext::current();
        let (budget, deadline) = self.budget(context.as_ref()).starting_now();
        let trace = self.trace_of(context.as_ref());
        let mut call = self.spec(codec, &payload, context.as_ref(), trace.as_deref());
        let mut connections = self.client.keeper.connections(deadline);
        loop {
            let connection = match connections.next().await {
                Ok(connection) => connection,
                Err(error) => return Err(self.observed(trace.as_deref(), error)),
            };
            let make = |cx: &mut Context<'_>| {
                let connection = Arc::clone(&connection);
                Poll::Ready(Answering::begin(connection, &mut call, budget, cx.waker()))
            };
            let result = match poll_fn(make).await {
                Ok(answering) => answering.await,
                Err(failure) => Err(Box::new(failure)),
            };
            match result {
                Err(failure) if *failure == Failure::NotOpen => {}
                result => return self.finish(trace.as_deref(), result, budget.timeout),
            }
        }
    }

    #[inline]
    fn finish(
        &self,
        trace: Option<&Trace>,
        answer: Answer,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        match answer {
            Ok(reply) => {
                if trace::is_watched() {
                    self.observe(trace, None);
                }
                Ok(reply)
            }
            Err(failure) => Err(self.fail(trace, *failure, timeout)),
        }
    }

    #[cold]
    fn fail(&self, trace: Option<&Trace>, failure: Failure, timeout: Duration) -> CallError {
        self.observed(trace, self.failed(failure, timeout))
    }

    fn observed(&self, trace: Option<&Trace>, error: CallError) -> CallError {
        if trace::is_watched() {
            self.observe(trace, Some(&error));
        }
        error
    }

    #[cold]
    fn observe(&self, trace: Option<&Trace>, error: Option<&CallError>) {
        let trace = trace.map(tracing::field::display);
        let error = error.map(tracing::field::display);
        let endpoint = self.client.endpoint();
        tracing::debug!(
            target: "postroad::call", %endpoint, route = self.route, trace, error, "called"
        );
    }
}

/// How far a call has come.
enum Stage<'a> {
    /// It is sent when it is first polled.
    New,
    /// It was sent on the connection that was there, with this timeout. The trace is for whoever
    /// watches.
    Sent(Answering, Duration, Option<Box<Trace>>),
    /// There was no connection; what rarely happens has its memory elsewhere.
    Patient(Pin<Box<dyn Future<Output = Result<Reply, CallError>> + Send + 'a>>),
    Over,
}

/// One call and its answer. One future with few fields, because what is made and moved for every
/// call counts.
struct Calling<'a> {
    builder: CallBuilder<'a>,
    codec: u8,
    payload: Bytes,
    stage: Stage<'a>,
}

impl Calling<'_> {
    /// Sends the call where there is a connection, which nearly always there is.
    #[inline]
    fn begin(&mut self, waker: &Waker) -> Result<(), Unsent> {
        let context = CallContext::current();
        let budget = self.builder.budget(context.as_ref());
        let trace = self.builder.trace_of(context.as_ref());
        let (codec, payload) = (self.codec, &self.payload);
        let mut call = self
            .builder
            .spec(codec, payload, context.as_ref(), trace.as_deref());
        let connection = self.builder.client.keeper.current();
        let connection = connection.ok_or(Unsent::MustWait)?;
        match Answering::begin(connection, &mut call, budget, waker) {
            Ok(answering) => {
                // It is; to know that saves a drop.
                debug_assert!(matches!(self.stage, Stage::New), "it begins once");
                if let Stage::New = self.stage {
                    self.stage = Stage::Sent(answering, budget.timeout, trace);
                }
                Ok(())
            }
            Err(Failure::NotOpen) => Err(Unsent::MustWait),
            Err(failure) => {
                let builder = &self.builder;
                let error = builder.fail(trace.as_deref(), failure, budget.timeout);
                Err(Unsent::Failed(Box::new(error)))
            }
        }
    }

    #[cold]
    fn poll_patiently(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, CallError>> {
        let Stage::Patient(patient) = &mut self.stage else {
            return Poll::Ready(Err(self.builder.client.keeper.not_connected()));
        };
        let result = ready!(patient.as_mut().poll(cx));
        self.stage = Stage::Over;
        Poll::Ready(result)
    }
}

impl Future for Calling<'_> {
    type Output = Result<Reply, CallError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Stage::Sent(answering, timeout, trace) = &mut this.stage {
            // Handed on as it is: a result is large, and moves from stage to stage cost time.
            let answer = ready!(Pin::new(answering).poll(cx));
            return Poll::Ready(this.builder.finish(trace.as_deref(), answer, *timeout));
        }
        if let Stage::New = this.stage {
            match this.begin(cx.waker()) {
                Ok(()) => return Poll::Pending,
                Err(Unsent::Failed(error)) => {
                    this.stage = Stage::Over;
                    return Poll::Ready(Err(*error));
                }
                Err(Unsent::MustWait) => {
                    let (builder, payload) = (this.builder.clone(), this.payload.clone());
                    let patient = builder.run_patiently(this.codec, payload);
                    this.stage = Stage::Patient(Box::pin(patient));
                }
            }
        }
        this.poll_patiently(cx)
    }
}

/// A call whose answer is bytes.
struct Raw<'a>(Calling<'a>);

impl Future for Raw<'_> {
    type Output = Result<Bytes, CallError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_ok(|reply| reply.payload)
    }
}

fn decode<R: DeserializeOwned>(reply: &Reply) -> Result<R, CallError> {
    Ok(match reply.codec {
        numbers::MSGPACK => msgpack::read(&reply.payload)?,
        numbers::RAW if reply.payload.is_empty() => json::read(&Bytes::from_static(b"null"))?,
        _ => json::read(&reply.payload)?,
    })
}

/// Waits in the connection's table for the answer to a call that was sent. Dropping it cancels the
/// call.
struct Answering {
    connection: Arc<Connection>,
    key: Option<WaiterKey>,
}

impl Answering {
    #[inline]
    fn begin(
        connection: Arc<Connection>,
        call: &mut Call<'_>,
        budget: Budget,
        waker: &Waker,
    ) -> Result<Self, Failure> {
        let key = Some(connection.call(call, budget, waker)?);
        Ok(Self { connection, key })
    }
}

impl Future for Answering {
    type Output = Answer;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let Some(key) = self.key else {
            return Poll::Ready(Err(Box::new(Failure::NotOpen)));
        };
        let answer = ready!(self.connection.poll_answer(key, cx.waker()));
        self.key = None;
        Poll::Ready(answer)
    }
}

impl Drop for Answering {
    #[inline]
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.connection.abandon(key);
        }
    }
}
