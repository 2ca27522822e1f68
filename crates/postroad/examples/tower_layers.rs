//! Layers of tower around routes, written by a user: one that takes the time, one that looks at who
//! calls, and one that answers for handlers that panic in words of its own.
//! `cargo run -p postroad --features tower --example tower_layers`.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use postroad::extract::{Reply, Request};
use postroad::{CallContext, Client, Error, Router, Server, code};
use tower::timeout::TimeoutLayer;
use tower::{BoxError, Layer, Service, ServiceBuilder};

type Answering = Pin<Box<dyn Future<Output = Result<Reply, BoxError>> + Send>>;

/// How long requests took, by route.
#[derive(Clone, Debug, Default)]
struct Timing(Arc<Mutex<Vec<(String, Duration)>>>);

#[derive(Clone)]
struct Timed<S> {
    inner: S,
    timing: Timing,
}

impl<S> Layer<S> for Timing {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        let timing = self.clone();
        Timed { inner, timing }
    }
}

impl<S> Service<Request> for Timed<S>
where
    S: Service<Request, Response = Reply, Error: Into<BoxError>>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Answering {
        let (began, route) = (Instant::now(), request.route().to_owned());
        let (timing, answering) = (self.timing.clone(), self.inner.call(request));
        Box::pin(async move {
            let answer = answering.await;
            let mut times = timing.0.lock().unwrap_or_else(PoisonError::into_inner);
            times.push((route, began.elapsed()));
            answer.map_err(Into::into)
        })
    }
}

/// Who calls, as the layer below has found out.
struct User(String);

/// Lets only those pass who bring this token.
#[derive(Clone)]
struct Auth(&'static str);

#[derive(Clone)]
struct Authenticated<S> {
    inner: S,
    token: &'static str,
}

impl<S> Layer<S> for Auth {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        let token = self.0;
        Authenticated { inner, token }
    }
}

impl<S> Service<Request> for Authenticated<S>
where
    S: Service<Request, Response = Reply, Error: Into<BoxError>>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request) -> Answering {
        if request.metadata("token").unwrap_or_default() != self.token {
            let error = Error::new(code!("AUT-E-401"), "the token is missing or wrong");
            return Box::pin(async { Err(error.into()) });
        }
        request.set_identity(User("Ada".to_owned()));
        let answering = self.inner.call(request);
        Box::pin(async { answering.await.map_err(Into::into) })
    }
}

/// Answers for handlers that panic.
#[derive(Clone, Copy)]
struct PanicSafe;

#[derive(Clone)]
struct Safe<S>(S);

impl<S> Layer<S> for PanicSafe {
    type Service = Safe<S>;

    fn layer(&self, inner: S) -> Safe<S> {
        Safe(inner)
    }
}

impl<S> Service<Request> for Safe<S>
where
    S: Service<Request, Response = Reply, Error: Into<BoxError>>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Answering {
        let mut answering = Box::pin(self.0.call(request));
        Box::pin(std::future::poll_fn(move |cx| {
            let polled = catch_unwind(AssertUnwindSafe(|| answering.as_mut().poll(cx)));
            match polled {
                Ok(polled) => polled.map_err(Into::into),
                Err(_) => {
                    let error = Error::new(code!("SHP-E-500"), "the shop is on fire");
                    Poll::Ready(Err(error.into()))
                }
            }
        }))
    }
}

async fn show() -> Result<(), Box<dyn std::error::Error>> {
    let timing = Timing::default();
    // What comes first is outermost.
    let layers = ServiceBuilder::new()
        .layer(timing.clone())
        .layer(Auth("let me in"))
        .layer(TimeoutLayer::new(Duration::from_millis(100)))
        .layer(PanicSafe);
    let inside = Router::new()
        .route("shop/who", async |cx: CallContext| {
            cx.identity()
                .map_or("nobody".to_owned(), |User(name)| name.clone())
        })
        .route("shop/slow", async || {
            tokio::time::sleep(Duration::from_secs(60)).await;
        })
        .route("shop/fire", async |text: String| {
            assert!(text != "fire", "somebody has cried fire");
        })
        .layer(layers);
    // A route outside of the layers pays for none of them.
    let router = Router::new().route("open", async || "hello").merge(inside);
    let server = Server::new(router)
        .listen("tcp://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let stranger = Client::connect(&format!("tcp://{}", server.addresses()[0])).await?;
    assert_eq!(stranger.request("open").call_raw("").await?, "hello");
    let refused = stranger
        .request("shop/who")
        .call_raw("")
        .await
        .expect_err("no token");
    println!("without a token: {refused}");
    assert_eq!(refused.code(), code!("AUT-E-401"));

    let client = stranger.before(|call| call.metadata("token", "let me in"));
    let who = client.request("shop/who").call_raw("").await?;
    println!("with a token: {}", String::from_utf8_lossy(&who));
    assert_eq!(who, "Ada");
    for (route, expected) in [("shop/slow", "SRV-E-504"), ("shop/fire", "SHP-E-500")] {
        let failed = client
            .request(route)
            .call_raw("fire")
            .await
            .expect_err("it fails");
        println!("{route}: {failed}");
        assert_eq!(failed.code().to_string(), expected);
    }
    let times = timing
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    for (route, took) in &times {
        println!("{route} took {took:.1?}");
    }
    assert_eq!(
        times.len(),
        4,
        "also those that were refused or have failed"
    );
    server.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    show().await
}

#[tokio::test]
async fn layers_that_a_user_writes_work() -> Result<(), Box<dyn std::error::Error>> {
    show().await
}
