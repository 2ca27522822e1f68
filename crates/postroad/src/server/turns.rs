//! Whether the reactors still turn: each is asked now and then, and answers as soon as it gets to
//! it. A handler that never gives way keeps its reactor from answering.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postroad_proto::Time;

use super::reactors::Reactors;
use crate::clock;

/// What each reactor was asked last, in their order.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Vec<Turn>>);

#[derive(Debug)]
struct Turn {
    /// By the real clock: a paused one does not stop a thread.
    asked: Time,
    is_over: Arc<AtomicBool>,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Vec<Turn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks each reactor that has answered the last question.
    pub(super) fn ask(&self, reactors: &Reactors) {
        let mut turns = self.lock();
        for at in 0..reactors.many() {
            if turns.get(at).is_some_and(|last| !last.is_over()) {
                continue;
            }
            let is_over = Arc::new(AtomicBool::new(false));
            let turn = Turn {
                asked: clock::real(),
                is_over: Arc::clone(&is_over),
            };
            let answer = async move { is_over.store(true, Ordering::Relaxed) };
            // A question that finds no room is asked again the next time.
            if !reactors.ask(at, answer) {
                turn.is_over.store(true, Ordering::Relaxed);
            }
            match turns.get_mut(at) {
                Some(last) => *last = turn,
                None => turns.push(turn),
            }
        }
    }

    /// For how long each reactor has not answered; zero if it has.
    pub(super) fn waits(&self) -> Vec<Duration> {
        let now = clock::real();
        let wait = |turn: &Turn| match turn.is_over() {
            true => Duration::ZERO,
            false => now.since(turn.asked),
        };
        self.lock().iter().map(wait).collect()
    }
}
