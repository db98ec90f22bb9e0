//! Images in memory: volumes, label maps, geometry, resampling, components, distances.
//!
//! Nothing here knows a file. Arrays are `[c, z, y, x]`, the order of a NIfTI file; `spacing[a]` belongs to axis `a`. Only
//! [`Affine`] and what ITK reports (origin, direction) speak in `x, y, z`, and say so.

mod affine;
pub mod components;
pub mod crop;
pub mod distance;
mod error;
mod geometry;
mod labels;
mod memory;
mod orientation;
pub mod phantom;
pub mod resample;
#[doc(hidden)]
pub mod testing;
mod volume;

pub use affine::Affine;
pub use error::{NotFinite, VolumeError};
pub use geometry::{Geometry, GridComparison, HeaderForms};
pub use memory::try_zeroed;
pub use orientation::{Turn, TurnRule};
pub use volume::{LabelMap, Volume};
