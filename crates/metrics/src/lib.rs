//! Scores of a segmentation against a reference.
//!
//! A [`Rule`] is a set of metrics with its own treatment of empty and missing masks; numbers of different rules are
//! never comparable, so every number travels with its rule's name. [`Pair`] joins two label maps once, and every rule
//! scores it. What a number is (its name for people, its unit, whether more of it is better) is data: [`Metric`].

pub mod assignment;
pub mod calibration;
mod error;
pub mod labels;
mod metric;
pub mod number;
pub mod pair;
pub mod rules;
pub mod significance;
pub mod statistics;
pub mod summary;
pub mod surface;
pub mod surfel;

pub use calibration::{Calibration, CalibrationScores, RegionCalibration};
pub use error::MetricsError;
pub use labels::{Class, LabelScheme, Region};
pub use metric::{Better, Metric, Unit};
pub use number::{Number, Values};
pub use pair::{Counts, Masks, Pair};
pub use rules::{Lesion, RegionScores, Rule, RuleScores, ScoreOptions};
pub use summary::{NnUnetCase, NnUnetSummary};
pub use surface::{SurfaceDistances, border};
pub use surfel::Surfels;
