//! `CASE.npz`: probabilities as either version of nnU-Net saves them, read piece by piece.

use std::path::Path;

use glioseg_formats::{FormatError, npz};

use super::EnsembleError;

/// Which program's conventions the array follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `probabilities`, `f32`, on the whole image.
    V2,
    /// `softmax`, `f16`, inside the cropped box.
    V1,
}

impl Version {
    /// Name of the array in the npz.
    pub const fn array(self) -> &'static str {
        match self {
            Self::V2 => "probabilities",
            Self::V1 => "softmax",
        }
    }

    /// `v1` or `v2`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
        }
    }
}

fn unreadable(error: FormatError) -> EnsembleError {
    match error {
        FormatError::Io { path, source, .. } => EnsembleError::Read { path, source },
        FormatError::Npz { path, reason } => EnsembleError::Format { path, reason },
        other => other.into(),
    }
}

/// An open file of probabilities.
#[derive(Debug)]
pub struct Archive(npz::Archive);

impl Archive {
    /// Opens `CASE.npz`.
    ///
    /// # Errors
    /// [`EnsembleError::Read`] or [`EnsembleError::Format`] that names the file.
    pub fn open(path: &Path) -> Result<Self, EnsembleError> {
        npz::Archive::open(path).map(Self).map_err(unreadable)
    }

    /// The array of probabilities, of whichever version.
    ///
    /// # Errors
    /// [`EnsembleError::Format`] if there is none, or not `[output, z, y, x]`.
    pub fn array(&mut self) -> Result<Array<'_>, EnsembleError> {
        let names = self.0.file_names();
        let version = [Version::V2, Version::V1]
            .into_iter()
            .find(|version| names.contains(&format!("{}.npy", version.array())));
        let Some(version) = version else {
            let reason = format!("it has no array `probabilities` or `softmax`, but {}", names.join(", "));
            return Err(EnsembleError::format(self.0.path(), reason));
        };
        let values = self.0.array(version.array()).map_err(unreadable)?;
        let Ok(shape) = <[usize; 4]>::try_from(values.shape()) else {
            let reason =
                format!("`{}.npy` has shape {:?}, not [output, z, y, x]", version.array(), values.shape());
            return Err(EnsembleError::format(values.path(), reason));
        };
        Ok(Array { version, shape, values })
    }
}

/// The array of an npz; values are read in order.
#[derive(Debug)]
pub struct Array<'a> {
    /// Whose conventions it follows.
    pub version: Version,
    /// `[output, z, y, x]`.
    pub shape: [usize; 4],
    values: npz::Array<'a>,
}

impl<'a> Array<'a> {
    /// The file.
    pub fn path(&self) -> &'a Path {
        self.values.path()
    }

    /// Voxels of one output.
    pub fn voxels(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Fills `out` with the next values.
    ///
    /// # Errors
    /// [`EnsembleError::Format`] if the array ends before, [`EnsembleError::NotFinite`] if a value is NaN or infinite.
    pub fn next(&mut self, out: &mut [f32]) -> Result<(), EnsembleError> {
        self.values.read(out).map_err(unreadable)?;
        let count = out.iter().filter(|v| !v.is_finite()).count();
        if count > 0 {
            return Err(EnsembleError::NotFinite { path: self.path().into(), count });
        }
        Ok(())
    }
}
