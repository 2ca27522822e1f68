//! SIGINT and SIGTERM: the first asks, the second insists.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit;

/// Both signals, listened to from now on.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn listen() -> std::io::Result<Self> {
        let (interrupt, terminate) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        );
        Ok(Self {
            interrupt,
            terminate,
        })
    }

    /// The next signal, as the exit code that it stands for.
    pub(crate) async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.interrupt.recv() => ExitCode::from(exit::INTERRUPTED),
            _ = self.terminate.recv() => ExitCode::from(exit::TERMINATED),
        }
    }
}
