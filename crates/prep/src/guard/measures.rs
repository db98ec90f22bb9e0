//! What is measured of channels: ranks, correlations, skewness.

use rayon::prelude::*;

/// The darkest and the brightest share of the voxels.
const SHARE: f64 = 0.05;
/// Share of the voxels beyond the quantiles that tell an asymmetry of differences.
const EXTREME: f64 = 0.001;

/// Extremes of a difference that are this far apart, in distances between quartiles, count in full.
const SPREAD: f64 = 2.0;

/// Everything that the tests need, for every channel and every pair.
#[derive(Debug)]
pub(super) struct Measures {
    /// `[a][b]`: mean rank in `b`, 0 to 1, of the darkest voxels of `a`.
    pub(super) dark: Vec<Vec<f64>>,
    /// `[a][b]`: mean rank in `b` of the brightest voxels of `a`.
    pub(super) bright: Vec<Vec<f64>>,
    /// Bowley's skewness between the 5 % quantiles: −1 to 1.
    pub(super) skewness: Vec<f64>,
    /// Spearman's correlation.
    pub(super) rank_correlation: Vec<Vec<f64>>,
    /// Pearson's correlation.
    pub(super) correlation: Vec<Vec<f64>>,
    /// `[a][b]`: skewness between the extreme quantiles of `b − a`, both brought to the same quartiles; less where they
    /// hardly differ.
    pub(super) asymmetry: Vec<Vec<f64>>,
}

/// One channel, ready to be compared.
struct Channel {
    ranks: Vec<f32>,
    sorted: Vec<f32>,
    /// Values about the median, in units of the distance between the quartiles.
    scaled: Vec<f32>,
}

impl Channel {
    fn new(values: &[f32]) -> Self {
        let mut order: Vec<u32> = (0..values.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| values[a as usize].total_cmp(&values[b as usize]));
        let sorted: Vec<f32> = order.iter().map(|&i| values[i as usize]).collect();
        let mut ranks = vec![0.0; values.len()];
        let mut start = 0;
        for group in sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()) {
            // Equal values share their mean rank.
            let rank = (start as f64 + (group.len() as f64 - 1.0) / 2.0) / values.len() as f64;
            order[start..start + group.len()].iter().for_each(|&i| ranks[i as usize] = rank as f32);
            start += group.len();
        }
        let [low, median, high] = [0.25, 0.5, 0.75].map(|q| quantile(&sorted, q));
        let width = if high > low { high - low } else { 1.0 };
        let scaled = values.iter().map(|v| (v - median) / width).collect();
        Self { ranks, sorted, scaled }
    }

    /// Mean of `of` where this channel satisfies `wanted`.
    fn mean_rank(&self, of: &Self, wanted: impl Fn(f32) -> bool) -> f64 {
        let (mut sum, mut count) = (0.0, 0usize);
        for (&mine, &theirs) in self.ranks.iter().zip(&of.ranks) {
            if wanted(mine) {
                sum += f64::from(theirs);
                count += 1;
            }
        }
        if count == 0 { 0.5 } else { sum / count as f64 }
    }
}

/// The value at a share of sorted values, the nearest one.
fn quantile(sorted: &[f32], share: f64) -> f32 {
    sorted[(share * (sorted.len() - 1) as f64).round() as usize]
}

/// How much farther the upper quantile is from the median than the lower one, −1 to 1.
fn bowley(sorted: &[f32], share: f64) -> f64 {
    let [low, median, high] = [share, 0.5, 1.0 - share].map(|q| f64::from(quantile(sorted, q)));
    if high > low { (high + low - 2.0 * median) / (high - low) } else { 0.0 }
}

fn pearson(a: &[f32], b: &[f32]) -> f64 {
    let mean = |v: &[f32]| v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (f64::from(x) - ma, f64::from(y) - mb);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

/// How much farther `b` lies above `a` than below it, in its extremes; −1 to 1.
fn asymmetry(a: &Channel, b: &Channel) -> f64 {
    let mut difference: Vec<f32> = b.scaled.iter().zip(&a.scaled).map(|(b, a)| b - a).collect();
    let mut at = |share: f64| {
        let index = (share * (difference.len() - 1) as f64).round() as usize;
        f64::from(*difference.select_nth_unstable_by(index, f32::total_cmp).1)
    };
    let [low, median, high] = [EXTREME, 0.5, 1.0 - EXTREME].map(&mut at);
    let width = high - low;
    // Images that hardly differ tell nothing, whatever the shape of the little there is.
    if width > 0.0 { (high + low - 2.0 * median) / width * (width / SPREAD).min(1.0) } else { 0.0 }
}

fn asymmetries(channels: &[Channel]) -> Vec<Vec<f64>> {
    let n = channels.len();
    let pairs: Vec<(usize, usize)> = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b))).collect();
    let values: Vec<f64> = pairs.par_iter().map(|&(a, b)| asymmetry(&channels[a], &channels[b])).collect();
    let mut all = vec![vec![0.0; n]; n];
    for ((a, b), value) in pairs.into_iter().zip(values) {
        (all[a][b], all[b][a]) = (value, -value);
    }
    all
}

impl Measures {
    /// Measures channels, of which `samples` holds the same voxels each.
    pub(super) fn new(samples: &[Vec<f32>]) -> Self {
        let channels: Vec<Channel> = samples.par_iter().map(|s| Channel::new(s)).collect();
        let pairs = |measure: &(dyn Fn(&Channel, &Channel) -> f64 + Sync)| -> Vec<Vec<f64>> {
            channels.par_iter().map(|a| channels.iter().map(|b| measure(a, b)).collect()).collect()
        };
        let (low, high) = (SHARE as f32, 1.0 - SHARE as f32);
        Self {
            dark: pairs(&|a, b| a.mean_rank(b, |rank| rank < low)),
            bright: pairs(&|a, b| a.mean_rank(b, |rank| rank >= high)),
            skewness: channels.iter().map(|c| bowley(&c.sorted, SHARE)).collect(),
            rank_correlation: pairs(&|a, b| pearson(&a.ranks, &b.ranks)),
            correlation: pairs(&|a, b| pearson(&a.scaled, &b.scaled)),
            asymmetry: asymmetries(&channels),
        }
    }
}
