//! What a training needs before it starts: fingerprint, plans and prepared cases. What is missing is made.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use glioseg_diagnose::{Diagnose, boxed_from};
use glioseg_plan::{
    Configuration, Fingerprint, FingerprintSources, IgnoreLabel, PlanError, PlanOptions, Planned, Plans,
    RawDataset,
};
use glioseg_prep::guard::check_stored;
use glioseg_prep::store::{CaseDone, PrepareOptions, PrepareSummary, StoreError, prepare_dataset};
use glioseg_train::{Places, Settings, TrainError};
use thiserror::Error;

/// Fewer cases cannot be split into five folds.
const FEWEST: usize = 5;

/// What happens on the way, for whoever watches. Cases come from several threads.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadyEvent<'a> {
    /// The fingerprint exists and is kept.
    FingerprintKept {
        /// Its file.
        path: &'a Path,
    },
    /// The fingerprint is of data that have changed since, and is made again.
    FingerprintStale {
        /// Its file.
        path: &'a Path,
        /// What has changed.
        reason: &'a str,
    },
    /// Plans are used whose fingerprint is of data that have changed since.
    PlansStale {
        /// The plans.
        path: &'a Path,
        /// What has changed.
        reason: &'a str,
    },
    /// The cases are read for the fingerprint.
    Reading {
        /// How many there are.
        of: usize,
    },
    /// A case was read for the fingerprint.
    Read {
        /// Its name.
        case: &'a str,
        /// How many were read.
        number: usize,
        /// How many there are.
        of: usize,
        /// What is odd about its files, a sentence each.
        oddities: &'a [String],
    },
    /// The fingerprint is complete.
    Fingerprinted {
        /// How many cases were read.
        cases: usize,
        /// How long it took.
        time: Duration,
    },
    /// The plans were written.
    Planned {
        /// The plans, with notes for the user.
        planned: &'a Planned,
        /// Their file.
        path: &'a Path,
        /// Number of cases, where they are too few for a cross-validation.
        too_few: Option<usize>,
    },
    /// The cases are prepared.
    Preparing {
        /// Name of the configuration.
        configuration: &'a str,
        /// How many there are.
        of: usize,
    },
    /// A case was prepared or failed.
    Case {
        /// What became of it.
        done: CaseDone<'a>,
        /// How many cases are done.
        number: usize,
        /// How many there are.
        of: usize,
    },
    /// All cases were looked at, or the work was stopped.
    Prepared {
        /// What became of them.
        summary: &'a PrepareSummary,
        /// How many there are.
        of: usize,
    },
    /// A case whose channels do not look like their names.
    Doubtful {
        /// Its name.
        case: &'a str,
        /// What looks wrong.
        doubts: &'a [String],
    },
}

/// Who watches.
pub type Observer<'a> = &'a (dyn Fn(ReadyEvent<'_>) + Sync);

/// Why a training cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadyError {
    /// Plans of another name than the planner's own.
    #[error("there are no plans {}", path.display())]
    NoPlans {
        /// Where they were looked for.
        path: PathBuf,
        /// The dataset.
        dataset: PathBuf,
        /// Name of the plans.
        name: String,
    },
    /// A folder.
    #[error("cannot make the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Channels that do not look like their names, in a strict preparation.
    #[error("the channels of {} do not look like their names", glioseg_diagnose::count(*count, "case"))]
    Channels {
        /// How many cases.
        count: usize,
    },
    /// Cases with odd files, in a strict preparation.
    #[error("odd files, such as with voxels that are NaN, in {}", glioseg_diagnose::count(*count, "case"))]
    Odd {
        /// How many cases.
        count: usize,
    },
    /// Cases that could not be prepared.
    #[error("{} could not be prepared: {}", glioseg_diagnose::count(cases.len(), "case"), cases.join(", "))]
    Cases {
        /// Their names.
        cases: Vec<String>,
    },
    /// Fingerprint or plans.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// Preparation.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// Settings.
    #[error(transparent)]
    Train(Box<TrainError>),
}

boxed_from!(ReadyError: Plan(PlanError), Store(StoreError), Train(TrainError));

impl Diagnose for ReadyError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoPlans { dataset, name, .. } => format!(
                "make them with `glioseg plan {} --name {name}`, or name others with --plans",
                dataset.display()
            ),
            Self::Folder { .. } => "choose another one with --preprocessed".into(),
            Self::Channels { .. } | Self::Odd { .. } => {
                "fix the files listed above, or train without --strict if they are right".into()
            }
            Self::Cases { .. } => {
                "fix these cases, or take them out of the dataset; `glioseg dataset check` looks for more"
                    .into()
            }
            Self::Plan(e) => return e.hint(),
            Self::Store(e) => return e.hint(),
            Self::Train(e) => return e.hint(),
        })
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Plan(e) => e.path(),
            Self::Store(e) => e.path(),
            Self::Train(e) => e.path(),
            _ => None,
        }
    }
}

/// How a fingerprint is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct FingerprintOptions {
    /// Make it again where it is still right.
    pub overwrite: bool,
    /// How the ignore label counts; `None` is as in the fingerprint that exists, else left out.
    pub ignore: Option<IgnoreLabel>,
}

/// The fingerprint of a dataset and its file: read if it exists, is still of these data and is not to be overwritten,
/// else made and written, with the list of the files that it was made of.
///
/// # Errors
/// [`ReadyError::Plan`] for cases that cannot be read, or a fingerprint that nnU-Net made of other data.
pub fn fingerprint(
    dataset: &RawDataset,
    folder: &Path,
    options: FingerprintOptions,
    observer: Observer<'_>,
) -> Result<(Fingerprint, PathBuf), ReadyError> {
    let path = folder.join(Fingerprint::FILE);
    let known = FingerprintSources::read(&path);
    let ignore = options.ignore.or(known.as_ref().map(FingerprintSources::ignore)).unwrap_or_default();
    if path.exists() && !options.overwrite {
        let facts = Fingerprint::read(&path)?;
        let stale = if let Some(sources) = known {
            sources.changed(dataset, ignore)
        } else {
            facts.check(dataset, &path)?;
            None
        };
        let Some(reason) = stale else {
            observer(ReadyEvent::FingerprintKept { path: &path });
            return Ok((facts, path));
        };
        observer(ReadyEvent::FingerprintStale { path: &path, reason: &reason });
    }
    let (start, of, done) = (Instant::now(), dataset.cases.len(), AtomicUsize::new(0));
    let progress = |case: &str, oddities: &[String]| {
        let number = done.fetch_add(1, Ordering::Relaxed) + 1;
        observer(ReadyEvent::Read { case, number, of, oddities });
    };
    observer(ReadyEvent::Reading { of });
    // Before the images are read: a file that changes meanwhile is seen next time.
    let sources = FingerprintSources::of(dataset, ignore);
    let facts = Fingerprint::extract_with(dataset, ignore, &progress)?;
    facts.write(&path)?;
    sources?.write(folder, &facts.to_json())?;
    observer(ReadyEvent::Fingerprinted { cases: of, time: start.elapsed() });
    Ok((facts, path))
}

/// Plans a dataset and writes the plans; the fingerprint is made first if it does not exist.
///
/// # Errors
/// [`ReadyError::Plan`] for cases that cannot be read, options that make no sense, plans that cannot be written.
pub fn plans(
    dataset: &RawDataset,
    folder: &Path,
    options: &PlanOptions,
    ignore: Option<IgnoreLabel>,
    observer: Observer<'_>,
) -> Result<(Planned, PathBuf), ReadyError> {
    let (facts, _) = fingerprint(dataset, folder, FingerprintOptions { overwrite: false, ignore }, observer)?;
    let planned = glioseg_plan::plan(dataset, &facts, options)?;
    let path = planned.write(dataset, folder)?;
    let cases = dataset.cases.len();
    let too_few = (cases < FEWEST).then_some(cases);
    observer(ReadyEvent::Planned { planned: &planned, path: &path, too_few });
    Ok((planned, path))
}

/// Preprocesses the cases that are not finished yet. Once `stop` is set, cases in work are finished and the others left.
///
/// # Errors
/// [`ReadyError::Store`] if the folder cannot be written; what is wrong with single cases is in the summary.
pub fn cases(
    dataset: &RawDataset,
    (plans, configuration): (&Plans, &Configuration),
    folder: &Path,
    overwrite: bool,
    stop: &AtomicBool,
    observer: Observer<'_>,
) -> Result<PrepareSummary, ReadyError> {
    let (of, seen) = (dataset.cases.len(), Mutex::new(0));
    let told = |done: CaseDone<'_>| {
        // Held while it is told, so that numbers come in order.
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen += 1;
        observer(ReadyEvent::Case { done, number: *seen, of });
    };
    let how = PrepareOptions { overwrite, stop: Some(stop) };
    observer(ReadyEvent::Preparing { configuration: &configuration.name, of });
    let summary = prepare_dataset(dataset, plans, configuration, folder, how, &told)?;
    observer(ReadyEvent::Prepared { summary: &summary, of });
    Ok(summary)
}

/// Number of prepared cases whose channels do not look like their names; the observer hears of each.
pub fn doubtful_channels(dataset: &RawDataset, summary: &PrepareSummary, observer: Observer<'_>) -> usize {
    let doubtful = check_stored(&summary.cases, &dataset.description.channel_names);
    for (case, doubts) in &doubtful {
        observer(ReadyEvent::Doubtful { case, doubts });
    }
    doubtful.len()
}

/// Makes whatever a training with these settings lacks; false if it was stopped.
///
/// A `strict` preparation refuses cases whose channels do not look like their names.
///
/// # Errors
/// [`ReadyError`] for the first step that fails, and for cases that cannot be used once all others are prepared.
pub fn make_ready(
    dataset: &RawDataset,
    places: &Places,
    settings: &Settings,
    strict: bool,
    stop: &AtomicBool,
    observer: Observer<'_>,
) -> Result<bool, ReadyError> {
    let folder = &places.preprocessed;
    let path = folder.join(format!("{}.json", places.plans));
    if !path.exists() {
        let options = PlanOptions { planner: settings.planner, ..PlanOptions::default() };
        if places.plans != options.planner.plans_name() {
            let (dataset, name) = (places.dataset.clone(), places.plans.clone());
            return Err(ReadyError::NoPlans { path, dataset, name });
        }
        std::fs::create_dir_all(folder)
            .map_err(|source| ReadyError::Folder { path: folder.clone(), source })?;
        plans(dataset, folder, &options, None, observer)?;
    } else if let Some(sources) = FingerprintSources::read(&folder.join(Fingerprint::FILE))
        && let Some(reason) = sources.changed(dataset, sources.ignore())
    {
        observer(ReadyEvent::PlansStale { path: &path, reason: &reason });
    }
    let plans = settings.apply_to(&Plans::read(&path)?, &places.configuration)?;
    let configuration = plans.configuration(&places.configuration)?;
    configuration.check_trainable(plans.path())?;
    let prepared = folder.join(&configuration.data_identifier);
    let summary = cases(dataset, (&plans, &configuration), &prepared, false, stop, observer)?;
    if summary.left > 0 {
        return Ok(false);
    }
    if strict {
        let count = summary.cases.iter().filter(|case| !case.oddities().is_empty()).count();
        if count > 0 {
            return Err(ReadyError::Odd { count });
        }
    }
    if summary.prepared > 0 || strict {
        let count = doubtful_channels(dataset, &summary, observer);
        if strict && count > 0 {
            return Err(ReadyError::Channels { count });
        }
    }
    if summary.failed.is_empty() {
        return Ok(true);
    }
    Err(ReadyError::Cases { cases: summary.failed.into_iter().map(|(case, _)| case).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_formats::nifti::{write_labels, write_volume};
    use glioseg_volume::{Geometry, LabelMap, Volume};

    /// A fingerprint, and what was said on the way.
    fn made(folder: &Path, out: &Path, ignore: Option<IgnoreLabel>) -> (Result<f64, String>, String) {
        let said = Mutex::new(Vec::new());
        let observer = |event: ReadyEvent<'_>| {
            let word = match event {
                ReadyEvent::FingerprintKept { .. } => "kept".to_owned(),
                ReadyEvent::FingerprintStale { reason, .. } => {
                    format!("stale: {}", reason.replace(&folder.display().to_string(), "DIR"))
                }
                ReadyEvent::Fingerprinted { .. } => "made".to_owned(),
                _ => return,
            };
            said.lock().expect("one thread").push(word);
        };
        let dataset = RawDataset::open(folder).expect("a dataset");
        let options = FingerprintOptions { overwrite: false, ignore };
        let result = fingerprint(&dataset, out, options, &observer);
        let result = result.map(|(facts, _)| facts.foreground_intensities[0].max).map_err(|e| e.to_string());
        (result, said.into_inner().expect("one thread").join(", "))
    }

    #[test]
    fn a_fingerprint_is_made_again_when_its_data_change() {
        let (raw, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let path = |name: &str| raw.path().join(name);
        for name in ["imagesTr", "labelsTr"] {
            std::fs::create_dir(path(name)).expect("a folder");
        }
        let description = r#"{"channel_names": {"0": "t1"}, "labels": {"background": 0, "tumor": 1, "ignore": 2},
            "numTraining": 2, "file_ending": ".nii.gz"}"#;
        std::fs::write(path("dataset.json"), description).expect("written");
        let geometry = Geometry::isotropic([4, 5, 6]);
        let image = |case: &str, factor: f32| {
            let data = (0..120u8).map(|i| f32::from(i) * factor).collect();
            let image = Volume::new(1, data, geometry.clone()).expect("an image");
            write_volume(&path(&format!("imagesTr/{case}_0000.nii.gz")), &image).expect("written");
        };
        for case in ["a", "b"] {
            image(case, 1.0);
            let labels = (0..120).map(|i| if i < 50 { 1 } else { u16::from(i > 100) * 2 }).collect();
            let labels = LabelMap::new(labels, geometry.clone()).expect("labels");
            write_labels(&path(&format!("labelsTr/{case}.nii.gz")), &labels).expect("written");
        }
        let run = |ignore| {
            let (max, said) = made(raw.path(), out.path(), ignore);
            (max.expect("a fingerprint").round() as u32, said)
        };
        // The ignore label does not count, but in nnU-Net.
        assert_eq!(run(None), (49, "made".to_owned()));
        assert_eq!(run(None), (49, "kept".to_owned()));
        let other = "stale: the ignore label was counted in another way, made";
        assert_eq!(run(Some(IgnoreLabel::AsForeground)), (119, other.to_owned()));
        assert_eq!(run(None), (119, "kept".to_owned()));
        assert_eq!(run(Some(IgnoreLabel::LeftOut)), (49, other.to_owned()));
        // Another time alone is not a change.
        let file = path("imagesTr/b_0000.nii.gz");
        let bytes = std::fs::read(&file).expect("an image");
        std::fs::write(&file, bytes).expect("written");
        assert_eq!(run(None), (49, "kept".to_owned()));
        image("b", 2.0);
        let changed = "stale: DIR/imagesTr/b_0000.nii.gz has changed, made";
        assert_eq!(run(None), (98, changed.to_owned()));
        std::fs::remove_file(path("imagesTr/b_0000.nii.gz")).expect("there");
        assert_eq!(run(None), (49, "stale: case `b` is gone, made".to_owned()));

        // Without the list of files the headers tell: nnU-Net's own fingerprint is not overwritten.
        std::fs::remove_file(out.path().join(FingerprintSources::FILE)).expect("there");
        assert_eq!(run(None), (49, "kept".to_owned()));
        let small = Volume::new(1, vec![1.0; 60], Geometry::isotropic([3, 4, 5])).expect("an image");
        write_volume(&path("imagesTr/a_0000.nii.gz"), &small).expect("written");
        let (refused, _) = made(raw.path(), out.path(), None);
        let refused = refused.expect_err("another shape");
        assert!(
            refused.contains("for case `a`") && refused.ends_with("the images have changed"),
            "{refused}"
        );
    }
}
