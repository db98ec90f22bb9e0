//! A decoder step's first convolution, which reads a skip and an upsampled map that never exists as a whole.
//!
//! At full resolution the upsampled map is one of the network's three largest. Here the transposed convolution makes a slab of a
//! few planes at a time, with the neighbouring planes that the taps reach, and the convolution reads it while it is still
//! near; what a slab makes again at its border is a few planes of the cheaper of the two layers.

use crate::conv3d::{self, Algorithm, ConvShape, OutputPart, PackedConv, Target, convolve};
use crate::isa::Cpu;
use crate::scratch::{Scratch, split};
use crate::source::{Source, Window, check_sources};
use crate::stats::ChannelStats;
use crate::transposed::{PackedTransposed, TransposedShape, upsample};

/// Values of an upsampled slab: 32 MiB.
const SLAB_LEN: usize = 8 << 20;
/// Planes of a slab are a multiple of this, so that Winograd's tiles fit.
const PLANES: usize = 8;

/// A transposed convolution whose result is read at once.
#[derive(Debug, Clone, Copy)]
pub struct Upsampling<'a> {
    /// Its sizes.
    pub shape: &'a TransposedShape,
    /// What it reads.
    pub source: Source<'a>,
    /// Its weights.
    pub weights: &'a PackedTransposed<'a>,
    /// Its bias, `[out]`.
    pub bias: Option<&'a [f32]>,
}

impl Upsampling<'_> {
    /// Planes that a slab has, without its border.
    fn planes(shape: &TransposedShape) -> usize {
        let [_, height, width] = shape.output();
        let plane = (shape.out_channels * height * width).max(1);
        (SLAB_LEN / plane).next_multiple_of(PLANES).max(PLANES)
    }

    /// Into how many slabs the map that `shape` makes is cut; one holds all of it.
    pub fn slabs(shape: &TransposedShape) -> usize {
        shape.output()[0].div_ceil(Self::planes(shape))
    }

    /// What [`conv3d_upsampled`] takes next to its operands: a slab, and what the two layers take.
    pub fn scratch(cpu: Cpu, up: &TransposedShape, shape: &ConvShape, algorithm: Algorithm) -> Scratch {
        // The weights are prepared for all of it.
        let (step, algorithm) = (Self::planes(up), algorithm.choose(shape));
        let layers = slabs(shape, up, step).fold(Scratch::default(), |most, slab| {
            let convolution = conv3d::scratch(algorithm, &slab.piece, &slab.part, cpu.lanes());
            most.max(PackedTransposed::scratch(&slab.small)).max(convolution)
        });
        Scratch { lent: slab_len(up, step, shape.kernel[0]) + layers.lent, ..layers }
    }
}

/// Some planes of one sample.
struct Slab {
    sample: usize,
    /// The transposed convolution that makes them and what the taps reach, and the first plane below that it reads.
    small: TransposedShape,
    below: usize,
    /// The convolution that reads them, the first plane that it reads, and which outputs it computes.
    piece: ConvShape,
    first: usize,
    part: OutputPart,
}

/// All slabs, `step` planes each.
fn slabs(shape: &ConvShape, up: &TransposedShape, step: usize) -> impl Iterator<Item = Slab> {
    let (shape, up) = (*shape, *up);
    let [depth, height, width] = shape.output();
    let (kernel, padding) = (shape.kernel[0], shape.padding[0]);
    let starts = move |sample| (0..depth).step_by(step).map(move |start| (sample, start));
    (0..shape.batch).flat_map(starts).map(move |(sample, start)| {
        let planes = step.min(depth - start);
        // Input planes that this slab's taps reach, and the planes below that they are made of.
        let first = start.saturating_sub(padding);
        let end = (start + planes + kernel - 1).saturating_sub(padding).min(shape.input[0]);
        let below = [first / up.kernel[0], end.div_ceil(up.kernel[0])];
        let origin = [
            start as isize - padding as isize - first as isize,
            -(shape.padding[1] as isize),
            -(shape.padding[2] as isize),
        ];
        Slab {
            sample,
            small: TransposedShape { batch: 1, input: [below[1] - below[0], up.input[1], up.input[2]], ..up },
            below: below[0],
            piece: ConvShape { batch: 1, input: [end - first, shape.input[1], shape.input[2]], ..shape },
            first,
            part: OutputPart {
                output: [planes, height, width],
                origin,
                sample,
                voxels: shape.out_voxels(),
                start: start * height * width,
            },
        }
    })
}

/// Length of a slab of `planes` planes and what the taps of a kernel of `kernel` planes reach.
fn slab_len(shape: &TransposedShape, planes: usize, kernel: usize) -> usize {
    let [depth, height, width] = shape.output();
    // Whole planes below, on either side.
    let planes = (planes + kernel - 1 + 2 * (shape.kernel[0] - 1)).min(depth);
    shape.out_channels * planes * height * width
}

/// Operands of [`conv3d_upsampled`].
#[derive(Debug, Clone, Copy)]
pub struct UpsampledCall<'a> {
    /// Sizes of the convolution; its stride is 1.
    pub shape: &'a ConvShape,
    /// What makes the first of its channels.
    pub upsampling: Upsampling<'a>,
    /// What it reads behind them.
    pub skip: Source<'a>,
    /// Its weights.
    pub weights: &'a PackedConv<'a>,
    /// Its bias, `[out]`.
    pub bias: Option<&'a [f32]>,
}

/// `out = conv([upsampling, prologue(skip)]) + bias` with stride 1, and the sums of `out` per sample and channel.
///
/// The same as [`crate::conv_transpose3d`] and then [`crate::conv3d`] of its result and `skip`, up to the order of sums.
///
/// # Shapes
/// The upsampling's result and `skip` have `shape`'s batch and voxels, and its channels together, in this order; `out` and `stats` are as for
/// [`crate::conv3d`]. `scratch` has
/// as many values as [`Upsampling::scratch`] wants to be lent; their contents do not matter.
///
/// # Panics
/// If a length contradicts `shape`, its stride is not 1, or weights were prepared for another layer.
pub fn conv3d_upsampled(
    call: UpsampledCall<'_>,
    out: &mut [f32],
    stats: Option<&mut ChannelStats>,
    scratch: &mut [f32],
) {
    by_slabs(Upsampling::planes(call.upsampling.shape), call, out, stats, scratch);
}

/// [`conv3d_upsampled`], `step` planes at a time.
fn by_slabs(
    step: usize,
    call: UpsampledCall<'_>,
    out: &mut [f32],
    mut stats: Option<&mut ChannelStats>,
    scratch: &mut [f32],
) {
    let UpsampledCall { shape, upsampling, skip, weights, bias } = call;
    let up = upsampling.shape;
    assert_eq!(shape.stride, [1; 3], "a convolution of an upsampled map");
    assert_eq!((up.batch, up.output()), (shape.batch, shape.input), "{up:?} before {shape:?}");
    assert_eq!(up.out_channels + skip.channels, shape.in_channels, "{up:?} before {shape:?}");
    weights.check(shape, bias, out.len(), stats.as_deref());
    check_sources(&[upsampling.source], up.batch, up.in_channels, up.in_voxels());
    check_sources(&[skip], shape.batch, skip.channels, shape.in_voxels());
    let in_plane = shape.input[1] * shape.input[2];
    let slab_len = slab_len(up, step, shape.kernel[0]);
    let (room, scratch) = split(scratch, slab_len);
    if let Some(stats) = &mut stats {
        stats.sum.fill(0.0);
        stats.sum_sq.fill(0.0);
    }
    for Slab { sample, small, below, piece, first, part } in slabs(shape, up, step) {
        let slab = &mut room[..small.out_len()];
        let source = Window {
            source: upsampling.source,
            sample,
            voxels: up.in_voxels(),
            start: below * up.input[1] * up.input[2],
        };
        upsample(&small, source, upsampling.weights, upsampling.bias, slab);
        let made = Window {
            source: Source::plain(slab, up.out_channels),
            sample: 0,
            voxels: small.out_voxels(),
            start: (first - below * up.kernel[0]) * in_plane,
        };
        let skip = Window { source: skip, sample, voxels: shape.in_voxels(), start: first * in_plane };
        let voxels = part.output.iter().product();
        let mut sums = stats.is_some().then(|| ChannelStats::new(1, shape.out_channels, voxels));
        let target = Target { out: &mut *out, stats: sums.as_mut(), scratch: &mut *scratch };
        convolve(&piece, part, &[made, skip], weights, bias, target);
        if let (Some(stats), Some(sums)) = (&mut stats, sums) {
            let row = sample * shape.out_channels;
            for c in 0..shape.out_channels {
                stats.sum[row + c] += sums.sum[c];
                stats.sum_sq[row + c] += sums.sum_sq[c];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Algorithm, Cpu, Prologue, conv_transpose3d, conv3d};

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// One layer pair; slabs of `step` planes.
    #[derive(Debug)]
    struct Case {
        batch: usize,
        channels: [usize; 4],
        below: [usize; 3],
        up: [usize; 3],
        kernel: [usize; 3],
        step: usize,
        algorithm: Algorithm,
    }

    fn check(case: &Case, cpu: Cpu) {
        let [below, made, skip, outs] = case.channels;
        let up = TransposedShape {
            batch: case.batch,
            in_channels: below,
            out_channels: made,
            input: case.below,
            kernel: case.up,
        };
        let shape = ConvShape::same(case.batch, made + skip, outs, up.output(), case.kernel, [1; 3]);
        let data = [numbers(up.in_len(), 1), numbers(case.batch * skip * shape.in_voxels(), 2)];
        let scales = [numbers(case.batch * below, 3), numbers(case.batch * skip, 4)];
        let shifts = [numbers(case.batch * below, 5), numbers(case.batch * skip, 6)];
        let sources = [0, 1].map(|i| Source {
            data: &data[i],
            channels: [below, skip][i],
            prologue: Some(Prologue { scale: &scales[i], shift: &shifts[i], slope: 0.01 }),
        });
        let (up_bias, bias) = (numbers(made, 7), numbers(outs, 8));
        let up_weights = PackedTransposed::new(cpu, &up, &numbers(up.weight_len(), 9));
        let weights = PackedConv::new(cpu, &shape, &numbers(shape.weight_len(), 10), case.algorithm);
        let stats = || ChannelStats::new(case.batch, outs, shape.out_voxels());

        let mut between = vec![0.0; up.out_len()];
        conv_transpose3d(&up, sources[0], &up_weights, Some(&up_bias), &mut between);
        let whole = [Source::plain(&between, made), sources[1]];
        let (mut want, mut want_stats) = (vec![0.0; shape.out_len()], stats());
        let of_conv = PackedConv::scratch(cpu, &shape, case.algorithm).lent;
        let mut scratch = vec![f32::NAN; of_conv];
        conv3d(&shape, &whole, &weights, Some(&bias), &mut want, Some(&mut want_stats), &mut scratch);

        let upsampling =
            Upsampling { shape: &up, source: sources[0], weights: &up_weights, bias: Some(&up_bias) };
        let (mut out, mut out_stats) = (vec![f32::NAN; shape.out_len()], stats());
        // A slab's matrix is no larger than that of all.
        let mut scratch = vec![f32::NAN; slab_len(&up, case.step, case.kernel[0]) + of_conv];
        let bias = Some(bias.as_slice());
        let call = UpsampledCall { shape: &shape, upsampling, skip: sources[1], weights: &weights, bias };
        by_slabs(case.step, call, &mut out, Some(&mut out_stats), &mut scratch);
        let size = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in out.iter().zip(&want).enumerate() {
            assert!((a - b).abs() <= 1e-5 * size, "{} {case:?}: {a} for {b} at {i}", cpu.name());
        }
        for (a, b) in out_stats.sum_sq.iter().zip(&want_stats.sum_sq) {
            assert!((a - b).abs() <= 1e-5 * b, "{} {case:?}: squares {a} for {b}", cpu.name());
        }
        assert_eq!(out_stats.sum.len(), want_stats.sum.len());
    }

    #[test]
    fn slabs_give_what_the_two_layers_give_one_after_the_other() {
        for cpu in Cpu::available() {
            for algorithm in [Algorithm::Direct, Algorithm::Winograd, Algorithm::Gemm] {
                for (below, up, kernel, step) in [
                    ([5, 3, 9], [2, 2, 2], [3, 3, 3], 8),
                    ([5, 3, 9], [2, 2, 2], [3, 3, 3], 3),
                    ([9, 4, 8], [1, 2, 2], [1, 3, 3], 4),
                    ([7, 5, 6], [1, 2, 2], [3, 3, 3], 4),
                    ([4, 4, 17], [2, 2, 2], [3, 3, 3], 1),
                    ([2, 4, 4], [2, 2, 2], [3, 3, 3], 64),
                ] {
                    for batch in [1, 2] {
                        let channels = [5, 3, 4, 18];
                        check(&Case { batch, channels, below, up, kernel, step, algorithm }, cpu);
                    }
                }
            }
        }
    }
}
