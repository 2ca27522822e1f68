//! The command line of every rival.

use std::future::Future;

use bytes::Bytes;
use clap::{Parser, ValueEnum};

use crate::Result;

/// What a rival's program is started for.
#[derive(Debug, Parser)]
pub enum Role {
    /// Answers every call with its payload.
    Server(Arguments),
    /// Calls, and prints what it measured.
    Client(Arguments),
    /// Takes one-way messages, and prints how many came.
    Receiver(Arguments),
    /// Sends one-way messages until it is ended.
    Sender(Arguments),
}

impl Role {
    pub(crate) fn parse() -> Self {
        Parser::parse()
    }

    /// Of a rival that has no such role.
    ///
    /// # Errors
    /// Always.
    pub fn absent(self) -> Result<()> {
        Err(format!("this rival has no such role: {self:?}").into())
    }
}

/// Tokio's two runtimes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// One thread.
    #[default]
    Ct,
    /// Two workers.
    Mt,
}

/// The settings of any role; each takes what it needs.
#[derive(Clone, Debug, Parser)]
pub struct Arguments {
    /// Where the server is: `HOST:PORT`, or the path of a Unix socket.
    #[arg(long)]
    pub at: String,
    /// A variant of the rival.
    #[arg(long, default_value = "")]
    pub mode: String,
    /// Calls in flight, over all connections.
    #[arg(long, default_value_t = 1)]
    pub in_flight: usize,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 64)]
    pub size: usize,
    /// The runtime.
    #[arg(long, value_enum, default_value_t)]
    pub runtime: Runtime,
    /// Seconds measured.
    #[arg(long, default_value_t = 0.8)]
    pub seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 0.3)]
    pub warm_up: f64,
    /// Processes of the other side, whose processor time and memory are measured too.
    #[arg(long, value_delimiter = ',')]
    pub watch: Vec<u32>,
}

impl Arguments {
    /// Runs a future on the chosen runtime until it ends.
    ///
    /// # Errors
    /// Those of the future.
    pub fn block_on<F: Future<Output = Result<()>>>(&self, future: F) -> Result<()> {
        let mut builder = match self.runtime {
            Runtime::Ct => tokio::runtime::Builder::new_current_thread(),
            Runtime::Mt => tokio::runtime::Builder::new_multi_thread(),
        };
        builder
            .worker_threads(2)
            .enable_all()
            .build()?
            .block_on(future)
    }

    /// A payload.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        Bytes::from(vec![b'x'; self.size])
    }
}
