//! Dice and cross entropy with deep supervision: value and gradient in two passes over the logits.
//!
//! The decision that shaped it: a chain of tensor operations would walk over every head's logits some thirty times and
//! keep most of what it makes for the backward pass. Here the first pass computes probabilities and all sums, the second
//! the gradient with respect to the logits, in place, from which an engine's backward pass starts. Sums are
//! added in blocks of a fixed size and order, so the result does not depend on the number of threads.
//!
//! Left out: the distributed Dice of several workers.

mod labels;
mod math;
mod overlap;
mod regions;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::NetError;

pub use overlap::Overlap;
pub(crate) use overlap::overlap_of_batch;

/// How the Dice of sums that may be 0 is kept from dividing by 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiceForm {
    /// `(2 I + smooth) / max(P + G + smooth, 1e-8)`: version 2's `MemoryEfficientSoftDiceLoss`.
    #[default]
    V2,
    /// `(2 I + smooth) / (P + G + smooth + 1e-8)`: version 1's `SoftDiceLoss`.
    V1,
}

/// The loss of one head. Weights act last; what is ignored is left out of every sum.
///
/// # Source
/// nnU-Net v2, `DC_and_CE_loss` and `DC_and_BCE_loss`; v1, `DC_and_CE_loss` and `DC_and_BCE_loss`.
#[derive(Debug, Clone, PartialEq)]
pub struct LossOptions {
    /// Weight of the Dice term.
    pub dice_weight: f64,
    /// Weight of the cross entropy: categorical for labels, binary for regions.
    pub voxel_weight: f64,
    /// Sums of the Dice run over the whole batch instead of every sample.
    pub batch_dice: bool,
    /// Added to numerator and denominator of the Dice.
    pub smooth: f64,
    /// Whether channel 0 counts in the Dice: the background of labels; regions have none.
    pub background: bool,
    /// How a denominator of 0 is avoided.
    pub form: DiceForm,
    /// The dataset has an ignore label: this value of [`Targets::Labels`], the last channel of [`Targets::Regions`].
    pub ignore_label: Option<i16>,
}

impl LossOptions {
    /// Version 2's loss for a network with one output per label, or with one per region.
    pub fn v2(regions: bool, batch_dice: bool) -> Self {
        Self {
            dice_weight: 1.0,
            voxel_weight: 1.0,
            batch_dice,
            smooth: 1e-5,
            background: regions,
            form: DiceForm::V2,
            ignore_label: None,
        }
    }
}

/// What one head should have answered.
///
/// # Shapes
/// `[n, z, y, x]` for labels, `[n, c, z, y, x]` for regions, where an ignore label is one channel more than the
/// logits have.
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// The number of the output channel per voxel.
    Labels(&'a [i16]),
    /// 0 or 1.
    Regions(&'a [u8]),
}

/// A loss, and its two terms before their weights.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Loss {
    /// The weighted sum of both terms; of several heads, weighted too.
    pub total: f64,
    /// Minus the mean Dice.
    pub dice: f64,
    /// Mean cross entropy.
    pub voxel: f64,
}

impl Loss {
    pub(crate) fn add(&mut self, other: Self, weight: f64) {
        self.total += weight * other.total;
        self.dice += weight * other.dice;
        self.voxel += weight * other.voxel;
    }
}

/// Size of the logits of one head, spatial axes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadShape {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) voxels: usize,
}

impl HeadShape {
    pub(crate) fn len(self) -> usize {
        self.batch * self.channels * self.voxels
    }
}

/// Weight of every head, full resolution first: halved from head to head, the last one 0, together 1.
///
/// # Source
/// nnU-Net v2, `nnUNetTrainer._build_loss`; v1 gives the same.
pub fn deep_supervision_weights(heads: usize) -> Vec<f64> {
    let mut weights: Vec<f64> = (0..heads).map(|i| 0.5f64.powi(i as i32)).collect();
    if heads > 1 {
        weights[heads - 1] = 0.0;
    }
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// Checks that there is a target and a weight for every head.
///
/// # Errors
/// [`NetError::Target`] if not.
pub(crate) fn check_heads(heads: usize, targets: usize, weights: usize) -> Result<(), NetError> {
    if heads != targets || heads != weights {
        let what = format!("{targets} targets and {weights} weights for {heads} heads");
        return Err(NetError::Target { what });
    }
    Ok(())
}

/// Checks what a head should have answered, before it is asked.
///
/// # Errors
/// [`NetError::Target`] if the target has another size than the head, or a label that the head has no channel for.
pub(crate) fn check_target(
    target: Targets<'_>,
    shape: HeadShape,
    options: &LossOptions,
) -> Result<(), NetError> {
    match target {
        Targets::Labels(labels) => labels::check(labels, shape, options),
        Targets::Regions(regions) => regions::check(regions, shape, options),
    }
}

/// Loss of one head, whose target has been checked; `gradient` is overwritten with that of `weight` times the loss with respect
/// to the logits.
///
/// # Panics
/// If a length contradicts another.
pub(crate) fn head_gradient(
    logits: &[f32],
    target: Targets<'_>,
    shape: HeadShape,
    options: &LossOptions,
    weight: f64,
    gradient: &mut [f32],
) -> Loss {
    match target {
        Targets::Labels(labels) => {
            let sums = labels::probabilities(logits, labels, shape, options, gradient);
            let terms = Terms::new(&sums, shape, options, weight);
            labels::gradient(labels, shape, options, &terms, gradient);
            terms.loss
        }
        Targets::Regions(regions) => {
            let sums = regions::probabilities(logits, regions, shape, options, gradient);
            let terms = Terms::new(&sums, shape, options, weight);
            regions::gradient(regions, shape, options, &terms, gradient);
            terms.loss
        }
    }
}

/// Loss of one head, whose target has been checked; `scratch` holds as many values as the logits.
///
/// # Panics
/// If a length contradicts another.
pub(crate) fn head_value(
    logits: &[f32],
    target: Targets<'_>,
    shape: HeadShape,
    options: &LossOptions,
    scratch: &mut [f32],
) -> Loss {
    let sums = match target {
        Targets::Labels(labels) => labels::probabilities(logits, labels, shape, options, scratch),
        Targets::Regions(regions) => regions::probabilities(logits, regions, shape, options, scratch),
    };
    Terms::new(&sums, shape, options, 1.0).loss
}

/// What the first pass adds up, per sample and channel: `[n * channels + c]`.
#[derive(Debug, Clone, Default)]
struct Sums {
    /// Sum of probability times target.
    both: Vec<f64>,
    /// Sum of probabilities.
    prob: Vec<f64>,
    /// Sum of targets.
    target: Vec<f64>,
    /// Sum of the cross entropy over everything.
    entropy: f64,
    /// By how much the cross entropy is divided.
    count: f64,
}

/// The loss, and what its gradient is made of.
///
/// With probability `p` and target `t`, the gradient of the Dice term with respect to `p` is `slope t + offset`.
#[derive(Debug, Clone, Default)]
struct Terms {
    loss: Loss,
    slope: Vec<f32>,
    offset: Vec<f32>,
    /// Factor of the cross entropy's gradient.
    entropy: f32,
}

impl Terms {
    fn new(sums: &Sums, shape: HeadShape, options: &LossOptions, weight: f64) -> Self {
        let HeadShape { batch, channels, .. } = shape;
        let first = usize::from(!options.background);
        let groups = if options.batch_dice { 1 } else { batch };
        let over = |values: &[f64], group: usize, c: usize| -> f64 {
            if options.batch_dice {
                (0..batch).map(|n| values[n * channels + c]).sum()
            } else {
                values[group * channels + c]
            }
        };
        let mut terms = Self {
            slope: vec![0.0; batch * channels],
            offset: vec![0.0; batch * channels],
            ..Self::default()
        };
        let dices = (groups * (channels - first.min(channels))) as f64;
        let factor = weight * options.dice_weight / dices;
        for group in 0..groups {
            for c in first..channels {
                let numerator = 2.0 * over(&sums.both, group, c) + options.smooth;
                let sum = over(&sums.prob, group, c) + over(&sums.target, group, c) + options.smooth;
                let (denominator, clamped) = match options.form {
                    DiceForm::V2 => (sum.max(1e-8), sum < 1e-8),
                    DiceForm::V1 => (sum + 1e-8, false),
                };
                // `max` would hide a sum that is not a number.
                let denominator = if sum.is_nan() { sum } else { denominator };
                terms.loss.dice -= numerator / denominator / dices;
                let samples = if options.batch_dice { 0..batch } else { group..group + 1 };
                for n in samples {
                    terms.slope[n * channels + c] = (-2.0 * factor / denominator) as f32;
                    let offset = if clamped { 0.0 } else { factor * numerator / (denominator * denominator) };
                    terms.offset[n * channels + c] = offset as f32;
                }
            }
        }
        if sums.count > 0.0 {
            terms.loss.voxel = sums.entropy / sums.count;
            terms.entropy = (weight * options.voxel_weight / sums.count) as f32;
        }
        terms.loss.total = options.dice_weight * terms.loss.dice + options.voxel_weight * terms.loss.voxel;
        terms
    }
}
