//! `glioseg postprocess`: steps on finished label maps, and the search of the winner's threshold.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use glioseg_diagnose::count;
use glioseg_formats::atomic;
use glioseg_infer::output::OutputRules;
use glioseg_infer::postprocess::{
    FILE_NAME, PostprocessError, PostprocessOptions, PostprocessedCase, Postprocessing, PostprocessingStep,
    SearchCase, ThresholdSearch, WINNER_THRESHOLDS, count_pair, nnunet_pickle, postprocess_cases,
    search_threshold,
};
use glioseg_plan::{Convention, Dataset, OutputLabels, Recoding, TumourParts, write_description};
use glioseg_report::cohort::find_cases;
use glioseg_workflow::postprocessing::{Determined, Judged, determine};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::table::{number, table};
use super::{Outcome, described, print};
use crate::problem::Problem;
use crate::ui::{Ui, about};

/// Changes finished label maps: keeps the largest component, replaces a label of which there is too little.
///
/// The options act in the order in which they stand here. With --search, thresholds are compared on references first, as the winner
/// of BraTS 2021 did, and the best one is applied. With --search largest it is decided as nnU-Net does whether the largest component of
/// all foreground, and of every label or region, is kept alone; the decision is written as nnU-Net's postprocessing.json and .pkl.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    glioseg postprocess -i ensemble -o submission --threshold 200 --labels brats\n  \
    glioseg postprocess -i predicted -o cleaned --file crossval_results_folds_0_1_2_3_4/postprocessing.json\n  \
    glioseg postprocess -i validation -o searched --search --ref labelsTr\n  \
    glioseg postprocess -i validation -o cleaned --search largest --ref labelsTr\n\n\
    What the labels mean is read from dataset.json in the input folder, unless --dataset or --input-labels tell it.\n\n\
    Exit code: 0 all cases done, 1 some case failed (the others are written), 2 could not start.")]
pub(crate) struct Postprocess {
    /// Folder of label maps, CASE.nii.gz
    #[arg(short, long, value_name = "DIR")]
    pub(crate) input: PathBuf,
    /// Folder for the results; made if it is not there [with --search largest: INPUT/postprocessed, and the decision in INPUT]
    #[arg(short, long, value_name = "OUT", required_unless_present = "search")]
    pub(crate) output: Option<PathBuf>,
    /// Steps of a postprocessing.json of glioseg or nnU-Net
    #[arg(long, value_name = "FILE", help_heading = "Steps")]
    pub(crate) file: Option<PathBuf>,
    /// Keep the largest component of the union of these labels: numbers, `all`, or WT, TC, ET; several times if wanted
    #[arg(long, value_name = "LABELS", help_heading = "Steps")]
    pub(crate) largest: Vec<String>,
    /// Replace a label of which there are fewer voxels in the image: the enhancing tumour becomes necrotic core
    #[arg(long, value_name = "VOXELS", num_args = 0..=1, default_missing_value = "200", help_heading = "Steps")]
    pub(crate) threshold: Option<u64>,
    /// Another label for --threshold and --search than the enhancing tumour
    #[arg(long, value_name = "LABEL", help_heading = "Steps")]
    pub(crate) label: Option<u16>,
    /// What it becomes instead of necrotic core
    #[arg(long, value_name = "LABEL", help_heading = "Steps")]
    pub(crate) with: Option<u16>,
    /// Find out on references: the best threshold, or of what only the largest component is kept
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, default_missing_value = "threshold", requires = "reference",
        conflicts_with = "threshold", help_heading = "Search")]
    pub(crate) search: Option<Search>,
    /// Folder of reference label maps
    #[arg(long = "ref", value_name = "DIR", requires = "search", help_heading = "Search")]
    pub(crate) reference: Option<PathBuf>,
    /// Coding of the references, where it is another one: 1-2-4 (brats2018 to brats2022), 1-2-3
    /// (brats2023), 1-2-3-4 (brats2024) or nnunet
    #[arg(long, value_name = "CODING", requires = "search", help_heading = "Search")]
    pub(crate) ref_labels: Option<Convention>,
    /// Thresholds to compare, in voxels [default: the winner's, 0,10,50,100,200,500,750,1000,1500,2500,10000]
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "search", help_heading = "Search")]
    pub(crate) thresholds: Vec<u64>,
    /// The dataset.json that says what the labels mean
    #[arg(long, value_name = "FILE", help_heading = "Labels")]
    pub(crate) dataset: Option<PathBuf>,
    /// Coding of the input: 1-2-4 (brats2018 to brats2022), 1-2-3 (brats2023), 1-2-3-4 (brats2024) or nnunet
    #[arg(long, value_name = "CODING", conflicts_with = "dataset", help_heading = "Labels")]
    pub(crate) input_labels: Option<Convention>,
    /// Which values are written: dataset (those of dataset.json), brats2018 to brats2022 or brats (1-2-4), brats2023 or
    /// brats2024 (1-2-3, and 4 a resection cavity), nnunet
    #[arg(long, value_name = "CODING", default_value = "dataset", help_heading = "Labels")]
    pub(crate) labels: OutputLabels,
    /// One line of JSON per case (and per threshold) on stdout instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Search {
    /// The threshold below which the enhancing tumour is replaced, as the winner of BraTS 2021
    Threshold,
    /// Largest components, as nnU-Net decides it
    Largest,
}

/// What the labels of the input mean, as far as it is known.
struct Meaning {
    dataset: Option<Dataset>,
    parts: Result<TumourParts, anyhow::Error>,
    known: Vec<u16>,
}

impl Meaning {
    fn of(options: &Postprocess, ui: &Ui) -> anyhow::Result<Self> {
        if let Some(coding) = options.input_labels {
            return Ok(Self { dataset: None, parts: Ok(coding.parts()), known: coding.known() });
        }
        let Some(dataset) = described(options.dataset.as_deref(), [&options.input], ui)? else {
            let unknown = Problem::new(
                format!("the meaning of the labels in {} is unknown", options.input.display()),
                "give --dataset dataset.json, or --input-labels 1-2-4, 1-2-3, 1-2-3-4 or nnunet; with --label and --with no \
                 meaning is needed",
            );
            return Ok(Self { dataset: None, parts: Err(unknown), known: Vec::new() });
        };
        Ok(Self {
            parts: TumourParts::of(&dataset).map_err(anyhow::Error::new),
            known: dataset.labels.all_labels().to_vec(),
            dataset: Some(dataset),
        })
    }

    fn parts(&mut self) -> anyhow::Result<TumourParts> {
        match &self.parts {
            Ok(parts) => Ok(*parts),
            Err(_) => std::mem::replace(&mut self.parts, Err(anyhow::anyhow!("asked twice"))),
        }
    }

    /// Label values of one `--largest`.
    fn union(&mut self, text: &str) -> anyhow::Result<Vec<u16>> {
        let mut labels = Vec::new();
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word.to_ascii_uppercase().as_str() {
                "ALL" if !self.known.is_empty() => labels.extend(self.known.iter().filter(|&&v| v != 0)),
                "ALL" | "WT" | "TC" | "ET" => {
                    let TumourParts { necrosis, oedema, enhancing, .. } = self.parts()?;
                    let all = [enhancing, necrosis, oedema];
                    let count =
                        ["ET", "TC"].iter().position(|w| word.eq_ignore_ascii_case(w)).map_or(3, |i| i + 1);
                    labels.extend_from_slice(&all[..count]);
                }
                _ => match word.parse::<u16>() {
                    Ok(label) if label > 0 => labels.push(label),
                    _ => {
                        return Err(Problem::new(
                            format!("--largest {text}: `{word}` is not a label"),
                            "give numbers separated by commas, or `all`, WT, TC, ET",
                        ));
                    }
                },
            }
        }
        labels.sort_unstable();
        labels.dedup();
        Ok(labels)
    }
}

pub(crate) fn run(options: &Postprocess, ui: &Ui) -> anyhow::Result<Outcome> {
    let mut meaning = Meaning::of(options, ui)?;
    let cases: Vec<(String, PathBuf)> = find_cases(&options.input, None)?.into_iter().collect();
    let output = match (&options.output, options.search) {
        (Some(output), _) => output.clone(),
        (None, Some(Search::Largest)) => options.input.join("postprocessed"),
        (None, _) => return Err(Problem::new("no folder for the results", "give one with -o OUT")),
    };
    let mut postprocessing = match &options.file {
        Some(path) => {
            let steps = Postprocessing::read(path)?;
            if !meaning.known.is_empty() {
                steps.check(&meaning.known, path)?;
            }
            steps
        }
        None => Postprocessing::default(),
    };
    for text in &options.largest {
        let labels = meaning.union(text)?;
        postprocessing.steps.push(PostprocessingStep::keep_largest(&labels));
    }
    let mut rule = |below_voxels: u64| -> anyhow::Result<PostprocessingStep> {
        let label = options.label.map_or_else(|| meaning.parts().map(|p| p.enhancing), Ok)?;
        let with = options.with.map_or_else(|| meaning.parts().map(|p| p.necrosis), Ok)?;
        Ok(PostprocessingStep::ReplaceSmall { labels: vec![label], below_voxels, with })
    };
    let threshold = options.threshold.map(&mut rule).transpose()?;
    let mut largest = None;
    if options.search == Some(Search::Largest) {
        ui.begin("comparing with the references");
        let found = search_largest(options, &cases, ui);
        ui.stop();
        let found = found?;
        // nnU-Net's own form says what is done if nothing else is.
        let alone = postprocessing.steps.is_empty();
        postprocessing.steps.extend(found.steps.steps.iter().cloned());
        postprocessing.notes.insert("largest_search".into(), found.steps.notes["tried"].clone());
        show_largest(&found, options.json)?;
        largest = Some(found).filter(|_| alone);
    }
    if options.search == Some(Search::Threshold) {
        let PostprocessingStep::ReplaceSmall { labels, .. } = rule(0)? else {
            unreachable!("the rule is a threshold")
        };
        ui.begin("comparing with the references");
        let search = search(options, &cases, labels[0]);
        ui.stop();
        let search = search?;
        postprocessing.steps.push(rule(search.best)?);
        postprocessing.notes.insert("threshold_search".into(), serde_json::to_value(&search)?);
        show_search(&search, options.json)?;
        ui.say(&format!("best threshold: {} voxels", search.best));
    }
    postprocessing.steps.extend(threshold);
    let recoding = match options.labels {
        OutputLabels::Dataset => Recoding::default(),
        labels => labels.recoding_of(&meaning.parts()?)?,
    };
    // A file without steps says that nothing is to be changed: the cases are copied.
    let nothing = postprocessing.steps.is_empty() && options.labels == OutputLabels::Dataset;
    if nothing && options.file.is_none() && options.search.is_none() {
        return Err(Problem::new(
            "nothing to do",
            "give --threshold, --largest, --file, --search or --labels; see --help",
        ));
    }
    let rules = OutputRules { postprocessing, recoding };
    let work = PostprocessOptions { rules, known: meaning.known };
    let observer = |case: &PostprocessedCase| {
        ui.advance();
        if let Err(error) = &case.changed {
            ui.fail(&format!("case `{}`: {}", case.case, about(error)));
        }
    };
    ui.start("postprocessing", cases.len(), "cases");
    let done = postprocess_cases(&cases, &output, &work, &observer);
    ui.stop();
    let done = done?;
    match &largest {
        Some(found) => {
            let folder = if options.output.is_some() { &output } else { &options.input };
            write_largest(found, folder)?;
        }
        None => work.rules.postprocessing.write(&output.join(FILE_NAME))?,
    }
    if let Some(dataset) = &meaning.dataset {
        write_description(&output, dataset, &work.rules.recoding).context("cannot describe the labels")?;
    }
    let mut failed = 0;
    for case in &done {
        match &case.changed {
            Ok(changed) => print(&line(&case.case, changed, options.json))?,
            Err(_) => failed += 1,
        }
    }
    ui.say(&format!("{}, {failed} failed; see {}", count(done.len(), "case"), output.display()));
    Ok(if failed > 0 { Outcome::SomeFailed } else { Outcome::Done })
}

/// Decides on references of which labels only the largest component is kept.
fn search_largest(options: &Postprocess, cases: &[(String, PathBuf)], ui: &Ui) -> anyhow::Result<Determined> {
    if options.ref_labels.is_some() || options.input_labels.is_some() || options.label.is_some() {
        return Err(Problem::new(
            "--search largest takes the labels of a dataset.json",
            "leave out --ref-labels, --input-labels and --label; give --dataset dataset.json if none lies in the input folder",
        ));
    }
    let Some(found) = Dataset::describing(options.dataset.as_deref(), [&options.input])? else {
        return Err(Problem::new(
            format!(
                "{} has no dataset.json, which says what labels and regions there are",
                options.input.display()
            ),
            "give it with --dataset dataset.json",
        ));
    };
    let folder = options.reference.as_deref().unwrap_or(Path::new(""));
    let mut references = find_cases(folder, None)?;
    let judged = cases.iter().map(|(case, prediction)| {
        let reference = references.remove(case).ok_or_else(|| PostprocessError::NoReference {
            case: case.clone(),
            folder: options.input.clone(),
            reference: folder.into(),
        })?;
        Ok(Judged { prediction: prediction.clone(), reference })
    });
    let judged = judged.collect::<Result<Vec<_>, PostprocessError>>()?;
    if !references.is_empty() {
        ui.warn(&format!(
            "{} of {} not among the predictions, such as {}; the search should be done on a whole dataset",
            count(references.len(), "reference"),
            folder.display(),
            references.keys().next().map(String::as_str).unwrap_or_default()
        ));
    }
    Ok(determine(&judged, &found.dataset.labels, None)?)
}

fn show_largest(found: &Determined, as_json: bool) -> anyhow::Result<()> {
    let tried = found.steps.notes["tried"].as_array().map(Vec::as_slice).unwrap_or_default();
    if as_json {
        return tried.iter().try_for_each(|t| print(&t.to_string()));
    }
    let dice = |value: &Value| number(value.as_f64().unwrap_or(f64::NAN));
    let mut rows = vec![["largest of", "Dice before", "Dice after", ""].map(str::to_owned).to_vec()];
    rows.extend(tried.iter().map(|t| {
        let adopted = if t["adopted"] == true { "adopted" } else { "" };
        let what = t["keep_largest_of"].as_str().unwrap_or_default().to_owned();
        vec![what, dice(&t["dice_before"]), dice(&t["dice_after"]), adopted.to_owned()]
    }));
    table(&rows, 1).iter().try_for_each(|line| print(line))
}

/// nnU-Net's `postprocessing.json` and `postprocessing.pkl`.
fn write_largest(found: &Determined, folder: &Path) -> anyhow::Result<()> {
    atomic::write(&folder.join(FILE_NAME), |file| file.write_all(found.nnunet_json().as_bytes()))?;
    let pickle = nnunet_pickle(&found.kept);
    atomic::write(&folder.join(FILE_NAME).with_extension("pkl"), |file| file.write_all(&pickle))?;
    Ok(())
}

fn search(options: &Postprocess, cases: &[(String, PathBuf)], label: u16) -> anyhow::Result<ThresholdSearch> {
    let folder = options.reference.as_deref().unwrap_or(Path::new(""));
    let references = find_cases(folder, None)?;
    let reference_label = match options.ref_labels {
        Some(coding) => coding.parts().enhancing,
        None => reference_enhancing(folder)?.filter(|_| options.label.is_none()).unwrap_or(label),
    };
    let counts: Result<Vec<SearchCase>, PostprocessError> = cases
        .par_iter()
        .map(|(case, path)| {
            let reference = references.get(case).ok_or_else(|| PostprocessError::NoReference {
                case: case.clone(),
                folder: options.input.clone(),
                reference: folder.into(),
            })?;
            count_pair((path, label), (reference, reference_label))
        })
        .collect();
    let thresholds =
        if options.thresholds.is_empty() { WINNER_THRESHOLDS.to_vec() } else { options.thresholds.clone() };
    Ok(search_threshold(&counts?, &thresholds))
}

/// The value of enhancing tumour that a `dataset.json` next to the references, or above their folder, tells.
fn reference_enhancing(folder: &Path) -> anyhow::Result<Option<u16>> {
    let found = Dataset::describing(None, [Some(folder), folder.parent()].into_iter().flatten())?;
    Ok(found.and_then(|found| TumourParts::of(&found.dataset).ok()).map(|p| p.enhancing))
}

fn show_search(search: &ThresholdSearch, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        for score in &search.scores {
            print(&serde_json::to_string(score)?)?;
        }
        return Ok(());
    }
    let mut rows = vec![["below", "mean", "removed", ""].map(str::to_owned).to_vec()];
    rows.extend(search.scores.iter().map(|s| {
        let best = if s.below_voxels == search.best { "best" } else { "" };
        vec![
            s.below_voxels.to_string(),
            number(s.mean),
            format!("{} of {}", s.removed, search.cases),
            best.into(),
        ]
    }));
    table(&rows, 0).iter().try_for_each(|line| print(line))
}

fn line(case: &str, changed: &[usize], as_json: bool) -> String {
    if as_json {
        return json!({"case": case, "changed_voxels": changed}).to_string();
    }
    let fields: Vec<String> = changed.iter().map(ToString::to_string).collect();
    format!("{case}\tchanged={}", if fields.is_empty() { "0".into() } else { fields.join("+") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_and_labels_can_be_kept() {
        let unknown = || Err(anyhow::anyhow!("unknown"));
        let mut nnunet =
            Meaning { dataset: None, parts: Ok(Convention::NnUnet.parts()), known: vec![0, 1, 2, 3] };
        for (text, labels) in
            [("all", &[1, 2, 3][..]), ("WT", &[1, 2, 3]), ("tc", &[2, 3]), ("ET", &[3]), ("2, 1", &[1, 2])]
        {
            assert_eq!(nnunet.union(text).expect("labels"), labels, "{text}");
        }
        let mut plain = Meaning { dataset: None, parts: unknown(), known: vec![] };
        assert_eq!(plain.union("5,1").expect("numbers need no meaning"), [1, 5]);
        assert!(plain.union("WT").is_err());
        let mut plain = Meaning { dataset: None, parts: unknown(), known: vec![] };
        let error = plain.union("core").expect_err("no label").to_string();
        assert_eq!(error, "--largest core: `core` is not a label");
    }

    #[test]
    fn a_line_tells_what_every_step_changed() {
        assert_eq!(line("a", &[3, 0], false), "a\tchanged=3+0");
        assert_eq!(line("a", &[3], true), r#"{"case":"a","changed_voxels":[3]}"#);
    }
}
