//! nnU-Net's own metrics: overlap and counts per label or region.

use super::RegionScores;
use crate::labels::{Class, LabelScheme};
use crate::metric::{Metric, Unit};
use crate::number::Values;
use crate::pair::{Counts, Pair};

/// What it computes, in the order of `summary.json`.
pub const METRICS: [Metric; 8] = [
    Metric::share("Dice", "Dice").ranked(),
    Metric::amount("FN", "false negatives", Unit::Voxels),
    Metric::amount("FP", "false positives", Unit::Voxels),
    Metric::share("IoU", "intersection over union").shown(),
    Metric::amount("TN", "true negatives", Unit::Voxels),
    Metric::amount("TP", "true positives", Unit::Voxels),
    Metric::amount("n_pred", "voxels predicted", Unit::Voxels),
    Metric::amount("n_ref", "voxels of the reference", Unit::Voxels),
];

/// Dice and `IoU` are NaN where both are empty.
///
/// # Source
/// nnU-Net v2, `compute_metrics`.
pub fn values(counts: &Counts) -> Values {
    let numbers = [
        counts.dice(),
        counts.fn_ as f64,
        counts.fp as f64,
        counts.iou(),
        counts.tn as f64,
        counts.tp as f64,
        counts.prediction() as f64,
        counts.reference() as f64,
    ];
    METRICS.iter().map(|metric| metric.key).zip(numbers).collect()
}

/// Scores every class; its name is its key in `summary.json`.
pub fn score(pair: &Pair, scheme: &LabelScheme) -> Vec<RegionScores> {
    let one = |class: &Class| RegionScores {
        region: class.key(),
        values: values(&pair.counts(class.labels())),
        lesions: Vec::new(),
    };
    scheme.classes.iter().map(one).collect()
}
