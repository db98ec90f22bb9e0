//! Inference, from a model and images to segmentations, and training, from prepared cases to a model.

pub mod cases;
pub mod convert;
pub mod crossval;
pub mod ensemble;
pub mod infer;
pub mod labels;
pub mod model;
pub mod postprocess;
pub mod recipe;
pub mod train;
mod v1;
