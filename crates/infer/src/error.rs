//! What can go wrong between a model folder, a case and its segmentation.

use std::path::{Path, PathBuf};

use glioseg_diagnose::{Diagnose, gib};
use glioseg_formats::FormatError;
use glioseg_net::NetError;
use glioseg_plan::PlanError;
use glioseg_prep::PrepError;
use thiserror::Error;

use super::Accumulation;
use crate::cases::CaseError;
use crate::output::OutputError;
use crate::recipe::RecipeError;

/// Why a case, or a whole prediction, could not be done.
#[derive(Debug, Error)]
pub enum InferError {
    /// A tile does not fit, or has no voxels.
    #[error("a tile of {tile} voxels does not fit into {size}")]
    TileLargerThanVolume {
        /// Voxels of the tile.
        tile: usize,
        /// Voxels of the padded volume.
        size: usize,
    },
    /// The step between tiles is not a fraction.
    #[error("the step between tiles is {step}, but must be more than 0 and at most 1")]
    Step {
        /// The step.
        step: f64,
    },
    /// The network answered with another number of values than its plan says.
    #[error("the network answered with {found} logits, expected {expected}")]
    LogitsShape {
        /// Number expected.
        expected: usize,
        /// Number found.
        found: usize,
    },
    /// NaN or infinity from the network.
    #[error("{count} logits of {total} are NaN or infinite (sums in {} precision)", precision.name())]
    NonFiniteLogits {
        /// How many.
        count: usize,
        /// Of how many.
        total: usize,
        /// Precision of the running sums.
        precision: Accumulation,
    },
    /// The folder is not a model.
    #[error("{} is not a model folder: {reason}", path.display())]
    NotAModel {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        reason: String,
        /// Model folders in it.
        below: Vec<String>,
    },
    /// A fold or its checkpoint is not there.
    #[error("the model has no {}with a {checkpoint}; it has {}", fold_name(wanted.as_deref()), fold_list(found))]
    MissingFold {
        /// The model folder.
        path: PathBuf,
        /// The fold asked for, if a certain one.
        wanted: Option<String>,
        /// File name of the checkpoint without ending.
        checkpoint: String,
        /// Folds that have that checkpoint.
        found: Vec<String>,
        /// Checkpoints that the folds hold, by file name.
        files: Vec<String>,
    },
    /// A DICOM study.
    #[error(transparent)]
    Dicom(Box<glioseg_dicom::DicomError>),
    /// A channel that no series of a study can be told to be.
    #[error(
        "the model's channel `{channel}` is not T1, T1 with contrast agent, T2 or FLAIR, so no series of a DICOM study can be found for it"
    )]
    NotAContrast {
        /// The model's name of it.
        channel: String,
    },
    /// The second stage of a cascade of version 1.
    #[error(
        "configuration `{configuration}` is the second stage of a cascade of nnU-Net v1, which glioseg does not predict"
    )]
    CascadeV1 {
        /// The model folder.
        path: PathBuf,
        /// Its configuration.
        configuration: String,
    },
    /// A later stage of a cascade needs the segmentation of the stage before.
    #[error(
        "configuration `{configuration}` is the second stage of a cascade: it needs the segmentations of `{previous}`{}",
        model.as_ref().map(|m| format!(", and {} is not a model", m.display())).unwrap_or_default()
    )]
    NoPreviousStage {
        /// The model folder.
        path: PathBuf,
        /// Its configuration.
        configuration: String,
        /// The configuration before it.
        previous: String,
        /// Where a model of that configuration was looked for.
        model: Option<PathBuf>,
    },
    /// Several models whose stages before are different models.
    #[error("the models are later stages of different cascades: {} and {} come before them", first.display(), second.display())]
    SeveralPreviousStages {
        /// The stage before one model.
        first: PathBuf,
        /// That before another.
        second: PathBuf,
    },
    /// A segmentation of the stage before is given, but no model takes it.
    #[error("a segmentation of the previous stage is given, but no model is a later stage of a cascade")]
    NoLaterStage,
    /// The folder has no segmentation of the stage before for a case.
    #[error("the segmentation of the previous stage `{previous}` is missing: {} does not exist", path.display())]
    MissingPrevious {
        /// The configuration before.
        previous: String,
        /// The file that was looked for.
        path: PathBuf,
    },
    /// A segmentation of the stage before that is not the case's, or not the model's.
    #[error("{}: the segmentation of the previous stage {reason}", path.display())]
    Previous {
        /// Its file, or the case.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Label maps of the stage before with other values than the model's.
    #[error("the label maps in {} have the labels {found}, but the model's are {wanted}", path.display())]
    PreviousLabels {
        /// The folder.
        path: PathBuf,
        /// The labels there.
        found: String,
        /// The model's.
        wanted: String,
    },
    /// A configuration for another number of dimensions, or channels, than the checks allow.
    #[error("the models do not fit together: {what} are {first} in {} but {second} in {}", first_path.display(), second_path.display())]
    ModelsDiffer {
        /// What differs.
        what: &'static str,
        /// In the first model.
        first: String,
        /// In the other.
        second: String,
        /// The first model.
        first_path: PathBuf,
        /// The other.
        second_path: PathBuf,
    },
    /// The case has another number of channels than the model.
    #[error("the case has {found} channels, the model expects {}: {}", expected.len(), expected.join(", "))]
    Channels {
        /// The first file.
        path: PathBuf,
        /// The model's channels.
        expected: Vec<String>,
        /// The case's number of channels.
        found: usize,
    },
    /// The output folder lies in an input folder.
    #[error("the output folder {} lies inside the input {}", out.display(), input.display())]
    OutputInsideInput {
        /// The output folder.
        out: PathBuf,
        /// The input folder.
        input: PathBuf,
    },
    /// A model cannot be written into a folder that holds something.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A converted model does not answer as the one it was made from.
    #[error("{} answers differently from {}: {different} of {total} logits", converted.display(), source_path.display())]
    ConversionDiffers {
        /// The new checkpoint.
        converted: PathBuf,
        /// The old one.
        source_path: PathBuf,
        /// How many logits differ.
        different: usize,
        /// Of how many.
        total: usize,
    },
    /// A file or folder of the output cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Output {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Two files of one checkpoint with different weights.
    #[error("{} and {} hold different weights", taken.display(), twin.display())]
    TwoCheckpoints {
        /// Ours.
        taken: PathBuf,
        /// nnU-Net's.
        twin: PathBuf,
    },
    /// There is less free memory than the case needs.
    #[error(
        "on the plan's grid of {shape:?} voxels (z, y, x) the case needs {:.2} GiB more memory, but {:.2} GiB are free",
        gib(*needed), gib(*free)
    )]
    CaseMemory {
        /// Voxels on the plan's grid.
        shape: [usize; 3],
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Images that are not in the space of the training, in a strict prediction.
    #[error("{}: {reason}", path.display())]
    Unprepared {
        /// The first file, or the case.
        path: PathBuf,
        /// What shows it.
        reason: String,
    },
    /// Channels that do not look like their names, where that is not allowed.
    #[error("{}", doubts.join("; "))]
    DoubtfulChannels {
        /// What looks wrong, in sentences that name the files.
        doubts: Vec<String>,
        /// The first file.
        path: PathBuf,
    },
    /// Whoever watches asked for it.
    #[error("stopped before the case was done")]
    Stopped,
    /// Nothing to predict with.
    #[error("no model is given")]
    NoModels,
    /// The rules of the label maps.
    #[error(transparent)]
    Rules(#[from] OutputError),
    /// A recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// An input folder or its cases.
    #[error(transparent)]
    Case(#[from] CaseError),
    /// An image.
    #[error(transparent)]
    Volume(#[from] FormatError),
    /// Plans or dataset description.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Preprocessing.
    #[error(transparent)]
    Prep(#[from] PrepError),
    /// Network or checkpoint.
    #[error(transparent)]
    Net(#[from] NetError),
}

fn fold_name(wanted: Option<&str>) -> String {
    format!("fold {}", wanted.map(|w| format!("{w} ")).unwrap_or_default())
}

fn fold_list(found: &[String]) -> String {
    match found {
        [] => "no folds".into(),
        [one] => format!("fold {one}"),
        many => format!("folds {}", many.join(", ")),
    }
}

/// Whether this is the file of a best checkpoint.
fn is_best(file: &str) -> bool {
    file.starts_with("checkpoint_best") || file.starts_with("model_best")
}

impl Diagnose for InferError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Case(e) => e.hint(),
            Self::Dicom(e) => e.hint(),
            Self::NotAContrast { .. } => Some(
                "convert the study with `glioseg dicom convert --grid none`, and give the files with --channel NAME=FILE".into(),
            ),
            Self::Volume(e) => e.hint(),
            Self::Plan(e) => e.hint(),
            Self::Prep(e) => e.hint(),
            Self::Net(e) => e.hint(),
            Self::Recipe(e) => e.hint(),
            Self::TwoCheckpoints { twin, .. } => Some(format!(
                "remove one of the two, or take one by its name: --checkpoint {}",
                twin.file_name().unwrap_or_default().display()
            )),
            Self::CaseMemory { .. } => Some(
                "close other programs or crop the image; if its voxel size in the header is wrong, correct that".into(),
            ),
            Self::Unprepared { .. } => Some(
                "prepare the scans as the training's images were: `glioseg preprocess` registers them, brings them to one grid (for \
                 BraTS that of SRI24 with voxels of 1 mm) and cuts out the brain; if they are right after all, leave out --strict"
                    .into(),
            ),
            Self::DoubtfulChannels { .. } => Some(
                "look at the images: rename the files if they are exchanged; if they are right after all, leave out --strict"
                    .into(),
            ),
            Self::Rules(e) => e.hint(),
            Self::Stopped => Some("resume with the same command and --continue".into()),
            Self::NoModels => Some("give at least one model folder".into()),
            Self::NonFiniteLogits { precision: Accumulation::Half, .. } => Some(
                "very large logits overflow half precision: try --accumulation single; if that fails too, the weights or the \
                 image are damaged"
                    .into(),
            ),
            Self::NonFiniteLogits { .. } => Some(
                "are the weights damaged, or the image's values far outside what the model was trained on? \
                 `glioseg info` on checkpoint and image tells"
                    .into(),
            ),
            Self::NotAModel { below, .. } if !below.is_empty() => {
                Some(format!("give one of the models in it: {}", below.join(", ")))
            }
            Self::NotAModel { .. } => Some(
                "a model is nnU-Net's result folder: of version 2 TRAINER__PLANS__CONFIGURATION with plans.json, dataset.json and \
                 fold_0 …, of version 1 TRAINER__PLANS with plans.pkl and fold_0 …"
                    .into(),
            ),
            Self::MissingFold { checkpoint, files, .. } => {
                let other = match (checkpoint.as_str(), &files[..]) {
                    ("checkpoint_best" | "model_best", _) => "take --checkpoint final".into(),
                    ("checkpoint_final" | "model_final_checkpoint", _) if files.iter().any(|f| is_best(f)) => {
                        "take --checkpoint best".into()
                    }
                    (_, []) => "copy the folds' files from where the model was trained".into(),
                    (_, files) => format!("name one of their checkpoints with --checkpoint: {}", files.join(", ")),
                };
                Some(format!("choose folds that are there with --folds, or {other}"))
            }
            Self::CascadeV1 { .. } => Some("use the 3d_fullres or 3d_lowres model of the same dataset".into()),
            Self::NoPreviousStage { previous, .. } => Some(format!(
                "put the model of `{previous}` next to this one, under nnU-Net's name, or name it with --prev-stage-model; or \
                 give the folder of its predictions with --prev-stage"
            )),
            Self::SeveralPreviousStages { .. } => Some(
                "predict with each model alone and --save-probabilities, then average with `glioseg ensemble`; or name one \
                 with --prev-stage or --prev-stage-model"
                    .into(),
            ),
            Self::NoLaterStage => Some(
                "leave out --prev-stage and --prev-stage-model, or give the model of the second stage (3d_cascade_fullres)"
                    .into(),
            ),
            Self::MissingPrevious { previous, .. } => Some(format!(
                "predict the case with the model of `{previous}` into that folder; without --prev-stage that is done first"
            )),
            Self::Previous { .. } => Some(
                "--prev-stage is the folder of the first stage's predictions of the same images, in the dataset's own labels"
                    .into(),
            ),
            Self::PreviousLabels { .. } => {
                Some("predict the first stage again with --labels dataset, and without another recoding".into())
            }
            Self::ModelsDiffer { .. } => {
                Some("only models that were trained for the same channels and labels can be averaged".into())
            }
            Self::Channels { .. } => {
                Some("give one file per channel, or one four-dimensional file with all of them".into())
            }
            Self::OutputInsideInput { .. } => {
                Some("choose an output folder next to the input; results must not become inputs of the next run".into())
            }
            Self::NotEmpty { .. } => Some("choose a folder that is not there yet".into()),
            Self::ConversionDiffers { .. } => {
                Some("is the disk damaged? the source is untouched; convert it again to another disk".into())
            }
            Self::Output { source, .. } => Some(match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    "the disk is full: free some space and run again with --continue".into()
                }
                _ => "choose an output folder that can be written".into(),
            }),
            Self::Step { .. } | Self::TileLargerThanVolume { .. } | Self::LogitsShape { .. } => None,
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Case(e) => e.path(),
            Self::MissingFold { path, .. }
            | Self::CascadeV1 { path, .. }
            | Self::NoPreviousStage { path, .. }
            | Self::Channels { path, .. } => Some(path),
            _ => None,
        }
    }
}
