//! BraTS 2026: instances matched one to one, as BraTS-evaluation 0.0.10 has panoptica 2.1.7 compute them.
//!
//! Two peculiarities of the original are kept, because its numbers are the official ones: the spacing of instances is
//! taken in the order x, y, z for an array `[z, y, x]` (no difference at 1 mm), and the metrics of a whole group use
//! voxels for millimetres, with a tolerance of half a voxel.

use std::collections::HashMap;

use glioseg_volume::components::{Components, Connectivity, components};
use rayon::prelude::*;

use super::{Lesion, RegionScores};
use crate::assignment::{Costs, assign};
use crate::labels::{LabelScheme, Region};
use crate::metric::{Metric, Unit};
use crate::number::Values;
use crate::pair::Pair;
use crate::surface::SurfaceDistances;

/// What the official tables print for an infinite distance, and for a case without prediction.
pub const PENALTY_HD95: f64 = 373.0;

/// What it computes, under panoptica's names.
pub const METRICS: [Metric; 22] = [
    Metric::amount("n_ref_instances", "lesions of the reference", Unit::Lesions),
    Metric::amount("n_pred_instances", "lesions predicted", Unit::Lesions),
    Metric::amount("tp", "lesions found", Unit::Lesions),
    Metric::amount("fp", "false lesions", Unit::Lesions),
    Metric::amount("fn", "lesions missed", Unit::Lesions),
    Metric::share("prec", "precision of lesions"),
    Metric::share("rec", "recall of lesions"),
    Metric::share("rq", "recognition quality").ranked(),
    Metric::share("sq_dsc", "Dice of found lesions").ranked(),
    Metric::amount("sq_dsc_std", "spread of the Dice of found lesions", Unit::One).within(0.0, 1.0),
    Metric::share("pq_dsc", "panoptic quality"),
    Metric::distance("sq_hd95", "95th percentile Hausdorff distance of found lesions").shown(),
    Metric::amount("sq_hd95_std", "spread of the distance of found lesions", Unit::Mm),
    Metric::share("sq_nsd", "surface Dice of found lesions").ranked(),
    Metric::amount("sq_nsd_std", "spread of the surface Dice of found lesions", Unit::One).within(0.0, 1.0),
    Metric::amount("instance_voxel_count_ref", "voxels of a found lesion", Unit::Voxels),
    Metric::amount("instance_volume_ref", "volume of a found lesion", Unit::Mm3),
    Metric::amount("global_bin_volume_pred", "voxels predicted", Unit::Voxels),
    Metric::amount("global_bin_volume_ref", "voxels of the reference", Unit::Voxels),
    Metric::share("global_bin_dsc", "Dice of the whole group").shown(),
    Metric::distance("global_bin_hd95", "95th percentile Hausdorff distance of the whole group")
        .in_unit(Unit::Edges)
        .shown(),
    Metric::share("global_bin_nsd", "surface Dice of the whole group"),
];

/// Pairs of instances with a smaller Dice are no match.
const MATCH: f64 = 1e-6;

/// Tolerance of the surface Dice of a whole group, in voxels.
const GLOBAL_TOLERANCE: f64 = 0.5;

/// Scores every group of the scheme.
///
/// # Source
/// BraTS-evaluation 0.0.10, `config_gli.yaml` and its kin; panoptica 2.1.7, `PanopticaResult.to_dict`.
pub fn score(pair: &Pair, scheme: &LabelScheme) -> Vec<RegionScores> {
    scheme.groups.par_iter().map(|group| score_group(pair, group)).collect()
}

fn score_group(pair: &Pair, group: &Region) -> RegionScores {
    let masks = pair.masks(&group.labels);
    let shape = masks.shape();
    let counts = pair.counts(&group.labels);
    let (reference, prediction) = rayon::join(
        || components(&masks.reference, shape, Connectivity::Corners),
        || components(&masks.prediction, shape, Connectivity::Corners),
    );
    let matches = matches(&reference, &prediction);
    // An array [z, y, x] with a spacing x, y, z, as the original has it.
    let [z, y, x] = masks.spacing;
    let spacing = [x, y, z];
    let tolerance = x.min(y).min(z);
    let volume = |voxels: usize| voxels as f64 * pair.voxel_mm3();
    let (found, global) = rayon::join(
        || {
            matches
                .par_iter()
                .map(|m| {
                    let (r, p) = (m.reference as usize - 1, m.prediction as usize - 1);
                    let place = reference.boxes[r].union(&prediction.boxes[p]);
                    let only = |all: &Components, wanted: u32| -> Vec<bool> {
                        place.cut(&all.labels, shape).into_iter().map(|label| label == wanted).collect()
                    };
                    let distances = SurfaceDistances::between(
                        &only(&reference, m.reference),
                        &only(&prediction, m.prediction),
                        place.shape(),
                        spacing,
                    );
                    Lesion {
                        voxels: reference.sizes[r],
                        volume_mm3: volume(reference.sizes[r]),
                        matched: true,
                        counted: true,
                        dice: m.dice,
                        nsd: distances.as_ref().map_or(f64::NAN, |d| d.nsd(tolerance)),
                        hd95: distances.as_ref().map_or(f64::NAN, SurfaceDistances::hd95),
                    }
                })
                .collect::<Vec<_>>()
        },
        || {
            if matches.is_empty() {
                return None;
            }
            SurfaceDistances::between(&masks.reference, &masks.prediction, shape, [1.0; 3])
        },
    );
    let values = values(&Matched {
        references: reference.count(),
        predictions: prediction.count(),
        found: &found,
        voxels_reference: counts.reference(),
        voxels_prediction: counts.prediction(),
        global_dice: counts.dice(),
        global,
    });
    let mut lesions = found;
    let mut missed: Vec<bool> = vec![true; reference.count()];
    for m in &matches {
        missed[m.reference as usize - 1] = false;
    }
    lesions.extend(reference.sizes.iter().zip(missed).filter(|(_, missed)| *missed).map(|(&voxels, _)| {
        Lesion {
            voxels,
            volume_mm3: volume(voxels),
            matched: false,
            counted: true,
            dice: f64::NAN,
            nsd: f64::NAN,
            hd95: f64::NAN,
        }
    }));
    RegionScores { region: group.name.clone(), values, lesions }
}

/// An instance of the reference and the one of the prediction that is matched to it.
struct Match {
    reference: u32,
    prediction: u32,
    dice: f64,
}

/// The best one-to-one matching by Dice, in the order of the reference's instances.
///
/// # Source
/// panoptica, `MaxBipartiteMatching` with `matching_metric: DSC`, `matching_threshold: 0.000001`.
fn matches(reference: &Components, prediction: &Components) -> Vec<Match> {
    let mut overlaps: HashMap<(u32, u32), usize> = HashMap::new();
    for (&r, &p) in reference.labels.iter().zip(&prediction.labels) {
        if r != 0 && p != 0 {
            *overlaps.entry((r, p)).or_default() += 1;
        }
    }
    let dice = |(r, p): (u32, u32)| {
        let voxels = overlaps.get(&(r, p)).copied().unwrap_or(0);
        2.0 * voxels as f64 / (reference.sizes[r as usize - 1] + prediction.sizes[p as usize - 1]) as f64
    };
    let costs = Costs {
        rows: reference.count(),
        columns: prediction.count(),
        default: 1.0 + 1e-6,
        entries: overlaps
            .keys()
            .filter(|&&pair| dice(pair) >= MATCH)
            .map(|&(r, p)| ((r as usize - 1, p as usize - 1), 1.0 - dice((r, p))))
            .collect(),
    };
    assign(&costs)
        .into_iter()
        .filter(|&(r, p)| costs.at(r, p) < 1.0)
        .map(|(r, p)| {
            let (reference, prediction) = (r as u32 + 1, p as u32 + 1);
            Match { reference, prediction, dice: dice((reference, prediction)) }
        })
        .collect()
}

/// What the numbers of a group are made from.
struct Matched<'a> {
    references: usize,
    predictions: usize,
    found: &'a [Lesion],
    voxels_reference: u64,
    voxels_prediction: u64,
    global_dice: f64,
    global: Option<SurfaceDistances>,
}

/// Numbers in panoptica's order and under its names; precision and recall are left out where nothing was counted.
fn values(outcome: &Matched<'_>) -> Values {
    let (tp, n_ref, n_pred) = (outcome.found.len(), outcome.references, outcome.predictions);
    let (fp, fn_) = (n_pred - tp, n_ref - tp);
    // Without a match everything is the worst there is, or undefined where there is nothing to find.
    let (worst, worst_hd95) = if n_ref + n_pred == 0 { (f64::NAN, f64::NAN) } else { (0.0, f64::INFINITY) };
    let rq = if tp == 0 { worst } else { tp as f64 / (tp as f64 + 0.5 * fp as f64 + 0.5 * fn_ as f64) };
    let over = |worst: f64, of: fn(&Lesion) -> f64| -> (f64, f64) {
        let list: Vec<f64> = outcome.found.iter().map(of).collect();
        if list.is_empty() {
            return (worst, f64::NAN);
        }
        let mean = list.iter().sum::<f64>() / list.len() as f64;
        let variance = list.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / list.len() as f64;
        (mean, variance.sqrt())
    };
    let mut values = Values::new();
    for (name, count) in
        [("n_ref_instances", n_ref), ("n_pred_instances", n_pred), ("tp", tp), ("fp", fp), ("fn", fn_)]
    {
        values.set(name, count as f64);
    }
    if n_pred > 0 {
        values.set("prec", tp as f64 / n_pred as f64);
    }
    if n_ref > 0 {
        values.set("rec", tp as f64 / n_ref as f64);
    }
    values.set("rq", rq);
    let (dice, dice_std) = over(worst, |l| l.dice);
    values.set("sq_dsc", dice);
    values.set("sq_dsc_std", dice_std);
    values.set("pq_dsc", dice * rq);
    let (hd95, hd95_std) = over(worst_hd95, |l| l.hd95);
    values.set("sq_hd95", hd95);
    values.set("sq_hd95_std", hd95_std);
    let (nsd, nsd_std) = over(worst, |l| l.nsd);
    values.set("sq_nsd", nsd);
    values.set("sq_nsd_std", nsd_std);
    values.set("instance_voxel_count_ref", over(f64::NAN, |l| l.voxels as f64).0);
    values.set("instance_volume_ref", over(f64::NAN, |l| l.volume_mm3).0);
    values.set("global_bin_volume_pred", outcome.voxels_prediction as f64);
    values.set("global_bin_volume_ref", outcome.voxels_reference as f64);
    values.set("global_bin_dsc", if tp == 0 { worst } else { outcome.global_dice });
    let global = outcome.global.as_ref();
    values.set("global_bin_hd95", global.map_or(worst_hd95, SurfaceDistances::hd95));
    values.set("global_bin_nsd", global.map_or(worst, |d| d.nsd(GLOBAL_TOLERANCE)));
    values
}

/// A value as the official table has it: the distance of whole groups is [`PENALTY_HD95`] where it is infinite.
///
/// # Source
/// BraTS-evaluation 0.0.10, `parse_seg_results`.
pub fn tabled(rule: &str, metric: &str, value: f64) -> f64 {
    let global = rule == super::Rule::Brats2026.name() && metric == "global_bin_hd95";
    if global && value.is_infinite() { PENALTY_HD95 } else { value }
}

/// A case without a prediction: 0 for everything, the penalty for distances.
///
/// # Source
/// BraTS-evaluation 0.0.10, `_handle_missing_data`.
pub(super) fn missing() -> Values {
    let zero = [
        "tp",
        "fp",
        "fn",
        "prec",
        "rec",
        "rq",
        "sq_dsc",
        "sq_dsc_std",
        "sq_nsd",
        "sq_nsd_std",
        "sq_hd95_std",
        "global_bin_dsc",
        "global_bin_nsd",
    ];
    let mut values: Values = zero.into_iter().map(|name| (name, 0.0)).collect();
    for name in ["sq_hd95", "global_bin_hd95"] {
        values.set(name, PENALTY_HD95);
    }
    values
}
