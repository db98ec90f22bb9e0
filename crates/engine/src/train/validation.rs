//! The validation at the end: every held-out case as a whole, and nnU-Net's `summary.json`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use glioseg_formats::FormatError;
use glioseg_formats::nifti::{read_info, read_labels, write_labels};
use glioseg_metrics::rules::nnunet;
use glioseg_metrics::{LabelScheme, NnUnetCase, NnUnetSummary, Pair};
use glioseg_net::{Engine, Mode, Program};
use glioseg_plan::Rules;
use glioseg_prep::store::StoredCase;
use glioseg_volume::LabelMap;

use super::{Event, Setup, TrainError};
use crate::infer::output::write_probabilities;
use crate::infer::{
    Accumulation, Decision, Grid, Image, LogitSum, Logits, ProbabilitySum, WindowOptions, forward,
};

/// Name of the folder in a fold's folder.
pub const FOLDER: &str = "validation";

/// Segments the validation cases with the trained network and scores them; those whose results are there are only scored.
///
/// `None` if `stop` was set before all were done.
///
/// # Source
/// nnU-Net v2, `nnUNetTrainer.perform_actual_validation`: the prepared cases, mirroring, steps of half a tile; by the plan's rules.
pub(super) fn validate(
    setup: &Setup,
    engine: &mut dyn Engine,
    save_probabilities: bool,
    stop: &AtomicBool,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<Option<NnUnetSummary>, TrainError> {
    let folder = setup.folder.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, "make", e))?;
    let scheme = LabelScheme::dataset(&setup.dataset.description.labels);
    let ignore = setup.dataset.description.labels.ignore_label();
    let of = setup.val_cases.0.len();
    engine.prepare(&Program::new(&setup.network, 1, setup.patch(), Mode::Predict)?)?;
    let mut scored = vec![];
    for (i, case) in setup.val_cases.0.iter().enumerate() {
        if stop.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let Some(raw) = setup.dataset.cases.iter().find(|c| c.name == case.name()) else {
            unreachable!("the fold's cases are the dataset's")
        };
        let start = Instant::now();
        let path = folder.join(format!("{}.nii.gz", case.name()));
        let probabilities = folder.join(format!("{}.npz", case.name()));
        let there = path.is_file() && (!save_probabilities || probabilities.is_file());
        let map = if there {
            read_labels(&path)?
        } else {
            let map = segment(setup, engine, case, (i + 1, of), &raw.images[0], observer, |p| {
                if save_probabilities { write_probabilities(&probabilities, p) } else { Ok(()) }
            })?;
            write_labels(&path, &map)?;
            map
        };
        let reference = read_labels(&raw.labels)?;
        let pair = Pair::new(&reference, &map, ignore);
        let done = NnUnetCase::of(&path, &raw.labels, nnunet::score(&pair, &scheme));
        let dice: Vec<f64> = done.metrics.values().filter_map(|v| v.get("Dice")).collect();
        observer(Event::Validated {
            case: case.name(),
            number: i + 1,
            of,
            dice: &dice,
            seconds: start.elapsed().as_secs_f64(),
        });
        scored.push(done);
    }
    let summary = NnUnetSummary::of(scored);
    summary.write(&folder.join("summary.json"))?;
    Ok(Some(summary))
}

/// The segmentation of one case on the grid of its image.
fn segment(
    setup: &Setup,
    engine: &mut dyn Engine,
    case: &StoredCase,
    (number, of): (usize, usize),
    image: &Path,
    observer: &mut dyn FnMut(Event<'_>),
    save: impl FnOnce(&crate::infer::Probabilities) -> Result<(), FormatError>,
) -> Result<LabelMap, TrainError> {
    let rules = setup.configuration.rules;
    let activated = rules == Rules::V1;
    let precision = Accumulation::Half.under(rules);
    let decision = Decision::new(&setup.dataset.description.labels);
    let (data, _) = case.read_all()?;
    let shape = case.shape();
    let window = WindowOptions { tile: setup.patch(), step: 0.5, mirror_axes: setup.mirror_axes(), rules };
    let passes = Grid::new(shape, window.tile, window.step)?.len() << window.mirror_axes.len();
    observer(Event::Validating { case: case.name(), number, of, passes });
    let mut sum = LogitSum::new(setup.network.num_outputs, shape, &window, precision)?;
    let picture = Image { data: &data, channels: case.channels(), shape };
    let activation = activated.then_some(&decision);
    let mut pass = |patch: Vec<f32>, _| forward(engine, &patch, activation);
    sum.add(picture, &mut pass, &mut || observer(Event::Pass))?;
    let values = sum.finish()?;
    drop(data);
    let properties = case.properties();
    let resampling = properties.probabilities_resampling(&setup.configuration);
    let logits = Logits { values: &values, shape, properties: &properties, resampling, precision, activated };
    let mut all = ProbabilitySum::default();
    all.add(logits.probabilities(&decision));
    let segmentation = all.finish(true);
    if let Some(probabilities) = &segmentation.probabilities {
        save(probabilities)?;
    }
    let geometry = read_info(image)?.geometry;
    Ok(LabelMap::new(segmentation.labels, geometry).map_err(FormatError::from)?)
}
