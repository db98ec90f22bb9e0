//! A batch of cases from files to files: read and prepare the next one, predict this one, write the last one, at the same time.
//!
//! Three steps, each on its own thread, joined by queues without slack, so at most three cases are in memory. A case that fails
//! is reported and the batch continues. Only this module knows folders, `--continue`, `--part` and `predict.json`.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use glioseg_diagnose::Diagnose as _;
use glioseg_dicom::Study;
use glioseg_net::MemoryPlan;
use glioseg_plan::matching::NamedPattern;
use glioseg_plan::record::{CaseRecord, CaseStatus, ModelRecord, Record, Settings};

use super::folder::Folder;
use super::predictor::ModelSet;
use super::previous::check_folder;
use super::{CaseImages, InferError, Inferred, Origin, PredictOptions, Predictor, Prepared, Watch};
use crate::cases::{CaseError, CaseFiles, ChannelMatch, find_cases, match_cases};
use crate::dicom::{self, DicomOptions, ObjectWriter, StudyCase};
use crate::model::Model;

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
            _ => Err(format!("`{text}` is not a share of the cases; write it like 1/4, from 1/4 to 4/4")),
        }
    }
}

/// Which cases, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Folders of images, folders of one folder per case, or image files.
    pub inputs: &'a [PathBuf],
    /// Cases whose files are given channel by channel, instead of being found in `inputs` by their names.
    pub channels: Option<&'a [NamedPattern]>,
    /// How DICOM studies are read, where `inputs` hold such instead of image files.
    pub dicom: Option<&'a DicomOptions>,
    /// For later stages of a cascade: the folder of the segmentations of the stage before, `CASE.nii.gz`.
    pub previous: Option<&'a Path>,
    /// Folder for `CASE.nii.gz`, `predict.json` and `dataset.json`.
    pub out: &'a Path,
    /// Only this share of the cases.
    pub part: Option<Part>,
    /// Leave out cases whose results are there.
    pub skip_finished: bool,
    /// Once it is set, the batch ends: the case in the network is given up, the one before it is written.
    pub stop: Option<&'a AtomicBool>,
}

impl<'a> Batch<'a> {
    /// All cases of `inputs`.
    pub fn new(inputs: &'a [PathBuf], out: &'a Path) -> Self {
        Self {
            inputs,
            channels: None,
            dicom: None,
            previous: None,
            out,
            part: None,
            skip_finished: false,
            stop: None,
        }
    }

    fn watch(&self) -> Watch<'a> {
        self.stop.map_or_else(Watch::default, |stop| Watch::default().stop(stop))
    }

    fn record_path(&self) -> PathBuf {
        self.out.join(match self.part {
            None => "predict.json".into(),
            Some(Part { number, of }) => format!("predict_part{number}of{of}.json"),
        })
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
        /// What the networks take; a case and its sums come on top.
        memory: MemoryPlan,
    },
    /// A DICOM study is a case; which of its series are the channels follows from [`Study::list`].
    Study {
        /// Name of the case.
        case: &'a str,
        /// The study.
        study: &'a Study,
    },
    /// Label maps that were in the output folder and are not of this batch.
    Stale {
        /// Their names.
        files: &'a [String],
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

/// Who hears of the events.
pub type Observer<'a> = dyn Fn(Event<'_>) + Sync + 'a;

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PredictSummary {
    /// Cases with a new segmentation.
    pub done: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases whose results were there.
    pub skipped: usize,
    /// Cases that were not done because the batch was stopped.
    pub left: usize,
}

/// What a case is read from.
enum Source {
    Files(CaseFiles),
    Study(Box<StudyCase>),
}

impl Source {
    fn id(&self) -> &str {
        match self {
            Self::Files(case) => &case.id,
            Self::Study(case) => &case.id,
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Files(case) => case.files.clone(),
            Self::Study(case) => case.files(),
        }
    }
}

/// A case that failed, at whatever step.
struct Failure {
    case: CaseFiles,
    error: Box<InferError>,
}

impl Failure {
    fn of(id: &str, files: &[PathBuf], error: InferError) -> Self {
        let case = CaseFiles { id: id.to_owned(), files: files.to_vec() };
        Self { case, error: Box::new(error) }
    }

    fn into_record(self) -> CaseRecord {
        CaseRecord::failed(self.case.id, self.case.files, self.error.to_string(), self.error.hint())
    }
}

/// Opens models, predicts every case of a batch with them, and writes `CASE.nii.gz`, `predict.json` and `dataset.json`.
///
/// # Errors
/// What makes the whole batch impossible: a model or an input that cannot be opened, an output folder that cannot be written or lies
/// inside the input. What is wrong with single cases is in the events, in `predict.json` and in the summary.
pub fn predict(
    models: &[PathBuf],
    options: PredictOptions,
    batch: &Batch<'_>,
    observer: &Observer<'_>,
) -> Result<PredictSummary, InferError> {
    // Weights are loaded last: they take longest, and what is wrong with the paths should be told before.
    let set = ModelSet::open(models, options)?;
    let job = Job::new(&set, batch)?;
    job.run(&Predictor::load(set)?, observer)
}

/// Predicts every case of a batch and writes `CASE.nii.gz`, `predict.json` and `dataset.json`.
///
/// # Errors
/// As [`predict`].
pub fn batch(
    predictor: &Predictor,
    batch: &Batch<'_>,
    observer: &Observer<'_>,
) -> Result<PredictSummary, InferError> {
    Job::new(predictor.set(), batch)?.run(predictor, observer)
}

/// A batch whose cases are found and whose output folder is there.
struct Job<'a> {
    batch: &'a Batch<'a>,
    folder: Folder,
    cases: Vec<Source>,
    bad: Vec<Failure>,
    studies: Vec<(String, Study)>,
    matches: Vec<ChannelMatch>,
    ignored: Vec<PathBuf>,
    skipped: usize,
}

impl<'a> Job<'a> {
    fn new(set: &ModelSet, batch: &'a Batch<'a>) -> Result<Self, InferError> {
        check_folder(&set.models, batch.previous)?;
        let dataset = &set.first().dataset;
        let found = match batch.channels {
            None => find_cases(batch.inputs, &dataset.channel_names, &dataset.file_ending),
            Some(patterns) => {
                let root = batch.inputs.first().map_or(Path::new(""), PathBuf::as_path);
                match_cases(root, patterns, &dataset.channel_names)
            }
        };
        let mut studies = Vec::new();
        let mut all: Vec<(String, Result<Source, InferError>)> = Vec::new();
        let (mut matches, mut ignored) = (Vec::new(), Vec::new());
        match (found, batch.dicom) {
            (Err(error @ CaseError::NoCases { .. }), Some(options)) if batch.channels.is_none() => {
                let Some(found) = dicom::find(batch.inputs, &dataset.channel_names, options)? else {
                    return Err(error.into());
                };
                studies = found.studies;
                all.extend(
                    found.cases.into_iter().map(|(id, case)| (id, case.map(|c| Source::Study(Box::new(c))))),
                );
            }
            (found, _) => {
                let found = found?;
                all.extend(found.cases.into_iter().map(|c| (c.id.clone(), Ok(Source::Files(c)))));
                all.extend(found.bad.into_iter().map(|(id, e)| (id, Err(e.into()))));
                (matches, ignored) = (found.matches, found.ignored);
            }
        }
        let folder = Folder::make(batch.out, batch.inputs, dataset.written_ending())?;
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut job =
            Self { batch, folder, cases: Vec::new(), bad: Vec::new(), studies, matches, ignored, skipped: 0 };
        let mine = |i: usize| batch.part.is_none_or(|p| i % p.of == p.number - 1);
        for (_, (id, case)) in all.into_iter().enumerate().filter(|(i, _)| mine(*i)) {
            match case {
                Ok(source) if batch.skip_finished && job.is_finished(&source, &set.options) => {
                    job.skipped += 1;
                }
                Ok(case) => job.cases.push(case),
                Err(error) => job.bad.push(Failure::of(&id, &[], error)),
            }
        }
        Ok(job)
    }

    /// Whether a case has all that is asked for.
    fn is_finished(&self, source: &Source, options: &PredictOptions) -> bool {
        let seg = matches!(source, Source::Study(_)) && self.batch.dicom.is_some_and(|dicom| dicom.seg);
        self.folder.is_finished(source.id(), options)
            && (!seg || ObjectWriter::seg_path(self.folder.path(), source.id()).is_file())
    }

    fn run(self, predictor: &Predictor, observer: &Observer<'_>) -> Result<PredictSummary, InferError> {
        let set = predictor.set();
        let (batch, folder) = (self.batch, &self.folder);
        set.rules.prepare_folder::<InferError>(folder.path(), &set.first().dataset, batch.skip_finished)?;
        if set.options.save_probabilities && !set.by_v1() {
            folder.write_plans(set.first().plans.raw())?;
        }
        let record_path = batch.record_path();
        let mut record =
            new_record(predictor, batch.previous, batch.skip_finished.then_some(record_path.as_path()));
        for (case, study) in &self.studies {
            observer(Event::Study { case, study });
        }
        let objects = batch.dicom.map(|options| ObjectWriter {
            seg: options.seg,
            rtstruct: options.rtstruct,
            segments: dicom::segments_of(&set.first().dataset, &set.rules.recoding),
            model: set.first().plans.dataset_name().to_owned(),
        });
        observer(Event::Start {
            models: &set.models,
            matches: &self.matches,
            ignored: &self.ignored,
            cases: self.cases.len(),
            skipped: self.skipped,
            memory: predictor.memory(),
        });
        // With parts, and to continue, files of other runs are meant to be there.
        if batch.part.is_none() && !batch.skip_finished {
            let own = self.cases.iter().map(Source::id).chain(self.bad.iter().map(|f| f.case.id.as_str()));
            let files = folder.strangers(&own.collect(), set.options.save_probabilities);
            if !files.is_empty() {
                observer(Event::Stale { files: &files });
            }
        }
        let mut summary = PredictSummary { skipped: self.skipped, ..PredictSummary::default() };
        let all = self.bad.len() + self.cases.len();
        let mut record_case = |case: CaseRecord| -> Result<(), InferError> {
            match case.status {
                CaseStatus::Done => summary.done += 1,
                CaseStatus::Failed => summary.failed += 1,
            }
            observer(Event::Finished { record: &case });
            record.put(case);
            Ok(record.write(&record_path)?)
        };
        for failure in self.bad {
            record_case(failure.into_record())?;
        }
        folder.make_below(&set.options)?;
        let (ready_in, ready_out) = sync_channel::<Result<Prepared, Failure>>(0);
        let (done_in, done_out) = sync_channel::<Result<Inferred, Failure>>(0);
        let (count, cases) = (self.cases.len(), self.cases);
        thread::scope(|scope| {
            scope.spawn(move || read_cases(cases, set, batch, &ready_in));
            let writer = scope.spawn(move || -> Result<(), InferError> {
                for case in done_out {
                    record_case(
                        match case.and_then(|case| write_case(case, set, folder, objects.as_ref())) {
                            Ok(record) => record,
                            Err(failure) => failure.into_record(),
                        },
                    )?;
                }
                Ok(())
            });
            infer_cases(&ready_out, &done_in, predictor, batch.watch(), observer, count);
            // Closing both queues ends the other threads, also when this one stopped early.
            drop((ready_out, done_in));
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        summary.left = all - summary.done - summary.failed;
        if summary.left > 0 {
            // Also where no case was done.
            record.write(&record_path)?;
        }
        Ok(summary)
    }
}

/// The record of the batch; cases of an earlier run stay in it if this run only adds to it (`earlier`).
fn new_record(predictor: &Predictor, previous: Option<&Path>, earlier: Option<&Path>) -> Record {
    let ModelSet { models, options, rules, .. } = predictor.set();
    let models: Vec<ModelRecord> =
        models.iter().zip(predictor.hashes()).map(|(m, hashes)| model_record(m, hashes)).collect();
    let settings = Settings {
        checkpoint: options.checkpoint.stem().into(),
        step: options.step,
        mirroring: options.mirroring,
        accumulation: options.accumulation.name().into(),
        device: options.engine.device.word().into(),
        precision: options.engine.precision.word().into(),
        kernels: options.engine.kernels.word().into(),
        threads: rayon::current_num_threads(),
        postprocessing: rules.postprocessing.steps.clone(),
        labels: options.labels,
        previous_stage: previous.map(Path::to_owned),
    };
    let earlier = earlier.and_then(|path| Record::read_file(path).ok()).filter(|r| r.models == models);
    Record {
        program: "glioseg".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        notice: "Research use only; not a medical device.".into(),
        models,
        settings: Some(settings),
        cases: earlier.map(|r| r.cases).unwrap_or_default(),
    }
}

fn model_record(model: &Model, hashes: &[String]) -> ModelRecord {
    ModelRecord {
        path: model.path.clone(),
        dataset: model.plans.dataset_name().to_owned(),
        plans: model.plans.plans_name().to_owned(),
        configuration: model.configuration.name.clone(),
        trainer: model.trainer.clone(),
        rules: model.configuration.rules.name().to_owned(),
        channels: model.dataset.channel_names.clone(),
        folds: model.folds.iter().map(|f| f.name.clone()).zip(hashes.iter().cloned()).collect(),
    }
}

/// Reads and prepares one case after the other.
fn read_cases(
    cases: Vec<Source>,
    set: &ModelSet,
    batch: &Batch<'_>,
    queue: &SyncSender<Result<Prepared, Failure>>,
) {
    let watch = batch.watch();
    let later = set.models.iter().find(|m| m.configuration.previous_stage.is_some());
    for case in cases {
        if watch.is_stopped() {
            return;
        }
        let mut images = match &case {
            Source::Files(files) => CaseImages::read(files.clone(), set.image_reader()),
            Source::Study(study) => study.read(),
        };
        if let (Some(folder), Some(model)) = (batch.previous, later) {
            images = images.and_then(|images| images.read_previous(folder, model, set.image_reader()));
        }
        let prepared = images.and_then(|images| set.prepare(images));
        if queue.send(prepared.map_err(|error| Failure::of(case.id(), &case.files(), error))).is_err() {
            return;
        }
    }
}

/// Runs the networks over one case after the other.
fn infer_cases(
    ready: &Receiver<Result<Prepared, Failure>>,
    done: &SyncSender<Result<Inferred, Failure>>,
    predictor: &Predictor,
    watch: Watch<'_>,
    observer: &Observer<'_>,
    of: usize,
) {
    let passed = || observer(Event::Pass);
    let watch = watch.on_pass(&passed);
    for (i, case) in ready.iter().enumerate() {
        let inferred = case.and_then(|case| {
            observer(Event::Case { case: case.id(), number: i + 1, of, passes: case.passes() });
            let inferred = predictor.infer(&case, &watch);
            inferred.map_err(|error| Failure::of(case.id(), case.origin().files(), error))
        });
        if let Err(Failure { error, .. }) = &inferred
            && matches!(**error, InferError::Stopped)
        {
            return;
        }
        if done.send(inferred).is_err() {
            // The writer has stopped; it says why.
            return;
        }
    }
}

/// Decides a case and writes it.
fn write_case(
    case: Inferred,
    set: &ModelSet,
    folder: &Folder,
    objects: Option<&ObjectWriter>,
) -> Result<CaseRecord, Failure> {
    let facts = std::sync::Arc::clone(&case.facts);
    let written = set.finish(case).and_then(|prediction| {
        if let (Origin::Dicom { stack, .. }, Some(objects)) = (&prediction.origin, objects) {
            objects.write(folder.path(), &prediction.record.case, &prediction.labels, stack)?;
        }
        folder.write(prediction)
    });
    written.map_err(|error| Failure::of(&facts.id, facts.origin.files(), error))
}
