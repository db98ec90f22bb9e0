//! A folder of predictions against a folder of references.

pub(crate) mod case_scores;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::nifti::{read_labels, read_labels_noting};
use glioseg_plan::record::{CaseStatus as Written, Record};
use glioseg_volume::LabelMap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use case_scores::{CaseScores, CaseStatus};
pub(crate) use files::case_of;
pub use files::find_cases;

use crate::error::ReportError;
use crate::uncertainty::{UncertaintyScores, uncertainty_scores};
use glioseg_metrics::calibration::CalibrationScores;
use glioseg_metrics::labels::{LabelScheme, better_coding, recode};
use glioseg_metrics::pair::Pair;
use glioseg_metrics::rules::{Rule, ScoreOptions, brats2026};
use glioseg_metrics::statistics::{Bootstrap, Summary};
use glioseg_plan::{Convention, Evidence};

/// So many cases are looked at before anything is scored, to see whether their labels are what they are said to be.
const LOOKED_AT: usize = 6;

/// Where the meaning of the labels comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelSource {
    /// It is known.
    Known(Box<LabelScheme>),
    /// It is guessed from the references, which must be coded as one of the BraTS conventions.
    Guess,
}

/// How a cohort is scored. Labels are checked first, then predictions recoded, then every rule scores every case.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// The rules.
    pub rules: Vec<Rule>,
    /// What the labels mean.
    pub labels: LabelSource,
    /// Coding of the predictions, where it is not that of the references.
    pub prediction_convention: Option<Convention>,
    /// Skip the check whether labels are what they are said to be.
    pub trust_labels: bool,
    /// A pair about which something is odd (NaN in a label map, another origin) fails instead of being scored with a warning.
    pub strict: bool,
    /// Ending of the references' names to drop; see [`find_cases`].
    pub reference_suffix: Option<String>,
    /// The same for predictions.
    pub prediction_suffix: Option<String>,
    /// Choices within the metrics.
    pub score: ScoreOptions,
    /// Intervals of the means.
    pub bootstrap: Bootstrap,
    /// A Dice below this is a failure that uncertainty should foretell.
    pub failing_below: f64,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self {
            rules: Rule::ALL.to_vec(),
            labels: LabelSource::Guess,
            prediction_convention: None,
            trust_labels: false,
            strict: false,
            reference_suffix: None,
            prediction_suffix: None,
            score: ScoreOptions::default(),
            bootstrap: Bootstrap::default(),
            failing_below: 0.7,
        }
    }
}

/// A metric of a region under a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MetricName {
    /// Name of the rule.
    pub rule: String,
    /// Name of the region.
    pub region: String,
    /// Name of the metric.
    pub metric: String,
}

impl std::fmt::Display for MetricName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.rule, self.region, self.metric)
    }
}

/// A metric over all cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistic {
    /// Which.
    #[serde(flatten)]
    pub name: MetricName,
    /// Its distribution.
    #[serde(flatten)]
    pub summary: Summary,
}

/// All numbers of a cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CohortScores {
    /// Folder of the references.
    pub reference: PathBuf,
    /// Folder of the predictions.
    pub prediction: PathBuf,
    /// What the labels mean.
    pub labels: LabelScheme,
    /// Whether that was guessed.
    pub labels_guessed: bool,
    /// Coding of the predictions, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction_convention: Option<Convention>,
    /// The rules.
    pub rules: Vec<Rule>,
    /// Choices within the metrics.
    pub options: ScoreOptions,
    /// How intervals were found.
    pub bootstrap: Bootstrap,
    /// Every case of the references, by name.
    pub cases: Vec<CaseScores>,
    /// Predictions without a reference.
    pub extra: Vec<String>,
    /// Label maps that the prediction's `predict.json` does not list as done: left by an earlier prediction, not scored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stale: Vec<String>,
    /// Every metric over the cases.
    pub statistics: Vec<Statistic>,
    /// How well the predictions' own uncertainty tells the Dice, where they were made with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty: Option<UncertaintyScores>,
    /// How well calibrated the predictions' probabilities are, where they were saved and looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationScores>,
}

impl CohortScores {
    /// Names of the cases with a status.
    pub fn with_status(&self, status: CaseStatus) -> Vec<&str> {
        self.cases.iter().filter(|c| c.status == status).map(|c| c.case.as_str()).collect()
    }

    /// The distribution of a metric.
    pub fn statistic(&self, rule: Rule, region: &str, metric: &str) -> Option<&Summary> {
        let wanted =
            |s: &&Statistic| s.name.rule == rule.name() && s.name.region == region && s.name.metric == metric;
        self.statistics.iter().find(wanted).map(|s| &s.summary)
    }

    /// Every number of a case with its full name.
    pub fn numbers(case: &CaseScores) -> impl Iterator<Item = (MetricName, f64)> {
        case.scores.iter().flat_map(|rule| {
            rule.regions.iter().flat_map(move |region| {
                region.values.iter().map(move |(metric, value)| {
                    let name = MetricName {
                        rule: rule.rule.name().to_owned(),
                        region: region.region.clone(),
                        metric: metric.to_owned(),
                    };
                    (name, value)
                })
            })
        })
    }
}

/// The coding of label maps, told from a few of them; `None` where it is not clear.
pub fn guess_convention(files: &[&Path]) -> Option<Convention> {
    let mut evidence = Evidence::default();
    for map in files.iter().filter_map(|f| read_labels(f).ok()) {
        evidence.add(&map.data, map.shape());
    }
    evidence.guess()
}

/// A pair of files.
struct Job {
    case: String,
    reference: PathBuf,
    prediction: Option<PathBuf>,
}

/// Scores every case of `reference` with the predictions of the same name.
///
/// Where a `predict.json` lies next to the predictions, those that it lists as done count, and others are named: they are
/// of an earlier prediction. Cases without a prediction are named and count as their rule says; predictions without a reference are named and
/// left out; a case that cannot be scored is reported and does not stop the others. `observer` hears of every case as
/// it is finished, with the number finished so far and the number of all.
///
/// # Errors
/// What makes scoring pointless: an empty folder, no case in common, labels whose meaning cannot be told or that are
/// not what they are said to be (with a guess at what they are).
pub fn evaluate_cohort(
    reference: &Path,
    prediction: &Path,
    options: &EvaluateOptions,
    observer: &(dyn Fn(&CaseScores, usize, usize) + Sync),
) -> Result<CohortScores, ReportError> {
    let references = find_cases(reference, options.reference_suffix.as_deref())?;
    let mut predictions = find_cases(prediction, options.prediction_suffix.as_deref())?;
    // A file of that name by another program is not a reason to refuse a cohort.
    let predicted = Record::read(prediction).ok().flatten();
    let stale = match predicted.as_ref().filter(|_| options.prediction_suffix.is_none()) {
        Some(record) => unlisted(&mut predictions, record),
        None => Vec::new(),
    };
    if predictions.is_empty() {
        let what = "label map that its predict.json lists as done".to_owned();
        return Err(ReportError::NoCases { path: prediction.to_owned(), what });
    }
    let (jobs, extra) = join(reference, prediction, references, predictions)?;
    let needed = !options.trust_labels || options.labels == LabelSource::Guess;
    let look = if needed { Look::at(&jobs) } else { Look { seen: Vec::new() } };
    let (scheme, guessed) = match &options.labels {
        LabelSource::Known(scheme) => ((**scheme).clone(), false),
        LabelSource::Guess => (look.guess(reference)?, true),
    };
    let recoding = match (scheme.convention, options.prediction_convention) {
        (Some(to), Some(from)) => Some((from, to)),
        _ => None,
    };
    if !options.trust_labels {
        look.check(reference, prediction, &scheme, recoding)?;
    }
    drop(look);
    let done = AtomicUsize::new(0);
    let cases: Vec<CaseScores> = jobs
        .par_iter()
        .map(|job| {
            let case = score_case(job, &scheme, recoding, options);
            observer(&case, done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
            case
        })
        .collect();
    let statistics = statistics(&cases, options.bootstrap);
    let theirs =
        recoding.map_or_else(|| scheme.regions.clone(), |(from, _)| LabelScheme::brats(from).regions);
    let uncertainty = predicted.and_then(|p| uncertainty_scores(&cases, &p, &theirs, options.failing_below));
    Ok(CohortScores {
        reference: reference.to_owned(),
        prediction: prediction.to_owned(),
        labels: scheme,
        labels_guessed: guessed,
        prediction_convention: recoding.map(|(from, _)| from),
        rules: options.rules.clone(),
        options: options.score,
        bootstrap: options.bootstrap,
        cases,
        extra,
        stale,
        statistics,
        uncertainty,
        calibration: None,
    })
}

/// Takes out what a prediction into this folder did not write; the names of these cases.
fn unlisted(predictions: &mut BTreeMap<String, PathBuf>, record: &Record) -> Vec<String> {
    let done: BTreeSet<&str> =
        record.cases.iter().filter(|c| c.status == Written::Done).map(|c| c.case.as_str()).collect();
    let stale: Vec<String> = predictions
        .iter()
        .filter(|(case, path)| {
            !done.contains(case.as_str()) && !files::stem(path).is_some_and(|s| done.contains(s.as_str()))
        })
        .map(|(case, _)| case.clone())
        .collect();
    for case in &stale {
        predictions.remove(case);
    }
    stale
}

/// Pairs of files, and predictions that have no reference.
fn join(
    reference: &Path,
    prediction: &Path,
    references: BTreeMap<String, PathBuf>,
    mut predictions: BTreeMap<String, PathBuf>,
) -> Result<(Vec<Job>, Vec<String>), ReportError> {
    let first = |cases: &BTreeMap<String, PathBuf>| cases.keys().next().cloned().unwrap_or_default();
    let (reference_case, prediction_case) = (first(&references), first(&predictions));
    if reference.is_file() && prediction.is_file() {
        // Two files are a pair whatever their names.
        let file = predictions.remove(&prediction_case);
        predictions.extend(file.map(|file| (reference_case.clone(), file)));
    }
    let jobs: Vec<Job> = references
        .into_iter()
        .map(|(case, reference)| Job { prediction: predictions.remove(&case), case, reference })
        .collect();
    if jobs.iter().all(|job| job.prediction.is_none()) {
        return Err(ReportError::NoneMatch {
            reference: reference.to_owned(),
            prediction: prediction.to_owned(),
            reference_case,
            prediction_case,
        });
    }
    Ok((jobs, predictions.into_keys().collect()))
}

/// A first look at some cases.
struct Look {
    seen: Vec<Seen>,
}

struct Seen {
    reference: PathBuf,
    prediction: PathBuf,
    pair: Pair,
}

impl Look {
    /// Reads a few pairs, spread over the cohort; what cannot be read is left to be reported with its case.
    fn at(jobs: &[Job]) -> Self {
        let pairs: Vec<(&Job, &PathBuf)> =
            jobs.iter().filter_map(|job| job.prediction.as_ref().map(|p| (job, p))).collect();
        let step = pairs.len().div_ceil(LOOKED_AT).max(1);
        let seen = pairs
            .par_iter()
            .step_by(step)
            .filter_map(|(job, prediction)| {
                let (a, b) = (read_labels(&job.reference).ok()?, read_labels(prediction).ok()?);
                (a.shape() == b.shape()).then(|| Seen {
                    reference: job.reference.clone(),
                    prediction: (*prediction).clone(),
                    pair: Pair::new(&a, &b, None),
                })
            })
            .collect();
        Self { seen }
    }

    fn evidence(&self, predictions: bool) -> Evidence {
        let mut evidence = Evidence::default();
        for seen in &self.seen {
            let (data, shape) = if predictions { seen.pair.prediction() } else { seen.pair.reference() };
            evidence.add(data, shape);
        }
        evidence
    }

    fn guess(&self, reference: &Path) -> Result<LabelScheme, ReportError> {
        let evidence = self.evidence(false);
        match evidence.guess() {
            Some(convention) => Ok(LabelScheme::brats(convention)),
            None => Err(ReportError::UnclearLabels { path: reference.to_owned(), labels: evidence.labels }),
        }
    }

    /// Refuses a cohort whose labels are not what they are said to be.
    fn check(
        &self,
        reference: &Path,
        prediction: &Path,
        scheme: &LabelScheme,
        recoding: Option<(Convention, Convention)>,
    ) -> Result<(), ReportError> {
        let theirs = recoding.map_or_else(|| scheme.clone(), |(from, _)| LabelScheme::brats(from));
        self.check_labels(false, scheme)?;
        self.check_labels(true, &theirs)?;
        for (predictions, folder, scheme) in [(false, reference, scheme), (true, prediction, &theirs)] {
            let (Some(given), Some(guess)) = (scheme.convention, self.evidence(predictions).guess()) else {
                continue;
            };
            let (a, b) = (given.parts(), guess.parts());
            if (a.necrosis, a.oedema) != (b.necrosis, b.oedema) {
                return Err(ReportError::Convention {
                    what: if predictions { "predictions in" } else { "references in" },
                    path: folder.to_owned(),
                    given: given.describe().to_owned(),
                    guess: guess.describe().to_owned(),
                    reason: format!(
                        "label {} has by far the longer border with background, as oedema has",
                        b.oedema
                    ),
                });
            }
        }
        let (Some(own), Some(given)) = (scheme.convention, theirs.convention) else { return Ok(()) };
        let pairs = self.seen.iter().map(|s| &s.pair);
        if let Some((guess, as_given, as_guess)) = better_coding(pairs, own, given) {
            return Err(ReportError::Convention {
                what: "predictions in",
                path: prediction.to_owned(),
                given: given.describe().to_owned(),
                guess: guess.describe().to_owned(),
                reason: format!(
                    "{as_guess} voxels of labels 1 and 2 would agree with the references, as it is {as_given} do"
                ),
            });
        }
        Ok(())
    }

    /// Refuses where every file that has labels has strange ones; a single such file is left to fail as a case.
    fn check_labels(&self, predictions: bool, scheme: &LabelScheme) -> Result<(), ReportError> {
        let mut strange = None;
        for seen in &self.seen {
            let labels: BTreeSet<u16> =
                seen.pair.table().map(|(r, p, _)| if predictions { p } else { r }).collect();
            if labels.iter().all(|&v| v == 0) {
                continue;
            }
            let path = if predictions { &seen.prediction } else { &seen.reference };
            match scheme.check(&labels.into_iter().collect::<Vec<_>>(), path) {
                Ok(()) => return Ok(()),
                Err(error) => strange = strange.or(Some(error)),
            }
        }
        strange.map_or(Ok(()), |error| Err(error.into()))
    }
}

fn score_case(
    job: &Job,
    scheme: &LabelScheme,
    recoding: Option<(Convention, Convention)>,
    options: &EvaluateOptions,
) -> CaseScores {
    let mut case = CaseScores {
        case: job.case.clone(),
        status: CaseStatus::Missing,
        reference: job.reference.clone(),
        prediction: job.prediction.clone(),
        error: None,
        hint: None,
        warnings: Vec::new(),
        scores: Vec::new(),
    };
    let Some(prediction) = &job.prediction else {
        case.scores = options.rules.iter().filter_map(|rule| rule.missing(scheme)).collect();
        return case;
    };
    match load(&job.reference, prediction, scheme, recoding, options.trust_labels) {
        Ok((_, warnings)) if options.strict && !warnings.is_empty() => {
            case.status = CaseStatus::Failed;
            case.error = Some(warnings.join("; "));
            case.hint = Some("correct the files; without --strict this is a warning".to_owned());
        }
        Ok((pair, warnings)) => {
            case.status = CaseStatus::Scored;
            case.warnings = warnings;
            case.scores =
                options.rules.par_iter().map(|rule| rule.score(&pair, scheme, &options.score)).collect();
        }
        Err(error) => {
            case.status = CaseStatus::Failed;
            case.error = Some(error.to_string());
            case.hint = error.hint();
        }
    }
    case
}

/// Reads and joins a pair; the second value tells what is odd, though nothing stands in the way.
fn load(
    reference: &Path,
    prediction: &Path,
    scheme: &LabelScheme,
    recoding: Option<(Convention, Convention)>,
    trust: bool,
) -> Result<(Pair, Vec<String>), ReportError> {
    let (mut warnings, mut more) = (Vec::new(), Vec::new());
    let (a, b) = rayon::join(
        || read_labels_noting(reference, &mut warnings),
        || read_labels_noting(prediction, &mut more),
    );
    let (a, mut b): (LabelMap, LabelMap) = (a?, b?);
    warnings.append(&mut more);
    let grids = a.geometry.same_grid(&b.geometry);
    if !grids.same_lattice() {
        return Err(ReportError::Grid {
            reference: reference.to_owned(),
            reference_grid: Box::new(a.geometry),
            prediction: prediction.to_owned(),
            prediction_grid: Box::new(b.geometry),
        });
    }
    if !grids.same_position() {
        let what = match (grids.origin, grids.direction) {
            (false, true) => "origin",
            (true, false) => "direction",
            _ => "origin and direction",
        };
        warnings.push(format!(
            "prediction and reference differ in {what}; voxels are compared by index (BraTS 2026's own program refuses \
             such a pair)"
        ));
    }
    if !trust {
        let theirs = recoding.map(|(from, _)| LabelScheme::brats(from));
        scheme.check(&a.counts().into_keys().collect::<Vec<_>>(), reference)?;
        theirs.as_ref().unwrap_or(scheme).check(&b.counts().into_keys().collect::<Vec<_>>(), prediction)?;
    }
    if let Some((from, to)) = recoding {
        recode(&mut b.data, from, to);
    }
    Ok((Pair::new(&a, &b, scheme.ignore), warnings))
}

/// The distribution of every metric, in the order of the first case that has it.
fn statistics(cases: &[CaseScores], bootstrap: Bootstrap) -> Vec<Statistic> {
    let mut columns: indexmap::IndexMap<MetricName, Vec<f64>> = indexmap::IndexMap::new();
    for case in cases.iter().filter(|c| c.status == CaseStatus::Scored) {
        for (name, _) in CohortScores::numbers(case) {
            columns.entry(name).or_default();
        }
    }
    for case in cases {
        for (name, value) in CohortScores::numbers(case) {
            let value = brats2026::tabled(&name.rule, &name.metric, value);
            if let Some(column) = columns.get_mut(&name) {
                column.push(value);
            }
        }
    }
    let columns: Vec<(MetricName, Vec<f64>)> = columns.into_iter().collect();
    columns
        .into_par_iter()
        .map(|(name, column)| Statistic { name, summary: Summary::of(&column, bootstrap) })
        .collect()
}
