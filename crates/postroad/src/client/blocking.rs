//! The client for code that is not async.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use super::{CallBuilder, Client, ClientConfig, ConnectError};
use crate::endpoint::Endpoint;
use crate::error::{CallError, TransportError};

/// How long dropping a client may take.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// A [`Client`] with a runtime of its own, on one thread of its own. Must not be used on a
/// runtime's thread.
///
/// ```no_run
/// let client = postroad::BlockingClient::connect("tcp://127.0.0.1:7400")?;
/// let twice: i64 = client.call("math/double", &21)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BlockingClient {
    client: Client,
    runtime: Runtime,
}

impl BlockingClient {
    /// Connects with default settings.
    ///
    /// # Errors
    /// If the URL is wrong, the thread cannot be started, or the first attempt fails.
    pub fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::connect_with(url.parse::<Endpoint>()?, ClientConfig::default())
    }

    /// Connects with these settings.
    ///
    /// # Errors
    /// If settings or endpoint are wrong, the thread cannot be started, or the first attempt fails.
    pub fn connect_with(endpoint: Endpoint, config: ClientConfig) -> Result<Self, ConnectError> {
        let build = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let fail = |source: io::Error| TransportError::Io {
            action: "start a thread for",
            endpoint: endpoint.to_string(),
            source,
        };
        let runtime = build.map_err(fail)?;
        let client = runtime.block_on(Client::connect_with(endpoint, config))?;
        Ok(Self { client, runtime })
    }

    /// Calls a route with a value and waits for its answer.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn call<Q, R>(&self, route: &str, request: &Q) -> Result<R, CallError>
    where
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.runtime.block_on(self.client.call(route, request))
    }

    /// Sends a value that nobody answers.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn send<Q: Serialize + ?Sized>(&self, route: &str, message: &Q) -> Result<(), CallError> {
        self.runtime.block_on(self.client.send(route, message))
    }

    /// Runs a call with settings of its own: `client.with("route", |call|
    /// call.priority(7).call(&1))`.
    pub fn with<'a, F, T>(&'a self, route: &'a str, run: impl FnOnce(CallBuilder<'a>) -> F) -> T
    where
        F: Future<Output = T>,
    {
        self.runtime.block_on(run(self.client.request(route)))
    }

    /// Ends the connection after what was sent has left; dropping the client does the same.
    pub fn close(self) {}

    /// The client within, for what blocking code does not need: its state, `try_now`.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for BlockingClient {
    /// Messages that were sent without waiting for an answer are still on their way.
    fn drop(&mut self) {
        let close = async { tokio::time::timeout(CLOSE_MAX, self.client.close()).await };
        let _ = self.runtime.block_on(close);
    }
}
