//! Whether two runs differ: paired tests on cases, and correction for many of them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::statistics::{Ties, ranks};

/// Up to this many cases all sign changes are tried.
const EXACT_PERMUTATION: usize = 16;

/// Two-sided p of Wilcoxon's signed-rank test of the differences of paired values; 1 where all are zero.
///
/// Exact for up to 50 differences without zeros and ties, or up to 13 with them; else the normal approximation without
/// correction for continuity. NaN counts as no difference.
///
/// # Source
/// scipy 1.17, `wilcoxon` with its defaults.
pub fn wilcoxon(differences: &[f64]) -> f64 {
    let nonzero: Vec<f64> = differences.iter().copied().filter(|d| d.abs() > 0.0).collect();
    let n = nonzero.len();
    if n == 0 {
        return 1.0;
    }
    let magnitude: Vec<f64> = nonzero.iter().map(|d| d.abs()).collect();
    let ranks = ranks(&magnitude, Ties::Average);
    let plus: f64 = ranks.iter().zip(&nonzero).filter(|(_, d)| **d > 0.0).map(|(r, _)| r).sum();
    let mut sorted = magnitude;
    sorted.sort_by(f64::total_cmp);
    let groups: Vec<usize> = sorted.chunk_by(|a, b| a.to_bits() == b.to_bits()).map(<[f64]>::len).collect();
    let simple = groups.len() == n && n == differences.len();
    if (simple && n <= 50) || differences.len() <= 13 {
        return exact(&ranks, plus);
    }
    let count = n as f64;
    let mean = count * (count + 1.0) / 4.0;
    let ties: f64 = groups.iter().map(|&g| (g as f64).powi(3) - g as f64).sum();
    let variance = (count * (count + 1.0) * (2.0 * count + 1.0) - ties / 2.0) / 24.0;
    let z = (plus - mean) / variance.sqrt();
    libm::erfc(z.abs() / std::f64::consts::SQRT_2)
}

/// Twice the smaller tail of the sum of ranks over all signs.
fn exact(ranks: &[f64], plus: f64) -> f64 {
    // Ranks are whole or half: count ways to reach every doubled sum.
    let doubled: Vec<usize> = ranks.iter().map(|r| (2.0 * r).round() as usize).collect();
    let total: usize = doubled.iter().sum();
    let mut ways = vec![0.0; total + 1];
    ways[0] = 1.0;
    let mut reach = 0;
    for &r in &doubled {
        for sum in (0..=reach).rev() {
            ways[sum + r] += ways[sum];
        }
        reach += r;
    }
    let at = (2.0 * plus).round() as usize;
    let all: f64 = ways.iter().sum();
    let (below, above): (f64, f64) = (ways[..=at].iter().sum(), ways[at..].iter().sum());
    (2.0 * below.min(above) / all).min(1.0)
}

/// Two-sided p of a paired permutation test of the mean difference: signs of the differences are exchanged, all of
/// them for few cases, else `permutations` times at random.
///
/// # Source
/// The BraTS rankings' permutation test on the cases' ranks.
pub fn permutation(differences: &[f64], permutations: usize, seed: u64) -> f64 {
    let observed = differences.iter().sum::<f64>().abs();
    // Rounding must not make a permutation that equals the observation look smaller.
    let limit = observed - 1e-9 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let n = differences.len();
    if n <= EXACT_PERMUTATION {
        let hits = (0u32..1 << n)
            .filter(|signs| {
                let sum: f64 = differences
                    .iter()
                    .enumerate()
                    .map(|(i, d)| if signs >> i & 1 == 0 { *d } else { -d })
                    .sum();
                sum.abs() >= limit
            })
            .count();
        return hits as f64 / f64::from(1u32 << n);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut hits = 0usize;
    for _ in 0..permutations {
        let mut sum = 0.0;
        for part in differences.chunks(64) {
            let signs = random.next_u64();
            sum +=
                part.iter().enumerate().map(|(i, d)| if signs >> i & 1 == 0 { *d } else { -d }).sum::<f64>();
        }
        hits += usize::from(sum.abs() >= limit);
    }
    (hits + 1) as f64 / (permutations + 1) as f64
}

/// Holm's correction: p values adjusted so that comparing each with 0.05 keeps the chance of any false alarm at 5 %.
///
/// # Source
/// R, `p.adjust(…, "holm")`.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut so_far: f64 = 0.0;
    for (i, &k) in order.iter().enumerate() {
        so_far = so_far.max(((p.len() - i) as f64 * p[k]).min(1.0));
        adjusted[k] = so_far;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holm_is_that_of_r() {
        // R 4.3: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
        let found = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (a, b) in found.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((a - b).abs() < 1e-12, "{found:?}");
        }
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn permutations_of_few_cases_are_all_tried() {
        // Only +++ and --- are as far from zero.
        assert!((permutation(&[1.0, 2.0, 3.0], 10, 0) - 0.25).abs() < 1e-12);
        assert!((permutation(&[0.0; 5], 10, 0) - 1.0).abs() < 1e-12);
        assert!((permutation(&[], 10, 0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn random_permutations_come_close_to_all() {
        let differences: Vec<f64> = (0..20).map(|i| f64::from(i % 7) - 2.2).collect();
        let all: usize = (0u32..1 << 20)
            .filter(|signs| {
                let sum: f64 = differences
                    .iter()
                    .enumerate()
                    .map(|(i, d)| if signs >> i & 1 == 0 { *d } else { -d })
                    .sum();
                sum.abs() >= differences.iter().sum::<f64>().abs() - 1e-9
            })
            .count();
        let exact = all as f64 / f64::from(1u32 << 20);
        let found = permutation(&differences, 20_000, 3);
        assert!((found - exact).abs() < 0.015, "{found} {exact}");
        assert!((found - permutation(&differences, 20_000, 3)).abs() < 1e-15, "same seed, same answer");
    }
}
