//! `glioseg evaluate`: predictions against references, by every rule in use.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use glioseg_diagnose::{count, first_few};
use glioseg_metrics::statistics::{Bootstrap, Summary};
use glioseg_metrics::{LabelScheme, Rule, ScoreOptions};
use glioseg_plan::Convention;
use glioseg_report::{CaseScores, CaseStatus, CohortScores, EvaluateOptions, LabelSource, evaluate_cohort};
use glioseg_workflow::calibration::calibration;
use serde_json::json;

use super::table::{number, table};
use super::{Outcome, described, print};
use crate::problem::Problem;
use crate::ui::{Ui, about};

/// Scores a folder of predictions against a folder of references and writes every number by every rule.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  glioseg evaluate --ref labelsTs --pred predicted --dataset dataset.json -o scores\n\n\
    Rules: nnunet, brats2021, brats2023 (-ssa, -men, -ped, -met), brats2026, extra (surface Dice at a tolerance, average \
    surface distance,\nvolumes, lesion counts). Numbers of different rules are not comparable.\n\n\
    Writes summary.json (nnU-Net's layout), cases.csv, statistics.csv, scores.json (for rank, compare and reports), \
    brats2026_seg.csv\nand winner_results.csv. Where probabilities lie next to the predictions (CASE.npz), their expected \
    calibration error and\nBrier score are told, and calibration.csv holds the reliability diagram.\n\n\
    Exit code: 0 all cases scored, 1 some case could not be scored, 2 could not start."
)]
pub(crate) struct Evaluate {
    /// Folder of reference label maps: CASE.nii.gz, or CASE/CASE-seg.nii.gz as BraTS has them
    #[arg(long = "ref", value_name = "DIR")]
    pub(crate) reference: PathBuf,
    /// Folder of predicted label maps, of the same case names
    #[arg(long = "pred", value_name = "DIR")]
    pub(crate) prediction: PathBuf,
    /// Folder for the tables; made if it is not there
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Rules, separated by commas, or `all`
    #[arg(long, value_name = "RULES", default_value = "all")]
    pub(crate) rules: String,
    /// Says what the labels mean [default: dataset.json next to the predictions or references, else a guess]
    #[arg(long, value_name = "dataset.json", help_heading = "Labels")]
    pub(crate) dataset: Option<PathBuf>,
    /// Label convention of the references: 1-2-4 (brats2018 to brats2022), 1-2-3 (brats2023), 1-2-3-4 (brats2024), nnunet or
    /// dataset (its dataset.json); or plain labels such as 1,2
    #[arg(long, value_name = "CONVENTION", conflicts_with = "dataset", help_heading = "Labels")]
    pub(crate) labels: Option<String>,
    /// Label convention of the predictions, where it is another one
    #[arg(long, value_name = "CONVENTION", help_heading = "Labels")]
    pub(crate) pred_labels: Option<String>,
    /// Value of reference voxels that are not scored [default: the ignore label of dataset.json]
    #[arg(long, value_name = "LABEL", help_heading = "Labels")]
    pub(crate) ignore_label: Option<u16>,
    /// Do not check whether labels are what they are said to be
    #[arg(long, help_heading = "Labels")]
    pub(crate) trust_labels: bool,
    /// Count pairs about which something is odd (voxels that are NaN, another origin) as failed instead of warning
    #[arg(long, help_heading = "Labels")]
    pub(crate) strict: bool,
    /// Only reference files whose name ends in this, before .nii.gz; it is not part of the case's name
    #[arg(long, value_name = "SUFFIX", allow_hyphen_values = true, help_heading = "Files")]
    pub(crate) ref_suffix: Option<String>,
    /// The same for predictions
    #[arg(long, value_name = "SUFFIX", allow_hyphen_values = true, help_heading = "Files")]
    pub(crate) pred_suffix: Option<String>,
    /// Distance in mm within which surfaces count as equal in the surface Dice (NSD)
    #[arg(long, value_name = "MM", default_value_t = 1.0, value_parser = distance, help_heading = "Computation")]
    pub(crate) tolerance: f64,
    /// Bootstrap samples of the 95 % intervals
    #[arg(long, value_name = "N", default_value_t = 2000, help_heading = "Computation")]
    pub(crate) bootstrap: usize,
    /// Dice below which a case counts as failed, where the predictions' own uncertainty is tested
    #[arg(long, value_name = "DICE", default_value_t = 0.7, help_heading = "Computation")]
    pub(crate) failing: f64,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 0, help_heading = "Computation")]
    pub(crate) seed: u64,
    /// One line of JSON per metric on stdout, all of them, instead of a table; then one per region of calibration and uncertainty
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

fn distance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if v >= 0.0 && v.is_finite() => Ok(v),
        _ => Err("a distance in mm, 0 or more".into()),
    }
}

pub(crate) fn run(options: &Evaluate, ui: &Ui) -> anyhow::Result<Outcome> {
    let evaluate = EvaluateOptions {
        rules: Rule::parse_list(&options.rules)?,
        labels: label_source(options, ui)?,
        prediction_convention: options.pred_labels.as_deref().map(str::parse::<Convention>).transpose()?,
        trust_labels: options.trust_labels,
        strict: options.strict,
        reference_suffix: options.ref_suffix.clone(),
        prediction_suffix: options.pred_suffix.clone(),
        score: ScoreOptions { tolerance_mm: options.tolerance },
        bootstrap: Bootstrap { samples: options.bootstrap, seed: options.seed },
        failing_below: options.failing,
    };
    if evaluate.rules.is_empty() {
        return Err(Problem::new(
            "--rules names no rule",
            "leave it out for all, or name one such as brats2021",
        ));
    }
    std::fs::create_dir_all(&options.output)
        .with_context(|| format!("cannot make the folder {}", options.output.display()))?;
    let observer = |case: &CaseScores, number: usize, of: usize| show_case(case, number, of, ui);
    ui.begin("scoring");
    let scores = evaluate_cohort(&options.reference, &options.prediction, &evaluate, &observer);
    ui.stop();
    let mut scores = scores?;
    if scores.labels_guessed {
        ui.warn(&format!("labels are taken to be those of {}; say so with --labels", scores.labels.name));
    }
    let unread = calibrate(&mut scores, ui);
    scores.write_tables(&options.output)?;
    show(&scores, options.json)?;
    let outcome = tell_the_rest(&scores, &options.output, ui);
    Ok(if unread { Outcome::SomeFailed } else { outcome })
}

/// Looks at the probabilities that were saved next to the predictions; true if some could not be used.
fn calibrate(scores: &mut CohortScores, ui: &Ui) -> bool {
    ui.begin("reading probabilities");
    let found = calibration(scores);
    ui.stop();
    for (case, error) in &found.failed {
        ui.warn(&format!("case `{case}` is left out of the calibration: {}", about(error)));
    }
    if !found.stale.is_empty() {
        ui.warn(&format!(
            "probabilities of an earlier prediction, since predict.json does not tell of them, and left out of the calibration: {}",
            first_few(&found.stale, 10)
        ));
    }
    scores.calibration = found.scores;
    !found.failed.is_empty()
}

/// What the labels mean: as told, else as a `dataset.json` nearby says, else a guess.
fn label_source(options: &Evaluate, ui: &Ui) -> anyhow::Result<LabelSource> {
    let known = |scheme: LabelScheme| {
        let scheme = match options.ignore_label {
            Some(value) => scheme.ignoring(value),
            None => scheme,
        };
        LabelSource::Known(Box::new(scheme))
    };
    // `dataset` says what is done without it.
    if let Some(text) = options.labels.as_deref().filter(|text| !text.eq_ignore_ascii_case("dataset")) {
        let plain: Option<Vec<u16>> = text.split(',').map(|v| v.trim().parse().ok()).collect();
        // A year is a coding: no label map has such a value.
        let scheme = match (text.parse::<Convention>(), plain) {
            (Ok(convention), _) => LabelScheme::brats(convention),
            (Err(_), Some(labels)) => LabelScheme::plain(&labels),
            (Err(error), None) => return Err(error.into()),
        };
        return Ok(known(scheme));
    }
    let folders = [Some(options.prediction.as_path()), Some(&options.reference), options.reference.parent()];
    let dataset = described(options.dataset.as_deref(), folders.into_iter().flatten(), ui)?;
    match (dataset, options.ignore_label) {
        (Some(dataset), _) => Ok(known(LabelScheme::dataset(&dataset.labels))),
        (None, None) => Ok(LabelSource::Guess),
        (None, Some(_)) => Err(Problem::new(
            "--ignore-label is given, but the other labels are unknown",
            "name them, such as --labels 1,2,3, or give --dataset dataset.json",
        )),
    }
}

fn show_case(case: &CaseScores, number: usize, of: usize, ui: &Ui) {
    for warning in &case.warnings {
        ui.warn(&format!("{}: {warning}", case.case));
    }
    match case.status {
        CaseStatus::Scored => ui.say(&format!("case {number}/{of} {}", case.case)),
        CaseStatus::Missing => ui.fail(&format!("case {number}/{of} {}: there is no prediction", case.case)),
        CaseStatus::Failed => {
            let mut text = format!("case `{}`: {}", case.case, case.error.as_deref().unwrap_or("failed"));
            if let Some(hint) = &case.hint {
                text += &format!("\n  hint: {hint}");
            }
            ui.fail(&text);
        }
    }
}

fn show(scores: &CohortScores, json: bool) -> anyhow::Result<()> {
    if json {
        for statistic in &scores.statistics {
            print(&serde_json::to_string(statistic)?)?;
        }
        for region in scores.calibration.iter().flat_map(|c| &c.regions) {
            print(&json!({"calibration": region}).to_string())?;
        }
        for region in scores.uncertainty.iter().flat_map(|u| &u.regions) {
            print(&json!({"uncertainty": region}).to_string())?;
        }
        return Ok(());
    }
    let head = ["rule", "region", "metric", "n", "mean", "95 % interval", "median", "quartiles"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for rule in &scores.rules {
        for statistic in scores.statistics.iter().filter(|s| s.name.rule == rule.name()) {
            // A region that no case has (such as a resection cavity) would be a row of dashes.
            if statistic.summary.n > 0 && rule.metric(&statistic.name.metric).is_some_and(|m| m.shown) {
                let name = &statistic.name;
                let mut row = vec![name.rule.clone(), name.region.clone(), name.metric.clone()];
                row.extend(cells(&statistic.summary));
                rows.push(row);
            }
        }
    }
    for line in table(&rows, 3) {
        print(&line)?;
    }
    if let Some(calibration) = &scores.calibration {
        print("")?;
        print(&format!(
            "calibration of the saved probabilities (cases: {}; voxels up to {} mm around the labels' box)",
            calibration.cases, calibration.margin_mm
        ))?;
        let mut rows = vec![["region", "ECE", "Brier"].map(str::to_owned).to_vec()];
        rows.extend(
            calibration.regions.iter().map(|r| vec![r.region.clone(), number(r.ece), number(r.brier)]),
        );
        for line in table(&rows, 1) {
            print(&line)?;
        }
    }
    let Some(uncertainty) = &scores.uncertainty else { return Ok(()) };
    print("")?;
    print(&format!(
        "how well the predictions' uncertainty tells the Dice ({}; below {} is a failure)",
        uncertainty.rule.name(),
        uncertainty.failing_below
    ))?;
    let head = ["region", "n", "Spearman's rho", "failures", "AUC"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for r in &uncertainty.regions {
        let counts = [r.n.to_string(), number(r.spearman), r.failing.to_string(), number(r.auc)];
        rows.push(std::iter::once(r.region.clone()).chain(counts).collect());
    }
    for line in table(&rows, 1) {
        print(&line)?;
    }
    Ok(())
}

fn cells(s: &Summary) -> [String; 5] {
    [
        s.n.to_string(),
        number(s.mean),
        format!("{} to {}", number(s.ci_low), number(s.ci_high)),
        number(s.median),
        format!("{} to {}", number(s.q1), number(s.q3)),
    ]
}

/// Missing, extra and failed cases, and where the tables are.
fn tell_the_rest(scores: &CohortScores, output: &Path, ui: &Ui) -> Outcome {
    let [scored, missing, failed] = [CaseStatus::Scored, CaseStatus::Missing, CaseStatus::Failed]
        .map(|status| scores.with_status(status));
    if !missing.is_empty() {
        let (counting, silent): (Vec<&Rule>, Vec<&Rule>) =
            scores.rules.iter().partition(|rule| rule.missing(&scores.labels).is_some());
        let names = |rules: &[&Rule]| rules.iter().map(|r| r.name()).collect::<Vec<_>>().join(", ");
        let mut text = format!(
            "no prediction for {} of {}: {}",
            missing.len(),
            count(scores.cases.len(), "case"),
            first_few(&missing, 10)
        );
        if !counting.is_empty() {
            text += &format!("; they count as worst for {}", names(&counting));
        }
        if !silent.is_empty() {
            text += &format!("; {} leave them out", names(&silent));
        }
        ui.warn(&text);
    }
    if !scores.extra.is_empty() {
        ui.warn(&format!(
            "without a reference, and left out: {}: {}",
            count(scores.extra.len(), "prediction"),
            first_few(&scores.extra, 10)
        ));
    }
    if !scores.stale.is_empty() {
        ui.warn(&format!(
            "of an earlier prediction, since predict.json does not list them as done, and left out: {}",
            first_few(&scores.stale, 10)
        ));
    }
    if !failed.is_empty() {
        ui.warn(&format!("could not score {}: they are in no mean", first_few(&failed, 10)));
    }
    ui.say(&format!(
        "{} of {} scored; tables in {}",
        scored.len(),
        count(scores.cases.len(), "case"),
        output.display()
    ));
    if failed.is_empty() { Outcome::Done } else { Outcome::SomeFailed }
}
