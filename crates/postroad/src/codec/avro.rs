use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::{Name, NamespaceRef};
use apache_avro::writer::datum::GenericDatumWriter;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, error, numbers};
use crate::error::CodecError;

/// Avro: one datum of a schema that both ends know, without the file header.
///
/// What a peer sends decides how much is made of it, so a schema has to bound that: it must not be
/// recursive, because each level would take stack and a peer says how many there are, and the items
/// of its arrays must take a byte at least, because a peer could say millions of them in five
/// bytes. An array of N items takes about 60 N bytes while it is decoded.
#[derive(Clone, Debug)]
pub struct Avro(Schema);

impl Avro {
    /// A codec of this schema, written in JSON as Avro's specification says.
    ///
    /// # Errors
    /// If it is no schema, or one that does not bound what a peer can say.
    pub fn new(schema: &str) -> Result<Self, CodecError> {
        let schema = Schema::parse_str(schema).map_err(|detail| error("Avro", detail))?;
        let checked = Bounds::default().takes_bytes(&schema, None);
        checked.map_err(|detail| error("Avro", detail))?;
        Ok(Self(schema))
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

/// Finds out whether a schema bounds the depth and the number of what is decoded.
#[derive(Default)]
struct Bounds {
    /// Records that the present one is a part of.
    enclosing: Vec<Name>,
    /// Records and fixed bytes that were looked at: whether their data take any bytes.
    known: HashMap<Name, bool>,
}

impl Bounds {
    /// Whether a datum of this schema takes any bytes.
    ///
    /// # Errors
    /// What in it has no bound.
    fn takes_bytes(
        &mut self,
        schema: &Schema,
        namespace: NamespaceRef<'_>,
    ) -> Result<bool, String> {
        match schema {
            Schema::Null => Ok(false),
            Schema::Fixed(fixed) => {
                let name = fixed.name.fully_qualified_name(namespace).into_owned();
                self.known.insert(name, fixed.size > 0);
                Ok(fixed.size > 0)
            }
            Schema::Array(array) => match self.takes_bytes(&array.items, namespace)? {
                true => Ok(true),
                false => Err("items of an array that take no bytes have no bound".to_owned()),
            },
            Schema::Map(map) => self.takes_bytes(&map.types, namespace).map(|_| true),
            Schema::Union(union) => {
                for variant in union.variants() {
                    self.takes_bytes(variant, namespace)?;
                }
                Ok(true)
            }
            Schema::Record(record) => {
                let name = record.name.fully_qualified_name(namespace).into_owned();
                self.enclosing.push(name.clone());
                let mut takes = false;
                for field in &record.fields {
                    takes |= self.takes_bytes(&field.schema, name.namespace())?;
                }
                self.enclosing.pop();
                self.known.insert(name, takes);
                Ok(takes)
            }
            Schema::Ref { name } => {
                let name = name.fully_qualified_name(namespace);
                if self.enclosing.contains(&name) {
                    return Err(format!(
                        "{name} is a part of itself, so its depth has no bound"
                    ));
                }
                // Names that are not here are those of enums.
                Ok(self.known.get(&*name).copied().unwrap_or(true))
            }
            _ => Ok(true),
        }
    }
}
