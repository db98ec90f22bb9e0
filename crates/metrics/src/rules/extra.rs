//! What no challenge asks for but papers do: surfaces at a tolerance, volumes, numbers of lesions.

use glioseg_volume::components::{Connectivity, components};
use rayon::prelude::*;

use super::RegionScores;
use crate::labels::{LabelScheme, Region};
use crate::metric::{Metric, Unit};
use crate::pair::Pair;
use crate::surface::SurfaceDistances;
use crate::surfel::Surfels;

/// What it computes.
pub const METRICS: [Metric; 7] = [
    Metric::share("NSD", "surface Dice at the tolerance").ranked(),
    Metric::distance("ASD", "average surface distance").ranked(),
    Metric::amount("volume_reference_mL", "volume of the reference", Unit::Ml),
    Metric::amount("volume_prediction_mL", "volume predicted", Unit::Ml),
    Metric::amount("volume_difference_mL", "volume predicted too much", Unit::Ml)
        .within(f64::NEG_INFINITY, f64::INFINITY)
        .shown(),
    Metric::amount("lesions_reference", "lesions of the reference", Unit::Lesions).shown(),
    Metric::amount("lesions_prediction", "lesions predicted", Unit::Lesions).shown(),
];

/// Per region:
///
/// - `NSD`, the surface Dice at `tolerance_mm`, areas weighted as the `surface-distance` library does; NaN where both are empty.
/// - `ASD`, the average symmetric surface distance in mm (medpy's `assd`); NaN where either is empty.
/// - `volume_reference_mL`, `volume_prediction_mL`, `volume_difference_mL` (prediction minus reference).
/// - `lesions_reference`, `lesions_prediction`, connected by faces, edges or corners.
pub fn score(pair: &Pair, scheme: &LabelScheme, tolerance_mm: f64) -> Vec<RegionScores> {
    let one = |region: &Region| {
        let counts = pair.counts(&region.labels);
        let masks = pair.masks(&region.labels);
        let shape = masks.shape();
        let surfels = Surfels::between(&masks.reference, &masks.prediction, shape, masks.spacing);
        let distances = SurfaceDistances::between(&masks.reference, &masks.prediction, shape, masks.spacing);
        let lesions = |mask: &[bool]| components(mask, shape, Connectivity::Corners).count() as f64;
        let voxel_ml = pair.voxel_mm3() / 1000.0;
        let (reference, prediction) =
            (counts.reference() as f64 * voxel_ml, counts.prediction() as f64 * voxel_ml);
        RegionScores {
            region: region.name.clone(),
            values: [
                ("NSD", surfels.dice_at(tolerance_mm)),
                ("ASD", distances.map_or(f64::NAN, |d| d.average())),
                ("volume_reference_mL", reference),
                ("volume_prediction_mL", prediction),
                ("volume_difference_mL", prediction - reference),
                ("lesions_reference", lesions(&masks.reference)),
                ("lesions_prediction", lesions(&masks.prediction)),
            ]
            .into_iter()
            .collect(),
            lesions: Vec::new(),
        }
    };
    scheme.regions.par_iter().map(one).collect()
}
