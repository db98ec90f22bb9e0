//! Python's pickles, read and written as plain data.

mod foreign;
mod globals;
mod read;
mod write;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use glioseg_diagnose::{Expected, ForeignFile};

use crate::error::{InteropError, PickleError};
use crate::value::Value;
pub use read::read_pickle;
pub(crate) use read::read_with_storages;
pub use write::write_pickle;

/// A pickle that is a file of its own (`plans.pkl`, `*.model.pkl`).
///
/// # Errors
/// [`InteropError::Io`] or [`InteropError::Pickle`].
pub fn read_pickle_file(path: &Path) -> Result<Value, InteropError> {
    let io = |source| InteropError::Io { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let foreign = |source: PickleError| match ForeignFile::at(path, Expected::Pickle) {
        Some(foreign) => InteropError::Foreign(foreign),
        None => InteropError::Pickle { path: path.to_owned(), source },
    };
    read_pickle(&mut reader).map_err(|source| match source {
        PickleError::Io(source) => InteropError::Io { path: path.to_owned(), source },
        // Protocol 0 has no mark of its own: it is asked for only where nothing was read.
        source @ (PickleError::Malformed { .. } | PickleError::Truncated { .. }) => foreign(source),
        source => InteropError::Pickle { path: path.to_owned(), source },
    })
}
