//! One server at up to ten times its capacity, in virtual time: all policies of a server together,
//! under mixed priorities and deadlines. The seeds that failed are printed;
//! `POSTROAD_OVERLOAD_SEED=N` runs one alone and prints what has happened,
//! `POSTROAD_OVERLOAD_SEEDS=N` runs more of them.

mod world;

use crate::fleet::{failing, number};
use crate::policy::{MS, SECOND};
use world::World;

const SEEDS: u64 = 200;
const LOADS: [f64; 5] = [0.5, 1.0, 2.0, 4.0, 10.0];

/// What one load did to a server.
#[derive(Debug)]
struct Sums {
    load: f64,
    /// p99 of the most important tenth, as a multiple of that without load.
    p99: f64,
    refused: u64,
    /// Share of the capacity that went to what was answered in time, and to the least important.
    goodput: f64,
    least: f64,
    started_late: u64,
    p99_after: f64,
    /// Share of all that is refused when the load has fallen.
    refused_after: f64,
}

fn run(seed: u64, load: f64, is_on: bool) -> Sums {
    let (workers, service, length) = [
        (4, 20_000, SECOND / 4),
        (8, MS, 3 * SECOND),
        (32, 50 * MS, 40 * SECOND),
    ][seed as usize % 3];
    let settle = (2 * SECOND).min(length);
    let mut world = World::new(seed, workers, service, is_on);
    let before = world.run(0.5, length);
    world.run(load, settle);
    let mut during = world.run(load, length);
    world.run(0.5, settle);
    let mut after = world.run(0.5, length);
    let share =
        |answered: u64| answered as f64 * service as f64 / (during.length as f64 * workers as f64);
    let (goodput, least) = (share(during.in_time), share(during.took[0].len() as u64));
    let unloaded = before.p99_of_all() as f64;
    let asked: usize = after.took.iter().map(Vec::len).sum();
    Sums {
        load,
        p99: during.p99(7) as f64 / unloaded,
        refused: during.refused[7],
        goodput,
        least,
        started_late: before.started_late + during.started_late + after.started_late,
        p99_after: after.p99(7) as f64 / unloaded,
        refused_after: after.refused_in_all() as f64 / asked as f64,
    }
}

impl Sums {
    /// Whether the most important tenth can be served: alone it is well below the capacity.
    fn can_serve(&self) -> bool {
        self.load <= 4.0
    }

    fn spares_the_most_important(&self) -> bool {
        !self.can_serve() || self.p99 <= 1.2 && self.refused == 0
    }

    fn uses_the_capacity(&self) -> bool {
        self.load < 2.0 || self.goodput >= 0.95
    }

    /// One part in 127, of which a deadline may take a little.
    fn starves_nobody(&self) -> bool {
        self.least >= 0.9 / 127.0
    }

    fn is_normal_again(&self) -> bool {
        // After ten times the load the measurements of the limit may take a little longer.
        let refused = if self.can_serve() { 0.01 } else { 0.05 };
        self.p99_after <= 1.3 && self.refused_after <= refused
    }

    fn holds(&self) -> bool {
        self.spares_the_most_important()
            && self.uses_the_capacity()
            && self.starves_nobody()
            && self.started_late == 0
            && self.is_normal_again()
    }
}

fn load(seed: u64) -> f64 {
    LOADS[seed as usize % LOADS.len()]
}

#[test]
fn what_matters_most_does_not_feel_an_overload() {
    if let Some(seed) = number("POSTROAD_OVERLOAD_SEED") {
        let sums = run(seed, load(seed), true);
        println!("{sums:#?}");
        return assert!(sums.holds());
    }
    let seeds = number("POSTROAD_OVERLOAD_SEEDS").unwrap_or(SEEDS);
    let failed = failing(seeds, |seed| {
        let sums = run(seed, load(seed), true);
        assert!(sums.holds(), "{seed} {sums:?}");
    });
    assert!(
        failed.is_empty(),
        "failed with POSTROAD_OVERLOAD_SEED={failed:?}"
    );
}

#[test]
fn without_policies_everybody_feels_it() {
    let failed = failing(SEEDS / 5, |seed| {
        let sums = run(seed, [2.0, 4.0, 10.0][seed as usize % 3], false);
        let is_felt = sums.p99 > 2.0 && sums.started_late > 0 && sums.goodput < 0.5;
        assert!(is_felt && !sums.holds(), "{sums:?}");
    });
    assert!(
        failed.is_empty(),
        "the bounds hold without policies for {failed:?}"
    );
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let story = || format!("{:?}", run(7, 2.0, true));
    assert_eq!(story(), story());
}
