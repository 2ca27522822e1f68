//! Threads with a reactor of their own. A connection lives on one of them, so that its reads,
//! handlers and writes wake nobody else.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Builder;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::gate::Gate;
use super::run_queue::RunQueue;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Connections that may wait for a reactor to take them.
const QUEUE: usize = 1024;

/// Where connections are driven: on threads of their own, or on the runtime that is there.
#[derive(Debug)]
pub(crate) struct Reactors {
    threads: Vec<mpsc::Sender<Task>>,
    /// One for each thread that drives connections, those of a shared runtime included: a single
    /// queue there would let one thread start what many have read.
    queues: Vec<Arc<RunQueue>>,
    /// Likewise.
    gates: Vec<Arc<Gate>>,
    next: AtomicUsize,
    /// The runtime that is there, for connections where no threads are.
    runtime: Handle,
}

/// Where one connection is driven.
#[derive(Debug)]
pub(crate) struct Reactor<'a> {
    /// `None` on the runtime that is there.
    thread: Option<&'a mpsc::Sender<Task>>,
    pub(crate) queue: &'a Arc<RunQueue>,
    pub(crate) gate: &'a Arc<Gate>,
}

impl Reactors {
    pub(crate) fn start(workers: Option<usize>) -> io::Result<Self> {
        let start = |number| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (sender, mut receiver) = mpsc::channel::<Task>(QUEUE);
            let name = format!("postroad-{number}");
            std::thread::Builder::new().name(name).spawn(move || {
                runtime.block_on(async {
                    while let Some(task) = receiver.recv().await {
                        tokio::spawn(task);
                    }
                });
            })?;
            Ok(sender)
        };
        let threads = (0..workers.unwrap_or(0))
            .map(start)
            .collect::<io::Result<_>>()?;
        let shared = || Handle::current().metrics().num_workers();
        let many = workers.unwrap_or_else(shared).max(1);
        let queues = (0..many).map(|_| Arc::new(RunQueue::new())).collect();
        let gates = (0..many).map(|_| Arc::new(Gate::new())).collect();
        Ok(Self {
            threads,
            queues,
            gates,
            next: AtomicUsize::new(0),
            runtime: Handle::current(),
        })
    }

    /// How many can be asked by themselves: a runtime that is shared counts as one.
    pub(crate) fn many(&self) -> usize {
        self.threads.len().max(1)
    }

    /// Runs a short task on one of them as soon as it turns; whether there was room for it.
    pub(crate) fn ask(&self, at: usize, task: impl Future<Output = ()> + Send + 'static) -> bool {
        match self.threads.get(at) {
            Some(thread) => thread.try_send(Box::pin(task)).is_ok(),
            None => {
                self.runtime.spawn(task);
                true
            }
        }
    }

    /// The reactor of the next connection: each in turn.
    pub(crate) fn next(&self) -> Reactor<'_> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        Reactor {
            thread: self.threads.get(at),
            queue: &self.queues[at],
            gate: &self.gates[at],
        }
    }
}

impl Reactor<'_> {
    /// Runs a connection; waits while its reactor is too busy to take another.
    pub(crate) async fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self.thread {
            // A reactor ends only when this sender is dropped, so that it takes whatever is sent.
            Some(thread) => drop(thread.send(Box::pin(task)).await),
            None => drop(tokio::spawn(task)),
        }
    }
}
