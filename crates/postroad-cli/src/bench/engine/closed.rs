//! Callers that wait for their answers: what a server can do, but not how it feels when it stalls.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use postroad::CallError;
use tokio::task::JoinSet;

use super::Thread;
use super::line::Line;

/// Pause after a call that failed without waiting for anything: without it the loop would only
/// count its own failures.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(thread: &Rc<Thread>, callers: u64) {
    let connections = thread.clients.len();
    let mut running = JoinSet::new();
    for number in 0..connections.min(callers as usize) {
        let thread = Rc::clone(thread);
        let callers = (callers as usize - number).div_ceil(connections);
        running.spawn_local(async move { call_together(&thread, number, callers).await });
    }
    while running.join_next().await.is_some() {}
}

/// The callers of one connection, in one task: the moment of an answer is the moment of the next
/// call.
async fn call_together(thread: &Rc<Thread>, number: usize, callers: usize) {
    let mut line = Line::new(thread.client(number), thread);
    // Whoever meets trouble goes on alone.
    let mut alone = JoinSet::new();
    let mut call = |line: &mut Line, due| {
        if due >= thread.recorder.end() || !thread.takes(due) {
            return;
        }
        thread.recorder.due(due, due);
        if line.call(&thread.job(), due).is_err() {
            let thread = Rc::clone(thread);
            alone.spawn_local(async move { call_alone(&thread, number, due).await });
        }
    };
    for _ in 0..callers {
        call(&mut line, thread.now());
    }
    while line.in_flight() > 0 {
        let ended = poll_fn(|context| line.poll_ended(thread, context)).await;
        let recorder = &thread.recorder;
        recorder.ended(ended.due, ended.at, ended.sent, &ended.result);
        call(&mut line, ended.at);
    }
    while alone.join_next().await.is_some() {}
}

/// A caller that waits for a connection, and pauses after calls that cannot be made. Its first call
/// was due then, and is recorded as due already.
async fn call_alone(thread: &Thread, number: usize, mut due: u64) {
    let client = thread.client(number);
    loop {
        let job = thread.job();
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
    }
}
