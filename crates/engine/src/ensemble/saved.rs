//! `CASE.npz`: probabilities as either version of nnU-Net saves them, read piece by piece.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use npyz::{DType, NpyHeader, Order};
use zip::ZipArchive;
use zip::read::ZipFile;

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
    pub(crate) const fn array(self) -> &'static str {
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

/// An open npz.
pub(crate) struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
}

impl Archive {
    pub(crate) fn open(path: &Path) -> Result<Self, EnsembleError> {
        let file = File::open(path).map_err(|source| EnsembleError::Read { path: path.into(), source })?;
        let zip = ZipArchive::new(BufReader::new(file))
            .map_err(|e| EnsembleError::format(path, format!("it is no npz: {e}")))?;
        Ok(Self { path: path.into(), zip })
    }

    /// The array of probabilities, of whichever version.
    pub(crate) fn array(&mut self) -> Result<Array<'_>, EnsembleError> {
        let names: Vec<String> =
            self.zip.file_names().filter_map(|n| n.ok().map(std::borrow::Cow::into_owned)).collect();
        let found = [Version::V2, Version::V1].into_iter().find_map(|version| {
            let name = format!("{}.npy", version.array());
            names.contains(&name).then_some((version, name))
        });
        let Some((version, name)) = found else {
            let reason = format!("it has no array `probabilities` or `softmax`, but {}", names.join(", "));
            return Err(EnsembleError::format(&self.path, reason));
        };
        let wrong = |reason: String| EnsembleError::format(&self.path, reason);
        let mut entry = self.zip.by_name(&name).map_err(|e| wrong(format!("`{name}`: {e}")))?;
        let header = NpyHeader::from_reader(&mut entry).map_err(|e| wrong(format!("`{name}`: {e}")))?;
        let kind = match header.dtype() {
            DType::Plain(t) if t.to_string() == "<f4" => Kind::Single,
            DType::Plain(t) if t.to_string() == "<f2" => Kind::Half,
            other => return Err(wrong(format!("`{name}` has type {}, not f4 or f2", other.descr()))),
        };
        let shape: Option<Vec<usize>> = header.shape().iter().map(|&n| usize::try_from(n).ok()).collect();
        let shape = shape.and_then(|s| <[usize; 4]>::try_from(s).ok()).filter(|s| !s.contains(&0));
        let values = shape.and_then(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d)));
        let (Some(shape), Some(_)) = (shape, values) else {
            return Err(wrong(format!("`{name}` has shape {:?}, not [output, z, y, x]", header.shape())));
        };
        if header.order() != Order::C {
            return Err(wrong(format!("`{name}` is in Fortran's order")));
        }
        Ok(Array { path: &self.path, version, shape, kind, entry, bytes: Vec::new() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Half,
}

/// The array of an npz; values are read in order.
pub(crate) struct Array<'a> {
    pub(crate) path: &'a Path,
    pub(crate) version: Version,
    /// `[output, z, y, x]`.
    pub(crate) shape: [usize; 4],
    kind: Kind,
    entry: ZipFile<'a, BufReader<File>>,
    bytes: Vec<u8>,
}

impl Array<'_> {
    /// Voxels of one output.
    pub(crate) fn voxels(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Fills `out` with the next values.
    pub(crate) fn next(&mut self, out: &mut [f32]) -> Result<(), EnsembleError> {
        let size = match self.kind {
            Kind::Single => 4,
            Kind::Half => 2,
        };
        self.bytes.resize(out.len() * size, 0);
        self.entry
            .read_exact(&mut self.bytes)
            .map_err(|e| EnsembleError::format(self.path, format!("the array ends early: {e}")))?;
        match self.kind {
            Kind::Single => {
                let (values, _) = self.bytes.as_chunks::<4>();
                out.iter_mut().zip(values).for_each(|(o, &b)| *o = f32::from_le_bytes(b));
            }
            Kind::Half => {
                let (values, _) = self.bytes.as_chunks::<2>();
                let halves: Vec<f16> = values.iter().map(|&b| f16::from_le_bytes(b)).collect();
                halves.convert_to_f32_slice(out);
            }
        }
        let count = out.iter().filter(|v| !v.is_finite()).count();
        if count > 0 {
            return Err(EnsembleError::NotFinite { path: self.path.into(), count });
        }
        Ok(())
    }
}
