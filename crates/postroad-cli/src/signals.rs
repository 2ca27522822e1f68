//! SIGINT, SIGTERM and SIGHUP: the first asks, the second insists.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit;

/// The signals that end the program, listened to from now on.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` if whoever started the program wants it to outlive its terminal.
    hangup: Option<Signal>,
}

impl Signals {
    pub(crate) fn listen() -> std::io::Result<Self> {
        // Listening to a signal that is ignored would end the ignoring.
        let hangup = match is_hangup_ignored() {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    /// The next signal, as the exit code that it stands for. A terminal that was closed ends a tool
    /// as SIGTERM does.
    pub(crate) async fn next(&mut self) -> ExitCode {
        tokio::select! {
            code = stop(&mut self.interrupt, &mut self.terminate) => code,
            () = hung_up(&mut self.hangup) => ExitCode::from(exit::TERMINATED),
        }
    }

    /// What a node is asked to do next.
    pub(crate) async fn next_of_node(&mut self) -> Asked {
        tokio::select! {
            code = stop(&mut self.interrupt, &mut self.terminate) => Asked::Stop(code),
            () = hung_up(&mut self.hangup) => Asked::Reload,
        }
    }

    /// The next signal that asks for an end, as the exit code that it stands for.
    pub(crate) async fn next_stop(&mut self) -> ExitCode {
        loop {
            if let Asked::Stop(code) = self.next_of_node().await {
                return code;
            }
        }
    }
}

/// What a signal asks a node to do.
pub(crate) enum Asked {
    /// To end, with this exit code if it insists.
    Stop(ExitCode),
    /// To read its configuration again.
    Reload,
}

async fn stop(interrupt: &mut Signal, terminate: &mut Signal) -> ExitCode {
    tokio::select! {
        _ = interrupt.recv() => ExitCode::from(exit::INTERRUPTED),
        _ = terminate.recv() => ExitCode::from(exit::TERMINATED),
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the program was started by `nohup` or the like. Where the system does not tell, it was
/// not.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Bit 0 stands for signal 1, which is SIGHUP.
    ignored.is_some_and(|mask| mask & 1 == 1)
}
