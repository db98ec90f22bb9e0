//! Ranking of runs: rank then aggregate, and whether the differences are more than chance.

use std::collections::BTreeSet;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cohort::MetricName;
use crate::error::ReportError;
use crate::run::{Run, common_metrics};
use glioseg_metrics::number::{Number, float};
use glioseg_metrics::rules::Rule;
use glioseg_metrics::significance::{holm, permutation, wilcoxon};
use glioseg_metrics::statistics::{Ties, mean, ranks};
use glioseg_metrics::{Better, Metric};

/// How runs are ranked.
#[derive(Debug, Clone)]
pub struct RankOptions {
    /// The rule whose metrics count; else the first that all runs have.
    pub rule: Option<Rule>,
    /// Metrics to rank by; else the rule's own.
    pub metrics: Vec<String>,
    /// Random permutations of the permutation test.
    pub permutations: usize,
    /// The same seed gives the same p values.
    pub seed: u64,
}

impl Default for RankOptions {
    fn default() -> Self {
        Self { rule: None, metrics: Vec::new(), permutations: 10_000, seed: 0 }
    }
}

/// A run's place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// The run.
    pub run: String,
    /// Its place, 1 the best; runs with equal mean ranks share it.
    pub place: usize,
    /// Mean rank over cases, regions and metrics; equal values share the mean of their ranks (BraTS).
    pub mean_rank: f64,
    /// Its place as the BraTS 2021 winner's repository computes it: equal values share the best rank.
    pub winner_place: usize,
    /// Mean rank of that.
    pub winner_mean_rank: f64,
    /// Mean rank per metric, in the order of [`Ranking::metrics`].
    pub metric_ranks: Vec<f64>,
    /// Mean value per metric.
    pub metric_means: Vec<Number>,
    /// Cases for which the run has no scores; they rank last.
    pub missing: Vec<String>,
}

/// A comparison of two runs by one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairTest {
    /// The metric.
    pub metric: MetricName,
    /// A run.
    pub first: String,
    /// Another.
    pub second: String,
    /// Mean difference, first minus second.
    #[serde(with = "float")]
    pub mean_difference: f64,
    /// p of Wilcoxon's signed-rank test.
    pub p: f64,
    /// The same, corrected after Holm for all pairs of runs.
    pub p_holm: f64,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// The rule.
    pub rule: Rule,
    /// What was ranked.
    pub metrics: Vec<MetricName>,
    /// The cases.
    pub cases: Vec<String>,
    /// Runs, best first.
    pub places: Vec<Ranked>,
    /// p of the permutation test on the cases' mean ranks, for every pair of [`Ranking::places`]; 1 on the diagonal.
    pub permutation_p: Vec<Vec<f64>>,
    /// The same, corrected after Holm for all pairs.
    pub permutation_p_holm: Vec<Vec<f64>>,
    /// Every pair of runs and metric.
    pub wilcoxon: Vec<PairTest>,
}

/// Ranks runs on the cases that any of them has.
///
/// For every case and metric the runs are ranked; ranks are averaged over cases, then over metrics. A run without
/// scores for a case, or for a metric of it, comes last there.
///
/// # Errors
/// [`ReportError::NothingInCommon`] if the runs share no metric or no case.
///
/// # Source
/// BraTS 2017 to 2023 (cumulative ranks and permutation test); the winner's `Task500_BraTS_2021.py`,
/// `rank_then_aggregate`.
pub fn rank(runs: &[Run], options: &RankOptions) -> Result<Ranking, ReportError> {
    let (rule, rows, metrics) = common_metrics(runs, options.rule, &options.metrics)?;
    let shared = runs.iter().map(|r| r.cases.keys().collect::<BTreeSet<_>>()).reduce(|a, b| &a & &b);
    if shared.is_none_or(|s| s.is_empty()) {
        let names = runs.iter().map(|r| r.name.clone()).collect();
        return Err(ReportError::NothingInCommon { names, what: "case".to_owned() });
    }
    let cases: Vec<&String> =
        runs.iter().flat_map(|r| r.cases.keys()).collect::<BTreeSet<_>>().into_iter().collect();
    // Worse is larger: what ranks sort by.
    let badness = |run: &Run, case: &str, i: usize| match run.value(case, rows[i], &metrics[i]) {
        None => f64::INFINITY,
        Some(value) if rows[i].better == Better::More => -value,
        Some(value) => value,
    };
    // [metric][case][run]
    let table: Vec<Vec<Vec<f64>>> = (0..metrics.len())
        .map(|i| cases.iter().map(|case| runs.iter().map(|run| badness(run, case, i)).collect()).collect())
        .collect();
    let ranked = |ties| -> Vec<Vec<Vec<f64>>> {
        table.iter().map(|cases| cases.iter().map(|row| ranks(row, ties)).collect()).collect()
    };
    let (average, least) = (ranked(Ties::Average), ranked(Ties::Min));
    let over_cases = |of: &[Vec<f64>], run: usize| mean(&of.iter().map(|row| row[run]).collect::<Vec<_>>());
    let over_all = |of: &[Vec<Vec<f64>>], run: usize| {
        mean(&of.iter().map(|cases| over_cases(cases, run)).collect::<Vec<_>>())
    };
    let means: Vec<f64> = (0..runs.len()).map(|i| over_all(&average, i)).collect();
    let winner_means: Vec<f64> = (0..runs.len()).map(|i| over_all(&least, i)).collect();
    let (placed, winner_placed) = (places_of(&means), places_of(&winner_means));
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by(|&a, &b| means[a].total_cmp(&means[b]).then(a.cmp(&b)));
    let places: Vec<Ranked> = order
        .iter()
        .map(|&i| Ranked {
            run: runs[i].name.clone(),
            place: placed[i],
            mean_rank: means[i],
            winner_place: winner_placed[i],
            winner_mean_rank: winner_means[i],
            metric_ranks: average.iter().map(|cases| over_cases(cases, i)).collect(),
            metric_means: metrics
                .iter()
                .zip(&rows)
                .map(|(name, row)| {
                    let column: Vec<f64> =
                        cases.iter().filter_map(|case| runs[i].value(case, row, name)).collect();
                    Number(mean(&column))
                })
                .collect(),
            missing: cases
                .iter()
                .filter(|c| !runs[i].cases.contains_key(**c))
                .map(|c| (*c).clone())
                .collect(),
        })
        .collect();
    // A case's mean rank over metrics, which the permutation test exchanges between two runs.
    let case_rank = |case: usize, run: usize| mean(&average.iter().map(|m| m[case][run]).collect::<Vec<_>>());
    let pairs: Vec<(usize, usize)> =
        (0..order.len()).flat_map(|a| (a + 1..order.len()).map(move |b| (a, b))).collect();
    let p: Vec<f64> = pairs
        .par_iter()
        .map(|&(a, b)| {
            let differences: Vec<f64> =
                (0..cases.len()).map(|case| case_rank(case, order[a]) - case_rank(case, order[b])).collect();
            permutation(&differences, options.permutations, options.seed)
        })
        .collect();
    let ordered: Vec<&Run> = order.iter().map(|&i| &runs[i]).collect();
    let wilcoxon = wilcoxon_pairs(&ordered, &pairs, &cases, &rows, &metrics);
    Ok(Ranking {
        rule,
        permutation_p: matrix(&pairs, &p, runs.len()),
        permutation_p_holm: matrix(&pairs, &holm(&p), runs.len()),
        wilcoxon,
        places,
        cases: cases.into_iter().cloned().collect(),
        metrics,
    })
}

/// Places of mean ranks; equal ones (but for rounding) share the best.
fn places_of(means: &[f64]) -> Vec<usize> {
    let rounded: Vec<f64> = means.iter().map(|m| (m * 1e9).round()).collect();
    ranks(&rounded, Ties::Min).into_iter().map(|r| r as usize).collect()
}

fn matrix(pairs: &[(usize, usize)], values: &[f64], size: usize) -> Vec<Vec<f64>> {
    let mut out = vec![vec![1.0; size]; size];
    for (&(a, b), &value) in pairs.iter().zip(values) {
        out[a][b] = value;
        out[b][a] = value;
    }
    out
}

/// Tests of every pair and metric, on the cases that both have.
fn wilcoxon_pairs(
    runs: &[&Run],
    pairs: &[(usize, usize)],
    cases: &[&String],
    rows: &[&Metric],
    metrics: &[MetricName],
) -> Vec<PairTest> {
    let mut tests = Vec::with_capacity(pairs.len() * metrics.len());
    for (name, row) in metrics.iter().zip(rows) {
        let found: Vec<(f64, f64)> = pairs
            .iter()
            .map(|&(a, b)| {
                let differences: Vec<f64> = cases
                    .iter()
                    .filter_map(|case| {
                        Some(runs[a].value(case, row, name)? - runs[b].value(case, row, name)?)
                    })
                    // Two infinite distances are equal.
                    .map(|d| if d.is_nan() { 0.0 } else { d })
                    .collect();
                (mean(&differences), wilcoxon(&differences))
            })
            .collect();
        let corrected = holm(&found.iter().map(|f| f.1).collect::<Vec<_>>());
        for ((&(a, b), (mean_difference, p)), p_holm) in pairs.iter().zip(found).zip(corrected) {
            tests.push(PairTest {
                metric: name.clone(),
                first: runs[a].name.clone(),
                second: runs[b].name.clone(),
                mean_difference,
                p,
                p_holm,
            });
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, cases: &[(&str, f64, f64)]) -> Run {
        let metric = |metric: &str| MetricName {
            rule: "brats2021".to_owned(),
            region: "WT".to_owned(),
            metric: metric.to_owned(),
        };
        let case = |&(case, dice, hd95): &(&str, f64, f64)| {
            (case.to_owned(), [(metric("Dice"), dice), (metric("HD95"), hd95)].into_iter().collect())
        };
        Run { name: name.to_owned(), cases: cases.iter().map(case).collect() }
    }

    #[test]
    fn ranks_are_averaged_over_cases_and_metrics() {
        // Dice ranks: a 1, 1; b 2, 2; c 3, 3. HD95 ranks: a 2, 1.5; b 1, 1.5; c 3, 3.
        let runs = [
            run("c", &[("1", 0.5, 9.0), ("2", 0.1, 9.0)]),
            run("a", &[("1", 0.9, 4.0), ("2", 0.8, 2.0)]),
            run("b", &[("1", 0.8, 3.0), ("2", 0.7, 2.0)]),
        ];
        let found = rank(&runs, &RankOptions::default()).expect("a ranking");
        let names: Vec<(&str, usize, f64)> =
            found.places.iter().map(|p| (p.run.as_str(), p.place, p.mean_rank)).collect();
        assert_eq!(names, [("a", 1, 1.375), ("b", 2, 1.625), ("c", 3, 3.0)]);
        // With the best rank for equal values: a (1 + 1.5) / 2, b (2 + 1) / 2.
        let winner: Vec<f64> = found.places.iter().map(|p| p.winner_mean_rank).collect();
        assert_eq!(winner, [1.25, 1.5, 3.0]);
        assert_eq!(found.metrics.iter().map(|m| m.metric.as_str()).collect::<Vec<_>>(), ["Dice", "HD95"]);
        // Two cases: signs are alike or mixed, so that half of them are as far apart.
        assert!((found.permutation_p[0][2] - 0.5).abs() < 1e-12, "{:?}", found.permutation_p);
        assert_eq!(found.wilcoxon.len(), 6);
        assert!((found.wilcoxon[0].mean_difference - 0.1).abs() < 1e-12);
    }

    #[test]
    fn a_missing_case_ranks_last() {
        let runs = [run("a", &[("1", 0.9, 1.0)]), run("b", &[("1", 0.9, 1.0), ("2", 0.0, 373.0)])];
        let found = rank(&runs, &RankOptions::default()).expect("a ranking");
        assert_eq!((found.places[0].run.as_str(), found.places[0].mean_rank), ("b", 1.25));
        assert_eq!(found.places[1].missing, ["2"]);
    }

    #[test]
    fn runs_without_a_common_case_or_metric_are_refused() {
        let runs = [run("a", &[("1", 0.9, 1.0)]), run("b", &[("2", 0.9, 1.0)])];
        let error = rank(&runs, &RankOptions::default()).expect_err("no case");
        assert!(error.to_string().contains("a, b share no case"), "{error}");
        let options = RankOptions { rule: Some(Rule::Brats2026), ..RankOptions::default() };
        let error = rank(&runs[..1], &options).expect_err("no such rule");
        assert!(error.to_string().contains("share no scores of the rule brats2026"), "{error}");
    }
}
