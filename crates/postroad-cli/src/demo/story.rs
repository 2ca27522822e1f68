//! What happens, in order, and whether it was as claimed.

use crate::terminal::say;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postroad::{CallError, Client, Retry, Trace};
use postroad_proto::dialect::Dialect;
use tokio::task::JoinHandle;

use super::node::{OrdersClient, StockClient};
use super::process::Node;
use crate::exit::Failed;
use crate::terminal::Style;

/// Callers of the load.
const CALLERS: usize = 32;
/// Requests each dialect's client makes.
const REQUESTS: usize = 100;

/// Messages of the bulk that an urgent call overtakes, and bytes of each.
const BULK: usize = 4;
const BULK_BYTES: usize = 8 << 20;

pub(super) struct Story {
    style: Style,
    claims: usize,
    broken: Vec<String>,
}

/// How the calls of a load ended.
#[derive(Default)]
struct Outcomes {
    answered: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
    unclear: AtomicU64,
    stop: AtomicBool,
}

impl Outcomes {
    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn failed(&self) -> BTreeMap<String, u64> {
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn add(&self, error: &CallError) {
        let key = format!("{} ({})", error.code(), again(error.retry()));
        *self
            .failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key)
            .or_default() += 1;
        // A lost call is never said to be safe unless it was.
        let is_clear = match error {
            CallError::Lost { sent, .. } => (error.retry() == Retry::Here) != *sent,
            CallError::NotConnected { .. } | CallError::Busy(_) => error.retry() == Retry::Here,
            _ => error.retry() == Retry::IfIdempotent,
        };
        self.unclear
            .fetch_add(u64::from(!is_clear), Ordering::Relaxed);
    }
}

impl Story {
    pub(super) fn new(style: Style) -> Self {
        Self {
            style,
            claims: 0,
            broken: Vec::new(),
        }
    }

    pub(super) fn title(&self, title: &str) {
        say(format_args!("\n{}", self.style.bold(title)));
    }

    /// Says what was seen, and remembers if it was not what is claimed.
    pub(super) fn claim(&mut self, holds: bool, what: impl Into<String>) {
        let what = what.into();
        self.claims += 1;
        if holds {
            say(format_args!("   {} {what}", self.style.green("ok")));
        } else {
            say(format_args!("   {} {what}", self.style.red("NOT SO")));
            self.broken.push(what);
        }
    }

    pub(super) fn end(&self) -> bool {
        let seen = self.claims - self.broken.len();
        say(format_args!("\n{seen} of {} claims were seen", self.claims));
        self.broken.is_empty()
    }

    async fn connect(&mut self, url: &str) -> Option<Client> {
        match Client::connect(url).await {
            Ok(client) => Some(client),
            Err(error) => {
                self.claim(false, format!("connect to {url}: {error}"));
                None
            }
        }
    }

    pub(super) async fn services(&mut self, node: &Node) {
        self.title("2. Typed calls, and an error that names its cause in another service");
        let Some(client) = self.connect(&node.url("native")).await else {
            return;
        };
        let count = StockClient::new(client.clone())
            .count("nails".to_owned())
            .await;
        self.claim(
            matches!(count, Ok(1000)),
            format!("Stock.count(nails) = {count:?}"),
        );
        let value = serde_json::json!({ "item": "hammers" });
        let by_name = client.request("Orders.place").call_json(&value).await;
        let text = by_name
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        self.claim(
            by_name.is_ok(),
            format!("Orders.place by its name, with JSON: {text}"),
        );
        let trace = Trace {
            id: rand::random(),
            span: rand::random(),
            flags: 1,
        };
        let place = client.request("Orders.place").trace(trace);
        let error = place
            .call::<_, String>(&serde_json::json!({ "item": "unicorns" }))
            .await;
        let Err(CallError::Remote(error)) = error else {
            return self.claim(false, "Orders.place(unicorns) fails");
        };
        let codes: Vec<_> = error
            .causes()
            .iter()
            .map(|cause| cause.code.to_string())
            .collect();
        self.claim(
            codes == ["ORD-E-102", "INV-E-003"],
            format!("Orders.place(unicorns): {error}"),
        );
        let same = error.trace().is_some_and(|found| found.id == trace.id);
        self.claim(same, format!("both services logged it under trace {trace}"));
        drop(OrdersClient::new(client));
    }

    pub(super) async fn dialects(&mut self, node: &Node) {
        self.title("3. Clients of the six dialects");
        for dialect in Dialect::ALL {
            let name = dialect.name();
            let Some(client) = self.connect(&node.url(name)).await else {
                continue;
            };
            let mut calls = Vec::new();
            for number in 0..REQUESTS {
                let client = client.clone();
                calls.push(tokio::spawn(async move {
                    let text = format!("message {number}");
                    let answer = client.request("command/1").call_raw(text.clone()).await;
                    answer.is_ok_and(|answer| answer == text)
                }));
            }
            let mut right = 0;
            for call in calls {
                right += usize::from(call.await.unwrap_or(false));
            }
            let what = format!(
                "{name:<9} {right} of {REQUESTS} requests in flight, each with its own answer"
            );
            self.claim(right == REQUESTS, what);
        }
    }

    pub(super) async fn deadlines(&mut self, node: &Node) {
        self.title("4. Deadlines and cancellation");
        let Some(client) = self.connect(&node.url("native")).await else {
            return;
        };
        let begin = Instant::now();
        let slow = client
            .request("Stock.count_slowly")
            .timeout(Duration::from_millis(100));
        let arguments = serde_json::json!({ "item": "nails", "millis": 5000 });
        let result: Result<u32, _> = slow.call(&arguments).await;
        let took = begin.elapsed();
        let is_deadline = matches!(result, Err(CallError::Deadline { .. }));
        let in_time = took >= Duration::from_millis(100) && took < Duration::from_secs(1);
        self.claim(
            is_deadline && in_time,
            format!("a call of 5 s with a deadline of 100 ms ended after {took:.0?}"),
        );
        let text = result
            .err()
            .map(|error| format!("{error} ({})", again(error.retry())));
        say(format_args!("      {}", text.unwrap_or_default()));
        self.cancelled(&client).await;
    }

    /// A caller that gives up, and what becomes of its handler.
    async fn cancelled(&mut self, client: &Client) {
        let stock = StockClient::new(client.clone());
        // Those that the deadline has stopped are counted too, a moment later.
        let before = settled(&stock).await;
        let slow = stock.count_slowly("nails".to_owned(), 60_000);
        let given_up = tokio::time::timeout(Duration::from_millis(100), slow).await;
        let begin = Instant::now();
        let mut stopped = before;
        while stopped == before && begin.elapsed() < Duration::from_secs(2) {
            stopped = stock.stopped().await.unwrap_or(before);
        }
        let took = begin.elapsed();
        self.claim(
            given_up.is_err() && stopped == before + 1,
            format!("a caller gave up a call of 60 s; its handler was stopped within {took:.0?}"),
        );
    }

    pub(super) async fn priorities(&mut self, node: &Node) {
        self.title("5. Priorities: urgent before bulk, on one connection");
        let Some(client) = self.connect(&node.url("native")).await else {
            return;
        };
        let begin = Instant::now();
        let bulk: Vec<_> = (0..BULK)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move {
                    let request = client.request("postroad/echo").priority(0);
                    let answer = request.call_raw(vec![0; BULK_BYTES]).await;
                    answer.is_ok_and(|answer| answer.len() == BULK_BYTES)
                })
            })
            .collect();
        // The bulk is on its way before the urgent call is made.
        tokio::task::yield_now().await;
        let made = Instant::now();
        let urgent = client.request("postroad/echo").priority(7);
        let is_answered = urgent.call_raw("urgent").await.is_ok();
        let urgent_took = made.elapsed();
        let were_waiting = bulk.iter().filter(|call| !call.is_finished()).count();
        let mut right = 0;
        for call in bulk {
            right += usize::from(call.await.unwrap_or(false));
        }
        let took = begin.elapsed();
        let megabytes = (BULK * BULK_BYTES) >> 20;
        self.claim(
            is_answered && right == BULK && were_waiting > 0,
            format!(
                "an urgent call behind {megabytes} MiB of bulk took {urgent_took:.1?}, \
                 the bulk {took:.0?}"
            ),
        );
    }

    pub(super) async fn killed_under_load(&mut self, node: &mut Node) -> Result<(), Failed> {
        self.title("6. kill -9 under load; the same client goes on after the restart");
        let Some(client) = self.connect(&node.url("native")).await else {
            return Ok(());
        };
        let (outcomes, callers) = start_load(&client);
        let begin = Instant::now();
        pause(700).await;
        let before = outcomes.answered();
        let rate = before as f64 / begin.elapsed().as_secs_f64();
        say(format_args!(
            "      {before} calls answered, {rate:.0} a second; kill -9 {}",
            node.id()
        ));
        node.kill()?;
        pause(300).await;
        // A machine that is busy tells the callers later.
        let until = Instant::now() + Duration::from_secs(5);
        while outcomes.failed().is_empty() && Instant::now() < until {
            pause(50).await;
        }
        let failed: u64 = outcomes.failed().values().sum();
        let by_code = outcomes.failed();
        let by_code = by_code
            .iter()
            .map(|(error, count)| format!("{count} x {error}"));
        let by_code = by_code.collect::<Vec<_>>().join(", ");
        self.claim(
            before > 0 && failed > 0,
            format!("calls ended with errors, none hangs: {by_code}"),
        );
        self.claim(
            outcomes.unclear.load(Ordering::Relaxed) == 0,
            "each error says whether the call may be sent again",
        );
        node.restart().await?;
        say(format_args!("      started again as process {}", node.id()));
        // The moment that its backoff has drawn may be some seconds away.
        let back = wait_for(&outcomes, before + 1000, Duration::from_secs(20)).await;
        self.claim(
            back,
            format!(
                "the same client answered {} more calls",
                outcomes.answered() - before
            ),
        );
        outcomes.stop.store(true, Ordering::Relaxed);
        let all = join(callers).await;
        self.claim(all, format!("{CALLERS} callers have come to their ends"));
        Ok(())
    }

    pub(super) async fn restarted_gracefully(&mut self, node: &mut Node) -> Result<(), Failed> {
        self.title("7. SIGTERM: what was accepted is finished");
        let Some(client) = self.connect(&node.url("native")).await else {
            return Ok(());
        };
        let stock = StockClient::new(client);
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let stock = stock.clone();
                tokio::spawn(async move { stock.count_slowly("nails".to_owned(), 1000).await })
            })
            .collect();
        pause(300).await;
        let begin = Instant::now();
        let ended_well = node.terminate().await?;
        let mut answered = 0;
        for call in calls {
            answered += usize::from(matches!(call.await, Ok(Ok(1000))));
        }
        let what = format!("{answered} of 20 calls in flight were answered after SIGTERM");
        self.claim(answered == 20, what);
        let took = begin.elapsed();
        self.claim(
            ended_well,
            format!("the node ended with exit code 0 after {took:.0?}"),
        );
        node.restart().await
    }
}

/// Whether a failed call may be made again, for readers.
fn again(retry: Retry) -> &'static str {
    match retry {
        Retry::Here => "safe to try again",
        Retry::Elsewhere => "safe to try again elsewhere",
        Retry::IfIdempotent => "again only if it may happen twice",
        Retry::Never => "no use to try again",
    }
}

/// How many handlers were stopped, once the number does not change any more.
async fn settled(stock: &StockClient) -> u32 {
    let mut last = None;
    loop {
        let now = stock.stopped().await.unwrap_or(0);
        if last.replace(now) == Some(now) {
            return now;
        }
        pause(50).await;
    }
}

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Callers that go on whatever happens.
fn start_load(client: &Client) -> (Arc<Outcomes>, Vec<JoinHandle<()>>) {
    let outcomes = Arc::<Outcomes>::default();
    let callers = (0..CALLERS).map(|_| {
        let (stock, outcomes) = (StockClient::new(client.clone()), Arc::clone(&outcomes));
        tokio::spawn(async move {
            while !outcomes.stop.load(Ordering::Relaxed) {
                match stock.count("nails".to_owned()).await {
                    Ok(_) => drop(outcomes.answered.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        outcomes.add(&error);
                        pause(20).await;
                    }
                }
            }
        })
    });
    let callers = callers.collect();
    (outcomes, callers)
}

/// Whether all of them end.
async fn join(callers: Vec<JoinHandle<()>>) -> bool {
    let all = async {
        let mut well = true;
        for caller in callers {
            well &= caller.await.is_ok();
        }
        well
    };
    tokio::time::timeout(Duration::from_secs(10), all)
        .await
        .unwrap_or(false)
}

/// Whether that many calls were answered in time.
async fn wait_for(outcomes: &Outcomes, answered: u64, time: Duration) -> bool {
    let until = Instant::now() + time;
    while outcomes.answered() < answered && Instant::now() < until {
        pause(10).await;
    }
    outcomes.answered() >= answered
}
