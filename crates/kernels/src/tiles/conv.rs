//! Convolutions.

use half::bf16;
use rayon::prelude::*;

use super::cut::Cut;
use super::leaf::{Finish, PAIR, Product, ROWS, Tiles};
use super::maps::{bf16_values, bf16_view_mut};
use super::pack::{Ring, TileInput};
use super::token::Amx;
use super::upsample::padded;
use super::weights::{PackedTiles, steps_of_row};
use crate::buffer::{Shared, with_scratch};
use crate::conv3d::ConvShape;
use crate::stats::{ChannelStats, Partial};

/// Operands of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct TileCall<'a> {
    /// Its sizes.
    pub shape: &'a ConvShape,
    /// What it reads, as if concatenated along the channels; one of them at most upsampled.
    pub inputs: &'a [TileInput<'a>],
    /// Its weights.
    pub weights: &'a PackedTiles,
    /// `[out_channels]`.
    pub bias: Option<&'a [f32]>,
}

/// What a convolution writes.
#[derive(Debug)]
pub enum TileOutput<'a> {
    /// A map `[n, z, y, x, out_channels]`, rounded.
    Map(&'a mut [bf16]),
    /// Logits `[n, out_channels, z, y, x]` as they leave the sums.
    Planar(&'a mut [f32]),
}

impl TileOutput<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Map(values) => values.len(),
            Self::Planar(values) => values.len(),
        }
    }
}

/// Convolution of any kernel, stride and padding, without dilation and groups; the sums of what it writes, before rounding, go to
/// `stats`. The same bytes for any number of threads.
///
/// # Panics
/// If a length contradicts the shape.
pub fn tile_conv3d(amx: Amx, call: &TileCall<'_>, output: TileOutput<'_>, stats: Option<&mut ChannelStats>) {
    let TileCall { shape, inputs, weights, bias } = *call;
    let channels: usize = inputs.iter().map(TileInput::channels).sum();
    assert_eq!(channels, shape.in_channels, "channels of all inputs");
    for input in inputs {
        input.check(shape);
    }
    assert_eq!(output.len(), shape.out_len(), "values of the output");
    assert_eq!(weights.out_channels, shape.out_channels, "outputs of the weights");
    let steps = shape.kernel[0] * shape.kernel[1] * steps_of_row(shape);
    assert_eq!(weights.steps, steps, "steps of the weights");
    assert!(bias.is_none_or(|b| b.len() == shape.out_channels), "values of the bias");
    let cut = Cut::new(shape);
    let parts = cut.parts();
    let mut partial = stats.is_some().then(|| Partial::new(shape.batch * shape.out_channels, parts));
    let jobs = Jobs {
        amx,
        call,
        cut: &cut,
        output: match output {
            TileOutput::Map(values) => Target::Map(Shared::new(values)),
            TileOutput::Planar(values) => Target::Planar(Shared::new(values)),
        },
        sums: partial.as_mut().map(|p| Shared::new(&mut p.sums)),
    };
    (0..shape.batch * parts * cut.splits).into_par_iter().for_each(|job| {
        let (split, part) = (job % cut.splits, job / cut.splits % parts);
        let sample = job / cut.splits / parts;
        with_scratch(cut.scratch(shape, inputs), |scratch| jobs.run(sample, part, split, scratch));
    });
    if let (Some(stats), Some(partial)) = (stats, partial) {
        partial.reduce(stats);
    }
}

#[derive(Clone, Copy)]
enum Target<'a> {
    Map(Shared<'a, bf16>),
    Planar(Shared<'a, f32>),
}

struct Jobs<'a> {
    amx: Amx,
    call: &'a TileCall<'a>,
    cut: &'a Cut,
    output: Target<'a>,
    /// Sums and squares of every sample, channel and part.
    sums: Option<Shared<'a, [f64; 2]>>,
}

/// A strip's planes of one step.
struct Lot {
    sample: usize,
    /// Output planes and rows.
    planes: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
}

impl Jobs<'_> {
    fn run(&self, sample: usize, part: usize, split: usize, scratch: &mut [f32]) {
        let (cut, shape) = (self.cut, self.call.shape);
        let (segment, strip) = (part / cut.strips, part % cut.strips);
        let rows = strip * cut.rows..cut.output[1].min((strip + 1) * cut.rows);
        let first = segment * cut.steps * cut.planes;
        let end = cut.output[0].min(first + cut.steps * cut.planes);
        let pairs = split * cut.pairs..self.call.weights.pairs.min((split + 1) * cut.pairs);
        let (ring, rest) = scratch.split_at_mut(bf16_values(cut.ring_len(shape)));
        let (sums, below) = rest.split_at_mut(cut.sums_len());
        let ring = bf16_view_mut(ring);
        ring.fill(bf16::ZERO);
        let tiles = Tiles::new(self.amx);
        let mut ring = Ring {
            amx: self.amx,
            tiles: &tiles,
            shape,
            cut,
            inputs: self.call.inputs,
            sample,
            first_row: rows.start * shape.stride[1],
            values: ring,
            scratch: below,
        };
        let mut totals = vec![[[0f64; 2]; PAIR]; pairs.len()];
        let mut packed = first * shape.stride[0];
        for z in (first..end).step_by(cut.planes) {
            let planes = z..end.min(z + cut.planes);
            let needed = (planes.end - 1) * shape.stride[0] + shape.kernel[0];
            // With a stride beyond the kernel some planes are read by nobody.
            for plane in packed.max(z * shape.stride[0])..needed {
                ring.pack(plane);
            }
            packed = needed;
            let lot = Lot { sample, planes, rows: rows.clone() };
            for (pair, totals) in pairs.clone().zip(&mut totals) {
                self.multiply(&tiles, ring.values, &lot, pair, sums);
                self.finish(&lot, pair, sums, totals);
            }
        }
        let Some(target) = self.sums else { return };
        for (pair, totals) in pairs.zip(&totals) {
            for (c, &total) in totals.iter().enumerate().take(shape.out_channels - pair * PAIR) {
                let row = sample * shape.out_channels + pair * PAIR + c;
                // SAFETY: this job alone has this part of these channels.
                unsafe { target.write(row * cut.parts() + part, [total]) };
            }
        }
    }

    /// Sums of 32 channels of all voxels of a lot.
    fn multiply(&self, tiles: &Tiles, ring: &[bf16], lot: &Lot, pair: usize, sums: &mut [f32]) {
        let (cut, shape) = (self.cut, self.call.shape);
        let bytes = shape.in_channels * size_of::<bf16>();
        let [slots, rows, width] = cut.ring;
        let [kz, ky, _] = shape.kernel;
        let in_row = steps_of_row(shape);
        let weights = self.call.weights.block(0, pair);
        // The last strip may have fewer rows.
        let blocks = if lot.rows.len() == cut.rows { cut.blocks } else { cut.blocks_of(lot.rows.len()) };
        let mut offsets = vec![0usize; kz * ky * in_row];
        for (at, z) in lot.planes.clone().enumerate() {
            for (row, offsets) in offsets.chunks_exact_mut(in_row).enumerate() {
                let slot = (z * shape.stride[0] + row / ky) % slots;
                let start = (slot * rows + row % ky) * width * bytes;
                for (step, offset) in offsets.iter_mut().enumerate() {
                    *offset = start + step * PAIR * size_of::<bf16>();
                }
            }
            let first = at * cut.blocks;
            for block in (0..blocks).step_by(2) {
                let voxels = [block, (block + 1).min(blocks - 1)].map(|b| {
                    let start = cut.block_start(shape, b) * shape.in_channels;
                    debug_assert!(start < ring.len());
                    ring.as_ptr().wrapping_add(start)
                });
                let places = [first + block, first + block + 1].map(|b| b * ROWS * PAIR);
                assert!(places[1] + ROWS * PAIR <= sums.len(), "room for the sums");
                // SAFETY: the ring is as long as the last block of the last plane reads; the sums have room, as was checked, and
                // the second block of an odd last pair is written over by the next plane or lies behind all.
                unsafe {
                    tiles.multiply(Product {
                        voxels,
                        stride: shape.stride[2] * bytes,
                        offsets: &offsets,
                        weights: weights.as_ptr(),
                        sums: places.map(|place| sums.as_mut_ptr().add(place)),
                    });
                }
            }
        }
    }

    /// Writes 32 channels of all voxels of a lot.
    fn finish(&self, lot: &Lot, pair: usize, sums: &[f32], totals: &mut [[f64; 2]; PAIR]) {
        let (cut, shape) = (self.cut, self.call.shape);
        let [depth, height, width] = cut.output;
        let channels = shape.out_channels;
        let first = pair * PAIR;
        let count = (channels - first).min(PAIR);
        let bias = padded(self.call.bias, first);
        for (at, z) in lot.planes.clone().enumerate() {
            for (i, y) in lot.rows.clone().enumerate() {
                let sums = &sums[(at * cut.blocks * ROWS + i * cut.row_sums) * PAIR..][..width * PAIR];
                match self.output {
                    Target::Map(out) => {
                        let start = ((lot.sample * depth + z) * height + y) * width * channels + first;
                        let to = out.address(start).cast_mut();
                        let finish = Finish { sums, bias: &bias, to, pitch: channels, channels: count };
                        // SAFETY: this job alone writes these channels of these rows, which lie in the map.
                        unsafe { finish.run(self.amx, self.sums.is_some().then_some(&mut *totals)) };
                    }
                    Target::Planar(out) => {
                        for (c, bias) in bias.iter().enumerate().take(count) {
                            let start = ((lot.sample * channels + first + c) * depth + z) * height + y;
                            // SAFETY: this job alone writes these rows.
                            let row = unsafe { out.range(start * width, width) };
                            for (to, sums) in row.iter_mut().zip(sums.chunks_exact(PAIR)) {
                                *to = sums[c] + bias;
                            }
                        }
                    }
                }
            }
        }
    }
}
