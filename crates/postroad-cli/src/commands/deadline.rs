//! One time limit for a command that connects and calls.

use std::time::{Duration, Instant};

use postroad::Client;

use crate::config::Service;
use crate::exit::Failed;

/// Connects within this time, to get answers of at most so many bytes, and says what is left of the
/// time for the call.
pub(super) async fn connect(
    service: Service,
    timeout: Option<Duration>,
    max_message: Option<usize>,
) -> Result<(Client, Duration), Failed> {
    let begin = Instant::now();
    let Service { target, mut config } = service;
    let timeout = timeout.unwrap_or(config.timeout);
    config.timeout = timeout;
    config.connect_timeout = timeout;
    // A user who allows a minute wants to wait that long for a slow server's first word too.
    config.connection.handshake = timeout.max(Duration::from_millis(1));
    if let Some(max) = max_message {
        let limits = &mut config.connection.limits;
        (limits.max_message, limits.max_dialect_payload) = (max, max);
        limits.assembly_max = limits.assembly_max.max(max);
    }
    let client = Client::connect_with(target, config).await?;
    Ok((client, timeout.saturating_sub(begin.elapsed())))
}
