//! Joins the intervals of several generators, whichever is ahead.

use std::collections::BTreeMap;

use super::Chunk;

/// Each source sends its intervals in order and without holes, then ends.
pub(crate) struct Gather {
    /// How many intervals each source has sent; ended ones have sent all that there will be.
    sent: Vec<u64>,
    pending: BTreeMap<u64, Chunk>,
}

impl Gather {
    pub(crate) fn new(sources: usize) -> Self {
        let (sent, pending) = (vec![0; sources], BTreeMap::new());
        Self { sent, pending }
    }

    pub(crate) fn add(&mut self, source: usize, chunk: Chunk) {
        self.sent[source] = chunk.number + 1;
        match self.pending.entry(chunk.number) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(chunk);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                entry.get_mut().join(&chunk);
            }
        }
    }

    pub(crate) fn ended(&mut self, source: usize) {
        self.sent[source] = u64::MAX;
    }

    pub(crate) fn sources(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn has_ended(&self, source: usize) -> bool {
        self.sent[source] == u64::MAX
    }

    /// The next interval that every source has sent or will not send.
    pub(crate) fn next(&mut self) -> Option<Chunk> {
        let all_sent = self.sent.iter().copied().min().unwrap_or(u64::MAX);
        let first = self.pending.first_entry()?;
        (*first.key() < all_sent).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u64, due: u64) -> Chunk {
        let mut chunk = Chunk::new(number);
        chunk.due = due;
        chunk
    }

    fn next(gather: &mut Gather) -> Option<(u64, u64)> {
        gather.next().map(|chunk| (chunk.number, chunk.due))
    }

    #[test]
    fn an_interval_waits_for_the_slowest_source() {
        let mut gather = Gather::new(2);
        gather.add(0, chunk(0, 1));
        gather.add(0, chunk(1, 2));
        assert_eq!(next(&mut gather), None);
        gather.add(1, chunk(0, 10));
        assert_eq!(next(&mut gather), Some((0, 11)));
        assert_eq!(next(&mut gather), None);
    }

    #[test]
    fn nobody_waits_for_a_source_that_has_ended() {
        let mut gather = Gather::new(2);
        gather.ended(1);
        gather.add(0, chunk(0, 1));
        assert_eq!(next(&mut gather), Some((0, 1)));
        gather.ended(0);
        assert_eq!(next(&mut gather), None);
    }
}
