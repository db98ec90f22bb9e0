//! `glioseg rank`: which of several runs is best, and whether that is more than chance.

use std::path::PathBuf;

use clap::Args;
use glioseg_metrics::{Metric, Rule};
use glioseg_report::{RankOptions, Ranking, Run, rank};

use super::table::{number, p_value, table};
use super::{Outcome, print};
use crate::problem::Problem;
use crate::ui::Ui;

/// Ranks runs as BraTS does: every case, region and metric gives ranks, which are averaged.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg rank scores/a scores/b scores/c --rule brats2021\n\n\
    `place` shares equal values' mean rank (BraTS), `winner` gives them the best (as the BraTS 2021 winner's own table).\n\
    p below the table: permutation test on the cases' mean ranks, corrected after Holm; * is below 0.05.")]
pub(crate) struct Rank {
    /// Folders written by `glioseg evaluate`, their scores.json, or summary.json files of nnU-Net
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Rule whose metrics count [default: the first that all runs have of brats2021, brats2023, brats2026, nnunet]
    #[arg(long)]
    pub(crate) rule: Option<String>,
    /// Metrics to rank by, separated by commas [default: the rule's own, such as Dice,HD95]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) metrics: Vec<String>,
    /// Random permutations of the permutation test; few cases are tried exhaustively
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) permutations: u32,
    /// Seed of the permutations
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(options: &Rank, ui: &Ui) -> anyhow::Result<Outcome> {
    let runs = Run::read_all(&options.runs)?;
    let rank_options = RankOptions {
        rule: options.rule.as_deref().map(str::parse::<Rule>).transpose()?,
        metrics: options.metrics.clone(),
        permutations: options.permutations as usize,
        seed: options.seed,
    };
    if let Some(wrong) = options.metrics.iter().find(|key| !can_be_ranked_by(key)) {
        let named = |rule: Rule| rule.metrics().iter().find(|m| m.key == *wrong);
        let reason = match Rule::every().find_map(named) {
            Some(metric) => format!("`{wrong}` ({}) is neither good nor bad", metric.label),
            None => format!("no rule has a metric `{wrong}`"),
        };
        let rules = rank_options.rule.map_or_else(|| Rule::preferred().collect(), |rule| vec![rule]);
        let mut known: Vec<&str> = Vec::new();
        for metric in rules.iter().flat_map(|r| r.metrics()).filter(|m| m.has_direction()) {
            if !known.contains(&metric.key) {
                known.push(metric.key);
            }
        }
        return Err(Problem::new(
            format!("cannot rank by {wrong}: {reason}"),
            format!("name one of {}", known.join(", ")),
        ));
    }
    let ranking = rank(&runs, &rank_options)?;
    for place in ranking.places.iter().filter(|p| !p.missing.is_empty()) {
        ui.warn(&format!(
            "{} has no scores for {} cases, where it ranks last",
            place.run,
            place.missing.len()
        ));
    }
    ui.say(&format!(
        "{} runs | rule {} | {} cases | {} metrics",
        runs.len(),
        ranking.rule.name(),
        ranking.cases.len(),
        ranking.metrics.len()
    ));
    if options.json {
        print(&serde_json::to_string(&ranking)?)?;
    } else {
        for line in lines(&ranking) {
            print(&line)?;
        }
    }
    Ok(Outcome::Done)
}

/// The table of places, the matrix of p values, and what differs significantly.
/// Whether some rule has a metric of that name that can be ordered from worse to better.
fn can_be_ranked_by(key: &str) -> bool {
    Rule::every().any(|rule| rule.metric(key).is_some_and(Metric::has_direction))
}

fn lines(ranking: &Ranking) -> Vec<String> {
    let title = |m: &glioseg_report::MetricName| format!("{} {}", m.region, m.metric);
    let mut head: Vec<String> = ["place", "run", "mean rank", "winner"].map(str::to_owned).to_vec();
    head.extend(ranking.metrics.iter().map(title));
    let mut rows = vec![head];
    for place in &ranking.places {
        let mut row = vec![place.place.to_string(), place.run.clone(), format!("{:.3}", place.mean_rank)];
        row.push(place.winner_place.to_string());
        row.extend(place.metric_means.iter().map(|v| number(v.0)));
        rows.push(row);
    }
    let mut out = table(&rows, 2);
    out.push(String::new());
    out.push("p of a difference in mean rank (permutation test, Holm)".to_owned());
    let mut head = vec![String::new()];
    head.extend(ranking.places.iter().map(|p| p.run.clone()));
    let mut rows = vec![head];
    for (i, place) in ranking.places.iter().enumerate() {
        let cells = ranking.permutation_p_holm[i].iter().enumerate();
        let mut row = vec![place.run.clone()];
        row.extend(cells.map(|(j, &p)| if i == j { "-".to_owned() } else { p_value(p) }));
        rows.push(row);
    }
    out.extend(table(&rows, 1));
    out.push(String::new());
    let different: Vec<_> = ranking.wilcoxon.iter().filter(|t| t.p_holm < 0.05).collect();
    if different.is_empty() {
        out.push("no metric of any two runs differs significantly (Wilcoxon, Holm)".to_owned());
        return out;
    }
    out.push("metrics that differ significantly (Wilcoxon, Holm)".to_owned());
    let head = ["metric", "first", "second", "first - second", "p"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for t in different {
        let difference = number(t.mean_difference);
        rows.push(vec![title(&t.metric), t.first.clone(), t.second.clone(), difference, p_value(t.p_holm)]);
    }
    out.extend(table(&rows, 3));
    out
}
