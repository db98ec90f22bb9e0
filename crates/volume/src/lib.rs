//! Images in memory and on disk: volumes, geometry, NIfTI, resampling, labels.
//!
//! Arrays are `[c, z, y, x]`, which is the order of a NIfTI file in memory; `spacing[a]` belongs to axis `a`. Only
//! [`Affine`] and what ITK reports (origin, direction) speak in `x, y, z`, and say so.

mod affine;
pub mod atomic;
pub mod components;
pub mod crop;
pub mod distance;
mod error;
mod geometry;
mod labels;
pub mod nifti;
pub mod phantom;
pub mod resample;
#[doc(hidden)]
pub mod testing;
mod volume;

pub use affine::Affine;
pub use error::VolumeError;
pub use geometry::{Geometry, GridComparison};
pub use volume::{LabelMap, Volume};
