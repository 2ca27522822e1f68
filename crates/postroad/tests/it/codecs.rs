//! Every payload codec: what it writes it reads, and what it cannot read it says.

use bytes::Bytes;
use postroad::codec::{Codec, Json, MsgPack, PacketCodec, Raw};
use postroad::codec::{CodecError, Packet};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    sensor: String,
    value: f64,
    at: i64,
}

fn reading() -> Reading {
    Reading {
        sensor: "größe".to_owned(),
        value: 0.5,
        at: -7,
    }
}

/// Writes, reads back, and cuts the bytes at every place.
fn round_trip<T: PartialEq + std::fmt::Debug, C: Codec<T>>(codec: &C, value: &T) -> usize {
    let bytes = codec.encode(value).expect("it can be written");
    assert_eq!(&codec.decode(&bytes).expect("it can be read"), value);
    let mut refused = 0;
    for end in 0..bytes.len() {
        refused += usize::from(codec.decode(&bytes.slice(..end)).is_err());
    }
    refused
}

#[test]
fn self_describing_codecs_round_trip_and_refuse_every_cut() {
    let json = Codec::<Reading>::encode(&Json(()), &reading()).expect("it can be written");
    assert_eq!(round_trip(&Json(()), &reading()), json.len());
    let packed = Codec::<Reading>::encode(&MsgPack(()), &reading()).expect("it can be written");
    assert_eq!(round_trip(&MsgPack(()), &reading()), packed.len());
    let packet = Packet {
        id: -1,
        timestamp: i64::MAX,
        payload: Bytes::from_static(b"abc"),
    };
    assert_eq!(round_trip(&PacketCodec, &packet), 19);
    assert_eq!(round_trip(&Raw, &Bytes::from_static(b"x")), 0);
}

#[test]
fn trailing_bytes_are_refused_with_their_place() {
    let mut packed = Codec::<u8>::encode(&MsgPack(()), &5)
        .expect("it can be written")
        .to_vec();
    packed.push(0);
    let error: Result<u8, CodecError> = MsgPack(()).decode(&packed.into());
    assert!(
        error
            .expect_err("one byte too many")
            .to_string()
            .contains("at byte 1")
    );
    let error: Result<u8, CodecError> = Json(()).decode(&Bytes::from_static(b"5 6"));
    assert!(
        error
            .expect_err("two values")
            .to_string()
            .contains("column 3")
    );
}

#[cfg(feature = "protobuf")]
#[test]
fn protobuf_round_trips() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Message {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(int64, tag = "2")]
        number: i64,
    }
    let message = Message {
        name: "x".repeat(300),
        number: -1,
    };
    round_trip(&postroad::codec::Protobuf(()), &message);
    let wrong: Result<Message, _> =
        postroad::codec::Protobuf(()).decode(&Bytes::from_static(b"\x0a\xff"));
    assert!(wrong.is_err());
}

#[cfg(feature = "avro")]
#[test]
fn avro_round_trips_by_its_schema_and_refuses_every_cut() {
    let schema = r#"{"type": "record", "name": "Reading", "fields": [
        {"name": "sensor", "type": "string"},
        {"name": "value", "type": "double"},
        {"name": "at", "type": "long"}]}"#;
    let avro = postroad::codec::Avro::new(schema).expect("it is a schema");
    let bytes = avro.encode(&reading()).expect("it can be written");
    assert_eq!(round_trip(&avro, &reading()), bytes.len());
    assert!(postroad::codec::Avro::new("{\"type\": \"no such\"}").is_err());
    let wrong: Result<Bytes, _> = avro.encode(&17_i32);
    assert!(wrong.is_err(), "not what the schema says");
}

#[cfg(feature = "avro")]
#[test]
fn an_avro_schema_has_to_bound_what_a_peer_can_say() {
    let record = |fields: &str| {
        let schema = format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#);
        postroad::codec::Avro::new(&schema).map_err(|error| error.to_string())
    };
    let item = r#"{"name": "i", "type": {"type": "array", "items": "#;
    let fixed = r#"{"type": "fixed", "name": "F", "size": 0}"#;
    let empty = r#"{"type": "record", "name": "E", "fields": [{"name": "n", "type": "null"}]}"#;
    for items in [r#""null""#, fixed, empty] {
        let error = record(&format!("{item}{items}}}}}")).expect_err("nothing, very often");
        assert!(error.contains("take no bytes"), "{error}");
    }
    for next in [r#"["null", "R"]"#, r#"{"type": "map", "values": "R"}"#] {
        let field = format!(r#"{{"name": "next", "type": {next}}}"#);
        let error = record(&field).expect_err("as deep as a peer says");
        assert!(error.contains("part of itself"), "{error}");
    }
    // The same record twice, one beside the other, is no circle.
    let one = r#"{"type": "record", "name": "P", "fields": [{"name": "x", "type": "int"}]}"#;
    let twice = format!(r#"{{"name": "a", "type": {one}}}, {{"name": "b", "type": "P"}}"#);
    record(&twice).expect("it has a bound");
}
