//! `glioseg compare`: two runs, case by case, worst first.

use std::path::PathBuf;

use clap::Args;
use glioseg_metrics::Rule;
use glioseg_report::{Comparison, Run, compare};

use super::table::{number, p_value, table};
use super::{Outcome, print};
use crate::ui::Ui;

/// Compares run B with run A case by case; cases where B lost most come first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg compare scores/baseline scores/new --worst 20")]
pub(crate) struct Compare {
    /// The run to compare with: a folder written by `glioseg evaluate`, its scores.json, or nnU-Net's summary.json
    #[arg(value_name = "A")]
    pub(crate) first: PathBuf,
    /// The run in question
    #[arg(value_name = "B")]
    pub(crate) second: PathBuf,
    /// Rule whose metrics are compared [default: the first that both have of brats2021, brats2023, brats2026, nnunet]
    #[arg(long)]
    pub(crate) rule: Option<String>,
    /// Metrics to compare, separated by commas; the first sorts the cases [default: the rule's own]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) metrics: Vec<String>,
    /// Show only so many cases
    #[arg(long, value_name = "N")]
    pub(crate) worst: Option<usize>,
    /// Everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(options: &Compare, ui: &Ui) -> anyhow::Result<Outcome> {
    let runs = Run::read_all(&[&options.first, &options.second])?;
    let rule = options.rule.as_deref().map(str::parse::<Rule>).transpose()?;
    let mut found = compare(&runs[0], &runs[1], rule, &options.metrics)?;
    for (run, only) in [(&found.first, &found.only_first), (&found.second, &found.only_second)] {
        if !only.is_empty() {
            ui.warn(&format!("{} cases are in {run} only and left out, such as {}", only.len(), only[0]));
        }
    }
    ui.say(&format!(
        "A = {} | B = {} | rule {} | {} cases, sorted by the gain in {}",
        found.first,
        found.second,
        found.rule.name(),
        found.cases.len(),
        found.sorted_by
    ));
    if let Some(worst) = options.worst {
        found.cases.truncate(worst);
    }
    if options.json {
        print(&serde_json::to_string(&found)?)?;
    } else {
        for line in lines(&found) {
            print(&line)?;
        }
    }
    Ok(Outcome::Done)
}

/// A row per metric, then a row per case with the values of B and what they gained over A.
fn lines(found: &Comparison) -> Vec<String> {
    let title = |name: &glioseg_report::MetricName| format!("{} {}", name.region, name.metric);
    let mut rows =
        vec![["metric", "A", "B", "B better", "B worse", "p (Wilcoxon)"].map(str::to_owned).to_vec()];
    for m in &found.metrics {
        let counts = [m.better.to_string(), m.worse.to_string()];
        let mut row = vec![title(&m.name), number(m.first), number(m.second)];
        row.extend(counts);
        row.push(p_value(m.p));
        rows.push(row);
    }
    let mut out = table(&rows, 1);
    out.push(String::new());
    let mut head = vec!["case".to_owned(), format!("gain in {}", found.sorted_by)];
    head.extend(found.metrics.iter().map(|m| title(&m.name)));
    let mut rows = vec![head];
    for case in &found.cases {
        let mut row = vec![case.case.clone(), format!("{:+.4}", case.gain)];
        row.extend(
            case.first.iter().zip(&case.second).map(|(a, b)| format!("{} > {}", number(a.0), number(b.0))),
        );
        rows.push(row);
    }
    out.extend(table(&rows, 1));
    out
}
