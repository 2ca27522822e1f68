//! Requests to registries over HTTP/1.1: little, bounded in bytes and time, several hosts.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
#[cfg(any(feature = "etcd", feature = "consul", feature = "nacos"))]
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::DiscoveryError;
use super::instance::cut;

/// Longest answer, and longest line of an answer without end, bytes.
const BODY_MAX: usize = 8 * 1024 * 1024;
/// Longest head of an answer, bytes.
const HEAD_MAX: usize = 64 * 1024;
/// For a connection; for the head of an answer; for its body; for a line that has begun.
const STEP: Duration = Duration::from_secs(5);
/// Bytes of a refusal that are told.
const SAID_MAX: usize = 200;

/// The hosts of one registry. A request goes to the one that answered last, and to the others in
/// turn if it cannot be reached.
#[derive(Debug)]
pub(super) struct Http {
    hosts: Vec<String>,
    last: AtomicUsize,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    method: Method,
    path: String,
    body: Bytes,
    /// How long the registry may think before the head of its answer.
    wait: Duration,
}

impl Ask {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            body: Bytes::new(),
            wait: STEP,
        }
    }

    #[cfg(any(feature = "etcd", feature = "consul"))]
    pub(super) fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body.into();
        self
    }

    /// Lets the registry hold the answer back for so long.
    #[cfg(feature = "consul")]
    pub(super) fn held(mut self, wait: Duration) -> Self {
        self.wait += wait;
        self
    }
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON, if the request was done.
    #[cfg(any(feature = "etcd", feature = "consul", feature = "nacos"))]
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, DiscoveryError> {
        self.done()?;
        serde_json::from_slice(&self.body).map_err(|error| {
            DiscoveryError::nonsense(format!("the answer is not its JSON: {error}"))
        })
    }

    /// Fails if the request was refused.
    pub(super) fn done(&self) -> Result<(), DiscoveryError> {
        let status = self.head.status();
        if status.is_success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&self.body);
        let said = cut(text.trim(), SAID_MAX);
        Err(DiscoveryError::refused(format!(
            "it answers {status}: {said}"
        )))
    }
}

/// An answer without end, line by line.
#[cfg(feature = "etcd")]
#[derive(Debug)]
pub(super) struct Lines {
    opened: Opened,
    buffer: BytesMut,
    /// Bytes at the front of the buffer that hold no end of a line.
    looked: usize,
    /// Until when the line that has begun must have ended.
    until: Option<Instant>,
}

/// An answer whose body is still to come. Its connection ends when it is dropped.
#[derive(Debug)]
struct Opened {
    head: Response<()>,
    body: Incoming,
    _connection: JoinSet<()>,
}

impl Http {
    pub(super) fn new(hosts: Vec<String>) -> Self {
        let last = AtomicUsize::new(0);
        Self { hosts, last }
    }

    /// Asks, and waits for the whole answer. Dropping the future hangs up.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, DiscoveryError> {
        let Opened {
            head,
            mut body,
            _connection,
        } = self.open(&ask).await?;
        let mut whole = BytesMut::new();
        let until = Instant::now() + STEP;
        loop {
            let frame = timeout_at(until, body.frame()).await;
            let frame = frame.map_err(|_| too_slow("the rest of its answer"))?;
            let Some(frame) = frame else { break };
            take(&mut whole, frame)?;
        }
        let body = whole.freeze();
        Ok(Answer { head, body })
    }

    /// Asks for an answer without end.
    #[cfg(feature = "etcd")]
    pub(super) async fn lines(&self, ask: Ask) -> Result<Lines, DiscoveryError> {
        let opened = self.open(&ask).await?;
        let status = opened.head.status();
        if !status.is_success() {
            return Err(DiscoveryError::refused(format!("it answers {status}")));
        }
        Ok(Lines {
            opened,
            buffer: BytesMut::new(),
            looked: 0,
            until: None,
        })
    }

    async fn open(&self, ask: &Ask) -> Result<Opened, DiscoveryError> {
        let first = self.last.load(Ordering::Relaxed);
        let mut last = None;
        for step in 0..self.hosts.len() {
            let at = (first + step) % self.hosts.len();
            match open(&self.hosts[at], ask).await {
                Ok(opened) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(opened);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("a registry has at least one host"))
    }
}

/// What is behind a path of a host, for those who ask for nothing else.
#[cfg(feature = "jwt")]
pub(crate) async fn get(host: &str, path: &str) -> Result<Bytes, DiscoveryError> {
    let http = Http::new(vec![host.to_owned()]);
    let answer = http.ask(Ask::new(Method::GET, path)).await?;
    answer.done()?;
    Ok(answer.body)
}

/// One request over one connection: the few requests of discovery do not pay for keeping some.
async fn open(host: &str, ask: &Ask) -> Result<Opened, DiscoveryError> {
    let failed = |what: &dyn fmt::Display| DiscoveryError::unreachable(format!("{host}: {what}"));
    let connected = timeout(STEP, TcpStream::connect(host)).await;
    let stream = connected
        .map_err(|_| failed(&format!("no connection within {STEP:?}")))?
        .map_err(|error| failed(&error))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let mut task = JoinSet::new();
    // How the connection ends is heard where the answer is read.
    task.spawn(async move { drop(connection.await) });
    let request = Request::builder()
        .method(&ask.method)
        .uri(&ask.path)
        .header("host", host)
        .header("content-type", "application/json")
        .body(Full::new(ask.body.clone()))
        .map_err(|error| failed(&error))?;
    let answer = timeout(ask.wait, sender.send_request(request)).await;
    let answer = answer
        .map_err(|_| failed(&format!("no answer within {:?}", ask.wait)))?
        .map_err(|error| failed(&error))?;
    let (parts, body) = answer.into_parts();
    Ok(Opened {
        head: Response::from_parts(parts, ()),
        body,
        _connection: task,
    })
}

fn too_slow(what: &str) -> DiscoveryError {
    DiscoveryError::unreachable(format!("{what} did not come within {STEP:?}"))
}

/// Adds what a frame of a body brings.
fn take(
    to: &mut BytesMut,
    frame: hyper::Result<hyper::body::Frame<Bytes>>,
) -> Result<(), DiscoveryError> {
    let frame = frame
        .map_err(|error| DiscoveryError::unreachable(format!("the answer breaks off: {error}")))?;
    let data = frame.data_ref().map_or(&[][..], |data| data);
    if to.len() + data.len() > BODY_MAX {
        let error = format!("its answer is longer than {BODY_MAX} bytes");
        return Err(DiscoveryError::nonsense(error));
    }
    to.extend_from_slice(data);
    Ok(())
}

#[cfg(feature = "etcd")]
impl Lines {
    /// The next line; an error at the end. Cancellation safe.
    pub(super) async fn next(&mut self) -> Result<Bytes, DiscoveryError> {
        loop {
            let end = self.buffer[self.looked..].iter().position(|b| *b == b'\n');
            if let Some(end) = end {
                let line = self.buffer.split_to(self.looked + end + 1).freeze();
                (self.looked, self.until) = (0, None);
                return Ok(line);
            }
            self.looked = self.buffer.len();
            if self.buffer.is_empty() {
                self.until = None;
            } else {
                self.until.get_or_insert(Instant::now() + STEP);
            }
            let frame = self.opened.body.frame();
            let frame = match self.until {
                Some(until) => timeout_at(until, frame)
                    .await
                    .map_err(|_| too_slow("the rest of a line"))?,
                None => frame.await,
            };
            let ended = || DiscoveryError::unreachable("it has ended its answer");
            take(&mut self.buffer, frame.ok_or_else(ended)?)?;
        }
    }
}

/// A text as a part of a path or a query.
#[cfg(any(feature = "consul", feature = "nacos"))]
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
