//! A connected byte stream, split so that whoever has something to say can write while the driver
//! reads.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
#[cfg(unix)]
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp;

#[cfg(unix)]
use super::quiet::QuietSocket;

/// What any other stream has to be.
pub trait AsyncStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> AsyncStream for S {}

/// A connected byte stream of any transport.
pub struct Stream(Kind);

enum Kind {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(QuietSocket),
    Other(Box<dyn AsyncStream>),
}

impl Stream {
    /// A stream of a transport that is not built in, or that does more than the kernel's: TLS,
    /// memory.
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
            Kind::Unix(socket) => {
                let socket = Arc::new(socket);
                (Reader::Unix(Arc::clone(&socket)), Writer::Unix(socket))
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
impl From<QuietSocket> for Stream {
    fn from(socket: QuietSocket) -> Self {
        Self(Kind::Unix(socket))
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
    Unix(Arc<QuietSocket>),
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
            Self::Unix(socket) => socket.poll_read(cx, buf),
            Self::Other(reader) => poll(reader, cx, buf),
        }
    }
}

/// The half that whoever finds the line free writes to.
pub(crate) enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    #[cfg(unix)]
    Unix(Arc<QuietSocket>),
    Other(Mutex<WriteHalf<Box<dyn AsyncStream>>>),
}

impl Writer {
    /// Writes without waiting; `WouldBlock` if nothing is taken now. With a context, its task is
    /// woken when that changes; without one nobody is, and the driver has to come back.
    pub(crate) fn write(&self, cx: Option<&mut Context<'_>>, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(writer) => {
                let ready = |cx: &mut Context<'_>| writer.as_ref().poll_write_ready(cx);
                write_ready(|| writer.try_write(bytes), ready, cx)
            }
            #[cfg(unix)]
            Self::Unix(socket) => {
                let ready = |cx: &mut Context<'_>| socket.poll_room(cx);
                write_ready(|| socket.write(bytes), ready, cx)
            }
            Self::Other(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                let mut nobody = Context::from_waker(Waker::noop());
                let cx = cx.unwrap_or(&mut nobody);
                match Pin::new(&mut *writer).poll_write(cx, bytes) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    /// Ready when nothing that was taken sits in a buffer of the stream (TLS records).
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Other(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                Pin::new(&mut *writer).poll_flush(cx)
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Whether taken bytes may still sit in a buffer of the stream, so that [`Self::poll_flush`]
    /// has to be polled.
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
            Self::Unix(socket) => Poll::Ready(socket.shutdown()),
            Self::Other(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                Pin::new(&mut *writer).poll_shutdown(cx)
            }
        }
    }
}

/// Writes to a socket; where it is full, asks for the wake-up, if there is somebody to wake.
fn write_ready(
    write: impl Fn() -> io::Result<usize>,
    ready: impl Fn(&mut Context<'_>) -> Poll<io::Result<()>>,
    cx: Option<&mut Context<'_>>,
) -> io::Result<usize> {
    let blocked = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    let Some(cx) = cx else { return write() };
    loop {
        match write() {
            Err(error) if blocked(&error) => match ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Err(error),
            },
            result => return result,
        }
    }
}
