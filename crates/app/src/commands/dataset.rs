//! `glioseg dataset`: raw datasets, before anything is made of them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use glioseg_diagnose::count;
use glioseg_plan::brats::{Linking, survey, write_dataset};
use glioseg_plan::matching::{NamedPattern, match_files};
use glioseg_plan::{
    Convention, IntegrityReport, Making, Problem as Finding, RawDataset, Severity, check_dataset,
    make_dataset, preprocessed_folder,
};
use serde_json::json;

use super::{Outcome, print};
use crate::problem::Problem;
use crate::ui::Ui;

#[derive(Debug, Subcommand)]
pub(crate) enum DatasetCommand {
    /// List everything that is wrong with a dataset
    Check(DatasetCheck),
    /// Make a dataset of the folders of a BraTS challenge, 2018 to 2024
    Brats(DatasetBrats),
    /// Make a dataset of files of any name
    Make(DatasetMake),
}

/// Makes a raw dataset of images and label maps whose names a pattern for each channel tells.
///
/// What the stars of a pattern stand for is the name of the case. Cases without one of the files are named and left out. Every label map
/// is read: values must follow each other from 0.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  glioseg dataset make scans Dataset001_Mine --channel flair='*/FLAIR.nii.gz' \\\n    \
    --channel t1='*/T1.nii.gz' --label '*/GT_W.nii.gz'\n\n\
    Exit code: 0 all cases done, 1 some case lacks files, 2 could not start."
)]
pub(crate) struct DatasetMake {
    /// Folder that the patterns start from
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// The dataset; made if it is not there
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Name and files of a channel; once for each, in the order of the channels
    #[arg(long, required = true, value_name = "NAME=PATTERN")]
    pub(crate) channel: Vec<NamedPattern>,
    /// Files of the label maps
    #[arg(long, required = true, value_name = "PATTERN")]
    pub(crate) label: String,
    /// Name of a label value, such as 1=edema [default: `label 1`, `label 2`, …]
    #[arg(long, value_name = "VALUE=NAME", value_parser = label_name)]
    pub(crate) label_name: Vec<(u16, String)>,
    /// How files come into it; auto refers to them where they lie
    #[arg(long, value_enum, default_value_t)]
    pub(crate) files: Files,
}

fn label_name(text: &str) -> Result<(u16, String), String> {
    let pair = text.split_once('=').and_then(|(value, name)| Some((value.trim().parse().ok()?, name.trim())));
    match pair {
        Some((value, name)) if !name.is_empty() => Ok((value, name.to_owned())),
        _ => Err(format!("`{text}` is not a value and a name; write it like 1=edema")),
    }
}

/// Looks at dataset.json and every file of every case and lists all problems, not only the first.
///
/// Missing, damaged and stray files, grids that differ within a case, NaN, labels that dataset.json does not declare or that
/// occur nowhere, empty label maps; the same image in two cases, images stored in two orientations, two dimensions among
/// three, voxel sizes and image sizes far from the cohort's, label maps that seem mirrored or moved against their image.
/// `prep` and `train` refuse what is an error here.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg dataset check Dataset001_BraTS\n\n\
    Exit code: 0 fit to train on (there may be warnings), 1 it has errors, 2 could not start.")]
pub(crate) struct DatasetCheck {
    /// Raw dataset: dataset.json with imagesTr and labelsTr, as nnU-Net v2, v1 or the Decathlon has it
    #[arg(value_name = "DIR")]
    pub(crate) dataset: PathBuf,
    /// One line of JSON per problem and one with the counts
    #[arg(long)]
    pub(crate) json: bool,
}

/// Makes a raw dataset (imagesTr, labelsTr, dataset.json with the regions whole tumour, tumour core, enhancing tumour) of BraTS folders.
///
/// Names and label values of the whole cohort are looked at first: it must be of one edition and one coding. Labels 1-2-4 become
/// 1 oedema, 2 necrotic core, 3 enhancing tumour, as in nnU-Net's example; those since 2023 stay. Cases without a label map go to
/// imagesTs. Nothing in SRC is changed, and images take no space where they can be hard links.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg dataset brats BraTS2021_Training Dataset137_BraTS2021\n\n\
    Exit code: 0 all cases done, 1 some case failed or lacks files, 2 could not start.")]
pub(crate) struct DatasetBrats {
    /// Folder of case folders, also with HGG and LGG between
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// The dataset; made if it is not there
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// How images come into it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) files: Files,
    /// What the labels mean, where it cannot be told from them: 1-2-4, 1-2-3, 1-2-3-4 or nnunet
    #[arg(long, value_name = "CODING")]
    pub(crate) coding: Option<Convention>,
    /// What was found and done as a line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Files {
    /// Hard links where possible, else references
    #[default]
    Auto,
    /// Hard links
    Link,
    /// Paths in dataset.json (nnU-Net's key `dataset`)
    Reference,
    /// Copies
    Copy,
}

impl Files {
    const fn linking(self) -> Linking {
        match self {
            Self::Auto => Linking::Auto,
            Self::Link => Linking::Link,
            Self::Reference => Linking::Reference,
            Self::Copy => Linking::Copy,
        }
    }
}

pub(crate) fn run(command: &DatasetCommand, ui: &Ui) -> anyhow::Result<Outcome> {
    match command {
        DatasetCommand::Check(options) => check(options, ui),
        DatasetCommand::Brats(options) => brats(options, ui),
        DatasetCommand::Make(options) => make(options, ui),
    }
}

fn check(options: &DatasetCheck, ui: &Ui) -> anyhow::Result<Outcome> {
    let dataset = open(&options.dataset)?;
    ui.say(&format!("{}: {} training cases", dataset.name, dataset.cases.len()));
    let report = check_dataset(&dataset, &|_| {});
    for finding in &report.problems {
        print(&if options.json { json_line(finding) } else { text(finding) })?;
    }
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    if options.json {
        print(&counts(&report).to_string())?;
    } else {
        let voxels: Vec<String> = report.label_voxels.iter().map(|(l, n)| format!("{l}: {n}")).collect();
        let [cases, errors, warnings] = [(report.cases, "case"), (errors, "error"), (warnings, "warning")]
            .map(|(n, noun)| count(n, noun));
        print(&format!("{cases}, {errors}, {warnings}"))?;
        print(&format!("voxels per label | {}", voxels.join(" | ")))?;
    }
    Ok(if report.is_ok() { Outcome::Done } else { Outcome::SomeFailed })
}

/// Whether a dataset can be trained on; what is wrong with it is told as an error or a warning.
pub(crate) fn is_fit(folder: &Path, ui: &Ui) -> anyhow::Result<bool> {
    let dataset = open(folder)?;
    ui.say(&format!("{}: looking over {}", dataset.name, count(dataset.cases.len(), "training case")));
    let report = check_dataset(&dataset, &|_| {});
    for finding in &report.problems {
        let told = text(finding);
        match finding.severity {
            Severity::Error => ui.fail(told.strip_prefix("error: ").unwrap_or(&told)),
            Severity::Warning => ui.warn(told.strip_prefix("warning: ").unwrap_or(&told)),
        }
    }
    Ok(report.is_ok())
}

fn make(options: &DatasetMake, ui: &Ui) -> anyhow::Result<Outcome> {
    let channels: Vec<String> = options.channel.iter().map(|c| c.name.clone()).collect();
    let label = NamedPattern { name: "label".to_owned(), pattern: options.label.clone() };
    let patterns: Vec<NamedPattern> = options.channel.iter().cloned().chain([label]).collect();
    let matched = match_files(&options.source, &patterns)?;
    for pattern in &patterns {
        ui.say(&format!("{:<6} <- {}", pattern.name, options.source.join(&pattern.pattern).display()));
    }
    for (case, missing) in &matched.incomplete {
        ui.fail(&format!("case `{case}` is left out: it has no {}", missing.join(", ")));
    }
    if matched.cases.is_empty() {
        return Err(Problem::new(
            "no case has a file for every pattern",
            "the stars of every pattern must stand for the same: use the same folders in each",
        ));
    }
    for case in &matched.cases {
        ui.say(&format!(
            "case {}: {}",
            case.name,
            case.files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
        ));
    }
    let names = options.label_name.iter().cloned().collect();
    let linking = match options.files.linking() {
        Linking::Auto => Linking::Reference,
        other => other,
    };
    let making = Making { cases: &matched.cases, channels: &channels, names: &names, linking };
    let (dataset, voxels) = make_dataset(&making, &options.output)?;
    let voxels: Vec<String> = voxels.iter().map(|(label, n)| format!("{label}: {n}")).collect();
    print(&format!(
        "{} | {} | voxels per label {}",
        dataset.folder.display(),
        count(dataset.cases.len(), "case"),
        voxels.join(", ")
    ))?;
    Ok(if matched.incomplete.is_empty() { Outcome::Done } else { Outcome::SomeFailed })
}

fn brats(options: &DatasetBrats, ui: &Ui) -> anyhow::Result<Outcome> {
    let (source, out) = (&options.source, &options.output);
    let absolute = std::path::absolute(out)?;
    if source.canonicalize().is_ok_and(|s| absolute.starts_with(s)) {
        return Err(Problem::new(
            format!("the dataset {} would lie inside {}", out.display(), source.display()),
            "choose a folder next to it",
        ));
    }
    let cohort = survey(source, options.coding)?;
    let labels: Vec<String> = cohort.label_values.iter().map(ToString::to_string).collect();
    ui.say(&format!(
        "{} | {}, {} with label maps | labels {}: {}{}",
        cohort.edition,
        count(cohort.cases.len(), "case"),
        cohort.labelled(),
        labels.join(", "),
        cohort.coding.describe(),
        if cohort.coding_seen { "" } else { ", by the names alone" },
    ));
    for (case, missing) in &cohort.incomplete {
        ui.warn(&format!("case `{case}` is left out: it has no {missing}"));
    }
    if let Some(first) = cohort.others.first() {
        ui.say(&format!("{} other images are left alone, such as {}", cohort.others.len(), first.display()));
    }
    let written = write_dataset(&cohort, out, options.files.linking(), &|case| ui.say(case))?;
    for (case, reason) in &written.failed {
        ui.fail(&format!("case `{case}`: {reason}"));
    }
    let how = match written.linking {
        Linking::Reference => "references",
        Linking::Copy => "copies",
        Linking::Auto | Linking::Link => "hard links",
    };
    if written.linking == Linking::Reference && written.test > 0 {
        ui.say(&format!(
            "{} without label map stay in {}, where `glioseg predict` finds them",
            count(written.test, "case"),
            source.display()
        ));
    }
    if options.json {
        print(
            &json!({
                "edition": cohort.edition.to_string(), "coding": cohort.coding, "labels": cohort.label_values,
                "training": written.training, "test": written.test, "recoded": written.recoded, "files": how,
                "incomplete": cohort.incomplete.len(), "failed": written.failed.len(),
            })
            .to_string(),
        )?;
    } else {
        print(&format!(
            "{} | {} training cases, {} test cases | {how} | {} label maps rewritten",
            out.display(),
            written.training,
            written.test,
            written.recoded
        ))?;
    }
    let whole = written.failed.is_empty() && cohort.incomplete.is_empty();
    Ok(if whole { Outcome::Done } else { Outcome::SomeFailed })
}

fn text(finding: &Finding) -> String {
    let kind = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let case = finding.case.as_ref().map(|c| format!("case `{c}`: ")).unwrap_or_default();
    let mut text = format!("{kind}: {case}{}", finding.message);
    if let Some(path) = finding.path.as_ref().filter(|p| !text.contains(&p.display().to_string())) {
        text += &format!("\n  in: {}", path.display());
    }
    if let Some(hint) = &finding.hint {
        text += &format!("\n  hint: {hint}");
    }
    text
}

fn json_line(finding: &Finding) -> String {
    let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
    json!({
        "severity": severity, "case": finding.case, "path": finding.path,
        "message": finding.message, "hint": finding.hint,
    })
    .to_string()
}

fn counts(report: &IntegrityReport) -> serde_json::Value {
    json!({
        "cases": report.cases,
        "errors": report.count(Severity::Error),
        "warnings": report.count(Severity::Warning),
        "label_voxels": report.label_voxels,
    })
}

/// Opens a raw dataset.
pub(crate) fn open(folder: &Path) -> anyhow::Result<RawDataset> {
    Ok(RawDataset::open(folder)?)
}

/// The folder for what is made of a dataset; it is made if it is not there.
pub(crate) fn output_folder(dataset: &Path, output: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    let folder = output.cloned().unwrap_or_else(|| preprocessed_folder(dataset));
    std::fs::create_dir_all(&folder).map_err(|e| {
        let message = format!("cannot make the folder {}: {e}", folder.display());
        Problem::new(message, "choose another one with --output")
    })?;
    Ok(folder)
}

/// `140 x 171 x 137`.
pub(crate) fn by<T: std::fmt::Display>(sizes: &[T]) -> String {
    sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_tells_case_message_place_and_hint() {
        let finding = Finding {
            severity: Severity::Error,
            case: Some("a".into()),
            path: Some("labelsTr/a.nii.gz".into()),
            message: "has label 7".into(),
            hint: Some("declare it".into()),
        };
        assert_eq!(
            text(&finding),
            "error: case `a`: has label 7\n  in: labelsTr/a.nii.gz\n  hint: declare it"
        );
        let line: serde_json::Value = serde_json::from_str(&json_line(&finding)).expect("JSON");
        assert_eq!((&line["severity"], &line["case"]), (&json!("error"), &json!("a")));
    }
}
