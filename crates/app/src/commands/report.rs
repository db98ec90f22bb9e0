//! `glioseg report`: one HTML file that shows a cohort.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use glioseg_diagnose::count;
use glioseg_infer::cases::find_cases as find_images;
use glioseg_metrics::LabelScheme;
use glioseg_plan::record::{CaseStatus, Record};
use glioseg_plan::{Convention, Dataset};
use glioseg_report::cohort::find_cases;
use glioseg_report::cohort::guess_convention;
use glioseg_report::page::{ReportCase, ReportInput, ReportRun, read_curves, write_report};
use glioseg_report::{CohortScores, Run};

use super::Outcome;
use crate::problem::Problem;
use crate::ui::{Ui, about};

/// Writes one self-contained HTML file: scores, distributions, ranking, learning curves, and every case with outlined
/// slices. Volumes are linked, not copied: `glioseg view` serves them to the page's 3D viewer.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Examples:\n  glioseg report --scores scores --images BraTS2021 -o report.html\n  \
    glioseg report --scores scores/a scores/b scores/c -o compared.html\n  \
    glioseg report --pred predicted -o predicted/report.html\n\n\
    Images are taken from the prediction's predict.json where --images is left out. Everything but the volumes is in the \
    file;\nkeep it near them (or serve a folder above both with `glioseg view`) to use the viewer.")]
pub(crate) struct Report {
    /// Folders written by `glioseg evaluate`; several are compared and ranked
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub(crate) scores: Vec<PathBuf>,
    /// Folders of predictions, for what was not scored
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub(crate) pred: Vec<PathBuf>,
    /// Folder of references [default: where the scores say]
    #[arg(long = "ref", value_name = "DIR")]
    pub(crate) reference: Option<PathBuf>,
    /// Folder of the images, in any layout that `predict` takes [default: where predict.json says]
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub(crate) images: Vec<PathBuf>,
    /// Model folders whose learning curves are shown
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub(crate) model: Vec<PathBuf>,
    /// Says what the labels mean, and the channels' names [default: as the scores, else a dataset.json nearby, else a guess]
    #[arg(long, value_name = "dataset.json")]
    pub(crate) dataset: Option<PathBuf>,
    /// Only files of --ref whose name ends in this, before .nii.gz; it is not part of the case's name
    #[arg(long, value_name = "SUFFIX", allow_hyphen_values = true)]
    pub(crate) ref_suffix: Option<String>,
    /// The same for --pred
    #[arg(long, value_name = "SUFFIX", allow_hyphen_values = true)]
    pub(crate) pred_suffix: Option<String>,
    /// Heading of the report [default: the name of the cohort's folder]
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub(crate) output: PathBuf,
}

pub(crate) fn run(options: &Report, ui: &Ui) -> anyhow::Result<Outcome> {
    if options.scores.is_empty() && options.pred.is_empty() && options.model.is_empty() {
        return Err(Problem::new(
            "there is nothing to report: neither --scores nor --pred nor --model is given",
            "give a folder that `glioseg evaluate` or `glioseg predict` wrote, or a model's",
        ));
    }
    let output =
        if options.output.is_dir() { options.output.join("report.html") } else { options.output.clone() };
    let input = gather(options, ui)?;
    if let Some(parent) = output.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the folder {}", parent.display()))?;
    }
    let progress = |done: usize, of: usize| {
        if done == of || done.is_multiple_of(50) {
            ui.say(&format!("drawn {done} of {of} cases"));
        }
    };
    ui.begin("drawing the cases");
    let written = write_report(&input, &output, &progress);
    ui.stop();
    let written = written?;
    for left_out in &written.left_out {
        ui.warn(left_out);
    }
    ui.say(&format!(
        "{} in {} ({:.1} MB): open it in a browser",
        count(written.cases, "case"),
        output.display(),
        written.bytes as f64 / 1e6
    ));
    // A server of everything on this machine is no good advice.
    if written.root.parent().is_some() {
        ui.say(&format!("with its volumes: glioseg view {}", quoted(&written.root)));
    } else {
        ui.warn("report and volumes share no folder that could be served: write the report near the volumes to see these in it");
    }
    Ok(Outcome::Done)
}

/// [`run`] at the end of another command, whose work is done whatever becomes of the report.
pub(crate) fn run_after(options: &Report, ui: &Ui) {
    if let Err(error) = run(options, ui) {
        ui.warn(&format!("no report: {}", about(error.as_ref())));
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A run and where its label maps are.
struct Found {
    run: ReportRun,
    predictions: BTreeMap<String, PathBuf>,
    references: BTreeMap<String, PathBuf>,
    folder: Option<PathBuf>,
}

impl Found {
    /// Maps of uncertainty of a case.
    fn maps(&self, case: &str) -> Vec<(String, PathBuf)> {
        let found = || {
            let folder = self.folder.as_deref()?;
            let own = self.run.predicted.as_ref()?.case(case)?.uncertainty.as_ref()?;
            let kinds = [("entropy", &own.entropy), ("disagreement", &own.disagreement)];
            let maps = kinds
                .into_iter()
                .filter_map(|(kind, path)| Some((kind.to_owned(), folder.join(path.as_ref()?))));
            Some(maps.collect())
        };
        found().unwrap_or_default()
    }
}

fn gather(options: &Report, ui: &Ui) -> anyhow::Result<ReportInput> {
    let mut found = scored(options)?;
    for folder in &options.pred {
        if !found.iter().any(|f| f.folder.as_deref().is_some_and(|own| same_place(own, folder))) {
            found.push(predicted(folder, options)?);
        }
    }
    let references = match &options.reference {
        Some(folder) => find_cases(folder, options.ref_suffix.as_deref())?,
        None => found.iter().flat_map(|f| f.references.clone()).collect(),
    };
    let scheme = label_scheme(options, &found, &references, ui)?;
    for one in &mut found {
        let own = one.run.scores.as_ref().and_then(|s| s.prediction_convention);
        one.run.regions = own.map_or_else(|| scheme.regions.clone(), |c| LabelScheme::brats(c).regions);
    }
    let images = images(options, &found, ui)?;
    let mut ids: Vec<&String> =
        found.iter().flat_map(|f| f.predictions.keys()).chain(references.keys()).collect();
    ids.sort();
    ids.dedup();
    // A reference that was not scored is not a case of this report, nor is an image without a prediction.
    let scored: Vec<&str> = found
        .iter()
        .filter_map(|f| f.run.scores.as_ref())
        .flat_map(|s| s.cases.iter().map(|c| c.case.as_str()))
        .collect();
    let failed: Vec<&str> = found
        .iter()
        .filter_map(|f| f.run.predicted.as_ref())
        .flat_map(|p| p.cases.iter().filter(|c| c.status == CaseStatus::Failed).map(|c| c.case.as_str()))
        .collect();
    let mut names: Vec<String> = ids
        .into_iter()
        .filter(|id| found.iter().any(|f| f.predictions.contains_key(*id)) || scored.contains(&id.as_str()))
        .cloned()
        .chain(failed.into_iter().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    let cases = names
        .into_iter()
        .map(|id| ReportCase {
            channels: images.get(&id).cloned().unwrap_or_default(),
            reference: references.get(&id).cloned(),
            predictions: found.iter().map(|f| f.predictions.get(&id).cloned()).collect(),
            maps: found.iter().map(|f| f.maps(&id)).collect(),
            id,
        })
        .collect();
    let mut curves = Vec::new();
    for model in &options.model {
        let own = read_curves(model)?;
        if own.is_empty() {
            ui.warn(&format!("{} holds no log of a training: no learning curves", model.display()));
        }
        curves.extend(own);
    }
    let title = options.title.clone().unwrap_or_else(|| title(options, &found));
    Ok(ReportInput {
        title,
        runs: found.into_iter().map(|f| f.run).collect(),
        cases,
        regions: scheme.regions,
        curves,
    })
}

fn same_place(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// The name of the folder of the references or of the first predictions.
fn title(options: &Report, found: &[Found]) -> String {
    let folders = [
        options.images.first().cloned(),
        found.first().and_then(|f| f.folder.clone()),
        options.model.first().cloned(),
    ];
    let name = |p: PathBuf| {
        let absolute = std::path::absolute(&p).unwrap_or(p);
        absolute.file_name().map(|n| n.to_string_lossy().into_owned())
    };
    folders.into_iter().flatten().find_map(name).unwrap_or_else(|| "cohort".to_owned())
}

/// The runs of --scores.
fn scored(options: &Report) -> anyhow::Result<Vec<Found>> {
    let runs = Run::read_all(&options.scores)?;
    let mut found = Vec::new();
    for (path, run) in options.scores.iter().zip(runs) {
        let file = if path.is_dir() { path.join("scores.json") } else { path.clone() };
        if !file.is_file() {
            return Err(Problem::new(
                format!("{} holds no scores.json", path.display()),
                "score the predictions with `glioseg evaluate`; nnU-Net's summary.json does not hold enough for a report",
            ));
        }
        let scores = CohortScores::read_json(&file)?;
        let mut found_run = Found {
            predictions: BTreeMap::new(),
            references: BTreeMap::new(),
            folder: Some(scores.prediction.clone()),
            run: ReportRun { name: run.name, predicted: record(&scores.prediction)?, ..ReportRun::default() },
        };
        // Where the folders were moved, --pred and --ref say where they are now.
        let moved = options.pred.get(found.len()).filter(|_| options.pred.len() == options.scores.len());
        if let Some(folder) = moved {
            found_run.predictions = find_cases(folder, options.pred_suffix.as_deref())?;
            found_run.run.predicted = record(folder)?;
            found_run.folder = Some(folder.clone());
        }
        for case in &scores.cases {
            if let Some(prediction) = case.prediction.as_ref().filter(|_| moved.is_none()) {
                found_run.predictions.insert(case.case.clone(), prediction.clone());
            }
            found_run.references.insert(case.case.clone(), case.reference.clone());
        }
        found_run.run.scores = Some(scores);
        found.push(found_run);
    }
    Ok(found)
}

/// The record of a prediction, where there is one.
fn record(folder: &Path) -> anyhow::Result<Option<Record>> {
    let folder = if folder.is_dir() { folder } else { folder.parent().unwrap_or(folder) };
    Ok(Record::read(folder)?)
}

/// A folder of predictions that was not scored.
fn predicted(folder: &Path, options: &Report) -> anyhow::Result<Found> {
    let predicted = record(folder)?;
    // A batch in which every case failed has a record and no label map.
    let predictions = match find_cases(folder, options.pred_suffix.as_deref()) {
        Err(_) if predicted.is_some() => BTreeMap::new(),
        found => found?,
    };
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name = absolute
        .file_name()
        .map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into_owned());
    Ok(Found {
        run: ReportRun { name, predicted, ..ReportRun::default() },
        predictions,
        references: BTreeMap::new(),
        folder: Some(folder.to_owned()),
    })
}

/// A `dataset.json` that was named, or lies next to the predictions or in their model.
fn dataset(options: &Report, found: &[Found]) -> anyhow::Result<Option<Dataset>> {
    let models = |f: &Found| -> Vec<PathBuf> {
        let models = f.run.predicted.iter().flat_map(|p| &p.models);
        models.map(|m| m.path.clone()).filter(|p| !p.as_os_str().is_empty()).collect()
    };
    let folders = found.iter().filter_map(|f| f.folder.clone()).chain(options.reference.clone());
    let folders = folders.chain(options.model.iter().cloned()).chain(found.iter().flat_map(models));
    Ok(Dataset::describing(options.dataset.as_deref(), folders)?.map(|found| found.dataset))
}

/// What the labels mean: as the scores have it, as a `dataset.json` says, or a guess.
fn label_scheme(
    options: &Report,
    found: &[Found],
    references: &BTreeMap<String, PathBuf>,
    ui: &Ui,
) -> anyhow::Result<LabelScheme> {
    if let Some(scores) = found.iter().find_map(|f| f.run.scores.as_ref()) {
        return Ok(scores.labels.clone());
    }
    if let Some(dataset) = dataset(options, found)? {
        return Ok(LabelScheme::dataset(&dataset.labels));
    }
    let files: Vec<&Path> = found
        .iter()
        .flat_map(|f| f.predictions.values().take(6))
        .chain(references.values().take(6))
        .map(PathBuf::as_path)
        .collect();
    if files.is_empty() {
        return Ok(LabelScheme::brats(Convention::Brats123));
    }
    let convention = guess_convention(&files).ok_or_else(|| {
        Problem::new(
            "cannot tell what the labels mean",
            "give the dataset.json that describes them with --dataset",
        )
    })?;
    ui.warn(&format!(
        "labels are taken to be those of {}; --dataset says so for sure",
        convention.describe()
    ));
    Ok(LabelScheme::brats(convention))
}

/// Channels by case: from --images, else from the records of the predictions.
fn images(
    options: &Report,
    found: &[Found],
    ui: &Ui,
) -> anyhow::Result<BTreeMap<String, Vec<(String, PathBuf)>>> {
    let records = || found.iter().filter_map(|f| f.run.predicted.as_ref());
    let named = |names: &[String], files: &[PathBuf]| -> Vec<(String, PathBuf)> {
        let name =
            |i: usize| if names.len() == files.len() { names[i].clone() } else { format!("image {}", i + 1) };
        files.iter().enumerate().map(|(i, f)| (name(i), f.clone())).collect()
    };
    let mut all = BTreeMap::new();
    for record in records() {
        let names = record.channels();
        all.extend(record.cases.iter().map(|c| (c.case.clone(), named(&names, &c.files))));
    }
    if options.images.is_empty() {
        return Ok(all);
    }
    let mut names = records().map(Record::channels).find(|c| !c.is_empty()).unwrap_or_default();
    if names.is_empty() {
        names = dataset(options, found)?.map(|d| d.channel_names).unwrap_or_default();
    }
    if names.is_empty() {
        names = ["t1", "t1ce", "t2", "flair"].map(str::to_owned).to_vec();
    }
    let cases = find_images(&options.images, &names, ".nii.gz")?;
    for (case, error) in &cases.bad {
        ui.warn(&format!("no images of {case}: {error}"));
    }
    all.extend(cases.cases.into_iter().map(|c| (c.id, named(&names, &c.files))));
    Ok(all)
}
