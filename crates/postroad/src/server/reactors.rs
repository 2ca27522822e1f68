//! Threads with a reactor of their own. A connection lives on one of them, so that its reads,
//! handlers and writes wake nobody else.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Builder;
use tokio::sync::mpsc;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Connections that may wait for a reactor to take them.
const QUEUE: usize = 1024;

/// Where connections are driven: on threads of their own, or on the runtime that is there.
#[derive(Debug)]
pub(crate) struct Reactors {
    threads: Vec<mpsc::Sender<Task>>,
    next: AtomicUsize,
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
        Ok(Self {
            threads,
            next: AtomicUsize::new(0),
        })
    }

    /// Runs a connection; waits while its reactor is too busy to take another.
    pub(crate) async fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        if self.threads.is_empty() {
            tokio::spawn(task);
            return;
        }
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.threads.len();
        // A reactor ends only when this sender is dropped.
        let _ = self.threads[at].send(Box::pin(task)).await;
    }
}
