//! Is a raw dataset fit to train on? Every problem of every case, in one list.
//!
//! What nnU-Net's `--verify_dataset_integrity` checks, and more: it stops at the first kind of problem, here all files
//! are looked at whatever is wrong with others. The images of one case per thread are held at a time. Errors that need no
//! voxels are also found before cases are prepared ([`header_errors`]), those that need them while cases are read.

mod alignment;
mod cohort;
mod digest;

pub use digest::{CaseDigest, Twin, twins};

use crate::raw::odd_images;
use crate::{RawCase, RawDataset};
use glioseg_diagnose::{Diagnose as _, count, first_few};
use glioseg_formats::FormatError;
use glioseg_formats::nifti::{ImageInfo, read_info, read_labels_noting, read_stack};
use glioseg_volume::{Geometry, GridComparison, LabelMap, Volume};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Training is possible, but is it meant?
    Warning,
    /// Training would fail, or learn nonsense.
    Error,
}

/// Something that is wrong with a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The case it is about; `None` if it is about the whole dataset.
    pub case: Option<String>,
    /// The file it is about.
    pub path: Option<PathBuf>,
    /// What is wrong, with both sides of a mismatch.
    pub message: String,
    /// What to do about it, where that is more than the message says.
    pub hint: Option<String>,
}

/// What was found in a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrityReport {
    /// Number of cases.
    pub cases: usize,
    /// Every problem: of the whole dataset first, then case by case.
    pub problems: Vec<Problem>,
    /// Voxels of every label value over all cases.
    pub label_voxels: BTreeMap<u16, u64>,
}

impl IntegrityReport {
    /// Number of problems of that severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|p| p.severity == severity).count()
    }

    /// Whether there are no errors; warnings may be there.
    pub fn is_ok(&self) -> bool {
        self.count(Severity::Error) == 0
    }
}

/// Checks `dataset.json` and every file of every case; `progress` is told the name of each case that is done.
///
/// # Source
/// nnU-Net v2, `verify_dataset_integrity`.
pub fn check_dataset(dataset: &RawDataset, progress: &(dyn Fn(&str) + Sync)) -> IntegrityReport {
    let checked: Vec<CaseCheck> = dataset
        .cases
        .par_iter()
        .map(|case| {
            let check = check_case(case, dataset);
            progress(&case.name);
            check
        })
        .collect();
    let mut label_voxels = BTreeMap::new();
    for (&label, voxels) in checked.iter().flat_map(|c| &c.labels) {
        *label_voxels.entry(label).or_insert(0) += voxels;
    }
    let mut problems = check_description(dataset);
    problems.extend(unused_labels(dataset, &label_voxels, &checked));
    problems.extend(cohort::orientations(dataset, &checked));
    let between = cohort::outliers(&checked).into_iter().chain(digest_problems(dataset, &checked));
    // Problems of a case stand together, those that only other cases show after its own.
    let mut of_case: HashMap<String, Vec<Problem>> = HashMap::new();
    for problem in between {
        of_case.entry(problem.case.clone().unwrap_or_default()).or_default().push(problem);
    }
    for check in checked {
        problems.extend(check.problems);
        problems.extend(of_case.remove(&check.case).unwrap_or_default());
    }
    IntegrityReport { cases: dataset.cases.len(), problems, label_voxels }
}

/// The errors of a dataset that its description and the headers of its files tell, without a voxel being read.
///
/// A file that cannot be read is left out: it fails with its own message when its case is used.
pub fn header_errors(dataset: &RawDataset) -> Vec<Problem> {
    let checked: Vec<CaseCheck> = dataset.cases.par_iter().map(|case| check_headers(case, dataset)).collect();
    let mut problems = check_description(dataset);
    problems.extend(cohort::outliers(&checked));
    problems.extend(checked.into_iter().filter(|c| !c.unreadable).flat_map(|c| c.problems));
    problems.retain(|p| p.severity == Severity::Error);
    problems
}

/// Cases whose voxels are those of another case.
fn digest_problems(dataset: &RawDataset, cases: &[CaseCheck]) -> Vec<Problem> {
    let known: Vec<(&str, &CaseDigest)> =
        cases.iter().filter_map(|c| Some((c.case.as_str(), c.digest.as_ref()?))).collect();
    let problem = |twin: Twin| {
        let case = dataset.cases.iter().find(|c| c.name == twin.case);
        let image = |c: &RawCase| {
            let (channel, _) = twin.channel?;
            c.images.get(channel).or(c.images.first()).cloned()
        };
        Problem {
            severity: twin.severity(),
            path: case.map(|c| image(c).unwrap_or_else(|| c.labels.clone())),
            message: twin.message(),
            hint: Some(twin.hint().to_owned()),
            case: Some(twin.case),
        }
    };
    twins(&known).into_iter().map(problem).collect()
}

/// Problems of the dataset as a whole that its description and the names of its files tell.
fn check_description(dataset: &RawDataset) -> Vec<Problem> {
    let mut problems = Vec::new();
    let file = dataset.folder.join("dataset.json");
    let mut add = |severity, path: &Path, message: String| {
        problems.push(Problem { severity, case: None, path: Some(path.to_owned()), message, hint: None });
    };
    let description = &dataset.description;
    let count = dataset.cases.len();
    match description.num_training {
        Some(n) if n == count => {}
        Some(n) => {
            add(
                Severity::Error,
                &file,
                format!("`numTraining` is {n}, but there are {count} training cases"),
            );
        }
        None => {
            add(Severity::Warning, &file, format!("`numTraining` is missing; found {count} training cases"));
        }
    }
    if description.raw.get("channel_names").is_none() {
        let message = "`modality` and turned round `labels` are those of nnU-Net v1; planning converts them";
        add(Severity::Warning, &file, message.to_owned());
    }
    let declared = description.labels.declared();
    if declared.windows(2).any(|pair| pair[1] != pair[0] + 1) {
        let message =
            format!("label values must follow each other without a gap, but they are {}", list(&declared));
        add(Severity::Error, &file, message);
    }
    if count < 5 {
        let message = format!(
            "{} {} too few for five folds; train on all of them with `-f all`",
            glioseg_diagnose::count(count, "case"),
            if count == 1 { "is" } else { "are" }
        );
        add(Severity::Warning, &dataset.folder, message);
    }
    for stray in &dataset.strays {
        add(Severity::Warning, stray, "belongs to no training case".to_owned());
    }
    // Two links to one file are one file.
    let mut users: BTreeMap<PathBuf, Vec<(&str, &Path)>> = BTreeMap::new();
    for case in &dataset.cases {
        for path in case.images.iter().chain([&case.labels]) {
            let file = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            users.entry(file).or_default().push((&case.name, path));
        }
    }
    for users in users.into_values().filter(|users| users.len() > 1) {
        let names: Vec<&str> = users.iter().map(|(name, _)| *name).collect();
        add(
            Severity::Error,
            users[0].1,
            format!("is used {} times: by {}", names.len(), first_few(&names, 5)),
        );
    }
    problems
}

/// Labels that no case has.
fn unused_labels(dataset: &RawDataset, seen: &BTreeMap<u16, u64>, cases: &[CaseCheck]) -> Vec<Problem> {
    if !cases.iter().any(|c| c.labels_read) {
        return Vec::new();
    }
    let labels = &dataset.description.labels;
    let unused = labels.all_labels().iter().filter(|l| !seen.contains_key(l)).map(|&label| {
        let names: Vec<&str> = labels
            .entries()
            .iter()
            .filter(|entry| entry.values.contains(&label))
            .map(|entry| entry.name.as_str())
            .collect();
        Problem {
            severity: Severity::Warning,
            case: None,
            path: Some(dataset.folder.join("labelsTr")),
            message: format!("label {label} ({}) occurs in no case", names.join(", ")),
            hint: None,
        }
    });
    unused.collect()
}

/// What was found in one case.
#[derive(Default)]
struct CaseCheck {
    case: String,
    problems: Vec<Problem>,
    labels: BTreeMap<u16, u64>,
    labels_read: bool,
    /// Its first image, and what the header of it says.
    first: Option<PathBuf>,
    geometry: Option<Geometry>,
    /// What its voxels are, once they were read.
    digest: Option<CaseDigest>,
    /// A file of it cannot be read.
    unreadable: bool,
}

impl CaseCheck {
    fn add(&mut self, severity: Severity, path: &Path, message: String) {
        let case = Some(self.case.clone());
        self.problems.push(Problem { severity, case, path: Some(path.to_owned()), message, hint: None });
    }

    /// Adds a sentence that begins with the file's name.
    fn odd(&mut self, path: &Path, sentence: &str) {
        let file = path.display().to_string();
        let message = sentence.strip_prefix(&file).unwrap_or(sentence).trim_start_matches(": ");
        self.add(Severity::Warning, path, message.to_owned());
    }

    fn unreadable(&mut self, path: &Path, error: &FormatError) {
        self.unreadable = true;
        self.problems.push(Problem {
            severity: Severity::Error,
            case: Some(self.case.clone()),
            path: Some(path.to_owned()),
            message: error.to_string(),
            hint: error.hint(),
        });
    }

    /// Compares the grid of a file with that of the first image.
    fn compare(&mut self, first: &(PathBuf, Geometry), path: &Path, geometry: &Geometry) {
        let (first_path, first) = first;
        let same: GridComparison = first.same_grid(geometry);
        let name = first_path.file_name().unwrap_or_default().to_string_lossy();
        let mut differs = |severity, what: &str, own: String, other: String| {
            self.add(severity, path, format!("has {what} {own}, but {name} has {other}"));
        };
        if !same.shape {
            let (own, other) = (format!("{:?}", geometry.shape), format!("{:?}", first.shape));
            differs(Severity::Error, "shape (z, y, x)", own, other);
        }
        if !same.spacing {
            let (own, other) = (format!("{:?}", geometry.spacing), format!("{:?}", first.spacing));
            differs(Severity::Error, "spacing (z, y, x; mm)", own, other);
        }
        if !same.origin {
            let (own, other) = (format!("{:?}", geometry.origin()), format!("{:?}", first.origin()));
            differs(Severity::Warning, "origin (x, y, z; mm)", own, other);
        }
        if !same.direction {
            let (own, other) = (format!("{:?}", geometry.direction()), format!("{:?}", first.direction()));
            differs(Severity::Warning, "axis directions", own, other);
        }
    }
}

/// Headers first, then voxels.
fn check_case(case: &RawCase, dataset: &RawDataset) -> CaseCheck {
    let mut check = check_headers(case, dataset);
    let mut images = Vec::new();
    for path in &case.images {
        // Files whose header cannot be read are named already.
        let Ok(info) = read_info(path) else { continue };
        images.extend(check_voxels(&mut check, path, &info));
    }
    let whole = images.len() == case.images.len();
    let Some(map) = check_labels(&mut check, case, dataset) else { return check };
    if whole && images.iter().all(|image| image.shape() == map.shape()) {
        check.digest = Some(CaseDigest::of(&images, &map));
        if let Some(found) = alignment::misplaced(&images, &map) {
            check.problems.push(Problem {
                severity: Severity::Warning,
                case: Some(case.name.clone()),
                path: Some(case.labels.clone()),
                message: found,
                hint: Some(
                    "look at image and label map together; was one of them turned or cut alone?".to_owned(),
                ),
            });
        }
    }
    check
}

/// What the headers of a case tell.
fn check_headers(case: &RawCase, dataset: &RawDataset) -> CaseCheck {
    let mut check =
        CaseCheck { case: case.name.clone(), first: case.images.first().cloned(), ..CaseCheck::default() };
    let mut first: Option<(PathBuf, Geometry)> = None;
    let mut channels = Some(0);
    for (number, path) in case.images.iter().enumerate() {
        let expected = format!("_{number:04}{}", dataset.description.file_ending);
        if dataset.description.raw.get("dataset").is_none()
            && case.images.len() > 1
            && !path.to_string_lossy().ends_with(&expected)
        {
            check.add(
                Severity::Error,
                path,
                format!("is channel file {number} of its case, so its name should end in {expected}"),
            );
        }
        match read_info(path) {
            Ok(info) => {
                channels = channels.map(|n| n + info.channels);
                match &first {
                    None => first = Some((path.clone(), info.geometry.clone())),
                    Some(first) => check.compare(first, path, &info.geometry),
                }
            }
            Err(error) => {
                channels = None;
                check.unreadable(path, &error);
            }
        }
    }
    let names = &dataset.description.channel_names;
    if let Some(found) = channels
        && found != names.len()
    {
        let path = case.images.first().unwrap_or(&case.labels);
        let message = format!(
            "the case has {} in {}, but dataset.json names {}: {}",
            count(found, "channel"),
            count(case.images.len(), "file"),
            names.len(),
            names.join(", ")
        );
        check.add(Severity::Error, path, message);
    }
    match read_info(&case.labels) {
        Ok(info) => {
            if let Some(first) = &first {
                check.compare(first, &case.labels, &info.geometry);
            }
        }
        Err(error) => check.unreadable(&case.labels, &error),
    }
    check.geometry = first.map(|(_, geometry)| geometry);
    check
}

/// Looks at the voxels of an image file, channel by channel.
fn check_voxels(check: &mut CaseCheck, path: &Path, info: &ImageInfo) -> Option<Volume> {
    let (mut volume, infos) = match read_stack(&[path]) {
        Ok(read) => read,
        Err(error) => {
            check.unreadable(path, &error);
            return None;
        }
    };
    for odd in odd_images(&[path], &infos, &mut volume) {
        check.odd(path, &odd);
    }
    for channel in 0..info.channels {
        let values = volume.channel(channel);
        if values.iter().all(|v| v.to_bits() == values[0].to_bits()) {
            let which = if info.channels > 1 { format!("channel {channel}: ") } else { String::new() };
            check.add(Severity::Warning, path, format!("{which}every voxel is {}", values[0]));
        }
    }
    Some(volume)
}

fn check_labels(check: &mut CaseCheck, case: &RawCase, dataset: &RawDataset) -> Option<LabelMap> {
    let path = &case.labels;
    // A header that cannot be read is named already.
    read_info(path).ok()?;
    let mut oddities = Vec::new();
    let map = match read_labels_noting(path, &mut oddities) {
        Ok(map) => map,
        Err(error) => {
            check.unreadable(path, &error);
            return None;
        }
    };
    for odd in &oddities {
        check.odd(path, odd);
    }
    check.labels_read = true;
    check.labels = map.counts().into_iter().map(|(label, n)| (label, n as u64)).collect();
    let declared = dataset.description.labels.declared();
    let strange: Vec<String> = check
        .labels
        .iter()
        .filter(|(label, _)| !declared.contains(label))
        .map(|(label, n)| format!("{label} ({n} voxels)"))
        .collect();
    if !strange.is_empty() {
        let shown: Vec<&str> = strange.iter().map(String::as_str).collect();
        let message = format!(
            "has labels that dataset.json does not declare: {}; it declares {}",
            first_few(&shown, 5),
            list(&declared)
        );
        check.add(Severity::Error, path, message);
    }
    if check.labels.keys().all(|&label| label == 0) {
        check.add(Severity::Warning, path, "has no foreground: every voxel is 0".to_owned());
    }
    Some(map)
}

fn list(labels: &[u16]) -> String {
    labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
