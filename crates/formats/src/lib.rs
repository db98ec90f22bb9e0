//! Images and arrays on disk: NIfTI, npz, and files that appear whole or not at all.
//!
//! What is read becomes a [`Volume`](glioseg_volume::Volume) or a [`LabelMap`](glioseg_volume::LabelMap); every error names
//! its file.

pub mod atomic;
mod error;
pub mod label_array;
pub mod nifti;
pub mod npz;

pub use error::FormatError;
