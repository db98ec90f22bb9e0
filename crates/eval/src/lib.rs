//! Scores of a segmentation against a reference.
//!
//! A [`Rule`] is a set of metrics with its own treatment of empty and missing masks; numbers of different rules are
//! never comparable, so every number travels with its rule's name. [`Pair`] joins two label maps once, and every rule
//! scores it.

pub mod assignment;
mod error;
pub mod labels;
mod number;
mod pair;
pub mod rules;
mod surface;
mod surfel;

pub use error::EvalError;
pub use labels::{Class, Convention, LabelScheme, Region};
pub use number::{Number, Values};
pub use pair::{Counts, Masks, Pair};
pub use rules::{Lesion, RegionScores, Rule, RuleScores, ScoreOptions};
pub use surface::{SurfaceDistances, border};
pub use surfel::Surfels;
