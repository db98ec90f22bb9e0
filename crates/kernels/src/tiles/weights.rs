//! Weights as tiles read them.

use half::bf16;
use rayon::prelude::*;

use super::leaf::PAIR;
use super::maps::{bf16_values, bf16_view, bf16_view_mut};
use crate::buffer::{Buffer, buffer_bytes};
use crate::conv3d::ConvShape;
use crate::transposed::TransposedShape;

/// Values of the weights of one step: 32 inputs of 32 outputs.
const STEP: usize = PAIR * PAIR;

/// Weights rounded to bf16, in blocks of 32 outputs, in the order in which tiles multiply them.
#[derive(Debug)]
pub struct PackedTiles {
    memory: Buffer,
    /// Blocks of 32 outputs of a group.
    pub(super) pairs: usize,
    /// Blocks of 32 inputs.
    pub(super) steps: usize,
    pub(super) out_channels: usize,
}

/// Blocks of 32 values that cover the taps along x of all channels.
pub(super) fn steps_of_row(shape: &ConvShape) -> usize {
    (shape.kernel[2] * shape.in_channels).div_ceil(PAIR)
}

fn sizes(shape: &ConvShape) -> [usize; 2] {
    [shape.out_channels.div_ceil(PAIR), shape.kernel[0] * shape.kernel[1] * steps_of_row(shape)]
}

/// Where the weight of input `k` and output `c`, both below 32, lies among those of a step.
fn place(k: usize, c: usize) -> usize {
    c / 16 * (STEP / 2) + k / 2 * PAIR + c % 16 * 2 + k % 2
}

impl PackedTiles {
    /// `weights` is `[out, in, kz, ky, kx]`.
    ///
    /// # Panics
    /// If there are not as many as the shape says.
    pub fn conv(shape: &ConvShape, weights: &[f32]) -> Self {
        assert_eq!(weights.len(), shape.weight_len(), "values of the weights");
        let [pairs, steps] = sizes(shape);
        let (row, taps, kx) = (steps_of_row(shape), shape.taps(), shape.kernel[2]);
        let of_output = shape.in_channels * taps;
        Self::filled(pairs, steps, shape.out_channels, |pair, block| {
            for c in 0..PAIR.min(shape.out_channels - pair * PAIR) {
                let values = &weights[(pair * PAIR + c) * of_output..][..of_output];
                for (ci, values) in values.chunks_exact(taps).enumerate() {
                    for (tap, &value) in values.iter().enumerate() {
                        let k = tap % kx * shape.in_channels + ci;
                        let step = tap / kx * row + k / PAIR;
                        block[step * STEP + place(k % PAIR, c)] = bf16::from_f32(value);
                    }
                }
            }
        })
    }

    /// `weights` is `[in, out, kz, ky, kx]`.
    ///
    /// # Panics
    /// If there are not as many as the shape says.
    pub fn transposed(shape: &TransposedShape, weights: &[f32]) -> Self {
        assert_eq!(weights.len(), shape.weight_len(), "values of the weights");
        let (taps, out) = (shape.taps(), shape.out_channels);
        let (pairs, steps) = (out.div_ceil(PAIR), shape.in_channels.div_ceil(PAIR));
        Self::filled(taps * pairs, steps, out, |block_at, block| {
            let (tap, pair) = (block_at / pairs, block_at % pairs);
            for ci in 0..shape.in_channels {
                for c in 0..PAIR.min(out - pair * PAIR) {
                    let value = weights[(ci * out + pair * PAIR + c) * taps + tap];
                    block[ci / PAIR * STEP + place(ci % PAIR, c)] = bf16::from_f32(value);
                }
            }
        })
    }

    fn filled(
        blocks: usize,
        steps: usize,
        out_channels: usize,
        fill: impl Fn(usize, &mut [bf16]) + Sync,
    ) -> Self {
        let mut memory = Buffer::zeroed(blocks * steps * STEP / 2);
        let chunks = bf16_view_mut(&mut memory).par_chunks_mut(steps * STEP);
        chunks.enumerate().for_each(|(at, block)| fill(at, block));
        Self { memory, pairs: out_channels.div_ceil(PAIR), steps, out_channels }
    }

    /// The weights of block `pair` of group `group` (of a transposed convolution: of a tap).
    pub(super) fn block(&self, group: usize, pair: usize) -> &[bf16] {
        let len = self.steps * STEP;
        &bf16_view(&self.memory)[(group * self.pairs + pair) * len..][..len]
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        buffer_bytes(self.memory.len())
    }

    /// Bytes that [`Self::conv`] takes.
    pub fn conv_bytes(shape: &ConvShape) -> usize {
        let [pairs, steps] = sizes(shape);
        buffer_bytes(bf16_values(pairs * steps * STEP))
    }

    /// Bytes that [`Self::transposed`] takes.
    pub fn transposed_bytes(shape: &TransposedShape) -> usize {
        let blocks = shape.taps() * shape.out_channels.div_ceil(PAIR) * shape.in_channels.div_ceil(PAIR);
        buffer_bytes(bf16_values(blocks * STEP))
    }
}
