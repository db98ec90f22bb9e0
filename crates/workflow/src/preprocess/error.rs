//! Why a study, or a whole batch, cannot be brought to the space.

use std::path::{Path, PathBuf};

use glioseg_align::AlignError;
use glioseg_diagnose::{Diagnose, boxed_from};
use glioseg_formats::FormatError;
use glioseg_infer::InferError;
use glioseg_infer::cases::CaseError;
use glioseg_plan::PlanError;
use glioseg_volume::VolumeError;
use thiserror::Error;

/// What went wrong.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PreprocessError {
    /// No file of the input is a channel of a study.
    #[error("no studies found in {}: {seen}", path.display())]
    NoStudies {
        /// The input.
        path: PathBuf,
        /// What was seen instead.
        seen: String,
    },
    /// Files that do not make a study.
    #[error(transparent)]
    Case(#[from] CaseError),
    /// A file that cannot be read or written.
    #[error(transparent)]
    Format(Box<FormatError>),
    /// JSON that cannot be read.
    #[error(transparent)]
    Plan(#[from] Box<PlanError>),
    /// JSON without a record of a preparation.
    #[error("{} does not hold a record of prepared studies: {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A grid that cannot be used.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A transform that cannot be used.
    #[error(transparent)]
    Align(#[from] AlignError),
    /// A time series, or an image of vectors.
    #[error("{} holds {count} images; a channel is one", path.display())]
    Series {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// An image that cannot be registered.
    #[error("{} cannot be registered: {source}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        source: AlignError,
    },
    /// The channel that the others are registered to is not there.
    #[error("the study has no channel `{wanted}` to register the others to; it has {}", found.join(", "))]
    Centre {
        /// The channel that was asked for.
        wanted: String,
        /// Those that are there.
        found: Vec<String>,
    },
    /// With `--strict`: a header that does not say how the image lies.
    #[error("{} does not say how the image lies: both its qform and its sform are unset", path.display())]
    Unoriented {
        /// The file.
        path: PathBuf,
    },
    /// One mask for more than one study.
    #[error("one brain mask is given, but {count} studies are found")]
    MaskForSeveral {
        /// How many studies.
        count: usize,
    },
    /// A mask on a grid of its own.
    #[error("the mask {} has the grid of no channel of the study, nor that of the space", path.display())]
    MaskGrid {
        /// The mask.
        path: PathBuf,
    },
    /// A mask without a voxel.
    #[error("the brain mask of {source_name} is empty")]
    EmptyMask {
        /// Where it came from.
        source_name: String,
    },
    /// A model that is none of a brain.
    #[error(
        "the model {} has {channels} channels and {outputs} foreground labels, where a brain model has one of each",
        path.display()
    )]
    BrainModel {
        /// The model's folder.
        path: PathBuf,
        /// Its channels.
        channels: usize,
        /// Its labels or regions but background.
        outputs: usize,
    },
    /// The brain's network.
    #[error(transparent)]
    Infer(Box<InferError>),
    /// With `--strict`: checks that fail.
    #[error("the result does not pass its checks: {}", failed.join("; "))]
    Checks {
        /// What was found.
        failed: Vec<String>,
    },
    /// A scan that was not prepared.
    #[error("{} is none of the scans of {}", path.display(), record.display())]
    UnknownScan {
        /// The scan.
        path: PathBuf,
        /// The record of the studies.
        record: PathBuf,
    },
    /// A label map that is named after another study than the scan.
    #[error("{} is of study `{study}`, but {} is named after another", scan.display(), labels.display())]
    OtherStudy {
        /// The scan.
        scan: PathBuf,
        /// Its study.
        study: String,
        /// The label map.
        labels: PathBuf,
    },
    /// The output folder cannot be made or written.
    #[error("cannot write to {}: {source}", path.display())]
    Output {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The output lies inside the input.
    #[error("the output folder {} lies in the input folder {}", out.display(), input.display())]
    OutputInsideInput {
        /// The output.
        out: PathBuf,
        /// The input.
        input: PathBuf,
    },
    /// The template in the program cannot be unpacked.
    #[error("the built-in template is damaged: {0}")]
    BuiltIn(std::io::Error),
    /// It was told to stop.
    #[error("stopped")]
    Stopped,
}

boxed_from!(PreprocessError: Format(FormatError), Infer(InferError));

impl Diagnose for PreprocessError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Case(error) => return error.hint(),
            Self::Format(error) => return error.hint(),
            Self::Plan(error) => return error.hint(),
            Self::Volume(error) => return error.hint(),
            Self::Align(error) | Self::Image { source: error, .. } => return error.hint(),
            Self::Infer(error) => return error.hint(),
            Self::Stopped => return None,
            Self::NoStudies { .. } => {
                "files are told by the ends of their names (t1 t1n | t1ce t1c t1gd | t2 t2w | flair t2f), such as \
                 P01_t1ce.nii.gz; files of other names are given with --t1n, --t1c, --t2w and --t2f"
            }
            Self::Series { .. } => "cut out the one that is meant, for example with fslroi",
            Self::Centre { .. } => "name one of the channels that are there with --center, or leave it out",
            Self::Unoriented { .. } => {
                "convert the series again with a program that keeps the orientation, such as dcm2niix: left and right cannot be \
                 seen in the images"
            }
            Self::MaskForSeveral { .. } => "prepare the studies one by one, each with its mask",
            Self::MaskGrid { .. } => "draw the mask on one of the channels, or resample it to one",
            Self::EmptyMask { .. } => "look at the mask; with a model, is it one for this kind of image?",
            Self::BrainModel { .. } => {
                "take a model that finds the brain in a single image, such as HD-BET's; the model that finds the tumour is for \
                 `glioseg predict`"
            }
            Self::Checks { .. } => "look at the images; without --strict they are written with a warning",
            Self::Output { .. } => "check that the folder can be written and that the disk is not full",
            Self::OutputInsideInput { .. } => "choose an output folder outside the input",
            Self::Record { .. } => "take the preprocess.json that `glioseg preprocess` wrote",
            Self::UnknownScan { .. } => {
                "name one of the files that were prepared, unchanged; `file` in preprocess.json lists them"
            }
            Self::OtherStudy { .. } => "take the label map and the scan of one study",
            Self::BuiltIn(_) => "install glioseg again",
        };
        Some(hint.to_owned())
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Case(error) => error.path(),
            Self::Format(error) => error.path(),
            Self::Plan(error) => error.path(),
            Self::Volume(error) => error.path(),
            Self::Align(error) => error.path(),
            Self::Infer(error) => error.path(),
            _ => None,
        }
    }
}
