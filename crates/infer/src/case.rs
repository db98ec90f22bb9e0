//! A case on its way: its images, what the networks read, what they answered, and the segmentation.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use glioseg_dicom::Stack;
use glioseg_formats::{FormatError, nifti};
use glioseg_plan::ImageReader;
use glioseg_plan::record::{CaseRecord, ChannelCheck, SeriesRecord};
use glioseg_prep::{CaseProperties, PreparedCase, Trail};
use glioseg_volume::{Geometry, LabelMap, Volume};
use indexmap::IndexMap;

use super::export::{Logits, Probabilities, ProbabilitySum};
use super::flags::ImageFacts;
use super::probabilities::Saving;
use super::uncertainty::{CaseMoments, UncertaintyMaps};
use super::{Accumulation, Image, InferError, WindowOptions};
use crate::cases::CaseFiles;

/// Where a case comes from.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Origin {
    /// It was made in memory.
    #[default]
    Memory,
    /// Files.
    Files {
        /// The files, in the order of the channels.
        files: Vec<PathBuf>,
        /// For every channel, which of them holds it.
        of_channel: Vec<usize>,
    },
    /// Series of a DICOM study.
    Dicom {
        /// A file of every series, in the order of the channels.
        files: Vec<PathBuf>,
        /// For every channel, which of them holds it.
        of_channel: Vec<usize>,
        /// The series, in the same order.
        series: Vec<SeriesRecord>,
        /// The volume whose grid the image has: results are stored as its segmentation.
        stack: Arc<Stack>,
    },
}

impl Origin {
    /// The files; none for a case in memory.
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::Memory => &[],
            Self::Files { files, .. } | Self::Dicom { files, .. } => files,
        }
    }

    /// The series of a DICOM study; none of other cases.
    pub(super) fn series(&self) -> Vec<SeriesRecord> {
        match self {
            Self::Dicom { series, .. } => series.clone(),
            _ => Vec::new(),
        }
    }

    /// The file of every channel; none for a case in memory.
    pub(super) fn channel_files(&self) -> Vec<&Path> {
        match self {
            Self::Memory => Vec::new(),
            Self::Files { files, of_channel } | Self::Dicom { files, of_channel, .. } => {
                of_channel.iter().map(|&i| files[i].as_path()).collect()
            }
        }
    }

    /// What messages name: the first file, or the case.
    pub(super) fn place(&self, id: &str) -> PathBuf {
        self.files().first().cloned().unwrap_or_else(|| id.into())
    }
}

/// The images of a case.
#[derive(Debug, Clone)]
pub struct CaseImages {
    /// Name of the case.
    pub id: String,
    /// All channels, in the order of the model's.
    pub image: Volume,
    /// Where they come from.
    pub origin: Origin,
    /// The segmentation of the stage before, for a later stage of a cascade.
    pub previous: Option<LabelMap>,
    /// What looked odd so far.
    pub warnings: Vec<String>,
    /// Seconds that it took to get them.
    pub(super) seconds: f64,
}

impl CaseImages {
    /// A case in memory; `image` holds the model's channels in the model's order.
    pub fn new(id: impl Into<String>, image: Volume) -> Self {
        Self {
            id: id.into(),
            image,
            origin: Origin::Memory,
            previous: None,
            warnings: Vec::new(),
            seconds: 0.0,
        }
    }

    /// A case that was read; `seconds` is how long that took.
    pub(crate) fn of(id: String, image: Volume, origin: Origin, warnings: Vec<String>, seconds: f64) -> Self {
        Self { id, image, origin, previous: None, warnings, seconds }
    }

    /// Adds the segmentation of the stage before, on the grid of the image and in the dataset's own labels.
    #[must_use]
    pub fn with_previous(mut self, map: LabelMap) -> Self {
        self.previous = Some(map);
        self
    }

    /// Reads the channels of a case in parallel; they must share one grid.
    ///
    /// The image stays in the order of the first file; with a `reader` that turns images, other files whose axes lead
    /// elsewhere are turned to those of the first.
    ///
    /// # Errors
    /// [`InferError::Volume`] with the file that cannot be read, or the two that differ.
    pub fn read(case: CaseFiles, reader: ImageReader) -> Result<Self, InferError> {
        let start = Instant::now();
        let CaseFiles { id, files } = case;
        let (image, infos) = nifti::read_stack_along(&files, reader.turns())?;
        let mut warnings = Vec::new();
        for (path, info) in files.iter().zip(&infos) {
            warnings.extend(info.oddities.iter().map(|odd| format!("{}: {odd}", path.display())));
        }
        for (path, info) in files.iter().zip(&infos).skip(1) {
            let grids = infos[0].geometry.same_grid(&info.geometry);
            if !grids.same_position() {
                warnings.push(format!(
                    "the {} of {} differs from that of {}; voxels are taken to correspond",
                    if grids.origin { "direction" } else { "origin" },
                    path.display(),
                    files[0].display()
                ));
            }
        }
        let of_channel =
            infos.iter().enumerate().flat_map(|(i, info)| std::iter::repeat_n(i, info.channels)).collect();
        let origin = Origin::Files { files, of_channel };
        Ok(Self { id, image, origin, previous: None, warnings, seconds: start.elapsed().as_secs_f64() })
    }
}

/// What is known of a case whatever becomes of it.
#[derive(Debug)]
pub(super) struct CaseFacts {
    pub(super) id: String,
    pub(super) origin: Origin,
    /// The grid of the image.
    pub(super) geometry: Geometry,
    /// What the image itself told; not of a case that was prepared earlier.
    pub(super) seen: Option<(ChannelCheck, ImageFacts)>,
    pub(super) warnings: Vec<String>,
    /// Seconds of reading and preparing.
    pub(super) seconds: f64,
}

/// A case as one model's network reads it.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) case: Arc<PreparedCase>,
    /// How answers lead back to the image.
    pub(super) trail: Trail,
    /// How the window slides over it.
    pub(super) window: WindowOptions,
}

impl Input {
    pub(super) fn image(&self) -> Image<'_> {
        Image { data: &self.case.data, channels: self.case.channels, shape: self.case.shape }
    }
}

/// A case as the networks of all models read it.
#[derive(Debug)]
pub struct Prepared {
    pub(super) facts: Arc<CaseFacts>,
    /// Model by model.
    pub(super) inputs: Vec<Input>,
    pub(super) passes: usize,
    /// Voxels of the grids of later stages that get a segmentation.
    pub(super) next_stages: Vec<[usize; 3]>,
}

impl Prepared {
    /// Name of the case.
    pub fn id(&self) -> &str {
        &self.facts.id
    }

    /// Where the case comes from.
    pub fn origin(&self) -> &Origin {
        &self.facts.origin
    }

    /// Also segments the case on the grids of a cascade's next stages, told by their voxels; for one model.
    #[must_use]
    pub fn for_next_stages(mut self, shapes: Vec<[usize; 3]>) -> Self {
        self.next_stages = shapes;
        self
    }

    /// Network passes that [`Predictor::infer`](super::Predictor::infer) takes.
    pub fn passes(&self) -> usize {
        self.passes
    }
}

/// What one model answered, and how it leads back to the image.
#[derive(Debug)]
pub(super) struct Answer {
    /// Mean over tiles, mirrorings and folds, `[output, z, y, x]` of `shape`.
    pub(super) values: Vec<f32>,
    pub(super) shape: [usize; 3],
    pub(super) trail: Trail,
    pub(super) precision: Accumulation,
    /// The values are probabilities already.
    pub(super) activated: bool,
}

impl Answer {
    pub(super) fn logits(&self) -> Logits<'_> {
        Logits {
            values: &self.values,
            shape: self.shape,
            trail: &self.trail,
            precision: self.precision,
            activated: self.activated,
        }
    }
}

/// What is left to decide.
#[derive(Debug)]
pub(super) enum Undecided {
    /// One model's answer on its plan's grid.
    Answer(Answer),
    /// Probabilities on the image's grid.
    Probabilities(ProbabilitySum),
}

/// What the networks answered for a case.
#[derive(Debug)]
pub struct Inferred {
    pub(super) facts: Arc<CaseFacts>,
    pub(super) undecided: Undecided,
    pub(super) moments: Option<CaseMoments>,
    /// Labels on the grids of [`Prepared::for_next_stages`], `[z, y, x]`.
    pub(super) next_stages: Vec<Vec<u16>>,
    /// Voxels of the first model's grid.
    pub(super) resampled: [usize; 3],
    /// How the first model's case was prepared.
    pub(super) properties: CaseProperties,
    pub(super) seconds: IndexMap<String, f64>,
}

/// The segmentation of a case, on the grid of its image.
#[derive(Debug)]
pub struct Prediction {
    /// The label map, postprocessed and recoded as the options say.
    pub labels: LabelMap,
    /// Probabilities as the networks gave them, if they were asked for.
    pub probabilities: Option<Probabilities>,
    /// Maps of how far the passes agreed, if they were asked for; the scores are in the record.
    pub uncertainty: Option<UncertaintyMaps>,
    /// What was done and seen: volumes, warnings, reasons to look at the case.
    pub record: CaseRecord,
    /// Labels on the grids of [`Prepared::for_next_stages`], `[z, y, x]`.
    pub next_stages: Vec<Vec<u16>>,
    /// Where the case comes from.
    pub origin: Origin,
    /// How probabilities are saved, and what is kept next to them.
    pub(super) saving: Saving,
}

impl Prediction {
    /// Writes the probabilities, if they were asked for, as `npz`, and the properties of the case as `.pkl` next to it, both as
    /// nnU-Net v2 does, whatever the rules of the model.
    ///
    /// # Errors
    /// [`FormatError::Io`] with the path; no unfinished file is left.
    pub fn write_probabilities(&self, npz: &Path) -> Result<(), FormatError> {
        self.probabilities.as_ref().map_or(Ok(()), |probabilities| self.saving.v2.write(npz, probabilities))
    }
}
