//! What a cross-validation says: the scores of every configuration and of ensembles of two, and whether only the largest component is
//! kept.
//!
//! The folds' validation cases together are the whole training set, each case segmented by a network that has not seen it.
//! They are gathered next to the folds, in nnU-Net's `crossval_results_folds_0_1_…`, and everything is decided on them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use glioseg_diagnose::{Diagnose, boxed_from};
use glioseg_formats::{FormatError, atomic};
use glioseg_metrics::{MetricsError, NnUnetSummary};
use glioseg_plan::{PlanError, RawCase, RawDataset, Splits};
use serde_json::{Value, json};
use thiserror::Error;

use glioseg_infer::ensemble::{EnsembleError, EnsembleOptions, ensemble};
use glioseg_infer::output::label_path;
use glioseg_infer::postprocess::{FILE_NAME, PostprocessError, Postprocessing};
use glioseg_train::{Places, Setup, VALIDATION_FOLDER};

use crate::postprocessing::{Judged, determine, score};

/// Why a cross-validation could not be evaluated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CrossvalError {
    /// A fold has no result for a case.
    #[error("case `{case}` has no segmentation in {}", folder.display())]
    MissingCase {
        /// The case.
        case: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// Two folds have a result for one case.
    #[error("case `{case}` was validated by two folds, such as {}", second.display())]
    Twice {
        /// The case.
        case: String,
        /// Its file in the second fold.
        second: PathBuf,
    },
    /// A segmentation on another grid than its reference.
    #[error("{} has {found:?} voxels, but {} has {expected:?}", path.display(), reference.display())]
    Grid {
        /// The segmentation.
        path: PathBuf,
        /// Its voxels.
        found: [usize; 3],
        /// The reference.
        reference: PathBuf,
        /// Its voxels.
        expected: [usize; 3],
    },
    /// A fold that the splits do not have.
    #[error("there is no fold {fold}; {} has {folds}", path.display())]
    NoFold {
        /// The splits.
        path: PathBuf,
        /// The fold that is asked for.
        fold: usize,
        /// How many there are.
        folds: usize,
    },
    /// A fold that cannot be used.
    #[error("{reason}")]
    BadFold {
        /// What is wrong with it.
        reason: Box<PlanError>,
        /// The folds that can be used.
        usable: Vec<usize>,
    },
    /// A file or folder.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was to be done.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// An ensemble.
    #[error(transparent)]
    Ensemble(Box<EnsembleError>),
    /// A label map.
    #[error(transparent)]
    Volume(Box<FormatError>),
    /// Scores.
    #[error(transparent)]
    Metrics(Box<MetricsError>),
    /// Steps on label maps.
    #[error(transparent)]
    Postprocess(Box<PostprocessError>),
    /// Splits.
    #[error(transparent)]
    Plan(Box<PlanError>),
}

boxed_from!(CrossvalError: Ensemble(EnsembleError), Volume(FormatError), Metrics(MetricsError), Postprocess(PostprocessError), Plan(PlanError));

impl Diagnose for CrossvalError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::MissingCase { .. } => {
                Some("run `glioseg train … --resume` for its fold, which repeats the validation where cases are missing".into())
            }
            Self::Twice { .. } => Some("the folds of splits_final.json must not validate a case twice".into()),
            Self::Grid { .. } => Some("was the dataset changed after the training? train the fold again".into()),
            Self::Io { .. } => Some("check the path, its permissions, and the space on the disk".into()),
            Self::NoFold { folds, .. } => Some(format!("take folds from 0 to {}", folds.saturating_sub(1))),
            Self::BadFold { reason, usable } => {
                let usable: Vec<String> = usable.iter().map(ToString::to_string).collect();
                let hint = reason.hint().unwrap_or_default();
                Some(if usable.is_empty() {
                    hint
                } else {
                    format!("{hint}; the others can be used: -f {}", usable.join(","))
                })
            }
            Self::Ensemble(e) => e.hint(),
            Self::Plan(e) => e.hint(),
            Self::Volume(e) => e.hint(),
            Self::Metrics(e) => e.hint(),
            Self::Postprocess(e) => e.hint(),
        }
    }
}

fn io<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(std::io::Error) -> CrossvalError + 'a {
    move |source| CrossvalError::Io { path: path.to_owned(), action, source }
}

/// A model's cross-validation, or that of an ensemble of two.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Configurations that it consists of.
    pub configurations: Vec<String>,
    /// Their model folders.
    pub models: Vec<PathBuf>,
    /// Folder of the segmentations of all cases.
    pub folder: PathBuf,
    /// Scores of the cases.
    pub summary: NnUnetSummary,
}

impl Candidate {
    /// Mean Dice over cases and then labels or regions; 0 where there is none.
    pub fn score(&self) -> f64 {
        self.summary.foreground_mean.get("Dice").filter(|d| !d.is_nan()).unwrap_or(0.0)
    }

    /// Its name for people.
    pub fn name(&self) -> String {
        self.configurations.join(" + ")
    }
}

/// Gathers the validation cases of a model's folds and scores them.
///
/// # Errors
/// [`CrossvalError::MissingCase`] and [`CrossvalError::Twice`] if the folds are not a partition of the dataset; errors of
/// files.
///
/// # Source
/// nnU-Net v2, `accumulate_cv_results`.
pub fn collect(
    dataset: &RawDataset,
    configuration: &str,
    model: &Path,
    folds: &[usize],
) -> Result<Candidate, CrossvalError> {
    let numbers: Vec<String> = folds.iter().map(ToString::to_string).collect();
    let folder = model.join(format!("crossval_results_folds_{}", numbers.join("_")));
    make_empty(&folder)?;
    let ending = dataset.description.written_ending();
    let mut found = 0;
    for case in &dataset.cases {
        for fold in folds {
            let validation = model.join(format!("fold_{fold}")).join(VALIDATION_FOLDER);
            let file = label_path(&validation, &case.name, ending);
            if !file.is_file() {
                continue;
            }
            let to = label_path(&folder, &case.name, ending);
            if to.exists() {
                return Err(CrossvalError::Twice { case: case.name.clone(), second: file });
            }
            std::fs::copy(&file, &to).map_err(io(&to, "write"))?;
            let probabilities = file.with_file_name(format!("{}.npz", case.name));
            if probabilities.is_file() {
                let to = folder.join(format!("{}.npz", case.name));
                // Arrays are large: a second name where the file system has such, else a copy.
                if std::fs::hard_link(&probabilities, &to).is_err() {
                    std::fs::copy(&probabilities, &to).map_err(io(&to, "write"))?;
                }
            }
            found += 1;
        }
        if !label_path(&folder, &case.name, ending).is_file() && covers(folds) {
            return Err(CrossvalError::MissingCase { case: case.name.clone(), folder: model.to_owned() });
        }
    }
    if found == 0 {
        let case = dataset.cases.first().map(|c| c.name.clone()).unwrap_or_default();
        return Err(CrossvalError::MissingCase { case, folder: model.to_owned() });
    }
    for name in ["plans.json", "dataset.json"] {
        let to = folder.join(name);
        std::fs::copy(model.join(name), &to).map_err(io(&to, "write"))?;
    }
    let summary = score(&judged(dataset, &folder), &dataset.description.labels, &Postprocessing::default())?;
    summary.write(&folder.join("summary.json"))?;
    Ok(Candidate {
        configurations: vec![configuration.to_owned()],
        models: vec![model.to_owned()],
        folder,
        summary,
    })
}

/// Makes a folder, or takes everything out of it.
fn make_empty(folder: &Path) -> Result<(), CrossvalError> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(io(folder, "remove"))?;
    }
    std::fs::create_dir_all(folder).map_err(io(folder, "make"))
}

/// Whether these can be all folds of a cross-validation.
fn covers(folds: &[usize]) -> bool {
    folds.len() >= 5
}

/// The ensemble of two candidates, from their saved probabilities.
///
/// # Errors
/// [`CrossvalError::Ensemble`] if probabilities are missing; errors of files.
///
/// # Source
/// nnU-Net v2, `find_best_configuration`, `ensemble_crossvalidations`.
pub fn combine(
    dataset: &RawDataset,
    a: &Candidate,
    b: &Candidate,
    results: &Path,
) -> Result<Candidate, CrossvalError> {
    let name =
        |c: &Candidate| c.models[0].file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = results.join("ensembles").join(format!("ensemble___{}___{}", name(a), name(b)));
    make_empty(&folder)?;
    let folders = [a.folder.clone(), b.folder.clone()];
    for done in ensemble(&folders, &folder, &EnsembleOptions::default(), &|_, _| ())?.cases {
        done.result?;
    }
    let summary = score(&judged(dataset, &folder), &dataset.description.labels, &Postprocessing::default())?;
    summary.write(&folder.join("summary.json"))?;
    let join = |x: &[String], y: &[String]| [x, y].concat();
    Ok(Candidate {
        configurations: join(&a.configurations, &b.configurations),
        models: [a.models.clone(), b.models.clone()].concat(),
        folder,
        summary,
    })
}

/// The cases that a folder has, with their references.
fn judged(dataset: &RawDataset, folder: &Path) -> Vec<Judged> {
    let cases = dataset.cases.iter().map(|case: &RawCase| Judged {
        prediction: label_path(folder, &case.name, dataset.description.written_ending()),
        reference: case.labels.clone(),
    });
    cases.filter(|case| case.prediction.is_file()).collect()
}

/// The best candidate; the first of equal ones.
///
/// # Panics
/// If there is none.
pub fn best(candidates: &[Candidate]) -> &Candidate {
    let mut best = candidates.first().expect("a comparison of at least one candidate");
    for candidate in &candidates[1..] {
        if candidate.score() > best.score() {
            best = candidate;
        }
    }
    best
}

/// Decides whether only the largest component of all foreground, and of every label or region, is kept.
///
/// Returns the steps, with what they rest on as notes, and the scores after them.
///
/// # Errors
/// Errors of files.
///
/// # Source
/// As [`determine`].
pub fn decide_postprocessing(
    dataset: &RawDataset,
    candidate: &Candidate,
) -> Result<(Postprocessing, NnUnetSummary), CrossvalError> {
    let cases = judged(dataset, &candidate.folder);
    let found = determine(&cases, &dataset.description.labels, Some(&candidate.summary))?;
    let mut steps = found.steps;
    steps.notes.shift_insert(0, "decided_on".into(), json!(candidate.folder.display().to_string()));
    Ok((steps, found.after))
}

/// The folds of a cross-validation: those that are asked for, else all of `splits_final.json`.
///
/// # Errors
/// [`CrossvalError::NoFold`] for a fold that does not exist, [`CrossvalError::BadFold`] for one that cannot be used: told
/// before the first of them is trained. Errors of the file.
pub fn chosen_folds(
    places: &Places,
    dataset: &RawDataset,
    asked: Option<&[usize]>,
) -> Result<Vec<usize>, CrossvalError> {
    let path = places.preprocessed.join(Splits::FILE);
    let splits = Splits::read(&path)?;
    let folds = splits.folds.len();
    let chosen = asked.map_or_else(|| (0..folds).collect(), <[usize]>::to_vec);
    if let Some(&fold) = chosen.iter().find(|&&fold| fold >= folds) {
        return Err(CrossvalError::NoFold { path, fold, folds });
    }
    let names = dataset.case_names();
    let check = |fold: usize| splits.check(fold, &names, &path).map(drop);
    for &fold in &chosen {
        if let Err(reason) = check(fold) {
            let usable = (0..folds).filter(|&f| check(f).is_ok()).collect();
            return Err(CrossvalError::BadFold { reason: Box::new(reason), usable });
        }
    }
    Ok(chosen)
}

/// Whether a fold is trained and validated, with probabilities where an ensemble needs them, and with the segmentations that the next
/// stage of a cascade needs.
pub fn is_done(setup: &Setup, probabilities: bool) -> bool {
    let validation = setup.folder.join(VALIDATION_FOLDER);
    let saved = |case: &String| !probabilities || validation.join(format!("{case}.npz")).is_file();
    validation.join("summary.json").is_file() && setup.fold.val.iter().all(saved) && setup.next_stages_done()
}

/// What a cross-validation ends with.
#[derive(Debug, Clone)]
pub struct Conclusion {
    /// Steps that make the best candidate better.
    pub steps: Postprocessing,
    /// Its scores after them.
    pub after: NnUnetSummary,
    /// The command that repeats the best on new cases.
    pub command: String,
}

/// Decides the postprocessing of the best candidate and writes it, with `inference_information.json` and
/// `inference_instructions.txt`. Candidates that did not win lose the steps of an earlier comparison.
///
/// # Errors
/// Errors of files.
pub fn conclude(
    dataset: &RawDataset,
    candidates: &[Candidate],
    best: &Candidate,
    folds: &[usize],
    results: &Path,
) -> Result<Conclusion, CrossvalError> {
    let (steps, after) = decide_postprocessing(dataset, best)?;
    let single = best.models.len() == 1;
    let path = if single { best.models[0].join(FILE_NAME) } else { best.folder.join(FILE_NAME) };
    for model in candidates.iter().flat_map(|c| &c.models).filter(|m| !single || **m != best.models[0]) {
        let stale = model.join(FILE_NAME);
        if stale.is_file() {
            std::fs::remove_file(&stale).map_err(io(&stale, "remove"))?;
        }
    }
    steps.write(&path)?;
    let command = instructions(best, &path, folds);
    let information = information(dataset, candidates, best, folds, (&steps, &path), &after, &command);
    let text = format!("{information:#}");
    for (name, text) in [("inference_information.json", &text), ("inference_instructions.txt", &command)] {
        let file = results.join(name);
        atomic::write(&file, |to| writeln!(to, "{text}"))?;
    }
    Ok(Conclusion { steps, after, command })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_maps_of_a_dataset_of_nii_files_are_collected() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["imagesTr", "labelsTr", "model/fold_0/validation"] {
            std::fs::create_dir_all(path(name)).expect("a folder");
        }
        let description = json!({"channel_names": {"0": "t1"}, "labels": {"background": 0, "tumor": 1},
            "numTraining": 2, "file_ending": ".nii"});
        std::fs::write(path("dataset.json"), description.to_string()).expect("written");
        for name in ["model/plans.json", "model/dataset.json"] {
            std::fs::write(path(name), description.to_string()).expect("written");
        }
        let geometry = glioseg_volume::Geometry::isotropic([1, 2, 3]);
        let map = glioseg_volume::LabelMap::new(vec![0, 1, 1, 0, 0, 1], geometry).expect("labels");
        for case in ["a", "b"] {
            std::fs::write(path(&format!("imagesTr/{case}_0000.nii")), "").expect("written");
            for file in [format!("labelsTr/{case}.nii"), format!("model/fold_0/validation/{case}.nii")] {
                glioseg_formats::nifti::write_labels(&path(&file), &map).expect("written");
            }
        }
        let dataset = RawDataset::open(folder.path()).expect("a dataset");
        let found = collect(&dataset, "3d_fullres", &path("model"), &[0]).expect("both cases");
        assert_eq!(found.summary.cases.len(), 2);
        assert!((found.score() - 1.0).abs() < 1e-12, "{}", found.score());
        assert!(path("model/crossval_results_folds_0/b.nii").is_file());
    }

    #[test]
    fn a_bad_fold_is_refused_before_the_others_are_trained_which_can_be_chosen() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["imagesTr", "labelsTr"] {
            std::fs::create_dir(path(name)).expect("a folder");
        }
        let description = json!({"channel_names": {"0": "t1"}, "labels": {"background": 0, "tumor": 1},
            "numTraining": 2, "file_ending": ".nii.gz"});
        std::fs::write(path("dataset.json"), description.to_string()).expect("written");
        for case in ["a", "b"] {
            std::fs::write(path(&format!("imagesTr/{case}_0000.nii.gz")), "").expect("written");
        }
        let splits = json!([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["x"]}, {"train": ["b"], "val": ["a"]}]);
        std::fs::write(path(Splits::FILE), splits.to_string()).expect("written");
        let dataset = RawDataset::open(folder.path()).expect("a dataset");
        let places = Places {
            dataset: folder.path().to_owned(),
            preprocessed: folder.path().to_owned(),
            results: folder.path().to_owned(),
            plans: "nnUNetPlans".to_owned(),
            configuration: "3d_fullres".to_owned(),
        };
        let chosen = |asked: Option<&[usize]>| chosen_folds(&places, &dataset, asked);
        let error = chosen(None).expect_err("fold 1 names `x`");
        assert!(error.to_string().ends_with("fold 1 names a case that is not in the dataset: x"), "{error}");
        assert!(error.hint().expect("a hint").ends_with("the others can be used: -f 0,2"), "{error:?}");
        assert_eq!(chosen(Some(&[0, 2])).expect("good folds"), [0, 2]);
        assert!(matches!(chosen(Some(&[3])), Err(CrossvalError::NoFold { fold: 3, folds: 3, .. })));
    }
}
