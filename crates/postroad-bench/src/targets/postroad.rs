//! The servers of Postroad: the native protocol and its dialects.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use postroad::codec::numbers;
use postroad::{Bytes, CallError, Client, ClientConfig, ConnectionState, Endpoint};
use tokio::sync::watch;

use super::{Call, Connection, Ended, Failure, Outcome, Pipeline, Target};
use crate::error::Error;
use crate::plan::Plan;

/// A route of a server.
#[derive(Clone, Debug)]
pub(crate) struct Postroad {
    endpoint: Endpoint,
    config: ClientConfig,
    route: Arc<str>,
}

impl Postroad {
    /// What a plan calls.
    ///
    /// # Errors
    ///
    /// If its URL is not an endpoint.
    pub(crate) fn new(plan: &Plan) -> Result<Self, Error> {
        Ok(Self {
            endpoint: plan.url.parse()?,
            config: plan.client_config(),
            route: plan.route.as_str().into(),
        })
    }
}

impl Target for Postroad {
    type Connection = Connected;

    fn connect(&self) -> impl Future<Output = Result<Connected, Error>> + 'static {
        let (endpoint, config) = (self.endpoint.clone(), self.config.clone());
        let route = Arc::clone(&self.route);
        async move {
            let client = Client::connect_with(endpoint, config).await?;
            Ok(Connected { client, route })
        }
    }
}

/// A client and the route that it calls.
pub(crate) struct Connected {
    client: Client,
    route: Arc<str>,
}

impl Connection for Connected {
    type Failure = CallError;
    type Pipeline = postroad::Pipeline;
    type Status = ConnectionState;

    #[inline]
    fn call(&self, call: &Call<'_>) -> impl Future<Output = Result<Bytes, CallError>> {
        let request = self.client.request(&self.route);
        let request = request.priority(call.priority).timeout(call.timeout);
        request.call_raw(call.body.clone())
    }

    async fn send(&self, call: &Call<'_>) -> Result<(), CallError> {
        let request = self.client.request(&self.route);
        let request = request.priority(call.priority).timeout(call.timeout);
        request.send_bytes(numbers::RAW, call.body.clone()).await
    }

    fn pipeline(&self) -> postroad::Pipeline {
        self.client.pipeline(&self.route)
    }

    fn status(&self) -> watch::Receiver<ConnectionState> {
        self.client.state()
    }

    fn is_connected(status: &ConnectionState) -> bool {
        *status == ConnectionState::Connected
    }
}

impl Pipeline for postroad::Pipeline {
    type Failure = CallError;

    #[inline]
    fn set(&mut self, priority: u8, timeout: Duration) {
        self.set_priority(priority);
        self.set_timeout(timeout);
    }

    #[inline]
    fn try_call(&mut self, tag: u64, body: &Bytes) -> Result<(), CallError> {
        Self::try_call(self, tag, body)
    }

    /// The connection's lock is taken once for many of them.
    #[inline]
    fn try_calls(&mut self, tag: u64, body: &Bytes, calls: u64) -> u64 {
        let alike = (0..calls).map(|_| (tag, body));
        match Self::try_calls(self, alike) {
            Ok(()) => calls,
            Err((made, _why)) => made as u64,
        }
    }

    fn flush(&mut self) {
        Self::flush(self);
    }

    #[inline]
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Ended<CallError>>> {
        Self::poll_next(self, context)
    }

    #[inline]
    fn ready(&self) -> usize {
        Self::ready(self)
    }

    #[inline]
    fn in_flight(&self) -> usize {
        Self::in_flight(self)
    }
}

impl Failure for CallError {
    fn code(&self) -> Cow<'_, str> {
        Cow::Owned(Self::code(self).as_str().to_owned())
    }

    fn text(&self) -> String {
        let all = self.to_string();
        let text = all.strip_prefix(Self::code(self).as_str());
        text.map_or(all.as_str(), str::trim_start).to_owned()
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::NotConnected { .. } => Outcome::NoConnection,
            Self::Busy(_) => Outcome::Full,
            Self::Deadline { sent: false, .. } => Outcome::Expired,
            Self::Unsendable(_) => Outcome::Unsendable,
            _ => Outcome::Left,
        }
    }

    fn expired(last: Option<&Self>, timeout: Duration) -> Self {
        match last {
            Some(Self::NotConnected {
                endpoint,
                state,
                reason,
            }) => Self::NotConnected {
                endpoint: endpoint.clone(),
                state: *state,
                reason: reason.clone(),
            },
            // It was never asked whether the server can do it.
            _ => Self::Deadline {
                timeout,
                sent: false,
            },
        }
    }
}
