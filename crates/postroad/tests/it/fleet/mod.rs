//! A client of several servers: what it does when one is slow, wrong, full or gone.

mod trouble;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postroad::client::{Balance, Explanation, HealthPolicy, HedgePolicy, Policies};
use postroad::discovery::{Discovery, DiscoveryError, Instance, Target, Updates};
use postroad::route::RouteOptions;
use postroad::transport::BoxFuture;
use postroad::{
    Bytes, CallError, Client, ClientConfig, ConnectionState, Error, Json, Retry, Router,
    RunningServer,
};
use tokio::sync::watch;

use crate::support::{PATIENCE, Tested, serve};

/// A server that says who it is, and counts what it is asked.
struct Node {
    url: String,
    server: RunningServer,
    asked: Arc<AtomicU32>,
}

impl Node {
    /// A server whose route `who` does this with each call, by its number.
    async fn start<F>(url: &str, each: F) -> Tested<Self>
    where
        F: Fn(u32) -> BoxFuture<'static, Result<(), Error>> + Clone + Send + Sync + 'static,
    {
        let asked = Arc::new(AtomicU32::new(0));
        let (counter, name) = (Arc::clone(&asked), url.to_owned());
        let who = move || {
            let call = counter.fetch_add(1, Ordering::Relaxed);
            let (done, name) = (each(call), name.clone());
            async move { done.await.map(|()| Json(name)) }
        };
        let router = Router::new().route("who", who.clone()).route_with(
            "who/again",
            RouteOptions::new().idempotent(),
            who,
        );
        let server = serve(url, router).await?;
        let url = url.to_owned();
        Ok(Self { url, server, asked })
    }

    async fn well(url: &str) -> Tested<Self> {
        Self::start(url, |_| Box::pin(async { Ok(()) })).await
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A source whose list the test sets.
#[derive(Debug)]
struct Listed(watch::Receiver<Vec<Instance>>);

impl Discovery for Listed {
    fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError> {
        Box::pin(async move {
            let mut list = self.0.clone();
            loop {
                let instances = list.borrow_and_update().clone();
                updates.set(instances);
                if list.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }
}

/// A source that takes its time.
#[derive(Debug)]
struct Slow(Instance);

impl Discovery for Slow {
    fn watch<'a>(&'a self, updates: &'a Updates) -> BoxFuture<'a, DiscoveryError> {
        Box::pin(async move {
            pass(Duration::from_millis(300)).await;
            updates.set(vec![self.0.clone()]);
            std::future::pending().await
        })
    }
}

#[tokio::test]
async fn connecting_waits_for_a_source_that_has_not_answered_yet() -> Tested {
    let node = Node::well("mem://fleet-slow-source").await?;
    let target = Target::of(Slow(instance(&node.url)));
    let client = Client::connect_with(target, ClientConfig::default()).await?;
    assert_eq!(client.call::<_, String>("who", &()).await?, node.url);
    Ok(())
}

fn instance(url: &str) -> Instance {
    Instance::new(url.parse().expect("it is an endpoint"))
}

fn list(urls: &[&str]) -> (watch::Sender<Vec<Instance>>, Target) {
    let instances = urls.iter().map(|url| instance(url)).collect();
    let (sender, receiver) = watch::channel(instances);
    let target = Target::of(Listed(receiver)).with_keep(Duration::ZERO);
    (sender, target)
}

fn quiet(change: impl FnOnce(&mut Policies)) -> ClientConfig {
    let mut policies = Policies::default();
    policies.health = None;
    change(&mut policies);
    let mut config = ClientConfig::default();
    config.policies = Some(policies);
    config
}

/// Waits until all of them are connected: each has been asked.
async fn warm(client: &Client, nodes: &[&Node]) -> Tested {
    let asked = async {
        while nodes.iter().any(|node| node.asked() == 0) {
            let _: String = client.call("who", &()).await?;
            tokio::task::yield_now().await;
        }
        Ok::<(), CallError>(())
    };
    tokio::time::timeout(PATIENCE, asked).await??;
    Ok(())
}

#[tokio::test]
async fn a_list_shares_the_calls_and_goes_on_when_one_is_gone() -> Tested {
    let one = Node::well("mem://fleet-share-1").await?;
    let two = Node::well("mem://fleet-share-2").await?;
    let client = Client::connect("mem://fleet-share-1,fleet-share-2").await?;
    warm(&client, &[&one, &two]).await?;
    assert_eq!(*client.state().borrow(), ConnectionState::Connected);
    one.server.shutdown().await;
    for _ in 0..50 {
        let who: String = client.call("who", &()).await?;
        assert_eq!(who, two.url);
    }
    let again = Node::well("mem://fleet-share-1").await?;
    warm(&client, &[&again]).await?;
    client.close().await;
    let error = client.call::<_, String>("who", &()).await.unwrap_err();
    assert!(matches!(error, CallError::NotConnected { .. }), "{error}");
    Ok(())
}

/// Two calls, of which one goes to a server that takes it, never answers, and then dies.
async fn lose_one(name: &str, is_idempotent: bool) -> Tested<Vec<Result<String, CallError>>> {
    let url = |number| format!("mem://{name}-{number}");
    let slow = Node::start(&url(1), |_| Box::pin(std::future::pending())).await?;
    let _well = Node::well(&url(2)).await?;
    let config = quiet(|policies| policies.balance = Balance::RoundRobin);
    let target: Target = format!("mem://{name}-1,{name}-2").parse()?;
    let client = Client::connect_with(target, config).await?;
    let mut calls = tokio::task::JoinSet::new();
    while slow.asked() == 0 {
        let client = client.clone();
        calls.spawn(async move {
            let call = client.request("who").timeout(PATIENCE);
            let call = if is_idempotent {
                call.idempotent()
            } else {
                call
            };
            call.call::<_, String>(&()).await
        });
        tokio::task::yield_now().await;
    }
    drop(slow.server);
    Ok(calls.join_all().await)
}

#[tokio::test]
async fn a_call_that_may_have_run_is_sent_again_only_if_it_is_idempotent() -> Tested {
    let results = lose_one("fleet-lost", false).await?;
    let lost: Vec<_> = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .collect();
    assert!(
        matches!(lost[..], [CallError::Lost { sent: true, .. }]),
        "{results:?}"
    );
    let results = lose_one("fleet-again", true).await?;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    Ok(())
}

#[tokio::test]
async fn what_a_servers_owner_declares_is_heeded() -> Tested {
    let node = Node::start("mem://fleet-owner-1", |call| {
        Box::pin(async move {
            match call % 2 {
                0 => Err(Error::new("TST-E-001", "again, please")
                    .with_retry(Retry::IfIdempotent, Duration::ZERO)),
                _ => Ok(()),
            }
        })
    })
    .await?;
    let config = quiet(|policies| policies.pool.idle = 1);
    let client = Client::connect_with("mem://fleet-owner-1".parse()?, config).await?;
    // Servers tell of their routes in the background.
    let told = async {
        while client.call::<_, String>("who/again", &()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await?;
    let before = node.asked();
    assert_eq!(before % 2, 0, "each call took two attempts");
    client.call::<_, String>("who", &()).await.unwrap_err();
    assert_eq!(node.asked(), before + 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_is_open_fails_at_once_and_there_may_be_a_fallback() -> Tested {
    let node = Node::start("mem://fleet-breaker-1", |call| {
        Box::pin(async move {
            let busy = Error::new("SRV-E-429", "full").with_retry(Retry::Here, Duration::ZERO);
            if call < 20 { Err(busy) } else { Ok(()) }
        })
    })
    .await?;
    let config = quiet(|policies| {
        policies.retry = None;
        policies.throttle = false;
        policies.breaker.as_mut().expect("it is on").sleep = Duration::from_millis(300);
    });
    let client = Client::connect_with("mem://fleet-breaker-1".parse()?, config).await?;
    for _ in 0..20 {
        client.call::<_, String>("who", &()).await.unwrap_err();
    }
    let error = client.call::<_, String>("who", &()).await.unwrap_err();
    assert!(matches!(error, CallError::BreakerOpen { .. }), "{error}");
    assert!(error.retry_after() <= Some(Duration::from_millis(300)));
    let call = client.request("who").call_or(&(), || "nobody".to_owned());
    assert_eq!(call.await?, "nobody");
    assert_eq!(node.asked(), 20);
    tokio::time::advance(Duration::from_millis(350)).await;
    assert_eq!(client.call::<_, String>("who", &()).await?, node.url);
    assert_eq!(client.call::<_, String>("who", &()).await?, node.url);
    Ok(())
}

#[tokio::test]
async fn who_comes_gets_calls_and_who_leaves_the_list_gets_none() -> Tested {
    let one = Node::well("mem://fleet-list-1").await?;
    let two = Node::well("mem://fleet-list-2").await?;
    let (sender, target) = list(&["mem://fleet-list-1"]);
    let client = Client::connect_with(target, quiet(|_| ())).await?;
    warm(&client, &[&one]).await?;
    sender.send(vec![
        instance("mem://fleet-list-1"),
        instance("mem://fleet-list-2"),
    ])?;
    warm(&client, &[&two]).await?;
    sender.send(vec![instance("mem://fleet-list-2")])?;
    let left = async {
        loop {
            let before = one.asked();
            for _ in 0..50 {
                let _: String = client.call("who", &()).await?;
            }
            if one.asked() == before {
                return Ok::<(), CallError>(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, left).await??;
    sender.send(Vec::new())?;
    let gone = async {
        loop {
            let call = client.request("who").timeout(Duration::from_millis(50));
            let result = call.call::<_, String>(&()).await;
            // One may have been on its way.
            if let Err(error @ CallError::NotConnected { .. }) = result {
                return error.to_string();
            }
        }
    };
    let text = tokio::time::timeout(PATIENCE, gone).await?;
    assert!(text.contains("no instances for"), "{text}");
    assert!(
        text.contains("last known: ") && text.contains("mem://fleet-list-2"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn standby_servers_get_calls_only_while_no_other_can_take_one() -> Tested {
    let first = Node::well("mem://fleet-first-1").await?;
    let standby = Node::well("mem://fleet-standby-1").await?;
    let config = quiet(|policies| {
        policies.standby = Some("mem://fleet-standby-1".parse().expect("it is a target"));
    });
    let client = Client::connect_with("mem://fleet-first-1".parse()?, config).await?;
    for _ in 0..50 {
        assert_eq!(client.call::<_, String>("who", &()).await?, first.url);
    }
    assert_eq!(standby.asked(), 0);
    first.server.shutdown().await;
    assert_eq!(client.call::<_, String>("who", &()).await?, standby.url);
    let _again = Node::well("mem://fleet-first-1").await?;
    let back = async {
        while client.call::<_, String>("who", &()).await? != first.url {
            tokio::task::yield_now().await;
        }
        Ok::<(), CallError>(())
    };
    tokio::time::timeout(PATIENCE, back).await??;
    Ok(())
}

#[tokio::test]
async fn a_tag_gets_its_share() -> Tested {
    let one = Node::well("mem://fleet-tag-1").await?;
    let two = Node::well("mem://fleet-tag-2").await?;
    let target = "mem://fleet-tag-1,fleet-tag-2?tag=v2".parse()?;
    let config = quiet(|policies| policies.tags = [("v2".to_owned(), 100)].into());
    let client = Client::connect_with(target, config).await?;
    warm(&client, &[&one, &two]).await?;
    let before = two.asked();
    for _ in 0..2_000 {
        let _: String = client.call("who", &()).await?;
    }
    // A tenth of 2,000, and five standard deviations.
    let share = two.asked() - before;
    assert!((130..=270).contains(&share), "{share} of 2,000");
    client
        .set_tags([("v2".to_owned(), 1001)].into())
        .unwrap_err();
    client.set_tags([("v2".to_owned(), 1000)].into())?;
    let before = one.asked();
    for _ in 0..100 {
        let _: String = client.call("who", &()).await?;
    }
    assert_eq!(one.asked(), before, "all go to the new version");
    Ok(())
}

#[tokio::test]
async fn calls_with_equal_keys_go_to_the_same_server() -> Tested {
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(Node::well(&format!("mem://fleet-key-{number}")).await?);
    }
    let target = "mem://fleet-key-1,fleet-key-2,fleet-key-3".parse()?;
    let config = quiet(|policies| policies.balance = Balance::Hash);
    let client = Client::connect_with(target, config).await?;
    warm(&client, &nodes.iter().collect::<Vec<_>>()).await?;
    for key in 0..20_u8 {
        let mut servers = Vec::new();
        for _ in 0..5 {
            let call = client.request("who").key(vec![key]);
            servers.push(call.call::<_, String>(&()).await?);
        }
        servers.dedup();
        assert_eq!(servers.len(), 1, "{servers:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_it_is_not_ready_gets_no_calls_until_it_is() -> Tested {
    let ready = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked = Arc::new(AtomicU32::new(0));
    let (flag, counter) = (Arc::clone(&ready), Arc::clone(&asked));
    let router = Router::new()
        .route("who", move || {
            counter.fetch_add(1, Ordering::Relaxed);
            async { Json("mem://fleet-ready-1") }
        })
        .route("health", move || {
            let ready = flag.load(Ordering::Relaxed);
            async move { Json(serde_json::json!({ "ready": ready })) }
        });
    let _server = serve("mem://fleet-ready-1", router).await?;
    let two = Node::well("mem://fleet-ready-2").await?;
    let config = quiet(|policies| {
        let mut health = HealthPolicy::default();
        health.route = "health".to_owned();
        health.every = Duration::from_millis(20);
        policies.health = Some(health);
    });
    let target = "mem://fleet-ready-1,fleet-ready-2".parse()?;
    let client = Client::connect_with(target, config).await?;
    let settled = async {
        loop {
            let before = asked.load(Ordering::Relaxed);
            for _ in 0..20 {
                let _: String = client.call("who", &()).await?;
            }
            if asked.load(Ordering::Relaxed) == before && two.asked() > 0 {
                return Ok::<(), CallError>(());
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await??;
    ready.store(true, Ordering::Relaxed);
    let before = asked.load(Ordering::Relaxed);
    let back = async {
        while asked.load(Ordering::Relaxed) == before {
            let _: String = client.call("who", &()).await?;
            tokio::task::yield_now().await;
        }
        Ok::<(), CallError>(())
    };
    tokio::time::timeout(PATIENCE, back).await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_straggler_is_hedged_and_the_first_answer_is_taken() -> Tested {
    let straggle = |call: u32| -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            if call >= 150 {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    };
    let slow = Node::start("mem://fleet-hedge-1", straggle).await?;
    let well = Node::well("mem://fleet-hedge-2").await?;
    let config = quiet(|policies| {
        let mut hedge = HedgePolicy::default();
        hedge.extra_load = 500;
        policies.hedge = Some(hedge);
        policies.balance = Balance::RoundRobin;
        policies.idempotent = vec!["wh*".to_owned()];
    });
    let target = "mem://fleet-hedge-1,fleet-hedge-2".parse()?;
    let client = Client::connect_with(target, config).await?;
    warm(&client, &[&slow, &well]).await?;
    // The delay is known after a few seconds of calls.
    let learned = tokio::time::Instant::now() + Duration::from_secs(4);
    let why = Explanation::default();
    let mut hedged = false;
    while slow.asked() < 140 || tokio::time::Instant::now() < learned {
        if slow.asked() < 140 {
            let _: String = client.call("who", &()).await?;
        }
        tokio::time::advance(Duration::from_millis(2)).await;
    }
    for _ in 0..40 {
        let call = client.request("who").explain(&why).timeout(PATIENCE / 2);
        let _: String = call.call(&()).await?;
        hedged |= why.take().to_string().contains("a second server after");
    }
    assert!(hedged && slow.asked() > 150);
    Ok(())
}

#[tokio::test]
async fn why_a_call_went_where_it_went_can_be_read() -> Tested {
    let _one = Node::start("mem://fleet-why-1", |_| {
        Box::pin(async {
            let busy = Error::new("SRV-E-429", "full");
            Err(busy.with_retry(Retry::Elsewhere, Duration::ZERO))
        })
    })
    .await?;
    let _two = Node::well("mem://fleet-why-2").await?;
    let target = "mem://fleet-why-1,fleet-why-2".parse()?;
    let config = quiet(|policies| policies.balance = Balance::RoundRobin);
    let client = Client::connect_with(target, config).await?;
    let why = Explanation::default();
    let mut text = String::new();
    for _ in 0..4 {
        let call = client.request("who").explain(&why);
        assert_eq!(call.call::<_, String>(&()).await?, "mem://fleet-why-2");
        text += &why.take().to_string();
    }
    for said in [
        "round-robin picked mem://fleet-why-1",
        "round-robin picked mem://fleet-why-2",
        "attempt: 1 has failed: SRV-E-429 full",
        "retry: again after",
        "attempt: 2 was answered",
    ] {
        assert!(text.contains(said), "{said} is not in\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn of_a_share_of_the_calls_it_is_told_why_they_went_where_they_went() -> Tested {
    let node = Node::well("mem://fleet-sample-1").await?;
    let told = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&told);
    let client = Client::builder(&node.url)
        .explain_sample(100, move |route, why| {
            let why = why.to_string();
            assert!(route == "who" && why.contains("1 was answered"), "{why}");
            counter.fetch_add(1, Ordering::Relaxed);
        })
        .connect()
        .await?;
    for _ in 0..1_000 {
        let _: String = client.call("who", &()).await?;
    }
    let told = told.load(Ordering::Relaxed);
    assert!((40..200).contains(&told), "{told} of 1000");
    let wrong = Client::builder(&node.url).explain_sample(1_001, |_, _| ());
    let error = wrong.build().unwrap_err().to_string();
    assert!(error.contains("explain = 1001"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_pipeline_spreads_its_calls_over_all_servers() -> Tested {
    let one = Node::well("mem://fleet-pipe-1").await?;
    let two = Node::well("mem://fleet-pipe-2").await?;
    let client = Client::connect("mem://fleet-pipe-1,fleet-pipe-2").await?;
    warm(&client, &[&one, &two]).await?;
    let before = (one.asked(), two.asked());
    let mut pipeline = client.pipeline("who").codec(1);
    for call in 0..2_000 {
        pipeline.call(call, Bytes::from_static(b"null")).await?;
        while pipeline.in_flight() >= 200 {
            let (_, answer) = pipeline.next().await.ok_or("an answer is missing")?;
            answer?;
        }
    }
    while let Some((_, answer)) = pipeline.next().await {
        answer?;
    }
    let shares = (one.asked() - before.0, two.asked() - before.1);
    assert_eq!(shares.0 + shares.1, 2_000);
    assert!(shares.0 > 300 && shares.1 > 300, "{shares:?}");
    Ok(())
}

#[tokio::test]
async fn of_ten_thousand_servers_a_client_connects_to_as_many_as_it_may() -> Tested {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let router = Router::new().route("who", move || {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Json("one of many") }
    });
    // Every address of 127.0.0.0/8 is this machine.
    let server = serve("tcp://0.0.0.0:0", router).await?;
    let port = server.addresses()[0]
        .rsplit_once(':')
        .ok_or("no port")?
        .1
        .to_owned();
    let many = (0..10_000_u32).map(|n| {
        let (third, fourth) = (n / 200, n % 200 + 1);
        instance(&format!("tcp://127.0.{third}.{fourth}:{port}"))
    });
    let (sender, receiver) = watch::channel(many.collect::<Vec<_>>());
    let target = Target::of(Listed(receiver)).with_keep(Duration::ZERO);
    let config = quiet(|policies| policies.pool.connections = 30);
    let client = Client::connect_with(target, config).await?;
    for _ in 0..2_000 {
        let _: String = client.call("who", &()).await?;
    }
    let connections = server.stats().open;
    assert!((2..=30).contains(&connections), "{connections}");
    // None of those that come instead can be reached, and that is said.
    let none = (0..10_000).map(|n| instance(&format!("mem://fleet-none-{n}")));
    sender.send(none.collect())?;
    let lost = async {
        loop {
            let call = client.request("who").timeout(Duration::from_millis(200));
            let result = call.call::<_, String>(&()).await;
            // One may have been on its way.
            if let Err(error @ CallError::NotConnected { .. }) = result {
                return error.to_string();
            }
        }
    };
    let text = tokio::time::timeout(PATIENCE, lost).await?;
    assert!(text.contains("10000 instances"), "{text}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_back_does_not_leave_more_connections_than_there_may_be() -> Tested {
    let one = Node::well("mem://fleet-shed-1").await?;
    let config = quiet(|policies| {
        policies.pool.connections = 1;
        policies.pool.idle = 1;
    });
    let target = "mem://fleet-shed-1,fleet-shed-2".parse()?;
    let client = Client::connect_with(target, config).await?;
    let _: String = client.call("who", &()).await?;
    // The second takes the first one's place, which is tried as long as it cannot be reached.
    one.server.shutdown().await;
    let two = Node::well("mem://fleet-shed-2").await?;
    while client.call::<_, String>("who", &()).await.is_err() {}
    let one = Node::well("mem://fleet-shed-1").await?;
    for _ in 0..2_000 {
        let _: String = client.call("who", &()).await?;
        pass(Duration::from_millis(100)).await;
    }
    assert_eq!(one.server.stats().open + two.server.stats().open, 1);
    Ok(())
}

/// Lets time pass.
async fn pass(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

#[tokio::test]
async fn a_builder_sets_what_it_is_told_and_refuses_what_is_wrong() -> Tested {
    let one = Node::well("mem://fleet-built-1").await?;
    let two = Node::well("mem://fleet-built-2").await?;
    let client = Client::builder("mem://fleet-built-1,fleet-built-2?tag=v2")
        .timeout(PATIENCE)
        .balance(Balance::RoundRobin)
        .tag("v2", 1000)
        .health(None)
        .connect()
        .await?;
    warm(&client, &[&two]).await?;
    let before = one.asked();
    for _ in 0..20 {
        assert_eq!(client.call::<_, String>("who", &()).await?, two.url);
    }
    assert_eq!(one.asked(), before);
    let wrong = Client::builder("mem://fleet-built-1")
        .tag("v2", 1001)
        .build();
    assert!(wrong.unwrap_err().to_string().contains("tags"));
    let wrong = Client::builder("mem://x").standby("nowhere").build();
    assert!(wrong.unwrap_err().to_string().contains("nowhere"));
    Ok(())
}
