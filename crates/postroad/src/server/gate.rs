//! New connections of one reactor, of which a few are opened at a time.
//!
//! Opening a connection may be dear: the server's part of a TLS handshake takes a fifth of a
//! millisecond. If all that have come were opened as they come, whoever connects thousands of times
//! a second would hold up every established connection. So opening has a share of the reactor's
//! time: when it is used up, further connections wait in line until all tasks that can run have had
//! their turn.
//!
//! ```text
//!                 enter: there is time left
//!   new ------------------------------------------> opened a step further
//!    |                                                   ^
//!    |  enter: the share is used up                      |  the oldest few
//!    +-------------------> line -------------------------+
//!                                 all others had their turn
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use postroad_proto::Time;

/// Time for opening connections before all others have their turn. Two or three TLS handshakes, or
/// some dozens of connections without TLS.
const SHARE: Duration = Duration::from_micros(500);
/// After so long without a step nobody need have waited: the share is whole again.
const ROUND: Duration = Duration::from_millis(2);
/// Connections that are let through the gate together. More than these are not opened within a
/// share anyway.
const WOKEN_AT_ONCE: usize = 32;

/// Whether a connection has stood in line, and so may go before those that still do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    #[default]
    New,
    HasWaited,
}

#[derive(Debug)]
struct State {
    /// Time that this round has spent on opening.
    spent: Duration,
    /// When the last step was made.
    last: Time,
    line: VecDeque<Waker>,
    /// A task lets those in line go on.
    is_served: bool,
}

/// The gate of one reactor.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<State>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            spent: Duration::ZERO,
            last: Time(0),
            line: VecDeque::new(),
            is_served: false,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the state half-changed when it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection may be opened a step further now. If not, its task is woken when it may
    /// ask again, and has [waited](Standing::HasWaited) then.
    pub(super) fn enter(
        self: &Arc<Self>,
        cx: &Context<'_>,
        now: Time,
        standing: &mut Standing,
    ) -> bool {
        let mut state = self.lock();
        if state.line.is_empty() && now.since(state.last) > ROUND {
            state.spent = Duration::ZERO;
        }
        let has_time = state.spent < SHARE;
        let is_next = *standing == Standing::HasWaited;
        if has_time && (is_next || state.line.is_empty()) {
            return true;
        }
        match is_next {
            true => state.line.push_front(cx.waker().clone()),
            false => state.line.push_back(cx.waker().clone()),
        }
        *standing = Standing::HasWaited;
        if !std::mem::replace(&mut state.is_served, true) {
            drop(state);
            tokio::spawn(serve(Arc::clone(self)));
        }
        false
    }

    /// Notes that a step was made, which took so long.
    pub(super) fn leave(&self, now: Time, took: Duration) {
        let mut state = self.lock();
        state.spent += took;
        state.last = now;
    }

    /// Begins a new round and lets the oldest in line ask again; whether there were any.
    fn begin_round(&self) -> bool {
        let mut state = self.lock();
        state.spent = Duration::ZERO;
        let many = state.line.len().min(WOKEN_AT_ONCE);
        let woken: Vec<Waker> = state.line.drain(..many).collect();
        state.is_served = !woken.is_empty();
        drop(state);
        let is_served = !woken.is_empty();
        woken.into_iter().for_each(Waker::wake);
        is_served
    }
}

/// Lets those in line go on, a few each time when all tasks that can run have had their turn, until
/// nobody is left.
async fn serve(gate: Arc<Gate>) {
    loop {
        tokio::task::yield_now().await;
        if !gate.begin_round() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn step(gate: &Arc<Gate>, now: Time, standing: &mut Standing) -> bool {
        let entered = gate.enter(&Context::from_waker(Waker::noop()), now, standing);
        if entered {
            gate.leave(now, SHARE / 2);
        }
        entered
    }

    #[tokio::test]
    async fn as_many_are_opened_at_once_as_their_share_of_time_allows() {
        let gate = Arc::new(Gate::new());
        let now = Time(1_000_000_000);
        let mut standings = [Standing::New; 5];
        let entered = standings.each_mut().map(|one| step(&gate, now, one));
        assert_eq!(entered, [true, true, false, false, false]);
        assert_eq!(gate.lock().line.len(), 3);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        // The others had their turn: the next two are opened before any that is new.
        let mut late = Standing::New;
        assert!(step(&gate, now, &mut standings[2]));
        assert!(step(&gate, now, &mut standings[3]));
        assert!(!step(&gate, now, &mut late));
        assert!(!step(&gate, now, &mut standings[4]), "its turn comes again");
        assert_eq!(gate.lock().line.len(), 2);
    }

    #[tokio::test]
    async fn a_gate_that_nobody_has_passed_for_a_while_is_open() {
        let gate = Arc::new(Gate::new());
        let mut now = Time(1_000_000_000);
        for _ in 0..100 {
            assert!(step(&gate, now, &mut Standing::New));
            now = now + ROUND + Duration::from_nanos(1);
        }
        assert!(!gate.lock().is_served, "nobody had to wait");
    }
}
