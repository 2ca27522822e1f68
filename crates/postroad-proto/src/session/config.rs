//! Settings of sessions, and of the dialects that they speak.

use std::sync::Arc;
use std::time::Duration;

pub use crate::dialect::routes::Mapping;

use crate::dialect::DialectCodec;
use crate::limits::{FRAGMENT_BYTES, Limits};
use crate::session::Credentials;

/// Features of the native protocol, as bits.
pub mod features {
    /// Every frame ends with CRC32C.
    pub const CHECKSUM: u32 = 1 << 0;
    /// What this code can do.
    pub const BUILT: u32 = CHECKSUM;
}

/// Settings of one end's sessions, which share them.
///
/// # Defaults
/// Version 1; a checksum offered; heartbeat 30 s; opening 5 s; 30 s for a frame that has begun, 10
/// s for a write.
#[derive(Clone, Debug)]
pub struct Config {
    /// Lowest version spoken.
    pub version_min: u16,
    /// Highest version spoken.
    pub version_max: u16,
    /// Features offered, bits of [`features`]. Leave out the checksum where the transport has its
    /// own.
    pub offered: u32,
    /// Features without which there is no session.
    pub required: u32,
    /// Bounds.
    pub limits: Limits,
    /// Payload of one fragment, bytes, where the peer's frames have room for it: what an urgent
    /// message may have to wait for.
    pub fragment: usize,
    /// Heartbeat on an otherwise idle connection; the larger of the two ends' is taken. From 10 ms
    /// to 10 minutes.
    pub heartbeat: Duration,
    /// Whether a dialect's client sends heartbeats: a peer that does not know them would be taken
    /// for dead.
    pub has_heartbeat: bool,
    /// As a server: whether clients may send credentials in HELLO. They are handed out in
    /// [`Event::Opened`](super::Event::Opened), and whoever drives the session judges them. Where
    /// this is off, credentials that a client calls critical are refused, and others are ignored.
    pub accepts_credentials: bool,
    /// As a server that accepts credentials: whether a client that brings some is answered only
    /// when they were judged. They are handed out in [`Event::Presented`](super::Event::Presented),
    /// and [`Session::admit`](super::Session::admit) or [`Session::deny`](super::Session::deny)
    /// ends the wait; the time for the opening goes on.
    pub judges_credentials: bool,
    /// As a client: what is sent in HELLO to prove who this is, at most
    /// [`CREDENTIALS_MAX`](crate::limits::CREDENTIALS_MAX) bytes.
    /// A server that accepts none refuses the session.
    pub credentials: Option<Credentials>,
    /// Time for the whole opening.
    pub handshake: Duration,
    /// Time for a frame that has begun to arrive.
    pub read_stall: Duration,
    /// Time in which a transport that takes nothing must take something.
    pub write_stall: Duration,
    /// As a server: how long a connection may bring nothing but heartbeats before its client is
    /// asked to leave; a dialect, which has no word for that, is closed. `None`: for ever.
    pub idle: Option<Duration>,
    /// Who this is, for the other end's logs.
    pub agent: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version_min: 1,
            version_max: 1,
            offered: features::CHECKSUM,
            required: 0,
            limits: Limits::default(),
            fragment: FRAGMENT_BYTES,
            heartbeat: Duration::from_secs(30),
            has_heartbeat: true,
            accepts_credentials: false,
            judges_credentials: false,
            credentials: None,
            handshake: Duration::from_secs(5),
            read_stall: Duration::from_secs(30),
            write_stall: Duration::from_secs(10),
            idle: None,
            agent: concat!("postroad/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// A dialect of one listener or endpoint.
#[derive(Clone, Debug)]
pub struct DialectConfig {
    /// The codec and its settings; who reads is set by the session.
    pub codec: DialectCodec,
    /// From frames to routes.
    pub mapping: Arc<Mapping>,
}
