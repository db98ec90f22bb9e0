//! NIfTI files: version 1 and 2, `.nii`, `.nii.gz` and `.hdr`/`.img` pairs.
//!
//! The header is read by our own code rather than by the `nifti` crate, which knows version 1 only, takes negative
//! dimensions for large ones and allocates what a header asks for. Here every size is checked against the file before
//! anything is allocated, and voxels are converted to f32 while they are unpacked, so that the result is the only
//! array of that size. Whether a file is compressed is seen from its first bytes, not from its name.
//!
//! Left out: header extensions, intent codes and slice timing, which no later step reads.

mod dtype;
mod gzip;
mod header;
mod read;

use std::io::Write as _;
use std::path::Path;

pub use dtype::DType;
pub use read::{
    ImageInfo, read_info, read_labels, read_labels_noting, read_stack, read_stack_along, read_volume,
};

use glioseg_volume::{Geometry, LabelMap, Volume, VolumeError};

use crate::{FormatError, atomic};

/// Values converted per step of an uncompressed file.
const STEP: usize = 1 << 18;

/// The name of an image file without `.nii.gz` or `.nii`; `None` for other files, and for hidden ones.
///
/// ```
/// use glioseg_formats::nifti::stem;
/// assert_eq!(stem("case.NII.gz"), Some("case"));
/// assert_eq!([stem("case.txt"), stem("._case.nii")], [None, None]);
/// ```
pub fn stem(name: &str) -> Option<&str> {
    let lower = name.to_ascii_lowercase();
    let ending = [".nii.gz", ".nii"].into_iter().find(|ending| lower.ends_with(ending))?;
    (!name.starts_with('.')).then(|| &name[..name.len() - ending.len()])
}

/// Writes a label map with exactly the header geometry of the image that `labels.geometry` came from.
///
/// Voxels are `u8` if every label is below 255, else `u16`, as nnU-Net writes them. The file is compressed if its name
/// ends in `.gz`, and holds the same bytes every time.
///
/// # Errors
/// [`VolumeError::Length`] if array and shape differ; [`FormatError::Io`] if the file cannot be written; then no file
/// of that name is left that was not there before.
pub fn write_labels(path: &Path, labels: &LabelMap) -> Result<(), FormatError> {
    let data = &labels.data;
    let expected = labels.geometry.voxels();
    if data.len() != expected {
        let shape = labels.geometry.shape;
        return Err(VolumeError::Length { channels: 1, shape, expected, found: data.len() }.into());
    }
    if data.iter().all(|&v| v < 255) {
        write(path, &labels.geometry, 1, DType::U8, data, |values, out| {
            out.extend(values.iter().map(|&v| v as u8));
        })
    } else {
        write(path, &labels.geometry, 1, DType::U16, data, |values, out| {
            out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        })
    }
}

/// Writes an image as f32, several channels as the fourth dimension.
///
/// # Errors
/// As [`write_labels`].
pub fn write_volume(path: &Path, volume: &Volume) -> Result<(), FormatError> {
    let (channels, found) = (volume.channels, volume.data.len());
    let expected = channels * volume.geometry.voxels();
    if found != expected || channels == 0 {
        return Err(VolumeError::Length { channels, shape: volume.geometry.shape, expected, found }.into());
    }
    write(path, &volume.geometry, channels, DType::F32, &volume.data, |values, out| {
        out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    })
}

/// Writes an image of whole numbers as i16 where all of them fit, else as [`write_volume`].
///
/// # Errors
/// As [`write_labels`].
pub fn write_whole_volume(path: &Path, volume: &Volume) -> Result<(), FormatError> {
    let fits = |v: &f32| v.fract() == 0.0 && (f32::from(i16::MIN)..=f32::from(i16::MAX)).contains(v);
    if volume.data.len() != volume.channels * volume.geometry.voxels() || !volume.data.iter().all(fits) {
        return write_volume(path, volume);
    }
    write(path, &volume.geometry, volume.channels, DType::I16, &volume.data, |values, out| {
        out.extend(values.iter().flat_map(|&v| (v as i16).to_le_bytes()));
    })
}

fn write<T: Sync>(
    path: &Path,
    geometry: &Geometry,
    channels: usize,
    dtype: DType,
    data: &[T],
    to_bytes: impl Fn(&[T], &mut Vec<u8>) + Sync,
) -> Result<(), FormatError> {
    let head = header::encode(geometry, channels, dtype);
    let compressed = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    atomic::write(path, |file| {
        if compressed {
            let fill = |range: std::ops::Range<usize>, out: &mut Vec<u8>| to_bytes(&data[range], out);
            return gzip::write(file, &head, data.len(), dtype.size(), &fill);
        }
        file.write_all(&head)?;
        let mut bytes = Vec::with_capacity(STEP * dtype.size());
        for values in data.chunks(STEP) {
            bytes.clear();
            to_bytes(values, &mut bytes);
            file.write_all(&bytes)?;
        }
        Ok(())
    })
}
