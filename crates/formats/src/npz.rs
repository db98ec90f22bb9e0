//! Arrays of numpy in a zip archive (`.npz`), written and read piece by piece: no array is ever in memory as a whole.
//!
//! Only what probabilities are saved as: half and single precision, C order.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use glioseg_diagnose::{Expected, ForeignFile};
use half::f16;
use half::slice::HalfFloatSliceExt as _;
use npyz::{DType, NpyHeader, Order, WriterBuilder as _};
use zip::ZipArchive;
use zip::read::ZipFile;

use crate::{FormatError, atomic};

/// A type of values that can be written.
pub trait Element: Copy + npyz::Serialize + npyz::AutoSerialize {}

impl Element for f32 {}
impl Element for f16 {}

/// Writes a compressed npz with the one array `name`, whose values `fill` pushes in C order, as many at a time as it likes.
///
/// # Errors
/// [`FormatError::Io`] with the path; also if `fill` gives an error, or pushes more or fewer values than the shape has. No
/// unfinished file is left.
pub fn write<T: Element>(
    path: &Path,
    name: &str,
    shape: &[usize],
    fill: impl FnOnce(&mut dyn FnMut(&[T]) -> io::Result<()>) -> io::Result<()>,
) -> Result<(), FormatError> {
    atomic::write(path, |file| {
        let mut zip = zip::ZipWriter::new(file);
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .compression_level(Some(1))
            .large_file(true);
        zip.start_file(format!("{name}.npy"), options)?;
        let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        let mut array = npyz::WriteOptions::<T>::new()
            .default_dtype()
            .shape(&shape)
            .writer(BufWriter::new(&mut zip))
            .begin_nd()?;
        fill(&mut |values| array.extend(values.iter().copied()))?;
        array.finish()?;
        zip.finish()?.flush()
    })
}

/// An open npz.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
}

impl Archive {
    /// Opens a file.
    ///
    /// # Errors
    /// [`FormatError::Io`]; [`FormatError::Npz`] if it is not a zip archive or cut off.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let file = File::open(path).map_err(|source| FormatError::io(path, "read", source))?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|e| {
            if let Some(foreign) = ForeignFile::at(path, Expected::Npz) {
                return FormatError::Foreign(foreign);
            }
            FormatError::Npz { path: path.to_owned(), reason: format!("it is not an npz: {e}") }
        })?;
        Ok(Self { path: path.to_owned(), zip })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the files in it: `NAME.npy` for the array `NAME`.
    pub fn file_names(&self) -> Vec<String> {
        self.zip.file_names().filter_map(|n| n.ok().map(Cow::into_owned)).collect()
    }

    /// Opens the array `name`.
    ///
    /// # Errors
    /// [`FormatError::Npz`] if there is none, or if it is neither f4 nor f2, empty, or in Fortran's order.
    pub fn array(&mut self, name: &str) -> Result<Array<'_>, FormatError> {
        let name = format!("{name}.npy");
        let wrong = |reason: String| FormatError::Npz { path: self.path.clone(), reason };
        let mut entry = self.zip.by_name(&name).map_err(|e| wrong(format!("`{name}`: {e}")))?;
        let header = NpyHeader::from_reader(&mut entry).map_err(|e| wrong(format!("`{name}`: {e}")))?;
        let precision = match header.dtype() {
            DType::Plain(t) if t.to_string() == "<f4" => Precision::Single,
            DType::Plain(t) if t.to_string() == "<f2" => Precision::Half,
            other => return Err(wrong(format!("`{name}` has type {}, not f4 or f2", other.descr()))),
        };
        let shape: Option<Vec<usize>> = header.shape().iter().map(|&n| usize::try_from(n).ok()).collect();
        let values = shape.as_ref().and_then(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d)));
        let (Some(shape), Some(1..)) = (shape, values) else {
            return Err(wrong(format!("`{name}` has shape {:?}", header.shape())));
        };
        if header.order() != Order::C {
            return Err(wrong(format!("`{name}` is in Fortran's order")));
        }
        Ok(Array { path: &self.path, shape, precision, entry, bytes: Vec::new() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Precision {
    Single,
    Half,
}

/// An array of an npz; values are read in C order.
pub struct Array<'a> {
    path: &'a Path,
    shape: Vec<usize>,
    precision: Precision,
    entry: ZipFile<'a, BufReader<File>>,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, shape, precision, .. } = self;
        f.debug_struct("Array")
            .field("path", path)
            .field("shape", shape)
            .field("precision", precision)
            .finish_non_exhaustive()
    }
}

impl<'a> Array<'a> {
    /// The file.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// Length of every axis; none is 0.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Fills `out` with the next values.
    ///
    /// # Errors
    /// [`FormatError::Npz`] if the array ends before.
    pub fn read(&mut self, out: &mut [f32]) -> Result<(), FormatError> {
        let size = match self.precision {
            Precision::Single => 4,
            Precision::Half => 2,
        };
        self.bytes.resize(out.len() * size, 0);
        self.entry.read_exact(&mut self.bytes).map_err(|e| FormatError::Npz {
            path: self.path.to_owned(),
            reason: format!("the array ends early: {e}"),
        })?;
        match self.precision {
            Precision::Single => {
                let (values, _) = self.bytes.as_chunks::<4>();
                out.iter_mut().zip(values).for_each(|(o, &b)| *o = f32::from_le_bytes(b));
            }
            Precision::Half => {
                let (values, _) = self.bytes.as_chunks::<2>();
                let halves: Vec<f16> = values.iter().map(|&b| f16::from_le_bytes(b)).collect();
                halves.convert_to_f32_slice(out);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_diagnose::Diagnose as _;

    #[test]
    fn arrays_come_back_in_either_precision_piece_by_piece() {
        let folder = tempfile::tempdir().expect("a folder");
        let values: Vec<f32> = (0..24).map(|i| i as f32 / 8.0).collect();
        let (single, half) = (folder.path().join("single.npz"), folder.path().join("half.npz"));
        write(&single, "a", &[2, 3, 4], |push| values.chunks(7).try_for_each(push)).expect("written");
        let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        write(&half, "a", &[2, 3, 4], |push| push(&halves)).expect("written");
        for path in [&single, &half] {
            let mut archive = Archive::open(path).expect("an npz");
            assert_eq!(archive.file_names(), ["a.npy"]);
            let mut array = archive.array("a").expect("the array");
            assert_eq!(array.shape(), [2, 3, 4]);
            let mut back = vec![0.0; 24];
            back.chunks_mut(5).try_for_each(|piece| array.read(piece)).expect("24 values");
            assert_eq!(back, values);
            let error = array.read(&mut [0.0]).expect_err("no 25th value");
            assert!(error.to_string().contains("the array ends early"), "{error}");
        }
    }

    #[test]
    fn a_wrong_number_of_values_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.npz");
        for count in [3, 5] {
            let error =
                write(&path, "a", &[2, 2], |push| push(&vec![1f32; count])).expect_err("not 4 values");
            assert!(error.to_string().contains("a.npz"), "{error}");
            assert!(!path.exists(), "{count}");
        }
    }

    #[test]
    fn what_is_no_npz_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.npz");
        std::fs::write(&path, b"no zip at all").expect("written");
        let error = Archive::open(&path).expect_err("no zip");
        assert!(error.to_string().contains("a.npz: it is not an npz"), "{error}");
        write(&path, "a", &[1], |push| push(&[1f32])).expect("written");
        let mut archive = Archive::open(&path).expect("an npz");
        let error = archive.array("b").expect_err("another name");
        assert!(error.to_string().contains("`b.npy`") && error.hint().is_some(), "{error}");
    }
}
