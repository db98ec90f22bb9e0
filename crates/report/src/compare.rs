//! Two runs, case by case: where the second lost most comes first.

use serde::{Deserialize, Serialize};

use crate::cohort::MetricName;
use crate::error::ReportError;
use crate::run::{Run, common_metrics};
use glioseg_metrics::number::{Number, float};
use glioseg_metrics::rules::Rule;
use glioseg_metrics::significance::wilcoxon;
use glioseg_metrics::statistics::mean;

/// A case in both runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedCase {
    /// Its name.
    pub case: String,
    /// Values of the first run, in the order of [`Comparison::metrics`].
    pub first: Vec<Number>,
    /// Values of the second.
    pub second: Vec<Number>,
    /// Mean gain of the second over the metrics of the kind that cases are sorted by; negative is worse.
    #[serde(with = "float")]
    pub gain: f64,
}

/// A metric over the cases of both runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedMetric {
    /// Which.
    pub name: MetricName,
    /// Mean of the first run.
    #[serde(with = "float")]
    pub first: f64,
    /// Mean of the second.
    #[serde(with = "float")]
    pub second: f64,
    /// Cases in which the second is better.
    pub better: usize,
    /// Cases in which the second is worse.
    pub worse: usize,
    /// p of Wilcoxon's signed-rank test.
    pub p: f64,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The first run.
    pub first: String,
    /// The second.
    pub second: String,
    /// The rule.
    pub rule: Rule,
    /// The metric whose gain sorts the cases, averaged over regions.
    pub sorted_by: String,
    /// What was compared.
    pub metrics: Vec<ComparedMetric>,
    /// Cases, the greatest loss of the second first.
    pub cases: Vec<ComparedCase>,
    /// Cases that only the first has.
    pub only_first: Vec<String>,
    /// Cases that only the second has.
    pub only_second: Vec<String>,
}

/// Compares `second` with `first` by the metrics of `rule` (else of the first rule that both have).
///
/// # Errors
/// [`ReportError::NothingInCommon`] if they share no metric or no case.
pub fn compare(
    first: &Run,
    second: &Run,
    rule: Option<Rule>,
    metrics: &[String],
) -> Result<Comparison, ReportError> {
    let runs = [first.clone(), second.clone()];
    let (rule, rows, names) = common_metrics(&runs, rule, metrics)?;
    let shared: Vec<&String> = first.cases.keys().filter(|c| second.cases.contains_key(*c)).collect();
    if shared.is_empty() {
        let names = runs.iter().map(|r| r.name.clone()).collect();
        return Err(ReportError::NothingInCommon { names, what: "case".to_owned() });
    }
    let sorted_by = names[0].metric.clone();
    let gain_of = |i: usize, a: f64, b: f64| {
        let gain = rows[i].gain(a, b);
        if gain.is_nan() { 0.0 } else { gain }
    };
    let values = |run: &Run, case: &str| -> Vec<f64> {
        names.iter().zip(&rows).map(|(n, row)| run.value(case, row, n).unwrap_or(f64::NAN)).collect()
    };
    let mut cases: Vec<ComparedCase> = shared
        .iter()
        .map(|case| {
            let (a, b) = (values(first, case), values(second, case));
            let gains: Vec<f64> = (0..names.len())
                .filter(|&i| names[i].metric == sorted_by)
                .map(|i| gain_of(i, a[i], b[i]))
                .collect();
            let numbers = |v: Vec<f64>| v.into_iter().map(Number).collect();
            ComparedCase { case: (*case).clone(), gain: mean(&gains), first: numbers(a), second: numbers(b) }
        })
        .collect();
    cases.sort_by(|a, b| a.gain.total_cmp(&b.gain).then_with(|| a.case.cmp(&b.case)));
    let metrics = names
        .into_iter()
        .enumerate()
        .map(|(i, name)| {
            let column = |of: fn(&ComparedCase) -> &Vec<Number>| -> Vec<f64> {
                cases.iter().map(|c| of(c)[i].0).filter(|v| !v.is_nan()).collect()
            };
            let gains: Vec<f64> = cases.iter().map(|c| gain_of(i, c.first[i].0, c.second[i].0)).collect();
            ComparedMetric {
                first: mean(&column(|c| &c.first)),
                second: mean(&column(|c| &c.second)),
                better: gains.iter().filter(|g| **g > 0.0).count(),
                worse: gains.iter().filter(|g| **g < 0.0).count(),
                p: wilcoxon(&gains),
                name,
            }
        })
        .collect();
    let only = |a: &Run, b: &Run| a.cases.keys().filter(|c| !b.cases.contains_key(*c)).cloned().collect();
    Ok(Comparison {
        first: first.name.clone(),
        second: second.name.clone(),
        rule,
        sorted_by,
        metrics,
        cases,
        only_first: only(first, second),
        only_second: only(second, first),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, cases: &[(&str, f64)]) -> Run {
        let metric =
            MetricName { rule: "nnunet".to_owned(), region: "(3,)".to_owned(), metric: "Dice".to_owned() };
        let cases =
            cases.iter().map(|(c, v)| ((*c).to_owned(), [(metric.clone(), *v)].into_iter().collect()));
        Run { name: name.to_owned(), cases: cases.collect() }
    }

    #[test]
    fn the_greatest_loss_comes_first() {
        let a = run("a", &[("1", 0.9), ("2", 0.5), ("3", f64::NAN), ("4", 0.5)]);
        let b = run("b", &[("1", 0.8), ("2", 0.7), ("3", 0.0), ("5", 0.5)]);
        let found = compare(&a, &b, None, &[]).expect("common cases");
        let order: Vec<(&str, f64)> = found.cases.iter().map(|c| (c.case.as_str(), c.gain)).collect();
        // Without a reference a NaN of nnU-Net is right, and a Dice of 0 wrong.
        assert_eq!(order[0], ("3", -1.0));
        assert_eq!((order[1].0, order[2].0), ("1", "2"));
        assert_eq!((found.metrics[0].better, found.metrics[0].worse), (1, 2));
        assert_eq!((found.only_first, found.only_second), (vec!["4".to_owned()], vec!["5".to_owned()]));
    }
}
