//! The values that every codec writes and reads.

use postroad::Bytes;
use postroad::codec::Packet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A value with a form in every codec. Each has an id and a time, because a `packet` has.
pub(crate) trait Sample:
    Clone + PartialEq + Serialize + DeserializeOwned + Message + 'static
{
    const NAME: &'static str;
    /// Avro's schema.
    #[cfg_attr(not(feature = "avro"), allow(dead_code))]
    const SCHEMA: &'static str;

    fn sample() -> Self;

    /// The other fields one after another, big-endian, as devices lay them out.
    fn to_packet(&self) -> Packet;

    fn from_packet(packet: &Packet) -> Option<Self>;
}

#[cfg(feature = "protobuf")]
pub(crate) use with_protobuf::Message;
#[cfg(not(feature = "protobuf"))]
pub(crate) use without_protobuf::Message;

#[cfg(feature = "protobuf")]
mod with_protobuf {
    /// What Protobuf asks of a type.
    pub(crate) trait Message: prost::Message + Default {}
    impl<T: prost::Message + Default> Message for T {}
}

#[cfg(not(feature = "protobuf"))]
mod without_protobuf {
    /// Nothing is asked of a type.
    pub(crate) trait Message {}
    impl<T> Message for T {}
}

/// A small request.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "protobuf", derive(prost::Message))]
pub(crate) struct Call {
    #[cfg_attr(feature = "protobuf", prost(int32, tag = "1"))]
    id: i32,
    #[cfg_attr(feature = "protobuf", prost(int64, tag = "2"))]
    at: i64,
    #[cfg_attr(feature = "protobuf", prost(string, tag = "3"))]
    item: String,
    #[cfg_attr(feature = "protobuf", prost(int32, tag = "4"))]
    count: i32,
}

impl Sample for Call {
    const NAME: &'static str = "small call";
    const SCHEMA: &'static str = r#"{"type": "record", "name": "Call", "fields": [
        {"name": "id", "type": "int"}, {"name": "at", "type": "long"},
        {"name": "item", "type": "string"}, {"name": "count", "type": "int"}]}"#;

    fn sample() -> Self {
        Self {
            id: 4_711,
            at: AT,
            item: "A-100-77".to_owned(),
            count: 3,
        }
    }

    fn to_packet(&self) -> Packet {
        let mut out = Vec::with_capacity(4 + self.item.len());
        out.extend(self.count.to_be_bytes());
        out.extend(self.item.as_bytes());
        packet(self.id, self.at, out)
    }

    fn from_packet(packet: &Packet) -> Option<Self> {
        let mut rest = Rest(&packet.payload);
        Some(Self {
            id: packet.id,
            at: packet.timestamp,
            count: i32::from_be_bytes(rest.take()?),
            item: rest.text(rest.0.len())?,
        })
    }
}

/// A price of a market.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "protobuf", derive(prost::Message))]
pub(crate) struct Tick {
    #[cfg_attr(feature = "protobuf", prost(int32, tag = "1"))]
    id: i32,
    #[cfg_attr(feature = "protobuf", prost(int64, tag = "2"))]
    at: i64,
    #[cfg_attr(feature = "protobuf", prost(string, tag = "3"))]
    symbol: String,
    #[cfg_attr(feature = "protobuf", prost(double, tag = "4"))]
    bid: f64,
    #[cfg_attr(feature = "protobuf", prost(double, tag = "5"))]
    ask: f64,
    #[cfg_attr(feature = "protobuf", prost(int64, tag = "6"))]
    bid_size: i64,
    #[cfg_attr(feature = "protobuf", prost(int64, tag = "7"))]
    ask_size: i64,
}

impl Sample for Tick {
    const NAME: &'static str = "market tick";
    const SCHEMA: &'static str = r#"{"type": "record", "name": "Tick", "fields": [
        {"name": "id", "type": "int"}, {"name": "at", "type": "long"},
        {"name": "symbol", "type": "string"}, {"name": "bid", "type": "double"},
        {"name": "ask", "type": "double"}, {"name": "bid_size", "type": "long"},
        {"name": "ask_size", "type": "long"}]}"#;

    fn sample() -> Self {
        Self {
            id: 9_001,
            at: AT,
            symbol: "EURUSD".to_owned(),
            bid: 1.08423,
            ask: 1.08427,
            bid_size: 1_500_000,
            ask_size: 2_000_000,
        }
    }

    fn to_packet(&self) -> Packet {
        let mut out = Vec::with_capacity(32 + self.symbol.len());
        out.extend(self.bid.to_be_bytes());
        out.extend(self.ask.to_be_bytes());
        out.extend(self.bid_size.to_be_bytes());
        out.extend(self.ask_size.to_be_bytes());
        out.extend(self.symbol.as_bytes());
        packet(self.id, self.at, out)
    }

    fn from_packet(packet: &Packet) -> Option<Self> {
        let mut rest = Rest(&packet.payload);
        Some(Self {
            id: packet.id,
            at: packet.timestamp,
            bid: f64::from_be_bytes(rest.take()?),
            ask: f64::from_be_bytes(rest.take()?),
            bid_size: i64::from_be_bytes(rest.take()?),
            ask_size: i64::from_be_bytes(rest.take()?),
            symbol: rest.text(rest.0.len())?,
        })
    }
}

/// What a sensor measured in a minute.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "protobuf", derive(prost::Message))]
pub(crate) struct Reading {
    #[cfg_attr(feature = "protobuf", prost(int32, tag = "1"))]
    id: i32,
    #[cfg_attr(feature = "protobuf", prost(int64, tag = "2"))]
    at: i64,
    #[cfg_attr(feature = "protobuf", prost(string, tag = "3"))]
    unit: String,
    #[cfg_attr(feature = "protobuf", prost(double, repeated, tag = "4"))]
    samples: Vec<f64>,
}

impl Sample for Reading {
    const NAME: &'static str = "sensor reading, 60 samples";
    const SCHEMA: &'static str = r#"{"type": "record", "name": "Reading", "fields": [
        {"name": "id", "type": "int"}, {"name": "at", "type": "long"},
        {"name": "unit", "type": "string"},
        {"name": "samples", "type": {"type": "array", "items": "double"}}]}"#;

    fn sample() -> Self {
        Self {
            id: 12,
            at: AT,
            unit: "hPa".to_owned(),
            samples: (0..60)
                .map(|i| f64::from(101_325 + 7 * i) / 100.0)
                .collect(),
        }
    }

    fn to_packet(&self) -> Packet {
        let mut out = Vec::with_capacity(1 + self.unit.len() + 8 * self.samples.len());
        out.push(self.unit.len() as u8);
        out.extend(self.unit.as_bytes());
        out.extend(self.samples.iter().flat_map(|sample| sample.to_be_bytes()));
        packet(self.id, self.at, out)
    }

    fn from_packet(packet: &Packet) -> Option<Self> {
        let mut rest = Rest(&packet.payload);
        let [length] = rest.take()?;
        let unit = rest.text(usize::from(length))?;
        let mut samples = Vec::with_capacity(rest.0.len() / 8);
        while !rest.0.is_empty() {
            samples.push(f64::from_be_bytes(rest.take()?));
        }
        Some(Self {
            id: packet.id,
            at: packet.timestamp,
            unit,
            samples,
        })
    }
}

/// A text of 4 KiB.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "protobuf", derive(prost::Message))]
pub(crate) struct Document {
    #[cfg_attr(feature = "protobuf", prost(int32, tag = "1"))]
    id: i32,
    #[cfg_attr(feature = "protobuf", prost(int64, tag = "2"))]
    at: i64,
    #[cfg_attr(feature = "protobuf", prost(string, tag = "3"))]
    text: String,
}

impl Sample for Document {
    const NAME: &'static str = "document, 4 KiB of text";
    const SCHEMA: &'static str = r#"{"type": "record", "name": "Document", "fields": [
        {"name": "id", "type": "int"}, {"name": "at", "type": "long"},
        {"name": "text", "type": "string"}]}"#;

    fn sample() -> Self {
        // Line ends and quotes, as text has them: JSON has to escape both.
        let line = "The relay said \"closed\" at 07:00, and the pump ran until it was opened.\n";
        let mut text = line.repeat(4096_usize.div_ceil(line.len()));
        text.truncate(4096);
        Self {
            id: 7,
            at: AT,
            text,
        }
    }

    fn to_packet(&self) -> Packet {
        packet(self.id, self.at, self.text.as_bytes().to_vec())
    }

    fn from_packet(packet: &Packet) -> Option<Self> {
        let mut rest = Rest(&packet.payload);
        Some(Self {
            id: packet.id,
            at: packet.timestamp,
            text: rest.text(rest.0.len())?,
        })
    }
}

/// A time of today's size, milliseconds since 1970: its digits and bytes count in a payload.
const AT: i64 = 1_790_000_000_123;

fn packet(id: i32, timestamp: i64, fields: Vec<u8>) -> Packet {
    Packet {
        id,
        timestamp,
        payload: Bytes::from(fields),
    }
}

/// Bytes that have not been read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(taken).ok().map(str::to_owned)
    }
}
