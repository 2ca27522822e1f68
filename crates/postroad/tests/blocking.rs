//! The client for threads: nothing is left undriven.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use postroad::{BlockingClient, Bytes, Router, RunningServer, Server};
use tokio::runtime::{Builder, Runtime};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a runtime of its own, and what it is told one-way.
fn serve() -> (Runtime, RunningServer, Receiver<Bytes>) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a thread is there");
    let (told, tidings) = sync_channel(64);
    let router = Router::new().route("tell", move |body: Bytes| {
        let _ = told.send(body);
        std::future::ready(())
    });
    let starting = Server::new(router).listen("tcp://127.0.0.1:0".parse().expect("an endpoint"));
    let server = runtime.block_on(starting.start()).expect("a free port");
    (runtime, server, tidings)
}

fn connect(server: &RunningServer) -> BlockingClient {
    let url = format!("tcp://{}", server.addresses()[0]);
    BlockingClient::connect(&url).expect("the server listens")
}

fn echo(client: &BlockingClient, text: &str) -> Bytes {
    let call = client.with("postroad/echo", |call| {
        call.timeout(PATIENCE).call_raw(text.to_owned())
    });
    call.expect("the server echoes")
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

#[test]
fn what_is_sent_leaves_without_anybody_waiting_for_it() -> Tested {
    let (runtime, server, tidings) = serve();
    let client = connect(&server);
    for round in 0..50 {
        // After a few calls in a row the client's thread stands aside.
        for _ in 0..4 {
            echo(&client, "x");
        }
        client.send("tell", &round)?;
        assert_eq!(tidings.recv_timeout(PATIENCE)?, round.to_string());
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
    // A client that nobody drives would not hang up.
    let ended = async { tokio::time::timeout(PATIENCE, server.shutdown()).await };
    runtime.block_on(ended)?;
    let error = client.with("postroad/echo", |call| {
        call.timeout(Duration::from_millis(200)).call_raw("x")
    });
    assert!(error.is_err(), "the server is gone");
    Ok(())
}
