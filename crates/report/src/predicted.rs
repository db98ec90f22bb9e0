//! What `glioseg predict` says of its cases: the parts of `predict.json` that scores and reports use.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ReportError;
use glioseg_metrics::number::float;

/// The record of an output folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// The models, as recorded.
    #[serde(default)]
    pub models: Vec<Value>,
    /// How they were applied, as recorded.
    #[serde(default)]
    pub settings: Value,
    /// The cases, by name.
    #[serde(default)]
    pub cases: Vec<PredictedCase>,
}

/// A case of the record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PredictedCase {
    /// Its name.
    pub case: String,
    /// `done` or `failed`.
    #[serde(default)]
    pub status: String,
    /// Its images, in the order of the first model's channels.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// Seconds for every step.
    #[serde(default)]
    pub seconds: IndexMap<String, f64>,
    /// What looked odd about the input.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What a person should look at.
    #[serde(default)]
    pub flags: Vec<Flag>,
    /// How sure the models were, where that was asked for.
    #[serde(default)]
    pub uncertainty: Option<CaseUncertainty>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// What can be done about it.
    #[serde(default)]
    pub hint: Option<String>,
}

/// A reason to look at a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// A word for the kind, such as `empty`.
    pub kind: String,
    /// In words.
    pub message: String,
}

/// How sure folds, models and mirrored passes were of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseUncertainty {
    /// Mean of the regions' scores: 0 sure, 1 not at all.
    #[serde(with = "float")]
    pub score: f64,
    /// Every region.
    pub regions: Vec<RegionUncertainty>,
    /// Map of entropy in bits with a channel per region, as seen from the record's folder.
    #[serde(default, skip_serializing)]
    pub entropy: Option<PathBuf>,
    /// Map of the standard deviation of all passes' probabilities, in the same form.
    #[serde(default, skip_serializing)]
    pub disagreement: Option<PathBuf>,
}

/// How sure they were of a region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionUncertainty {
    /// Its name.
    pub region: String,
    /// Its labels.
    pub labels: Vec<u16>,
    /// 1 minus the Dice that the mean probabilities promise.
    #[serde(with = "float")]
    pub score: f64,
}

impl Predicted {
    /// Reads `predict.json` of a folder, and the records of its parts (`predict_part1of2.json`) where cases were shared
    /// out. `None` where there is none.
    ///
    /// # Errors
    /// [`ReportError::Plan`] if a record is no JSON, [`ReportError::Record`] if it holds something else.
    pub fn read(folder: &Path) -> Result<Option<Self>, ReportError> {
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
            let value = glioseg_plan::read_json(&file)?;
            let one: Self = serde_json::from_value(value)
                .map_err(|e| ReportError::Record { path: file.clone(), reason: e.to_string() })?;
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

    /// A case of the record.
    pub fn case(&self, name: &str) -> Option<&PredictedCase> {
        self.cases.iter().find(|c| c.case == name)
    }

    /// Channel names of the first model, in its order.
    pub fn channels(&self) -> Vec<String> {
        let names = self.models.first().and_then(|m| m.get("channels")).and_then(Value::as_array);
        names.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_parts_are_joined_and_unknown_fields_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Predicted::read(folder.path()).expect("no record is no error"), None);
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writable");
        write("predict_part2of2.json", r#"{"cases": [{"case": "a", "status": "failed", "error": "no"}]}"#);
        write(
            "predict_part1of2.json",
            r#"{"version": "1", "models": [{"channels": ["t1", "t2"]}], "cases": [{"case": "b", "status": "done",
            "new": 1, "flags": [{"kind": "empty", "message": "nothing"}],
            "uncertainty": {"score": 0.5, "regions": [{"region": "WT", "labels": [1], "score": "NaN"}]}}]}"#,
        );
        let found = Predicted::read(folder.path()).expect("readable").expect("a record");
        assert_eq!(found.cases.iter().map(|c| c.case.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(found.channels(), ["t1", "t2"]);
        let b = found.case("b").expect("a case");
        assert_eq!(b.flags[0].kind, "empty");
        assert!(b.uncertainty.as_ref().is_some_and(|u| u.regions[0].score.is_nan()));
        write("predict.json", r#"{"cases": [{"no": "name"}]}"#);
        let error = Predicted::read(folder.path()).expect_err("no record");
        assert!(error.to_string().contains("predict.json is no record of predictions"), "{error}");
    }
}
