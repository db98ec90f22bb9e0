//! PyTorch's two containers: a zip archive, and the older sequence of pickles and raw blocks.
//!
//! Only the pickle is read on opening. A tensor's values go straight from the file into the vector that becomes the
//! parameter, so a network is never in memory twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use zip::CompressionMethod;
use zip::ZipArchive;

use super::pickle::{PickleError, read_with_storages};
use super::value::{StorageRef, TensorRef, Value};
use super::{Place, read_values};
use crate::NetError;

/// First pickle of the older container.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// The bytes that pickle starts with (protocol 2, a long of ten bytes).
pub(super) const LEGACY_START: [u8; 4] = [0x80, 2, 0x8a, 10];

/// Where the storages of a file are.
#[derive(Debug)]
pub(super) enum Storages {
    /// Entries of the zip archive, under this root.
    Zip { archive: Box<ZipArchive<BufReader<File>>>, root: String },
    /// Blocks of a plain file: first byte of each.
    Blocks { file: BufReader<File>, starts: HashMap<String, u64> },
}

/// Opens a zip container and reads its pickle.
pub(super) fn open_zip(path: &Path, file: File, bytes: u64) -> Result<(Value, Storages), NetError> {
    let damaged = |what: String| NetError::Damaged { path: path.to_owned(), what };
    let mut archive = match ZipArchive::new(BufReader::new(file)) {
        Ok(archive) => archive,
        Err(zip::result::ZipError::Io(source)) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            return Err(NetError::Io { path: path.to_owned(), source });
        }
        Err(_) => {
            let what = "the zip directory at its end is missing".into();
            return Err(NetError::Truncated { path: path.to_owned(), bytes, what });
        }
    };
    let mut pickles = vec![];
    for name in archive.file_names() {
        let name = name.map_err(|e| damaged(e.to_string()))?;
        if name == "data.pkl" || name.ends_with("/data.pkl") {
            pickles.push(name.into_owned());
        }
    }
    let [pickle] = &pickles[..] else {
        return Err(damaged(format!("a PyTorch archive has one data.pkl, this one has {}", pickles.len())));
    };
    let root = pickle.trim_end_matches("data.pkl").to_owned();
    if let Ok(entry) = archive.by_name(&format!("{root}byteorder")) {
        let mut order = String::new();
        entry.take(16).read_to_string(&mut order).map_err(|e| damaged(format!("byteorder: {e}")))?;
        if order.trim() != "little" {
            return Err(damaged(format!(
                "byte order `{}`, only little-endian files are supported",
                order.trim()
            )));
        }
    }
    let entry = archive.by_name(pickle).map_err(|e| damaged(e.to_string()))?;
    let mut reader = BufReader::new(entry);
    let pickled = |source| NetError::Pickle { path: path.to_owned(), source };
    let (value, storages) = read_with_storages(&mut reader).map_err(pickled)?;
    drop(reader);
    for storage in storages {
        let name = format!("{root}data/{}", storage.key);
        let entry =
            archive.by_name(&name).map_err(|_| damaged(format!("`{name}` is missing in the archive")))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(damaged(format!("`{name}` is compressed; PyTorch stores tensors as they are")));
        }
        let expected = (storage.len as u64).checked_mul(storage.dtype.size() as u64);
        if Some(entry.size()) != expected || entry.compressed_size() != entry.size() || entry.size() > bytes {
            return Err(damaged(format!(
                "`{name}` has {} bytes, but the pickle says {} elements of {} bytes",
                entry.size(),
                storage.len,
                storage.dtype.size()
            )));
        }
    }
    Ok((value, Storages::Zip { archive: Box::new(archive), root }))
}

/// Opens the older container: magic number, protocol, system, object, list of keys, blocks.
pub(super) fn open_legacy(path: &Path, file: File, bytes: u64) -> Result<(Value, Storages), NetError> {
    let damaged = |what: String| NetError::Damaged { path: path.to_owned(), what };
    let pickled = |source| NetError::Pickle { path: path.to_owned(), source };
    let mut file = BufReader::new(file);
    let mut next = || read_with_storages(&mut file).map_err(pickled);
    if next()?.0 != Value::Int(MAGIC) {
        return Err(damaged("a pickle, but not PyTorch's magic number".into()));
    }
    let protocol = next()?.0;
    if protocol.as_i64() != Some(1001) {
        return Err(damaged(format!("PyTorch file of protocol {protocol}, known is 1001")));
    }
    if next()?.0.get("little_endian").and_then(Value::as_bool) == Some(false) {
        return Err(damaged("big-endian numbers, only little-endian files are supported".into()));
    }
    let (value, storages) = next()?;
    let keys = next()?.0;
    let by_key: HashMap<&str, &StorageRef> = storages.iter().map(|s| (&*s.key, s)).collect();
    let io = |source| NetError::Io { path: path.to_owned(), source };
    let mut starts = HashMap::new();
    let mut at = file.stream_position().map_err(io)?;
    for key in keys.as_list().unwrap_or_default() {
        let storage =
            key.as_str().and_then(|k| by_key.get(k)).ok_or_else(|| damaged(format!("block `{key}`")))?;
        let truncated = || NetError::Truncated {
            path: path.to_owned(),
            bytes,
            what: format!("the values of storage `{}` are missing", storage.key),
        };
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        let mut len = [0; 8];
        file.read_exact(&mut len).map_err(|_| truncated())?;
        let len = u64::from_le_bytes(len);
        if len != storage.len as u64 {
            let what =
                format!("storage `{}` of {len} elements, the pickle says {}", storage.key, storage.len);
            return Err(damaged(what));
        }
        starts.insert(storage.key.to_string(), at + 8);
        let size = len.checked_mul(storage.dtype.size() as u64);
        at = size.and_then(|s| (at + 8).checked_add(s)).filter(|&end| end <= bytes).ok_or_else(truncated)?;
    }
    if let Some(storage) = storages.iter().find(|s| !starts.contains_key(&*s.key)) {
        return Err(damaged(format!("storage `{}` is missing", storage.key)));
    }
    Ok((value, Storages::Blocks { file, starts }))
}

impl Storages {
    /// The values of a tensor in C order.
    pub(super) fn read(&mut self, path: &Path, tensor: &TensorRef) -> Result<Vec<f32>, NetError> {
        let damaged = |what: String| NetError::Damaged { path: path.to_owned(), what };
        let inside = tensor.span().filter(|_| tensor.count().is_some_and(|n| n <= tensor.storage.len));
        let span = inside.ok_or_else(|| damaged("a tensor that leaves its storage".into()))?;
        let dtype = tensor.storage.dtype;
        let skip = (tensor.offset * dtype.size()) as u64;
        let values = match self {
            Storages::Zip { archive, root } => {
                let name = format!("{root}data/{}", tensor.storage.key);
                let mut entry = archive.by_name(&name).map_err(|e| damaged(format!("`{name}`: {e}")))?;
                let mut read = || {
                    std::io::copy(&mut (&mut entry).take(skip), &mut std::io::sink())?;
                    let values = read_values(&mut entry, dtype, span)?;
                    // To the end, since the checksum is compared there.
                    std::io::copy(&mut entry, &mut std::io::sink())?;
                    Ok(values)
                };
                read().map_err(|e: std::io::Error| damaged(format!("`{name}`: {e}")))?
            }
            Storages::Blocks { file, starts } => {
                let start = starts.get(&*tensor.storage.key);
                let start =
                    *start.ok_or_else(|| damaged(format!("storage `{}` is missing", tensor.storage.key)))?;
                file.seek(SeekFrom::Start(start + skip))
                    .and_then(|_| read_values(file, dtype, span))
                    .map_err(|source| NetError::Io { path: path.to_owned(), source })?
            }
        };
        Ok(if tensor.is_contiguous() { values } else { gather(&values, tensor) })
    }
}

/// Strided elements in C order.
fn gather(values: &[f32], tensor: &TensorRef) -> Vec<f32> {
    let count = tensor.count().unwrap_or(0);
    let mut out = Vec::with_capacity(count);
    let mut index = vec![0usize; tensor.shape.len()];
    while out.len() < count {
        out.push(values[index.iter().zip(&tensor.stride).map(|(i, s)| i * s).sum::<usize>()]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < tensor.shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// Every tensor of a state dict, with its name.
pub(super) fn state_dict(weights: &Value) -> Vec<(String, Place)> {
    let entries = weights.as_dict().unwrap_or_default();
    entries
        .iter()
        .filter_map(|(k, v)| match (k, v) {
            (Value::Str(name), Value::Tensor(tensor)) => {
                Some((name.to_string(), Place::Torch(tensor.clone())))
            }
            _ => None,
        })
        .collect()
}

/// A pickle that is a file of its own (`plans.pkl`, `*.model.pkl`).
///
/// # Errors
/// [`NetError::Io`] or [`NetError::Pickle`].
pub fn read_pickle_file(path: &Path) -> Result<Value, NetError> {
    let io = |source| NetError::Io { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    super::pickle::read_pickle(&mut reader).map_err(|source| match source {
        PickleError::Io(source) => NetError::Io { path: path.to_owned(), source },
        source => NetError::Pickle { path: path.to_owned(), source },
    })
}
