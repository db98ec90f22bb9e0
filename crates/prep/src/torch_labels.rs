//! Label maps resampled as nnU-Net's torch variant does it.

use glioseg_plan::Resampling;
use glioseg_volume::resample::{ResampleOptions, resample};
use half::f16;
use std::collections::BTreeSet;

/// What indicators are multiplied by before they are rounded to half precision.
const SCALE: f32 = 1000.0;

/// Resamples a label map: every label's indicator is interpolated, the best one wins; of equal ones the smallest.
///
/// # Shapes
/// `labels` holds `from` voxels in `[z, y, x]` order, the result holds `to`.
///
/// # Source
/// nnU-Net v2, `resample_torch_fornnunet` with `is_seg`.
pub(crate) fn resample_torch_labels(
    labels: &[i16],
    from: [usize; 3],
    to: [usize; 3],
    resampling: &Resampling,
    options: &ResampleOptions,
) -> Vec<i16> {
    let frugal = resampling.memory_efficient_seg;
    let Some(axis) = options.separate_axis else {
        return pass(labels, from, to, options, frugal);
    };
    let mut middle = to;
    middle[axis] = from[axis];
    let slices = ResampleOptions { order_z: options.order, separate_axis: None, ..*options };
    let across = ResampleOptions { order: options.order_z, separate_axis: None, ..*options };
    pass(&pass(labels, from, middle, &slices, frugal), middle, to, &across, frugal)
}

fn pass(
    labels: &[i16],
    from: [usize; 3],
    to: [usize; 3],
    options: &ResampleOptions,
    frugal: bool,
) -> Vec<i16> {
    if from == to {
        return labels.to_vec();
    }
    let distinct: BTreeSet<i16> = labels.iter().copied().collect();
    let mut out = vec![0; to.iter().product()];
    let mut best = vec![f16::NEG_INFINITY; if frugal { 0 } else { out.len() }];
    let one = if frugal { 1.0 } else { SCALE };
    for label in distinct {
        let indicator: Vec<f32> = labels.iter().map(|&l| if l == label { one } else { 0.0 }).collect();
        let scores = resample(&indicator, from, to, options);
        if frugal {
            out.iter_mut().zip(scores).filter(|(_, s)| *s > 0.5).for_each(|(o, _)| *o = label);
            continue;
        }
        for ((out, best), score) in out.iter_mut().zip(&mut best).zip(scores) {
            let score = f16::from_f32(score);
            if score > *best {
                (*out, *best) = (label, score);
            }
        }
    }
    out
}
