//! A case and its numbers.

use std::path::PathBuf;

use glioseg_metrics::rules::RuleScores;
use serde::{Deserialize, Serialize};

/// What became of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseStatus {
    /// Scored by every rule.
    Scored,
    /// There is no prediction; rules that punish this have their worst scores.
    Missing,
    /// A file cannot be scored; the case counts for nothing.
    Failed,
}

/// A case and its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseScores {
    /// Its name.
    pub case: String,
    /// What became of it.
    pub status: CaseStatus,
    /// The reference.
    pub reference: PathBuf,
    /// The prediction, where there is one.
    pub prediction: Option<PathBuf>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What is odd about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Numbers, rule by rule.
    pub scores: Vec<RuleScores>,
}
