//! `glioseg demo`: the whole way from raw cases to a scored model, without a download.
//!
//! Two cohorts of phantoms, one to train on and one that training never sees; the preset `demo` is a small network and a
//! short training. Every step is the command of that name.

use std::sync::atomic::Ordering;

use clap::Parser as _;

use super::evaluate::{self, Evaluate};
use super::phantom::write_cohort;
use super::report::{self, Report};
use super::train::{self, Train};
use super::{Outcome, interrupt, predict};
use crate::cli::{Cli, Command, Demo, Layout};
use crate::problem::Problem;
use crate::ui::Ui;

/// Seeds of the phantoms to train on and of those to predict.
const SEEDS: [u64; 2] = [11, 12];
/// Voxels along every axis of a phantom.
const SIZE: usize = 64;
/// Fewer cannot be split into five folds.
const FEWEST: usize = 5;

pub(crate) fn run(options: &Demo, ui: &Ui) -> anyhow::Result<Outcome> {
    if options.cases == 0 {
        return Err(Problem::new("--cases is 0", "take at least one case"));
    }
    if options.training_cases < FEWEST {
        return Err(Problem::new(
            format!("--training-cases is {}", options.training_cases),
            format!("take at least {FEWEST}: they are split into five folds"),
        ));
    }
    let out = &options.out;
    let text = |path: std::path::PathBuf| path.display().to_string();
    let (dataset, unseen) = (out.join("Dataset001_Phantom"), out.join("unseen"));
    let (predicted, results) = (out.join("predicted"), out.join("results"));
    ui.say(&format!(
        "1. {} phantoms to train on and {} to predict, of {SIZE} x {SIZE} x {SIZE} voxels, in {}",
        options.training_cases,
        options.cases,
        out.display()
    ));
    let quiet = Ui::new(true);
    write_cohort(&dataset, options.training_cases, SEEDS[0], SIZE, Layout::Nnunet, &quiet)?;
    write_cohort(&unseen, options.cases, SEEDS[1], SIZE, Layout::Nnunet, &quiet)?;
    ui.say("2. fingerprint, plan, preparation and training: glioseg train --preset demo");
    let mut line = vec![
        "train".to_owned(),
        text(dataset.clone()),
        "--preset".into(),
        "demo".into(),
        "--preprocessed".into(),
        text(out.join("preprocessed")),
        "--output".into(),
        text(results.clone()),
        "--overwrite".into(),
    ];
    if let Some(epochs) = options.epochs {
        line.extend(["--epochs".into(), epochs.to_string()]);
    }
    let Command::Train(request) = command(&line)? else { unreachable!("the line says train") };
    let request: &Train = &request;
    let trained = train::run(request, ui)?;
    if trained != Outcome::Done {
        return Ok(trained);
    }
    ui.say("3. prediction of the phantoms that the training has not seen: glioseg predict");
    let model = results.join("gliosegDemo__nnUNetPlans__3d_fullres");
    let mut line = [
        "predict",
        "-m",
        &text(model.clone()),
        "-i",
        &text(unseen.join("imagesTr")),
        "-o",
        &text(predicted.clone()),
    ]
    .map(str::to_owned)
    .to_vec();
    if options.uncertainty {
        line.extend(["--uncertainty".into(), "--save-probabilities".into()]);
    }
    let Command::Predict(request) = command(&line)? else { unreachable!("the line says predict") };
    let outcome = predict::run(&request, ui)?;
    if interrupt::flag().load(Ordering::SeqCst) {
        return Ok(outcome);
    }
    ui.say("4. scores: glioseg evaluate");
    let line = [
        "evaluate",
        "--ref",
        &text(unseen.join("labelsTr")),
        "--pred",
        &text(predicted),
        "-o",
        &text(out.join("scores")),
        "--rules",
        "brats2021",
        "--dataset",
        &text(unseen.join("dataset.json")),
        // A network after one epoch may take anything for oedema.
        "--trust-labels",
    ]
    .map(str::to_owned);
    let Command::Evaluate(request) = command(&line)? else { unreachable!("the line says evaluate") };
    let request: &Evaluate = &request;
    let scored = evaluate::run(request, ui)?;
    ui.say("5. a page to look at: glioseg report");
    let shown = Report {
        scores: vec![out.join("scores")],
        model: vec![model.clone()],
        output: out.join("report.html"),
        title: Some("Phantoms".into()),
        ..Report::default()
    };
    report::run(&shown, ui)?;
    for line in next_steps(&text(model), &text(dataset)) {
        ui.say(&line);
    }
    Ok(if scored == Outcome::Done { outcome } else { scored })
}

/// A command as it would be typed.
fn command(line: &[String]) -> anyhow::Result<Command> {
    let words = std::iter::once("glioseg".to_owned()).chain(line.iter().cloned());
    Ok(Cli::try_parse_from(words)?.command)
}

fn next_steps(model: &str, dataset: &str) -> [String; 6] {
    [
        "next, with this model and these phantoms:".into(),
        format!(
            "  glioseg predict -m {model} -i CASES -o OUT     segments other cases of the same four channels"
        ),
        format!(
            "  glioseg crossval {dataset} --preset demo     trains all five folds and decides what is best"
        ),
        "next, with your cases (imagesTr, labelsTr, dataset.json):".into(),
        "  glioseg dataset check DIR; glioseg train DIR -f 0; glioseg --help".into(),
        "research use only: not a medical device".into(),
    ]
}
