//! Our own checkpoints; the parent module describes the format.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use glioseg_interop::TensorType;
use safetensors::{Dtype, View};
use sha2::{Digest, Sha256};

use super::{Metadata, TensorPlace, hexadecimal};
use crate::optimiser::Optimiser;
use crate::{NetError, Parameters};

/// Entry of the header's metadata.
const ENTRY: &str = "glioseg";
/// Its key with the hash of names and values of all tensors, sorted by name.
const HASH: &str = "values_sha256";
/// The most bytes a header may have (the format's own limit).
const MAX_HEADER: u64 = 100_000_000;

/// What a header tells.
pub(super) struct Header {
    pub(super) tensors: Vec<(String, TensorPlace)>,
    pub(super) metadata: Metadata,
    /// Hash of all values, where there is one.
    pub(super) hash: Option<String>,
}

/// Opens the file; the metadata are those of the header or of the JSON next to it.
pub(super) fn open(path: &Path, mut file: File, bytes: u64) -> Result<Header, NetError> {
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
            TensorPlace::Flat { start: start + info.data_offsets.0 as u64, dtype, shape: info.shape.clone() };
        tensors.push((name, place));
    }
    let mut hash = None;
    let metadata = match header.metadata().as_ref().and_then(|m| m.get(ENTRY)) {
        Some(text) => {
            let wrong = |e| damaged(format!("metadata `{ENTRY}`: {e}"));
            let value: serde_json::Value = serde_json::from_str(text).map_err(wrong)?;
            hash = value[HASH].as_str().map(str::to_owned);
            serde_json::from_value(value).map_err(wrong)?
        }
        None => read_beside(&path.with_extension("json"))?,
    };
    Ok(Header { tensors, metadata, hash })
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
    dtype.read(file, count)
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

/// Writes the weights and running statistics of a network, with the metadata in the header.
///
/// The header also holds a hash of all values ([`Checkpoint::verify`](super::Checkpoint::verify)).
///
/// The file appears under its name complete or not at all: it is written next to it, synced and renamed. At most one
/// tensor is copied at a time.
///
/// # Errors
/// [`NetError::Io`] if the file cannot be written; then an older file of that name is untouched.
pub fn write_safetensors(path: &Path, parameters: &Parameters, metadata: &Metadata) -> Result<(), NetError> {
    write(path, parameters, None, metadata)
}

/// As [`write_safetensors`], with the optimiser's state in the same file, so that neither is ever without the other.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_training(path: &Path, parameters: &Parameters, metadata: &Metadata) -> Result<(), NetError> {
    write(path, parameters, parameters.optimiser(), metadata)
}

fn write(
    path: &Path,
    parameters: &Parameters,
    optimiser: Option<&Optimiser>,
    metadata: &Metadata,
) -> Result<(), NetError> {
    let io = |source| NetError::Io { path: path.to_owned(), source };
    let temporary = temporary_name(path);
    let weights = parameters.iter().map(|(parameter, values)| {
        (parameter.name.clone(), TensorView { shape: parameter.shape.clone(), values })
    });
    let state = optimiser.into_iter().flat_map(Optimiser::state);
    let state = state.map(|(name, values)| (name, TensorView { shape: vec![values.len()], values }));
    let mut tensors: Vec<(String, TensorView<'_>)> = weights.chain(state).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hasher = Sha256::new();
    for (name, view) in &tensors {
        hasher.update(name.as_bytes());
        hasher.update(view.data());
    }
    // One entry: the order of several would change from run to run.
    let mut entry = serde_json::to_value(metadata).map_err(|e| io(e.into()))?;
    entry[HASH] = hexadecimal(&hasher.finalize()).into();
    let header = HashMap::from([(ENTRY.to_owned(), entry.to_string())]);
    let views = tensors.iter().map(|(name, view)| (name.as_str(), view));
    let written = safetensors::serialize_to_file(views, Some(header), &temporary)
        .map_err(|e| match e {
            safetensors::SafeTensorError::IoError(e) => e,
            other => std::io::Error::other(other),
        })
        .and_then(|()| File::options().write(true).open(&temporary)?.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(source) = written {
        // What is left of the failed attempt; its absence is not an error.
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

/// A tensor as the safetensors writer wants it.
struct TensorView<'a> {
    shape: Vec<usize>,
    values: &'a [f32],
}

impl View for &TensorView<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}
