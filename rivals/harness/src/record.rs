//! What is recorded of each call, and when it counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{Arguments, Result, clocks};

/// Longest latency that is told apart, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;
/// Latencies that a caller keeps before it takes the histogram's lock.
const KEPT: usize = 256;

/// The result of one load, printed as one line of JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Calls answered, or messages received, within the measured time.
    pub calls: u64,
    /// The measured time.
    pub seconds: f64,
    /// Median latency, in nanoseconds.
    pub p50: u64,
    /// 99th percentile of latency, in nanoseconds.
    pub p99: u64,
    /// Greatest latency, in nanoseconds.
    pub max: u64,
    /// Processor time of this process within the measured time, in seconds.
    pub own_cpu: f64,
    /// The same of the processes that are watched.
    pub other_cpu: f64,
    /// Resident memory that the watched processes gained per connection, in bytes.
    pub connection_bytes: f64,
}

/// Records the calls that are answered within the measured time.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    end: Instant,
    /// The processor time was read: only now may callers stop, and threads and connections end.
    over: AtomicBool,
    latency: Mutex<Histogram<u64>>,
}

impl Recorder {
    pub(crate) fn new(arguments: &Arguments) -> Result<Arc<Self>> {
        let start = Instant::now() + Duration::from_secs_f64(arguments.warm_up);
        Ok(Arc::new(Self {
            start,
            end: start + Duration::from_secs_f64(arguments.seconds),
            over: AtomicBool::new(false),
            latency: Mutex::new(Histogram::new_with_max(LONGEST, 3)?),
        }))
    }

    /// A caller's own part of the recording.
    #[must_use]
    pub fn lap(self: &Arc<Self>) -> Lap {
        Lap {
            recorder: Arc::clone(self),
            last: Instant::now(),
            kept: Vec::with_capacity(KEPT),
        }
    }

    pub(crate) fn report(&self, cpu: (Duration, Duration)) -> Report {
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        Report {
            calls: latency.len(),
            seconds: (self.end - self.start).as_secs_f64(),
            p50: latency.value_at_quantile(0.5),
            p99: latency.value_at_quantile(0.99),
            max: latency.max(),
            own_cpu: cpu.0.as_secs_f64(),
            other_cpu: cpu.1.as_secs_f64(),
            connection_bytes: 0.0,
        }
    }

    /// Measures the processor time from start to end, of this process and of those watched. On a
    /// thread of its own: the load may not let go of its own.
    pub(crate) fn watch(
        self: &Arc<Self>,
        watched: Vec<u32>,
    ) -> JoinHandle<Result<(Duration, Duration)>> {
        let recorder = Arc::clone(self);
        thread::spawn(move || {
            let at = |moment: Instant| {
                thread::sleep(moment.saturating_duration_since(Instant::now()));
                Ok::<_, crate::Error>((clocks::own_cpu(), clocks::cpu_of(&watched)?))
            };
            let times = at(recorder.start).and_then(|before| Ok((before, at(recorder.end)?)));
            recorder.over.store(true, Ordering::Relaxed);
            let (before, after) = times?;
            Ok((after.0 - before.0, after.1.saturating_sub(before.1)))
        })
    }
}

/// A caller's stopwatch. One reading of the clock ends a call and begins the next.
#[derive(Debug)]
pub struct Lap {
    recorder: Arc<Recorder>,
    last: Instant,
    kept: Vec<u64>,
}

impl Lap {
    /// A call was answered, and the next begins now, if this says so.
    pub fn tick(&mut self) -> bool {
        let now = Instant::now();
        let since = std::mem::replace(&mut self.last, now);
        self.answered(since, now, 1)
    }

    /// `calls` that were sent at `since` were answered. Whether more are to be sent.
    pub fn answered(&mut self, since: Instant, now: Instant, calls: usize) -> bool {
        if (self.recorder.start..self.recorder.end).contains(&now) {
            let nanos = (now - since).as_nanos() as u64;
            self.kept.extend(std::iter::repeat_n(nanos, calls));
            if self.kept.len() >= KEPT {
                self.flush();
            }
        }
        !self.recorder.over.load(Ordering::Relaxed)
    }

    fn flush(&mut self) {
        let mut latency = self
            .recorder
            .latency
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for nanos in self.kept.drain(..) {
            latency.saturating_record(nanos);
        }
    }
}

impl Drop for Lap {
    fn drop(&mut self) {
        self.flush();
    }
}
