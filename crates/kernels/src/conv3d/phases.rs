//! Inputs of equal remainder modulo the stride, which see the same taps: what gradients of inputs are cut into.

use super::shape::ConvShape;

/// Remainders of all phases that have taps, and how many.
pub(crate) fn phases(shape: &ConvShape) -> Vec<([usize; 3], [usize; 3])> {
    let [sd, sh, sw] = shape.stride;
    let all = (0..sd * sh * sw).map(|index| {
        let remainder = [index / (sh * sw), index / sw % sh, index % sw];
        let taps: [usize; 3] =
            std::array::from_fn(|a| shape.kernel[a].saturating_sub(remainder[a]).div_ceil(shape.stride[a]));
        (remainder, taps)
    });
    all.filter(|(_, taps)| !taps.contains(&0)).collect()
}

/// First quotient, first input and number of inputs of a phase along an axis: input i belongs to it if
/// i + padding = stride * q + remainder.
pub(crate) fn phase_axis(shape: &ConvShape, remainder: [usize; 3], a: usize) -> (usize, usize, usize) {
    let (s, r, p) = (shape.stride[a], remainder[a], shape.padding[a]);
    let first = p.saturating_sub(r).div_ceil(s);
    let from = s * first + r - p;
    (first, from, shape.input[a].saturating_sub(from).div_ceil(s))
}
