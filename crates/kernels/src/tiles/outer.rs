//! Gradient of a convolution with respect to its weights.
//!
//! Per tap it is a product whose sums run over voxels, so that one factor needs its voxels in rows, `[channel][voxel]`, and the
//! other pairs of voxels side by side, `[voxel / 2][channel][2]`. Inputs take the first form: a tap along x or y is another start
//! address there, and a strip's rows lie end to end with zeros between the rows of the gradient. With a stride, voxels of equal
//! remainder lie together. Both forms are made once per job, normalised, activated and rounded on the way.

use half::bf16;
use rayon::prelude::*;

use super::leaf::{Copy, Outer, PAIR, ROWS, Stage, Tiles};
use super::maps::{bf16_values, bf16_view_mut, round};
use super::outer_cut::{BLOCK, CHUNK, OuterCut};
use super::pack::{TileInput, TileSource};
use super::token::Amx;
use crate::buffer::{Shared, with_scratch};
use crate::conv3d::ConvShape;
use crate::scratch::split;

/// Gradient of the loss with respect to the weights of `shape`'s convolution.
///
/// # Shapes
/// `inputs` are what the convolution reads, none of them upsampled as it is read; `grad` is the gradient of its output,
/// `[n, z, y, x, out_channels]`, with what is to be done to it first. `result` is `[out, in, kz, ky, kx]` and is overwritten.
/// `scratch` has as many values as [`super::tile_conv3d_backward_weights_scratch`] wants to be lent; their contents do not matter.
/// The same bytes for any number of threads.
///
/// # Panics
/// If a length contradicts the shape, or an input is to be upsampled.
pub fn tile_conv3d_backward_weights(
    amx: Amx,
    shape: &ConvShape,
    inputs: &[TileInput<'_>],
    grad: &TileSource<'_>,
    result: &mut [f32],
    scratch: &mut [f32],
) {
    let channels: usize = inputs.iter().map(TileInput::channels).sum();
    assert_eq!(channels, shape.in_channels, "channels of all inputs");
    for input in inputs {
        input.check(shape);
        assert!(!matches!(input, TileInput::Upsampled(_)), "an input that is upsampled as it is read");
    }
    assert_eq!(grad.channels, shape.out_channels, "channels of the gradient");
    grad.check(shape.batch, shape.out_voxels());
    assert_eq!(result.len(), shape.weight_len(), "values of the weights' gradient");
    let cut = OuterCut::new(shape);
    let taps = shape.taps();
    let len = cut.sums_len(taps);
    let (sums, _) = split(scratch, cut.parts * len);
    let shared = Shared::new(sums);
    let [ins, outs] = cut.splits;
    (0..cut.parts * ins * outs).into_par_iter().for_each(|job| {
        let (part, ins, outs) = (job / (ins * outs), job / outs % ins, job % outs);
        let blocks =
            |i: usize, split: usize| split * cut.pairs[i]..cut.all[i].min((split + 1) * cut.pairs[i]);
        with_scratch(cut.scratch(taps).per_thread, |scratch| {
            let [inputs_len, grads_len] = cut.packed_len();
            let (packed, rest) = scratch.split_at_mut(bf16_values(inputs_len));
            let job = Job {
                amx,
                shape,
                cut: &cut,
                inputs,
                grad,
                blocks: [blocks(0, ins), blocks(1, outs)],
                packed: &mut bf16_view_mut(packed)[..inputs_len],
                grads: &mut bf16_view_mut(rest)[..grads_len],
            };
            job.run(part, shared, part * len);
        });
    });
    gather(shape, &cut, sums, result);
}

/// Adds the sums of all parts up, `[out, in, kz, ky, kx]`.
fn gather(shape: &ConvShape, cut: &OuterCut, sums: &[f32], result: &mut [f32]) {
    let taps = shape.taps();
    let len = cut.sums_len(taps);
    let of_output = shape.in_channels * taps;
    // Few inputs at a time, so that the lines that are written stay in the cache until they are full.
    result.par_chunks_mut(of_output * PAIR).enumerate().for_each(|(outs, result)| {
        let mut of_input = vec![0f32; taps * PAIR];
        for ci in 0..shape.in_channels {
            let start = (ci / PAIR * cut.all[1] + outs) * taps * BLOCK + ci % PAIR * PAIR;
            for (tap, of_tap) in of_input.chunks_exact_mut(PAIR).enumerate() {
                let at = start + tap * BLOCK;
                of_tap.copy_from_slice(&sums[at..at + PAIR]);
                for part in 1..cut.parts {
                    let more = &sums[part * len + at..][..PAIR];
                    of_tap.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
                }
            }
            for (c, result) in result.chunks_exact_mut(of_output).enumerate() {
                let result = &mut result[ci * taps..][..taps];
                result.iter_mut().zip(of_input[c..].iter().step_by(PAIR)).for_each(|(r, &s)| *r = s);
            }
        }
    });
}

struct Job<'a> {
    amx: Amx,
    shape: &'a ConvShape,
    cut: &'a OuterCut,
    inputs: &'a [TileInput<'a>],
    grad: &'a TileSource<'a>,
    /// Blocks of 32 inputs and of 32 outputs.
    blocks: [std::ops::Range<usize>; 2],
    /// `[slot][phase][channel][row, x]`.
    packed: &'a mut [bf16],
    /// `[block][plane][voxel / 2][32][2]`.
    grads: &'a mut [bf16],
}

/// A strip of a sample.
#[derive(Clone, Copy)]
struct Strip {
    sample: usize,
    /// Output rows.
    first_row: usize,
    rows: usize,
}

impl Job<'_> {
    /// All units of a part; its sums begin at value `start`.
    fn run(mut self, part: usize, sums: Shared<'_, f32>, start: usize) {
        let (cut, shape) = (self.cut, self.shape);
        let [depth, height, _] = shape.output();
        let all_units = shape.batch * cut.strips * cut.segments;
        let tiles = Tiles::new(self.amx);
        let mut fresh = true;
        for unit in part * cut.units..all_units.min((part + 1) * cut.units) {
            let (segment, strip) = (unit % cut.segments, unit / cut.segments % cut.strips);
            let first_row = strip * cut.rows;
            let sample = unit / cut.segments / cut.strips;
            let strip = Strip { sample, first_row, rows: cut.rows.min(height - first_row) };
            self.packed.fill(bf16::ZERO);
            self.grads.fill(bf16::ZERO);
            let first = segment * cut.lots * cut.planes;
            let end = depth.min(first + cut.lots * cut.planes);
            let mut packed = 0;
            for z in (first..end).step_by(cut.planes) {
                let planes = z..end.min(z + cut.planes);
                let needed = (planes.end - 1) * shape.stride[0] + shape.kernel[0];
                for plane in (z * shape.stride[0]).max(packed)..needed {
                    self.pack(plane, strip);
                }
                packed = needed;
                for (at, z) in planes.clone().enumerate() {
                    self.pack_gradient(at, z, strip);
                }
                self.multiply(&tiles, planes, (sums, start), &mut fresh);
            }
        }
    }

    /// Packs plane `plane`, counted with padding, of all inputs.
    fn pack(&mut self, plane: usize, strip: Strip) {
        let (cut, shape) = (self.cut, self.shape);
        let slot = plane % cut.slots * cut.slot_len();
        let Some(z) = plane.checked_sub(shape.padding[0]).filter(|&z| z < shape.input[0]) else {
            self.packed[slot..slot + cut.slot_len()].fill(bf16::ZERO);
            return;
        };
        let rows = strip.rows + (shape.kernel[1] - 1) / shape.stride[1];
        for phase in 0..cut.phases[0] * cut.phases[1] {
            let (phase_y, phase_x) = (phase / cut.phases[1], phase % cut.phases[1]);
            let start = slot + phase * self.cut.pairs[0] * PAIR * cut.pitch;
            // The first column that is a voxel, and how many are.
            let [stride, padding, size] = [shape.stride[2], shape.padding[2], shape.input[2]];
            let first = padding.saturating_sub(phase_x).div_ceil(stride);
            let x = first * stride + phase_x - padding;
            let count = size.saturating_sub(x).div_ceil(stride);
            for row in 0..rows {
                let y = (strip.first_row + row) * shape.stride[1] + phase_y;
                let Some(y) = y.checked_sub(shape.padding[1]).filter(|&y| y < shape.input[1]) else {
                    continue;
                };
                let line = (strip.sample * shape.input[0] + z) * shape.input[1] + y;
                let columns = Columns { line, x, count, to: start + row * cut.width + first };
                for block in self.blocks[0].clone() {
                    self.pack_columns(&columns, block, strip.sample);
                }
            }
        }
    }

    /// A row of a phase, 32 channels of all inputs together.
    fn pack_columns(&mut self, columns: &Columns, block: usize, sample: usize) {
        let (cut, shape) = (self.cut, self.shape);
        let [size, stride] = [shape.input[2], shape.stride[2]];
        let channels = block * PAIR..shape.in_channels.min((block + 1) * PAIR);
        let to = columns.to + (block - self.blocks[0].start) * PAIR * cut.pitch;
        let mut stage = Stage::new();
        for at in (0..columns.count).step_by(PAIR) {
            let voxels = (columns.count - at).min(PAIR);
            let x = columns.x + at * stride;
            let mut first = 0;
            for input in self.inputs {
                let own = first..first + input.channels();
                let part = own.start.max(channels.start)..own.end.min(channels.end);
                first = own.end;
                if part.is_empty() {
                    continue;
                }
                let place = part.start - channels.start;
                let part = part.start - own.start..part.end - own.start;
                match input {
                    TileInput::Map(source) => {
                        let from = Voxels { sample, first: columns.line * size + x, stride, count: voxels };
                        take(self.amx, source, from, part, &mut stage.0[place..]);
                    }
                    TileInput::Planar { data, channels } => {
                        let line = columns.line % (shape.input[0] * shape.input[1]) * size + x;
                        for (i, c) in part.enumerate() {
                            let row = &data[(sample * channels + c) * shape.in_voxels()..];
                            let from = row[line..].iter().step_by(stride);
                            let to = stage.0[place + i..].iter_mut().step_by(PAIR);
                            to.zip(from).take(voxels).for_each(|(to, &value)| *to = round(value));
                        }
                    }
                    TileInput::Upsampled(_) => unreachable!("refused before"),
                }
            }
            stage.store_rows(self.amx, voxels, &mut self.packed[to + at..], cut.pitch);
        }
    }

    /// Packs output plane `z` of the gradient as the plane `at` of its lot.
    fn pack_gradient(&mut self, at: usize, z: usize, strip: Strip) {
        let (cut, shape) = (self.cut, self.shape);
        let [depth, height, width] = shape.output();
        let mut stage = Stage::new();
        for (i, block) in self.blocks[1].clone().enumerate() {
            let part = block * PAIR..shape.out_channels.min((block + 1) * PAIR);
            stage.0.fill(bf16::ZERO);
            let plane = &mut self.grads[(i * cut.planes + at) * cut.plane_len()..][..cut.plane_len()];
            for row in 0..strip.rows {
                let line = (strip.sample * depth + z) * height + strip.first_row + row;
                let to = &mut plane[row * cut.width * PAIR..];
                for x in (0..width).step_by(PAIR) {
                    let count = (width - x).min(PAIR);
                    let from = Voxels { sample: strip.sample, first: line * width + x, stride: 1, count };
                    take(self.amx, self.grad, from, part.clone(), &mut stage.0);
                    stage.store_pairs(self.amx, count, &mut to[x * PAIR..]);
                }
            }
        }
    }

    /// Adds the products of a lot to the sums that begin at a value.
    fn multiply(
        &self,
        tiles: &Tiles,
        planes: std::ops::Range<usize>,
        (sums, start): (Shared<'_, f32>, usize),
        fresh: &mut bool,
    ) {
        const BYTES: usize = size_of::<bf16>();
        let (cut, shape) = (self.cut, self.shape);
        let [kz, ky, kx] = shape.kernel;
        let [sz, sy, sx] = shape.stride;
        // Per tap along z, the bytes to both factors of every step.
        let steps: Vec<Vec<[usize; 2]>> = (0..kz)
            .map(|tap| {
                let of_plane = |(at, z): (usize, usize)| {
                    let slot = (z * sz + tap) % cut.slots * cut.slot_len();
                    (0..cut.blocks).map(move |block| {
                        [slot + block * PAIR, at * cut.plane_len() + block * PAIR * PAIR].map(|v| v * BYTES)
                    })
                };
                planes.clone().enumerate().flat_map(of_plane).collect()
            })
            .collect();
        let taps = shape.taps();
        for chunk in (0..steps[0].len()).step_by(CHUNK) {
            for (i, ins) in self.blocks[0].clone().enumerate() {
                let narrow = shape.in_channels - ins * PAIR <= ROWS;
                for tap in 0..taps {
                    let (z, y, x) = (tap / (ky * kx), tap / kx % ky, tap % kx);
                    let phase = y % sy * cut.phases[1] + x % sx;
                    let row = (phase * cut.pairs[0] + i) * PAIR * cut.pitch + y / sy * cut.width + x / sx;
                    let steps = &steps[z][chunk..];
                    let steps = &steps[..steps.len().min(CHUNK)];
                    for (o, outs) in self.blocks[1].clone().enumerate() {
                        let block = (ins * cut.all[1] + outs) * taps + tap;
                        let columns = o * cut.planes * cut.plane_len();
                        // SAFETY: a channel of a packed plane is as long as the last step of the last tap reads, and so is a
                        // plane of the gradient; these sums belong to this job alone.
                        unsafe {
                            let outer = Outer {
                                rows: self.packed.as_ptr().add(row),
                                pitch: cut.pitch * BYTES,
                                columns: self.grads.as_ptr().add(columns),
                                steps,
                                sums: sums.range(start + block * BLOCK, BLOCK).as_mut_ptr(),
                                fresh: *fresh,
                            };
                            if narrow {
                                Tiles::outer_half(tiles, outer);
                            } else {
                                Tiles::outer(tiles, outer);
                            }
                        }
                    }
                }
            }
            *fresh = false;
        }
    }
}

/// A row of a phase of a plane.
struct Columns {
    /// Row of the input, counted over all planes and samples.
    line: usize,
    /// First voxel and number of voxels.
    x: usize,
    count: usize,
    /// Where the first channel's first voxel goes.
    to: usize,
}

/// Voxels of a row of a map.
#[derive(Clone, Copy)]
struct Voxels {
    sample: usize,
    /// Counted over all samples.
    first: usize,
    stride: usize,
    count: usize,
}

/// Copies some channels of voxels to values 32 apart, normalised and activated.
fn take(amx: Amx, source: &TileSource<'_>, from: Voxels, part: std::ops::Range<usize>, to: &mut [bf16]) {
    let step = from.stride * source.channels;
    let start = from.first * source.channels + part.start;
    let values = &source.data[start..start + (from.count - 1) * step + part.len()];
    let prologue = source
        .factors(from.sample)
        .map(|(scale, shift, slope)| (&scale[part.clone()], &shift[part.clone()], slope));
    Copy { from: values, step, channels: part.len(), prologue, to, pitch: PAIR }.run(amx);
}
