use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, error, numbers};
use crate::error::CodecError;

/// JSON by serde. As an extractor and an answer, `Json(value)`; as a codec, `Json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T = ()>(pub T);

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn number(&self) -> u8 {
        numbers::JSON
    }

    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        write(value)
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        read(bytes)
    }
}

pub(crate) fn write(value: &impl Serialize) -> Result<Bytes, CodecError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|detail| error("JSON", detail))
}

pub(crate) fn read<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, CodecError> {
    serde_json::from_slice(bytes).map_err(|detail| error("JSON", detail))
}
