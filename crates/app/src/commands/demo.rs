//! `glioseg demo`: the whole main job without a download.
//!
//! The model that comes along was trained by nnU-Net itself on phantoms (see `fixtures/phantom-model`); the demo makes phantoms of
//! another seed, segments them from their BraTS-like names and scores the result.

use std::path::Path;

use anyhow::Context as _;

use super::evaluate::{self, Evaluate};
use super::phantom::write_cohort;
use super::report::{self, Report};
use super::{Outcome, Problem, predict};
use crate::cli::{Accumulation, Checkpoint, Demo, Device, Kernels, Layout, Predict};
use crate::ui::Ui;

/// nnU-Net's result folder of a small network, file by file.
const MODEL: [(&str, &[u8]); 3] = [
    ("plans.json", include_bytes!("../../../../fixtures/phantom-model/plans.json")),
    ("dataset.json", include_bytes!("../../../../fixtures/phantom-model/dataset.json")),
    (
        "fold_0/checkpoint_final.pth",
        include_bytes!("../../../../fixtures/phantom-model/fold_0/checkpoint_final.pth"),
    ),
];
/// Seed of the demo's phantoms; the model was trained on those of seed 0.
const SEED: u64 = 1;
/// Voxels along every axis of the demo's phantoms, as in training.
const SIZE: usize = 64;

pub(crate) fn run(options: &Demo, ui: &Ui) -> anyhow::Result<Outcome> {
    if options.cases == 0 {
        return Err(Problem::new("--cases is 0", "take at least one case"));
    }
    let out = &options.out;
    let (model, cohort, predicted) = (out.join("model"), out.join("phantoms"), out.join("predicted"));
    ui.say(&format!(
        "1. a model and {} phantoms of {SIZE} x {SIZE} x {SIZE} voxels in {}",
        options.cases,
        out.display()
    ));
    write_model(&model)?;
    write_cohort(&cohort, options.cases, SEED, SIZE, Layout::Nnunet, ui)?;
    ui.say("2. prediction");
    let request = Predict {
        model: vec![model.clone()],
        input: vec![cohort.join("imagesTr")],
        output: predicted.clone(),
        folds: None,
        checkpoint: Checkpoint::Final,
        device: Device::Cpu,
        step: 0.5,
        no_mirroring: false,
        accumulation: Accumulation::Half,
        kernels: Kernels::Auto,
        interpolate_positions: false,
        recipe: None,
        postprocessing: None,
        labels: None,
        save_probabilities: false,
        uncertainty: false,
        report: false,
        strict: false,
        continue_: false,
        part: None,
        json: false,
    };
    let outcome = predict::run(&request, ui)?;
    ui.say("3. scores");
    let scored = evaluate::run(
        &Evaluate {
            reference: cohort.join("labelsTr"),
            prediction: predicted,
            output: out.join("scores"),
            rules: "brats2021".into(),
            dataset: Some(cohort.join("dataset.json")),
            labels: None,
            pred_labels: None,
            trust_labels: false,
            ref_suffix: None,
            pred_suffix: None,
            tolerance: 1.0,
            bootstrap: 2000,
            failing: 0.7,
            seed: 0,
            json: false,
        },
        ui,
    )?;
    ui.say("4. report");
    let shown = Report {
        scores: vec![out.join("scores")],
        output: out.join("report.html"),
        title: Some("Phantoms".into()),
        ..Report::default()
    };
    report::run(&shown, ui)?;
    ui.say(&format!(
        "next: glioseg predict -m {} -i YOUR_CASES -o OUT, with a model trained on real cases; glioseg --help",
        model.display()
    ));
    ui.say("research use only: not a medical device");
    Ok(if scored == Outcome::Done { outcome } else { scored })
}

fn write_model(folder: &Path) -> anyhow::Result<()> {
    for (name, bytes) in MODEL {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, bytes))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
