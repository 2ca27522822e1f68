//! Whose turn it is of eight priorities, and that none waits for ever.

use std::time::Duration;

use postroad_proto::Time;
use postroad_proto::policy::{Levels, OrderConfig, Random};
use proptest::prelude::*;

use crate::policy::{MS, SECOND};

/// The work that each level gets of so many turns, if these always wait and each costs so much.
fn served(config: OrderConfig, waiting: u8, turns: usize, cost: impl Fn(u8) -> u64) -> [u64; 8] {
    let (mut levels, mut now, mut got) = (Levels::new(config), 0, [0; 8]);
    for _ in 0..turns {
        let level = levels.pick(waiting, Time(now)).expect("something waits");
        let cost = cost(level);
        levels.charge(level, cost);
        got[usize::from(level)] += cost;
        now += cost;
    }
    got
}

fn ages_never() -> OrderConfig {
    OrderConfig {
        aging: None,
        ..OrderConfig::default()
    }
}

/// What a level gets, in thousandths of all.
fn per_mille(got: &[u64; 8], level: usize) -> u64 {
    got[level] * 1000 / got.iter().sum::<u64>()
}

#[test]
fn nobody_is_picked_if_nobody_waits_and_one_alone_always_is() {
    let mut levels = Levels::new(OrderConfig::default());
    assert_eq!(levels.pick(0, Time(0)), None);
    for level in 0..8 {
        assert_eq!(levels.pick(1 << level, Time(0)), Some(level));
        levels.charge(level, MS);
    }
}

#[test]
fn the_most_important_gets_all_but_the_guaranteed_shares() {
    let got = served(ages_never(), 0xFF, 100_000, |_| MS);
    for level in 0..6 {
        assert!(
            (7..=8).contains(&per_mille(&got, level)),
            "{level}: {got:?}"
        );
    }
    assert!(per_mille(&got, 7) >= 894, "{got:?}");
    let got = served(ages_never(), 0b1000_0001, 100_000, |_| MS);
    assert!(
        (50..=51).contains(&per_mille(&got, 0)),
        "one alone gets the lower share: {got:?}"
    );
    let got = served(ages_never(), 0b1100_0001, 100_000, |_| MS);
    assert!(
        (42..=50).contains(&per_mille(&got, 6)) && per_mille(&got, 0) >= 7,
        "the more important of the lower ones gets most of it: {got:?}"
    );
}

#[test]
fn shares_are_of_work_and_not_of_turns() {
    let cost = |level| if level == 7 { MS } else { 50 * MS };
    let got = served(ages_never(), 0b1000_0001, 100_000, cost);
    assert!((49..=51).contains(&per_mille(&got, 0)), "{got:?}");
    let cost = |level| if level == 7 { 50 * MS } else { MS };
    let got = served(ages_never(), 0b1000_0001, 100_000, cost);
    assert!(
        (18..=51).contains(&per_mille(&got, 0)),
        "a turn between any two: {got:?}"
    );
}

#[test]
fn without_a_guarantee_the_least_important_starves() {
    let got = served(OrderConfig::strict(), 0xFF, 100_000, |_| MS);
    assert_eq!(got[..7], [0; 7]);
}

#[test]
fn what_was_served_first_does_not_wait_longer_when_something_more_important_comes() {
    let mut levels = Levels::new(ages_never());
    for _ in 0..10_000 {
        assert_eq!(levels.pick(0b1, Time(0)), Some(0));
        levels.charge(0, MS);
    }
    let turns = (0..20).filter(|_| {
        let level = levels.pick(0b1000_0001, Time(0)).unwrap();
        levels.charge(level, MS);
        level == 0
    });
    assert_eq!(turns.count(), 1, "of twenty it gets one");
}

#[test]
fn what_was_not_used_while_nothing_waited_is_not_saved() {
    let mut levels = Levels::new(ages_never());
    for _ in 0..10_000 {
        levels.pick(1 << 7, Time(0));
        levels.charge(7, MS);
    }
    let mut turns = [0; 8];
    for _ in 0..127 {
        let level = levels.pick(0xFF, Time(0)).unwrap();
        levels.charge(level, MS);
        turns[usize::from(level)] += 1;
    }
    assert!(turns[7] >= 127 * 895 / 1_000, "{turns:?}");
}

#[test]
fn a_level_ages_once_in_a_while_whatever_its_turns_cost() {
    let long = |level| if level == 7 { MS } else { 100 * SECOND };
    let mut levels = Levels::new(OrderConfig::default());
    let (mut now, mut last, mut longest) = (0, [0; 8], 0);
    for _ in 0..100_000 {
        let level = usize::from(levels.pick(0xFF, Time(now)).unwrap());
        // The work is done elsewhere, so the time that passes here does not depend on it.
        levels.charge(level as u8, long(level));
        longest = longest.max(now - last[level]);
        last[level] = now;
        now += MS;
    }
    let aged = (0..8).map(|level| now - last[level]).max().unwrap();
    assert!(
        longest.max(aged) <= 7 * SECOND + 10 * MS,
        "{longest} {aged}"
    );
    let mut strict = Levels::new(OrderConfig::strict());
    assert_eq!(strict.pick(0xFF, Time(SECOND)), Some(7));
    assert_eq!(strict.pick(0xFF, Time(1_000 * SECOND)), Some(7));
}

#[test]
fn a_clock_that_went_back_ages_nobody_and_starves_nobody() {
    let config = OrderConfig {
        aging: Some(Duration::from_secs(1)),
        ..OrderConfig::strict()
    };
    let mut levels = Levels::new(config);
    assert_eq!(levels.pick(0b11, Time(100 * SECOND)), Some(1));
    assert_eq!(levels.pick(0b11, Time(SECOND)), Some(1));
    assert_eq!(levels.pick(0b11, Time(101 * SECOND)), Some(0));
}

/// What one level got, and when it began to wait.
#[derive(Clone, Copy, Default)]
struct Waiting {
    /// Work that all had got when it began to wait, and at its last turn.
    from: u64,
    last: u64,
    last_cost: u64,
    got: u64,
}

/// One random run: levels come and go, costs differ a thousandfold. Checks the bounds that the
/// module states.
fn run(seed: u64, config: OrderConfig) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut next = |end: u64| random.bits() % end;
    let longest = [MS, 50 * MS][next(2) as usize];
    let mut levels = Levels::new(config);
    let (mut work, mut now, mut mask) = (0_u64, 0, 0_u8);
    let mut waits = [Waiting::default(); 8];
    let (mut lower_from, mut lower_got) = (0, 0);
    for _ in 0..20_000 {
        let before = mask;
        if next(50) == 0 {
            mask ^= 1 << next(8);
        }
        if mask == 0 {
            mask = 1 << next(8);
        }
        for (level, wait) in waits.iter_mut().enumerate() {
            if mask & !before & 1 << level != 0 {
                *wait = Waiting {
                    from: work,
                    last: work,
                    got: 0,
                    ..*wait
                };
            }
        }
        if before & before.wrapping_sub(1) == 0 {
            (lower_from, lower_got) = (work, 0);
        }
        let level = usize::from(levels.pick(mask, Time(now)).expect("something waits"));
        let range = [longest / 1000, longest][next(2) as usize];
        let cost = 1 + next(range);
        let wait = &mut waits[level];
        let behind = work - wait.last;
        if behind > 127 * wait.last_cost + 8 * longest {
            return Err(format!("level {level} waited for {behind} of work"));
        }
        levels.charge(level as u8, cost);
        work += cost;
        now += cost;
        (wait.last, wait.last_cost, wait.got) = (work, cost, wait.got + cost);
        if mask >> level > 1 {
            lower_got += cost;
        }
        for (level, wait) in waits
            .iter()
            .enumerate()
            .filter(|(level, _)| mask & 1 << level != 0)
        {
            let share = (work - wait.from) / 127;
            if wait.got + 9 * longest < share {
                return Err(format!("level {level} got {} of {share}", wait.got));
            }
        }
        let lower_share = (work - lower_from) * 50 / 1000;
        if mask & mask.wrapping_sub(1) != 0 && lower_got + 9 * longest < lower_share {
            return Err(format!("the lower levels got {lower_got} of {lower_share}"));
        }
    }
    Ok(())
}

#[test]
fn the_bounds_that_are_stated_hold_for_random_arrivals() {
    for seed in 0..200 {
        assert_eq!(run(seed, ages_never()), Ok(()), "seed {seed}");
        assert_eq!(run(seed, OrderConfig::default()), Ok(()), "seed {seed}");
    }
    let without = (0..20)
        .filter(|seed| run(*seed, OrderConfig::strict()).is_err())
        .count();
    assert_eq!(without, 20, "strict order holds no bound");
}

proptest! {
    /// Only who waits is picked, and the most important of all gets what it is left.
    #[test]
    fn whoever_is_picked_waits_and_the_most_important_gets_the_rest(
        turns in prop::collection::vec((any::<u8>(), 1..1_000_u64), 1..500),
    ) {
        let mut levels = Levels::new(ages_never());
        let (mut work, mut below) = (0_u64, 0_u64);
        for (waiting, cost) in turns {
            let waiting = waiting | 1 << 7;
            let level = levels.pick(waiting, Time(0)).unwrap();
            prop_assert!(waiting & 1 << level != 0);
            levels.charge(level, cost);
            work += cost;
            below += if level < 7 { cost } else { 0 };
            let most = work * 50 / 1_000 + work * 7 / 127;
            prop_assert!(below <= most + 9 * 1_000, "{below} of {work}");
        }
    }
}
