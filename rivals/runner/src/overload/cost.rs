//! What a refusal costs the server, beside calls that it answers.

use serde_json::Value;

use super::cases::Work;
use super::servers::Programs;
use crate::Result;

/// How many callers there are, each with one call at a time.
const CALLERS: u32 = 64;
/// A limit of one and handlers that take longer than anybody may wait: while one is at work and the
/// next waits, everything else is refused. Nothing is known of how long they take until the first
/// has ended, which the warm-up is for.
const REFUSING: &str = "[[route]]\nname = \"practice/sleep\"\nconcurrency = 1\n";
const SLOW_MS: u64 = 1500;

/// Processor time of the server, microseconds a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    refused: f64,
    nothing: f64,
    spun: f64,
}

/// What is told of them.
type Told = (&'static str, fn(&Costs) -> f64);

impl Costs {
    pub(crate) const TOLD: [Told; 5] = [
        ("a call that is refused, us", |costs| costs.refused),
        (
            "a call whose handler does nothing (`practice/spin` of 0 us), us",
            |costs| costs.nothing,
        ),
        ("a call whose handler works for 20 us, us", |costs| {
            costs.spun
        }),
        ("refused to a handler that does nothing", |costs| {
            costs.refused / costs.nothing
        }),
        ("refused to a handler of 20 us", |costs| {
            costs.refused / costs.spun
        }),
    ];
}

pub(crate) fn measure(programs: &Programs) -> Result<Costs> {
    let served = |us| {
        let mut server = programs.serve_with("")?;
        let flags = format!("--callers {CALLERS} --warmup 300ms --duration 1s");
        micros(&programs.report(&mut server, Work::SpinUs(us), &flags)?)
    };
    let mut server = programs.serve_with(REFUSING)?;
    let flags = format!("--callers {CALLERS} --timeout 2s --warmup 2500ms --duration 1s");
    let report = programs.report(&mut server, Work::SleepMs(SLOW_MS), &flags)?;
    let refused = report["errors"]["SRV-E-429"].as_u64().unwrap_or(0);
    if refused < 1000 {
        return Err(format!("only {refused} calls were refused: {}", report["errors"]).into());
    }
    Ok(Costs {
        refused: micros(&report)?,
        nothing: served(0)?,
        spun: served(20)?,
    })
}

fn micros(report: &Value) -> Result<f64> {
    let server = &report["ends"]["server"];
    let nanos = server["cpu_per_call_ns"].as_f64();
    Ok(nanos.ok_or_else(|| format!("no processor time of the server: {server}"))? / 1e3)
}
