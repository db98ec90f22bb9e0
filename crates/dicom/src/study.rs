//! From the files of a folder to studies, series and volumes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glioseg_diagnose::{count, first_few};
use rayon::prelude::*;

use crate::DicomError;
use crate::file::{Facts, Instance, Kind, read};
use crate::guard::{Checked, PixelPlace, check};
use crate::pixels::{is_decoded, syntax_name};
use crate::role::FEWEST;
use crate::stack::{Slice, Stack};

/// Folders inside each other that are looked into.
const LEVELS: usize = 8;
/// Files that are looked at.
const FILES: usize = 200_000;

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Studies {
    /// By date, then UID.
    pub studies: Vec<Study>,
    /// Files that cannot be read, with the reason.
    pub bad: Vec<DicomError>,
    /// Other DICOM objects, by the name of their class.
    pub others: BTreeMap<String, usize>,
    /// Files that are not DICOM.
    pub foreign: usize,
}

/// One visit to the scanner.
#[derive(Debug)]
pub struct Study {
    /// Its identity (`StudyInstanceUID`).
    pub uid: String,
    /// `yyyymmdd`; may be empty.
    pub date: String,
    /// By number.
    pub series: Vec<Series>,
}

/// Files that belong together, as the scanner says.
#[derive(Debug)]
pub struct Series {
    /// Its identity (`SeriesInstanceUID`).
    pub uid: String,
    /// Its number in the study.
    pub number: Option<i64>,
    /// What it is called.
    pub description: String,
    /// What tells its contrast.
    pub facts: Facts,
    /// How many files it has.
    pub files: usize,
    /// Its volumes.
    pub stacks: Vec<Stack>,
    /// What was noticed, in words.
    pub notes: Vec<String>,
    /// Why it cannot be used as it is.
    pub left_out: Option<LeftOut>,
}

/// Why a series cannot be used as it is.
#[derive(Debug)]
pub enum LeftOut {
    /// Something is wrong with it.
    Fault(DicomError),
    /// It is not a volume, in words.
    NotAVolume(String),
}

impl Series {
    /// `series 4 (AX FLAIR)`.
    pub fn title(&self) -> String {
        title(self.number, &self.description, &self.uid)
    }
}

fn title(number: Option<i64>, description: &str, uid: &str) -> String {
    let number = number.map_or_else(|| uid.to_owned(), |n| n.to_string());
    if description.is_empty() {
        format!("series {number}")
    } else {
        format!("series {number} ({description})")
    }
}

impl Studies {
    /// Looks at all files of a folder and the folders in it, or at one file; pixels are not read yet.
    ///
    /// # Errors
    /// [`DicomError::Read`] for the folder, [`DicomError::TooMany`]. What is wrong with files and series is told by the result.
    pub fn read_all(folder: &Path) -> Result<Self, DicomError> {
        let mut files = Vec::new();
        if folder.is_file() {
            files.push(folder.to_owned());
        } else {
            list(folder, LEVELS, &mut files)?;
        }
        files.sort();
        let mut found = Self::default();
        let mut studies: BTreeMap<(String, String), BTreeMap<String, Vec<Instance>>> = BTreeMap::new();
        let kinds: Vec<Result<Kind, DicomError>> = files.par_iter().map(|file| read(file)).collect();
        for kind in kinds {
            match kind {
                Ok(Kind::Image(instance)) => {
                    let study =
                        studies.entry((instance.study_date.clone(), instance.study.clone())).or_default();
                    study.entry(instance.series.clone()).or_default().push(*instance);
                }
                Ok(Kind::Other(class)) => *found.others.entry(class).or_default() += 1,
                Ok(Kind::Foreign) => found.foreign += 1,
                Err(error) => found.bad.push(error),
            }
        }
        found.studies = studies
            .into_iter()
            .map(|((date, uid), series)| {
                let mut series: Vec<Series> = series.into_values().map(series_of).collect();
                series.sort_by(|a, b| (a.number, &a.uid).cmp(&(b.number, &b.uid)));
                Study { uid, date, series }
            })
            .collect();
        Ok(found)
    }

    /// What there is instead of images, in words; empty where there is nothing.
    pub fn others_in_words(&self) -> String {
        let mut parts: Vec<String> = self.others.iter().map(|(class, n)| format!("{n} of {class}")).collect();
        if self.foreign > 0 {
            parts.push(format!(
                "{} that {} not DICOM",
                count(self.foreign, "file"),
                if self.foreign == 1 { "is" } else { "are" }
            ));
        }
        if !self.bad.is_empty() {
            parts.push(format!("{} that cannot be read", count(self.bad.len(), "file")));
        }
        first_few(&parts, 6)
    }
}

fn list(folder: &Path, levels: usize, files: &mut Vec<PathBuf>) -> Result<(), DicomError> {
    let failed = |source| DicomError::Read { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            if levels > 0 {
                list(&path, levels - 1, files)?;
            }
        } else if files.len() >= FILES {
            return Err(DicomError::TooMany { path: folder.to_owned(), most: FILES });
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Sorts the files of a series into volumes.
fn series_of(instances: Vec<Instance>) -> Series {
    let first = &instances[0];
    let mut series = Series {
        uid: first.series.clone(),
        number: first.series_number,
        description: first.description.clone(),
        facts: first.facts.clone(),
        files: instances.len(),
        stacks: Vec::new(),
        notes: Vec::new(),
        left_out: None,
    };
    let name = series.title();
    match stacks_of(instances, &name, series.number, &mut series.notes) {
        Ok(Found { stacks, left_out }) => (series.stacks, series.left_out) = (stacks, left_out),
        Err(fault) => series.left_out = Some(LeftOut::Fault(fault)),
    }
    series
}

struct Found {
    stacks: Vec<Stack>,
    left_out: Option<LeftOut>,
}

fn stacks_of(
    instances: Vec<Instance>,
    name: &str,
    number: Option<i64>,
    notes: &mut Vec<String>,
) -> Result<Found, DicomError> {
    let nothing =
        |reason: String| Ok(Found { stacks: Vec::new(), left_out: Some(LeftOut::NotAVolume(reason)) });
    let instances = without_copies(instances, name, notes)?;
    if instances.iter().any(|i| i.pixels.samples != 1) {
        return nothing("its pixels are colours".into());
    }
    if instances.iter().any(|i| i.facts.image_type.iter().any(|kind| kind == "MOSAIC")) {
        return nothing("its slices are tiles of one picture (mosaic)".into());
    }
    if let Some(other) = instances.iter().find(|i| !is_decoded(&i.syntax)) {
        let (path, uid) = (other.path.clone(), other.syntax.clone());
        return Err(DicomError::Syntax { path, name: syntax_name(&uid), uid });
    }
    let mut slices = Vec::new();
    for instance in instances {
        let instance = Arc::new(instance);
        for frame in 0..instance.frames.len() {
            slices.push(Slice::new(&instance, frame)?);
        }
    }
    let groups = groups_of(slices);
    let large = groups.iter().filter(|g| g.len() >= FEWEST).count();
    let mut sizes: Vec<(usize, usize, usize)> = Vec::new();
    for group in &groups {
        let (rows, columns) = group[0].size();
        match sizes.iter_mut().find(|(r, c, _)| (*r, *c) == (rows, columns)) {
            Some((.., slices)) => *slices += group.len(),
            None => sizes.push((rows, columns, group.len())),
        }
    }
    let all: usize = groups.iter().map(Vec::len).sum();
    let orientations =
        groups.iter().enumerate().filter(|(i, g)| groups[..*i].iter().all(|o| !o[0].is_parallel_to(&g[0])));
    let orientations = orientations.count();
    if large == 0 && orientations > 1 {
        return nothing(format!("its {} lie in {orientations} orientations", count(all, "slice")));
    }
    // A short series is a volume all the same where it has nothing else.
    let fewest = if large == 0 { 2 } else { FEWEST };
    if groups.iter().all(|g| g.len() < fewest) {
        return nothing(format!("it has {} only", count(all, "slice")));
    }
    if sizes.len() > 1 && large < groups.len() {
        return Err(DicomError::MixedSizes { series: name.to_owned(), sizes });
    }
    let small: usize = groups.iter().filter(|g| g.len() < fewest).map(Vec::len).sum();
    if small > 0 {
        notes.push(format!(
            "{} of another kind or direction {} left out",
            count(small, "slice"),
            if small == 1 { "is" } else { "are" }
        ));
    }
    let groups: Vec<Vec<Slice>> = groups.into_iter().filter(|g| g.len() >= fewest).collect();
    // Volumes that differ in nothing but their time are one scan again and again: nobody can say which is meant.
    let of_a_time = groups.iter().filter(|g| g[0].part().time.is_some()).count();
    let times = groups.iter().enumerate().any(|(i, g)| {
        groups[..i].iter().any(|o| {
            o[0].part().time != g[0].part().time && o[0].part().without_time() == g[0].part().without_time()
        })
    });
    let several = groups.len() > 1;
    let own = number.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let stacks = groups.into_iter().enumerate().map(|(i, slices)| {
        let stack = if several { format!("{own}.{}", i + 1) } else { own.clone() };
        Stack::new(stack, slices, name)
    });
    let stacks = stacks.collect::<Result<Vec<_>, _>>()?;
    let left_out = (times && of_a_time > 1).then(|| {
        LeftOut::Fault(DicomError::SeveralVolumes { series: name.to_owned(), volumes: stacks.len() })
    });
    Ok(Found { stacks, left_out })
}

/// Leaves out files that are there twice.
fn without_copies(
    mut instances: Vec<Instance>,
    name: &str,
    notes: &mut Vec<String>,
) -> Result<Vec<Instance>, DicomError> {
    instances.sort_by(|a, b| (&a.sop_uid, &a.path).cmp(&(&b.sop_uid, &b.path)));
    let mut kept: Vec<Instance> = Vec::with_capacity(instances.len());
    let mut copies = 0;
    for instance in instances {
        match kept.last().filter(|last| last.sop_uid == instance.sop_uid) {
            None => kept.push(instance),
            Some(last)
                if last.frames == instance.frames
                    && last.pixels == instance.pixels
                    && same_pixels(last, &instance)? =>
            {
                copies += 1;
            }
            Some(last) => {
                let (first, second) = (last.path.clone(), instance.path);
                return Err(DicomError::Duplicate { series: name.to_owned(), first, second });
            }
        }
    }
    if copies > 0 {
        notes.push(format!(
            "{} of it {} there twice; one copy of each is used",
            count(copies, "file"),
            if copies == 1 { "is" } else { "are" }
        ));
    }
    Ok(kept)
}

fn same_pixels(a: &Instance, b: &Instance) -> Result<bool, DicomError> {
    let load = |i: &Instance| {
        std::fs::read(&i.path).map_err(|source| DicomError::Read { path: i.path.clone(), source })
    };
    let (a, b) = (load(a)?, load(b)?);
    let (Ok(a), Ok(b)) = (check(&a), check(&b)) else { return Ok(false) };
    Ok(stored(&a) == stored(&b))
}

fn stored<'a>(checked: &'a Checked<'_>) -> Vec<&'a [u8]> {
    match &checked.pixels {
        None => Vec::new(),
        Some(PixelPlace::Native(range)) => vec![&checked.bytes[range.clone()]],
        Some(PixelPlace::Fragments { fragments, .. }) => {
            fragments.iter().map(|range| &checked.bytes[range.clone()]).collect()
        }
    }
}

/// Slices of one size, direction, echo, time, weighting and kind; in the order of the first of each.
fn groups_of(slices: Vec<Slice>) -> Vec<Vec<Slice>> {
    let mut groups: Vec<Vec<Slice>> = Vec::new();
    for slice in slices {
        let fits = |group: &&mut Vec<Slice>| {
            let first = &group[0];
            first.size() == slice.size() && first.part() == slice.part() && first.is_parallel_to(&slice)
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.push(slice),
            None => groups.push(vec![slice]),
        }
    }
    groups.sort_by(|a, b| a[0].part().partial_cmp(b[0].part()).unwrap_or(std::cmp::Ordering::Equal));
    groups
}
