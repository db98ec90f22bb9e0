//! What becomes of a decided label map before it is written, wherever it comes from: steps of postprocessing, then another
//! coding of the labels; and what the folder it is written to says of itself.

use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;
use glioseg_formats::{FormatError, nifti};
use glioseg_plan::{Dataset, OutputLabels, PlanError, Recoding, other_labels, write_description};
use glioseg_volume::LabelMap;
use thiserror::Error;

use crate::postprocess::{PostprocessError, Postprocessing};

/// The steps and the coding of label maps. The steps act first, on the dataset's own values; then values are recoded.
#[derive(Debug, Clone, Default)]
pub struct OutputRules {
    /// The steps.
    pub postprocessing: Postprocessing,
    /// How values are written.
    pub recoding: Recoding,
}

/// Why label maps cannot be written by these rules.
#[derive(Debug, Error)]
pub enum OutputError {
    /// A folder whose label maps have other values than those that would be added.
    #[error("the label maps in {} have the labels {found}, but those to be added have {wanted}", path.display())]
    OtherLabels {
        /// The output folder.
        path: PathBuf,
        /// The labels there.
        found: String,
        /// The labels of this run.
        wanted: String,
    },
    /// Saved probabilities that would no longer fit their description.
    #[error("with labels of another order, saved probabilities would not fit their dataset.json")]
    LabelOrder,
    /// The labels have no place in the coding.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Steps for labels that the dataset does not have.
    #[error(transparent)]
    Postprocess(#[from] PostprocessError),
}

impl Diagnose for OutputError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::OtherLabels { .. } => {
                Some("choose another output folder, or the --labels of the run that is continued".into())
            }
            Self::LabelOrder => Some(
                "leave out --save-probabilities, or write the dataset's own labels with --labels dataset"
                    .into(),
            ),
            Self::Plan(error) => error.hint(),
            Self::Postprocess(error) => error.hint(),
        }
    }
}

/// Steps of postprocessing, and where they are written, for messages.
pub(crate) type Steps<'a> = (Postprocessing, &'a Path);

impl OutputRules {
    /// The rules for label maps of `dataset`; `probabilities` says that they are saved too.
    ///
    /// # Errors
    /// [`OutputError`] if steps or coding do not fit the dataset's labels, or the coding does not fit saved probabilities.
    pub(crate) fn new(
        dataset: &Dataset,
        (postprocessing, path): Steps<'_>,
        labels: OutputLabels,
        probabilities: bool,
    ) -> Result<Self, OutputError> {
        let recoding = labels.recoding(dataset)?;
        postprocessing.check(dataset.labels.all_labels(), path)?;
        if probabilities && !recoding.keeps_order(dataset) {
            return Err(OutputError::LabelOrder);
        }
        Ok(Self { postprocessing, recoding })
    }

    /// Applies the steps, then the recoding; voxels that each step changed.
    ///
    /// # Errors
    /// The first value that the recoding does not have; the map is half done then.
    pub fn apply(&self, map: &mut LabelMap) -> Result<Vec<usize>, u16> {
        let changed = self.postprocessing.apply(map);
        self.recoding.apply(&mut map.data)?;
        Ok(changed)
    }

    /// Gets a folder ready for label maps: those that are to be kept (`keep`) must have the same labels; `dataset.json` says
    /// what the values mean.
    ///
    /// # Errors
    /// [`OutputError::OtherLabels`], or [`FormatError::Io`] as `E`.
    pub(crate) fn prepare_folder<E>(&self, folder: &Path, dataset: &Dataset, keep: bool) -> Result<(), E>
    where
        E: From<OutputError> + From<FormatError>,
    {
        if keep && let Some((found, wanted)) = other_labels(folder, dataset, &self.recoding) {
            return Err(OutputError::OtherLabels { path: folder.into(), found, wanted }.into());
        }
        Ok(write_description(folder, dataset, &self.recoding)?)
    }
}

/// The file of a case's label map. It is written whole and last of the case's files, so a case is done when it is there.
pub fn label_path(folder: &Path, case: &str, ending: &str) -> PathBuf {
    folder.join(format!("{case}{ending}"))
}

/// Writes a case's label map; `ending` as [`Dataset::written_ending`].
///
/// # Errors
/// [`FormatError::Io`] that names the file; no unfinished file is left.
pub fn write_labels(folder: &Path, case: &str, ending: &str, map: &LabelMap) -> Result<(), FormatError> {
    nifti::write_labels(&label_path(folder, case, ending), map)
}
