use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, error, numbers};
use crate::error::CodecError;

/// MessagePack by serde, structs as maps, so that fields can be added. As an extractor and an
/// answer, `MsgPack(value)`; as a codec, `MsgPack`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsgPack<T = ()>(pub T);

impl<T: Serialize + DeserializeOwned> Codec<T> for MsgPack {
    fn number(&self) -> u8 {
        numbers::MSGPACK
    }

    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        write(value)
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        read(bytes)
    }
}

pub(crate) fn write(value: &impl Serialize) -> Result<Bytes, CodecError> {
    rmp_serde::to_vec_named(value)
        .map(Bytes::from)
        .map_err(|detail| error("MessagePack", detail))
}

pub(crate) fn read<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, CodecError> {
    let mut rest: &[u8] = bytes;
    let value = rmp_serde::from_read(&mut rest).map_err(|detail| error("MessagePack", detail))?;
    if rest.is_empty() {
        return Ok(value);
    }
    let at = bytes.len() - rest.len();
    Err(error(
        "MessagePack",
        format!("{} bytes follow the value at byte {at}", rest.len()),
    ))
}
