//! Preprocessed cases on disk, one file per case, from which a patch is read without loading the case.
//!
//! [`prepare_dataset`] writes the files, [`StoredCase`] reads them. The format is our own and simple ([`format`] says
//! it byte by byte): uncompressed, so that any box can be read in place. Boxes are read with positioned reads rather
//! than through a memory map: mapping a file is unsafe in Rust (another program may cut it short), a failed read is an
//! error that names the file, and the system's page cache serves both alike. Files are opened again for every box, so
//! thousands of cases need no open file each.

mod cases;
mod error;
mod format;
mod prepare;
mod read;

pub use cases::StoredCases;
pub use error::StoreError;
pub use format::{EXTENSION, StoredProperties};
pub use prepare::{CaseDone, CaseOutcome, PrepareOptions, PrepareSummary, case_path, prepare_dataset};
pub use read::{PatchBox, StoredCase, stored_cases};
