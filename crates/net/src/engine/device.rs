//! Devices, precisions and kernels by the words of the command line and of records.

use std::fmt;
use std::str::FromStr;

use glioseg_cuda::{Cudnn, Driver, Libraries};
use glioseg_kernels::{Algorithm, Amx, KernelError};

use crate::NetError;

/// Where a network runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
}

impl Device {
    /// What this build can run on.
    pub const ALL: [Self; 1] = [Self::Cpu];

    /// The word of the command line and of records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
        }
    }
}

impl FromStr for Device {
    type Err = NetError;

    /// # Errors
    /// [`NetError::UnknownDevice`] for other words; for `cuda` and `cuda:N` what is missing there.
    fn from_str(word: &str) -> Result<Self, NetError> {
        let known = Self::ALL.into_iter().find(|d| d.word() == word);
        known.ok_or_else(|| match gpu_number(word) {
            Some(index) => missing_for_gpu(index),
            None => NetError::UnknownDevice { device: word.to_owned() },
        })
    }
}

/// The number of `cuda:N`; `cuda` is the first.
fn gpu_number(word: &str) -> Option<usize> {
    match word.strip_prefix("cuda")? {
        "" => Some(0),
        number => number.strip_prefix(':')?.parse().ok(),
    }
}

/// What keeps networks from running on an NVIDIA GPU.
fn missing_for_gpu(index: usize) -> NetError {
    let libraries = Libraries::find();
    let gpu = Driver::open(&libraries).and_then(|driver| driver.gpu(index));
    match gpu.and_then(|gpu| Cudnn::open(&libraries).map(|_| gpu)) {
        Ok(gpu) => NetError::NoGpuEngine { gpu: gpu.name },
        Err(error) => error.into(),
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How exact a network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Single precision throughout.
    #[default]
    F32,
    /// Maps and weights in bfloat16, sums in single precision; on the CPU where it has tiles.
    Bf16,
}

impl Precision {
    /// What this build can compute in.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// The word of the command line and of records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Whether bf16's labels are those of f32 at 99.95 % of the foreground's voxels, with a Dice of 0.998 per region, on the
    /// reference cases: what the automatic choice asks for. They are not: `docs/benchmarks.md`, "Precision".
    const AUTO_IS_BF16: bool = false;

    /// Bfloat16 where the CPU has tiles and it is as good as single precision (`AUTO_IS_BF16`), else single precision,
    /// with the reason if there are tiles that may not be used.
    ///
    /// # Errors
    /// [`NetError::Kernels`] if the environment says something that means nothing.
    pub fn auto() -> Result<(Self, Option<KernelError>), NetError> {
        match Amx::detect() {
            Ok(_) => Ok((if Self::AUTO_IS_BF16 { Self::Bf16 } else { Self::F32 }, None)),
            Err(reason @ KernelError::TilesRefused { .. }) => Ok((Self::F32, Some(reason))),
            Err(KernelError::NoTiles { .. } | KernelError::TilesOff { .. }) => Ok((Self::F32, None)),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Precision {
    type Err = NetError;

    fn from_str(word: &str) -> Result<Self, NetError> {
        let known = Self::ALL.into_iter().find(|p| p.word() == word);
        known.ok_or_else(|| NetError::UnknownPrecision { precision: word.to_owned() })
    }
}

/// Which code computes the layers on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernels {
    /// The fastest algorithm for each shape.
    #[default]
    Auto,
    /// Every convolution tap by tap.
    Direct,
    /// Plain loops, the specification of the others: slow.
    Reference,
}

impl Kernels {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Direct, Self::Reference];

    /// The word of the command line and of records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Reference => "reference",
        }
    }

    /// The choice called `word`.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.word() == word)
    }

    pub(super) fn algorithm(self) -> Algorithm {
        match self {
            Self::Auto | Self::Reference => Algorithm::Auto,
            Self::Direct => Algorithm::Direct,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_numbered_from_0() {
        let numbers = ["cuda", "cuda:0", "cuda:12", "cuda:", "cuda:x", "cuda0", "cpu"].map(gpu_number);
        assert_eq!(numbers, [Some(0), Some(0), Some(12), None, None, None, None]);
    }
}
