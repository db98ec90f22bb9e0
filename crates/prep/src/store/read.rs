//! Reading prepared cases: headers at once, boxes when they are wanted.

use super::StoreError;
use super::format::{
    EXTENSION, Header, MAGIC, MAX_HEADER, PREAMBLE, StoredProperties, VERSION, payload_start,
};
use crate::CaseProperties;
use glioseg_formats::label_array::LabelArray;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A prepared case: its header in memory, image and labels on disk.
#[derive(Debug, Clone)]
pub struct StoredCase {
    path: PathBuf,
    header: Header,
    /// First byte of the payload.
    start: u64,
    previous: Option<LabelArray>,
}

/// A box of a case; it may reach out of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchBox {
    /// First voxel along z, y, x; below 0 before the image.
    pub start: [isize; 3],
    /// Voxels along z, y, x.
    pub size: [usize; 3],
}

impl StoredCase {
    /// Reads the header of a prepared case.
    ///
    /// # Errors
    /// [`StoreError::Format`] if the file is none, is damaged or cut short; [`StoreError::Volume`] if it cannot be read.
    pub fn open(path: &Path) -> Result<StoredCase, StoreError> {
        let failed = |e| StoreError::io(path, "read", e);
        let wrong = |reason: String| StoreError::Format { path: path.to_owned(), reason };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut preamble = [0; PREAMBLE as usize];
        if length < PREAMBLE {
            return Err(wrong(format!("it has only {length} bytes")));
        }
        read_at(&file, 0, &mut preamble).map_err(failed)?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| preamble[at + i]));
        if &preamble[..8] != MAGIC {
            return Err(wrong("it does not begin with GLIOCASE".to_owned()));
        }
        if word(8) != VERSION {
            return Err(wrong(format!(
                "it is of version {} of the format, this program reads {VERSION}",
                word(8)
            )));
        }
        let header_length = word(12);
        if header_length > MAX_HEADER || u64::from(header_length) > length - PREAMBLE {
            return Err(wrong(format!(
                "its header is said to have {header_length} bytes, the file has {length}"
            )));
        }
        let mut text = vec![0; header_length as usize];
        read_at(&file, PREAMBLE, &mut text).map_err(failed)?;
        let header: Header =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("its header is damaged: {e}")))?;
        header.check(path)?;
        let start = payload_start(header_length);
        let case = StoredCase { path: path.to_owned(), header, start, previous: None };
        case.check_length(length)?;
        Ok(case)
    }

    /// Adds the segmentation of the stage before, for a later stage of a cascade.
    ///
    /// # Errors
    /// [`StoreError::PreviousStage`] if it is on another grid; [`StoreError::Volume`] if it cannot be read.
    pub fn with_previous(mut self, path: &Path) -> Result<StoredCase, StoreError> {
        let previous = LabelArray::open(path)?;
        if previous.shape() != self.header.shape {
            return Err(StoreError::PreviousStage {
                case: self.header.case,
                path: path.to_owned(),
                found: previous.shape(),
                expected: self.header.shape,
            });
        }
        self.previous = Some(previous);
        Ok(self)
    }

    /// The segmentation of the stage before, if one was added.
    pub fn previous(&self) -> Option<&LabelArray> {
        self.previous.as_ref()
    }

    fn check_length(&self, found: u64) -> Result<(), StoreError> {
        let needed = self.start + self.header.payload;
        if found == needed {
            return Ok(());
        }
        let reason = format!("it has {found} bytes, its header promises {needed}");
        Err(StoreError::Format { path: self.path.clone(), reason })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Name of the case.
    pub fn name(&self) -> &str {
        &self.header.case
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the image files that it was made from, without folder.
    pub fn image_names(&self) -> Vec<&str> {
        // The label map comes last.
        let images = self.header.sources.split_last().map_or(&[][..], |(_, images)| images);
        images.iter().map(|source| source.name.as_str()).collect()
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.header.channels
    }

    /// Voxels along the plan's axes.
    pub fn shape(&self) -> [usize; 3] {
        self.header.shape
    }

    /// What was odd about the files that the case was made from, a sentence each.
    pub fn oddities(&self) -> &[String] {
        &self.header.oddities
    }

    /// Hash of what decided the content: plans, labels and files.
    pub fn plan_hash(&self) -> &str {
        &self.header.plan_hash
    }

    /// What preprocessing did, as stored.
    pub fn stored_properties(&self) -> &StoredProperties {
        &self.header.properties
    }

    /// What preprocessing did, for the way back to the image's grid.
    pub fn properties(&self) -> CaseProperties {
        (&self.header.properties).into()
    }

    /// Number of classes with locations: regions or foreground labels, and one more with an ignore label.
    pub fn num_classes(&self) -> usize {
        self.header.classes.len()
    }

    /// Labels of a class.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn class_labels(&self, class: usize) -> &[i16] {
        &self.header.classes[class].labels
    }

    /// Stored voxels of a class; 0 where the case has none.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn class_count(&self, class: usize) -> usize {
        self.header.classes[class].count as usize
    }

    /// The `index`-th stored voxel of a class, z, y, x.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read or has changed.
    ///
    /// # Panics
    /// If there is no such class or voxel.
    pub fn class_voxel(&self, class: usize, index: usize) -> Result<[usize; 3], StoreError> {
        let of = &self.header.classes[class];
        assert!((index as u64) < of.count, "voxel {index} of {} of class {class}", of.count);
        let mut bytes = [0; 4];
        let file = self.file()?;
        self.read(&file, of.offset + index as u64 * 4, &mut bytes)?;
        self.position(u32::from_le_bytes(bytes))
    }

    /// All stored voxels of a class in the order they were drawn, z, y, x.
    ///
    /// # Errors
    /// As [`StoredCase::class_voxel`].
    ///
    /// # Panics
    /// If there is no such class.
    pub fn class_voxels(&self, class: usize) -> Result<Vec<[usize; 3]>, StoreError> {
        let of = &self.header.classes[class];
        let mut bytes = vec![0; of.count as usize * 4];
        let file = self.file()?;
        self.read(&file, of.offset, &mut bytes)?;
        bytes.as_chunks::<4>().0.iter().map(|&b| self.position(u32::from_le_bytes(b))).collect()
    }

    fn position(&self, index: u32) -> Result<[usize; 3], StoreError> {
        let [z, y, x] = self.header.shape;
        let i = index as usize;
        if i >= z * y * x {
            let reason = format!("it lists voxel {i} of a class, but has {} voxels", z * y * x);
            return Err(StoreError::Format { path: self.path.clone(), reason });
        }
        Ok([i / (y * x), i / x % y, i % x])
    }

    /// Reads a box of image and labels. Outside the image the former is 0 and the latter −1.
    ///
    /// # Shapes
    /// `data` holds `[c, z, y, x]` and `seg` `[z, y, x]` of the box's size.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read or has changed.
    ///
    /// # Panics
    /// If `data` or `seg` has another length.
    ///
    /// # Source
    /// nnU-Net v2, `nnUNetDataLoader.generate_train_batch` (`crop_and_pad_nd`).
    pub fn read_box(&self, patch: PatchBox, data: &mut [f32], seg: &mut [i16]) -> Result<(), StoreError> {
        let file = self.file()?;
        self.read_data(&file, patch, data)?;
        self.read_labels(&file, patch, seg)
    }

    /// Reads a box of the labels alone; −1 outside the image.
    ///
    /// # Errors
    /// As [`StoredCase::read_box`].
    ///
    /// # Panics
    /// As [`StoredCase::read_box`].
    pub fn read_seg(&self, patch: PatchBox, seg: &mut [i16]) -> Result<(), StoreError> {
        self.read_labels(&self.file()?, patch, seg)
    }

    /// Reads the whole case, `[c, z, y, x]` and `[z, y, x]`.
    ///
    /// # Errors
    /// As [`StoredCase::read_box`].
    pub fn read_all(&self) -> Result<(Vec<f32>, Vec<i16>), StoreError> {
        let size = self.header.shape;
        let voxels: usize = size.iter().product();
        let (mut data, mut seg) = (vec![0.0; self.header.channels * voxels], vec![0; voxels]);
        self.read_box(PatchBox { start: [0; 3], size }, &mut data, &mut seg)?;
        Ok((data, seg))
    }

    fn read_data(&self, file: &File, patch: PatchBox, data: &mut [f32]) -> Result<(), StoreError> {
        let voxels: usize = patch.size.iter().product();
        assert_eq!(data.len(), self.header.channels * voxels, "values for {patch:?}");
        let of_channel = self.header.shape.iter().product::<usize>() as u64 * 4;
        for (channel, part) in data.chunks_exact_mut(voxels.max(1)).enumerate() {
            self.read_part(file, channel as u64 * of_channel, patch, part, 0.0, f32::from_le_bytes)?;
        }
        Ok(())
    }

    fn read_labels(&self, file: &File, patch: PatchBox, seg: &mut [i16]) -> Result<(), StoreError> {
        assert_eq!(seg.len(), patch.size.iter().product::<usize>(), "labels for {patch:?}");
        self.read_part(file, self.header.seg_offset, patch, seg, -1, i16::from_le_bytes)
    }

    /// Reads a box of one `[z, y, x]` array at `offset` of the payload: one read per slice, from the first row that
    /// is wanted to the last.
    fn read_part<T: Copy, const N: usize>(
        &self,
        file: &File,
        offset: u64,
        patch: PatchBox,
        out: &mut [T],
        outside: T,
        number: impl Fn([u8; N]) -> T,
    ) -> Result<(), StoreError> {
        let shape = self.header.shape;
        let [z, y, x] = [0, 1, 2].map(|a| inside(patch.start[a], patch.size[a], shape[a]));
        if z.len() * y.len() * x.len() < out.len() {
            out.fill(outside);
        }
        if z.is_empty() || y.is_empty() || x.is_empty() {
            return Ok(());
        }
        // Box index of an image index.
        let to = |a: usize, i: usize| i.cast_signed().wrapping_sub(patch.start[a]).cast_unsigned();
        let mut bytes = vec![0; ((y.len() - 1) * shape[2] + x.len()) * N];
        for slice in z {
            let first = (slice * shape[1] + y.start) * shape[2] + x.start;
            self.read(file, offset + (first * N) as u64, &mut bytes)?;
            let numbers = bytes.as_chunks::<N>().0;
            for (i, row) in y.clone().enumerate() {
                let at = (to(0, slice) * patch.size[1] + to(1, row)) * patch.size[2] + to(2, x.start);
                let from = &numbers[i * shape[2]..][..x.len()];
                out[at..at + x.len()].iter_mut().zip(from).for_each(|(o, &b)| *o = number(b));
            }
        }
        Ok(())
    }

    fn file(&self) -> Result<File, StoreError> {
        let failed = |e| StoreError::io(&self.path, "read", e);
        let file = File::open(&self.path).map_err(failed)?;
        self.check_length(file.metadata().map_err(failed)?.len())?;
        Ok(file)
    }

    fn read(&self, file: &File, offset: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
        read_at(file, self.start + offset, bytes).map_err(|e| StoreError::io(&self.path, "read", e))
    }
}

/// The part of an axis of `size` voxels that the box covers.
fn inside(start: isize, length: usize, size: usize) -> std::ops::Range<usize> {
    let end = start.saturating_add_unsigned(length).max(0).cast_unsigned().min(size);
    start.max(0).cast_unsigned().min(end)..end
}

/// Every prepared case of a folder, sorted by name.
///
/// # Errors
/// The [`StoreError`] of the first case that cannot be used, or of the folder.
pub fn stored_cases(folder: &Path) -> Result<Vec<StoredCase>, StoreError> {
    let failed = |e| StoreError::io(folder, "read", e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|e| e == EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| StoredCase::open(path)).collect()
}

#[cfg(unix)]
fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(not(any(unix, windows)))]
fn read_at(mut file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    // The file was opened for this call's caller alone, so nobody else moves its position.
    use std::io::{Read as _, Seek as _};
    file.seek(io::SeekFrom::Start(offset))?;
    file.read_exact(bytes)
}
