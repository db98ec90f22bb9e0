//! Which arguments each network class takes: an unknown one is another network, and is refused by name.

use super::ArchitectureKind;
use crate::PlanError;
use crate::json::Node;

/// What all of nnU-Net's classes take.
const COMMON: &[&str] = &[
    "n_stages",
    "features_per_stage",
    "conv_op",
    "kernel_sizes",
    "strides",
    "n_conv_per_stage_decoder",
    "conv_bias",
    "norm_op",
    "norm_op_kwargs",
    "dropout_op",
    "dropout_op_kwargs",
    "nonlin",
    "nonlin_kwargs",
    // nnU-Net puts its own value in its place.
    "deep_supervision",
];
const PLAIN: &[&str] = &["n_conv_per_stage", "nonlin_first"];
/// nnU-Net passes over `bottleneck_channels` where the block has no bottleneck.
const RESIDUAL: &[&str] = &["n_blocks_per_stage", "block", "bottleneck_channels", "stem_channels"];
const GENERIC: &[&str] =
    &["base_num_features", "max_num_features", "encoder_scale", "dropout_stages", "axial_attention"];

/// The arguments of a network class, all of them known.
///
/// # Source
/// The constructors of dynamic-network-architectures 0.4.4, which stop at an unknown argument.
pub(super) fn check(args: &Node<'_>, kind: ArchitectureKind) -> Result<(), PlanError> {
    let own: &[&[&str]] = match kind {
        ArchitectureKind::PlainConvUNet => &[PLAIN],
        ArchitectureKind::ResidualEncoderUNet | ArchitectureKind::ResidualUNet => &[RESIDUAL],
        ArchitectureKind::GenericUNet => &[PLAIN, GENERIC],
    };
    let known: Vec<&str> = [&[COMMON], own].concat().concat();
    args.only(&known, kind.name())
}
