//! What can go wrong with a registration or a file of a transform, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;

/// Images that cannot be registered, or a transform that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AlignError {
    /// Too few slices, or slices that are too far apart.
    #[error(
        "an image of {shape:?} voxels (z, y, x) of {spacing_mm:?} mm is too coarse to register: it needs 8 slices, at most 8 mm apart"
    )]
    TooCoarse {
        /// Voxels along z, y, x.
        shape: [usize; 3],
        /// Their size in mm along z, y, x.
        spacing_mm: [f64; 3],
    },
    /// All voxels have one value.
    #[error("every voxel of the image is {value}: there is nothing to register by")]
    Constant {
        /// The value.
        value: f32,
    },
    /// NaN or infinity.
    #[error("{count} voxels of the image are not finite")]
    NotFinite {
        /// How many.
        count: usize,
    },
    /// A transform that squeezes space flat, or holds NaN.
    #[error("the transform has no inverse: [{:?}, {:?}, {:?}]", rows[0], rows[1], rows[2])]
    Singular {
        /// Its rows.
        rows: [[f64; 4]; 3],
    },
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file without a transform, a damaged one, or a transform that is not linear.
    #[error("cannot read a linear transform from {}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl Diagnose for AlignError {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::TooCoarse { .. } => "take the series with the thinner slices; a localiser cannot be used",
                Self::Constant { .. } => "look whether the image is the right one; it may have failed to convert",
                Self::NotFinite { .. } => "make the voxels that are NaN or infinite 0",
                Self::Singular { .. } => "register again, or write the transform again",
                Self::Io { .. } => "check the path and its permissions",
                Self::File { .. } => {
                    "linear transforms are read: ITK's .mat and .tfm, and 4 x 4 text of greedy, c3d or NiftyReg"
                }
            }
            .to_owned(),
        )
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. } | Self::File { path, .. } => Some(path),
            _ => None,
        }
    }
}
