//! 3D convolution with the neighbouring layers' work folded in.
//!
//! The *prologue* (normalisation and leaky ReLU of the layer before) runs as input is read, the *epilogue* (sums for the
//! next normalisation) as output is written, and two inputs are read as if concatenated: so a layer costs one read of its
//! input and one write of its output. Layout is `[n, c, d, h, w]`, contiguous f32; weights `[out, in, kd, kh, kw]`; what is
//! computed is a cross-correlation, as in every deep learning library.

mod cut;
pub(crate) mod direct;
pub(crate) mod frequencies;
mod gemm;
pub(crate) mod pack;
pub(crate) mod phases;
mod reference;
mod shape;
mod transformed;
pub(crate) mod winograd;

pub use reference::conv3d_reference;
pub use shape::ConvShape;

use crate::buffer::Storage;
use crate::isa::Cpu;
use crate::scratch::Scratch;
use crate::source::{Source, Window, check_sources};
use crate::stats::ChannelStats;

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    /// The fastest for the shape.
    #[default]
    Auto,
    /// Tap by tap; relative L2 error below 1e-6.
    Direct,
    /// Tile by tile in the frequency domain, for 3×3×3 and 1×3×3 kernels with stride 1; relative L2 error below 1e-5.
    Winograd,
    /// As a matrix product, for small volumes; relative L2 error below 1e-6.
    Gemm,
}

impl Algorithm {
    /// All that can be named.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Direct, Self::Winograd, Self::Gemm];

    /// Whether this algorithm computes `shape`.
    pub fn supports(self, shape: &ConvShape) -> bool {
        match self {
            Self::Auto | Self::Direct | Self::Gemm => true,
            Self::Winograd => winograd::supports(shape),
        }
    }

    /// The algorithm itself, or the one [`Algorithm::Auto`] stands for.
    pub(crate) fn choose(self, shape: &ConvShape) -> Self {
        match self {
            Self::Auto if winograd::pays(shape) => Self::Winograd,
            Self::Auto if gemm::pays(shape) => Self::Gemm,
            Self::Auto => Self::Direct,
            named => named,
        }
    }

    /// The word logs and benches use.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Winograd => "winograd",
            Self::Gemm => "gemm",
        }
    }
}

/// Weights as a convolution reads them, wherever they lie: so that neither a flipped kernel nor some of the channels are copied
/// before they are prepared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightView<'a> {
    pub(crate) values: &'a [f32],
    /// Values from one output channel, and from one input channel, to the next.
    pub(crate) steps: [usize; 2],
    /// Where every tap lies behind the first value of its channels.
    pub(crate) taps: &'a [usize],
}

impl<'a> WeightView<'a> {
    /// Values of a pair of channels, and what follows: see [`Self::taps`].
    #[inline(always)]
    pub(crate) fn row(&self, co: usize, ci: usize) -> &'a [f32] {
        &self.values[co * self.steps[0] + ci * self.steps[1]..]
    }
}

/// Weights prepared for one algorithm; made once, used for every tile and from any thread.
#[derive(Debug)]
pub struct PackedConv<'a> {
    cpu: Cpu,
    in_channels: usize,
    out_channels: usize,
    kernel: [usize; 3],
    stride: [usize; 3],
    form: Form<'a>,
}

#[derive(Debug)]
enum Form<'a> {
    Direct(Storage<'a>),
    Winograd(Storage<'a>),
    Gemm(Storage<'a>),
}

impl PackedConv<'static> {
    /// Prepares `weights`, `[out, in, kd, kh, kw]`, for convolutions like `shape`.
    ///
    /// [`Algorithm::Auto`] chooses by all of `shape`; afterwards other batches and input sizes work too.
    ///
    /// # Panics
    /// If the length of `weights` is not `shape`'s, or `algorithm` cannot compute `shape` ([`Algorithm::supports`]).
    pub fn new(cpu: Cpu, shape: &ConvShape, weights: &[f32], algorithm: Algorithm) -> Self {
        PackedConv::plain(cpu, shape, weights, algorithm, None)
    }
}

impl<'a> PackedConv<'a> {
    /// Values of the weights prepared for convolutions like `shape`.
    pub fn packed_len(shape: &ConvShape, algorithm: Algorithm) -> usize {
        match algorithm.choose(shape) {
            Algorithm::Winograd => transformed::packed_len(shape),
            _ => direct::packed_len(shape.out_channels, shape.in_channels, shape.taps()),
        }
    }

    /// [`PackedConv::new`] in memory of [`Self::packed_len`] values, whose contents do not matter.
    ///
    /// # Panics
    /// As [`PackedConv::new`], and if the memory is shorter.
    pub fn new_in(
        cpu: Cpu,
        shape: &ConvShape,
        weights: &[f32],
        algorithm: Algorithm,
        memory: &'a mut [f32],
    ) -> Self {
        Self::plain(cpu, shape, weights, algorithm, Some(memory))
    }

    /// What [`conv3d`] of `shape` takes next to its operands if its weights are prepared for it.
    pub fn scratch(cpu: Cpu, shape: &ConvShape, algorithm: Algorithm) -> Scratch {
        scratch(algorithm.choose(shape), shape, &OutputPart::whole(shape), cpu.lanes())
    }

    fn plain(
        cpu: Cpu,
        shape: &ConvShape,
        weights: &[f32],
        algorithm: Algorithm,
        memory: Option<&'a mut [f32]>,
    ) -> Self {
        assert_eq!(weights.len(), shape.weight_len(), "length of the weights of {shape:?}");
        let taps: Vec<usize> = (0..shape.taps()).collect();
        let steps = [shape.in_channels * shape.taps(), shape.taps()];
        Self::made(cpu, shape, WeightView { values: weights, steps, taps: &taps }, algorithm, memory)
    }

    /// Weights of `shape` prepared from wherever they lie.
    pub(crate) fn made(
        cpu: Cpu,
        shape: &ConvShape,
        weights: WeightView<'_>,
        algorithm: Algorithm,
        memory: Option<&'a mut [f32]>,
    ) -> Self {
        assert!(algorithm.supports(shape), "{algorithm:?} cannot compute {shape:?}");
        let form = match algorithm.choose(shape) {
            Algorithm::Winograd => Form::Winograd(transformed::pack_weights(cpu, shape, weights, memory)),
            chosen => {
                let channels = [shape.out_channels, shape.in_channels];
                let packed = direct::pack_weights(channels, weights, memory);
                if chosen == Algorithm::Gemm { Form::Gemm(packed) } else { Form::Direct(packed) }
            }
        };
        Self {
            cpu,
            in_channels: shape.in_channels,
            out_channels: shape.out_channels,
            kernel: shape.kernel,
            stride: shape.stride,
            form,
        }
    }

    /// The algorithm the weights are prepared for; never [`Algorithm::Auto`].
    pub fn algorithm(&self) -> Algorithm {
        match self.form {
            Form::Direct(_) => Algorithm::Direct,
            Form::Winograd(_) => Algorithm::Winograd,
            Form::Gemm(_) => Algorithm::Gemm,
        }
    }

    /// Bytes of the prepared weights.
    pub fn bytes(&self) -> usize {
        match &self.form {
            Form::Direct(b) | Form::Winograd(b) | Form::Gemm(b) => b.len() * size_of::<f32>(),
        }
    }

    /// Checks that a call's operands fit these weights and `shape`.
    pub(crate) fn check(
        &self,
        shape: &ConvShape,
        bias: Option<&[f32]>,
        out_len: usize,
        stats: Option<&ChannelStats>,
    ) {
        assert_eq!(
            (self.in_channels, self.out_channels, self.kernel, self.stride),
            (shape.in_channels, shape.out_channels, shape.kernel, shape.stride),
            "prepared weights against {shape:?}"
        );
        assert_eq!(out_len, shape.out_len(), "length of the output of {shape:?}");
        if let Some(bias) = bias {
            assert_eq!(bias.len(), shape.out_channels, "length of the bias");
        }
        if let Some(stats) = stats {
            let rows = shape.batch * shape.out_channels;
            assert_eq!(
                (stats.sum.len(), stats.sum_sq.len(), stats.channels, stats.voxels),
                (rows, rows, shape.out_channels, shape.out_voxels()),
                "size of the statistics of {shape:?}"
            );
        }
    }
}

/// `out = conv(prologue(sources)) + bias`, and the sums of `out` per sample and channel.
///
/// # Shapes
/// `sources` have `shape.in_channels` channels together; `bias` is `[out]`; `out` is `[n, out, d, h, w]` and is overwritten.
/// `stats` is overwritten too. Neither depends on the number of threads. `scratch` has as many values as
/// [`PackedConv::scratch`] wants to be lent; their contents do not matter.
///
/// # Panics
/// If a length contradicts `shape`, or `weights` were prepared for other channels or another kernel.
pub fn conv3d(
    shape: &ConvShape,
    sources: &[Source<'_>],
    weights: &PackedConv<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    stats: Option<&mut ChannelStats>,
    scratch: &mut [f32],
) {
    weights.check(shape, bias, out.len(), stats.as_deref());
    check_sources(sources, shape.batch, shape.in_channels, shape.in_voxels());
    let windows: Vec<Window<'_>> = sources.iter().map(|s| Window::whole(*s, shape.in_voxels())).collect();
    convolve(shape, OutputPart::whole(shape), &windows, weights, bias, Target { out, stats, scratch });
}

/// What a convolution writes to.
pub(crate) struct Target<'a> {
    pub(crate) out: &'a mut [f32],
    pub(crate) stats: Option<&'a mut ChannelStats>,
    /// As many values as [`scratch`] wants to be lent.
    pub(crate) scratch: &'a mut [f32],
}

/// What [`convolve`] takes next to its operands.
pub(crate) fn scratch(algorithm: Algorithm, shape: &ConvShape, part: &OutputPart, lanes: usize) -> Scratch {
    match algorithm.choose(shape) {
        Algorithm::Winograd => winograd::scratch(shape, part.output, lanes),
        Algorithm::Gemm => gemm::scratch(shape, part, lanes),
        _ => direct::scratch(shape, part.output, lanes),
    }
}

/// Which outputs a call computes, and where they lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputPart {
    /// Output voxels per axis.
    pub(crate) output: [usize; 3],
    /// The input voxel that the first tap of the first output reads, per axis.
    pub(crate) origin: [isize; 3],
    /// The sample that the first one is written to.
    pub(crate) sample: usize,
    /// Voxels of a channel in memory, and the first one that is written.
    pub(crate) voxels: usize,
    pub(crate) start: usize,
}

impl OutputPart {
    /// All outputs of `shape`.
    fn whole(shape: &ConvShape) -> Self {
        Self {
            output: shape.output(),
            origin: shape.padding.map(|p| -(p as isize)),
            sample: 0,
            voxels: shape.out_voxels(),
            start: 0,
        }
    }

    /// Where channel `channel` of `channels` of sample `n` starts.
    #[inline(always)]
    pub(crate) fn channel(&self, n: usize, channels: usize, channel: usize) -> usize {
        ((self.sample + n) * channels + channel) * self.voxels + self.start
    }
}

/// [`conv3d`] of a part of the outputs, from windows of `shape`'s size; lengths have been checked.
pub(crate) fn convolve(
    shape: &ConvShape,
    part: OutputPart,
    sources: &[Window<'_>],
    weights: &PackedConv<'_>,
    bias: Option<&[f32]>,
    target: Target<'_>,
) {
    let cpu = weights.cpu;
    match &weights.form {
        Form::Direct(weights) => {
            direct::Direct { cpu, shape, part, sources, weights, bias }.run(target);
        }
        Form::Winograd(weights) => {
            winograd::Winograd { cpu, shape, part, sources, weights, bias }.run(target);
        }
        Form::Gemm(weights) => {
            gemm::Gemm { cpu, shape, part, sources, weights, bias }.run(target);
        }
    }
}
