//! Inference, from a model and images to segmentations, and training, from prepared cases to a model.

/// Other modules' errors are large: [`From`] that boxes them into the variants of one of ours.
macro_rules! boxed_from {
    ($target:ty: $($variant:ident($error:ty)),* $(,)?) => {
        $(impl From<$error> for $target {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error))
            }
        })*
    };
}

pub mod calibration;
pub mod cases;
pub mod convert;
pub mod crossval;
pub mod ensemble;
pub mod infer;
pub mod model;
pub mod output;
pub mod postprocess;
pub mod recipe;
pub mod train;
mod v1;
