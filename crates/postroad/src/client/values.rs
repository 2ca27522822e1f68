//! How the values of calls become bytes, and answers values again.

use bytes::Bytes;
use postroad_proto::session::Reply;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, Json, json, msgpack, numbers};
use crate::error::CallError;

/// What a client writes its values in, unless a call says otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) enum DefaultCodec {
    Json,
    MsgPack,
}

impl DefaultCodec {
    /// The codec's number, and the value's bytes.
    pub(super) fn encode<T>(self, value: &T) -> Result<(u8, Bytes), CallError>
    where
        T: Serialize + ?Sized,
    {
        Ok(match self {
            Self::Json => (numbers::JSON, json::write(&value)?),
            Self::MsgPack => (numbers::MSGPACK, msgpack::write(&value)?),
        })
    }
}

/// The number and bytes of a value in a codec.
pub(super) fn encode<T, C: Codec<T>>(codec: &C, value: &T) -> Result<(u8, Bytes), CallError> {
    Ok((codec.number(), codec.encode(value)?))
}

/// The value of an answer, in the codec that the answer itself names: a server may answer in
/// another than it was asked in.
pub(super) fn decode<R: DeserializeOwned>(reply: &Reply) -> Result<R, CallError> {
    Ok(match reply.codec {
        numbers::MSGPACK => msgpack::read(&reply.payload)?,
        // An empty answer is the unit value, which JSON writes as `null`.
        numbers::RAW if reply.payload.is_empty() => json::read(&Bytes::from_static(b"null"))?,
        _ => json::read(&reply.payload)?,
    })
}

/// JSON as text for those who have no types: `Null` for no payload.
pub(super) fn to_json(codec: u8, payload: &Bytes) -> Option<serde_json::Value> {
    match codec {
        numbers::JSON => Codec::<serde_json::Value>::decode(&Json::<()>(()), payload).ok(),
        numbers::MSGPACK => msgpack::read(payload).ok(),
        numbers::RAW if payload.is_empty() => Some(serde_json::Value::Null),
        _ => None,
    }
}
