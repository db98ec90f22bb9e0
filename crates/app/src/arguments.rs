//! Arguments that several commands have.

use clap::{Args, ValueEnum};
use glioseg_net::{EngineChoice, NetError};

/// What computes, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct Compute {
    /// What computes: cpu
    #[arg(long, default_value = "cpu", help_heading = "Computation")]
    pub(crate) device: String,
    /// How exact it computes: f32
    #[arg(long, default_value = "f32", help_heading = "Computation")]
    pub(crate) precision: String,
    /// Which code computes the layers on the CPU
    #[arg(long, value_enum, default_value = "auto", help_heading = "Computation")]
    pub(crate) kernels: Kernels,
}

impl Compute {
    /// The engine that is asked for.
    pub(crate) fn engine(&self) -> Result<EngineChoice, NetError> {
        Ok(EngineChoice {
            device: self.device.parse()?,
            precision: self.precision.parse()?,
            kernels: match self.kernels {
                Kernels::Auto => glioseg_net::Kernels::Auto,
                Kernels::Direct => glioseg_net::Kernels::Direct,
                Kernels::Reference => glioseg_net::Kernels::Reference,
            },
            ..EngineChoice::default()
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernels {
    /// The fastest algorithm for each layer
    Auto,
    /// Every convolution tap by tap: slower, a little more exact
    Direct,
    /// Plain loops, to compare with: very slow
    Reference,
}
