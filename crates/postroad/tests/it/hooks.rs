//! Hooks around every request of a server, and of a router's routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postroad::config::Credentials;
use postroad::extract::{Deadline, Identity, Reply, Request};
use postroad::{
    Bytes, CallError, Client, ClientConfig, Code, Error, Json, Next, Router, Routes, Server,
    ServerConfig, code,
};

use crate::support::Tested;

#[derive(Debug, PartialEq, Eq)]
struct User(String);

/// Lets pass who has the token, and says who that is.
async fn authenticate(mut request: Request) -> Result<Request, Error> {
    match request.metadata("token") {
        Some(token) if token == "let me in" => request.set_identity(User("ada".to_owned())),
        _ => return Err(Error::new(code!("AUT-E-401"), "no token")),
    }
    Ok(request)
}

fn routes() -> Router {
    Router::new().route("who", async |user: Identity<User>| user.0.0.clone())
}

fn code_of<T>(answer: Result<T, CallError>) -> Option<Code> {
    answer.err().map(|error| error.code())
}

#[tokio::test]
async fn no_route_escapes_a_servers_hook() -> Tested {
    let server = Server::new(routes()).before(authenticate);
    let server = server
        .listen("mem://hook-all".parse()?)
        .listen("tcp+line://127.0.0.1:0".parse()?)
        .start()
        .await?;
    server
        .routes()
        .add(Router::new().route("later", async || "late"));
    let stranger = Client::connect("mem://hook-all").await?;
    let friend = stranger
        .clone()
        .before(|call| call.metadata("token", "let me in"));
    for route in [
        "who",
        "later",
        "postroad/echo",
        "postroad/health",
        "postroad/routes",
    ] {
        let refused = stranger.request(route).call_raw("").await;
        assert_eq!(code_of(refused), Some(code!("AUT-E-401")), "{route}");
        friend.request(route).call_raw("").await?;
    }
    assert_eq!(friend.request("who").call_raw("").await?, "ada");
    // A program's own requests, and what a dialect sends without naming a route.
    let refused = server.routes().call(Request::to("who", "")).await;
    assert_eq!(refused.expect_err("no token").code(), code!("AUT-E-401"));
    let line = Client::connect(&format!("tcp+line://{}", server.addresses()[1])).await?;
    let before = server.stats();
    let refused = line.request("").call_raw("hello").await;
    let after = server.stats();
    assert_eq!(
        (after.started, after.failed),
        (before.started + 1, before.failed + 1),
        "it is counted as any request"
    );
    let error = refused.expect_err("no token");
    assert!(error.to_string().contains("AUT-E-401"), "{error}");
    server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_hook_sees_the_credentials_of_a_client_if_the_server_accepts_some() -> Tested {
    async fn judge(mut request: Request) -> Result<Request, Error> {
        match request.peer().credentials() {
            Some(bytes) if bytes == "let me in" => request.set_identity(User("ada".to_owned())),
            _ => return Err(Error::new(code!("AUT-E-401"), "no credentials")),
        }
        Ok(request)
    }
    let mut config = ClientConfig::default();
    config.connection.credentials = Some(Credentials(Bytes::from_static(b"let me in")));
    assert!(
        !format!("{config:?}").contains("let me in"),
        "they are secret"
    );
    for accepts_credentials in [true, false] {
        let mut server = ServerConfig::default();
        server.connection.accepts_credentials = accepts_credentials;
        let url = format!("mem://credentials-{accepts_credentials}");
        let server = Server::new(routes()).before(judge).config(server);
        let server = server.listen(url.parse()?).start().await?;
        let client = Client::connect_with(url.parse()?, config.clone()).await;
        if accepts_credentials {
            assert_eq!(client?.request("who").call_raw("").await?, "ada");
        } else {
            let error = client.err().map(|error| error.to_string());
            assert!(error.unwrap_or_default().contains("critical part"));
        }
        server.shutdown().await;
    }
    let mut config = ServerConfig::default();
    config.connection.credentials = Some(Credentials(Bytes::from(vec![0; 3073])));
    let error = config.check().expect_err("they are too long").to_string();
    assert!(error.contains("at most 3072 bytes"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_hook_sees_the_answer_and_the_one_added_last_runs_first() -> Tested {
    let order = Arc::new(AtomicUsize::new(0));
    let note = |expected: usize| {
        let order = Arc::clone(&order);
        move |request: Request, next: Next| {
            let order = Arc::clone(&order);
            async move {
                assert_eq!(order.fetch_add(1, Ordering::Relaxed), expected);
                let answer: Result<Reply, Error> = next.run(request).await;
                order.fetch_add(1, Ordering::Relaxed);
                answer
            }
        }
    };
    let router = Router::new().route("double", async |Json(n): Json<i64>| Json(n * 2));
    let server = Server::new(router).around(note(1)).around(note(0));
    let server = server.listen("mem://hook-order".parse()?).start().await?;
    let client = Client::connect("mem://hook-order").await?;
    assert_eq!(client.call::<_, i64>("double", &21).await?, 42);
    assert_eq!(order.load(Ordering::Relaxed), 4);
    server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_routers_hook_is_around_its_own_routes_only() -> Tested {
    let router = Router::new().route("open", async || "hello");
    let routes = Routes::default();
    routes.add(router.merge(self::routes().before(authenticate)));
    routes.call(Request::to("open", "")).await?;
    let refused = routes.call(Request::to("who", "")).await;
    assert_eq!(refused.expect_err("no token").code(), code!("AUT-E-401"));
    let request = Request::to("who", "").with_metadata("token", b"let me in")?;
    assert_eq!(routes.call(request).await?.payload, "ada");
    Ok(())
}

#[tokio::test]
async fn a_server_without_built_in_routes_answers_for_its_own_alone() -> Tested {
    let router = Router::new().route("own", async || "mine");
    let server = Server::new(router).without_built_in_routes();
    let server = server
        .listen("mem://no-built-in".parse()?)
        .listen("tcp+line://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let client = Client::connect("mem://no-built-in").await?;
    assert_eq!(client.request("own").call_raw("").await?, "mine");
    for route in ["postroad/echo", "postroad/health", "postroad/routes"] {
        let refused = client.request(route).call_raw("").await;
        assert_eq!(code_of(refused), Some(Code::NOT_FOUND), "{route}");
    }
    let line = Client::connect(&format!("tcp+line://{}", server.addresses()[1])).await?;
    line.request("")
        .call_raw("hello")
        .await
        .expect_err("no echo");
    server.shutdown().await;
    Ok(())
}

#[test]
#[should_panic(expected = "has a route \"own\" already")]
fn a_second_route_of_a_name_is_a_panic_where_it_is_added() {
    let router = Router::new().route("own", async || "mine");
    let _ = router.route("own", async || "another's");
}

#[tokio::test]
async fn a_handler_can_ask_how_long_it_has() -> Tested {
    let router = Router::new().route("left", async |deadline: Deadline| {
        let is_set = deadline.at().is_some();
        deadline.left().map_or("for ever".to_owned(), |left| {
            format!(
                "{is_set} {}",
                left <= Duration::from_secs(9) && left > Duration::from_secs(5)
            )
        })
    });
    let server = Server::new(router)
        .listen("mem://deadline".parse()?)
        .start()
        .await?;
    let answer = server.routes().call(Request::to("left", "")).await?;
    assert_eq!(answer.payload, "for ever");
    let client = Client::connect("mem://deadline").await?;
    let nine = client.request("left").timeout(Duration::from_secs(9));
    assert_eq!(nine.call_raw("").await?, "true true");
    server.shutdown().await;
    Ok(())
}
