//! What a network consists of: numbers only, no tensors.
//!
//! One description covers nnU-Net v2's `PlainConvUNet` and `ResidualEncoderUNet` and v1's `Generic_UNet` with the
//! BraTS 2021 winner's changes: every width, kernel and stride stands in its own table instead of following from
//! a rule, because the three families follow different rules. Kernels and strides always have three entries; a
//! 2D network has depth-1 kernels and strides, and its weights lose that axis on disk.

pub use glioseg_kernels::NormKind;
use glioseg_plan::{Architecture, ArchitectureKind, AttentionPlace, Nonlin, Norm};

use crate::NetError;
use crate::curve::Curve;

/// The most features of all heads together.
const MAX_HIDDEN: usize = 1 << 20;

/// How many spatial axes the network's weights have on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dims {
    /// Weights `[o, i, ky, kx]`; the input is `[n, c, 1, y, x]`.
    Two,
    /// Weights `[o, i, kz, ky, kx]`.
    Three,
}

/// A normalisation layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    /// Which statistics are used.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f64,
    /// Whether there is a factor and an offset per channel.
    pub affine: bool,
    /// Whether statistics of the training are kept, and used outside training instead of the input's.
    pub running: bool,
}

impl NormSpec {
    /// nnU-Net's usual setting: affine, eps 1e-5, running statistics for a batch norm alone.
    pub fn new(kind: NormKind) -> Self {
        Self { kind, eps: 1e-5, affine: true, running: kind == NormKind::Batch }
    }
}

/// What an encoder stage is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Convolution, normalisation, activation.
    Plain,
    /// Two convolutions in parallel with a skip connection, after a stem of one plain block.
    Residual,
}

/// Axial attention on a feature map: position embeddings, then attention along one axis after the other.
///
/// # Source
/// axial-attention 0.5, `AxialPositionalEmbedding` and `AxialAttention`; the winner's `Generic_UNet` and `AxialAttention3D`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionSpec {
    /// Number of heads.
    pub heads: usize,
    /// Features of a head.
    pub dim_heads: usize,
    /// Voxels of the feature map, `[z, y, x]`; position embeddings are for this size only.
    pub shape: [usize; 3],
    /// Whether the axes' results are added (each reads the same input) instead of one axis reading the other's result.
    pub sum: bool,
    /// Whether a batch norm and the activation follow.
    pub norm: bool,
    /// Whether the result is added to the feature map instead of replacing it.
    pub residual: bool,
}

/// One encoder stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSpec {
    /// Output channels of every block.
    pub features: usize,
    /// Kernel size of every convolution, `[z, y, x]`.
    pub kernel: [usize; 3],
    /// Stride of the first convolution, `[z, y, x]`.
    pub stride: [usize; 3],
    /// Number of blocks.
    pub blocks: usize,
    /// Probability with which a whole channel is dropped in training.
    pub dropout: f64,
    /// Attention on the stage's output, before it becomes a skip.
    pub attention: Option<AttentionSpec>,
}

/// One decoder step: upsampling to a stage's resolution, concatenation with its skip, convolutions, a head.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSpec {
    /// Output channels of the transposed convolution (its kernel and stride are those of the stage below).
    pub up_features: usize,
    /// Output channels of each convolution; the head reads the last one's.
    pub convs: Vec<usize>,
    /// Kernel size of these convolutions, `[z, y, x]`.
    pub kernel: [usize; 3],
    /// Probability with which a whole channel is dropped in training.
    pub dropout: f64,
    /// Attention on the output of the transposed convolution.
    pub attention: Option<AttentionSpec>,
}

/// How the tensors are called in a checkpoint, and in which order they are registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `encoder.stages.0.0.convs.0.conv.weight` …
    V2,
    /// `conv_blocks_context.0.blocks.0.conv.weight` …
    V1,
}

/// Everything a [`Program`](crate::Program) needs to know.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent switches of the same kind")]
pub struct NetworkSpec {
    /// Spatial axes of the weights on disk.
    pub dims: Dims,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of every head: labels, or regions.
    pub num_outputs: usize,
    /// Plain or residual encoder.
    pub block: BlockKind,
    /// Whether the decoder has residual blocks too; with [`BlockKind::Residual`] only.
    pub residual_decoder: bool,
    /// Channels of the stem; used with [`BlockKind::Residual`] only.
    pub stem_features: usize,
    /// Encoder stages, full resolution first.
    pub encoder: Vec<StageSpec>,
    /// Decoder steps, deepest first; one less than stages.
    pub decoder: Vec<StepSpec>,
    /// Whether the convolutions of blocks have a bias.
    pub conv_bias: bool,
    /// Whether the transposed convolutions have a bias.
    pub up_bias: bool,
    /// Whether the heads have a bias.
    pub head_bias: bool,
    /// Normalisation after every convolution of a block.
    pub norm: Option<NormSpec>,
    /// Slope of the leaky ReLU for negative values; 0 is the plain ReLU, 1 none at all.
    pub slope: f32,
    /// Another activation, in place of the leaky ReLU.
    pub curve: Option<Curve>,
    /// Activation before instead of after the normalisation.
    pub nonlin_first: bool,
    /// Names and order of the tensors.
    pub naming: Naming,
}

impl NetworkSpec {
    /// nnU-Net v2's `PlainConvUNet` in its usual setting: instance norm, leaky ReLU 0.01, biases everywhere.
    ///
    /// `stages` are features, kernel and stride; every stage and every decoder step has two convolutions.
    pub fn plain(in_channels: usize, num_outputs: usize, stages: &[(usize, [usize; 3], [usize; 3])]) -> Self {
        let encoder: Vec<StageSpec> = stages
            .iter()
            .map(|&(features, kernel, stride)| StageSpec {
                features,
                kernel,
                stride,
                blocks: 2,
                dropout: 0.0,
                attention: None,
            })
            .collect();
        let decoder = decoder_like_encoder(&encoder, &vec![2; encoder.len().saturating_sub(1)]);
        Self {
            dims: Dims::Three,
            in_channels,
            num_outputs,
            block: BlockKind::Plain,
            residual_decoder: false,
            stem_features: encoder.first().map_or(0, |s| s.features),
            encoder,
            decoder,
            conv_bias: true,
            up_bias: true,
            head_bias: true,
            norm: Some(NormSpec::new(NormKind::Instance)),
            slope: 0.01,
            curve: None,
            nonlin_first: false,
            naming: Naming::V2,
        }
    }

    /// nnU-Net v2's `ResidualEncoderUNet` in its usual setting, with these blocks per stage and one convolution
    /// per decoder step.
    pub fn residual(
        in_channels: usize,
        num_outputs: usize,
        stages: &[(usize, [usize; 3], [usize; 3])],
        blocks: &[usize],
    ) -> Self {
        let mut spec = Self::plain(in_channels, num_outputs, stages);
        spec.block = BlockKind::Residual;
        for (stage, &n) in spec.encoder.iter_mut().zip(blocks) {
            stage.blocks = n;
        }
        spec.decoder = decoder_like_encoder(&spec.encoder, &vec![1; spec.encoder.len().saturating_sub(1)]);
        spec
    }

    /// nnU-Net's default network for BraTS: 4 channels, 6 stages of 32 to 320 features, 3x3x3 kernels.
    pub fn brats(num_outputs: usize) -> Self {
        let features = [32, 64, 128, 256, 320, 320];
        let stages: Vec<_> = features
            .iter()
            .enumerate()
            .map(|(s, &f)| (f, [3; 3], if s == 0 { [1; 3] } else { [2; 3] }))
            .collect();
        Self::plain(4, num_outputs, &stages)
    }

    /// The network that a plan's configuration describes, with nnU-Net v2's names.
    ///
    /// # Errors
    /// [`NetError::Spec`] if the plan's tables contradict each other or ask for what is not supported.
    pub fn from_plan(plan: &Architecture, in_channels: usize, num_outputs: usize) -> Result<Self, NetError> {
        let contradiction = |what: String| NetError::Spec { what };
        let dims = match plan.dim {
            2 => Dims::Two,
            3 => Dims::Three,
            other => return Err(contradiction(format!("{other} spatial axes"))),
        };
        let stages = plan.features_per_stage.len();
        let lengths = [plan.kernel_sizes.len(), plan.strides.len(), plan.blocks_per_stage.len()];
        if lengths.iter().any(|&n| n != stages) || plan.n_conv_per_stage_decoder.len() + 1 != stages {
            return Err(contradiction(format!(
                "{stages} stages with {} kernels, {} strides, {} block counts and {} decoder steps",
                lengths[0],
                lengths[1],
                lengths[2],
                plan.n_conv_per_stage_decoder.len()
            )));
        }
        let three = |what: &str, axes: &[usize]| match (dims, axes) {
            (Dims::Two, &[y, x]) => Ok([1, y, x]),
            (Dims::Three, &[z, y, x]) => Ok([z, y, x]),
            _ => Err(contradiction(format!("{what} {axes:?} for {} spatial axes", plan.dim))),
        };
        let p = plan.dropout.map_or(0.0, |d| d.p);
        let generic = plan.generic.as_ref();
        let mut encoder = Vec::with_capacity(stages);
        for s in 0..stages {
            encoder.push(StageSpec {
                features: plan.features_per_stage[s],
                kernel: three("kernel", &plan.kernel_sizes[s])?,
                stride: three("stride", &plan.strides[s])?,
                blocks: plan.blocks_per_stage[s],
                dropout: if generic.is_none_or(|g| g.dropout_stages.contains(&s)) { p } else { 0.0 },
                attention: None,
            });
        }
        let mut decoder = decoder_like_encoder(&encoder, &plan.n_conv_per_stage_decoder);
        if let Some(generic) = generic {
            for (j, step) in decoder.iter_mut().enumerate() {
                if generic.encoder_scale == 0 || step.up_features % generic.encoder_scale != 0 {
                    let (scale, width) = (generic.encoder_scale, step.up_features);
                    return Err(contradiction(format!(
                        "an encoder scale of {scale} does not divide {width} features"
                    )));
                }
                // Version 1 takes the kernel of the stage below, and no dropout.
                step.kernel = encoder[stages - 1 - j].kernel;
                step.dropout = 0.0;
                if let Some(last) = step.convs.last_mut() {
                    *last /= generic.encoder_scale;
                }
            }
            if let Some(attention) = &generic.attention {
                place_attention(attention, &mut encoder, &mut decoder).map_err(contradiction)?;
            }
        }
        let Norm { eps, affine, running, .. } = plan.norm;
        let norm = |kind| Some(NormSpec { kind, eps, affine, running });
        let (slope, curve) = activation(plan.nonlin);
        let spec = Self {
            dims,
            in_channels,
            num_outputs,
            block: match plan.kind {
                ArchitectureKind::PlainConvUNet | ArchitectureKind::GenericUNet => BlockKind::Plain,
                ArchitectureKind::ResidualEncoderUNet | ArchitectureKind::ResidualUNet => BlockKind::Residual,
            },
            residual_decoder: plan.kind == ArchitectureKind::ResidualUNet,
            stem_features: plan.stem_channels.or(plan.features_per_stage.first().copied()).unwrap_or(0),
            decoder,
            encoder,
            conv_bias: plan.conv_bias,
            // Version 2's decoder gives its own setting to these, and that is the blocks' one.
            up_bias: plan.conv_bias && generic.is_none(),
            head_bias: generic.is_none(),
            norm: match plan.norm.kind {
                glioseg_plan::NormKind::Instance => norm(NormKind::Instance),
                glioseg_plan::NormKind::Batch => norm(NormKind::Batch),
                glioseg_plan::NormKind::Group { groups } => norm(NormKind::Group(groups)),
                glioseg_plan::NormKind::None => None,
            },
            slope,
            curve,
            nonlin_first: plan.nonlin_first,
            naming: if generic.is_some() { Naming::V1 } else { Naming::V2 },
        };
        spec.validate()?;
        Ok(spec)
    }

    /// Factor by which every spatial axis of an input must be divisible, `[z, y, x]`.
    pub fn divisor(&self) -> [usize; 3] {
        self.encoder.iter().fold([1; 3], |d, s| std::array::from_fn(|a| d[a] * s.stride[a]))
    }

    /// Spatial size of every head's output for an input of this size, full resolution first.
    pub fn head_sizes(&self, input: [usize; 3]) -> Vec<[usize; 3]> {
        let mut size = input;
        let mut sizes = Vec::new();
        for stage in &self.encoder {
            size = std::array::from_fn(|a| size[a] / stage.stride[a]);
            sizes.push(size);
        }
        sizes.truncate(self.decoder.len());
        sizes
    }

    /// Every attention with its level, 0 the full resolution.
    fn attentions(&self) -> impl Iterator<Item = (usize, AttentionSpec)> + '_ {
        let last = self.encoder.len().saturating_sub(2);
        let encoder = self.encoder.iter().enumerate().filter_map(|(s, stage)| Some((s, stage.attention?)));
        let decoder = self.decoder.iter().enumerate();
        encoder.chain(decoder.filter_map(move |(j, step)| Some((last.saturating_sub(j), step.attention?))))
    }

    /// Voxels of the feature map of a level for an input of this size.
    fn level_size(&self, level: usize, input: [usize; 3]) -> [usize; 3] {
        let strides = self.encoder.iter().take(level + 1).map(|s| s.stride);
        strides.fold(input, |size, stride| std::array::from_fn(|a| size[a] / stride[a]))
    }

    /// The only input size that the position embeddings of attention allow; `None` where any will do.
    pub fn fixed_input(&self) -> Option<[usize; 3]> {
        let (level, attention) = self.attentions().min_by_key(|(level, _)| *level)?;
        let strides = self.encoder.iter().take(level + 1).map(|s| s.stride);
        Some(strides.fold(attention.shape, |size, stride| std::array::from_fn(|a| size[a] * stride[a])))
    }

    /// The same network with position embeddings for another input size.
    #[must_use]
    pub fn with_positions_for(mut self, input: [usize; 3]) -> Self {
        let sizes: Vec<[usize; 3]> =
            (0..self.encoder.len()).map(|level| self.level_size(level, input)).collect();
        for (stage, &size) in self.encoder.iter_mut().zip(&sizes) {
            stage.attention.iter_mut().for_each(|a| a.shape = size);
        }
        for (step, &size) in self.decoder.iter_mut().zip(sizes.iter().rev().skip(1)) {
            step.attention.iter_mut().for_each(|a| a.shape = size);
        }
        self
    }

    /// Whether an input of `channels` and spatial size `[z, y, x]` can go through the network.
    ///
    /// # Errors
    /// [`NetError::Input`] if the channels differ or an axis is not divisible by [`Self::divisor`];
    /// [`NetError::Positions`] if there are position embeddings for another size.
    pub fn check_input(&self, channels: usize, size: [usize; 3]) -> Result<(), NetError> {
        let divisor = self.divisor();
        if channels != self.in_channels || (0..3).any(|a| size[a] == 0 || !size[a].is_multiple_of(divisor[a]))
        {
            return Err(NetError::Input { channels, size, expected_channels: self.in_channels, divisor });
        }
        match self.fixed_input() {
            Some(trained) if trained != size => Err(NetError::Positions { trained, size }),
            _ => Ok(()),
        }
    }

    /// Whether the tables agree with each other.
    ///
    /// # Errors
    /// [`NetError::Spec`] with the first contradiction.
    pub fn validate(&self) -> Result<(), NetError> {
        let fail = |what: String| Err(NetError::Spec { what });
        if self.in_channels == 0 || self.num_outputs == 0 {
            return fail(format!("{} input and {} output channels", self.in_channels, self.num_outputs));
        }
        if self.encoder.len() < 2 {
            return fail(format!("{} encoder stages, at least 2 are needed", self.encoder.len()));
        }
        if self.decoder.len() + 1 != self.encoder.len() {
            return fail(format!("{} decoder steps for {} stages", self.decoder.len(), self.encoder.len()));
        }
        if self.encoder[0].stride != [1; 3] {
            return fail(format!("stage 0 has stride {:?}, only 1 is supported", self.encoder[0].stride));
        }
        if self.naming == Naming::V1 && self.block == BlockKind::Residual {
            return fail("version 1 has no names for a residual encoder".into());
        }
        if self.nonlin_first && self.block == BlockKind::Residual {
            return fail("a residual encoder with the activation before the normalisation".into());
        }
        if self.residual_decoder && self.block != BlockKind::Residual {
            return fail("a residual decoder behind a plain encoder".into());
        }
        if self.curve.is_some() && self.naming == Naming::V1 {
            return fail("version 1 has no other activation than the leaky ReLU".into());
        }
        if !self.slope.is_finite() || self.slope > 1.0 {
            return fail(format!("activation slope {}, must be at most 1", self.slope));
        }
        let mut widths = vec![];
        if self.block == BlockKind::Residual {
            widths.push(("stem".to_owned(), self.stem_features));
        }
        for (s, stage) in self.encoder.iter().enumerate() {
            if stage.blocks == 0 {
                return fail(format!("stage {s} has no blocks"));
            }
            widths.push((format!("stage {s}"), stage.features));
        }
        for (j, step) in self.decoder.iter().enumerate() {
            if step.convs.is_empty() {
                return fail(format!("decoder step {j} has no convolutions"));
            }
            if step.up_features == 0 {
                return fail(format!("decoder step {j} upsamples to 0 channels"));
            }
            widths.extend(step.convs.iter().map(|&f| (format!("decoder step {j}"), f)));
        }
        for (whose, width) in widths {
            if width == 0 {
                return fail(format!("{whose} has 0 features"));
            }
            if let Some(Curve::Prelu { parameters, .. }) = self.curve
                && parameters != 1
                && parameters != width
            {
                return fail(format!("{whose} has {width} features, but a PReLU of {parameters} parameters"));
            }
            if let Some(NormSpec { kind: NormKind::Group(groups), .. }) = self.norm
                && (groups == 0 || width % groups != 0)
            {
                return fail(format!("{whose} has {width} features, which {groups} groups do not divide"));
            }
        }
        if let Some(NormSpec { kind: NormKind::Group(_), running: true, .. }) = self.norm {
            return fail("running statistics of a group norm".into());
        }
        if let Some(norm) = self.norm
            && !(norm.eps.is_finite() && norm.eps >= 0.0)
        {
            return fail(format!("normalisation eps {}", norm.eps));
        }
        let kernels = self.encoder.iter().map(|s| (s.kernel, s.dropout));
        for (kernel, dropout) in kernels.chain(self.decoder.iter().map(|s| (s.kernel, s.dropout))) {
            if kernel.iter().any(|k| k % 2 == 0 || *k > 15) {
                return fail(format!("kernel {kernel:?}; odd sizes up to 15 are supported"));
            }
            if !(0.0..1.0).contains(&dropout) {
                return fail(format!("dropout {dropout}, must lie in 0..1"));
            }
            if self.dims == Dims::Two && kernel[0] != 1 {
                return fail(format!("2D network with kernel {kernel:?}"));
            }
        }
        for (level, attention) in self.attentions() {
            let AttentionSpec { heads, dim_heads, shape, .. } = attention;
            if self.naming != Naming::V1 || self.dims == Dims::Two {
                return fail("axial attention is for three-dimensional networks of version 1".into());
            }
            if heads == 0
                || dim_heads == 0
                || shape.contains(&0)
                || heads.saturating_mul(dim_heads) > MAX_HIDDEN
            {
                return fail(format!(
                    "attention at level {level} of {heads} heads of {dim_heads} features for {shape:?} voxels"
                ));
            }
            if let Some(input) = self.fixed_input()
                && self.level_size(level, input) != shape
            {
                return fail(format!(
                    "position embeddings at level {level} are for {shape:?} voxels, an input of {input:?} has others"
                ));
            }
        }
        for stage in &self.encoder {
            if stage.stride.iter().any(|&s| s == 0 || s > 16) {
                return fail(format!("stride {:?}", stage.stride));
            }
            if self.dims == Dims::Two && stage.stride[0] != 1 {
                return fail(format!("2D network with stride {:?}", stage.stride));
            }
        }
        Ok(())
    }
}

/// The slope of the leaky ReLU, or the curve in its place.
fn activation(nonlin: Nonlin) -> (f32, Option<Curve>) {
    let curve = match nonlin {
        Nonlin::LeakyRelu { slope } if slope > 1.0 => Curve::Steep { slope: slope as f32 },
        Nonlin::LeakyRelu { slope } => return (slope as f32, None),
        Nonlin::Relu => return (0.0, None),
        Nonlin::Identity => return (1.0, None),
        Nonlin::Gelu { tanh } => Curve::Gelu { tanh },
        Nonlin::Elu { alpha } => Curve::Elu { alpha: alpha as f32 },
        Nonlin::Silu => Curve::Silu,
        Nonlin::PRelu { parameters, init } => Curve::Prelu { parameters, init: init as f32 },
    };
    (1.0, Some(curve))
}

/// Decoder steps as nnU-Net v2 derives them: widths and kernels of the stage that is produced.
///
/// `convs` counts the convolutions of every step, deepest first.
///
/// # Source
/// `dynamic_network_architectures`, `UNetDecoder.__init__`.
pub fn decoder_like_encoder(encoder: &[StageSpec], convs: &[usize]) -> Vec<StepSpec> {
    let stages = encoder.iter().rev().skip(1);
    stages
        .zip(convs)
        .map(|(stage, &n)| StepSpec {
            up_features: stage.features,
            convs: vec![stage.features; n],
            kernel: stage.kernel,
            dropout: stage.dropout,
            attention: None,
        })
        .collect()
}

/// Puts attention where the winner's classes have it: heads and their features double with every level.
///
/// # Source
/// The winner's fork, `Generic_UNet.__init__` and `Axial_UNet.__init__`.
fn place_attention(
    attention: &glioseg_plan::AxialAttention,
    encoder: &mut [StageSpec],
    decoder: &mut [StepSpec],
) -> Result<(), String> {
    let mut shape = attention.volume_shape;
    let mut levels = Vec::with_capacity(decoder.len());
    for (level, stage) in encoder.iter().take(decoder.len()).enumerate() {
        if (0..3).any(|a| !shape[a].is_multiple_of(stage.stride[a].max(1))) {
            return Err(format!(
                "position embeddings for {:?} voxels, which the strides do not divide",
                attention.volume_shape
            ));
        }
        shape = std::array::from_fn(|a| shape[a] / stage.stride[a].max(1));
        let of_level = (level < 16 && !attention.excluded_levels.contains(&level)).then(|| AttentionSpec {
            heads: attention.heads << level,
            dim_heads: attention.dim_heads << level,
            shape,
            sum: attention.place != AttentionPlace::Decoder,
            norm: attention.place != AttentionPlace::Decoder,
            residual: attention.place != AttentionPlace::Everywhere,
        });
        levels.push(of_level);
    }
    for (step, of_level) in decoder.iter_mut().zip(levels.iter().rev()) {
        step.attention = *of_level;
    }
    if attention.place != AttentionPlace::Decoder {
        for (stage, of_level) in encoder.iter_mut().zip(&levels) {
            stage.attention = *of_level;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut NetworkSpec);

    #[test]
    fn divisor_and_head_sizes_of_the_brats_network() {
        let spec = NetworkSpec::brats(3);
        spec.validate().expect("valid");
        assert_eq!(spec.divisor(), [32; 3]);
        let sizes: Vec<usize> = spec.head_sizes([128; 3]).iter().map(|s| s[0]).collect();
        assert_eq!(sizes, [128, 64, 32, 16, 8]);
    }

    #[test]
    fn contradictions_are_named() {
        let valid = NetworkSpec::brats(3);
        let cases: [(&str, Change); 6] = [
            ("4 decoder steps for 6 stages", |s| _ = s.decoder.pop()),
            ("stage 2 has no blocks", |s| s.encoder[2].blocks = 0),
            ("kernel [2, 3, 3]; odd sizes up to 15 are supported", |s| s.encoder[1].kernel = [2, 3, 3]),
            ("stage 0 has 32 features, which 5 groups do not divide", |s| {
                s.norm = Some(NormSpec::new(NormKind::Group(5)));
            }),
            ("dropout 1, must lie in 0..1", |s| s.decoder[0].dropout = 1.0),
            ("2D network with kernel [3, 3, 3]", |s| s.dims = Dims::Two),
        ];
        for (expected, change) in cases {
            let mut spec = valid.clone();
            change(&mut spec);
            let message = spec.validate().expect_err(expected).to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    fn plan() -> Architecture {
        Architecture {
            kind: ArchitectureKind::ResidualEncoderUNet,
            dim: 2,
            features_per_stage: vec![8, 16, 16],
            kernel_sizes: vec![vec![3, 3], vec![1, 3], vec![3, 3]],
            strides: vec![vec![1, 1], vec![1, 2], vec![2, 2]],
            stem_channels: None,
            blocks_per_stage: vec![1, 3, 4],
            n_conv_per_stage_decoder: vec![1, 2],
            conv_bias: false,
            norm: Norm { kind: glioseg_plan::NormKind::Batch, eps: 1e-3, affine: true, running: true },
            dropout: Some(glioseg_plan::Dropout { p: 0.5 }),
            nonlin: Nonlin::Relu,
            nonlin_first: false,
            generic: None,
        }
    }

    #[test]
    fn a_plan_in_two_dimensions_becomes_depth_one() {
        let spec = NetworkSpec::from_plan(&plan(), 3, 2).expect("valid");
        assert_eq!((spec.dims, spec.block, spec.stem_features), (Dims::Two, BlockKind::Residual, 8));
        assert_eq!(spec.divisor(), [1, 2, 4]);
        let stage = StageSpec {
            features: 16,
            kernel: [1, 1, 3],
            stride: [1, 1, 2],
            blocks: 3,
            dropout: 0.5,
            attention: None,
        };
        assert_eq!(spec.encoder[1], stage);
        let step =
            StepSpec { up_features: 16, convs: vec![16], kernel: [1, 1, 3], dropout: 0.5, attention: None };
        assert_eq!(spec.decoder[0], step);
        assert_eq!(spec.decoder[1].convs, [8, 8]);
        assert_eq!((spec.conv_bias, spec.up_bias, spec.head_bias, spec.slope), (false, false, true, 0.0));
        assert_eq!(spec.norm, Some(NormSpec { eps: 1e-3, ..NormSpec::new(NormKind::Batch) }));
    }

    #[test]
    fn a_plan_whose_tables_differ_in_length_is_an_error() {
        let mut plan = plan();
        plan.strides.pop();
        let message = NetworkSpec::from_plan(&plan, 3, 2).expect_err("one stride is missing").to_string();
        assert_eq!(
            message,
            "this network cannot be built: 3 stages with 3 kernels, 2 strides, 3 block counts and 2 decoder steps"
        );
    }

    #[test]
    fn an_input_that_does_not_divide_is_refused_with_the_divisor() {
        let message = NetworkSpec::brats(3).check_input(4, [128, 100, 96]).expect_err("100").to_string();
        assert_eq!(
            message,
            "an input of 4 channels and 128 x 100 x 96 voxels does not fit the network, which takes 4 channels and \
             multiples of 32 x 32 x 32 voxels"
        );
    }
}
