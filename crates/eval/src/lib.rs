//! Scores of a segmentation against a reference.
//!
//! A [`Rule`] is a set of metrics with its own treatment of empty and missing masks; numbers of different rules are
//! never comparable, so every number travels with its rule's name. [`Pair`] joins two label maps once, and every rule
//! scores it.

pub mod assignment;
pub mod calibration;
pub mod cohort;
mod compare;
mod error;
pub mod labels;
mod number;
mod pair;
mod predicted;
mod rank;
pub mod report;
pub mod rules;
mod run;
pub mod significance;
pub mod statistics;
mod summary;
mod surface;
mod surfel;
mod tables;
mod uncertainty;

pub use calibration::{Calibration, CalibrationScores, RegionCalibration};
pub use cohort::{
    CaseScores, CaseStatus, CohortScores, EvaluateOptions, LabelSource, MetricName, evaluate_cohort,
};
pub use compare::{ComparedCase, ComparedMetric, Comparison, compare};
pub use error::EvalError;
pub use labels::{Class, Convention, LabelScheme, Region};
pub use number::{Number, Values};
pub use pair::{Counts, Masks, Pair};
pub use predicted::{CaseUncertainty, Flag, Predicted, PredictedCase, RegionUncertainty};
pub use rank::{PairTest, Place, RankOptions, Ranking, rank};
pub use rules::{Lesion, RegionScores, Rule, RuleScores, ScoreOptions};
pub use run::Run;
pub use summary::{NnUnetCase, NnUnetSummary};
pub use surface::{SurfaceDistances, border};
pub use surfel::Surfels;
pub use uncertainty::{RegionPrediction, UncertaintyScores};
