//! One time limit for a command that connects and calls.

use std::time::{Duration, Instant};

use postroad::{Client, ClientConfig, Endpoint};

use crate::exit::Failed;

/// Connects within this time, and says what is left of it for the call.
pub(super) async fn connect(
    endpoint: Endpoint,
    timeout: Duration,
) -> Result<(Client, Duration), Failed> {
    let begin = Instant::now();
    let mut config = ClientConfig::default();
    config.timeout = timeout;
    config.connect_timeout = timeout;
    // A user who allows a minute wants to wait that long for a slow server's first word too.
    config.connection.handshake = timeout.max(Duration::from_millis(1));
    let client = Client::connect_with(endpoint, config).await?;
    Ok((client, timeout.saturating_sub(begin.elapsed())))
}
