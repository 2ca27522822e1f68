//! Callers that wait for their answers: what a server can do, but not how it feels when it stalls.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use postroad::CallError;
use tokio::task::JoinSet;

use super::line::Line;
use super::{KeptJob, Thread, pass_panic_on};

/// Pause after a call that failed without waiting for anything: without it the loop would only
/// count its own failures.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(thread: &Rc<Thread>, callers: u64) {
    let connections = thread.clients.len();
    let mut running = JoinSet::new();
    for connection in 0..connections.min(callers as usize) {
        let thread = Rc::clone(thread);
        let callers = (callers as usize - connection).div_ceil(connections);
        running.spawn_local(async move { call_together(&thread, connection, callers).await });
    }
    ended(running).await;
}

/// Waits for all of them.
async fn ended(mut running: JoinSet<()>) {
    while let Some(ended) = running.join_next().await {
        pass_panic_on(ended);
    }
}

/// The callers of one connection, in one task: the moment of an answer is the moment of the next
/// call.
async fn call_together(thread: &Rc<Thread>, connection: usize, callers: usize) {
    let mut line = Line::new(thread.client(connection), thread);
    // Whoever meets trouble goes on alone, to the end: to come back would be worth it only for who
    // looks at what the generator costs after that.
    let mut alone = JoinSet::new();
    let mut call = |line: &mut Line, due| {
        if due >= thread.recorder.end() || !thread.takes(due) {
            return;
        }
        thread.recorder.due(due, due);
        let job = thread.job();
        if line.call(&job, due).is_err() {
            let (thread, job) = (Rc::clone(thread), job.kept());
            alone.spawn_local(async move { call_alone(&thread, connection, due, job).await });
        }
    };
    for _ in 0..callers {
        call(&mut line, thread.now());
    }
    while line.in_flight() > 0 {
        let at = poll_fn(|context| line.poll_ended(thread, context)).await;
        call(&mut line, at);
    }
    ended(alone).await;
}

/// A caller that waits for a connection, and pauses after calls that cannot be made. Its first call
/// was due then, and is recorded as due already.
async fn call_alone(thread: &Thread, connection: usize, mut due: u64, first: KeptJob) {
    let client = thread.client(connection);
    let mut job = first.job();
    loop {
        let result = thread.call(client, &job).await;
        let now = thread.now();
        thread.recorder.ended(due, now, job.sent(), &result);
        due = now;
        let is_at_once = matches!(
            result,
            Err(CallError::NotConnected { .. } | CallError::Busy(_) | CallError::Unsendable(_))
        );
        if is_at_once {
            tokio::time::sleep(PAUSE).await;
            due = thread.now();
        }
        if due >= thread.recorder.end() || !thread.takes(due) {
            return;
        }
        thread.recorder.due(due, due);
        job = thread.job();
    }
}
