//! Why a cohort could not be scored, ranked or reported.

use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;
use glioseg_formats::FormatError;
use glioseg_metrics::MetricsError;
use glioseg_plan::PlanError;
use glioseg_volume::Geometry;

/// Why scoring was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// An image could not be read or a file not written.
    #[error(transparent)]
    Volume(Box<FormatError>),
    /// A `dataset.json` or `summary.json` could not be read.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// What a metric or its files refused.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Reference and prediction lie on different grids.
    #[error(
        "prediction {} has {} but its reference {} has {}",
        prediction.display(), grid(prediction_grid), reference.display(), grid(reference_grid)
    )]
    Grid {
        /// The reference's file.
        reference: PathBuf,
        /// Its grid.
        reference_grid: Box<Geometry>,
        /// The prediction's file.
        prediction: PathBuf,
        /// Its grid.
        prediction_grid: Box<Geometry>,
    },
    /// Files that seem to follow another label convention than the one given.
    #[error("{what} {} are said to be coded as {given}, but look like {guess}: {reason}", path.display())]
    Convention {
        /// `references in` or `predictions in`.
        what: &'static str,
        /// The folder.
        path: PathBuf,
        /// The convention given.
        given: String,
        /// The convention that they seem to follow.
        guess: String,
        /// What the guess rests on.
        reason: String,
    },
    /// A folder without any case.
    #[error("{} holds no {what}", path.display())]
    NoCases {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        what: String,
    },
    /// Two files that stand for the same case.
    #[error("case `{case}` is there twice: {} and {}", first.display(), second.display())]
    Duplicate {
        /// The case.
        case: String,
        /// The one file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// References and predictions share no case.
    #[error(
        "no prediction in {} belongs to a reference in {}: the first reference is case `{reference_case}`, the first \
         prediction is case `{prediction_case}`",
        prediction.display(), reference.display()
    )]
    NoneMatch {
        /// Folder of the references.
        reference: PathBuf,
        /// Folder of the predictions.
        prediction: PathBuf,
        /// A case of the references.
        reference_case: String,
        /// A case of the predictions.
        prediction_case: String,
    },
    /// Nothing says what the labels mean.
    #[error("cannot tell what the labels {} in {} mean", numbers(labels), path.display())]
    UnclearLabels {
        /// The folder of the references.
        path: PathBuf,
        /// The labels that occur.
        labels: Vec<u16>,
    },
    /// A file of scores that cannot be used.
    #[error("{} holds no scores: {reason}", path.display())]
    Scores {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Runs that have nothing in common.
    #[error("the runs {} share no {what}", names.join(", "))]
    NothingInCommon {
        /// The runs.
        names: Vec<String>,
        /// `case`, or the metrics looked for.
        what: String,
    },
    /// A table could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// What the writer said.
        source: csv::Error,
    },
}

impl From<FormatError> for ReportError {
    fn from(error: FormatError) -> Self {
        Self::Volume(Box::new(error))
    }
}

impl From<PlanError> for ReportError {
    fn from(error: PlanError) -> Self {
        Self::Plan(Box::new(error))
    }
}

fn grid(geometry: &Geometry) -> String {
    let [z, y, x] = geometry.shape;
    let [dz, dy, dx] = geometry.spacing;
    format!("{x} x {y} x {z} voxels of {dx} x {dy} x {dz} mm")
}

fn numbers(labels: &[u16]) -> String {
    labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Diagnose for ReportError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Volume(error) => return error.hint(),
            Self::Plan(error) => return error.hint(),
            Self::Metrics(error) => return error.hint(),
            Self::Grid { .. } => {
                "a prediction is scored on its reference's own grid: resample it there, or check that the files belong \
                 to the same case"
                    .to_owned()
            }
            Self::Convention { .. } => {
                "name the right convention with --labels or --pred-labels; if the given one is right after all, add \
                 --trust-labels"
                    .to_owned()
            }
            Self::NoCases { .. } => {
                "give a folder of CASE.nii.gz files, or of case folders with a file that ends in `seg` each; with \
                 --ref-suffix or --pred-suffix other files are taken"
                    .to_owned()
            }
            Self::Duplicate { .. } => "keep one of the two files, or choose by --ref-suffix / --pred-suffix".to_owned(),
            Self::NoneMatch { .. } => {
                "names must agree but for an ending such as `-seg`; strip another ending with --ref-suffix or \
                 --pred-suffix"
                    .to_owned()
            }
            Self::UnclearLabels { .. } => {
                "give --dataset dataset.json, or --labels 1-2-4 (BraTS until 2022), 1-2-3 (BraTS 2023), 1-2-3-4 (with \
                 resection cavity) or nnunet"
                    .to_owned()
            }
            Self::Scores { .. } => {
                "give a folder that `glioseg evaluate` wrote, its scores.json, or a summary.json of nnU-Net".to_owned()
            }
            Self::NothingInCommon { .. } => "score the runs against the same references with the same rules".to_owned(),
            _ => return None,
        };
        Some(text)
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Grid { prediction: path, .. }
            | Self::Convention { path, .. }
            | Self::NoCases { path, .. }
            | Self::NoneMatch { prediction: path, .. }
            | Self::UnclearLabels { path, .. }
            | Self::Scores { path, .. }
            | Self::Csv { path, .. } => Some(path),
            Self::Metrics(error) => error.path(),
            _ => None,
        }
    }
}
