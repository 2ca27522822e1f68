//! A call as a value, and a client that makes it.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use postroad_proto::session::Reply;
use serde::Serialize;
use tower::Service;

use super::Answering;
use crate::client::call_options::CallOptions;
use crate::client::handle::Client;
use crate::codec::{json, numbers};
use crate::error::CallError;

/// A call as tower's layers see it. Clones share the payload.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// Where it goes.
    pub route: Arc<str>,
    /// The payload.
    pub payload: Bytes,
    /// The payload's codec; see [`crate::codec::numbers`].
    pub codec: u8,
    /// Its other settings.
    pub options: CallOptions,
}

impl Call {
    /// A call with bytes.
    #[must_use]
    pub fn new(route: &str, payload: impl Into<Bytes>) -> Self {
        Self {
            route: route.into(),
            payload: payload.into(),
            codec: numbers::RAW,
            options: CallOptions::new(),
        }
    }

    /// A call with a value as JSON.
    ///
    /// # Errors
    /// If the value cannot be encoded.
    pub fn json<T: Serialize + ?Sized>(route: &str, value: &T) -> Result<Self, CallError> {
        let call = Self::new(route, json::write(&value)?);
        Ok(Self {
            codec: numbers::JSON,
            ..call
        })
    }

    /// The same call with these settings.
    #[must_use]
    pub fn options(mut self, options: CallOptions) -> Self {
        self.options = options;
        self
    }
}

/// It is always ready: waiting for a connection is bounded by the client's own settings, and
/// charged to the deadline of the call.
impl Service<Call> for Client {
    type Response = Reply;
    type Error = CallError;
    type Future = Answering;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Answering {
        let client = self.clone();
        Box::pin(async move {
            let request = client.request(&call.route).options(&call.options);
            let (codec, payload) = request.call_bytes(call.codec, call.payload).await?;
            Ok(Reply { codec, payload })
        })
    }
}
