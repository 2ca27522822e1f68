//! A worker makes calls for a coordinator that runs elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postroad::{Endpoint, Error as Refusal, RunningServer, Server, ServerConfig};
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::time::{Instant, timeout};

use super::{Collected, Ended, LoadWorker, UNREACHABLE, limits, load_worker_routes, url};
use crate::engine::Generator;
use crate::error::Error;
use crate::plan::Plan;
use crate::record::Chunk;
use crate::record::ends::Watched;
use crate::targets;

/// How long a request for intervals waits for one.
const COLLECT: Duration = Duration::from_secs(1);
/// A coordinator that asks for nothing this long has gone, and the load ends.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Intervals that wait for being collected.
const CHUNKS_WAITING: usize = 64;

/// A process that makes calls for a coordinator which runs elsewhere, one run at a time.
///
/// Whoever reaches it may have it load any server: it belongs in a network that is trusted.
#[derive(Debug)]
pub struct Worker {
    server: RunningServer,
}

impl Worker {
    /// Listens at an address such as `127.0.0.1:7480` or at an endpoint, and from then on works in
    /// the background of this runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Endpoint`] if that is no endpoint, [`Error::Start`] if it cannot be listened at.
    pub async fn listen(address: &str) -> Result<Self, Error> {
        let endpoint: Endpoint = url(address).parse()?;
        let mut config = ServerConfig::default();
        config.connection.limits = limits();
        let server = Server::new(load_worker_routes(Hired::default())).config(config);
        let server = server.listen(endpoint).start().await?;
        Ok(Self { server })
    }

    /// Where coordinators reach it.
    pub fn addresses(&self) -> &[String] {
        self.server.addresses()
    }

    /// Finishes what it is about to answer, and goes. Not cancel safe: dropped half way, what is
    /// not answered by then is cut off.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
    }
}

/// A worker and the run that it has been given.
#[derive(Default)]
struct Hired {
    run: AsyncMutex<Option<Assignment>>,
    /// Held while connections are made for the next run.
    preparing: AsyncMutex<()>,
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

impl Assignment {
    /// Whether somebody still has to be served for it.
    fn is_busy(&self) -> bool {
        let has_ended = self.collected.ended.borrow().is_some();
        let is_served = self.collected.is_served.load(Ordering::Relaxed);
        !has_ended || !is_served && !self.collected.is_forgotten()
    }
}

/// What passes from the load to the coordinator.
struct Collecting {
    chunks: AsyncMutex<mpsc::Receiver<Chunk>>,
    /// When the coordinator asked last.
    asked: Mutex<Instant>,
    /// When the load is over.
    ended: watch::Receiver<Option<Ended>>,
    /// The coordinator has everything, or wants nothing.
    is_served: AtomicBool,
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

fn unknown(run: u64) -> Refusal {
    Refusal::new("BEN-E-404", format!("there is no run {run} here"))
}

impl Hired {
    async fn with<T>(&self, run: u64, f: impl FnOnce(&Assignment) -> T) -> Result<T, Refusal> {
        let assignment = self.run.lock().await;
        let assignment = assignment.as_ref().filter(|found| found.number == run);
        assignment.map(f).ok_or_else(|| unknown(run))
    }
}

impl LoadWorker for Hired {
    async fn prepare(&self, plan: Plan) -> Result<u64, Refusal> {
        let is_busy = || Refusal::new("BEN-E-409", "another run is going on here");
        let _preparing = self.preparing.try_lock().map_err(|_| is_busy())?;
        let before = self.run.lock().await.as_ref().map(Assignment::is_busy);
        if before == Some(true) {
            return Err(is_busy());
        }
        let refused = |why: &dyn std::fmt::Display| Refusal::new("BEN-E-400", why.to_string());
        let checked = plan.check().and_then(|()| targets::check(&plan));
        checked.map_err(|failed| refused(&failed))?;
        let (warmup, interval) = (plan.warmup, plan.interval);
        let generator = Generator::prepare(&Arc::new(plan)).await;
        let generator = generator.map_err(|error| match error {
            Error::Connect(why) => Refusal::new(UNREACHABLE, why.to_string()),
            error => refused(&error),
        })?;
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
            is_served: AtomicBool::new(false),
        });
        let shared = Arc::clone(&collected);
        let load = Load {
            generator,
            order,
            warmup,
            interval,
            watched: Watched::this_process(),
            sent: 0,
        };
        tokio::spawn(async move {
            let ended = load.run(&sender, &shared).await;
            end.send_replace(Some(ended));
        });
        *self.run.lock().await = Some(Assignment {
            number,
            orders,
            collected,
        });
        Ok(number)
    }

    async fn start(&self, run: u64) -> Result<(), Refusal> {
        self.with(run, |assignment| {
            assignment.collected.ask();
            if let Some(ended) = &*assignment.collected.ended.borrow() {
                let why = ended.gave_up.as_deref().unwrap_or("it was told to stop");
                return Err(Refusal::new("BEN-E-410", format!("the run is over: {why}")));
            }
            assignment.orders.send_replace(Order::Start);
            Ok(())
        })
        .await?
    }

    async fn collect(&self, run: u64) -> Result<Collected, Refusal> {
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
                collected.is_served.store(true, Ordering::Relaxed);
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

    async fn stop(&self, run: u64) -> Result<(), Refusal> {
        let stopped = self.with(run, |assignment| {
            let before = assignment.orders.send_replace(Order::Stop);
            if before == Order::Wait {
                let is_served = &assignment.collected.is_served;
                is_served.store(true, Ordering::Relaxed);
            }
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

/// Nobody asks for the load any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forgotten;

/// The calls of a run.
struct Load {
    generator: Generator,
    order: watch::Receiver<Order>,
    warmup: Duration,
    interval: Duration,
    watched: Watched,
    /// Calls that were sent in the measured time.
    sent: u64,
}

impl Load {
    /// Until the load is over, or nobody asks for it any more.
    async fn run(mut self, chunks: &mpsc::Sender<Chunk>, collected: &Collecting) -> Ended {
        let worked = match self.wait(collected).await {
            Ok(Some(begin)) => self.work(begin, chunks, collected).await,
            waited => waited.map(drop),
        };
        self.generator.stop();
        self.watched.look();
        let gave_up = worked.err().map(|Forgotten| {
            format!("it gave up, because its coordinator was silent for {SILENCE_MAX:?}")
        });
        Ended {
            losses: self.generator.losses(),
            cost: self.watched.end(self.sent),
            gave_up: gave_up.or_else(|| self.generator.gave_up()),
        }
    }

    /// When the load has begun; none if it will not.
    async fn wait(&mut self, collected: &Collecting) -> Result<Option<Instant>, Forgotten> {
        loop {
            let order = *self.order.borrow_and_update();
            match order {
                Order::Wait if collected.is_forgotten() => return Err(Forgotten),
                Order::Wait => {}
                Order::Start => return Ok(Some(self.generator.start().into())),
                Order::Stop => return Ok(None),
            }
            let _changed_or_not = timeout(COLLECT, self.order.changed()).await;
        }
    }

    /// Until the load is over; an error if it was given up before.
    async fn work(
        &mut self,
        begin: Instant,
        chunks: &mpsc::Sender<Chunk>,
        collected: &Collecting,
    ) -> Result<(), Forgotten> {
        let mut look = begin + self.warmup;
        if self.warmup.is_zero() {
            // A short run would be over before a timer of a millisecond.
            self.watched.look();
            look += self.interval;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(look) => {
                    self.watched.look();
                    look += self.interval;
                }
                chunk = self.generator.next() => {
                    let Some(chunk) = chunk else { return Ok(()) };
                    self.sent += chunk.sent();
                    if chunks.send_timeout(chunk, SILENCE_MAX).await.is_err() {
                        return Err(Forgotten);
                    }
                }
                // The intervals that were measured until then still follow.
                Ok(()) = self.order.changed() => self.generator.stop(),
                () = tokio::time::sleep(COLLECT) => {}
            }
            if collected.is_forgotten() {
                return Err(Forgotten);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use postroad::Router;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::example;
    use crate::plan::Shape;

    /// A worker that has been given a run on this server.
    async fn prepared(server: &str) -> (Hired, u64) {
        let hired = Hired::default();
        let plan = example::plan(server, Shape::Closed { callers: 2 });
        let run = hired.prepare(plan).await.expect("the server is there");
        (hired, run)
    }

    async fn ended(hired: &Hired, run: u64) -> Ended {
        let ended = hired.with(run, |run| run.collected.ended.clone()).await;
        let mut ended = ended.expect("it was given this run");
        let ended = ended.wait_for(Option::is_some).await.expect("it says so");
        ended.clone().expect("it has ended")
    }

    /// Runs it on a clock that leaps over every wait, beside a server whose clock does not.
    fn leaping<F: Future>(test: impl FnOnce(String) -> F) -> F::Output {
        let runtime = Runtime::new().expect("a runtime");
        let endpoint = "tcp://127.0.0.1:0".parse().expect("a URL");
        let server = Server::new(Router::new()).listen(endpoint).start();
        let server = runtime.block_on(server).expect("there are ports");
        let mut builder = Builder::new_current_thread();
        let paused = builder.enable_all().start_paused(true).build();
        let url = format!("tcp://{}", server.addresses()[0]);
        paused.expect("a runtime").block_on(test(url))
    }

    #[test]
    fn a_run_that_was_forgotten_does_not_begin_and_says_why() {
        leaping(async |url| {
            let (hired, run) = prepared(&url).await;
            let why = ended(&hired, run).await.gave_up.expect("nobody asked");
            assert!(why.contains("its coordinator was silent for 5s"), "{why}");
            let refused = hired.start(run).await.expect_err("it is over");
            assert!(refused.to_string().contains(&why), "{refused}");
        });
    }

    #[test]
    fn a_coordinator_that_falls_silent_is_told_that_the_load_was_given_up() {
        leaping(async |url| {
            let (hired, run) = prepared(&url).await;
            hired.start(run).await.expect("it waits for that");
            assert!(ended(&hired, run).await.gave_up.is_some());
            let told = loop {
                let collected = hired.collect(run).await.expect("it knows the run");
                if let Some(ended) = collected.ended {
                    break ended;
                }
            };
            assert!(told.gave_up.is_some());
        });
    }

    async fn server() -> (RunningServer, String) {
        let endpoint = "tcp://127.0.0.1:0".parse().expect("a URL");
        let server = Server::new(Router::new()).listen(endpoint).start();
        let server = server.await.expect("there are ports");
        let url = format!("tcp://{}", server.addresses()[0]);
        (server, url)
    }

    #[tokio::test]
    async fn a_run_that_is_over_is_kept_for_its_coordinator() {
        let (_server, url) = server().await;
        let (hired, run) = prepared(&url).await;
        hired.start(run).await.expect("it waits for that");
        hired.stop(run).await.expect("it knows the run");
        ended(&hired, run).await;
        let next = || example::plan(&url, Shape::Closed { callers: 2 });
        let refused = hired.prepare(next()).await.expect_err("nobody has asked");
        assert!(refused.to_string().contains("another run"), "{refused}");
        while hired
            .collect(run)
            .await
            .expect("it is kept")
            .ended
            .is_none()
        {}
        hired.prepare(next()).await.expect("all was collected");
    }

    #[tokio::test]
    async fn who_comes_while_another_run_connects_is_refused_at_once() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("there are ports");
        let silent = format!("tcp://{}", silent.local_addr().expect("it is bound"));
        let hired = Hired::default();
        let plan = |url: &str| example::plan(url, Shape::Closed { callers: 2 });
        tokio::select! {
            biased;
            _ = hired.prepare(plan(&silent)) => panic!("nobody answers there"),
            refused = hired.prepare(plan("tcp://127.0.0.1:1")) => {
                let refused = refused.expect_err("another connects");
                assert!(refused.to_string().contains("another run"), "{refused}");
            }
        }
    }

    #[test]
    fn who_is_told_to_stop_has_not_given_up() {
        leaping(async |url| {
            let (hired, run) = prepared(&url).await;
            hired.stop(run).await.expect("it knows the run");
            assert_eq!(ended(&hired, run).await.gave_up, None);
        });
    }
}
