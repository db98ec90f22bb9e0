//! Cohorts: folders of predictions scored, ranked, compared, written as tables, and shown on one page.

pub mod cohort;
mod compare;
mod error;
pub mod page;
mod rank;
mod run;
mod tables;
mod uncertainty;

pub use cohort::{
    CaseScores, CaseStatus, CohortScores, EvaluateOptions, LabelSource, MetricName, evaluate_cohort,
};
pub use compare::{ComparedCase, ComparedMetric, Comparison, compare};
pub use error::ReportError;
pub use rank::{PairTest, RankOptions, Ranked, Ranking, rank};
pub use run::Run;
pub use uncertainty::{RegionPrediction, UncertaintyScores};
