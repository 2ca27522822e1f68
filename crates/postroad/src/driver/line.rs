//! The line to the peer: who may write to the transport now, and what it has not taken yet.
//!
//! Callers, handlers and the driver all write to the same transport, each when it has something to
//! say. The line sees to it that one of them writes at a time, that every byte leaves once, and
//! that bytes leave in their order. It does no I/O and takes no lock: whoever wants to write takes
//! a [`WriteToken`] under the connection's lock, writes without the lock, and notes under the lock
//! what the transport has taken.
//!
//! ```text
//!               begin                           end
//!      Free ------------> Writing ----------------------------------> Free
//!                          ^   |  the transport took everything
//!                          |   |
//!      begin, by the driver|   |  end, while the transport takes nothing
//!                          |   v
//!                          Full      keeps what was not taken
//!
//!      Writing, Full ----> Broken    the transport has failed; nobody writes any more
//! ```
//!
//! A full line is for the driver alone, because the driver is the one whose task the transport
//! wakes when it takes bytes again. Whoever finds the line in somebody else's hands goes away: the
//! one that writes asks the session for more after each write, under the lock, and so takes along
//! what was queued meanwhile.

use std::cell::Cell;
use std::io;

/// Bytes of the largest buffer that a thread keeps to write from.
const OUT_KEPT_MAX: usize = 256 * 1024;
/// Bytes that are written in a turn before other tasks have theirs, about. A peer that reads as
/// fast as this end writes could otherwise have all that is queued written in one turn, which may
/// take tens of milliseconds.
const WRITTEN_MAX: u64 = 512 * 1024;

thread_local! {
    /// What the thread writes from. A connection keeps a buffer of its own only while the transport
    /// is full, so that idle connections hold none.
    static OUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Who wants to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// A caller or a handler. The transport wakes nobody for it.
    Caller,
    /// The driver, whose task the transport wakes when it takes bytes again.
    Driver,
}

/// Whether the transport takes bytes, as whoever wrote has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// It does, as it did before.
    Open,
    /// It was full and is not any more.
    Reopened,
    /// It is full now and was not before.
    Filled,
    /// It is full again, after it has taken something.
    Refilled,
    /// It is full and has taken nothing.
    StillFull,
}

/// Bytes of which the transport has taken the first few.
#[derive(Debug, Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// How many of them were taken.
    at: usize,
}

#[derive(Debug)]
enum State {
    Free,
    /// Somebody holds the [`WriteToken`].
    Writing,
    /// The transport takes nothing now.
    Full(Unsent),
    Broken(io::Error),
}

/// Who may write, and what waits to be written. See the module's drawing.
#[derive(Debug)]
pub(super) struct Line {
    state: State,
    /// The last turn has ended before everything was written, although the transport took more:
    /// the driver goes on.
    is_cut: bool,
    /// Bytes that the transport has taken so far.
    taken: u64,
}

/// The right to write. Its holder gives it back by [`Line::end`]; until then nobody else has it.
#[derive(Debug)]
#[must_use = "nobody can write until the token is given back"]
pub(super) struct WriteToken {
    unsent: Unsent,
    was_full: bool,
    is_full: bool,
    /// Bytes that the transport has taken from its holder.
    moved: u64,
}

impl WriteToken {
    /// Whether there is something to write before the session is asked for more.
    pub(super) fn has_bytes(&self) -> bool {
        !self.unsent.bytes.is_empty()
    }

    /// Whether the session may be asked for more: not after so much that others should have their
    /// turn.
    #[inline]
    pub(super) fn may_take_more(&self) -> bool {
        self.moved < WRITTEN_MAX
    }

    /// What is to be written next.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.unsent.bytes[self.unsent.at..]
    }

    /// Where the session puts more, after everything was taken.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.unsent.bytes
    }

    /// Forgets what is left to be written.
    fn clear(&mut self) {
        self.unsent.bytes.clear();
        self.unsent.at = 0;
    }
}

impl Line {
    /// A line that nobody writes to yet.
    pub(super) fn new() -> Self {
        Self {
            state: State::Free,
            is_cut: false,
            taken: 0,
        }
    }

    /// Takes the right to write, if it can be had: nobody else writes, the transport has not
    /// failed, and it is not full, or the driver is the one to ask it again.
    #[inline]
    pub(super) fn begin(&mut self, who: Writes) -> Option<WriteToken> {
        let was_full;
        let unsent = match &mut self.state {
            State::Free => {
                was_full = false;
                let bytes = OUT.take();
                Unsent { bytes, at: 0 }
            }
            State::Full(unsent) if who == Writes::Driver => {
                was_full = true;
                std::mem::take(unsent)
            }
            _ => return None,
        };
        self.state = State::Writing;
        Some(WriteToken {
            unsent,
            was_full,
            is_full: false,
            moved: 0,
        })
    }

    /// Notes what came of writing [`WriteToken::bytes`]; whether to go on.
    #[inline]
    pub(super) fn note(&mut self, token: &mut WriteToken, result: io::Result<usize>) -> bool {
        match result {
            Ok(0) => {
                let text = "the stream takes no bytes";
                self.fail(io::Error::new(io::ErrorKind::WriteZero, text));
            }
            Ok(taken) => {
                self.taken += taken as u64;
                token.moved += taken as u64;
                token.unsent.at += taken;
                if token.unsent.at == token.unsent.bytes.len() {
                    token.clear();
                }
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                token.is_full = true;
                return false;
            }
            Err(error) => self.fail(error),
        }
        token.clear();
        false
    }

    /// Gives the right to write back. `has_more` says whether the session has more to write.
    #[inline]
    pub(super) fn end(&mut self, token: WriteToken, has_more: bool) -> Flow {
        self.is_cut = has_more && !token.may_take_more();
        // A flush of the stream may have failed meanwhile; then the line stays broken.
        if matches!(self.state, State::Writing) {
            self.state = State::Free;
            if token.is_full {
                self.state = State::Full(token.unsent);
            } else if token.unsent.bytes.capacity() <= OUT_KEPT_MAX {
                OUT.set(token.unsent.bytes);
            }
        }
        match (token.was_full, token.is_full) {
            (false, false) => Flow::Open,
            (true, false) => Flow::Reopened,
            (false, true) => Flow::Filled,
            (true, true) if token.moved > 0 => Flow::Refilled,
            (true, true) => Flow::StillFull,
        }
    }

    /// The transport has failed: nobody writes any more.
    pub(super) fn fail(&mut self, error: io::Error) {
        self.state = State::Broken(error);
    }

    /// Why the transport has failed, if it has.
    pub(super) fn error(&self) -> Option<&io::Error> {
        match &self.state {
            State::Broken(error) => Some(error),
            _ => None,
        }
    }

    /// Whether somebody writes now.
    pub(super) fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing)
    }

    /// Whether the transport takes nothing now.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.state, State::Full(_))
    }

    /// Whether the last turn has stopped so that others have theirs, with more to be written.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut && !self.is_full()
    }

    /// Whether only the driver can go on here: it asks a full transport again, goes on where a turn
    /// has stopped for others, and ends the session of a transport that has failed.
    pub(super) fn needs_driver(&self) -> bool {
        self.is_cut || matches!(self.state, State::Full(_) | State::Broken(_))
    }

    /// Bytes that a full transport has yet to take. What is being written right now is not counted.
    pub(super) fn unsent(&self) -> usize {
        match &self.state {
            State::Full(unsent) => unsent.bytes.len() - unsent.at,
            _ => 0,
        }
    }

    /// Bytes that the transport has taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> io::Error {
        io::ErrorKind::WouldBlock.into()
    }

    fn begin_with(line: &mut Line, bytes: &[u8]) -> WriteToken {
        let mut token = line.begin(Writes::Caller).expect("the line is free");
        assert!(!token.has_bytes());
        token.buffer().extend_from_slice(bytes);
        token
    }

    #[test]
    fn one_writes_at_a_time() {
        let mut line = Line::new();
        let mut token = begin_with(&mut line, b"abc");
        assert!(line.is_writing());
        assert!(line.begin(Writes::Caller).is_none());
        assert!(line.begin(Writes::Driver).is_none());
        assert!(line.note(&mut token, Ok(1)) && token.bytes() == b"bc");
        assert!(line.note(&mut token, Ok(2)) && !token.has_bytes());
        assert_eq!(line.end(token, false), Flow::Open);
        assert_eq!((line.taken(), line.unsent()), (3, 0));
        assert!(line.begin(Writes::Caller).is_some());
    }

    #[test]
    fn a_full_line_keeps_its_bytes_for_the_driver() {
        let mut line = Line::new();
        let mut token = begin_with(&mut line, b"abc");
        assert!(line.note(&mut token, Ok(1)));
        assert!(!line.note(&mut token, Err(full())));
        assert_eq!(line.end(token, false), Flow::Filled);
        assert!(line.needs_driver() && line.unsent() == 2);
        assert!(line.begin(Writes::Caller).is_none());

        let mut token = line.begin(Writes::Driver).expect("the driver asks again");
        assert_eq!(token.bytes(), b"bc");
        assert!(!line.note(&mut token, Err(full())));
        assert_eq!(line.end(token, false), Flow::StillFull);

        let mut token = line.begin(Writes::Driver).expect("the driver asks again");
        assert!(line.note(&mut token, Ok(1)));
        assert!(!line.note(&mut token, Err(full())));
        assert_eq!(line.end(token, false), Flow::Refilled);

        let mut token = line.begin(Writes::Driver).expect("the driver asks again");
        assert!(line.note(&mut token, Ok(1)));
        assert_eq!(line.end(token, false), Flow::Reopened);
        assert!(line.begin(Writes::Caller).is_some());
    }

    #[test]
    fn nobody_writes_to_a_line_that_has_failed() {
        for result in [Ok(0), Err(io::ErrorKind::BrokenPipe.into())] {
            let mut line = Line::new();
            let mut token = begin_with(&mut line, b"abc");
            assert!(!line.note(&mut token, result));
            assert_eq!(line.end(token, false), Flow::Open);
            assert!(line.needs_driver() && line.error().is_some() && line.unsent() == 0);
            assert!(line.begin(Writes::Driver).is_none());
        }
    }

    #[test]
    fn a_failure_during_a_turn_outlives_it() {
        let mut line = Line::new();
        let mut token = begin_with(&mut line, b"abc");
        line.fail(io::ErrorKind::BrokenPipe.into());
        assert!(!line.note(&mut token, Err(full())));
        line.end(token, false);
        assert!(line.error().is_some() && line.begin(Writes::Driver).is_none());
    }

    #[test]
    fn a_turn_that_has_written_its_share_leaves_the_rest_to_the_driver() {
        let mut line = Line::new();
        let mut token = begin_with(&mut line, b"abc");
        assert!(line.note(&mut token, Ok(3)));
        assert!(token.may_take_more());
        token.buffer().resize(WRITTEN_MAX as usize, 0);
        assert!(line.note(&mut token, Ok(WRITTEN_MAX as usize)));
        assert!(!token.may_take_more());
        assert_eq!(line.end(token, true), Flow::Open);
        assert!(line.is_cut() && line.needs_driver());
        let token = line.begin(Writes::Driver).expect("the line is free");
        assert!(
            token.may_take_more(),
            "the next turn has a share of its own"
        );
        assert_eq!(line.end(token, false), Flow::Open);
        assert!(!line.is_cut() && !line.needs_driver());
    }
}
