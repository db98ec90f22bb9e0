//! `glioseg preprocess`: raw scans to the space of BraTS.
#![expect(
    clippy::doc_markdown,
    reason = "doc comments here are help texts, where backticks would be printed"
)]

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use clap::{Args, ValueEnum};
use glioseg_infer::cases::StudyFiles;
use glioseg_infer::{InferError, PredictOptions};
use glioseg_plan::canonical_channel;
use glioseg_plan::record::CaseStatus;
use glioseg_volume::resample::Interpolation as Between;
use glioseg_workflow::preprocess::{
    BrainSource, CHANNELS, Names, PreprocessBatch, PreprocessEvent, PreprocessOptions, Space, StudyInput,
    StudyRecord, Verdict, preprocess,
};

use super::{Outcome, interrupt, peak_memory};
use crate::arguments::Compute;
use crate::problem::Problem;
use crate::ui::{Ui, duration};

/// Brings raw scans to the space of BraTS: registers the channels of a study to each other and to a template, cuts out the brain, and
/// resamples every image once.
///
/// Scans may lie as they were scanned: on grids of their own, with the skull, in any orientation, with thick slices, and moved between
/// series. Registration is rigid; intensities change by nothing but the interpolation and the mask. Writes CASE-t1n.nii.gz,
/// CASE-t1c.nii.gz, CASE-t2w.nii.gz, CASE-t2f.nii.gz (those that are there), CASE-mask.nii.gz, the transforms, and preprocess.json
/// with checks that need no truth. What a check finds is a warning, with --strict an error. (What nnU-Net calls preprocessing, the
/// preparation of a dataset for training, is glioseg prep.)
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  glioseg preprocess -i studies -o prepared --brain hd-bet_params/release_2.0.0\n  \
    glioseg preprocess --t1n a.nii.gz --t1c b.nii.gz --t2w c.nii.gz --t2f d.nii.gz -o prepared --brain-mask mask.nii.gz\n\n\
    transforms/CASE-t2w_to_t1c.mat brings the image T2 onto T1c: it takes a point of T1c to that of T2 (L, P, S in mm), as ITK and\n\
    ANTs have it. CASE-t2w_to_sri24.mat is the whole way. The same stands in the .tfm files, as text.\n\n\
    Tilted gantries, distortion and a brain that has shifted between sessions are not corrected, nor is the bias field: images of\n\
    BraTS keep theirs.\n\n\
    Exit code: 0 all studies done, 1 some study failed or Ctrl-C (the others are written), 2 could not start."
)]
#[expect(clippy::struct_excessive_bools, reason = "every flag of a command line is a bool")]
pub(crate) struct Preprocess {
    /// Folder of studies, or of the files of one, told by the ends of their names (t1 t1n | t1ce t1c t1gd | t2 t2w | flair t2f)
    #[arg(short, long, value_name = "INPUT", num_args = 1..)]
    pub(crate) input: Vec<PathBuf>,
    /// T1 without contrast agent, of one study with files of any name
    #[arg(long, value_name = "FILE", conflicts_with = "input", help_heading = "One study")]
    pub(crate) t1n: Option<PathBuf>,
    /// T1 with contrast agent
    #[arg(long, value_name = "FILE", conflicts_with = "input", help_heading = "One study")]
    pub(crate) t1c: Option<PathBuf>,
    /// T2
    #[arg(long, value_name = "FILE", conflicts_with = "input", help_heading = "One study")]
    pub(crate) t2w: Option<PathBuf>,
    /// FLAIR
    #[arg(long, value_name = "FILE", conflicts_with = "input", help_heading = "One study")]
    pub(crate) t2f: Option<PathBuf>,
    /// Name of the study [default: that of the first file's folder]
    #[arg(long, value_name = "NAME", conflicts_with = "input", help_heading = "One study")]
    pub(crate) case: Option<String>,
    /// Folder for the images, transforms and preprocess.json; made if it is not there
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Where to: sri24 (BraTS until 2024, 240 x 240 x 155 voxels of 1 mm), mni152 (since 2025, 182 x 218 x 182), or native, the
    /// grid of the T1 with contrast agent
    #[arg(long, default_value = "sri24", value_name = "SPACE", help_heading = "Space")]
    pub(crate) space: Space,
    /// A T1 image whose grid is the space, such as BraTS's own SRI24 [default: the built-in ICBM 2009a at 2 mm; sri24 then lies where
    /// BraTS's does within some 3 mm]
    #[arg(long, value_name = "FILE", help_heading = "Space")]
    pub(crate) atlas: Option<PathBuf>,
    /// Channel that the others are registered to [default: t1c, else t1n, else the one with the smallest voxels]
    #[arg(long, value_name = "CHANNEL", help_heading = "Space")]
    pub(crate) center: Option<String>,
    /// A model that finds the brain in one image, such as HD-BET's, or `none`: images keep what is around the brain
    #[arg(long, value_name = "MODEL|none", conflicts_with = "brain_mask", help_heading = "Brain")]
    pub(crate) brain: Option<PathBuf>,
    /// A brain mask on the grid of one of the scans, or of the space; for one study
    #[arg(long, value_name = "FILE", help_heading = "Brain")]
    pub(crate) brain_mask: Option<PathBuf>,
    /// Average the brain's network over mirrored tiles: 8 times slower, a little more accurate
    #[arg(long, requires = "brain", help_heading = "Brain")]
    pub(crate) mirroring: bool,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Names of the files: CASE-t1c.nii.gz, or CASE_t1ce.nii.gz
    #[arg(long, value_enum, default_value = "brats2023", help_heading = "Output")]
    pub(crate) names: FileNames,
    /// How values between voxels are made: images of BraTS are made linearly, cubic keeps more of what was scanned
    #[arg(long, value_enum, default_value = "linear", help_heading = "Output")]
    pub(crate) interpolation: Interpolation,
    /// Refuse studies of which a check fails, or whose headers do not say how the images lie, instead of warning
    #[arg(long, help_heading = "Output")]
    pub(crate) strict: bool,
    /// Skip the studies that the output folder has already, prepared in the same way
    #[arg(long = "continue", help_heading = "Output")]
    pub(crate) continue_: bool,
    /// One line of JSON per study on stdout instead of a table
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileNames {
    /// CASE-t1c.nii.gz
    Brats2023,
    /// CASE_t1ce.nii.gz
    Brats2021,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Interpolation {
    /// Between the eight voxels around
    Linear,
    /// Cubic B-spline, kept within the range of the scan
    Cubic,
    /// The nearest voxel: shifts images by up to half a voxel
    Nearest,
}

pub(crate) fn run(options: &Preprocess, ui: &Ui) -> anyhow::Result<Outcome> {
    Ok(prepare(options, ui, options.json || !ui.one_screen())?.0)
}

/// Prepares the studies; with `data` a line for each on stdout. How it ended, and whether it was stopped.
pub(super) fn prepare(options: &Preprocess, ui: &Ui, data: bool) -> anyhow::Result<(Outcome, bool)> {
    if options.space == Space::Native && options.atlas.is_some() {
        return Err(Problem::new(
            "the native space has no atlas",
            "leave out --atlas, or let --space say which space the atlas is of",
        ));
    }
    let input = study_input(options)?;
    let prepare = PreprocessOptions {
        space: options.space,
        atlas: options.atlas.clone(),
        brain: brain_source(options, ui)?,
        names: match options.names {
            FileNames::Brats2023 => Names::Brats2023,
            FileNames::Brats2021 => Names::Brats2021,
        },
        interpolation: match options.interpolation {
            Interpolation::Linear => Between::Linear,
            Interpolation::Cubic => Between::Cubic,
            Interpolation::Nearest => Between::Nearest,
        },
        center: options.center.as_deref().map(canonical_channel),
        strict: options.strict,
    };
    let stop = interrupt::flag();
    let batch = PreprocessBatch {
        input: &input,
        out: &options.output,
        skip_finished: options.continue_,
        stop: Some(&stop),
    };
    let (start, output) = (Instant::now(), Mutex::new(Ok(())));
    let observer = |event: PreprocessEvent<'_>| match event {
        PreprocessEvent::Start { studies, skipped, ignored, template } => {
            let more = if skipped > 0 { format!(", {skipped} prepared before") } else { String::new() };
            let to = template.map(|t| format!(" by {t}")).unwrap_or_default();
            ui.say(&format!("{}{more} | to {}{to}", studies_of(studies), options.space.name()));
            for file in ignored {
                ui.say(&format!("{} is not a channel", file.display()));
            }
            if options.atlas.is_none() && options.space == Space::Mni152 {
                ui.say("BraTS's MNI152 is near the built-in template, but not the same: --atlas takes BraTS's own");
            }
        }
        PreprocessEvent::Step { case, number, of, step } => {
            ui.begin(&format!("{case} ({number}/{of}): {step}"));
        }
        PreprocessEvent::Finished { record } => {
            ui.stop();
            show(record, ui);
            if record.status == CaseStatus::Done && data {
                let line = if options.json {
                    serde_json::to_string(record).expect("plain data")
                } else {
                    table_line(record)
                };
                let mut output = output.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *output = std::mem::replace(&mut *output, Ok(())).and(ui.print(&line));
            }
        }
        _ => {}
    };
    let summary = preprocess(&batch, &prepare, &observer);
    ui.stop();
    let summary = summary?;
    output.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)?;
    let memory = peak_memory().map(|b| format!(", peak memory {:.2} GiB", b as f64 / (1u64 << 30) as f64));
    ui.say(&format!(
        "{} done, {} failed, {} skipped in {}{}; see {}",
        summary.done,
        summary.failed,
        summary.skipped,
        duration(start.elapsed()),
        memory.unwrap_or_default(),
        options.output.display()
    ));
    if summary.left > 0 {
        ui.say(&format!("{} left; resume with --continue", studies_of(summary.left)));
    }
    let outcome = if summary.failed + summary.left > 0 { Outcome::SomeFailed } else { Outcome::Done };
    Ok((outcome, summary.left > 0))
}

fn studies_of(number: usize) -> String {
    if number == 1 { "1 study".to_owned() } else { format!("{number} studies") }
}

fn study_input(options: &Preprocess) -> anyhow::Result<StudyInput> {
    let files = [&options.t1n, &options.t1c, &options.t2w, &options.t2f].map(Clone::clone).to_vec();
    let Some(first) = files.iter().flatten().next() else {
        if options.input.is_empty() {
            return Err(Problem::new(
                "no study is given",
                "name a folder with --input, or the files of one study with --t1n, --t1c, --t2w and --t2f",
            ));
        }
        return Ok(StudyInput::Found(options.input.clone()));
    };
    let folder = std::path::absolute(first)
        .ok()
        .and_then(|p| Some(p.parent()?.file_name()?.to_string_lossy().into_owned()));
    let id = options.case.clone().or(folder).unwrap_or_else(|| "study".to_owned());
    if id.is_empty() || id.contains(['/', '\\']) || id.starts_with('.') {
        return Err(Problem::new(
            format!("`{id}` cannot be the name of a study"),
            "files are called by it: choose a name without slashes that does not begin with a dot",
        ));
    }
    debug_assert_eq!(files.len(), CHANNELS.len());
    Ok(StudyInput::Given(StudyFiles { id, files }))
}

fn brain_source(options: &Preprocess, ui: &Ui) -> anyhow::Result<BrainSource> {
    if let Some(mask) = &options.brain_mask {
        return Ok(BrainSource::Mask(mask.clone()));
    }
    let Some(brain) = &options.brain else {
        return Err(Problem::new(
            "neither --brain nor --brain-mask is given",
            "give --brain MODEL (a model of nnU-Net that finds the brain in one image, such as HD-BET's), --brain-mask FILE, or \
             --brain none for images that have lost their skull already",
        ));
    };
    if brain.as_os_str() == "none" {
        return Ok(BrainSource::None);
    }
    let engine = options.compute.engine(ui).map_err(InferError::from)?;
    let predict = PredictOptions { mirroring: options.mirroring, engine, ..PredictOptions::default() };
    Ok(BrainSource::Model(brain.clone(), Box::new(predict)))
}

/// A study's lines of the log.
fn show(record: &StudyRecord, ui: &Ui) {
    for warning in &record.warnings {
        ui.warn(&format!("{}: {warning}", record.case));
    }
    for check in record.checks.iter().filter(|c| c.verdict > Verdict::Ok) {
        ui.warn(&format!("{}: {}", record.case, check.message));
    }
    if let Some(error) = &record.error {
        let hint = record.hint.as_ref().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
        ui.fail(&format!("study `{}`: {error}{hint}", record.case));
        return;
    }
    let brain = record.brain_ml.map(|ml| format!(" | brain {ml:.0} mL")).unwrap_or_default();
    let channels: Vec<&str> = record.channels.iter().map(|c| c.channel.as_str()).collect();
    ui.say(&format!(
        "{} | {} | to {}{brain} | {:.1} s",
        record.case,
        channels.join(", "),
        record.center,
        record.seconds
    ));
}

/// Study, channels, brain volume and the checks that are not passed, separated by tabs.
fn table_line(record: &StudyRecord) -> String {
    let channels: Vec<&str> = record.channels.iter().map(|c| c.channel.as_str()).collect();
    let odd = record.checks.iter().filter(|c| c.verdict > Verdict::Ok);
    let odd: Vec<String> = odd.map(|c| format!("{}={}", c.name, c.value)).collect();
    let brain = record.brain_ml.map_or_else(|| "-".to_owned(), |ml| format!("{ml:.1}"));
    let odd = if odd.is_empty() { "ok".to_owned() } else { odd.join(" ") };
    [record.case.clone(), channels.join(","), brain, odd].join("\t")
}
