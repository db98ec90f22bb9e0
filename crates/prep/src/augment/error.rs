//! What can go wrong while patches are made.

use std::path::PathBuf;

use glioseg_diagnose::Diagnose;
use thiserror::Error;

/// Why a patch could not be made.
#[derive(Debug, Error)]
pub enum AugmentError {
    /// Image and segmentation do not fit the shape.
    #[error(
        "a patch of {shape:?} voxels cannot hold {data} image values and {seg} segmentation values: neither may be \
         empty, and both must be whole numbers of channels"
    )]
    PatchSize {
        /// Voxels per axis.
        shape: [usize; 3],
        /// Values of the image.
        data: usize,
        /// Values of the segmentation.
        seg: usize,
    },
    /// A case gave a patch of another shape than asked for.
    #[error("case `{case}` gave a patch of {got:?} voxels where {asked:?} were asked for")]
    ReadShape {
        /// The case.
        case: String,
        /// What was asked for.
        asked: [usize; 3],
        /// What came.
        got: [usize; 3],
    },
    /// A case could not be read.
    #[error("case `{case}` could not be read: {cause}{}", at(file.as_ref()))]
    Read {
        /// The case.
        case: String,
        /// The file, where there is one.
        file: Option<PathBuf>,
        /// Why.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A worker thread panicked.
    #[error("a worker thread stopped while it made a patch of case `{case}`: {message}")]
    Worker {
        /// The case; empty if none had been chosen.
        case: String,
        /// What the panic said.
        message: String,
    },
    /// A worker thread could not be started.
    #[error("a worker thread could not be started: {0}")]
    Spawn(#[source] std::io::Error),
    /// There is no case to take patches from.
    #[error("there are no training cases to take patches from")]
    NoCases,
    /// An option has a value that makes no sense.
    #[error("{what} is {value}, but must be {must}")]
    Option {
        /// The option.
        what: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        must: &'static str,
    },
    /// No augmentation has this name.
    #[error("unknown augmentation `{given}`; augmentations: {}", super::Augmentation::WORDS.join(", "))]
    UnknownAugmentation {
        /// What was asked for.
        given: String,
    },
}

fn at(file: Option<&PathBuf>) -> String {
    file.map(|f| format!("\n  in: {}", f.display())).unwrap_or_default()
}

impl Diagnose for AugmentError {
    fn hint(&self) -> Option<String> {
        match self {
            AugmentError::Read { .. } | AugmentError::ReadShape { .. } => {
                Some("prepare this case again, or leave it out of the fold".into())
            }
            AugmentError::Worker { .. } => Some("this is a bug; the seed and the case reproduce it".into()),
            AugmentError::Spawn(_) => Some("ask for fewer threads".into()),
            AugmentError::NoCases => Some("check the fold: its training list is empty".into()),
            AugmentError::PatchSize { .. }
            | AugmentError::Option { .. }
            | AugmentError::UnknownAugmentation { .. } => None,
        }
    }
}
