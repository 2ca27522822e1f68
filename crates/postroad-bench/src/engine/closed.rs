//! Callers that wait for their answers: what a server can do, but not how it feels when it stalls.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::JoinSet;

use super::line::Line;
use super::{KeptCall, Thread, pass_panic_on, sent};
use crate::failure::{Failure as _, Outcome};
use crate::targets::Connection;

/// Pause after a call that failed without waiting for anything: without it the loop would only
/// count its own failures.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) async fn run<C: Connection>(thread: &Rc<Thread<C>>, callers: u64) {
    let connections = thread.connections.len();
    let mut running = JoinSet::new();
    for connection in 0..connections.min(callers as usize) {
        let thread = Rc::clone(thread);
        let callers = (callers as usize - connection).div_ceil(connections);
        running.spawn_local(async move { call_together(&thread, connection, callers).await });
    }
    while let Some(ended) = running.join_next().await {
        pass_panic_on(ended);
    }
}

/// The callers of one connection, in one task: the moment of an answer is the moment of the next
/// call.
struct Callers<C: Connection> {
    thread: Rc<Thread<C>>,
    connection: usize,
    line: Line<C>,
    /// Those whose connection takes no calls now; each ends with the moment when it did.
    alone: JoinSet<Option<u64>>,
}

async fn call_together<C: Connection>(thread: &Rc<Thread<C>>, connection: usize, callers: usize) {
    let mut all = Callers {
        thread: Rc::clone(thread),
        connection,
        line: Line::new(&thread.connections[connection], thread),
        alone: JoinSet::new(),
    };
    all.call(thread.now(), callers as u64);
    while let Some((at, callers)) = poll_fn(|context| all.poll_free(context)).await {
        all.call(at, callers);
    }
}

impl<C: Connection> Callers<C> {
    /// Makes the next calls of so many callers that are free since then, while the load lasts.
    fn call(&mut self, due: u64, callers: u64) {
        let thread = &self.thread;
        if due >= thread.recorder.end() {
            return;
        }
        let calls = thread.takes_of(due, callers);
        thread.recorder.all_due(due, due, calls);
        for _ in self.line.call_alike(thread, due, calls)..calls {
            let call = thread.next_call();
            if self.line.call(&call, due).is_err() {
                let (thread, connection) = (Rc::clone(thread), self.connection);
                let call = KeptCall::of(&call);
                self.alone
                    .spawn_local(async move { call_alone(&thread, connection, due, call).await });
            }
        }
    }

    /// Since when the next callers are free, and how many; none when all have made their last call.
    fn poll_free(&mut self, context: &mut Context<'_>) -> Poll<Option<(u64, u64)>> {
        if !self.alone.is_empty() {
            while let Poll::Ready(Some(ended)) = self.alone.poll_join_next(context) {
                if let Some(at) = pass_panic_on(ended).flatten() {
                    return Poll::Ready(Some((at, 1)));
                }
            }
        }
        if self.line.in_flight() == 0 && self.alone.is_empty() {
            return Poll::Ready(None);
        }
        let at = ready!(self.line.poll_ended(&self.thread, context));
        let mut callers = 1;
        // Those whose answers came together call together.
        while self.line.ready() > 0 && self.line.poll_ended(&self.thread, context).is_ready() {
            callers += 1;
        }
        Poll::Ready(Some((at, callers)))
    }
}

/// A caller that waits for its connection, and pauses after calls that cannot be made, until it has
/// made one. Its first call was due then, and is recorded as due already. When the call that was
/// made has ended; none when the load has.
async fn call_alone<C: Connection>(
    thread: &Thread<C>,
    connection: usize,
    mut due: u64,
    first: KeptCall,
) -> Option<u64> {
    let mut call = first.call();
    loop {
        let result = thread.connections[connection].call(&call).await;
        let now = thread.now();
        thread.recorder.ended(due, now, sent(&call), &result);
        let is_at_once = result.is_err_and(|failure| {
            matches!(
                failure.outcome(),
                Outcome::NoConnection | Outcome::Full | Outcome::Unsendable
            )
        });
        if !is_at_once {
            return Some(now);
        }
        tokio::time::sleep(PAUSE).await;
        due = thread.now();
        if due >= thread.recorder.end() || !thread.takes(due) {
            return None;
        }
        thread.recorder.due(due, due);
        call = thread.next_call();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use postroad::{Router, RunningServer, Server};
    use tokio::task::LocalSet;

    use super::*;
    use crate::example;
    use crate::plan::Shape;
    use crate::targets::Target as _;
    use crate::targets::postroad::{Connected, Postroad};

    const URL: &str = "mem://callers-come-back";

    async fn serve() -> RunningServer {
        let endpoint = URL.parse().expect("the test's own URL");
        let server = Server::new(Router::new()).listen(endpoint).start();
        server.await.expect("the name is free")
    }

    async fn callers(callers: u32) -> Callers<Connected> {
        let plan = Arc::new(example::plan(URL, Shape::Closed { callers }));
        let target = Postroad::new(&plan).expect("the test's own URL");
        let connected = target.connect().await.expect("the server is there");
        let thread = Thread::new(Instant::now(), vec![connected], &plan, plan.part(0));
        let thread = Rc::new(thread);
        Callers {
            line: Line::new(&thread.connections[0], &thread),
            thread,
            connection: 0,
            alone: JoinSet::new(),
        }
    }

    async fn turn(all: &mut Callers<Connected>) {
        let free = poll_fn(|context| all.poll_free(context)).await;
        let (at, callers) = free.expect("the load lasts for an hour");
        all.call(at, callers);
    }

    #[tokio::test]
    async fn who_met_trouble_comes_back_when_it_is_over() {
        let run = async {
            let server = serve().await;
            let mut all = callers(8).await;
            all.call(all.thread.now(), 8);
            for _ in 0..100 {
                turn(&mut all).await;
            }
            assert_eq!((all.line.in_flight(), all.alone.len()), (8, 0));
            drop(server);
            while all.alone.len() < 8 {
                turn(&mut all).await;
            }
            let _server = serve().await;
            while all.line.in_flight() < 8 {
                turn(&mut all).await;
            }
            assert!(all.alone.is_empty(), "nobody was doubled");
        };
        LocalSet::new().run_until(run).await;
    }
}
