//! What can go wrong with a training.

use std::path::{Path, PathBuf};

use glioseg_diagnose::{Diagnose, boxed_from};
use glioseg_formats::FormatError;
use glioseg_metrics::MetricsError;
use glioseg_net::NetError;
use glioseg_plan::PlanError;
use glioseg_prep::augment::AugmentError;
use glioseg_prep::store::StoreError;
use thiserror::Error;

use glioseg_infer::InferError;

/// Why a training could not begin, or stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file that should hold settings.
    #[error("{}: {reason}", path.display())]
    Preset {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Neither the name of a preset nor a file.
    #[error("unknown preset `{name}`; presets: {}", known.join(", "))]
    UnknownPreset {
        /// What was asked for.
        name: String,
        /// The presets that come along.
        known: Vec<String>,
    },
    /// A setting that makes no sense.
    #[error("the setting `{name}` is {found}, but must be {expected}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A setting that cannot be set as it was asked for.
    #[error("`{text}` cannot be set: {reason}")]
    Assignment {
        /// What was asked for.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// Prepared cases are missing.
    #[error("{missing} of {of} cases are not prepared for {configuration}, such as `{first}`")]
    NotPrepared {
        /// The configuration.
        configuration: String,
        /// How many.
        missing: usize,
        /// Of how many.
        of: usize,
        /// One of them.
        first: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// A later stage of a cascade for which the stage before has not segmented all cases.
    #[error(
        "{missing} of {of} cases have no segmentation of the stage `{previous}`, which `{configuration}` reads, such as `{first}`{}",
        if *packed { "; nnU-Net's compressed file (.b2nd) is there, which glioseg does not read" } else { "" }
    )]
    NoPreviousStage {
        /// The configuration.
        configuration: String,
        /// The stage before.
        previous: String,
        /// How many.
        missing: usize,
        /// Of how many.
        of: usize,
        /// One of them.
        first: String,
        /// The fold of the stage before that validates it.
        fold: Option<usize>,
        /// Where it should be.
        path: PathBuf,
        /// Whether nnU-Net's own file is there.
        packed: bool,
    },
    /// The second stage of a cascade of version 1.
    #[error("configuration `{configuration}` is the second stage of a cascade by the rules of nnU-Net v1")]
    CascadeV1 {
        /// The configuration.
        configuration: String,
    },
    /// A patch that the network cannot take.
    #[error("a patch of {patch:?} voxels does not fit the network, which takes multiples of {divisor:?}")]
    Patch {
        /// Voxels of the patch.
        patch: Vec<usize>,
        /// What its edges must be multiples of.
        divisor: Vec<usize>,
    },
    /// Not enough memory.
    #[error(
        "the training needs about {:.1} GB of memory, but {:.1} GB are free (network and its gradients {:.1}, feature maps {:.1}, \
         batches {:.1})",
        gb(*needed), gb(*free), gb(*network), gb(*maps), gb(*batches)
    )]
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// Weights, their gradients and the optimiser's state.
        network: u64,
        /// Feature maps and their gradients.
        maps: u64,
        /// Batches made ahead.
        batches: u64,
    },
    /// The fold's folder has been used.
    #[error("{} holds {what}", path.display())]
    Exists {
        /// The fold's folder.
        path: PathBuf,
        /// What it holds.
        what: String,
    },
    /// No training can be resumed.
    #[error("there is no training to resume in {}{}", path.display(), others(stopped))]
    NothingToResume {
        /// The fold's folder.
        path: PathBuf,
        /// Folders with stopped trainings of the same fold.
        stopped: Vec<PathBuf>,
        /// What stands there instead, if it is not a training of this program.
        holds: Option<String>,
    },
    /// A training to be resumed was started with other settings, or in another precision.
    #[error("the training in {} was started with {what} {before}, but now {what} is {now}", path.display())]
    OtherTraining {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        what: String,
        /// As it was.
        before: String,
        /// As it is.
        now: String,
    },
    /// No checkpoint is left to resume from.
    #[error("none of the checkpoints in {} can be used: {reason}", path.display())]
    NoCheckpoint {
        /// The fold's folder.
        path: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// The loss or the gradients are no numbers.
    #[error(
        "epoch {epoch}, iteration {iteration}: {what} is {value}; the batch is of the cases {}",
        cases.join(", ")
    )]
    NotFinite {
        /// From 0.
        epoch: usize,
        /// From 0.
        iteration: usize,
        /// The loss, or the length of the gradients.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Cases of the batch.
        cases: Vec<String>,
        /// The checkpoint before.
        checkpoint: Option<PathBuf>,
    },
    /// A checkpoint could not be written.
    #[error("the checkpoint could not be saved: {source}")]
    Save {
        /// Why.
        source: Box<NetError>,
        /// The checkpoint before, which is whole.
        kept: Option<PathBuf>,
    },
    /// A file or folder of the results.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was to be done.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Dataset, plans or splits.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// Prepared cases.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// Batches.
    #[error(transparent)]
    Augment(Box<AugmentError>),
    /// Network or checkpoint.
    #[error(transparent)]
    Net(Box<NetError>),
    /// The final validation.
    #[error(transparent)]
    Infer(Box<InferError>),
    /// Scores of the final validation.
    #[error(transparent)]
    Metrics(Box<MetricsError>),
    /// An image or label map.
    #[error(transparent)]
    Volume(Box<FormatError>),
}

boxed_from!(
    TrainError:
    Plan(PlanError),
    Store(StoreError),
    Augment(AugmentError),
    Net(NetError),
    Infer(InferError),
    Metrics(MetricsError),
    Volume(FormatError)
);

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

impl TrainError {
    pub(super) fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }
}

/// The stopped trainings, for a message.
fn others(stopped: &[PathBuf]) -> String {
    let list: Vec<String> = stopped.iter().map(|path| path.display().to_string()).collect();
    if list.is_empty() {
        String::new()
    } else {
        format!("; stopped trainings of this fold: {}", list.join(", "))
    }
}

impl Diagnose for TrainError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Preset { .. } => Some("a preset is a JSON object with settings such as {\"epochs\": 100}".into()),
            Self::Assignment { .. } => {
                Some("the names are those that `--print-settings` shows, joined by dots: --set loss.smooth=0".into())
            }
            Self::Setting { .. } | Self::UnknownPreset { .. } => None,
            Self::NotPrepared { configuration, path, .. } => Some(format!(
                "run `glioseg prep DATASET -c {configuration}`; it should make {}",
                path.display()
            )),
            Self::NoPreviousStage { previous, fold, path, packed, .. } => {
                let made = format!("it makes {}", path.display());
                let fold = fold.map(|fold| format!(" -f {fold}")).unwrap_or_default();
                Some(if *packed {
                    format!("save it as an array of numpy (nnunetv2's dataset of numpy files does): {}", path.display())
                } else {
                    format!(
                        "train the stage before, `glioseg train DATASET -c {previous}{fold}` (all folds: `glioseg crossval \
                         DATASET -c {previous}`), or validate it again by the same command with --resume; {made}"
                    )
                })
            }
            Self::CascadeV1 { .. } => Some("train 3d_fullres or 3d_lowres of the same dataset".into()),
            Self::Patch { .. } => Some("choose another --patch".into()),
            Self::Memory { .. } => Some(
                "make the batch or the patch smaller (--batch, --patch; memory goes with both), or plan with less memory \
                 (`glioseg plan --gpu-memory`)"
                    .into(),
            ),
            Self::Exists { .. } => {
                Some("continue with --resume, start again with --overwrite, or choose another --output".into())
            }
            Self::NothingToResume { holds: Some(_), .. } => Some(
                "a training of nnU-Net is resumed by nnU-Net; its weights can be the first ones of another training (--weights)"
                    .into(),
            ),
            Self::NothingToResume { stopped, .. } if stopped.is_empty() => {
                Some("leave out --resume to start it".into())
            }
            Self::NothingToResume { .. } => Some(
                "give the options that decide its folder (--preset, --plans, -c, -f, --output) as in the first run, or leave out \
                 --resume to start a training"
                    .into(),
            ),
            Self::OtherTraining { .. } => Some(
                "give the options of the first run again, or start again with --overwrite in another --output".into(),
            ),
            Self::NoCheckpoint { .. } => Some("start again with --overwrite".into()),
            Self::NotFinite { checkpoint, .. } => {
                let kept = checkpoint.as_ref().map_or_else(
                    || "no checkpoint was saved before".to_owned(),
                    |path| format!("the last good checkpoint is {}", path.display()),
                );
                Some(format!(
                    "{kept}; look at these cases (`glioseg info`), or start again with a lower learning rate (--lr)"
                ))
            }
            Self::Save { source, kept } => {
                let kept = kept.as_ref().map_or_else(
                    || "no checkpoint was saved before".to_owned(),
                    |path| format!("the checkpoint before is whole: {}", path.display()),
                );
                let remedy = source.hint().unwrap_or_else(|| "look after the disk".into());
                Some(format!("{kept}; {remedy}, then continue with --resume"))
            }
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    Some("the disk is full: free some space, then continue with --resume".into())
                }
                _ => Some("check the path and its permissions".into()),
            },
            Self::Plan(e) => e.hint(),
            Self::Store(e) => e.hint(),
            Self::Augment(e) => e.hint(),
            Self::Net(e) => e.hint(),
            Self::Infer(e) => e.hint(),
            Self::Metrics(e) => e.hint(),
            Self::Volume(e) => e.hint(),
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Infer(e) => e.path(),
            Self::Metrics(e) => e.path(),
            Self::Store(e) => e.path(),
            _ => None,
        }
    }
}
