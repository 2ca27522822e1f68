//! Weighted turns, prepared: who has the first turn, who the second, and so on.

/// At most so many turns a round; weights are rounded so that they fit.
const TURNS_MAX: u64 = 8_192;

/// Whose turn it is, for a whole round of turns.
#[derive(Debug, Default)]
pub(super) struct Schedule(Vec<u32>);

impl Schedule {
    /// Spreads each one's turns evenly, by nginx's smooth weighted round robin: every turn, each
    /// gains its weight, and the one that has most has its turn and pays for all.
    pub(super) fn new(weights: impl Iterator<Item = u32>) -> Self {
        let weights: Vec<u64> = weights.map(u64::from).collect();
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        let sum: u64 = weights.iter().map(|weight| weight / divisor).sum();
        let most = TURNS_MAX.max(weights.len() as u64);
        let scaled = |weight: &u64| {
            let weight = weight / divisor;
            match weight {
                0 => 0,
                weight if sum <= most => weight,
                weight => (weight * most / sum).max(1),
            }
        };
        let weights: Vec<u64> = weights.iter().map(scaled).collect();
        Self(spread(&weights))
    }

    /// The places from this turn on, for one round.
    pub(super) fn from(&self, turn: u64) -> impl Iterator<Item = usize> {
        let many = self.0.len().max(1);
        let from = turn as usize % many;
        let (before, after) = self.0.split_at(from.min(self.0.len()));
        after.iter().chain(before).map(|place| *place as usize)
    }
}

/// The same order in a time that does not grow with the square of the list: the k-th turn of one
/// that has `w` of `n` is due at `(k + 1/2) / w` of the round.
fn spread(weights: &[u64]) -> Vec<u32> {
    let mut due: Vec<(u128, u32)> = Vec::new();
    let whole = u128::from(u64::MAX);
    for (place, weight) in weights.iter().enumerate() {
        let turns = (0..*weight).map(|turn| {
            let at = whole * u128::from(2 * turn + 1) / u128::from(2 * weight);
            (at, place as u32)
        });
        due.extend(turns);
    }
    due.sort_unstable();
    due.into_iter().map(|(_, place)| place).collect()
}

fn gcd(one: u64, other: u64) -> u64 {
    match other {
        0 => one,
        other => gcd(other, one % other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u32]) -> Vec<usize> {
        let schedule = Schedule::new(weights.iter().copied());
        schedule.from(0).collect()
    }

    #[test]
    fn each_has_as_many_turns_as_its_weight_and_they_are_spread() {
        assert_eq!(turns(&[5, 1, 1]), [0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(turns(&[10, 10]), [0, 1]);
        assert_eq!(turns(&[0, 3]), [1], "one of weight 0 has none");
        assert!(turns(&[]).is_empty());
        let large = turns(&[65_535, 1, 32_768]);
        assert!(large.len() <= 8_192 && large.contains(&1));
        let many = vec![1; 10_000];
        assert_eq!(turns(&many).len(), 10_000);
    }
}
