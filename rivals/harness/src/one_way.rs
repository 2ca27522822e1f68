//! Messages that nobody answers, counted where they arrive.

use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::record::Report;
use crate::{Arguments, Result, calls, clocks};

/// Counts what a handler receives.
#[derive(Clone, Debug, Default)]
pub struct Received(Arc<AtomicU64>);

impl Received {
    /// A handler was given a payload of its own.
    pub fn take<T>(&self, payload: T) {
        drop(black_box(payload));
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// As many at once: of a floor that looks at no single message.
    pub fn add(&self, messages: u64) {
        self.0.fetch_add(messages, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sends one message after the other.
pub trait Sender: Send {
    /// Sends, and waits only as far as the rival itself makes a sender wait.
    fn send(&mut self) -> impl Future<Output = Result<()>> + Send;
}

impl Arguments {
    /// Receives by `serve` and prints the result; goes on until it is ended.
    ///
    /// # Errors
    /// Those of `serve`.
    pub fn receive<F: Future<Output = Result<()>>>(
        &self,
        serve: impl FnOnce(Self, Received) -> F,
    ) -> Result<()> {
        let received = Received::default();
        self.measure(received.clone());
        self.block_on(serve(self.clone(), received))
    }

    /// The same without tokio.
    ///
    /// # Errors
    /// Those of `serve`.
    pub fn receive_blocking(&self, serve: impl FnOnce(Received) -> Result<()>) -> Result<()> {
        let received = Received::default();
        self.measure(received.clone());
        serve(received)
    }

    /// Sends without end.
    ///
    /// # Errors
    /// The first message that cannot be sent.
    pub fn send<S, F>(&self, connect: impl FnOnce(Self) -> F) -> Result<()>
    where
        S: Sender + 'static,
        F: Future<Output = Result<S>>,
    {
        self.block_on(async {
            let mut sender = connect(self.clone()).await?;
            // As a task: the runtime's workers run it, and not the thread that waits for it.
            let task = tokio::spawn(async move {
                loop {
                    sender.send().await?;
                }
            });
            task.await?
        })
    }

    /// Measures from some time after the first message, and prints. The process goes on until it is
    /// ended.
    fn measure(&self, received: Received) {
        let arguments = self.clone();
        thread::spawn(move || {
            while received.count() == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_secs_f64(arguments.warm_up));
            let result = arguments
                .count(&received)
                .and_then(|report| calls::print(&report));
            if let Err(error) = result {
                eprintln!("the messages were not counted: {error}");
                std::process::exit(1);
            }
            // What serves goes on: a sender that lost its receiver would look like one that failed.
        });
    }

    fn count(&self, received: &Received) -> Result<Report> {
        let sample = || {
            let cpu = (clocks::own_cpu(), clocks::cpu_of(&self.watch)?);
            Ok::<_, crate::Error>((Instant::now(), received.count(), cpu))
        };
        let before = sample()?;
        thread::sleep(Duration::from_secs_f64(self.seconds));
        let after = sample()?;
        Ok(Report {
            calls: after.1 - before.1,
            seconds: (after.0 - before.0).as_secs_f64(),
            own_cpu: (after.2.0 - before.2.0).as_secs_f64(),
            other_cpu: after.2.1.saturating_sub(before.2.1).as_secs_f64(),
            ..Report::default()
        })
    }
}
