//! What is measured: the rows, and the cells that each of them has a number in.

/// What answers the calls, or takes the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// The rival's own program in another role.
    Own,
    /// The same, on a Unix socket.
    Unix,
    /// A program from a package of the distribution, and nothing else.
    Alone(Package),
    /// A broker, and the rival's own program behind it.
    Broker(Package),
    /// Nothing: everything is in one process.
    None,
}

/// A server that is not built here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Package {
    Nats,
    Redis,
    Mosquitto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Floor,
    Rival,
    Postroad,
}

/// One line of the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The package in `peers`, or `go`.
    pub(crate) peer: &'static str,
    pub(crate) mode: &'static str,
    /// `ct` or `mt`.
    pub(crate) runtime: &'static str,
    pub(crate) server: Server,
    /// The cells, by name.
    pub(crate) cells: &'static [&'static str],
}

/// What is done in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Calls,
    OneWay,
    Decode,
}

/// A workload: one table of the results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) work: Work,
    /// Whether both ends are kept on cpu 0.
    pub(crate) pinned: bool,
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
    pub(crate) size: usize,
    /// The column that rows are compared by.
    pub(crate) by: Metric,
}

impl Cell {
    /// `S` of `S`, `T` of `T 1x64`.
    pub(crate) fn group(&self) -> &'static str {
        self.name.split(' ').next().unwrap_or(self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Calls, messages or frames a second.
    Rate,
    /// Median latency, nanoseconds.
    P50,
    /// 99th percentile of latency, nanoseconds.
    P99,
    /// Processor time of both ends for a call, nanoseconds.
    Cpu,
    /// Resident memory of the server for a connection, bytes.
    Memory,
    /// Time for a frame, nanoseconds.
    Frame,
}

impl Metric {
    /// The head of its column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Rate => "a second",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Cpu => "cpu a call",
            Self::Memory => "memory a connection",
            Self::Frame => "a frame",
        }
    }

    /// The better of two numbers.
    pub(crate) fn better(self, one: f64, other: f64) -> f64 {
        if self == Self::Rate {
            one.max(other)
        } else {
            one.min(other)
        }
    }
}

const fn cell(name: &'static str, title: &'static str, work: Work, by: Metric) -> Cell {
    let (connections, in_flight, size) = (1, 1, 64);
    Cell {
        name,
        title,
        work,
        pinned: false,
        connections,
        in_flight,
        size,
        by,
    }
}

pub(crate) const CELLS: &[Cell] = &[
    Cell {
        pinned: true,
        ..cell(
            "S",
            "one call at a time, both ends on one cpu",
            Work::Calls,
            Metric::P50,
        )
    },
    cell(
        "A",
        "one call at a time, unpinned",
        Work::Calls,
        Metric::P50,
    ),
    Cell {
        pinned: true,
        in_flight: 64,
        ..cell(
            "T 1x64",
            "64 calls in flight, both ends on one cpu",
            Work::Calls,
            Metric::Rate,
        )
    },
    Cell {
        pinned: true,
        in_flight: 1024,
        ..cell(
            "T 1x1024",
            "1,024 in flight, both ends on one cpu",
            Work::Calls,
            Metric::Rate,
        )
    },
    Cell {
        in_flight: 64,
        ..cell(
            "B 1x64",
            "64 calls in flight, unpinned",
            Work::Calls,
            Metric::Rate,
        )
    },
    Cell {
        connections: 8,
        in_flight: 1024,
        ..cell(
            "B 8x128",
            "8 connections with 128 in flight, unpinned",
            Work::Calls,
            Metric::Rate,
        )
    },
    cell(
        "C 64 B",
        "one-way messages of 64 B, unpinned",
        Work::OneWay,
        Metric::Rate,
    ),
    Cell {
        size: 1024,
        ..cell(
            "C 1 KiB",
            "one-way messages of 1 KiB, unpinned",
            Work::OneWay,
            Metric::Rate,
        )
    },
    Cell {
        in_flight: 16,
        size: 64 * 1024,
        ..cell(
            "W",
            "echo of 64 KiB, 16 in flight, unpinned",
            Work::Calls,
            Metric::Rate,
        )
    },
    Cell {
        connections: 10_000,
        in_flight: 1000,
        ..cell(
            "D",
            "10,000 connections, 1,000 of them active",
            Work::Calls,
            Metric::Rate,
        )
    },
    cell(
        "G",
        "decoding a frame of 64 B in process",
        Work::Decode,
        Metric::Frame,
    ),
];

const CALLS_W: &[&str] = &["S", "A", "T 1x64", "T 1x1024", "B 1x64", "B 8x128", "W"];
const CALLS_WD: &[&str] = &[
    "S", "A", "T 1x64", "T 1x1024", "B 1x64", "B 8x128", "W", "D",
];
const CALLS_CW: &[&str] = &[
    "S", "A", "T 1x64", "T 1x1024", "B 1x64", "B 8x128", "C 64 B", "C 1 KiB", "W",
];
const ALL: &[&str] = &[
    "S", "A", "T 1x64", "T 1x1024", "B 1x64", "B 8x128", "C 64 B", "C 1 KiB", "W", "D",
];
const PIPELINED: &[&str] = &["T 1x64", "T 1x1024", "B 1x64", "B 8x128"];
const ONE_WAY: &[&str] = &["C 64 B", "C 1 KiB"];

const fn floor(name: &'static str, mode: &'static str, cells: &'static [&'static str]) -> Row {
    let (kind, peer, runtime, server) = (Kind::Floor, "floor", "ct", Server::Own);
    Row {
        name,
        kind,
        peer,
        mode,
        runtime,
        server,
        cells,
    }
}

const fn rival(
    name: &'static str,
    peer: &'static str,
    runtime: &'static str,
    server: Server,
    cells: &'static [&'static str],
) -> Row {
    Row {
        name,
        kind: Kind::Rival,
        peer,
        mode: "",
        runtime,
        server,
        cells,
    }
}

const fn postroad(
    name: &'static str,
    mode: &'static str,
    runtime: &'static str,
    cells: &'static [&'static str],
) -> Row {
    let (kind, peer, server) = (Kind::Postroad, "postroad", Server::Own);
    Row {
        name,
        kind,
        peer,
        mode,
        runtime,
        server,
        cells,
    }
}

const fn decoder(name: &'static str, kind: Kind, mode: &'static str) -> Row {
    let (peer, runtime, server) = ("decode", "ct", Server::None);
    Row {
        name,
        kind,
        peer,
        mode,
        runtime,
        server,
        cells: &["G"],
    }
}

pub(crate) const ROWS: &[Row] = &[
    floor("raw blocking", "blocking", CALLS_CW),
    floor("raw spin", "spin", &["A"]),
    Row {
        server: Server::Unix,
        ..floor("raw unix", "blocking", &["S", "A"])
    },
    floor("tokio echo ct", "tokio", &["S", "A", "W"]),
    Row {
        runtime: "mt",
        ..floor("tokio echo mt", "tokio", &["W", "D"])
    },
    floor("tokio feed", "codec", ONE_WAY),
    rival(
        "redis ping",
        "redis",
        "ct",
        Server::Alone(Package::Redis),
        CALLS_W,
    ),
    Row {
        mode: "pipe",
        ..rival(
            "redis pipe",
            "redis",
            "ct",
            Server::Alone(Package::Redis),
            PIPELINED,
        )
    },
    rival("tarpc ct", "tarpc", "ct", Server::Own, CALLS_W),
    rival("tarpc mt", "tarpc", "mt", Server::Own, CALLS_W),
    rival("tonic ct", "tonic", "ct", Server::Own, CALLS_W),
    rival("tonic mt", "tonic", "mt", Server::Own, CALLS_WD),
    rival("volo-thrift mt", "volo", "mt", Server::Own, CALLS_W),
    rival("nats", "nats", "ct", Server::Broker(Package::Nats), ALL),
    rival("zenoh", "zenoh", "mt", Server::Own, CALLS_CW),
    rival(
        "mosquitto",
        "mosquitto",
        "ct",
        Server::Alone(Package::Mosquitto),
        ONE_WAY,
    ),
    rival(
        "mosquitto ping",
        "mosquitto",
        "ct",
        Server::Alone(Package::Mosquitto),
        &["D"],
    ),
    rival(
        "go plain",
        "go",
        "",
        Server::Own,
        &["S", "A", "T 1x64", "T 1x1024", "C 64 B"],
    ),
    Row {
        mode: "batched",
        ..rival("go batched", "go", "", Server::Own, ONE_WAY)
    },
    postroad("postroad ct", "", "ct", ALL),
    postroad("postroad mt", "", "mt", ALL),
    postroad("postroad pipeline ct", "pipeline", "ct", PIPELINED),
    postroad("postroad pipeline mt", "pipeline", "mt", PIPELINED),
    Row {
        server: Server::Unix,
        ..postroad("postroad unix", "", "ct", &["S", "A"])
    },
    postroad("postroad blocking", "blocking", "ct", &["S", "A"]),
    postroad(
        "postroad low-latency",
        "low-latency",
        "ct",
        &["A", "B 1x64", "B 8x128"],
    ),
    postroad(
        "postroad blocking low-latency",
        "blocking-low-latency",
        "ct",
        &["A"],
    ),
    postroad("postroad reactors", "reactors", "mt", &["B 8x128", "D"]),
    postroad(
        "postroad throughput",
        "throughput",
        "ct",
        &["W", "C 64 B", "C 1 KiB"],
    ),
    postroad("postroad batches", "batches", "ct", ONE_WAY),
    decoder("LengthDelimitedCodec", Kind::Rival, "codec"),
    decoder("decode borrowed", Kind::Postroad, "borrowed"),
    decoder("decode owned", Kind::Postroad, "owned"),
    decoder("decode owned, checksum", Kind::Postroad, "owned-sum"),
];

impl Row {
    /// Connections in a cell: who has one call in flight on a connection needs more of them.
    pub(crate) fn connections(&self, cell: &Cell) -> usize {
        let has_calls_one_by_one =
            self.mode == "tokio" || (self.kind == Kind::Floor && cell.name == "W");
        if has_calls_one_by_one {
            cell.connections.max(cell.in_flight)
        } else {
            cell.connections
        }
    }
}

impl Package {
    fn program(self) -> &'static str {
        match self {
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
            Self::Mosquitto => "mosquitto",
        }
    }

    pub(crate) fn installed(self) -> Option<std::path::PathBuf> {
        crate::process::installed(self.program())
    }

    /// What to say when it is not there. Debian's packages are called like the programs.
    pub(crate) fn missing(self) -> String {
        let program = self.program();
        format!("{program} is not installed; apt install {program}")
    }
}
