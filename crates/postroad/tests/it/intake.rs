//! What becomes of a request on its way to its handler: turns, queue, bounds, who has sent it, and
//! handlers that are started without a connection.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use postroad::extract::{Metadata, Peer, Request};
use postroad::route::RouteOptions;
use postroad::{
    Bytes, CallContext, Client, Code, Error, Router, Routes, RunningServer, Server, Trace,
};
use tokio::sync::mpsc;

type Tested = Result<(), Box<dyn std::error::Error>>;

/// Waits for something that happens soon.
async fn wait_until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    waited.expect("it happens");
}

fn spin(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// A server whose requests all go through the queue.
async fn serve_queued(router: Router, url: &str) -> Result<RunningServer, postroad::StartError> {
    let endpoint = url.parse().map_err(postroad::StartError::Transport)?;
    let server = Server::new(router).work_budget(Duration::ZERO);
    server.listen(endpoint).start().await
}

#[tokio::test]
async fn a_connection_that_floods_slow_handlers_hardly_delays_another() -> Tested {
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ran);
    let slow = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        spin(Duration::from_micros(200));
        std::future::ready(())
    };
    // Server and clients share one thread, as the connections of one reactor do.
    let server = Server::new(Router::new().route("slow", slow));
    let server = server.listen("tcp://127.0.0.1:0".parse()?).start().await?;
    let url = format!("tcp://{}", server.addresses()[0]);
    let (flood, small) = (Client::connect(&url).await?, Client::connect(&url).await?);
    small.request("postroad/echo").call_raw("warm").await?;
    let calls = (0..1000).map(|_| {
        let flood = flood.clone();
        tokio::spawn(async move { flood.request("slow").call_raw("").await })
    });
    let calls: Vec<_> = calls.collect();
    let mut longest = 0;
    let mut rounds = 0;
    while ran.load(Ordering::Relaxed) < 900 {
        let before = ran.load(Ordering::Relaxed);
        small.request("postroad/echo").call_raw("small").await?;
        longest = longest.max(ran.load(Ordering::Relaxed) - before);
        rounds += 1;
    }
    // Handlers are counted, not time: ten of them are a budget. Reading the small request, starting
    // it, and reading its answer take a turn of everybody each.
    assert!(
        longest <= 60,
        "{longest} slow handlers ran before the small call was answered"
    );
    assert!(rounds > 15, "{rounds} small calls");
    for call in calls {
        call.await??;
    }
    assert_eq!(ran.load(Ordering::Relaxed), 1000);
    wait_until(|| server.stats().queued == 0).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn queued_messages_of_one_connection_keep_their_order() -> Tested {
    let (sender, mut receiver) = mpsc::channel(10_000);
    let note = move |number: String| {
        let noted = sender.try_send(number.parse::<u32>().ok());
        std::future::ready(noted.map_err(|error| Error::internal(error.to_string())))
    };
    let router = Router::new().route("note", note);
    let server = serve_queued(router, "tcp://127.0.0.1:0").await?;
    let client = Client::connect(&format!("tcp://{}", server.addresses()[0])).await?;
    for number in 0..5_000_u32 {
        client
            .request("note")
            .send_bytes(0, number.to_string().into())
            .await?;
    }
    for number in 0..5_000 {
        assert_eq!(receiver.recv().await, Some(Some(number)));
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_is_read_no_further_than_its_share_of_the_queue() -> Tested {
    let server: Arc<OnceLock<RunningServer>> = Arc::default();
    let (seen, most, ran) = (
        Arc::clone(&server),
        Arc::default(),
        Arc::new(AtomicUsize::new(0)),
    );
    let most: Arc<AtomicUsize> = most;
    let (watched, counted) = (Arc::clone(&most), Arc::clone(&ran));
    let look = move || {
        let queued = seen.get().map_or(0, |server| server.stats().queued);
        watched.fetch_max(queued, Ordering::Relaxed);
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    };
    let started = serve_queued(Router::new().route("look", look), "mem://share").await?;
    server.set(started).expect("it is set once");
    let client = Client::connect("mem://share").await?;
    for _ in 0..20_000 {
        client.request("look").send_bytes(0, Bytes::new()).await?;
    }
    wait_until(|| ran.load(Ordering::Relaxed) == 20_000).await;
    let most = most.load(Ordering::Relaxed);
    assert!((100..=256).contains(&most), "{most} were queued at most");
    Ok(())
}

#[tokio::test]
async fn messages_that_are_queued_are_handled_though_their_sender_has_hung_up() -> Tested {
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ran);
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    };
    let server = serve_queued(Router::new().route("count", count), "mem://hung-up").await?;
    let client = Client::connect("mem://hung-up").await?;
    for _ in 0..1_000 {
        client.request("count").send_bytes(0, Bytes::new()).await?;
    }
    client.close().await;
    wait_until(|| server.stats().closed.values().sum::<u64>() == 1).await;
    server.shutdown().await;
    assert_eq!(ran.load(Ordering::Relaxed), 1_000);
    Ok(())
}

#[tokio::test]
async fn queued_requests_are_not_started_past_their_deadline_and_leave_the_queue() -> Tested {
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ran);
    let slow = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        spin(Duration::from_millis(20));
        std::future::ready(())
    };
    let router = Router::new().route("slow", slow);
    let server = serve_queued(router, "mem://late-in-queue").await?;
    let client = Client::connect("mem://late-in-queue").await?;
    let calls = (0..50).map(|_| {
        let client = client.clone();
        let call = async move {
            let request = client.request("slow").timeout(Duration::from_millis(200));
            request.call_raw("").await
        };
        tokio::spawn(call)
    });
    let mut answered = 0;
    for call in calls.collect::<Vec<_>>() {
        answered += usize::from(call.await?.is_ok());
    }
    wait_until(|| server.stats().queued == 0).await;
    let ran = ran.load(Ordering::Relaxed);
    assert!(
        ran < 50 && answered <= ran,
        "{ran} of 50 ran, {answered} were answered"
    );
    Ok(())
}

#[tokio::test]
async fn a_queued_handler_may_wait_fail_or_panic_and_costs_no_other() -> Tested {
    let act = async |what: String| match what.as_str() {
        "wait" => {
            tokio::task::yield_now().await;
            Ok(what)
        }
        "fail" => Err(Error::new("TST-E-001", "as asked for")),
        "panic" => panic!("as asked for"),
        _ => Ok(what),
    };
    let server = serve_queued(Router::new().route("act", act), "mem://queued-acts").await?;
    let client = Client::connect("mem://queued-acts").await?;
    let call = |what: &'static str| {
        let client = client.clone();
        async move { client.request("act").call_raw(what).await }
    };
    let (one, wait, fail, panic, other) = tokio::join!(
        call("one"),
        call("wait"),
        call("fail"),
        call("panic"),
        call("other")
    );
    assert_eq!(
        (one?, wait?, other?),
        ("one".into(), "wait".into(), "other".into())
    );
    assert!(fail.is_err_and(|error| error.to_string().contains("TST-E-001")));
    assert!(panic.is_err_and(|error| error.to_string().contains("SRV-E-500")));
    let stats = server.stats();
    assert_eq!((stats.started, stats.failed, stats.panicked), (5, 2, 1));
    Ok(())
}

/// Routes for calls without a connection.
fn local() -> Routes {
    let routes = Routes::default();
    let router = Router::new()
        .route("who", async |Peer(peer): Peer, request: Request| {
            format!("{peer} by {} for {}", request.protocol(), request.route())
        })
        .route("meta", async |Metadata(pairs): Metadata| {
            format!("{pairs:?}")
        })
        .route("context", async |context: CallContext| {
            let now = CallContext::current().expect("a handler runs");
            assert_eq!(now.priority(), context.priority());
            let has_deadline = context.time_left().is_some();
            format!(
                "{} {has_deadline} {}",
                context.priority(),
                context.trace().is_some()
            )
        })
        .route("panic", async |_: Bytes| -> Bytes {
            panic!("as asked for")
        })
        .route("never", async || std::future::pending::<()>().await);
    routes.add(router);
    routes
}

#[tokio::test]
async fn a_handler_is_called_without_a_connection_as_with_one() -> Tested {
    let routes = local();
    let call = async |request: Request| routes.call(request).await.map(|reply| reply.payload);
    assert_eq!(
        call(Request::to("who", "")).await?,
        "local by local for who"
    );
    let peer = Arc::new(postroad::transport::PeerInfo::named("10.0.0.7"));
    let request = Request::to("who", "").with_peer(peer, "mqtt");
    assert_eq!(call(request).await?, "10.0.0.7 by mqtt for who");
    let request = Request::to("meta", "")
        .with_metadata("tenant", b"a")?
        .with_metadata("user", b"b")?;
    assert_eq!(
        call(request).await?,
        r#"[("tenant", b"a"), ("user", b"b")]"#
    );
    let trace = Trace {
        id: [1; 16],
        span: [2; 8],
        flags: 1,
    };
    let request = Request::to("context", "")
        .with_priority(6)
        .with_timeout(Duration::from_secs(5))
        .with_trace(trace);
    assert_eq!(call(request).await?, "6 true true");
    assert_eq!(call(Request::to("context", "")).await?, "3 false false");
    let error = call(Request::to("nowhere", "")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.trace().is_some()),
        (Code::NOT_FOUND, true)
    );
    let error = call(Request::to("panic", "")).await.unwrap_err();
    assert_eq!(error.code(), Code::INTERNAL);
    assert!(
        Request::to("meta", "")
            .with_metadata(&"k".repeat(256), b"")
            .is_err()
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_connection_ends_at_its_deadline_and_when_it_is_dropped() -> Tested {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let routes = local();
    let request = Request::to("never", "").with_timeout(Duration::from_millis(50));
    let error = routes.call(request).await.unwrap_err();
    assert_eq!(error.code(), Code::DEADLINE);
    let is_dropped = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&is_dropped);
    let hold = move || {
        let held = Dropped(Arc::clone(&watched));
        async move {
            std::future::pending::<()>().await;
            drop(held);
        }
    };
    routes.add(Router::new().route("hold", hold));
    let call = tokio::spawn({
        let routes = routes.clone();
        async move { routes.call(Request::to("hold", "")).await }
    });
    tokio::task::yield_now().await;
    assert!(!is_dropped.load(Ordering::SeqCst));
    call.abort();
    assert!(call.await.is_err() && is_dropped.load(Ordering::SeqCst));
    Ok(())
}

#[tokio::test]
async fn calls_without_a_connection_share_the_servers_places_and_counters() -> Tested {
    let mut config = postroad::ServerConfig::default();
    config.max_requests = 1;
    let router = Router::new().route("never", async || std::future::pending::<()>().await);
    let server = Server::new(router).config(config);
    let server = server.listen("mem://places".parse()?).start().await?;
    let routes = server.routes().clone();
    let held = tokio::spawn(async move { routes.call(Request::to("never", "")).await });
    wait_until(|| server.stats().running == 1).await;
    let client = Client::connect("mem://places").await?;
    let refused = client.request("never").call_raw("").await.unwrap_err();
    assert!(refused.to_string().contains("SRV-E-429"), "{refused}");
    let refused = server.routes().call(Request::to("never", "")).await;
    assert_eq!(refused.unwrap_err().code(), Code::OVERLOADED);
    held.abort();
    wait_until(|| server.stats().running == 0).await;
    assert_eq!((server.stats().started, server.stats().failed), (1, 2));
    Ok(())
}

#[tokio::test]
async fn nothing_is_started_without_a_connection_once_the_server_drains() -> Tested {
    let router = Router::new().route("hello", async || "hello");
    let server = Server::new(router).listen("mem://drained".parse()?);
    let server = server.start().await?;
    let routes = server.routes().clone();
    assert_eq!(
        routes.call(Request::to("hello", "")).await?.payload,
        "hello"
    );
    server.shutdown().await;
    let error = routes.call(Request::to("hello", "")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.retry()),
        (Code::DRAINING, postroad::Retry::Elsewhere)
    );
    Ok(())
}

#[tokio::test]
async fn a_shutdown_ends_as_soon_as_the_last_one_way_handler_has() -> Tested {
    let gate = Arc::new(tokio::sync::Notify::new());
    let waits = Arc::clone(&gate);
    let wait = move || {
        let gate = Arc::clone(&waits);
        async move { gate.notified().await }
    };
    let server = Server::new(Router::new().route("wait", wait));
    let server = server.listen("mem://last".parse()?).start().await?;
    let client = Client::connect("mem://last").await?;
    client.request("wait").send_bytes(0, Bytes::new()).await?;
    wait_until(|| server.stats().running == 1).await;
    client.close().await;
    wait_until(|| server.stats().open == 0).await;
    let shutdown = tokio::spawn(server.shutdown());
    tokio::task::yield_now().await;
    assert!(!shutdown.is_finished());
    gate.notify_one();
    tokio::time::timeout(Duration::from_secs(10), shutdown).await??;
    Ok(())
}

/// A service whose methods have attributes.
#[postroad::service]
trait Shelf {
    /// What is on it.
    #[must_use]
    async fn list(&self) -> Result<u32, Error>;
    #[deprecated = "use list"]
    async fn count(&self) -> Result<u32, Error>;
    #[cfg(any())]
    async fn absent(&self, what: ThereIsNoSuchType) -> Result<(), Error>;
}

struct Empty;

impl Shelf for Empty {
    async fn list(&self) -> Result<u32, Error> {
        Ok(0)
    }

    async fn count(&self) -> Result<u32, Error> {
        Ok(0)
    }
}

#[tokio::test]
async fn attributes_of_a_services_methods_are_kept() -> Tested {
    let server = Server::new(shelf_routes(Empty));
    let server = server.listen("mem://shelf".parse()?).start().await?;
    let client = ShelfClient::new(Client::connect("mem://shelf").await?);
    // Without the attribute this lint would have nothing to allow.
    #[expect(deprecated, reason = "that it is deprecated is what is tested")]
    let count = client.count().await?;
    assert_eq!((count, client.list().await?), (0, 0));
    let routes = server.routes().list();
    assert!(routes.iter().all(|route| route.route != "Shelf.absent"));
    Ok(())
}

#[tokio::test]
async fn what_an_author_declares_of_a_route_is_listed() -> Tested {
    let options = RouteOptions::new()
        .describe("Counts")
        .idempotent()
        .priority_max(9)
        .timeout(Duration::from_millis(200))
        .types("{item}", "count")
        .schema(serde_json::json!({"type": "object"}));
    let routes = Routes::default();
    routes.add(Router::new().route_with("stock/count", options, async || 7.to_string()));
    routes.add(Router::new().route("plain", async |text: String| text));
    let listed = serde_json::to_value(routes.list())?;
    let expected = serde_json::json!([
        {"route": "plain", "request": "String", "response": "String"},
        {
            "route": "stock/count", "request": "{item}", "response": "count",
            "description": "Counts", "idempotent": true, "priority_max": 7, "timeout_ms": 200,
            "schema": {"type": "object"},
        },
    ]);
    assert_eq!(listed, expected);
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_handler_knows_the_process_behind_a_unix_socket_and_its_agent() -> Tested {
    let folder = tempfile::tempdir()?;
    let url = format!("unix://{}", folder.path().join("node.sock").display());
    let who = async |Peer(peer): Peer| {
        let process = peer.unix_credentials().expect("it came by a Unix socket");
        let listener = peer.listener().map(ToString::to_string);
        format!(
            "{:?} {:?} {:?} {} {}",
            process.pid.map(|pid| pid as u32) == Some(std::process::id()),
            peer.transport(),
            peer.agent().is_some_and(|agent| agent.contains("postroad")),
            listener.is_some_and(|listener| listener.starts_with("unix://")),
            peer.certificate().is_none(),
        )
    };
    let server = Server::new(Router::new().route("who", who));
    let _server = server.listen(url.parse()?).start().await?;
    let client = Client::connect(&url).await?;
    let answer = client.request("who").call_raw("").await?;
    assert_eq!(answer, r#"true Some("unix") true true true"#);
    Ok(())
}
