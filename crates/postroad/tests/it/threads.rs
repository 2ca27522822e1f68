//! Many threads on one connection: a wake-up that is lost shows as a call that waits for its
//! deadline.

use std::time::Duration;

use postroad::{Client, Router, ServerConfig};

use crate::support::serve_with;

const CALLERS: u64 = 24;
const CALLS: u64 = 150;

/// Sizes from a few bytes to several times what reading pauses for.
fn size(caller: u64, call: u64) -> usize {
    match (caller * 31 + call * 7) % 40 {
        0 => 3 << 20,
        1..4 => 200_000,
        n => n as usize * 13,
    }
}

async fn storm(url: &str, workers: Option<usize>) {
    let router = Router::new().route("later", async |body: postroad::Bytes| {
        tokio::task::yield_now().await;
        body
    });
    let mut config = ServerConfig::default();
    config.workers = workers;
    let server = serve_with(url, router, config).await;
    let server = server.expect("it is free");
    let scheme = url.split("://").next().unwrap_or_default();
    let client = Client::connect(&format!("{scheme}://{}", server.addresses()[0])).await;
    let client = client.expect("the server listens");
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = client.clone();
            tokio::spawn(async move {
                for call in 0..CALLS {
                    let body = vec![caller as u8; size(caller, call)];
                    let route = if call % 3 == 0 {
                        "later"
                    } else {
                        "postroad/echo"
                    };
                    let request = client.request(route).priority((call % 8) as u8);
                    let answer = request
                        .timeout(Duration::from_secs(120))
                        .call_raw(body.clone());
                    assert_eq!(answer.await.expect("no call waits for its deadline"), body);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("the caller ends");
    }
    client.close().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_is_forgotten_over_tcp_whatever_the_threads() {
    storm("tcp://127.0.0.1:0", None).await;
    storm("tcp://127.0.0.1:0", Some(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_is_forgotten_over_a_stream_that_buffers() {
    storm("mem://storm", None).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_is_forgotten_over_unix_sockets_that_are_full_again_and_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("storm");
    storm(&format!("unix://{}", path.display()), None).await;
    storm(&format!("unix://{}", path.display()), Some(2)).await;
}
