//! The states of a client's connection and of a server, and which may follow which.
//!
//! ```text
//! client: Idle -> Connecting -> Connected -> Closing -> Closed
//!                     |  ^          |                     |
//!                     v  |          v                     |
//!            Offline  Error <-------+      Connecting <---+
//!
//! server: Initializing -> Running -> ShuttingDown -> Stopped
//!               ^             |
//!               +--- Error <--+
//! ```

use std::fmt;

/// Where a client's connection to its endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// Nobody has asked for it yet.
    Idle,
    /// Dialling or opening.
    Connecting,
    /// Calls can be made.
    Connected,
    /// Being closed on purpose.
    Closing,
    /// Closed; may be dialled again.
    Closed,
    /// Broken; will be dialled again.
    Error,
    /// Several attempts have failed: calls fail at once instead of waiting. Dialling goes on, and a
    /// call that comes makes an attempt.
    Offline,
}

/// Where a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// Binding its listeners.
    Initializing,
    /// Serving.
    Running,
    /// Finishing what was accepted.
    ShuttingDown,
    /// Done.
    Stopped,
    /// A listener failed; may initialize again.
    Error,
}

/// A transition that the state machine does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("illegal transition from {from} to {to}")]
pub struct IllegalTransition<S: fmt::Display + fmt::Debug> {
    /// The present state, which stays.
    pub from: S,
    /// The state asked for.
    pub to: S,
}

impl ConnectionState {
    /// Goes to `to`.
    ///
    /// # Errors
    /// If that may not follow; the error names both states.
    pub fn transition(self, to: Self) -> Result<Self, IllegalTransition<Self>> {
        use ConnectionState::{Closed, Closing, Connected, Connecting, Error, Idle, Offline};
        let legal = match self {
            Idle => matches!(to, Connecting | Closing),
            Connecting => matches!(to, Connected | Error | Closing),
            Connected => matches!(to, Closing | Error),
            Closing => to == Closed,
            Closed => to == Connecting,
            Error => matches!(to, Connecting | Closed | Closing | Offline),
            Offline => matches!(to, Connecting | Closing),
        };
        if legal {
            Ok(to)
        } else {
            Err(IllegalTransition { from: self, to })
        }
    }
}

impl ServerState {
    /// Goes to `to`.
    ///
    /// # Errors
    /// If that may not follow; the error names both states.
    pub fn transition(self, to: Self) -> Result<Self, IllegalTransition<Self>> {
        use ServerState::{Error, Initializing, Running, ShuttingDown, Stopped};
        let legal = match self {
            Initializing => matches!(to, Running | Error | ShuttingDown),
            Running => matches!(to, ShuttingDown | Error),
            ShuttingDown => to == Stopped,
            Stopped => false,
            Error => matches!(to, Initializing | ShuttingDown),
        };
        if legal {
            Ok(to)
        } else {
            Err(IllegalTransition { from: self, to })
        }
    }
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_illegal_transition_names_both_states_and_changes_nothing() {
        let error = ConnectionState::Idle
            .transition(ConnectionState::Connected)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "illegal transition from Idle to Connected"
        );
        let error = ServerState::Stopped
            .transition(ServerState::Running)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "illegal transition from Stopped to Running"
        );
    }

    #[test]
    fn a_client_comes_back_from_every_state_but_by_way_of_connecting() {
        use ConnectionState::{Closed, Connected, Connecting, Error, Idle, Offline};
        for from in [Idle, Closed, Error, Offline] {
            assert_eq!(from.transition(Connecting), Ok(Connecting));
            assert!(from.transition(Connected).is_err());
        }
    }
}
