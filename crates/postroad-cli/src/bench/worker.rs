//! `postroad bench worker`: makes calls for a coordinator.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postroad::{Endpoint, Error, Server};
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::time::timeout;

use super::args;
use super::ends::Watched;
use super::engine::Generator;
use super::fleet::{Collected, Ended, LoadWorker, load_worker_routes, url};
use super::plan::Plan;
use super::recorder::Chunk;
use crate::commands::runtime;
use crate::exit::Failed;
use crate::signals::Signals;
use crate::terminal::say;

/// How long a request for intervals waits for one.
const COLLECT: Duration = Duration::from_secs(1);
/// A coordinator that asks for nothing this long has gone, and the load ends.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Intervals that wait for being collected.
const CHUNKS_WAITING: usize = 64;

pub(super) fn run(worker: &args::Worker) -> Result<ExitCode, Failed> {
    runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let endpoint: Endpoint = url(&worker.listen).parse()?;
        let server = Server::new(load_worker_routes(Hired::default()));
        let server = server.listen(endpoint).start().await?;
        for address in server.addresses() {
            say(format_args!("worker on {address}"));
        }
        signals.next().await;
        server.shutdown().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// A worker and the run that it has been given.
#[derive(Default)]
struct Hired {
    run: AsyncMutex<Option<Assignment>>,
    /// Runs so far.
    runs: Mutex<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Wait,
    Start,
    Stop,
}

struct Assignment {
    number: u64,
    orders: watch::Sender<Order>,
    collected: Arc<Collecting>,
}

/// What passes from the load to the coordinator.
struct Collecting {
    chunks: AsyncMutex<mpsc::Receiver<Chunk>>,
    /// When the coordinator asked last.
    asked: Mutex<Instant>,
    /// When the load is over.
    ended: watch::Receiver<Option<Ended>>,
}

impl Collecting {
    fn ask(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_forgotten(&self) -> bool {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.elapsed() > SILENCE_MAX
    }
}

fn unknown(run: u64) -> Error {
    Error::new("BEN-E-404", format!("there is no run {run} here"))
}

impl Hired {
    async fn with<T>(&self, run: u64, f: impl FnOnce(&Assignment) -> T) -> Result<T, Error> {
        let assignment = self.run.lock().await;
        let assignment = assignment.as_ref().filter(|found| found.number == run);
        assignment.map(f).ok_or_else(|| unknown(run))
    }
}

impl LoadWorker for Hired {
    async fn prepare(&self, plan: Plan) -> Result<u64, Error> {
        let mut assignment = self.run.lock().await;
        if assignment
            .as_ref()
            .is_some_and(|run| run.collected.ended.borrow().is_none())
        {
            return Err(Error::new("BEN-E-409", "another run is going on here"));
        }
        let refused = |why: &dyn std::fmt::Display| Error::new("BEN-E-400", why.to_string());
        plan.check().map_err(|failed| refused(&failed))?;
        let warmup = plan.warmup;
        let generator = Generator::prepare(&Arc::new(plan)).await;
        let generator = generator.map_err(|error| refused(&error))?;
        let number = {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            *runs += 1;
            *runs
        };
        let (orders, order) = watch::channel(Order::Wait);
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        let (end, ended) = watch::channel(None);
        let collected = Arc::new(Collecting {
            chunks: AsyncMutex::new(chunks),
            asked: Mutex::new(Instant::now()),
            ended,
        });
        let shared = Arc::clone(&collected);
        let load = Load {
            generator,
            order,
            warmup,
            watched: Watched::this_process(),
            sent: 0,
        };
        tokio::spawn(async move {
            let ended = load.run(&sender, &shared).await;
            end.send_replace(Some(ended));
        });
        *assignment = Some(Assignment {
            number,
            orders,
            collected,
        });
        Ok(number)
    }

    async fn start(&self, run: u64) -> Result<(), Error> {
        self.with(run, |assignment| {
            assignment.collected.ask();
            assignment.orders.send_replace(Order::Start);
        })
        .await
    }

    async fn collect(&self, run: u64) -> Result<Collected, Error> {
        let collected = self
            .with(run, |assignment| Arc::clone(&assignment.collected))
            .await?;
        collected.ask();
        let mut received = collected.chunks.lock().await;
        let mut chunks = Vec::new();
        match timeout(COLLECT, received.recv()).await {
            Ok(Some(chunk)) => chunks.push(chunk),
            Ok(None) => {
                let mut ended = collected.ended.clone();
                let ended = ended.wait_for(Option::is_some).await;
                let ended = ended.map_err(|_| unknown(run))?.clone();
                return Ok(Collected { chunks, ended });
            }
            Err(_) => {}
        }
        while let Ok(chunk) = received.try_recv() {
            chunks.push(chunk);
        }
        let ended = None;
        Ok(Collected { chunks, ended })
    }

    async fn stop(&self, run: u64) -> Result<(), Error> {
        let stopped = self.with(run, |assignment| {
            let before = assignment.orders.send_replace(Order::Stop);
            (before, assignment.collected.ended.clone())
        });
        let (before, mut ended) = stopped.await?;
        if before == Order::Wait {
            // Nothing has to be collected: who is told is free for the next run.
            let _gone = ended.wait_for(Option::is_some).await;
        }
        Ok(())
    }
}

/// The calls of a run.
struct Load {
    generator: Generator,
    order: watch::Receiver<Order>,
    warmup: Duration,
    watched: Watched,
    /// Calls that were sent in the measured time.
    sent: u64,
}

impl Load {
    /// Until the load is over, or nobody asks for it any more.
    async fn run(mut self, chunks: &mpsc::Sender<Chunk>, collected: &Collecting) -> Ended {
        if let Some(begin) = self.wait(collected).await {
            self.work(begin, chunks, collected).await;
        }
        self.generator.stop();
        self.watched.look();
        Ended {
            connections_lost: self.generator.connections_lost(),
            cost: self.watched.end(self.sent),
        }
    }

    /// When the load has begun; none if it will not.
    async fn wait(&mut self, collected: &Collecting) -> Option<Instant> {
        loop {
            let order = *self.order.borrow_and_update();
            match order {
                Order::Wait if collected.is_forgotten() => return None,
                Order::Wait => {}
                Order::Start => return Some(self.generator.start()),
                Order::Stop => return None,
            }
            let _changed_or_not = timeout(COLLECT, self.order.changed()).await;
        }
    }

    async fn work(&mut self, begin: Instant, chunks: &mpsc::Sender<Chunk>, collected: &Collecting) {
        let start = begin + self.warmup;
        let mut has_looked = self.warmup.is_zero();
        if has_looked {
            // A short run would be over before a timer of a millisecond.
            self.watched.look();
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(start.into()), if !has_looked => {
                    self.watched.look();
                    has_looked = true;
                }
                chunk = self.generator.next() => {
                    let Some(chunk) = chunk else { break };
                    self.sent += chunk.answered() + chunk.failed() - chunk.not_sent;
                    if chunks.send_timeout(chunk, SILENCE_MAX).await.is_err() {
                        break;
                    }
                }
                // The intervals that were measured until then still follow.
                Ok(()) = self.order.changed() => self.generator.stop(),
                () = tokio::time::sleep(COLLECT) => {}
            }
            if collected.is_forgotten() {
                break;
            }
        }
    }
}
