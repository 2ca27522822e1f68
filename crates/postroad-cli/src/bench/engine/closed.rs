//! Callers that wait for their answers: what a server can do, but not how it feels when it stalls.

use std::rc::Rc;
use std::time::Duration;

use postroad::CallError;

use super::Thread;

/// Pause after a call that failed without waiting for anything: without it the loop would only
/// count its own failures.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(thread: &Rc<Thread>, callers: u64) {
    let callers = (0..callers).map(|number| {
        let thread = Rc::clone(thread);
        tokio::task::spawn_local(async move { call_on_and_on(&thread, number as usize).await })
    });
    let callers: Vec<_> = callers.collect();
    for caller in callers {
        let _ = caller.await;
    }
}

/// The moment of an answer is the moment of the next call: one look at the clock for both.
async fn call_on_and_on(thread: &Thread, number: usize) {
    let client = thread.client(number);
    let mut due = thread.now();
    while due < thread.recorder.end() && thread.takes(due) {
        thread.recorder.due(due, due);
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
    }
}
