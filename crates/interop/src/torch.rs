//! PyTorch's two containers: a zip archive, and the older sequence of pickles and raw blocks.
//!
//! Only the pickle is read on opening. A tensor's values go straight from the file into the vector that becomes the
//! parameter, so a network is never in memory twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use zip::CompressionMethod;
use zip::ZipArchive;

use crate::error::InteropError;
use crate::pickle::read_with_storages;
use crate::value::{StorageRef, TensorRef, Value};

/// First pickle of the older container.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// The bytes a zip archive starts with.
const ZIP_START: &[u8] = b"PK";
/// The bytes that pickle starts with (protocol 2, a long of ten bytes).
const LEGACY_START: [u8; 4] = [0x80, 2, 0x8a, 10];

/// An open file of PyTorch: what its pickle holds, and where the values of its tensors are.
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    value: Value,
    storages: Mutex<Storages>,
}

impl TorchFile {
    /// Whether a file that begins with these bytes (at least four of them) is one of PyTorch's containers.
    pub fn begins_with(start: &[u8]) -> bool {
        start.starts_with(ZIP_START) || start.starts_with(&LEGACY_START)
    }

    /// Opens either container and reads its pickle.
    ///
    /// # Errors
    /// [`InteropError`] if the file cannot be read, is cut off, damaged, or wants to run code.
    pub fn open(path: &Path) -> Result<Self, InteropError> {
        let io = |source| InteropError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let mut start = Vec::new();
        (&mut file).take(4).read_to_end(&mut start).map_err(io)?;
        file.rewind().map_err(io)?;
        let (value, storages) = if start.starts_with(ZIP_START) {
            open_zip(path, file, bytes)?
        } else {
            open_legacy(path, file, bytes)?
        };
        Ok(Self { path: path.to_owned(), value, storages: Mutex::new(storages) })
    }

    /// What the pickle holds; its tensors say where their values are.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The values of a tensor in C order, as f32.
    ///
    /// # Errors
    /// [`InteropError::Damaged`] or [`InteropError::Io`] if the file does not hold them.
    pub fn read(&self, tensor: &TensorRef) -> Result<Vec<f32>, InteropError> {
        self.storages.lock().unwrap_or_else(PoisonError::into_inner).read(&self.path, tensor)
    }
}

/// Where the storages of a file are.
#[derive(Debug)]
enum Storages {
    /// Entries of the zip archive, under this root.
    Zip { archive: Box<ZipArchive<BufReader<File>>>, root: String },
    /// Blocks of a plain file: first byte of each.
    Blocks { file: BufReader<File>, starts: HashMap<String, u64> },
}

/// Opens a zip container and reads its pickle.
fn open_zip(path: &Path, file: File, bytes: u64) -> Result<(Value, Storages), InteropError> {
    let damaged = |what: String| InteropError::Damaged { path: path.to_owned(), what };
    let mut archive = match ZipArchive::new(BufReader::new(file)) {
        Ok(archive) => archive,
        Err(zip::result::ZipError::Io(source)) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            return Err(InteropError::Io { path: path.to_owned(), source });
        }
        Err(_) => {
            let what = "the zip directory at its end is missing".into();
            return Err(InteropError::Truncated { path: path.to_owned(), bytes, what });
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
    let pickled = |source| InteropError::Pickle { path: path.to_owned(), source };
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
fn open_legacy(path: &Path, file: File, bytes: u64) -> Result<(Value, Storages), InteropError> {
    let damaged = |what: String| InteropError::Damaged { path: path.to_owned(), what };
    let pickled = |source| InteropError::Pickle { path: path.to_owned(), source };
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
    let io = |source| InteropError::Io { path: path.to_owned(), source };
    let mut starts = HashMap::new();
    let mut at = file.stream_position().map_err(io)?;
    for key in keys.as_list().unwrap_or_default() {
        let storage =
            key.as_str().and_then(|k| by_key.get(k)).ok_or_else(|| damaged(format!("block `{key}`")))?;
        let truncated = || InteropError::Truncated {
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
    fn read(&mut self, path: &Path, tensor: &TensorRef) -> Result<Vec<f32>, InteropError> {
        let damaged = |what: String| InteropError::Damaged { path: path.to_owned(), what };
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
                    let values = dtype.read(&mut entry, span)?;
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
                    .and_then(|_| dtype.read(file, span))
                    .map_err(|source| InteropError::Io { path: path.to_owned(), source })?
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
