//! The scores of a run, read from what `evaluate` or nnU-Net wrote, for ranking and comparing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::cohort::{CaseStatus, CohortScores, MetricName, case_of};
use crate::error::ReportError;
use glioseg_metrics::Metric;
use glioseg_metrics::rules::Rule;
use glioseg_metrics::summary::NnUnetSummary;

/// A model's scores on a cohort.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// A name that tells it from the others.
    pub name: String,
    /// Cases by name, and their numbers.
    pub cases: BTreeMap<String, BTreeMap<MetricName, f64>>,
}

impl Run {
    /// Reads a folder that `glioseg evaluate` wrote, its `scores.json`, or a `summary.json` of nnU-Net (or a folder with
    /// one). The name is that of the folder.
    ///
    /// # Errors
    /// [`ReportError::Scores`] if there is nothing of the kind, and what reading says.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let file = if path.is_dir() {
            let candidates = ["scores.json", "summary.json"].map(|name| path.join(name));
            candidates.into_iter().find(|p| p.is_file()).ok_or_else(|| ReportError::Scores {
                path: path.to_owned(),
                reason: "neither scores.json nor summary.json is there".to_owned(),
            })?
        } else {
            path.to_owned()
        };
        let folder = std::path::absolute(&file).ok().and_then(|p| p.parent().map(Path::to_owned));
        let name = folder
            .as_deref()
            .and_then(Path::file_name)
            .map_or_else(|| file.display().to_string(), |name| name.to_string_lossy().into_owned());
        let root = glioseg_plan::read_json(&file)?;
        let cases = if root.get("metric_per_case").is_some() {
            of_summary(&NnUnetSummary::read(&file)?)
        } else {
            of_cohort(&CohortScores::read_json(&file)?)
        };
        if cases.is_empty() {
            return Err(ReportError::Scores { path: file, reason: "it has no scored case".to_owned() });
        }
        Ok(Self { name, cases })
    }

    /// The scores of a cohort as a run.
    pub fn of_cohort(name: &str, scores: &CohortScores) -> Self {
        Self { name: name.to_owned(), cases: of_cohort(scores) }
    }

    /// Reads several, with names that differ: a folder above is added where two are alike.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_all<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<Self>, ReportError> {
        let mut runs = paths.iter().map(|p| Self::read(p.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = runs.iter().map(|r| r.name.clone()).collect();
        for (i, run) in runs.iter_mut().enumerate() {
            if names.iter().filter(|n| **n == run.name).count() > 1 {
                let path = paths[i].as_ref();
                run.name = path.display().to_string();
                if names.contains(&run.name) || paths.iter().filter(|p| p.as_ref() == path).count() > 1 {
                    run.name = format!("{} ({})", run.name, i + 1);
                }
            }
        }
        Ok(runs)
    }

    /// The names of all its numbers.
    pub fn metrics(&self) -> BTreeSet<&MetricName> {
        self.cases.values().flat_map(BTreeMap::keys).collect()
    }

    /// A number, as a ranking takes it; `None` where the run lacks it.
    pub(crate) fn value(&self, case: &str, metric: &Metric, name: &MetricName) -> Option<f64> {
        Some(metric.ranking_value(*self.cases.get(case)?.get(name)?))
    }
}

fn of_cohort(scores: &CohortScores) -> BTreeMap<String, BTreeMap<MetricName, f64>> {
    scores
        .cases
        .iter()
        .filter(|c| c.status != CaseStatus::Failed)
        .map(|c| (c.case.clone(), CohortScores::numbers(c).collect()))
        .collect()
}

fn of_summary(summary: &NnUnetSummary) -> BTreeMap<String, BTreeMap<MetricName, f64>> {
    let case = |case: &glioseg_metrics::summary::NnUnetCase| {
        // Paths of another system have other separators.
        let file = case.reference_file.rsplit(['/', '\\']).next().unwrap_or_default();
        let name = case_of(Path::new(file)).unwrap_or_else(|| file.to_owned());
        let numbers = case.metrics.iter().flat_map(|(class, values)| {
            values.iter().map(|(metric, value)| {
                let name = MetricName {
                    rule: Rule::NnUnet.name().to_owned(),
                    region: class.clone(),
                    metric: metric.to_owned(),
                };
                (name, value)
            })
        });
        (name, numbers.collect())
    };
    summary.cases.iter().map(case).collect()
}

/// The metrics by which runs are ranked or compared, with their names in every region: those of `rule` that every run has,
/// in the rule's order; without a rule, those of the first rule that all runs have.
pub(crate) fn common_metrics(
    runs: &[Run],
    rule: Option<Rule>,
    metrics: &[String],
) -> Result<(Rule, Vec<&'static Metric>, Vec<MetricName>), ReportError> {
    let candidates: Vec<Rule> = rule.map_or_else(|| Rule::preferred().collect(), |rule| vec![rule]);
    for rule in candidates {
        let wanted: Vec<&'static Metric> = if metrics.is_empty() {
            rule.ranked().collect()
        } else {
            metrics.iter().filter_map(|m| rule.metric(m)).filter(|m| m.has_direction()).collect()
        };
        let place = |name: &MetricName| wanted.iter().position(|m| m.key == name.metric);
        let in_all =
            |name: &MetricName| runs.iter().all(|run| run.cases.values().any(|case| case.contains_key(name)));
        let mut found: Vec<(usize, MetricName)> = runs
            .first()
            .into_iter()
            .flat_map(Run::metrics)
            .filter(|name| name.rule == rule.name() && in_all(name))
            .filter_map(|name| Some((place(name)?, name.clone())))
            .collect();
        if !found.is_empty() {
            found.sort_by_key(|(place, name)| (region_order(&name.region), *place));
            let (rows, names) = found.into_iter().map(|(place, name)| (wanted[place], name)).unzip();
            return Ok((rule, rows, names));
        }
    }
    let what = match (rule, metrics.is_empty()) {
        (Some(rule), true) => format!("scores of the rule {}", rule.name()),
        (_, false) => format!("metric named {}", metrics.join(" or ")),
        (None, true) => "rule".to_owned(),
    };
    Err(ReportError::NothingInCommon { names: runs.iter().map(|r| r.name.clone()).collect(), what })
}

/// BraTS regions in their usual order, others by name.
fn region_order(region: &str) -> (usize, String) {
    let at = ["wt", "tc", "et"].iter().position(|r| region.eq_ignore_ascii_case(r));
    (at.unwrap_or(3), region.to_owned())
}
