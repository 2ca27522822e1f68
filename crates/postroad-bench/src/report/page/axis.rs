//! Axes: where a value lies, and where the ticks are.

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    /// Each tenfold takes the same room.
    Log,
    /// Shares of one, each nine takes the same room: 0 %, 90 %, 99 %, 99.9 %.
    Nines,
}

impl Scale {
    /// Where a value lies, before it is stretched to the axis; none where the scale has no place.
    fn place(self, value: f64) -> Option<f64> {
        let placed = match self {
            Self::Linear => value,
            Self::Log => value.log10(),
            Self::Nines => -(1.0 - value).log10(),
        };
        placed.is_finite().then_some(placed)
    }
}

/// One axis of a chart.
pub(crate) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    pub(crate) ticks: Vec<f64>,
    pub(crate) label: fn(f64) -> String,
}

impl Axis {
    /// From zero to just over the largest value.
    pub(crate) fn from_zero(values: impl Iterator<Item = f64>, label: fn(f64) -> String) -> Self {
        let largest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        if largest == 0.0 {
            // Nothing happened: there is no scale to it.
            let (low, high, ticks) = (0.0, 1.0, vec![0.0]);
            let scale = Scale::Linear;
            return Self {
                scale,
                low,
                high,
                ticks,
                label,
            };
        }
        let step = nice_step(largest / 5.0);
        let steps = (largest / step).ceil() as u32;
        Self {
            scale: Scale::Linear,
            low: 0.0,
            high: f64::from(steps) * step,
            ticks: (0..=steps).map(|i| f64::from(i) * step).collect(),
            label,
        }
    }

    /// These bounds, with ticks at round values; a tick just over the high end moves it there.
    pub(crate) fn between(low: f64, high: f64, label: fn(f64) -> String) -> Self {
        let step = nice_step((high - low).max(1e-9) / 8.0);
        let first = (low / step).ceil() as i64;
        let last = (high / step + 0.01).floor() as i64;
        Self {
            scale: Scale::Linear,
            low,
            high: high.max(last as f64 * step).max(low + 1e-9),
            ticks: (first..=last).map(|i| i as f64 * step).collect(),
            label,
        }
    }

    /// Logarithmic, from the round value under the smallest to the one over the largest.
    pub(crate) fn log(values: impl Iterator<Item = f64>, label: fn(f64) -> String) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high == 0.0 {
            (low, high) = (1.0, 10.0);
        }
        let first = low.log10().floor() as i32;
        let last = high.log10().ceil() as i32;
        let round = (first..=last)
            .flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10_f64.powi(power)));
        let round: Vec<f64> = round.collect();
        let under = round.iter().rev().find(|tick| **tick <= low * 1.000_001);
        let over = round.iter().find(|tick| **tick >= high * 0.999_999);
        let low = under.copied().unwrap_or(low);
        let high = over.copied().unwrap_or(high).max(low * 2.0);
        let is_wide = high / low > 2e3;
        let is_decade = |tick: f64| (tick.log10() - tick.log10().round()).abs() < 1e-9;
        let ticks = round
            .into_iter()
            .filter(|tick| (low * 0.999..=high * 1.001).contains(tick))
            .filter(|tick| !is_wide || is_decade(*tick));
        Self {
            scale: Scale::Log,
            low,
            high,
            ticks: ticks.collect(),
            label,
        }
    }

    /// Percentiles up to the one that a single call of `count` decides.
    pub(crate) fn nines(count: u64, label: fn(f64) -> String) -> Self {
        let high = 1.0 - 1.0 / (count.max(10) as f64);
        let nines = (1..=9).map(|power| 1.0 - 10_f64.powi(-power));
        let ticks = [0.0, 0.5].into_iter().chain(nines);
        Self {
            scale: Scale::Nines,
            low: 0.0,
            high,
            ticks: ticks.filter(|tick| *tick <= high + 1e-12).collect(),
            label,
        }
    }

    /// Where a value lies, 0 at the low end and 1 at the high one; none beyond either.
    pub(crate) fn position(&self, value: f64) -> Option<f64> {
        let (low, high) = (self.scale.place(self.low)?, self.scale.place(self.high)?);
        let position = (self.scale.place(value)? - low) / (high - low);
        (-1e-9..=1.0 + 1e-9).contains(&position).then_some(position)
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| factor * power >= step);
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(value: f64) -> String {
        value.to_string()
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let axis = Axis::from_zero([0.0, 930.0].into_iter(), name);
        assert_eq!(axis.ticks, [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        let axis = Axis::log([3.0e3, 4.5e4, 0.0].into_iter(), name);
        assert_eq!(axis.ticks, [2e3, 5e3, 1e4, 2e4, 5e4]);
        let axis = Axis::log([100.0, 1e9].into_iter(), name);
        assert_eq!(axis.ticks.len(), 8, "only tenfolds: {:?}", axis.ticks);
        let axis = Axis::nines(100_000, name);
        assert_eq!(
            axis.ticks.len(),
            7,
            "0, 50 and five nines: {:?}",
            axis.ticks
        );
    }

    #[test]
    fn values_have_their_place_or_none() {
        let axis = Axis::nines(1_000, name);
        let near =
            |value: Option<f64>, place: f64| (value.expect("it has one") - place).abs() < 1e-9;
        assert!(near(axis.position(0.0), 0.0) && near(axis.position(0.9), 1.0 / 3.0));
        assert!(near(axis.position(0.999), 1.0));
        assert_eq!(axis.position(1.0), None, "infinitely many nines");
        let axis = Axis::log([1.0, 100.0].into_iter(), name);
        assert!(near(axis.position(10.0), 0.5));
        assert_eq!((axis.position(0.0), axis.position(f64::NAN)), (None, None));
    }

    #[test]
    fn nothing_to_show_still_makes_an_axis() {
        for axis in [
            Axis::from_zero([].into_iter(), name),
            Axis::log([].into_iter(), name),
            Axis::nines(0, name),
            Axis::between(0.0, 0.0, name),
        ] {
            assert!(axis.ticks.len() < 20);
        }
        let idle = Axis::from_zero([0.0, 0.0].into_iter(), name);
        assert_eq!(idle.ticks, [0.0], "no scale is made up for it");
    }
}
