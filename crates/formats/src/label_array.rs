//! Label maps on the grid of the plan, as one stage of a cascade leaves them for the next: arrays of whole numbers, `[z, y, x]`.
//!
//! Written as numpy's `.npy`, from which a box is read without the rest; nnU-Net's dataset of numpy files takes them too. Read are
//! also its `.npz` (the array `seg`), which is unpacked as a whole each time.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use npyz::{DType, NpyHeader, Order, WriterBuilder as _};

use crate::{FormatError, atomic};

/// How names of the files that are written end.
pub const ENDING: &str = ".npy";

/// A label map on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelArray {
    path: PathBuf,
    shape: [usize; 3],
    number: Number,
    /// First byte of the numbers, where the file holds them plainly.
    plain: Option<u64>,
}

/// How a label is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    U8,
    I8,
    U16,
    I16,
}

impl Number {
    const fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
        }
    }

    /// Labels beyond 32767 become that.
    fn read(self, bytes: &[u8], out: &mut [i16]) {
        let pairs = || bytes.as_chunks::<2>().0.iter().copied();
        match self {
            Self::U8 => out.iter_mut().zip(bytes).for_each(|(o, &b)| *o = i16::from(b)),
            Self::I8 => out.iter_mut().zip(bytes).for_each(|(o, &b)| *o = i16::from(b.cast_signed())),
            Self::U16 => out
                .iter_mut()
                .zip(pairs())
                .for_each(|(o, b)| *o = i16::try_from(u16::from_le_bytes(b)).unwrap_or(i16::MAX)),
            Self::I16 => out.iter_mut().zip(pairs()).for_each(|(o, b)| *o = i16::from_le_bytes(b)),
        }
    }
}

/// Writes labels, `[z, y, x]`, in one byte each where the largest fits.
///
/// # Errors
/// [`FormatError::Io`] with the path; no unfinished file is left.
///
/// # Panics
/// If there are more or fewer labels than the shape has voxels.
pub fn write(path: &Path, shape: [usize; 3], labels: &[u16]) -> Result<(), FormatError> {
    assert_eq!(labels.len(), shape.iter().product::<usize>(), "labels of {shape:?}");
    let shape = shape.map(|n| n as u64);
    let small: Option<Vec<u8>> = labels.iter().map(|&label| u8::try_from(label).ok()).collect();
    atomic::write(path, |file| {
        if let Some(small) = &small {
            let options = npyz::WriteOptions::<u8>::new().default_dtype().shape(&shape);
            let mut array = options.writer(&mut *file).begin_nd()?;
            array.extend(small.iter().copied())?;
            array.finish()?;
        } else {
            let options = npyz::WriteOptions::<u16>::new().default_dtype().shape(&shape);
            let mut array = options.writer(&mut *file).begin_nd()?;
            array.extend(labels.iter().copied())?;
            array.finish()?;
        }
        file.flush()
    })
}

impl LabelArray {
    /// Reads what the file says of itself.
    ///
    /// # Errors
    /// [`FormatError::Io`]; [`FormatError::LabelArray`] if it is not an array of labels, or cut off.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let wrong = |reason: String| FormatError::LabelArray { path: path.to_owned(), reason };
        if path.extension().is_some_and(|e| e == "npz") {
            let (header, bytes) = unpack(path)?;
            let array = Self::of(path, &header, None)?;
            return if bytes.len() == array.bytes() { Ok(array) } else { Err(wrong("it is cut off".into())) };
        }
        let failed = |source| FormatError::io(path, "read", source);
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut file = BufReader::new(file);
        let header =
            NpyHeader::from_reader(&mut file).map_err(|e| wrong(format!("it is not an npy: {e}")))?;
        let start = file.stream_position().map_err(failed)?;
        let array = Self::of(path, &header, Some(start))?;
        let expected = start + array.bytes() as u64;
        if length != expected {
            return Err(wrong(format!("it has {length} bytes, its header promises {expected}")));
        }
        Ok(array)
    }

    fn of(path: &Path, header: &NpyHeader, plain: Option<u64>) -> Result<Self, FormatError> {
        let wrong = |reason: String| Err(FormatError::LabelArray { path: path.to_owned(), reason });
        let number = match header.dtype() {
            DType::Plain(t) => match t.to_string().as_str() {
                "|u1" => Number::U8,
                "|i1" => Number::I8,
                "<u2" => Number::U16,
                "<i2" => Number::I16,
                other => return wrong(format!("it has type {other}, not that of labels: u1, i1, u2 or i2")),
            },
            other => return wrong(format!("it has type {}, not that of labels", other.descr())),
        };
        let shape: Vec<usize> = header.shape().iter().filter_map(|&n| usize::try_from(n).ok()).collect();
        let voxels = shape.iter().try_fold(2usize, |n, &d| n.checked_mul(d));
        match (&shape[..], voxels, header.order()) {
            (&[z, y, x], Some(1..), Order::C) => {
                Ok(Self { path: path.to_owned(), shape: [z, y, x], number, plain })
            }
            (_, _, Order::Fortran) => wrong("it is in Fortran's order".to_owned()),
            _ => wrong(format!("it has shape {:?}, not three axes", header.shape())),
        }
    }

    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.number.bytes()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Voxels along z, y, x.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Reads a box that may reach out of the array; there it is −1.
    ///
    /// # Shapes
    /// `start` is the first voxel along z, y, x, `size` the box's voxels; `out` holds `[z, y, x]` of the box.
    ///
    /// # Errors
    /// [`FormatError`] if the file cannot be read or has changed.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn read_box(&self, start: [isize; 3], size: [usize; 3], out: &mut [i16]) -> Result<(), FormatError> {
        assert_eq!(out.len(), size.iter().product::<usize>(), "labels of a box of {size:?}");
        let [z, y, x] = [0, 1, 2].map(|a| inside(start[a], size[a], self.shape[a]));
        if z.len() * y.len() * x.len() < out.len() {
            out.fill(-1);
        }
        if z.is_empty() || y.is_empty() || x.is_empty() {
            return Ok(());
        }
        let failed = |source| FormatError::io(&self.path, "read", source);
        let (mut source, first) = match self.plain {
            Some(first) => (Source::File(File::open(&self.path).map_err(failed)?), first),
            None => (Source::Memory(unpack(&self.path)?.1), 0),
        };
        let to = |a: usize, i: usize| i.cast_signed().wrapping_sub(start[a]).cast_unsigned();
        let width = self.number.bytes();
        let mut bytes = vec![0; ((y.len() - 1) * self.shape[2] + x.len()) * width];
        for slice in z {
            let at = (slice * self.shape[1] + y.start) * self.shape[2] + x.start;
            source.read(first + (at * width) as u64, &mut bytes).map_err(failed)?;
            for (i, row) in y.clone().enumerate() {
                let to = (to(0, slice) * size[1] + to(1, row)) * size[2] + to(2, x.start);
                let from = &bytes[i * self.shape[2] * width..][..x.len() * width];
                self.number.read(from, &mut out[to..to + x.len()]);
            }
        }
        Ok(())
    }

    /// Reads everything, `[z, y, x]`.
    ///
    /// # Errors
    /// As [`LabelArray::read_box`].
    pub fn read_all(&self) -> Result<Vec<i16>, FormatError> {
        let mut all = vec![0; self.shape.iter().product()];
        self.read_box([0; 3], self.shape, &mut all)?;
        Ok(all)
    }
}

/// Where numbers are read from.
enum Source {
    File(File),
    Memory(Vec<u8>),
}

impl Source {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => {
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(bytes)
            }
            Self::Memory(all) => {
                let part = usize::try_from(offset).ok().and_then(|at| all.get(at..at + bytes.len()));
                bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

/// Header and numbers of the array `seg` of an npz.
fn unpack(path: &Path) -> Result<(NpyHeader, Vec<u8>), FormatError> {
    let wrong = |reason: String| FormatError::LabelArray { path: path.to_owned(), reason };
    let failed = |source| FormatError::io(path, "read", source);
    let file = File::open(path).map_err(failed)?;
    let zip = zip::ZipArchive::new(BufReader::new(file));
    let mut zip = zip.map_err(|e| wrong(format!("it is not an npz: {e}")))?;
    let mut entry = zip.by_name("seg.npy").map_err(|e| wrong(format!("`seg`: {e}")))?;
    let header = NpyHeader::from_reader(&mut entry).map_err(|e| wrong(format!("`seg`: {e}")))?;
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(failed)?;
    Ok((header, bytes))
}

/// The part of an axis of `size` voxels that a box covers.
fn inside(start: isize, length: usize, size: usize) -> Range<usize> {
    let end = start.saturating_add_unsigned(length).max(0).cast_unsigned().min(size);
    start.max(0).cast_unsigned().min(end)..end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(n: usize, largest: u16) -> Vec<u16> {
        (0..n).map(|i| if i == 7 { largest } else { (i % 5) as u16 }).collect()
    }

    #[test]
    fn boxes_come_back_and_minus_one_lies_outside() {
        let folder = tempfile::tempdir().expect("a folder");
        for (largest, bytes) in [(200, 1), (300, 2)] {
            let path = folder.path().join(format!("{largest}.npy"));
            let all = labels(3 * 4 * 5, largest);
            write(&path, [3, 4, 5], &all).expect("written");
            let array = LabelArray::open(&path).expect("an array");
            assert_eq!((array.shape(), array.number.bytes()), ([3, 4, 5], bytes));
            let signed: Vec<i16> = all.iter().map(|&l| l.cast_signed()).collect();
            assert_eq!(array.read_all().expect("all"), signed);
            let mut part = vec![0; 8];
            array.read_box([1, 3, -1], [2, 2, 2], &mut part).expect("a box");
            assert_eq!(part, [-1, signed[20 + 15], -1, -1, -1, signed[40 + 15], -1, -1]);
            array.read_box([9, 0, 0], [2, 2, 2], &mut part).expect("a box");
            assert_eq!(part, [-1; 8]);
        }
    }

    #[test]
    fn the_npz_of_nnunet_is_read_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let (plain, packed) = (folder.path().join("a.npy"), folder.path().join("a.npz"));
        write(&plain, [2, 3, 4], &labels(24, 3)).expect("written");
        let mut zip = zip::ZipWriter::new(File::create(&packed).expect("a file"));
        zip.start_file("seg.npy", zip::write::SimpleFileOptions::default()).expect("an entry");
        zip.write_all(&std::fs::read(&plain).expect("read")).expect("written");
        zip.finish().expect("a zip");
        let read = |path: &Path| LabelArray::open(path).expect("an array").read_all().expect("labels");
        assert_eq!(read(&packed), read(&plain));
    }

    #[test]
    fn what_is_no_label_map_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.npy");
        let reason = || LabelArray::open(&path).expect_err("refused").to_string();
        write(&path, [2, 3, 4], &labels(24, 3)).expect("written");
        let bytes = std::fs::read(&path).expect("read");
        std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
        assert!(reason().contains("its header promises"), "{}", reason());
        std::fs::write(&path, "no array").expect("written");
        assert!(reason().contains("not an npy"), "{}", reason());
        let array = |shape: &[u64]| {
            let file = File::create(&path).expect("a file");
            let options = npyz::WriteOptions::<f32>::new().default_dtype().shape(shape);
            let mut array = options.writer(file).begin_nd().expect("an array");
            array.extend(vec![0f32; shape.iter().product::<u64>() as usize]).expect("written");
            array.finish().expect("finished");
        };
        array(&[1, 1, 2]);
        assert!(reason().contains("type <f4"), "{}", reason());
    }
}
