//! Servers that shut down, clients that come back, and those that do not fit each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postroad::extract::State;
use postroad::{CallError, Client, ClientConfig, ConnectionState, Retry, Router, ServerState};

use crate::support::{Tested, serve};

#[tokio::test(start_paused = true)]
async fn a_shutdown_finishes_what_was_accepted_and_tells_its_states() -> Tested {
    let running = Arc::new(AtomicUsize::new(0));
    let router = Router::with_state(Arc::clone(&running)).route(
        "slow",
        async |State(running): State<Arc<AtomicUsize>>| {
            running.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(3)).await; // tidy: paused clock
            "done"
        },
    );
    let server = serve("mem://drain", router).await?;
    let client = Client::connect("mem://drain").await?;
    let mut states = server.state();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.request("slow").call_raw("").await })
        })
        .collect();
    while running.load(Ordering::SeqCst) < 10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*states.borrow_and_update(), ServerState::Running);
    server.shutdown().await;
    assert_eq!(*states.borrow_and_update(), ServerState::Stopped);
    for call in calls {
        assert_eq!(call.await??, "done");
    }
    let error = client
        .request("slow")
        .timeout(Duration::from_secs(1))
        .call_raw("")
        .await
        .unwrap_err();
    assert!(error.retry().was_not_started(), "{error:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_client_comes_back_by_itself_and_goes_offline_when_attempts_are_used_up() -> Tested {
    let server = serve("mem://comeback", Router::new()).await?;
    let client = Client::connect("mem://comeback").await?;
    let mut state = client.state();
    drop(server);
    state
        .wait_for(|state| *state == ConnectionState::Error)
        .await?;
    let server = serve("mem://comeback", Router::new()).await?;
    state
        .wait_for(|state| *state == ConnectionState::Connected)
        .await?;
    assert_eq!(
        client.request("postroad/echo").call_raw("again").await?,
        "again"
    );
    drop(server);
    state
        .wait_for(|state| *state == ConnectionState::Offline)
        .await?;
    let error = client
        .request("postroad/echo")
        .call_raw("x")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("Offline"), "{error}");
    let _server = serve("mem://comeback", Router::new()).await?;
    client.try_now();
    state
        .wait_for(|state| *state == ConnectionState::Connected)
        .await?;
    assert_eq!(
        client.request("postroad/echo").call_raw("back").await?,
        "back"
    );
    client.close().await;
    assert_eq!(*state.borrow_and_update(), ConnectionState::Closed);
    assert!(client.request("postroad/echo").call_raw("x").await.is_err());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn callers_wait_for_a_connection_in_bounded_number_and_time() -> Tested {
    let mut config = ClientConfig::default();
    config.connection.limits.max_calls = 2;
    let client = Client::new("mem://nobody".parse()?, config)?;
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.request("x").call_raw("").await })
        })
        .collect();
    let mut errors = Vec::new();
    for call in calls {
        errors.push(call.await?.unwrap_err());
    }
    let busy = errors
        .iter()
        .filter(|error| matches!(error, CallError::Busy(_)))
        .count();
    assert_eq!(busy, 1, "{errors:?}");
    assert!(errors.iter().all(|error| error.retry() == Retry::Here));
    Ok(())
}

#[tokio::test]
async fn versions_that_do_not_meet_are_named_and_not_tried_again() -> Tested {
    let _server = serve("mem://versions", Router::new()).await?;
    let mut config = ClientConfig::default();
    config.connection.versions = (2, 3);
    let error = Client::connect_with("mem://versions".parse()?, config)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("the client speaks 2 to 3, the server 1 to 1"),
        "{text}"
    );
    Ok(())
}
