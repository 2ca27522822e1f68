//! What rules of routes do to their requests: priority, deadline, rate, limit, workers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postroad::extract::Request;
use postroad::route::{RouteOptions, RouteRule};
use postroad::{
    CallContext, Client, Code, Error, Retry, Router, Routes, RunningServer, Server, ServerConfig,
};
use tokio::sync::Semaphore;

type Tested = Result<(), Box<dyn std::error::Error>>;

fn rules(text: &str) -> Vec<RouteRule> {
    #[derive(serde::Deserialize)]
    struct File {
        route: Vec<RouteRule>,
    }
    toml::from_str::<File>(text)
        .expect("the rules are right")
        .route
}

/// A server with these rules, and a client of it.
async fn serve(
    router: Router,
    text: &str,
    name: &str,
) -> Result<(RunningServer, Client), Box<dyn std::error::Error>> {
    let mut config = ServerConfig::default();
    config.rules = rules(text);
    let server = Server::new(router).config(config);
    let url = format!("mem://{name}");
    let server = server.listen(url.parse()?).start().await?;
    Ok((server, Client::connect(&url).await?))
}

fn spin(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// A route that notes the payloads in the order in which its handlers are started, and goes on when
/// the semaphore lets it.
fn noting(seen: &Arc<Mutex<Vec<String>>>, go: &Arc<Semaphore>) -> Router {
    let (seen, go) = (Arc::clone(seen), Arc::clone(go));
    Router::new().route("note", move |text: String| {
        let go = Arc::clone(&go);
        seen.lock().expect("no test has panicked").push(text);
        async move {
            let _permit = go.acquire().await;
        }
    })
}

/// Calls so many, one after the other, as tasks; they arrive in this order.
fn call_all(client: &Client, route: &'static str, calls: &[(&str, u8)]) -> Vec<Called> {
    let mut all = Vec::new();
    for (text, priority) in calls {
        let (client, text, priority) = (client.clone(), (*text).to_owned(), *priority);
        all.push(tokio::spawn(async move {
            let call = client.request(route).priority(priority);
            call.call_raw(text).await.map(drop)
        }));
    }
    all
}

type Called = tokio::task::JoinHandle<Result<(), postroad::CallError>>;

async fn wait_until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    waited.expect("it happens");
}

#[tokio::test]
async fn at_the_limit_of_a_route_the_most_important_is_next() -> Tested {
    let (seen, go) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let text = "[[route]]\nname = 'note'\nconcurrency = 1";
    let (server, client) = serve(noting(&seen, &go), text, "limit-order").await?;
    let calls = [
        ("first", 3),
        ("low", 1),
        ("high", 7),
        ("middle", 4),
        ("higher", 7),
    ];
    let all = call_all(&client, "note", &calls);
    wait_until(|| server.stats().running == calls.len()).await;
    assert_eq!(
        *seen.lock().expect("no test has panicked"),
        ["first"],
        "one at a time"
    );
    go.add_permits(1);
    for call in all {
        call.await??;
    }
    let order = seen.lock().expect("no test has panicked").clone();
    assert_eq!(order, ["first", "high", "higher", "middle", "low"]);
    Ok(())
}

#[tokio::test]
async fn whose_turn_comes_too_late_to_be_done_in_time_is_refused_and_not_begun() -> Tested {
    const WORK: Duration = Duration::from_millis(400);
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let router = Router::new().route("work", move || {
        count.fetch_add(1, Ordering::Relaxed);
        async {
            let _ = tokio::time::timeout(WORK, std::future::pending::<()>()).await;
        }
    });
    let text = "[[route]]\nname = 'work'\nconcurrency = 1";
    let (server, client) = serve(router, text, "limit-too-late").await?;
    // From now on it is known how long one takes.
    client.request("work").call_raw("").await?;
    let first = call_all(&client, "work", &[("", 3)]);
    wait_until(|| begun.load(Ordering::Relaxed) == 2).await;
    // It may wait for half of its work: when it comes nothing is before it in the room.
    let hopeless = client.request("work").timeout(WORK + WORK / 2);
    let error = hopeless
        .call_raw("")
        .await
        .expect_err("it has too little time");
    assert_eq!(error.code(), Code::OVERLOADED, "{error}");
    for call in first {
        call.await??;
    }
    assert_eq!(
        begun.load(Ordering::Relaxed),
        2,
        "it would have worked for nobody"
    );
    assert_eq!(server.stats().running, 0, "its place was given back");
    Ok(())
}

#[tokio::test]
async fn who_would_wait_longer_than_it_can_is_refused_at_once_and_told_when_to_come() -> Tested {
    let router = Router::new().route("slow", async || {
        let pause = std::future::pending::<()>();
        let _ = tokio::time::timeout(Duration::from_millis(40), pause).await;
    });
    let text = "[[route]]\nname = 'slow'\nconcurrency = 1";
    let (_server, client) = serve(router, text, "limit-hopeless").await?;
    // It learns how long one takes.
    for _ in 0..3 {
        client.request("slow").call_raw("").await?;
    }
    let waits = |timeout| {
        let client = client.clone();
        async move {
            let call = client
                .request("slow")
                .timeout(Duration::from_millis(timeout));
            call.call_raw("").await
        }
    };
    let (one, two) = (tokio::spawn(waits(5000)), tokio::spawn(waits(5000)));
    tokio::task::yield_now().await;
    let error = waits(60).await.expect_err("two are before it");
    assert_eq!(
        (error.code(), error.retry()),
        (Code::OVERLOADED, Retry::Elsewhere)
    );
    assert!(error.retry_after().is_some(), "{error}");
    assert!(!one.is_finished(), "it was told at once");
    one.await??;
    two.await??;
    Ok(())
}

#[tokio::test]
async fn a_rate_refuses_what_is_beyond_its_burst_with_the_time_to_wait() -> Tested {
    let router = Router::new().route("often", async || "yes");
    let text = "[[route]]\nname = 'often'\nrate = { each = 'client', limit = '10/m', burst = 3 }";
    let (_server, client) = serve(router, text, "rate").await?;
    for _ in 0..3 {
        client.request("often").call_raw("").await?;
    }
    let error = client
        .request("often")
        .call_raw("")
        .await
        .expect_err("too often");
    assert_eq!(
        (error.code(), error.retry()),
        (Code::OVERLOADED, Retry::Here)
    );
    let after = error.retry_after().expect("it says when");
    assert!(
        after > Duration::from_secs(4) && after <= Duration::from_secs(6),
        "{after:?}"
    );
    client
        .request("postroad/echo")
        .call_raw("other routes are free")
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_rule_lowers_priorities_and_gives_a_deadline_to_who_has_none() -> Tested {
    let router = Router::new()
        .route("say", async |cx: CallContext| {
            let left = cx.time_left().map_or(0, |left| left.as_millis());
            format!("{} {left}", cx.priority())
        })
        .route("never", std::future::pending::<()>);
    let text = "[[route]]\nname = '*'\npriority = 4\ndeadline = '300ms'";
    let (server, client) = serve(router, text, "priority-deadline").await?;
    let said = client.request("say").priority(7).call_raw("").await?;
    let said = String::from_utf8(said.to_vec())?;
    let (priority, left) = said.split_once(' ').expect("two words");
    assert_eq!(priority, "4");
    assert!(
        left.parse::<u64>()? > 1000,
        "its own deadline stays: {left}"
    );
    // Requests of gateways and of the program itself have none.
    let begin = Instant::now();
    let error = server
        .routes()
        .call(Request::to("never", ""))
        .await
        .expect_err("never");
    assert_eq!(error.code(), Code::DEADLINE);
    assert!(
        begin.elapsed() >= Duration::from_millis(299),
        "{:?}",
        begin.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn handlers_that_compute_hold_up_nobody_and_a_panic_costs_its_own_call() -> Tested {
    let most = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let counted = Arc::clone(&most);
    let router = Router::new()
        .route("compute", move || {
            let (now, most) = (&counted.0, &counted.1);
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            spin(Duration::from_millis(200));
            counted.0.fetch_sub(1, Ordering::SeqCst);
            std::future::ready("done")
        })
        .route("panic", || -> std::future::Ready<&'static str> {
            panic!("on purpose")
        });
    let text = "[[route]]\nname = 'compute'\nwork = 'cpu'\n[[route]]\nname = 'panic'\nwork = 'cpu'";
    let (server, client) = serve(router, text, "workers").await?;
    let mut config = ServerConfig::default();
    config.rules = rules(text);
    config.cpu_workers = Some(2);
    server.reconfigure(config)?;
    let calls = [("", 3); 6];
    let all = call_all(&client, "compute", &calls);
    // This thread is the server's as well: it answers while others compute.
    for _ in 0..5 {
        let echo = client.request("postroad/echo");
        echo.call_raw("quick").await?;
    }
    assert!(all.iter().any(|call| !call.is_finished()), "they compute");
    for call in all {
        call.await??;
    }
    assert_eq!(
        most.1.load(Ordering::SeqCst),
        2,
        "as many as there are workers"
    );
    let error = client
        .request("panic")
        .call_raw("")
        .await
        .expect_err("it panics");
    assert_eq!(
        (error.code(), error.retry()),
        (Code::INTERNAL, Retry::IfIdempotent)
    );
    assert_eq!(server.stats().panicked, 1);
    client.request("compute").call_raw("").await?;
    Ok(())
}

#[tokio::test]
async fn rules_change_while_the_server_runs_all_or_none() -> Tested {
    let router = Router::new().route("often", async || "yes");
    let (server, client) = serve(router, "route = []", "rules-change").await?;
    for _ in 0..10 {
        client.request("often").call_raw("").await?;
    }
    let text = "[[route]]\nname = 'often'\nrate = { limit = '1/h' }";
    server.set_rules(rules(text))?;
    client.request("often").call_raw("").await?;
    client
        .request("often")
        .call_raw("")
        .await
        .expect_err("one an hour");
    let mut wrong = rules("[[route]]\nname = 'often'");
    wrong.push(RouteRule::of("a*b"));
    let error = server.set_rules(wrong).expect_err("a star is at the end");
    assert!(error.to_string().contains("a*b"), "{error}");
    client
        .request("often")
        .call_raw("")
        .await
        .expect_err("the old rules stay");
    server.set_rules(Vec::new())?;
    client.request("often").call_raw("").await?;
    Ok(())
}

/// Everything goes through the queue, and one connection has sent the less important before.
#[tokio::test]
async fn an_overloaded_reactor_starts_the_most_important_first() -> Tested {
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let work = move |cx: CallContext| {
        spin(Duration::from_micros(300));
        noted
            .lock()
            .expect("no test has panicked")
            .push(cx.priority());
        std::future::ready(())
    };
    let server = Server::new(Router::new().route("work", work)).work_budget(Duration::ZERO);
    let server = server.listen("mem://importance".parse()?).start().await?;
    let (bulk, urgent) = (
        Client::connect("mem://importance").await?,
        Client::connect("mem://importance").await?,
    );
    let low = call_all(&bulk, "work", &[("", 1); 200]);
    let high = call_all(&urgent, "work", &[("", 6); 20]);
    for call in low.into_iter().chain(high) {
        call.await??;
    }
    let seen = seen.lock().expect("no test has panicked");
    let last_urgent = seen.iter().rposition(|priority| *priority == 6);
    let after = seen.len() - last_urgent.expect("they ran") - 1;
    assert!(
        after >= 100,
        "only {after} of the less important came after the urgent ones"
    );
    drop(server);
    Ok(())
}

#[tokio::test]
async fn nothing_is_started_after_its_deadline_and_nobody_waits_in_vain() -> Tested {
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ran);
    let work = move |cx: CallContext| {
        let left = cx.time_left().unwrap_or_default();
        assert!(!left.is_zero(), "it was started after its deadline");
        spin(Duration::from_millis(1));
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    };
    let server = Server::new(Router::new().route("work", work));
    let server = server.listen("mem://in-time".parse()?).start().await?;
    let client = Client::connect("mem://in-time").await?;
    let call = |timeout: u64| {
        let client = client.clone();
        tokio::spawn(async move {
            let call = client
                .request("work")
                .timeout(Duration::from_millis(timeout));
            call.call_raw("").await.map(drop)
        })
    };
    // What one costs is learned where some have to wait.
    for call in (0..20).map(|_| call(5000)).collect::<Vec<_>>() {
        call.await??;
    }
    let calls: Vec<_> = (0..400).map(|_| call(100)).collect();
    let mut refused = 0;
    for call in calls {
        if let Err(error) = call.await? {
            let code = error.code();
            let is_late = code.to_string().ends_with("504");
            assert!(is_late || code == Code::OVERLOADED, "{error}");
            refused += usize::from(code == Code::OVERLOADED);
        }
    }
    assert!(refused > 100, "{refused} were refused when they came");
    assert!(
        ran.load(Ordering::Relaxed) >= 25,
        "and the others were served"
    );
    assert_eq!(server.stats().panicked, 0);
    Ok(())
}

#[tokio::test]
async fn routes_that_are_called_without_a_connection_obey_rules_too() -> Tested {
    let routes = Routes::default();
    routes.add(Router::new().route("free", async || "yes"));
    routes.call(Request::to("free", "")).await?;
    let (server, _client) = serve(
        Router::new().route("often", async || Ok::<_, Error>("yes")),
        "[[route]]\nname = 'often'\nrate = { limit = '1/h' }",
        "rules-without-connection",
    )
    .await?;
    server.routes().call(Request::to("often", "")).await?;
    let error = server.routes().call(Request::to("often", "")).await;
    assert_eq!(error.expect_err("one an hour").code(), Code::OVERLOADED);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_takes_longer_than_is_left_is_refused_once_that_was_seen_to_be_in_vain() -> Tested {
    let router = Router::new().route("slow", async || {
        let pause = std::future::pending::<()>();
        let _ = tokio::time::timeout(Duration::from_millis(40), pause).await;
    });
    let text = "[[route]]\nname = 'slow'\nconcurrency = 100";
    let (_server, client) = serve(router, text, "time-left").await?;
    let call = |timeout| {
        let client = client.clone();
        tokio::spawn(async move {
            let call = client
                .request("slow")
                .timeout(Duration::from_millis(timeout));
            call.call_raw("").await.map(drop)
        })
    };
    for call in (0..40).map(|_| call(1000)).collect::<Vec<_>>() {
        call.await??;
    }
    // Nobody can answer these in time. At first most are tried all the same.
    let (mut tried, mut refused) = (0, 0);
    for _ in 0..10 {
        for call in (0..40).map(|_| call(20)).collect::<Vec<_>>() {
            let error = call.await?.expect_err("there is not enough time");
            match error.code() == Code::OVERLOADED {
                true => refused += 1,
                false => tried += 1,
            }
        }
    }
    assert!(
        tried >= 20 && refused > tried,
        "{tried} tried, {refused} refused"
    );
    call(1000).await??;
    Ok(())
}

#[tokio::test]
async fn what_the_author_of_a_route_declares_is_enforced() -> Tested {
    let declared = || RouteOptions::new().priority_max(2).cpu();
    let router = Router::new().route_with("say", declared(), async |cx: CallContext| {
        let name = std::thread::current().name().map(str::to_owned);
        format!("{} {}", cx.priority(), name.unwrap_or_default())
    });
    let server = Server::new(router).listen("mem://declared".parse()?);
    let _server = server.start().await?;
    let client = Client::connect("mem://declared").await?;
    let said = client.request("say").priority(7).call_raw("").await?;
    let here = std::thread::current().name().map(str::to_owned);
    let said = String::from_utf8(said.to_vec())?;
    let (priority, thread) = said.split_once(' ').expect("two words");
    assert_eq!(priority, "2");
    assert_ne!(Some(thread.to_owned()), here, "it runs on a worker");
    Ok(())
}
