//! `glioseg crossval`: all folds, and which configuration, ensemble and postprocessing is best.
#![expect(
    clippy::doc_markdown,
    reason = "doc comments here are help texts, where backticks would be printed"
)]

use std::path::{Path, PathBuf};

use clap::Args;
use glioseg_formats::atomic;
use glioseg_infer::postprocess::{FILE_NAME, Postprocessing};
use glioseg_metrics::NnUnetSummary;
use glioseg_net::EngineChoice;
use glioseg_plan::{RawDataset, Splits};
use glioseg_train::{
    FoldChoice, Outcome as End, Places, Settings, Setup, TrainError, TrainOptions, VALIDATION_FOLDER,
    begun_settings,
};
use glioseg_workflow::crossval::{Candidate, best, collect, combine, decide_postprocessing};
use serde_json::{Value, json};

use super::dataset::open;
use super::report::{self, Report};
use super::train::{How, finish, make_ready, train};
use super::{Outcome, Problem, print};
use crate::ui::Ui;

/// Trains the folds that are missing, compares configurations and ensembles of two, and decides the postprocessing.
///
/// Folds that were begun go on, folds that are finished are kept; so the command can be stopped and given again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg crossval Dataset001_BraTS -c 3d_fullres,2d\n\n\
    Writes crossval_results_folds_0_1_2_3_4 into every model's folder, postprocessing.json into the best one's (or beside the best\n\
    ensemble), and inference_information.json with inference_instructions.txt, as nnU-Net's find_best_configuration does.\n\n\
    Exit code: 0 done, 1 stopped before the end (give the command again), 2 could not start or failed.")]
pub(crate) struct Crossval {
    /// Raw dataset: dataset.json with imagesTr and labelsTr
    #[arg(value_name = "DIR")]
    pub(crate) dataset: PathBuf,
    /// Folds, separated by commas [default: all of splits_final.json]
    #[arg(short, long, value_name = "FOLDS", value_delimiter = ',')]
    pub(crate) folds: Option<Vec<usize>>,
    /// As of `glioseg train`; several configurations are separated by commas
    #[command(flatten)]
    pub(crate) how: How,
}

pub(crate) fn run(options: &Crossval, ui: &Ui) -> anyhow::Result<Outcome> {
    let engine = options.how.compute.engine().map_err(TrainError::from)?;
    let dataset = open(&options.dataset)?;
    let configurations: Vec<&str> = options.how.configuration.split(',').map(str::trim).collect();
    let settings = options.how.settings(None)?;
    let several = configurations.len() > 1;
    let mut candidates = vec![];
    let mut folds = vec![];
    for configuration in &configurations {
        let places = Places {
            configuration: (*configuration).to_owned(),
            ..options.how.places(&options.dataset, &settings)
        };
        if !make_ready(&dataset, &places, &settings, options.how.strict, ui)? {
            return Ok(Outcome::SomeFailed);
        }
        // The first fold writes the splits where there are none.
        Setup::new(&places, FoldChoice::Number(0), &settings)?;
        folds = all_folds(options, &places)?;
        let mut model = PathBuf::new();
        for &fold in &folds {
            let setup = Setup::new(&places, FoldChoice::Number(fold), &settings)?;
            model.clone_from(&setup.model_folder);
            if !is_done(&setup, several) && !run_fold(&setup, &settings, (several, engine), ui)? {
                return Ok(Outcome::SomeFailed);
            }
        }
        candidates.push(collect(&dataset, configuration, &model, &folds)?);
    }
    let results = options.how.places(&options.dataset, &settings).results;
    for i in 0..configurations.len() {
        for j in i + 1..configurations.len() {
            let pair = combine(&dataset, &candidates[i], &candidates[j], &results)?;
            candidates.push(pair);
        }
    }
    for candidate in &candidates {
        print(&format!("{} | mean Dice {:.4}", candidate.name(), candidate.score()))?;
    }
    decide(&dataset, &candidates, &folds, &results, ui)
}

fn all_folds(options: &Crossval, places: &Places) -> anyhow::Result<Vec<usize>> {
    let path = places.preprocessed.join(Splits::FILE);
    let there = Splits::read(&path)?.folds.len();
    let Some(asked) = &options.folds else { return Ok((0..there).collect()) };
    match asked.iter().find(|&&fold| fold >= there) {
        Some(fold) => Err(Problem::new(
            format!("there is no fold {fold}; {} has {there}", path.display()),
            format!("take folds from 0 to {}", there.saturating_sub(1)),
        )),
        None => Ok(asked.clone()),
    }
}

/// Whether a fold is trained and validated.
fn is_done(setup: &Setup, probabilities: bool) -> bool {
    let validation = setup.folder.join(VALIDATION_FOLDER);
    let saved = |case: &String| !probabilities || validation.join(format!("{case}.npz")).is_file();
    validation.join("summary.json").is_file() && setup.fold.val.iter().all(saved)
}

/// Trains a fold, or goes on with it; false if it was stopped.
fn run_fold(
    setup: &Setup,
    settings: &Settings,
    (probabilities, engine): (bool, EngineChoice),
    ui: &Ui,
) -> anyhow::Result<bool> {
    let begun = begun_settings(&setup.folder).is_some();
    let finished = setup.folder.join("checkpoint_final.safetensors").is_file();
    let options = TrainOptions {
        resume: begun || finished,
        save_probabilities: probabilities,
        engine,
        ..TrainOptions::default()
    };
    ui.say(&format!("fold {} | {}", setup.choice, settings.trainer));
    let trained = train(setup, &options, ui)?;
    finish(setup, &trained, ui)?;
    Ok(trained.outcome == End::Finished)
}

/// Decides the postprocessing of the best and writes how to predict with it.
fn decide(
    dataset: &RawDataset,
    candidates: &[Candidate],
    folds: &[usize],
    results: &Path,
    ui: &Ui,
) -> anyhow::Result<Outcome> {
    let best = best(candidates);
    ui.say(&format!("postprocessing of {}", best.name()));
    let (steps, after) = decide_postprocessing(dataset, best)?;
    let single = best.models.len() == 1;
    let path = if single { best.models[0].join(FILE_NAME) } else { best.folder.join(FILE_NAME) };
    // Other candidates keep none from an earlier comparison that they have not won now.
    for model in candidates.iter().flat_map(|c| &c.models).filter(|m| !single || **m != best.models[0]) {
        let stale = model.join(FILE_NAME);
        if stale.is_file() {
            std::fs::remove_file(&stale)?;
        }
    }
    steps.write(&path)?;
    let command = instructions(best, &path, folds);
    let information = information(dataset, candidates, best, folds, (&steps, &path), &after, &command);
    let text = serde_json::to_string_pretty(&information)?;
    for (name, text) in
        [("inference_information.json", text), ("inference_instructions.txt", command.clone())]
    {
        atomic::write(&results.join(name), |file| {
            std::io::Write::write_all(file, text.as_bytes())?;
            std::io::Write::write_all(file, b"\n")
        })?;
    }
    print(&format!(
        "best {} | mean Dice {:.4}, with postprocessing {:.4} ({} steps)",
        best.name(),
        best.score(),
        after.foreground_mean.get("Dice").unwrap_or(f64::NAN),
        steps.steps.len()
    ))?;
    print(&command)?;
    let shown = Report {
        model: candidates.iter().filter(|c| c.models.len() == 1).flat_map(|c| c.models.clone()).collect(),
        pred: vec![best.folder.clone()],
        reference: Some(dataset.folder.join("labelsTr")),
        images: vec![dataset.folder.join("imagesTr")],
        output: results.join("report.html"),
        ..Report::default()
    };
    report::run_after(&shown, ui);
    Ok(Outcome::Done)
}

/// The command that repeats the best on new cases.
fn instructions(best: &Candidate, postprocessing: &Path, folds: &[usize]) -> String {
    let models: Vec<String> = best.models.iter().map(|m| format!("-m {}", m.display())).collect();
    let folds: Vec<String> = folds.iter().map(ToString::to_string).collect();
    let steps = if best.models.len() == 1 {
        // It lies in the model's folder, where predict looks for it.
        String::new()
    } else {
        format!(" --postprocessing {}", postprocessing.display())
    };
    format!("glioseg predict {} -f {}{steps} -i INPUT -o OUTPUT", models.join(" "), folds.join(","))
}

/// nnU-Net's `inference_information.json`.
fn information(
    dataset: &RawDataset,
    candidates: &[Candidate],
    best: &Candidate,
    folds: &[usize],
    (steps, path): (&Postprocessing, &Path),
    after: &NnUnetSummary,
    command: &str,
) -> Value {
    let parts = |model: &Path| -> Value {
        let name = model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut parts = name.split("__").map(str::to_owned);
        json!({"trainer": parts.next(), "plans_identifier": parts.next(), "configuration": parts.next()})
    };
    let results: serde_json::Map<String, Value> =
        candidates.iter().map(|c| (c.name(), json!(c.score()))).collect();
    let considered: Vec<Value> =
        candidates.iter().filter(|c| c.models.len() == 1).map(|c| parts(&c.models[0])).collect();
    json!({
        "folds": folds,
        "dataset_name_or_id": dataset.name,
        "considered_models": considered,
        "ensembling_allowed": considered.len() > 1,
        "all_results": results,
        "best_model_or_ensemble": {
            "result_on_crossval_pre_pp": best.score(),
            "result_on_crossval_post_pp": after.foreground_mean.get("Dice"),
            "postprocessing_file": path.display().to_string(),
            "postprocessing_steps": steps.steps,
            "some_plans_file": best.models[0].join("plans.json").display().to_string(),
            "selected_model_or_models": best.models.iter().map(|m| parts(m)).collect::<Vec<_>>(),
        },
        "command": command,
    })
}
