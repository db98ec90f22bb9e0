//! Which engine is made; the one place that knows them all.

use super::bf16::Bf16Engine;
use super::cpu::CpuEngine;
use super::device::{Device, Kernels, Precision};
use super::interface::Engine;
use super::reference::{ReferenceEngine, Rounding};
use crate::NetError;

/// What decides which engine is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineChoice {
    /// Where it runs.
    pub device: Device,
    /// How exact it computes.
    pub precision: Precision,
    /// Which code computes the layers on the CPU.
    pub kernels: Kernels,
    /// Bytes of prepared weights that stay between passes, on the CPU. Transformed weights are up to eight times the parameter;
    /// layers beyond the limit prepare theirs in every pass.
    pub packed_budget: usize,
}

impl Default for EngineChoice {
    /// Single precision on the CPU, which keeps 64 MiB of prepared weights.
    fn default() -> Self {
        Self {
            device: Device::default(),
            precision: Precision::default(),
            kernels: Kernels::default(),
            packed_budget: 64 << 20,
        }
    }
}

impl EngineChoice {
    /// Makes the engine.
    ///
    /// # Errors
    /// [`NetError::Kernels`] if the environment asks for an instruction set that does not exist here, or there
    /// are no tiles for bf16.
    pub fn start(self) -> Result<Box<dyn Engine>, NetError> {
        Ok(match (self.device, self.precision, self.kernels) {
            (Device::Cpu, Precision::F32, Kernels::Reference) => {
                Box::new(ReferenceEngine::new(Rounding::None))
            }
            (Device::Cpu, Precision::Bf16, Kernels::Reference) => {
                Box::new(ReferenceEngine::new(Rounding::Bf16))
            }
            (Device::Cpu, Precision::Bf16, Kernels::Auto | Kernels::Direct) => Box::new(Bf16Engine::new()?),
            (Device::Cpu, Precision::F32, kernels) => Box::new(CpuEngine::new(kernels, self.packed_budget)?),
        })
    }
}
