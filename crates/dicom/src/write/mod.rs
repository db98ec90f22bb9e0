//! DICOM objects of results.

mod contour;
mod elements;
pub mod rtstruct;
pub mod seg;

pub use elements::{Code, SegOptions, Stamp};
