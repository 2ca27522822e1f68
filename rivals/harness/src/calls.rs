//! The closed loop: each caller waits for its answer before it calls again.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::record::{Recorder, Report};
use crate::{Arguments, Result, clocks};

/// How long the other side may take to be there.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that are dialled at once.
const DIALLED: usize = 64;

/// Makes one call after the other. Clones call on the same connection.
pub trait Caller: Clone + Send + 'static {
    /// Calls, and checks the answer.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Has many calls in flight from one task: as many as its connection's part of the load.
pub trait Pipelined: Send + 'static {
    /// Makes a call, or gets it ready.
    fn call(&mut self, tag: u64) -> impl Future<Output = Result<()>> + Send;
    /// Waits for an answer, and checks it; its call's tag.
    fn next(&mut self) -> impl Future<Output = Result<u64>> + Send;
}

/// Prints the one line that a client's or receiver's result is.
///
/// # Errors
/// None that can be expected.
pub fn print(report: &Report) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}

impl Arguments {
    /// Runs the closed loop on connections made by `connect`, and prints the result.
    ///
    /// # Errors
    /// The first call or connection that fails.
    pub fn call<C, F>(&self, connect: impl Fn(Self) -> F) -> Result<()>
    where
        C: Caller,
        F: Future<Output = Result<C>> + Send + 'static,
    {
        self.block_on(async {
            let mut first = connect(self.clone()).await?;
            answered_at_last(&mut first).await?;
            let before = clocks::memory_of(&self.watch)?;
            let callers = self.connect_rest(first, connect).await?;
            let gained = clocks::memory_of(&self.watch)?.saturating_sub(before);
            let recorder = Recorder::new(self)?;
            let watch = recorder.watch(self.watch.clone());
            // Of thousands of connections only so many are active as there are calls in flight.
            let active = callers.len().min(self.in_flight);
            let mut loops = JoinSet::new();
            for number in 0..self.in_flight {
                loops.spawn(closed_loop(
                    callers[number % active].clone(),
                    Arc::clone(&recorder),
                ));
            }
            while let Some(ended) = loops.join_next().await {
                ended??;
            }
            let cpu = watch
                .join()
                .map_err(|_| "the watching thread has panicked")??;
            let mut report = recorder.report(cpu);
            report.connection_bytes = gained as f64 / (callers.len() - 1).max(1) as f64;
            print(&report)
        })
    }

    /// The same with one task a connection.
    ///
    /// # Errors
    /// The first call or connection that fails.
    pub fn call_pipelined<P, F>(&self, connect: impl Fn(Self) -> F) -> Result<()>
    where
        P: Pipelined,
        F: Future<Output = Result<P>> + Send + 'static,
    {
        self.block_on(async {
            let mut pipelines = Vec::new();
            for _ in 0..self.connections {
                pipelines.push(connected_at_last(|| connect(self.clone())).await?);
            }
            let recorder = Recorder::new(self)?;
            let watch = recorder.watch(self.watch.clone());
            let mut loops = JoinSet::new();
            for pipeline in pipelines {
                let in_flight = self.in_flight / self.connections;
                loops.spawn(pipelined_loop(pipeline, in_flight, Arc::clone(&recorder)));
            }
            while let Some(ended) = loops.join_next().await {
                ended??;
            }
            let cpu = watch
                .join()
                .map_err(|_| "the watching thread has panicked")??;
            print(&recorder.report(cpu))
        })
    }

    /// The same for a load of one thread that does not use tokio.
    ///
    /// # Errors
    /// Those of the load.
    pub fn call_blocking(&self, load: impl FnOnce(Arc<Recorder>) -> Result<()>) -> Result<()> {
        let recorder = Recorder::new(self)?;
        let watch = recorder.watch(self.watch.clone());
        load(Arc::clone(&recorder))?;
        let cpu = watch
            .join()
            .map_err(|_| "the watching thread has panicked")??;
        print(&recorder.report(cpu))
    }

    async fn connect_rest<C, F>(&self, first: C, connect: impl Fn(Self) -> F) -> Result<Vec<C>>
    where
        C: Caller,
        F: Future<Output = Result<C>> + Send + 'static,
    {
        let mut callers = vec![first];
        let mut dialling = JoinSet::new();
        for _ in 1..self.connections {
            dialling.spawn(connect(self.clone()));
            if dialling.len() >= DIALLED
                && let Some(connected) = dialling.join_next().await
            {
                callers.push(connected??);
            }
        }
        while let Some(connected) = dialling.join_next().await {
            callers.push(connected??);
        }
        Ok(callers)
    }
}

/// The first call: the other side may still be starting.
async fn answered_at_last<C: Caller>(caller: &mut C) -> Result<()> {
    let begin = Instant::now();
    loop {
        match timeout(PATIENCE, caller.call()).await? {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// The other side may still be starting.
async fn connected_at_last<P, F>(connect: impl Fn() -> F) -> Result<P>
where
    F: Future<Output = Result<P>>,
{
    let begin = Instant::now();
    loop {
        match timeout(PATIENCE, connect()).await? {
            Err(_) if begin.elapsed() < PATIENCE => sleep(Duration::from_millis(10)).await,
            connected => return connected,
        }
    }
}

/// As many calls in flight as asked for: each answer makes the next call with its tag.
async fn pipelined_loop<P: Pipelined>(
    mut pipeline: P,
    in_flight: usize,
    recorder: Arc<Recorder>,
) -> Result<()> {
    let mut lap = recorder.lap();
    let mut begins = vec![Instant::now(); in_flight];
    for tag in 0..in_flight {
        pipeline.call(tag as u64).await?;
    }
    loop {
        let tag = pipeline.next().await?;
        let begin = begins
            .get_mut(tag as usize)
            .ok_or("an answer to no call has come")?;
        let now = Instant::now();
        let since = std::mem::replace(begin, now);
        if !lap.answered(since, now, 1) {
            return Ok(());
        }
        pipeline.call(tag).await?;
    }
}

async fn closed_loop<C: Caller>(mut caller: C, recorder: Arc<Recorder>) -> Result<()> {
    let mut lap = recorder.lap();
    loop {
        caller.call().await?;
        if !lap.tick() {
            return Ok(());
        }
    }
}
