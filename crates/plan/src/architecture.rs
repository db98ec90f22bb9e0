//! The network that a configuration describes.

mod arguments;
mod layers;

use crate::PlanError;
use crate::json::Node;
use layers::{check_conv, dropout, flag, nonlin, norm};

/// Limits that no plan comes near; they keep a hostile file from asking for absurd networks.
const MAX_STAGES: usize = 32;
const MAX_FEATURES: usize = 1 << 16;
const MAX_KERNEL: usize = 255;
const MAX_CONVS: usize = 256;
const MAX_HEADS: usize = 1 << 10;
const MAX_AXIS: usize = 1 << 14;

/// The U-Nets of nnU-Net v2 and v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchitectureKind {
    /// Plain convolutions (`PlainConvUNet`).
    PlainConvUNet,
    /// Residual blocks in the encoder, plain convolutions in the decoder (`ResidualEncoderUNet`).
    ResidualEncoderUNet,
    /// Residual blocks in encoder and decoder (`ResidualUNet`).
    ResidualUNet,
    /// Version 1's (`Generic_UNet`), with the changes of the BraTS 2021 winner: see [`GenericUNet`].
    GenericUNet,
}

impl ArchitectureKind {
    const ALL: [ArchitectureKind; 4] = [
        ArchitectureKind::PlainConvUNet,
        ArchitectureKind::ResidualEncoderUNet,
        ArchitectureKind::ResidualUNet,
        ArchitectureKind::GenericUNet,
    ];

    /// nnU-Net's class name.
    pub fn name(self) -> &'static str {
        match self {
            ArchitectureKind::PlainConvUNet => "PlainConvUNet",
            ArchitectureKind::ResidualEncoderUNet => "ResidualEncoderUNet",
            ArchitectureKind::ResidualUNet => "ResidualUNet",
            ArchitectureKind::GenericUNet => "Generic_UNet",
        }
    }
}

/// Where axial attention stands in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionPlace {
    /// Added to the output of transposed convolutions (the winner's BL+AA): `Generic_UNet` with `axial_attention`.
    Decoder,
    /// After encoder stages and transposed convolutions, summed over the axes, normalised and activated: `Axial_UNet`.
    Everywhere,
    /// As `Everywhere`, added to its input (`residual_attention`).
    EverywhereResidual,
}

impl AttentionPlace {
    const ALL: [AttentionPlace; 3] =
        [AttentionPlace::Decoder, AttentionPlace::Everywhere, AttentionPlace::EverywhereResidual];

    /// The value of the key `place`.
    pub fn name(self) -> &'static str {
        match self {
            AttentionPlace::Decoder => "decoder",
            AttentionPlace::Everywhere => "everywhere",
            AttentionPlace::EverywhereResidual => "everywhere_residual",
        }
    }
}

/// Axial attention of the BraTS 2021 winner's networks.
///
/// Heads and head size double with every level; the numbers here are those of level 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AxialAttention {
    /// Heads at full resolution.
    pub heads: usize,
    /// Features of a head at full resolution.
    pub dim_heads: usize,
    /// Voxels of the input, `[z, y, x]`, for which there are position embeddings.
    pub volume_shape: [usize; 3],
    /// Levels without attention, 0 the full resolution.
    pub excluded_levels: Vec<usize>,
    /// Where in the network.
    pub place: AttentionPlace,
}

impl std::fmt::Display for AxialAttention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [z, y, x] = self.volume_shape;
        let place = match self.place {
            AttentionPlace::Decoder => "in the decoder",
            AttentionPlace::Everywhere => "everywhere",
            AttentionPlace::EverywhereResidual => "everywhere, added",
        };
        write!(f, "axial attention {place} for {z} x {y} x {x} voxels")
    }
}

/// What [`ArchitectureKind::GenericUNet`] has besides the common settings: no biases on transposed convolutions and
/// heads, the kernel of the stage below in every decoder step, and the following.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenericUNet {
    /// How many times wider the encoder is than the decoder's output.
    pub encoder_scale: usize,
    /// Encoder stages in which dropout acts.
    pub dropout_stages: Vec<usize>,
    /// Axial attention, if any.
    pub attention: Option<AxialAttention>,
}

/// Which normalisation follows a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Per sample and channel.
    Instance,
    /// Per channel over the batch, with running statistics.
    Batch,
    /// Per sample over groups of channels.
    Group {
        /// Number of groups.
        groups: usize,
    },
    /// None at all.
    None,
}

impl std::fmt::Display for NormKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NormKind::Instance => f.write_str("instance norm"),
            NormKind::Batch => f.write_str("batch norm"),
            NormKind::Group { groups } => write!(f, "group norm of {groups} groups"),
            NormKind::None => f.write_str("no norm"),
        }
    }
}

/// Normalisation after every convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Over what is normalised.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f64,
    /// Whether weight and bias are learnt.
    pub affine: bool,
    /// Whether statistics of the training are kept and used instead of the input's: torch's `track_running_stats`, which group
    /// norm does not have.
    pub running: bool,
}

/// Dropout of whole channels between convolution and normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Share of channels set to zero while training.
    pub p: f64,
}

/// The non-linearity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Nonlin {
    /// `x` or `slope * x` where `x` is negative.
    LeakyRelu {
        /// The factor for negative values.
        slope: f64,
    },
    /// `max(x, 0)`.
    Relu,
    /// `x` times the normal distribution's share below `x`.
    Gelu {
        /// That share by a hyperbolic tangent (`approximate`).
        tanh: bool,
    },
    /// `x`, or `alpha * (exp(x) - 1)` where `x` is negative.
    Elu {
        /// The factor for negative values.
        alpha: f64,
    },
    /// `x` times the logistic function of `x`.
    Silu,
    /// `x`, or `x` times a learnt factor where `x` is negative.
    PRelu {
        /// Learnt factors: 1, or one per channel.
        parameters: usize,
        /// What they are before training.
        init: f64,
    },
    /// None at all.
    Identity,
}

/// A U-Net as `architecture` of a configuration describes it.
///
/// Lists have one entry per stage, stage 0 at full resolution; kernels and strides have [`Architecture::dim`] entries,
/// `[z, y, x]` or `[y, x]`.
///
/// # Source
/// nnU-Net v2 `ConfigurationManager`; dynamic-network-architectures `PlainConvUNet`, `ResidualEncoderUNet`, with the
/// defaults of their constructors where a key is absent.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Which U-Net.
    pub kind: ArchitectureKind,
    /// 2 or 3.
    pub dim: usize,
    /// Channels of every stage.
    pub features_per_stage: Vec<usize>,
    /// Kernel of every stage.
    pub kernel_sizes: Vec<Vec<usize>>,
    /// Stride at the entry of every stage.
    pub strides: Vec<Vec<usize>>,
    /// Channels of the stem of residual networks; those of the first stage where it is absent.
    pub stem_channels: Option<usize>,
    /// Convolutions (plain) or residual blocks (residual) of every encoder stage.
    pub blocks_per_stage: Vec<usize>,
    /// Convolutions, or residual blocks of [`ArchitectureKind::ResidualUNet`], of every decoder stage, deepest first: one entry fewer than stages.
    pub n_conv_per_stage_decoder: Vec<usize>,
    /// Whether convolutions have a bias.
    pub conv_bias: bool,
    /// Normalisation.
    pub norm: Norm,
    /// Dropout, if any.
    pub dropout: Option<Dropout>,
    /// Non-linearity.
    pub nonlin: Nonlin,
    /// Whether the non-linearity comes before the normalisation.
    pub nonlin_first: bool,
    /// What only [`ArchitectureKind::GenericUNet`] has.
    pub generic: Option<GenericUNet>,
}

impl Architecture {
    /// The network that a trainer of nnU-Net makes of this one: `nnUNetTrainerBN` takes batch norm.
    ///
    /// # Source
    /// nnU-Net v2, `nnUNetTrainerBN.build_network_architecture`.
    #[must_use]
    pub fn of_trainer(mut self, trainer: &str) -> Self {
        if trainer == "nnUNetTrainerBN" {
            self.norm = Norm { kind: NormKind::Batch, eps: 1e-5, affine: true, running: true };
        }
        self
    }

    /// Number of stages, the bottleneck included.
    pub fn num_stages(&self) -> usize {
        self.features_per_stage.len()
    }

    /// Reads `architecture`, or the flat keys of early 2.x plans where there is none.
    pub(crate) fn from_configuration(
        configuration: &Node<'_>,
        patch_size: &[usize],
    ) -> Result<Architecture, PlanError> {
        let dim = patch_size.len();
        if configuration.has("architecture") {
            Architecture::from_node(&configuration.get("architecture")?, patch_size)
        } else if configuration.has("UNet_class_name") {
            Architecture::from_early_plans(configuration, dim)
        } else {
            Err(configuration.missing("architecture"))
        }
    }

    fn from_node(node: &Node<'_>, patch_size: &[usize]) -> Result<Architecture, PlanError> {
        let dim = patch_size.len();
        let kind = network_class(&node.get("network_class_name")?)?;
        let args = node.get("arch_kwargs")?;
        arguments::check(&args, kind)?;
        check_conv(&args, dim)?;
        if let Some(block) = args.opt("block")? {
            named(&block, BLOCK_MODULE, &["BasicBlockD"])?;
        }
        let stages = args.get("n_stages")?.count(MAX_STAGES)?;
        let features_per_stage = match kind {
            ArchitectureKind::GenericUNet => generic_features(&args, stages, dim)?,
            _ => per_stage(&args.get("features_per_stage")?, stages, |n| n.count(MAX_FEATURES))?,
        };
        let blocks_key = match kind {
            ArchitectureKind::PlainConvUNet | ArchitectureKind::GenericUNet => "n_conv_per_stage",
            ArchitectureKind::ResidualEncoderUNet | ArchitectureKind::ResidualUNet => "n_blocks_per_stage",
        };
        Ok(Architecture {
            kind,
            dim,
            kernel_sizes: per_stage(&args.get("kernel_sizes")?, stages, |n| kernel(n, dim))?,
            strides: per_stage(&args.get("strides")?, stages, |n| extent(n, dim))?,
            blocks_per_stage: per_stage(&args.get(blocks_key)?, stages, |n| n.count(MAX_CONVS))?,
            n_conv_per_stage_decoder: per_stage(&args.get("n_conv_per_stage_decoder")?, stages - 1, |n| {
                n.count(MAX_CONVS)
            })?,
            features_per_stage,
            stem_channels: args.opt("stem_channels")?.map(|n| n.count(MAX_FEATURES)).transpose()?,
            generic: match kind {
                ArchitectureKind::GenericUNet => Some(generic(&args, patch_size, stages)?),
                _ => None,
            },
            conv_bias: flag(&args, "conv_bias", false)?,
            norm: norm(&args, dim)?,
            dropout: dropout(&args)?,
            nonlin: nonlin(&args)?,
            nonlin_first: flag(&args, "nonlin_first", false)?,
        })
    }

    /// Plans written before `architecture` existed.
    fn from_early_plans(node: &Node<'_>, dim: usize) -> Result<Architecture, PlanError> {
        let kind = network_class(&node.get("UNet_class_name")?)?;
        let blocks = node.get("n_conv_per_stage_encoder")?;
        let stages = blocks.list()?.len();
        if !(1..=MAX_STAGES).contains(&stages) {
            return Err(blocks.wrong(format!("a list of 1 to {MAX_STAGES} entries, one per stage")));
        }
        let base = node.get("UNet_base_num_features")?.count(MAX_FEATURES)?;
        let most = node.get("unet_max_num_features")?.count(MAX_FEATURES)?;
        Ok(Architecture {
            kind,
            dim,
            features_per_stage: (0..stages).map(|s| base.saturating_mul(1 << s).min(most)).collect(),
            kernel_sizes: per_stage(&node.get("conv_kernel_sizes")?, stages, |n| kernel(n, dim))?,
            strides: per_stage(&node.get("pool_op_kernel_sizes")?, stages, |n| extent(n, dim))?,
            blocks_per_stage: per_stage(&blocks, stages, |n| n.count(MAX_CONVS))?,
            n_conv_per_stage_decoder: per_stage(&node.get("n_conv_per_stage_decoder")?, stages - 1, |n| {
                n.count(MAX_CONVS)
            })?,
            stem_channels: None,
            conv_bias: true,
            norm: Norm { kind: NormKind::Instance, eps: 1e-5, affine: true, running: false },
            dropout: None,
            nonlin: Nonlin::LeakyRelu { slope: 0.01 },
            nonlin_first: false,
            generic: None,
        })
    }
}

/// Widths of version 1's encoder: doubled from `base_num_features` times `encoder_scale` up to `max_num_features`.
///
/// Without these keys `features_per_stage` holds; its first entry is the base where only the others are given, so that a change of plans
/// for version 2's network says no more than what is new.
fn generic_features(args: &Node<'_>, stages: usize, dim: usize) -> Result<Vec<usize>, PlanError> {
    let count = |key: &str| args.opt(key)?.map(|n| n.count(MAX_FEATURES)).transpose();
    let (base, most) = (count("base_num_features")?, count("max_num_features")?);
    let given = match args.opt("features_per_stage")? {
        Some(node) => Some(per_stage(&node, stages, |n| n.count(MAX_FEATURES))?),
        None => None,
    };
    let base = match (base, most, given) {
        (None, None, Some(given)) => return Ok(given),
        (Some(base), _, _) => base,
        (None, _, Some(given)) => given[0],
        (None, _, None) => return Err(args.missing("base_num_features")),
    };
    let most = most.unwrap_or(if dim == 2 { 480 } else { 320 });
    let scale = count("encoder_scale")?.unwrap_or(1);
    // The first stage is not bounded.
    let mut features = vec![(base * scale).min(MAX_FEATURES)];
    for stage in 1..stages {
        features.push((features[stage - 1] * 2).min(most));
    }
    Ok(features)
}

/// The keys that version 1's network has besides the others.
fn generic(args: &Node<'_>, patch_size: &[usize], stages: usize) -> Result<GenericUNet, PlanError> {
    let encoder_scale = args.opt("encoder_scale")?.map_or(Ok(1), |n| n.count(MAX_FEATURES))?;
    let levels = |node: Option<Node<'_>>| -> Result<Option<Vec<usize>>, PlanError> {
        let level = |n: Node<'_>| match n.usize()? {
            level if level < stages => Ok(level),
            _ => Err(n.wrong(format!("a level below {stages}"))),
        };
        node.map(|n| n.list()?.into_iter().map(level).collect()).transpose()
    };
    let dropout_stages = levels(args.opt("dropout_stages")?)?.unwrap_or_else(|| (0..stages).collect());
    let attention = match args.opt("axial_attention")? {
        None => None,
        Some(node) => {
            let &[z, y, x] = patch_size else {
                return Err(node.wrong("absent or null: axial attention is for patches of 3 axes"));
            };
            let volume_shape = match node.opt("volume_shape")? {
                None => [z, y, x],
                Some(shape) => {
                    let axes =
                        shape.list()?.iter().map(|n| n.count(MAX_AXIS)).collect::<Result<Vec<_>, _>>()?;
                    <[usize; 3]>::try_from(axes).map_err(|_| shape.wrong("a list of 3 whole numbers"))?
                }
            };
            let place = match node.opt("place")? {
                None => AttentionPlace::Decoder,
                Some(place) => {
                    let (name, known) = (place.str()?, AttentionPlace::ALL.map(AttentionPlace::name));
                    let found = AttentionPlace::ALL.into_iter().find(|p| p.name() == name);
                    found.ok_or_else(|| place.unknown(&known))?
                }
            };
            Some(AxialAttention {
                heads: node.get("heads")?.count(MAX_HEADS)?,
                dim_heads: node.get("dim_heads")?.count(MAX_HEADS)?,
                volume_shape,
                excluded_levels: levels(node.opt("excluded_levels")?)?.unwrap_or_else(|| vec![0]),
                place,
            })
        }
    };
    Ok(GenericUNet { encoder_scale, dropout_stages, attention })
}

/// Where the residual block is.
const BLOCK_MODULE: &[&str] = &["dynamic_network_architectures.building_blocks.residual"];

/// Where nnU-Net's networks are: version 2 looks a class up by its last name among all modules of this package.
const NETWORK_MODULES: [&str; 2] =
    ["dynamic_network_architectures.architectures.", "nnunet.network_architecture."];

fn network_class(node: &Node<'_>) -> Result<ArchitectureKind, PlanError> {
    let kinds = ArchitectureKind::ALL;
    let name = node.str()?;
    let (module, class) = name.rfind('.').map_or(("", name), |dot| name.split_at(dot + 1));
    let class = class.strip_prefix('.').unwrap_or(class);
    // A class of somebody else's package is another network, whatever it is called.
    let known = module.is_empty() || NETWORK_MODULES.iter().any(|m| module.starts_with(m));
    let found = kinds.into_iter().find(|k| known && k.name() == class);
    found.ok_or_else(|| node.unknown(&kinds.map(ArchitectureKind::name)))
}

/// The one of `names` that a dotted name stands for, which must lie in one of `modules`.
///
/// # Source
/// nnU-Net imports such names as they stand (`pydoc.locate`); what is not found becomes `None` there, a network without that layer.
fn named<'n>(node: &Node<'_>, modules: &[&str], names: &[&'n str]) -> Result<&'n str, PlanError> {
    let found = node
        .str()?
        .rsplit_once('.')
        .and_then(|(module, last)| names.iter().find(|&&n| n == last).filter(|_| modules.contains(&module)));
    found.copied().ok_or_else(|| {
        let shortest = modules.last().copied().unwrap_or_default();
        let all: Vec<String> = names.iter().map(|name| format!("{shortest}.{name}")).collect();
        node.unknown(&all.iter().map(String::as_str).collect::<Vec<_>>())
    })
}

/// A list with one entry per stage; one number stands for every stage.
fn per_stage<T: Clone>(
    node: &Node<'_>,
    stages: usize,
    read: impl Fn(&Node<'_>) -> Result<T, PlanError>,
) -> Result<Vec<T>, PlanError> {
    if node.value().is_number() {
        return Ok(vec![read(node)?; stages]);
    }
    let list = node.list()?;
    if list.len() != stages {
        return Err(node.wrong(format!("a list of {stages} entries (from `n_stages`), found {}", list.len())));
    }
    list.iter().map(read).collect()
}

/// One number per axis; one number stands for every axis.
fn extent(node: &Node<'_>, dim: usize) -> Result<Vec<usize>, PlanError> {
    if node.value().is_number() {
        return Ok(vec![node.count(MAX_KERNEL)?; dim]);
    }
    let list = node.list()?;
    if list.len() != dim {
        return Err(node.wrong(format!("a list of {dim} numbers, one per axis of the patch")));
    }
    list.iter().map(|n| n.count(MAX_KERNEL)).collect()
}

fn kernel(node: &Node<'_>, dim: usize) -> Result<Vec<usize>, PlanError> {
    let kernel = extent(node, dim)?;
    if kernel.iter().any(|k| k % 2 == 0) {
        return Err(node.wrong("odd along every axis"));
    }
    Ok(kernel)
}
