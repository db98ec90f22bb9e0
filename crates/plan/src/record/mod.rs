//! `predict.json`: what was done with which model to which case. Predictions write it, scores and reports read it.
//!
//! Whatever is missing in the record of another version is taken to be nothing, and fields that this version does not know are left
//! alone, so that old and new records can be read.

mod channels;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use glioseg_formats::{FormatError, atomic};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::number::float;
use crate::{OutputLabels, PlanError, PostprocessingStep, read_json};
pub use channels::{ChannelCheck, ChannelTest, Doubt, TestKind};

/// The whole record of an output folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `glioseg`.
    #[serde(default)]
    pub program: String,
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// What the result may be used for.
    #[serde(default)]
    pub notice: String,
    /// The models, in the order given.
    #[serde(default)]
    pub models: Vec<ModelRecord>,
    /// How the models were applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// One entry per case, sorted by name.
    #[serde(default)]
    pub cases: Vec<CaseRecord>,
}

/// A model as used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
    pub rules: String,
    /// Its channels, in the order in which it reads them.
    pub channels: Vec<String>,
    /// SHA-256 of every fold's checkpoint file.
    pub folds: IndexMap<String, String>,
}

/// How the models were applied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
    /// How exact it computed; records of earlier versions, which knew single precision only, do not say it.
    #[serde(default = "single_precision")]
    pub precision: String,
    /// How convolutions were computed.
    pub kernels: String,
    /// Threads that computed.
    pub threads: usize,
    /// Steps on the label maps.
    pub postprocessing: Vec<PostprocessingStep>,
    /// Which label values were written.
    pub labels: OutputLabels,
    /// For later stages of a cascade, the folder of the segmentations of the stage before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_stage: Option<PathBuf>,
}

fn single_precision() -> String {
    "f32".to_owned()
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

/// A series of a DICOM study; names of people are never kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesRecord {
    /// Its number, and that of the volume where it has several: `8`, `8.1`.
    pub name: String,
    /// `SeriesInstanceUID`.
    pub uid: String,
    /// `StudyInstanceUID`.
    pub study: String,
}

/// One case of the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// Name of the case.
    pub case: String,
    /// What became of it.
    pub status: CaseStatus,
    /// Its files, in the order of the first model's channels.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// Series of a DICOM study that the channels are, in the order of the first model's channels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<SeriesRecord>,
    /// Seconds for every step: `read` and prepare, `network`, `write` with all that leads back to the image.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub seconds: IndexMap<String, f64>,
    /// Volume of every label or region in mL.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub volume_ml: IndexMap<String, f64>,
    /// Whether its probabilities were written (`CASE.npz`); records of earlier versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_probabilities: Option<bool>,
    /// Voxels that each step of the postprocessing changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub postprocessed_voxels: Vec<usize>,
    /// How well the channels agree with their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<ChannelCheck>,
    /// What looked odd about the input.
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

/// What kind of reason to look at a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlagKind {
    /// Nothing was segmented.
    Empty,
    /// Part of the tumour lies where all channels are background.
    OutsideBrain,
    /// Enhancing tumour without any other core.
    EnhancingWithoutCore,
    /// Many tiny components.
    ManyComponents,
    /// Channels do not look like their names.
    Channels,
    /// Spacing, size or intensities far from those of the training cases.
    UnlikeTraining,
    /// One that this version does not know.
    #[serde(untagged)]
    Other(String),
}

/// A reason to look at a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// What kind.
    pub kind: FlagKind,
    /// In words.
    pub message: String,
}

impl Flag {
    /// A reason of this kind.
    pub fn new(kind: FlagKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// How sure folds, models and mirrored passes were of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseUncertainty {
    /// Mean of the regions' scores: 0 sure, 1 not at all.
    #[serde(with = "float")]
    pub score: f64,
    /// Every region, in the order of the maps' channels.
    pub regions: Vec<RegionUncertainty>,
    /// Map of the entropy of the mean probability, in bits from 0 to 1, where it was written; as seen from the record's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<PathBuf>,
    /// Map of the standard deviation of the probabilities over passes, from 0 to 0.5, in the same form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreement: Option<PathBuf>,
}

/// How sure they were of a region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionUncertainty {
    /// Its name.
    pub region: String,
    /// Its labels.
    pub labels: Vec<u16>,
    /// 1 minus the Dice that the mean probabilities promise for the segmentation: `(2 Σ p over the segmented voxels + 1) / (Σ p +
    /// segmented voxels + 1)`; the ones make an empty region with no probability a sure one.
    #[serde(with = "float")]
    pub score: f64,
    /// Mean entropy of the segmented voxels, in bits; 0 where there is none.
    #[serde(default)]
    pub entropy: f64,
    /// Mean standard deviation of the segmented voxels over passes; 0 where there is none.
    #[serde(default)]
    pub disagreement: f64,
}

impl CaseRecord {
    /// A case without a segmentation.
    pub fn failed(case: String, files: Vec<PathBuf>, error: String, hint: Option<String>) -> Self {
        Self {
            case,
            status: CaseStatus::Failed,
            files,
            series: Vec::new(),
            seconds: IndexMap::new(),
            volume_ml: IndexMap::new(),
            saved_probabilities: None,
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
    /// Reads `predict.json` of a folder, and the records of its parts (`predict_part1of2.json`) where cases were shared
    /// out. `None` where there is none.
    ///
    /// # Errors
    /// As [`Record::read_file`].
    pub fn read(folder: &Path) -> Result<Option<Self>, PlanError> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| {
                let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                name == "predict.json"
                    || name
                        .strip_prefix("predict_part")
                        .is_some_and(|rest| rest.split('.').nth(1) == Some("json"))
            })
            .collect();
        files.sort();
        let mut all: Option<Self> = None;
        for file in files {
            let one = Self::read_file(&file)?;
            match &mut all {
                None => all = Some(one),
                Some(all) => all.cases.extend(one.cases),
            }
        }
        Ok(all.map(|mut all| {
            all.cases.sort_by(|a, b| a.case.cmp(&b.case));
            all
        }))
    }

    /// Reads one record.
    ///
    /// # Errors
    /// [`PlanError`] if the file is not JSON, [`PlanError::Record`] if it holds something else.
    pub fn read_file(path: &Path) -> Result<Self, PlanError> {
        serde_json::from_value(read_json(path)?)
            .map_err(|e| PlanError::Record { path: path.to_owned(), reason: e.to_string() })
    }

    /// Adds a case in the place of an older entry of the same name.
    pub fn put(&mut self, case: CaseRecord) {
        match self.cases.binary_search_by(|c| c.case.cmp(&case.case)) {
            Ok(at) => self.cases[at] = case,
            Err(at) => self.cases.insert(at, case),
        }
    }

    /// Writes the record whole: to a temporary name, then renamed.
    ///
    /// # Errors
    /// [`FormatError::Io`] that names the file.
    ///
    /// # Panics
    /// Never: a record is plain data.
    pub fn write(&self, path: &Path) -> Result<(), FormatError> {
        let text = serde_json::to_vec_pretty(self).expect("plain data");
        atomic::write(path, |file| file.write_all(&text))
    }

    /// A case of the record.
    pub fn case(&self, name: &str) -> Option<&CaseRecord> {
        self.cases.iter().find(|c| c.case == name)
    }

    /// Whether a `CASE.npz` in the record's folder may be of this prediction: the case is done, and the record does not say
    /// that it was written without its probabilities.
    pub fn may_have_probabilities(&self, case: &str) -> bool {
        self.case(case).is_some_and(|c| c.status == CaseStatus::Done && c.saved_probabilities != Some(false))
    }

    /// Channel names of the first model, in its order.
    pub fn channels(&self) -> Vec<String> {
        self.models.first().map(|m| m.channels.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_diagnose::Diagnose as _;

    fn case(name: &str, status: CaseStatus) -> CaseRecord {
        CaseRecord { status, error: None, ..CaseRecord::failed(name.into(), vec![], String::new(), None) }
    }

    #[test]
    fn a_record_keeps_the_cases_of_earlier_runs_and_replaces_repeated_ones() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("predict.json");
        let mut record = Record { settings: Some(Settings::default()), ..Record::default() };
        record.put(case("b", CaseStatus::Failed));
        record.put(case("a", CaseStatus::Done));
        record.write(&path).expect("written");
        let mut again = Record::read_file(&path).expect("readable");
        assert_eq!(again, record);
        again.put(case("b", CaseStatus::Done));
        let found: Vec<_> = again.cases.iter().map(|c| (c.case.as_str(), c.status)).collect();
        assert_eq!(found, [("a", CaseStatus::Done), ("b", CaseStatus::Done)]);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1, "no temporary file is left");
        std::fs::write(&path, "{").expect("written");
        assert!(Record::read_file(&path).is_err());
    }

    #[test]
    fn records_of_parts_are_joined_and_unknown_fields_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Record::read(folder.path()).expect("no record is not an error"), None);
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writable");
        write("predict_part2of2.json", r#"{"cases": [{"case": "a", "status": "failed", "error": "no"}]}"#);
        write(
            "predict_part1of2.json",
            r#"{"version": "1", "models": [{"channels": ["t1", "t2"]}], "cases": [{"case": "b", "status": "done",
            "new": 1, "flags": [{"kind": "empty", "message": "nothing"}, {"kind": "too-new", "message": "?"}],
            "uncertainty": {"score": 0.5, "regions": [{"region": "WT", "labels": [1], "score": "NaN"}]}}]}"#,
        );
        let found = Record::read(folder.path()).expect("readable").expect("a record");
        assert_eq!(found.cases.iter().map(|c| c.case.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((found.channels(), found.settings.as_ref()), (vec!["t1".into(), "t2".into()], None));
        let b = found.case("b").expect("a case");
        let kinds: Vec<&FlagKind> = b.flags.iter().map(|f| &f.kind).collect();
        assert_eq!(kinds, [&FlagKind::Empty, &FlagKind::Other("too-new".into())]);
        let text = serde_json::to_string(&b.flags).expect("plain data");
        assert!(text.contains(r#""kind":"empty""#) && text.contains(r#""kind":"too-new""#), "{text}");
        assert!(b.uncertainty.as_ref().is_some_and(|u| u.regions[0].score.is_nan()));
        write("predict.json", r#"{"cases": [{"no": "name"}]}"#);
        let error = Record::read(folder.path()).expect_err("no record");
        assert!(error.to_string().contains("predict.json is not a record of predictions"), "{error}");
        assert!(error.hint().expect("a hint").contains("remove a predict.json of another program"));
    }
}
