//! Shares of a limit by priority and by client.

use postroad_proto::policy::{Random, Shares, SharesConfig};
use proptest::prelude::*;

#[test]
fn below_the_limit_everybody_is_let_in() {
    let shares = Shares::default();
    for level in 0..8 {
        assert!(shares.admits(level, 99, 99, 100), "{level}");
    }
    assert!(shares.admits_client(99, 99, 100));
}

#[test]
fn at_the_limit_those_are_let_in_who_have_less_than_their_share() {
    let shares = Shares::default();
    for (level, share) in [2, 2, 4, 5, 8].into_iter().enumerate() {
        assert!(shares.admits(level as u8, share - 1, 100, 100), "{level}");
        assert!(!shares.admits(level as u8, share, 100, 100), "{level}");
    }
    assert!(shares.admits_client(0, 100, 100) && !shares.admits_client(1, 100, 100));
    let none = SharesConfig {
        levels_per_mille: [0; 8],
        ..SharesConfig::default()
    };
    assert!(!Shares::new(none).admits(0, 0, 100, 100));
}

#[test]
fn the_most_important_go_beyond_the_limit_by_a_bounded_number() {
    let shares = Shares::default();
    for level in 5..7 {
        assert!(shares.admits(level, 124, 124, 100), "{level}");
        assert!(!shares.admits(level, 125, 125, 100), "{level}");
    }
    assert!(shares.admits(7, 199, 260, 100) && !shares.admits(7, 200, 260, 100));
    assert!(!shares.admits(4, 100, 100, 100));
    assert!(
        shares.admits(6, 1, 1, 1),
        "with a limit of one there is one place of headroom"
    );
    assert!(!shares.admits(6, 2, 2, 1));
}

/// A server that is always full: each step one of its requests ends, and ten of random priority
/// come. How many of each it has in hand, on average in thousandths of the limit.
fn full(limit: usize, admits: impl Fn(u8, usize, usize) -> bool) -> [u64; 8] {
    let mut random = Random::new(1);
    let mut next = |end: usize| (random.bits() % end as u64) as usize;
    let (mut in_hand, mut sums, steps) = (Vec::<u8>::new(), [0; 8], 20_000);
    for _ in 0..steps {
        if !in_hand.is_empty() {
            let ended = next(in_hand.len());
            in_hand.swap_remove(ended);
        }
        for _ in 0..10 {
            // More than half are of the least important two.
            let level = if next(2) == 0 { next(8) } else { next(2) } as u8;
            let in_level = in_hand.iter().filter(|one| **one == level).count();
            if admits(level, in_level, in_hand.len()) {
                in_hand.push(level);
            }
        }
        for level in &in_hand {
            sums[usize::from(*level)] += 1;
        }
    }
    sums.map(|sum| sum * 1000 / (steps * limit as u64))
}

#[test]
fn a_flood_of_what_is_unimportant_does_not_keep_the_rest_out() {
    let shares = Shares::default();
    let with = full(100, |level, in_level, total| {
        shares.admits(level, in_level, total, 100)
    });
    let without = full(100, |_, _, total| total < 100);
    for level in 2..7 {
        let guaranteed = shares.guaranteed(level, 1000) as u64;
        let got = with[usize::from(level)];
        assert!(
            got * 10 >= guaranteed * 7,
            "{level} has {got} of {guaranteed}: {with:?}"
        );
    }
    assert!(with[0] >= 20 && with[1] >= 20, "{with:?}");
    assert!(
        without[7] < 100 && with[7] > 200 && without[0] > 300,
        "without: {without:?}"
    );
}

#[test]
fn one_client_that_floods_does_not_keep_the_others_out() {
    let shares = Shares::default();
    // The first client holds all places.
    let (limit, flood) = (100, 100);
    assert!(!shares.admits_client(flood, flood, limit));
    let more = SharesConfig {
        client_per_mille: 50,
        ..SharesConfig::default()
    };
    let shares = Shares::new(more);
    for held in 0..5 {
        assert!(shares.admits_client(held, flood + held, limit), "{held}");
    }
    assert!(!shares.admits_client(5, flood + 5, limit));
}

proptest! {
    /// Whatever comes and goes, no more is in hand than is stated, and nobody is refused below the
    /// limit or below its share.
    #[test]
    fn never_more_than_stated_is_in_hand(
        steps in prop::collection::vec((0..8_u8, any::<bool>()), 1..2_000),
        limit in 1..100_usize,
    ) {
        let shares = Shares::default();
        let mut in_hand = [0_usize; 8];
        for (level, ends) in steps {
            let index = usize::from(level);
            let total: usize = in_hand.iter().sum();
            if ends && in_hand[index] > 0 {
                in_hand[index] -= 1;
            } else if shares.admits(level, in_hand[index], total, limit) {
                in_hand[index] += 1;
                prop_assert!(total < shares.most(limit));
            } else {
                prop_assert!(total >= limit && in_hand[index] >= shares.guaranteed(level, limit));
                prop_assert!(shares.guaranteed(level, limit) >= 1);
            }
        }
    }
}
