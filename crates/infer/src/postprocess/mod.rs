//! What is done to a finished label map: keep the largest component, replace what is too small.
//!
//! The steps are data: a list in a `postprocessing.json`, which `predict` applies where it lies in the model folder, and which
//! `postprocess` and `ensemble` take with `--file`. What nnU-Net determined is read too, and has the same effect here.
//!
//! # The file
//! ```json
//! {
//!     "program": "glioseg",
//!     "version": 1,
//!     "steps": [
//!         {"keep_largest": {"labels": [1, 2, 3], "neighbours": "corners"}},
//!         {"replace_small": {"labels": [3], "below_voxels": 200, "with": 2}}
//!     ],
//!     "notes": {}
//! }
//! ```
//! Steps act in order, each on the result of the one before; labels are values of the dataset's own coding. `keep_largest` joins its
//! labels into one mask, keeps the largest component (all of them, if several are equally large), and makes the rest background;
//! `neighbours` is `corners` (26, nnU-Net v2) or `faces` (6, nnU-Net v1), and with `small_below_mm3` only components smaller than that
//! are removed. `replace_small` gives the voxels of its labels the value `with` if there are fewer than `below_voxels` in the whole
//! image. `notes` is for people: what the decision rests on.

mod file;
mod folder;
mod search;

use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;
use glioseg_formats::FormatError;
pub use glioseg_plan::{Neighbours, PostprocessingStep};
use glioseg_volume::LabelMap;
use thiserror::Error;

pub use file::nnunet_pickle;
pub use folder::{PostprocessOptions, PostprocessedCase, count_pair, postprocess_cases};
pub use search::{SearchCase, ThresholdScore, ThresholdSearch, WINNER_THRESHOLDS, search_threshold};

/// Name of the file in a model folder.
pub const FILE_NAME: &str = "postprocessing.json";

/// Steps in the order in which they act.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Postprocessing {
    /// The steps.
    pub steps: Vec<PostprocessingStep>,
    /// What the decision rests on, for people.
    pub notes: serde_json::Map<String, serde_json::Value>,
}

impl Postprocessing {
    /// Steps without notes.
    pub fn new(steps: Vec<PostprocessingStep>) -> Self {
        Self { steps, notes: serde_json::Map::new() }
    }

    /// Applies all steps; voxels changed by each of them.
    pub fn apply(&self, map: &mut LabelMap) -> Vec<usize> {
        self.steps.iter().map(|step| step.apply(map)).collect()
    }

    /// Refuses steps that speak of labels which `known`, the values of the dataset, do not have; `path` is named in the error.
    ///
    /// # Errors
    /// [`PostprocessError::UnknownLabel`].
    pub fn check(&self, known: &[u16], path: &Path) -> Result<(), PostprocessError> {
        match self.steps.iter().flat_map(PostprocessingStep::labels).find(|v| !known.contains(v)) {
            Some(label) => {
                Err(PostprocessError::UnknownLabel { path: path.to_owned(), label, known: known.to_vec() })
            }
            None => Ok(()),
        }
    }
}

/// Why label maps cannot be postprocessed.
#[derive(Debug, Error)]
pub enum PostprocessError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is none of the known forms.
    #[error("{} is not a list of postprocessing steps: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A step for a label that the dataset does not have.
    #[error("{} has a step for label {label}, but the labels are {known:?}", path.display())]
    UnknownLabel {
        /// The file.
        path: PathBuf,
        /// The label.
        label: u16,
        /// The labels there are.
        known: Vec<u16>,
    },
    /// A label map with a label that nothing describes.
    #[error("{} holds the label {label}, but the labels are {known:?}", path.display())]
    StrangeLabel {
        /// The label map.
        path: PathBuf,
        /// The label.
        label: u16,
        /// The labels there are.
        known: Vec<u16>,
    },
    /// A prediction without a reference.
    #[error("case `{case}` of {} has no reference in {}", folder.display(), reference.display())]
    NoReference {
        /// The case.
        case: String,
        /// The folder of predictions.
        folder: PathBuf,
        /// The folder of references.
        reference: PathBuf,
    },
    /// A prediction and its reference on other grids.
    #[error("{} has {found:?} voxels, but its reference {} has {expected:?} (z, y, x)", path.display(), reference.display())]
    Shape {
        /// The prediction.
        path: PathBuf,
        /// Its shape.
        found: [usize; 3],
        /// The reference.
        reference: PathBuf,
        /// Its shape.
        expected: [usize; 3],
    },
    /// Results would replace what they are made from.
    #[error("the output {} is also the input", path.display())]
    OutputIsInput {
        /// The folder.
        path: PathBuf,
    },
    /// An image.
    #[error(transparent)]
    Volume(#[from] FormatError),
}

impl Diagnose for PostprocessError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => Some("check the path and its permissions".into()),
            Self::Format { path, .. } if path.extension().is_some_and(|e| e == "pkl") => {
                Some("give the postprocessing.pkl of nnU-Net v2, or the postprocessing.json next to it".into())
            }
            Self::Format { .. } => Some(
                "give a postprocessing.json of glioseg, of nnU-Net v2 (crossval_results_folds_…) or of nnU-Net v1".into(),
            ),
            Self::UnknownLabel { .. } => {
                Some("the file belongs to another dataset, or its steps are meant for another label coding".into())
            }
            Self::StrangeLabel { .. } => {
                Some("say what the labels mean with --dataset dataset.json or --input-labels".into())
            }
            Self::NoReference { .. } => Some(
                "references are named as predictions, or end in -seg or _seg; leave out predictions without one".into(),
            ),
            Self::Shape { .. } => Some("both must be on the image's own grid; do they belong to the same case?".into()),
            Self::OutputIsInput { .. } => Some("choose another output folder".into()),
            Self::Volume(error) => error.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_for_strange_labels_are_refused() {
        let steps = Postprocessing::new(vec![PostprocessingStep::ReplaceSmall {
            labels: vec![4],
            below_voxels: 9,
            with: 1,
        }]);
        let error = steps.check(&[0, 1, 2, 3], Path::new("postprocessing.json")).expect_err("label 4");
        assert_eq!(
            error.to_string(),
            "postprocessing.json has a step for label 4, but the labels are [0, 1, 2, 3]"
        );
        assert!(steps.check(&[0, 1, 2, 4], Path::new("x")).is_ok());
    }
}
