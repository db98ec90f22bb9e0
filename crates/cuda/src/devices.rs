//! What of NVIDIA is on this machine, for whoever asks before anything is computed.

use std::path::PathBuf;

use crate::cudnn::Cudnn;
use crate::driver::Driver;
use crate::error::CudaError;
use crate::libraries::Libraries;

/// A GPU as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Compute capability: 9.0 is an H100.
    pub capability: [u32; 2],
}

/// Driver, GPUs and cuDNN, or why they are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The driver's CUDA version and its GPUs.
    pub driver: Result<(String, Vec<Gpu>), CudaError>,
    /// cuDNN's version and its file.
    pub cudnn: Result<(String, PathBuf), CudaError>,
}

/// Looks for driver, GPUs and cuDNN. Nothing is computed and no GPU is taken.
pub fn survey(libraries: &Libraries) -> Survey {
    let gpus =
        |driver: &Driver| (0..driver.count()?).map(|index| driver.gpu(index)).collect::<Result<_, _>>();
    Survey {
        driver: Driver::open(libraries).and_then(|driver| Ok((driver.version_text(), gpus(&driver)?))),
        cudnn: Cudnn::open(libraries).map(|cudnn| (cudnn.version_text(), cudnn.file().to_owned())),
    }
}
