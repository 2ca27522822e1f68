//! What a server's driver needs of the code that handles requests.

use std::sync::Arc;

use postroad_proto::Time;
use postroad_proto::session::Credentials;

use super::batch::{Answers, RequestBatch};
use super::connection::Connection;

/// Handles the requests of one connection; its driver owns it.
pub(crate) trait Serving: Send {
    /// The driver's turn begins: other tasks had theirs.
    fn begin_turn(&mut self) {}

    /// Whether the driver may read more requests. If not, whoever starts those that are held wakes
    /// it. Asked after each round of reading and writing; `has_room` says whether answers find
    /// room.
    fn takes_requests(&mut self, has_room: bool) -> bool {
        let _ = has_room;
        true
    }

    /// The connection is over. What is held is started, or dropped, without its driver.
    fn end(&mut self) {}

    /// The client has brought credentials, and waits: [`Connection::admit`] or [`Connection::deny`]
    /// ends that.
    fn judge(&mut self, connection: &Arc<Connection>, credentials: Credentials);

    /// No request is in flight: memory that is kept for the next one may be given back.
    fn release_memory(&mut self);

    /// Starts handlers in place, in the order of arrival, until `answers` is full or nothing is
    /// left in `arrived`.
    ///
    /// A handler that is done at once leaves its answer in `answers`. The others answer later, from
    /// a task that [`Connection::spawn`] starts. `now` is the driver's last reading of the clock,
    /// which it has just made.
    fn start(
        &mut self,
        connection: &Arc<Connection>,
        now: Time,
        arrived: &mut RequestBatch,
        answers: &mut Answers,
    );
}
