//! Every message is reported once, whatever becomes of it, and none is refused for good because its
//! connection was about to end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use postroad_proto::code::{Code, Retry};
use postroad_proto::policy::{ConnectionState, Ending, Outcome};
use postroad_proto::session::CloseReason;

use super::handle::Client;
use crate::driver::Connection;
use crate::transport::PeerInfo;
use crate::{CallError, ClientConfig, Error, Router, RunningServer, Server};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// What the listener has heard.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Outcome>>>);

impl Heard {
    /// All endings since the last time, in their order.
    fn take(&self) -> Vec<Ending> {
        let mut heard = self.0.lock().expect("nobody panics with the lock");
        heard.drain(..).map(|outcome| outcome.ending).collect()
    }
}

/// How a connection ends between being picked and being used.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Drained,
    Closed,
}

async fn serve(url: &str) -> Result<RunningServer, Box<dyn std::error::Error>> {
    let router = Router::new()
        .route("echo", async |payload: Bytes| payload)
        .route("fail", async |_: Bytes| -> Result<Bytes, Error> {
            Err(Error::new("TST-E-001", "as it was asked to"))
        })
        .route("never", async |_: Bytes| -> Bytes {
            std::future::pending().await
        });
    Ok(Server::new(router).listen(url.parse()?).start().await?)
}

async fn connect(url: &str) -> Result<(Client, Heard), Box<dyn std::error::Error>> {
    let config = ClientConfig {
        max_wait: Duration::from_secs(1),
        ..ClientConfig::default()
    };
    let client = Client::connect_with(url.parse()?, config).await?;
    let heard = Heard::default();
    let listener = {
        let heard = heard.clone();
        move |peer: &PeerInfo, outcome| {
            assert!(peer.to_string().starts_with("mem://"));
            heard
                .0
                .lock()
                .expect("nobody panics with the lock")
                .push(outcome);
        }
    };
    Ok((client.after(listener), heard))
}

/// The connection that every sender picks next.
fn current(client: &Client) -> Arc<Connection> {
    let info = super::options::SendOptions::new("echo", Duration::ZERO, None);
    let lease = client.channel.pick(&info.info("echo", true));
    Arc::clone(lease.expect("it is connected").connection())
}

/// Ends the connection without letting the client's keeper notice: it is picked once more.
fn end(client: &Client, ends: Ends) {
    match ends {
        Ends::Drained => current(client).drain(Duration::from_secs(1)),
        Ends::Closed => current(client).close(CloseReason::Peer),
    }
}

fn body() -> Bytes {
    Bytes::from_static(b"body")
}

const NOT_TAKEN: Ending = Ending::NotSent { retry: Retry::Here };
const WRONG: Ending = Ending::NotSent {
    retry: Retry::Never,
};

/// More than a server takes.
fn too_large() -> Bytes {
    vec![0; 17 << 20].into()
}

fn failed() -> Ending {
    Ending::Refused {
        code: Code::parse("TST-E-001").expect("it is a code"),
        retry: Retry::Never,
    }
}

#[tokio::test]
async fn each_call_is_reported_once_with_its_time() -> Tested {
    let server = serve("mem://outcome-of-calls").await?;
    let (client, heard) = connect("mem://outcome-of-calls").await?;
    client.request("echo").call_raw(body()).await?;
    let outcome = heard.0.lock().expect("nobody panics with the lock")[0];
    assert!(outcome.timing.is_some());
    assert_eq!(heard.take(), [Ending::Answered]);
    client.request("fail").call_raw(body()).await.unwrap_err();
    assert_eq!(heard.take(), [failed()]);
    client
        .request("echo")
        .call_raw(too_large())
        .await
        .unwrap_err();
    assert_eq!(heard.take(), [WRONG]);
    let late = client.request("never").timeout(Duration::from_millis(20));
    late.call_raw(body()).await.unwrap_err();
    assert_eq!(heard.take(), [Ending::Deadline { sent: true }]);
    let dropped = client.request("never").call_raw(body());
    tokio::time::timeout(Duration::from_millis(20), dropped)
        .await
        .unwrap_err();
    assert_eq!(heard.take(), [Ending::GivenUp]);
    // A call that was never polled has picked nothing.
    drop(client.request("never").call_raw(body()));
    assert_eq!(heard.take(), []);
    server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn each_message_that_nobody_answers_is_reported_once() -> Tested {
    let server = serve("mem://outcome-of-messages").await?;
    let (client, heard) = connect("mem://outcome-of-messages").await?;
    client.request("echo").send_bytes(0, body()).await?;
    client
        .request("echo")
        .send_bytes(0, too_large())
        .await
        .unwrap_err();
    assert_eq!(heard.take(), [Ending::Handed, WRONG]);
    let mut producer = client.producer("echo");
    producer.send(body()).await?;
    producer.send(body()).await?;
    let sent = producer.send_all(vec![body(); 40]).await;
    sent.map_err(|(_, error)| error)?;
    assert_eq!(heard.take(), [Ending::Handed; 42]);
    producer.send(too_large()).await.unwrap_err();
    assert_eq!(heard.take(), [WRONG]);
    drop(producer.send(body()));
    drop(producer);
    assert_eq!(heard.take(), []);
    server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn each_call_of_a_pipeline_is_reported_once_also_if_the_pipeline_is_dropped() -> Tested {
    let server = serve("mem://outcome-of-pipelines").await?;
    let (client, heard) = connect("mem://outcome-of-pipelines").await?;
    let mut pipeline = client.pipeline("echo");
    pipeline.call(0, body()).await?;
    let bodies = vec![body(); 40];
    let made = pipeline.try_calls((1_u64..).zip(&bodies));
    made.map_err(|(_, error)| error)?;
    assert_eq!(heard.take(), [], "an answer is reported when it is taken");
    while let Some((_, answer)) = pipeline.next().await {
        answer?;
    }
    assert_eq!(heard.take(), [Ending::Answered; 41]);
    pipeline.call(41, too_large()).await.unwrap_err();
    assert_eq!(heard.take(), [WRONG]);
    let mut failing = client.pipeline("fail");
    failing.call(0, body()).await?;
    failing
        .next()
        .await
        .ok_or("an answer is missing")?
        .1
        .unwrap_err();
    assert_eq!(heard.take(), [failed()]);
    // One answer of the two is taken, and the other was received.
    pipeline.call(42, body()).await?;
    pipeline.call(43, body()).await?;
    pipeline.next().await.ok_or("an answer is missing")?.1?;
    let untaken = pipeline.ready();
    drop(pipeline);
    let last = if untaken == 1 {
        Ending::Answered
    } else {
        Ending::GivenUp
    };
    assert_eq!(heard.take(), [Ending::Answered, last]);
    let mut waiting = client.pipeline("never");
    waiting.call(0, body()).await?;
    waiting.call(1, body()).await?;
    drop(waiting);
    assert_eq!(heard.take(), [Ending::GivenUp; 2]);
    server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn what_meets_a_connection_that_has_just_ended_goes_on_the_next() -> Tested {
    let server = serve("mem://next-connection").await?;
    for ends in [Ends::Drained, Ends::Closed] {
        let (client, heard) = connect("mem://next-connection").await?;
        // Each loses its connection between two messages, and the first between making and sending.
        end(&client, ends);
        client.request("echo").call_raw(body()).await?;
        assert_eq!(
            heard.take(),
            [NOT_TAKEN, NOT_TAKEN, Ending::Answered],
            "{ends:?}"
        );

        end(&client, ends);
        client.request("echo").send_bytes(0, body()).await?;
        assert_eq!(
            heard.take(),
            [NOT_TAKEN, NOT_TAKEN, Ending::Handed],
            "{ends:?}"
        );

        let mut producer = client.producer("echo");
        producer.send(body()).await?;
        end(&client, ends);
        producer.send(body()).await?;
        producer.flush().await?;
        let endings = [Ending::Handed, NOT_TAKEN, NOT_TAKEN, Ending::Handed];
        assert_eq!(heard.take(), endings, "{ends:?}");

        let mut pipeline = client.pipeline("echo");
        pipeline.call(0, body()).await?;
        pipeline.next().await.ok_or("an answer is missing")?.1?;
        end(&client, ends);
        pipeline.call(1, body()).await?;
        pipeline.next().await.ok_or("an answer is missing")?.1?;
        let endings = heard.take();
        assert_eq!(endings.first(), Some(&Ending::Answered), "{ends:?}");
        assert_eq!(endings.last(), Some(&Ending::Answered), "{ends:?}");
        let between = &endings[1..endings.len() - 1];
        assert!(
            between.iter().all(|ending| *ending == NOT_TAKEN),
            "{ends:?}: {endings:?}"
        );
    }
    server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn without_a_next_connection_the_error_says_that_the_call_may_be_sent_again() -> Tested {
    for ends in [Ends::Drained, Ends::Closed] {
        let server = serve("mem://no-next-connection").await?;
        let (client, _heard) = connect("mem://no-next-connection").await?;
        let mut producer = client.producer("echo");
        producer.send(body()).await?;
        let mut pipeline = client.pipeline("echo");
        pipeline.call(0, body()).await?;
        pipeline.next().await.ok_or("an answer is missing")?.1?;
        server.shutdown().await;
        let mut state = client.state();
        state
            .wait_for(|state| *state != ConnectionState::Connected)
            .await?;
        let again = serve("mem://no-next-connection").await?;
        client.try_now();
        state
            .wait_for(|state| *state == ConnectionState::Connected)
            .await?;
        end(&client, ends);
        again.shutdown().await;

        let tried = pipeline.try_call(1, &body()).unwrap_err();
        let together = pipeline.try_calls([(1, &body())]).unwrap_err().1;
        let (call, send, produced, piped) = tokio::join!(
            client.request("echo").call_raw(body()),
            client.request("echo").send_bytes(0, body()),
            producer.send(body()),
            pipeline.call(2, body()),
        );
        let failed = [call.unwrap_err(), send.unwrap_err(), produced.unwrap_err()];
        let pipelines = [piped.unwrap_err(), tried, together];
        for error in failed.iter().chain(&pipelines) {
            assert_eq!(error.retry(), Retry::Here, "{ends:?}: {error}");
            assert!(
                matches!(error, CallError::NotConnected { .. }),
                "{ends:?}: {error}"
            );
        }
    }
    Ok(())
}
