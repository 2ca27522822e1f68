//! Three servers behind one client, of which one is stopped, one killed and one drained while calls
//! go on: told as a timeline.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postroad::Client;
use postroad::client::Ending;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use super::node::StockClient;
use super::process::Node;
use super::story::Story;
use crate::exit::Failed;
use crate::terminal::say;

/// What a call has at most. One that a stopped server has taken is asked of another after half.
const TIMEOUT: Duration = Duration::from_millis(600);
const CALLERS: usize = 4;
/// Between two calls of a caller: the point is not the rate.
const PAUSE: Duration = Duration::from_millis(1);

/// Callers of all servers, and how their calls have ended.
struct Load {
    began: Instant,
    names: Vec<(String, &'static str)>,
    /// Answers since they were told last, by the server's address.
    answers: Arc<Mutex<BTreeMap<String, u64>>>,
    failed: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    async fn start(nodes: &[Node; 3]) -> Result<Self, Failed> {
        let addresses = nodes.each_ref().map(|node| node.url("native"));
        let addresses = addresses.map(|url| url.replace("tcp://", ""));
        let target = format!("tcp://{}", addresses.join(","));
        let client = Client::builder(&target).timeout(TIMEOUT).connect().await?;
        let answers = Arc::<Mutex<BTreeMap<String, u64>>>::default();
        let counted = Arc::clone(&answers);
        let client = client.after(move |peer, outcome| {
            if outcome.ending == Ending::Answered {
                let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
                *counted.entry(peer.to_string()).or_default() += 1;
            }
        });
        let (failed, stop) = <(Arc<Mutex<Vec<String>>>, Arc<AtomicBool>)>::default();
        let callers = (0..CALLERS).map(|_| {
            let (failed, stop) = (Arc::clone(&failed), Arc::clone(&stop));
            tokio::spawn(call(StockClient::new(client.clone()), failed, stop))
        });
        Ok(Self {
            began: Instant::now(),
            names: addresses.into_iter().zip(["one", "two", "three"]).collect(),
            answers,
            callers: callers.collect(),
            failed,
            stop,
        })
    }

    fn failed(&self) -> Vec<String> {
        let failed = self.failed.lock();
        failed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the callers call for a while, tells who has answered, and then what happens next.
    async fn run(&self, time: Duration, next: &str) -> BTreeMap<&'static str, u64> {
        tokio::time::sleep(time).await;
        let answers =
            std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner));
        let by_name = self.names.iter().map(|(address, name)| {
            let many = answers.iter().find(|(peer, _)| peer.contains(address));
            (*name, many.map_or(0, |(_, many)| *many))
        });
        let by_name: BTreeMap<_, _> = by_name.collect();
        let told = ["one", "two", "three"].map(|name| format!("{name} {:>4}", by_name[name]));
        say(format_args!(
            "   {:5.2} s  answers: {}; {} failed.  {next}",
            self.began.elapsed().as_secs_f64(),
            told.join(", "),
            self.failed().len()
        ));
        by_name
    }

    async fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers.drain(..) {
            // One that has panicked has ended as well.
            let _ = caller.await;
        }
    }
}

async fn call(stock: StockClient, failed: Arc<Mutex<Vec<String>>>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = stock.count("nails".to_owned()).await {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.push(error.to_string());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Story {
    pub(super) async fn fleet(&mut self) -> Result<(), Failed> {
        self.title("8. Three servers behind one client: one stopped, one killed, one drained");
        let mut nodes = [
            Node::start_native().await?,
            Node::start_native().await?,
            Node::start_native().await?,
        ];
        let mut load = Load::start(&nodes).await?;
        let (short, long) = (Duration::from_millis(300), Duration::from_millis(900));
        let all = load.run(short, "SIGSTOP to one").await;
        nodes[0].signal(Signal::STOP)?;
        let without_one = load.run(long, "kill -9 to two").await;
        nodes[1].kill()?;
        load.run(short, "SIGCONT to one").await;
        nodes[0].signal(Signal::CONT)?;
        let back = self.until_answers(&load, "one").await;
        say(format_args!("            SIGTERM to three"));
        let ended_well = nodes[2].terminate().await?;
        load.run(short, "The end").await;
        load.end().await;
        self.claim(
            all.values().all(|many| *many > 0),
            "calls were shared out to all three",
        );
        self.claim(
            without_one["two"] > 0 && without_one["three"] > 0,
            "the others went on while one was silent",
        );
        self.claim(back, "the stopped server was called again when it went on");
        self.claim(ended_well, "the drained server ended with exit code 0");
        let failed = load.failed();
        let what = match failed.first() {
            None => "no call has failed, because they are declared idempotent".to_owned(),
            Some(first) => format!("{} calls have failed: {first}", failed.len()),
        };
        self.claim(failed.is_empty(), what);
        Ok(())
    }

    /// Whether this server answers calls within some seconds.
    async fn until_answers(&self, load: &Load, name: &str) -> bool {
        for _ in 0..50 {
            let step = Duration::from_millis(100);
            tokio::time::sleep(step).await;
            let address = load.names.iter().find(|(_, known)| *known == name);
            let answers = load.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let mut peers = answers.keys();
            if address.is_some_and(|(address, _)| peers.any(|peer| peer.contains(address))) {
                return true;
            }
        }
        false
    }
}
