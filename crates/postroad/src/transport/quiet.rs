//! A Unix socket that wakes its reader for bytes alone.
//!
//! A Unix socket becomes writable again whenever its peer has read, and says so to whoever
//! registered for it: each end would be woken once more for each message. So it is registered for
//! reading, and only while it is full also for writing.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of the largest read.
const READ_MAX: usize = 64 * 1024;
/// Writes without a full socket after which it is not registered for writing any more.
const CALM: u32 = 64;
/// How long a full socket is left alone while no descriptor is left to wait by.
const RETRY: Duration = Duration::from_millis(10);

thread_local! {
    /// What the kernel reads into. From here bytes are copied: they have to be somewhere that was
    /// written before.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connected Unix socket.
#[derive(Debug)]
pub(crate) struct QuietSocket {
    readable: AsyncFd<UnixStream>,
    /// The same socket, registered for writing.
    writable: Mutex<Option<AsyncFd<UnixStream>>>,
    /// Writes until it is registered for writing no more; 0 if it is not.
    until_calm: AtomicU32,
    /// Somebody will wake the driver of a full socket that no descriptor is left for.
    is_retried: Arc<AtomicBool>,
}

impl QuietSocket {
    /// Takes a socket that does not block. Must be called on the runtime that will drive it.
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        Ok(Self {
            readable: register(socket, Interest::READABLE)?,
            writable: Mutex::new(None),
            until_calm: AtomicU32::new(0),
            is_retried: Arc::default(),
        })
    }

    pub(super) fn socket(&self) -> &UnixStream {
        self.readable.get_ref()
    }

    /// Reads as much as `buf` has room for; 0 at the end.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let room = (buf.capacity() - buf.len()).min(READ_MAX);
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(READ_MAX, 0);
            loop {
                let mut guard = ready!(self.readable.poll_read_ready(cx))?;
                let read = guard.try_io(|fd| fd.get_ref().read(&mut scratch[..room]));
                let Ok(read) = read else {
                    continue;
                };
                let read = read?;
                // What a short read has left nothing of, need not be asked for again.
                if 0 < read && read < room {
                    guard.clear_ready();
                }
                buf.extend_from_slice(&scratch[..read]);
                return Poll::Ready(Ok(read));
            }
        })
    }

    /// Writes without waiting.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.socket().write(bytes)?;
        if self.until_calm.load(Ordering::Relaxed) > 0
            && self.until_calm.fetch_sub(1, Ordering::Relaxed) == 1
        {
            *self.writable.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(written)
    }

    /// Ready when it is worth trying to write again to a socket that was full.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writable = self.writable.lock().unwrap_or_else(PoisonError::into_inner);
        self.until_calm.store(CALM, Ordering::Relaxed);
        let made = match &mut *writable {
            Some(fd) => Ok(fd),
            none => self.second().map(|fd| none.insert(fd)),
        };
        let Ok(fd) = made else {
            // There is no descriptor left to wait by, for which the connection is not to blame.
            if !self.is_retried.swap(true, Ordering::Relaxed) {
                let (waker, is_retried) = (cx.waker().clone(), Arc::clone(&self.is_retried));
                tokio::spawn(async move {
                    tokio::time::sleep(RETRY).await;
                    is_retried.store(false, Ordering::Relaxed);
                    waker.wake();
                });
            }
            return Poll::Pending;
        };
        // What it says was true before the last try: only what comes after counts.
        ready!(fd.poll_write_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }

    /// The same socket under another descriptor, registered for writing.
    fn second(&self) -> io::Result<AsyncFd<UnixStream>> {
        register(self.socket().try_clone()?, Interest::WRITABLE)
    }

    /// Says the end to the other side.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        self.socket().shutdown(Shutdown::Write)
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, because a descriptor might be closed; this socket is owned"
)]
fn register(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(socket, interest)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn pair() -> (QuietSocket, QuietSocket) {
        let (a, b) = UnixStream::pair().expect("two sockets");
        let quiet = |socket: UnixStream| {
            socket.set_nonblocking(true).expect("a socket");
            QuietSocket::new(socket).expect("a runtime")
        };
        (quiet(a), quiet(b))
    }

    #[tokio::test]
    async fn a_full_socket_is_written_to_again_when_the_peer_has_read() {
        let (a, b) = pair();
        let bytes = [7; 32 * 1024];
        let (mut sent, mut received) = (0, 0);
        let mut buf = BytesMut::with_capacity(READ_MAX);
        for _ in 0..100 {
            loop {
                match a.write(&bytes) {
                    Ok(written) => sent += written,
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        break;
                    }
                }
            }
            let waker = std::task::Waker::noop();
            while received < sent {
                buf.clear();
                received += poll_fn(|cx| b.poll_read(cx, &mut buf))
                    .await
                    .expect("the peer writes");
                assert!(buf.iter().all(|byte| *byte == 7));
            }
            let _ = a.poll_room(&mut Context::from_waker(waker));
            poll_fn(|cx| a.poll_room(cx)).await.expect("there is room");
        }
        for _ in 0..CALM {
            assert_eq!(a.write(b"x").expect("there is room"), 1);
        }
        assert!(
            a.writable.lock().expect("one thread").is_none(),
            "calm again"
        );
        a.shutdown().expect("it is open");
        buf.clear();
        while poll_fn(|cx| b.poll_read(cx, &mut buf))
            .await
            .expect("the peer writes")
            > 0
        {}
    }
}
