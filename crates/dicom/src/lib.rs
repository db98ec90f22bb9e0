//! DICOM: images of magnetic resonance as hospitals and archives keep them.
//!
//! A study is a folder of files, a file usually one slice. [`Studies::read_all`] looks at the headers of all files of a folder and sorts
//! them into studies, series and [`Stack`]s, which are volumes; [`Stack::read`] reads the pixels of one. What is not a
//! volume, or would be a wrong one, is an error that names file, finding and remedy: missing slices, two slices at one place,
//! sheared slices, several volumes in one series. No distance is ever taken from anything but the positions of the slices.
//!
//! Files are looked over before a library parses them: lengths must fit, sequences may not be nested without end. Nothing in
//! a file is followed or run.
//!
//! # Source
//! DICOM PS3.3 (image plane, functional groups), PS3.5 (coding), PS3.10 (files).

mod choice;
mod error;
mod file;
mod grid;
mod guard;
mod jpegls;
mod pixels;
pub mod role;
mod stack;
mod study;
pub mod write;

pub use choice::{Listed, NamedSeries, NamedSeriesError};
pub use error::DicomError;
pub use file::Facts;
pub use grid::{OneGrid, one_grid};
pub use stack::Stack;
pub use study::{LeftOut, Series, Studies, Study};
