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
use glioseg_volume::LabelMap;
use glioseg_volume::components::{Connectivity, components};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use folder::{PostprocessOptions, PostprocessedCase, count_pair, postprocess_cases};
pub use search::{SearchCase, ThresholdScore, ThresholdSearch, WINNER_THRESHOLDS, search_threshold};

/// Name of the file in a model folder.
pub const FILE_NAME: &str = "postprocessing.json";

/// Which voxels belong to one component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Neighbours {
    /// Those that share a face, as nnU-Net v1.
    Faces,
    /// Those that share a face, an edge or a corner, as nnU-Net v2.
    Corners,
}

impl From<Neighbours> for Connectivity {
    fn from(neighbours: Neighbours) -> Self {
        match neighbours {
            Neighbours::Faces => Self::Faces,
            Neighbours::Corners => Self::Corners,
        }
    }
}

/// One thing that is done to a label map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Only the largest component of the union of `labels` stays; all of the largest, if several are equally large.
    KeepLargest {
        /// Label values that are joined.
        labels: Vec<u16>,
        /// What connects voxels.
        neighbours: Neighbours,
        /// If given, only components smaller than this are removed, in mm³.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        small_below_mm3: Option<f64>,
    },
    /// Fewer than `below_voxels` voxels of `labels` in the whole image become `with`.
    ReplaceSmall {
        /// Label values that are counted together.
        labels: Vec<u16>,
        /// The least number of voxels that stays.
        below_voxels: u64,
        /// What they become.
        with: u16,
    },
}

impl Step {
    /// Keeps the largest component of the union of `labels`, as nnU-Net v2 does.
    pub fn keep_largest(labels: &[u16]) -> Self {
        Self::KeepLargest { labels: labels.to_vec(), neighbours: Neighbours::Corners, small_below_mm3: None }
    }

    /// Label values that the step speaks of.
    fn labels(&self) -> impl Iterator<Item = u16> {
        let (labels, with) = match self {
            Self::KeepLargest { labels, .. } => (labels, None),
            Self::ReplaceSmall { labels, with, .. } => (labels, Some(*with)),
        };
        labels.iter().copied().chain(with)
    }

    /// Applies the step; the number of voxels that changed.
    pub fn apply(&self, map: &mut LabelMap) -> usize {
        match self {
            Self::KeepLargest { labels, neighbours, small_below_mm3 } => {
                let voxel_mm3 = map.geometry.voxel_ml() * 1000.0;
                let spare =
                    |size: usize| small_below_mm3.is_some_and(|least| size as f64 * voxel_mm3 >= least);
                keep_largest(&mut map.data, map.geometry.shape, labels, *neighbours, spare)
            }
            Self::ReplaceSmall { labels, below_voxels, with } => {
                let count = map.count_of(labels);
                if count == 0 || count as u64 >= *below_voxels {
                    return 0;
                }
                map.data.iter_mut().filter(|v| labels.contains(v)).for_each(|v| *v = *with);
                if labels.contains(with) { count - map.count_of(&[*with]).min(count) } else { count }
            }
        }
    }
}

/// Removes all but the largest components of the voxels of `labels`; a smaller one stays too where `spare` says so of its size.
///
/// # Source
/// nnU-Net v2, `remove_all_but_largest_component_from_segmentation`; v1, `remove_all_but_the_largest_connected_component`.
fn keep_largest(
    data: &mut [u16],
    shape: [usize; 3],
    labels: &[u16],
    neighbours: Neighbours,
    spare: impl Fn(usize) -> bool,
) -> usize {
    let mask: Vec<bool> = data.iter().map(|v| labels.contains(v)).collect();
    let found = components(&mask, shape, neighbours.into());
    let Some(&largest) = found.sizes.iter().max() else { return 0 };
    let keep: Vec<bool> = found.sizes.iter().map(|&size| size == largest || spare(size)).collect();
    let mut removed = 0;
    for (value, &component) in data.iter_mut().zip(&found.labels) {
        if component > 0 && !keep[component as usize - 1] {
            *value = 0;
            removed += 1;
        }
    }
    removed
}

/// Steps in the order in which they act.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Postprocessing {
    /// The steps.
    pub steps: Vec<Step>,
    /// What the decision rests on, for people.
    pub notes: serde_json::Map<String, serde_json::Value>,
}

impl Postprocessing {
    /// Steps without notes.
    pub fn new(steps: Vec<Step>) -> Self {
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
        match self.steps.iter().flat_map(Step::labels).find(|v| !known.contains(v)) {
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
    #[error("{} is no list of postprocessing steps: {reason}", path.display())]
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
                Some("nnU-Net writes postprocessing.json beside postprocessing.pkl: give that one".into())
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
    use glioseg_volume::Geometry;

    fn map(rows: &[&[u16]]) -> LabelMap {
        let data: Vec<u16> = rows.concat();
        LabelMap::new(data, Geometry::isotropic([1, rows.len(), rows[0].len()])).expect("a map")
    }

    #[test]
    fn the_largest_component_of_the_union_stays_and_ties_stay_together() {
        let mut tumour = map(&[&[1, 2, 0, 0, 3], &[0, 0, 0, 0, 0], &[3, 3, 0, 0, 0]]);
        let mut single = tumour.clone();
        assert_eq!(Step::keep_largest(&[1, 2, 3]).apply(&mut tumour), 1, "the voxel at the right");
        assert_eq!(tumour.data, [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0]);
        // Label 3 alone: the pair is larger than the single voxel; labels 1 and 2 are not touched.
        assert_eq!(Step::keep_largest(&[3]).apply(&mut single), 1);
        assert_eq!(single.data, [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0]);
        assert_eq!(Step::keep_largest(&[7]).apply(&mut single), 0, "no such voxel");
    }

    #[test]
    fn corners_connect_in_version_two_and_faces_only_in_version_one() {
        let diagonal = map(&[&[1, 1, 0], &[0, 0, 1]]);
        let step =
            |neighbours, small_below_mm3| Step::KeepLargest { labels: vec![1], neighbours, small_below_mm3 };
        for (neighbours, small_below, removed) in [
            (Neighbours::Corners, None, 0),
            (Neighbours::Faces, None, 1),
            (Neighbours::Faces, Some(1.5), 1),
            (Neighbours::Faces, Some(1.0), 0),
        ] {
            assert_eq!(
                step(neighbours, small_below).apply(&mut diagonal.clone()),
                removed,
                "{neighbours:?} {small_below:?}"
            );
        }
    }

    #[test]
    fn the_threshold_is_strictly_less() {
        let rule = |below_voxels| Step::ReplaceSmall { labels: vec![3], below_voxels, with: 2 };
        let tumour = map(&[&[1, 3, 3, 2, 0]]);
        for (below, changed) in [(0, 0), (2, 0), (3, 2)] {
            let mut map = tumour.clone();
            assert_eq!(rule(below).apply(&mut map), changed, "{below}");
            assert_eq!(map.count_of(&[3]), 2 - changed);
            assert_eq!(map.count_of(&[2]), 1 + changed);
        }
    }

    #[test]
    fn steps_for_strange_labels_are_refused() {
        let steps =
            Postprocessing::new(vec![Step::ReplaceSmall { labels: vec![4], below_voxels: 9, with: 1 }]);
        let error = steps.check(&[0, 1, 2, 3], Path::new("postprocessing.json")).expect_err("label 4");
        assert_eq!(
            error.to_string(),
            "postprocessing.json has a step for label 4, but the labels are [0, 1, 2, 3]"
        );
        assert!(steps.check(&[0, 1, 2, 4], Path::new("x")).is_ok());
    }
}
