//! The bridge from the network's layers to our own kernels.
//!
//! On Burn's CPU device and f32, every layer runs on [`glioseg_kernels`], in inference and in training; anything else
//! takes Burn's own operations. The one decision here: the tensors are taken apart by hand instead of by Burn's extension
//! macro, because a layer hands over more than tensors. Sums for the normalisation come out of a convolution beside its
//! result, prepared weights go in, and memory that a layer no longer needs is kept for the next one.
//!
//! - [`forward`]: the layers on plain slices, shared by both modes;
//! - [`gradient`]: the same layers with their backward passes, recorded in Burn's graph; [`supervision`]: the loss's;
//! - [`attention`]: axial attention in both modes;
//! - [`packed`]: weights prepared once per parameter; [`memory`]: buffers that layers pass on.

mod attention;
mod forward;
mod gradient;
pub(crate) mod memory;
pub(crate) mod packed;
mod profile;
mod supervision;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, BackendTensor, DispatchAutodiffContext, DispatchDevice, DispatchTensor, DispatchTensorKind,
    Flex, GradientCheckpointingStrategy,
};
use burn::tensor::{DType, Tensor};
use glioseg_kernels::{
    Algorithm, ChannelStats, ConvShape, Cpu, Moments, NormKind, ScaleShift, TransposedShape, channel_stats,
};

use crate::NetError;
use crate::ops::Weights;
pub(crate) use attention::axial_attention;
pub use memory::release_memory;
pub use packed::{Packed, packed_bytes, set_packed_budget};
pub use profile::{LayerTime, profile_layers, take_layer_times};
pub(crate) use supervision::{supervise, with_values};

/// How the layers compute on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernels {
    /// Our own kernels, the fastest algorithm for each shape.
    #[default]
    Auto,
    /// Our own kernels, every convolution tap by tap.
    Direct,
    /// Burn's operations.
    Fallback,
}

impl Kernels {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Direct, Self::Fallback];

    /// The word the command line and logs use.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Fallback => "burn",
        }
    }

    /// The choice called `word`.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.word() == word)
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::Auto | Self::Fallback => Algorithm::Auto,
            Self::Direct => Algorithm::Direct,
        }
    }
}

static KERNELS: AtomicU8 = AtomicU8::new(0);

/// Chooses how layers compute on the CPU from now on, in the whole process.
///
/// # Errors
/// [`NetError::Kernels`] if the environment asks our kernels for an instruction set that does not exist here.
pub fn set_kernels(choice: Kernels) -> Result<(), NetError> {
    check(choice)?;
    KERNELS.store(Kernels::ALL.iter().position(|&k| k == choice).unwrap_or(0) as u8, Ordering::SeqCst);
    Ok(())
}

/// How layers compute on the CPU.
pub fn kernels() -> Kernels {
    Kernels::ALL[usize::from(KERNELS.load(Ordering::SeqCst))]
}

/// Whether a choice can work on this machine.
pub(crate) fn check(choice: Kernels) -> Result<(), NetError> {
    if choice != Kernels::Fallback {
        Cpu::detect()?;
    }
    Ok(())
}

/// The instruction set; `Unet::new` has asked before.
fn cpu() -> Cpu {
    Cpu::detect().unwrap_or_else(|error| panic!("{error}"))
}

/// Whose tensors a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// Tensors on the CPU.
    Plain,
    /// The same with recording of gradients.
    Tracked(GradientCheckpointingStrategy),
}

/// The path that our kernels take with such tensors, `None` for Burn's operations.
pub(crate) fn path<const D: usize>(tensor: &Tensor<D>) -> Option<Path> {
    if kernels() == Kernels::Fallback { None } else { device_path(tensor) }
}

/// The same, whatever is chosen now: a step that is due goes on where it began.
pub(crate) fn device_path<const D: usize>(tensor: &Tensor<D>) -> Option<Path> {
    if tensor.dtype() != DType::F32 {
        return None;
    }
    match tensor.device().as_dispatch() {
        DispatchDevice::Flex(_) => Some(Path::Plain),
        DispatchDevice::Autodiff(device) if matches!(**device, DispatchDevice::Flex(_)) => {
            Some(Path::Tracked(device.gradient_checkpointing_strategy()))
        }
        DispatchDevice::Autodiff(_) => None,
    }
}

/// A tensor of Burn's graph on the CPU.
type Tracked = FloatTensor<Autodiff<Flex>>;

/// The tensor as the CPU device holds it; `path` has said `Plain`.
fn plain<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor.try_into_primitive::<Flex>().expect("a plain tensor on the CPU")
}

fn from_plain<const D: usize>(tensor: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(tensor)
}

/// The tensor as Burn's graph holds it; `path` has said `Tracked`.
fn tracked<const D: usize>(tensor: Tensor<D>) -> Tracked {
    match tensor.into_dispatch().kind {
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor)) => tensor,
            other => panic!("expected a recorded tensor on the CPU, got {other:?}"),
        },
        other @ DispatchTensorKind::Flex(_) => panic!("expected a recorded tensor, got {other:?}"),
    }
}

fn from_tracked<const D: usize>(tensor: Tracked, strategy: GradientCheckpointingStrategy) -> Tensor<D> {
    let kind =
        DispatchTensorKind::Autodiff(Box::new(DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor))));
    Tensor::from_dispatch(DispatchTensor { kind, autodiff: DispatchAutodiffContext::Enabled(strategy) })
}

/// Normalisation and activation that are still due, as numbers on the host.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    /// Factor and offset per sample and channel.
    pub(crate) affine: Arc<ScaleShift>,
    /// Slope of the activation; 1 is none.
    pub(crate) slope: f32,
    /// What its gradient needs; in training only.
    pub(crate) source: Option<Arc<NormSource>>,
    /// Factor and offset per channel as Burn's graph knows them, for their gradients; in training only.
    pub(crate) parameters: [Option<Tensor<1>>; 2],
}

/// Where factor and offset came from.
#[derive(Debug)]
pub(crate) struct NormSource {
    pub(crate) kind: NormKind,
    pub(crate) eps: f64,
    pub(crate) moments: Moments,
    /// Values of the parameters, 1 and 0 where there are none.
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

/// Stride and padding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) stride: [usize; 3],
    pub(crate) padding: [usize; 3],
}

/// Sizes of a convolution from those of its operands.
fn conv_shape(channels: usize, input: &[usize], weight: &[usize], geometry: Geometry) -> ConvShape {
    ConvShape {
        batch: input[0],
        in_channels: channels,
        out_channels: weight[0],
        input: [input[2], input[3], input[4]],
        kernel: [weight[2], weight[3], weight[4]],
        stride: geometry.stride,
        padding: geometry.padding,
    }
}

fn transposed_shape(input: &[usize], weight: &[usize]) -> TransposedShape {
    TransposedShape {
        batch: input[0],
        in_channels: weight[0],
        out_channels: weight[1],
        input: [input[2], input[3], input[4]],
        kernel: [weight[2], weight[3], weight[4]],
    }
}

/// A feature map and what is still due.
pub(crate) type Input = (Tensor<5>, Option<Due>);

/// Convolution of the concatenation of `inputs`, and the sums of its output per channel if `want_stats`.
pub(crate) fn conv(
    path: Path,
    inputs: Vec<Input>,
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
    geometry: Geometry,
    packed: &Packed,
    want_stats: bool,
) -> (Tensor<5>, Option<ChannelStats>) {
    match path {
        Path::Plain => forward::conv(inputs, weight, bias, geometry, packed, want_stats),
        Path::Tracked(strategy) => {
            packed.clear();
            gradient::conv(strategy, inputs, weight, bias, geometry, want_stats)
        }
    }
}

/// Transposed convolution whose stride is its kernel.
pub(crate) fn conv_transpose(
    path: Path,
    input: Input,
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
    packed: &Packed,
) -> Tensor<5> {
    match path {
        Path::Plain => forward::conv_transpose(input, weight, bias, packed),
        Path::Tracked(strategy) => {
            packed.clear();
            gradient::conv_transpose(strategy, input, weight, bias)
        }
    }
}

/// Convolution, with stride 1, of a transposed convolution's result and `skip`; outside training.
pub(crate) fn up_conv(
    below: Input,
    up: Weights<'_>,
    skip: Input,
    weights: Weights<'_>,
    padding: [usize; 3],
    want_stats: bool,
) -> (Tensor<5>, Option<ChannelStats>) {
    forward::up_conv(below, up, skip, weights, padding, want_stats)
}

/// Does what is due.
pub(crate) fn materialize(path: Path, (raw, due): Input) -> Tensor<5> {
    match (due, path) {
        (None, _) => raw,
        (Some(due), Path::Plain) => forward::materialize(raw, due),
        (Some(due), Path::Tracked(strategy)) => gradient::materialize(strategy, raw, due),
    }
}

/// `leaky_relu(main + skip)`.
pub(crate) fn add_act(path: Path, main: Input, skip: Input, slope: f32) -> Tensor<5> {
    let [main, skip] = [main, skip].map(|input| without_activation(path, input));
    match path {
        Path::Plain => forward::add_act(main, skip, slope),
        Path::Tracked(strategy) => gradient::add_act(strategy, main, skip, slope),
    }
}

/// An addition takes normalised values, but none whose activation is still due.
fn without_activation(path: Path, (raw, due): Input) -> Input {
    #[expect(clippy::float_cmp, reason = "1 means exactly: no activation")]
    match due {
        Some(due) if due.slope != 1.0 => (materialize(path, (raw, Some(due))), None),
        due => (raw, due),
    }
}

/// Mean of every block of `kernel` voxels.
pub(crate) fn avg_pool(path: Path, input: Input, kernel: [usize; 3]) -> Tensor<5> {
    match path {
        Path::Plain => forward::avg_pool(input, kernel),
        Path::Tracked(strategy) => gradient::avg_pool(strategy, materialize(path, input), kernel),
    }
}

/// Sums per sample and channel of a feature map that no convolution of ours has just written.
pub(crate) fn statistics(raw: &Tensor<5>) -> ChannelStats {
    let [_, channels, z, y, x] = raw.dims();
    let raw = if raw.device().is_autodiff() { raw.clone().inner() } else { raw.clone() };
    let raw = memory::contiguous(plain(raw));
    channel_stats(cpu(), memory::values(&raw), channels, z * y * x)
}
