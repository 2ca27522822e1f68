//! What a load costs both ends: processor time and memory of processes on this machine.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use postroad::Endpoint;

use crate::report::{End, Sample, Usage};

/// State of a socket that listens, in the kernel's tables.
const LISTENS: &str = "0A";
/// Flag of a Unix socket that listens.
const ACCEPTS: u64 = 0x1_0000;

/// A process that is looked at once an interval.
pub(crate) struct Watched {
    process: Result<u32, String>,
    readings: Vec<Reading>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    cpu_seconds: f64,
    memory_bytes: u64,
    voluntary: u64,
    involuntary: u64,
}

impl Watched {
    pub(crate) fn this_process() -> Self {
        Self::new(Ok(std::process::id()))
    }

    /// The server: as it was named, or the one that listens at the endpoint.
    pub(crate) fn server(pid: Option<u32>, endpoint: Option<&Endpoint>) -> Self {
        let several = "there may be several servers; name one by --server-pid";
        let found = || endpoint.map_or_else(|| Err(several.to_owned()), listener);
        Self::new(pid.map_or_else(found, Ok))
    }

    pub(crate) fn unknown(why: &str) -> Self {
        Self::new(Err(why.to_owned()))
    }

    fn new(process: Result<u32, String>) -> Self {
        let readings = Vec::new();
        Self { process, readings }
    }

    /// Looks at it now. One that has gone stays gone.
    pub(crate) fn look(&mut self) {
        let Ok(pid) = self.process else {
            return;
        };
        match read(pid) {
            Ok(reading) => self.readings.push(reading),
            Err(error) => self.process = Err(format!("process {pid} cannot be read: {error}")),
        }
    }

    /// What it did between looks `number` and `number + 1`.
    pub(crate) fn sample(&self, number: usize) -> Option<Sample> {
        let (from, to) = (self.readings.get(number)?, self.readings.get(number + 1)?);
        Some(Sample {
            cpu_seconds: (to.cpu_seconds - from.cpu_seconds).max(0.0),
            memory_bytes: to.memory_bytes,
        })
    }

    /// What it did from the first look to the last, over so many calls.
    pub(crate) fn end(&self, calls: u64) -> End {
        let pid = match &self.process {
            Ok(pid) => *pid,
            Err(why) => {
                let unknown = why.clone();
                return End::Unknown { unknown };
            }
        };
        let [first, .., last] = self.readings.as_slice() else {
            let unknown = "the run ended before it was looked at twice".to_owned();
            return End::Unknown { unknown };
        };
        let memory = self.readings.iter().map(|reading| reading.memory_bytes);
        let cpu_seconds = (last.cpu_seconds - first.cpu_seconds).max(0.0);
        End::Measured(Usage {
            pid,
            cpu_seconds,
            cpu_per_call_ns: (calls > 0).then(|| cpu_seconds * 1e9 / calls as f64),
            memory_peak_bytes: memory.clone().max().unwrap_or(0),
            memory_mean_bytes: memory.sum::<u64>() / self.readings.len() as u64,
            voluntary_switches: last.voluntary.saturating_sub(first.voluntary),
            involuntary_switches: last.involuntary.saturating_sub(first.involuntary),
        })
    }
}

fn read(pid: u32) -> Result<Reading, String> {
    let file = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    };
    let (ticks, pages) = (file("stat")?, file("statm")?);
    let strange = || "its files in /proc are not as expected".to_owned();
    let ticks = ticks_used(&ticks).ok_or_else(strange)? as f64;
    let mut reading = Reading {
        memory_bytes: resident_pages(&pages).ok_or_else(strange)?
            * rustix::param::page_size() as u64,
        ..Reading::default()
    };
    // Of the threads that there are now; a thread that ends between two looks takes its own along.
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?;
    let mut run_nanos = 0;
    for task in tasks.flatten().map(|task| task.path()) {
        let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
        let status = read("status");
        reading.voluntary += status_number(&status, "voluntary_ctxt_switches:");
        reading.involuntary += status_number(&status, "nonvoluntary_ctxt_switches:");
        run_nanos += first_number(&read("schedstat"));
    }
    // Ticks are of all threads that ever were, and rounded down to hundredths of a second; the
    // scheduler's nanoseconds are of the living.
    let seconds = ticks / rustix::param::clock_ticks_per_second() as f64;
    reading.cpu_seconds = match pid == std::process::id() {
        // Exact, and of those that have ended too.
        true => own_cpu_seconds(),
        false => seconds.max(run_nanos as f64 / 1e9),
    };
    Ok(reading)
}

fn own_cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// User and system time of all threads, also of those that have ended. The name before them is in
/// brackets and may hold anything.
fn ticks_used(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

fn status_number(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, first_number)
}

fn first_number(text: &str) -> u64 {
    let word = text.split_whitespace().next();
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The process that listens there.
fn listener(endpoint: &Endpoint) -> Result<u32, String> {
    let address = endpoint.address();
    let sockets = match endpoint.transport() {
        "tcp" | "tls" => tcp_sockets(address)?,
        "unix" => unix_sockets(address)?,
        other => return Err(format!("a server at {other}:// has no process of its own")),
    };
    if sockets.is_empty() {
        return Err(format!("no process of this machine listens at {address}"));
    }
    let owners = owners(&sockets);
    match owners.iter().copied().collect::<Vec<_>>().as_slice() {
        [only] => Ok(*only),
        [] => Err(format!(
            "whose process listens at {address} may not be seen; name it by --server-pid"
        )),
        several => Err(format!(
            "processes {several:?} listen at {address}; name one by --server-pid"
        )),
    }
}

/// Inodes of the sockets that listen on a port, if the address is one of this machine.
fn tcp_sockets(address: &str) -> Result<BTreeSet<u64>, String> {
    let resolved: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|error| format!("{address}: {error}"))?
        .collect();
    // Only an address of this machine can be bound.
    let is_here = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    let Some(local) = resolved.iter().find(|address| is_here(address.ip())) else {
        return Err(format!("{address} is on another machine"));
    };
    let mut tables = String::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        tables += &fs::read_to_string(table).unwrap_or_default();
    }
    Ok(tcp_listeners(&tables, local.port()))
}

fn tcp_listeners(table: &str, port: u16) -> BTreeSet<u64> {
    let port = format!(":{port:04X}");
    let sockets = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTENS;
        is_it.then(|| fields.get(9)?.parse().ok())?
    });
    sockets.collect()
}

fn unix_sockets(path: &str) -> Result<BTreeSet<u64>, String> {
    let table = fs::read_to_string("/proc/net/unix").map_err(|error| error.to_string())?;
    Ok(unix_listeners(&table, path))
}

/// The kernel keeps the name that a socket was bound by. Postroad binds `PATH.PID` and renames it,
/// so that a path always leads to a server.
fn unix_listeners(table: &str, path: &str) -> BTreeSet<u64> {
    let is_name = |name: &str| match name.strip_prefix(path) {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix('.')
            .is_some_and(|pid| pid.parse::<u32>().is_ok()),
        None => false,
    };
    let sockets = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let flags = u64::from_str_radix(fields.get(3)?, 16).ok()?;
        let is_it = flags & ACCEPTS != 0 && is_name(fields.get(7)?);
        is_it.then(|| fields.get(6)?.parse().ok())?
    });
    sockets.collect()
}

/// Processes that hold one of the sockets, as far as this user may see.
fn owners(sockets: &BTreeSet<u64>) -> BTreeSet<u32> {
    let names: BTreeSet<String> = sockets
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let holds = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        files.flatten().any(|file| {
            let target = fs::read_link(file.path()).unwrap_or_default();
            target.to_str().is_some_and(|name| names.contains(name))
        })
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| holds(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 100 1 2";
        assert_eq!(ticks_used(stat), Some(300));
        assert_eq!(ticks_used("7 (a) S 1"), None);
    }

    #[test]
    fn listeners_are_found_in_the_kernels_tables() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 0100007F:1CE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1\n\
            1: 0100007F:1CE8 0100007F:8888 01 00000000:00000000 00:00000000 00000000 0 0 4243 1\n\
            2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4244 1\n";
        assert_eq!(tcp_listeners(tcp, 7400), [4242].into());
        let unix = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000: 00000002 00000000 00010000 0001 01 77 /tmp/a.sock\n\
            0000: 00000003 00000000 00000000 0001 03 78 /tmp/a.sock\n\
            0000: 00000002 00000000 00010000 0001 01 79 /tmp/a.sock.4711\n\
            0000: 00000002 00000000 00010000 0001 01 80 /tmp/a.sock.old\n";
        assert_eq!(unix_listeners(unix, "/tmp/a.sock"), [77, 79].into());
    }

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = format!("tcp://{address}").parse().unwrap();
        assert_eq!(super::listener(&endpoint), Ok(std::process::id()));
        drop(listener);
        let error = super::listener(&endpoint).unwrap_err();
        assert!(error.contains("no process of this machine"), "{error}");
        let away = "tcp://192.0.2.1:7400".parse().unwrap();
        let error = super::listener(&away).unwrap_err();
        assert!(error.contains("on another machine"), "{error}");
    }
}
