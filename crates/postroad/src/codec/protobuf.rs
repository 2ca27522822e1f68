use bytes::Bytes;
use prost::Message;

use super::{Codec, error, numbers};
use crate::error::CodecError;

/// Protobuf by prost. As an extractor and an answer, `Protobuf(message)`; as a codec, `Protobuf`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protobuf<T = ()>(pub T);

impl<T: Message + Default> Codec<T> for Protobuf {
    fn number(&self) -> u8 {
        numbers::PROTOBUF
    }

    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        Ok(value.encode_to_vec().into())
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        T::decode(bytes.clone()).map_err(|detail| error("Protobuf", detail))
    }
}
