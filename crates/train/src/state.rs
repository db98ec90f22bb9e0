//! Where a training stands, and the checkpoints that hold it.
//!
//! `checkpoint_latest` is the whole state: weights, the optimiser's numbers, and [`Progress`] in one file, written under
//! another name and renamed. The one before is kept as `checkpoint_previous`, for the case that the newer one is
//! damaged later; every value is covered by a hash. Random numbers need no state of their own: they follow from seed, epoch
//! and iteration. `checkpoint_best` and `checkpoint_final` hold weights only, and nothing that depends on the clock.

use std::path::{Path, PathBuf};

use glioseg_net::checkpoint::{Metadata, write_safetensors, write_training};
use glioseg_net::optimiser::Optimiser;
use glioseg_net::{Checkpoint, NetError, Parameters, Precision};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::setup::first_difference;
use super::{Settings, Setup, TrainError, TrainOptions};

/// What an epoch brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 0.
    pub epoch: usize,
    /// Learning rate.
    pub lr: f64,
    /// Mean loss of the training batches.
    pub train_loss: f64,
    /// Mean loss of the validation batches.
    pub val_loss: f64,
    /// Dice of every label or region over all voxels of all validation batches; none where neither the reference nor the
    /// prediction has it.
    pub dice: Vec<Option<f64>>,
    /// Their mean.
    pub mean_dice: Option<f64>,
    /// Moving average of the mean.
    pub ema_dice: Option<f64>,
    /// Whether the moving average is the best so far.
    pub best: bool,
    /// Mean length of the gradients before clipping.
    pub gradient_norm: f64,
    /// Seconds that it took, saving included.
    pub seconds: f64,
    /// When it ended, in seconds since 1970.
    pub ended: f64,
}

/// Where a training stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs that are finished.
    pub epoch: usize,
    /// Training batches of the present epoch that are done.
    pub iteration: usize,
    /// Sum of their losses.
    pub loss_sum: f64,
    /// Sum of the lengths of their gradients.
    pub norm_sum: f64,
    /// Learning rate of the present epoch, once it has begun.
    pub lr: Option<f64>,
    /// Seconds spent in the present epoch.
    pub epoch_seconds: f64,
    /// Seconds spent in all.
    pub seconds: f64,
    /// Best moving average.
    pub best_ema: Option<f64>,
    /// All finished epochs.
    pub history: Vec<EpochRecord>,
    /// Steps of the optimiser per parameter.
    pub steps: Vec<u64>,
    /// What the training was started with.
    pub begun_with: StartedWith,
}

/// What may not change while a training continues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartedWith {
    /// The settings.
    pub settings: Settings,
    /// Configuration of the plans.
    pub configuration: Value,
    /// Cases of the fold.
    pub fold: Value,
    /// The file whose weights came first, if any.
    pub weights: Option<String>,
    /// How exact it computes; checkpoints that do not say it are of single precision.
    #[serde(default = "single", skip_serializing_if = "is_single")]
    pub precision: String,
}

fn single() -> String {
    Precision::F32.word().into()
}

fn is_single(precision: &str) -> bool {
    precision == Precision::F32.word()
}

impl StartedWith {
    pub(super) fn new(setup: &Setup, options: &TrainOptions) -> Self {
        Self {
            // The number of threads changes nothing.
            settings: Settings { batch_threads: None, ..setup.settings.clone() },
            configuration: Value::Object(setup.configuration.raw.clone()),
            fold: json!({"train": setup.fold.train, "val": setup.fold.val}),
            weights: options.weights.as_ref().map(|w| w.display().to_string()),
            precision: options.engine.precision.word().into(),
        }
    }
}

impl StartedWith {
    /// Whether a training that has done `epoch` epochs can continue with these settings: the number of epochs may change, as long
    /// as it is not below what is done.
    fn continues_as(&self, now: &Self, epoch: usize) -> bool {
        let epochs = now.settings.epochs;
        let same = Self { settings: Settings { epochs, ..self.settings.clone() }, ..self.clone() };
        same == *now && epochs >= epoch
    }
}

impl Progress {
    pub(super) fn new(begun_with: StartedWith) -> Self {
        Self {
            epoch: 0,
            iteration: 0,
            loss_sum: 0.0,
            norm_sum: 0.0,
            lr: None,
            epoch_seconds: 0.0,
            seconds: 0.0,
            best_ema: None,
            history: vec![],
            steps: vec![],
            begun_with,
        }
    }

    /// Epoch and iteration, to compare checkpoints by.
    fn position(&self) -> (usize, usize) {
        (self.epoch, self.iteration)
    }
}

/// File names in a fold's folder.
const LATEST: &str = "checkpoint_latest.safetensors";
const PREVIOUS: &str = "checkpoint_previous.safetensors";
const NEXT: &str = "checkpoint_next.safetensors";
const BEST: &str = "checkpoint_best.safetensors";
const FINAL: &str = "checkpoint_final.safetensors";
/// A line per finished epoch.
pub(super) const LOG: &str = "training_log.jsonl";

/// The checkpoints of a fold.
#[derive(Debug, Clone)]
pub(super) struct Store {
    folder: PathBuf,
    /// What every checkpoint says of its training.
    metadata: Metadata,
}

/// A state that was read back.
pub(super) struct Restored {
    pub(super) parameters: Parameters,
    pub(super) progress: Progress,
    /// Where it came from.
    pub(super) path: PathBuf,
    /// Newer checkpoints that could not be used, and why.
    pub(super) damaged: Vec<String>,
}

impl Store {
    pub(super) fn new(setup: &Setup) -> Self {
        let slices = 3 - setup.configuration.dim();
        let axes = setup.mirror_axes().into_iter().filter(|&a| a >= slices).map(|a| a - slices).collect();
        let metadata = Metadata {
            trainer_name: Some(setup.settings.trainer.clone()),
            configuration: Some(setup.configuration.name.clone()),
            fold: Some(match setup.choice {
                super::FoldChoice::Number(number) => number.into(),
                super::FoldChoice::All => "all".into(),
            }),
            mirror_axes: Some(axes),
            plans: Some(setup.plans.raw().clone()),
            dataset_json: Some(setup.dataset.description_v2()),
            ..Metadata::default()
        };
        Self { folder: setup.folder.clone(), metadata }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the folder holds, if that stands in the way of a new training.
    pub(super) fn occupied(&self) -> Option<String> {
        if self.path(FINAL).exists() {
            return Some("a finished training".to_owned());
        }
        if [LATEST, PREVIOUS, NEXT, BEST].iter().any(|n| self.path(n).exists()) {
            return Some("an unfinished training".to_owned());
        }
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().display().to_string();
        self.foreign().first().map(|path| format!("a training of nnU-Net ({})", name(path)))
    }

    /// Checkpoints of nnU-Net itself, sorted by name.
    fn foreign(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let version_1 = name.starts_with("model_") && name.ends_with(".model");
                version_1 || (name.starts_with("checkpoint_") && name.ends_with(".pth"))
            })
            .collect();
        found.sort();
        found
    }

    /// The finished network's file, if it is there.
    pub(super) fn finished(&self) -> Option<PathBuf> {
        Some(self.path(FINAL)).filter(|p| p.exists())
    }

    /// The newest checkpoint to resume from.
    pub(super) fn newest(&self) -> Option<PathBuf> {
        [LATEST, NEXT, PREVIOUS].iter().map(|n| self.path(n)).find(|p| p.exists())
    }

    fn remove(&self, names: &[&str]) -> Result<(), TrainError> {
        for name in names {
            let path = self.path(name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(TrainError::io(&path, "remove", e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes all checkpoints, also nnU-Net's: two trainings in one folder could not be told apart.
    pub(super) fn clear(&self) -> Result<(), TrainError> {
        for path in self.foreign() {
            std::fs::remove_file(&path).map_err(|e| TrainError::io(&path, "remove", e))?;
        }
        self.remove(&[LATEST, PREVIOUS, NEXT, BEST, FINAL])
    }

    /// Metadata with the whole progress, or only with what the training was started with, which tells nothing of the clock.
    fn metadata(&self, progress: &Progress, state: bool) -> Result<Metadata, TrainError> {
        let training = if state {
            serde_json::to_value(progress)
        } else {
            serde_json::to_value(&progress.begun_with).map(|begun| json!({ "begun_with": begun }))
        };
        let path = self.path(LATEST);
        let training = training.map_err(|e| self.failed(NetError::Io { path, source: e.into() }))?;
        Ok(Metadata {
            current_epoch: Some(progress.epoch),
            best_ema: progress.best_ema,
            training: Some(training),
            ..self.metadata.clone()
        })
    }

    fn failed(&self, source: NetError) -> TrainError {
        TrainError::Save { source: Box::new(source), kept: self.newest() }
    }

    /// Saves the whole state as the latest checkpoint; the one before is kept.
    pub(super) fn save_latest(
        &self,
        parameters: &Parameters,
        progress: &mut Progress,
    ) -> Result<(), TrainError> {
        progress.steps = parameters.optimiser().map(Optimiser::steps).unwrap_or_default();
        let (next, latest) = (self.path(NEXT), self.path(LATEST));
        let metadata = self.metadata(progress, true)?;
        write_training(&next, parameters, &metadata).map_err(|e| self.failed(e))?;
        // Whatever moment the machine stops at, one whole checkpoint has one of the three names.
        if latest.exists() {
            let previous = self.path(PREVIOUS);
            std::fs::rename(&latest, &previous).map_err(|e| TrainError::io(&previous, "write", e))?;
        }
        std::fs::rename(&next, &latest).map_err(|e| TrainError::io(&latest, "write", e))
    }

    /// Saves the weights as the best so far.
    pub(super) fn save_best(&self, parameters: &Parameters, progress: &Progress) -> Result<(), TrainError> {
        let metadata = self.metadata(progress, false)?;
        write_safetensors(&self.path(BEST), parameters, &metadata).map_err(|e| self.failed(e))
    }

    /// Saves the weights as the result; nothing is left to resume from.
    ///
    /// # Source
    /// nnU-Net v2, `nnUNetTrainer.on_train_end`.
    pub(super) fn save_final(
        &self,
        parameters: &Parameters,
        progress: &Progress,
    ) -> Result<PathBuf, TrainError> {
        let path = self.path(FINAL);
        let metadata = self.metadata(progress, false)?;
        write_safetensors(&path, parameters, &metadata).map_err(|e| self.failed(e))?;
        self.remove(&[LATEST, PREVIOUS, NEXT])?;
        Ok(path)
    }

    /// Reads the newest checkpoint that is whole into `parameters` and their optimiser.
    ///
    /// # Errors
    /// [`TrainError::OtherTraining`] if it was started with something else; [`TrainError::NoCheckpoint`] if none is
    /// whole.
    pub(super) fn restore(
        &self,
        mut parameters: Parameters,
        begun_with: &StartedWith,
    ) -> Result<Restored, TrainError> {
        if self.newest().is_none()
            && let Some(path) = self.finished()
        {
            return self.extend(path, parameters, begun_with);
        }
        let mut damaged = vec![];
        let mut found: Vec<(Progress, Checkpoint)> = vec![];
        for path in [LATEST, NEXT, PREVIOUS].map(|n| self.path(n)).into_iter().filter(|p| p.exists()) {
            match open_state(&path) {
                Ok(state) => found.push(state),
                Err(error) => damaged.push(error.to_string()),
            }
        }
        found.sort_by_key(|(progress, _)| std::cmp::Reverse(progress.position()));
        for (mut progress, checkpoint) in found {
            let path = checkpoint.path().to_owned();
            if !progress.begun_with.continues_as(begun_with, progress.epoch) {
                return Err(other_training(path, &progress.begun_with, begun_with));
            }
            progress.begun_with = begun_with.clone();
            let mut optimiser = parameters.optimiser().cloned();
            let read = parameters.load_checkpoint(&checkpoint).and_then(|()| {
                optimiser.as_mut().map_or(Ok(()), |o| o.restore(&checkpoint, &progress.steps))
            });
            match read {
                Ok(()) => {
                    parameters.set_optimiser(optimiser);
                    return Ok(Restored { parameters, progress, path, damaged });
                }
                Err(error) => damaged.push(error.to_string()),
            }
        }
        let reason = if damaged.is_empty() { "there is none".into() } else { damaged.join("; ") };
        Err(TrainError::NoCheckpoint { path: self.folder.clone(), reason })
    }
}

impl Store {
    /// A finished training that gets more epochs: its weights, with an optimiser at rest, since a result holds weights alone.
    fn extend(
        &self,
        path: PathBuf,
        mut parameters: Parameters,
        begun_with: &StartedWith,
    ) -> Result<Restored, TrainError> {
        let unusable = |reason: String| TrainError::NoCheckpoint { path: self.folder.clone(), reason };
        let checkpoint = Checkpoint::open(&path).map_err(|e| unusable(e.to_string()))?;
        checkpoint.verify().map_err(|e| unusable(e.to_string()))?;
        parameters.load_checkpoint(&checkpoint).map_err(|e| unusable(e.to_string()))?;
        let log = std::fs::read_to_string(self.path(LOG)).unwrap_or_default();
        let history: Vec<EpochRecord> = log.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        let progress = Progress {
            epoch: checkpoint.metadata().current_epoch.unwrap_or(0),
            best_ema: checkpoint.metadata().best_ema,
            history,
            ..Progress::new(begun_with.clone())
        };
        Ok(Restored { parameters, progress, path, damaged: vec![] })
    }

    /// Whether the finished training was started for fewer epochs than are asked for now.
    pub(super) fn wants_more(&self, epochs: usize) -> bool {
        let before = self.finished().and_then(|path| begun_with(&path));
        before.is_some_and(|before| before.settings.epochs < epochs)
    }
}

/// A checkpoint whose values are whole, and where its training stands.
fn open_state(path: &Path) -> Result<(Progress, Checkpoint), NetError> {
    let checkpoint = Checkpoint::open(path)?;
    checkpoint.verify()?;
    let damaged = |what: String| NetError::Damaged { path: path.to_owned(), what };
    let training = checkpoint.metadata().training.clone();
    let training = training.ok_or_else(|| damaged("it does not tell where its training stands".into()))?;
    let progress =
        serde_json::from_value(training).map_err(|e| damaged(format!("state of the training: {e}")))?;
    Ok((progress, checkpoint))
}

/// Folders of this fold in a results folder that hold a training to resume.
pub(super) fn stopped_trainings(results: &Path, fold: &str) -> Vec<PathBuf> {
    let models = std::fs::read_dir(results).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = models
        .map(|model| model.path().join(fold))
        .filter(|folder| [LATEST, NEXT, PREVIOUS].iter().any(|name| folder.join(name).exists()))
        .collect();
    folders.sort();
    folders
}

/// What the training in a fold's folder was started with: one that can continue, or one that is finished. `None` if there is
/// no usable checkpoint.
pub fn saved_settings(folder: &Path) -> Option<Settings> {
    // A finished training that gets more epochs has both.
    let paths = [LATEST, NEXT, PREVIOUS, FINAL].map(|n| folder.join(n));
    paths.iter().find_map(|path| begun_with(path)).map(|begun| begun.settings)
}

/// What the training of a checkpoint was started with.
fn begun_with(path: &Path) -> Option<StartedWith> {
    let checkpoint = Checkpoint::open(path).ok()?;
    serde_json::from_value(checkpoint.metadata().training.as_ref()?.get("begun_with")?.clone()).ok()
}

/// Refuses to resume a training that was started with other settings.
pub(super) fn check_started_with(path: &Path, now: &StartedWith) -> Result<(), TrainError> {
    match begun_with(path) {
        Some(before) if !before.continues_as(now, 0) => Err(other_training(path.to_owned(), &before, now)),
        _ => Ok(()),
    }
}

fn other_training(path: PathBuf, before: &StartedWith, now: &StartedWith) -> TrainError {
    if before.precision != now.precision {
        let [before, now] = [before, now].map(|b| b.precision.clone());
        return TrainError::OtherTraining { path, what: "the precision".into(), before, now };
    }
    let value = |b: &StartedWith| serde_json::to_value(b).unwrap_or(Value::Null);
    let (before, now) = (value(before), value(now));
    for (key, what) in [
        ("settings", "the setting"),
        ("configuration", "the plan's"),
        ("fold", "the fold's"),
        ("weights", "the first weights"),
    ] {
        if before[key] != now[key] {
            let (before, now) = first_difference(&before[key], &now[key]);
            return TrainError::OtherTraining { path, what: what.into(), before, now };
        }
    }
    unreachable!("two trainings that differ in nothing")
}
