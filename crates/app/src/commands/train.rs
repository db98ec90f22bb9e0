//! `glioseg train`: one fold of a dataset, from raw files to a validated model.
#![expect(
    clippy::doc_markdown,
    reason = "doc comments here are help texts, where backticks would be printed"
)]

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, ValueEnum};
use glioseg_diagnose::count;
use glioseg_metrics::NnUnetSummary;
use glioseg_net::EngineChoice;
use glioseg_net::optimiser::OptimiserOptions;
use glioseg_plan::{RawDataset, preprocessed_folder, results_folder};
use glioseg_train::{
    EpochRecord, Estimate, Event, FoldChoice, Places, Settings, Setup, TrainError, TrainOptions,
    TrainOutcome, Trained, VALIDATION_FOLDER, saved_settings,
};
use glioseg_workflow::ready;
use serde_json::json;

use super::dataset::{by, open};
use super::ready::teller;
use super::report::{self, Report};
use super::{Outcome, interrupt, print};
use crate::arguments::Compute;
use crate::ui::{Ui, duration};

/// Trains one fold of a dataset and validates it.
///
/// What is missing is made first: fingerprint, plans, prepared cases. Ctrl-C saves and stops; --resume continues, bit for bit as if
/// nothing had happened.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  glioseg train Dataset001_BraTS -c 3d_fullres -f 0\n  \
    glioseg train Dataset001_BraTS -f all --epochs 200 --budget 8h\n  glioseg train Dataset001_BraTS -f 0 --resume\n  \
    glioseg train Dataset001_BraTS --preset bl-l-gn\n\n\
    The result is nnU-Net's folder TRAINER__PLANS__CONFIG, which `glioseg predict -m` takes: plans.json, dataset.json, and in fold_K\n\
    checkpoint_final.safetensors, checkpoint_best.safetensors, progress.png, training_log.jsonl, events for TensorBoard, and\n\
    validation/ with the segmentations of the held-out cases and summary.json.\n\n\
    The second stage of a cascade (-c 3d_cascade_fullres) reads what the folds of the first (-c 3d_lowres) left in predicted_next_stage/\n\
    of their model folder at the end of their validation; train all of them first.\n\n\
    The networks of the BraTS 2021 winner are presets: bl, bl-l, bl-gn, bl-l-gn, bl-aa; their plans are made by `plan --planner brats21`.\n\
    A preset is a JSON object with settings; `--preset bl --print-settings > my.json` is one to change.\n\n\
    Exit code: 0 trained and validated, 1 stopped before the end (continue with --resume), 2 could not start or failed.")]
#[expect(clippy::struct_excessive_bools, reason = "every flag of a command line is a bool")]
pub(crate) struct Train {
    /// Raw dataset: dataset.json with imagesTr and labelsTr
    #[arg(value_name = "DIR")]
    pub(crate) dataset: PathBuf,
    /// Fold: 0 to 4, or `all` to train on every case
    #[arg(short, long, value_name = "FOLD", default_value = "0")]
    pub(crate) fold: FoldChoice,
    #[command(flatten)]
    pub(crate) how: How,
    /// Go on where the training was stopped; options that are not given are those of the first run
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Start again where a training was started or finished
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// First weights from another model: a checkpoint, or a model's folder; heads begin at random
    #[arg(long, visible_alias = "pretrained", value_name = "MODEL")]
    pub(crate) weights: Option<PathBuf>,
    /// With --weights of a model with axial attention whose position embeddings are for another patch: interpolate them
    #[arg(long, requires = "weights")]
    pub(crate) interpolate_positions: bool,
    /// Time for the training with its validation, such as 90m or 8h; the learning rate falls accordingly
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) budget: Option<Duration>,
    /// Write a checkpoint this often within an epoch, such as 5m or 1h
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5m")]
    pub(crate) save_every: Duration,
    /// Also write the probabilities of the validation cases, to compare ensembles
    #[arg(long)]
    pub(crate) save_probabilities: bool,
    /// Print the effective settings as JSON and stop
    #[arg(long)]
    pub(crate) print_settings: bool,
}

/// Seconds of a day: a training that takes longer is not started by the way.
const DAY: f64 = 86_400.0;

/// What decides a training: common to `train` and `crossval`.
#[derive(Debug, Clone, Args)]
pub(crate) struct How {
    /// Configuration of the plans
    #[arg(short, long, value_name = "CONFIG", default_value = "3d_fullres")]
    pub(crate) configuration: String,
    /// Name of the plans [default: those of the preset's planner, nnUNetPlans]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) plans: Option<String>,
    /// Refuse to train where a case's channels do not look like their names, rather than warn
    #[arg(long)]
    pub(crate) strict: bool,
    /// Folder with plans and prepared cases [default: as of `glioseg prep`]
    #[arg(long, value_name = "DIR")]
    pub(crate) preprocessed: Option<PathBuf>,
    /// Folder for the models [default: $nnUNet_results/NAME, nnUNet_results/NAME next to nnUNet_raw, or NAME_results next to the
    /// dataset]
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Settings to begin with: a preset's name, or a JSON file
    #[arg(long, value_name = "NAME|FILE", help_heading = "Training")]
    pub(crate) preset: Option<String>,
    /// Changes one setting, such as loss.smooth=0 or configuration.architecture.arch_kwargs.base_num_features=16; --print-settings
    /// shows their names; can be given several times
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Training")]
    pub(crate) set: Vec<String>,
    /// Epochs [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) epochs: Option<usize>,
    /// Training batches per epoch [default: 250]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) iterations: Option<usize>,
    /// Validation batches per epoch [default: 50]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) val_iterations: Option<usize>,
    /// Patches of a batch [default: the plan's]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) batch: Option<usize>,
    /// Voxels of a patch, z,y,x (y,x in 2d) [default: the plan's]
    #[arg(long, value_name = "Z,Y,X", value_delimiter = ',', help_heading = "Training")]
    pub(crate) patch: Option<Vec<usize>>,
    /// How patches are varied: default, da5, da4 or none
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub(crate) augmentation: Option<glioseg_prep::augment::Augmentation>,
    /// What changes the weights [default: sgd, as nnU-Net]
    #[arg(long, value_enum, help_heading = "Training")]
    pub(crate) optimiser: Option<OptimiserName>,
    /// Learning rate of the first epoch [default: 0.01]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub(crate) lr: Option<f64>,
    /// Where all randomness comes from [default: 0]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) seed: Option<u64>,
    /// Threads that make batches [default: one per core, at most 6]; changes nothing but the speed
    #[arg(long, value_name = "N", help_heading = "Computation")]
    pub(crate) batch_threads: Option<usize>,
    #[command(flatten)]
    pub(crate) compute: Compute,
}

/// Optimisers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimiserName {
    /// Stochastic gradient descent with Nesterov momentum 0.99
    Sgd,
    /// Adam with decoupled weight decay
    Adamw,
}

/// `90s`, `30m`, `8h`, `2d`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write it like 45m, 8h or 2d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3600.0,
        'd' => 86400.0,
        _ => return Err(wrong()),
    };
    let number: f64 = text[..text.len() - unit.len_utf8()].trim().parse().map_err(|_| wrong())?;
    if number.is_finite() && number > 0.0 && number < 1e6 {
        Ok(Duration::from_secs_f64(number * seconds))
    } else {
        Err(wrong())
    }
}

impl How {
    /// The settings: of the training that is resumed, or of the preset, with what the command line says.
    pub(crate) fn settings(&self, begun: Option<Settings>) -> Result<Settings, TrainError> {
        let mut settings = match (&self.preset, begun) {
            (Some(preset), _) => Settings::preset(preset)?,
            (None, Some(begun)) => begun,
            (None, None) => Settings::default(),
        };
        for assignment in &self.set {
            settings = settings.with(assignment)?;
        }
        let counts = [
            (self.epochs, &mut settings.epochs),
            (self.iterations, &mut settings.iterations),
            (self.val_iterations, &mut settings.val_iterations),
        ];
        for (given, setting) in counts {
            *setting = given.unwrap_or(*setting);
        }
        settings.lr = self.lr.unwrap_or(settings.lr);
        settings.seed = self.seed.unwrap_or(settings.seed);
        settings.augmentation = self.augmentation.unwrap_or(settings.augmentation);
        settings.batch_threads = self.batch_threads.or(settings.batch_threads);
        if let Some(name) = self.optimiser {
            settings.optimiser = match name {
                OptimiserName::Sgd => OptimiserOptions::NNUNET,
                OptimiserName::Adamw => OptimiserOptions::ADAMW,
            };
        }
        if let Some(batch) = self.batch {
            settings.configuration.insert("batch_size".into(), json!(batch));
        }
        if let Some(patch) = &self.patch {
            settings.configuration.insert("patch_size".into(), json!(patch));
        }
        settings.check()?;
        Ok(settings)
    }

    /// Where everything lies.
    pub(crate) fn places(&self, dataset: &Path, settings: &Settings) -> Places {
        Places {
            dataset: dataset.to_owned(),
            preprocessed: self.preprocessed.clone().unwrap_or_else(|| preprocessed_folder(dataset)),
            results: self.output.clone().unwrap_or_else(|| results_folder(dataset)),
            plans: self.plans.clone().unwrap_or_else(|| settings.planner.plans_name().to_owned()),
            configuration: self.configuration.clone(),
        }
    }
}

pub(crate) fn run(options: &Train, ui: &Ui) -> anyhow::Result<Outcome> {
    let engine = options.how.compute.engine(ui).map_err(TrainError::from)?;
    let given = options.how.settings(None)?;
    let places = options.how.places(&options.dataset, &given);
    let begun = if options.resume { begun_with(&given, &places, options.fold) } else { None };
    let settings = if begun.is_some() { options.how.settings(begun)? } else { given };
    if options.print_settings {
        print(&serde_json::to_string_pretty(&settings)?)?;
        return Ok(Outcome::Done);
    }
    let dataset = open(&options.dataset)?;
    if !make_ready(&dataset, &places, &settings, options.how.strict, ui)? {
        return Ok(Outcome::SomeFailed);
    }
    let setup = Setup::new(&places, options.fold, &settings)?;
    let train_options = TrainOptions {
        resume: options.resume,
        overwrite: options.overwrite,
        weights: options.weights.clone(),
        interpolate_positions: options.interpolate_positions,
        budget: options.budget,
        save_probabilities: options.save_probabilities,
        save_every: options.save_every,
        engine,
    };
    let trained = train(&setup, &train_options, ui)?;
    let outcome = finish(&setup, &trained, ui)?;
    if outcome == Outcome::Done {
        let validated = trained.summary.is_some();
        let shown = Report {
            model: vec![setup.model_folder.clone()],
            pred: if validated { vec![setup.folder.join(VALIDATION_FOLDER)] } else { vec![] },
            reference: validated.then(|| options.dataset.join("labelsTr")),
            images: if validated { vec![options.dataset.join("imagesTr")] } else { vec![] },
            output: setup.folder.join("report.html"),
            ..Report::default()
        };
        report::run_after(&shown, ui);
    }
    Ok(outcome)
}

/// The settings of the training that is resumed.
fn begun_with(given: &Settings, places: &Places, fold: FoldChoice) -> Option<Settings> {
    let model = format!("{}__{}__{}", given.trainer, places.plans, places.configuration);
    saved_settings(&places.results.join(model).join(format!("fold_{fold}")))
}

/// Plans and prepares what does not exist yet; false if it was stopped.
pub(crate) fn make_ready(
    dataset: &RawDataset,
    places: &Places,
    settings: &Settings,
    strict: bool,
    ui: &Ui,
) -> anyhow::Result<bool> {
    let stop = interrupt::flag();
    Ok(ready::make_ready(dataset, places, settings, strict, &stop, &teller(ui))?)
}

/// Trains one fold and shows what happens.
pub(crate) fn train(setup: &Setup, options: &TrainOptions, ui: &Ui) -> anyhow::Result<Trained> {
    let stop = interrupt::flag();
    let mut told = false;
    let mut observer = |event: Event<'_>| {
        show(event, options.budget, ui);
        if stop.load(Ordering::SeqCst) && !std::mem::replace(&mut told, true) {
            ui.say("stopping after this batch; Ctrl-C again ends at once");
        }
    };
    ui.begin("measuring how long a step takes");
    let trained = glioseg_train::train(setup, options, &stop, &mut observer);
    ui.stop();
    Ok(trained?)
}

/// Says how it ended and what comes next.
pub(crate) fn finish(setup: &Setup, trained: &Trained, ui: &Ui) -> anyhow::Result<Outcome> {
    if trained.outcome == TrainOutcome::Stopped {
        let saved = trained.checkpoint.as_ref().map(|p| format!(" | {}", p.display())).unwrap_or_default();
        ui.say(&format!("stopped{saved} | continue with the same command and --resume"));
        return Ok(Outcome::SomeFailed);
    }
    if let Some(summary) = &trained.summary {
        print(&scores(summary, &setup.classes))?;
    }
    print(&setup.model_folder.display().to_string())?;
    Ok(Outcome::Done)
}

/// `validation | Dice whole tumour 0.912 …, mean 0.87 | 5 cases`.
pub(crate) fn scores(summary: &NnUnetSummary, classes: &[String]) -> String {
    let dice = |values: &glioseg_metrics::Values| values.get("Dice").unwrap_or(f64::NAN);
    let each: Vec<String> =
        classes.iter().zip(summary.mean.values()).map(|(name, v)| format!("{name} {:.3}", dice(v))).collect();
    format!(
        "validation | Dice {} | mean {:.3} | {}",
        each.join(", "),
        dice(&summary.foreground_mean),
        count(summary.cases.len(), "case")
    )
}

fn show(event: Event<'_>, budget: Option<Duration>, ui: &Ui) {
    match event {
        Event::Start { setup, estimate, engine, free_memory, resumed } => {
            ui.stop();
            for line in opening(setup, estimate, engine, free_memory) {
                ui.say(&line);
            }
            if let Some(line) = too_long(setup, estimate, budget) {
                ui.say(&line);
            }
            if let Some((epoch, iteration, path)) = resumed {
                ui.say(&format!("resumes from epoch {epoch}, iteration {iteration} | {}", path.display()));
            }
        }
        Event::Note(text) => ui.say(&text),
        Event::Warning(text) => ui.warn(&text),
        Event::Iteration { epoch, epochs, iteration, of, .. } => {
            if iteration == 0 {
                ui.start(&format!("epoch {}/{epochs}", epoch + 1), of, "batches");
            }
            ui.advance();
        }
        Event::Epoch { record, epochs, classes, left } => {
            ui.stop();
            ui.say(&epoch_line(record, epochs, classes, left));
        }
        Event::Validating { case, number, of, passes } => {
            ui.start(&format!("validation {number}/{of} {case}"), passes, "passes");
        }
        Event::Pass => ui.advance(),
        Event::Validated { case, number, of, dice, seconds } => {
            ui.stop();
            let dice: Vec<String> =
                dice.iter().map(|d| if d.is_nan() { "–".into() } else { format!("{d:.3}") }).collect();
            let seconds = duration(Duration::from_secs_f64(seconds));
            ui.say(&format!("validation {number}/{of} {case} | dice {} | {seconds}", dice.join(" ")));
        }
        _ => {}
    }
}

/// What is trained, how, and what it will take.
fn opening(
    setup: &Setup,
    estimate: &Estimate,
    engine: EngineChoice,
    free_memory: Option<u64>,
) -> Vec<String> {
    let (settings, configuration) = (&setup.settings, &setup.configuration);
    let architecture = &configuration.architecture;
    let features: Vec<String> = architecture.features_per_stage.iter().map(ToString::to_string).collect();
    let optimiser = match settings.optimiser {
        OptimiserOptions::Sgd { momentum, nesterov, .. } => {
            format!("sgd momentum {momentum}{}", if nesterov { " nesterov" } else { "" })
        }
        OptimiserOptions::AdamW { .. } => "adamw".into(),
    };
    let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let time = |seconds: f64| duration(Duration::from_secs_f64(seconds.max(0.0)));
    let all = in_all(settings, estimate);
    let isa = glioseg_kernels::Cpu::detect().map(glioseg_kernels::Cpu::name).unwrap_or_default();
    vec![
        format!(
            "train | {} | {} | fold {}: {}, {} to validate",
            setup.dataset.name,
            configuration.name,
            setup.choice,
            count(setup.fold.train.len(), "case"),
            setup.fold.val.len()
        ),
        format!(
            "network | {}, {}{} | {:.1} M parameters | features {} | patch {} | batch {}",
            architecture.kind.name(),
            architecture.norm.kind,
            architecture
                .generic
                .as_ref()
                .and_then(|g| g.attention.as_ref())
                .map(|a| format!(", {a}"))
                .unwrap_or_default(),
            setup.network.num_parameters().unwrap_or(0) as f64 / 1e6,
            features.join(" "),
            by(&configuration.patch_size),
            configuration.batch_size
        ),
        format!(
            "steps | {} of {}, {} to validate | {optimiser} | lr {} | augmentation {} | seed {}",
            count(settings.epochs, "epoch"),
            count(settings.iterations, "iteration"),
            settings.val_iterations,
            settings.lr,
            settings.augmentation.word(),
            settings.seed
        ),
        format!(
            "computes | {} | {} | {isa} | {}",
            engine.device,
            engine.precision,
            count(rayon::current_num_threads(), "thread")
        ),
        format!(
            "expects | {} of memory{} | {} per iteration | {} per epoch | {} for the validation at the end | {} in all",
            gb(estimate.bytes()),
            free_memory.map(|free| format!(" of {} free", gb(free))).unwrap_or_default(),
            time(estimate.iteration_seconds),
            time(estimate.epoch_seconds),
            time(estimate.validation_seconds),
            time(all)
        ),
        format!("into | {}", setup.folder.display()),
    ]
}

/// Seconds of all epochs and the validation.
fn in_all(settings: &Settings, estimate: &Estimate) -> f64 {
    estimate.epoch_seconds * settings.epochs as f64 + estimate.validation_seconds
}

/// What can be done about a training of more than a day.
fn too_long(setup: &Setup, estimate: &Estimate, budget: Option<Duration>) -> Option<String> {
    if budget.is_some() || in_all(&setup.settings, estimate) <= DAY {
        return None;
    }
    let presets: Vec<&str> = Settings::preset_names().collect();
    Some(format!(
        "shorter | --budget 12h trains as many epochs as fit, with a learning rate that falls to the end | --epochs N, of {} each | \
         --preset NAME, another network: {}",
        duration(Duration::from_secs_f64(estimate.epoch_seconds.max(0.0))),
        presets.join(", ")
    ))
}

/// `epoch 12/1000 | train -0.431 | val -0.399 | dice WT 0.87 TC 0.79 ET 0.74 | lr 9.9e-3 | 94 s | eta 1d01h`.
fn epoch_line(record: &EpochRecord, epochs: usize, classes: &[String], left: Duration) -> String {
    let dice: Vec<String> = classes
        .iter()
        .zip(&record.dice)
        .map(|(name, d)| format!("{name} {}", d.map_or("–".into(), |d| format!("{d:.3}"))))
        .collect();
    let average = record.ema_dice.map_or("–".into(), |d| format!("{d:.4}"));
    format!(
        "epoch {}/{epochs} | train {:.4} | val {:.4} | dice {} | average {average}{} | lr {:.1e} | {} | eta {}",
        record.epoch + 1,
        record.train_loss,
        record.val_loss,
        dice.join(" "),
        if record.best { " best" } else { "" },
        record.lr,
        duration(Duration::from_secs_f64(record.seconds)),
        duration(left)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("90m"), Ok(Duration::from_mins(90)));
        assert_eq!(time("0.5h"), Ok(Duration::from_mins(30)));
        for wrong in ["", "8", "h", "-1h", "1y", "nanh"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_epoch_is_one_line() {
        let record = EpochRecord {
            epoch: 11,
            lr: 0.0099,
            train_loss: -0.431,
            val_loss: -0.399,
            dice: vec![Some(0.87), None],
            mean_dice: Some(0.87),
            ema_dice: Some(0.5),
            best: true,
            gradient_norm: 1.0,
            seconds: 94.0,
            ended: 0.0,
        };
        let line = epoch_line(&record, 1000, &["WT".into(), "ET".into()], Duration::from_mins(1550));
        assert_eq!(
            line,
            "epoch 12/1000 | train -0.4310 | val -0.3990 | dice WT 0.870 ET – | average 0.5000 best | lr 9.9e-3 | 94.0 s | eta 1d01h"
        );
    }
}
