//! Statistics of a few numbers, exact where the usual formula holds only for many.

/// Samples of both sides together up to which probabilities are counted out.
const EXACT_MAX: usize = 100;

/// Values of a side that are paired with those of the other: a million pairs say what a billion
/// would.
const PAIRED_MAX: usize = 1_000;

/// The two-sided quantile of the normal distribution for 95 %.
const Z_95: f64 = 1.959_964;

pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// The value at `q` of 0 to 1, straight between neighbours; nothing has the quantile NaN.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let values = sorted(values);
    let Some(last) = values.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    // Also where both are infinite.
    if low == high {
        return low;
    }
    low + (high - low) * at.fract()
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// How far the middle half of the values reaches to either side, as a share of the median.
pub(crate) fn spread(values: &[f64]) -> f64 {
    (quantile(values, 0.75) - quantile(values, 0.25)) / 2.0 / median(values)
}

/// How two samples differ by the order of their values alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RankSum {
    /// How likely a difference of this size is, in either direction, when there is none.
    pub(crate) p: f64,
    /// Cliff's delta: 1 if each of `b` is larger than each of `a`, -1 if smaller, 0 if mixed.
    pub(crate) delta: f64,
}

/// The rank-sum test of Wilcoxon, Mann and Whitney, two-sided, with midranks for ties.
///
/// Up to [`EXACT_MAX`] values its distribution is counted out over all ways to deal the values to
/// the two sides; beyond, it is the normal one, corrected for ties and continuity.
pub(crate) fn rank_sum(a: &[f64], b: &[f64]) -> RankSum {
    let (ranks, ties) = doubled_ranks(a, b);
    let total = ranks.len();
    let pairs = (a.len() * b.len()) as f64;
    if pairs == 0.0 {
        return RankSum { p: 1.0, delta: 0.0 };
    }
    let sum: usize = ranks[a.len()..].iter().sum();
    let mean = b.len() * (total + 1);
    let off = sum.abs_diff(mean);
    let signed = sum as f64 - mean as f64;
    let p = if total <= EXACT_MAX {
        let ways = ways(&ranks, b.len());
        let extreme = ways
            .iter()
            .enumerate()
            .filter(|(sum, _)| sum.abs_diff(mean) >= off);
        extreme.map(|(_, ways)| ways).sum::<f64>() / ways.iter().sum::<f64>()
    } else {
        normal_p(off as f64 / 2.0, pairs, total as f64, ties)
    };
    RankSum {
        p: p.min(1.0),
        delta: signed / pairs,
    }
}

/// How likely a sum of ranks is that is so far from its mean, for many values.
fn normal_p(off: f64, pairs: f64, total: f64, ties: f64) -> f64 {
    let variance = pairs / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    // Half a rank for continuity.
    let z = (off - 0.5).max(0.0) / variance.sqrt();
    if variance > 0.0 { two_sided(z) } else { 1.0 }
}

/// Twice the midrank of each value of `a` and then of `b`, and the sum of t³ - t over the ties.
fn doubled_ranks(a: &[f64], b: &[f64]) -> (Vec<usize>, f64) {
    let values = [a, b].concat();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|x, y| values[*x].total_cmp(&values[*y]));
    let (mut ranks, mut ties) = (vec![0; values.len()], 0.0);
    let mut begin = 0;
    while begin < order.len() {
        let value = values[order[begin]];
        let same = order[begin..].iter().take_while(|at| values[**at] == value);
        let end = begin + same.count().max(1);
        for at in &order[begin..end] {
            ranks[*at] = begin + 1 + end;
        }
        let tied = (end - begin) as f64;
        ties += tied * tied * tied - tied;
        begin = end;
    }
    (ranks, ties)
}

/// In how many ways `count` of the ranks add up to each sum.
fn ways(ranks: &[usize], count: usize) -> Vec<f64> {
    let most: usize = ranks.iter().sum();
    let mut ways = vec![vec![0.0; most + 1]; count + 1];
    ways[0][0] = 1.0;
    for rank in ranks {
        for taken in (1..=count).rev() {
            let (fewer, more) = ways.split_at_mut(taken);
            let from = fewer[taken - 1].iter();
            let to = more[0].iter_mut().skip(*rank);
            to.zip(from).for_each(|(to, from)| *to += from);
        }
    }
    ways.swap_remove(count)
}

/// The smallest probability that [`rank_sum`] can give for this many values.
pub(crate) fn smallest_p(a: usize, b: usize) -> f64 {
    if a + b > EXACT_MAX {
        let pairs = (a * b) as f64;
        return normal_p(pairs / 2.0, pairs, (a + b) as f64, 0.0);
    }
    let ways: f64 = (1..=a).map(|i| (b + i) as f64 / i as f64).product();
    (2.0 / ways).min(1.0)
}

/// What is typical of all pairs of values, and between what it lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shift {
    pub(crate) estimate: f64,
    /// None if so few values allow no such statement.
    pub(crate) interval: Option<(f64, f64)>,
}

/// The estimator of Hodges and Lehmann: the median of `effect(a, b)` over all pairs. Its interval
/// is the rank-sum test turned round, so both say the same. Of a side with more than
/// [`PAIRED_MAX`] values so many of its quantiles are paired.
pub(crate) fn shift(a: &[f64], b: &[f64], effect: impl Fn(f64, f64) -> f64) -> Shift {
    let (few_a, few_b) = (thinned(a), thinned(b));
    let pairs = few_a.iter();
    let pairs = pairs.flat_map(|a| few_b.iter().map(|b| effect(*a, *b)));
    let pairs = sorted(&pairs.collect::<Vec<_>>());
    let share = pairs.len() as f64 / (a.len() * b.len()) as f64;
    let cut = pairs_to_cut(a.len(), b.len()).map(|cut| ((cut as f64 * share) as usize).max(1));
    Shift {
        estimate: median(&pairs),
        interval: cut.map(|cut| (pairs[cut - 1], pairs[pairs.len() - cut])),
    }
}

/// All values, or as many evenly spaced quantiles of them as are paired.
fn thinned(values: &[f64]) -> Vec<f64> {
    if values.len() <= PAIRED_MAX {
        return values.to_vec();
    }
    let values = sorted(values);
    let at = |part| (2 * part + 1) * values.len() / (2 * PAIRED_MAX);
    (0..PAIRED_MAX).map(|part| values[at(part)]).collect()
}

/// The rank from either end of the pairs that bounds 95 %.
fn pairs_to_cut(a: usize, b: usize) -> Option<usize> {
    let total = a + b;
    if total > EXACT_MAX {
        let pairs = (a * b) as f64;
        let cut = pairs / 2.0 - Z_95 * (pairs * (total + 1) as f64 / 12.0).sqrt();
        return (cut >= 1.0).then_some(cut as usize);
    }
    let ranks: Vec<usize> = (1..=total).collect();
    let ways = ways(&ranks, b);
    let all: f64 = ways.iter().sum();
    let tail = ways[b * (b + 1) / 2..].iter().scan(0.0, |tail, ways| {
        *tail += ways;
        Some(*tail)
    });
    let cut = tail.take_while(|tail| *tail <= 0.025 * all).count();
    (cut > 0).then_some(cut)
}

/// Holm's correction: of several tests, how likely it is that any of them is wrong this far.
pub(crate) fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|x, y| p[*x].total_cmp(&p[*y]));
    let (mut adjusted, mut least) = (vec![1.0; p.len()], 0.0_f64);
    for (at, index) in order.into_iter().enumerate() {
        least = least.max(p[index] * (p.len() - at) as f64).min(1.0);
        adjusted[index] = least;
    }
    adjusted
}

/// The probability of the normal distribution beyond `z` on both sides, to 1e-7 of it; the
/// Chebyshev fit of erfc in Numerical Recipes, 6.2.
fn two_sided(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let terms = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let sum = terms.iter().rev().fold(0.0, |sum, term| sum * t + term);
    t * (sum - x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(x: f64, y: f64) -> bool {
        (x - y).abs() < 1e-6
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert!(near(median(&values), 2.5));
        assert!(near(quantile(&values, 0.75), 3.25));
        assert!(near(spread(&values), 0.3));
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn small_samples_are_counted_out() {
        let apart = rank_sum(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]);
        assert!(near(apart.p, 2.0 / 20.0) && near(apart.delta, 1.0));
        assert!(near(apart.p, smallest_p(3, 3)));
        // 272 of the 792 ways to deal twelve ranks, counted one by one.
        let mixed = rank_sum(
            &[1.0, 4.0, 5.0, 7.0, 9.0],
            &[2.0, 3.0, 6.0, 8.0, 10.0, 11.0, 12.0],
        );
        assert!(near(mixed.p, 0.343_434), "{mixed:?}");
        let same = rank_sum(&[5.0; 4], &[5.0; 4]);
        assert_eq!((same.p, same.delta), (1.0, 0.0));
        assert_eq!(rank_sum(&[], &[1.0]).p, 1.0);
    }

    #[test]
    fn ties_share_their_ranks() {
        let (ranks, ties) = doubled_ranks(&[1.0, 2.0], &[2.0, 3.0]);
        assert_eq!((ranks, ties), (vec![2, 5, 5, 8], 6.0));
        // Of the six ways to deal 1, 2, 2, 3, two are as far apart as this one on either side.
        assert!(near(rank_sum(&[1.0, 2.0], &[2.0, 3.0]).p, 4.0 / 6.0));
    }

    #[test]
    fn many_values_use_the_normal_distribution_and_agree_with_counting() {
        let a: Vec<f64> = (0..50).map(|i| f64::from(i * 7 % 50)).collect();
        let b: Vec<f64> = (0..50).map(|i| f64::from(i * 11 % 50) + 5.5).collect();
        let exact = rank_sum(&a, &b);
        let more = rank_sum(&[&a[..], &[25.0]].concat(), &b);
        assert!((exact.p - more.p).abs() < 0.01, "{exact:?} {more:?}");
        // Two against many: no difference is larger than this one.
        let many: Vec<f64> = (0..EXACT_MAX as u32).map(f64::from).collect();
        let apart = rank_sum(&[-2.0, -1.0], &many);
        assert!(near(apart.p, smallest_p(2, EXACT_MAX)) && apart.p > 0.01);
        assert!(near(two_sided(Z_95), 0.05) && near(two_sided(0.0), 1.0));
    }

    #[test]
    fn a_shift_is_found_with_an_interval_that_agrees_with_the_test() {
        let a = [100.0, 101.0, 102.0, 103.0, 104.0];
        let b = a.map(|a| a * 1.1);
        let found = shift(&a, &b, |a, b| b / a);
        assert!((found.estimate - 1.1).abs() < 0.001, "{found:?}");
        let (low, high) = found.interval.expect("five a side are enough");
        assert!(low > 1.0 && low < 1.1 && high > 1.1, "{found:?}");
        let few = shift(&a[..3], &b[..3], |a, b| b / a);
        assert_eq!(few.interval, None, "three a side cannot bound 95 %");
        // The table of critical values for 5 and 5 at 5 % says U = 2: the third pair bounds.
        assert_eq!(pairs_to_cut(5, 5), Some(3));
    }

    #[test]
    fn many_values_are_thinned_and_say_the_same() {
        let value = |i: u32| f64::from(i.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24);
        let a: Vec<f64> = (0..3_000).map(value).collect();
        let b: Vec<f64> = (0..2_500).map(|i| value(i + 9_999) + 0.1).collect();
        let few = shift(&a, &b, |a, b| b - a);
        let mut pairs: Vec<f64> = Vec::new();
        a.iter().for_each(|a| pairs.extend(b.iter().map(|b| b - a)));
        let pairs = sorted(&pairs);
        let cut = pairs_to_cut(a.len(), b.len()).expect("many a side");
        let (low, high) = few.interval.expect("many a side");
        let near = |x: f64, y: f64| (x - y).abs() < 0.002;
        assert!(near(few.estimate, pairs[pairs.len() / 2]), "{few:?}");
        assert!(
            near(low, pairs[cut - 1]) && near(high, pairs[pairs.len() - cut]),
            "{few:?}"
        );
    }

    #[test]
    fn holm_multiplies_the_smallest_by_all_and_stays_in_order() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.5]);
        let expected = [0.04, 0.09, 0.09, 0.5];
        assert!(adjusted.iter().zip(expected).all(|(x, y)| near(*x, y)));
    }
}
