//! The validation at the end: every held-out case as a whole, and nnU-Net's `summary.json`.

use std::cell::RefCell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use glioseg_formats::atomic;
use glioseg_formats::nifti::{read_info, read_labels};
use glioseg_interop::{KeyOrder, python_json};
use glioseg_metrics::rules::nnunet;
use glioseg_metrics::{LabelScheme, NnUnetCase, NnUnetSummary, Pair};
use glioseg_net::{Checkpoint, Engine};
use glioseg_prep::store::StoredCase;
use glioseg_prep::{PreparedCase, append_one_hot};

use serde_json::{Value, json};

use super::{Event, Setup, TrainError, cascade};
use glioseg_infer::model::{CheckpointChoice, Fold, Model};
use glioseg_infer::output::{label_path, write_labels};
use glioseg_infer::{
    InferError, Networks, PostprocessingChoice, PredictOptions, Prediction, Predictor, Watch,
};

/// Name of the folder in a fold's folder.
pub const FOLDER: &str = "validation";

/// Names the checkpoint that the results in the folder are of.
const MADE_WITH: &str = "made_with.json";

/// Removes the folder of an earlier validation, and what it left for the next stages of a cascade.
pub(super) fn clear(setup: &Setup) -> Result<(), TrainError> {
    for case in &setup.val_cases.0 {
        cascade::remove(&setup.model_folder, &setup.next_stages, case.name())?;
    }
    let folder = setup.folder.join(FOLDER);
    match std::fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(TrainError::io(&folder, "remove", e)),
        _ => Ok(()),
    }
}

/// Segments the validation cases with the trained network and scores them; those whose results are there are only scored,
/// if they are of the same checkpoint.
///
/// `None` if `stop` was set before all were done.
///
/// # Source
/// nnU-Net v2, `nnUNetTrainer.perform_actual_validation`: the prepared cases, mirroring, steps of half a tile; by the plan's rules.
pub(super) fn validate(
    setup: &Setup,
    engine: Box<dyn Engine>,
    save_probabilities: bool,
    stop: &AtomicBool,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<Option<NnUnetSummary>, TrainError> {
    let folder = setup.folder.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, "make", e))?;
    let checkpoint = setup.folder.join(CheckpointChoice::Final.stem()).with_extension("safetensors");
    let hash = Checkpoint::open(&checkpoint)?.sha256()?;
    let ending = setup.dataset.description.written_ending();
    let names = setup.val_cases.0.iter().map(|case| (case.name(), label_path(&folder, case.name(), ending)));
    for file in remove_older(&folder, names, &checkpoint, &hash)? {
        let case = file.strip_suffix(ending).unwrap_or(&file);
        cascade::remove(&setup.model_folder, &setup.next_stages, case)?;
        observer(Event::Warning(format!(
            "{} was of another network and is made again",
            folder.join(file).display()
        )));
    }
    let predictor = predictor(setup, engine)?;
    let scheme = LabelScheme::dataset(&setup.dataset.description.labels);
    let ignore = setup.dataset.description.labels.ignore_label();
    let of = setup.val_cases.0.len();
    let mut scored = vec![];
    for (i, case) in setup.val_cases.0.iter().enumerate() {
        if stop.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let Some(raw) = setup.dataset.cases.iter().find(|c| c.name == case.name()) else {
            unreachable!("the fold's cases are the dataset's")
        };
        let start = Instant::now();
        let path = label_path(&folder, case.name(), ending);
        let npz = folder.join(format!("{}.npz", case.name()));
        let there = path.is_file()
            && (!save_probabilities || npz.is_file())
            && cascade::has_all(&setup.model_folder, &setup.next_stages, case.name());
        let map = if there {
            read_labels(&path)?
        } else {
            let shapes = cascade::shapes(&case.properties(), &setup.next_stages)?;
            let task = Task { case, number: i + 1, of, image: &raw.images[0], next_stages: &shapes };
            let found = segment(&predictor, &task, stop, observer)?;
            let Some(prediction) = found else { return Ok(None) };
            if save_probabilities {
                prediction.write_probabilities(&npz)?;
            }
            let Prediction { labels, next_stages, .. } = prediction;
            // Before the label map, which says that the case is done.
            cascade::write(&setup.model_folder, &setup.next_stages, case.name(), &shapes, &next_stages)?;
            write_labels(&folder, case.name(), ending, &labels)?;
            labels
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

/// Removes results of another checkpoint (of a training in this folder that was begun again, or trained longer), and notes
/// which one those to come are of; returns the label maps that were removed.
///
/// Results of before this was noted count as those of the checkpoint if they are not older than it.
fn remove_older<'a>(
    folder: &Path,
    cases: impl Iterator<Item = (&'a str, PathBuf)>,
    checkpoint: &Path,
    hash: &str,
) -> Result<Vec<String>, TrainError> {
    let marker = folder.join(MADE_WITH);
    let noted = std::fs::read(&marker).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let same = noted.as_ref().map(|noted| noted["checkpoint_sha256"] == hash);
    if same == Some(true) {
        return Ok(Vec::new());
    }
    let time = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let mut removed = Vec::new();
    for (case, map) in cases {
        let older = same.is_some() || time(&map) < time(checkpoint);
        if !older || !map.is_file() {
            continue;
        }
        for path in [map.clone(), folder.join(format!("{case}.npz"))] {
            if path.is_file() {
                std::fs::remove_file(&path).map_err(|e| TrainError::io(&path, "remove", e))?;
            }
        }
        removed.push(map.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    let text = python_json(&json!({ "checkpoint_sha256": hash }), KeyOrder::Given);
    atomic::write(&marker, |file| file.write_all(text.as_bytes()))?;
    Ok(removed)
}

/// The trained network as `predict` would apply it. The decision is taken on probabilities, which is nnU-Net's way here.
fn predictor(setup: &Setup, engine: Box<dyn Engine>) -> Result<Predictor, TrainError> {
    let checkpoint = setup.folder.join(CheckpointChoice::Final.stem()).with_extension("safetensors");
    let model = Model {
        path: setup.model_folder.clone(),
        dataset: setup.dataset.description.clone(),
        plans: setup.plans.clone(),
        configuration: setup.configuration.clone(),
        folds: vec![Fold { name: setup.choice.to_string(), checkpoint }],
        trainer: Some(setup.settings.trainer.clone()),
        mirror_axes: setup.mirror_axes(),
        network: setup.network.clone(),
    };
    let options = PredictOptions {
        postprocessing: PostprocessingChoice::Nothing,
        save_probabilities: true,
        ..PredictOptions::default()
    };
    let networks = Networks::of_engine(&model, engine)?;
    Ok(Predictor::with_networks(model, networks, options)?)
}

/// One case that is segmented.
struct Task<'a> {
    case: &'a StoredCase,
    /// From 1.
    number: usize,
    of: usize,
    /// Its first image.
    image: &'a Path,
    /// Voxels of the grids of a cascade's next stages.
    next_stages: &'a [[usize; 3]],
}

/// The segmentation of one case on the grid of its image; `None` if `stop` was set.
fn segment(
    predictor: &Predictor,
    &Task { case, number, of, image, next_stages }: &Task<'_>,
    stop: &AtomicBool,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<Option<Prediction>, TrainError> {
    let (data, _) = case.read_all()?;
    let (channels, shape, properties) = (case.channels(), case.shape(), case.properties());
    let mut stored = PreparedCase { data, channels, shape, properties };
    if let Some(previous) = case.previous() {
        append_one_hot(&mut stored, &previous.read_all()?, &predictor.models()[0].dataset.labels);
    }
    let prepared = predictor.prepared(case.name(), stored, read_info(image)?.geometry)?;
    let prepared = prepared.for_next_stages(next_stages.to_vec());
    observer(Event::Validating { case: case.name(), number, of, passes: prepared.passes() });
    let observer = RefCell::new(observer);
    let passed = || (observer.borrow_mut())(Event::Pass);
    let inferred = match predictor.infer(&prepared, &Watch::default().stop(stop).on_pass(&passed)) {
        Err(InferError::Stopped) => return Ok(None),
        inferred => inferred?,
    };
    drop(prepared);
    Ok(Some(predictor.finish(inferred)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_another_checkpoint_are_removed_and_those_of_this_one_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str| std::fs::write(path(name), b"").expect("written");
        let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
        for name in ["a.nii.gz", "a.npz"] {
            write(name);
            let file = std::fs::File::options().write(true).open(path(name)).expect("there");
            file.set_modified(earlier).expect("a time");
        }
        write("final.safetensors");
        write("b.nii.gz");
        let run = |hash: &str| {
            let maps = ["a", "b", "c"].map(|case| (case, path(&format!("{case}.nii.gz"))));
            remove_older(folder.path(), maps.into_iter(), &path("final.safetensors"), hash).expect("removed")
        };
        // Nothing is noted: what is older than the checkpoint goes.
        assert_eq!(run("1"), ["a.nii.gz"]);
        assert!(!path("a.npz").exists() && path("b.nii.gz").exists());
        write("a.nii.gz");
        assert_eq!(run("1"), [""; 0]);
        assert_eq!(run("2"), ["a.nii.gz", "b.nii.gz"]);
    }
}
