//! `preprocess.json`: what was done to which study.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use glioseg_align::{AlignError, Transform};
use glioseg_formats::{FormatError, atomic};
use glioseg_plan::read_json;
use glioseg_plan::record::CaseStatus;
use serde::{Deserialize, Serialize};

use super::error::PreprocessError;

/// Name of the record in the output folder.
pub const RECORD: &str = "preprocess.json";

/// How studies were prepared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreprocessSettings {
    /// The space: `sri24`, `mni152` or `native`.
    pub space: String,
    /// The template: a file, or the name of the built-in one.
    pub template: Option<String>,
    /// Where the brain came from: `none`, or a mask's or a model's path.
    pub brain: String,
    /// How values between voxels were made.
    pub interpolation: String,
    /// Whose names files have.
    pub names: String,
    /// The centre channel that was asked for.
    pub center: Option<String>,
}

/// The whole record of an output folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreprocessRecord {
    /// `glioseg`.
    pub program: String,
    /// Version of the program.
    pub version: String,
    /// What the result may be used for.
    pub notice: String,
    /// How studies were prepared.
    pub settings: PreprocessSettings,
    /// One entry per study, sorted by name.
    pub cases: Vec<StudyRecord>,
}

/// One study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyRecord {
    /// Its name.
    pub case: String,
    /// What became of it.
    pub status: CaseStatus,
    /// The channel that the others were registered to.
    #[serde(default)]
    pub center: String,
    /// True if it was in the space already; then nothing was moved.
    #[serde(default)]
    pub unchanged: bool,
    /// Its channels.
    #[serde(default)]
    pub channels: Vec<ChannelRecord>,
    /// Volume of the brain mask in mL, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brain_ml: Option<f64>,
    /// What was checked.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// What looked odd about the input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Seconds for all of it.
    #[serde(default)]
    pub seconds: f64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// One channel of a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelRecord {
    /// Its name: `t1n`, `t1c`, `t2w` or `t2f`.
    pub channel: String,
    /// The file that was read.
    pub file: PathBuf,
    /// SHA-256 of that file.
    pub sha256: String,
    /// The file that was written, as seen from the record's folder.
    pub output: PathBuf,
    /// 4 x 4, point of the output to point of the file that was read, L, P, S in mm.
    pub transform: [[f64; 4]; 4],
    /// Mutual information with the centre channel, for that one with the template: by the headers alone, and after registration.
    /// Both are missing where nothing was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub information: Option<[f64; 2]>,
    /// How often it was computed.
    #[serde(default)]
    pub evaluations: usize,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth a look.
    Warn,
    /// Wrong in all likelihood: an error with `--strict`.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// What was measured, in the unit that the message names.
    pub value: f64,
    /// How it ended.
    pub verdict: Verdict,
    /// In words.
    pub message: String,
}

impl PreprocessRecord {
    /// Reads a record.
    ///
    /// # Errors
    /// [`PreprocessError::Plan`] for a file that is not JSON, [`PreprocessError::Record`] for another one.
    pub fn read(path: &Path) -> Result<Self, PreprocessError> {
        let value = read_json(path).map_err(Box::new)?;
        serde_json::from_value(value)
            .map_err(|e| PreprocessError::Record { path: path.to_owned(), reason: e.to_string() })
    }

    /// Adds a study, in the place of an earlier record of it.
    pub(super) fn put(&mut self, study: StudyRecord) {
        match self.cases.binary_search_by(|c| c.case.cmp(&study.case)) {
            Ok(at) => self.cases[at] = study,
            Err(at) => self.cases.insert(at, study),
        }
    }

    /// Writes the record.
    ///
    /// # Errors
    /// [`FormatError::Io`].
    pub(super) fn write(&self, path: &Path) -> Result<(), FormatError> {
        atomic::write(path, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })
    }
}

impl StudyRecord {
    /// A study that is not prepared.
    pub(super) fn failed(case: &str, error: String, hint: Option<String>) -> Self {
        Self {
            case: case.to_owned(),
            status: CaseStatus::Failed,
            center: String::new(),
            unchanged: false,
            channels: Vec::new(),
            brain_ml: None,
            checks: Vec::new(),
            warnings: Vec::new(),
            seconds: 0.0,
            error: Some(error),
            hint,
        }
    }
}

impl ChannelRecord {
    /// From a point of the output to that of the file that was read.
    ///
    /// # Errors
    /// [`AlignError::Singular`] if the record was changed into one that has no inverse.
    pub fn transform(&self) -> Result<Transform, AlignError> {
        let [x, y, z, _] = self.transform;
        Transform::new([x, y, z])
    }
}

/// All four rows.
pub(super) fn four_rows(transform: &Transform) -> [[f64; 4]; 4] {
    let [x, y, z] = transform.rows();
    [x, y, z, [0.0, 0.0, 0.0, 1.0]]
}
