//! Inference: from a model and images to segmentations.

pub mod cases;
pub mod infer;
pub mod model;
mod v1;
