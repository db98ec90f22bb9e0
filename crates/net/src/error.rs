//! What can go wrong with networks and their files.

use std::path::PathBuf;

use glioseg_diagnose::{Diagnose, ForeignFile};

/// An error of this crate; [`NetError::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// A network description contradicts itself or asks for what is not supported.
    #[error("this network cannot be built: {what}")]
    Spec {
        /// The contradiction.
        what: String,
    },
    /// Our kernels cannot start.
    #[error(transparent)]
    Kernels(#[from] glioseg_kernels::KernelError),
    /// There is no NVIDIA GPU to compute on, or something that it needs is missing.
    #[error(transparent)]
    Cuda(#[from] glioseg_cuda::CudaError),
    /// A GPU with all that it needs, which this version has no engine for.
    #[error("{gpu} with driver and cuDNN was found, but this version does not compute on GPUs yet")]
    NoGpuEngine {
        /// The GPU's name.
        gpu: String,
    },
    /// An input does not fit the network.
    #[error(
        "an input of {channels} channels and {} x {} x {} voxels does not fit the network, which takes \
         {expected_channels} channels and multiples of {} x {} x {} voxels",
        size[0], size[1], size[2], divisor[0], divisor[1], divisor[2]
    )]
    Input {
        /// Channels of the input.
        channels: usize,
        /// Spatial size of the input, `[z, y, x]`.
        size: [usize; 3],
        /// Channels that the network takes.
        expected_channels: usize,
        /// What every axis must be a multiple of.
        divisor: [usize; 3],
    },
    /// Position embeddings are for another input size.
    #[error(
        "the network's position embeddings are for inputs of {} x {} x {} voxels, not of {} x {} x {}",
        trained[0], trained[1], trained[2], size[0], size[1], size[2]
    )]
    Positions {
        /// The size that they were trained for, `[z, y, x]`.
        trained: [usize; 3],
        /// The size asked for.
        size: [usize; 3],
    },
    /// A device that this build does not know.
    #[error("unknown device `{device}`; this build runs on: {}", crate::Device::ALL.map(crate::Device::word).join(", "))]
    UnknownDevice {
        /// What was asked for.
        device: String,
    },
    /// A precision that this build does not know.
    #[error(
        "unknown precision `{precision}`; this build computes in: {}",
        crate::Precision::ALL.map(crate::Precision::word).join(", ")
    )]
    UnknownPrecision {
        /// What was asked for.
        precision: String,
    },
    /// There is less free memory than a network needs.
    #[error(
        "the network needs {:.2} GiB more memory, but {:.2} GiB are free; in all it takes {plan}",
        glioseg_diagnose::gib(*needed), glioseg_diagnose::gib(*free)
    )]
    Memory {
        /// Bytes needed next to those that are held already.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// What the network takes in all.
        plan: crate::MemoryPlan,
    },
    /// What a network should have answered does not fit its answer.
    #[error("the targets do not fit the network: {what}")]
    Target {
        /// The contradiction.
        what: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is something else, which its first bytes tell.
    #[error(transparent)]
    Foreign(ForeignFile),
    /// A file is none of the formats that hold weights.
    #[error("{}: neither a PyTorch checkpoint nor a safetensors file; it starts with {found}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes, readable.
        found: String,
    },
    /// A file ends before its data do.
    #[error("{}: the file is cut off after {bytes} bytes: {what}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// What is missing.
        what: String,
    },
    /// A file contradicts itself.
    #[error("{}: damaged or unsupported: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file of PyTorch or a pickle could not be read.
    #[error(transparent)]
    Interop(#[from] glioseg_interop::InteropError),
    /// A file was read but holds no weights.
    #[error("{}: holds no weights: {found}", path.display())]
    NoWeights {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        found: String,
    },
    /// Something among the weights is not a tensor of numbers.
    #[error("{}: the weight `{name}` is not a tensor of numbers but {found}", path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The weight's name.
        name: String,
        /// What it is instead.
        found: String,
    },
    /// The axes that may be mirrored are not axes of the network.
    #[error(
        "{}: the axes that may be mirrored (`inference_allowed_mirroring_axes`) are {found}; the network has the axes {}",
        path.display(), (0..*dim).map(|a| a.to_string()).collect::<Vec<_>>().join(", ")
    )]
    MirrorAxes {
        /// The file.
        path: PathBuf,
        /// What stands there.
        found: String,
        /// How many axes the network has.
        dim: usize,
    },
    /// The tensors of a file are not those of the network.
    #[error("{}: {first}{}", path.display(), and_more(*others))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The first difference.
        first: Box<Mismatch>,
        /// How many more there are.
        others: usize,
        /// Where the file says its weights come from.
        origin: Option<String>,
    },
}

/// One tensor that is not as the plan says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Not in the file.
    #[error("tensor `{name}` is missing; the plan's network expects it with shape {expected:?}")]
    Missing {
        /// Its name.
        name: String,
        /// Its shape in the network.
        expected: Vec<usize>,
    },
    /// In the file, but not in the network.
    #[error(
        "tensor `{name}` of shape {found:?} is in the checkpoint, but the plan's network has no such tensor"
    )]
    Surplus {
        /// Its name.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// Another shape than in the network.
    #[error(
        "tensor `{name}` has shape {found:?} in the checkpoint, but the plan's network expects {expected:?}"
    )]
    Shape {
        /// Its name.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// Its shape in the network.
        expected: Vec<usize>,
    },
    /// Position embeddings for another size.
    #[error(
        "the position embeddings `{name}` have shape {found:?} in the checkpoint, but the plan's patch asks for {expected:?}"
    )]
    Positions {
        /// The tensor's name.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// Its shape in the network.
        expected: Vec<usize>,
    },
    /// Two names of one tensor with different values.
    #[error("tensor `{alias}` stands for `{name}`, but the checkpoint holds other values for it")]
    Alias {
        /// The second name.
        alias: String,
        /// The tensor's own name.
        name: String,
    },
}

fn and_more(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => " (and one more difference)".into(),
        n => format!(" (and {n} more differences)"),
    }
}

impl Diagnose for NetError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            NetError::Spec { .. } => "check `architecture` in plans.json, or what a preset changes in it".into(),
            NetError::Kernels(error) => return error.hint(),
            NetError::Cuda(error) => return error.hint(),
            NetError::NoGpuEngine { .. } => "leave the option out to run on the CPU".into(),
            NetError::Input { divisor, .. } => {
                format!("pad the input to multiples of {} x {} x {} voxels", divisor[0], divisor[1], divisor[2])
            }
            NetError::Positions { trained: [z, y, x], .. } => format!(
                "use patches of {z} x {y} x {x} voxels, or interpolate the embeddings with --interpolate-positions"
            ),
            NetError::UnknownDevice { .. } => {
                "`glioseg devices` shows what this machine has; leave the option out to run on the CPU".into()
            }
            NetError::UnknownPrecision { .. } => "leave the option out to compute in single precision".into(),
            NetError::Memory { .. } => {
                "close other programs, take a smaller patch or batch, or fewer threads (--threads), each of which has scratch of its own"
                    .into()
            }
            NetError::Target { .. } => "the labels of the cases must be those of dataset.json: `glioseg dataset check`".into(),
            NetError::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => "check the path; nnU-Net calls it fold_K/checkpoint_final.pth".into(),
                std::io::ErrorKind::PermissionDenied => "check the permissions of the file and its folder".into(),
                std::io::ErrorKind::StorageFull => "free some space on the disk and try again".into(),
                _ => return None,
            },
            NetError::Foreign(file) => return file.hint(),
            NetError::UnknownFormat { .. } => {
                "give nnU-Net's checkpoint_final.pth (or .model of version 1), or a safetensors file".into()
            }
            NetError::Truncated { .. } | NetError::Damaged { .. } => {
                "copy or download the file again; the original may be intact".into()
            }
            NetError::Interop(error) => return error.hint(),
            NetError::NoWeights { .. } => {
                "nnU-Net keeps the weights in `network_weights` (version 2) or `state_dict` (version 1)".into()
            }
            NetError::NoTensor { .. } => {
                "nnU-Net keeps nothing but the network's `state_dict` there; save the checkpoint again with plain tensors".into()
            }
            NetError::MirrorAxes { .. } => {
                "predict with --no-mirroring, or write the axes that the training mirrored into the checkpoint, each once, as a tuple such as (0, 1), or None for \
                 no mirroring"
                    .into()
            }
            NetError::Mismatch { first, .. } if matches!(**first, Mismatch::Positions { .. }) => {
                "train with the patch that they are for (--patch), or interpolate them with --interpolate-positions"
                    .into()
            }
            NetError::Mismatch { origin, .. } => {
                let origin = origin.as_deref().unwrap_or("another network");
                format!(
                    "the checkpoint and the plan do not belong together: the file says its weights are from {origin}; \
                     use the plans.json that lies in the model's folder"
                )
            }
        };
        Some(hint)
    }
}
