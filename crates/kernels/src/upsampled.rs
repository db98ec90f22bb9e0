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
pub fn slab_len(shape: &TransposedShape, planes: usize, kernel: usize) -> usize {
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
///
/// # Panics
/// As [`conv3d_upsampled`].
pub fn by_slabs(
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
