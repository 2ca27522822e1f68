//! A server for devices that speak a dialect, and a client of plain TCP, as a device would be:
//! `cargo run -p postroad --example dialect_server`.

use postroad::{Bytes, CallContext, Client, Router, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers the command 0x17 of `session`; docs/dialects.md says how commands find their routes.
async fn status(body: Bytes) -> String {
    format!("{} is well", String::from_utf8_lossy(&body))
}

/// A route by name: the envelope of the second listener says it.
async fn login(cx: CallContext, body: Bytes) -> String {
    let tenant = cx.metadata("tenant").unwrap_or_default();
    format!(
        "{} of {}",
        String::from_utf8_lossy(&body),
        String::from_utf8_lossy(&tenant)
    )
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let router = Router::new()
        .command(0x17, status)
        .route("line", async |line: String| line.to_uppercase())
        .route("user/login", login);
    let server = Server::new(router)
        .listen("tcp+session://127.0.0.1:0".parse()?)
        .listen("tcp+line://127.0.0.1:0?route=line".parse()?)
        .listen("tcp+sequence://127.0.0.1:0?envelope=protobuf".parse()?)
        .start()
        .await?;
    let [session, line, sequence] = server.addresses() else {
        return Err("three listeners were asked for".into());
    };

    // The library dials dialects too, and finds the command by the name of its route.
    let device = Client::connect(&format!("tcp+session://{session}")).await?;
    let status = device.request("command/0x17").call_raw("pump 3").await?;
    println!("session: {}", String::from_utf8_lossy(&status));
    assert_eq!(status, "pump 3 is well");

    // A device knows nothing of the library.
    let mut device = TcpStream::connect(line).await?;
    device.write_all(b"hello\n").await?;
    let mut answer = [0; 11];
    device.read_exact(&mut answer).await?;
    println!("line: {:?}", String::from_utf8_lossy(&answer));
    assert_eq!(&answer, b"ACK: HELLO\n");

    // An envelope has room for metadata, a deadline and a trace.
    let url = format!("tcp+sequence://{sequence}?envelope=protobuf");
    let client = Client::connect(&url).await?;
    let request = client.request("user/login").metadata("tenant", "acme");
    let greeting = request.call_raw("Ada").await?;
    println!("sequence: {}", String::from_utf8_lossy(&greeting));
    assert_eq!(greeting, "Ada of acme");
    server.shutdown().await;
    Ok(())
}
