//! The bounds of the protocol core that a user may change, that several modules keep to, or that
//! the wire format sets, each with its unit and its reason.
//!
//! [`Limits`] holds those that a user may change; the constants are their defaults and the hard
//! edges of the wire format. A bound that one module alone keeps to is a constant of that module.
//! [`Limits::memory_max`] is the worst memory of one connection's session as a sum.

use std::time::Duration;

use serde::Deserialize;

/// Bytes of a native frame's head; see `docs/protocol.md`, section 2.
pub const HEAD_BYTES: usize = 16;
/// Bytes of the CRC32C behind a frame, where it was agreed.
pub const CHECKSUM_BYTES: usize = 4;
/// Largest body that the 24-bit length of a frame can express, bytes.
pub const FRAME_BODY_MAX: usize = (1 << 24) - 1;
/// Smallest `max_frame` that an end may announce, bytes, because a frame must have room for parts
/// and for an error.
pub const FRAME_BODY_MIN: usize = 1024;
/// Largest body of an opening, bytes. It has room for a credential of the size of a certificate;
/// more would be memory that a peer takes before anything is known about it.
pub const OPENING_BODY_MAX: usize = 4096;
/// Largest credentials in an opening, bytes: what is left beside the fixed fields and the agent,
/// with some room for parts to come.
pub const CREDENTIALS_MAX: usize = 3072;
/// Bytes of an opening before its body.
pub const OPENING_HEAD_BYTES: usize = 8;
/// Events that may wait for the driver; at this bound no more bytes are decoded.
pub const EVENTS_MAX: usize = 1024;
/// Default of the requests of a server, or of a table of routes without one, whose handlers wait
/// for something at once.
pub const REQUESTS_MAX: usize = 10_000;
/// Time without a further fragment after which a call is refused and a one-way message is dropped,
/// also if its deadline is far or it has none. Slow lines on which many large messages take turns
/// are well within it.
pub const UNFINISHED_MAX: Duration = Duration::from_secs(300);
/// Large messages of one priority that take turns. The others wait until one of them is complete,
/// so that the peer has few incomplete messages to hold.
pub const TURNS_MAX: usize = 8;
/// Largest route name, bytes, because its length has eight bits on the wire.
pub const ROUTE_NAME_MAX: usize = 255;
/// Most causes in an error. Each service that passes an error on adds one, so services that call
/// each other in a circle would make it grow without end.
pub const CAUSES_MAX: usize = 16;
/// Longest message of one cause, bytes; longer ones are cut at a character.
pub const CAUSE_MESSAGE_MAX: usize = 1024;
/// Most parts in one frame.
pub const PARTS_MAX: usize = 64;
/// Most calls in flight that the 16-bit slot of a call id can number.
pub const CALLS_MAX: usize = 1 << 16;

/// Payload of one fragment, bytes. An urgent message may have to wait for this much: smaller
/// fragments would shorten that, and cost large messages more heads and copies.
pub const FRAGMENT_BYTES: usize = 16 * 1024;
/// Bytes beyond one fragment that are handed to the transport at a time. An urgent message never
/// waits for more than both (M-026).
pub const TRANSMIT_EXTRA: usize = 4096;
/// Bytes of a frame that its payload leaves free for parts.
pub const PARTS_ROOM: usize = 8 * 1024;
/// How often a priority that has work may be passed over before it gets one fragment.
pub const STARVATION_TURNS: u32 = 16;
/// Intervals without any sign of life after which the connection is declared dead (M-022). More
/// than one, so that a single lost or late packet ends nothing.
pub const HEARTBEATS_MISSED_MAX: u32 = 3;
/// The adaptive heartbeat becomes no shorter than the agreed interval divided by this.
pub const HEARTBEAT_SHRINK_MAX: u32 = 8;
/// Shortest heartbeat that can be agreed.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
/// Longest heartbeat that can be agreed, whatever a peer proposes: otherwise it could make this end
/// keep dead connections for days.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(600);
/// Longest wait between the two phases of GOAWAY (M-028), for a peer that does not answer the ping
/// between them.
pub const DRAIN_PHASE_MAX: Duration = Duration::from_secs(5);

/// Default of [`Limits::max_frame`], bytes: one fragment and room for its parts.
pub const MAX_FRAME: usize = 64 * 1024;
/// Default of [`Limits::max_message`], bytes.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Default of [`Limits::max_calls`].
pub const MAX_CALLS: usize = 1000;
/// Default of [`Limits::max_routes`].
pub const MAX_ROUTES: usize = 1024;
/// Default of [`Limits::max_dialect_payload`], bytes.
pub const MAX_DIALECT_PAYLOAD: usize = 1024 * 1024;
/// Longest line of the `line` dialect, bytes, its end not counted.
pub const MAX_LINE: usize = 64 * 1024;
/// Default of [`Limits::outbox_pause`], bytes.
pub const OUTBOX_PAUSE: usize = 1024 * 1024;
/// Default of [`Limits::outbox_max`], bytes.
pub const OUTBOX_MAX: usize = 64 * 1024 * 1024;
/// Default of [`Limits::assembly_max`], bytes.
pub const ASSEMBLY_MAX: usize = 64 * 1024 * 1024;
/// Default of [`Limits::assemblies`].
pub const ASSEMBLIES: usize = 256;

const _: () = assert!(
    MAX_FRAME >= FRAGMENT_BYTES + 8192,
    "a fragment must fit a frame with parts"
);
const _: () = assert!(MAX_FRAME <= FRAME_BODY_MAX, "the length field must hold it");
const _: () = assert!(
    MAX_MESSAGE <= ASSEMBLY_MAX,
    "one whole message must be assemblable"
);
const _: () = assert!(
    MAX_MESSAGE < OUTBOX_MAX,
    "one whole message must be sendable"
);
const _: () = assert!(
    OUTBOX_PAUSE < OUTBOX_MAX,
    "reading pauses before the connection is given up"
);
const _: () = assert!(MAX_CALLS <= CALLS_MAX, "a slot must fit its 16 bits");
const _: () = assert!(
    CAUSES_MAX * (CAUSE_MESSAGE_MAX + 32) + 64 <= MAX_FRAME,
    "an error is one frame"
);
const _: () = assert!(
    OPENING_BODY_MAX <= u16::MAX as usize,
    "the length field must hold it"
);

/// The bounds of one connection that a user may change.
///
/// # Defaults
/// The constants of this module of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest frame body accepted, bytes. At least 24 KiB (a fragment and its parts), at most 16
    /// MiB - 1.
    #[serde(deserialize_with = "crate::units::size::deserialize")]
    pub max_frame: usize,
    /// Largest message accepted, bytes, in as many fragments as it takes.
    #[serde(deserialize_with = "crate::units::size::deserialize")]
    pub max_message: usize,
    /// Calls in flight that this end accepts, at most 65,536. The native protocol refuses more;
    /// a dialect's connection is not read while it is at this bound.
    pub max_calls: usize,
    /// Route numbers kept for the other end. Each costs its name.
    pub max_routes: usize,
    /// Largest payload of a dialect frame, bytes, where the dialect's own field allows that much.
    #[serde(deserialize_with = "crate::units::size::deserialize")]
    pub max_dialect_payload: usize,
    /// Unsent bytes over which no more requests are read from this connection.
    #[serde(deserialize_with = "crate::units::size::deserialize")]
    pub outbox_pause: usize,
    /// Unsent bytes over which answers are replaced by errors: the peer does not read them.
    #[serde(deserialize_with = "crate::units::size::deserialize")]
    pub outbox_max: usize,
    /// Bytes of incomplete messages, all together.
    #[serde(deserialize_with = "crate::units::size::deserialize")]
    pub assembly_max: usize,
    /// Incomplete messages at once.
    pub assemblies: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame: MAX_FRAME,
            max_message: MAX_MESSAGE,
            max_calls: MAX_CALLS,
            max_routes: MAX_ROUTES,
            max_dialect_payload: MAX_DIALECT_PAYLOAD,
            outbox_pause: OUTBOX_PAUSE,
            outbox_max: OUTBOX_MAX,
            assembly_max: ASSEMBLY_MAX,
            assemblies: ASSEMBLIES,
        }
    }
}

/// A limit outside its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} = {value} is out of bounds: {bound}")]
pub struct LimitError {
    /// The field of [`Limits`].
    pub name: &'static str,
    /// What was asked for.
    pub value: usize,
    /// What is allowed, in words.
    pub bound: &'static str,
}

impl Limits {
    /// Checks the bounds and the relations between them.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn check(&self) -> Result<(), LimitError> {
        let within = |name, value: usize, low: usize, high: usize, bound| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(LimitError { name, value, bound })
            }
        };
        let frame = FRAGMENT_BYTES + 8192;
        within(
            "max_frame",
            self.max_frame,
            frame,
            FRAME_BODY_MAX,
            "24576 to 16777215 bytes",
        )?;
        within(
            "max_message",
            self.max_message,
            1024,
            1 << 30,
            "1 KiB to 1 GiB",
        )?;
        within("max_calls", self.max_calls, 1, CALLS_MAX, "1 to 65536")?;
        within("max_routes", self.max_routes, 1, 65_535, "1 to 65535")?;
        let payload = self.max_dialect_payload;
        within(
            "max_dialect_payload",
            payload,
            16,
            1 << 30,
            "16 bytes to 1 GiB",
        )?;
        let pause = self.outbox_pause;
        within(
            "outbox_pause",
            pause,
            16_384,
            self.outbox_max,
            "16384 bytes to outbox_max",
        )?;
        let assembly = self.assembly_max;
        within(
            "assembly_max",
            assembly,
            self.max_message,
            1 << 32,
            "max_message to 4 GiB",
        )?;
        within("assemblies", self.assemblies, 1, 65_536, "1 to 65536")
    }

    /// The worst memory of one connection's session, bytes, without the handlers' own.
    ///
    /// A dialect's client also remembers the ids of calls that it has given up, at most 65,536 of
    /// them: 640 KiB more.
    #[must_use]
    pub fn memory_max(&self) -> usize {
        let frame = self.max_frame.max(self.max_dialect_payload) + HEAD_BYTES + CHECKSUM_BYTES;
        frame // one incomplete frame
            + self.outbox_max + frame // answers not yet written, and the one that met the bound
            + self.assembly_max + frame // messages whose fragments are missing, and parts of one
            + self.max_calls * 160 // slots of both directions and their dialect bookkeeping
            + self.max_routes * (ROUTE_NAME_MAX + 64) // names of routes
            + (2 * self.max_calls + EVENTS_MAX) * 256 // events not yet taken
            + 16 * 1024 // the fixed parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_own_bounds() {
        Limits::default().check().unwrap();
    }

    #[test]
    fn a_limit_out_of_bounds_is_named_with_its_value_and_bound() {
        let limits = Limits {
            max_calls: 70_000,
            ..Limits::default()
        };
        let text = limits.check().unwrap_err().to_string();
        assert_eq!(text, "max_calls = 70000 is out of bounds: 1 to 65536");
    }
}
