//! Who is at the other end of a connection.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use crate::caller::{Caller, PeerCertificate, Token};
use crate::endpoint::Endpoint;

/// A connection of this process. No two have the same number while the process runs, so a number
/// in a log names one connection also after its address was used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(NonZeroU64);

impl ConnectionId {
    /// A number that no connection of this process has had.
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // It would take centuries to count round to zero.
        let next = NonZeroU64::new(NEXT.fetch_add(1, Ordering::Relaxed));
        Self(next.unwrap_or(NonZeroU64::MAX))
    }

    /// The number as it is shown in logs.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is at the other end of a connection: what the operating system and TLS vouch for, and what
/// the peer says of itself.
///
/// Its `Display` is the address alone, as logs show it. A handler gets it by the extractor
/// [`Peer`](crate::extract::Peer).
///
/// ```
/// use postroad::Router;
/// use postroad::extract::Peer;
///
/// let router = Router::new().route("who/am-i", async |Peer(peer): Peer| {
///     match peer.certificate() {
///         Some(certificate) => certificate.subject.clone(),
///         None => peer.to_string(),
///     }
/// });
/// # let _ = router;
/// ```
pub struct PeerInfo {
    connection: ConnectionId,
    address: Address,
    listener: Option<Arc<Endpoint>>,
    certificate: Option<Arc<PeerCertificate>>,
    /// The token that it has presented last, which was verified.
    token: ArcSwapOption<Token>,
    /// How often it has presented one: who looks whether it has changed reads this.
    identified: AtomicU32,
    /// Known only after the opening, when the connection is shared already.
    opening: OnceLock<Arc<Opening>>,
}

/// Where the peer is. Kept as it comes from the system and written as text only when it is shown:
/// every idle connection has one.
enum Address {
    Socket(SocketAddr),
    Unix(UnixCredentials),
    Text(Box<str>),
}

/// What the peer has said in its opening.
struct Opening {
    agent: Box<str>,
    credentials: Option<Bytes>,
}

impl Opening {
    /// Thousands of idle clients are most often of one program. They share what they have said, as
    /// long as they say the same as the client before them and present no credentials.
    fn shared(agent: &str, credentials: Option<Bytes>) -> Arc<Self> {
        static LAST: Mutex<Option<Arc<Opening>>> = Mutex::new(None);
        let is_shareable = credentials.is_none();
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*last
            && is_shareable
            && &*last.agent == agent
        {
            return Arc::clone(last);
        }
        let agent = agent.into();
        let opening = Arc::new(Self { agent, credentials });
        if is_shareable {
            *last = Some(Arc::clone(&opening));
        }
        opening
    }
}

/// The process at the other end of a Unix socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnixCredentials {
    /// The process, where the kernel tells it.
    pub pid: Option<i32>,
    /// The user that it ran as when it connected.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl UnixCredentials {
    /// Of a process that runs as this user and group.
    #[must_use]
    pub fn new(pid: Option<i32>, uid: u32, gid: u32) -> Self {
        Self { pid, uid, gid }
    }
}

impl PeerInfo {
    fn new(address: Address) -> Self {
        Self {
            connection: ConnectionId::next(),
            address,
            listener: None,
            certificate: None,
            token: ArcSwapOption::empty(),
            identified: AtomicU32::new(0),
            opening: OnceLock::new(),
        }
    }

    /// A peer that is known by this text, for logs: what a transport without addresses can say.
    #[must_use]
    pub fn named(text: impl Into<String>) -> Self {
        Self::new(Address::Text(text.into().into_boxed_str()))
    }

    /// The process at the other end of a Unix socket.
    #[must_use]
    pub fn unix(credentials: UnixCredentials) -> Self {
        Self::new(Address::Unix(credentials))
    }

    /// The number of the connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// Its address, where the transport has addresses of the internet.
    #[must_use]
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match self.address {
            Address::Socket(address) => Some(address),
            Address::Unix(_) | Address::Text(_) => None,
        }
    }

    /// Process, user and group, if it is at the other end of a Unix socket.
    #[must_use]
    pub fn unix_credentials(&self) -> Option<UnixCredentials> {
        match self.address {
            Address::Unix(credentials) => Some(credentials),
            Address::Socket(_) | Address::Text(_) => None,
        }
    }

    /// The endpoint that it has connected to; `None` at a client, and where a handler was started
    /// without a connection.
    #[must_use]
    pub fn listener(&self) -> Option<&Endpoint> {
        self.listener.as_deref()
    }

    /// The transport that it came by, such as `tls`.
    #[must_use]
    pub fn transport(&self) -> Option<&str> {
        self.listener().map(Endpoint::transport)
    }

    /// The certificate that it has shown. `None` unless the listener asks for one by `client_ca`.
    #[must_use]
    pub fn certificate(&self) -> Option<&PeerCertificate> {
        self.certificate.as_deref()
    }

    /// The program that it says it is. `None` before the opening, and in a dialect that does not
    /// say.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        let agent = self.opening.get().map(|opening| &*opening.agent);
        agent.filter(|agent| !agent.is_empty())
    }

    /// Who it is, as its certificate and the token that it has presented last say. A token is
    /// verified where the server is told how: `jwt` of
    /// [`IdentityConfig`](crate::identity::IdentityConfig).
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller::new(self.token.load_full(), self.certificate.clone())
    }

    /// Another number each time that [`Self::caller`] has become another.
    #[inline]
    pub(crate) fn identified(&self) -> u32 {
        self.identified.load(Ordering::Acquire)
    }

    /// It has presented a token that was verified.
    pub(crate) fn identify(&self, token: Token) {
        self.token.store(Some(Arc::new(token)));
        self.identified.fetch_add(1, Ordering::Release);
    }

    /// The credentials that it has presented in its opening, which nobody has checked yet. `None`
    /// where the server has verified them itself: see [`Self::caller`].
    #[must_use]
    pub fn credentials(&self) -> Option<&Bytes> {
        self.opening.get()?.credentials.as_ref()
    }

    /// Notes where it came in.
    pub(crate) fn arrived_at(&mut self, listener: &Arc<Endpoint>) {
        self.listener = Some(Arc::clone(listener));
    }

    /// Notes what its transport has verified.
    pub(crate) fn certified_by(&mut self, certificate: Option<Box<PeerCertificate>>) {
        self.certificate = certificate.map(Arc::from);
    }

    /// Notes what it has said in its opening; a second opening, which the protocol does not have,
    /// would change nothing.
    pub(crate) fn opened(&self, agent: &str, credentials: Option<Bytes>) {
        // An idle connection keeps nothing for a peer that has said nothing.
        if !agent.is_empty() || credentials.is_some() {
            self.opening
                .get_or_init(|| Opening::shared(agent, credentials));
        }
    }
}

impl From<SocketAddr> for PeerInfo {
    fn from(address: SocketAddr) -> Self {
        Self::new(Address::Socket(address))
    }
}

impl fmt::Display for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Socket(address) => address.fmt(f),
            Address::Unix(UnixCredentials { pid, uid, .. }) => {
                write!(f, "unix:uid={uid},pid={}", pid.unwrap_or(0))
            }
            Address::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for PeerInfo {
    /// Without the credentials: what is debugged may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerInfo")
            .field("connection", &self.connection)
            .field("address", &format_args!("{self}"))
            .field("certificate", &self.certificate)
            .field("agent", &self.agent())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_shown_by_its_address_alone() {
        let address: SocketAddr = "[::1]:7400".parse().expect("an address");
        assert_eq!(PeerInfo::from(address).to_string(), "[::1]:7400");
        let unix = PeerInfo::unix(UnixCredentials::new(Some(7), 1000, 100));
        assert_eq!(unix.to_string(), "unix:uid=1000,pid=7");
        assert_eq!(PeerInfo::named("mem:a").to_string(), "mem:a");
    }

    #[test]
    fn credentials_stay_out_of_debug_output_and_the_first_opening_counts() {
        let peer = PeerInfo::named("somebody");
        peer.opened("", None);
        assert_eq!((peer.agent(), peer.credentials()), (None, None));
        peer.opened("tester/1", Some(Bytes::from_static(b"secret")));
        peer.opened("another/2", None);
        assert_eq!(peer.agent(), Some("tester/1"));
        assert_eq!(
            peer.credentials().map(|bytes| &bytes[..]),
            Some(&b"secret"[..])
        );
        assert!(!format!("{peer:?}").contains("secret"));
    }

    #[test]
    fn no_two_connections_have_the_same_number() {
        let (one, other) = (PeerInfo::named("a"), PeerInfo::named("a"));
        assert!(one.connection() < other.connection());
    }
}
