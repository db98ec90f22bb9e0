//! Length of the gradients, and steps of the optimisers.

use super::{Arg, Launch, Slice, blocks, double, int, long};
use crate::cudnn::Element;

/// Values that a block of [`Launch::squares`] adds up.
const CHUNK: usize = 1 << 16;

impl Launch {
    /// Values of the parts of a sum of squares, in f64.
    pub fn square_parts(values: usize) -> usize {
        values.div_ceil(CHUNK)
    }

    /// Parts of the sum of the squares of gradients.
    pub fn squares(gradient: Slice, element: Element, values: usize, part: Slice) -> Self {
        let parts = Self::square_parts(values);
        let args =
            vec![gradient.holds(values, element.bytes()), part.holds(parts, 8), long(values), long(CHUNK)];
        Self::new("squares", [parts, 1, 1], args).of(element)
    }

    /// The length of all gradients, in f64, from `parts` parts of squares; and `control`, two values in f32: the factor that makes
    /// it at most `clip`, and whether it and the losses of all heads (three values each) are finite. `unscale` undoes a factor of
    /// the loss.
    pub fn norm_total(
        (part, parts): (Slice, usize),
        (losses, heads): (Slice, usize),
        control: Slice,
        norm: Slice,
        clip: Option<f64>,
        unscale: f64,
    ) -> Self {
        let args = vec![
            part.holds(parts, 8),
            losses.holds(heads * 3, 8),
            control.holds(2, 4),
            norm.holds(1, 8),
            long(parts),
            int(heads),
            double(clip.unwrap_or(f64::INFINITY)),
            double(unscale),
        ];
        Self::new("norm_total", [1; 3], args)
    }

    /// A step of SGD on weights in f32. `hyper` holds learning rate, momentum, decay, 1 for Nesterov, 1 in the first step;
    /// `copy` is what convolutions read.
    pub fn sgd(
        [weights, velocity]: [Slice; 2],
        (gradient, element): (Slice, Element),
        copy: Option<Slice>,
        [control, hyper]: [Slice; 2],
        values: usize,
    ) -> Self {
        let args = vec![
            weights.holds(values, 4),
            velocity.holds(values, 4),
            gradient.holds(values, element.bytes()),
            copy.map_or(Arg::Memory(None), |copy| copy.holds(values, element.bytes())),
            control.holds(2, 4),
            hyper.holds(5, 4),
            long(values),
        ];
        Self::new("sgd", [blocks(values), 1, 1], args).of(element)
    }

    /// A step of `AdamW` on weights in f32. `hyper` holds both betas, eps, step size, root of the second correction, factor of
    /// the weights.
    pub fn adamw(
        [weights, mean, square]: [Slice; 3],
        (gradient, element): (Slice, Element),
        copy: Option<Slice>,
        [control, hyper]: [Slice; 2],
        values: usize,
    ) -> Self {
        let args = vec![
            weights.holds(values, 4),
            mean.holds(values, 4),
            square.holds(values, 4),
            gradient.holds(values, element.bytes()),
            copy.map_or(Arg::Memory(None), |copy| copy.holds(values, element.bytes())),
            control.holds(2, 4),
            hyper.holds(6, 4),
            long(values),
        ];
        Self::new("adamw", [blocks(values), 1, 1], args).of(element)
    }

    /// Weights in f32 as convolutions read them.
    pub fn copy(weights: Slice, copy: Slice, element: Element, values: usize) -> Self {
        let args = vec![weights.holds(values, 4), copy.holds(values, element.bytes()), long(values)];
        Self::new("copy", [blocks(values), 1, 1], args).of(element)
    }
}
