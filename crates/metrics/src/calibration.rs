//! How well calibrated probabilities are: expected calibration error and Brier score.

use serde::{Deserialize, Serialize};

use crate::error::MetricsError;
use crate::number::float;

/// How well calibrated the saved probabilities of a cohort are, region by region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationScores {
    /// Cases whose probabilities were read.
    pub cases: usize,
    /// Voxels count that lie in the box around all labels of reference and prediction, grown by so much on every side:
    /// an empty background, however large, is not a merit.
    pub margin_mm: f64,
    /// The regions that the model has an answer for.
    pub regions: Vec<RegionCalibration>,
}

/// Calibration of a region, over the voxels of all cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionCalibration {
    /// Name of the region.
    pub region: String,
    /// Expected calibration error.
    #[serde(with = "float")]
    pub ece: f64,
    /// Brier score.
    #[serde(with = "float")]
    pub brier: f64,
    /// Voxels by probability, in equal intervals from 0 to 1.
    pub bins: Vec<Bin>,
}

impl RegionCalibration {
    /// What was gathered of a region.
    pub fn new(region: &str, gathered: &Calibration) -> Self {
        Self {
            region: region.to_owned(),
            ece: gathered.ece(),
            brier: gathered.brier(),
            bins: gathered.bins().to_vec(),
        }
    }
}

/// Voxels gathered by their probability; cases can be gathered one by one and joined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    bins: Vec<Bin>,
    squares: f64,
}

/// Voxels whose probability lies in one of equal intervals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Voxels.
    pub voxels: u64,
    /// Of these, voxels of the reference.
    pub positive: u64,
    /// Sum of the probabilities.
    pub probability: f64,
}

impl Bin {
    /// Mean probability; NaN without voxels.
    pub fn confidence(&self) -> f64 {
        self.probability / self.voxels as f64
    }

    /// Fraction of voxels of the reference; NaN without voxels.
    pub fn frequency(&self) -> f64 {
        self.positive as f64 / self.voxels as f64
    }
}

impl Calibration {
    /// Nothing gathered yet; `bins` equal intervals from 0 to 1 (15 is usual).
    ///
    /// # Panics
    /// If `bins` is 0.
    pub fn new(bins: usize) -> Self {
        assert!(bins > 0, "at least one bin");
        Self { bins: vec![Bin::default(); bins], squares: 0.0 }
    }

    /// Gathers the voxels of a region: its probabilities and whether each voxel belongs to it in the reference.
    ///
    /// # Errors
    /// [`MetricsError::Length`] if the arrays differ in length; [`MetricsError::Probability`] for the first value that is
    /// NaN or outside 0 to 1. Nothing is gathered then.
    pub fn add(&mut self, probabilities: &[f32], reference: &[bool]) -> Result<(), MetricsError> {
        if probabilities.len() != reference.len() {
            return Err(MetricsError::Length {
                first_name: "the probability map",
                first: probabilities.len(),
                second_name: "the reference",
                second: reference.len(),
            });
        }
        if let Some(index) = probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
            return Err(MetricsError::Probability { index, value: probabilities[index] });
        }
        let count = self.bins.len();
        for (&p, &truth) in probabilities.iter().zip(reference) {
            let p = f64::from(p);
            // Intervals are closed above, as in Guo et al. 2017, but for 0, which belongs to the first.
            let which = ((p * count as f64).ceil() as usize).clamp(1, count) - 1;
            let bin = &mut self.bins[which];
            bin.voxels += 1;
            bin.positive += u64::from(truth);
            bin.probability += p;
            self.squares += (p - f64::from(u8::from(truth))).powi(2);
        }
        Ok(())
    }

    /// Joins what another has gathered.
    ///
    /// # Panics
    /// If the numbers of bins differ.
    pub fn join(&mut self, other: &Self) {
        assert_eq!(self.bins.len(), other.bins.len(), "bins");
        for (a, b) in self.bins.iter_mut().zip(&other.bins) {
            a.voxels += b.voxels;
            a.positive += b.positive;
            a.probability += b.probability;
        }
        self.squares += other.squares;
    }

    /// The intervals, for a reliability diagram.
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    fn voxels(&self) -> u64 {
        self.bins.iter().map(|b| b.voxels).sum()
    }

    /// Expected calibration error: mean distance of probability and frequency, weighted by voxels; NaN without any.
    pub fn ece(&self) -> f64 {
        let gap: f64 = self.bins.iter().map(|b| (b.probability - b.positive as f64).abs()).sum();
        gap / self.voxels() as f64
    }

    /// Brier score: mean squared distance of probability and truth; NaN without voxels.
    pub fn brier(&self) -> f64 {
        self.squares / self.voxels() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_that_come_true_are_calibrated() {
        let mut all = Calibration::new(4);
        all.add(&[0.25, 0.25, 0.25, 0.25], &[true, false, false, false]).expect("probabilities");
        assert!((all.ece(), all.brier()) == (0.0, 0.1875), "{all:?}");
        let mut sure = Calibration::new(4);
        sure.add(&[1.0, 1.0, 0.0, 0.0], &[true, false, false, false]).expect("probabilities");
        assert_eq!((sure.ece(), sure.brier()), (0.25, 0.25));
        all.join(&sure);
        assert_eq!((all.ece(), all.bins()[0].voxels, all.bins()[3].positive), (0.125, 6, 1));
    }

    #[test]
    fn nan_is_refused_with_its_place() {
        let mut all = Calibration::new(15);
        let error = all.add(&[0.5, f32::NAN], &[true, true]).expect_err("NaN");
        assert!(error.to_string().contains("probability 1 is NaN"), "{error}");
        assert!(all.add(&[0.5, 1.5], &[true, true]).is_err());
        assert!(all.add(&[0.5], &[true, true]).expect_err("lengths").to_string().contains("has 1 values"));
        assert!(all.ece().is_nan(), "nothing was gathered");
    }
}
