//! What load is wanted, as somebody says it; [`Plan`](super::Plan) is what is made of it.

use std::path::PathBuf;
use std::time::Duration;

use postroad::config::Preset;

use super::mix::Mix;
use super::schedule::{Burst, Rate};
use crate::bounds::Bounds;

/// Threads of this process, or of each worker.
pub const THREADS_MAX: u32 = 256;
/// Connections of all threads and workers together.
pub const CONNECTIONS_MAX: u32 = 10_000;
/// Largest payload, bytes.
pub const SIZE_MAX: u64 = 16 * 1024 * 1024;

/// How the calls of an open loop are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spacing {
    /// Evenly.
    #[default]
    Constant,
    /// Independently of each other, as from many users.
    Poisson,
}

/// The load that is wanted: where it goes, when calls are made, what they carry, how long it lasts
/// and what is called a failure. [`Self::new`] gives a closed loop of 64 callers for 5 seconds.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// Target to load, such as `tcp://127.0.0.1:7400`. Of several servers each connection is a
    /// client of its own.
    pub url: String,
    /// Route to call; by default `postroad/echo`, in a dialect `command/1`.
    pub route: Option<String>,
    /// Closed loop: callers, each with one call in flight. Unused if there is a rate or a burst.
    pub callers: u32,
    /// Open loop: calls a second, due whatever the answers do.
    pub rate: Option<Rate>,
    /// How the calls of a rate are spaced.
    pub arrival: Spacing,
    /// Open loop: calls that are due at once, by themselves or on top of a rate.
    pub burst: Option<Burst>,
    /// Connections that the calls are spread over; by default one a thread of each worker. At most
    /// [`CONNECTIONS_MAX`].
    pub connections: Option<u32>,
    /// What the connections are tuned for.
    pub preset: Preset,
    /// Threads that make calls, of each worker. At most [`THREADS_MAX`].
    pub threads: u32,
    /// How long to measure; by default 5 s, the time of the steps of a rate, or until `calls`.
    pub duration: Option<Duration>,
    /// How long to load before measuring.
    pub warmup: Duration,
    /// Parts of the measured time that are reported by themselves.
    pub interval: Duration,
    /// End after so many measured calls.
    pub calls: Option<u64>,
    /// Bytes of the payloads. At most [`SIZE_MAX`].
    pub size: Mix<u32>,
    /// File that is the payload, instead of `size` bytes.
    pub payload: Option<PathBuf>,
    /// Each line of the file is a payload; they are taken in turn.
    pub payload_lines: bool,
    /// Priorities of the calls, 0 to 7, 7 most urgent.
    pub priority: Mix<u8>,
    /// Deadlines of the calls.
    pub timeout: Mix<Duration>,
    /// What random choices come from; the same seed makes the same load.
    pub seed: u64,
    /// Process of the server, if it is not found by its socket.
    pub server_pid: Option<u32>,
    /// Addresses of workers that make the calls; if there are none, this process makes them.
    pub workers: Vec<String>,
    /// When to end early, and what to call a failure.
    pub bounds: Bounds,
}

impl LoadConfig {
    /// A closed loop of 64 callers on one connection for 5 seconds, after a second to warm up.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            route: None,
            callers: 64,
            rate: None,
            arrival: Spacing::Constant,
            burst: None,
            connections: None,
            preset: Preset::default(),
            threads: 1,
            duration: None,
            warmup: Duration::from_secs(1),
            interval: Duration::from_secs(1),
            calls: None,
            size: Mix::one(64),
            payload: None,
            payload_lines: false,
            priority: Mix::one(3),
            timeout: Mix::one(Duration::from_secs(5)),
            seed: 1,
            server_pid: None,
            workers: Vec::new(),
            bounds: Bounds::default(),
        }
    }
}
