//! What a handler can ask for, and what it can answer with.

mod circumstances;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postroad_proto::Time;
use postroad_proto::dialect::Packet;
use postroad_proto::frame::{PartTag, put_part};
use postroad_proto::session::Extras;
pub use postroad_proto::session::Reply;
use postroad_proto::trace::Trace;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::caller::Caller;
#[cfg(feature = "protobuf")]
use crate::codec::Protobuf;
use crate::codec::{Json, MsgPack, json, msgpack, numbers};
pub(crate) use crate::context::Origin;
use crate::context::{CallContext, Identity as Known, Inherited, metadata_pairs};
pub use crate::error::ErrorCode;
use crate::error::{CodecError, Error};
use crate::transport::PeerInfo;
pub use circumstances::{Deadline, Identity, Peer};

/// The priority of a request that says none.
const PRIORITY: u8 = 3;

/// Payloads up to this size, bytes, may be slices of a read buffer.
const SLICE_MAX: usize = 64 * 1024;

/// A request as a handler's extractors see it.
///
/// One that comes by a connection is made by the server. One that does not is made by
/// [`Self::to`].
#[derive(Clone)]
pub struct Request {
    pub(crate) origin: Arc<Origin>,
    /// The payload.
    pub payload: Bytes,
    /// Its codec; see [`crate::codec::numbers`].
    pub codec: u8,
    /// 0 is the first attempt.
    pub attempt: u8,
    pub(crate) no_retry: bool,
    pub(crate) priority: u8,
    pub(crate) deadline: Time,
    pub(crate) extras: Option<Box<Extras>>,
    /// Who a hook has found the caller to be.
    pub(crate) identity: Option<Known>,
    /// Whether the program asks itself, so that no rule is about it.
    pub(crate) is_of_server: bool,
}

impl Request {
    /// An empty one, to be filled by [`Self::fill`].
    pub(crate) fn new(origin: Arc<Origin>) -> Self {
        Self {
            origin,
            payload: Bytes::new(),
            codec: 0,
            attempt: 0,
            no_retry: false,
            priority: 0,
            deadline: Time::NEVER,
            extras: None,
            identity: None,
            is_of_server: false,
        }
    }

    /// A request that comes by no connection, for [`Routes::call`](crate::Routes::call): without
    /// deadline, with codec JSON and priority 3.
    #[must_use]
    pub fn to(route: &str, payload: impl Into<Bytes>) -> Self {
        let origin = Origin {
            route: route.into(),
            peer: Arc::new(PeerInfo::named("local")),
            protocol: "local",
            caller: Caller::anonymous(),
        };
        Self {
            payload: payload.into(),
            codec: numbers::JSON,
            priority: PRIORITY,
            is_of_server: true,
            ..Self::new(Arc::new(origin))
        }
    }

    /// Says which codec its payload has; see [`crate::codec::numbers`].
    #[must_use]
    pub fn with_codec(mut self, codec: u8) -> Self {
        self.codec = codec;
        self
    }

    /// Says how urgent it is: 0 to 7, 7 most urgent; above 7 is 7.
    #[must_use]
    pub fn with_priority(mut self, priority: u8) -> Self {
        self.priority = priority.min(7);
        self
    }

    /// Says how long its caller waits from now on.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.deadline = crate::clock::now() + timeout;
        self
    }

    /// Says which trace it belongs to.
    #[must_use]
    pub fn with_trace(mut self, trace: Trace) -> Self {
        self.extras.get_or_insert_default().trace = Some(trace);
        self
    }

    /// Says who has sent it, and by which protocol: what a gateway knows of its own client.
    #[must_use]
    pub fn with_peer(mut self, peer: Arc<PeerInfo>, protocol: &'static str) -> Self {
        self.origin = Arc::new(Origin {
            route: Arc::clone(&self.origin.route),
            caller: peer.caller(),
            peer,
            protocol,
        });
        self.is_of_server = false;
        self
    }

    /// Says who calls: what a gateway has found out of its own client. The rules of the server say
    /// what it may call, as they do of whoever comes by a connection.
    #[must_use]
    pub fn with_caller(mut self, caller: Caller) -> Self {
        self.origin = Arc::new(Origin {
            route: Arc::clone(&self.origin.route),
            peer: Arc::clone(&self.origin.peer),
            protocol: self.origin.protocol,
            caller,
        });
        self.is_of_server = false;
        self
    }

    /// Adds a key and its value to its metadata.
    ///
    /// # Errors
    /// `SRV-E-400` if the key is over 255 bytes, or both are over 65,534 together.
    pub fn with_metadata(mut self, key: &str, value: &[u8]) -> Result<Self, Error> {
        // As on the wire: one byte of length and the key, then the value.
        let (Ok(len), true) = (u8::try_from(key.len()), key.len() + value.len() < 65_535) else {
            let text = "metadata: a key has at most 255 bytes, with its value at most 65,534";
            return Err(Error::bad_request(text));
        };
        let extras = self.extras.get_or_insert_default();
        let mut parts = BytesMut::from(&extras.parts[..]);
        let pair = [&[len], key.as_bytes(), value].concat();
        put_part(&mut parts, PartTag::Metadata as u8, &pair);
        extras.parts = parts.freeze();
        Ok(self)
    }

    /// Says that it goes to another route than it has asked for: a version.
    pub(crate) fn go_to(&mut self, route: &str) {
        self.origin = Arc::new(Origin {
            route: route.into(),
            peer: Arc::clone(&self.origin.peer),
            protocol: self.origin.protocol,
            caller: self.origin.caller.clone(),
        });
    }

    /// Takes what has arrived. The same request is filled again and again, so that what is moved is
    /// little.
    #[inline]
    pub(crate) fn fill(&mut self, arrived: &mut postroad_proto::session::Request) {
        self.payload = std::mem::take(&mut arrived.payload);
        self.codec = arrived.codec;
        self.attempt = arrived.attempt;
        self.no_retry = arrived.no_retry;
        self.priority = arrived.priority;
        self.deadline = arrived.deadline;
        self.extras = arrived.extras.take();
    }

    /// Copies what was cut out of a read buffer, because the request has to wait and the slice
    /// would keep the whole buffer, which may be a thousand times as large. A payload of more than
    /// one read is a buffer of its own already.
    pub(crate) fn detach(&mut self) {
        if self.payload.len() <= SLICE_MAX {
            self.payload = Bytes::copy_from_slice(&self.payload);
        }
        if let Some(extras) = &mut self.extras {
            extras.parts = Bytes::copy_from_slice(&extras.parts);
        }
    }

    /// Gives back what no extractor has taken.
    #[inline]
    pub(crate) fn clear(&mut self) {
        // Also an empty one may hold the read buffer.
        self.payload = Bytes::new();
        self.extras = None;
        self.identity = None;
    }

    #[inline]
    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.extras.as_ref()?.trace.as_ref()
    }

    /// The route that it came by.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.origin.route
    }

    /// Who sent it. Its `Display` is the address, or user and process.
    #[must_use]
    pub fn peer(&self) -> &PeerInfo {
        &self.origin.peer
    }

    /// Who calls, as the server has found out by certificate and token.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.origin.caller
    }

    /// `native` or the dialect.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        self.origin.protocol
    }

    /// The circumstances.
    #[must_use]
    pub fn context(&self) -> CallContext {
        CallContext::new(
            self.inherited(),
            Arc::clone(&self.origin),
            self.parts().cloned().unwrap_or_default(),
            self.identity.clone(),
        )
    }

    /// What the handler's own calls inherit.
    #[inline]
    pub(crate) fn inherited(&self) -> Inherited {
        Inherited {
            deadline: self.deadline,
            priority: self.priority,
            no_retry: self.is_retry(),
            trace: self.trace().copied(),
        }
    }

    /// Whether it was sent again, or nobody may send it again. Its handler's own calls are not sent
    /// again then.
    #[inline]
    pub(crate) fn is_retry(&self) -> bool {
        self.attempt > 0 || self.no_retry
    }

    /// Whether the answer is of no use any more.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.deadline != Time::NEVER && self.deadline <= crate::clock::now()
    }

    /// The value of a metadata key.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<Bytes> {
        self.metadata_pairs()
            .find(|(found, _)| found == key)
            .map(|(_, value)| value)
    }

    fn metadata_pairs(&self) -> impl Iterator<Item = (String, Bytes)> {
        self.parts().into_iter().flat_map(metadata_pairs)
    }

    /// The parts of the frame that it came in, as they were sent.
    pub(crate) fn parts(&self) -> Option<&Bytes> {
        self.extras.as_ref().map(|extras| &extras.parts)
    }

    /// Says who the caller was found to be. Hooks do: handlers and methods of services then get it
    /// by [`Identity`], [`CallContext::identity`] or [`Self::identity`].
    pub fn set_identity<T: Send + Sync + 'static>(&mut self, identity: T) {
        self.identity = Some(Arc::new(identity));
    }

    /// Who the caller was found to be, if a hook has said so with a value of this type.
    #[must_use]
    pub fn identity<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.identity.as_ref()?.downcast_ref()
    }

    /// Draws a trace for it, if its caller has named none.
    pub(crate) fn draw_trace(&mut self, new: impl FnOnce() -> Trace) {
        let trace = &mut self.extras.get_or_insert_default().trace;
        trace.get_or_insert_with(new);
    }

    /// The request by value. What stays behind has lost its payload, but still tells whoever logs
    /// it which trace it belongs to.
    pub(crate) fn take(&mut self) -> Self {
        Self {
            origin: Arc::clone(&self.origin),
            payload: std::mem::take(&mut self.payload),
            extras: self.extras.clone(),
            identity: self.identity.take(),
            ..*self
        }
    }
}

impl fmt::Debug for Request {
    /// Without the metadata: what is debugged may end in a log, and tokens are among it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("route", &self.route())
            .field("peer", &self.peer())
            .field("protocol", &self.protocol())
            .field("payload_bytes", &self.payload.len())
            .field("codec", &self.codec)
            .field("attempt", &self.attempt)
            .field("priority", &self.priority)
            .field("trace", &self.trace())
            .finish_non_exhaustive()
    }
}

/// Something that can be taken out of a request: what a handler may have as an argument.
///
/// An extractor of your own, which works on every router:
///
/// ```
/// use postroad::extract::{FromRequest, Request};
/// use postroad::{Error, Router, code};
///
/// /// The tenant that a call says it is for.
/// struct Tenant(String);
///
/// impl<S> FromRequest<S> for Tenant {
///     fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
///         let missing = || Error::new(code!("SHP-E-401"), "the metadata names no tenant");
///         let tenant = request.metadata("tenant").ok_or_else(missing)?;
///         Ok(Self(String::from_utf8_lossy(&tenant).into_owned()))
///     }
/// }
///
/// let router = Router::new().route("who", async |Tenant(tenant): Tenant| tenant);
/// # let _ = router;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not something that a handler on a router with state `{S}` can ask for",
    label = "not an extractor",
    note = "a handler's arguments are extractors: `Json<T>`, `Payload<T>`, `MsgPack<T>`, \
            `State<S>` of the router's own state, `Metadata`, `Peer`, `Identity`, `Deadline`, \
            `CallContext`, `Request`, `Bytes`, \
            `String`, or a type that implements `FromRequest`; `T` implements `Deserialize`"
)]
pub trait FromRequest<S>: Sized {
    /// Takes it out of the request. It may take the payload or metadata away from extractors that
    /// come after it, but should leave them to these: most copy what they need.
    ///
    /// # Errors
    /// What the caller is answered if it cannot be: the handler does not run then.
    fn from_request(request: &mut Request, state: &S) -> Result<Self, Error>;

    /// The same as a handler's last extractor: what is left of the request nobody will ask for, so
    /// that it need not be copied.
    ///
    /// # Errors
    /// As [`Self::from_request`].
    #[inline]
    fn from_last(request: &mut Request, state: &S) -> Result<Self, Error> {
        Self::from_request(request, state)
    }
}

/// Something that a handler can answer with.
#[diagnostic::on_unimplemented(
    message = "a handler cannot answer with `{Self}`",
    label = "not an answer",
    note = "answers are `Json<T>`, `MsgPack<T>`, `Payload<T>` (in the request's codec), `Bytes`, \
            `String`, `&'static str`, `Reply`, `()`, and `Result<T, E>` of these whose error \
            converts into `postroad::Error`; wrap a value of your own in `Json`"
)]
pub trait IntoReply {
    /// The answer.
    ///
    /// # Errors
    /// The handler's own error, or that its value cannot be encoded.
    fn into_reply(self) -> Result<Reply, Error>;
}

/// The state that the router was made with.
#[derive(Clone, Copy, Debug, Default)]
pub struct State<S>(pub S);

/// A value in whichever codec the request has: JSON, MessagePack, or JSON where a dialect does not
/// say.
///
/// As an answer it needs the request's codec: [`Payload::reply`].
#[derive(Clone, Debug)]
pub struct Payload<T> {
    /// The value.
    pub value: T,
    codec: u8,
}

impl<T> Payload<T> {
    /// An answer in the codec of the request.
    pub fn reply<R>(&self, value: R) -> Payload<R> {
        Payload {
            value,
            codec: self.codec,
        }
    }
}

/// Keys and values that came with the request, in the order in which they were sent.
///
/// ```
/// use postroad::Router;
/// use postroad::extract::Metadata;
///
/// let router = Router::new().route("keys", async |Metadata(pairs): Metadata| {
///     let keys: Vec<String> = pairs.into_iter().map(|(key, _)| key).collect();
///     keys.join(", ")
/// });
/// # let _ = router;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(pub Vec<(String, Bytes)>);

fn unreadable(request: &Request, error: &CodecError) -> Error {
    Error::bad_request(format!(
        "route {}: the payload is not what it takes: {error}",
        request.route()
    ))
}

impl<S> FromRequest<S> for Request {
    fn from_request(request: &mut Self, _state: &S) -> Result<Self, Error> {
        Ok(request.clone())
    }

    #[inline]
    fn from_last(request: &mut Self, _state: &S) -> Result<Self, Error> {
        let payload = std::mem::take(&mut request.payload);
        Ok(Self {
            payload,
            ..request.clone()
        })
    }
}

impl<S: Clone> FromRequest<S> for State<S> {
    fn from_request(_request: &mut Request, state: &S) -> Result<Self, Error> {
        Ok(Self(state.clone()))
    }
}

impl<S> FromRequest<S> for CallContext {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        Ok(request.context())
    }
}

impl<S> FromRequest<S> for Metadata {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        Ok(Self(request.metadata_pairs().collect()))
    }
}

impl<S> FromRequest<S> for Peer {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        Ok(Self(Arc::clone(&request.origin.peer)))
    }
}

impl<S> FromRequest<S> for Bytes {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        Ok(request.payload.clone())
    }

    #[inline]
    fn from_last(request: &mut Request, _state: &S) -> Result<Self, Error> {
        Ok(std::mem::take(&mut request.payload))
    }
}

impl<S> FromRequest<S> for String {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        let text = std::str::from_utf8(&request.payload).map(str::to_owned);
        text.map_err(|detail| Error::bad_request(format!("the payload is not UTF-8: {detail}")))
    }
}

impl<S, T: DeserializeOwned> FromRequest<S> for Json<T> {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        json::read(&request.payload)
            .map(Json)
            .map_err(|error| unreadable(request, &error))
    }
}

impl<S, T: DeserializeOwned> FromRequest<S> for MsgPack<T> {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        msgpack::read(&request.payload)
            .map(MsgPack)
            .map_err(|error| unreadable(request, &error))
    }
}

impl<S, T: DeserializeOwned> FromRequest<S> for Payload<T> {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        let codec = if request.codec == numbers::RAW {
            numbers::JSON
        } else {
            request.codec
        };
        let value = match codec {
            // A person who calls a method without arguments sends nothing at all.
            numbers::JSON if matches!(request.payload.as_ref(), b"" | b"null") => {
                let null = json::read(&Bytes::from_static(b"null"));
                null.or_else(|_| json::read(&Bytes::from_static(b"{}")))
            }
            numbers::JSON => json::read(&request.payload),
            numbers::MSGPACK => msgpack::read(&request.payload),
            other => {
                let text = format!("codec {other}: this route takes JSON (1) and MessagePack (2)");
                return Err(Error::bad_request(text));
            }
        };
        let value = value.map_err(|error| unreadable(request, &error))?;
        Ok(Self { value, codec })
    }
}

impl<S> FromRequest<S> for Packet {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        Self::decode(request.payload.clone()).map_err(|detail| {
            let error = CodecError {
                codec: "packet",
                detail,
            };
            unreadable(request, &error)
        })
    }
}

#[cfg(feature = "protobuf")]
impl<S, T: prost::Message + Default> FromRequest<S> for Protobuf<T> {
    fn from_request(request: &mut Request, _state: &S) -> Result<Self, Error> {
        let message = T::decode(request.payload.clone());
        message.map(Protobuf).map_err(|detail| {
            let error = CodecError {
                codec: "Protobuf",
                detail: detail.to_string(),
            };
            unreadable(request, &error)
        })
    }
}

fn reply(codec: u8, payload: impl Into<Bytes>) -> Result<Reply, Error> {
    Ok(Reply {
        codec,
        payload: payload.into(),
    })
}

fn unwritable(error: &CodecError) -> Error {
    Error::internal(format!("the answer cannot be encoded: {error}"))
}

impl IntoReply for () {
    fn into_reply(self) -> Result<Reply, Error> {
        reply(numbers::RAW, Bytes::new())
    }
}

impl IntoReply for Reply {
    fn into_reply(self) -> Result<Reply, Error> {
        Ok(self)
    }
}

impl IntoReply for Bytes {
    fn into_reply(self) -> Result<Reply, Error> {
        reply(numbers::RAW, self)
    }
}

impl IntoReply for String {
    fn into_reply(self) -> Result<Reply, Error> {
        reply(numbers::RAW, self)
    }
}

impl IntoReply for &'static str {
    fn into_reply(self) -> Result<Reply, Error> {
        reply(numbers::RAW, self)
    }
}

impl IntoReply for Packet {
    fn into_reply(self) -> Result<Reply, Error> {
        reply(numbers::PACKET, self.encode())
    }
}

impl<T: Serialize> IntoReply for Json<T> {
    fn into_reply(self) -> Result<Reply, Error> {
        reply(
            numbers::JSON,
            json::write(&self.0).map_err(|error| unwritable(&error))?,
        )
    }
}

impl<T: Serialize> IntoReply for MsgPack<T> {
    fn into_reply(self) -> Result<Reply, Error> {
        reply(
            numbers::MSGPACK,
            msgpack::write(&self.0).map_err(|error| unwritable(&error))?,
        )
    }
}

impl<T: Serialize> IntoReply for Payload<T> {
    fn into_reply(self) -> Result<Reply, Error> {
        match self.codec {
            numbers::MSGPACK => MsgPack(self.value).into_reply(),
            _ => Json(self.value).into_reply(),
        }
    }
}

#[cfg(feature = "protobuf")]
impl<T: prost::Message> IntoReply for Protobuf<T> {
    fn into_reply(self) -> Result<Reply, Error> {
        reply(numbers::PROTOBUF, self.0.encode_to_vec())
    }
}

impl<T: IntoReply, E: Into<Error>> IntoReply for Result<T, E> {
    fn into_reply(self) -> Result<Reply, Error> {
        self.map_err(Into::into).and_then(IntoReply::into_reply)
    }
}
