//! Is a raw dataset fit to train on? Every problem of every case, in one list.
//!
//! What nnU-Net's `--verify_dataset_integrity` checks, and more: it stops at the first kind of problem, here all files
//! are looked at whatever is wrong with others. One image file per thread is held at a time.

use crate::raw::odd_images;
use crate::splits::some_of;
use crate::{RawCase, RawDataset};
use glioseg_diagnose::Diagnose as _;
use glioseg_formats::FormatError;
use glioseg_formats::nifti::{ImageInfo, read_info, read_labels_noting, read_stack};
use glioseg_volume::{Geometry, GridComparison};
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
    let mut problems = check_description(dataset, &label_voxels, &checked);
    problems.extend(checked.into_iter().flat_map(|c| c.problems));
    IntegrityReport { cases: dataset.cases.len(), problems, label_voxels }
}

/// Problems of the dataset as a whole.
fn check_description(dataset: &RawDataset, seen: &BTreeMap<u16, u64>, cases: &[CaseCheck]) -> Vec<Problem> {
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
            add(Severity::Error, &file, format!("`numTraining` is missing; found {count} training cases"));
        }
    }
    if description.raw.get("channel_names").is_none() {
        let message = "`modality` and turned round `labels` are those of nnU-Net v1; planning converts them";
        add(Severity::Warning, &file, message.to_owned());
    }
    let labels = &description.labels;
    let declared: Vec<u16> = labels.all_labels().iter().copied().chain(labels.ignore_label()).collect();
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
    if cases.iter().any(|c| c.labels_read) {
        for &label in labels.all_labels().iter().filter(|l| !seen.contains_key(l)) {
            let names: Vec<&str> = labels
                .entries()
                .iter()
                .filter(|entry| entry.values.contains(&label))
                .map(|entry| entry.name.as_str())
                .collect();
            let message = format!("label {label} ({}) occurs in no case", names.join(", "));
            add(Severity::Warning, &dataset.folder.join("labelsTr"), message);
        }
    }
    for stray in &dataset.strays {
        add(Severity::Warning, stray, "belongs to no training case".to_owned());
    }
    let mut users: HashMap<&Path, Vec<&str>> = HashMap::new();
    for case in &dataset.cases {
        for path in case.images.iter().chain([&case.labels]) {
            users.entry(path).or_default().push(&case.name);
        }
    }
    let mut shared: Vec<_> = users.into_iter().filter(|(_, names)| names.len() > 1).collect();
    shared.sort_unstable();
    for (path, names) in shared {
        add(Severity::Error, path, format!("is used {} times: by {}", names.len(), some_of(&names)));
    }
    problems
}

/// What was found in one case.
#[derive(Default)]
struct CaseCheck {
    case: String,
    problems: Vec<Problem>,
    labels: BTreeMap<u16, u64>,
    labels_read: bool,
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

fn check_case(case: &RawCase, dataset: &RawDataset) -> CaseCheck {
    let mut check = CaseCheck { case: case.name.clone(), ..CaseCheck::default() };
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
                check_voxels(&mut check, path, &info);
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
            "the case has {found} channels in {} files, but dataset.json names {}: {}",
            case.images.len(),
            names.len(),
            names.join(", ")
        );
        check.add(Severity::Error, path, message);
    }
    check_labels(&mut check, case, dataset, first.as_ref());
    check
}

/// Looks at the voxels of an image file, channel by channel.
fn check_voxels(check: &mut CaseCheck, path: &Path, info: &ImageInfo) {
    let (mut volume, infos) = match read_stack(&[path]) {
        Ok(read) => read,
        Err(error) => return check.unreadable(path, &error),
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
}

fn check_labels(
    check: &mut CaseCheck,
    case: &RawCase,
    dataset: &RawDataset,
    first: Option<&(PathBuf, Geometry)>,
) {
    let path = &case.labels;
    match read_info(path) {
        Ok(info) => {
            if let Some(first) = first {
                check.compare(first, path, &info.geometry);
            }
        }
        Err(error) => return check.unreadable(path, &error),
    }
    let mut oddities = Vec::new();
    let map = match read_labels_noting(path, &mut oddities) {
        Ok(map) => map,
        Err(error) => return check.unreadable(path, &error),
    };
    oddities.iter().for_each(|odd| check.odd(path, odd));
    check.labels_read = true;
    let mut counts = vec![0u64; 1 << 16];
    map.data.iter().for_each(|&label| counts[usize::from(label)] += 1);
    check.labels = (0..=u16::MAX).zip(counts).filter(|&(_, n)| n > 0).collect();
    let labels = &dataset.description.labels;
    let declared = |label: u16| labels.all_labels().contains(&label) || labels.ignore_label() == Some(label);
    let strange: Vec<String> = check
        .labels
        .iter()
        .filter(|(label, _)| !declared(**label))
        .map(|(label, n)| format!("{label} ({n} voxels)"))
        .collect();
    if !strange.is_empty() {
        let all: Vec<u16> = labels.all_labels().iter().copied().chain(labels.ignore_label()).collect();
        let shown: Vec<&str> = strange.iter().map(String::as_str).collect();
        let message = format!(
            "has labels that dataset.json does not declare: {}; it declares {}",
            some_of(&shown),
            list(&all)
        );
        check.add(Severity::Error, path, message);
    }
    if check.labels.keys().all(|&label| label == 0) {
        check.add(Severity::Warning, path, "has no foreground: every voxel is 0".to_owned());
    }
}

fn list(labels: &[u16]) -> String {
    labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
