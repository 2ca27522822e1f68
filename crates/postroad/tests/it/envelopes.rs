//! What an envelope says about a call besides its route: metadata, time and trace.

use std::time::Duration;

use postroad::extract::Metadata;
use postroad::{Bytes, CallContext, Client, Json, Router, Trace};
use tokio::sync::mpsc::{Sender, channel};

use crate::support::{Tested, serve};

const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Tells what a handler knows of its call.
async fn tell(cx: CallContext, Metadata(pairs): Metadata) -> Json<serde_json::Value> {
    let keys: Vec<String> = pairs.into_iter().map(|(key, _)| key).collect();
    let tenant = cx.metadata("tenant").unwrap_or_default();
    Json(serde_json::json!({
        "keys": keys,
        "tenant": String::from_utf8_lossy(&tenant),
        "millis": cx.time_left().map(|left| left.as_millis() as u64),
        "trace": cx.trace().map(|trace| trace.to_string()),
    }))
}

#[tokio::test(start_paused = true)]
async fn metadata_time_and_trace_reach_the_handler_in_envelopes_with_room_for_them() -> Tested {
    for dialect in ["sequence", "session", "compact", "priority", "line"] {
        for envelope in ["json", "protobuf"] {
            if (dialect, envelope) == ("line", "protobuf") {
                continue; // A line is text.
            }
            let url = format!("mem+{dialect}://envelope-{dialect}?envelope={envelope}");
            let server = serve(&url, Router::new().route("tell", tell)).await?;
            let client = Client::connect(&url).await?;
            let request = client.request("tell").timeout(Duration::from_secs(60));
            let request = request.metadata("tenant", "acme");
            let answer = request
                .trace(HEADER.parse::<Trace>()?)
                .call_raw("{}")
                .await?;
            let told: serde_json::Value = serde_json::from_slice(&answer)?;
            assert_eq!(told["tenant"], "acme", "{url}");
            assert_eq!(told["keys"], serde_json::json!(["tenant"]), "{url}");
            assert_eq!(told["trace"], "4bf92f3577b34da6a3ce929d0e0e4736", "{url}");
            let millis = told["millis"].as_u64().ok_or("it has a deadline")?;
            assert!((59_000..=60_000).contains(&millis), "{url}: {millis}");
            server.shutdown().await;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_call_in_json_that_has_nothing_to_say_has_no_metadata() -> Tested {
    // Without an envelope at the server the whole payload comes back.
    let _server = serve("mem+sequence://envelope-bare", Router::new()).await?;
    let client = Client::connect("mem+sequence://envelope-bare?envelope=json").await?;
    let bare = client.request("a/b").call_raw("1").await?;
    assert_eq!(bare, r#"{"topic":"a/b","data":1}"#);
    let request = client.request("a/b").metadata("tenant", "acme");
    let said: serde_json::Value = serde_json::from_slice(&request.call_raw("1").await?)?;
    assert_eq!(said["metadata"]["tenant"], "acme");
    let millis = said["metadata"]["timeout_ms"].as_str().ok_or("a time")?;
    assert!((1..=5_000).contains(&millis.parse::<u64>()?), "{millis}");
    Ok(())
}

struct Stopped(Sender<()>);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_time_is_up_is_stopped_and_does_not_hold_up_those_behind_it() -> Tested {
    for dialect in ["sequence", "compact"] {
        let (sender, mut stopped) = channel(1);
        let router = Router::new()
            .route("quick", async |body: Bytes| body)
            .route("endless", move || {
                let guard = Stopped(sender.clone());
                async move {
                    let _guard = guard;
                    std::future::pending::<()>().await;
                }
            });
        let url = format!("mem+{dialect}://envelope-late-{dialect}?envelope=protobuf");
        let server = serve(&url, router).await?;
        let client = Client::connect(&url).await?;
        let endless = client.request("endless").timeout(Duration::from_secs(1));
        let endless = endless.call_raw("").await;
        let code = endless.expect_err("nobody answers").code();
        assert!(code.as_str().ends_with("-504"), "{code}");
        stopped.recv().await.ok_or("the handler was stopped")?;
        assert_eq!(client.request("quick").call_raw("x").await?, "x");
        server.shutdown().await;
    }
    Ok(())
}

#[tokio::test]
async fn metadata_that_cannot_be_costs_its_call_alone() -> Tested {
    let server = serve(
        "mem+sequence://envelope-wrong?envelope=json",
        Router::new().route("tell", tell),
    );
    let _server = server.await?;
    let client = Client::connect("mem+sequence://envelope-wrong?envelope=json").await?;
    let request = client.request("tell").metadata("timeout_ms", "soon");
    let error = request.call_raw("1").await.unwrap_err().to_string();
    assert!(
        error.contains("SRV-E-400") && error.contains("milliseconds"),
        "{error}"
    );
    let request = client.request("tell").metadata("key", &b"\xff"[..]);
    let error = request.call_raw("1").await.unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
    client.request("tell").call_raw("1").await?;
    Ok(())
}
