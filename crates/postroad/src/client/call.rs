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
use crate::driver::{Connection, WaiterKey};
use crate::error::{CallError, CodecError};
use crate::trace;

/// Priority of a call that names none, and is not made by a handler.
const PRIORITY: u8 = 3;

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
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// 0 to 7, 7 most urgent; more is taken for 7. Default 3, or that of the handler that makes the
    /// call.
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
    pub async fn call_raw(self, payload: impl Into<Bytes>) -> Result<Bytes, CallError> {
        Ok(self.run(numbers::RAW, payload.into()).await?.payload)
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
        let (timeout, deadline) = self.deadline();
        let call = self.spec(codec, payload, deadline);
        // Whoever sends without end must not keep the driver from writing.
        tokio::task::coop::consume_budget().await;
        loop {
            let connection = self.connection(deadline).await?;
            match connection.send(&call) {
                Ok(()) => return Ok(()),
                Err(Failure::NotOpen) if clock::now() < deadline => {
                    self.client.keeper.has_ended(deadline).await;
                }
                Err(failure) => return Err(self.failed(failure, timeout)),
            }
        }
    }

    /// The connection, when there is one.
    async fn connection(&self, deadline: Time) -> Result<Arc<Connection>, CallError> {
        match self.client.keeper.current() {
            Some(connection) => Ok(connection),
            None => self.client.keeper.connected(deadline).await,
        }
    }

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

    /// The time that the call has, and when that is over. Fixed once; every later wait is charged
    /// to it.
    fn deadline(&self) -> (Duration, Time) {
        let now = clock::now();
        let timeout = self.timeout.unwrap_or(self.client.keeper.config.timeout);
        let deadline = now + timeout;
        match Context::current() {
            Some(context) if context.deadline < deadline => {
                (context.deadline.since(now), context.deadline)
            }
            _ => (timeout, deadline),
        }
    }

    fn spec(&self, codec: u8, payload: Bytes, deadline: Time) -> Call<'_> {
        let context = Context::current();
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
            deadline,
            attempt: self.attempt,
            no_retry: self.no_retry,
            trace,
            metadata: &self.metadata,
        }
    }

    async fn run(self, codec: u8, payload: Bytes) -> Result<Reply, CallError> {
        let (timeout, deadline) = self.deadline();
        let call = self.spec(codec, payload, deadline);
        loop {
            let connection = self.connection(deadline).await?;
            match (Answering {
                connection,
                call: &call,
                key: None,
            })
            .await
            {
                // The connection ended between finding it and calling: nothing was sent.
                Err(Failure::NotOpen) if clock::now() < deadline => {
                    self.client.keeper.has_ended(deadline).await;
                }
                Ok(reply) => {
                    self.observe(&call, None);
                    return Ok(reply);
                }
                Err(failure) => {
                    let error = self.failed(failure, timeout);
                    self.observe(&call, Some(&error));
                    return Err(error);
                }
            }
        }
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
struct Answering<'a> {
    connection: Arc<Connection>,
    call: &'a Call<'a>,
    key: Option<WaiterKey>,
}

impl Future for Answering<'_> {
    type Output = Result<Reply, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.key {
            None => match self.connection.call(self.call, cx.waker()) {
                Ok(key) => {
                    self.key = Some(key);
                    Poll::Pending
                }
                Err(failure) => Poll::Ready(Err(failure)),
            },
            Some(key) => {
                let answer = ready!(self.connection.poll_answer(key, cx.waker()));
                self.key = None;
                Poll::Ready(answer)
            }
        }
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.connection.abandon(key);
        }
    }
}
