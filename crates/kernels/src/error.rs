//! The crate's errors. Only the choice of instruction set can fail; wrong lengths are our own contradictions and panic.

use crate::isa::{ISA_VARIABLE, Level};
use glioseg_diagnose::Diagnose;

/// Why the kernels cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The environment names an instruction set that does not exist.
    #[error("{ISA_VARIABLE} is `{given}`, which names no instruction set")]
    UnknownIsa {
        /// What the variable holds.
        given: String,
    },
    /// The environment names an instruction set that this CPU lacks.
    #[error("{ISA_VARIABLE} asks for `{}`, but this CPU offers at most `{}`", given.word(), best.word())]
    UnsupportedIsa {
        /// What the variable asks for.
        given: Level,
        /// The best this CPU has.
        best: Level,
    },
}

impl Diagnose for KernelError {
    fn hint(&self) -> Option<String> {
        let words: Vec<_> = crate::Cpu::available().iter().map(|cpu| cpu.level().word()).collect();
        Some(format!("unset {ISA_VARIABLE} to use the best, or choose one of: {}", words.join(", ")))
    }
}
