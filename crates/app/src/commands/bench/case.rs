//! `glioseg bench case`: a whole case from files to file, with the full-size network and random weights.
//!
//! The case is a phantom with the size of a BraTS case, the model what nnU-Net plans for BraTS 2021, both made in a temporary folder.

use std::path::Path;

use anyhow::Context as _;
use glioseg_infer::{self as infer, Batch, Event, PredictOptions};
use glioseg_net::checkpoint::{Metadata, write_safetensors};
use glioseg_net::{NetworkSpec, Parameters};
use glioseg_plan::record::CaseRecord;
use glioseg_plan::{Fingerprint, ForegroundIntensities, PlanOptions, Plans, RawDataset};
use glioseg_volume::phantom::{PhantomOptions, phantom};
use serde_json::json;

use super::{check_runs, report, rounded};
use crate::cli::BenchCase;
use crate::commands::phantom::write_raw;
use crate::commands::{Outcome, print};
use crate::ui::Ui;

/// Voxels of a BraTS case, z, y, x, of 1 mm.
const SHAPE: [usize; 3] = [155, 240, 240];
/// Median voxels of the BraTS 2021 training cases inside their boxes; nnU-Net plans a patch of 128³ for them.
const CROPPED: [usize; 3] = [140, 171, 137];

/// Intensities that no scheme of the plan reads: channels of MRI are normalised case by case.
const UNUSED: ForegroundIntensities = ForegroundIntensities {
    mean: 0.0,
    std: 1.0,
    percentile_00_5: 0.0,
    percentile_99_5: 0.0,
    min: 0.0,
    max: 0.0,
    median: 0.0,
};

pub(super) fn run(options: &BenchCase, ui: &Ui) -> anyhow::Result<Outcome> {
    check_runs(options.runs)?;
    let engine = options.compute.engine(ui)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (raw, model) = (folder.path().join("raw"), folder.path().join("model"));
    ui.say("making a phantom of 240 x 240 x 155 voxels and a network with random weights");
    let made = phantom(&PhantomOptions { shape: SHAPE, spacing_mm: [1.0; 3], ..PhantomOptions::default() })?;
    write_raw(&raw, &[made])?;
    let parameters = write_model(&raw, &model)?;
    let predict = PredictOptions { mirroring: options.mirroring, engine, ..PredictOptions::default() };
    let mut seconds = Vec::with_capacity(options.runs);
    let mut last: Option<CaseRecord> = None;
    for run in 0..options.runs {
        ui.begin(&format!("run {} of {}", run + 1, options.runs));
        let out = folder.path().join(format!("out_{run}"));
        let record = std::sync::Mutex::new(None);
        let observer = |event: Event<'_>| {
            if let Event::Finished { record: finished } = event {
                *record.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(finished.clone());
            }
        };
        let start = std::time::Instant::now();
        let images = [raw.join("imagesTr")];
        infer::predict(std::slice::from_ref(&model), predict.clone(), &Batch::new(&images, &out), &observer)?;
        seconds.push(start.elapsed().as_secs_f64());
        ui.stop();
        last = record.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    }
    let record = last.context("a prediction without a case")?;
    if let Some(error) = record.error {
        anyhow::bail!("the phantom could not be segmented: {error}");
    }
    let parts: serde_json::Map<String, serde_json::Value> =
        record.seconds.iter().map(|(part, &s)| (part.clone(), json!(rounded(s, 3)))).collect();
    let more = json!({
        "voxels": SHAPE,
        "parameters": parameters,
        "mirroring": options.mirroring,
        "last_run": parts,
    });
    print(&report("case", engine, &seconds, more))?;
    Ok(Outcome::Done)
}

/// Writes nnU-Net's model folder for BraTS with random weights; returns the number of parameters.
fn write_model(raw: &Path, model: &Path) -> anyhow::Result<usize> {
    let dataset = RawDataset::open(raw)?;
    let channels = dataset.description.channel_names.len();
    let fingerprint = Fingerprint {
        spacings_mm: vec![[1.0; 3]],
        shapes_after_crop: vec![CROPPED],
        foreground_intensities: vec![UNUSED; channels],
        median_relative_size_after_cropping: 0.37,
    };
    let planned = glioseg_plan::plan(&dataset, &fingerprint, &PlanOptions::default())?;
    std::fs::create_dir_all(model.join("fold_0")).context("cannot make the model's folder")?;
    let written = planned.write(&dataset, model)?;
    let plans_path = model.join("plans.json");
    std::fs::rename(&written, &plans_path).context("cannot name the plans")?;
    let plans = Plans::read(&plans_path)?;
    let configuration = plans.configuration("3d_fullres")?;
    let outputs = dataset.description.labels.num_outputs();
    let spec = NetworkSpec::from_plan(&configuration.architecture, channels, outputs)?;
    let weights = Parameters::random(&spec, 0)?;
    let metadata = Metadata {
        trainer_name: Some("nnUNetTrainer".into()),
        configuration: Some("3d_fullres".into()),
        mirror_axes: Some(vec![0, 1, 2]),
        ..Metadata::default()
    };
    write_safetensors(&model.join("fold_0/checkpoint_final.safetensors"), &weights, &metadata)?;
    Ok(weights.num_trained())
}
