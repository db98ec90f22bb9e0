//! `glioseg predict`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use glioseg_diagnose::{count, first_few};
use glioseg_infer::dicom::DicomOptions;
use glioseg_infer::model::Model;
use glioseg_infer::recipe::Recipe;
use glioseg_infer::{
    Accumulation, Batch, Event, InferError, PostprocessingChoice, PredictOptions, PredictSummary,
    previous_model,
};
use glioseg_plan::OutputLabels;
use glioseg_plan::record::{CaseRecord, CaseStatus, FlagKind};

use super::dicom::show;
use super::report::{self, Report};
use super::{Outcome, interrupt, peak_memory};
use crate::cli::{self, Predict, StudyForm};
use crate::ui::{Ui, duration};

pub(crate) fn run(options: &Predict, ui: &Ui) -> anyhow::Result<Outcome> {
    if options.scans.raw {
        return super::predict_raw::run(options, ui);
    }
    let engine = options.compute.engine(ui).map_err(InferError::from)?;
    let recipe = options.recipe.as_deref().map(Recipe::find).transpose().map_err(InferError::from)?;
    let labels = match (options.labels, &recipe) {
        (Some(labels), _) => labels,
        (None, Some(recipe)) => recipe.labels,
        (None, None) => OutputLabels::default(),
    };
    let postprocessing = match (recipe, options.postprocessing.as_deref()) {
        (Some(recipe), _) => PostprocessingChoice::Recipe(Box::new(recipe)),
        (None, Some("none")) => PostprocessingChoice::Nothing,
        (None, Some(path)) => PostprocessingChoice::File(path.into()),
        (None, None) => PostprocessingChoice::Model,
    };
    let predict = PredictOptions {
        folds: options.folds.clone().unwrap_or_default(),
        checkpoint: options.checkpoint.clone(),
        step: options.step,
        mirroring: !options.no_mirroring,
        accumulation: match options.accumulation {
            cli::Accumulation::Half => Accumulation::Half,
            cli::Accumulation::Single => Accumulation::Single,
        },
        interpolate_positions: options.interpolate_positions,
        postprocessing,
        labels,
        save_probabilities: options.save_probabilities,
        uncertainty: options.uncertainty,
        strict: options.strict,
        engine,
    };
    let previous = match previous_stage(options, &predict, ui)? {
        Previous::Stopped => return Ok(Outcome::SomeFailed),
        Previous::None => options.prev_stage.clone(),
        Previous::Predicted(folder) => Some(folder),
    };
    let stage =
        Stage { models: &options.model, previous: previous.as_deref(), out: &options.output, last: true };
    let summary = predict_and_show(options, &stage, predict, ui)?;
    if options.report && summary.left == 0 {
        let output = options.output.join("report.html");
        let pred = vec![options.output.clone()];
        report::run_after(&Report { pred, output, ..Report::default() }, ui);
    }
    Ok(if summary.failed + summary.left > 0 { Outcome::SomeFailed } else { Outcome::Done })
}

/// A batch that takes longer is worth a thought.
const DAY: Duration = Duration::from_hours(24);
/// Name of the folder in OUT that gets what the first stage of a cascade predicts.
const PREVIOUS: &str = "previous_stage";

/// One stage of a cascade, or the only one.
struct Stage<'a> {
    models: &'a [PathBuf],
    /// Segmentations of the stage before.
    previous: Option<&'a Path>,
    out: &'a Path,
    /// Its results are those that were asked for.
    last: bool,
}

/// What is there of the first stage of a cascade.
enum Previous {
    /// The models are no second stage, or the folder was given.
    None,
    /// This folder holds its predictions now.
    Predicted(PathBuf),
    /// It was stopped.
    Stopped,
}

/// Predicts the first stage where the models are a second one and its predictions are not given.
fn previous_stage(options: &Predict, predict: &PredictOptions, ui: &Ui) -> anyhow::Result<Previous> {
    if options.prev_stage.is_some() {
        return Ok(Previous::None);
    }
    let models = options.model.iter().map(|path| Model::open(path, &predict.folds, &predict.checkpoint));
    let models = models.collect::<Result<Vec<_>, _>>()?;
    let Some(first) = previous_model(&models, options.prev_stage_model.as_deref())? else {
        return Ok(Previous::None);
    };
    ui.say(&format!("first stage of the cascade | {}", first.display()));
    let out = options.output.join(PREVIOUS);
    // As nnU-Net's users do it: plain label maps in the dataset's own values.
    let predict = PredictOptions {
        postprocessing: PostprocessingChoice::Nothing,
        labels: OutputLabels::default(),
        save_probabilities: false,
        uncertainty: false,
        ..predict.clone()
    };
    let stage = Stage { models: std::slice::from_ref(&first), previous: None, out: &out, last: false };
    let summary = predict_and_show(options, &stage, predict, ui)?;
    if summary.left > 0 {
        return Ok(Previous::Stopped);
    }
    ui.say("second stage of the cascade");
    Ok(Previous::Predicted(out))
}

/// What the events have told so far.
struct Seen {
    start: Instant,
    number: usize,
    of: usize,
    failed: Vec<String>,
    output: anyhow::Result<()>,
    /// Whether it was said that the batch will stop.
    stopping: bool,
}

fn predict_and_show(
    options: &Predict,
    stage: &Stage<'_>,
    predict: PredictOptions,
    ui: &Ui,
) -> anyhow::Result<PredictSummary> {
    let seen = Mutex::new(Seen {
        start: Instant::now(),
        number: 0,
        of: 0,
        failed: Vec::new(),
        output: Ok(()),
        stopping: false,
    });
    let stop = interrupt::flag();
    let (step, engine) = (predict.step, predict.engine);
    let mirroring = if predict.mirroring { "on" } else { "off" };
    let observer = |event: Event<'_>| {
        let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Start { models, matches, ignored, cases, skipped, memory } => {
                for model in models {
                    ui.say(&describe_model(model));
                    if let Some(trainer) = model.foreign_trainer() {
                        ui.warn(&format!(
                            "the trainer `{trainer}` of {} is none of nnU-Net's own (nnU-Net would need its class): the weights fit the \
                             network of the plans exactly, and that network is used; what else the class changes cannot be seen",
                            model.path.display()
                        ));
                    }
                    let stray = model.stray_folds();
                    if !stray.is_empty() {
                        ui.warn(&format!(
                            "folders of {} that are not named like a fold (fold_0, fold_1 …, fold_all) are left out: {}",
                            model.path.display(),
                            stray.join(", ")
                        ));
                    }
                    for fold in &model.folds {
                        if let Some(twin) = fold.twin() {
                            ui.warn(&format!(
                                "fold {} has its weights twice: {} is taken, {} holds the same",
                                fold.name,
                                fold.checkpoint.display(),
                                twin.display()
                            ));
                        }
                    }
                    let unused = model.unused_folds();
                    if options.folds.is_none() && !unused.is_empty() {
                        ui.warn(&format!(
                            "folds of {} without such a checkpoint are left out: {}",
                            model.path.display(),
                            unused.join(", ")
                        ));
                    }
                }
                for m in matches {
                    let star = if options.channel.is_empty() { "*" } else { "" };
                    let files: Vec<String> = m.suffixes.iter().map(|s| format!("{star}{s}")).collect();
                    ui.say(&format!("channel {:<6} <- {}", m.channel, files.join(", ")));
                }
                if !ignored.is_empty() {
                    ui.say(&format!(
                        "{} other image files are left alone, such as {}",
                        ignored.len(),
                        ignored[0].display()
                    ));
                }
                ui.say(&format!(
                    "{}{} | device {} | {} | kernels {} | {} | step {step} | mirroring {mirroring}",
                    count(cases, "case"),
                    if skipped > 0 { format!(" ({skipped} more are finished)") } else { String::new() },
                    engine.device,
                    engine.precision,
                    engine.kernels.word(),
                    count(rayon::current_num_threads(), "thread"),
                ));
                ui.say(&format!("memory of the networks {memory}"));
                seen.of = cases;
                ui.begin(&format!("reading case 1/{cases}"));
            }
            Event::Stale { files } => {
                ui.warn(&format!(
                    "{} holds files of an earlier prediction: {}; predict.json does not list them, and `glioseg \
                     evaluate` and `glioseg ensemble` leave them out",
                    stage.out.display(),
                    first_few(files, 5)
                ));
            }
            Event::Study { case, study } => {
                ui.say(&format!("case {case} is {}", study.title()));
                let listed = study.list(&options.study.series);
                let shown = show(study, &listed, |line| {
                    ui.say(line);
                    Ok(())
                });
                seen.output = std::mem::replace(&mut seen.output, Ok(())).and(shown);
            }
            Event::Case { case, number, of, passes } => {
                ui.start(&format!("{case} ({number}/{of})"), passes, "passes");
            }
            Event::Pass => ui.advance(),
            Event::Finished { record } => {
                seen.number += 1;
                ui.stop();
                show_case(record, &seen, ui);
                if record.status == CaseStatus::Failed {
                    seen.failed.push(record.case.clone());
                } else if stage.last && (options.json || !ui.one_screen()) {
                    let line = if options.json { json_line(record) } else { table_line(record) };
                    seen.output = std::mem::replace(&mut seen.output, Ok(())).and(ui.print(&line));
                }
                if seen.number < seen.of {
                    ui.begin(&format!("reading case {}/{}", seen.number + 1, seen.of));
                }
            }
            _ => {}
        }
        if stop.load(Ordering::SeqCst) && !std::mem::replace(&mut seen.stopping, true) {
            ui.say("stopping before the next tile; Ctrl-C again ends at once");
        }
    };
    let forms = &options.study.write;
    let dicom = DicomOptions {
        series: options.study.series.clone(),
        assume_aligned: options.study.assume_aligned,
        seg: stage.last && forms.contains(&StudyForm::Seg),
        rtstruct: stage.last && forms.contains(&StudyForm::Rtstruct),
    };
    let batch = Batch {
        dicom: Some(&dicom),
        channels: (!options.channel.is_empty()).then_some(options.channel.as_slice()),
        part: options.part,
        skip_finished: options.continue_,
        stop: Some(&stop),
        previous: stage.previous,
        ..Batch::new(&options.input, stage.out)
    };
    let summary = glioseg_infer::predict(stage.models, predict, &batch, &observer);
    ui.stop();
    let summary = summary?;
    let seen = seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    seen.output?;
    let memory = peak_memory().map(|b| format!(", peak memory {:.2} GiB", b as f64 / (1u64 << 30) as f64));
    ui.say(&format!(
        "{} done, {} failed, {} skipped in {}{}; see {}",
        summary.done,
        summary.failed,
        summary.skipped,
        duration(seen.start.elapsed()),
        memory.unwrap_or_default(),
        stage.out.display()
    ));
    if summary.left > 0 {
        let done = summary.done + summary.skipped;
        ui.say(&format!("{done} of {} done; resume with --continue", done + summary.failed + summary.left));
    }
    if !seen.failed.is_empty() {
        ui.fail(&format!("no segmentation for: {}", seen.failed.join(", ")));
    }
    Ok(summary)
}

fn describe_model(model: &Model) -> String {
    let folds: Vec<&str> = model.folds.iter().map(|f| f.name.as_str()).collect();
    let patch: Vec<String> = model.configuration.patch_size.iter().map(ToString::to_string).collect();
    format!(
        "model {} | {} {} | folds {} | patch {} | outputs {}",
        model.path.display(),
        model.plans.dataset_name(),
        model.configuration.name,
        folds.join(", "),
        patch.join("x"),
        model.dataset.labels.output_names().join(", ")
    )
}

/// A case's line of the log: what became of it, how long it took, when the batch will be ready.
fn show_case(record: &CaseRecord, seen: &Seen, ui: &Ui) {
    for warning in &record.warnings {
        ui.warn(&format!("{}: {warning}", record.case));
    }
    // Doubtful channels were told as warnings.
    for flag in record.flags.iter().filter(|f| f.kind != FlagKind::Channels) {
        ui.warn(&format!("{}: {}", record.case, flag.message));
    }
    if let Some(error) = &record.error {
        let mut text = format!("case `{}`: {error}", record.case);
        if let Some(hint) = &record.hint {
            text += &format!("\n  hint: {hint}");
        }
        ui.fail(&text);
        return;
    }
    let elapsed = seen.start.elapsed();
    let left = seen.of.saturating_sub(seen.number) as u32;
    let eta = elapsed / u32::try_from(seen.number.max(1)).unwrap_or(1) * left;
    if seen.number == 1 && eta > DAY {
        ui.say(&format!(
            "{} to go: --no-mirroring, --step 0.75 or fewer --folds compute less, and --part 1/N, --part 2/N … share the cases \
             between machines",
            duration(eta)
        ));
    }
    ui.say(&format!(
        "case {}/{} {} | {} | {}{}",
        seen.number,
        seen.of,
        record.case,
        volumes(record, " mL"),
        duration(record.duration()),
        if left > 0 {
            format!(" | eta {}", duration(eta.max(Duration::from_secs(1))))
        } else {
            String::new()
        }
    ));
}

fn volumes(record: &CaseRecord, unit: &str) -> String {
    record.volume_ml.iter().map(|(n, v)| format!("{n} {v:.2}{unit}")).collect::<Vec<_>>().join(", ")
}

/// Case and volumes in mL, separated by tabs.
fn table_line(record: &CaseRecord) -> String {
    let mut fields = vec![record.case.clone()];
    fields.extend(record.volume_ml.iter().map(|(name, ml)| format!("{name}={ml:.3}")));
    fields.join("\t")
}

fn json_line(record: &CaseRecord) -> String {
    serde_json::to_string(record).expect("plain data")
}
