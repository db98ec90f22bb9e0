//! What can go wrong with the case store.

use crate::PrepError;
use glioseg_diagnose::Diagnose;
use glioseg_formats::FormatError;
use glioseg_plan::PlanError;
use std::io;
use std::path::{Path, PathBuf};

/// A stored case that cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Dataset, plans or the files of a case.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// Reading or writing a file.
    #[error(transparent)]
    Volume(#[from] FormatError),
    /// The case cannot be preprocessed.
    #[error("case `{case}`: {source}")]
    Prep {
        /// The case.
        case: String,
        /// Why.
        source: Box<PrepError>,
    },
    /// A file that is not a stored case, or a damaged one.
    #[error("{} is not a usable prepared case: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A segmentation of a cascade's stage before that is on another grid than the prepared case.
    #[error(
        "case `{case}`: the segmentation of the previous stage has {found:?} voxels (z, y, x), but the prepared case {expected:?}"
    )]
    PreviousStage {
        /// The case.
        case: String,
        /// The file.
        path: PathBuf,
        /// Its voxels.
        found: [usize; 3],
        /// Those of the prepared case.
        expected: [usize; 3],
    },
    /// No space left while cases were written.
    #[error("case `{case}` could not be written after {finished} of {of} cases: {source}")]
    DiskFull {
        /// The case.
        case: String,
        /// Cases that are finished.
        finished: usize,
        /// All cases.
        of: usize,
        /// What the system said, with the file.
        source: Box<FormatError>,
    },
}

impl From<PlanError> for StoreError {
    fn from(error: PlanError) -> Self {
        StoreError::Plan(Box::new(error))
    }
}

impl StoreError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        StoreError::Volume(FormatError::Io { path: path.to_owned(), action, source })
    }

    /// What the system said if the disk is full, or the user's share of it; else the error itself.
    pub(super) fn disk_full(self) -> Result<FormatError, Self> {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            StoreError::Volume(FormatError::Io { path, action, source })
                if matches!(source.kind(), StorageFull | QuotaExceeded) =>
            {
                Ok(FormatError::Io { path, action, source })
            }
            other => Err(other),
        }
    }
}

impl Diagnose for StoreError {
    fn hint(&self) -> Option<String> {
        match self {
            StoreError::Plan(error) => error.hint(),
            StoreError::Volume(error) => error.hint(),
            StoreError::Prep { source, .. } => source.hint(),
            StoreError::Format { .. } => {
                Some("delete the file and run `glioseg prep` again; the other cases are kept".to_owned())
            }
            StoreError::PreviousStage { .. } => Some(
                "validate the first stage again with its present plans: give its `glioseg train` with --resume after deleting \
                 the file"
                    .to_owned(),
            ),
            StoreError::DiskFull { source, .. } => {
                let place = source.hint().unwrap_or_default();
                Some(format!("{place}; then run the same command again: finished cases are kept"))
            }
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            StoreError::Format { path, .. } => Some(path),
            StoreError::Plan(error) => error.path(),
            _ => None,
        }
    }
}
