//! What a column of a table says: mean, median, quartiles, an interval for the mean, ranks and their correlation.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::number::float;
use crate::surface::percentile;

/// How the interval of a mean is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// How often cases are drawn with replacement.
    pub samples: usize,
    /// The same seed gives the same interval.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { samples: 2000, seed: 0 }
    }
}

/// A column in a few numbers. NaN is left out, as nnU-Net and pandas do; infinite values stay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Values that are numbers.
    pub n: usize,
    /// Values that are NaN.
    pub undefined: usize,
    /// Arithmetic mean.
    #[serde(with = "float")]
    pub mean: f64,
    /// Sample standard deviation (n - 1).
    #[serde(with = "float")]
    pub sd: f64,
    /// Smallest value.
    #[serde(with = "float")]
    pub min: f64,
    /// First quartile, interpolated as numpy does.
    #[serde(with = "float")]
    pub q1: f64,
    /// Median.
    #[serde(with = "float")]
    pub median: f64,
    /// Third quartile.
    #[serde(with = "float")]
    pub q3: f64,
    /// Largest value.
    #[serde(with = "float")]
    pub max: f64,
    /// Lower end of the 95 % bootstrap percentile interval of the mean.
    #[serde(with = "float")]
    pub ci_low: f64,
    /// Upper end.
    #[serde(with = "float")]
    pub ci_high: f64,
}

impl Summary {
    /// Sums a column up. Everything is NaN where there is no number.
    pub fn of(column: &[f64], bootstrap: Bootstrap) -> Self {
        let mut values: Vec<f64> = column.iter().copied().filter(|v| !v.is_nan()).collect();
        let n = values.len();
        let mean = mean(&values);
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let (ci_low, ci_high) = interval(&values, bootstrap);
        Self {
            n,
            undefined: column.len() - n,
            mean,
            sd: if n > 1 { (squares / (n - 1) as f64).sqrt() } else { f64::NAN },
            min: values.iter().copied().min_by(f64::total_cmp).unwrap_or(f64::NAN),
            q1: percentile(&mut values, 0.25),
            median: percentile(&mut values, 0.5),
            q3: percentile(&mut values, 0.75),
            max: values.iter().copied().max_by(f64::total_cmp).unwrap_or(f64::NAN),
            ci_low,
            ci_high,
        }
    }
}

/// Arithmetic mean; NaN where there is nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// 95 % percentile interval of the mean over cases drawn with replacement.
fn interval(values: &[f64], bootstrap: Bootstrap) -> (f64, f64) {
    if values.is_empty() || bootstrap.samples == 0 {
        return (f64::NAN, f64::NAN);
    }
    let mut random = ChaCha8Rng::seed_from_u64(bootstrap.seed);
    let n = values.len() as u64;
    let mut means: Vec<f64> = (0..bootstrap.samples)
        .map(|_| {
            let total: f64 =
                (0..n).map(|_| values[((u64::from(random.next_u32()) * n) >> 32) as usize]).sum();
            total / n as f64
        })
        .collect();
    (percentile(&mut means, 0.025), percentile(&mut means, 0.975))
}

/// What equal values get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ties {
    /// The mean of the ranks they share.
    Average,
    /// The smallest of them.
    Min,
}

/// Ranks from 1, the smallest value first. NaN must have been dealt with.
///
/// # Source
/// scipy, `rankdata`.
pub fn ranks(values: &[f64], ties: Ties) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut out = vec![0.0; values.len()];
    // Zeros of either sign are equal, which total_cmp denies.
    for group in order.chunk_by(|&a, &b| values[a].partial_cmp(&values[b]) == Some(std::cmp::Ordering::Equal))
    {
        let first = order.iter().position(|i| i == &group[0]).unwrap_or(0);
        let rank = match ties {
            Ties::Average => first as f64 + (group.len() + 1) as f64 / 2.0,
            Ties::Min => first as f64 + 1.0,
        };
        for &i in group {
            out[i] = rank;
        }
    }
    out
}

/// Spearman's rank correlation of pairs without NaN; NaN if fewer than two are left or one side is constant.
///
/// # Source
/// scipy, `spearmanr(…, nan_policy="omit")`.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b): (Vec<f64>, Vec<f64>) =
        a.iter().zip(b).filter(|(x, y)| !x.is_nan() && !y.is_nan()).map(|(&x, &y)| (x, y)).unzip();
    let (a, b) = (ranks(&a, Ties::Average), ranks(&b, Ties::Average));
    let (ma, mb) = (mean(&a), mean(&b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(&b).map(|(&x, &y)| f(x - ma, y - mb)).sum::<f64>();
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_summed_up_without_its_undefined_values() {
        let s = Summary::of(&[4.0, f64::NAN, 1.0, 3.0, 2.0], Bootstrap::default());
        assert_eq!((s.n, s.undefined), (4, 1));
        assert_eq!((s.min, s.q1, s.median, s.q3, s.max), (1.0, 1.75, 2.5, 3.25, 4.0));
        assert!((s.mean - 2.5).abs() < 1e-12 && (s.sd - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!(1.0 < s.ci_low && s.ci_low < 2.5 && 2.5 < s.ci_high && s.ci_high < 4.0, "{s:?}");
        assert_eq!(s, Summary::of(&[4.0, 1.0, f64::NAN, 3.0, 2.0], Bootstrap::default()));
    }

    #[test]
    fn the_interval_covers_the_true_mean_about_as_often_as_it_says() {
        // Means of 40 uniform values each, 200 times: 95 % of the intervals should hold 0.5.
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let hits = (0..200)
            .filter(|_| {
                let values: Vec<f64> =
                    (0..40).map(|_| f64::from(random.next_u32()) / f64::from(u32::MAX)).collect();
                let s = Summary::of(&values, Bootstrap { samples: 400, seed: 7 });
                s.ci_low <= 0.5 && 0.5 <= s.ci_high
            })
            .count();
        assert!((178..=199).contains(&hits), "{hits} of 200");
    }

    #[test]
    fn an_empty_or_infinite_column_is_no_trouble() {
        let s = Summary::of(&[f64::NAN], Bootstrap::default());
        assert!(s.n == 0 && s.mean.is_nan() && s.median.is_nan() && s.ci_low.is_nan());
        let s = Summary::of(&[f64::INFINITY, 1.0, 2.0], Bootstrap::default());
        assert_eq!((s.mean, s.median, s.max), (f64::INFINITY, 2.0, f64::INFINITY));
        assert!(!s.ci_low.is_nan() && s.ci_high.is_infinite());
    }

    #[test]
    fn equal_values_share_a_rank() {
        let values = [0.3, 0.1, 0.3, 0.0, -0.0];
        assert_eq!(ranks(&values, Ties::Average), [4.5, 3.0, 4.5, 1.5, 1.5]);
        assert_eq!(ranks(&values, Ties::Min), [4.0, 3.0, 4.0, 1.0, 1.0]);
    }

    #[test]
    fn correlation_of_ranks_sees_order_only() {
        assert!((spearman(&[1.0, 2.0, 3.0, f64::NAN], &[1.0, 10.0, 100.0, 0.0]) - 1.0).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 4.0, 3.0]) - 0.6).abs() < 1e-12);
        assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
    }
}
