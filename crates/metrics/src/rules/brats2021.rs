//! BraTS 2018 to 2022: whole regions, with penalties for empty ones.

use rayon::prelude::*;

use super::RegionScores;
use crate::labels::LabelScheme;
use crate::metric::{Metric, Unit};
use crate::number::Values;
use crate::pair::{Counts, Pair};
use crate::surface::SurfaceDistances;

/// Distance in mm where exactly one of reference and prediction is empty: the diagonal of 240 x 240 x 155 voxels of 1 mm.
pub const EMPTY_HD95: f64 = 373.1287;

/// What it computes.
pub const METRICS: [Metric; 8] = [
    Metric::share("Dice", "Dice").ranked(),
    Metric::distance("HD95", "95th percentile Hausdorff distance").ranked(),
    Metric::share("Sensitivity", "sensitivity").shown(),
    Metric::share("Specificity", "specificity").shown(),
    Metric::amount("TP", "true positives", Unit::Voxels),
    Metric::amount("FP", "false positives", Unit::Voxels),
    Metric::amount("FN", "false negatives", Unit::Voxels),
    Metric::amount("TN", "true negatives", Unit::Voxels),
];

/// Dice, HD95, sensitivity and specificity of every region.
///
/// Both empty: Dice 1 and HD95 0. One empty: Dice 0 and HD95 [`EMPTY_HD95`]. Sensitivity is NaN without a reference.
///
/// # Source
/// The winner's repository, `Task500_BraTS_2021.py`, `evaluate_BraTS_case`, with medpy's `dc` and `hd95`; distances
/// respect the spacing, which BraTS fixes at 1 mm.
pub fn score(pair: &Pair, scheme: &LabelScheme) -> Vec<RegionScores> {
    let one = |region: &crate::labels::Region| {
        let counts = pair.counts(&region.labels);
        let masks = pair.masks(&region.labels);
        let distances =
            SurfaceDistances::between(&masks.reference, &masks.prediction, masks.shape(), masks.spacing);
        RegionScores {
            region: region.name.clone(),
            values: values(&counts, distances.as_ref().map(SurfaceDistances::hd95)),
            lesions: Vec::new(),
        }
    };
    scheme.regions.par_iter().map(one).collect()
}

fn values(counts: &Counts, hd95: Option<f64>) -> Values {
    let (dice, hd95) = match (counts.reference(), counts.prediction()) {
        (0, 0) => (1.0, 0.0),
        (0, _) | (_, 0) => (0.0, EMPTY_HD95),
        _ => (counts.dice(), hd95.unwrap_or(EMPTY_HD95)),
    };
    [
        ("Dice", dice),
        ("HD95", hd95),
        ("Sensitivity", counts.sensitivity()),
        ("Specificity", counts.specificity()),
        ("TP", counts.tp as f64),
        ("FP", counts.fp as f64),
        ("FN", counts.fn_ as f64),
        ("TN", counts.tn as f64),
    ]
    .into_iter()
    .collect()
}

/// The worst of everything.
pub(super) fn missing() -> Values {
    [("Dice", 0.0), ("HD95", EMPTY_HD95), ("Sensitivity", 0.0), ("Specificity", 0.0)].into_iter().collect()
}
