//! `glioseg crossval`: all folds, and which configuration, ensemble and postprocessing is best.
#![expect(
    clippy::doc_markdown,
    reason = "doc comments here are help texts, where backticks would be printed"
)]

use std::path::{Path, PathBuf};

use clap::Args;
use glioseg_net::EngineChoice;
use glioseg_plan::{RawDataset, Splits};
use glioseg_train::{
    FoldChoice, Places, Settings, Setup, TrainError, TrainOptions, TrainOutcome, saved_settings,
};
use glioseg_workflow::crossval::{Candidate, best, chosen_folds, collect, combine, conclude, is_done};

use super::dataset::open;
use super::report::{self, Report};
use super::train::{How, finish, make_ready, train};
use super::{Outcome, print};
use crate::ui::Ui;

/// Trains the folds that are missing, compares configurations and ensembles of two, and decides the postprocessing.
///
/// Started folds are resumed and finished folds are kept, so the command can be stopped and run again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg crossval Dataset001_BraTS -c 3d_fullres,2d\n\n\
    Both stages of a cascade are named in their order: -c 3d_lowres,3d_cascade_fullres.\n\n\
    Writes crossval_results_folds_0_1_2_3_4 into every model's folder, postprocessing.json into the best one's (or next to the best\n\
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
    let engine = options.how.compute.engine(ui).map_err(TrainError::from)?;
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
        if !places.preprocessed.join(Splits::FILE).exists() {
            // The first fold writes the splits.
            Setup::new(&places, FoldChoice::Number(0), &settings)?;
        }
        folds = chosen_folds(&places, &dataset, options.folds.as_deref())?;
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

/// Trains a fold or resumes it; false if it was stopped.
fn run_fold(
    setup: &Setup,
    settings: &Settings,
    (probabilities, engine): (bool, EngineChoice),
    ui: &Ui,
) -> anyhow::Result<bool> {
    let begun = saved_settings(&setup.folder).is_some();
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
    Ok(trained.outcome == TrainOutcome::Finished)
}

/// Decides the postprocessing of the best, and says how to predict with it.
fn decide(
    dataset: &RawDataset,
    candidates: &[Candidate],
    folds: &[usize],
    results: &Path,
    ui: &Ui,
) -> anyhow::Result<Outcome> {
    let best = best(candidates);
    ui.say(&format!("postprocessing of {}", best.name()));
    let decided = conclude(dataset, candidates, best, folds, results)?;
    print(&format!(
        "best {} | mean Dice {:.4}, with postprocessing {:.4} ({} steps)",
        best.name(),
        best.score(),
        decided.after.foreground_mean.get("Dice").unwrap_or(f64::NAN),
        decided.steps.steps.len()
    ))?;
    print(&decided.command)?;
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
