//! Weighted choices, and the seeded numbers that they are made with.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Shares that do not add up to a whole by more than this are a mistake.
const SLACK_PERCENT: f64 = 0.01;

/// Seeded numbers: SplitMix64. The same seed gives the same load in every version of this program,
/// which generators of libraries do not promise.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Independent numbers for each `stream` of a seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut dice = Self(seed ^ stream.wrapping_mul(0xD134_2543_DE82_EF95));
        dice.0 = dice.bits();
        dice
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// From 0 to 1, without 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Values and how often each is taken, such as payloads of 64 bytes for 90 % of the calls and of
/// 4 KiB for the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mix<T> {
    /// Each with its share in per cent.
    shares: Vec<(T, f64)>,
}

impl<T> Mix<T> {
    /// Always the same.
    pub fn one(value: T) -> Self {
        let shares = vec![(value, 100.0)];
        Self { shares }
    }

    /// Reads `VALUE` or `VALUE:SHARE%,VALUE:SHARE%,...`, each value by the function that is given.
    ///
    /// # Errors
    ///
    /// In words for whoever typed it: a value that cannot be read, shares that are not 100 %.
    pub fn parse(text: &str, value: impl Fn(&str) -> Result<T, String>) -> Result<Self, String> {
        if !text.contains([',', '%']) {
            return value(text.trim()).map(Self::one);
        }
        let share = |part: &str| {
            let wrong = || format!("{part:?} is not VALUE:SHARE%; write 64:90%,4KiB:10%");
            let (text, share) = part.rsplit_once(':').ok_or_else(wrong)?;
            let share = share.trim().strip_suffix('%').ok_or_else(wrong)?;
            let share: f64 = share.parse().map_err(|_| wrong())?;
            if !(share > 0.0 && share <= 100.0) {
                return Err(format!("{share}% of {text:?}; a share is over 0% to 100%"));
            }
            Ok((value(text.trim())?, share))
        };
        let shares = text.split(',').map(share).collect::<Result<Vec<_>, _>>()?;
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        if (sum - 100.0).abs() > SLACK_PERCENT {
            return Err(format!("the shares add up to {sum}%; they have to be 100%"));
        }
        Ok(Self { shares })
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.shares.iter().map(|(value, _)| value)
    }

    pub(crate) fn is_single(&self) -> bool {
        self.shares.len() == 1
    }

    /// Which value is taken now.
    pub(crate) fn pick(&self, dice: &mut Dice) -> usize {
        if self.is_single() {
            return 0;
        }
        let mut rest = dice.unit() * 100.0;
        let taken = self.shares.iter().position(|(_, share)| {
            rest -= share;
            rest < 0.0
        });
        taken.unwrap_or(self.shares.len() - 1)
    }

    /// The value that is taken now.
    pub(crate) fn draw(&self, dice: &mut Dice) -> &T {
        &self.shares[self.pick(dice)].0
    }
}

impl<T> Mix<T> {
    /// As it is typed.
    pub(crate) fn text(&self, value: impl Fn(&T) -> String) -> String {
        if let [(only, _)] = self.shares.as_slice() {
            return value(only);
        }
        let parts = self.shares.iter();
        let parts = parts.map(|(each, share)| format!("{}:{share}%", value(each)));
        parts.collect::<Vec<_>>().join(",")
    }
}

impl<T: fmt::Display> fmt::Display for Mix<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(T::to_string))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Result<Mix<u32>, String> {
        Mix::parse(text, |value| {
            value.parse().map_err(|_| format!("{value:?} is no number"))
        })
    }

    #[test]
    fn shares_are_kept_over_many_draws() {
        let mix = numbers("1:5%,2:25%,3:70%").unwrap();
        let mut dice = Dice::new(7, 0);
        let mut seen = [0_u32; 4];
        for _ in 0..100_000 {
            seen[*mix.draw(&mut dice) as usize] += 1;
        }
        // Five standard deviations of a binomial are under 750 here.
        for (count, expected) in seen.iter().zip([0, 5_000, 25_000, 70_000]) {
            assert!(count.abs_diff(expected) < 750, "{seen:?}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_stream_does_not() {
        let draw = |seed, stream| {
            let mut dice = Dice::new(seed, stream);
            [(); 8].map(|()| dice.unit())
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
        assert_ne!(draw(1, 0), draw(2, 0));
    }

    #[test]
    fn a_mix_reads_as_it_prints_and_a_wrong_one_says_what_to_write() {
        for text in ["64", "64:90%,4096:10%", "1:0.5%,2:99.5%"] {
            assert_eq!(numbers(text).unwrap().to_string(), text);
        }
        for (text, says) in [
            ("64:90%,4096:11%", "add up to 101%"),
            ("64,4096", "is not VALUE:SHARE%"),
            ("64:x%,1:1%", "is not VALUE:SHARE%"),
            ("64:0%,1:100%", "a share is over 0%"),
            ("x:50%,1:50%", "\"x\" is no number"),
            ("", "\"\" is no number"),
        ] {
            let error = numbers(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
