//! A network as steps over numbered maps: what is computed, not how.
//!
//! A [`Program`] is built once from a [`NetworkSpec`](crate::NetworkSpec), a batch, a patch and a [`Mode`]; an
//! [`Engine`](crate::Engine) lowers it to its own launches and buffers. The one decision here: a step is a whole block,
//! because that is what engines fuse differently (one applies a normalisation when the next convolution reads, another in a
//! pass of its own). This is the only place that knows the topology: names of weights, cost and memory are folds over it.
//!
//! [`Lifetimes`] is the analysis that all engines share: which buffers may lie in the same memory.

mod build;
mod cost;
mod lifetimes;
mod names;

use std::sync::Arc;

use crate::curve::Curve;
pub use crate::shapes::ParameterId;
use crate::shapes::ParameterShape;
use crate::spec::NormSpec;

pub use lifetimes::{BufferId, Lifetimes, Placement};

/// A map of a program: its place in [`Program::maps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MapId(pub usize);

/// Size of a feature map; the batch is the program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapShape {
    /// Channels.
    pub channels: usize,
    /// Voxels, `[z, y, x]`.
    pub size: [usize; 3],
}

impl MapShape {
    /// Voxels of one channel.
    pub fn voxels(self) -> usize {
        self.size.iter().product()
    }

    /// Values of one sample.
    pub fn values(self) -> usize {
        self.channels * self.voxels()
    }
}

/// What a program is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Logits at full resolution; dropout does nothing, batch norm uses its running statistics.
    Predict,
    /// The same with the logits of every head.
    Evaluate,
    /// Forward and backward pass. Only these heads exist, full resolution first: the others are not trained.
    Train {
        /// Whether a head takes part.
        heads: Vec<bool>,
    },
}

impl Mode {
    /// Training with the heads whose weight is not 0.
    pub fn train(weights: &[f64]) -> Self {
        Self::Train { heads: weights.iter().map(|&w| w != 0.0).collect() }
    }

    /// Whether dropout acts and batch norm reads its batch.
    pub fn is_training(&self) -> bool {
        matches!(self, Self::Train { .. })
    }
}

/// Parameters and sizes of a convolution, or of a transposed one whose stride is its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// `[out, in, kz, ky, kx]`; of a transposed convolution `[in, out, kz, ky, kx]`.
    pub weight: ParameterId,
    /// `[out]`.
    pub bias: Option<ParameterId>,
    /// Voxels, `[z, y, x]`.
    pub kernel: [usize; 3],
    /// Voxels, `[z, y, x]`.
    pub stride: [usize; 3],
    /// Zeros on either side, `[z, y, x]`.
    pub padding: [usize; 3],
}

/// Parameters of a normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Kind and constants.
    pub spec: NormSpec,
    /// Factor and offset per channel.
    pub affine: Option<[ParameterId; 2]>,
    /// Running mean and (unbiased) variance per channel, of a batch norm.
    pub running: Option<[ParameterId; 2]>,
}

/// An activation in place of the leaky ReLU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Curved {
    /// Which.
    pub curve: Curve,
    /// Its learnt factors, of a `PReLU`: one, or one per channel.
    pub slopes: Option<ParameterId>,
}

/// What follows the convolution in a block, in this order: dropout, normalisation, activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Epilogue {
    /// Probability with which a channel is dropped in training.
    pub dropout: f64,
    /// Normalisation, if any.
    pub norm: Option<Norm>,
    /// Slope of the activation below zero, if there is one; at most 1.
    pub slope: Option<f32>,
    /// The activation where it is not a leaky ReLU; then `slope` is `None`. Outside training only.
    pub curve: Option<Curved>,
    /// The activation comes before the normalisation.
    pub nonlin_first: bool,
}

/// Convolution of the channel-wise concatenation of one or two maps, and what follows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// One or two maps of equal size.
    pub inputs: Vec<MapId>,
    /// The convolution.
    pub conv: Conv,
    /// What follows.
    pub epilogue: Epilogue,
    /// The result.
    pub out: MapId,
}

/// A [`Block`] with stride 1 of an upsampled map, which nobody else reads, and a skip.
#[derive(Debug, Clone, PartialEq)]
pub struct UpBlock {
    /// What is upsampled.
    pub below: MapId,
    /// The transposed convolution.
    pub up: Conv,
    /// Size of its result.
    pub between: MapShape,
    /// The map of the encoder.
    pub skip: MapId,
    /// The convolution of both.
    pub conv: Conv,
    /// What follows.
    pub epilogue: Epilogue,
    /// The result.
    pub out: MapId,
}

/// A transposed convolution whose stride is its kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Up {
    /// What is upsampled.
    pub input: MapId,
    /// The transposed convolution.
    pub conv: Conv,
    /// The result.
    pub out: MapId,
}

/// The end of a residual block: `leaky_relu(main + skip)`.
#[derive(Debug, Clone, PartialEq)]
pub struct AddActivate {
    /// The convolutions' branch.
    pub main: MapId,
    /// The other branch.
    pub skip: MapId,
    /// Slope of the activation; at most 1.
    pub slope: f32,
    /// The activation where it is not a leaky ReLU; then `slope` is 1. Outside training only.
    pub curve: Option<Curved>,
    /// The result.
    pub out: MapId,
}

/// Mean of every block of `kernel` voxels.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// What is averaged.
    pub input: MapId,
    /// Voxels, `[z, y, x]`; divides the map.
    pub kernel: [usize; 3],
    /// The result.
    pub out: MapId,
}

/// Parameters of the attention along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AxisParameters {
    /// `[heads dim_heads, channels]`.
    pub q: ParameterId,
    /// `[2 heads dim_heads, channels]`: keys, then values.
    pub kv: ParameterId,
    /// `[channels, heads dim_heads]`.
    pub out: ParameterId,
    /// `[channels]`.
    pub bias: ParameterId,
}

/// Position embeddings and the attention along the three axes, and what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// What is attended to.
    pub input: MapId,
    /// Number of heads.
    pub heads: usize,
    /// Features of a head.
    pub dim_heads: usize,
    /// `[channels, z]`, `[channels, y]`, `[channels, x]`.
    pub positions: [ParameterId; 3],
    /// Per axis.
    pub axes: [AxisParameters; 3],
    /// The axes' results are added; else one axis reads the result of the one before.
    pub sum: bool,
    /// A normalisation and the slope of the activation behind it.
    pub norm: Option<(Norm, f32)>,
    /// The input is added to the result, behind the normalisation.
    pub residual: bool,
    /// The result.
    pub out: MapId,
}

/// A 1x1x1 convolution to logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// What it reads.
    pub input: MapId,
    /// The convolution.
    pub conv: Conv,
    /// Number of the resolution, 0 the full one.
    pub level: usize,
    /// The logits.
    pub out: MapId,
}

/// One step of the forward pass.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Convolution, dropout, normalisation, activation.
    Block(Block),
    /// The same of an upsampled map and a skip; outside training.
    UpBlock(UpBlock),
    /// Transposed convolution.
    Up(Up),
    /// End of a residual block.
    AddActivate(AddActivate),
    /// Average pool.
    Pool(Pool),
    /// Axial attention.
    Attention(Attention),
    /// Logits.
    Head(Head),
}

impl Step {
    /// The maps that it reads.
    pub fn inputs(&self) -> Vec<MapId> {
        match self {
            Self::Block(step) => step.inputs.clone(),
            Self::UpBlock(step) => vec![step.below, step.skip],
            Self::Up(step) => vec![step.input],
            Self::AddActivate(step) => vec![step.main, step.skip],
            Self::Pool(step) => vec![step.input],
            Self::Attention(step) => vec![step.input],
            Self::Head(step) => vec![step.input],
        }
    }

    /// The map that it writes.
    pub fn out(&self) -> MapId {
        match self {
            Self::Block(Block { out, .. })
            | Self::UpBlock(UpBlock { out, .. })
            | Self::Up(Up { out, .. })
            | Self::AddActivate(AddActivate { out, .. })
            | Self::Pool(Pool { out, .. })
            | Self::Attention(Attention { out, .. })
            | Self::Head(Head { out, .. }) => *out,
        }
    }
}

/// How the gradient that a step gives to a map meets those of other steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// Nobody asks for it: the map is the network's input.
    Unused,
    /// It is the first.
    Write,
    /// It is added to what is there.
    Add,
}

/// One step of the backward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackwardStep {
    /// The step of [`Program::forward`] whose gradients are taken.
    pub step: usize,
    /// For every map of [`Step::inputs`].
    pub meetings: Vec<Meeting>,
}

/// A network as steps over numbered maps.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Samples.
    pub batch: usize,
    /// What it is for.
    pub mode: Mode,
    /// Sizes of all maps; the first is the input.
    pub maps: Vec<MapShape>,
    /// All parameters in nnU-Net's order of tensors.
    pub parameters: Arc<[ParameterShape]>,
    /// Forward pass.
    pub forward: Vec<Step>,
    /// Backward pass; empty outside training.
    pub backward: Vec<BackwardStep>,
    /// Logits, full resolution first; in training those of the heads that are trained.
    pub heads: Vec<MapId>,
    /// The resolution of each of them, 0 the full one.
    pub levels: Vec<usize>,
}

impl Program {
    /// The network's input.
    pub const INPUT: MapId = MapId(0);

    /// Size of a map.
    pub fn map(&self, id: MapId) -> MapShape {
        self.maps[id.0]
    }

    /// Values of a map, all samples.
    pub fn values(&self, id: MapId) -> usize {
        self.batch * self.map(id).values()
    }

    /// How many steps of the forward pass read every map.
    pub fn readers(&self) -> Vec<usize> {
        let mut readers = vec![0; self.maps.len()];
        for input in self.forward.iter().flat_map(Step::inputs) {
            readers[input.0] += 1;
        }
        readers
    }
}
