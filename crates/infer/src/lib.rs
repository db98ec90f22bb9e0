//! From a trained model and the images of a case to its segmentation, and what is done to segmentations and saved
//! probabilities afterwards.
//!
//! The semantics are nnU-Net v2's: prepare the case as in training, predict overlapping tiles with every fold and every mirroring, average
//! the logits, bring them back to the image's grid, and only then decide; sums in half precision, as nnU-Net's are. Memory is
//! bounded: running sums serve all tiles and folds, the decision is taken slab by slab while resampling, and several models share one running sum of probabilities.
//!
//! # In memory
//! A [`Predictor`] holds models with their weights and knows no files. [`Predictor::predict`] takes a case to its segmentation; the
//! three steps that it consists of can be called one by one, for example on threads of their own:
//!
//! | step | from | to | where |
//! | --- | --- | --- | --- |
//! | [`Predictor::prepare`] | [`CaseImages`] | [`Prepared`], what the networks read | CPU |
//! | [`Predictor::infer`] | [`Prepared`] | [`Inferred`], what they answered | device; a [`Watch`] sees every pass and may stop it |
//! | [`Predictor::finish`] | [`Inferred`] | [`Prediction`], on the grid of the image | CPU |
//!
//! ```
//! use glioseg_infer::{CaseImages, PredictOptions, Predictor, Watch};
//! use glioseg_volume::phantom::{PhantomOptions, phantom};
//!
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/phantom-model");
//! let options = PredictOptions { mirroring: false, ..PredictOptions::default() };
//! let predictor = Predictor::open(&[model.into()], options)?;
//! let head = PhantomOptions { shape: [44, 42, 40], spacing_mm: [4.0; 3], ..PhantomOptions::default() };
//! let case = CaseImages::new("a phantom", phantom(&head)?.channels);
//! let prediction = predictor.predict(case, &Watch::default())?;
//! assert_eq!(prediction.labels.shape(), [44, 42, 40]);
//! assert!(prediction.record.volume_ml["whole tumor"] > 0.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Folders
//! [`predict`] and [`batch`] take the cases of folders through the same three steps, on three threads, and write label maps and
//! `predict.json`.

mod batch;
mod case;
pub mod cases;
mod choice;
pub mod convert;
pub mod dicom;
pub mod ensemble;
mod error;
mod export;
mod flags;
mod folder;
mod folds;
mod gaussian;
pub mod model;
mod networks;
pub mod output;
pub mod postprocess;
mod predictor;
mod previous;
pub mod probabilities;
pub mod recipe;
mod tiles;
mod trainers;
mod uncertainty;
mod v1;
mod watch;
mod window;

pub use batch::{Batch, Event, Observer, Part, PredictSummary, batch, predict};
pub use case::{CaseImages, Inferred, Origin, Prediction, Prepared};
pub use choice::PostprocessingChoice;
pub use error::InferError;
pub use export::{Decision, Probabilities, Segmentation};
pub use gaussian::gaussian_weights;
pub use networks::Networks;
pub use predictor::{PredictOptions, Predictor};
pub use previous::previous_model;
pub use tiles::{Grid, tile_starts};
pub use uncertainty::UncertaintyMaps;
pub use watch::Watch;
pub use window::{Accumulation, Image, LogitSum, Pass, WindowOptions, mirror_combinations};
