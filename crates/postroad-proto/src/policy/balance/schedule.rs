//! Smooth weighted round robin, worked out beforehand.

/// The most turns of a schedule. Greater sums of weights are scaled down to it.
const TURNS_MAX: u64 = 1 << 16;

/// Whose turn it is, for a whole round: each endpoint has as many turns as its weight, spread
/// evenly over the round.
#[derive(Debug, Default)]
pub(super) struct Schedule(Box<[u32]>);

impl Schedule {
    pub(super) fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().fold(0, |a, b| common_divisor(a, *b)).max(1);
        let sum: u64 = weights.iter().map(|w| u64::from(w / divisor)).sum();
        let scaled = |weight: u32| {
            let weight = u64::from(weight / divisor);
            match sum > TURNS_MAX {
                // Who has any weight keeps a turn.
                true if weight > 0 => (weight * TURNS_MAX / sum).max(1),
                _ => weight,
            }
        };
        // The endpoint's turn k is due at (k + phase) / weight of the round. The phases differ, so
        // that endpoints of equal weight take turns.
        let count = weights.len() as u128;
        let mut turns = Vec::new();
        for (index, weight) in weights.iter().enumerate() {
            let weight = u128::from(scaled(*weight));
            for turn in 0..weight {
                let due = ((turn * count + index as u128) << 64) / (weight * count);
                turns.push((due, index as u32));
            }
        }
        turns.sort_unstable();
        Self(turns.into_iter().map(|(_, index)| index).collect())
    }

    /// Whose turn this is; `None` if nobody has one.
    pub(super) fn at(&self, turn: u64) -> Option<usize> {
        let count = self.0.len() as u64;
        let index = self.0.get(turn.checked_rem(count)? as usize)?;
        Some(*index as usize)
    }
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(weights: &[u32]) -> Vec<u32> {
        Schedule::new(weights).0.into_vec()
    }

    #[test]
    fn a_round_has_as_many_turns_as_the_weights_say_and_none_in_bunches() {
        assert_eq!(round(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(round(&[20, 10]), [0, 0, 1]);
        let turns = round(&[5, 1, 1]);
        assert_eq!(turns.len(), 7);
        assert_eq!(turns.iter().filter(|index| **index == 0).count(), 5);
        let twice = [turns.clone(), turns].concat();
        assert!(!twice.windows(4).any(|four| four == [0; 4]), "{twice:?}");
        assert_eq!(round(&[0, 3]), [1], "nobody with weight 0 has a turn");
        assert!(round(&[]).is_empty() && Schedule::new(&[]).at(7).is_none());
    }

    #[test]
    fn great_weights_and_many_endpoints_make_no_endless_schedule() {
        let turns = round(&[u32::MAX, u32::MAX - 1, 1]);
        assert!(turns.len() as u64 <= TURNS_MAX + 3 && turns.contains(&2));
        let many: Vec<u32> = (1..=10_000).collect();
        assert!(round(&many).len() as u64 <= TURNS_MAX + 10_000);
    }
}
