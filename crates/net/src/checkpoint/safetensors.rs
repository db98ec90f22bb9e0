//! Our own checkpoints; the parent module describes the format.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use safetensors::{Dtype, View};

use super::value::TensorType;
use super::{Metadata, Place, read_values};
use crate::weights::Slot;
use crate::{NetError, Unet};

/// Entry of the header's metadata.
const ENTRY: &str = "glioseg";
/// The most bytes a header may have (the format's own limit).
const MAX_HEADER: u64 = 100_000_000;

/// Opens the file; the metadata are those of the header or of the JSON beside it.
pub(super) fn open(
    path: &Path,
    mut file: File,
    bytes: u64,
) -> Result<(Vec<(String, Place)>, Metadata), NetError> {
    let damaged = |what: String| NetError::Damaged { path: path.to_owned(), what };
    let truncated = |what: &str| NetError::Truncated { path: path.to_owned(), bytes, what: what.into() };
    let io = |source| NetError::Io { path: path.to_owned(), source };
    let mut length = [0; 8];
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut length)).map_err(io)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(damaged(format!("a header of {length} bytes")));
    }
    if length > bytes.saturating_sub(8) {
        return Err(truncated("its header is incomplete"));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(io)?;
    let header: safetensors::tensor::Metadata =
        serde_json::from_slice(&header).map_err(|e| damaged(format!("header: {e}")))?;
    let start = 8 + length;
    let end = start + header.data_len() as u64;
    if end > bytes {
        return Err(truncated(&format!("it should have {end}")));
    }
    let mut tensors = vec![];
    for name in header.offset_keys() {
        let Some(info) = header.info(&name) else { continue };
        let dtype = tensor_type(info.dtype).ok_or_else(|| {
            damaged(format!("tensor `{name}` of type {:?}, which is not supported", info.dtype))
        })?;
        let place =
            Place::Flat { start: start + info.data_offsets.0 as u64, dtype, shape: info.shape.clone() };
        tensors.push((name, place));
    }
    let own = header.metadata().as_ref().and_then(|m| m.get(ENTRY));
    let metadata = match own {
        Some(text) => serde_json::from_str(text).map_err(|e| damaged(format!("metadata `{ENTRY}`: {e}")))?,
        None => read_beside(&path.with_extension("json"))?,
    };
    Ok((tensors, metadata))
}

/// The metadata of a JSON file; empty ones where there is no such file.
fn read_beside(path: &Path) -> Result<Metadata, NetError> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|e| NetError::Damaged { path: path.to_owned(), what: format!("metadata: {e}") }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Metadata::default()),
        Err(source) => Err(NetError::Io { path: path.to_owned(), source }),
    }
}

/// The values of a tensor.
pub(super) fn read(
    file: &mut File,
    start: u64,
    dtype: TensorType,
    count: usize,
) -> std::io::Result<Vec<f32>> {
    file.seek(SeekFrom::Start(start))?;
    read_values(file, dtype, count)
}

fn tensor_type(dtype: Dtype) -> Option<TensorType> {
    Some(match dtype {
        Dtype::F64 => TensorType::F64,
        Dtype::F32 => TensorType::F32,
        Dtype::F16 => TensorType::F16,
        Dtype::BF16 => TensorType::BF16,
        Dtype::I64 => TensorType::I64,
        Dtype::I32 => TensorType::I32,
        Dtype::I16 => TensorType::I16,
        Dtype::I8 => TensorType::I8,
        Dtype::U8 => TensorType::U8,
        Dtype::BOOL => TensorType::Bool,
        _ => return None,
    })
}

/// Writes the weights and running statistics of `net`, with the metadata in the header.
///
/// The file appears under its name complete or not at all: it is written beside it, synced and renamed. At most one
/// tensor is copied at a time.
///
/// # Errors
/// [`NetError::Io`] if the file cannot be written; then an older file of that name is untouched.
pub fn write_safetensors(path: &Path, net: &Unet, metadata: &Metadata) -> Result<(), NetError> {
    let io = |source| NetError::Io { path: path.to_owned(), source };
    let json = serde_json::to_string(metadata).map_err(|e| io(e.into()))?;
    let header = HashMap::from([(ENTRY.to_owned(), json)]);
    let temporary = temporary_name(path);
    let mut net = net.clone();
    let slots = net.slots();
    let views = slots.iter().map(|slot| (slot.name.as_str(), SlotView { shape: slot.shape(), slot }));
    let written = safetensors::serialize_to_file(views, Some(header), &temporary)
        .map_err(|e| match e {
            safetensors::SafeTensorError::IoError(e) => e,
            other => std::io::Error::other(other),
        })
        .and_then(|()| File::options().write(true).open(&temporary)?.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(source) = written {
        // What is left of the failed attempt; its absence is no error.
        let _ = std::fs::remove_file(&temporary);
        return Err(io(source));
    }
    // The rename itself lasts only once the folder is written; not every system lets a folder be synced.
    if let Some(folder) = path.parent()
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
    Ok(())
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    path.with_file_name(name)
}

/// A slot as the safetensors writer wants it; the values are fetched when they are written.
struct SlotView<'a, 'b> {
    shape: Vec<usize>,
    slot: &'a Slot<'b>,
}

impl View for SlotView<'_, '_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let data: TensorData = self.slot.data().convert::<f32>();
        let bytes = data.as_bytes();
        let (words, _) = bytes.as_chunks::<4>();
        Cow::Owned(words.iter().flat_map(|w| f32::from_ne_bytes(*w).to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}
