//! What a training needs before it starts: fingerprint, plans and prepared cases. What is missing is made.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use glioseg_diagnose::{Diagnose, boxed_from};
use glioseg_plan::{Configuration, Fingerprint, PlanError, PlanOptions, Planned, Plans, RawDataset};
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

/// The fingerprint of a dataset and its file: read if it exists and is not to be overwritten, else made and written.
///
/// # Errors
/// [`ReadyError::Plan`] for cases that cannot be read, or a fingerprint of other data.
pub fn fingerprint(
    dataset: &RawDataset,
    folder: &Path,
    overwrite: bool,
    observer: Observer<'_>,
) -> Result<(Fingerprint, PathBuf), ReadyError> {
    let path = folder.join(Fingerprint::FILE);
    if path.exists() && !overwrite {
        let facts = Fingerprint::read(&path)?;
        facts.check(dataset, &path)?;
        observer(ReadyEvent::FingerprintKept { path: &path });
        return Ok((facts, path));
    }
    let (start, of, done) = (Instant::now(), dataset.cases.len(), AtomicUsize::new(0));
    let progress = |case: &str, oddities: &[String]| {
        let number = done.fetch_add(1, Ordering::Relaxed) + 1;
        observer(ReadyEvent::Read { case, number, of, oddities });
    };
    let facts = Fingerprint::extract(dataset, &progress)?;
    facts.write(&path)?;
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
    observer: Observer<'_>,
) -> Result<(Planned, PathBuf), ReadyError> {
    let (facts, _) = fingerprint(dataset, folder, false, observer)?;
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
        plans(dataset, folder, &options, observer)?;
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
