//! The run of several workers: they get one plan, begin together, and their intervals are added up
//! exactly.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad::{CallError, Client, ClientConfig, Endpoint};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Collected, LoadWorkerClient, limits, url};
use crate::error::Error;
use crate::plan::Plan;
use crate::record::Chunk;
use crate::record::gather::Gather;
use crate::record::losses::Losses;
use crate::report::{End, Worker};
use crate::watcher::Watcher;

/// How long a worker may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to make its connections: thousands may be asked for, to a server far away.
const CONNECTING: Duration = Duration::from_secs(120);
/// Answers of all workers that wait for being gathered.
const ANSWERS_WAITING: usize = 64;

#[derive(Clone)]
struct Remote {
    name: String,
    client: Client,
    run: u64,
}

impl Remote {
    async fn prepare(name: String, plan: Plan) -> Result<Self, Error> {
        let named = |error: Error| error.of_worker(&name);
        let endpoint: Endpoint = url(&name)
            .parse()
            .map_err(|error: postroad::transport::TransportError| named(error.into()))?;
        let mut config = ClientConfig::default();
        config.timeout = CONNECTING;
        config.connection.limits = limits();
        let client = Client::connect_with(endpoint.into(), config).await;
        let client = client.map_err(|error| named(error.into()))?.with_msgpack();
        let run = LoadWorkerClient::new(client.clone()).prepare(plan).await;
        let run = run.map_err(|error| named(error.into()))?;
        Ok(Self { name, client, run })
    }

    /// It is free for others; one that cannot be told finds out by itself.
    async fn dismiss(self) {
        let _lost = within(self.service().stop(self.run)).await;
    }

    /// It is not forgotten while others still connect; without an end, unless it is lost or has
    /// given up, which its start will say.
    async fn keep(self) {
        while let Ok(collected) = within(self.service().collect(self.run)).await {
            if collected.ended.is_some() {
                break;
            }
        }
    }

    fn service(&self) -> LoadWorkerClient {
        LoadWorkerClient::new(self.client.clone())
    }
}

/// Frees the workers, which would wait for a start and refuse other runs meanwhile. Another
/// interruption ends the wait for their answers.
async fn dismiss(remotes: impl Iterator<Item = Remote>, watcher: &mut impl Watcher) {
    let dismissed = JoinSet::from_iter(remotes.map(Remote::dismiss));
    tokio::select! {
        _ = dismissed.join_all() => {}
        () = watcher.interrupted() => {}
    }
}

/// What a worker answers in time, or why it does not.
async fn within<T>(call: impl Future<Output = Result<T, CallError>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it has not answered within {PATIENCE:?}")),
    }
}

/// What one worker has contributed.
struct Part {
    remote: Remote,
    start_rtt: Duration,
    total: Chunk,
    cost: End,
    lost: Option<String>,
}

enum FromWorker {
    Collected(Collected),
    Lost(String),
}

pub(crate) struct Coordinator {
    parts: Vec<Part>,
    sender: mpsc::Sender<(usize, FromWorker)>,
    received: mpsc::Receiver<(usize, FromWorker)>,
    gather: Gather,
    running: usize,
    losses: Losses,
}

impl Coordinator {
    /// Has every worker connect to the target. If one cannot, or the run is interrupted, none
    /// begins, and all are free for others.
    pub(crate) async fn prepare(
        plan: &Arc<Plan>,
        names: &[String],
        watcher: &mut impl Watcher,
    ) -> Result<Option<Self>, Error> {
        let mut preparing = JoinSet::new();
        for (number, name) in names.iter().enumerate() {
            let (name, plan) = (name.clone(), plan.of_worker(number as u32));
            preparing.spawn(async move { (number, Remote::prepare(name, plan).await) });
        }
        let (mut remotes, mut failed, mut is_interrupted) = (Vec::new(), None, false);
        let mut kept = JoinSet::new();
        while let Some(prepared) = tokio::select! {
            prepared = preparing.join_next() => prepared,
            () = watcher.interrupted() => {
                is_interrupted = true;
                None
            }
        } {
            let (number, remote) = match prepared {
                Ok(prepared) => prepared,
                Err(error) => {
                    failed = Some(Error::Broken(error.to_string()));
                    break;
                }
            };
            match remote {
                Ok(remote) => {
                    kept.spawn(remote.clone().keep());
                    remotes.push((number, remote));
                }
                Err(why) => {
                    // The others need not connect any more.
                    failed = Some(why);
                    break;
                }
            }
        }
        kept.shutdown().await;
        if failed.is_some() || is_interrupted {
            preparing.shutdown().await;
            dismiss(remotes.into_iter().map(|(_, remote)| remote), watcher).await;
            return match failed {
                Some(failed) if !is_interrupted => Err(failed),
                _ => Ok(None),
            };
        }
        remotes.sort_by_key(|(number, _)| *number);
        let parts = remotes.into_iter().map(|(_, remote)| Part {
            remote,
            start_rtt: Duration::ZERO,
            total: Chunk::new(0),
            cost: End::Unknown {
                unknown: "the worker has not said it".to_owned(),
            },
            lost: None,
        });
        let parts: Vec<_> = parts.collect();
        let (sender, received) = mpsc::channel(ANSWERS_WAITING);
        Ok(Some(Self {
            gather: Gather::new(parts.len()),
            running: parts.len(),
            losses: Losses::default(),
            parts,
            sender,
            received,
        }))
    }

    /// Starts all at once; the moment after which all have begun that could. None after an
    /// interruption: then no worker goes on.
    pub(crate) async fn start(&mut self, watcher: &mut impl Watcher) -> Option<Instant> {
        let begin = Instant::now();
        let mut starting = JoinSet::new();
        for (number, part) in self.parts.iter().enumerate() {
            let remote = part.remote.clone();
            let sender = self.sender.clone();
            starting.spawn(async move {
                let sent = Instant::now();
                let result = within(remote.service().start(remote.run)).await;
                let rtt = result.is_ok().then(|| sent.elapsed());
                tokio::spawn(collect(number, remote, sender, result.err()));
                (number, rtt)
            });
        }
        let started = tokio::select! {
            started = starting.join_all() => started,
            () = watcher.interrupted() => {
                let remotes = self.parts.iter().map(|part| part.remote.clone());
                dismiss(remotes, watcher).await;
                return None;
            }
        };
        for (number, rtt) in started {
            self.parts[number].start_rtt = rtt.unwrap_or_default();
        }
        let slowest = self.parts.iter().map(|part| part.start_rtt).max();
        Some(begin + slowest.unwrap_or_default())
    }

    /// Waits no longer for those that have not reported everything.
    pub(crate) fn give_up(&mut self) {
        while let Ok((number, message)) = self.received.try_recv() {
            self.take(number, message);
        }
        for number in 0..self.parts.len() {
            if !self.gather.has_ended(number) {
                let why = "it had not reported everything when the run was given up".to_owned();
                self.take(number, FromWorker::Lost(why));
            }
        }
    }

    pub(crate) fn stop(&self) {
        for part in &self.parts {
            let remote = part.remote.clone();
            // One that cannot be told is lost, which its collector says.
            tokio::spawn(async move { within(remote.service().stop(remote.run)).await });
        }
    }

    /// The next interval of all workers; none when the load is over. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Chunk> {
        loop {
            if let Some(chunk) = self.gather.next() {
                return Some(chunk);
            }
            if self.running == 0 {
                return None;
            }
            let (number, message) = self.received.recv().await?;
            self.take(number, message);
        }
    }

    fn take(&mut self, number: usize, message: FromWorker) {
        if self.gather.has_ended(number) {
            return;
        }
        match message {
            FromWorker::Collected(Collected { chunks, ended }) => {
                for chunk in chunks {
                    self.parts[number].total.add(&chunk);
                    self.gather.add(number, chunk);
                }
                let Some(ended) = ended else { return };
                self.losses += ended.losses;
                self.parts[number].cost = ended.cost;
                self.parts[number].lost = ended.gave_up;
            }
            FromWorker::Lost(why) => self.parts[number].lost = Some(why),
        }
        self.gather.ended(number);
        self.running -= 1;
    }

    pub(crate) fn losses(&self) -> Losses {
        self.losses
    }

    pub(crate) fn workers(&self) -> Vec<Worker> {
        let workers = self.parts.iter().map(|part| Worker {
            name: part.remote.name.clone(),
            answered: part.total.answered(),
            failed: part.total.failed(),
            rate: part.total.answered() as f64 / part.total.until.as_secs_f64().max(1e-9),
            start_rtt_ns: part.start_rtt.as_nanos() as u64,
            cost: part.cost.clone(),
            lost: part.lost.clone(),
        });
        workers.collect()
    }
}

/// Asks a worker for its intervals until it has ended or is lost.
async fn collect(
    number: usize,
    remote: Remote,
    sender: mpsc::Sender<(usize, FromWorker)>,
    not_started: Option<String>,
) {
    let service = remote.service();
    let mut lost = not_started;
    while lost.is_none() {
        match within(service.collect(remote.run)).await {
            Err(why) => lost = Some(why),
            Ok(collected) => {
                let has_ended = collected.ended.is_some();
                let message = (number, FromWorker::Collected(collected));
                if sender.send(message).await.is_err() || has_ended {
                    return;
                }
            }
        }
    }
    if let Some(why) = lost {
        let _ = sender.send((number, FromWorker::Lost(why))).await;
    }
}
