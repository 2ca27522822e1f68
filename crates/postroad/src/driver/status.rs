//! What the driver has to know of the session between two steps of a turn.

use postroad_proto::Time;

/// How things stood when the lock was given back. The driver decides its next step by this copy, so
/// that it need not take the lock to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status {
    /// The session takes more bytes.
    pub(super) wants_read: bool,
    /// Requests that have arrived may be started, because their answers find room.
    pub(super) has_room: bool,
    /// The session is over.
    pub(super) is_closed: bool,
    /// There is something to write, or to try again.
    pub(super) has_output: bool,
    /// More is to be written than one turn writes: the rest has to wait for the next.
    pub(super) is_cut: bool,
    /// Calls of this end are in flight.
    pub(super) is_calling: bool,
    /// When the session wants to be woken; [`Time::NEVER`] if it does not.
    pub(super) due: Time,
}
