//! Layers of tower around routes, and clients as services of tower.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postroad::client::layers::{BreakerLayer, Call, DeadlineLayer, HedgeLayer, RetryLayer};
use postroad::client::{BreakerPolicy, CallOptions, HedgePolicy, RetryPolicy};
use postroad::extract::{Deadline, Reply};
use postroad::{CallError, Client, Code, Error, Json, Retry, Router, code};
use tokio::sync::Semaphore;
use tower::buffer::BufferLayer;
use tower::limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer, RateLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{Tested, serve};

/// A route that waits for a permit, and counts how many requests are at work in it.
fn waiting(go: &Arc<Semaphore>, at_work: &Arc<AtomicUsize>) -> Router {
    let (go, at_work) = (Arc::clone(go), Arc::clone(at_work));
    Router::new().route("wait", move || {
        let (go, at_work) = (Arc::clone(&go), Arc::clone(&at_work));
        async move {
            at_work.fetch_add(1, Ordering::SeqCst);
            let permit = go.acquire().await.expect("it stays open");
            permit.forget();
            at_work.fetch_sub(1, Ordering::SeqCst);
        }
    })
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(crate::support::PATIENCE, waiting).await;
    waited.expect("it happens");
}

fn call(client: &Client, route: &'static str) -> tokio::task::JoinHandle<Result<(), CallError>> {
    let client = client.clone();
    tokio::spawn(async move { client.request(route).call_raw("").await.map(drop) })
}

#[tokio::test(start_paused = true)]
async fn a_timeout_layer_stops_the_handler_and_tells_the_caller() -> Tested {
    let (go, at_work) = (Arc::new(Semaphore::new(0)), Arc::default());
    let layer = TimeoutLayer::new(Duration::from_millis(50));
    let server = serve("mem://layer-timeout", waiting(&go, &at_work).layer(layer)).await?;
    let client = Client::connect("mem://layer-timeout").await?;
    let error = client
        .request("wait")
        .call_raw("")
        .await
        .expect_err("it waits for ever");
    assert_eq!(error.code(), Code::DEADLINE);
    server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn load_that_a_layer_sheds_is_safe_to_send_elsewhere() -> Tested {
    let (go, at_work) = (Arc::new(Semaphore::new(0)), Arc::default());
    let layers = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1));
    let _server = serve("mem://layer-shed", waiting(&go, &at_work).layer(layers)).await?;
    let client = Client::connect("mem://layer-shed").await?;
    let first = call(&client, "wait");
    until(|| at_work.load(Ordering::SeqCst) == 1).await;
    let error = client
        .request("wait")
        .call_raw("")
        .await
        .expect_err("one is at work");
    assert_eq!(
        (error.code(), error.retry()),
        (Code::OVERLOADED, Retry::Elsewhere)
    );
    go.add_permits(2);
    first.await??;
    client.request("wait").call_raw("").await?;
    Ok(())
}

#[tokio::test]
async fn a_limit_is_for_each_route_and_a_global_one_for_all() -> Tested {
    let pair = |go: &Arc<Semaphore>, at_work: &Arc<AtomicUsize>| {
        let other = waiting(go, at_work);
        waiting(go, at_work).version("2", other)
    };
    let (go, at_work) = (Arc::new(Semaphore::new(0)), Arc::default());
    let each = pair(&go, &at_work).layer(ConcurrencyLimitLayer::new(1));
    let _each = serve("mem://layer-each", each).await?;
    let client = Client::connect("mem://layer-each").await?;
    let calls = ["wait", "wait@2", "wait"].map(|route| call(&client, route));
    until(|| at_work.load(Ordering::SeqCst) == 2).await;
    go.add_permits(3);
    for call in calls {
        call.await??;
    }
    let (go, at_work) = (Arc::new(Semaphore::new(0)), Arc::<AtomicUsize>::default());
    let all = pair(&go, &at_work).layer(GlobalConcurrencyLimitLayer::new(1));
    let all = serve("mem://layer-all", all).await?;
    let client = Client::connect("mem://layer-all").await?;
    let calls = ["wait", "wait@2"].map(|route| call(&client, route));
    until(|| all.stats().running == 2).await;
    assert_eq!(at_work.load(Ordering::SeqCst), 1);
    go.add_permits(2);
    for call in calls {
        call.await??;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_works_within_a_buffer() -> Tested {
    let layers = ServiceBuilder::new()
        .layer(BufferLayer::new(8))
        .layer(RateLimitLayer::new(1, Duration::from_secs(1)));
    let router = Router::new().route("now", async || "now").layer(layers);
    let _server = serve("mem://layer-rate", router).await?;
    let client = Client::connect("mem://layer-rate").await?;
    let began = tokio::time::Instant::now();
    for _ in 0..3 {
        client.request("now").call_raw("").await?;
    }
    assert!(
        began.elapsed() >= Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn an_error_of_a_layer_is_the_answer_and_what_is_within_does_not_run() -> Tested {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let closed = tower::util::MapRequestLayer::new(|request| request);
    let router = Router::new().route("count", move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    let refusing = tower::layer::layer_fn(|_inner: postroad::route::RouteService| {
        service_fn(async |_request| Err::<Reply, _>(Error::new(code!("SHP-E-001"), "closed")))
    });
    let _server = serve("mem://layer-error", router.layer(closed).layer(refusing)).await?;
    let client = Client::connect("mem://layer-error").await?;
    let error = client
        .request("count")
        .call_raw("")
        .await
        .expect_err("it is closed");
    assert_eq!(
        (error.code(), runs.load(Ordering::SeqCst)),
        (code!("SHP-E-001"), 0)
    );
    Ok(())
}

#[tokio::test]
async fn a_client_is_a_service_and_its_deadline_layer_tells_the_server() -> Tested {
    let router = Router::new()
        .route("left", async |deadline: Deadline| {
            Json(deadline.left().map(|left| left.as_millis() as u64))
        })
        .route("double", async |Json(n): Json<i64>| Json(n * 2));
    let _server = serve("mem://layer-client", router).await?;
    let client = Client::connect("mem://layer-client").await?;
    let mut service = DeadlineLayer::new(Duration::from_secs(2)).layer(client);
    let doubled = service
        .ready()
        .await?
        .call(Call::json("double", &21)?)
        .await?;
    assert_eq!(doubled.payload, "42");
    let patient = CallOptions::new().timeout(Duration::from_secs(3600));
    let left = service.call(Call::new("left", "").options(patient)).await?;
    let left: u64 = serde_json::from_slice(&left.payload)?;
    assert!((1..=2000).contains(&left), "{left} ms");
    Ok(())
}

/// A service of tower that answers as it is told, and counts.
fn scripted<F, Fut>(
    counts: Arc<AtomicUsize>,
    answer: F,
) -> impl Service<Call, Response = Reply, Error = CallError, Future: Send> + Clone + Send
where
    F: Fn(usize) -> Fut + Clone + Send,
    Fut: Future<Output = Result<Reply, CallError>> + Send,
{
    service_fn(move |_: Call| answer(counts.fetch_add(1, Ordering::SeqCst)))
}

fn reply(text: &'static str) -> Result<Reply, CallError> {
    let payload = text.into();
    Ok(Reply { codec: 0, payload })
}

fn late() -> Result<Reply, CallError> {
    let timeout = Duration::from_secs(1);
    let sent = true;
    Err(CallError::Deadline { timeout, sent })
}

#[tokio::test(start_paused = true)]
async fn a_retry_layer_sends_again_what_is_safe_and_stops_with_its_budget() -> Tested {
    let counts = Arc::<AtomicUsize>::default();
    let failing_once = |n| async move { if n == 0 { late() } else { reply("again") } };
    let retry = RetryLayer::new(RetryPolicy::default());
    let idempotent = || Call::new("a", "").options(CallOptions::new().idempotent());
    let answer = retry
        .layer(scripted(Arc::clone(&counts), failing_once))
        .oneshot(idempotent())
        .await?;
    assert_eq!(
        (answer.payload, counts.load(Ordering::SeqCst)),
        ("again".into(), 2)
    );
    let counts = Arc::<AtomicUsize>::default();
    let once = retry
        .layer(scripted(Arc::clone(&counts), failing_once))
        .oneshot(Call::new("a", ""))
        .await;
    assert!(once.is_err(), "it may have run, and may not run twice");
    assert_eq!(counts.load(Ordering::SeqCst), 1);
    // All fail: the load is multiplied by little more than the budget.
    let counts = Arc::<AtomicUsize>::default();
    let failing = retry.layer(scripted(Arc::clone(&counts), |_| async { late() }));
    let calls = (0..2000).map(|_| tokio::spawn(failing.clone().oneshot(idempotent())));
    for call in calls.collect::<Vec<_>>() {
        assert!(call.await?.is_err());
    }
    let made = counts.load(Ordering::SeqCst);
    assert!(
        (2200..=2700).contains(&made),
        "{made} attempts of 2000 calls"
    );
    Ok(())
}

#[tokio::test]
async fn a_breaker_layer_refuses_calls_when_too_many_have_failed() -> Tested {
    let counts = Arc::<AtomicUsize>::default();
    let breaker = BreakerLayer::new("shop", BreakerPolicy::default());
    let service = breaker.layer(scripted(Arc::clone(&counts), |_| async { late() }));
    for _ in 0..20 {
        let error = service
            .clone()
            .oneshot(Call::new("a", ""))
            .await
            .expect_err("all fail");
        assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    }
    let error = service
        .oneshot(Call::new("a", ""))
        .await
        .expect_err("it is open");
    let CallError::BreakerOpen {
        target,
        retry_after,
    } = error
    else {
        return Err(error.into());
    };
    assert_eq!((&*target, counts.load(Ordering::SeqCst)), ("shop", 20));
    assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(5));
    Ok(())
}

#[tokio::test]
async fn a_hedge_layer_asks_again_when_an_answer_is_late() -> Tested {
    let counts = Arc::<AtomicUsize>::default();
    // The 201st call hangs; the one after it is its hedge.
    let service = scripted(Arc::clone(&counts), |n| async move {
        if n == 200 {
            std::future::pending::<()>().await;
        }
        reply("answer")
    });
    let mut policy = HedgePolicy::default();
    policy.extra_load = 100;
    let service = HedgeLayer::new(policy).layer(service);
    let idempotent = || Call::new("a", "").options(CallOptions::new().idempotent());
    for _ in 0..200 {
        service.clone().oneshot(idempotent()).await?;
    }
    let late = service.oneshot(idempotent());
    let answer = tokio::time::timeout(crate::support::PATIENCE, late).await??;
    assert_eq!(
        (answer.payload, counts.load(Ordering::SeqCst)),
        ("answer".into(), 202)
    );
    Ok(())
}
