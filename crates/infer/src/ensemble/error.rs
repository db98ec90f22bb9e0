//! Why saved probabilities cannot be averaged.

use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;
use glioseg_formats::FormatError;
use glioseg_interop::InteropError;
use glioseg_plan::PlanError;
use thiserror::Error;

use crate::output::OutputError;

/// Why an ensemble, or one case of it, could not be made.
#[derive(Debug, Error)]
pub enum EnsembleError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder without saved probabilities.
    #[error("{} holds no saved probabilities (CASE.npz)", folder.display())]
    NoCases {
        /// The folder.
        folder: PathBuf,
    },
    /// Probabilities that the folder's `predict.json` does not tell of.
    #[error("{} is of an earlier prediction: the predict.json next to it does not say that it was saved", path.display())]
    Stale {
        /// The npz.
        path: PathBuf,
    },
    /// Folders with other cases.
    #[error("{} has no {}.npz{}, but {} has", folder.display(), missing[0], more(missing), other.display())]
    CaseSets {
        /// The folder that lacks cases.
        folder: PathBuf,
        /// The cases.
        missing: Vec<String>,
        /// A folder that has the first of them.
        other: PathBuf,
    },
    /// Folders with probabilities of other outputs.
    #[error("the outputs differ: {} has {first}, but {} has {second}", first_path.display(), second_path.display())]
    OutputsDiffer {
        /// One side.
        first: String,
        /// The other.
        second: String,
        /// Where the one is said.
        first_path: PathBuf,
        /// Where the other is said.
        second_path: PathBuf,
    },
    /// Nothing says what the outputs mean.
    #[error("{} has no dataset.json, so the meaning of its outputs is unknown", folder.display())]
    NoDataset {
        /// The folder.
        folder: PathBuf,
    },
    /// The file is not an npz with probabilities.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Arrays of other shape.
    #[error(
        "the probabilities differ in shape: {} has {first:?}, but {} has {second:?} (output, z, y, x)",
        first_path.display(),
        second_path.display()
    )]
    Shape {
        /// One shape.
        first: [usize; 4],
        /// The other.
        second: [usize; 4],
        /// The one file.
        first_path: PathBuf,
        /// The other.
        second_path: PathBuf,
    },
    /// One file of nnU-Net v1, another of v2.
    #[error("{} holds probabilities of nnU-Net {first}, but {} those of nnU-Net {second}", first_path.display(), second_path.display())]
    Versions {
        /// `v1` or `v2`.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// The one file.
        first_path: PathBuf,
        /// The other.
        second_path: PathBuf,
    },
    /// Neither a label map nor properties tell where the voxels are.
    #[error("{} has neither a label map nor a .pkl next to it that tells its geometry", path.display())]
    NoGeometry {
        /// The npz.
        path: PathBuf,
    },
    /// Probabilities that are NaN or infinite.
    #[error("{} holds {count} values that are NaN or infinite", path.display())]
    NotFinite {
        /// The npz.
        path: PathBuf,
        /// How many, of those read together.
        count: usize,
    },
    /// Results would lie among the inputs.
    #[error("the output {} is also an input", path.display())]
    OutputIsInput {
        /// The folder.
        path: PathBuf,
    },
    /// The rules of the label maps.
    #[error(transparent)]
    Rules(#[from] OutputError),
    /// An image.
    #[error(transparent)]
    Volume(#[from] FormatError),
    /// The dataset description.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A pickle.
    #[error(transparent)]
    Interop(#[from] InteropError),
    /// Postprocessing.
    #[error(transparent)]
    Postprocess(#[from] crate::postprocess::PostprocessError),
}

fn more(missing: &[String]) -> String {
    match missing.len() {
        1 => String::new(),
        n => format!(" (and lacks {} more)", n - 1),
    }
}

impl EnsembleError {
    /// An error of [`Self::Format`].
    pub fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.into(), reason: reason.into() }
    }
}

impl Diagnose for EnsembleError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { .. } => "check the path and its permissions".into(),
            Self::NoCases { .. } => {
                "predict with --save-probabilities (nnU-Net v2: --save_probabilities; v1: --save_npz)".into()
            }
            Self::Stale { .. } => "predict the case again with --save-probabilities, or remove the file".into(),
            Self::CaseSets { .. } => "every folder must hold the same cases: predict the missing ones".into(),
            Self::OutputsDiffer { .. } => {
                "only models that were trained for the same labels can be averaged; where only names differ, give the \
                 dataset.json that holds for all with --dataset"
                    .into()
            }
            Self::NoDataset { .. } => "give the model's dataset.json with --dataset".into(),
            Self::Format { .. } => {
                "expected nnU-Net's npz with the array `probabilities` (v2) or `softmax` (v1), [output, z, y, x]; is it cut \
                 off?"
                    .into()
            }
            Self::Shape { .. } => "both must come from the same images; predict the case again with both models".into(),
            Self::Versions { .. } => {
                "the two have other grids and rounding: predict with both models at once, `glioseg predict -m A -m B`".into()
            }
            Self::NoGeometry { .. } => "put CASE.nii.gz, which prediction writes too, next to CASE.npz".into(),
            Self::NotFinite { .. } => "predict the case again; a network with damaged weights gives such values".into(),
            Self::OutputIsInput { .. } => "choose another output folder".into(),
            Self::Rules(error) => return error.hint(),
            Self::Volume(error) => return error.hint(),
            Self::Plan(error) => return error.hint(),
            Self::Interop(_) => "is the .pkl that of this case? it is read as plain data and never run".into(),
            Self::Postprocess(error) => return error.hint(),
        })
    }
}
