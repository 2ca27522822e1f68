//! Another configuration while a server runs.

use std::time::Duration;

use postroad::config::Effect;
use postroad::route::RouteRule;
use postroad::{Client, Router, ServerConfig};

use super::support::{Tested, serve_with, tcp};

#[tokio::test]
async fn a_changed_bound_counts_at_once_and_open_connections_go_on() -> Tested {
    let mut config = ServerConfig::default();
    config.max_connections = 1;
    let server = serve_with("tcp://127.0.0.1:0", Router::new(), config.clone()).await?;
    let first = Client::connect(&tcp(&server)).await?;
    let refused = Client::connect(&tcp(&server)).await;
    refused.expect_err("there is one already");
    config.max_connections = 2;
    let changes = server.reconfigure(config)?;
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].to_string(), "server.max_connections: 1 -> 2");
    let second = Client::connect(&tcp(&server)).await?;
    for client in [&first, &second] {
        let answer = client.request("postroad/echo").call_raw("fine").await?;
        assert_eq!(answer, "fine");
    }
    Ok(())
}

#[tokio::test]
async fn settings_of_connections_count_for_those_that_are_opened_later() -> Tested {
    let mut config = ServerConfig::default();
    let server = serve_with("tcp://127.0.0.1:0", Router::new(), config.clone()).await?;
    let before = Client::connect(&tcp(&server)).await?;
    config.connection.limits.max_message = 1024;
    let changes = server.reconfigure(config)?;
    assert_eq!(changes[0].effect, Effect::NewConnections);
    let after = Client::connect(&tcp(&server)).await?;
    let call = async |client: &Client| {
        let large = vec![b'x'; 200_000];
        client.request("postroad/echo").call_raw(large).await
    };
    assert_eq!(call(&before).await?.len(), 200_000);
    call(&after).await.expect_err("it is too large");
    Ok(())
}

#[tokio::test]
async fn a_configuration_that_is_wrong_changes_nothing() -> Tested {
    let server = serve_with("mem://wrong-again", Router::new(), ServerConfig::default()).await?;
    let mut config = ServerConfig::default();
    config.drain = Duration::from_secs(1);
    config.rules = vec![RouteRule::of("a*b")];
    let wrong = server.reconfigure(config).expect_err("the rule is wrong");
    assert!(wrong.to_string().contains("a*b"), "{wrong}");
    assert_eq!(server.reconfigure(ServerConfig::default())?, []);
    server.set_rules(vec![RouteRule::of("a*")])?;
    let changes = server.reconfigure(ServerConfig::default())?;
    assert_eq!(changes[0].key, "route.\"a*\"");
    server
        .set_rules(vec![RouteRule::of("")])
        .expect_err("it names no route");
    assert_eq!(server.reconfigure(ServerConfig::default())?, []);
    Ok(())
}

#[tokio::test]
async fn a_shutdown_waits_for_as_long_as_was_said_last() -> Tested {
    let router = Router::new().route("never", std::future::pending::<()>);
    let server = serve_with("tcp://127.0.0.1:0", router, ServerConfig::default()).await?;
    let client = Client::connect(&tcp(&server)).await?;
    let call = tokio::spawn(async move {
        let call = client.request("never").timeout(Duration::from_secs(60));
        call.call_raw("").await
    });
    let mut config = ServerConfig::default();
    config.drain = Duration::ZERO;
    server.reconfigure(config)?;
    while server.stats().running == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(Duration::from_secs(20), server.shutdown()).await?;
    call.await?.expect_err("it was cut");
    Ok(())
}
