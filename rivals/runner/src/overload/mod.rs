//! The overload experiment: servers of known capacity are offered up to ten times that, and then
//! half of it.

mod cases;
mod cost;
mod measured;
mod page;
mod plot;
mod results;
mod servers;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use cases::{CASES, Case, PRIORITIES, System};
use results::{Cell, Results, Sample};
use servers::{Offer, Programs, Server};

use crate::Result;
use crate::build;
use crate::process::Scratch;

/// Of the capacity, with the processors shared: far below what is aimed for, and far above what a
/// server has that works on what nobody waits for.
const GOODPUT_QUICK: f64 = 0.80;
/// Of the most important calls, likewise; the aim is none.
const REFUSED_QUICK: f64 = 0.005;
/// Offers servers more than they can do, and writes docs/overload.md.
#[derive(Debug, Args)]
pub(crate) struct Overload {
    /// Postroad alone, at 0.5, 2 and 4 times its capacity, in one round; fails if the most
    /// important calls are refused or the goodput falls below four fifths. Writes nothing.
    #[arg(long)]
    quick: bool,
    /// Passes over everything.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// How long each part lasts, seconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    capacity: f64,
    cell: f64,
    recovery: [f64; 2],
}

struct Experiment {
    programs: Programs,
    times: Times,
    results: Results,
}

impl Overload {
    /// Whether everything was measured, and what `--quick` demands was found.
    pub(crate) fn run(&self) -> Result<bool> {
        let root = build::home().join("..");
        let mut experiment = Experiment {
            programs: programs(&root, self.quick)?,
            times: Times {
                capacity: 1.0,
                cell: if self.quick { 2.0 } else { self.seconds },
                recovery: if self.quick { [1.5, 3.0] } else { [2.0, 3.0] },
            },
            results: Results::default(),
        };
        if self.quick {
            for case in CASES.iter().filter(|case| case.load_max >= 4.0) {
                experiment.measure(System::Postroad, case, &[0.5, 2.0, 4.0])?;
            }
            return Ok(is_good(&experiment.results));
        }
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            for case in &CASES {
                let loads: Vec<f64> = case.loads().collect();
                for system in System::ALL {
                    experiment.measure(system, case, &loads)?;
                }
            }
            let costs = cost::measure(&experiment.programs)?;
            eprintln!("{costs:?}");
            experiment.results.costs.push(costs);
        }
        page::write(&root, &experiment.results, self.rounds)?;
        Ok(true)
    }
}

/// Builds what is measured.
fn programs(root: &Path, quick: bool) -> Result<Programs> {
    cargo_build(root, "postroad-cli")?;
    let home = root.join("rivals");
    if !quick {
        cargo_build(&home, "peer-overload")?;
    }
    Ok(Programs {
        postroad: root.join("target/release/postroad"),
        tonic: home.join("target/release/peer-overload"),
        scratch: Scratch::make()?,
    })
}

fn cargo_build(folder: &Path, package: &str) -> Result<()> {
    eprintln!("building {package}");
    let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--quiet",
            "--locked",
            "--package",
            package,
        ])
        .current_dir(folder)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{package} was not built: {status}").into()),
    }
}

impl Experiment {
    /// One system at all loads, each with a server of its own, and then its recovery.
    fn measure(&mut self, system: System, case: &'static Case, loads: &[f64]) -> Result<()> {
        let capacity = self.capacity(system, case)?;
        let mut unloaded = None;
        for load in loads {
            let mut server = self.programs.serve(system, case, true)?;
            let offer = Offer::Open(vec![(capacity * load, self.times.cell)]);
            let cell = Cell::at(case.name, system, *load);
            let measured = match self.programs.load(&mut server, case, &offer) {
                Ok(measured) => measured,
                // Its generator may not have kept up. What is not measured is a dash in the table.
                Err(error) => {
                    eprintln!("{cell}  not measured: {error}");
                    continue;
                }
            };
            let unloaded = *unloaded.get_or_insert(measured.share(PRIORITIES[0].0).p99_ms);
            let sample = Sample::of(&measured, capacity, unloaded);
            eprintln!("{cell}  {sample}");
            self.results.add(cell, sample);
        }
        let mut server = self.programs.serve(system, case, true)?;
        let top = *loads.last().unwrap_or(&1.0);
        let recovered = self
            .recovery(&mut server, case, capacity, top)
            .unwrap_or_default();
        let name = system.name();
        eprintln!(
            "{} {name} after {top}x: normal after {recovered:?} s",
            case.name
        );
        self.results.recovered(case.name, system, recovered);
        Ok(())
    }

    /// Calls a second of callers that keep all handlers busy.
    fn capacity(&self, system: System, case: &Case) -> Result<f64> {
        let mut server = self.programs.serve(system, case, false)?;
        let offer = Offer::Closed(case.callers(), self.times.capacity);
        let measured = self.programs.load(&mut server, case, &offer)?;
        let answered: u64 = measured
            .priorities
            .values()
            .map(|share| share.answered)
            .sum();
        match answered {
            0 => Err(format!("{}: no answer of {}", case.name, system.name()).into()),
            _ => Ok(answered as f64 / measured.seconds),
        }
    }

    /// Seconds after the end of an overload until calls are answered as at half of the capacity
    /// again.
    fn recovery(
        &self,
        server: &mut Server,
        case: &'static Case,
        capacity: f64,
        top: f64,
    ) -> Result<Option<f64>> {
        let [over, under] = self.times.recovery;
        let steps = vec![(capacity * top, over), (capacity * 0.5, under)];
        let measured = self.programs.load(server, case, &Offer::Open(steps))?;
        // The end of the run has been normal if it ever was: what that is, is said by the second
        // half of the time after the overload.
        let usual = measured.usual_p99(over + under / 2.0);
        Ok(measured.normal_after(over, usual * 2.0 + 1.0))
    }
}

/// What `--quick` demands.
fn is_good(results: &Results) -> bool {
    let mut is_good = true;
    for (cell, samples) in results.cells() {
        for sample in samples.iter().filter(|_| cell.load() >= 2.0) {
            if sample.goodput < GOODPUT_QUICK {
                eprintln!("{cell}: goodput below {GOODPUT_QUICK} of the capacity: {sample}");
                is_good = false;
            }
            if sample.important_refused > REFUSED_QUICK {
                eprintln!("{cell}: of the most important were refused: {sample}");
                is_good = false;
            }
        }
    }
    is_good
}
