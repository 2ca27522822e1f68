//! Sees that all connections together hold no more memory than they may.
//!
//! A connection that grows beyond its part of the bound while it is too much pauses by itself
//! ([`Held`](crate::observe::held::Held)), so nothing has to be looked at while all is well. What
//! is left to the guard is to end the pause, or the connections that hold the most.

use std::fs;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::Shared;
use crate::driver::Connection;
use crate::observe::node;

/// How long the connections that have paused may take to hold less before some are closed: answers
/// that are being read leave in that time.
const MOMENT: Duration = Duration::from_millis(500);

/// How often it is looked meanwhile whether they may go on.
const LOOK: Duration = Duration::from_millis(20);

/// The bound where none is set and the machine does not tell its memory.
const UNKNOWN: usize = 1 << 30;

/// Guards a server's memory while this lives.
#[derive(Debug)]
pub(super) struct MemoryGuard(JoinHandle<()>);

impl MemoryGuard {
    pub(super) fn start(server: &Arc<Shared>) -> Self {
        Self(tokio::spawn(guard(Arc::downgrade(server))))
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn guard(server: Weak<Shared>) {
    while let Some(counters) = server.upgrade().map(|shared| Arc::clone(&shared.counters)) {
        counters.held.too_much.notified().await;
        let mut left = MOMENT;
        while counters.held.is_over() && !left.is_zero() {
            tokio::time::sleep(LOOK).await;
            left = left.saturating_sub(LOOK);
        }
        let Some(shared) = server.upgrade() else {
            return;
        };
        shared.hold_less();
    }
}

impl Shared {
    /// Closes the connections that hold the most until it is not too much any more, and lets the
    /// others go on.
    fn hold_less(&self) {
        let held = &self.counters.held;
        let (before, max) = (held.bytes(), held.max());
        // What handlers hold is free only when they were stopped, so it is not asked again.
        let mut too_much = before.saturating_sub(max);
        let mut all: Vec<_> = self.live().into_iter().map(with_held).collect();
        all.sort_by_key(|(holds, _)| *holds);
        let mut closed = 0;
        while too_much > 0
            && let Some((holds, connection)) = all.pop()
        {
            too_much = too_much.saturating_sub(holds);
            connection.make_room(holds);
            closed += 1;
        }
        if closed > 0 {
            node::memory_short(&self.counters, before, max, closed);
        }
        all.iter().for_each(|(_, connection)| connection.go_on());
    }
}

fn with_held(connection: Arc<Connection>) -> (usize, Arc<Connection>) {
    (connection.held(), connection)
}

/// What connections may hold where nothing is set: half of the machine's memory, or of what the
/// control group of this process may have.
pub(super) fn half_of_the_machine() -> usize {
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| total(&text));
    match (group, machine) {
        (Some(group), Some(machine)) => group.min(machine) / 2,
        (Some(one), None) | (None, Some(one)) => one / 2,
        (None, None) => UNKNOWN,
    }
}

/// The machine's memory, bytes, as `/proc/meminfo` tells it.
fn total(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: usize = line?.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read_from_what_the_kernel_says() {
        let text = "MemTotal:       16316412 kB\nMemFree:         1000000 kB\n";
        assert_eq!(total(text), Some(16_316_412 * 1024));
        assert_eq!(total("MemFree: 5 kB\n"), None);
        assert!(half_of_the_machine() > 1 << 20);
    }
}
