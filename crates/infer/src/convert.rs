//! Any readable model as our own folder: `plans.json`, `dataset.json`, and safetensors in place of pickles.
//!
//! What a model of version 1 leaves to its trainer's class is written out, with the rules that hold for it, so the new folder predicts
//! what the old one does, byte for byte. Every checkpoint is read back and asked the same as its source.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glioseg_formats::atomic;
use glioseg_interop::{KeyOrder, python_json};
use glioseg_net::checkpoint::{Metadata, write_safetensors};
use glioseg_net::{Checkpoint, EngineChoice, Mode, NetError, NetworkSpec, Parameters, Program};
use serde_json::Value;

use crate::InferError;
use crate::model::{CheckpointChoice, Fold, Folds, Model};

/// Files that belong to a model besides plans, dataset description and folds.
const BESIDE: [&str; 2] = ["postprocessing.json", "dataset_fingerprint.json"];

/// A checkpoint that was written and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The fold, a number or `all`.
    pub fold: String,
    /// Where it came from.
    pub source: PathBuf,
    /// The new file.
    pub file: PathBuf,
    /// Trained values.
    pub parameters: usize,
}

/// Writes the model of `source` to the folder `target`, every fold, the final checkpoints and the best ones; `done` is told of each.
///
/// # Errors
/// [`InferError::NotEmpty`] if `target` holds something, what opening the model says, [`InferError::ConversionDiffers`] if a copy does
/// not answer as its source, [`InferError::Output`] if something cannot be written.
pub fn convert(source: &Path, target: &Path, done: &mut dyn FnMut(&Converted)) -> Result<Model, InferError> {
    let failed = |source| InferError::Output { path: target.into(), source };
    if target.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || target.is_file() {
        return Err(InferError::NotEmpty { path: target.into() });
    }
    let open = |choice| Model::open(source, &Folds::Every, &choice).map(|model| (choice, model));
    let models: Vec<_> = match (open(CheckpointChoice::Final), open(CheckpointChoice::Best)) {
        (Ok(last), Ok(best)) => vec![last, best],
        (Ok(model), Err(_)) | (Err(_), Ok(model)) => vec![model],
        (Err(error), Err(_)) => return Err(error),
    };
    let first = &models[0].1;
    std::fs::create_dir_all(target).map_err(failed)?;
    for (choice, model) in &models {
        for fold in &model.folds {
            done(&convert_fold(model, fold, choice, target)?);
        }
    }
    for name in BESIDE {
        let from = source.join(name);
        if from.is_file() {
            std::fs::copy(&from, target.join(name)).map_err(failed)?;
        }
    }
    // A folder is a model as soon as these are there, so they come last.
    for (name, json) in [("plans.json", first.plans.raw()), ("dataset.json", &first.dataset.raw)] {
        let text = python_json(json, KeyOrder::Given);
        atomic::write(&target.join(name), |file| file.write_all(text.as_bytes()))?;
    }
    Model::open(target, &Folds::Every, &models[0].0)
}

fn convert_fold(
    model: &Model,
    fold: &Fold,
    choice: &CheckpointChoice,
    target: &Path,
) -> Result<Converted, InferError> {
    let folder = target.join(format!("fold_{}", fold.name));
    std::fs::create_dir_all(&folder).map_err(|source| InferError::Output { path: folder.clone(), source })?;
    let checkpoint = Checkpoint::open(&fold.checkpoint)?;
    let mut weights = Parameters::zeros(&model.network)?;
    weights.load_checkpoint(&checkpoint)?;
    let slices = usize::from(model.configuration.dim() == 2);
    let old = checkpoint.metadata();
    let metadata = Metadata {
        trainer_name: model.trainer.clone(),
        configuration: Some(model.configuration.name.clone()),
        fold: Some(fold.name.parse::<u64>().map_or_else(|_| Value::from(fold.name.as_str()), Value::from)),
        mirror_axes: Some(model.mirror_axes.iter().map(|a| a - slices).collect()),
        current_epoch: old.current_epoch,
        best_ema: old.best_ema,
        ..Metadata::default()
    };
    let file = folder.join(format!("{}.safetensors", choice.stem()));
    write_safetensors(&file, &weights, &metadata)?;

    let mut again = Parameters::zeros(&model.network)?;
    again.load_checkpoint(&Checkpoint::open(&file)?)?;
    let parameters = weights.num_trained();
    let before = answer(&model.network, weights)?;
    let after = answer(&model.network, again)?;
    let different = before.iter().zip(&after).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    if different > 0 || before.len() != after.len() {
        return Err(InferError::ConversionDiffers {
            converted: file,
            source_path: fold.checkpoint.clone(),
            different,
            total: before.len(),
        });
    }
    Ok(Converted { fold: fold.name.clone(), source: fold.checkpoint.clone(), file, parameters })
}

/// The logits for an input of the least size at which every layer has something to do.
fn answer(spec: &NetworkSpec, weights: Parameters) -> Result<Vec<f32>, NetError> {
    let size = spec.fixed_input().unwrap_or_else(|| spec.divisor().map(|d| if d == 1 { 1 } else { 2 * d }));
    let count = spec.in_channels * size.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| ((i * 2_654_435_761) % 1009) as f32 / 504.5 - 1.0).collect();
    let mut engine = EngineChoice::default().start()?;
    engine.prepare(&Program::new(spec, 1, size, Mode::Predict)?)?;
    engine.load(Arc::new(weights))?;
    let logits = engine.forward(&values)?;
    Ok(logits.heads[0].to_vec())
}
