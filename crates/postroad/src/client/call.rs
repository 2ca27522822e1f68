//! One call: its settings, its deadline, its way to an answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::Time;
use postroad_proto::error::Trace;
use postroad_proto::session::{Call, Failure, Reply};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Client, DefaultCodec, encode, to_json};
use crate::clock;
use crate::codec::{Codec, json, msgpack, numbers};
use crate::context::Context;
use crate::driver::{Connection, Patience, WaiterKey};
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
    trace: Option<Trace>,
    attempt: u8,
    no_retry: bool,
    metadata: Vec<(String, Bytes)>,
}

impl<'a> CallBuilder<'a> {
    #[inline]
    pub(super) fn new(client: &'a Client, route: &'a str) -> Self {
        let (timeout, priority, trace) = (None, None, None);
        Self {
            client,
            route,
            timeout,
            priority,
            trace,
            attempt: 0,
            no_retry: false,
            metadata: Vec::new(),
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
        self.trace = Some(trace);
        self
    }

    /// Adds a key and its value.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.metadata.push((key.into(), value.into()));
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
        let payload = payload.into();
        async move { Ok(self.run(numbers::RAW, payload).await?.payload) }
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
        let context = Context::current();
        let patience = self.patience(context.as_ref());
        let mut call = self.spec(codec, payload, context.as_ref());
        // Whoever sends without end must not keep the driver from writing.
        tokio::task::coop::consume_budget().await;
        if let Some(connection) = self.client.keeper.current() {
            match connection.send(&mut call, patience) {
                Err(Failure::NotOpen) => {}
                result => return result.map_err(|failure| self.failed(failure, patience)),
            }
        }
        let (patience, deadline) = patience.starting_now();
        loop {
            let connection = self.client.keeper.connected(deadline).await?;
            match connection.send(&mut call, patience) {
                Err(Failure::NotOpen) if clock::now() < deadline => {
                    self.client.keeper.has_ended(deadline).await;
                }
                result => return result.map_err(|failure| self.failed(failure, patience)),
            }
        }
    }

    fn failed(&self, failure: Failure, patience: Patience) -> CallError {
        match failure {
            Failure::NotOpen => self.client.keeper.not_connected(),
            other => CallError::from_failure(other, patience.timeout),
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
    fn patience(&self, context: Option<&Context>) -> Patience {
        let timeout = self.timeout.unwrap_or(self.client.keeper.config.timeout);
        let limit = context.map_or(Time::NEVER, |context| context.deadline);
        if limit == Time::NEVER {
            return Patience { timeout, limit };
        }
        // A handler's own time may end sooner.
        let timeout = timeout.min(limit.since(clock::now()));
        Patience { timeout, limit }
    }

    /// The call as the session takes it; its deadline is set when it is made.
    #[inline]
    fn spec(&self, codec: u8, payload: Bytes, context: Option<&Context>) -> Call<'_> {
        let trace = self
            .trace
            .or_else(|| context.and_then(|context| context.trace));
        // A trace costs bytes on the wire: it begins where somebody looks.
        let is_watched = || tracing::enabled!(target: "postroad::call", tracing::Level::DEBUG);
        let trace = trace
            .map(trace::child_of)
            .or_else(|| is_watched().then(trace::new));
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
            metadata: &self.metadata,
        }
    }

    async fn run(&self, codec: u8, payload: Bytes) -> Result<Reply, CallError> {
        let context = Context::current();
        let patience = self.patience(context.as_ref());
        let mut call = self.spec(codec, payload, context.as_ref());
        // Nearly always there is a connection, and it lives.
        if let Some(connection) = self.client.keeper.current() {
            match Answering::new(connection, &mut call, patience).await {
                Err(Failure::NotOpen) => {}
                result => return self.finish(&call, result, patience),
            }
        }
        Box::pin(self.run_patiently(&mut call, patience)).await
    }

    /// Waits for a connection, and for another if that one ends before the call is sent.
    async fn run_patiently(
        &self,
        call: &mut Call<'_>,
        patience: Patience,
    ) -> Result<Reply, CallError> {
        let (patience, deadline) = patience.starting_now();
        loop {
            let connection = self.client.keeper.connected(deadline).await?;
            match Answering::new(connection, call, patience).await {
                // The connection ended between finding it and calling: nothing was sent.
                Err(Failure::NotOpen) if clock::now() < deadline => {
                    self.client.keeper.has_ended(deadline).await;
                }
                result => return self.finish(call, result, patience),
            }
        }
    }

    #[inline]
    fn finish(
        &self,
        call: &Call<'_>,
        result: Result<Reply, Failure>,
        patience: Patience,
    ) -> Result<Reply, CallError> {
        let result = result.map_err(|failure| self.failed(failure, patience));
        self.observe(call, result.as_ref().err());
        result
    }

    fn observe(&self, call: &Call<'_>, error: Option<&CallError>) {
        if tracing::enabled!(target: "postroad::call", tracing::Level::DEBUG) {
            let trace = call.trace.map(tracing::field::display);
            let error = error.map(tracing::field::display);
            let endpoint = self.client.endpoint();
            tracing::debug!(
                target: "postroad::call", %endpoint, route = self.route, trace, error, "called"
            );
        }
    }
}

fn decode<R: DeserializeOwned>(reply: &Reply) -> Result<R, CallError> {
    Ok(match reply.codec {
        numbers::MSGPACK => msgpack::read(&reply.payload)?,
        numbers::RAW if reply.payload.is_empty() => json::read(&Bytes::from_static(b"null"))?,
        _ => json::read(&reply.payload)?,
    })
}

/// Sends the call when it is first polled, then waits in the connection's table. Dropping it
/// cancels the call.
struct Answering<'a, 'b> {
    connection: Arc<Connection>,
    call: &'a mut Call<'b>,
    patience: Patience,
    key: Option<WaiterKey>,
}

impl<'a, 'b> Answering<'a, 'b> {
    #[inline]
    fn new(connection: Arc<Connection>, call: &'a mut Call<'b>, patience: Patience) -> Self {
        Self {
            connection,
            call,
            patience,
            key: None,
        }
    }
}

impl Future for Answering<'_, '_> {
    type Output = Result<Reply, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match this.key {
            None => match this.connection.call(this.call, this.patience, cx.waker()) {
                Ok(key) => {
                    this.key = Some(key);
                    Poll::Pending
                }
                Err(failure) => Poll::Ready(Err(failure)),
            },
            Some(key) => {
                let answer = ready!(this.connection.poll_answer(key, cx.waker()));
                this.key = None;
                Poll::Ready(answer)
            }
        }
    }
}

impl Drop for Answering<'_, '_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.connection.abandon(key);
        }
    }
}
