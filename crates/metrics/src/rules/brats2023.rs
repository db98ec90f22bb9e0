//! BraTS 2023: scores per lesion, where close lesions of the reference are one.
//!
//! Lesions of the reference whose dilations touch are merged; every predicted component that touches the dilation of
//! a lesion counts for it, so that one component may serve several lesions. Small lesions of the reference are left
//! out, small false positives are not. A merged lesion's dilation is a component of the dilated reference, so the
//! pairs of lesion and prediction come from one pass.

use std::collections::BTreeSet;

use glioseg_volume::components::{Components, Connectivity, VoxelBox, components, dilate};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Lesion, RegionScores};
use crate::labels::{LabelScheme, Region};
use crate::metric::{Metric, Unit};
use crate::number::Values;
use crate::pair::{Masks, Pair};
use crate::surfel::Surfels;

/// Distance in mm of a missed lesion or a false positive.
pub const MISSED_HD95: f64 = 374.0;

/// What it computes.
pub const METRICS: [Metric; 10] = [
    Metric::amount("Num_TP", "lesions found", Unit::Lesions).shown(),
    Metric::amount("Num_FP", "false lesions", Unit::Lesions).shown(),
    Metric::amount("Num_FN", "lesions missed", Unit::Lesions).shown(),
    Metric::share("Sensitivity", "sensitivity"),
    Metric::share("Specificity", "specificity"),
    Metric::share("Legacy_Dice", "Dice of the whole region"),
    Metric::distance("Legacy_HD95", "95th percentile Hausdorff distance of the whole region"),
    Metric::amount("GT_Complete_Volume", "volume of the reference", Unit::Mm3),
    Metric::share("LesionWise_Score_Dice", "Dice per lesion").ranked(),
    Metric::distance("LesionWise_Score_HD95", "95th percentile Hausdorff distance per lesion").ranked(),
];

/// The challenges of 2023 differ in how far lesions merge and which are too small to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Challenge {
    /// Adult glioma.
    Gli,
    /// Sub-Saharan Africa.
    Ssa,
    /// Meningioma.
    Men,
    /// Paediatric tumours.
    Ped,
    /// Metastases.
    Met,
}

impl Challenge {
    /// Steps of dilation.
    pub const fn dilation(self) -> usize {
        match self {
            Self::Gli | Self::Ssa | Self::Ped => 3,
            Self::Men | Self::Met => 1,
        }
    }

    /// Lesions of the reference up to this volume are left out.
    pub const fn small_mm3(self) -> f64 {
        match self {
            Self::Met => 2.0,
            _ => 50.0,
        }
    }
}

/// Scores every region.
///
/// # Source
/// The BraTS 2023 metrics script, `get_LesionWiseResults`.
pub fn score(pair: &Pair, scheme: &LabelScheme, challenge: Challenge) -> Vec<RegionScores> {
    scheme.regions.par_iter().map(|region| score_region(pair, region, challenge)).collect()
}

fn score_region(pair: &Pair, region: &Region, challenge: Challenge) -> RegionScores {
    let counts = pair.counts(&region.labels);
    let masks = pair.masks(&region.labels);
    let (both_empty, one_empty) =
        (counts.reference() + counts.prediction() == 0, counts.reference() == 0 || counts.prediction() == 0);
    let (hd95, (lesions, false_positives)) = rayon::join(
        || match (both_empty, one_empty) {
            (true, _) => 0.0,
            (_, true) => MISSED_HD95,
            _ => Surfels::between(&masks.reference, &masks.prediction, masks.shape(), masks.spacing).hd95(),
        },
        || lesions_of(&masks, pair.voxel_mm3(), challenge),
    );
    let counted: Vec<&Lesion> = lesions.iter().filter(|l| l.counted).collect();
    let found = counted.iter().filter(|l| l.matched).count();
    let units = (counted.len() + false_positives) as f64;
    // A fold, because an empty sum of floats is -0.
    let dice_sum = counted.iter().fold(0.0, |sum, l| sum + l.dice);
    let hd_sum = counted.iter().fold(0.0, |sum, l| sum + l.hd95);
    let nothing = counted.len() + false_positives == 0;
    let or_zero = |v: f64| if v.is_nan() { 0.0 } else { v };
    let values = [
        ("Num_TP", found as f64),
        ("Num_FP", false_positives as f64),
        ("Num_FN", (counted.len() - found) as f64),
        ("Sensitivity", if both_empty { 1.0 } else { or_zero(counts.sensitivity()) }),
        ("Specificity", or_zero(counts.specificity())),
        ("Legacy_Dice", if both_empty { 1.0 } else { counts.dice() }),
        ("Legacy_HD95", hd95),
        ("GT_Complete_Volume", counts.reference() as f64 * pair.voxel_mm3()),
        ("LesionWise_Score_Dice", if nothing { 1.0 } else { dice_sum / units }),
        (
            "LesionWise_Score_HD95",
            if nothing { 0.0 } else { (hd_sum + false_positives as f64 * MISSED_HD95) / units },
        ),
    ];
    RegionScores { region: region.name.clone(), values: values.into_iter().collect(), lesions }
}

/// The merged lesions of the reference, and the number of predicted components that belong to none.
fn lesions_of(masks: &Masks, voxel_mm3: f64, challenge: Challenge) -> (Vec<Lesion>, usize) {
    let wide = masks.with_margin(challenge.dilation());
    let shape = wide.shape();
    let predicted = components(&wide.prediction, shape, Connectivity::Corners);
    let grown = dilate(&wide.reference, shape, Connectivity::Edges, challenge.dilation());
    let merged = components(&grown, shape, Connectivity::Corners);
    drop(grown);
    let mut partners: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); merged.count()];
    let mut boxes = vec![VoxelBox::EMPTY; merged.count()];
    let mut sizes = vec![0usize; merged.count()];
    let mut overlaps = vec![0usize; merged.count()];
    for (i, &lesion) in merged.labels.iter().enumerate() {
        if lesion == 0 {
            continue;
        }
        let which = lesion as usize - 1;
        let prediction = predicted.labels[i];
        if prediction != 0 {
            partners[which].insert(prediction);
        }
        if wide.reference[i] {
            let at = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
            boxes[which] = boxes[which].union(&VoxelBox { start: at, end: at.map(|v| v + 1) });
            sizes[which] += 1;
            // A predicted voxel inside the lesion is inside its dilation, so its component is a partner.
            overlaps[which] += usize::from(prediction != 0);
        }
    }
    let used: BTreeSet<u32> = partners.iter().flatten().copied().collect();
    let scene = Scene { shape, wide: &wide, merged: &merged, predicted: &predicted };
    let lesions = (0..merged.count())
        .into_par_iter()
        .map(|which| {
            let partners = &partners[which];
            let matched_voxels: usize = partners.iter().map(|&p| predicted.sizes[p as usize - 1]).sum();
            let volume_mm3 = sizes[which] as f64 * voxel_mm3;
            let counted = volume_mm3 > challenge.small_mm3();
            Lesion {
                voxels: sizes[which],
                volume_mm3,
                matched: !partners.is_empty(),
                counted,
                dice: 2.0 * overlaps[which] as f64 / (sizes[which] + matched_voxels) as f64,
                nsd: f64::NAN,
                hd95: if partners.is_empty() {
                    MISSED_HD95
                } else if counted {
                    scene.hd95(which, boxes[which], partners)
                } else {
                    f64::NAN
                },
            }
        })
        .collect();
    (lesions, predicted.count() - used.len())
}

/// What the distance of one lesion is measured in.
struct Scene<'a> {
    shape: [usize; 3],
    wide: &'a Masks,
    merged: &'a Components,
    predicted: &'a Components,
}

impl Scene<'_> {
    fn hd95(&self, which: usize, own: VoxelBox, partners: &BTreeSet<u32>) -> f64 {
        let place = partners.iter().fold(own, |place, &p| place.union(&self.predicted.boxes[p as usize - 1]));
        let lesion = which as u32 + 1;
        let reference: Vec<bool> = place
            .cut(&self.merged.labels, self.shape)
            .into_iter()
            .zip(place.cut(&self.wide.reference, self.shape))
            .map(|(label, inside)| inside && label == lesion)
            .collect();
        let prediction: Vec<bool> = place
            .cut(&self.predicted.labels, self.shape)
            .into_iter()
            .map(|label| label != 0 && partners.contains(&label))
            .collect();
        Surfels::between(&reference, &prediction, place.shape(), self.wide.spacing).hd95()
    }
}

/// A case without a prediction: every lesion missed.
pub(super) fn missing() -> Values {
    [
        ("Sensitivity", 0.0),
        ("Specificity", 0.0),
        ("Legacy_Dice", 0.0),
        ("Legacy_HD95", MISSED_HD95),
        ("LesionWise_Score_Dice", 0.0),
        ("LesionWise_Score_HD95", MISSED_HD95),
    ]
    .into_iter()
    .collect()
}
