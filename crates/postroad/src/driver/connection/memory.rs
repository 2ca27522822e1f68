//! What a server's connection holds in memory, and what becomes of it where all of them together
//! hold too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Connection, Inner};
use crate::clock;
use crate::observe::counters::Counters;
use crate::observe::held::Held;

impl Connection {
    /// Tells what is held now, if that is another amount than was told last. Called after every
    /// step, so where nothing is left behind it costs a comparison.
    #[inline]
    pub(super) fn tell_held(&self, inner: &mut Inner) {
        if Held::is_news(inner.held(), inner.told)
            && let Some(counters) = &self.counters
        {
            self.tell_change(inner, counters);
        }
    }

    #[cold]
    fn tell_change(&self, inner: &mut Inner, counters: &Counters) {
        let (all, before, now) = (&counters.held, inner.told, inner.held());
        all.change(before, now);
        inner.told = now;
        if now > before && all.has_to_pause(now + self.waiting_bytes()) {
            inner.is_paused = true;
        }
    }

    /// A request has to wait, and holds what it has brought along.
    pub(crate) fn tell_waiting(&self) {
        if let Some(counters) = &self.counters
            && counters.held.has_to_pause(self.waiting_bytes())
        {
            self.lock().is_paused = true;
        }
    }

    /// Bytes of requests whose handlers wait.
    fn waiting_bytes(&self) -> usize {
        let waiting = self.waiting.get();
        waiting.map_or(0, |waiting| waiting.load(Ordering::Relaxed))
    }

    /// Where requests whose handlers wait count their bytes.
    pub(crate) fn waiting(&self) -> &Arc<AtomicUsize> {
        self.waiting.get_or_init(Arc::default)
    }

    /// What this connection holds, bytes.
    pub(crate) fn held(&self) -> usize {
        self.lock().held() + self.waiting_bytes()
    }

    /// Reads on, if it has paused because all connections together held too much.
    pub(crate) fn go_on(&self) {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.is_paused) {
            self.finish_command(inner);
        }
    }

    /// Ends the connection because all together hold too much, and it holds the most: so much.
    pub(crate) fn make_room(&self, held: usize) {
        let mut inner = self.lock();
        inner.session.make_room(clock::now(), held);
        inner.is_paused = false;
        self.tell_held(&mut inner);
        self.finish_command(inner);
    }
}

impl Drop for Connection {
    /// What it has held is free.
    fn drop(&mut self) {
        let told = self.lock().told;
        if let Some(counters) = &self.counters {
            counters.held.change(told, 0);
        }
    }
}
