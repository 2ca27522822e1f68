//! The client for threads: nothing is left undriven.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use postroad::{BlockingClient, Bytes, CallError, Router, RunningServer};
use tokio::runtime::{Builder, Runtime};

use crate::support::{self, PATIENCE, Tested, echo, tcp};

/// A server on a runtime of its own, and what it is told one-way.
fn serve() -> (Runtime, RunningServer, Receiver<Bytes>) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a thread is there");
    let (told, tidings) = sync_channel(2_000);
    let router = Router::new().route("tell", move |body: Bytes| {
        let _ = told.send(body);
        std::future::ready(())
    });
    let server = runtime.block_on(support::serve("tcp://127.0.0.1:0", router));
    let server = server.expect("a free port");
    (runtime, server, tidings)
}

fn connect(server: &RunningServer) -> BlockingClient {
    BlockingClient::connect(&tcp(server)).expect("the server listens")
}

#[test]
fn threads_that_call_at_the_same_time_all_get_their_own_answers() {
    let (runtime, server, _tidings) = serve();
    let client = connect(&server);
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for call in 0..300 {
                    let text = format!("{caller} {call}");
                    assert_eq!(echo(client, &text), text);
                }
            });
        }
    });
    runtime.block_on(server.shutdown());
}

/// Sends after a few calls in a row, when the client's thread stands aside, and waits without
/// calling. A thread that only came back by itself would take 10 ms at least.
fn sent_and_arrived(send: impl Fn(&BlockingClient, u32) -> Result<(), CallError>) -> Tested {
    let (runtime, server, tidings) = serve();
    let client = connect(&server);
    let mut times = Vec::new();
    for round in 0..50 {
        for _ in 0..4 {
            echo(&client, "x");
        }
        let begin = Instant::now();
        send(&client, round)?;
        assert_eq!(tidings.recv_timeout(PATIENCE)?, round.to_string());
        times.push(begin.elapsed());
    }
    times.sort();
    assert!(times[25] < Duration::from_millis(8), "{times:?}");
    runtime.block_on(server.shutdown());
    Ok(())
}

#[test]
fn what_is_sent_leaves_without_anybody_waiting_for_it() -> Tested {
    sent_and_arrived(|client, round| client.send("tell", &round))
}

#[test]
fn what_is_sent_with_settings_does_too() -> Tested {
    sent_and_arrived(|client, round| client.with("tell", |call| call.priority(7).send(&round)))
}

#[test]
fn what_is_sent_after_having_waited_does_too() -> Tested {
    sent_and_arrived(|client, round| {
        client.with("postroad/echo", async |call| {
            call.call_raw("x").await?;
            client.client().send("tell", &round).await
        })
    })
}

#[test]
fn threads_that_send_without_end_do_not_keep_their_messages_back() -> Tested {
    let (runtime, server, tidings) = serve();
    let client = connect(&server);
    for round in 0..2_000 {
        client.with("tell", |call| call.send(&round))?;
    }
    // Still sending, so that nobody ever waits.
    let mut arrived = 0;
    let begin = Instant::now();
    while arrived < 2_000 {
        client.send("nobody/takes/it", &0)?;
        arrived += tidings.try_iter().count();
        assert!(begin.elapsed() < PATIENCE, "{arrived} of 2000 arrived");
    }
    runtime.block_on(server.shutdown());
    Ok(())
}

#[test]
fn the_connection_is_kept_up_when_calls_have_ended() -> Tested {
    let (runtime, server, _tidings) = serve();
    let client = connect(&server);
    for _ in 0..10 {
        echo(&client, "x");
    }
    // A client that nobody drives would not hang up, and the server would wait 5 s for it.
    let ended = async { tokio::time::timeout(Duration::from_secs(4), server.shutdown()).await };
    runtime.block_on(ended)?;
    let error = client.with("postroad/echo", |call| {
        call.timeout(Duration::from_millis(200)).call_raw("x")
    });
    assert!(error.is_err(), "the server is gone");
    Ok(())
}

#[test]
fn a_client_that_is_dropped_in_an_async_context_leaves_no_thread_behind() {
    let (runtime, server, _tidings) = serve();
    let client = connect(&server);
    let weak = client.client().state();
    let dropped = runtime.block_on(async { tokio::spawn(async move { drop(client) }).await });
    assert!(dropped.is_ok(), "its own thread closes it");
    // The thread held the runtime, which held all that changes the state.
    let begin = Instant::now();
    while weak.has_changed().is_ok() {
        assert!(
            begin.elapsed() < PATIENCE,
            "somebody still holds the client"
        );
        std::thread::yield_now();
    }
    runtime.block_on(server.shutdown());
}

#[test]
fn a_client_that_is_dropped_in_async_code_neither_panics_nor_blocks_and_still_sends() -> Tested {
    let (runtime, server, tidings) = serve();
    let client = connect(&server);
    client.with("tell", |call| call.send_bytes(0, "last words".into()))?;
    let other = Runtime::new()?;
    other.block_on(async { drop(client) });
    assert_eq!(tidings.recv_timeout(PATIENCE)?, "last words");
    drop((server, runtime));
    Ok(())
}
