//! Processor time and memory of this process and of others.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::Result;

/// Processor time of this process.
pub(crate) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Processor time of other processes: the sum over their threads, in nanoseconds each, which
/// `/proc/PID/stat` would round to 10 ms.
pub(crate) fn cpu_of(processes: &[u32]) -> Result<Duration> {
    let mut nanos = 0;
    for process in processes {
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            // A thread may have ended since the folder was read.
            if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
                nanos += text.split(' ').next().unwrap_or("0").parse::<u64>()?;
            }
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory of other processes, in bytes.
pub(crate) fn memory_of(processes: &[u32]) -> Result<u64> {
    let mut bytes = 0;
    for process in processes {
        let text = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        bytes += kib.unwrap_or("0").parse::<u64>()? * 1024;
    }
    Ok(bytes)
}

/// Lets this process have as many open files as the system allows it.
pub(crate) fn raise_open_files() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
