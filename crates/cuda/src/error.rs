//! What can be missing or fail between this program and a GPU.

use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;

use crate::libraries::LIBRARIES_VARIABLE;

/// An error of this crate; [`Diagnose::hint`] says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver's library is not on this machine.
    #[error("there is no NVIDIA driver on this machine: {file} was not found")]
    NoDriver {
        /// The library's name.
        file: &'static str,
    },
    /// There is a driver, but it cannot start.
    #[error("the NVIDIA driver does not start: {call} answers {status}")]
    DriverOff {
        /// The function that failed.
        call: &'static str,
        /// What it answered.
        status: String,
    },
    /// The driver knows fewer GPUs than were asked for.
    #[error("there is no GPU {index}: the driver knows {found}")]
    NoGpu {
        /// The number asked for, from 0.
        index: usize,
        /// How many there are.
        found: usize,
    },
    /// cuDNN is not where libraries are looked for.
    #[error("cuDNN 9 was not found: there is no {file} in {}", listed(searched))]
    NoCudnn {
        /// The library's name.
        file: &'static str,
        /// Where it was looked for; an empty path stands for the system's own folders.
        searched: Vec<PathBuf>,
    },
    /// A library is there, but cannot be opened.
    #[error("{}: the library cannot be opened: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The loader's reason.
        reason: String,
    },
    /// A library has another version than this program knows.
    #[error("{library} {found} was found, but this program needs {needed}")]
    Version {
        /// Whose version.
        library: &'static str,
        /// What was found.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// A library lacks a function.
    #[error("{library} has no function {function}")]
    Function {
        /// Which library.
        library: &'static str,
        /// The function's name.
        function: &'static str,
    },
    /// A function of the driver failed.
    #[error("the GPU's driver failed: {call} answers {status}")]
    Driver {
        /// The function.
        call: &'static str,
        /// What it answered.
        status: String,
    },
    /// A function of cuDNN failed.
    #[error("cuDNN failed: {call} answers {status}{}", behind(message))]
    Cudnn {
        /// What was done.
        call: String,
        /// The status it answered.
        status: i32,
        /// cuDNN's own words.
        message: String,
    },
    /// cuDNN cannot compute a convolution.
    #[error("cuDNN has no plan for {convolution}; it offered {offered}{}", behind(message))]
    NoPlan {
        /// The convolution in words.
        convolution: String,
        /// How many candidates there were.
        offered: usize,
        /// Why the last of them was refused.
        message: String,
    },
}

fn listed(folders: &[PathBuf]) -> String {
    let name = |folder: &PathBuf| {
        let system = folder.as_os_str().is_empty();
        if system { "the system's library folders".to_owned() } else { folder.display().to_string() }
    };
    folders.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn behind(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// How cuDNN is brought.
const BRING_CUDNN: &str = "run `pip install nvidia-cudnn-cu13` (nvidia-cudnn-cu12 for drivers before 580; 0.9 GB) and set \
                           GLIOSEG_CUDA_LIBS to the folder nvidia/cudnn/lib below its site-packages";

impl Diagnose for CudaError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoDriver { .. } => {
                "install NVIDIA's driver (on Debian and Ubuntu `apt install nvidia-driver`), start containers with \
                 `--gpus all`, or compute with --device cpu"
                    .to_owned()
            }
            Self::DriverOff { .. } => {
                "see whether `nvidia-smi` works; after an update of the driver, restart the machine".to_owned()
            }
            Self::NoGpu { found: 0, .. } => {
                "see whether `nvidia-smi` lists a GPU and CUDA_VISIBLE_DEVICES hides none, or compute with --device cpu"
                    .to_owned()
            }
            Self::NoGpu { found, .. } => format!("choose one of cuda:0 to cuda:{}", found - 1),
            Self::NoCudnn { .. } => format!("{BRING_CUDNN}; a Python environment with PyTorch has it already"),
            Self::Unusable { .. } => format!(
                "the file is damaged or for another kind of machine; set {LIBRARIES_VARIABLE} to a folder with another one"
            ),
            Self::Version { library: "cuDNN", .. } => BRING_CUDNN.to_owned(),
            Self::Version { .. } | Self::Function { .. } => {
                "update the NVIDIA driver and cuDNN; `glioseg devices` shows what was found".to_owned()
            }
            Self::Driver { .. } | Self::Cudnn { .. } | Self::NoPlan { .. } => {
                "update the NVIDIA driver and cuDNN, or compute with --device cpu".to_owned()
            }
        })
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Unusable { path, .. } => Some(path),
            _ => None,
        }
    }
}
