//! From a trained model and the files of a case to its segmentation.
//!
//! The semantics are nnU-Net v2's: prepare the case as in training, predict overlapping tiles with every fold and every mirroring, average
//! the logits, bring them back to the image's grid, and only then decide; sums in half precision, as nnU-Net's are. Memory is
//! bounded: running sums serve all tiles and folds, the decision is taken slab by slab while resampling, and several models share one running sum of probabilities.

mod error;
mod export;
mod finish;
mod flags;
mod gaussian;
mod networks;
pub(crate) mod output;
mod predict;
mod reading;
mod record;
mod tiles;
mod uncertainty;
mod window;

pub use error::InferError;
pub use export::{Decision, Probabilities, Segmentation};
pub(crate) use export::{Logits, ProbabilitySum};
pub use finish::PostprocessingChoice;
pub use flags::{Flag, FlagKind};
pub use gaussian::gaussian_weights;
pub(crate) use networks::forward;
pub use predict::{Event, Part, PredictOptions, PredictSummary, predict};
pub use record::{CaseRecord, CaseStatus, ModelRecord, Record, Settings};
pub use tiles::{Grid, tile_starts};
pub use uncertainty::{CaseUncertainty, RegionUncertainty};
pub use window::{Accumulation, Image, LogitSum, WindowOptions, mirror_combinations};
