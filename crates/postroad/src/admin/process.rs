//! What every exporter says of its process, by the names that dashboards expect. Linux tells it;
//! elsewhere there is nothing.

use std::fs;

use super::metrics::{MetricSource, Metrics};

/// Processor time, memory, threads and open files of this process, as `process_...`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessMetrics;

impl MetricSource for ProcessMetrics {
    fn collect(&self, metrics: &mut Metrics) {
        // Without a free descriptor nothing can be read, and then nothing is said.
        if let Some(stat) = Stat::read() {
            stat.collect(metrics);
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // The folder that is being read is open too.
            let open = open.count().saturating_sub(1);
            metrics
                .gauge("process_open_fds", "Open file descriptors.")
                .add(&[], open);
        }
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        metrics
            .gauge("process_max_fds", "File descriptors that may be open.")
            .add(&[], files.current.map_or(f64::INFINITY, |most| most as f64));
    }
}

/// The fields of `/proc/self/stat` that are shown, in the kernel's units.
struct Stat {
    processor_ticks: u64,
    threads: u64,
    /// Since the system was started.
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name, in which anything may stand.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // As proc(5) numbers them, from 1.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            processor_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }

    fn collect(&self, metrics: &mut Metrics) {
        let seconds = |ticks: u64| ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        metrics
            .counter("process_cpu_seconds_total", "Processor time, seconds.")
            .add(&[], seconds(self.processor_ticks));
        metrics
            .gauge("process_threads", "Threads.")
            .add(&[], self.threads);
        metrics
            .gauge("process_virtual_memory_bytes", "Virtual memory, bytes.")
            .add(&[], self.virtual_bytes);
        let resident = self.resident_pages * rustix::param::page_size() as u64;
        metrics
            .gauge("process_resident_memory_bytes", "Resident memory, bytes.")
            .add(&[], resident);
        if let Some(boot) = boot_time() {
            let help = "When the process was started, seconds since 1970.";
            metrics
                .gauge("process_start_time_seconds", help)
                .add(&[], boot as f64 + seconds(self.start_ticks));
        }
    }
}

/// When the system was started, seconds since 1970.
fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let name = "7 (a) b) c) S 1 7 7 0 -1 4194560 900 0 0 0 30 12 0 0 20 0 3 0 5000 8192 2";
        let stat = Stat::parse(name).unwrap();
        assert_eq!((stat.processor_ticks, stat.threads), (42, 3));
        assert_eq!((stat.start_ticks, stat.virtual_bytes), (5000, 8192));
        assert_eq!(stat.resident_pages, 2);
        assert!(Stat::parse("7 (short) S 1").is_none());
    }
}
