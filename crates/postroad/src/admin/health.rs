//! Whether a server lives, has been started, and wants calls: three things.
//!
//! Kubernetes kills what does not live and gives no calls to what is not ready, so a server that is
//! only busy, or is shutting down, must live.

use std::time::Duration;

use postroad_proto::policy::ServerState;

use crate::server::{Sight, Watched};

/// One reason to be well or not.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    /// Why it has failed, if it has.
    pub(super) failure: Option<String>,
}

impl Check {
    fn new(name: &'static str, failure: Option<String>) -> Self {
        Self { name, failure }
    }
}

/// Whether the reactors still turn. None may have been silent for `stuck_after`.
pub(super) fn live(watched: Option<&Watched>, stuck_after: Duration) -> Vec<Check> {
    let sight = watched.and_then(Watched::sight);
    let waits = sight.map_or_else(Vec::new, |sight| sight.waits);
    let many = waits.len();
    let stuck = waits.iter().enumerate().filter(|(_, w)| **w >= stuck_after);
    let stuck: Vec<_> = stuck
        .map(|(at, wait)| {
            format!(
                "reactor {at} of {many} has not turned for {:.1} s: a handler blocks it",
                wait.as_secs_f64()
            )
        })
        .collect();
    vec![
        // Whoever reads this has been answered.
        Check::new("admin", None),
        Check::new("reactors", (!stuck.is_empty()).then(|| stuck.join("; "))),
    ]
}

/// Whether the server has been started.
pub(super) fn started(watched: Option<&Watched>) -> Vec<Check> {
    let failure = watched.is_none().then(|| "it is being started".to_owned());
    vec![Check::new("started", failure)]
}

/// Whether the server wants calls.
pub(super) fn ready(watched: Option<&Watched>) -> Vec<Check> {
    let mut checks = started(watched);
    if let Some(watched) = watched {
        let sight = watched.sight();
        checks.push(Check::new("state", wrong_state(sight.as_ref())));
        let unwanted =
            sight.is_some_and(|sight| sight.state == ServerState::Running && !sight.wants_calls);
        let why = "the program wants no calls now";
        checks.push(Check::new("wants-calls", unwanted.then(|| why.to_owned())));
    }
    checks
}

fn wrong_state(sight: Option<&Sight>) -> Option<String> {
    let state = sight.map_or(ServerState::Stopped, |sight| sight.state);
    let why = match state {
        ServerState::Running => return None,
        ServerState::Initializing => "it is being started",
        ServerState::ShuttingDown => "it finishes what was accepted",
        ServerState::Stopped => "it has ended",
        ServerState::Error => "a listener can accept nothing; the log says why",
    };
    Some(format!("{state}: {why}"))
}

/// The checks as Kubernetes writes them, and whether none has failed.
pub(super) fn written(name: &str, checks: &[Check], is_verbose: bool) -> (bool, String) {
    let is_well = checks.iter().all(|check| check.failure.is_none());
    if is_well && !is_verbose {
        return (true, "ok\n".to_owned());
    }
    let mut text = String::new();
    for Check { name, failure } in checks {
        text.push_str(&match failure {
            None => format!("[+]{name} ok\n"),
            Some(why) => format!("[-]{name} failed: {why}\n"),
        });
    }
    let verdict = if is_well { "passed" } else { "failed" };
    text.push_str(&format!("{name} check {verdict}\n"));
    (is_well, text)
}
