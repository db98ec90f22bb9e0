//! Ensembles of saved probabilities, as `nnUNetv2_ensemble` and nnU-Net v1's `nnUNet_ensemble` make them.
//!
//! Every case is a stream: pieces of all models' arrays are unpacked, averaged, decided and, if asked for, packed again, so that a case
//! takes the memory of its label map (and of one output, for plain labels) however many models there are. Cases run in parallel.
//! Arrays of v1 are halves inside the cropped box, and their mean is rounded to half; those of v2 are on the whole image. The two are not
//! mixed: their grids and roundings differ.

mod error;
mod merge;
pub mod place;
pub mod saved;

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use glioseg_formats::{FormatError, atomic, nifti, npz};
use glioseg_plan::record::Record;
use glioseg_plan::{Dataset, OutputLabels, differing_labels};
use glioseg_volume::{LabelMap, crop};
use half::f16;
use rayon::prelude::*;
use serde_json::json;

pub use error::EnsembleError;
use merge::merge;
use place::{Properties, SavedPlace};
pub use saved::Version;
use saved::{Archive, Array};

use crate::Decision;
use crate::folder::strangers;
use crate::output::{OutputRules, label_path, write_labels};
use crate::postprocess::Postprocessing;

/// How folders are averaged. The options act in this order: the mean is decided, postprocessed, and then recoded.
#[derive(Debug, Clone, Default)]
pub struct EnsembleOptions {
    /// A `dataset.json` that holds for all folders, in the place of their own.
    pub dataset: Option<PathBuf>,
    /// What is done to every label map.
    pub postprocessing: Postprocessing,
    /// Where the steps come from, for messages.
    pub postprocessing_path: PathBuf,
    /// Which values are written.
    pub labels: OutputLabels,
    /// Also write the mean probabilities.
    pub save_probabilities: bool,
    /// Leave out cases whose results are there.
    pub skip_finished: bool,
}

/// What became of a case.
#[derive(Debug)]
pub struct EnsembledCase {
    /// The case.
    pub case: String,
    /// Voxels of every value that was written, or why there is no result; `None` if it was there before.
    pub result: Result<Option<Vec<(u16, usize)>>, EnsembleError>,
}

/// What an ensemble made of its folders.
#[derive(Debug, Default)]
pub struct EnsembledFolders {
    /// Every case, sorted by name.
    pub cases: Vec<EnsembledCase>,
    /// Files of the inputs that were left out, since the `predict.json` next to them says that they are of an earlier prediction.
    pub stale: Vec<PathBuf>,
    /// Label maps and probabilities in the output folder that are of other cases, sorted.
    pub left_in_output: Vec<String>,
}

/// The mean of one case's saved probabilities.
#[derive(Debug)]
pub struct Ensembled {
    /// Labels of the mean, on the image's own grid.
    pub map: LabelMap,
    /// Whose conventions the files follow.
    pub version: Version,
}

/// Averages folders of saved probabilities and writes `OUT/CASE.nii.gz` and `dataset.json`; `observer` hears of every case.
///
/// A case that fails does not stop the others. Where a `predict.json` lies in a folder, the cases whose probabilities it tells of
/// count, and others are named: they are of an earlier prediction.
///
/// # Errors
/// What concerns all cases: a folder without cases, other case sets, probabilities of an earlier prediction, other labels, labels without a place in the coding asked for, an output
/// that is an input.
///
/// # Source
/// nnU-Net v2, `ensemble_folders`; v1, `merge`.
pub fn ensemble(
    folders: &[PathBuf],
    out: &Path,
    options: &EnsembleOptions,
    observer: &(dyn Fn(&EnsembledCase, usize) + Sync),
) -> Result<EnsembledFolders, EnsembleError> {
    let (cases, stale) = common_cases(folders)?;
    let dataset = dataset_of(folders, &cases[0], options.dataset.as_deref())?;
    let steps = (options.postprocessing.clone(), options.postprocessing_path.as_path());
    let rules = OutputRules::new(&dataset, steps, options.labels, options.save_probabilities)?;
    std::fs::create_dir_all(out).map_err(|source| FormatError::Io {
        path: out.into(),
        action: "make",
        source,
    })?;
    let whole = |p: &Path| p.canonicalize().ok();
    if folders.iter().any(|f| whole(f) == whole(out)) {
        return Err(EnsembleError::OutputIsInput { path: out.into() });
    }
    rules.prepare_folder::<EnsembleError>(out, &dataset, options.skip_finished)?;
    let left_in_output = if options.skip_finished { Vec::new() } else { left_in(out, &cases, options) };
    let work = Work { folders, out, options, dataset: &dataset, rules: &rules };
    let done = cases.par_iter().map(|case| {
        let done = EnsembledCase { case: case.clone(), result: work.case(case) };
        observer(&done, cases.len());
        done
    });
    Ok(EnsembledFolders { cases: done.collect(), stale, left_in_output })
}

/// Files in the output folder that will not be written again.
fn left_in(out: &Path, cases: &[String], options: &EnsembleOptions) -> Vec<String> {
    let own = |case: &str| cases.binary_search_by(|c| c.as_str().cmp(case)).is_ok();
    strangers(out, |name| {
        nifti::stem(name).is_some_and(|stem| !own(stem))
            || name.strip_suffix(".npz").is_some_and(|stem| !options.save_probabilities || !own(stem))
    })
}

/// Averages the saved probabilities of one case; `dataset` says what the outputs mean.
///
/// For files of v1 the properties next to them tell the painted values where `dataset` has no regions.
///
/// # Errors
/// [`EnsembleError`] with the file, and both files where two do not fit together.
///
/// # Panics
/// If there are no files.
pub fn ensemble_case(files: &[PathBuf], dataset: &Dataset) -> Result<Ensembled, EnsembleError> {
    merge_case(files, dataset, None)
}

/// The names of all cases, which must be the same in every folder, sorted; and files of earlier predictions, which are left out.
fn common_cases(folders: &[PathBuf]) -> Result<(Vec<String>, Vec<PathBuf>), EnsembleError> {
    let sets = folders.iter().map(|f| SavedCases::of(f)).collect::<Result<Vec<_>, _>>()?;
    let all: BTreeSet<&String> = sets.iter().flat_map(|s| &s.current).collect();
    for (folder, set) in folders.iter().zip(&sets) {
        let missing: Vec<String> =
            all.iter().filter(|c| !set.current.contains(**c)).map(|c| (*c).clone()).collect();
        if let Some(case) = missing.iter().find(|case| set.stale.contains(*case)) {
            return Err(EnsembleError::Stale { path: folder.join(format!("{case}.npz")) });
        }
        if let Some(first) = missing.first() {
            let other = folders.iter().zip(&sets).find(|(_, s)| s.current.contains(first));
            let other = other.map_or_else(PathBuf::new, |(f, _)| f.clone());
            return Err(EnsembleError::CaseSets { folder: folder.clone(), missing, other });
        }
    }
    let stale =
        folders.iter().zip(&sets).flat_map(|(f, s)| s.stale.iter().map(|c| f.join(format!("{c}.npz"))));
    Ok((all.into_iter().cloned().collect(), stale.collect()))
}

/// Cases of a folder with saved probabilities.
#[derive(Default)]
struct SavedCases {
    current: BTreeSet<String>,
    /// Those that the folder's `predict.json` does not know, or knows to be written without probabilities.
    stale: BTreeSet<String>,
}

impl SavedCases {
    fn of(folder: &Path) -> Result<Self, EnsembleError> {
        let failed = |source| EnsembleError::Read { path: folder.into(), source };
        // A file of that name by another program is not a reason to refuse a folder.
        let record = Record::read(folder).ok().flatten();
        let mut found = Self::default();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // What is not UTF-8 is replaced: the case then fails by its name, instead of being missed.
            let name = name.to_string_lossy();
            let Some(case) = name.strip_suffix(".npz").filter(|n| !n.starts_with('.')) else { continue };
            let current = record.as_ref().is_none_or(|r| r.may_have_probabilities(case));
            let set = if current { &mut found.current } else { &mut found.stale };
            set.insert(case.to_owned());
        }
        match (found.current.first(), found.stale.first()) {
            (Some(_), _) => Ok(found),
            (None, Some(case)) => Err(EnsembleError::Stale { path: folder.join(format!("{case}.npz")) }),
            (None, None) => Err(EnsembleError::NoCases { folder: folder.into() }),
        }
    }
}

/// What the outputs mean: the dataset given, else that of the folders, which must agree; else what v1's properties say.
fn dataset_of(folders: &[PathBuf], case: &str, given: Option<&Path>) -> Result<Dataset, EnsembleError> {
    let found = Dataset::describing(given, folders)?;
    if given.is_none() {
        for other in folders {
            let (Some(one), Some(other)) = (&found, Dataset::describing(None, [other])?) else { continue };
            if let Some((first, second)) = differing_labels(&one.dataset, &other.dataset) {
                let (first_path, second_path) = (one.path.clone(), other.path);
                return Err(EnsembleError::OutputsDiffer { first, second, first_path, second_path });
            }
        }
    }
    if let Some(found) = found {
        return Ok(found.dataset);
    }
    let npz = folders[0].join(format!("{case}.npz"));
    let properties = Properties::next_to(&npz)?;
    match properties.and_then(|p| p.paints) {
        Some(paints) if paints == [1, 2, 3] => Ok(winners_dataset()),
        _ => Err(EnsembleError::NoDataset { folder: folders[0].clone() }),
    }
}

/// What every region-based model of nnU-Net v1 means: v1 has regions in its BraTS trainers only, which hard-code them.
fn winners_dataset() -> Dataset {
    let value = json!({
        "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"},
        "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
        "regions_class_order": [1, 2, 3],
        "file_ending": ".nii.gz",
    });
    Dataset::from_value(value, Path::new("dataset.json")).expect("a valid description")
}

/// What all cases share.
struct Work<'a> {
    folders: &'a [PathBuf],
    out: &'a Path,
    options: &'a EnsembleOptions,
    dataset: &'a Dataset,
    rules: &'a OutputRules,
}

impl Work<'_> {
    fn case(&self, case: &str) -> Result<Option<Vec<(u16, usize)>>, EnsembleError> {
        let ending = self.dataset.written_ending();
        let labels = label_path(self.out, case, ending);
        let probabilities = self.options.save_probabilities.then(|| self.out.join(format!("{case}.npz")));
        let there = |p: &PathBuf| p.is_file();
        if self.options.skip_finished && there(&labels) && probabilities.as_ref().is_none_or(there) {
            return Ok(None);
        }
        let files: Vec<PathBuf> = self.folders.iter().map(|f| f.join(format!("{case}.npz"))).collect();
        let Ensembled { mut map, .. } = merge_case(&files, self.dataset, probabilities.as_deref())?;
        if let Some(npz) = &probabilities {
            copy_properties(&files[0], npz)?;
        }
        self.rules
            .apply(&mut map)
            .map_err(|label| EnsembleError::format(&files[0], format!("label {label} has no new value")))?;
        // Labels last: a case counts as finished when its label map is there.
        write_labels(self.out, case, ending, &map)?;
        Ok(Some(map.counts().into_iter().filter(|&(value, _)| value != 0).collect()))
    }
}

/// v1's probabilities lie in a box, and v2's may be turned, which only the properties tell.
fn copy_properties(from: &Path, to: &Path) -> Result<(), EnsembleError> {
    let (from, to) = (from.with_extension("pkl"), to.with_extension("pkl"));
    if from.is_file() {
        let bytes = std::fs::read(&from).map_err(|source| EnsembleError::Read { path: from, source })?;
        atomic::write(&to, |file| file.write_all(&bytes))?;
    }
    Ok(())
}

fn merge_case(files: &[PathBuf], dataset: &Dataset, save: Option<&Path>) -> Result<Ensembled, EnsembleError> {
    let mut archives = files.iter().map(|f| Archive::open(f)).collect::<Result<Vec<_>, _>>()?;
    let mut arrays = archives.iter_mut().map(Archive::array).collect::<Result<Vec<_>, _>>()?;
    let (first, others) = arrays.split_first().expect("at least one file");
    let (version, [outputs, z, y, x]) = (first.version, first.shape);
    for other in others {
        check_alike(first, other)?;
    }
    let properties = files.iter().map(|f| Properties::next_to(f)).collect::<Result<Vec<_>, _>>()?;
    let decision = match version {
        Version::V2 => Decision::new(&dataset.labels),
        Version::V1 => version1_decision(files, &properties, dataset)?,
    };
    if decision.outputs() != outputs {
        let names = dataset.labels.output_names();
        let reason =
            format!("it has {outputs} outputs, but the dataset has {}: {}", names.len(), names.join(", "));
        return Err(EnsembleError::format(&files[0], reason));
    }
    let place = SavedPlace::of(&files[0], version, [z, y, x], properties.first().and_then(Option::as_ref))?;
    for (file, properties) in files.iter().zip(&properties).skip(1) {
        if place.turn_of(properties.as_ref()) != place.turn {
            let reason = format!(
                "its reader turned the image in another way than that of {}, as the properties (.pkl) say",
                files[0].display()
            );
            return Err(EnsembleError::format(file, reason));
        }
        if version == Version::V2 {
            continue;
        }
        let other = SavedPlace::of(file, version, [z, y, x], properties.as_ref())?;
        if other.bbox != place.bbox {
            let reason = format!(
                "its box is {:?}, but that of {} is {:?}",
                other.bbox,
                files[0].display(),
                place.bbox
            );
            return Err(EnsembleError::format(file, reason));
        }
    }
    let seg = match save {
        None => merge(&mut arrays, &decision, |_| Ok(()))?,
        Some(path) => merge_and_save(&mut arrays, &decision, path)?,
    };
    let turned = place.turn.along(place.geometry.shape);
    let mut data = vec![0; place.geometry.voxels()];
    crop::insert(&seg, place.bbox, &mut data, turned);
    let data = place.turn.inverse().apply(data, turned);
    let map = LabelMap::new(data, place.geometry).map_err(FormatError::from)?;
    Ok(Ensembled { map, version })
}

fn check_alike(first: &Array<'_>, second: &Array<'_>) -> Result<(), EnsembleError> {
    let (first_path, second_path) = (first.path().to_owned(), second.path().to_owned());
    if first.version != second.version {
        let (first, second) = (first.version.name(), second.version.name());
        return Err(EnsembleError::Versions { first, second, first_path, second_path });
    }
    if first.shape != second.shape {
        let (first, second) = (first.shape, second.shape);
        return Err(EnsembleError::Shape { first, second, first_path, second_path });
    }
    Ok(())
}

/// The decision of v1's arrays, whose properties must agree on the painted values. A dataset with regions goes before them: its
/// description follows a recoding of the label maps, the properties do not.
fn version1_decision(
    files: &[PathBuf],
    properties: &[Option<Properties>],
    dataset: &Dataset,
) -> Result<Decision, EnsembleError> {
    let paints = |p: &Option<Properties>| p.as_ref().and_then(|p| p.paints.clone());
    let first = properties.first().and_then(paints);
    for (file, other) in files.iter().zip(properties).skip(1) {
        let second = paints(other);
        if first != second {
            let say = |order: Option<Vec<u16>>| match order {
                Some(order) => format!("regions painted {order:?}"),
                None => "no regions".to_owned(),
            };
            return Err(EnsembleError::OutputsDiffer {
                first: say(first),
                second: say(second),
                first_path: files[0].with_extension("pkl"),
                second_path: file.with_extension("pkl"),
            });
        }
    }
    Ok(match first {
        Some(paints) if !dataset.labels.has_regions() => Decision::Regions(paints),
        _ => Decision::new(&dataset.labels),
    })
}

/// As [`merge`], and writes the mean in the version's own form.
fn merge_and_save(
    arrays: &mut [Array<'_>],
    decision: &Decision,
    path: &Path,
) -> Result<Vec<u16>, EnsembleError> {
    let (version, shape) = (arrays[0].version, arrays[0].shape);
    let mut seg = Err(EnsembleError::format(path, "nothing was merged"));
    let failed =
        |source| EnsembleError::Volume(FormatError::Io { path: path.into(), action: "write", source });
    let complete = |seg: &Result<Vec<u16>, EnsembleError>| match seg {
        Ok(_) => Ok(()),
        Err(_) => Err(io::Error::other("the mean is not complete")),
    };
    let written = match version {
        Version::V2 => npz::write(path, version.array(), &shape, |push| {
            seg = merge(arrays, decision, |mean| push(mean).map_err(failed));
            complete(&seg)
        }),
        Version::V1 => npz::write(path, version.array(), &shape, |push| {
            seg = merge(arrays, decision, |mean| {
                let halves: Vec<f16> = mean.iter().map(|&v| f16::from_f32(v)).collect();
                push(&halves).map_err(failed)
            });
            complete(&seg)
        }),
    };
    // Why the mean is not complete says more than that it could not be written.
    let seg = seg?;
    written?;
    Ok(seg)
}
