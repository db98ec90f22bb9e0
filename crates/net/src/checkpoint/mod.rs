//! Trained weights and what is known about them, from nnU-Net's files or ours.
//!
//! [`Checkpoint::open`] looks at the content, not the name: PyTorch's zip archive (nnU-Net v2's `.pth`, v1's
//! `.model`), PyTorch's older container, or safetensors. Opening reads names, shapes and metadata; values are read
//! when they are asked for.
//!
//! # Our own format
//! A safetensors file: every tensor once, as f32, under nnU-Net's name, and in the header's `__metadata__` the entry
//! `glioseg` with [`Metadata`] as JSON text. One file, so that weights and metadata cannot come apart. Where that
//! entry is missing because another program wrote the file, the same JSON is taken from the file of that name ending
//! in `.json`, if there is one: `checkpoint_final.json` for `checkpoint_final.safetensors`.
//!
//! A training that can continue also keeps what its optimiser needs, under names that begin with `optimizer.`; they are not
//! weights, and loading weights passes them over.

mod axes;
mod safetensors;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use glioseg_diagnose::{Expected, ForeignFile};
use glioseg_interop::{TensorRef, TensorType, TorchFile, Value, read_pickle_file};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::NetError;
pub use safetensors::{write_safetensors, write_training};

/// How names of what an optimiser keeps begin in our own files.
const STATE: &str = "optimizer.";

fn hexadecimal(bytes: &[u8]) -> String {
    let digits = |b: u8| [b >> 4, b & 15].map(|d| char::from_digit(d.into(), 16).unwrap_or_default());
    bytes.iter().flat_map(|&b| digits(b)).collect()
}

/// Where a checkpoint comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointKind {
    /// nnU-Net v2's `.pth`.
    NnUnetV2,
    /// nnU-Net v1's `.model`.
    NnUnetV1,
    /// A safetensors file, ours or another program's.
    Safetensors,
}

/// What a checkpoint says about itself; every field is optional, since older files lack some.
///
/// This is also the JSON in the header of our own files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Class name of nnU-Net's trainer.
    pub trainer_name: Option<String>,
    /// Configuration of the plans, such as `3d_fullres`.
    pub configuration: Option<String>,
    /// Fold, a number or `"all"`.
    pub fold: Option<Json>,
    /// Axes that may be mirrored at inference, 0 the first spatial one; empty if none may, `None` if the file does
    /// not tell, or not in numbers; [`Checkpoint::mirror_axes`] says which.
    pub mirror_axes: Option<Vec<usize>>,
    /// Epochs that were finished.
    pub current_epoch: Option<usize>,
    /// Exponential moving average of the validation Dice that was best so far.
    pub best_ema: Option<f64>,
    /// The plans file.
    pub plans: Option<Json>,
    /// The dataset description.
    pub dataset_json: Option<Json>,
    /// Where a training that continues stands; in files of this program only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<Json>,
}

/// Where a tensor's values are.
#[derive(Debug, Clone)]
enum TensorPlace {
    Torch(Arc<TensorRef>),
    Flat { start: u64, dtype: TensorType, shape: Vec<usize> },
}

impl TensorPlace {
    fn shape(&self) -> &[usize] {
        match self {
            TensorPlace::Torch(tensor) => &tensor.shape,
            TensorPlace::Flat { shape, .. } => shape,
        }
    }
}

/// What reads the values.
#[derive(Debug)]
enum Container {
    Torch(TorchFile),
    Flat(Mutex<File>),
}

/// A tensor of a checkpoint: its name and shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// As it stands in the file.
    pub name: &'a str,
    /// Length of every axis.
    pub shape: &'a [usize],
}

/// An open file of weights.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    kind: CheckpointKind,
    metadata: Metadata,
    tensors: Vec<(String, TensorPlace)>,
    index: HashMap<String, usize>,
    /// What an optimiser keeps, in our own files.
    state: Vec<(String, TensorPlace)>,
    /// Hash of all values, in our own files.
    hash: Option<String>,
    container: Container,
}

impl Checkpoint {
    /// Opens a checkpoint of any known format. For nnU-Net v1's `NAME.model`, `NAME.model.pkl` is read too if it
    /// is there.
    ///
    /// # Errors
    /// [`NetError`] if the file cannot be read, is of no known format, cut off, damaged, holds code, or no weights.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetError> {
        let path = path.as_ref().to_owned();
        let io = |source| NetError::Io { path: path.clone(), source };
        let mut file = File::open(&path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let mut start = Vec::new();
        (&mut file).take(16).read_to_end(&mut start).map_err(io)?;
        std::io::Seek::rewind(&mut file).map_err(io)?;
        if start.is_empty() {
            let what = "it is empty".into();
            return Err(NetError::Truncated { path, bytes, what });
        }
        if TorchFile::begins_with(&start) {
            let torch = TorchFile::open(&path)?;
            return Self::from_torch(path, torch);
        }
        if start.get(8) == Some(&b'{') {
            let again = file.try_clone().map_err(io)?;
            let safetensors::Header { tensors, metadata, hash } = safetensors::open(&path, again, bytes)?;
            let (state, weights) = tensors.into_iter().partition(|(name, _)| name.starts_with(STATE));
            let (kind, container) = (CheckpointKind::Safetensors, Container::Flat(Mutex::new(file)));
            let checkpoint = Self::new(path, kind, metadata, weights, container);
            return Ok(Self { state, hash, ..checkpoint });
        }
        if let Some(foreign) = ForeignFile::at(&path, Expected::Weights) {
            return Err(NetError::Foreign(foreign));
        }
        let found = format!("`{}`", start.escape_ascii());
        Err(NetError::UnknownFormat { path, found })
    }

    fn new(
        path: PathBuf,
        kind: CheckpointKind,
        metadata: Metadata,
        tensors: Vec<(String, TensorPlace)>,
        container: Container,
    ) -> Self {
        let index = tensors.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        Self { path, kind, metadata, tensors, index, state: vec![], hash: None, container }
    }

    fn from_torch(path: PathBuf, torch: TorchFile) -> Result<Self, NetError> {
        let value = torch.value();
        let no_weights = |found: String| NetError::NoWeights { path: path.clone(), found };
        let (kind, weights) = if let Some(weights) = value.get("network_weights") {
            (CheckpointKind::NnUnetV2, weights)
        } else if let Some(weights) = value.get("state_dict") {
            (CheckpointKind::NnUnetV1, weights)
        } else {
            let keys =
                value.as_dict().map(|d| d.iter().take(20).map(|(k, _)| format!("`{k}`")).collect::<Vec<_>>());
            return Err(no_weights(
                keys.map_or(value.kind().into(), |k| format!("a dict of {}", k.join(", "))),
            ));
        };
        let tensors = state_dict(weights).map_err(|(name, value)| NetError::NoTensor {
            path: path.clone(),
            name,
            found: if let Value::Foreign(class) = value { class.to_string() } else { value.kind().into() },
        })?;
        if tensors.is_empty() {
            return Err(no_weights("its weights are empty".into()));
        }
        let metadata = match kind {
            CheckpointKind::NnUnetV1 => v1_metadata(&path, value)?,
            _ => Metadata { mirror_axes: axes::understood(&torch), ..v2_metadata(value) },
        };
        Ok(Self::new(path, kind, metadata, tensors, Container::Torch(torch)))
    }

    /// Only the tensors whose names start with `prefix`, under the rest of their names: for files that hold several
    /// networks.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors =
            tensors.filter_map(|(name, p)| Some((name.strip_prefix(prefix)?.to_owned(), p))).collect();
        self.index = self.tensors.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it comes from.
    pub fn kind(&self) -> CheckpointKind {
        self.kind
    }

    /// What it says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Everything else that a PyTorch file holds (optimizer state, logs …); `None` for safetensors.
    pub fn pickle(&self) -> Option<&Value> {
        match &self.container {
            Container::Torch(torch) => Some(torch.value()),
            Container::Flat(_) => None,
        }
    }

    /// Names and shapes of the weights, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, place)| TensorInfo { name, shape: place.shape() })
    }

    /// Whether there is a weight of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The values of a weight in C order, as f32.
    ///
    /// # Errors
    /// [`NetError::Damaged`] or [`NetError::Io`] if the file does not hold them.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, NetError> {
        let Some(&i) = self.index.get(name) else {
            return Err(NetError::Damaged { path: self.path.clone(), what: format!("no tensor `{name}`") });
        };
        self.read_place(&self.tensors[i].1)
    }

    fn read_place(&self, place: &TensorPlace) -> Result<Vec<f32>, NetError> {
        match (place, &self.container) {
            (TensorPlace::Torch(tensor), Container::Torch(torch)) => Ok(torch.read(tensor)?),
            (TensorPlace::Flat { start, dtype, shape }, Container::Flat(file)) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                safetensors::read(&mut file, *start, *dtype, shape.iter().product())
                    .map_err(|source| NetError::Io { path: self.path.clone(), source })
            }
            _ => unreachable!("one container per file"),
        }
    }

    /// What an optimiser kept under this name, in our own files.
    pub(crate) fn read_state(&self, name: &str) -> Result<Vec<f32>, NetError> {
        let found = self.state.iter().find(|(n, _)| n == name);
        let (_, place) = found.ok_or_else(|| NetError::Damaged {
            path: self.path.clone(),
            what: format!("no tensor `{name}`"),
        })?;
        self.read_place(place)
    }

    /// Reads all values of one of our own files and compares them with the hash in its header; a file without one is
    /// taken as it is.
    ///
    /// # Errors
    /// [`NetError::Damaged`] if a value has changed since the file was written; [`NetError::Io`].
    pub fn verify(&self) -> Result<(), NetError> {
        let Some(expected) = &self.hash else { return Ok(()) };
        let mut tensors: Vec<&(String, TensorPlace)> = self.tensors.iter().chain(&self.state).collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let mut hasher = Sha256::new();
        for (name, place) in tensors {
            hasher.update(name.as_bytes());
            for piece in self.read_place(place)?.chunks(1 << 14) {
                let bytes: Vec<u8> = piece.iter().flat_map(|v| v.to_le_bytes()).collect();
                hasher.update(bytes);
            }
        }
        if hexadecimal(&hasher.finalize()) == *expected {
            return Ok(());
        }
        let what = "its values are not those that were written".into();
        Err(NetError::Damaged { path: self.path.clone(), what })
    }

    /// The values of a tensor that [`Self::pickle`] mentions, in C order, as f32.
    ///
    /// # Errors
    /// [`NetError::Damaged`] or [`NetError::Io`] if the file does not hold them.
    pub fn read_tensor(&self, tensor: &TensorRef) -> Result<Vec<f32>, NetError> {
        match &self.container {
            Container::Torch(torch) => Ok(torch.read(tensor)?),
            Container::Flat(_) => {
                let what = "a reference to another file's tensor".into();
                Err(NetError::Damaged { path: self.path.clone(), what })
            }
        }
    }

    /// SHA-256 of the whole file, in hexadecimal; reads the file.
    ///
    /// # Errors
    /// [`NetError::Io`] if the file cannot be read.
    pub fn sha256(&self) -> Result<String, NetError> {
        let io = |source| NetError::Io { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(io)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer).map_err(io)?;
            if read == 0 {
                return Ok(hexadecimal(&hasher.finalize()));
            }
            hasher.update(&buffer[..read]);
        }
    }

    /// Whether two weights are the same block of the file.
    pub(crate) fn same_place(&self, a: &str, b: &str) -> bool {
        let place = |name: &str| self.index.get(name).map(|&i| &self.tensors[i].1);
        matches!((place(a), place(b)), (Some(TensorPlace::Torch(a)), Some(TensorPlace::Torch(b))) if a == b)
    }

    /// Which training made the weights, in words.
    pub(crate) fn origin(&self) -> Option<String> {
        let m = &self.metadata;
        let plans = m.plans.as_ref();
        let text = |key: &str| plans.and_then(|p| p.get(key)).and_then(Json::as_str);
        let parts =
            [m.trainer_name.as_deref(), text("plans_name"), m.configuration.as_deref(), text("dataset_name")];
        let parts: Vec<String> = parts.into_iter().flatten().map(|p| format!("`{p}`")).collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    }
}

/// What nnU-Net v2 puts next to the weights.
///
/// # Source
/// `nnUNetTrainer.save_checkpoint`.
fn v2_metadata(value: &Value) -> Metadata {
    let init = |key: &str| value.get("init_args").and_then(|i| i.get(key));
    let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_owned);
    Metadata {
        trainer_name: text(value.get("trainer_name")),
        configuration: text(init("configuration")),
        fold: init("fold").map(Value::to_json),
        mirror_axes: None,
        current_epoch: value.get("current_epoch").and_then(Value::as_usize),
        best_ema: value.get("_best_ema").and_then(Value::as_f64),
        plans: init("plans").map(Value::to_json),
        dataset_json: init("dataset_json").map(Value::to_json),
        training: None,
    }
}

/// What nnU-Net v1 puts next to the weights, most of it in a second file.
///
/// # Source
/// `NetworkTrainer.save_checkpoint`, `nnUNetTrainer.save_checkpoint`.
fn v1_metadata(path: &Path, value: &Value) -> Result<Metadata, NetError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".pkl");
    let beside = PathBuf::from(name);
    let second = if beside.exists() { Some(read_pickle_file(&beside)?) } else { None };
    let entry = |key: &str| second.as_ref().and_then(|s| s.get(key));
    Ok(Metadata {
        trainer_name: entry("name").and_then(Value::as_str).map(str::to_owned),
        fold: entry("init").and_then(Value::as_list).and_then(|init| init.get(1)).map(Value::to_json),
        current_epoch: value.get("epoch").and_then(Value::as_usize),
        plans: entry("plans").map(Value::to_json),
        ..Metadata::default()
    })
}

/// Every tensor of a state dict, with its name; the first entry that is not a tensor.
///
/// Counters of batches do not matter to a network and may be anything.
fn state_dict(weights: &Value) -> Result<Vec<(String, TensorPlace)>, (String, &Value)> {
    let entries = weights.as_dict().unwrap_or_default().iter();
    let named = entries.filter_map(|(key, value)| Some((key.as_str()?, value)));
    let weights = named.filter(|(name, value)| value.as_tensor().is_some() || !name.ends_with(COUNTER));
    weights
        .map(|(name, value)| match value {
            Value::Tensor(tensor) => Ok((name.to_owned(), TensorPlace::Torch(tensor.clone()))),
            other => Err((name.to_owned(), other)),
        })
        .collect()
}

/// How the names of counters of batches end.
pub(crate) const COUNTER: &str = ".num_batches_tracked";
