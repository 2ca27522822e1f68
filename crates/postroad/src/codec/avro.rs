use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, error, numbers};
use crate::error::CodecError;

/// Avro: one datum of a schema that both ends know, without the file header.
#[derive(Clone, Debug)]
pub struct Avro(Schema);

impl Avro {
    /// A codec of this schema, written in JSON as Avro's specification says.
    ///
    /// # Errors
    /// If it is no schema.
    pub fn new(schema: &str) -> Result<Self, CodecError> {
        Schema::parse_str(schema)
            .map(Self)
            .map_err(|detail| error("Avro", detail))
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Avro {
    fn number(&self) -> u8 {
        numbers::AVRO
    }

    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        let write = || {
            let value = apache_avro::to_value(value)?.resolve(&self.0)?;
            GenericDatumWriter::builder(&self.0)
                .build()?
                .write_value_to_vec(value)
        };
        write()
            .map(Bytes::from)
            .map_err(|detail| error("Avro", detail))
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        let mut rest: &[u8] = bytes;
        let read = |rest: &mut &[u8]| {
            let value = GenericDatumReader::builder(&self.0)
                .build()?
                .read_value(rest)?;
            apache_avro::from_value(&value)
        };
        let value = read(&mut rest).map_err(|detail| error("Avro", detail))?;
        if rest.is_empty() {
            Ok(value)
        } else {
            Err(error("Avro", "bytes follow the datum"))
        }
    }
}
