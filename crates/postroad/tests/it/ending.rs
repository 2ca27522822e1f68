//! The end of a server in two phases: it first asks its clients to leave, and still serves them.

use std::time::Duration;

use postroad::{CallError, Client, Router, ServerConfig, ServerState};

use crate::support::{PATIENCE, Tested, echo_route, serve_with};

/// Settings of a server that serves on for ten seconds.
fn config() -> ServerConfig {
    let mut config = ServerConfig::default();
    config.lameduck = Duration::from_secs(10);
    config.drain = Duration::from_secs(5);
    config
}

/// Lets time pass.
async fn pass(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_about_to_end_serves_old_and_new_clients_until_its_time_is_up() -> Tested {
    let url = "mem://lameduck";
    let server = serve_with(url, Router::new(), config()).await?;
    let mut state = server.state();
    let old = Client::connect(url).await?;
    let before = tokio::time::Instant::now();
    let ending = tokio::spawn(server.shutdown());
    state
        .wait_for(|state| *state == ServerState::ShuttingDown)
        .await?;
    for _ in 0..9 {
        old.request("postroad/echo")
            .timeout(PATIENCE)
            .call_raw("old")
            .await?;
        let new = Client::connect(url).await?;
        new.request("postroad/echo").call_raw("new").await?;
        let health = new.request("postroad/health").call_raw("null").await?;
        assert_eq!(health, "{\"ready\":false}");
        new.close().await;
        pass(Duration::from_secs(1)).await;
    }
    ending.await?;
    let took = before.elapsed();
    assert!(
        took >= Duration::from_secs(10) && took < Duration::from_secs(12),
        "{took:?}"
    );
    assert_eq!(*state.borrow(), ServerState::Stopped);
    let late = old
        .request("postroad/echo")
        .timeout(Duration::from_secs(1))
        .call_raw("late");
    assert!(matches!(
        late.await,
        Err(CallError::NotConnected { .. } | CallError::Deadline { .. })
    ));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_a_call_in_flight_gets_its_answer_and_comes_back_meanwhile() -> Tested {
    let url = "mem://lameduck-in-flight";
    let router = Router::new().route("slow", async || pass(Duration::from_secs(3)).await);
    let server = serve_with(url, router, config()).await?;
    let mut state = server.state();
    let client = Client::connect(url).await?;
    let other = client.clone();
    let slow = tokio::spawn(async move {
        other
            .request("slow")
            .timeout(PATIENCE)
            .call_raw("")
            .await
            .map(drop)
    });
    while server.stats().running == 0 {
        tokio::task::yield_now().await;
    }
    let ending = tokio::spawn(server.shutdown());
    state
        .wait_for(|state| *state == ServerState::ShuttingDown)
        .await?;
    // Over another connection than that of the call in flight, which takes no new calls.
    client
        .request("postroad/echo")
        .timeout(PATIENCE)
        .call_raw("x")
        .await?;
    slow.await??;
    ending.await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_dialect_that_has_no_word_for_leaving_is_served_until_the_time_is_up() -> Tested {
    let url = "mem+line://lameduck-line";
    let server = serve_with(url, Router::new(), config()).await?;
    let mut state = server.state();
    let client = Client::connect(url).await?;
    let route = echo_route(Some("line"));
    client.request(route).call_raw("x").await?;
    let began = tokio::time::Instant::now();
    let ending = tokio::spawn(server.shutdown());
    state
        .wait_for(|state| *state == ServerState::ShuttingDown)
        .await?;
    while began.elapsed() < Duration::from_secs(9) {
        client.request(route).call_raw("x").await?;
        pass(Duration::from_secs(1)).await;
    }
    assert!(!ending.is_finished());
    ending.await?;
    Ok(())
}
