//! A folder that predictions are written to.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use glioseg_formats::{atomic, nifti};
use glioseg_interop::{KeyOrder, python_json};
use glioseg_plan::record::CaseRecord;
use serde_json::Value;

use super::{InferError, PredictOptions, Prediction};
use crate::output::{label_path, write_labels};

/// Where maps of uncertainty go: apart from the label maps, so that nobody takes them for such.
const UNCERTAINTY: &str = "uncertainty";

/// An output folder: `CASE.nii.gz` (or `.nii`), `CASE.npz`, and maps below `uncertainty`.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    /// How label maps end.
    ending: &'static str,
}

impl Folder {
    /// Makes the folder, whose label maps will have this ending, and checks that it lies outside the inputs and can be written.
    ///
    /// # Errors
    /// [`InferError::OutputInsideInput`], [`InferError::Output`].
    pub(crate) fn make(path: &Path, inputs: &[PathBuf], ending: &'static str) -> Result<Self, InferError> {
        let failed = |source| InferError::Output { path: path.into(), source };
        // The folder may not be there yet: its nearest existing parent decides where it lies.
        let absolute = std::path::absolute(path).map_err(failed)?;
        let existing =
            absolute.ancestors().find_map(|a| a.canonicalize().ok()).unwrap_or_else(|| absolute.clone());
        let rest = absolute.ancestors().find(|a| a.exists()).and_then(|a| absolute.strip_prefix(a).ok());
        let target = rest.map_or_else(|| existing.clone(), |r| existing.join(r));
        for input in inputs.iter().filter(|i| i.is_dir()) {
            if input.canonicalize().is_ok_and(|i| target.starts_with(i)) {
                return Err(InferError::OutputInsideInput { out: path.into(), input: input.clone() });
            }
        }
        std::fs::create_dir_all(path).map_err(failed)?;
        tempfile::tempfile_in(path).map_err(failed)?;
        Ok(Self { path: path.into(), ending })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folders below that the options ask for.
    pub(crate) fn make_below(&self, options: &PredictOptions) -> Result<(), InferError> {
        if options.uncertainty {
            let folder = self.path.join(UNCERTAINTY);
            std::fs::create_dir_all(&folder)
                .map_err(|source| InferError::Output { path: folder.clone(), source })?;
        }
        Ok(())
    }

    /// Writes the plans, which tell `nnUNetv2_ensemble` how files are written.
    ///
    /// # Errors
    /// [`InferError::Volume`] that names the file.
    pub(crate) fn write_plans(&self, plans: &Value) -> Result<(), InferError> {
        let text = python_json(plans, KeyOrder::Given);
        Ok(atomic::write(&self.path.join("plans.json"), |file| file.write_all(text.as_bytes()))?)
    }

    fn probabilities(&self, case: &str) -> PathBuf {
        self.path.join(format!("{case}.npz"))
    }

    /// A map of uncertainty, as seen from the folder.
    fn map(case: &str, name: &str) -> PathBuf {
        Path::new(UNCERTAINTY).join(format!("{case}_{name}.nii.gz"))
    }

    /// Whether a case has all that the options ask for. Results are renamed into place when complete, so a file that is there
    /// is a finished one.
    pub(crate) fn is_finished(&self, case: &str, options: &PredictOptions) -> bool {
        label_path(&self.path, case, self.ending).is_file()
            && (!options.save_probabilities || self.probabilities(case).is_file())
            && (!options.uncertainty || self.path.join(Self::map(case, "disagreement")).is_file())
    }

    /// Files in the folder that this prediction of the cases `own` does not write, sorted: label maps of other cases, and
    /// probabilities of other cases or, where none are `saved`, of any.
    pub(crate) fn strangers(&self, own: &HashSet<&str>, saved: bool) -> Vec<String> {
        strangers(&self.path, |name| {
            nifti::stem(name).is_some_and(|stem| !own.contains(stem))
                || name.strip_suffix(".npz").is_some_and(|stem| !saved || !own.contains(stem))
        })
    }

    /// Writes all files of a case, the label map last; the record with what was written and how long it took.
    ///
    /// # Errors
    /// [`InferError::Volume`] that names the file; no unfinished file is left.
    pub(crate) fn write(&self, prediction: Prediction) -> Result<CaseRecord, InferError> {
        let start = Instant::now();
        let Prediction { labels, probabilities, uncertainty, mut record, saving, .. } = prediction;
        record.saved_probabilities = Some(probabilities.is_some());
        let case = &record.case;
        if let (Some(maps), Some(scores)) = (uncertainty, &mut record.uncertainty) {
            let [entropy, disagreement] = ["entropy", "disagreement"].map(|name| Self::map(case, name));
            nifti::write_volume(&self.path.join(&entropy), &maps.entropy())?;
            nifti::write_volume(&self.path.join(&disagreement), &maps.disagreement())?;
            (scores.entropy, scores.disagreement) = (Some(entropy), Some(disagreement));
        }
        // Probabilities first: a case counts as finished when its segmentation is there.
        if let Some(probabilities) = probabilities {
            saving.write(&self.probabilities(case), &probabilities)?;
        }
        write_labels(&self.path, case, self.ending, &labels)?;
        *record.seconds.entry("write".into()).or_default() += start.elapsed().as_secs_f64();
        for value in record.seconds.values_mut() {
            *value = (*value * 1000.0).round() / 1000.0;
        }
        Ok(record)
    }
}

/// Names of the files in a folder that `strange` is true of, sorted. Hidden files, which are never results, are left out.
pub(crate) fn strangers(folder: &Path, strange: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = names.filter(|name| !name.starts_with('.') && strange(name)).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_earlier_predictions_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a.nii.gz", "a.npz", "b.nii.gz", "c.nii", "c.npz", ".d.npz", "predict.json"] {
            std::fs::write(folder.path().join(name), b"").expect("written");
        }
        let made = Folder::make(folder.path(), &[], ".nii.gz").expect("a folder");
        let own = HashSet::from(["a", "x"]);
        assert_eq!(made.strangers(&own, true), ["b.nii.gz", "c.nii", "c.npz"]);
        assert_eq!(made.strangers(&own, false), ["a.npz", "b.nii.gz", "c.nii", "c.npz"]);
    }
}
