//! The loop over epochs.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use glioseg_formats::atomic;
use glioseg_metrics::NnUnetSummary;
use glioseg_net::loss::{LossOptions, Overlap};
use glioseg_net::optimiser::{Optimiser, poly_lr};
use glioseg_net::{Checkpoint, Engine, EngineChoice, Mode, Parameters, Program, Update};
use glioseg_plan::free_memory;
use glioseg_prep::augment::{Augmentation, AugmentedBatches, Batch};

use super::online::{dices, targets};
use super::setup::Setup;
use super::state::{EpochRecord, LOG, Progress, StartedWith, Store, check_started_with, stopped_trainings};
use super::tensorboard::{self, Events};
use super::{Estimate, TrainError, chart, pretrained, validation};

/// How a training runs, besides what decides its result.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent switches")]
pub struct TrainOptions {
    /// Go on where a training was stopped.
    pub resume: bool,
    /// Start again where one was started or finished.
    pub overwrite: bool,
    /// First weights from another model: a checkpoint, or a model's folder.
    pub weights: Option<PathBuf>,
    /// Whether position embeddings of [`Self::weights`] that are for another patch are interpolated.
    pub interpolate_positions: bool,
    /// The training ends after this time, and its learning rate falls accordingly.
    pub budget: Option<Duration>,
    /// Also write `CASE.npz` at the final validation.
    pub save_probabilities: bool,
    /// A checkpoint is written this often within an epoch; after an epoch, more often.
    pub save_every: Duration,
    /// What computes.
    pub engine: EngineChoice,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            resume: false,
            overwrite: false,
            weights: None,
            interpolate_positions: false,
            budget: None,
            save_probabilities: false,
            save_every: Duration::from_mins(5),
            engine: EngineChoice::default(),
        }
    }
}

/// After an epoch a checkpoint is written unless the last one is younger than this.
const EPOCH_SAVE: Duration = Duration::from_secs(20);

/// What happens during a training, for whoever shows it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Everything is checked and measured, the first epoch begins.
    Start {
        /// What is trained.
        setup: &'a Setup,
        /// What it will take.
        estimate: &'a Estimate,
        /// What computes.
        engine: EngineChoice,
        /// Bytes of memory that are free.
        free_memory: Option<u64>,
        /// Epoch and iteration that it resumes from, with the file.
        resumed: Option<(usize, usize, PathBuf)>,
    },
    /// Something that should be known.
    Note(String),
    /// Something that should be known and may be wrong.
    Warning(String),
    /// A training batch is done.
    Iteration {
        /// From 0.
        epoch: usize,
        /// Epochs in all, as far as is known.
        epochs: usize,
        /// From 0.
        iteration: usize,
        /// Iterations of the epoch.
        of: usize,
        /// Loss of the batch.
        loss: f64,
    },
    /// An epoch is done.
    Epoch {
        /// What it brought.
        record: &'a EpochRecord,
        /// Epochs in all, as far as is known.
        epochs: usize,
        /// Names of the scored labels or regions.
        classes: &'a [String],
        /// Time to the end of the training.
        left: Duration,
    },
    /// The final validation begins with a case.
    Validating {
        /// Its name.
        case: &'a str,
        /// From 1.
        number: usize,
        /// Number of cases.
        of: usize,
        /// Network passes to come.
        passes: usize,
    },
    /// One network pass of the final validation is done.
    Pass,
    /// A case of the final validation is done.
    Validated {
        /// Its name.
        case: &'a str,
        /// From 1.
        number: usize,
        /// Number of cases.
        of: usize,
        /// Dice per label or region; NaN where both are empty.
        dice: &'a [f64],
        /// Seconds.
        seconds: f64,
    },
}

/// How a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainOutcome {
    /// Trained and validated.
    Finished,
    /// Stopped when asked to; it can continue.
    Stopped,
}

/// What came of a training.
#[derive(Debug, Clone)]
pub struct Trained {
    /// How it ended.
    pub outcome: TrainOutcome,
    /// The final checkpoint, or the latest one.
    pub checkpoint: Option<PathBuf>,
    /// Scores of the validation cases; none if there are none or it was stopped.
    pub summary: Option<NnUnetSummary>,
    /// The epochs; empty if only the validation was done now.
    pub history: Vec<EpochRecord>,
}

/// Trains a network and validates it; sets nothing in motion that does not end with it.
///
/// When `stop` is set, the state is saved after the present batch and the training returns.
///
/// # Errors
/// [`TrainError`]; whatever was saved before stays.
///
/// # Source
/// nnU-Net v2, `nnUNetTrainer.run_training`, `perform_actual_validation`.
pub fn train(
    setup: &Setup,
    options: &TrainOptions,
    stop: &AtomicBool,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<Trained, TrainError> {
    let store = Store::new(setup);
    if options.overwrite {
        store.clear()?;
        validation::clear(setup)?;
    } else if !options.resume
        && let Some(what) = store.occupied()
    {
        return Err(TrainError::Exists { path: setup.folder.clone(), what });
    }
    if options.resume && store.finished().is_none() && store.newest().is_none() {
        let (model, fold) = (setup.model_folder.parent(), setup.folder.file_name());
        let stopped =
            model.zip(fold).map(|(results, fold)| stopped_trainings(results, &fold.to_string_lossy()));
        return Err(TrainError::NothingToResume {
            path: setup.folder.clone(),
            stopped: stopped.unwrap_or_default(),
            holds: store.occupied(),
        });
    }
    let more = options.resume && (store.newest().is_some() || store.wants_more(setup.settings.epochs));
    let finished = store.finished().filter(|_| !more);
    // Before anything is written over.
    if let Some(path) = finished.clone().or_else(|| store.newest()).as_ref() {
        check_started_with(path, &StartedWith::new(setup, options))?;
    }
    setup.write_description()?;
    for warning in &setup.warnings {
        observer(Event::Warning(warning.clone()));
    }
    let (mut engine, checkpoint, history) = if let Some(path) = finished {
        observer(Event::Note(format!("{} is there: only the validation is done", path.display())));
        let mut weights = Parameters::zeros(&setup.network)?;
        weights.load_checkpoint(&Checkpoint::open(&path)?)?;
        let mut engine = options.engine.start()?;
        engine.load(Arc::new(weights))?;
        (engine, path, vec![])
    } else {
        let mut training = Training::begin(setup, options, store, observer)?;
        if training.run(stop, observer)? == TrainOutcome::Stopped {
            return Ok(Trained {
                outcome: TrainOutcome::Stopped,
                checkpoint: training.store.newest(),
                summary: None,
                history: training.progress.history,
            });
        }
        let weights = training.engine.parameters()?;
        let path = training.store.save_final(&weights, &training.progress)?;
        (training.engine, path, training.progress.history)
    };
    engine.release();
    let summary = validation::validate(setup, engine, options.save_probabilities, stop, observer)?;
    let outcome = if summary.is_some() { TrainOutcome::Finished } else { TrainOutcome::Stopped };
    Ok(Trained { outcome, checkpoint: Some(checkpoint), summary, history })
}

/// A training on its way.
struct Training<'a> {
    setup: &'a Setup,
    options: &'a TrainOptions,
    store: Store,
    engine: Box<dyn Engine>,
    /// A training step, and the validation of a batch.
    programs: [Program; 2],
    progress: Progress,
    loss: LossOptions,
    weights: Vec<f64>,
    /// What the end will take besides the epochs.
    reserve: f64,
    saved: Instant,
    booked: Instant,
}

impl<'a> Training<'a> {
    fn begin(
        setup: &'a Setup,
        options: &'a TrainOptions,
        store: Store,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<Self, TrainError> {
        let free = free_memory();
        let mut engine = options.engine.start()?;
        let weights = setup.head_weights();
        let batch = setup.configuration.batch_size;
        let program = |mode| Program::new(&setup.network, batch, setup.patch(), mode);
        let programs = [program(Mode::train(&weights))?, program(Mode::Evaluate)?];
        let estimate = Estimate::memory(setup, engine.plan(&programs[0]), free)?;
        let estimate = estimate.timed(setup, engine.as_mut())?;
        engine.release();
        let mut parameters = Parameters::random(&setup.network, setup.settings.seed)?;
        let begun_with = StartedWith::new(setup, options);
        let mut progress = Progress::new(begun_with.clone());
        let optimiser = Optimiser::new(setup.settings.optimiser, parameters.shapes());
        parameters.set_optimiser(Some(optimiser));
        let mut resumed = None;
        if options.resume {
            let restored = store.restore(parameters, &begun_with)?;
            for damaged in restored.damaged {
                observer(Event::Warning(format!(
                    "{damaged}; the training resumes from {}",
                    restored.path.display()
                )));
            }
            (parameters, progress) = (restored.parameters, restored.progress);
            resumed = Some((progress.epoch, progress.iteration, restored.path));
        } else if let Some(path) = &options.weights {
            let taken = pretrained::load(&mut parameters, path, options.interpolate_positions)?;
            observer(Event::Note(format!(
                "first weights from {}: {} tensors, {} keep random values",
                taken.path.display(),
                taken.tensors,
                taken.kept.len()
            )));
        }
        engine.load(Arc::new(parameters))?;
        observer(Event::Start {
            setup,
            estimate: &estimate,
            engine: options.engine,
            free_memory: free,
            resumed,
        });
        Ok(Self {
            setup,
            options,
            store,
            engine,
            programs,
            progress,
            loss: setup.loss(),
            weights,
            reserve: estimate.validation_seconds,
            saved: Instant::now(),
            booked: Instant::now(),
        })
    }

    /// Epochs until the last one is done, or `stop` is set.
    fn run(
        &mut self,
        stop: &AtomicBool,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<TrainOutcome, TrainError> {
        let setup = self.setup;
        let start = (self.progress.epoch as u64, self.progress.iteration as u64);
        let mut batches = AugmentedBatches::new(
            setup.train_cases.clone(),
            setup.pipeline(setup.settings.augmentation),
            setup.batches(false, start),
        )?;
        let val_cases = if setup.val_cases.0.is_empty() { &setup.train_cases } else { &setup.val_cases };
        let mut val_batches = AugmentedBatches::new(
            val_cases.clone(),
            setup.pipeline(Augmentation::None),
            setup.batches(true, (start.0, 0)),
        )?;
        let mut journal = Journal::open(setup, &self.progress.history, observer);
        while self.progress.epoch < setup.settings.epochs {
            if self.out_of_time() {
                observer(Event::Note(format!(
                    "the time is used up: the training ends after {} epochs",
                    self.progress.epoch
                )));
                break;
            }
            if self.train_epoch(&mut batches, stop, observer)? == TrainOutcome::Stopped {
                return self.stop();
            }
            let Some((val_loss, overlaps)) = self.validate_epoch(&mut val_batches, stop)? else {
                return self.stop();
            };
            self.end_epoch(val_loss, &overlaps)?;
            if let Some(record) = self.progress.history.last() {
                let left = self.left();
                let epochs = setup.settings.epochs;
                observer(Event::Epoch { record, epochs, classes: &setup.classes, left });
            }
            journal.add(&self.progress.history, observer);
            if stop.load(Ordering::SeqCst) {
                return self.stop();
            }
        }
        Ok(TrainOutcome::Finished)
    }

    /// Saves the state in the middle of an epoch.
    fn stop(&mut self) -> Result<TrainOutcome, TrainError> {
        self.save_latest()?;
        Ok(TrainOutcome::Stopped)
    }

    /// Books the time since the last booking to the present epoch.
    fn book(&mut self) {
        let seconds = std::mem::replace(&mut self.booked, Instant::now()).elapsed().as_secs_f64();
        self.progress.epoch_seconds += seconds;
        self.progress.seconds += seconds;
    }

    /// Seconds that the training may take, the final validation not counted.
    fn budget(&self) -> Option<f64> {
        let all = self.options.budget?.as_secs_f64();
        Some(all - self.reserve.min(all / 2.0))
    }

    /// Whether another epoch would not fit into the budget.
    fn out_of_time(&self) -> bool {
        let Some(budget) = self.budget() else { return false };
        let Some(last) = self.progress.history.last() else { return false };
        self.progress.iteration == 0 && self.progress.seconds + last.seconds > budget
    }

    fn left(&self) -> Duration {
        let last = &self.progress.history[self.progress.history.len().saturating_sub(10)..];
        let mean = last.iter().map(|r| r.seconds).sum::<f64>() / last.len().max(1) as f64;
        let mut seconds = mean * (self.setup.settings.epochs - self.progress.epoch) as f64;
        if let Some(budget) = self.budget() {
            seconds = seconds.min(budget - self.progress.seconds);
        }
        Duration::from_secs_f64(seconds.max(0.0) + self.reserve)
    }

    /// Learning rate of the epoch that begins now.
    fn lr(&self) -> f64 {
        let settings = &self.setup.settings;
        let mut done = self.progress.epoch as f64 / settings.epochs as f64;
        if let Some(budget) = self.budget() {
            done = done.max(self.progress.seconds / budget);
        }
        poly_lr(settings.lr, done, settings.lr_exponent)
    }

    fn train_epoch(
        &mut self,
        batches: &mut AugmentedBatches,
        stop: &AtomicBool,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<TrainOutcome, TrainError> {
        let of = self.setup.settings.iterations;
        let lr = self.progress.lr.unwrap_or_else(|| self.lr());
        self.progress.lr = Some(lr);
        while self.progress.iteration < of {
            if stop.load(Ordering::SeqCst) {
                return Ok(TrainOutcome::Stopped);
            }
            let (epoch, iteration) = (self.progress.epoch, self.progress.iteration);
            let batch = next(batches)?;
            assert_eq!((batch.epoch, batch.iteration), (epoch as u64, iteration as u64), "batches in order");
            // Dropout's numbers too follow from the position alone.
            let seed = mix(self.setup.settings.seed, epoch as u64, iteration as u64);
            let loss = self.step(batch, lr, seed)?;
            self.progress.iteration += 1;
            let epochs = self.setup.settings.epochs;
            observer(Event::Iteration { epoch, epochs, iteration, of, loss });
            if self.saved.elapsed() >= self.options.save_every && self.progress.iteration < of {
                self.save_latest()?;
            }
        }
        Ok(TrainOutcome::Finished)
    }

    fn step(&mut self, batch: Batch, lr: f64, seed: u64) -> Result<f64, TrainError> {
        let settings = &self.setup.settings;
        let update = Update {
            loss: &self.loss,
            weights: &self.weights,
            optimiser: settings.optimiser,
            lr,
            clip: settings.clip,
            seed,
        };
        let Batch { cases, data, targets: of_heads, .. } = batch;
        self.engine.prepare(&self.programs[0])?;
        let report = self.engine.step(&data, &targets(&of_heads), &update)?;
        if !report.done {
            let (what, value) = if report.loss.total.is_finite() {
                ("the length of the gradients", report.norm)
            } else {
                ("the loss", report.loss.total)
            };
            return Err(TrainError::NotFinite {
                epoch: self.progress.epoch,
                iteration: self.progress.iteration,
                what,
                value,
                cases,
                checkpoint: self.store.newest(),
            });
        }
        self.progress.loss_sum += report.loss.total;
        self.progress.norm_sum += report.norm;
        Ok(report.loss.total)
    }

    /// Mean loss and what was right; `None` if `stop` was set.
    fn validate_epoch(
        &mut self,
        batches: &mut AugmentedBatches,
        stop: &AtomicBool,
    ) -> Result<Option<(f64, Vec<Overlap>)>, TrainError> {
        let mut overlaps = vec![Overlap::default(); self.setup.classes.len()];
        let of = self.setup.settings.val_iterations;
        let mut sum = 0.0;
        for _ in 0..of {
            if stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            let batch = next(batches)?;
            self.engine.prepare(&self.programs[1])?;
            let targets = targets(&batch.targets);
            let found = self.engine.evaluate(&batch.data, &targets, &self.loss, &self.weights)?;
            overlaps.iter_mut().zip(found.overlaps).for_each(|(all, one)| all.add(one));
            sum += found.loss.total;
        }
        Ok(Some((sum / of as f64, overlaps)))
    }

    /// Books the epoch, and saves what is due.
    fn end_epoch(&mut self, val_loss: f64, overlaps: &[Overlap]) -> Result<(), TrainError> {
        let progress = &mut self.progress;
        let iterations = self.setup.settings.iterations as f64;
        let (dice, mean_dice) = dices(overlaps);
        let before = progress.history.last().and_then(|r| r.ema_dice);
        let ema_dice = match (before, mean_dice) {
            (Some(ema), Some(mean)) => Some(0.9 * ema + 0.1 * mean),
            (ema, mean) => mean.or(ema),
        };
        let best = match (progress.best_ema, ema_dice) {
            (Some(best), Some(ema)) => ema > best,
            (None, ema) => ema.is_some() || progress.history.is_empty(),
            (Some(_), None) => false,
        };
        if best {
            progress.best_ema = ema_dice;
        }
        let mut record = EpochRecord {
            epoch: progress.epoch,
            lr: progress.lr.unwrap_or_default(),
            train_loss: progress.loss_sum / iterations,
            val_loss,
            dice,
            mean_dice,
            ema_dice,
            best,
            gradient_norm: progress.norm_sum / iterations,
            seconds: 0.0,
            ended: 0.0,
        };
        if best {
            let parameters = self.engine.parameters()?;
            self.store.save_best(&parameters, &self.progress)?;
        }
        self.book();
        let progress = &mut self.progress;
        record.seconds = progress.epoch_seconds;
        record.ended = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        progress.history.push(record);
        progress.epoch += 1;
        (progress.iteration, progress.loss_sum, progress.norm_sum) = (0, 0.0, 0.0);
        (progress.lr, progress.epoch_seconds) = (None, 0.0);
        if self.saved.elapsed() >= EPOCH_SAVE.min(self.options.save_every) {
            self.save_latest()?;
        }
        Ok(())
    }

    fn save_latest(&mut self) -> Result<(), TrainError> {
        self.book();
        let parameters = self.engine.parameters()?;
        self.store.save_latest(&parameters, &mut self.progress)?;
        self.saved = Instant::now();
        Ok(())
    }
}

fn next(batches: &mut AugmentedBatches) -> Result<Batch, TrainError> {
    let batch = batches.next().unwrap_or_else(|| unreachable!("batches end only after an error"));
    Ok(batch?)
}

/// A number that depends on all three.
fn mix(seed: u64, epoch: u64, iteration: u64) -> u64 {
    [epoch, iteration]
        .into_iter()
        .fold(seed, |state, word| glioseg_net::mix((state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

/// The logs next to the checkpoints; a training does not fail for them.
struct Journal {
    folder: PathBuf,
    events: Option<Events>,
    warned: bool,
}

impl Journal {
    fn open(setup: &Setup, history: &[EpochRecord], observer: &mut dyn FnMut(Event<'_>)) -> Self {
        let mut journal = Self { folder: setup.folder.clone(), events: None, warned: false };
        match Events::create(&setup.folder.join(tensorboard::FILE), &setup.classes, history) {
            Ok(events) => journal.events = Some(events),
            Err(error) => journal.warn(&error.to_string(), observer),
        }
        journal
    }

    fn warn(&mut self, error: &str, observer: &mut dyn FnMut(Event<'_>)) {
        if !std::mem::replace(&mut self.warned, true) {
            let folder = self.folder.display();
            observer(Event::Warning(format!("the logs in {folder} cannot be written: {error}")));
        }
    }

    /// Adds the last epoch: a line of JSON each, the curves, the picture.
    fn add(&mut self, history: &[EpochRecord], observer: &mut dyn FnMut(Event<'_>)) {
        let lines = atomic::write(&self.folder.join(LOG), |file| {
            for record in history {
                serde_json::to_writer(&mut *file, record)?;
                file.write_all(b"\n")?;
            }
            Ok(())
        });
        if let Err(error) = lines.and_then(|()| chart::draw(&self.folder.join("progress.png"), history)) {
            self.warn(&error.to_string(), observer);
        }
        if let (Some(events), Some(record)) = (&mut self.events, history.last())
            && let Err(error) = events.add(record)
        {
            self.warn(&error.to_string(), observer);
        }
    }
}
