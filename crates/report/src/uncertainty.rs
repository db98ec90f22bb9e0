//! How well a prediction's own uncertainty tells where it fails.

use std::collections::BTreeMap;

use glioseg_plan::record::{CaseUncertainty, Record};
use serde::{Deserialize, Serialize};

use crate::cohort::case_scores::{CaseScores, CaseStatus};
use glioseg_metrics::labels::Region;
use glioseg_metrics::number::float;
use glioseg_metrics::rules::Rule;
use glioseg_metrics::statistics::{Ties, mean, ranks, spearman};

/// Uncertainty against Dice over a cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UncertaintyScores {
    /// The rule whose Dice it is.
    pub rule: Rule,
    /// A Dice below this is a failure.
    pub failing_below: f64,
    /// Every region, then the mean of all (`mean`).
    pub regions: Vec<RegionPrediction>,
}

/// How well uncertainty predicts the Dice of a region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionPrediction {
    /// The region.
    pub region: String,
    /// Cases with both numbers.
    pub n: usize,
    /// Spearman's correlation of uncertainty and Dice; -1 would be perfect.
    #[serde(with = "float")]
    pub spearman: f64,
    /// Cases that failed.
    pub failing: usize,
    /// Chance that a failed case is more uncertain than another (area under the ROC curve); NaN where none or all failed.
    #[serde(with = "float")]
    pub auc: f64,
}

/// Compares the uncertainty in a prediction's record with the Dice of its cases. `None` if the record has no uncertainty
/// or no rule with a Dice was scored.
///
/// `regions` are the regions of the record in the predictions' own coding, in the order of the rule's. A region is
/// compared with the uncertainty of the same labels; where the model has no such region, with that of the case.
pub(crate) fn uncertainty_scores(
    cases: &[CaseScores],
    predicted: &Record,
    regions: &[Region],
    failing_below: f64,
) -> Option<UncertaintyScores> {
    let of_case: BTreeMap<&str, &CaseUncertainty> =
        predicted.cases.iter().filter_map(|c| Some((c.case.as_str(), c.uncertainty.as_ref()?))).collect();
    let scored = || cases.iter().filter(|c| c.status == CaseStatus::Scored);
    let has_dice = |rule: &Rule| {
        let mut all = scored().flat_map(|c| &c.scores).filter(|s| s.rule == *rule).flat_map(|s| &s.regions);
        all.any(|r| r.values.get("Dice").is_some())
    };
    let rule = [Rule::Brats2021, Rule::NnUnet].into_iter().find(has_dice)?;
    let names: Vec<String> = scored()
        .flat_map(|c| &c.scores)
        .find(|s| s.rule == rule)
        .map(|s| s.regions.iter().map(|r| r.region.clone()).collect())?;
    let mut tables: Vec<Vec<(f64, f64)>> = vec![Vec::new(); names.len() + 1];
    for case in scored() {
        let (Some(own), Some(found)) =
            (case.scores.iter().find(|s| s.rule == rule), of_case.get(case.case.as_str()))
        else {
            continue;
        };
        let dice: Vec<f64> = own.regions.iter().map(|r| r.values.get("Dice").unwrap_or(f64::NAN)).collect();
        for (i, &dice) in dice.iter().enumerate() {
            let labels = regions.get(i).map(|r| r.labels.as_slice());
            let region = found.regions.iter().find(|r| labels.is_some_and(|l| same(l, &r.labels)));
            tables[i].push((region.map_or(found.score, |r| r.score), dice));
        }
        let known: Vec<f64> = dice.into_iter().filter(|d| !d.is_nan()).collect();
        tables[names.len()].push((found.score, mean(&known)));
    }
    if tables.iter().all(Vec::is_empty) {
        return None;
    }
    let regions = names.into_iter().chain(["mean".to_owned()]).zip(tables);
    Some(UncertaintyScores {
        rule,
        failing_below,
        regions: regions.map(|(region, table)| compared(region, table, failing_below)).collect(),
    })
}

fn same(a: &[u16], b: &[u16]) -> bool {
    let sorted = |v: &[u16]| {
        let mut v = v.to_vec();
        v.sort_unstable();
        v
    };
    sorted(a) == sorted(b)
}

fn compared(region: String, mut table: Vec<(f64, f64)>, failing_below: f64) -> RegionPrediction {
    table.retain(|(u, d)| !u.is_nan() && !d.is_nan());
    let (uncertainty, dice): (Vec<f64>, Vec<f64>) = table.iter().copied().unzip();
    let failed: Vec<bool> = dice.iter().map(|&d| d < failing_below).collect();
    RegionPrediction {
        region,
        n: table.len(),
        spearman: if table.len() > 1 { spearman(&uncertainty, &dice) } else { f64::NAN },
        failing: failed.iter().filter(|&&f| f).count(),
        auc: auc(&uncertainty, &failed),
    }
}

/// Chance that a value of a marked case is above that of another, ties by half.
///
/// # Source
/// Mann and Whitney's U over the number of pairs, which is scikit-learn's `roc_auc_score`.
fn auc(values: &[f64], marked: &[bool]) -> f64 {
    let hits = marked.iter().filter(|&&m| m).count();
    let others = marked.len() - hits;
    let sum: f64 = ranks(values, Ties::Average).iter().zip(marked).filter(|(_, m)| **m).map(|(r, _)| r).sum();
    let (hits, others) = (hits as f64, others as f64);
    (sum - hits * (hits + 1.0) / 2.0) / (hits * others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_under_the_curve_is_that_of_scikit_learn() {
        // roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) = 0.75
        assert!((auc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]) - 0.75).abs() < 1e-12);
        assert!((auc(&[0.5, 0.5], &[false, true]) - 0.5).abs() < 1e-12);
        assert!(auc(&[0.5, 0.4], &[false, false]).is_nan());
    }

    #[test]
    fn uncertain_cases_that_fail_are_found() {
        let table = vec![(0.9, 0.1), (0.8, 0.3), (0.2, 0.9), (0.1, 0.95), (0.3, f64::NAN)];
        let found = compared("WT".to_owned(), table, 0.7);
        assert_eq!((found.n, found.failing), (4, 2));
        assert!((found.spearman + 1.0).abs() < 1e-12 && (found.auc - 1.0).abs() < 1e-12, "{found:?}");
    }
}
