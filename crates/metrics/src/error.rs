//! Why something could not be scored.

use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;
use glioseg_formats::FormatError;
use glioseg_plan::PlanError;

/// Why scoring was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// A file could not be written.
    #[error(transparent)]
    Volume(Box<FormatError>),
    /// A `summary.json` could not be read.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// A file with labels that the scheme does not know.
    #[error(
        "{} holds {}, but the labels of {scheme} are {}",
        path.display(), label_list(unknown), numbers(known)
    )]
    UnknownLabels {
        /// The file.
        path: PathBuf,
        /// The strange labels.
        unknown: Box<[u16]>,
        /// Which labels were expected, and of what.
        scheme: String,
        /// The labels that are known.
        known: Box<[u16]>,
        /// The convention that the file seems to follow.
        guess: Option<String>,
    },
    /// A rule of a name that does not exist.
    #[error("unknown rule `{name}`; rules: {}", known.join(", "))]
    UnknownRule {
        /// The name.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A probability that is none.
    #[error("probability {index} is {value}, not a number from 0 to 1")]
    Probability {
        /// Its place in the array.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// Arrays that must have the same length.
    #[error("{first_name} has {first} values, {second_name} has {second}")]
    Length {
        /// What the first array is.
        first_name: &'static str,
        /// Its length.
        first: usize,
        /// What the second array is.
        second_name: &'static str,
        /// Its length.
        second: usize,
    },
    /// A `summary.json` that cannot be used.
    #[error("{} holds no scores: {reason}", path.display())]
    Scores {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl From<FormatError> for MetricsError {
    fn from(error: FormatError) -> Self {
        Self::Volume(Box::new(error))
    }
}

impl From<PlanError> for MetricsError {
    fn from(error: PlanError) -> Self {
        Self::Plan(Box::new(error))
    }
}

fn numbers(labels: &[u16]) -> String {
    labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn label_list(labels: &[u16]) -> String {
    let shown = numbers(&labels[..labels.len().min(8)]);
    let more = if labels.len() > 8 { format!(" and {} more", labels.len() - 8) } else { String::new() };
    format!("the label{} {shown}{more}", if labels.len() == 1 { "" } else { "s" })
}

impl Diagnose for MetricsError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Volume(error) => return error.hint(),
            Self::Plan(error) => return error.hint(),
            Self::UnknownLabels { guess: Some(guess), .. } => {
                format!("the file looks like {guess}; say so with --labels (references) or --pred-labels (predictions)")
            }
            Self::UnknownLabels { guess: None, .. } => {
                "give the dataset.json that describes these labels with --dataset, or name their convention with --labels"
                    .to_owned()
            }
            Self::UnknownRule { .. } => "name rules of that list, separated by commas, or `all`".to_owned(),
            Self::Scores { .. } => {
                "give a folder that `glioseg evaluate` wrote, its scores.json, or a summary.json of nnU-Net".to_owned()
            }
            Self::Probability { .. } | Self::Length { .. } => return None,
        };
        Some(text)
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::UnknownLabels { path, .. } | Self::Scores { path, .. } => Some(path),
            _ => None,
        }
    }
}
