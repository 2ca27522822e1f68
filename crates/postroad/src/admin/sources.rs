//! What a server and a client have to show.

use postroad_proto::policy::{ConnectionState, ServerState};

use super::metrics::{MetricSource, Metrics};
use crate::client::Client;
use crate::observe::counters::ServerStats;
use crate::server::{RunningServer, Sight, Watched};

const STATES: [ServerState; 5] = [
    ServerState::Initializing,
    ServerState::Running,
    ServerState::ShuttingDown,
    ServerState::Stopped,
    ServerState::Error,
];

const CONNECTION_STATES: [ConnectionState; 7] = [
    ConnectionState::Idle,
    ConnectionState::Connecting,
    ConnectionState::Connected,
    ConnectionState::Closing,
    ConnectionState::Closed,
    ConnectionState::Error,
    ConnectionState::Offline,
];

/// By its target, so clients of the same target should be one, and its clones.
impl MetricSource for Client {
    fn collect(&self, metrics: &mut Metrics) {
        let target = self.target().to_string();
        let now = *self.state().borrow();
        let mut states = metrics.gauge(
            "postroad_client_state",
            "1 for the state that the client of a target is in, 0 for the others.",
        );
        for state in CONNECTION_STATES {
            let labels = [("target", &*target), ("state", &state.to_string())];
            states.add(&labels, state == now);
        }
    }
}

impl MetricSource for RunningServer {
    fn collect(&self, metrics: &mut Metrics) {
        self.watched().collect(metrics);
    }
}

impl MetricSource for Watched {
    fn collect(&self, metrics: &mut Metrics) {
        metrics
            .info("postroad_build_info", "The version of Postroad.")
            .add(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
        let sight = self.sight();
        state(sight.as_ref(), metrics);
        if let Some(sight) = sight {
            connections(&sight, metrics);
            requests(&sight, metrics);
            limits(&sight, metrics);
            self.ask_reactors();
        }
    }
}

fn state(sight: Option<&Sight>, metrics: &mut Metrics) {
    let now = sight.map_or(ServerState::Stopped, |sight| sight.state);
    let mut states = metrics.gauge(
        "postroad_server_state",
        "1 for the state that the server is in, 0 for the others.",
    );
    for state in STATES {
        states.add(&[("state", &state.to_string())], state == now);
    }
    let help = "1 if the server wants calls: it runs, and the program has not said otherwise.";
    let is_ready = sight.is_some_and(Sight::is_ready);
    metrics
        .gauge("postroad_server_ready", help)
        .add(&[], is_ready);
}

fn connections(sight: &Sight, metrics: &mut Metrics) {
    let stats = &sight.stats;
    metrics
        .gauge("postroad_server_connections", "Connections that are open.")
        .add(&[], stats.open);
    metrics
        .gauge(
            "postroad_server_connections_max",
            "Connections that may be open at once.",
        )
        .add(&[], sight.connections_max);
    metrics
        .counter(
            "postroad_server_connections_accepted_total",
            "Connections that were accepted.",
        )
        .add(&[], stats.accepted);
    metrics
        .counter(
            "postroad_server_connections_turned_away_total",
            "Connections that were turned away because there were too many.",
        )
        .add(&[], stats.turned_away);
    metrics
        .counter(
            "postroad_server_accept_errors_total",
            "Times that the operating system let a listener accept nothing.",
        )
        .add(&[], stats.accept_errors);
    metrics
        .gauge(
            "postroad_server_connections_held_bytes",
            "Bytes that all connections hold: messages that are incomplete, unsent or wait.",
        )
        .add(&[], stats.held as u64);
    let mut closed = metrics.counter(
        "postroad_server_connections_closed_total",
        "Connections that have ended, by protocol and reason.",
    );
    for ((protocol, reason), many) in &stats.closed {
        closed.add(&[("protocol", protocol), ("reason", reason)], *many);
    }
}

/// Routes that a rule limits, and the worker threads.
fn limits(sight: &Sight, metrics: &mut Metrics) {
    let helps = [
        "Requests of a route that may be at work at once.",
        "Requests of a route that are at work and have a place of its limit.",
        "Requests of a route that wait for a place.",
    ];
    let names = ["limit", "limited_running", "limited_waiting"];
    for (at, (name, help)) in names.into_iter().zip(helps).enumerate() {
        let mut each = metrics.gauge(&format!("postroad_server_route_{name}"), help);
        for (route, counts) in &sight.limits {
            each.add(&[("route", route)], counts[at]);
        }
    }
    let [most, busy, waiting] = sight.workers;
    metrics
        .gauge(
            "postroad_server_workers",
            "Threads for routes that compute.",
        )
        .add(&[], most);
    metrics
        .gauge("postroad_server_workers_busy", "Those that are at work.")
        .add(&[], busy);
    metrics
        .gauge(
            "postroad_server_workers_waiting",
            "Requests that wait for one.",
        )
        .add(&[], waiting);
}

fn requests(sight: &Sight, metrics: &mut Metrics) {
    let ServerStats {
        running,
        queued,
        started,
        failed,
        dropped,
        panicked,
        ..
    } = sight.stats;
    for (name, help, now) in [
        (
            "postroad_server_requests_running",
            "Requests whose handlers are at work, beyond those that are done at once.",
            running,
        ),
        (
            "postroad_server_requests_running_max",
            "Requests whose handlers may be at work at once.",
            sight.requests_max,
        ),
        (
            "postroad_server_requests_queued",
            "Requests that wait for their turn to be started.",
            queued,
        ),
        (
            "postroad_server_routes",
            "Routes that the server has.",
            sight.routes,
        ),
    ] {
        metrics.gauge(name, help).add(&[], now);
    }
    for (name, help, many) in [
        (
            "postroad_server_requests_started_total",
            "Requests whose handlers were started.",
            started,
        ),
        (
            "postroad_server_requests_failed_total",
            "Requests that ended with an error, refused ones included.",
            failed,
        ),
        (
            "postroad_server_messages_dropped_total",
            "One-way messages that no handler has taken.",
            dropped,
        ),
        (
            "postroad_server_handler_panics_total",
            "Handlers that panicked.",
            panicked,
        ),
    ] {
        metrics.counter(name, help).add(&[], many);
    }
    let mut waits = metrics.gauge(
        "postroad_server_reactor_wait_seconds",
        "For how long a reactor has not answered; a handler that blocks keeps it from answering.",
    );
    for (at, wait) in sight.waits.iter().enumerate() {
        waits.add(&[("reactor", &at.to_string())], *wait);
    }
}
