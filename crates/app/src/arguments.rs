//! Arguments that several commands have.

use clap::{Args, ValueEnum};
use glioseg_net::{EngineChoice, NetError, Precision};

use crate::ui::Ui;

/// What computes, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct Compute {
    /// What computes: cpu
    #[arg(long, default_value = "cpu", help_heading = "Computation")]
    pub(crate) device: String,
    /// How exact it computes: f32, bf16 (predictions, on CPUs with tiles: Intel's server CPUs since 2023), or auto, which is
    /// f32 until bf16 is as good on all reference cases
    #[arg(long, default_value = "f32", help_heading = "Computation")]
    pub(crate) precision: String,
    /// Which code computes the layers on the CPU
    #[arg(long, value_enum, default_value = "auto", help_heading = "Computation")]
    pub(crate) kernels: Kernels,
}

impl Compute {
    /// The engine that is asked for, to predict with.
    pub(crate) fn engine(&self, ui: &Ui) -> Result<EngineChoice, NetError> {
        let precision = if self.precision == AUTO {
            let (precision, refused) = Precision::auto()?;
            if let Some(reason) = refused {
                ui.warn(&format!("{reason}; computing in {precision}"));
            }
            precision
        } else {
            self.precision.parse()?
        };
        let choice = self.with(precision)?;
        if choice.precision == Precision::Bf16 {
            // Before anything is read: there may be no tiles.
            choice.start()?;
        }
        Ok(choice)
    }

    /// The engine that is asked for, to train with: networks are trained in single precision.
    pub(crate) fn training_engine(&self) -> Result<EngineChoice, NetError> {
        let precision = if self.precision == AUTO { Precision::F32 } else { self.precision.parse()? };
        match precision {
            Precision::F32 => self.with(precision),
            Precision::Bf16 => Err(NetError::PredictsOnly { precision }),
        }
    }

    fn with(&self, precision: Precision) -> Result<EngineChoice, NetError> {
        Ok(EngineChoice {
            device: self.device.parse()?,
            precision,
            kernels: match self.kernels {
                Kernels::Auto => glioseg_net::Kernels::Auto,
                Kernels::Direct => glioseg_net::Kernels::Direct,
                Kernels::Reference => glioseg_net::Kernels::Reference,
            },
            ..EngineChoice::default()
        })
    }
}

/// The word for the fastest precision of this machine.
const AUTO: &str = "auto";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernels {
    /// The fastest algorithm for each layer
    Auto,
    /// Every convolution tap by tap: slower, a little more exact
    Direct,
    /// Plain loops, to compare with: very slow
    Reference,
}
