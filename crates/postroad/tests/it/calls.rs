//! Clients and servers in one process: what users write, and what they get.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use postroad::codec::Packet;
use postroad::codec::{Codec, PacketCodec, Raw};
use postroad::extract::{Metadata, Request, State};
use postroad::{
    Bytes, CallContext, CallError, Client, ClientConfig, Code, Error, Json, MsgPack, Retry, Router,
    Server, ServerConfig, Trace,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};

use crate::support::{Tested, connect, serve};

#[postroad::service]
trait Stock {
    /// How many there are.
    async fn count(&self, item: String) -> Result<u32, Error>;
    async fn reserve(&self, item: String, count: u32) -> Result<Reservation, Error>;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reservation {
    item: String,
    left: u32,
}

struct Shelf;

impl Stock for Shelf {
    async fn count(&self, item: String) -> Result<u32, Error> {
        if item == "nothing" {
            return Err(Error::new("INV-E-003", "the shelf is empty"));
        }
        Ok(item.len() as u32)
    }

    async fn reserve(&self, item: String, count: u32) -> Result<Reservation, Error> {
        tokio::task::yield_now().await;
        Ok(Reservation {
            left: 10 - count,
            item,
        })
    }
}

fn remote(error: CallError) -> Error {
    match error {
        CallError::Remote(error) => error,
        other => panic!("expected the server's error, got {other:?}"),
    }
}

#[tokio::test]
async fn a_typed_service_is_called_in_json_and_messagepack_and_by_name() -> Tested {
    let _server = serve("mem://typed", stock_routes(Shelf)).await?;
    for client in [
        Client::connect("mem://typed").await?,
        Client::connect("mem://typed").await?.with_msgpack(),
    ] {
        let stock = StockClient::new(client);
        assert_eq!(stock.count("nails".into()).await?, 5);
        let reserved = stock.reserve("nails".into(), 4).await?;
        assert_eq!(
            reserved,
            Reservation {
                item: "nails".into(),
                left: 6
            }
        );
    }
    let client = Client::connect("mem://typed").await?;
    let value = serde_json::json!({"item": "nails"});
    assert_eq!(client.request("Stock.count").call_json(&value).await?, 5);
    let routes: serde_json::Value = client.call("postroad/routes", &()).await?;
    let count = &routes.as_array().ok_or("no list")?[0];
    assert_eq!(count["route"], "Stock.count");
    assert_eq!(
        (&count["request"], &count["response"]),
        (&"{item: String}".into(), &"u32".into())
    );
    Ok(())
}

#[tokio::test]
async fn a_server_says_by_its_health_route_whether_it_is_ready() -> Tested {
    let begun = Arc::new(Notify::new());
    let go = Arc::new(Notify::new());
    let (begins, goes) = (Arc::clone(&begun), Arc::clone(&go));
    // A hook that holds the question until the server is being shut down.
    let hold = move |request: Request| {
        let (begins, goes) = (Arc::clone(&begins), Arc::clone(&goes));
        async move {
            if request.metadata("hold").is_some() {
                begins.notify_one();
                goes.notified().await;
            }
            Ok(request)
        }
    };
    let server = Server::new(Router::new()).before(hold);
    let server = server.listen("mem://health".parse()?).start().await?;
    let client = Client::connect("mem://health").await?;
    let health = || client.request("postroad/health").call_raw("");
    assert_eq!(health().await?, r#"{"ready":true}"#);
    server.routes().set_ready(false);
    assert_eq!(health().await?, r#"{"ready":false}"#);
    server.routes().set_ready(true);
    assert_eq!(health().await?, r#"{"ready":true}"#);
    let held = client.request("postroad/health").metadata("hold", "on");
    let shutdown = async {
        begun.notified().await;
        tokio::join!(server.shutdown(), async { go.notify_one() });
    };
    let (answer, ()) = tokio::join!(held.call_raw(""), shutdown);
    assert_eq!(answer?, r#"{"ready":false}"#, "it is being shut down");
    Ok(())
}

#[tokio::test]
async fn every_codec_and_extractor_has_its_handler() -> Tested {
    let router = Router::with_state(Arc::new(7_i64))
        .route(
            "json",
            async |State(state): State<Arc<i64>>, Json(n): Json<i64>| Json(n * *state),
        )
        .route("msgpack", async |MsgPack(n): MsgPack<i64>| MsgPack(n + 1))
        .route("packet", async |packet: Packet| packet)
        .route("raw", async |bytes: Bytes| bytes)
        .route("text", async |text: String| text.to_uppercase())
        .route("metadata", async |Metadata(pairs): Metadata| {
            Json(pairs.len())
        })
        .route("request", async |request: Request, context: CallContext| {
            let is_soon = context
                .time_left()
                .is_some_and(|left| left < Duration::from_secs(2));
            Json((
                request.route().to_string(),
                context.priority(),
                is_soon,
                request.attempt,
            ))
        });
    let _server = serve("mem://codecs", router).await?;
    let client = Client::connect("mem://codecs").await?;
    assert_eq!(client.call::<i64, i64>("json", &6).await?, 42);
    assert_eq!(
        client
            .clone()
            .with_msgpack()
            .call::<i64, i64>("msgpack", &1)
            .await?,
        2
    );
    let packet = Packet {
        id: 1,
        timestamp: 2,
        payload: Bytes::from_static(b"x"),
    };
    let back: Packet = client
        .request("packet")
        .call_with(&PacketCodec, &packet)
        .await?;
    assert_eq!(back, packet);
    let bytes = Bytes::from_static(b"\xff\0");
    let back: Bytes = client.request("raw").call_with(&Raw, &bytes).await?;
    assert_eq!(back, bytes);
    assert_eq!(client.request("text").call_raw("grüße").await?, "GRÜSSE");
    let pairs = client
        .request("metadata")
        .metadata("a", "1")
        .metadata("b", "2")
        .call(&())
        .await;
    assert_eq!(pairs.map_err(|error| error.to_string()), Ok(2));
    let seen: (String, u8, bool, u8) = client
        .request("request")
        .priority(7)
        .attempt(2)
        .timeout(Duration::from_secs(1))
        .call(&())
        .await?;
    assert_eq!(seen, ("request".into(), 7, true, 2));
    Ok(())
}

#[tokio::test]
async fn values_that_are_not_what_a_route_takes_are_refused_with_the_place() -> Tested {
    let _server = serve("mem://wrong", stock_routes(Shelf)).await?;
    let client = Client::connect("mem://wrong").await?;
    let error = remote(client.call::<_, u32>("Stock.count", &17).await.unwrap_err());
    assert_eq!(error.code(), Code::BAD_REQUEST);
    assert!(error.message().contains("line 1 column 2"), "{error}");
    let error = remote(
        client
            .request("Stock.count")
            .call_raw("{\"item\":")
            .await
            .unwrap_err(),
    );
    assert_eq!(error.code(), Code::BAD_REQUEST);
    let error = remote(client.request("no/such").call_raw("").await.unwrap_err());
    assert_eq!(error.to_string(), "SRV-E-404 no route \"no/such\"");
    assert!(
        error.trace().is_some(),
        "every failure can be found in the log"
    );
    let invalid: Result<String, _> = Codec::decode(&Json(()), &Bytes::from_static(b"\"\xff\""));
    assert!(invalid.is_err());
    Ok(())
}

/// Calls the stock and wraps its failure in an error of its own.
fn order_routes(stock: Client) -> Router<StockClient> {
    Router::with_state(StockClient::new(stock)).route(
        "Order.place",
        async |State(stock): State<StockClient>,
               Json(item): Json<String>|
               -> Result<Json<u32>, Error> {
            let count = stock.count(item).await.map_err(|cause| {
                Error::new("ORD-E-102", "the order cannot be filled").caused_by(cause)
            })?;
            Ok(Json(count))
        },
    )
}

#[tokio::test]
async fn an_error_brings_its_chain_and_its_trace_across_services() -> Tested {
    let _stock = serve("mem://chain-stock", stock_routes(Shelf)).await?;
    let orders = order_routes(Client::connect("mem://chain-stock").await?);
    let _orders = serve("mem://chain-orders", orders).await?;
    let client = Client::connect("mem://chain-orders").await?;
    let trace = Trace {
        id: [7; 16],
        span: [1; 8],
        flags: 1,
    };
    let call = client
        .request("Order.place")
        .trace(trace)
        .call::<_, u32>("nothing");
    let error = remote(call.await.unwrap_err());
    let expected = "ORD-E-102 the order cannot be filled, caused by INV-E-003 the shelf is empty";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.causes().len(), 2);
    assert_eq!(error.trace().map(|trace| trace.id), Some([7; 16]));
    Ok(())
}

#[tokio::test]
async fn a_handlers_own_calls_end_no_later_than_its_own_and_keep_its_priority() -> Tested {
    let inner = Router::new().route("inner", async |context: CallContext| {
        Json((
            context.priority(),
            context.time_left().map(|left| left.as_secs()),
        ))
    });
    let _inner = serve("mem://inherit-inner", inner).await?;
    let outer = Router::with_state(Client::connect("mem://inherit-inner").await?);
    let outer = outer.route("outer", async |State(client): State<Client>| {
        tokio::task::yield_now().await;
        client
            .request("inner")
            .timeout(Duration::from_secs(60))
            .call::<_, (u8, Option<u64>)>(&())
            .await
            .map(Json)
    });
    let _outer = serve("mem://inherit-outer", outer).await?;
    let client = Client::connect("mem://inherit-outer").await?;
    let call = client
        .request("outer")
        .priority(6)
        .timeout(Duration::from_secs(4));
    let (priority, left): (u8, Option<u64>) = call.call(&()).await?;
    assert_eq!((priority, left), (6, Some(3)));
    Ok(())
}

#[tokio::test]
async fn thousands_of_calls_share_one_connection_and_each_gets_its_own_answer() -> Tested {
    let router = Router::new().route("twice", async |Json(n): Json<u64>| {
        if n % 7 == 0 {
            tokio::task::yield_now().await;
        }
        Json(n * 2)
    });
    let server = serve("mem://many", router).await?;
    let client = Client::connect("mem://many").await?;
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..50_u64 {
        let client = client.clone();
        tasks.spawn(async move {
            for n in 0..100 {
                let n = worker * 1000 + n;
                assert_eq!(
                    client
                        .call::<u64, u64>("twice", &n)
                        .await
                        .expect("an answer"),
                    n * 2
                );
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result?;
    }
    assert_eq!(server.stats().started, 5000);
    assert_eq!(server.stats().accepted, 1);
    Ok(())
}

#[tokio::test]
async fn large_bodies_go_both_ways() -> Tested {
    let _server = serve("tcp://127.0.0.1:0", Router::new()).await?;
    let client = connect(&_server).await?;
    let body = Bytes::from(vec![42; 5 << 20]);
    assert_eq!(
        client
            .request("postroad/echo")
            .call_raw(body.clone())
            .await?,
        body
    );
    let too_large = vec![0; 17 << 20];
    let error = client
        .request("postroad/echo")
        .call_raw(too_large)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Unsendable(_)), "{error}");
    assert_eq!(error.retry(), Retry::Never);
    Ok(())
}

struct OnDrop(Option<oneshot::Sender<()>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.take().map(|dropped| dropped.send(()));
    }
}

type Dropped = Arc<std::sync::Mutex<Option<oneshot::Sender<()>>>>;

#[tokio::test]
async fn dropping_a_call_stops_its_handler_at_the_server() -> Tested {
    let (started, dropped) = (Arc::new(Notify::new()), oneshot::channel());
    let slot = Arc::new(std::sync::Mutex::new(Some(dropped.0)));
    let router = Router::with_state((Arc::clone(&started), slot)).route(
        "forever",
        async |State((started, slot)): State<(Arc<Notify>, Dropped)>| {
            let _guard = OnDrop(slot.lock().expect("no handler panicked").take());
            started.notify_one();
            std::future::pending::<()>().await;
        },
    );
    let _server = serve("mem://cancel", router).await?;
    let client = Client::connect("mem://cancel").await?;
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.request("forever").call_raw("").await })
    };
    started.notified().await;
    call.abort();
    dropped.1.await?;
    assert_eq!(
        client
            .request("postroad/echo")
            .call_raw("still here")
            .await?,
        "still here"
    );
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_dropped_in_any_stage_leaves_its_place_to_the_next() -> Tested {
    let router = Router::new().route("forever", async || std::future::pending::<()>().await);
    let url = "mem://stages";
    let mut config = ClientConfig::default();
    // Whoever left its place taken would keep the next one from calling.
    config.connection.limits.max_calls = 1;
    let client = Client::new(url.parse()?, config)?;
    let echo = || client.request("postroad/echo").call_raw("x");
    let waker = std::task::Waker::noop();
    let mut cx = Context::from_waker(waker);

    // It waits for a connection.
    let mut waiting = Box::pin(echo());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    drop(waiting);
    let _server = serve(url, router).await?;
    client.try_now();
    assert_eq!(echo().await?, "x");

    for _ in 0..3 {
        // It was not made.
        drop(echo());
        // It was sent, and its handler waits.
        let mut sent = Box::pin(client.request("forever").call_raw(""));
        assert!(sent.as_mut().poll(&mut cx).is_pending());
        let error = echo().await.expect_err("there is one place");
        assert!(matches!(error, CallError::Busy(_)), "{error:?}");
        drop(sent);
        assert_eq!(echo().await?, "x");
        // Its answer is there, and nobody has looked.
        let (woken, mut answered) = (Arc::new(Woken::default()), Box::pin(echo()));
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        assert!(answered.as_mut().poll(&mut cx).is_pending());
        woken.0.notified().await;
        drop(answered);
        assert_eq!(echo().await?, "x");
    }
    Ok(())
}

/// A waker that tells.
#[derive(Default)]
struct Woken(Notify);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_call_and_says_whether_it_may_have_run() -> Tested {
    let router = Router::new().route("forever", async || std::future::pending::<()>().await);
    let _server = serve("mem://deadline", router).await?;
    let client = Client::connect("mem://deadline").await?;
    let before = tokio::time::Instant::now();
    let error = client
        .request("forever")
        .timeout(Duration::from_secs(2))
        .call_raw("")
        .await
        .unwrap_err();
    assert!(
        matches!(error, CallError::Deadline { sent: true, .. }),
        "{error}"
    );
    assert_eq!(error.retry(), Retry::IfIdempotent);
    let taken = before.elapsed();
    assert!(
        taken >= Duration::from_secs(2) && taken < Duration::from_millis(2010),
        "{taken:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_call_and_nothing_else() -> Tested {
    let router = Router::new()
        .route("at/once", async || -> () { panic!("in place") })
        .route("later", async || -> () {
            tokio::task::yield_now().await;
            panic!("in a task")
        });
    let server = serve("mem://panic", router).await?;
    let client = Client::connect("mem://panic").await?;
    for route in ["at/once", "later"] {
        let error = remote(client.request(route).call_raw("").await.unwrap_err());
        assert_eq!(
            (error.code(), error.retry()),
            (Code::INTERNAL, Retry::IfIdempotent)
        );
        assert!(
            !error.to_string().contains("in place"),
            "what exactly failed is not the caller's business"
        );
    }
    assert_eq!(client.request("postroad/echo").call_raw("x").await?, "x");
    assert_eq!((server.stats().panicked, server.stats().open), (2, 1));
    Ok(())
}

#[tokio::test]
async fn a_handler_that_panics_in_a_batch_costs_no_other_call_of_it() -> Tested {
    struct Guard(Arc<AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    /// Panics when it is polled, and holds something until it is dropped.
    struct Panics(#[allow(dead_code, reason = "it is dropped")] Guard);
    impl Future for Panics {
        type Output = ();
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            panic!("in place")
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let guarded = Arc::clone(&dropped);
    let router = Router::new()
        .route("priority", async || {
            Json(CallContext::current().map(|context| context.priority()))
        })
        .route("panics", move || Panics(Guard(Arc::clone(&guarded))));
    let server = serve("mem://panics", router).await?;
    let client = Client::connect("mem://panics").await?;
    let priority = |n| client.request("priority").priority(n).call::<_, u8>(&());
    let panics = || client.request("panics").call_raw("");
    for round in 1..=3 {
        // The first leaves alone, the others together.
        let (_, b, c, d, e, f) = tokio::join!(
            priority(0),
            panics(),
            priority(5),
            panics(),
            panics(),
            priority(6)
        );
        assert_eq!((c?, f?), (5, 6));
        for panicked in [b, d, e] {
            assert_eq!(remote(panicked.unwrap_err()).code(), Code::INTERNAL);
        }
        assert_eq!(server.stats().panicked, 3 * round);
        assert_eq!(dropped.load(Ordering::Relaxed), 3 * round as usize);
    }
    assert!(CallContext::current().is_none());
    assert_eq!((server.stats().failed, server.stats().open), (9, 1));
    Ok(())
}

#[tokio::test]
async fn the_table_of_routes_changes_while_the_server_runs() -> Tested {
    let server = serve("mem://table", Router::new()).await?;
    let client = Client::connect("mem://table").await?;
    assert!(client.request("new").call_raw("").await.is_err());
    server
        .routes()
        .add(Router::new().route("new", async || "here"));
    assert_eq!(client.request("new").call_raw("").await?, "here");
    assert!(server.routes().remove("new"));
    assert!(client.request("new").call_raw("").await.is_err());
    Ok(())
}

#[tokio::test]
async fn one_way_messages_arrive_in_order() -> Tested {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1000);
    let router = Router::with_state(sender).route(
        "log",
        async |State(sender): State<tokio::sync::mpsc::Sender<u32>>, Json(n): Json<u32>| {
            sender.try_send(n).expect("there is room");
        },
    );
    let _server = serve("mem://oneway", router).await?;
    let client = Client::connect("mem://oneway").await?;
    for n in 0..500 {
        client.send("log", &n).await?;
    }
    for n in 0..500 {
        assert_eq!(receiver.recv().await, Some(n));
    }
    Ok(())
}

#[tokio::test]
async fn more_requests_than_the_server_takes_are_refused_with_a_hint() -> Tested {
    let gate = Arc::new(Notify::new());
    let router = Router::with_state(Arc::clone(&gate)).route(
        "wait",
        async |State(gate): State<Arc<Notify>>| {
            gate.notified().await;
        },
    );
    let mut config = ServerConfig::default();
    config.max_requests = 1;
    let server = Server::new(router)
        .config(config)
        .listen("mem://full".parse()?)
        .start()
        .await?;
    let client = Client::connect("mem://full").await?;
    let first = {
        let client = client.clone();
        tokio::spawn(async move { client.request("wait").call_raw("").await })
    };
    while server.stats().started == 0 {
        tokio::task::yield_now().await;
    }
    let error = remote(client.request("wait").call_raw("").await.unwrap_err());
    assert_eq!(
        (error.code(), error.retry()),
        (Code::OVERLOADED, Retry::Here)
    );
    assert!(error.retry_after().is_some());
    gate.notify_one();
    first.await??;
    Ok(())
}

#[test]
fn a_blocking_client_needs_no_runtime() -> Tested {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let server = runtime.block_on(serve("tcp://127.0.0.1:0", stock_routes(Shelf)))?;
    let client = postroad::BlockingClient::connect(&format!("tcp://{}", server.addresses()[0]))?;
    let count: u32 = client.call("Stock.count", &serde_json::json!({"item": "nails"}))?;
    assert_eq!(count, 5);
    let loud = client.with("postroad/echo", |call| call.priority(7).call_raw("x"))?;
    assert_eq!(loud, "x");
    runtime.block_on(server.shutdown());
    Ok(())
}

#[tokio::test]
async fn connections_are_spread_over_reactors_of_their_own() -> Tested {
    let mut config = ServerConfig::default();
    config.workers = Some(2);
    let names = Router::new().route("thread", async || {
        std::thread::current().name().unwrap_or_default().to_owned()
    });
    let server = Server::new(names)
        .config(config)
        .listen("tcp://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let url = format!("tcp://{}", server.addresses()[0]);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let client = Client::connect(&url).await?;
        seen.insert(client.request("thread").call_raw("").await?);
    }
    assert_eq!(seen.len(), 2);
    server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn what_was_sent_again_is_known_at_every_hop_behind() -> Tested {
    let last = Router::new().route("is_retry", async |context: CallContext| {
        Json(vec![context.is_retry()])
    });
    let _last = serve("mem://hops-last", last).await?;
    let next = Client::connect("mem://hops-last").await?;
    let forward = async |State(next): State<Client>, context: CallContext| {
        let mut seen: Vec<bool> = next.call("is_retry", &()).await?;
        seen.insert(0, context.is_retry());
        Ok::<_, Error>(Json(seen))
    };
    let middle = Router::with_state(next).route("is_retry", forward);
    let _middle = serve("mem://hops-middle", middle).await?;
    let next = Client::connect("mem://hops-middle").await?;
    let first = Router::with_state(next).route("is_retry", forward);
    let _first = serve("mem://hops-first", first).await?;
    let client = Client::connect("mem://hops-first").await?;
    let seen: Vec<bool> = client.call("is_retry", &()).await?;
    assert_eq!(seen, [false; 3]);
    let seen: Vec<bool> = client.request("is_retry").attempt(1).call(&()).await?;
    assert_eq!(seen, [true; 3]);
    let seen: Vec<bool> = client.request("is_retry").no_retry().call(&()).await?;
    assert_eq!(seen, [true; 3]);
    Ok(())
}
