//! From the folders of a BraTS challenge to a raw dataset that nnU-Net and this program train on.
//!
//! Names and label codings changed over the years, and a dataset that mixes them trains on nonsense. So the whole cohort is looked at
//! before anything is written: names must be of one edition, and all label maps of one coding ([`survey`]). Only then are files linked,
//! and label maps rewritten where their values are not consecutive ([`write_dataset`]).
//!
//! | editions | names | coding | becomes |
//! | --- | --- | --- | --- |
//! | 2018 to 2022 | `BraTS20_Training_001_t1ce`, in `HGG` and `LGG` until 2019 | 1-2-4 | 1 oedema, 2 necrotic core, 3 enhancing, as nnU-Net's example has it |
//! | 2023 | `BraTS-GLI-00000-000-t1c` | 1-2-3 | as it is |
//! | 2024, after treatment | as 2023 | 1-2-3, and 4 resection cavity | as it is, with the cavity as fourth region |
//!
//! Left out: the editions for children, whose labels mean something else.

mod names;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use glioseg_formats::nifti;
use rayon::prelude::*;

use crate::{Convention, Evidence, PlanError};
pub use names::Edition;
use names::{BratsFile, Kind, brats_file, image_files};
pub use write::{Linking, WrittenDataset, write_dataset};

/// The files of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BratsCase {
    /// Its name.
    pub name: String,
    /// T1, enhanced T1, T2, FLAIR.
    pub images: [PathBuf; 4],
    /// Its label map; a test case has none.
    pub labels: Option<PathBuf>,
}

/// What the folders hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Cohort {
    /// Whose names they are.
    pub edition: Edition,
    /// The coding of all label maps.
    pub coding: Convention,
    /// Whether label values tell the coding; else the edition does.
    pub coding_seen: bool,
    /// How all files end, `.nii.gz` or `.nii`.
    pub ending: String,
    /// Cases with all four channels, sorted by name.
    pub cases: Vec<BratsCase>,
    /// Cases that lack channels: name, and which.
    pub incomplete: Vec<(String, String)>,
    /// Other image files, which are left alone.
    pub others: Vec<PathBuf>,
    /// Label values that occur, ascending.
    pub label_values: Vec<u16>,
}

impl Cohort {
    /// Cases with a label map.
    pub fn labelled(&self) -> usize {
        self.cases.iter().filter(|c| c.labels.is_some()).count()
    }
}

/// Looks at every file name below `source`, and into every label map.
///
/// `coding` is believed where the labels do not contradict it; without it the coding is told from the labels and the edition.
///
/// # Errors
/// [`PlanError::NoCases`]; [`PlanError::MixedCohort`] with a file of either side; [`PlanError::StrangeLabels`];
/// [`PlanError::UnclearCoding`]; errors of reading.
pub fn survey(source: &Path, coding: Option<Convention>) -> Result<Cohort, PlanError> {
    let files = image_files(source)?;
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for path in files {
        match brats_file(&path) {
            Some(file) => found.push((path, file)),
            None => others.push(path),
        }
    }
    let Some((first_path, first)) = found.iter().find(|(_, f)| f.kind != Kind::Labels) else {
        let example = others.first().map(|p| format!(", such as {}", p.display())).unwrap_or_default();
        let reason = format!("no file has a BraTS name; there are {} other images{example}", others.len());
        return Err(PlanError::NoCases { folder: source.to_owned(), reason });
    };
    let (edition, ending) = (first.edition.clone(), first.ending);
    for (path, file) in &found {
        let mixed = |what, first: String, second: String| PlanError::MixedCohort {
            what,
            first,
            first_path: first_path.clone(),
            second,
            second_path: path.clone(),
        };
        if file.edition != edition {
            return Err(mixed("editions", edition.to_string(), file.edition.to_string()));
        }
        if file.ending != ending {
            return Err(mixed("file endings", ending.to_owned(), file.ending.to_owned()));
        }
    }
    if edition.is_paediatric() {
        let reason = format!("{edition} has other labels than the adult editions");
        return Err(PlanError::UnclearCoding { path: first_path.clone(), reason });
    }
    let ending = ending.to_owned();
    let (cases, incomplete) = group(found, &mut others)?;
    let seen = look_into_labels(&cases)?;
    let (coding, coding_seen) = decide(&edition, &seen, coding, source)?;
    let mut label_values: Vec<u16> = seen.iter().flat_map(|s| s.evidence.labels.iter().copied()).collect();
    label_values.sort_unstable();
    label_values.dedup();
    Ok(Cohort { edition, coding, coding_seen, ending, cases, incomplete, others, label_values })
}

type Grouped = (Vec<BratsCase>, Vec<(String, String)>);

/// Files by case. A label map of another name in a case's folder (2020 has one) is told by its ending `Segm`.
fn group(found: Vec<(PathBuf, BratsFile)>, others: &mut Vec<PathBuf>) -> Result<Grouped, PlanError> {
    let mut slots: BTreeMap<String, [Option<PathBuf>; 5]> = BTreeMap::new();
    for (path, file) in found {
        let slot = &mut slots.entry(file.case.clone()).or_default()[file.kind.slot()];
        if let Some(first) = slot {
            return Err(PlanError::Case {
                case: file.case,
                reason: format!("is there twice: {} and {}", first.display(), path.display()),
                path,
            });
        }
        *slot = Some(path);
    }
    let (mut cases, mut incomplete) = (Vec::new(), Vec::new());
    for (name, slot) in slots {
        let missing: Vec<&str> = (0..4).filter(|&c| slot[c].is_none()).map(|c| Kind::CHANNELS[c]).collect();
        let [Some(t1), Some(t1c), Some(t2), Some(flair), labels] = slot else {
            incomplete.push((name, missing.join(", ")));
            continue;
        };
        let folder = t1.parent().map(Path::to_path_buf);
        let odd = |p: &PathBuf| {
            let stem = p.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            p.parent().map(Path::to_path_buf) == folder
                && stem.split(".nii").next().is_some_and(|s| s.ends_with("segm"))
        };
        let labels = labels.or_else(|| others.iter().position(odd).map(|at| others.remove(at)));
        cases.push(BratsCase { name, images: [t1, t1c, t2, flair], labels });
    }
    Ok((cases, incomplete))
}

/// What one label map says.
struct Seen {
    path: PathBuf,
    evidence: Evidence,
}

impl Seen {
    fn has(&self, label: u16) -> bool {
        self.evidence.labels.binary_search(&label).is_ok()
    }
}

fn look_into_labels(cases: &[BratsCase]) -> Result<Vec<Seen>, PlanError> {
    let seen = cases.par_iter().filter_map(|case| case.labels.as_ref()).map(|path| {
        let map = nifti::read_labels(path)?;
        let mut evidence = Evidence::default();
        evidence.add(&map.data, map.geometry.shape);
        Ok(Seen { path: path.clone(), evidence })
    });
    let seen = seen.collect::<Result<Vec<_>, PlanError>>()?;
    let strange: Vec<&Seen> = seen.iter().filter(|s| s.evidence.labels.iter().any(|&v| v > 4)).collect();
    match strange.first() {
        None => Ok(seen),
        Some(first) => Err(PlanError::StrangeLabels {
            path: first.path.clone(),
            labels: first.evidence.labels.iter().copied().filter(|&v| v > 4).collect(),
            more: strange.len() - 1,
        }),
    }
}

/// The coding of the cohort, and whether the labels themselves tell it.
fn decide(
    edition: &Edition,
    seen: &[Seen],
    told: Option<Convention>,
    source: &Path,
) -> Result<(Convention, bool), PlanError> {
    let with = |label: u16| seen.iter().find(|s| s.has(label));
    let (three, four) = (with(3), with(4));
    let unclear = |path: &Path, reason: String| PlanError::UnclearCoding { path: path.to_owned(), reason };
    if let Some(told) = told {
        let known = told.known();
        return match seen.iter().find(|s| s.evidence.labels.iter().any(|v| !known.contains(v))) {
            None => Ok((told, true)),
            Some(s) => {
                let labels: Vec<String> = s.evidence.labels.iter().map(ToString::to_string).collect();
                Err(unclear(
                    &s.path,
                    format!("it has the labels {}, which {} does not", labels.join(", "), told.describe()),
                ))
            }
        };
    }
    // How the labels 1 and 2 of the whole cohort border on background.
    let mut border = Evidence { labels: vec![0, 1, 2], outside: [0, 0] };
    for s in seen {
        border.outside[0] += s.evidence.outside[0];
        border.outside[1] += s.evidence.outside[1];
    }
    let by_border = border.guess();
    let by_name = if edition.is_dashed() { Convention::Brats123 } else { Convention::Brats124 };
    let coding = match (three, four) {
        (None, None) => by_name,
        (None, Some(four)) if edition.is_dashed() => {
            let reason = format!("{edition} has 3 for enhancing tumour, but the cohort has label 4 and no 3");
            return Err(unclear(&four.path, reason));
        }
        (None, Some(_)) => Convention::Brats124,
        (Some(_), Some(_)) if edition.is_dashed() => Convention::Brats1234,
        (Some(three), Some(four)) => {
            if seen.iter().any(|s| s.has(3) && s.has(4)) {
                let reason = format!("{edition} has no label 3 next to 4");
                return Err(unclear(&three.path, reason));
            }
            return Err(PlanError::MixedCohort {
                what: "label codings",
                first: "label 3".into(),
                first_path: three.path.clone(),
                second: "label 4".into(),
                second_path: four.path.clone(),
            });
        }
        (Some(_), None) if edition.is_dashed() => Convention::Brats123,
        // Files of before 2023 with labels of after, or as nnU-Net has them: the oedema tells.
        (Some(three), None) => by_border.ok_or_else(|| {
            unclear(
                &three.path,
                format!("{edition} has 4 for enhancing tumour, but the cohort has label 3 and no 4"),
            )
        })?,
    };
    let parts = coding.parts();
    if let Some(seen_as) = by_border
        && (seen_as.parts().necrosis, seen_as.parts().oedema) != (parts.necrosis, parts.oedema)
    {
        let reason = format!(
            "labels look like {}, not {}: label {} has by far the longer border with background, as oedema has",
            seen_as.describe(),
            coding.describe(),
            seen_as.parts().oedema
        );
        return Err(unclear(source, reason));
    }
    Ok((coding, three.is_some() || four.is_some()))
}
