//! What a program takes.

use std::fmt;

/// Bytes that an engine takes for a program, known before its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryPlan {
    /// Weights and running statistics.
    pub parameters: u64,
    /// Gradients of the weights, in training; what an optimiser keeps is the parameters'.
    pub gradients: u64,
    /// Feature maps, their gradients, and everything else that a step needs for a moment.
    pub maps: u64,
    /// Weights that stay prepared between passes.
    pub packed: u64,
}

impl MemoryPlan {
    /// All of it.
    pub fn total(self) -> u64 {
        self.parameters + self.gradients + self.maps + self.packed
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / f64::from(1u32 << 30);
        let Self { parameters, gradients, maps, packed } = *self;
        write!(f, "{:.2} GiB (maps {:.2}, weights {:.2}", gib(self.total()), gib(maps), gib(parameters))?;
        if gradients > 0 {
            write!(f, ", gradients {:.2}", gib(gradients))?;
        }
        if packed > 0 {
            write!(f, ", prepared weights {:.2}", gib(packed))?;
        }
        f.write_str(")")
    }
}
