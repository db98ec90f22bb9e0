//! The threshold below which a predicted enhancing tumour is not believed, as the BraTS 2021 winner searched it.

use serde::Serialize;

/// Thresholds that the winner compared.
///
/// # Source
/// The winner's `Task500_BraTS_2021.py`, `determine_brats_postprocessing`.
pub const WINNER_THRESHOLDS: [u64; 11] = [0, 10, 50, 100, 200, 500, 750, 1000, 1500, 2500, 10000];

/// Voxels of the label in one case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchCase {
    /// In the prediction.
    pub predicted: u64,
    /// In the reference.
    pub reference: u64,
    /// In both.
    pub both: u64,
}

impl SearchCase {
    /// The case's score if a prediction of fewer than `threshold` voxels is taken for none.
    ///
    /// Two empty masks score 0 where nothing is removed, and 1 where the threshold stands for it: so had the winner's version
    /// of medpy, and therefore threshold 0 loses on cases without enhancing tumour.
    fn score(&self, threshold: u64) -> f64 {
        if self.predicted < threshold {
            return f64::from(u8::from(self.reference == 0));
        }
        match self.predicted + self.reference {
            0 => 0.0,
            sum => 2.0 * self.both as f64 / sum as f64,
        }
    }
}

/// Mean score at one threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ThresholdScore {
    /// The threshold in voxels.
    pub below_voxels: u64,
    /// Mean over the cases.
    pub mean: f64,
    /// Cases in which the prediction is removed.
    pub removed: usize,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThresholdSearch {
    /// Every threshold's score, in the order given.
    pub scores: Vec<ThresholdScore>,
    /// The best threshold; the first of equal ones.
    pub best: u64,
    /// Number of cases.
    pub cases: usize,
}

/// Compares thresholds on predictions with references.
///
/// # Panics
/// If there is no case or no threshold.
///
/// # Source
/// The winner's `Task500_BraTS_2021.py`: per case Dice, or 1 and 0 for a removed prediction; mean over the cases; first maximum.
pub fn search_threshold(cases: &[SearchCase], thresholds: &[u64]) -> ThresholdSearch {
    assert!(!cases.is_empty() && !thresholds.is_empty(), "a search without cases or thresholds");
    let scores: Vec<ThresholdScore> = thresholds
        .iter()
        .map(|&below_voxels| ThresholdScore {
            below_voxels,
            mean: cases.iter().map(|c| c.score(below_voxels)).sum::<f64>() / cases.len() as f64,
            removed: cases.iter().filter(|c| c.predicted > 0 && c.predicted < below_voxels).count(),
        })
        .collect();
    let mut best = &scores[0];
    for score in &scores[1..] {
        if score.mean > best.mean {
            best = score;
        }
    }
    ThresholdSearch { best: best.below_voxels, cases: cases.len(), scores }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_false_spot_is_removed_and_a_small_true_tumour_is_kept() {
        let case = |predicted, reference, both| SearchCase { predicted, reference, both };
        // A false spot of 40 voxels, a true tumour of 120, one of 5000, and a case where both are empty.
        let cases = [case(40, 0, 0), case(120, 100, 90), case(5000, 5200, 4600), case(0, 0, 0)];
        let found = search_threshold(&cases, &[0, 10, 50, 100, 200]);
        assert_eq!((found.best, found.cases), (50, 4), "the first of 50 and 100");
        let dice = |a: f64, b: f64, both: f64| 2.0 * both / (a + b);
        let (small, large) = (dice(120.0, 100.0, 90.0), dice(5000.0, 5200.0, 4600.0));
        let means: Vec<f64> = found.scores.iter().map(|s| s.mean).collect();
        let expected = [
            (small + large) / 4.0,
            (small + large + 1.0) / 4.0,
            (small + large + 2.0) / 4.0,
            (small + large + 2.0) / 4.0,
            (large + 2.0) / 4.0,
        ];
        for (mean, expected) in means.iter().zip(expected) {
            assert!((mean - expected).abs() < 1e-12, "{means:?}");
        }
        let removed: Vec<usize> = found.scores.iter().map(|s| s.removed).collect();
        assert_eq!(removed, [0, 0, 1, 1, 2]);
    }
}
