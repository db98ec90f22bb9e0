//! Images in memory and on disk: volumes, geometry, NIfTI, resampling, labels.

#[doc(hidden)]
pub mod testing;
