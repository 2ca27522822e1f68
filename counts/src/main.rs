//! The hot paths of Postroad with nothing around them, to be counted and profiled.
//!
//! `counts SCENARIO COUNT IN_FLIGHT` runs both ends on one thread, so that the same work is done in
//! the same order every time; `counts serve ENDPOINT` and `counts load URL SCENARIO COUNT
//! IN_FLIGHT` are the two ends as processes. `cargo xtask counts` runs them under callgrind, DHAT
//! and strace, and compares with `counts/counts.txt`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postroad::config::Preset;
use postroad::{
    BlockingClient, Bytes, Client, ClientConfig, Endpoint, Router, Server, ServerConfig,
};
use tokio::runtime::Builder;
use tokio::sync::Notify;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PAYLOAD: [u8; 64] = [b'x'; 64];
const USAGE: &str = "usage: counts SCENARIO COUNT IN_FLIGHT | counts serve ENDPOINT | \
    counts load URL SCENARIO COUNT IN_FLIGHT; SCENARIO is call, pipeline, together, send, \
    batch, or blocking with 1, or fleet-call or fleet-pipeline with a list of servers in the URL";

/// What the server counts of one-way messages, and whom it tells.
#[derive(Default)]
struct Sink {
    arrived: AtomicU64,
    awaited: AtomicU64,
    all: Notify,
}

fn router(sink: &Arc<Sink>) -> Router {
    let sink = Arc::clone(sink);
    let count = move |payload: Bytes| {
        std::hint::black_box(payload);
        if sink.arrived.fetch_add(1, Ordering::Relaxed) + 1 == sink.awaited.load(Ordering::Relaxed)
        {
            sink.all.notify_one();
        }
        std::future::ready(())
    };
    Router::new()
        .route("counts/call", async |payload: Bytes| payload)
        .route("counts/send", count)
}

async fn serve(endpoint: &str, sink: &Arc<Sink>) -> Outcome<postroad::RunningServer> {
    let mut config = ServerConfig::default();
    config.connection.preset = preset()?;
    // Under callgrind handlers take fifty times as long as they do; the queue that keeps slow ones
    // from delaying other connections is not what is counted here.
    let server = Server::new(router(sink))
        .config(config)
        .work_budget(Duration::from_secs(60));
    let endpoint: Endpoint = endpoint.parse()?;
    Ok(server
        .listen(endpoint.clone())
        .listen(endpoint)
        .start()
        .await?)
}

/// Where a scenario goes: to the first server, or to all of the list with every policy that a
/// client of several servers has by default.
fn target<'a>(servers: &'a str, scenario: &str) -> &'a str {
    let first = servers.split(',').next().unwrap_or(servers);
    match scenario.starts_with("fleet-") {
        true => servers,
        false => first,
    }
}

/// What both ends are tuned for: the variable `COUNTS_PRESET`.
fn preset() -> Outcome<Preset> {
    let name = std::env::var("COUNTS_PRESET").unwrap_or_else(|_| "default".to_owned());
    Ok(name.parse()?)
}

fn config() -> Outcome<ClientConfig> {
    let mut config = ClientConfig::default();
    config.connection.preset = preset()?;
    Ok(config)
}

async fn connect(url: &str) -> Outcome<Client> {
    Ok(Client::connect_with(url.parse()?, config()?).await?)
}

/// A thread that waits for each of its answers, beside whatever else runs.
async fn blocking(url: &str, count: u64) -> Outcome<()> {
    let (endpoint, config) = (url.parse::<Endpoint>()?, config()?);
    let calling = move |client: BlockingClient| {
        for _ in 0..count {
            client.with("counts/call", |call| {
                let call = call.timeout(Duration::from_secs(60));
                call.call_raw(Bytes::from_static(&PAYLOAD))
            })?;
        }
        Ok::<_, postroad::CallError>(())
    };
    let (done, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let client = BlockingClient::connect_with(endpoint.into(), config);
        done.send(client.map(calling))
    });
    Ok(end.await???)
}

/// Callers that wait for their answers.
async fn call(client: &Client, count: u64, in_flight: u64) -> Outcome<()> {
    let callers = (0..in_flight).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let mine = count / in_flight + u64::from(number < count % in_flight);
            for _ in 0..mine {
                let request = client
                    .request("counts/call")
                    .timeout(Duration::from_secs(60));
                request.call_raw(Bytes::from_static(&PAYLOAD)).await?;
            }
            Ok::<_, postroad::CallError>(())
        })
    });
    let callers: Vec<_> = callers.collect();
    for caller in callers {
        caller.await??;
    }
    Ok(())
}

/// The same calls from one task.
async fn pipeline(client: &Client, count: u64, in_flight: u64) -> Outcome<()> {
    let pipeline = client.pipeline("counts/call");
    let mut pipeline = pipeline.timeout(Duration::from_secs(60));
    let calling = tokio::spawn(async move {
        let mut left = count;
        while left > 0 || pipeline.in_flight() > 0 {
            while left > 0 && (pipeline.in_flight() as u64) < in_flight {
                pipeline.call(left, Bytes::from_static(&PAYLOAD)).await?;
                left -= 1;
            }
            if let Some((_, answer)) = pipeline.next().await {
                answer?;
            }
        }
        Ok::<_, postroad::CallError>(())
    });
    Ok(calling.await??)
}

/// The same where those whose answers came together are made together.
async fn together(client: &Client, count: u64, in_flight: u64) -> Outcome<()> {
    static BODY: Bytes = Bytes::from_static(&PAYLOAD);
    let pipeline = client.pipeline("counts/call");
    let mut pipeline = pipeline.timeout(Duration::from_secs(60));
    let calling = tokio::spawn(async move {
        let mut left = count;
        while left > 0 || pipeline.in_flight() > 0 {
            let calls = left.min(in_flight - pipeline.in_flight() as u64);
            let made = pipeline.try_calls((0..calls).map(|call| (call, &BODY)));
            made.map_err(|(_, error)| error)?;
            left -= calls;
            let mut is_waiting = true;
            while is_waiting || pipeline.ready() > 0 {
                if let Some((_, answer)) = pipeline.next().await {
                    answer?;
                }
                is_waiting = false;
            }
        }
        Ok::<_, postroad::CallError>(())
    });
    Ok(calling.await??)
}

/// Messages that nobody answers.
async fn send(client: &Client, count: u64) -> Outcome<()> {
    let mut producer = client.producer("counts/send");
    for _ in 0..count {
        producer.send(Bytes::from_static(&PAYLOAD)).await?;
    }
    Ok(producer.flush().await?)
}

/// The same, 64 at a time.
async fn batch(client: &Client, count: u64) -> Outcome<()> {
    let mut producer = client.producer("counts/send");
    for sent in (0..count).step_by(64) {
        let messages = sent..count.min(sent + 64);
        let messages = messages.map(|_| Bytes::from_static(&PAYLOAD));
        let sent = producer.send_all(messages).await;
        sent.map_err(|(_, error)| error)?;
    }
    Ok(producer.flush().await?)
}

/// All messages of a scenario, on this connection or on one of its own.
async fn make(
    client: &Client,
    url: &str,
    scenario: &str,
    count: u64,
    in_flight: u64,
) -> Outcome<()> {
    match scenario {
        "call" | "fleet-call" => call(client, count, in_flight).await,
        "blocking" if in_flight == 1 => blocking(url, count).await,
        "pipeline" | "fleet-pipeline" => pipeline(client, count, in_flight).await,
        "together" => together(client, count, in_flight).await,
        "send" => send(client, count).await,
        "batch" => batch(client, count).await,
        _ => Err(USAGE.into()),
    }
}

async fn one_process(scenario: &str, count: u64, in_flight: u64) -> Outcome<()> {
    let sink = Arc::new(Sink::default());
    sink.awaited.store(count, Ordering::Relaxed);
    let server = serve("tcp://127.0.0.1:0", &sink).await?;
    let servers = format!("tcp://{}", server.addresses().join(","));
    let url = target(&servers, scenario);
    let url = target(url, scenario);
    let client = connect(url).await?;
    let (begin, cpu) = (Instant::now(), cpu_time());
    make(&client, url, scenario, count, in_flight).await?;
    if matches!(scenario, "send" | "batch") {
        sink.all.notified().await;
    }
    tell(count, begin.elapsed(), cpu_time() - cpu);
    server.shutdown().await;
    Ok(())
}

async fn load(url: &str, scenario: &str, count: u64, in_flight: u64) -> Outcome<()> {
    let url = target(url, scenario);
    let client = connect(url).await?;
    let (begin, cpu) = (Instant::now(), cpu_time());
    make(&client, url, scenario, count, in_flight).await?;
    tell(count, begin.elapsed(), cpu_time() - cpu);
    client.close().await;
    Ok(())
}

/// CPU time of all threads of this process, as the scheduler counts it; nothing where there is no
/// `/proc`.
fn cpu_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let of_task = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(of_task).sum())
}

fn tell(count: u64, time: Duration, cpu: Duration) {
    let each = |time: Duration| time.as_nanos() as f64 / count as f64;
    // Whoever reads this may be gone.
    let _ = writeln!(
        std::io::stdout(),
        "{count} messages, {:.1} ns each, {:.1} ns of this process's CPU each",
        each(time),
        each(cpu)
    );
}

/// Whoever started this process needs it no more. On a thread of its own, which nobody waits for.
async fn input_ends() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        if std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).is_ok() {
            let _ = ended.send(());
        }
    });
    if end.await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn run(arguments: &[&str]) -> Outcome<()> {
    match arguments {
        ["serve", endpoint] => {
            let sink = Arc::new(Sink::default());
            let server = serve(endpoint, &sink).await?;
            println!("{}", server.addresses().join(","));
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => interrupted?,
                () = input_ends() => {}
            }
            let handled = server.stats().started.max(1);
            tell(handled, Duration::ZERO, cpu_time());
            server.shutdown().await;
            Ok(())
        }
        ["load", url, scenario, count, in_flight] => {
            load(url, scenario, count.parse()?, in_flight.parse()?).await
        }
        [scenario, count, in_flight] => {
            one_process(scenario, count.parse()?, in_flight.parse()?).await
        }
        _ => Err(USAGE.into()),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = match std::env::var("COUNTS_RUNTIME").as_deref() {
        Ok("multi") => Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build(),
        _ => Builder::new_current_thread().enable_all().build(),
    };
    let result = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
