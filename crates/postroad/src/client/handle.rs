//! The handle that users have of a client: connecting, and the ways to send.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::code::{Fault, Retry};
use postroad_proto::policy::{ConnectionState, Outcome};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::call::CallBuilder;
use super::call_options::{Hook, Outgoing};
use super::channel::Channel;
use super::config::ClientConfig;
use super::fleet::Fleet;
use super::keeper::Keeper;
use super::keeping;
use super::pipeline::Pipeline;
use super::producer::Producer;
use super::values::DefaultCodec;
use crate::codec::numbers;
use crate::config::{ConfigError, bound};
use crate::discovery::Target;
use crate::endpoint::{Endpoint, Protocol};
use crate::error::{CallError, TransportError};
use crate::transport::{BoxFuture, PeerInfo, Transports, Use};

/// Why a client was not made, or did not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The configuration is out of its bounds.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The endpoint is wrong, or its transport is unknown.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The first attempt has failed.
    #[error("{0}")]
    Failed(CallError),
}

impl ConnectError {
    /// Who has to change something.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Config(_) => Fault::Caller,
            Self::Transport(error) => error.fault(),
            Self::Failed(error) => error.fault(),
        }
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Config(_) => Retry::Never,
            Self::Transport(error) => error.retry(),
            Self::Failed(error) => error.retry(),
        }
    }
}

/// A client of a target: one endpoint, or several servers. Clones are handles of the same
/// connections.
///
/// What is done when one of several servers is slow, wrong or gone is said by
/// [`Policies`](super::Policies).
///
/// # Coming back
///
/// The connection is dialled again when it ends, for as long as there is a client:
///
/// - at once, if it was healthy and the server has closed it in order. A connection is healthy when
///   the server has said something on it after it was opened, or when it has lived for 5 s;
/// - otherwise after a wait that [`ClientConfig::backoff`] bounds, drawn anew for each attempt, so
///   that many clients of one server do not come back in step.
///
/// After five failed attempts the state is [`ConnectionState::Offline`]. Calls then fail at once
/// instead of waiting. Dialling goes on, and each call that comes has an attempt made at once, in
/// the background and at most ten in the time of the first wait; [`Client::try_now`] does the same.
/// The client gives up for good only if [`ClientConfig::give_up_after`] says so.
///
/// A client lives on the runtime that it was made on. When that has ended, or after
/// [`Client::close`], calls fail with [`CallError::NotConnected`] and [`Retry::Never`].
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = postroad::Client::connect("tcp://127.0.0.1:7400").await?;
/// let twice: i64 = client.call("math/double", &21).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(super) channel: Channel,
    target: Arc<Target>,
    codec: DefaultCodec,
    /// `None` unless [`Self::before`] was used, and then sending costs no more than one comparison.
    hook: Option<Hook>,
}

impl Client {
    /// Connects to a target with default settings: ready when a server is connected, within
    /// [`ClientConfig::connect_timeout`].
    ///
    /// # Errors
    /// If the URL is wrong, or no server can be reached.
    pub async fn connect(target: &str) -> Result<Self, ConnectError> {
        Self::connect_with(target.parse::<Target>()?, ClientConfig::default()).await
    }

    /// Connects with these settings: ready within [`ClientConfig::connect_timeout`].
    ///
    /// # Errors
    /// If settings or target are wrong, or no server can be reached.
    pub async fn connect_with(target: Target, config: ClientConfig) -> Result<Self, ConnectError> {
        let client = Self::new(target, config)?;
        client.connected().await?;
        Ok(client)
    }

    /// Ready when a server is connected, or the first attempt has failed.
    pub(super) async fn connected(&self) -> Result<(), ConnectError> {
        let first = self.channel.first_attempt().await;
        first.map_err(ConnectError::Failed)
    }

    /// A client that dials in the background and is there at once: calls wait for the connection as
    /// long as [`ClientConfig::max_wait`] says. Must be called on a runtime.
    ///
    /// # Errors
    /// If settings or target are wrong.
    pub fn new(target: Target, config: ClientConfig) -> Result<Self, ConnectError> {
        Self::with_transports(target, config, &Transports::default())
    }

    /// The same with transports of your own.
    ///
    /// # Errors
    /// If settings or target are wrong.
    pub fn with_transports(
        target: Target,
        config: ClientConfig,
        transports: &Transports,
    ) -> Result<Self, ConnectError> {
        config.check()?;
        let lone = target.endpoint().filter(|_| config.policies.is_none());
        let channel = match lone.cloned() {
            Some(endpoint) => Self::lone(endpoint, config, transports)?,
            None => Channel::to_fleet(Fleet::start(target.clone(), config, transports, ask)?),
        };
        Ok(Self {
            channel,
            target: Arc::new(target),
            codec: DefaultCodec::Json,
            hook: None,
        })
    }

    /// A channel to one endpoint, without policies.
    fn lone(
        endpoint: Endpoint,
        config: ClientConfig,
        transports: &Transports,
    ) -> Result<Channel, ConnectError> {
        if matches!(endpoint.protocol(), Protocol::Auto) {
            let error = TransportError::Endpoint {
                url: endpoint.to_string(),
                detail: "a client must say what it speaks".to_owned(),
            };
            return Err(error.into());
        }
        let transport = Arc::clone(transports.get(&endpoint)?);
        transport.check(&endpoint, Use::Dial)?;
        let keeper = keeping::start(endpoint, config, transport, None);
        Ok(Channel::new(keeper))
    }

    /// The same connection, whose values are MessagePack instead of JSON.
    #[must_use]
    pub fn with_msgpack(mut self) -> Self {
        self.codec = DefaultCodec::MsgPack;
        self
    }

    /// The same connection, with a hook that runs before every call and message that is sent by
    /// this handle or by one made from it: by [`Self::call`], [`Self::send`] and [`Self::request`],
    /// by typed clients, producers and pipelines. It adds metadata, such as a token, or a trace. A
    /// handle that has a hook already runs both, the earlier one first.
    ///
    /// The hook must not block. Producers and pipelines that send many messages at once run it once
    /// for up to 32 of them. A dialect that has no room for metadata refuses such a call or leaves
    /// it out, as the guide to the dialects (docs/dialects.md) says.
    ///
    /// ```
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = postroad::Client::connect("tcp://127.0.0.1:7400").await?;
    /// let client = client.before(|call| call.metadata("token", "let me in"));
    /// let twice: i64 = client.call("math/double", &21).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn before(mut self, hook: impl Fn(&mut Outgoing<'_>) + Send + Sync + 'static) -> Self {
        self.hook = Some(Hook::after(self.hook.take(), hook));
        self
    }

    /// Calls a route with a value and waits for its answer, in the client's codec.
    ///
    /// Dropping the future cancels the call; the server is told.
    ///
    /// # Errors
    /// Why there is no answer, and whether the call may be sent again.
    pub async fn call<Q, R>(&self, route: &str, request: &Q) -> Result<R, CallError>
    where
        Q: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.request(route).call(request).await
    }

    /// Sends a value that nobody answers.
    ///
    /// When the future is ready, the message is on its way; nobody says whether it arrived.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub async fn send<Q: Serialize + ?Sized>(
        &self,
        route: &str,
        message: &Q,
    ) -> Result<(), CallError> {
        self.request(route).send(message).await
    }

    /// A call with settings of its own.
    pub fn request<'a>(&'a self, route: &'a str) -> CallBuilder<'a> {
        let call = CallBuilder::new(&self.channel, self.codec, route);
        match &self.hook {
            None => call,
            Some(hook) => call.hooked(hook),
        }
    }

    /// Sends many one-way messages of one route.
    #[must_use]
    pub fn producer(&self, route: &str) -> Producer {
        Producer::new(self.channel.clone(), self.hook.clone(), route)
    }

    /// Makes many calls of one route from one task.
    #[must_use]
    pub fn pipeline(&self, route: &str) -> Pipeline {
        Pipeline::new(self.channel.clone(), self.hook.clone(), route)
    }

    /// The same connections, with a listener that hears how every call and message has ended that
    /// is sent by this handle or by one made from it, and by whom: for metrics and for tests. It
    /// must not block. A handle that has a listener already has only the new one.
    #[must_use]
    pub fn after(mut self, listener: impl Fn(&PeerInfo, Outcome) + Send + Sync + 'static) -> Self {
        self.channel = self.channel.with_listener(Arc::new(listener));
        self
    }

    /// Where messages go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The state of the connection, and every change of it. To several servers it is `Connected` as
    /// long as one of them is, and `Offline` while the attempts to connect to all of them fail.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.channel.state()
    }

    /// Gives servers with these tags other shares of the calls, in tenths of a percent, from the
    /// next call on; see [`Policies::tags`](super::Policies::tags). A client of one endpoint
    /// without policies has no shares.
    ///
    /// # Errors
    /// If the shares are more than all calls together; then nothing changes.
    pub fn set_tags(&self, tags: BTreeMap<String, u32>) -> Result<(), ConfigError> {
        let all = tags
            .values()
            .fold(0, |all: u32, share| all.saturating_add(*share));
        bound(all <= 1000, "tags", all, "at most 100% together")?;
        if let Some(fleet) = self.channel.fleet() {
            fleet.set_tags(tags);
        }
        Ok(())
    }

    /// Somebody knows that the server is back: dials at once, also when
    /// [`ConnectionState::Offline`].
    pub fn try_now(&self) {
        self.channel.try_now();
    }

    /// Whether the connection's driver was woken for something and has not run since.
    pub(super) fn has_left(&self) -> bool {
        self.channel.has_left()
    }

    /// Ends the connection after the calls in flight; later calls fail. Ready when it is closed.
    pub async fn close(&self) {
        self.channel.close().await;
    }
}

/// Calls a route of one server, for what a fleet wants to know of it. It goes before all calls,
/// since they go by it.
fn ask(
    server: Arc<Keeper>,
    route: String,
    timeout: Duration,
) -> BoxFuture<'static, Result<Bytes, CallError>> {
    Box::pin(async move {
        let channel = Channel::new(server);
        let call = CallBuilder::new(&channel, DefaultCodec::Json, &route);
        let null = Bytes::from_static(b"null");
        let call = call.priority(7).timeout(timeout);
        let (_, answer) = call.call_bytes(numbers::JSON, null).await?;
        Ok(answer)
    })
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("target", &self.target.to_string())
            .field("state", &*self.state().borrow())
            .finish()
    }
}
