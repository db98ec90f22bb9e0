//! How nnU-Net calls the layers.

use crate::spec::Naming;

/// Names of the layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) naming: Naming,
    /// Encoder stages.
    pub(super) stages: usize,
}

impl Names {
    /// Convolution `conv` of `count` of an encoder stage.
    pub(super) fn encoder(self, stage: usize, conv: usize, count: usize) -> String {
        match self.naming {
            Naming::V2 => format!("encoder.stages.{stage}.0.convs.{conv}"),
            Naming::V1 if stage + 1 < self.stages => format!("conv_blocks_context.{stage}.blocks.{conv}"),
            Naming::V1 => format!("conv_blocks_context.{stage}.{}", in_two(conv, count)),
        }
    }

    /// Convolution `conv` of `count` of a decoder step.
    pub(super) fn decoder(self, step: usize, conv: usize, count: usize) -> String {
        match self.naming {
            Naming::V2 => format!("decoder.stages.{step}.convs.{conv}"),
            Naming::V1 => format!("conv_blocks_localization.{step}.{}", in_two(conv, count)),
        }
    }

    /// The transposed convolution of a decoder step.
    pub(super) fn up(self, step: usize) -> String {
        match self.naming {
            Naming::V2 => format!("decoder.transpconvs.{step}"),
            Naming::V1 => format!("tu.{step}"),
        }
    }

    /// The head of a decoder step.
    pub(super) fn head(self, step: usize) -> String {
        match self.naming {
            Naming::V2 => format!("decoder.seg_layers.{step}"),
            Naming::V1 => format!("seg_outputs.{step}"),
        }
    }

    /// The normalisation of a block.
    pub(super) fn norm(self) -> &'static str {
        match self.naming {
            Naming::V2 => "norm",
            Naming::V1 => "instnorm",
        }
    }
}

/// Version 1 keeps all convolutions but the last in one group and the last in a second one.
fn in_two(conv: usize, count: usize) -> String {
    if conv + 1 < count { format!("0.blocks.{conv}") } else { "1.blocks.0".into() }
}
