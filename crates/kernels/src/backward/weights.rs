//! Gradient of a convolution with respect to its weights and bias.
//!
//! Per tap it is a sum over all output voxels of gradient times input, so vectors run along the voxels and are summed across
//! only at the end. A job owns a block of output channels times a block of input channels and a range of output planes; it
//! walks over them in boxes that fit the first cache, all rows of a box laid end to end (the gradient is zero between
//! rows, where the input has its padding). Ranges are summed in order, and all of it is cut by the shape alone, so
//! the result is the same for any number of threads.

use rayon::prelude::*;

use crate::buffer::{Shared, with_scratch};
use crate::conv3d::pack::{pack_row, split_phases, zero_range};
use crate::conv3d::{Algorithm, ConvShape};
use crate::isa::{Cpu, Isa, Kernel};
use crate::norm::channel_stats;
use crate::scratch::{Scratch, split};
use crate::source::{Source, apply_prologue, check_sources, plane};

use super::data::for_each_product;
use super::winograd;

/// Output and input channels of a job.
const CHANNELS: [usize; 2] = [16, 16];
/// Output voxels of a box, padding included: 8 channels of gradient and one of input stay in the first cache.
const BOX: usize = 640;
/// Values of all partial results together: 32 MiB.
const PARTIAL_LEN: usize = 8 << 20;

/// Gradient of the bias: the sum of the output's gradient `[n, channels, voxels]` per channel.
///
/// # Panics
/// If `grad` is not whole samples.
pub fn bias_gradient(cpu: Cpu, grad: &[f32], channels: usize, voxels: usize) -> Vec<f32> {
    let stats = channel_stats(cpu, grad, channels, voxels);
    (0..channels).map(|c| stats.sum.iter().skip(c).step_by(channels).sum::<f64>() as f32).collect()
}

/// Gradient of the loss with respect to the weights of `shape`'s convolution, `[out, in, kd, kh, kw]`.
///
/// # Shapes
/// `sources` are the forward pass's, prologues included; `grad` is the gradient of the output, `[n, out, d, h, w]` (as a source,
/// because the weight gradient of a transposed convolution has the forward input here). `result` is overwritten. `scratch` has as
/// many values as [`backward_weights_scratch`] wants to be lent; their contents do not matter.
///
/// # Panics
/// If a length contradicts `shape`.
pub fn conv3d_backward_weights(
    cpu: Cpu,
    shape: &ConvShape,
    sources: &[Source<'_>],
    grad: Source<'_>,
    result: &mut [f32],
    scratch: &mut [f32],
) {
    conv3d_backward_weights_by(cpu, shape, sources, grad, Algorithm::Auto, result, scratch);
}

/// What [`conv3d_backward_weights_by`] takes next to its operands: the caller's memory the sums of every range of voxels.
pub fn backward_weights_scratch(cpu: Cpu, shape: &ConvShape, algorithm: Algorithm) -> Scratch {
    if by_winograd(shape, algorithm) {
        return winograd::scratch(shape, cpu.lanes());
    }
    let cut = Cut::new(shape, cpu.lanes());
    Scratch { per_thread: cut.lengths(shape).iter().sum(), lent: cut.partial_len(shape) }
}

fn by_winograd(shape: &ConvShape, algorithm: Algorithm) -> bool {
    algorithm == Algorithm::Winograd || algorithm == Algorithm::Auto && winograd::pays(shape)
}

/// [`conv3d_backward_weights`] by a named algorithm.
///
/// Relative to the sum of the products' magnitudes, the error of the direct algorithm is below 1e-6, Winograd's below 1e-5.
///
/// # Panics
/// If a length contradicts `shape`, or `algorithm` cannot compute it.
pub fn conv3d_backward_weights_by(
    cpu: Cpu,
    shape: &ConvShape,
    sources: &[Source<'_>],
    grad: Source<'_>,
    algorithm: Algorithm,
    result: &mut [f32],
    scratch: &mut [f32],
) {
    assert!(algorithm.supports(shape), "{algorithm:?} cannot compute {shape:?}");
    check_sources(sources, shape.batch, shape.in_channels, shape.in_voxels());
    check_sources(&[grad], shape.batch, shape.out_channels, shape.out_voxels());
    assert_eq!(result.len(), shape.weight_len(), "length of the weights' gradient of {shape:?}");
    if by_winograd(shape, algorithm) {
        return winograd::run(cpu, shape, sources, grad, result, scratch);
    }
    let cut = Cut::new(shape, cpu.lanes());
    let blocks = [shape.out_channels.div_ceil(CHANNELS[0]), shape.in_channels.div_ceil(CHANNELS[1])];
    let (partial, _) = split(scratch, cut.partial_len(shape));
    let shared = Shared::new(if cut.ranges > 1 { &mut *partial } else { &mut *result });
    let lengths = cut.lengths(shape);
    (0..cut.ranges * blocks[0] * blocks[1]).into_par_iter().for_each(|job| {
        let (range, block) = (job / (blocks[0] * blocks[1]), job % (blocks[0] * blocks[1]));
        let at = [block / blocks[1] * CHANNELS[0], block % blocks[1] * CHANNELS[1]];
        with_scratch(lengths.iter().sum(), |scratch| {
            let (sums, scratch) = scratch.split_at_mut(lengths[0]);
            let (packed_grad, scratch) = scratch.split_at_mut(lengths[1]);
            let (packed, line) = scratch.split_at_mut(lengths[2]);
            cpu.dispatch(Job {
                shape,
                cut: &cut,
                sources,
                grad,
                range,
                co: [at[0], (at[0] + CHANNELS[0]).min(shape.out_channels)],
                ci: [at[1], (at[1] + CHANNELS[1]).min(shape.in_channels)],
                sums,
                packed_grad,
                packed,
                line: &mut line[..cut.width * shape.stride[2]],
                out: shared,
                offset: range * shape.weight_len(),
            });
        });
    });
    if cut.ranges > 1 {
        let len = result.len();
        result.par_iter_mut().enumerate().for_each(|(i, r)| {
            *r = (0..cut.ranges).map(|range| f64::from(partial[range * len + i])).sum::<f64>() as f32;
        });
    }
}

/// How a call is cut; a function of the shape and the lanes alone. Packed input is laid out as in the forward pass.
#[derive(Debug)]
struct Cut {
    lanes: usize,
    /// Output rows of a box, along depth and height.
    rows: [usize; 2],
    /// Boxes along depth and height, and how many make a range, over all samples.
    boxes: [usize; 2],
    per_range: usize,
    ranges: usize,
    /// Packed values of one channel, of one plane, of one phase; a row of both input and gradient.
    channel: usize,
    plane: usize,
    phase: usize,
    width: usize,
    /// Packed gradient of one channel, and of one plane of it.
    grad_channel: usize,
    grad_plane: usize,
    taps: Vec<usize>,
}

impl Cut {
    fn new(shape: &ConvShape, lanes: usize) -> Self {
        let [od, oh, ow] = shape.output();
        let ([kd, kh, kw], [sd, sh, sw]) = (shape.kernel, shape.stride);
        let width = ow + (kw - 1) / sw;
        let mut rows = [1, (BOX / width).clamp(1, oh)];
        if rows[1] == oh {
            rows[0] = (BOX / (width * oh)).clamp(1, od);
        } else if rows[1] >= 4 && od > 1 {
            // Two planes of half the rows share more of their input.
            rows = [2, rows[1] / 2];
        }
        let phase = (rows[1] + (kh - 1) / sh) * width;
        let plane = phase * sh * sw;
        let grad_plane = (rows[1] * width).next_multiple_of(lanes);
        let boxes = [od.div_ceil(rows[0]), oh.div_ceil(rows[1])];
        let all = shape.batch * boxes[0] * boxes[1];
        let jobs = shape.out_channels.div_ceil(CHANNELS[0]) * shape.in_channels.div_ceil(CHANNELS[1]);
        // At least 64 jobs, and at most 512 boxes per job, for accuracy, as far as the partial results may grow.
        let most = (PARTIAL_LEN / shape.weight_len().max(1)).clamp(1, all);
        let ranges = 64usize.div_ceil(jobs).max(all / 512).clamp(1, most);
        let per_range = all.div_ceil(ranges);
        let mut taps = Vec::with_capacity(shape.taps());
        for a in 0..kd {
            for b in 0..kh {
                for c in 0..kw {
                    taps.push(a * plane + (b % sh * sw + c % sw) * phase + b / sh * width + c / sw);
                }
            }
        }
        Self {
            lanes,
            rows,
            boxes,
            per_range,
            ranges: all.div_ceil(per_range),
            channel: plane * ((rows[0] - 1) * sd + kd),
            plane,
            phase,
            width,
            grad_channel: rows[0] * grad_plane,
            grad_plane,
            taps,
        }
    }

    /// Values of every buffer of a job, in the order of [`Job`]'s fields.
    fn lengths(&self, shape: &ConvShape) -> [usize; 4] {
        [
            CHANNELS[0] * CHANNELS[1] * self.taps.len() * self.lanes,
            CHANNELS[0] * self.grad_channel + self.lanes,
            self.channel + 2 * self.lanes + shape.kernel[2],
            self.width * shape.stride[2] + self.lanes,
        ]
    }

    /// Values of the sums of all ranges; none if there is one, which is the result.
    fn partial_len(&self, shape: &ConvShape) -> usize {
        if self.ranges > 1 { self.ranges * shape.weight_len() } else { 0 }
    }
}

struct Job<'a> {
    shape: &'a ConvShape,
    cut: &'a Cut,
    sources: &'a [Source<'a>],
    grad: Source<'a>,
    range: usize,
    co: [usize; 2],
    ci: [usize; 2],
    /// Vectors of partial sums, `[ci][tap][co]`.
    sums: &'a mut [f32],
    packed_grad: &'a mut [f32],
    packed: &'a mut [f32],
    line: &'a mut [f32],
    out: Shared<'a, f32>,
    offset: usize,
}

impl Kernel for Job<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let cut = self.cut;
        let taps = cut.taps.len();
        let len = self.sums.len();
        zero_range(isa, self.sums, 0, len);
        let all = self.shape.batch * cut.boxes[0] * cut.boxes[1];
        let end = ((self.range + 1) * cut.per_range).min(all);
        for index in self.range * cut.per_range..end {
            let (n, rest) = (index / (cut.boxes[0] * cut.boxes[1]), index % (cut.boxes[0] * cut.boxes[1]));
            let start = [rest / cut.boxes[1] * cut.rows[0], rest % cut.boxes[1] * cut.rows[1]];
            self.pack_grad(isa, n, start);
            for ci in self.ci[0]..self.ci[1] {
                self.pack_input(isa, n, start, ci);
                let mut co = 0;
                while co < self.co[1] - self.co[0] {
                    let mut t = 0;
                    while t < taps {
                        let at = ((ci - self.ci[0]) * taps + t) * CHANNELS[0] + co;
                        if I::REGISTERS >= 32 && t + 3 <= taps {
                            self.multiply::<I, 8, 3>(isa, co, t, at);
                            t += 3;
                        } else if I::REGISTERS >= 32 {
                            self.multiply::<I, 8, 1>(isa, co, t, at);
                            t += 1;
                        } else if t + 3 <= taps {
                            self.multiply::<I, 4, 3>(isa, co, t, at);
                            t += 3;
                        } else {
                            self.multiply::<I, 4, 1>(isa, co, t, at);
                            t += 1;
                        }
                    }
                    co += if I::REGISTERS >= 32 { 8 } else { 4 };
                }
            }
        }
        for co in self.co[0]..self.co[1] {
            for ci in self.ci[0]..self.ci[1] {
                // SAFETY: this job alone writes the weights of its channels in its range.
                let to =
                    unsafe { self.out.range(self.offset + (co * self.shape.in_channels + ci) * taps, taps) };
                for (t, to) in to.iter_mut().enumerate() {
                    let at = ((ci - self.ci[0]) * taps + t) * CHANNELS[0] + co - self.co[0];
                    // SAFETY: `sums` has a vector per channel pair and tap.
                    *to = isa.sum(unsafe { isa.load(self.sums, at * I::LANES) });
                }
            }
        }
    }
}

impl Job<'_> {
    /// Packs the gradient of all output channels of the job: rows end to end, zero where the box leaves the volume, between
    /// rows, and for the channels that fill up a block.
    #[inline(always)]
    fn pack_grad<I: Isa>(&mut self, isa: I, n: usize, start: [usize; 2]) {
        let [od, oh, ow] = self.shape.output();
        let cut = self.cut;
        for c in 0..CHANNELS[0] {
            let co = self.co[0] + c;
            let channel = c * cut.grad_channel;
            if co >= self.co[1] {
                zero_range(isa, self.packed_grad, channel, channel + cut.grad_channel);
                continue;
            }
            let source = plane(&[self.grad], n, co, od * oh * ow);
            for z in 0..cut.rows[0] {
                let at = channel + z * cut.grad_plane;
                for y in 0..cut.rows[1] {
                    let at = at + y * cut.width;
                    let (oz, oy) = (start[0] + z, start[1] + y);
                    if oz < od && oy < oh {
                        let row = &source.data[(oz * oh + oy) * ow..][..ow];
                        pack_row(isa, row, 0, source.prologue, &mut self.packed_grad[at..at + cut.width]);
                    } else {
                        zero_range(isa, self.packed_grad, at, at + cut.width);
                    }
                }
                zero_range(isa, self.packed_grad, at + cut.rows[1] * cut.width, at + cut.grad_plane);
            }
        }
    }

    /// Packs one input channel of the box. Everything the vectors read is written: stale values times a zero gradient might
    /// be infinity times zero.
    #[inline(always)]
    fn pack_input<I: Isa>(&mut self, isa: I, n: usize, start: [usize; 2], ci: usize) {
        let (shape, cut) = (self.shape, self.cut);
        let [id, ih, iw] = shape.input;
        let [sd, sh, sw] = shape.stride;
        let rows =
            [(cut.rows[0] - 1) * sd + shape.kernel[0], (cut.rows[1] + (shape.kernel[1] - 1) / sh) * sh];
        let source = plane(self.sources, n, ci, id * ih * iw);
        for dz in 0..rows[0] {
            let z = (start[0] * sd + dz).wrapping_sub(shape.padding[0]);
            for dy in 0..rows[1] {
                let y = (start[1] * sh + dy).wrapping_sub(shape.padding[1]);
                let at = dz * cut.plane + dy % sh * sw * cut.phase + dy / sh * cut.width;
                if z >= id || y >= ih {
                    for phase in 0..sw {
                        let at = at + phase * cut.phase;
                        zero_range(isa, self.packed, at, at + cut.width);
                    }
                    continue;
                }
                let row = &source.data[(z * ih + y) * iw..][..iw];
                let from = -(shape.padding[2] as isize);
                if sw == 1 {
                    pack_row(isa, row, from, source.prologue, &mut self.packed[at..at + cut.width]);
                } else {
                    pack_row(isa, row, from, source.prologue, self.line);
                    split_phases(isa, self.line, sw, &mut self.packed[at..], cut.phase);
                }
            }
        }
        let len = self.packed.len();
        zero_range(isa, self.packed, cut.channel, len);
    }

    /// Adds the box's products for `C` output channels and `R` taps.
    #[inline(always)]
    fn multiply<I: Isa, const C: usize, const R: usize>(&mut self, isa: I, co: usize, tap: usize, at: usize) {
        let cut = self.cut;
        let mut acc = [[isa.splat(0.0); R]; C];
        // SAFETY: the gradient is a whole number of vectors per plane; taps of the last vector end at most a row and two
        // vectors behind the packed channel. Debug assertions check every access.
        unsafe {
            for z in 0..cut.rows[0] {
                let grad = co * cut.grad_channel + z * cut.grad_plane;
                let base = z * self.shape.stride[0] * cut.plane;
                for v in (0..cut.grad_plane).step_by(I::LANES) {
                    let mut x = [isa.splat(0.0); R];
                    for r in 0..R {
                        x[r] = isa.load(self.packed, base + cut.taps[tap + r] + v);
                    }
                    for c in 0..C {
                        let g = isa.load(self.packed_grad, grad + c * cut.grad_channel + v);
                        for r in 0..R {
                            acc[c][r] = isa.fma(g, x[r], acc[c][r]);
                        }
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    let at = (at + r * CHANNELS[0] + c) * I::LANES;
                    isa.store(self.sums, at, isa.add(isa.load(self.sums, at), acc[c][r]));
                }
            }
        }
    }
}

/// What [`conv3d_backward_weights`] computes, product by product.
///
/// # Panics
/// If a length contradicts `shape`.
pub fn conv3d_backward_weights_reference(
    shape: &ConvShape,
    sources: &[Source<'_>],
    grad: Source<'_>,
) -> Vec<f32> {
    let value = |sources: &[Source<'_>], i: usize, channels: usize, voxels: usize| {
        let plane = plane(sources, i / (channels * voxels), i / voxels % channels, voxels);
        f64::from(apply_prologue(plane.prologue, plane.data[i % voxels]))
    };
    let inputs: Vec<f64> =
        (0..shape.in_len()).map(|i| value(sources, i, shape.in_channels, shape.in_voxels())).collect();
    let grads: Vec<f64> =
        (0..shape.out_len()).map(|i| value(&[grad], i, shape.out_channels, shape.out_voxels())).collect();
    let mut sums = vec![0.0f64; shape.weight_len()];
    for_each_product(shape, |out, weight, input| sums[weight] += grads[out] * inputs[input]);
    sums.into_iter().map(|s| s as f32).collect()
}
