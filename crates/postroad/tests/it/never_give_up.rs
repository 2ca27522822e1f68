//! Clients come back by themselves, however long a server was away, and not all at once.

use std::time::Duration;

use postroad::config::GiveUp;
use postroad::{Bytes, CallError, Client, ClientConfig, ConnectionState, Retry, Router};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Tested, serve};

async fn echo(client: &Client) -> Result<Bytes, CallError> {
    client.request("postroad/echo").call_raw("x").await
}

async fn until(client: &Client, wanted: ConnectionState) {
    let mut state = client.state();
    let seen = state.wait_for(|state| *state == wanted).await;
    drop(seen.expect("the client lives"));
}

#[tokio::test(start_paused = true)]
async fn offline_a_call_fails_at_once_and_has_an_attempt_made() -> Tested {
    let client = Client::new("mem://offline".parse()?, ClientConfig::default())?;
    until(&client, ConnectionState::Offline).await;
    let begin = Instant::now();
    let error = echo(&client).await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(error.retry(), Retry::Here, "it may succeed: {error}");
    let text = error.to_string();
    assert!(text.contains("5 attempts have failed in"), "{text}");
    assert!(text.contains("the next is in"), "{text}");

    let _server = serve("mem://offline", Router::new()).await?;
    let begin = Instant::now();
    echo(&client).await.unwrap_err();
    until(&client, ConnectionState::Connected).await;
    assert!(
        begin.elapsed() <= Duration::from_millis(100),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(echo(&client).await?, "x");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_told_so_gives_up_for_good_and_says_that_it_did() -> Tested {
    let mut config = ClientConfig::default();
    config.give_up_after = Some(GiveUp::Attempts(2));
    let client = Client::new("mem://give-up".parse()?, config)?;
    until(&client, ConnectionState::Closed).await;
    let error = echo(&client).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Never);
    assert!(error.to_string().contains("give_up_after"), "{error}");
    client.close().await;
    Ok(())
}

#[tokio::test]
async fn a_client_that_was_closed_never_advises_to_try_again() -> Tested {
    let _server = serve("mem://closed", Router::new()).await?;
    let client = Client::connect("mem://closed").await?;
    client.close().await;
    let error = echo(&client).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Never);
    assert!(
        error.to_string().contains("the client was closed"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_client_that_outlives_its_runtime_says_so_and_never_advises_to_try_again() -> Tested {
    for workers in [1, 2] {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(workers).enable_all().build()
        };
        let first = runtime()?;
        let name = format!("mem://outlives-{workers}");
        let (server, client) = first.block_on(async {
            let server = serve(&name, Router::new()).await?;
            Ok::<_, Box<dyn std::error::Error>>((server, Client::connect(&name).await?))
        })?;
        drop(first);
        drop(server);
        let error = runtime()?.block_on(echo(&client)).unwrap_err();
        assert_eq!(error.retry(), Retry::Never, "{error}");
        assert!(error.to_string().contains("runtime"), "{error}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn as_many_callers_wait_for_a_connection_as_may_have_calls_in_flight() -> Tested {
    let client = Client::new("mem://burst".parse()?, ClientConfig::default())?;
    let mut calls = JoinSet::new();
    for _ in 0..1_000 {
        let client = client.clone();
        calls.spawn(async move { echo(&client).await });
    }
    tokio::task::yield_now().await;
    let _server = serve("mem://burst", Router::new()).await?;
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer??, "x");
    }
    Ok(())
}

/// A server that answers `answers` lines on each connection and then closes it; tells when each
/// connection came.
async fn closing_server(answers: usize) -> Tested<(String, Receiver<Instant>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("tcp+line://{}", listener.local_addr()?);
    let (told, came) = channel(1_000);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if told.send(Instant::now()).await.is_err() {
                return;
            }
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            for _ in 0..answers {
                if let Ok(Some(line)) = lines.next_line().await {
                    let _ = write.write_all(format!("ACK: {line}\n").as_bytes()).await;
                }
            }
        }
    });
    Ok((url, came))
}

#[tokio::test]
async fn after_a_healthy_connection_that_ended_in_order_the_next_is_made_at_once() -> Tested {
    let (url, mut came) = closing_server(1).await?;
    let mut config = ClientConfig::default();
    // A wait would be seen.
    config.backoff.first = Duration::from_secs(3_600);
    config.backoff.max = Duration::from_secs(3_600);
    let client = Client::connect_with(url.parse()?, config).await?;
    for _ in 0..5 {
        came.recv().await.ok_or("it listens")?;
        until(&client, ConnectionState::Connected).await;
        let answer = client.request("x").call_raw("m").await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_drops_each_connection_at_once_is_dialled_less_and_less() -> Tested {
    let (url, mut came) = closing_server(0).await?;
    let mut config = ClientConfig::default();
    config.backoff.first = Duration::from_millis(50);
    config.backoff.max = Duration::from_millis(100);
    let client = Client::new(url.parse()?, config)?;
    let begin = Instant::now();
    for _ in 0..40 {
        came.recv().await.ok_or("it listens")?;
    }
    // Forty waits drawn from 0 to 100 ms: half of that on average.
    let took = begin.elapsed();
    assert!(
        took > Duration::from_millis(400),
        "it dials in a loop: {took:?}"
    );
    assert_ne!(*client.state().borrow(), ConnectionState::Offline);
    Ok(())
}
