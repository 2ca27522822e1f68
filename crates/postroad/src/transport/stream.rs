//! A connected byte stream, split so that whoever has something to say can write while the driver
//! reads.

use std::fmt;
use std::io::{self, Read};
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

use super::PeerCertificate;
#[cfg(unix)]
use super::quiet::QuietSocket;

/// Bytes of the largest read by a try.
const TRY_BYTES: usize = 1024;

/// What any other stream has to be.
pub trait AsyncStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> AsyncStream for S {}

/// A connected byte stream of any transport.
pub struct Stream {
    kind: Kind,
    /// What the transport has verified of the peer while it connected.
    certificate: Option<Box<PeerCertificate>>,
}

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
        Self::of(Kind::Other(Box::new(stream)))
    }

    fn of(kind: Kind) -> Self {
        let certificate = None;
        Self { kind, certificate }
    }

    /// The same stream, whose peer has shown this certificate; the transport has verified it.
    #[must_use]
    pub fn with_certificate(mut self, certificate: Option<PeerCertificate>) -> Self {
        self.certificate = certificate.map(Box::new);
        self
    }

    /// What [`Self::with_certificate`] has noted; `None` from then on.
    pub(crate) fn take_certificate(&mut self) -> Option<Box<PeerCertificate>> {
        self.certificate.take()
    }

    pub(crate) fn split(self) -> (Reader, Writer) {
        match self.kind {
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
        Self::of(Kind::Tcp(stream))
    }
}

#[cfg(unix)]
impl From<QuietSocket> for Stream {
    fn from(socket: QuietSocket) -> Self {
        Self::of(Kind::Unix(socket))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
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

    /// Reads at once whatever there is, without asking the runtime whether there is something:
    /// tries `times` times, and gives up with `WouldBlock`. A stream that is no socket has to be
    /// polled.
    pub(crate) fn try_read(&self, buf: &mut BytesMut, times: usize) -> io::Result<usize> {
        let socket = match self {
            Self::Tcp(reader) => SockRef::from(reader.as_ref()),
            #[cfg(unix)]
            Self::Unix(socket) => SockRef::from(socket.socket()),
            Self::Other(_) => return Err(io::ErrorKind::WouldBlock.into()),
        };
        let before = buf.len();
        buf.resize(before + TRY_BYTES, 0);
        let mut try_once = || (&*socket).read(&mut buf[before..]);
        let would_block = |read: &io::Result<usize>| {
            let error = read.as_ref().err();
            error.is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        let mut read = try_once();
        for _ in 1..times {
            if !would_block(&read) {
                break;
            }
            read = try_once();
        }
        buf.truncate(before + *read.as_ref().unwrap_or(&0));
        read
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;

    use super::*;

    /// Looks until there is something: what was written need not have arrived at once.
    fn try_read(reader: &Reader, buf: &mut BytesMut) -> usize {
        let begin = std::time::Instant::now();
        loop {
            match reader.try_read(buf, 1_000) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(begin.elapsed().as_secs() < 10, "nothing has arrived");
                }
                looked => return looked.expect("the stream is whole"),
            }
        }
    }

    /// Looks and polls in turn, and writes to the other end meanwhile.
    async fn look_and_poll(stream: Stream, peer: impl Write) {
        let (mut reader, _writer) = stream.split();
        let (mut buf, mut peer) = (BytesMut::from("before "), peer);
        for round in 0..100 {
            let nothing = reader
                .try_read(&mut buf, 2)
                .expect_err("nothing was written");
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
            peer.write_all(b"looked at").expect("the reader is there");
            // The runtime has had no chance to see that.
            assert_eq!(try_read(&reader, &mut buf), 9);
            peer.write_all(b", polled").expect("the reader is there");
            buf.reserve(100);
            let polled = poll_fn(|cx| reader.poll_read(cx, &mut buf)).await;
            assert_eq!(polled.expect("it was written"), 8);
            assert_eq!(buf, "before looked at, polled", "round {round}");
            buf.truncate(7);
        }
        peer.write_all(&[7; TRY_BYTES + 1]).expect("there is room");
        assert_eq!(try_read(&reader, &mut buf), TRY_BYTES);
        assert_eq!(try_read(&reader, &mut buf), 1);
        drop(peer);
        assert_eq!(try_read(&reader, &mut buf), 0);
        assert_eq!(buf.len(), 7 + TRY_BYTES + 1);
    }

    #[tokio::test]
    async fn what_the_runtime_has_not_seen_yet_is_looked_at_over_tcp() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let stream = TcpStream::connect(address).await.expect("it listens");
        let (peer, _) = listener.accept().expect("it was connected");
        peer.set_nodelay(true).expect("it is open");
        look_and_poll(stream.into(), peer).await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_the_runtime_has_not_seen_yet_is_looked_at_over_a_unix_socket() {
        let (socket, peer) = std::os::unix::net::UnixStream::pair().expect("two sockets");
        socket.set_nonblocking(true).expect("it is open");
        let socket = QuietSocket::new(socket).expect("there is a runtime");
        look_and_poll(socket.into(), peer).await;
    }

    #[tokio::test]
    async fn what_is_no_socket_has_to_be_polled() {
        let (stream, _peer) = tokio::io::duplex(100);
        let (reader, _writer) = Stream::new(stream).split();
        let nothing = reader.try_read(&mut BytesMut::new(), 3);
        assert!(nothing.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    }
}
