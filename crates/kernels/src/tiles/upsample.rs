//! Transposed convolutions whose kernel is their stride: a product per tap, whose rows are interleaved as they are written.

use half::bf16;
use rayon::prelude::*;

use super::leaf::{Copy, Finish, PAIR, Product, ROWS, Tiles};
use super::maps::{bf16_values, bf16_view_mut};
use super::pack::TileUpsampling;
use super::token::Amx;
use crate::buffer::{Shared, with_scratch};
use crate::scratch::Scratch;
use crate::transposed::TransposedShape;

/// Rows of one plane of the map that is upsampled.
#[derive(Clone, Copy)]
pub(super) struct Below<'a> {
    pub(super) up: &'a TileUpsampling<'a>,
    pub(super) sample: usize,
    pub(super) z: usize,
    pub(super) first_row: usize,
    pub(super) rows: usize,
}

/// Where the rows of one output plane go.
pub(super) struct Rows<F> {
    /// Tap along z.
    pub(super) tap: usize,
    /// Output channels per voxel of the target.
    pub(super) pitch: usize,
    /// The first value of an output row, if it is wanted.
    pub(super) place: F,
}

fn blocks(shape: &TransposedShape, rows: usize) -> usize {
    (rows * shape.input[2]).div_ceil(ROWS)
}

fn packed_len(shape: &TransposedShape, rows: usize) -> usize {
    (blocks(shape, rows) * ROWS * shape.in_channels + PAIR).next_multiple_of(PAIR)
}

impl Below<'_> {
    /// Values of scratch for so many rows: those packed, and their sums with one tap.
    pub(super) fn len(shape: &TransposedShape, rows: usize) -> usize {
        bf16_values(packed_len(shape, rows)) + (blocks(shape, rows) + 1) * ROWS * PAIR
    }

    /// Packs the rows, with what normalises them.
    pub(super) fn pack(&self, amx: Amx, scratch: &mut [f32]) {
        let shape = self.up.shape;
        let channels = shape.in_channels;
        let (packed, _) = scratch.split_at_mut(bf16_values(packed_len(shape, self.rows)));
        let packed = bf16_view_mut(packed);
        let [height, width] = [shape.input[1], shape.input[2]];
        let start = ((self.sample * shape.input[0] + self.z) * height + self.first_row) * width * channels;
        let len = self.rows * width * channels;
        let from = &self.up.source.data[start..start + len];
        let (to, rest) = packed.split_at_mut(len);
        let prologue = self.up.source.factors(self.sample);
        Copy { from, step: channels, channels, prologue, to, pitch: channels }.run(amx);
        rest.fill(bf16::ZERO);
    }

    /// Multiplies the packed rows with every tap of one output plane, and writes what is wanted.
    ///
    /// # Safety
    /// `place` gives rows that can be written, `pitch` values per voxel, and that nobody else touches.
    pub(super) unsafe fn multiply<F>(&self, amx: Amx, tiles: &Tiles, scratch: &mut [f32], rows: &Rows<F>)
    where
        F: Fn(usize) -> Option<*mut bf16>,
    {
        let TileUpsampling { shape, weights, bias, .. } = self.up;
        let (channels, width) = (shape.in_channels, shape.input[2]);
        let [_, ky, kx] = shape.kernel;
        let (packed, sums) = scratch.split_at_mut(bf16_values(packed_len(shape, self.rows)));
        let packed = bf16_view_mut(packed);
        let offsets: Vec<usize> = (0..weights.steps(0)).map(|s| s * PAIR * size_of::<bf16>()).collect();
        let blocks = blocks(shape, self.rows);
        for pair in 0..weights.pairs() {
            let first = pair * PAIR;
            let count = (shape.out_channels - first).min(PAIR);
            let bias = padded(*bias, first);
            for tap in 0..ky * kx {
                let (ty, tx) = (tap / kx, tap % kx);
                let block = weights.block(rows.tap * ky * kx + tap, pair);
                for at in (0..blocks).step_by(2) {
                    let pair_of = [at, (at + 1).min(blocks - 1)];
                    // SAFETY: blocks lie in the packed rows, which have room for the last one and a step; sums of both in theirs.
                    unsafe {
                        tiles.multiply(Product {
                            voxels: pair_of.map(|b| packed.as_ptr().add(b * ROWS * channels)),
                            stride: channels * size_of::<bf16>(),
                            offsets: &offsets,
                            weights: block.as_ptr(),
                            sums: [at, at + 1].map(|b| sums.as_mut_ptr().add(b * ROWS * PAIR)),
                        });
                    }
                }
                for row in 0..self.rows {
                    let Some(to) = (rows.place)((self.first_row + row) * ky + ty) else { continue };
                    let sums = &sums[row * width * PAIR..][..width * PAIR];
                    // SAFETY: the caller's promise.
                    unsafe {
                        let to = to.add(tx * rows.pitch + first);
                        Finish { sums, bias: &bias, to, pitch: kx * rows.pitch, channels: count }
                            .run(amx, false, None);
                    }
                }
            }
        }
    }
}

/// Up to 32 values of the bias from channel `first` on, the others 0.
pub(super) fn padded(bias: Option<&[f32]>, first: usize) -> [f32; PAIR] {
    let mut padded = [0.0; PAIR];
    if let Some(bias) = bias {
        let count = (bias.len() - first).min(PAIR);
        padded[..count].copy_from_slice(&bias[first..first + count]);
    }
    padded
}

/// Rows of a job: about 512 voxels.
fn rows_of_job(shape: &TransposedShape) -> usize {
    512usize.div_ceil(shape.input[2].max(1)).clamp(1, shape.input[1].max(1))
}

/// What [`tile_transposed`] takes next to its operands.
pub fn tile_transposed_scratch(shape: &TransposedShape) -> Scratch {
    Scratch { per_thread: Below::len(shape, rows_of_job(shape)), lent: 0 }
}

/// Transposed convolution whose stride is its kernel.
///
/// # Shapes
/// `out` is `[n, z, y, x, out_channels]`.
///
/// # Panics
/// If a length contradicts the shape.
pub fn tile_transposed(amx: Amx, up: &TileUpsampling<'_>, out: &mut [bf16]) {
    let shape = up.shape;
    up.check();
    assert_eq!(out.len(), shape.out_len(), "values of the output");
    let [kz, ky, _] = shape.kernel;
    let [depth, height, width] = shape.output();
    let channels = shape.out_channels;
    let rows = rows_of_job(shape);
    let parts = shape.input[1].div_ceil(rows);
    let out = Shared::new(out);
    (0..shape.batch * shape.input[0] * parts).into_par_iter().for_each(|job| {
        let first_row = job % parts * rows;
        let (sample, z) = (job / parts / shape.input[0], job / parts % shape.input[0]);
        let below = Below { up, sample, z, first_row, rows: rows.min(shape.input[1] - first_row) };
        with_scratch(Below::len(shape, rows), |scratch| {
            below.pack(amx, scratch);
            let tiles = Tiles::new(amx);
            for tap in 0..kz {
                let plane = sample * depth + z * kz + tap;
                let place = |y: usize| {
                    debug_assert!(y < height && y / ky < shape.input[1], "row {y}");
                    Some(out.address((plane * height + y) * width * channels).cast_mut())
                };
                // SAFETY: the rows of a job belong to it alone.
                unsafe { below.multiply(amx, &tiles, scratch, &Rows { tap, pitch: channels, place }) };
            }
        });
    });
}
