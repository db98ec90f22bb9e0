//! Inference: from a model and images to segmentations.

pub mod cases;
pub mod convert;
pub mod ensemble;
pub mod infer;
pub mod labels;
pub mod model;
pub mod postprocess;
pub mod recipe;
mod v1;
