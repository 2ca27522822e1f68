//! `postroad bench`: load, and honest numbers about it.

mod codec;
mod compare;
#[cfg(test)]
mod example;
mod files;
mod measure;
mod page;
#[allow(dead_code, reason = "the engine does not fill it yet")]
pub(crate) mod report;
mod statistics;
mod table;
mod units;

use crate::terminal::{say, tell};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use postroad::{Bytes, CallError, Client, ClientConfig, ConnectionState, Endpoint};
use tokio::task::LocalSet;

use crate::args::{self, BenchTool, Output};
use crate::commands::runtime;
use crate::exit::{self, Failed};
use crate::signals::Signals;
use measure::{Measured, Recorder};

/// Calls that an open loop has in flight at most; what is due beyond them counts as not sent.
const IN_FLIGHT_MAX: usize = 50_000;

pub(crate) fn run(bench: &args::Bench) -> Result<ExitCode, Failed> {
    match &bench.tool {
        Some(BenchTool::Codec(codec)) => return codec::run(codec),
        Some(BenchTool::Compare(compare)) => return compare::run(compare),
        Some(BenchTool::Report(report)) => return files::convert(report),
        None => {}
    }
    let url = bench.url.as_deref().unwrap_or_default();
    let endpoint: Endpoint = url.parse()?;
    let runtime = runtime()?;
    let local = LocalSet::new();
    let (measured, interrupted) = local.block_on(&runtime, load(bench, endpoint))?;
    match bench.output {
        Output::Text => table::text(bench, &measured),
        Output::Json => say(table::json(bench, &measured)),
    }
    if let Some(code) = interrupted {
        return Ok(code);
    }
    let p99 = Duration::from_nanos(measured.latency.value_at_quantile(0.99));
    let too_slow = bench.max_p99.filter(|max| p99 > *max);
    let too_many = bench.max_errors.filter(|max| measured.failed() > *max);
    if let Some(max) = too_slow {
        return Err(Failed::new(
            exit::THRESHOLD,
            format!("p99 {p99:?} is over {max:?}"),
        ));
    }
    if let Some(max) = too_many {
        let text = format!("{} calls failed, over {max}", measured.failed());
        return Err(Failed::new(exit::THRESHOLD, text));
    }
    if measured.latency.is_empty() {
        return Err(Failed::new(exit::FAILED, "no call was answered"));
    }
    Ok(ExitCode::SUCCESS)
}

/// What every caller needs.
struct Load {
    clients: Vec<Client>,
    route: String,
    payload: Bytes,
    priority: u8,
    timeout: Duration,
    recorder: Recorder,
}

impl Load {
    async fn call(&self, number: usize) -> Result<Bytes, CallError> {
        let client = &self.clients[number % self.clients.len()];
        let request = client
            .request(&self.route)
            .priority(self.priority)
            .timeout(self.timeout);
        request.call_raw(self.payload.clone()).await
    }
}

async fn load(
    bench: &args::Bench,
    endpoint: Endpoint,
) -> Result<(Measured, Option<ExitCode>), Failed> {
    let mut signals = Signals::listen()?;
    let mut config = ClientConfig {
        timeout: bench.timeout,
        ..ClientConfig::default()
    };
    // As many as are asked for: the server says what it takes.
    config.limits.max_calls = 65_536;
    config.max_pending = IN_FLIGHT_MAX;
    let mut clients = Vec::new();
    for _ in 0..bench.connections {
        clients.push(Client::connect_with(endpoint.clone(), config.clone()).await?);
    }
    let start = Instant::now() + bench.warmup;
    let load = Rc::new(Load {
        clients,
        route: bench.route.clone(),
        payload: Bytes::from("x".repeat(bench.size as usize)),
        priority: bench.priority,
        timeout: bench.timeout,
        recorder: Recorder::new(start, start + bench.duration),
    });
    let progress = tokio::task::spawn_local(show_progress(Rc::clone(&load)));
    let work = async {
        match bench.rate {
            None => closed_loop(&load, bench.callers as usize).await,
            Some(rate) => open_loop(&load, rate).await,
        }
    };
    let interrupted = tokio::select! {
        () = work => None,
        code = signals.next() => Some(code),
    };
    progress.abort();
    let is_lost = |client: &&Client| *client.state().borrow() != ConnectionState::Connected;
    let lost = load.clients.iter().filter(is_lost).count();
    if lost > 0 {
        tell(format_args!(
            "warning: {lost} connections were lost and have not come back"
        ));
    }
    Ok((load.recorder.take(), interrupted))
}

/// Callers that wait for their answers: what a server can do, but not how it feels when it stalls.
async fn closed_loop(load: &Rc<Load>, callers: usize) {
    let callers = (0..callers).map(|number| {
        let load = Rc::clone(load);
        tokio::task::spawn_local(async move {
            while Instant::now() < load.recorder.end {
                let due = Instant::now();
                let result = load.call(number).await;
                load.recorder.record(due, &result);
                if matches!(
                    result,
                    Err(CallError::NotConnected { .. } | CallError::Busy(_))
                ) {
                    // Nothing was waited for: without a pause the loop would only count its own
                    // failures.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    for caller in callers {
        let _ = caller.await;
    }
}

/// Calls at fixed moments: a call that the server makes late is late from when it was due.
async fn open_loop(load: &Rc<Load>, rate: u32) {
    let gap = Duration::from_secs(1) / rate.max(1);
    let begin = Instant::now();
    let in_flight = Rc::new(std::cell::Cell::new(0_usize));
    let mut number = 0_u32;
    loop {
        let due = begin + gap.saturating_mul(number);
        if due >= load.recorder.end {
            break;
        }
        let now = Instant::now();
        if due > now {
            tokio::time::sleep_until(due.into()).await;
        } else if number.is_multiple_of(64) {
            // Behind: answers still have to be read.
            tokio::task::yield_now().await;
        }
        load.recorder.late(due);
        number += 1;
        if in_flight.get() >= IN_FLIGHT_MAX {
            load.recorder.not_sent(due);
            continue;
        }
        in_flight.set(in_flight.get() + 1);
        let (load, in_flight) = (Rc::clone(load), Rc::clone(&in_flight));
        tokio::task::spawn_local(async move {
            let result = load.call(number as usize).await;
            load.recorder.record(due, &result);
            in_flight.set(in_flight.get() - 1);
        });
    }
    let patience = Instant::now() + load.timeout;
    while in_flight.get() > 0 && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Rate and percentiles so far, four times a second, where somebody watches.
async fn show_progress(load: Rc<Load>) {
    let bar = ProgressBar::new_spinner();
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        bar.set_message(load.recorder.so_far());
        bar.tick();
    }
}
