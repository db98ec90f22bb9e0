//! Crop, normalise and resample a case as its plan says.
//!
//! [`preprocess_case`] is nnU-Net v2's preprocessing of a case without ground truth: transpose, crop to the non-zero
//! region, normalise, resample, in that order. It consumes the image, cropping and normalising inside its array, so a
//! case is held once, and twice only while it is resampled. [`CaseProperties`] remembers what was done, and
//! its [`Trail`] leads a prediction back to the grid of the image.

pub mod augment;
mod case;
mod class_locations;
mod error;
pub mod guard;
mod normalize;
mod resampling;
pub mod store;
mod torch_labels;
mod trail;
mod training_case;

pub use case::{
    CaseProperties, Image, PreparedCase, append_one_hot, preprocess_case, preprocess_later_stage,
};
pub use class_locations::{ClassLocations, class_locations};
pub use error::PrepError;
pub use resampling::resample_options;
pub use trail::{Boxed, Trail, Undo};
pub use training_case::{TrainingCase, preprocess_training_case};
