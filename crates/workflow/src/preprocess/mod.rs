//! From the scanner's images to the space of BraTS: registered, brain only, on one grid.
//!
//! All channels of a study are registered to one of them, and that one to a template, rigidly. Every image is then resampled once, by
//! the transform from the space to its own grid, and masked. Nothing else is done to intensities. Every transform is kept, in
//! `preprocess.json` and as files of ITK, so that a segmentation finds its way back to each scan.
//!
//! Left out, since images of BraTS are not made with it: bias correction, deformable registration, normalisation.

mod back;
mod brain;
mod checks;
mod error;
mod record;
mod space;
mod steps;
mod study;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use glioseg_align::{AlignError, Pyramid};
use glioseg_diagnose::Diagnose as _;
use glioseg_infer::Watch;
use glioseg_infer::cases::{CaseError, StudyFiles, find_studies};
use glioseg_plan::record::CaseStatus;
use glioseg_volume::resample::Interpolation;

pub use back::{to_scan, way_to_scan};
pub use brain::BrainSource;
pub use error::PreprocessError;
pub use record::{ChannelRecord, Check, PreprocessRecord, PreprocessSettings, RECORD, StudyRecord, Verdict};
pub use space::Space;
use space::{Target, Template};
pub use steps::TRANSFORMS;
use steps::{Follow, Workshop};
pub use study::CHANNELS;
use study::Study;

/// Whose names the files have that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// `CASE-t1c.nii.gz`.
    #[default]
    Brats2023,
    /// `CASE_t1ce.nii.gz`.
    Brats2021,
}

impl Names {
    /// The word of the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brats2023 => "brats2023",
            Self::Brats2021 => "brats2021",
        }
    }
}

/// How studies are prepared.
#[derive(Debug, Clone, Default)]
pub struct PreprocessOptions {
    /// Where images are brought.
    pub space: Space,
    /// A T1 image whose grid is the space, in the place of the built-in template.
    pub atlas: Option<PathBuf>,
    /// Where the brain mask comes from.
    pub brain: BrainSource,
    /// Whose names are written.
    pub names: Names,
    /// How values between voxels are made.
    pub interpolation: Interpolation,
    /// The channel that the others are registered to, one of [`CHANNELS`]; chosen if it is not named.
    pub center: Option<String>,
    /// A check that fails, or a header without orientation, is an error.
    pub strict: bool,
}

impl PreprocessOptions {
    fn settings(&self, template: Option<&Template>) -> PreprocessSettings {
        let interpolation = match self.interpolation {
            Interpolation::Nearest => "nearest",
            Interpolation::Linear => "linear",
            Interpolation::Cubic => "cubic",
        };
        PreprocessSettings {
            space: self.space.name().to_owned(),
            template: template.map(|t| t.name.clone()),
            brain: self.brain.words(),
            interpolation: interpolation.to_owned(),
            names: self.names.name().to_owned(),
            center: self.center.clone(),
        }
    }
}

/// Which studies.
#[derive(Debug, Clone)]
pub enum StudyInput {
    /// Folders of images or of folders, or image files: studies are found by the names of files.
    Found(Vec<PathBuf>),
    /// One study of which the file of each of [`CHANNELS`] is given.
    Given(StudyFiles),
}

/// Which studies, and where to.
#[derive(Debug, Clone, Copy)]
pub struct PreprocessBatch<'a> {
    /// The studies.
    pub input: &'a StudyInput,
    /// Folder for images, transforms and `preprocess.json`.
    pub out: &'a Path,
    /// Leave out studies that are prepared in the same way already.
    pub skip_finished: bool,
    /// Once it is set, the batch ends before the next step.
    pub stop: Option<&'a AtomicBool>,
}

/// What happens, for whoever shows it.
#[derive(Debug)]
#[non_exhaustive]
pub enum PreprocessEvent<'a> {
    /// The studies are known, work begins.
    Start {
        /// How many will be prepared.
        studies: usize,
        /// How many are left out because they are prepared.
        skipped: usize,
        /// Image files that are no channel.
        ignored: &'a [PathBuf],
        /// The template, if the space has one.
        template: Option<&'a str>,
    },
    /// A step of a study begins.
    Step {
        /// The study.
        case: &'a str,
        /// Its number, from 1.
        number: usize,
        /// Number of studies.
        of: usize,
        /// What begins.
        step: &'static str,
    },
    /// A study is written, or has failed.
    Finished {
        /// What became of it.
        record: &'a StudyRecord,
    },
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PreprocessSummary {
    /// Studies that were prepared.
    pub done: usize,
    /// Studies that failed.
    pub failed: usize,
    /// Studies that were prepared before.
    pub skipped: usize,
    /// Studies that were not begun, or given up, because the batch was stopped.
    pub left: usize,
}

/// Brings every study to the space and writes images, transforms, masks and `preprocess.json`.
///
/// # Errors
/// What makes the whole batch impossible: no study, a template, mask or model that cannot be opened, an output folder that cannot be
/// written. What is wrong with single studies is in the events, in the record and in the summary.
pub fn preprocess(
    batch: &PreprocessBatch<'_>,
    options: &PreprocessOptions,
    observer: &(dyn Fn(PreprocessEvent<'_>) + Sync),
) -> Result<PreprocessSummary, PreprocessError> {
    let found = find(batch.input)?;
    if matches!(options.brain, BrainSource::Mask(_)) && found.all.len() > 1 {
        return Err(PreprocessError::MaskForSeveral { count: found.all.len() });
    }
    let target = Target::open(options.space, options.atlas.as_deref())?;
    let brain = options.brain.open()?;
    make_folder(batch)?;
    let template = target.template.as_ref().map(|t| template_pyramid(t, options)).transpose()?;
    let template_brain = match (&target.template, &target.grid) {
        (Some(template), Some(grid)) => template.brain(grid),
        _ => None,
    };
    let workshop = Workshop { options, target: &target, template, template_brain, brain, out: batch.out };

    let path = batch.out.join(RECORD);
    let mut record = PreprocessRecord {
        program: "glioseg".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        notice: "Research use only; not a medical device.".into(),
        settings: options.settings(target.template.as_ref()),
        cases: Vec::new(),
    };
    if batch.skip_finished
        && let Ok(earlier) = PreprocessRecord::read(&path)
        && earlier.settings == record.settings
    {
        record.cases = earlier.cases;
    }
    let finished = |id: &str| {
        let known = record.cases.iter().find(|c| c.case == id && c.status == CaseStatus::Done);
        known.is_some_and(|c| c.channels.iter().all(|channel| batch.out.join(&channel.output).is_file()))
    };
    let all = found.all.len();
    let left: Vec<_> = found.all.into_iter().filter(|(id, _)| !finished(id)).collect();
    let (of, skipped) = (left.len(), all - left.len());
    observer(PreprocessEvent::Start {
        studies: of,
        skipped,
        ignored: &found.ignored,
        template: target.template.as_ref().map(|t| t.name.as_str()),
    });
    let mut summary = PreprocessSummary { skipped, ..PreprocessSummary::default() };
    for (i, (id, files)) in left.into_iter().enumerate() {
        let tell = |step| observer(PreprocessEvent::Step { case: &id, number: i + 1, of, step });
        let watch = batch.stop.map_or_else(Watch::default, |stop| Watch::default().stop(stop));
        let follow = Follow { watch, tell: &tell };
        let start = Instant::now();
        tell("reading");
        let prepared = files.and_then(|files| {
            let study = Study::read(&files, options.center.as_deref(), options.strict)?;
            workshop.prepare(&study, &follow)
        });
        let study = match prepared {
            Err(_) if watch.is_stopped() => break,
            Err(error) => StudyRecord::failed(&id, error.to_string(), error.hint()),
            Ok(mut study) => {
                study.seconds = (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
                study
            }
        };
        match study.status {
            CaseStatus::Done => summary.done += 1,
            CaseStatus::Failed => summary.failed += 1,
        }
        record.put(study.clone());
        record.write(&path)?;
        observer(PreprocessEvent::Finished { record: &study });
    }
    summary.left = of - summary.done - summary.failed;
    Ok(summary)
}

/// Studies by name, with what is wrong with some.
struct FoundAll {
    all: Vec<(String, Result<StudyFiles, PreprocessError>)>,
    ignored: Vec<PathBuf>,
}

fn find(input: &StudyInput) -> Result<FoundAll, PreprocessError> {
    let inputs = match input {
        StudyInput::Given(files) => {
            if let Some(path) = files.files.iter().flatten().find(|path| !path.exists()) {
                let reason = "no such file or folder".to_owned();
                return Err(CaseError::Unreadable { reason, path: path.clone() }.into());
            }
            return Ok(FoundAll { all: vec![(files.id.clone(), Ok(files.clone()))], ignored: Vec::new() });
        }
        StudyInput::Found(inputs) => inputs,
    };
    let found = find_studies(inputs, &CHANNELS.map(str::to_owned))?;
    let mut all: Vec<_> = found.studies.into_iter().map(|s| (s.id.clone(), Ok(s))).collect();
    all.extend(found.bad.into_iter().map(|(id, error)| (id, Err(error.into()))));
    all.sort_by(|a, b| a.0.cmp(&b.0));
    if all.is_empty() {
        let path = inputs.first().cloned().unwrap_or_default();
        return Err(PreprocessError::NoStudies { path, seen: found.seen });
    }
    Ok(FoundAll { all, ignored: found.ignored })
}

/// Makes the output folder, which must not lie in an input folder: what is written would be found there as a study.
fn make_folder(batch: &PreprocessBatch<'_>) -> Result<(), PreprocessError> {
    std::fs::create_dir_all(batch.out)
        .map_err(|source| PreprocessError::Output { path: batch.out.to_owned(), source })?;
    let StudyInput::Found(inputs) = batch.input else { return Ok(()) };
    let Ok(out) = batch.out.canonicalize() else { return Ok(()) };
    for input in inputs.iter().filter(|input| input.is_dir()) {
        if input.canonicalize().is_ok_and(|input| out.starts_with(input)) {
            // It stays if it was there before; an empty one is not missed.
            let _ = std::fs::remove_dir(batch.out);
            return Err(PreprocessError::OutputInsideInput {
                out: batch.out.to_owned(),
                input: input.clone(),
            });
        }
    }
    Ok(())
}

fn template_pyramid<'a>(
    template: &'a Template,
    options: &PreprocessOptions,
) -> Result<Pyramid<'a>, PreprocessError> {
    Pyramid::new(&template.values, &template.geometry).map_err(|source: AlignError| match &options.atlas {
        Some(path) => PreprocessError::Image { path: path.clone(), source },
        None => source.into(),
    })
}
