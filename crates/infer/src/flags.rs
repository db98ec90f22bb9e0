//! Reasons for a person to look at a case.

use glioseg_plan::record::{Flag, FlagKind};
use glioseg_plan::{Fingerprint, Labels};
use glioseg_volume::components::{Connectivity, components};
use glioseg_volume::{LabelMap, Volume};

use crate::model::Model;

/// Components below this volume count as tiny: a few voxels of 1 mm.
const TINY_ML: f64 = 0.05;
/// So many tiny components are a reason to look.
const MANY: usize = 10;
/// Part of the tumour outside the brain that is a reason to look, in voxels and as a fraction.
const OUTSIDE: (usize, f64) = (10, 0.01);
/// How far beyond the training cases' range a spacing or a size may lie, as a factor.
const BEYOND: f64 = 1.25;
/// The same for the middle of a channel's intensities, whose scale differs between scanners anyway.
const BEYOND_INTENSITY: f64 = 3.0;

/// What is known of the image when the label map is decided and the image gone.
#[derive(Debug)]
pub(crate) struct ImageFacts {
    /// Voxels where any channel is not zero.
    brain: Vec<bool>,
    /// Median of every channel inside the brain.
    medians: Vec<f32>,
}

impl ImageFacts {
    pub(crate) fn of(image: &Volume) -> Self {
        let mut brain = vec![false; image.geometry.voxels()];
        for c in 0..image.channels {
            brain.iter_mut().zip(image.channel(c)).for_each(|(b, v)| *b |= *v != 0.0);
        }
        let median = |c: usize| {
            // Every fifth voxel is enough for a median.
            let inside = image.channel(c).iter().zip(&brain).step_by(5).filter(|(_, b)| **b);
            let mut values: Vec<f32> = inside.map(|(v, _)| *v).collect();
            let middle = values.len() / 2;
            if values.is_empty() { 0.0 } else { *values.select_nth_unstable_by(middle, f32::total_cmp).1 }
        };
        let medians = (0..image.channels).map(median).collect();
        Self { brain, medians }
    }
}

/// What the training cases were like, as far as the model's folder tells.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrainingRange {
    /// Least and greatest spacing in mm along z, y, x.
    spacing_mm: Option<[[f64; 2]; 3]>,
    /// Least and greatest number of voxels after cropping along z, y, x.
    shape: Option<[[f64; 2]; 3]>,
    /// 0.5 % and 99.5 % of the foreground's intensities, channel by channel.
    intensities: Vec<[f64; 2]>,
}

impl TrainingRange {
    /// From `dataset_fingerprint.json` where the model has one, else from the medians in its plans.
    pub(crate) fn of(model: &Model) -> Self {
        let plans = &model.plans;
        let intensities =
            plans.foreground_intensities().iter().map(|i| [i.percentile_00_5, i.percentile_99_5]).collect();
        let path = model.path.join(Fingerprint::FILE);
        // A fingerprint that cannot be read is none: it only serves to warn.
        if let Some(fingerprint) = path.is_file().then(|| Fingerprint::read(&path).ok()).flatten() {
            let shapes: Vec<[f64; 3]> =
                fingerprint.shapes_after_crop.iter().map(|s| s.map(|v| v as f64)).collect();
            return Self {
                spacing_mm: Some(range(&fingerprint.spacings_mm)),
                shape: Some(range(&shapes)),
                intensities,
            };
        }
        // Medians are those of the plan's axes; half and double of one is what a cohort may span.
        let image = |v: [f64; 3]| plans.transpose_backward().map(|a| [v[a] / 2.0, v[a] * 2.0]);
        Self {
            spacing_mm: plans.original_median_spacing().map(image),
            shape: plans.original_median_shape().map(image),
            intensities,
        }
    }
}

fn range(values: &[[f64; 3]]) -> [[f64; 2]; 3] {
    [0, 1, 2].map(|a| {
        let axis = values.iter().map(|v| v[a]);
        [axis.clone().fold(f64::INFINITY, f64::min), axis.fold(0.0, f64::max)]
    })
}

/// Looks at a case; `map` holds the dataset's own labels.
pub(crate) fn flags(
    map: &LabelMap,
    labels: &Labels,
    channels: &[String],
    image: &ImageFacts,
    training: &TrainingRange,
) -> Vec<Flag> {
    let mut found = Vec::new();
    let tumour: Vec<bool> = map.data.iter().map(|&l| l != 0).collect();
    let voxels = tumour.iter().filter(|&&t| t).count();
    if voxels == 0 {
        found.push(Flag::new(FlagKind::Empty, "the segmentation is empty"));
    }
    let outside = tumour.iter().zip(&image.brain).filter(|(t, b)| **t && !**b).count();
    if outside >= OUTSIDE.0 && outside as f64 > OUTSIDE.1 * voxels as f64 {
        let percent = 100.0 * outside as f64 / voxels as f64;
        found.push(Flag::new(
            FlagKind::OutsideBrain,
            format!("{outside} voxels of the tumour ({percent:.1} %) lie outside the brain, where all channels are zero"),
        ));
    }
    found.extend(without_core(map, labels));
    let tiny = (TINY_ML / map.geometry.voxel_ml()).ceil() as usize;
    let sizes = components(&tumour, map.shape(), Connectivity::Corners).sizes;
    let small = sizes.iter().filter(|&&s| s < tiny).count();
    if small >= MANY {
        found.push(Flag::new(
            FlagKind::ManyComponents,
            format!("{small} of {} components are smaller than {TINY_ML} mL", sizes.len()),
        ));
    }
    found.extend(unlike_training(map, channels, image, training));
    found
}

/// Three regions, each within the one before: the innermost is there, but nothing else of the one around it.
fn without_core(map: &LabelMap, labels: &Labels) -> Option<Flag> {
    let mut regions: Vec<_> = labels.regions().iter().collect();
    regions.sort_by_key(|r| std::cmp::Reverse(r.labels.len()));
    let [_, core, enhancing] = regions[..] else { return None };
    let nested = enhancing.labels.iter().all(|l| core.labels.contains(l))
        && core.labels.len() > enhancing.labels.len();
    let (inner, whole) = (map.count_of(&enhancing.labels), map.count_of(&core.labels));
    (nested && inner > 0 && inner == whole).then(|| {
        let ml = inner as f64 * map.geometry.voxel_ml();
        Flag::new(
            FlagKind::EnhancingWithoutCore,
            format!("{} ({ml:.2} mL) is all there is of {}", enhancing.name, core.name),
        )
    })
}

fn unlike_training(
    map: &LabelMap,
    channels: &[String],
    image: &ImageFacts,
    training: &TrainingRange,
) -> Option<Flag> {
    let mut reasons = Vec::new();
    let far = |v: f64, [low, high]: [f64; 2], factor: f64| v < low / factor || v > high * factor;
    let axes = ["z", "y", "x"];
    if let Some(ranges) = training.spacing_mm {
        for a in 0..3 {
            let v = map.geometry.spacing[a];
            if far(v, ranges[a], BEYOND) {
                let [low, high] = ranges[a];
                reasons.push(format!(
                    "spacing along {} is {v:.3} mm (training: {low:.3} to {high:.3})",
                    axes[a]
                ));
            }
        }
    }
    let head = glioseg_volume::components::VoxelBox::of(&image.brain, map.shape(), |b| *b).shape();
    if let Some(ranges) = training.shape {
        for a in 0..3 {
            if far(head[a] as f64, ranges[a], BEYOND) {
                let [low, high] = ranges[a];
                reasons
                    .push(format!("{} voxels along {} (training: {low:.0} to {high:.0})", head[a], axes[a]));
            }
        }
    }
    for ((&median, &range), name) in image.medians.iter().zip(&training.intensities).zip(channels) {
        // Only a range above zero says something of the scale.
        if range[0] > 0.0 && far(f64::from(median), range, BEYOND_INTENSITY) {
            let [low, high] = range;
            reasons.push(format!(
                "median intensity of {name} is {median:.4} (tumours in training: {low:.4} to {high:.4})"
            ));
        }
    }
    (!reasons.is_empty()).then(|| Flag::new(FlagKind::UnlikeTraining, reasons.join("; ")))
}
