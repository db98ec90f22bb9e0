//! The U-Net: encoder, decoder and heads, put together from a [`NetworkSpec`].
//!
//! Layers hold their parameters themselves and go through [`crate::ops`], so one definition serves every device.
//! A feature map moves from layer to layer and is freed at its last use; only skips live longer.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::NetError;
use crate::attention::Attention;
use crate::bridge::{self, Packed};
use crate::init::Init;
use crate::ops::{self, Features, Norm, Weights};
use crate::spec::{BlockKind, NetworkSpec, NormSpec, StageSpec};

/// A convolution with padding that keeps the size at stride 1.
#[derive(Module, Debug)]
pub(crate) struct Conv {
    pub(crate) weight: Param<Tensor<5>>,
    pub(crate) bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: [usize; 3],
    #[module(skip)]
    padding: [usize; 3],
    #[module(skip)]
    packed: Packed,
}

impl Conv {
    fn new(
        init: &mut Init,
        [inputs, outputs]: [usize; 2],
        kernel: [usize; 3],
        stride: [usize; 3],
        bias: bool,
    ) -> Self {
        let [kz, ky, kx] = kernel;
        Self {
            weight: init.he([outputs, inputs, kz, ky, kx]),
            bias: bias.then(|| init.zeros(outputs)),
            stride,
            padding: kernel.map(|k| (k - 1) / 2),
            packed: Packed::default(),
        }
    }

    fn weights(&self) -> Weights<'_> {
        let bias = self.bias.as_ref().map(Param::val);
        Weights { weight: self.weight.val(), bias, packed: &self.packed }
    }

    fn forward<const N: usize>(&self, inputs: [Features; N]) -> Tensor<5> {
        ops::conv3d(inputs, self.weights(), self.stride, self.padding)
    }
}

/// A transposed convolution whose stride is its kernel.
#[derive(Module, Debug)]
pub(crate) struct UpConv {
    pub(crate) weight: Param<Tensor<5>>,
    pub(crate) bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    packed: Packed,
}

impl UpConv {
    fn weights(&self) -> Weights<'_> {
        let bias = self.bias.as_ref().map(Param::val);
        Weights { weight: self.weight.val(), bias, packed: &self.packed }
    }

    fn forward(&self, input: Features) -> Features {
        ops::conv_transpose3d(input, self.weights()).into()
    }
}

/// Convolution, dropout, normalisation, activation (or activation before normalisation).
#[derive(Module, Debug)]
pub(crate) struct ConvBlock {
    pub(crate) conv: Conv,
    pub(crate) norm: Option<Norm>,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    slope: Option<f32>,
    #[module(skip)]
    nonlin_first: bool,
}

impl ConvBlock {
    fn after(&self) -> ops::After<'_> {
        ops::After {
            dropout: self.dropout,
            norm: self.norm.as_ref(),
            slope: self.slope,
            nonlin_first: self.nonlin_first,
        }
    }

    fn forward<const N: usize>(&self, inputs: [Features; N]) -> Features {
        ops::conv_block(inputs, self.conv.weights(), self.conv.stride, self.conv.padding, self.after())
    }

    /// The block of the upsampled `below` and `skip`.
    fn forward_up(&self, up: &UpConv, below: Features, skip: Features) -> Features {
        ops::up_block(below, up.weights(), skip, self.conv.weights(), self.conv.padding, self.after())
    }
}

/// Two convolutions beside a skip connection.
#[derive(Module, Debug)]
pub(crate) struct ResidualBlock {
    pub(crate) conv1: ConvBlock,
    pub(crate) conv2: ConvBlock,
    /// 1x1 convolution of the skip connection, where the channels change.
    pub(crate) projection: Option<ConvBlock>,
    /// Average pool of the skip connection, where the resolution changes.
    #[module(skip)]
    pub(crate) pool: Option<[usize; 3]>,
    #[module(skip)]
    slope: f32,
}

impl ResidualBlock {
    fn forward(&self, x: Features) -> Features {
        let mut skip = x.clone();
        let main = self.conv2.forward([self.conv1.forward([x])]);
        if let Some(kernel) = self.pool {
            skip = ops::avg_pool(skip, kernel).into();
        }
        if let Some(projection) = &self.projection {
            skip = projection.forward([skip]);
        }
        ops::add_act(main, skip, self.slope)
    }
}

/// One encoder stage: plain or residual blocks, never both.
#[derive(Module, Debug)]
pub(crate) struct Stage {
    pub(crate) plain: Vec<ConvBlock>,
    pub(crate) residual: Vec<ResidualBlock>,
    pub(crate) attention: Option<Attention>,
}

impl Stage {
    fn forward(&self, mut x: Features) -> Features {
        for block in &self.plain {
            x = block.forward([x]);
        }
        for block in &self.residual {
            x = block.forward(x);
        }
        match &self.attention {
            Some(attention) => attention.forward(x),
            None => x,
        }
    }
}

/// One decoder step.
#[derive(Module, Debug)]
pub(crate) struct Step {
    pub(crate) up: UpConv,
    pub(crate) attention: Option<Attention>,
    pub(crate) convs: Vec<ConvBlock>,
    pub(crate) head: Conv,
}

impl Step {
    fn forward(&self, below: Features, skip: Features) -> Features {
        let mut blocks = self.convs.iter();
        let first = blocks.next().expect("a step has convolutions: NetworkSpec::validate");
        let mut x = match &self.attention {
            Some(attention) => first.forward([attention.forward(self.up.forward(below)), skip]),
            None => first.forward_up(&self.up, below, skip),
        };
        for block in blocks {
            x = block.forward([x]);
        }
        x
    }
}

/// A U-Net with one head per decoder step.
///
/// On a device that records gradients ([`Device::autodiff`]) it is in training mode: dropout acts and batch norms
/// use and update their statistics. [`Module::valid`] gives the same network in evaluation mode.
#[derive(Module, Debug)]
pub struct Unet {
    pub(crate) stem: Option<ConvBlock>,
    pub(crate) encoder: Vec<Stage>,
    /// Deepest first.
    pub(crate) decoder: Vec<Step>,
    #[module(skip)]
    spec: NetworkSpec,
}

impl Unet {
    /// A network with nnU-Net's initial weights from seed 0; nothing is drawn for weights that are loaded first.
    ///
    /// # Errors
    /// [`NetError::Spec`] if the description contradicts itself, [`NetError::Kernels`] if the environment asks for an
    /// instruction set that does not exist here.
    pub fn new(spec: &NetworkSpec, device: &Device) -> Result<Self, NetError> {
        Self::seeded(spec, 0, device)
    }

    /// As [`Self::new`] with another seed.
    ///
    /// # Errors
    /// As [`Self::new`].
    ///
    /// # Source
    /// `InitWeights_He(1e-2)` on every convolution, biases 0; in residual blocks the second normalisation starts
    /// as 0 (`init_last_bn_before_add_to_0`), so that each block starts as its skip connection.
    pub fn seeded(spec: &NetworkSpec, seed: u64, device: &Device) -> Result<Self, NetError> {
        spec.validate()?;
        bridge::check(bridge::kernels())?;
        glioseg_kernels::return_freed_memory();
        let mut init = Init::new(seed, device);
        let mut builder = Builder { spec, init: &mut init };
        let mut channels = spec.in_channels;
        let stem = (spec.block == BlockKind::Residual).then(|| {
            let first = &spec.encoder[0];
            let block = builder.block([channels, spec.stem_features], first.kernel, [1; 3], first.dropout);
            channels = spec.stem_features;
            block
        });
        let mut encoder = Vec::with_capacity(spec.encoder.len());
        for stage in &spec.encoder {
            encoder.push(builder.stage(channels, stage));
            channels = stage.features;
        }
        let mut decoder = Vec::with_capacity(spec.decoder.len());
        for (j, step) in spec.decoder.iter().enumerate() {
            let level = spec.encoder.len() - 2 - j;
            let [kz, ky, kx] = spec.encoder[level + 1].stride;
            let up = UpConv {
                weight: builder.init.he([channels, step.up_features, kz, ky, kx]),
                bias: spec.up_bias.then(|| builder.init.zeros(step.up_features)),
                packed: Packed::default(),
            };
            let attention = step.attention.map(|a| Attention::new(builder.init, a, step.up_features, spec));
            channels = step.up_features + spec.encoder[level].features;
            let mut convs = Vec::with_capacity(step.convs.len());
            for &features in &step.convs {
                convs.push(builder.block([channels, features], step.kernel, [1; 3], step.dropout));
                channels = features;
            }
            let head = Conv::new(builder.init, [channels, spec.num_outputs], [1; 3], [1; 3], spec.head_bias);
            decoder.push(Step { up, attention, convs, head });
        }
        Ok(Self { stem, encoder, decoder, spec: spec.clone() })
    }

    /// What the network was made from.
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Number of trainable values.
    pub fn num_parameters(&self) -> usize {
        let mut net = self.clone();
        net.slots().iter().filter(|s| !s.is_buffer()).map(|s| s.shape().iter().product::<usize>()).sum()
    }

    /// Logits at full resolution.
    ///
    /// # Shapes
    /// `[n, in_channels, z, y, x]` to `[n, num_outputs, z, y, x]`; depth is 1 for a 2D network.
    ///
    /// # Panics
    /// If the input does not fit; see [`NetworkSpec::check_input`].
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        self.run(x, false).remove(0)
    }

    /// Logits of every head, full resolution first.
    ///
    /// # Shapes
    /// `[n, in_channels, z, y, x]` to `[n, num_outputs, …]` with the sizes of [`NetworkSpec::head_sizes`].
    ///
    /// # Panics
    /// If the input does not fit; see [`NetworkSpec::check_input`].
    pub fn forward_heads(&self, x: Tensor<5>) -> Vec<Tensor<5>> {
        let mut heads = self.run(x, true);
        heads.reverse();
        heads
    }

    /// Logits of all heads, deepest first, or of the last one only.
    fn run(&self, x: Tensor<5>, all_heads: bool) -> Vec<Tensor<5>> {
        let [_, channels, z, y, width] = x.dims();
        if let Err(error) = self.spec.check_input(channels, [z, y, width]) {
            panic!("{error}");
        }
        bridge::memory::start();
        let mut x = Features::from(x);
        if let Some(stem) = &self.stem {
            x = stem.forward([x]);
        }
        let mut skips = Vec::with_capacity(self.decoder.len());
        for (s, stage) in self.encoder.iter().enumerate() {
            x = stage.forward(x);
            if s < self.decoder.len() {
                skips.push(x.clone());
            }
        }
        let mut heads = Vec::with_capacity(self.decoder.len());
        for (j, step) in self.decoder.iter().enumerate() {
            let skip = skips.pop().expect("as many skips as decoder steps");
            x = step.forward(x, skip);
            let last = j + 1 == self.decoder.len();
            if last {
                heads.push(step.head.forward([x]));
                break;
            }
            if all_heads {
                heads.push(step.head.forward([x.clone()]));
            }
        }
        heads
    }
}

/// Makes layers by the rules that hold for the whole network.
struct Builder<'a, 'b> {
    spec: &'a NetworkSpec,
    init: &'a mut Init<'b>,
}

impl Builder<'_, '_> {
    fn norm(&self, channels: usize, gamma: f32) -> Option<Norm> {
        self.spec.norm.map(|spec: NormSpec| Norm::new(spec, channels, gamma, self.init.device()))
    }

    fn block(
        &mut self,
        channels: [usize; 2],
        kernel: [usize; 3],
        stride: [usize; 3],
        dropout: f64,
    ) -> ConvBlock {
        ConvBlock {
            conv: Conv::new(self.init, channels, kernel, stride, self.spec.conv_bias),
            norm: self.norm(channels[1], 1.0),
            dropout,
            slope: Some(self.spec.slope),
            nonlin_first: self.spec.nonlin_first,
        }
    }

    fn stage(&mut self, mut channels: usize, stage: &StageSpec) -> Stage {
        let (mut plain, mut residual) = (vec![], vec![]);
        for b in 0..stage.blocks {
            let stride = if b == 0 { stage.stride } else { [1; 3] };
            let io = [channels, stage.features];
            match self.spec.block {
                BlockKind::Plain => plain.push(self.block(io, stage.kernel, stride, stage.dropout)),
                BlockKind::Residual => residual.push(self.residual(io, stage, stride)),
            }
            channels = stage.features;
        }
        let attention = stage.attention.map(|a| Attention::new(self.init, a, stage.features, self.spec));
        Stage { plain, residual, attention }
    }

    fn residual(&mut self, io: [usize; 2], stage: &StageSpec, stride: [usize; 3]) -> ResidualBlock {
        let features = io[1];
        let conv1 = self.block(io, stage.kernel, stride, stage.dropout);
        let bare = |conv: Conv, norm: Option<Norm>| ConvBlock {
            conv,
            norm,
            dropout: 0.0,
            slope: None,
            nonlin_first: false,
        };
        let conv = Conv::new(self.init, [features; 2], stage.kernel, [1; 3], self.spec.conv_bias);
        let conv2 = bare(conv, self.norm(features, 0.0));
        let projection = (io[0] != features).then(|| {
            let conv = Conv::new(self.init, io, [1; 3], [1; 3], false);
            bare(conv, self.norm(features, 1.0))
        });
        let pool = (stride != [1; 3]).then_some(stride);
        ResidualBlock { conv1, conv2, projection, pool, slope: self.spec.slope }
    }
}
