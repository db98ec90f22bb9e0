//! First weights from another training.

use std::path::{Path, PathBuf};

use glioseg_net::{Checkpoint, Parameters};

use super::TrainError;
use glioseg_infer::InferError;

/// What was taken from another network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    /// The file.
    pub(super) path: PathBuf,
    /// Tensors taken.
    pub(super) tensors: usize,
    /// Tensors that keep their random values.
    pub(super) kept: Vec<String>,
}

/// The checkpoint that a path means: a file, a fold's folder, or a model's.
pub(super) fn checkpoint_of(path: &Path) -> Result<PathBuf, TrainError> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let names = ["checkpoint_final.safetensors", "checkpoint_final.pth", "model_final_checkpoint.model"];
    let folds = ["", "fold_0", "fold_all", "fold_1", "fold_2", "fold_3", "fold_4"];
    let candidates = folds.iter().flat_map(|fold| names.map(|name| path.join(fold).join(name)));
    candidates.into_iter().find(|p| p.is_file()).ok_or_else(|| {
        TrainError::from(InferError::NotAModel {
            path: path.to_owned(),
            reason: "it has no checkpoint_final".into(),
            below: vec![],
        })
    })
}

/// Takes the weights of a checkpoint but for its heads; position embeddings for another patch are interpolated where that is asked for.
pub(super) fn load(parameters: &mut Parameters, path: &Path, interpolate: bool) -> Result<Taken, TrainError> {
    let path = checkpoint_of(path)?;
    let kept = parameters.load_pretrained(&Checkpoint::open(&path)?, interpolate)?;
    let tensors = parameters.shapes().len() - kept.len();
    Ok(Taken { path, tensors, kept })
}
