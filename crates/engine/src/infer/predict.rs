//! A batch of cases: read and prepare the next one, predict this one, write the last one, at the same time.
//!
//! Three steps, each on its own thread, joined by queues of length one, so at most three cases are in memory. A case that fails
//! is reported and the batch goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::{FormatError, nifti};
use glioseg_net::EngineChoice;
use glioseg_plan::{Labels, Rules};
use glioseg_prep::PreparedCase;
use glioseg_prep::guard::ChannelCheck;
use glioseg_volume::{Geometry, LabelMap};
use indexmap::IndexMap;

use super::export::{Decision, Logits, ProbabilitySum, Segmentation};
use super::finish::{Finish, PostprocessingChoice};
use super::flags::{Flag, FlagKind, ImageFacts, TrainingRange, flags};
use super::networks::{Networks, forward};
use super::output::{V1Properties, write_probabilities, write_softmax};
use super::reading::{Failure, Ready, read_cases};
use super::record::{CaseRecord, CaseStatus, ModelRecord, Record, Settings};
use super::uncertainty::{CaseMoments, Moments, uncertainty_path};
use super::{Accumulation, Image, InferError, LogitSum, WindowOptions};
use crate::cases::{CaseFiles, ChannelMatch, canonical_channel, find_cases};
use crate::labels::{OutputLabels, meaning, other_labels, write_description};
use crate::model::{CheckpointChoice, Folds, Model};

/// The K-th of N equal shares of the cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From 1 to `of`.
    pub number: usize,
    /// Number of shares.
    pub of: usize,
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err(format!("`{text}` is no share of the cases such as 1/4, from 1/4 to 4/4")),
        }
    }
}

/// How cases are predicted. The options act in this order: folds and checkpoint choose weights, part and skipping choose cases,
/// step and mirroring choose tiles; the decided label map is postprocessed and then recoded, probabilities are saved as they are.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, named by their fields")]
pub struct PredictOptions {
    /// Which folds of every model.
    pub folds: Folds,
    /// Which checkpoint of every fold.
    pub checkpoint: CheckpointChoice,
    /// Only this share of the cases.
    pub part: Option<Part>,
    /// Leave out cases whose results are there.
    pub skip_finished: bool,
    /// Distance of neighbouring tiles as a fraction of the patch.
    pub step: f64,
    /// Average over mirrored tiles, where the model allows it.
    pub mirroring: bool,
    /// Precision of the running sums.
    pub accumulation: Accumulation,
    /// Interpolate position embeddings that are for another patch size than the plan's, instead of refusing the model.
    pub interpolate_positions: bool,
    /// What is done to the label map.
    pub postprocessing: PostprocessingChoice,
    /// Which label values are written.
    pub labels: OutputLabels,
    /// Also write `CASE.npz`.
    pub save_probabilities: bool,
    /// Also write how far the passes agree: maps below `uncertainty/` and scores in the record.
    pub uncertainty: bool,
    /// Refuse a case whose channels do not look like their names; else it is a warning.
    pub strict: bool,
    /// What computes.
    pub engine: EngineChoice,
}

impl Default for PredictOptions {
    /// What nnU-Net does without options, on the CPU.
    fn default() -> Self {
        Self {
            folds: Folds::default(),
            checkpoint: CheckpointChoice::Final,
            part: None,
            skip_finished: false,
            step: 0.5,
            mirroring: true,
            accumulation: Accumulation::Half,
            postprocessing: PostprocessingChoice::default(),
            labels: OutputLabels::default(),
            save_probabilities: false,
            uncertainty: false,
            strict: false,
            interpolate_positions: false,
            engine: EngineChoice::default(),
        }
    }
}

/// What happens during a prediction, for whoever shows it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Models and cases are known, work begins.
    Start {
        /// The models.
        models: &'a [Model],
        /// Which file endings are which channel.
        matches: &'a [ChannelMatch],
        /// Files of the input that are no channel.
        ignored: &'a [PathBuf],
        /// Number of cases that will be predicted.
        cases: usize,
        /// Number of cases that are left out because their results are there.
        skipped: usize,
    },
    /// The network begins with a case.
    Case {
        /// Its name.
        case: &'a str,
        /// Its number, from 1.
        number: usize,
        /// Number of cases.
        of: usize,
        /// Network passes to come.
        passes: usize,
    },
    /// One network pass is done.
    Pass,
    /// A case is written, or has failed.
    Finished {
        /// What became of it.
        record: &'a CaseRecord,
    },
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PredictSummary {
    /// Cases with a new segmentation.
    pub done: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases whose results were there.
    pub skipped: usize,
}

/// A case whose segmentation is to be written.
struct Segmented {
    files: CaseFiles,
    channels: ChannelCheck,
    geometry: Geometry,
    result: ToWrite,
    image: ImageFacts,
    moments: Option<CaseMoments>,
    warnings: Vec<String>,
    seconds: IndexMap<String, f64>,
}

/// What is left to do when the network has finished with a case.
enum ToWrite {
    Logits { logits: Vec<f32>, prepared: Arc<PreparedCase> },
    Probabilities { sum: ProbabilitySum, prepared: Arc<PreparedCase> },
}

/// Predicts every case of `inputs` with the mean of `models` and writes `CASE.nii.gz`, `predict.json` and `dataset.json` to `out`.
///
/// One model is applied as nnU-Net v2 does: the mean of the logits over tiles, mirrorings and folds. Several models are combined
/// as `nnUNetv2_ensemble` does: the mean of their probabilities. A model of version 1 is applied by version 1's rules (the mean of
/// probabilities, in single precision), and several such models are combined as `nnUNet_ensemble` does, in half precision.
///
/// # Errors
/// What makes the whole batch impossible: a model or an input that cannot be opened, an output folder that cannot be written or lies
/// inside the input. What is wrong with single cases is in the events, in `predict.json` and in the summary.
pub fn predict(
    models: &[PathBuf],
    inputs: &[PathBuf],
    out: &Path,
    options: &PredictOptions,
    observer: &(dyn Fn(Event<'_>) + Sync),
) -> Result<PredictSummary, InferError> {
    let models = models
        .iter()
        .map(|m| Model::open(m, &options.folds, options.checkpoint))
        .collect::<Result<Vec<_>, _>>()?;
    check_models_agree(&models)?;
    let finish = Finish::new(&models, &options.postprocessing, options.labels, options.save_probabilities)?;
    let dataset = &models[0].dataset;
    let found = find_cases(inputs, &dataset.channel_names, &dataset.file_ending)?;
    check_output(out, inputs)?;
    let networks = Networks::load(&models, options)?;
    if options.skip_finished
        && let Some((found, wanted)) = other_labels(out, dataset, &finish.recoding)
    {
        return Err(InferError::OtherLabels { path: out.into(), found, wanted });
    }
    write_description(out, dataset, &finish.recoding)?;
    let record_path = out.join(record_name(options.part));
    let mut record = new_record(&models, &networks.hashes, options, &finish, &record_path);

    let mine = |i: usize| options.part.is_none_or(|p| i % p.of == p.number - 1);
    let mut all: Vec<(String, Result<CaseFiles, InferError>)> =
        found.cases.into_iter().map(|c| (c.id.clone(), Ok(c))).collect();
    all.extend(found.bad.into_iter().map(|(id, e)| (id, Err(e.into()))));
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let mut summary = PredictSummary::default();
    let (mut cases, mut failures) = (Vec::new(), Vec::new());
    for (_, (id, case)) in all.into_iter().enumerate().filter(|(i, _)| mine(*i)) {
        match case {
            Ok(_) if options.skip_finished && is_finished(out, &id, options) => summary.skipped += 1,
            Ok(case) => cases.push(case),
            Err(error) => {
                failures.push(Failure { files: CaseFiles { id, files: Vec::new() }, error: Box::new(error) });
            }
        }
    }
    observer(Event::Start {
        models: &models,
        matches: &found.matches,
        ignored: &found.ignored,
        cases: cases.len(),
        skipped: summary.skipped,
    });

    let mut record_case = |case: CaseRecord| -> Result<(), InferError> {
        match case.status {
            CaseStatus::Done => summary.done += 1,
            CaseStatus::Failed => summary.failed += 1,
        }
        observer(Event::Finished { record: &case });
        record.put(case);
        record.write(&record_path)
    };
    for failure in failures {
        record_case(failure.into_record())?;
    }
    let training = TrainingRange::of(&models[0]);
    if options.uncertainty {
        let folder = out.join(UNCERTAINTY);
        std::fs::create_dir_all(&folder)
            .map_err(|source| InferError::Output { path: folder.clone(), source })?;
    }
    let (ready_in, ready_out) = sync_channel::<Result<Ready, Failure>>(0);
    let (done_in, done_out) = sync_channel::<Result<Segmented, Failure>>(0);
    let count = cases.len();
    let outcome = thread::scope(|scope| {
        let (models, finish) = (&models, (&finish, &training));
        scope.spawn(move || read_cases(cases, models, options.strict, &ready_in));
        let writer = scope.spawn(move || -> Result<(), InferError> {
            for case in done_out {
                record_case(match case.and_then(|case| write_case(case, models, finish, out, options)) {
                    Ok(record) => record,
                    Err(failure) => failure.into_record(),
                })?;
            }
            Ok(())
        });
        predict_cases(&ready_out, &done_in, models, &networks, options, observer, count);
        // Closing both queues ends the other threads, also when this one stopped early.
        drop((ready_out, done_in));
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    outcome?;
    Ok(summary)
}

fn record_name(part: Option<Part>) -> String {
    part.map_or_else(|| "predict.json".into(), |p| format!("predict_part{}of{}.json", p.number, p.of))
}

fn new_record(
    models: &[Model],
    hashes: &[Vec<String>],
    options: &PredictOptions,
    finish: &Finish,
    path: &Path,
) -> Record {
    let models: Vec<ModelRecord> = models.iter().zip(hashes).map(|(m, h)| ModelRecord::new(m, h)).collect();
    let settings = Settings {
        checkpoint: options.checkpoint.stem().into(),
        step: options.step,
        mirroring: options.mirroring,
        accumulation: options.accumulation.name().into(),
        device: options.engine.device.word().into(),
        kernels: options.engine.kernels.word().into(),
        threads: rayon::current_num_threads(),
        postprocessing: finish.postprocessing.steps.clone(),
        labels: options.labels,
    };
    // Cases of an earlier run stay in the record if this run only adds to it.
    let cases = if options.skip_finished {
        Record::read(path).filter(|r| r.models == models).map(|r| r.cases).unwrap_or_default()
    } else {
        Vec::new()
    };
    Record {
        program: "glioseg".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        notice: "Research use only; not a medical device.".into(),
        models,
        settings,
        cases,
    }
}

fn segmentation_path(out: &Path, case: &str) -> PathBuf {
    out.join(format!("{case}.nii.gz"))
}

/// Where maps of uncertainty go: apart from the label maps, so that nobody takes them for such.
const UNCERTAINTY: &str = "uncertainty";

fn probabilities_path(out: &Path, case: &str) -> PathBuf {
    out.join(format!("{case}.npz"))
}

/// Results are renamed into place when complete, so a file that is there is a finished one.
fn is_finished(out: &Path, case: &str, options: &PredictOptions) -> bool {
    segmentation_path(out, case).is_file()
        && (!options.save_probabilities || probabilities_path(out, case).is_file())
        && (!options.uncertainty || uncertainty_path(&out.join(UNCERTAINTY), case, "disagreement").is_file())
}

fn check_models_agree(models: &[Model]) -> Result<(), InferError> {
    let first = &models[0];
    let channels = |m: &Model| {
        m.dataset.channel_names.iter().map(|c| canonical_channel(c)).collect::<Vec<_>>().join(", ")
    };
    let labels = |m: &Model| meaning(&m.dataset.labels);
    for other in &models[1..] {
        let differ = |what, first_is: String, second_is: String| InferError::ModelsDiffer {
            what,
            first: first_is,
            second: second_is,
            first_path: first.path.clone(),
            second_path: other.path.clone(),
        };
        if channels(first) != channels(other) {
            return Err(differ("the channels", channels(first), channels(other)));
        }
        if labels(first) != labels(other) {
            return Err(differ("the labels", labels(first), labels(other)));
        }
    }
    Ok(())
}

/// Makes the output folder and checks that it lies outside the input and can be written.
fn check_output(out: &Path, inputs: &[PathBuf]) -> Result<(), InferError> {
    let failed = |source| InferError::Output { path: out.into(), source };
    // The folder may not be there yet: its nearest existing parent decides where it lies.
    let absolute = std::path::absolute(out).map_err(failed)?;
    let existing =
        absolute.ancestors().find_map(|a| a.canonicalize().ok()).unwrap_or_else(|| absolute.clone());
    let rest = absolute.ancestors().find(|a| a.exists()).and_then(|a| absolute.strip_prefix(a).ok());
    let target = rest.map_or_else(|| existing.clone(), |r| existing.join(r));
    for input in inputs.iter().filter(|i| i.is_dir()) {
        if input.canonicalize().is_ok_and(|i| target.starts_with(i)) {
            return Err(InferError::OutputInsideInput { out: out.into(), input: input.clone() });
        }
    }
    std::fs::create_dir_all(out).map_err(failed)?;
    tempfile::tempfile_in(out).map_err(failed)?;
    Ok(())
}

fn predict_cases(
    ready: &Receiver<Result<Ready, Failure>>,
    done: &SyncSender<Result<Segmented, Failure>>,
    models: &[Model],
    networks: &Networks,
    options: &PredictOptions,
    observer: &(dyn Fn(Event<'_>) + Sync),
    count: usize,
) {
    for (i, case) in ready.iter().enumerate() {
        let segmented = case.and_then(|case| {
            let files = case.files.clone();
            predict_case(case, models, networks, options, observer, (i + 1, count))
                .map_err(|error| Failure { files, error: Box::new(error) })
        });
        if done.send(segmented).is_err() {
            // The writer has stopped; it says why.
            return;
        }
    }
}

fn predict_case(
    case: Ready,
    models: &[Model],
    networks: &Networks,
    options: &PredictOptions,
    observer: &(dyn Fn(Event<'_>) + Sync),
    (number, of): (usize, usize),
) -> Result<Segmented, InferError> {
    let start = Instant::now();
    let Ready { files, channels, geometry, prepared, image, warnings, read_seconds } = case;
    let mut windows = Vec::with_capacity(models.len());
    let mut passes = 0;
    for (model, prepared) in models.iter().zip(&prepared) {
        let window = WindowOptions {
            tile: model.tile(),
            step: options.step,
            mirror_axes: if options.mirroring { model.mirror_axes.clone() } else { Vec::new() },
            rules: model.configuration.rules,
        };
        let grid = super::Grid::new(prepared.shape, window.tile, window.step)?;
        passes += (grid.len() * model.folds.len()) << window.mirror_axes.len();
        windows.push(window);
    }
    observer(Event::Case { case: &files.id, number, of, passes });
    let mut probabilities =
        if models.len() > 1 && by_v1(models) { ProbabilitySum::rounded() } else { ProbabilitySum::default() };
    let mut only = None;
    let mut moments = options.uncertainty.then(CaseMoments::default);
    let first = Arc::clone(&prepared[0]);
    for (at, ((model, window), prepared)) in models.iter().zip(&windows).zip(prepared).enumerate() {
        let (logits, of_model) = predict_logits(at, model, window, &prepared, networks, options, observer)?;
        if let (Some(all), Some(own)) = (&mut moments, of_model) {
            all.add(own, &logits_of(&[], &prepared, model, options.accumulation));
        }
        if options.save_probabilities || models.len() > 1 {
            let decision = Decision::new(&model.dataset.labels);
            probabilities
                .add(logits_of(&logits, &prepared, model, options.accumulation).probabilities(&decision));
        } else {
            only = Some(ToWrite::Logits { logits, prepared });
        }
    }
    let seconds = [("read".to_owned(), read_seconds), ("network".to_owned(), start.elapsed().as_secs_f64())];
    Ok(Segmented {
        files,
        channels,
        geometry,
        result: only.unwrap_or(ToWrite::Probabilities { sum: probabilities, prepared: first }),
        image,
        moments,
        warnings,
        seconds: seconds.into_iter().collect(),
    })
}

/// Whether all models are applied by version 1's rules.
fn by_v1(models: &[Model]) -> bool {
    models.iter().all(|m| m.configuration.rules == Rules::V1)
}

/// Mean logits of all folds of a model, `[output, z, y, x]` of the prepared case (mean probabilities by version 1's rules), and
/// the moments of its passes where they are wanted.
fn predict_logits(
    at: usize,
    model: &Model,
    window: &WindowOptions,
    prepared: &PreparedCase,
    networks: &Networks,
    options: &PredictOptions,
    observer: &(dyn Fn(Event<'_>) + Sync),
) -> Result<(Vec<f32>, Option<Moments>), InferError> {
    let image = Image { data: &prepared.data, channels: prepared.channels, shape: prepared.shape };
    let precision = options.accumulation.under(model.configuration.rules);
    let mut sum = LogitSum::new(model.dataset.labels.num_outputs(), prepared.shape, window, precision)?;
    let activation = (model.configuration.rules == Rules::V1).then(|| Decision::new(&model.dataset.labels));
    if options.uncertainty {
        sum.watch(Moments::new(&model.dataset.labels, activation.is_some(), prepared.shape));
    }
    networks.for_each_fold(at, model, |engine| {
        let mut pass = |patch: Vec<f32>, _| forward(engine, &patch, activation.as_ref());
        sum.add(image, &mut pass, &mut || observer(Event::Pass))
    })?;
    let moments = sum.take_moments();
    Ok((sum.finish()?, moments))
}

/// A model's logits with what leads them back to the image.
fn logits_of<'a>(
    values: &'a [f32],
    prepared: &'a PreparedCase,
    model: &Model,
    precision: Accumulation,
) -> Logits<'a> {
    let properties = &prepared.properties;
    let resampling = properties.probabilities_resampling(&model.configuration);
    let precision = precision.under(model.configuration.rules);
    let activated = model.configuration.rules == Rules::V1;
    Logits { values, shape: prepared.shape, properties, resampling, precision, activated }
}

fn write_case(
    case: Segmented,
    models: &[Model],
    (finish, training): (&Finish, &TrainingRange),
    out: &Path,
    options: &PredictOptions,
) -> Result<CaseRecord, Failure> {
    let start = Instant::now();
    let Segmented { files, channels, geometry, result, image, moments, warnings, mut seconds } = case;
    let model = &models[0];
    let mut properties = None;
    let segmentation = match result {
        ToWrite::Logits { logits, prepared } => logits_of(&logits, &prepared, model, options.accumulation)
            .segment(&Decision::new(&model.dataset.labels)),
        ToWrite::Probabilities { sum, prepared } => {
            properties = by_v1(models).then(|| V1Properties {
                files: files.files.clone(),
                geometry: geometry.clone(),
                resampled: prepared.shape,
                spacing_mm: prepared.properties.target_spacing,
            });
            sum.finish(options.save_probabilities)
        }
    };
    let Segmentation { labels, probabilities } = segmentation;
    let mut map = match LabelMap::new(labels, geometry) {
        Ok(map) => map,
        Err(error) => return Err(Failure { files, error: Box::new(FormatError::from(error).into()) }),
    };
    let postprocessed_voxels = finish.postprocessing.apply(&mut map);
    let volume_ml = volumes(&map, &model.dataset.labels);
    let labels = &model.dataset.labels;
    let mut flags = flags(&map, labels, &model.dataset.channel_names, &image, training);
    let mut images: Vec<&Path> = files.files.iter().map(PathBuf::as_path).collect();
    if images.len() == 1 {
        // One file with all channels.
        images.resize(model.dataset.channel_names.len(), images[0]);
    }
    let doubts = channels.messages(&model.dataset.channel_names, &images).into_iter();
    flags.extend(doubts.map(|doubt| Flag::new(FlagKind::Channels, doubt)));
    let folder = out.join(UNCERTAINTY);
    let uncertainty = moments.map(|m| m.finish(labels, &map, &folder, &files.id)).transpose();
    let uncertainty = match uncertainty {
        Ok(mut uncertainty) => {
            // Regions are told by the labels that are written.
            for region in uncertainty.iter_mut().flat_map(|u| &mut u.regions) {
                finish.recoding.apply(&mut region.labels).expect("values of the dataset");
            }
            uncertainty
        }
        Err(error) => return Err(Failure { files, error: Box::new(error.into()) }),
    };
    // The decision paints values of the dataset, and the recoding was made for these.
    finish.recoding.apply(&mut map.data).expect("values of the dataset");
    // Probabilities first: a case counts as finished when its segmentation is there.
    let path = probabilities_path(out, &files.id);
    let written = probabilities
        .map_or(Ok(()), |p| match &properties {
            Some(properties) => {
                properties.write(&path.with_extension("pkl"), &p).and_then(|()| write_softmax(&path, &p))
            }
            None => write_probabilities(&path, &p),
        })
        .and_then(|()| nifti::write_labels(&segmentation_path(out, &files.id), &map));
    if let Err(error) = written {
        return Err(Failure { files, error: Box::new(error.into()) });
    }
    seconds.insert("write".into(), start.elapsed().as_secs_f64());
    for value in seconds.values_mut() {
        *value = (*value * 1000.0).round() / 1000.0;
    }
    Ok(CaseRecord {
        case: files.id,
        status: CaseStatus::Done,
        files: files.files,
        seconds,
        volume_ml,
        postprocessed_voxels,
        channels: Some(channels),
        warnings,
        flags,
        uncertainty,
        error: None,
        hint: None,
    })
}

/// Volume in mL of every region, or of every label but background.
fn volumes(map: &LabelMap, labels: &Labels) -> IndexMap<String, f64> {
    let counts = map.counts();
    let ml = |values: &[u16]| {
        let voxels: usize = values.iter().filter_map(|v| counts.get(v)).sum();
        (voxels as f64 * map.geometry.voxel_ml() * 1e6).round() / 1e6
    };
    labels.classes().into_iter().map(|(name, values)| (name, ml(&values))).collect()
}

impl Failure {
    fn into_record(self) -> CaseRecord {
        CaseRecord {
            case: self.files.id,
            status: CaseStatus::Failed,
            files: self.files.files,
            seconds: IndexMap::new(),
            volume_ml: IndexMap::new(),
            postprocessed_voxels: Vec::new(),
            channels: None,
            warnings: Vec::new(),
            flags: Vec::new(),
            uncertainty: None,
            hint: self.error.hint(),
            error: Some(self.error.to_string()),
        }
    }
}

impl CaseRecord {
    /// Time of all steps together.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.values().sum())
    }
}
