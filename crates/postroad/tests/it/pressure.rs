//! Late answers, full transports, batches that take long, and many one-way messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postroad::config::Preset;
use postroad::{Bytes, CallError, Client, Router, RunningServer, Server, ServerConfig};
use tokio::sync::mpsc;

use crate::support::{self, Tested};

async fn serve(
    url: &str,
    router: Router,
) -> Result<(RunningServer, Client), Box<dyn std::error::Error>> {
    let server = support::serve(url, router).await?;
    let address = &server.addresses()[0];
    let url = match url.starts_with("mem") {
        true => url.to_owned(),
        false => format!("tcp://{address}"),
    };
    let client = Client::connect(&url).await?;
    Ok((server, client))
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_that_comes_late_is_not_taken_for_a_stall() -> Tested {
    let late = async || {
        tokio::time::sleep(Duration::from_secs(11)).await; // tidy: paused clock
        Bytes::from(vec![0; 1 << 20])
    };
    let (_server, client) = serve("mem://late", Router::new().route("late", late)).await?;
    let request = client.request("late").timeout(Duration::from_secs(20));
    assert_eq!(request.call_raw("").await?.len(), 1 << 20);
    Ok(())
}

#[tokio::test]
async fn a_request_behind_a_slow_one_is_not_started_past_its_deadline() -> Tested {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let slow = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        // Blocks its thread, as no handler should.
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        std::future::ready(())
    };
    let (_server, client) = serve("tcp://127.0.0.1:0", Router::new().route("slow", slow)).await?;
    client.request("postroad/echo").call_raw("warm").await?;
    let call = || {
        let request = client.request("slow").timeout(Duration::from_millis(100));
        request.call_raw("")
    };
    let (first, second, third) = tokio::join!(call(), call(), call());
    drop(first);
    assert!(second.is_err() && third.is_err());
    assert_eq!(
        runs.load(Ordering::Relaxed),
        1,
        "those behind it were of no use any more"
    );
    Ok(())
}

/// A route that hands on what it is sent, as numbers.
fn numbers() -> (Router, mpsc::Receiver<u32>) {
    let (sender, receiver) = mpsc::channel(200_000);
    let take = move |payload: Bytes| {
        let number = payload
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let _ = sender.try_send(number);
        std::future::ready(())
    };
    (Router::new().route("take", take), receiver)
}

#[tokio::test]
async fn a_producer_loses_nothing_and_keeps_the_order() -> Tested {
    let (router, mut arrived) = numbers();
    let (_server, client) = serve("tcp://127.0.0.1:0", router).await?;
    let mut producer = client.producer("take").batch(1000).window(5000);
    for number in 0..100_000_u32 {
        producer.send(number.to_le_bytes().to_vec()).await?;
    }
    producer.flush().await?;
    for number in 0..100_000 {
        assert_eq!(arrived.recv().await, Some(number));
    }
    Ok(())
}

#[tokio::test]
async fn messages_that_are_sent_together_keep_their_order_and_none_is_lost() -> Tested {
    let (router, mut arrived) = numbers();
    let (_server, client) = serve("tcp://127.0.0.1:0", router).await?;
    let mut producer = client.producer("take");
    let message = |number: u32, length: usize| {
        let mut body = number.to_le_bytes().to_vec();
        body.resize(length, 0);
        Bytes::from(body)
    };
    // Lone ones and large ones are among them.
    let mut number = 0;
    for count in [0, 1, 31, 32, 33, 1_000, 20_000] {
        let lengths = [4, 64, 4, 3_000, 4, 4, 4];
        let messages = (0..count).map(|at: u32| message(number + at, lengths[at as usize % 7]));
        producer.send_all(messages).await.map_err(|(_, why)| why)?;
        number += count;
        producer.send(message(number, 4)).await?;
        number += 1;
    }
    let large = (0..100).map(|at| message(number + at, 300_000));
    producer.send_all(large).await.map_err(|(_, why)| why)?;
    number += 100;
    producer.flush().await?;
    for expected in 0..number {
        assert_eq!(arrived.recv().await, Some(expected));
    }
    Ok(())
}

#[tokio::test]
async fn of_messages_that_are_sent_together_it_is_told_how_many_were() -> Tested {
    let (router, mut arrived) = numbers();
    let (server, client) = serve("tcp://127.0.0.1:0", router).await?;
    let mut producer = client.producer("take");
    for before in [0_u32, 40] {
        let too_large = Bytes::from(vec![0; 17 << 20]);
        let small = (0..before).map(|number| Bytes::from(number.to_le_bytes().to_vec()));
        let messages = small.chain([too_large, Bytes::new()]);
        let (sent, why) = producer.send_all(messages).await.expect_err("too large");
        assert!(matches!(why, CallError::Unsendable(_)), "{why}");
        assert_eq!(sent, before as usize);
        for number in 0..before {
            assert_eq!(arrived.recv().await, Some(number));
        }
    }
    server.shutdown().await;
    let mut hasty = client.producer("take").timeout(Duration::from_millis(50));
    let lost = hasty.send_all([Bytes::new(), Bytes::new()]).await;
    let (sent, why) = lost.expect_err("nobody is there");
    assert!(matches!(why, CallError::NotConnected { .. }), "{why}");
    assert_eq!(sent, 0);
    Ok(())
}

#[tokio::test]
async fn a_flush_waits_also_for_what_was_less_urgent() -> Tested {
    let (router, mut arrived) = numbers();
    let (_server, client) = serve("tcp://127.0.0.1:0", router).await?;
    let mut producer = client.producer("take").priority(0);
    for number in 0..50_u32 {
        producer.send(number.to_le_bytes().to_vec()).await?;
        producer = producer.priority(7);
        // Nobody else has run, so nobody has written.
        tokio::select! {
            biased;
            _ = producer.flush() => return Err("ready before it was handed over".into()),
            () = std::future::ready(()) => {}
        }
        producer.flush().await?;
        producer = producer.priority(0);
        assert_eq!(arrived.recv().await, Some(number));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_message_that_lingers_leaves_in_time_though_no_other_follows() -> Tested {
    let (router, mut arrived) = numbers();
    let (_server, client) = serve("mem://linger", router).await?;
    let mut producer = client.producer("take").linger(Duration::from_millis(50));
    for number in 0..3_u32 {
        let begin = tokio::time::Instant::now();
        producer.send(number.to_le_bytes().to_vec()).await?;
        assert_eq!(arrived.recv().await, Some(number));
        let waited = begin.elapsed();
        assert!(waited >= Duration::from_millis(50), "{waited:?}");
        assert!(waited < Duration::from_millis(100), "{waited:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_producer_whose_connection_broke_says_so() -> Tested {
    let (router, _arrived) = numbers();
    let (server, client) = serve("tcp://127.0.0.1:0", router).await?;
    let mut producer = client.producer("take").timeout(Duration::from_millis(200));
    producer.send("first").await?;
    producer.flush().await?;
    drop(server);
    let mut refused = None;
    while refused.is_none() {
        let sent = producer.send("more").await;
        refused = sent.err().or(producer.flush().await.err());
    }
    assert!(
        matches!(refused, Some(CallError::NotConnected { .. })),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test]
async fn every_preset_answers_small_and_large_calls() -> Tested {
    for (name, preset) in Preset::ALL {
        let mut config = ServerConfig::default();
        config.connection.preset = preset;
        let server = Server::new(Router::new()).config(config);
        let server = server.listen("tcp://127.0.0.1:0".parse()?).start().await?;
        let url = format!("tcp://{}", server.addresses()[0]);
        let mut config = postroad::ClientConfig::default();
        config.connection.preset = preset;
        let client = Client::connect_with(url.parse()?, config).await?;
        for len in [0, 1, 64, 60_000, 200_000, 64] {
            let body = Bytes::from(vec![7; len]);
            let answer = client
                .request("postroad/echo")
                .call_raw(body.clone())
                .await?;
            assert_eq!(answer, body, "{name}");
        }
    }
    assert!("fast".parse::<Preset>().is_err());
    Ok(())
}
