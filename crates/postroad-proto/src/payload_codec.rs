//! Numbers of payload codecs: what is in a payload. The table is in `docs/protocol.md`, section 2.
//!
//! The core carries these numbers and never looks at a payload.

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
/// The first of those that an application may define for itself, up to 15.
pub const FIRST_FREE: u8 = 8;
