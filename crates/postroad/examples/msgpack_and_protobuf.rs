//! Values that are not JSON: MessagePack for a whole client, Protobuf for a call.
//! `cargo run -p postroad --features protobuf --example msgpack_and_protobuf`.

use postroad::codec::Protobuf;
use postroad::extract::Payload;
use postroad::{Client, Router, Server};
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Reading {
    sensor: String,
    value: f64,
}

/// The same, as a Protobuf message.
#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(string, tag = "1")]
    sensor: String,
    #[prost(double, tag = "2")]
    value: f64,
}

/// Reads JSON and MessagePack, whichever comes, and answers in the same.
async fn doubled(reading: Payload<Reading>) -> Payload<Reading> {
    let value = reading.value.value * 2.0;
    let sensor = reading.value.sensor.clone();
    reading.reply(Reading { sensor, value })
}

async fn doubled_sample(Protobuf(sample): Protobuf<Sample>) -> Protobuf<Sample> {
    let value = sample.value * 2.0;
    Protobuf(Sample { value, ..sample })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let router = Router::new()
        .route("doubled", doubled)
        .route("sample", doubled_sample);
    let server = Server::new(router)
        .listen("tcp://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let json = Client::connect(&format!("tcp://{}", server.addresses()[0])).await?;
    // The same connection, with another codec.
    let msgpack = json.clone().with_msgpack();

    let reading = || Reading {
        sensor: "north".to_owned(),
        value: 1.5,
    };
    for client in [&json, &msgpack] {
        let doubled: Reading = client.call("doubled", &reading()).await?;
        println!("doubled: {doubled:?}");
        assert_eq!(doubled.value, 3.0);
    }

    let sample = Sample {
        sensor: "south".to_owned(),
        value: 20.0,
    };
    let request = json.request("sample");
    let sample: Sample = request.call_with(&Protobuf::default(), &sample).await?;
    println!("by Protobuf: {sample:?}");
    assert_eq!(sample.value, 40.0);
    server.shutdown().await;
    Ok(())
}
