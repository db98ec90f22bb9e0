//! What can go wrong with files of Python programs, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use glioseg_diagnose::{Diagnose, ForeignFile};

/// What to do about a file that does not hold what it should.
const DAMAGED: &str = "copy or download the file again; the original may be intact";

/// A file of another program that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InteropError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is something else, which its first bytes tell.
    #[error(transparent)]
    Foreign(ForeignFile),
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
    /// The pickle in a file could not be read.
    #[error("{}: {source}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PickleError,
    },
}

/// Why a pickle could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// It names something that is not data.
    #[error("refused: the pickle wants to call {name}")]
    Refused {
        /// Module and name.
        name: String,
    },
    /// The data end early.
    #[error("the pickle ends after {offset} bytes, in the middle of its data")]
    Truncated {
        /// Bytes read.
        offset: u64,
    },
    /// No pickle, or one that contradicts itself.
    #[error("not a valid pickle: {what} (at byte {offset})")]
    Malformed {
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Larger than any file that nnU-Net writes.
    #[error("the pickle is beyond the limit of {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The file could not be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Diagnose for InteropError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "check the path; nnU-Net calls it fold_K/checkpoint_final.pth",
                io::ErrorKind::PermissionDenied => "check the permissions of the file and its folder",
                io::ErrorKind::StorageFull => "free some space on the disk and try again",
                _ => return None,
            },
            Self::Pickle { source, .. } => return source.hint(),
            Self::Foreign(file) => return file.hint(),
            Self::Truncated { .. } | Self::Damaged { .. } => DAMAGED,
        };
        Some(hint.to_owned())
    }

    fn path(&self) -> Option<&Path> {
        let (Self::Io { path, .. }
        | Self::Foreign(ForeignFile { path, .. })
        | Self::Truncated { path, .. }
        | Self::Damaged { path, .. }
        | Self::Pickle { path, .. }) = self;
        Some(path)
    }
}

impl Diagnose for PickleError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Refused { .. } => {
                "checkpoints hold numbers and text only; do not open this file with other programs unless you trust \
                 where it comes from"
            }
            _ => DAMAGED,
        };
        Some(hint.to_owned())
    }
}
