//! Envelopes: where a dialect's payload itself says which route it is for.

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::metadata::Metadata;

/// What wraps the payload of a dialect's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Envelope {
    /// `{"topic": "user/login", "data": ...}` or `"method"` instead of `"topic"`; also
    /// `"metadata"`.
    Json,
    /// A map `{"type": u8, "data": bin}`; the type is looked up in the code table.
    MsgPack,
    /// A varint length, a `RequestHeader`, the body.
    Protobuf,
    /// `i32 id, i64 timestamp in ms, i32 length, bytes`; says no route.
    Packet,
}

/// An opened envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The route it names.
    pub target: Target,
    /// What it says about the call; empty where an envelope has no room for it.
    pub metadata: Metadata,
    /// What was inside.
    pub payload: Bytes,
    /// How the answer has to be wrapped.
    pub reply: ReplyFrame,
}

/// What an envelope says about the route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its name.
    Name(String),
    /// A number for the code table.
    Code(u8),
    /// Nothing: the listener's fixed route.
    Unsaid,
}

/// How an answer is wrapped: the envelopes describe questions, and only `packet` frames its answers
/// too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyFrame {
    /// The handler's payload as it is.
    #[default]
    Bare,
    /// A packet with the question's id and timestamp.
    Packet {
        /// The question's id.
        id: i32,
        /// The question's timestamp, milliseconds.
        timestamp: i64,
    },
}

impl ReplyFrame {
    /// Wraps an answer.
    #[must_use]
    pub fn wrap(self, payload: Bytes) -> Bytes {
        match self {
            Self::Bare => payload,
            Self::Packet { id, timestamp } => Packet {
                id,
                timestamp,
                payload,
            }
            .encode(),
        }
    }
}

/// A payload that is not the envelope it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {} envelope: {detail}", envelope.name())]
pub struct EnvelopeError {
    envelope: Envelope,
    detail: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct JsonEnvelope<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    method: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct MsgPackEnvelope<'a> {
    r#type: u8,
    #[serde(borrow)]
    data: &'a [u8],
}

#[derive(Clone, PartialEq, Message)]
struct RequestHeader {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    service: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: Metadata,
}

impl Envelope {
    /// The word in URLs and configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::MsgPack => "msgpack",
            Self::Protobuf => "protobuf",
            Self::Packet => "packet",
        }
    }

    /// The envelope of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Json, Self::MsgPack, Self::Protobuf, Self::Packet]
            .into_iter()
            .find(|envelope| envelope.name() == name)
    }

    /// Opens a question's envelope.
    ///
    /// # Errors
    /// If the payload is not this envelope.
    pub fn open(self, payload: Bytes) -> Result<Opened, EnvelopeError> {
        let fail = |detail: String| EnvelopeError {
            envelope: self,
            detail,
        };
        let bare = |target, payload| Opened {
            target,
            metadata: Metadata::new(),
            payload,
            reply: ReplyFrame::Bare,
        };
        match self {
            Self::Json => {
                let whole: JsonEnvelope =
                    serde_json::from_slice(&payload).map_err(|error| fail(error.to_string()))?;
                let name = whole.topic.or(whole.method);
                let name = name.ok_or_else(|| fail("neither topic nor method".to_owned()))?;
                let data = whole.data.map_or("null", RawValue::get);
                let data = whole.data.map_or_else(
                    || Bytes::from_static(b"null"),
                    |_| payload.slice_ref(data.as_bytes()),
                );
                Ok(Opened {
                    metadata: whole.metadata,
                    ..bare(Target::Name(name.into_owned()), data)
                })
            }
            Self::MsgPack => {
                let whole: MsgPackEnvelope =
                    rmp_serde::from_slice(&payload).map_err(|error| fail(error.to_string()))?;
                Ok(bare(
                    Target::Code(whole.r#type),
                    payload.slice_ref(whole.data),
                ))
            }
            Self::Protobuf => {
                let mut rest = payload;
                let header = RequestHeader::decode_length_delimited(&mut rest)
                    .map_err(|error| fail(error.to_string()))?;
                Ok(Opened {
                    metadata: header.metadata,
                    ..bare(Target::Name(header.service), rest)
                })
            }
            Self::Packet => {
                let packet = Packet::decode(payload).map_err(fail)?;
                let reply = ReplyFrame::Packet {
                    id: packet.id,
                    timestamp: packet.timestamp,
                };
                Ok(Opened {
                    reply,
                    ..bare(Target::Unsaid, packet.payload)
                })
            }
        }
    }

    /// Whether there is room in it for metadata.
    #[must_use]
    pub fn has_metadata(self) -> bool {
        matches!(self, Self::Json | Self::Protobuf)
    }

    /// Wraps a question for this route. Metadata is left out where there is no room for it.
    ///
    /// # Errors
    /// If the payload cannot stand in this envelope: JSON data must be JSON.
    pub fn wrap(
        self,
        route: &str,
        code: u8,
        metadata: Metadata,
        payload: Bytes,
    ) -> Result<Bytes, EnvelopeError> {
        let fail = |detail: String| EnvelopeError {
            envelope: self,
            detail,
        };
        match self {
            Self::Json => {
                let data = if payload.is_empty() {
                    b"null"
                } else {
                    payload.as_ref()
                };
                let data: &RawValue =
                    serde_json::from_slice(data).map_err(|error| fail(error.to_string()))?;
                let name = Some(Cow::Borrowed(route));
                let (topic, method) = if route.contains('.') {
                    (None, name)
                } else {
                    (name, None)
                };
                let whole = JsonEnvelope {
                    topic,
                    method,
                    metadata,
                    data: Some(data),
                };
                let text = serde_json::to_vec(&whole).map_err(|error| fail(error.to_string()))?;
                Ok(text.into())
            }
            Self::MsgPack => Ok(wrap_msgpack(code, &payload)),
            Self::Protobuf => {
                let header = RequestHeader {
                    version: "1".to_owned(),
                    service: route.to_owned(),
                    metadata,
                };
                let mut out = BytesMut::from(header.encode_length_delimited_to_vec().as_slice());
                out.put_slice(&payload);
                Ok(out.freeze())
            }
            Self::Packet => Ok(Packet {
                id: 0,
                timestamp: 0,
                payload,
            }
            .encode()),
        }
    }
}

/// A map of two entries, written by hand because serde would write the bytes as an array.
fn wrap_msgpack(code: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 24);
    out.put_u8(0x82);
    out.put_slice(b"\xa4type\xcc");
    out.put_u8(code);
    out.put_slice(b"\xa4data\xc6");
    out.put_u32(payload.len() as u32);
    out.put_slice(payload);
    out.freeze()
}

/// The `packet` codec and envelope: id, time, bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The sender's number.
    pub id: i32,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// What it carries.
    pub payload: Bytes,
}

impl Packet {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(16 + self.payload.len());
        out.put_i32(self.id);
        out.put_i64(self.timestamp);
        out.put_i32(i32::try_from(self.payload.len()).unwrap_or(i32::MAX));
        out.put_slice(&self.payload);
        out.freeze()
    }

    /// Reads a packet that fills `bytes` exactly.
    ///
    /// # Errors
    /// In words, if it does not.
    pub fn decode(mut bytes: Bytes) -> Result<Self, String> {
        if bytes.len() < 16 {
            return Err(format!("{} bytes, a packet has at least 16", bytes.len()));
        }
        let (id, timestamp, len) = (bytes.get_i32(), bytes.get_i64(), bytes.get_i32());
        if usize::try_from(len) != Ok(bytes.len()) {
            return Err(format!("length {len}, but {} bytes follow", bytes.len()));
        }
        Ok(Self {
            id,
            timestamp,
            payload: bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_envelope_opens_what_it_wrapped() {
        let payload = Bytes::from_static(b"{\"a\":1}");
        let target = |envelope: Envelope| match envelope {
            Envelope::Json | Envelope::Protobuf => Target::Name("user/login".to_owned()),
            Envelope::MsgPack => Target::Code(7),
            Envelope::Packet => Target::Unsaid,
        };
        for envelope in [
            Envelope::Json,
            Envelope::MsgPack,
            Envelope::Protobuf,
            Envelope::Packet,
        ] {
            let metadata = Metadata::from([("tenant".to_owned(), "acme".to_owned())]);
            let wrapped = envelope.wrap("user/login", 7, metadata.clone(), payload.clone());
            let wrapped = wrapped.unwrap();
            let opened = envelope.open(wrapped.clone()).unwrap();
            let kept = match envelope.has_metadata() {
                true => metadata,
                false => Metadata::new(),
            };
            assert_eq!(opened.metadata, kept);
            assert_eq!(
                (&opened.target, &opened.payload),
                (&target(envelope), &payload)
            );
            for end in 0..wrapped.len() - payload.len() {
                let torn = envelope.open(wrapped.slice(..end));
                assert!(torn.is_err(), "{} cut at {end}: {torn:?}", envelope.name());
            }
        }
    }

    #[test]
    fn a_json_envelope_takes_method_for_topic_and_null_for_missing_data() {
        let opened = Envelope::Json
            .open(Bytes::from_static(b"{\"method\":\"A.b\"}"))
            .unwrap();
        assert_eq!(opened.target, Target::Name("A.b".to_owned()));
        assert_eq!(opened.payload, "null");
    }
}
