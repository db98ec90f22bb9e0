//! `predict.json`: what was done with which model to which case.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use glioseg_prep::guard::ChannelCheck;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{CaseUncertainty, Flag, InferError};
use crate::labels::OutputLabels;
use crate::model::Model;
use crate::postprocess::Step;

/// The whole record of an output folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// `glioseg`.
    pub program: String,
    /// Version of the program.
    pub version: String,
    /// What the result may be used for.
    pub notice: String,
    /// The models, in the order given.
    pub models: Vec<ModelRecord>,
    /// How the models were applied.
    pub settings: Settings,
    /// One entry per case, sorted by name.
    pub cases: Vec<CaseRecord>,
}

/// A model as used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Its folder.
    pub path: PathBuf,
    /// Dataset it was trained on.
    pub dataset: String,
    /// Its plans.
    pub plans: String,
    /// Its configuration.
    pub configuration: String,
    /// Its trainer class, where known.
    pub trainer: Option<String>,
    /// Whose rules it was applied by: `nnunet_v2` or `nnunet_v1`.
    #[serde(default)]
    pub rules: String,
    /// Its channels, in the order in which it reads them.
    pub channels: Vec<String>,
    /// SHA-256 of every fold's checkpoint file.
    pub folds: IndexMap<String, String>,
}

impl ModelRecord {
    pub(crate) fn new(model: &Model, hashes: &[String]) -> Self {
        Self {
            path: model.path.clone(),
            dataset: model.plans.dataset_name().to_owned(),
            plans: model.plans.plans_name().to_owned(),
            configuration: model.configuration.name.clone(),
            trainer: model.trainer.clone(),
            rules: model.configuration.rules.name().to_owned(),
            channels: model.dataset.channel_names.clone(),
            folds: model.folds.iter().map(|f| f.name.clone()).zip(hashes.iter().cloned()).collect(),
        }
    }
}

/// How the models were applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Which checkpoint of a fold.
    pub checkpoint: String,
    /// Distance of neighbouring tiles as a fraction of the patch.
    pub step: f64,
    /// Whether tiles were mirrored.
    pub mirroring: bool,
    /// Precision of the running sums, `half` or `single`.
    pub accumulation: String,
    /// What computed.
    pub device: String,
    /// How convolutions were computed.
    pub kernels: String,
    /// Threads that computed.
    pub threads: usize,
    /// Steps on the label maps.
    #[serde(default)]
    pub postprocessing: Vec<Step>,
    /// Which label values were written.
    #[serde(default)]
    pub labels: OutputLabels,
}

/// What became of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseStatus {
    /// Its segmentation is written.
    Done,
    /// It has none; the error says why.
    Failed,
}

/// One case of the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// Name of the case.
    pub case: String,
    /// What became of it.
    pub status: CaseStatus,
    /// Its files, in the order of the model's channels.
    pub files: Vec<PathBuf>,
    /// Seconds for every step: `read` and prepare, `network`, `write` with all that leads back to the image.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub seconds: IndexMap<String, f64>,
    /// Volume of every label or region in mL.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub volume_ml: IndexMap<String, f64>,
    /// Voxels that each step of the postprocessing changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub postprocessed_voxels: Vec<usize>,
    /// How well the channels agree with their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<ChannelCheck>,
    /// What looked odd.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Reasons for a person to look at it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Flag>,
    /// How sure folds, models and mirrored passes were, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty: Option<CaseUncertainty>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl CaseRecord {
    /// A case without a segmentation.
    pub(crate) fn failed(case: String, files: Vec<PathBuf>, error: String, hint: Option<String>) -> Self {
        Self {
            case,
            status: CaseStatus::Failed,
            files,
            seconds: IndexMap::new(),
            volume_ml: IndexMap::new(),
            postprocessed_voxels: Vec::new(),
            channels: None,
            warnings: Vec::new(),
            flags: Vec::new(),
            uncertainty: None,
            error: Some(error),
            hint,
        }
    }

    /// Time of all steps together.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.values().sum())
    }
}

impl Record {
    /// The record of an earlier run, if there is a readable one.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Adds a case in the place of an older entry of the same name.
    pub(crate) fn put(&mut self, case: CaseRecord) {
        match self.cases.binary_search_by(|c| c.case.cmp(&case.case)) {
            Ok(at) => self.cases[at] = case,
            Err(at) => self.cases.insert(at, case),
        }
    }

    /// Writes the record whole: to a temporary name, then renamed.
    pub(crate) fn write(&self, path: &Path) -> Result<(), InferError> {
        let text = serde_json::to_vec_pretty(self).expect("plain data");
        Ok(glioseg_formats::atomic::write(path, |file| file.write_all(&text))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, status: CaseStatus) -> CaseRecord {
        CaseRecord {
            case: name.into(),
            status,
            files: vec![],
            seconds: IndexMap::new(),
            volume_ml: [("WT".to_owned(), 1.5)].into_iter().collect(),
            postprocessed_voxels: vec![],
            channels: None,
            warnings: vec![],
            flags: vec![],
            uncertainty: None,
            error: None,
            hint: None,
        }
    }

    #[test]
    fn a_record_keeps_the_cases_of_earlier_runs_and_replaces_repeated_ones() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("predict.json");
        let mut record = Record {
            program: "glioseg".into(),
            version: "0".into(),
            notice: String::new(),
            models: vec![],
            settings: Settings {
                checkpoint: "final".into(),
                step: 0.5,
                mirroring: true,
                accumulation: "half".into(),
                device: "cpu".into(),
                kernels: "auto".into(),
                threads: 1,
                postprocessing: vec![],
                labels: OutputLabels::Dataset,
            },
            cases: vec![],
        };
        record.put(case("b", CaseStatus::Failed));
        record.put(case("a", CaseStatus::Done));
        record.write(&path).expect("written");
        let mut again = Record::read(&path).expect("readable");
        again.put(case("b", CaseStatus::Done));
        let found: Vec<_> = again.cases.iter().map(|c| (c.case.as_str(), c.status)).collect();
        assert_eq!(found, [("a", CaseStatus::Done), ("b", CaseStatus::Done)]);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1, "no temporary file is left");
        std::fs::write(&path, "{").expect("written");
        assert!(Record::read(&path).is_none());
    }
}
