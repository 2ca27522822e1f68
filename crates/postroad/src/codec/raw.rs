use bytes::Bytes;
use postroad_proto::dialect::Packet;

use super::{Codec, error, numbers};
use crate::error::CodecError;

/// Bytes as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw;

impl Codec<Bytes> for Raw {
    fn number(&self) -> u8 {
        numbers::RAW
    }

    fn encode(&self, value: &Bytes) -> Result<Bytes, CodecError> {
        Ok(value.clone())
    }

    fn decode(&self, bytes: &Bytes) -> Result<Bytes, CodecError> {
        Ok(bytes.clone())
    }
}

/// `packet`: `i32 id, i64 timestamp in ms, i32 length, bytes`, big-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketCodec;

impl Codec<Packet> for PacketCodec {
    fn number(&self) -> u8 {
        numbers::PACKET
    }

    fn encode(&self, value: &Packet) -> Result<Bytes, CodecError> {
        Ok(value.encode())
    }

    fn decode(&self, bytes: &Bytes) -> Result<Packet, CodecError> {
        Packet::decode(bytes.clone()).map_err(|detail| error("packet", detail))
    }
}
