//! What was wrong with bytes from the peer.

/// What was wrong with bytes from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WireFault {
    /// The first bytes are not this protocol's.
    Magic,
    /// A version that is not spoken here.
    Version,
    /// A type, kind or command that does not exist, or not in this direction.
    Type,
    /// A length over the limit, or one that contradicts another.
    Length,
    /// A priority over 7.
    Priority,
    /// The checksum does not match.
    Checksum,
    /// Text that is not UTF-8.
    Utf8,
    /// A reserved bit is set, or a field has a value that has no meaning.
    Reserved,
    /// Parts that overrun their frame.
    Parts,
    /// The stream ended in the middle of a frame.
    Truncated,
    /// The id is in flight already, or was never defined.
    Id,
    /// A frame that is not allowed in this state.
    State,
}

impl WireFault {
    /// The word used in messages, counters and vectors.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Type => "type",
            Self::Length => "length",
            Self::Priority => "priority",
            Self::Checksum => "checksum",
            Self::Utf8 => "utf-8",
            Self::Reserved => "reserved",
            Self::Parts => "parts",
            Self::Truncated => "truncated",
            Self::Id => "id",
            Self::State => "state",
        }
    }
}

/// Bytes that break the protocol: what, where, and the id to answer with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} at byte {at}: {detail}", fault.word())]
pub struct WireError {
    /// What was wrong.
    pub fault: WireFault,
    /// The byte where it shows. Codecs count from the frame's first byte, sessions from the
    /// connection's.
    pub at: u64,
    /// Found and expected, for a person.
    pub detail: String,
    /// The id of the frame, 0 if none could be read.
    pub id: u32,
}

impl WireError {
    /// An error without an id.
    #[must_use]
    pub fn new(fault: WireFault, at: usize, detail: impl Into<String>) -> Self {
        Self {
            fault,
            at: at as u64,
            detail: detail.into(),
            id: 0,
        }
    }

    /// The same error of the frame with this id.
    #[must_use]
    pub fn with_id(mut self, id: u32) -> Self {
        self.id = id;
        self
    }
}
