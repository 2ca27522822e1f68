//! Payload codecs: how a value becomes bytes. A new one is one implementation of [`Codec`].

#[cfg(feature = "avro")]
mod avro;
pub(crate) mod json;
pub(crate) mod msgpack;
#[cfg(feature = "protobuf")]
mod protobuf;
mod raw;

use bytes::Bytes;

#[cfg(feature = "avro")]
pub use avro::Avro;
pub use json::Json;
pub use msgpack::MsgPack;
pub use postroad_proto::dialect::Packet;
#[cfg(feature = "protobuf")]
pub use protobuf::Protobuf;
pub use raw::{PacketCodec, Raw};

pub use crate::error::CodecError;

/// Numbers of codecs on the wire; 8 to 15 are the application's.
pub mod numbers {
    /// Bytes as they are.
    pub const RAW: u8 = 0;
    /// JSON.
    pub const JSON: u8 = 1;
    /// MessagePack.
    pub const MSGPACK: u8 = 2;
    /// Protobuf.
    pub const PROTOBUF: u8 = 3;
    /// Avro, one datum without a header.
    pub const AVRO: u8 = 4;
    /// `packet`: id, timestamp, bytes.
    pub const PACKET: u8 = 5;
}

/// Writes and reads values of type `T`.
///
/// A codec is a value, because some need one: Avro has a schema. Those that do not are unit
/// structs.
pub trait Codec<T> {
    /// The number on the wire; see [`numbers`].
    fn number(&self) -> u8;

    /// Writes a value.
    ///
    /// # Errors
    /// If this codec has no form for it.
    fn encode(&self, value: &T) -> Result<Bytes, CodecError>;

    /// Reads a value that fills `bytes` exactly.
    ///
    /// # Errors
    /// What is wrong, and where if the codec knows.
    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError>;
}

fn error(codec: &'static str, detail: impl ToString) -> CodecError {
    CodecError {
        codec,
        detail: detail.to_string(),
    }
}
