//! What an attacker found: fleets that are full, put aside, unwell or contradicted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postroad::client::Balance;
use postroad::route::RouteOptions;
use postroad::transport::BoxFuture;
use postroad::{Client, Error, Json, Retry, Router};

use super::{Node, pass, quiet, warm};
use crate::support::{Tested, serve};

fn refusing(retry: Retry, after: Duration) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(async move { Err(Error::new("SRV-E-429", "full").with_retry(retry, after)) })
}

#[tokio::test(start_paused = true)]
async fn a_full_fleet_is_waited_for_and_no_thread_is_blocked() -> Tested {
    let slow = Node::start("mem://fleet-room-1", |_| {
        Box::pin(async {
            pass(Duration::from_millis(500)).await;
            Ok(())
        })
    })
    .await?;
    let mut config = quiet(|policies| policies.health = None);
    config.connection.limits.max_calls = 1;
    let client = Client::connect_with("mem://fleet-room-1".parse()?, config).await?;
    let call = || client.request("who").timeout(Duration::from_secs(3));
    let (one, two) = tokio::join!(call().call::<_, String>(&()), call().call::<_, String>(&()));
    assert_eq!((one?, two?), (slow.url.clone(), slow.url.clone()));
    Ok(())
}

#[tokio::test]
async fn a_call_without_time_says_nothing_about_the_server() -> Tested {
    let node = Node::well("mem://fleet-no-time-1").await?;
    let client = Client::connect_with("mem://fleet-no-time-1".parse()?, quiet(|_| ())).await?;
    warm(&client, &[&node]).await?;
    for _ in 0..100 {
        let call = client.request("who").timeout(Duration::ZERO);
        call.call::<_, String>(&()).await.unwrap_err();
    }
    assert_eq!(client.call::<_, String>("who", &()).await?, node.url);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_put_aside_is_asked_when_there_is_no_other() -> Tested {
    let one = Node::start("mem://fleet-aside-1", |call| match call {
        0..5 => refusing(Retry::Elsewhere, Duration::ZERO),
        _ => Box::pin(async { Ok(()) }),
    })
    .await?;
    let two = Node::well("mem://fleet-aside-2").await?;
    let config = quiet(|policies| policies.balance = Balance::RoundRobin);
    let target = "mem://fleet-aside-1,fleet-aside-2".parse()?;
    let client = Client::connect_with(target, config).await?;
    while one.asked() < 5 {
        let _: String = client.call("who", &()).await?;
    }
    two.server.shutdown().await;
    assert_eq!(client.call::<_, String>("who", &()).await?, one.url);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_hint_of_one_server_does_not_hold_a_call_back_from_another() -> Tested {
    let hint = Duration::from_secs(30);
    let one = Node::start("mem://fleet-hint-1", move |_| {
        refusing(Retry::Elsewhere, hint)
    })
    .await?;
    let two = Node::well("mem://fleet-hint-2").await?;
    let config = quiet(|policies| policies.balance = Balance::RoundRobin);
    let target = "mem://fleet-hint-1,fleet-hint-2".parse()?;
    let client = Client::connect_with(target, config).await?;
    warm(&client, &[&two]).await?;
    while one.asked() < 3 {
        assert_eq!(client.call::<_, String>("who", &()).await?, two.url);
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_the_servers_of_another_tag() -> Tested {
    let none = Duration::ZERO;
    let _new = Node::start("mem://fleet-group-1", move |_| {
        refusing(Retry::Elsewhere, none)
    })
    .await?;
    let old = Node::well("mem://fleet-group-2").await?;
    let config = quiet(|policies| policies.tags = [("v2".to_owned(), 1000)].into());
    let target = "mem://fleet-group-1?tag=v2,fleet-group-2".parse()?;
    let client = Client::connect_with(target, config).await?;
    for _ in 0..5 {
        assert_eq!(client.call::<_, String>("who", &()).await?, old.url);
    }
    Ok(())
}

#[tokio::test]
async fn a_route_is_idempotent_only_if_every_server_says_so() -> Tested {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let fails = Router::new().route("pay", move || {
        counter.fetch_add(1, Ordering::Relaxed);
        async {
            let error = Error::new("TST-E-001", "it may have run");
            Err::<(), _>(error.with_retry(Retry::IfIdempotent, Duration::ZERO))
        }
    });
    let _one = serve("mem://fleet-owners-1", fails).await?;
    let declared = RouteOptions::new().idempotent();
    let claims = Router::new().route_with("pay", declared, async || Json(()));
    let _two = serve("mem://fleet-owners-2", claims).await?;
    let target = "mem://fleet-owners-1,fleet-owners-2".parse()?;
    let client = Client::connect_with(target, quiet(|p| p.eject = false)).await?;
    let (mut calls, mut refused) = (0_u32, 0_u32);
    while refused < 20 {
        calls += 1;
        refused += u32::from(client.call::<_, ()>("pay", &()).await.is_err());
        assert!(calls < 10_000);
        tokio::task::yield_now().await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), refused, "none ran twice");
    Ok(())
}

fn silent() -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(std::future::pending())
}

/// Calls until this server has answered, whatever others do.
async fn reach(client: &Client, node: &Node) {
    while node.asked() == 0 {
        let call = client.request("who").timeout(Duration::from_millis(10));
        // A silent one may have it.
        let _ = call.call::<_, String>(&()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn idempotent_calls_to_a_silent_server_are_answered_by_another_in_time() -> Tested {
    let one = Node::start("mem://fleet-silent-1", |_| silent()).await?;
    let well = Node::well("mem://fleet-silent-2").await?;
    let config = quiet(|policies| policies.balance = Balance::RoundRobin);
    let target = "mem://fleet-silent-1,fleet-silent-2".parse()?;
    let client = Client::connect_with(target, config).await?;
    reach(&client, &well).await;
    for timeout in [250, 1_000, 10_000] {
        for _ in 0..10 {
            let call = client.request("who").idempotent();
            let call = call.timeout(Duration::from_millis(timeout));
            assert_eq!(call.call::<_, String>(&()).await?, well.url);
        }
    }
    assert!(one.asked() > 5);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_costs_a_call_its_deadline_if_it_may_not_run_twice() -> Tested {
    let silent = Node::start("mem://fleet-once-1", |_| silent()).await?;
    let well = Node::well("mem://fleet-once-2").await?;
    let config = quiet(|policies| policies.balance = Balance::RoundRobin);
    let target = "mem://fleet-once-1,fleet-once-2".parse()?;
    let client = Client::connect_with(target, config).await?;
    reach(&client, &well).await;
    let before = silent.asked() + well.asked();
    let mut failed = 0;
    for _ in 0..4 {
        let call = client.request("who").timeout(Duration::from_secs(1));
        failed += u32::from(call.call::<_, String>(&()).await.is_err());
    }
    assert!(failed > 0);
    assert_eq!(silent.asked() + well.asked(), before + 4, "none ran twice");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn calls_that_take_most_of_their_time_everywhere_are_neither_cut_nor_doubled_for_long()
-> Tested {
    let slow = |_| -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async {
            pass(Duration::from_millis(700)).await;
            Ok(())
        })
    };
    let one = Node::start("mem://fleet-slow-1", slow).await?;
    let two = Node::start("mem://fleet-slow-2", slow).await?;
    let target = "mem://fleet-slow-1,fleet-slow-2".parse()?;
    let client = Client::connect_with(target, quiet(|_| ())).await?;
    for _ in 0..20 {
        let call = client.request("who").idempotent();
        let call = call.timeout(Duration::from_secs(1));
        let _: String = call.call(&()).await?;
    }
    let asked = one.asked() + two.asked();
    assert!(asked <= 24, "{asked} for 20 calls");
    Ok(())
}
