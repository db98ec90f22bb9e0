//! Passes of the backward pass over whole maps and their gradients, channels last. Plain loops, as in [`super::maps`].

use half::bf16;
use rayon::prelude::*;

use super::maps::{leaky_factor, round, wide};
use crate::backward::norm::{NormGradients, finish};
use crate::buffer::Shared;
use crate::isa::vectorised;
use crate::norm::{Moments, NormKind, ScaleShift};
use crate::stats::{ChannelStats, Partial};

/// Voxels of a job.
const CHUNK: usize = 1024;
/// Channels that are worked on together: a vector of f32.
const LANES: usize = 16;

/// 16 values of a row that may end before.
#[inline(always)]
fn lanes(row: &[bf16]) -> [f32; LANES] {
    let mut values = [0.0; LANES];
    if let Some(row) = row.first_chunk::<LANES>() {
        for i in 0..LANES {
            values[i] = wide(row[i]);
        }
    } else {
        values.iter_mut().zip(row).for_each(|(v, &r)| *v = wide(r));
    }
    values
}

/// Rounds 16 values into a row that may end before, and gives them back.
#[inline(always)]
fn put(values: [f32; LANES], row: &mut [bf16]) -> [f32; LANES] {
    let mut rounded = [bf16::ZERO; LANES];
    for i in 0..LANES {
        rounded[i] = round(values[i]);
    }
    if let Some(row) = row.first_chunk_mut::<LANES>() {
        *row = rounded;
    } else {
        row.iter_mut().zip(rounded).for_each(|(r, v)| *r = v);
    }
    let mut back = [0.0; LANES];
    for i in 0..LANES {
        back[i] = wide(rounded[i]);
    }
    back
}

/// 16 factors from channel `start` on, 0 behind the last one.
#[inline(always)]
fn of_lanes(values: &[f32], start: usize) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes.iter_mut().zip(&values[start..]).for_each(|(l, &v)| *l = v);
    lanes
}

/// A normalisation and the activation behind it, as the backward pass needs them.
#[derive(Debug, Clone, Copy)]
pub struct TileNormCall<'a> {
    /// What was normalised, `[n, voxels, c]`.
    pub x: &'a [bf16],
    /// Voxels of a sample.
    pub voxels: usize,
    /// Which values share mean and variance.
    pub kind: NormKind,
    /// Mean and variance that it was normalised with.
    pub moments: &'a Moments,
    /// Factors, `[c]`.
    pub gamma: &'a [f32],
    /// Offsets, `[c]`.
    pub beta: &'a [f32],
    /// Added to the variance.
    pub eps: f64,
    /// Slope of the leaky ReLU below zero; 1 for no activation.
    pub slope: f32,
}

/// Sums per sample, channel and chunk of voxels that `work(sample, first value, sums)` makes, added up in order.
fn sums(
    [batch, voxels, channels]: [usize; 3],
    work: impl Fn(usize, std::ops::Range<usize>, [&mut [f32]; 2]) + Sync,
) -> ChannelStats {
    let parts = voxels.div_ceil(CHUNK);
    let mut partial = Partial::new(batch * channels, parts);
    let shared = Shared::new(&mut partial.sums);
    (0..batch * parts).into_par_iter().for_each(|job| {
        let (sample, part) = (job / parts, job % parts);
        let mut sums = vec![0f32; 2 * channels];
        let (first, second) = sums.split_at_mut(channels);
        let voxel = |v: usize| (sample * voxels + v.min(voxels)) * channels;
        work(sample, voxel(part * CHUNK)..voxel((part + 1) * CHUNK), [&mut *first, &mut *second]);
        for c in 0..channels {
            let sums = [first[c], second[c]].map(f64::from);
            // SAFETY: this job alone has this part of this sample's channels.
            unsafe { shared.write((sample * channels + c) * parts + part, [sums]) };
        }
    });
    let mut stats = ChannelStats::new(batch, channels, voxels);
    partial.reduce(&mut stats);
    stats
}

/// Sums per channel over all samples, in single precision.
fn over_samples(sums: &[f64], channels: usize) -> Vec<f32> {
    (0..channels).map(|c| sums[c..].iter().step_by(channels).sum::<f64>() as f32).collect()
}

/// Gradient of `y = leaky((x - mean) / sqrt(var + eps) * gamma + beta)` where mean and variance depend on `x`; and the sums of the
/// result per channel, which are the gradient of a bias that was added to `x`.
///
/// # Shapes
/// `grad` is as `x`: of `y` before, of `x` afterwards, rounded. Nothing depends on the number of threads.
///
/// # Panics
/// If a length contradicts another.
pub fn tile_norm_backward(call: &TileNormCall<'_>, grad: &mut [bf16]) -> (NormGradients, Vec<f32>) {
    let TileNormCall { x, voxels, kind, moments, gamma, beta, eps, slope } = *call;
    let channels = gamma.len();
    assert_eq!(x.len(), grad.len(), "lengths of input and gradient");
    assert!(x.len().is_multiple_of(channels * voxels), "{} values of {channels} x {voxels}", x.len());
    let batch = x.len() / (channels * voxels);
    let sizes = [batch, voxels, channels];
    let affine = ScaleShift::new(moments, kind, batch, gamma, beta, eps);
    let of_sample = |values: &[f32], sample: usize| values[sample * channels..][..channels].to_vec();
    let means: Vec<f32> = (0..batch * channels)
        .map(|row| moments.mean[kind.set_of(row / channels, row % channels, channels)] as f32)
        .collect();
    let of_grad = &*grad;
    let found = sums(sizes, |sample, range, [sum, with_x]| {
        let [scale, shift, mean] = [&affine.scale, &affine.shift, &means].map(|v| of_sample(v, sample));
        let (x, grad) = (&x[range.clone()], &of_grad[range]);
        vectorised(
            #[inline(always)]
            || {
                for start in (0..channels).step_by(LANES) {
                    let end = channels.min(start + LANES);
                    let (scale, shift, mean) =
                        (of_lanes(&scale, start), of_lanes(&shift, start), of_lanes(&mean, start));
                    let (mut sums, mut sums_x) = ([0f32; LANES], [0f32; LANES]);
                    for (x, grad) in x.chunks_exact(channels).zip(grad.chunks_exact(channels)) {
                        let (x, grad) = (lanes(&x[start..end]), lanes(&grad[start..end]));
                        for c in 0..LANES {
                            let g = grad[c] * leaky_factor(x[c].mul_add(scale[c], shift[c]), slope);
                            sums[c] += g;
                            sums_x[c] = g.mul_add(x[c] - mean[c], sums_x[c]);
                        }
                    }
                    sum[start..end].copy_from_slice(&sums[..end - start]);
                    with_x[start..end].copy_from_slice(&sums_x[..end - start]);
                }
            },
        );
    });
    let (gradients, factors) = finish(&found, (kind, moments), gamma, eps);
    let factor = |i: usize| -> Vec<f32> { factors.iter().map(|f| f[i]).collect() };
    let factors = [factor(0), factor(1), factor(2)];
    let shared = Shared::new(grad);
    let of_bias = sums(sizes, |sample, range, [sum, _]| {
        let [scale, shift] = [&affine.scale, &affine.shift].map(|v| of_sample(v, sample));
        let [a, b, c] = factors.each_ref().map(|v| of_sample(v, sample));
        // SAFETY: ranges of different jobs do not overlap.
        let grad = unsafe { shared.range(range.start, range.len()) };
        let x = &x[range];
        vectorised(
            #[inline(always)]
            || {
                for start in (0..channels).step_by(LANES) {
                    let end = channels.min(start + LANES);
                    let (scale, shift) = (of_lanes(&scale, start), of_lanes(&shift, start));
                    let (a, b, offset) = (of_lanes(&a, start), of_lanes(&b, start), of_lanes(&c, start));
                    let mut sums = [0f32; LANES];
                    for (x, grad) in x.chunks_exact(channels).zip(grad.chunks_exact_mut(channels)) {
                        let (x, grad) = (lanes(&x[start..end]), &mut grad[start..end]);
                        let mut result = lanes(grad);
                        for c in 0..LANES {
                            let g = result[c] * leaky_factor(x[c].mul_add(scale[c], shift[c]), slope);
                            result[c] = a[c].mul_add(g, b[c].mul_add(x[c], offset[c]));
                        }
                        let result = put(result, grad);
                        for c in 0..LANES {
                            sums[c] += result[c];
                        }
                    }
                    sum[start..end].copy_from_slice(&sums[..end - start]);
                }
            },
        );
    });
    (gradients, over_samples(&of_bias.sum, channels))
}

/// The gradient of a bias that was added to every voxel of a channel, `[c]`.
///
/// # Panics
/// If the gradient, `[n, voxels, c]`, has another length.
pub fn tile_bias_gradient(grad: &[bf16], [channels, voxels]: [usize; 2]) -> Vec<f32> {
    assert!(grad.len().is_multiple_of(channels * voxels), "{} values of {channels} x {voxels}", grad.len());
    let sizes = [grad.len() / (channels * voxels), voxels, channels];
    let found = sums(sizes, |_, range, [sum, _]| {
        let grad = &grad[range];
        vectorised(
            #[inline(always)]
            || {
                for start in (0..channels).step_by(LANES) {
                    let end = channels.min(start + LANES);
                    let mut sums = [0f32; LANES];
                    for grad in grad.chunks_exact(channels) {
                        let grad = lanes(&grad[start..end]);
                        for c in 0..LANES {
                            sums[c] += grad[c];
                        }
                    }
                    sum[start..end].copy_from_slice(&sums[..end - start]);
                }
            },
        );
    });
    over_samples(&found.sum, channels)
}

/// Multiplies the gradient with the slope where the value, before or after the activation, is not positive.
///
/// # Panics
/// If a length differs.
pub fn tile_activation_backward(values: &[bf16], slope: f32, grad: &mut [bf16]) {
    assert_eq!(values.len(), grad.len(), "lengths of map and gradient");
    grad.par_chunks_mut(CHUNK * 32).zip(values.par_chunks(CHUNK * 32)).for_each(|(grad, values)| {
        vectorised(
            #[inline(always)]
            || {
                for (g, &v) in grad.iter_mut().zip(values) {
                    *g = round(wide(*g) * leaky_factor(wide(v), slope));
                }
            },
        );
    });
}

/// `to = from`, or with `add` the rounded sum of both.
///
/// # Panics
/// If a length differs.
pub fn tile_give(from: &[bf16], to: &mut [bf16], add: bool) {
    assert_eq!(from.len(), to.len(), "lengths of two gradients");
    to.par_chunks_mut(CHUNK * 32).zip(from.par_chunks(CHUNK * 32)).for_each(|(to, from)| {
        if !add {
            return to.copy_from_slice(from);
        }
        vectorised(
            #[inline(always)]
            || {
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = round(wide(*to) + wide(from));
                }
            },
        );
    });
}

/// Multiplies every channel of every sample with its factor, `[n, c]`, and rounds.
///
/// # Panics
/// If the map, `[n, voxels, c]`, has another length.
pub fn tile_scale_channels(values: &mut [bf16], factors: &[f32], [channels, voxels]: [usize; 2]) {
    assert_eq!(values.len(), factors.len() * voxels, "values of a map");
    for (values, factors) in values.chunks_exact_mut(channels * voxels).zip(factors.chunks_exact(channels)) {
        values.par_chunks_mut(CHUNK * channels).for_each(|values| {
            vectorised(
                #[inline(always)]
                || {
                    for values in values.chunks_exact_mut(channels) {
                        for c in 0..channels {
                            values[c] = round(wide(values[c]) * factors[c]);
                        }
                    }
                },
            );
        });
    }
}

/// The gradient of the input of [`super::tile_avg_pool`], of `size` voxels: rounded and written, or with `add` added to what is there
/// before it is rounded.
///
/// # Panics
/// If a length contradicts the sizes.
pub fn tile_avg_pool_backward(
    grad: &[bf16],
    (channels, size): (usize, [usize; 3]),
    kernel: [usize; 3],
    result: &mut [bf16],
    add: bool,
) {
    let [oz, oy, ox]: [usize; 3] = std::array::from_fn(|a| size[a] / kernel[a]);
    let batch = result.len() / (channels * size.iter().product::<usize>());
    assert_eq!(result.len(), batch * channels * size.iter().product::<usize>(), "values of the result");
    assert_eq!(grad.len(), batch * oz * oy * ox * channels, "values of the gradient");
    let share = 1.0 / kernel.iter().product::<usize>() as f32;
    result.par_chunks_mut(size[2] * channels).enumerate().for_each(|(line, result)| {
        let (sample, z, y) = (line / (size[0] * size[1]), line / size[1] % size[0], line % size[1]);
        let from = ((sample * oz + z / kernel[0]) * oy + y / kernel[1]) * ox * channels;
        let grad = &grad[from..from + ox * channels];
        vectorised(
            #[inline(always)]
            || {
                for (x, result) in result.chunks_exact_mut(channels).enumerate() {
                    let grad = &grad[x / kernel[2] * channels..][..channels];
                    for c in 0..channels {
                        let before = if add { wide(result[c]) } else { 0.0 };
                        result[c] = round(wide(grad[c]).mul_add(share, before));
                    }
                }
            },
        );
    });
}
