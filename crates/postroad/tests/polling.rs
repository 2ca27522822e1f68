//! Ends that poll before they sleep: what comes is the same, however it was looked for.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use postroad::{BlockingClient, Bytes, Client, ClientConfig, Preset, Router, Server, ServerConfig};

type Tested = Result<(), Box<dyn std::error::Error>>;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("threads have a runtime each")
}

fn client_config() -> ClientConfig {
    ClientConfig {
        preset: Preset::LowLatency,
        timeout: Duration::from_secs(20),
        ..ClientConfig::default()
    }
}

/// A polling node on a thread of its own, until what is returned beside its address is dropped.
fn serve(url: &str) -> (String, mpsc::SyncSender<()>) {
    let (tell, told) = mpsc::sync_channel(1);
    let (end, ended) = mpsc::sync_channel::<()>(1);
    let endpoint = url.parse().expect("the test's own URL");
    std::thread::spawn(move || {
        runtime().block_on(async {
            let config = ServerConfig {
                preset: Preset::LowLatency,
                ..ServerConfig::default()
            };
            let server = Server::new(Router::new()).config(config).listen(endpoint);
            let server = server.start().await.expect("the endpoint is free");
            let address = server.addresses()[0].clone();
            tell.send(address).expect("the test waits for it");
            let _ = tokio::task::spawn_blocking(move || ended.recv()).await;
        });
    });
    (told.recv().expect("the server starts"), end)
}

fn body(call: usize, length: usize) -> Bytes {
    vec![call as u8; length].into()
}

/// One after the other, with bodies that a look takes whole, at its edge, and in part.
async fn echo_in_turn(client: &Client) -> Tested {
    for call in 0..600 {
        let body = body(call, [0, 64, 900, 1_000, 1_100, 70_000][call % 6]);
        let answer = client.request("postroad/echo").call_raw(body.clone());
        assert_eq!(answer.await?, body, "call {call}");
    }
    Ok(())
}

fn echo(url: &str) -> Tested {
    runtime().block_on(async {
        let client = Client::connect_with(url.parse()?, client_config()).await?;
        echo_in_turn(&client).await?;
        client.close().await;
        Ok(())
    })
}

#[test]
fn lone_calls_have_their_own_answers_over_tcp_and_memory() -> Tested {
    let (address, _node) = serve("tcp://127.0.0.1:0");
    echo(&format!("tcp://{address}"))?;
    let (_, _node) = serve("mem://polled");
    echo("mem://polled")
}

#[cfg(unix)]
#[test]
fn lone_calls_have_their_own_answers_over_a_unix_socket() -> Tested {
    let folder = tempfile::tempdir()?;
    let url = format!("unix://{}/node.sock", folder.path().display());
    let (_, _node) = serve(&url);
    echo(&url)
}

#[test]
fn several_connections_of_a_thread_poll_together() -> Tested {
    let (address, _node) = serve("tcp://127.0.0.1:0");
    let url = format!("tcp://{address}");
    runtime().block_on(async {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let client = Client::connect_with(url.parse()?, client_config()).await?;
            for _ in 0..2 {
                let client = client.clone();
                callers.spawn(async move {
                    let done = echo_in_turn(&client).await;
                    done.map_err(|error| error.to_string())
                });
            }
        }
        while let Some(done) = callers.join_next().await {
            done??;
        }
        Ok(())
    })
}

#[test]
fn a_blocking_caller_polls_for_its_own_answers() -> Tested {
    let (address, _node) = serve("tcp://127.0.0.1:0");
    let endpoint = format!("tcp://{address}").parse()?;
    let client = BlockingClient::connect_with(endpoint, client_config())?;
    for call in 0..1_000 {
        let body = body(call, 64);
        let answer = client.with("postroad/echo", |with| with.call_raw(body.clone()));
        assert_eq!(answer?, body);
    }
    Ok(())
}

#[test]
fn a_node_that_polls_takes_nonsense_and_ends_for_what_they_are() -> Tested {
    let (address, _node) = serve("tcp+sequence://127.0.0.1:0?route=postroad/echo");
    for _ in 0..50 {
        TcpStream::connect(&address)?.write_all(&[0xff; 3000])?;
        drop(TcpStream::connect(&address)?);
    }
    echo(&format!("tcp+sequence://{address}"))
}
