//! Heads and their loss.

use super::map::Map;
use super::{Arg, Launch, Slice, blocks, double, flag, int, optional, structure};

/// Blocks that share a sample of a head, at most.
const BLOCKS: usize = 256;
/// The fewest voxels of such a block.
const FEWEST: usize = 1024;

/// What one head should have answered, in a machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossTarget {
    /// The output's number per voxel, `[n, voxels]` in i16.
    Labels {
        /// Where they lie.
        at: Slice,
        /// The label that does not count.
        ignored: Option<i16>,
    },
    /// 0 or 1, `[n, outputs (and one more), voxels]` in u8.
    Regions {
        /// Where they lie.
        at: Slice,
        /// The last channel is what does not count.
        ignoring: bool,
    },
}

/// The loss of a head; see `net::loss::LossOptions`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossRule {
    /// Weight of the Dice term.
    pub dice_weight: f64,
    /// Weight of the cross entropy.
    pub voxel_weight: f64,
    /// Added to numerator and denominator of the Dice.
    pub smooth: f64,
    /// Weight of the head, of its gradient.
    pub weight: f64,
    /// Sums of the Dice run over the batch.
    pub batch_dice: bool,
    /// The first channel counts in the Dice.
    pub background: bool,
    /// Version 1's Dice.
    pub v1: bool,
}

/// Logits `[n, outputs, voxels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logits {
    /// Where they lie, in f32.
    pub at: Slice,
    /// Samples.
    pub batch: usize,
    /// Channels.
    pub outputs: usize,
    /// Voxels of a sample.
    pub voxels: usize,
}

impl Logits {
    fn values(&self) -> usize {
        self.batch * self.outputs * self.voxels
    }

    fn rows(&self) -> usize {
        self.voxels.div_ceil(BLOCKS).max(FEWEST)
    }

    fn blocks(&self) -> usize {
        self.voxels.div_ceil(self.rows())
    }

    /// Values of the parts of the loss's sums, in f64.
    pub fn part_values(&self) -> usize {
        self.batch * self.blocks() * (self.outputs * 3 + 2)
    }

    /// Values of the sums themselves, in f64.
    pub fn sum_values(&self) -> usize {
        self.batch * (self.outputs * 3 + 2)
    }

    /// Values of the terms of the gradient, in f32.
    pub fn term_values(&self) -> usize {
        self.batch * self.outputs * 2 + 1
    }

    fn arg(&self) -> Arg {
        self.at.holds(self.values(), 4)
    }

    /// Target, and what kernels are told about what does not count.
    fn target(&self, target: LossTarget) -> (Arg, Arg) {
        let value = |value: i32| Arg::Value(value.to_ne_bytes().to_vec());
        match target {
            LossTarget::Labels { at, ignored } => {
                let ignored = i32::from(ignored.unwrap_or(i16::MIN));
                (at.holds(self.batch * self.voxels, 2), value(ignored))
            }
            LossTarget::Regions { at, ignoring } => {
                let stored = self.outputs + usize::from(ignoring);
                (at.holds(self.batch * stored * self.voxels, 1), flag(ignoring))
            }
        }
    }
}

impl Launch {
    /// Logits from weights `[outputs, channels]` and biases in f32.
    pub fn head(map: &Map, weights: Slice, bias: Option<Slice>, logits: &Logits) -> Self {
        check(map, logits);
        let (x, groups, ..) = map.pieces();
        let args = vec![
            x,
            weights.holds(logits.outputs * map.channels, 4),
            optional(bias, logits.outputs),
            logits.arg(),
            int(logits.voxels),
            groups,
            int(logits.outputs),
        ];
        Self::new("head", [blocks(logits.voxels), map.batch, 1], args).of(map.element)
    }

    /// The gradient of what a head read, into `map` or added to it.
    pub fn head_data(gradient: &Logits, weights: Slice, map: &Map, add: bool) -> Self {
        check(map, gradient);
        let (x, groups, count, _) = map.pieces();
        let args = vec![
            gradient.arg(),
            weights.holds(gradient.outputs * map.channels, 4),
            x,
            int(gradient.voxels),
            groups,
            int(gradient.outputs),
            flag(add),
        ];
        Self::new("head_data", [blocks(gradient.voxels * count), map.batch, 1], args).of(map.element)
    }

    /// Parts of the sums of a head's gradients: [`Map::part_values`] of `n * outputs` rows, to be folded.
    pub fn head_weights(map: &Map, gradient: &Logits, part: Slice) -> Self {
        check(map, gradient);
        let (grid, rowed) = map.head_grid(gradient.outputs);
        let rows = map.batch * gradient.outputs;
        let mut args = vec![map.pieces().0, gradient.arg(), part.holds(map.part_values(rows), 4)];
        args.extend(rowed);
        args.push(int(gradient.outputs));
        Self::new("head_weights", grid, args).of(map.element)
    }

    /// Gradients of a head's weights and biases from the folded sums.
    pub fn head_terms(
        map: &Map,
        gradient: &Logits,
        sums: Slice,
        weights: Slice,
        bias: Option<Slice>,
    ) -> Self {
        let values = gradient.outputs * map.channels;
        let args = vec![
            sums.holds(map.sum_values(map.batch * gradient.outputs), 8),
            weights.holds(values, 4),
            optional(bias, gradient.outputs),
            int(map.batch),
            int(gradient.outputs),
            int(map.channels),
        ];
        Self::new("head_terms", [blocks(values), 1, 1], args)
    }

    /// Probabilities of a head, as long as the logits, and the parts of the loss's sums.
    pub fn loss(logits: &Logits, target: LossTarget, probabilities: Slice, part: Slice) -> Self {
        let (targets, ignored) = logits.target(target);
        let args = vec![
            logits.arg(),
            targets,
            probabilities.holds(logits.values(), 4),
            part.holds(logits.part_values(), 8),
            int(logits.voxels),
            int(logits.rows()),
            int(logits.outputs),
            ignored,
        ];
        let kernel = match target {
            LossTarget::Labels { .. } => "loss_labels",
            LossTarget::Regions { .. } => "loss_regions",
        };
        Self::new(kernel, [logits.blocks(), logits.batch, 1], args)
    }

    /// Terms of the gradient, and the loss: its total, its Dice and its cross entropy in f64.
    pub fn loss_terms(
        logits: &Logits,
        target: LossTarget,
        rule: &LossRule,
        [part, sums]: [Slice; 2],
        [terms, loss]: [Slice; 2],
    ) -> Self {
        let per_channel = matches!(target, LossTarget::Regions { ignoring: true, .. });
        let LossRule { dice_weight, voxel_weight, smooth, weight, batch_dice, background, v1 } = *rule;
        let doubles = [dice_weight, voxel_weight, smooth, weight].map(double);
        let flags = [batch_dice, background, v1, per_channel].map(flag);
        let args = vec![
            part.holds(logits.part_values(), 8),
            sums.holds(logits.sum_values(), 8),
            terms.holds(logits.term_values(), 4),
            loss.holds(3, 8),
            structure(doubles.into_iter().chain(flags)),
            int(logits.batch),
            int(logits.blocks()),
            int(logits.outputs),
        ];
        Self::new("loss_terms", [1; 3], args)
    }

    /// Probabilities become the gradient with respect to the logits.
    pub fn loss_gradient(logits: &Logits, target: LossTarget, terms: Slice, probabilities: Slice) -> Self {
        let (targets, ignored) = logits.target(target);
        let args = vec![
            targets,
            terms.holds(logits.term_values(), 4),
            probabilities.holds(logits.values(), 4),
            int(logits.voxels),
            int(logits.outputs),
            ignored,
        ];
        let kernel = match target {
            LossTarget::Labels { .. } => "loss_labels_gradient",
            LossTarget::Regions { .. } => "loss_regions_gradient",
        };
        Self::new(kernel, [blocks(logits.voxels), logits.batch, 1], args)
    }
}

fn check(map: &Map, logits: &Logits) {
    assert_eq!((map.batch, map.voxels()), (logits.batch, logits.voxels), "a map and its logits");
}
