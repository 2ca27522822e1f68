//! What comes in: the stream's reading half, and what was read and not taken yet.

use std::cell::Cell;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use crate::transport::Reader;

/// Bytes of a thread's read buffer.
const READ_BYTES: usize = 64 * 1024;
/// Room under which a read buffer is renewed, bytes.
const READ_MIN: usize = 16 * 1024;
/// Bytes of the largest read, while reads fill the buffer.
pub(crate) const READ_MAX: usize = 256 * 1024;
/// Reads of a socket before the runtime asks the kernel for all sockets at once.
const TRIES: usize = 8;

thread_local! {
    /// The read buffer of the thread. No connection has one of its own while nothing comes, so idle
    /// connections cost no memory for it, and the one that is read next finds it in the cache.
    static BUFFER: Cell<BytesMut> = Cell::default();
}

/// What the bytes are that the session has left in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftover {
    /// Nothing, or the beginning of a frame: more has to be read.
    Beginning,
    /// The session stopped before the end, so there may be whole frames.
    Frames,
}

/// Reads a connection's bytes into a buffer that it has only while there is something in it.
pub(super) struct Inbox {
    reader: Reader,
    /// What was read and not taken yet.
    buf: BytesMut,
}

impl Inbox {
    /// For the reading half of a stream.
    pub(super) fn new(reader: Reader) -> Self {
        Self {
            reader,
            buf: BytesMut::new(),
        }
    }

    /// What was read and not taken yet.
    pub(super) fn bytes(&self) -> &BytesMut {
        &self.buf
    }

    /// The same, for the session to take from.
    pub(super) fn bytes_mut(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Whether there may be whole frames, which go before anything new.
    pub(super) fn has_frames(&self, held: Leftover) -> bool {
        held == Leftover::Frames && !self.buf.is_empty()
    }

    /// Reads once: how many bytes came, 0 at the end of the stream. Where there is nothing the
    /// task is woken when that changes.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.make_room();
        let Poll::Ready(result) = self.reader.poll_read(cx, &mut self.buf) else {
            self.release_memory();
            return Poll::Pending;
        };
        // A read that fills the buffer says that more waits: fewer, larger reads cost less.
        if result.as_ref().is_ok_and(|read| *read == room) && room < READ_MAX {
            self.buf.reserve((2 * room).min(READ_MAX));
        }
        Poll::Ready(result)
    }

    /// Reads from the socket itself, a few times in a row, without asking the runtime whether there
    /// is something; `None` if nothing came.
    pub(super) fn try_read(&mut self) -> Option<io::Result<usize>> {
        self.make_room();
        let read = self.reader.try_read(&mut self.buf, TRIES);
        let error = read.as_ref().err();
        if error.is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.release_memory();
            return None;
        }
        Some(read)
    }

    /// Reads and throws away what comes; ready at the end of the stream.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.buf.clear();
            self.buf.reserve(READ_MIN);
            match ready!(self.reader.poll_read(cx, &mut self.buf)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    /// Sees that there is room to read into, and says how many bytes.
    fn make_room(&mut self) -> usize {
        if self.buf.capacity() < READ_MIN {
            let mut buf = BUFFER.take();
            buf.clear();
            if buf.capacity() < READ_MIN {
                buf.reserve(READ_BYTES);
            }
            buf.extend_from_slice(&self.buf);
            self.buf = buf;
        }
        if self.buf.capacity() - self.buf.len() < READ_MIN {
            self.buf.reserve(READ_BYTES);
        }
        self.buf.capacity() - self.buf.len()
    }

    /// Gives the read buffer back to the thread while nothing comes. The beginning of a frame is
    /// kept in as much memory as it takes: otherwise a peer could hold a whole buffer by sending
    /// one byte.
    fn release_memory(&mut self) {
        if self.buf.len() >= READ_MIN {
            return;
        }
        let mut buf = std::mem::take(&mut self.buf);
        if !buf.is_empty() {
            self.buf = BytesMut::from(&buf[..]);
            buf.clear();
        }
        BUFFER.set(buf);
    }
}
