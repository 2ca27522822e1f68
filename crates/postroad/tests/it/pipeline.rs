//! Many calls from one task: every answer with its tag, whatever happens to the connection.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use postroad::{Bytes, CallContext, CallError, Client, ClientConfig, Router, Server, ServerConfig};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::support::{Tested, connect, serve};

/// Answers with what it is sent, later if that is odd.
fn echo() -> Router {
    let echo = async |payload: Bytes| {
        for _ in 0..payload.first().map_or(0, |byte| byte % 8) {
            tokio::task::yield_now().await;
        }
        payload
    };
    Router::new().route("echo", echo)
}

async fn every_answer_has_its_tag() -> Tested {
    let server = serve("tcp://127.0.0.1:0", echo()).await?;
    let client = connect(&server).await?;
    let mut pipeline = client.pipeline("echo").priority(5);
    assert!(pipeline.next().await.is_none(), "nothing is in flight");
    let (mut made, mut answered) = (0_u64, vec![0; 20_000]);
    while pipeline.in_flight() > 0 || made < 20_000 {
        while made < 20_000 && pipeline.in_flight() < 300 {
            let mut payload = vec![0; 1 + made as usize % 3_000];
            payload[0] = made as u8;
            pipeline.call(made, payload).await?;
            made += 1;
            if made.is_multiple_of(1_000) {
                // Others call on the same connection.
                let answer = client.request("echo").call_raw("another").await?;
                assert_eq!(answer, "another");
            }
        }
        let (tag, answer) = pipeline.next().await.ok_or("an answer is missing")?;
        let answer = answer?;
        assert_eq!(
            (answer.len(), answer[0]),
            (1 + tag as usize % 3_000, tag as u8)
        );
        answered[tag as usize] += 1;
    }
    assert!(answered.iter().all(|times| *times == 1));
    assert!(pipeline.next().await.is_none());
    Ok(())
}

#[tokio::test]
async fn every_answer_has_its_tag_on_one_thread() -> Tested {
    every_answer_has_its_tag().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn every_answer_has_its_tag_on_many_threads() -> Tested {
    every_answer_has_its_tag().await
}

#[tokio::test]
async fn calls_that_are_made_together_have_their_own_answers() -> Tested {
    let server = serve("tcp://127.0.0.1:0", echo()).await?;
    let client = connect(&server).await?;
    let mut pipeline = client.pipeline("echo");
    let bodies: Vec<Bytes> = (0..5_000_usize)
        .map(|call| vec![call as u8; 1 + call % 700].into())
        .collect();
    let mut answered = vec![0; bodies.len()];
    for calls in bodies.chunks(333) {
        let begin = bodies.len() - answered.iter().filter(|times| **times == 0).count();
        let tags = begin as u64..;
        // Whoever gives the calls may make others meanwhile.
        let mut other = client.pipeline("echo");
        let together = tags.zip(calls).inspect(|(tag, body)| {
            if tag % 100 == 0 {
                let made = other.try_call(*tag, body);
                made.expect("there is room for many more");
            }
        });
        pipeline
            .try_calls(together)
            .map_err(|(made, error)| format!("{error} after {made}"))?;
        while let Some((tag, answer)) = pipeline.next().await {
            assert_eq!(answer?, bodies[tag as usize]);
            answered[tag as usize] += 1;
        }
    }
    assert!(answered.iter().all(|times| *times == 1));
    pipeline
        .try_calls(std::iter::empty())
        .map_err(|_| "nothing is no mistake")?;
    assert_eq!(pipeline.in_flight(), 0);
    Ok(())
}

#[tokio::test]
async fn of_calls_that_are_made_together_it_is_told_how_many_were() -> Tested {
    let server = serve("tcp://127.0.0.1:0", echo()).await?;
    let mut config = ClientConfig::default();
    config.connection.limits.max_calls = 40;
    let url = format!("tcp://{}", server.addresses()[0]);
    let client = Client::connect_with(url.parse()?, config).await?;
    let mut pipeline = client.pipeline("echo");
    let body = Bytes::from_static(b"x");
    let mut sum = 0;
    let mut left = 0..100_u64;
    while !left.is_empty() {
        let calls = left.clone().map(|tag| (tag, &body));
        let made = match pipeline.try_calls(calls) {
            Ok(()) => left.clone().count(),
            Err((made, CallError::Busy(_))) => made,
            Err((made, error)) => return Err(format!("{error} after {made}").into()),
        };
        assert!(made == 40 || made == left.clone().count(), "{made}");
        assert_eq!(pipeline.in_flight(), made);
        left.start += made as u64;
        while let Some((tag, answer)) = pipeline.next().await {
            assert_eq!(answer?, body);
            sum += tag;
        }
    }
    assert_eq!(sum, 99 * 100 / 2);
    let large = Bytes::from(vec![0; 17 << 20]);
    let calls = [(1, &body), (2, &large), (3, &body)];
    let failed = pipeline.try_calls(calls).expect_err("one is too large");
    assert!(
        matches!(failed, (1, CallError::Unsendable(_))),
        "{failed:?}"
    );
    assert_eq!(pipeline.next().await.map(|(tag, _)| tag), Some(1));
    assert!(pipeline.next().await.is_none(), "the last was not tried");
    Ok(())
}

#[tokio::test]
async fn calls_that_are_made_together_go_over_the_connection_that_there_is() -> Tested {
    let server = serve("tcp://127.0.0.1:0", echo()).await?;
    let url = format!("tcp://{}", server.addresses()[0]);
    let client = connect(&server).await?;
    let mut pipeline = client.pipeline("echo");
    let body = Bytes::from_static(b"x");
    let calls = || (0..50).map(|tag| (tag, &body));
    pipeline.try_calls(calls()).map_err(|(_, error)| error)?;
    while let Some((_, answer)) = pipeline.next().await {
        answer?;
    }
    server.shutdown().await;
    let failed = pipeline.try_calls(calls()).expect_err("nobody is there");
    assert!(
        matches!(failed, (0, CallError::NotConnected { .. })),
        "{failed:?}"
    );
    let _server = serve(&url, echo()).await?;
    client.try_now();
    let mut state = client.state();
    let is_there = |state: &_| *state == postroad::ConnectionState::Connected;
    state.wait_for(is_there).await?;
    pipeline.try_calls(calls()).map_err(|(_, error)| error)?;
    let mut answered = 0;
    while let Some((_, answer)) = pipeline.next().await {
        answer?;
        answered += 1;
    }
    assert_eq!(answered, 50);
    Ok(())
}

#[tokio::test]
async fn large_calls_wait_for_room_instead_of_failing() -> Tested {
    let server = serve("tcp://127.0.0.1:0", echo()).await?;
    let client = connect(&server).await?;
    let mut pipeline = client.pipeline("echo");
    let payload = Bytes::from(vec![0; 1 << 20]);
    // Twice what may wait to be sent.
    for tag in 0..128 {
        pipeline.call(tag, payload.clone()).await?;
    }
    let mut sum = 0;
    while let Some((tag, answer)) = pipeline.next().await {
        assert_eq!(answer?.len(), payload.len());
        sum += tag;
    }
    assert_eq!(sum, 127 * 128 / 2);
    Ok(())
}

/// A client of a node that reads nothing until it is released, and the call that blocks it.
#[cfg(unix)]
async fn blocked_node(
    folder: &std::path::Path,
) -> Tested<(Client, postroad::Pipeline, std::sync::mpsc::SyncSender<()>)> {
    let url = format!("unix://{}/node.sock", folder.display());
    let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
    let released = Arc::new(Mutex::new(released));
    let block = move || {
        // Blocks its thread, as no handler should: then nothing is read.
        let _ = released.lock().map(|released| released.recv());
        std::future::ready(())
    };
    let router = echo().route("block", block).route("take", async || {});
    // On a thread of its own, which is to be blocked.
    let endpoint = url.parse()?;
    let (listens, is_listening) = oneshot::channel();
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime
            .enable_all()
            .build()
            .expect("a runtime for one thread");
        runtime.block_on(async {
            let server = Server::new(router).listen(endpoint).start().await;
            let server = server.expect("the path is free");
            let mut state = server.state();
            listens.send(()).expect("the test waits for it");
            let _ = state.wait_for(|_| false).await;
        });
    });
    is_listening.await?;
    let client = Client::connect(&url).await?;
    let mut blocked = client.pipeline("block").timeout(Duration::from_secs(20));
    blocked.call(0, "").await?;
    blocked.flush();
    Ok((client, blocked, release))
}

/// Makes a call of a mebibyte at a node that reads nothing; whether it waited for room in vain.
#[cfg(unix)]
async fn waits_with_bulk(pipeline: &mut postroad::Pipeline, tag: u64) -> bool {
    match pipeline.call(tag, vec![0; 1024 * 1024]).await {
        Ok(()) => false,
        Err(error) => {
            assert!(
                matches!(error, CallError::Deadline { .. }),
                "call {tag}: {error}"
            );
            true
        }
    }
}

/// Asking for answers that are not there yet lets the driver write, and makes no room.
#[cfg(unix)]
#[tokio::test]
async fn who_asks_for_answers_between_calls_waits_for_room_all_the_same() -> Tested {
    let folder = tempfile::tempdir()?;
    let (client, _blocked, _release) = blocked_node(folder.path()).await?;
    let mut pipeline = client.pipeline("echo").timeout(Duration::from_millis(300));
    for tag in 0..200 {
        tokio::select! {
            biased;
            answer = pipeline.next(), if tag > 0 => {
                // Those before may have waited for longer than their time.
                let answer = answer.ok_or("calls are in flight")?.1;
                assert!(matches!(answer, Err(CallError::Deadline { .. })), "{answer:?}");
            }
            () = tokio::task::yield_now() => {}
        }
        if waits_with_bulk(&mut pipeline, tag).await {
            return Ok(());
        }
    }
    Err("200 MiB found room at a node that reads nothing".into())
}

/// An urgent call that finds room says nothing about the bulk behind it.
#[cfg(unix)]
#[tokio::test]
async fn bulk_between_urgent_calls_waits_and_is_not_refused() -> Tested {
    let folder = tempfile::tempdir()?;
    let (client, _blocked, _release) = blocked_node(folder.path()).await?;
    let mut pipeline = client.pipeline("echo").timeout(Duration::from_millis(300));
    for tag in 0..200 {
        pipeline.set_priority(0);
        if waits_with_bulk(&mut pipeline, 2 * tag).await {
            return Ok(());
        }
        pipeline.set_priority(7);
        pipeline.call(2 * tag + 1, "urgent").await?;
    }
    Err("200 MiB found room at a node that reads nothing".into())
}

#[cfg(unix)]
#[tokio::test]
async fn an_urgent_call_does_not_wait_behind_what_is_less_urgent() -> Tested {
    let folder = tempfile::tempdir()?;
    let (client, _blocked, release) = blocked_node(folder.path()).await?;
    let mut urgent = client.pipeline("echo").priority(7);
    let mut producer = client.producer("take").priority(1);
    let is_blocked = async |producer: &mut postroad::client::Producer| {
        let sent = producer.send(vec![0; 8 * 1024]);
        tokio::time::timeout(Duration::from_millis(200), sent)
            .await
            .is_err()
    };
    // Twice: the first may only have been slow.
    while !(is_blocked(&mut producer).await && is_blocked(&mut producer).await) {}
    for tag in 0..20 {
        let call = urgent.call(tag, vec![tag as u8; 10_000]);
        call.await.map_err(|error| format!("call {tag}: {error}"))?;
    }
    release.send(())?;
    let mut answers = 0;
    while let Some((tag, answer)) = urgent.next().await {
        assert_eq!(answer?, vec![tag as u8; 10_000]);
        answers += 1;
    }
    assert_eq!(answers, 20);
    Ok(())
}

#[tokio::test]
async fn a_call_leaves_by_a_flush_though_nobody_waits_for_its_answer() -> Tested {
    let (arrived, mut arrivals) = mpsc::channel(1);
    let take = move || {
        let _ = arrived.try_send(());
        std::future::ready(())
    };
    let server = serve("tcp://127.0.0.1:0", Router::new().route("take", take)).await?;
    let mut pipeline = connect(&server).await?.pipeline("take");
    pipeline.call(1, "").await?;
    pipeline.flush();
    arrivals.recv().await.ok_or("the server is gone")?;
    // Whoever gives up waiting loses no answer.
    for _ in 0..3 {
        let nothing = std::future::ready(());
        tokio::select! { biased; () = nothing => {}, _ = pipeline.next() => {} }
    }
    let (tag, answer) = pipeline.next().await.ok_or("an answer is missing")?;
    assert_eq!((tag, answer?.len()), (1, 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn deadlines_are_each_calls_own() -> Tested {
    let never = async || std::future::pending::<()>().await;
    let router = echo().route("never", never);
    let _server = serve("mem://pipeline-deadlines", router).await?;
    let client = Client::connect("mem://pipeline-deadlines").await?;
    let mut pipeline = client.pipeline("never").timeout(Duration::from_secs(2));
    pipeline.call(7, "").await?;
    pipeline.set_timeout(Duration::from_secs(1));
    pipeline.call(8, "").await?;
    for (expected, seconds) in [(8, 1), (7, 2)] {
        let (tag, answer) = pipeline.next().await.ok_or("an answer is missing")?;
        let limit = Duration::from_secs(seconds);
        assert_eq!(tag, expected);
        assert!(
            matches!(answer, Err(CallError::Deadline { timeout, sent: true }) if timeout == limit),
            "{answer:?}"
        );
    }
    assert_eq!(pipeline.in_flight(), 0);
    Ok(())
}

#[tokio::test]
async fn dropping_a_pipeline_stops_its_handlers_and_no_others() -> Tested {
    struct Gone(mpsc::Sender<()>);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = self.0.try_send(());
        }
    }
    let (sender, mut gone) = mpsc::channel(16);
    let (started, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, wait) = (Arc::clone(&started), Arc::clone(&go));
    let work = move || {
        let (guard, wait) = (Gone(sender.clone()), Arc::clone(&wait));
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let _guard = guard;
            wait.notified().await;
        }
    };
    let server = serve("tcp://127.0.0.1:0", echo().route("work", work)).await?;
    let client = connect(&server).await?;
    let mut dropped = client.pipeline("work");
    let mut kept = client.pipeline("work");
    kept.call(1, "").await?;
    kept.flush();
    for tag in 0..10 {
        dropped.call(tag, "").await?;
    }
    dropped.flush();
    // Answered behind them, so they have been started.
    while started.load(Ordering::Relaxed) < 11 {
        client.request("echo").call_raw("").await?;
    }
    drop(dropped);
    for _ in 0..10 {
        gone.recv().await.ok_or("the server is gone")?;
    }
    assert!(
        gone.try_recv().is_err(),
        "the other pipeline's call goes on"
    );
    go.notify_one();
    let (tag, answer) = kept.next().await.ok_or("an answer is missing")?;
    answer?;
    assert_eq!(tag, 1);
    // Its place is used again.
    let mut next = client.pipeline("echo");
    next.call(3, "again").await?;
    let (tag, answer) = next.next().await.ok_or("an answer is missing")?;
    assert_eq!((tag, answer?), (3, Bytes::from("again")));
    Ok(())
}

#[tokio::test]
async fn calls_on_a_connection_that_ends_fail_and_the_next_go_over_a_new_one() -> Tested {
    let never = async || std::future::pending::<()>().await;
    let router = || Router::new().route("never", never).merge(echo());
    let mut config = ServerConfig::default();
    config.drain = Duration::ZERO;
    let server = Server::new(router()).config(config);
    let server = server.listen("tcp://127.0.0.1:0".parse()?).start().await?;
    let address = server.addresses()[0].clone();
    let client = connect(&server).await?;
    let (mut lost, mut pipeline) = (client.pipeline("never"), client.pipeline("echo"));
    for tag in 0..5 {
        lost.call(tag, "").await?;
    }
    lost.flush();
    pipeline.call(1, "before").await?;
    let (tag, answer) = pipeline.next().await.ok_or("an answer is missing")?;
    assert_eq!((tag, answer?), (1, Bytes::from("before")));
    server.shutdown().await;
    for _ in 0..5 {
        let (_, answer) = lost.next().await.ok_or("an answer is missing")?;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert!(lost.next().await.is_none());
    let _server = serve(&format!("tcp://{address}"), router()).await?;
    client.try_now();
    pipeline.call(2, "after").await?;
    let (tag, answer) = pipeline.next().await.ok_or("an answer is missing")?;
    assert_eq!((tag, answer?), (2, Bytes::from("after")));
    Ok(())
}

#[tokio::test]
async fn too_many_calls_are_refused_and_those_in_flight_go_on() -> Tested {
    let server = Server::new(echo());
    let mut config = ServerConfig::default();
    config.connection.limits.max_calls = 4;
    let server = server
        .config(config)
        .listen("tcp://127.0.0.1:0".parse()?)
        .start()
        .await?;
    let mut pipeline = connect(&server).await?.pipeline("echo");
    for tag in 0..4 {
        pipeline.call(tag, "").await?;
    }
    let refused = pipeline.call(4, "").await;
    assert!(matches!(refused, Err(CallError::Busy(_))), "{refused:?}");
    assert_eq!(pipeline.in_flight(), 4);
    while let Some((_, answer)) = pipeline.next().await {
        answer?;
    }
    pipeline.call(4, "").await?;
    assert_eq!(pipeline.next().await.map(|(tag, _)| tag), Some(4));
    Ok(())
}

#[tokio::test]
async fn answers_that_nobody_takes_are_bounded() -> Tested {
    let server = serve("tcp://127.0.0.1:0", echo()).await?;
    let mut config = ClientConfig::default();
    config.connection.limits.max_calls = 10;
    let url = format!("tcp://{}", server.addresses()[0]);
    let client = Client::connect_with(url.parse()?, config).await?;
    let mut pipeline = client.pipeline("echo");
    for tag in 0..10 {
        pipeline.call(tag, "").await?;
    }
    // Answered or not: they were not taken.
    for taken in 0..10 {
        let refused = pipeline.call(10, "").await;
        let Err(CallError::Busy(text)) = refused else {
            return Err(format!("{refused:?}").into());
        };
        assert!(text.starts_with("10 calls"), "{text}");
        assert!(pipeline.next().await.is_some());
        pipeline.call(20 + taken, "").await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_connection_is_charged_to_the_call() -> Tested {
    let never = async || std::future::pending::<()>().await;
    let url = "mem://pipeline-late";
    let mut config = ClientConfig::default();
    config.max_wait = Duration::from_secs(60);
    // Five attempts with jitter may all be made within these seconds.
    config.backoff.attempts = None;
    let client = Client::new(url.parse()?, config)?;
    let late = client.clone();
    let serving = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(6)).await; // tidy: paused clock
        let server = serve(url, Router::new().route("never", never)).await;
        late.try_now();
        server.map_err(|error| error.to_string())
    });
    let begin = tokio::time::Instant::now();
    let mut pipeline = client.pipeline("never").timeout(Duration::from_secs(10));
    pipeline.call(0, "").await?;
    assert!(
        begin.elapsed() >= Duration::from_secs(6),
        "{:?}",
        begin.elapsed()
    );
    let (_, answer) = pipeline.next().await.ok_or("an answer is missing")?;
    assert!(
        matches!(answer, Err(CallError::Deadline { .. })),
        "{answer:?}"
    );
    assert!(
        begin.elapsed() < Duration::from_secs(11),
        "{:?}",
        begin.elapsed()
    );
    drop(serving.await??);
    Ok(())
}

#[tokio::test]
async fn what_became_late_before_it_left_is_not_started() -> Tested {
    let started = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&started);
    let run = move || {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    };
    let server = serve("tcp://127.0.0.1:0", Router::new().route("run", run)).await?;
    let client = connect(&server).await?;
    client.request("postroad/echo").call_raw("warm").await?;
    for calls in [1, 30] {
        let mut pipeline = client.pipeline("run").timeout(Duration::from_millis(20));
        for tag in 0..calls {
            pipeline.call(tag, "").await?;
        }
        // The thread has something else to do, as it should not have.
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        while let Some((_, answer)) = pipeline.next().await {
            assert!(
                matches!(answer, Err(CallError::Deadline { sent: false, .. })),
                "{answer:?}"
            );
        }
    }
    assert_eq!(started.load(Ordering::Relaxed), 0);
    Ok(())
}

#[tokio::test]
async fn a_graceful_restart_fails_no_call() -> Tested {
    let mut server = serve("tcp://127.0.0.1:0", echo()).await?;
    let address = server.addresses()[0].clone();
    let client = connect(&server).await?;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let calling = tokio::spawn(async move {
        let mut pipeline = client.pipeline("echo");
        let mut made = 0_u64;
        while !*stopped.borrow_and_update() || pipeline.in_flight() > 0 {
            while !*stopped.borrow() && pipeline.in_flight() < 100 {
                let made_now = pipeline.call(made, made.to_le_bytes().to_vec()).await;
                made_now.map_err(|error| format!("call {made}: {error}"))?;
                made += 1;
            }
            if let Some((tag, answer)) = pipeline.next().await {
                answer.map_err(|error| format!("answer {tag} of {made}: {error}"))?;
            }
        }
        Ok::<_, String>(made)
    });
    for _ in 0..10 {
        let other = Client::connect(&format!("tcp://{address}")).await?;
        for _ in 0..50 {
            other.request("echo").call_raw("meanwhile").await?;
        }
        server.shutdown().await;
        server = serve(&format!("tcp://{address}"), echo()).await?;
    }
    stop.send_replace(true);
    assert!(calling.await?? > 0);
    Ok(())
}

/// Says who it is: at once, or when it is let go.
fn named(name: &'static str, held: &Arc<Notify>, let_go: &Arc<Notify>) -> Router {
    let (held, let_go) = (Arc::clone(held), Arc::clone(let_go));
    Router::new().route("who", move |payload: Bytes| {
        let (held, let_go) = (Arc::clone(&held), Arc::clone(&let_go));
        async move {
            if payload == "wait" {
                held.notify_one();
                let_go.notified().await;
            }
            Bytes::from_static(name.as_bytes())
        }
    })
}

#[tokio::test]
async fn an_answer_over_a_new_connection_is_not_held_up_by_the_old_one() -> Tested {
    let (held, let_go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let old = serve("tcp://127.0.0.1:0", named("old", &held, &let_go)).await?;
    let url = format!("tcp://{}", old.addresses()[0]);
    let client = connect(&old).await?;
    // One task takes answers while another makes calls, as a load generator does.
    let pipeline = Arc::new(Mutex::new(client.pipeline("who")));
    let call = |payload: &'static str| {
        let mut pipeline = pipeline.lock().expect("nobody panics with it");
        let made = pipeline.try_call(0, &Bytes::from_static(payload.as_bytes()));
        pipeline.flush();
        made
    };
    call("wait")?;
    held.notified().await;
    let (sender, mut answers) = mpsc::channel(8);
    let taken = Arc::clone(&pipeline);
    let take = move |cx: &mut Context<'_>| {
        let mut pipeline = taken.lock().expect("nobody panics with it");
        pipeline.poll_next(cx)
    };
    tokio::spawn(async move {
        while let Some((_, answer)) = poll_fn(&take).await {
            let _unless_it_is_over = sender.send(answer).await;
        }
    });
    let drained = tokio::spawn(async move { old.shutdown().await });
    let _new = loop {
        match serve(&url, named("new", &held, &let_go)).await {
            Ok(server) => break server,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    loop {
        if call("").is_err() {
            tokio::task::yield_now().await;
            continue;
        }
        let answer = tokio::time::timeout(Duration::from_secs(4), answers.recv()).await;
        match answer.map_err(|_| "nobody was woken for the answer")? {
            Some(Ok(name)) if name == "new" => break,
            Some(_) => {}
            None => return Err("the call to the old server is still in flight".into()),
        }
    }
    let_go.notify_one();
    assert_eq!(answers.recv().await.ok_or("it is in flight")??, "old");
    drained.await?;
    Ok(())
}

#[tokio::test]
async fn a_handlers_pipeline_ends_no_later_than_the_handler() -> Tested {
    let left = async || {
        let left = CallContext::current().and_then(|context| context.time_left());
        let context = CallContext::current().map(|context| context.priority());
        format!(
            "{} {context:?}",
            left.is_some_and(|left| left < Duration::from_secs(3))
        )
    };
    let inner = serve("tcp://127.0.0.1:0", Router::new().route("left", left)).await?;
    let client = connect(&inner).await?;
    let outer = move || {
        let mut pipeline = client.pipeline("left");
        async move {
            let made = pipeline.call(0, "").await;
            match (made, pipeline.next().await) {
                (Ok(()), Some((_, Ok(answer)))) => answer,
                other => Bytes::from(format!("{other:?}")),
            }
        }
    };
    let server = serve("tcp://127.0.0.1:0", Router::new().route("outer", outer)).await?;
    let client = connect(&server).await?;
    let request = client
        .request("outer")
        .timeout(Duration::from_secs(3))
        .priority(6);
    assert_eq!(request.call_raw("").await?, "true Some(6)");
    Ok(())
}
