//! DICOM objects of results.

mod elements;
pub mod seg;

pub use elements::{Code, Stamp};
