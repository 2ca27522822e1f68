//! A connected byte stream, split so that whoever has something to say can write while the driver reads.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp;
#[cfg(unix)]
use tokio::net::{UnixStream, unix};

/// What any other stream has to be.
pub trait AsyncStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> AsyncStream for S {}

/// A connected byte stream of any transport.
pub struct Stream(Kind);

enum Kind {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    Other(Box<dyn AsyncStream>),
}

impl Stream {
    /// A stream of a transport that is not built in, or that does more than the kernel's: TLS, memory.
    pub fn new(stream: impl AsyncStream + 'static) -> Self {
        Self(Kind::Other(Box::new(stream)))
    }

    pub(crate) fn split(self) -> (Reader, Writer) {
        match self.0 {
            Kind::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (Reader::Tcp(read), Writer::Tcp(write))
            }
            #[cfg(unix)]
            Kind::Unix(stream) => {
                let (read, write) = stream.into_split();
                (Reader::Unix(read), Writer::Unix(write))
            }
            Kind::Other(stream) => {
                let (read, write) = tokio::io::split(stream);
                (Reader::Other(read), Writer::Other(Mutex::new(write)))
            }
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self(Kind::Tcp(stream))
    }
}

#[cfg(unix)]
impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self(Kind::Unix(stream))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Tcp(_) => "Stream(tcp)",
            #[cfg(unix)]
            Kind::Unix(_) => "Stream(unix)",
            Kind::Other(_) => "Stream(other)",
        })
    }
}

/// The half that the driver alone reads.
pub(crate) enum Reader {
    Tcp(tcp::OwnedReadHalf),
    #[cfg(unix)]
    Unix(unix::OwnedReadHalf),
    Other(ReadHalf<Box<dyn AsyncStream>>),
}

impl Reader {
    /// Reads into the spare capacity of `buf`; 0 at the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        fn poll(
            reader: &mut (impl AsyncRead + Unpin),
            cx: &mut Context<'_>,
            buf: &mut BytesMut,
        ) -> Poll<io::Result<usize>> {
            let read = std::pin::pin!(reader.read_buf(buf));
            read.poll(cx)
        }
        match self {
            Self::Tcp(reader) => poll(reader, cx, buf),
            #[cfg(unix)]
            Self::Unix(reader) => poll(reader, cx, buf),
            Self::Other(reader) => poll(reader, cx, buf),
        }
    }
}

/// The half that whoever finds the line free writes to.
pub(crate) enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    #[cfg(unix)]
    Unix(unix::OwnedWriteHalf),
    Other(Mutex<WriteHalf<Box<dyn AsyncStream>>>),
}

impl Writer {
    /// Writes without waiting; `WouldBlock` if nothing is taken now.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(writer) => writer.try_write(bytes),
            #[cfg(unix)]
            Self::Unix(writer) => writer.try_write(bytes),
            Self::Other(_) => {
                // Nobody is woken by this context: on `WouldBlock` the driver polls again with its own.
                let mut cx = Context::from_waker(Waker::noop());
                match self.poll_other(&mut cx, bytes) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    fn poll_other(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self::Other(writer) = self else {
            return Poll::Ready(Ok(0));
        };
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.is_empty() {
            return Pin::new(&mut *writer).poll_flush(cx).map_ok(|()| 0);
        }
        let written = ready!(Pin::new(&mut *writer).poll_write(cx, bytes))?;
        // What is behind (TLS records) leaves at once if it can; if not, the driver comes back to flush.
        if let Poll::Ready(Err(error)) = Pin::new(&mut *writer).poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(written))
    }

    /// Ready when bytes may be taken again; registers the driver.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(writer) => writer.as_ref().poll_write_ready(cx),
            #[cfg(unix)]
            Self::Unix(writer) => writer.as_ref().poll_write_ready(cx),
            Self::Other(_) => self.poll_other(cx, &[]).map_ok(drop),
        }
    }

    /// Whether taken bytes may still sit in a buffer of the stream, so that [`Self::poll_writable`] has to be polled.
    pub(crate) fn buffers(&self) -> bool {
        matches!(self, Self::Other(_))
    }

    /// Says the end to the other side.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(writer) => {
                Poll::Ready(SockRef::from(writer.as_ref()).shutdown(Shutdown::Write))
            }
            #[cfg(unix)]
            Self::Unix(writer) => {
                Poll::Ready(SockRef::from(writer.as_ref()).shutdown(Shutdown::Write))
            }
            Self::Other(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                Pin::new(&mut *writer).poll_shutdown(cx)
            }
        }
    }
}
