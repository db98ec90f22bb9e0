//! The crate's errors. Only the choice of instructions can fail; wrong lengths are our own contradictions and panic.

use crate::isa::{ISA_VARIABLE, Level};
use crate::tiles::TILES_VARIABLE;
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
    /// The environment says something about tiles that means nothing.
    #[error("{TILES_VARIABLE} is `{given}`, which is neither `on` nor `off`")]
    UnknownTiles {
        /// What the variable holds.
        given: String,
    },
    /// The environment turns tiles off.
    #[error("the bf16 kernels are turned off: {variable} is `{given}`")]
    TilesOff {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        given: String,
    },
    /// This CPU has no tiles.
    #[error("bf16 needs a CPU with tiles (amx_tile and amx_bf16), but this one has none: {found}")]
    NoTiles {
        /// Name and best instruction set of this CPU.
        found: String,
    },
    /// The operating system does not let this process use tiles.
    #[error(
        "this CPU has bf16 tiles, but the operating system does not let this process use them ({reason})"
    )]
    TilesRefused {
        /// What the system answered.
        reason: String,
    },
}

impl Diagnose for KernelError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownIsa { .. } | Self::UnsupportedIsa { .. } => {
                let words: Vec<_> = crate::Cpu::available().iter().map(|cpu| cpu.level().word()).collect();
                Some(format!("unset {ISA_VARIABLE} to use the best, or choose one of: {}", words.join(", ")))
            }
            Self::UnknownTiles { .. } => Some(format!("unset {TILES_VARIABLE} to use tiles where they are")),
            Self::TilesOff { variable, .. } => Some(format!("unset {variable}, or compute in f32")),
            Self::NoTiles { .. } => Some(
                "compute in f32; Intel's server CPUs since 2023 (Sapphire Rapids and later) have tiles"
                    .to_owned(),
            ),
            Self::TilesRefused { .. } => Some(
                "compute in f32; tiles need Linux 5.16 or later and no sandbox that forbids `arch_prctl`"
                    .to_owned(),
            ),
        }
    }
}
