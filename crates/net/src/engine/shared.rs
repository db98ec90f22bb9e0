//! Numbers that every engine makes alike.

use std::ops::Range;

use glioseg_kernels::Moments;
use rayon::prelude::*;

use super::interface::{Evaluation, Update};
use crate::NetError;
use crate::init::mix;
use crate::loss::{self, HeadShape, Loss, LossOptions, Targets};
use crate::parameters::Parameters;
use crate::program::{Curved, MapId, MapShape, Mode, Program};

/// Weight of the newest batch in running statistics (PyTorch's default).
const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// Size of a head's logits.
pub(super) fn head_shape(program: &Program, head: MapId) -> HeadShape {
    let map = program.map(head);
    HeadShape { batch: program.batch, channels: map.channels, voxels: map.voxels() }
}

/// Checks what a pass will be compared with: before it, so that a refused one has changed nothing.
///
/// # Errors
/// [`NetError::Target`] if there is not one target and one weight per head of the network, or a target that counts does not
/// fit its head.
pub(super) fn check_targets(
    program: &Program,
    targets: &[Targets<'_>],
    weights: &[f64],
    options: &LossOptions,
) -> Result<(), NetError> {
    let heads = match &program.mode {
        Mode::Train { heads } => heads.len(),
        Mode::Evaluate | Mode::Predict => program.heads.len(),
    };
    loss::check_heads(heads, targets.len(), weights.len())?;
    for (&head, &level) in program.heads.iter().zip(&program.levels) {
        if level == 0 || weights[level] != 0.0 {
            loss::check_target(targets[level], head_shape(program, head), options)?;
        }
    }
    Ok(())
}

/// Adds a head to an evaluation: its loss where it counts, and its overlap where it is the first. `scratch` is as long
/// as the logits at least where the loss counts.
pub(super) fn add_head(
    evaluation: &mut Evaluation,
    (logits, shape): (&[f32], HeadShape),
    (target, weight): (Targets<'_>, f64),
    options: &LossOptions,
    scratch: &mut [f32],
) {
    if evaluation.overlaps.is_empty() {
        evaluation.overlaps = loss::overlap_of_batch(logits, target, shape, options.ignore_label);
    }
    if weight != 0.0 {
        let scratch = &mut scratch[..shape.len()];
        evaluation.loss.add(loss::head_value(logits, target, shape, options, scratch), weight);
    }
}

/// The loss of all heads, whose gradients are written to the arena; `ranges` says where logits and gradient of a head lie.
pub(super) fn head_gradients(
    program: &Program,
    arena: &mut [f32],
    ranges: impl Fn(MapId) -> [Range<usize>; 2],
    targets: &[Targets<'_>],
    update: &Update<'_>,
) -> Loss {
    let mut sum = Loss::default();
    for (&head, &level) in program.heads.iter().zip(&program.levels) {
        let [logits, gradient] = views(arena, ranges(head));
        let (shape, weight) = (head_shape(program, head), update.weights[level]);
        sum.add(loss::head_gradient(logits, targets[level], shape, update.loss, weight, gradient), weight);
    }
    sum
}

/// Parts of the arena that do not overlap.
#[expect(clippy::needless_pass_by_value, reason = "callers make the ranges for it")]
pub(super) fn views<const N: usize>(arena: &mut [f32], ranges: [Range<usize>; N]) -> [&mut [f32]; N] {
    arena.get_disjoint_mut(ranges.clone()).unwrap_or_else(|e| panic!("{ranges:?} of the arena: {e}"))
}

/// Mean and biased variance of a batch blended into the running ones, of which the variance is unbiased.
pub(super) fn blend_running(old: [&[f32]; 2], moments: &Moments) -> [Vec<f32>; 2] {
    let count = moments.count as f64;
    let unbiased = (count / (count - 1.0).max(1.0)) as f32;
    let (kept, new) = ((1.0 - BATCH_NORM_MOMENTUM) as f32, BATCH_NORM_MOMENTUM as f32);
    let blend = |old: &[f32], values: &[f64], factor: f32| {
        old.iter().zip(values).map(|(old, &v)| old * kept + (v as f32 * factor) * new).collect()
    };
    [blend(old[0], &moments.mean, 1.0), blend(old[1], &moments.var, unbiased)]
}

/// The seed of a step's dropout.
pub(super) fn layer_seed(seed: u64, step: usize) -> u64 {
    mix(seed ^ mix(step as u64))
}

/// A factor per sample and channel: 0 with probability `p`, else what keeps the mean.
pub(super) fn dropout_factors(p: f64, rows: usize, seed: u64) -> Vec<f32> {
    let factor = |row: usize| {
        let bits = mix(seed.wrapping_add((row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // 53 random bits as a fraction of 1.
        let uniform = (bits >> 11) as f64 / (1u64 << 53) as f64;
        if uniform < p { 0.0 } else { (1.0 / (1.0 - p)) as f32 }
    };
    (0..rows).map(factor).collect()
}

/// The activation that is not a leaky ReLU, on a map of `channels` channels.
pub(super) fn bend(curved: &Curved, parameters: &Parameters, values: &mut [f32], shape: MapShape) {
    let slopes = curved.slopes.map(|id| parameters.values(id));
    values.par_chunks_mut(shape.voxels()).enumerate().for_each(|(row, values)| {
        let slope = slopes.map_or(1.0, |s| s[row % shape.channels % s.len()]);
        curved.curve.apply(values, slope);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_keeps_the_mean_and_depends_on_the_layer() {
        let factors = dropout_factors(0.25, 4000, layer_seed(7, 3));
        let dropped = factors.iter().filter(|&&f| f == 0.0).count();
        assert!((900..1100).contains(&dropped), "{dropped} of 4000 channels were dropped");
        assert!(factors.iter().all(|&f| f == 0.0 || (f - 4.0 / 3.0).abs() < 1e-6));
        assert_eq!(factors, dropout_factors(0.25, 4000, layer_seed(7, 3)));
        assert_ne!(factors, dropout_factors(0.25, 4000, layer_seed(7, 4)));
        assert_ne!(factors, dropout_factors(0.25, 4000, layer_seed(8, 3)));
    }
}
