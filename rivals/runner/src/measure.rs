//! One cell of one row: servers started fresh, load, one result, everything ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::process::{Running, Scratch, free_address};
use crate::rows::{Cell, Metric, Package, Row, Server, Work};

/// The result line of a client or receiver; `harness::Report` says what the fields mean.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    calls: u64,
    seconds: f64,
    p50: u64,
    p99: u64,
    max: u64,
    own_cpu: f64,
    other_cpu: f64,
    connection_bytes: f64,
}

impl Report {
    /// A number, if the load has one of this kind.
    pub(crate) fn get(&self, metric: Metric) -> Option<f64> {
        let calls = self.calls as f64;
        let value = match metric {
            Metric::Rate => calls / self.seconds,
            Metric::P50 => self.p50 as f64,
            Metric::P99 => self.p99 as f64,
            Metric::Cpu => (self.own_cpu + self.other_cpu) * 1e9 / calls,
            Metric::Memory => self.connection_bytes,
            Metric::Frame => self.seconds * 1e9 / calls,
        };
        (value.is_finite() && value > 0.0).then_some(value)
    }
}

/// Where programs and data are, and how long a cell is measured.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The folder of built programs.
    pub(crate) built: PathBuf,
    pub(crate) scratch: Scratch,
    pub(crate) seconds: f64,
}

impl Bench {
    pub(crate) fn program(&self, row: &Row) -> PathBuf {
        self.built.join(match row.peer {
            "go" => "rival-go".to_owned(),
            peer => format!("peer-{peer}"),
        })
    }

    pub(crate) fn measure(&self, row: &Row, cell: &Cell) -> Result<Report> {
        let at = match row.server {
            Server::Unix => self.scratch.0.join("socket").to_string_lossy().into_owned(),
            _ => free_address()?,
        };
        if row.server == Server::Unix && Path::new(&at).exists() {
            std::fs::remove_file(&at)?;
        }
        let mut servers = Vec::new();
        if let Server::Alone(package) | Server::Broker(package) = row.server {
            let mut server = self.package(package, &at, cell.pinned)?;
            server.accepts_at(&at)?;
            servers.push(server);
        }
        // A cell of 10,000 connections takes some seconds before it is measured.
        let limit = Duration::from_secs_f64(self.seconds + 20.0 + cell.connections as f64 / 200.0);
        if cell.work == Work::OneWay {
            let mut receiver = self.role("receiver", row, cell, &at, &[])?;
            if row.server == Server::Own {
                receiver.accepts_at(&at)?;
            }
            servers.push(self.role("sender", row, cell, &at, &[])?);
            return receiver.result(&mut servers, limit);
        }
        if matches!(row.server, Server::Own | Server::Unix | Server::Broker(_)) {
            let mut server = self.role("server", row, cell, &at, &[])?;
            server.accepts_at(&at)?;
            servers.push(server);
        }
        let watched: Vec<u32> = servers.iter().map(Running::id).collect();
        self.role("client", row, cell, &at, &watched)?
            .result(&mut servers, limit)
    }

    fn role(
        &self,
        role: &str,
        row: &Row,
        cell: &Cell,
        at: &str,
        watched: &[u32],
    ) -> Result<Running> {
        let mut arguments = vec![role.to_owned()];
        let mut option = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
        option("at", at.to_owned());
        option("mode", row.mode.to_owned());
        option("runtime", row.runtime.to_owned());
        option("size", cell.size.to_string());
        option("in-flight", cell.in_flight.to_string());
        option("connections", row.connections(cell).to_string());
        option("seconds", self.seconds.to_string());
        if !watched.is_empty() {
            let watched: Vec<String> = watched.iter().map(u32::to_string).collect();
            option("watch", watched.join(","));
        }
        Running::start(&self.program(row), &arguments, cell.pinned)
    }

    /// A server from the distribution, without anything that a comparison does not need: no disk,
    /// no log, no limit below the workload.
    fn package(&self, package: Package, at: &str, pinned: bool) -> Result<Running> {
        let (_, port) = at.rsplit_once(':').ok_or("an address has a port")?;
        let folder = self.scratch.0.to_string_lossy().into_owned();
        let arguments = match package {
            Package::Nats => format!("--addr 127.0.0.1 --port {port} --log {folder}/nats.log"),
            Package::Redis => format!(
                "--bind 127.0.0.1 --port {port} --dir {folder} --appendonly no \
                 --maxclients 11000 --logfile {folder}/redis.log"
            ),
            Package::Mosquitto => {
                let settings = format!(
                    "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
                     max_inflight_messages 0\nmax_queued_messages 0\nlog_dest none\n"
                );
                std::fs::write(self.scratch.0.join("mosquitto.conf"), settings)?;
                format!("-c {folder}/mosquitto.conf")
            }
        };
        let mut arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        if package == Package::Redis {
            arguments.extend(["--save".to_owned(), String::new()]);
        }
        let program = package.installed().ok_or_else(|| package.missing())?;
        Running::start(&program, &arguments, pinned)
    }
}
