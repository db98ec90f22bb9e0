//! Preprocessing all cases of a dataset into the store.

use super::StoreError;
use super::format::{EXTENSION, Header, VERSION, write};
use super::read::StoredCase;
use crate::{TrainingCase, preprocess_training_case};
use glioseg_formats::nifti::read_info;
use glioseg_formats::{FormatError, atomic};
use glioseg_plan::{
    CaseDigest, Configuration, Normalization, PlanError, Plans, Problem, RawCase, RawDataset, ReadCase,
    Severity, SourceFile, Twin, case_groups, case_size, header_errors, memory_budget, sha256, twins,
};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What became of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseOutcome {
    /// It was preprocessed and written.
    Prepared,
    /// It was finished before, from the same files and plans.
    Kept,
}

/// A case that is done, for whoever watches.
#[derive(Debug)]
pub struct CaseDone<'a> {
    /// Its name.
    pub case: &'a str,
    /// What became of it.
    pub result: Result<CaseOutcome, &'a StoreError>,
    /// How long it took.
    pub time: Duration,
}

/// What became of all cases.
#[derive(Debug)]
pub struct PrepareSummary {
    /// Cases that can be trained on, in the dataset's order.
    pub cases: Vec<StoredCase>,
    /// How many of them were prepared now.
    pub prepared: usize,
    /// Cases that cannot be used, and why.
    pub failed: Vec<(String, StoreError)>,
    /// How many of the failed ones, the last, failed as all cases were compared: the observer did not hear of them.
    pub compared: usize,
    /// Prepared cases that are no longer in the dataset and were removed.
    pub removed: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Cases that were not looked at because the work was stopped.
    pub left: usize,
}

/// How cases are prepared.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrepareOptions<'a> {
    /// Prepare cases again that are there already.
    pub overwrite: bool,
    /// Once it is set, no further case is started; those in work are finished.
    pub stop: Option<&'a AtomicBool>,
}

/// The file of a case in the folder of a configuration.
pub fn case_path(folder: &Path, case: &str) -> PathBuf {
    folder.join(format!("{case}.{EXTENSION}"))
}

/// Preprocesses every case of a dataset into `folder`, several at once as memory allows.
///
/// A case that already exists is kept if plans, labels and files are still those it was made from. A case that fails does not stop the others. `observer` is told of every case that is done.
///
/// What `glioseg dataset check` calls an error of a case makes that case fail: grids that differ, labels that
/// `dataset.json` does not declare, voxels far from the cohort's, the image of another case.
///
/// # Errors
/// [`PlanError::Unfit`] if the dataset as a whole has errors (see [`header_errors`]);
/// [`StoreError::DiskFull`] at the first case that finds no space (finished cases stay), errors of making `folder`.
///
/// # Source
/// nnU-Net v2, `DefaultPreprocessor.run`.
pub fn prepare_dataset(
    dataset: &RawDataset,
    plans: &Plans,
    configuration: &Configuration,
    folder: &Path,
    options: PrepareOptions<'_>,
    observer: &(dyn Fn(CaseDone<'_>) + Sync),
) -> Result<PrepareSummary, StoreError> {
    prepare_with(dataset, plans, configuration, folder, options, observer, &write_case)
}

type WriteCase<'a> = dyn Fn(&Path, &Header, &TrainingCase) -> Result<(), FormatError> + Sync + 'a;

fn write_case(path: &Path, header: &Header, case: &TrainingCase) -> Result<(), FormatError> {
    atomic::write(path, |file| write(file, header, case))
}

fn prepare_with(
    dataset: &RawDataset,
    plans: &Plans,
    configuration: &Configuration,
    folder: &Path,
    options: PrepareOptions<'_>,
    observer: &(dyn Fn(CaseDone<'_>) + Sync),
    write: &WriteCase<'_>,
) -> Result<PrepareSummary, StoreError> {
    let errors = errors_by_case(dataset)?;
    fs::create_dir_all(folder).map_err(|e| StoreError::io(folder, "make", e))?;
    let mut summary = PrepareSummary {
        cases: Vec::new(),
        prepared: 0,
        failed: Vec::new(),
        compared: 0,
        removed: remove_strangers(dataset, folder)?,
        warnings: Vec::new(),
        left: 0,
    };
    let mut new = HashSet::new();
    let stopped = || options.stop.is_some_and(|stop| stop.load(Ordering::SeqCst));
    let hash = plan_hash(dataset, plans, configuration);
    let work = Work { dataset, plans, configuration, hash, errors, write };
    let bytes: Vec<u64> = dataset.cases.par_iter().map(|case| work.bytes(case)).collect();
    for group in case_groups(&bytes, rayon::current_num_threads(), memory_budget()) {
        let results: Vec<_> = dataset.cases[group.clone()]
            .par_iter()
            .map(|case| {
                if stopped() {
                    return None;
                }
                let start = Instant::now();
                let result = work.case(case, &case_path(folder, &case.name), options.overwrite);
                let told = result.as_ref().map(|(outcome, _)| *outcome);
                observer(CaseDone { case: &case.name, result: told, time: start.elapsed() });
                Some(result)
            })
            .collect();
        let mut disk_full = None;
        for (case, result) in dataset.cases[group].iter().zip(results) {
            match result {
                None => summary.left += 1,
                Some(Ok((outcome, stored))) => {
                    if outcome == CaseOutcome::Prepared {
                        summary.prepared += 1;
                        new.insert(case.name.as_str());
                    }
                    summary.warnings.extend_from_slice(stored.oddities());
                    summary.cases.push(stored);
                }
                Some(Err(error)) => match error.disk_full() {
                    Ok(source) => {
                        disk_full.get_or_insert((case.name.clone(), source));
                    }
                    Err(error) => summary.failed.push((case.name.clone(), error)),
                },
            }
        }
        if let Some((case, source)) = disk_full {
            let (finished, of) = (summary.cases.len(), dataset.cases.len());
            return Err(StoreError::DiskFull { case, finished, of, source: Box::new(source) });
        }
    }
    let told = summary.failed.len();
    if summary.left == 0 {
        let doubles = refuse_twins(&mut summary, &new, dataset);
        summary.compared = summary.failed.len() - told;
        summary.warnings.extend(warnings(&summary.cases, dataset, configuration));
        summary.warnings.extend(doubles);
    }
    Ok(summary)
}

/// Errors of single cases that no voxel is needed for; refuses a dataset with errors that concern all of it.
fn errors_by_case(dataset: &RawDataset) -> Result<HashMap<String, Problem>, PlanError> {
    let (mut whole, mut by_case) = (Vec::new(), HashMap::new());
    for problem in header_errors(dataset) {
        match (&problem.case, &problem.path) {
            (Some(case), _) => {
                by_case.entry(case.clone()).or_insert(problem);
            }
            (None, Some(path)) if !path.ends_with("dataset.json") => {
                whole.push(format!("{} {}", path.display(), problem.message));
            }
            (None, _) => whole.push(problem.message),
        }
    }
    if whole.is_empty() {
        return Ok(by_case);
    }
    Err(PlanError::Unfit { folder: dataset.folder.clone(), problems: whole })
}

/// Counts cases with the image but not the labels of another case as failed, and no longer among the `new` ones; returns a
/// warning for every other double.
fn refuse_twins(summary: &mut PrepareSummary, new: &HashSet<&str>, dataset: &RawDataset) -> Vec<String> {
    let digests: Vec<(&str, &CaseDigest)> =
        summary.cases.iter().map(|case| (case.name(), &case.header().voxels)).collect();
    let found = twins(&digests);
    let (errors, doubles): (Vec<Twin>, Vec<Twin>) =
        found.into_iter().partition(|twin| twin.severity() == Severity::Error);
    for twin in errors {
        summary.cases.retain(|case| case.name() != twin.case);
        summary.prepared -= usize::from(new.contains(twin.case.as_str()));
        let raw = dataset.cases.iter().find(|case| case.name == twin.case);
        let path = raw.and_then(|case| case.images.first()).cloned().unwrap_or_default();
        let reason = format!("{}; {}", twin.message(), twin.hint());
        let error = PlanError::Case { case: twin.case.clone(), path, reason };
        summary.failed.push((twin.case, error.into()));
    }
    doubles.iter().map(|twin| format!("case `{}`: {}; {}", twin.case, twin.message(), twin.hint())).collect()
}

/// What all cases have in common.
struct Work<'a> {
    dataset: &'a RawDataset,
    plans: &'a Plans,
    configuration: &'a Configuration,
    hash: String,
    /// Cases that cannot be used, as their headers tell.
    errors: HashMap<String, Problem>,
    write: &'a WriteCase<'a>,
}

impl Work<'_> {
    /// Prepares a case unless it already exists.
    fn case(
        &self,
        case: &RawCase,
        path: &Path,
        overwrite: bool,
    ) -> Result<(CaseOutcome, StoredCase), StoreError> {
        if let Some(problem) = self.errors.get(&case.name) {
            let path = problem.path.clone().unwrap_or_default();
            let reason = problem.message.clone();
            return Err(PlanError::Case { case: case.name.clone(), path, reason }.into());
        }
        let files: Vec<&Path> = case.images.iter().chain([&case.labels]).map(PathBuf::as_path).collect();
        // A file that cannot be used, whatever the reason, is made again.
        if !overwrite
            && let Ok(stored) = StoredCase::open(path)
            && stored.header().case == case.name
            && stored.header().plan_hash == self.hash
            && unchanged(&stored.header().sources, &files)
        {
            return Ok((CaseOutcome::Kept, stored));
        }
        let sources = files.iter().map(|file| SourceFile::of(file)).collect::<Result<Vec<_>, _>>()?;
        let read = case.read(&self.dataset.description, self.plans.image_reader())?;
        let ReadCase { image: volume, labels, oddities } = read;
        let voxels = CaseDigest::of(std::slice::from_ref(&volume), &labels);
        let dataset_labels = &self.dataset.description.labels;
        let prepared =
            preprocess_training_case(volume, &labels.data, dataset_labels, self.plans, self.configuration)
                .map_err(|source| StoreError::Prep { case: case.name.clone(), source: Box::new(source) })?;
        drop(labels);
        let header = Header { oddities, voxels, ..Header::of(&case.name, &self.hash, sources, &prepared) };
        (self.write)(path, &header, &prepared)?;
        drop(prepared);
        Ok((CaseOutcome::Prepared, StoredCase::open(path)?))
    }

    /// Bytes that a case needs at most while it is prepared; 0 if its headers cannot be read.
    fn bytes(&self, case: &RawCase) -> u64 {
        let (voxels, channels) = case_size(case);
        let Some(info) = case.images.first().and_then(|path| read_info(path).ok()) else { return 0 };
        let forward = self.plans.transpose_forward();
        let (_, spacing) = self.plans.image_reader().turn(&info.geometry);
        let target = &self.configuration.spacing;
        let skipped = 3 - target.len();
        let growth: f64 = target.iter().enumerate().map(|(a, t)| spacing[forward[a + skipped]] / t).product();
        // Image, labels as read and signed, mask; then the resampled image, one channel of it in f64, and labels.
        let before = voxels * (channels * 4 + 5);
        let after = voxels as f64 * growth * (channels as f64 * 4.0 + 18.0);
        before.saturating_add(after as u64)
    }
}

/// Hash of everything that decides what a case becomes, but for its files: patch and batch do not.
fn plan_hash(dataset: &RawDataset, plans: &Plans, configuration: &Configuration) -> String {
    let labels = &dataset.description.labels;
    let regions: Vec<&[u16]> = labels.regions().iter().map(|r| r.labels.as_slice()).collect();
    let keys = [
        "rules",
        "spacing",
        "normalization_schemes",
        "use_mask_for_norm",
        "resampling_fn_data",
        "resampling_fn_data_kwargs",
        "resampling_fn_seg",
        "resampling_fn_seg_kwargs",
    ];
    let chosen: Vec<(&str, Option<&Value>)> = keys.iter().map(|&k| (k, configuration.raw.get(k))).collect();
    let ct = configuration.normalization.contains(&Normalization::Ct);
    let intensities: Vec<_> = plans
        .foreground_intensities()
        .iter()
        .filter(|_| ct)
        .map(|f| [f.mean, f.std, f.percentile_00_5, f.percentile_99_5])
        .collect();
    let mut all = json!({
        "format": VERSION,
        "transpose_forward": plans.transpose_forward(),
        "configuration": chosen,
        "intensities": intensities,
        "labels": labels.all_labels(),
        "ignore": labels.ignore_label(),
        "regions": regions,
    });
    if plans.image_reader().turns().is_some() {
        all["image_reader"] = plans.image_reader().name().into();
    }
    sha256(all.to_string().as_bytes())
}

/// Whether the files are those that a case was made from.
fn unchanged(sources: &[SourceFile], files: &[&Path]) -> bool {
    sources.len() == files.len() && sources.iter().zip(files).all(|(old, file)| old.holds(file))
}

/// Removes prepared cases that are not in the dataset, so that nobody trains on them.
fn remove_strangers(dataset: &RawDataset, folder: &Path) -> Result<Vec<String>, StoreError> {
    let known: HashSet<&str> = dataset.case_names().into_iter().collect();
    let failed = |e| StoreError::io(folder, "read", e);
    let mut removed = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if is_leftover(&path) {
            // Only space is lost if it stays.
            let _ = fs::remove_file(&path);
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let ours = path.extension().is_some_and(|e| e == EXTENSION) && !name.starts_with('.');
        if ours && !known.contains(name.as_str()) {
            fs::remove_file(&path).map_err(|e| StoreError::io(&path, "remove", e))?;
            removed.push(name);
        }
    }
    removed.sort();
    Ok(removed)
}

/// Whether this is the unfinished file of a process that was killed: `.CASE.case.PID-NUMBER.part`.
fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((stem, id)) = name.strip_suffix(".part").and_then(|n| n.rsplit_once('.')) else { return false };
    let ours = stem.starts_with('.') && stem.ends_with(&format!(".{EXTENSION}"));
    let process = id.split_once('-').and_then(|(process, _)| process.parse::<u32>().ok());
    let processes = Path::new("/proc");
    ours && process
        .is_some_and(|p| processes.join("self").exists() && !processes.join(p.to_string()).exists())
}

/// What can be trained on, but should be known.
fn warnings(cases: &[StoredCase], dataset: &RawDataset, configuration: &Configuration) -> Vec<String> {
    let mut warnings = Vec::new();
    let patch = &configuration.patch_size;
    let count = |what: &dyn Fn(&StoredCase) -> bool| {
        let names: Vec<&str> = cases.iter().filter(|c| what(c)).map(StoredCase::name).collect();
        let shown = names[..names.len().min(3)].join(", ");
        (names.len(), if names.len() > 3 { format!("{shown}, …") } else { shown })
    };
    let (small, names) =
        count(&|case| case.shape()[3 - patch.len()..].iter().zip(patch).any(|(size, patch)| size < patch));
    if small > 0 {
        warnings.push(format!(
            "{small} of {} cases are smaller than the patch {patch:?} along some axis and will be padded: {names}",
            cases.len()
        ));
    }
    let classes =
        dataset.description.labels.num_outputs() - usize::from(!dataset.description.labels.has_regions());
    let (empty, names) =
        count(&|case| (0..classes.min(case.num_classes())).all(|c| case.class_count(c) == 0));
    if empty > 0 {
        warnings.push(format!("{empty} of {} cases have no foreground: {names}", cases.len()));
    }
    if let Some(first) = cases.first().filter(|_| empty < cases.len()) {
        for class in 0..classes.min(first.num_classes()) {
            let absent = |case: &StoredCase| class >= case.num_classes() || case.class_count(class) == 0;
            if cases.iter().all(absent) {
                warnings.push(format!("no case has a voxel of label {:?}", first.class_labels(class)));
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_diagnose::Diagnose as _;
    use glioseg_formats::nifti::{write_labels, write_volume};
    use glioseg_plan::{Fingerprint, PlanOptions, plan};
    use glioseg_volume::{Geometry, LabelMap, Volume};
    use std::io;
    use std::sync::atomic::AtomicUsize;

    /// A dataset of small cases, planned.
    fn made(folder: &Path, cases: usize) -> (RawDataset, Plans, Configuration) {
        let geometry = Geometry::isotropic([12, 14, 16]);
        for name in ["imagesTr", "labelsTr"] {
            fs::create_dir(folder.join(name)).expect("a folder");
        }
        let description = json!({"channel_names": {"0": "t1"}, "labels": {"background": 0, "tumor": 1, "never": 2},
            "numTraining": cases, "file_ending": ".nii.gz"});
        fs::write(folder.join("dataset.json"), description.to_string()).expect("written");
        for case in 0..cases {
            let voxels = geometry.voxels();
            let data = (0..voxels).map(|i| (i % (13 + case)) as f32).collect();
            let image = Volume::new(1, data, geometry.clone()).expect("an image");
            write_volume(&folder.join(format!("imagesTr/c{case}_0000.nii.gz")), &image).expect("written");
            let labels = (0..voxels).map(|i| u16::from(case != 1 && (i + case) % 7 == 0)).collect();
            let labels = LabelMap::new(labels, geometry.clone()).expect("labels");
            write_labels(&folder.join(format!("labelsTr/c{case}.nii.gz")), &labels).expect("written");
        }
        let dataset = RawDataset::open(folder).expect("a dataset");
        let fingerprint = Fingerprint::extract(&dataset, &|_, _| {}).expect("a fingerprint");
        let planned = plan(&dataset, &fingerprint, &PlanOptions::default()).expect("plans");
        let plans = Plans::from_value(planned.json, Path::new("plans.json")).expect("plans");
        let configuration = plans.configuration("3d_fullres").expect("a configuration");
        (dataset, plans, configuration)
    }

    #[test]
    fn a_full_disk_stops_the_work_and_keeps_what_is_finished() {
        let (raw, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (dataset, plans, configuration) = made(raw.path(), 5);
        let written = AtomicUsize::new(0);
        let write = |path: &Path, header: &Header, case: &TrainingCase| {
            if written.fetch_add(1, Ordering::Relaxed) >= 2 {
                let source = io::Error::from(io::ErrorKind::StorageFull);
                return Err(FormatError::Io { path: path.to_owned(), action: "write", source });
            }
            write_case(path, header, case)
        };
        let error = prepare_with(
            &dataset,
            &plans,
            &configuration,
            out.path(),
            PrepareOptions::default(),
            &|_| {},
            &write,
        )
        .expect_err("no space");
        let StoreError::DiskFull { finished, of, .. } = &error else { panic!("{error}") };
        assert_eq!((*finished, *of), (2, 5));
        let text = error.to_string();
        assert!(text.contains("could not be written after 2 of 5 cases: cannot write"), "{text}");
        let hint = error.hint().expect("a hint");
        assert!(hint.contains("free some space") && hint.ends_with("finished cases are kept"), "{hint}");
        let files = fs::read_dir(out.path()).expect("a folder").count();
        assert_eq!(files, 2, "nothing but the finished cases");

        let summary =
            prepare_dataset(&dataset, &plans, &configuration, out.path(), PrepareOptions::default(), &|_| {});
        let summary = summary.expect("space again");
        assert_eq!((summary.prepared, summary.cases.len(), summary.failed.len()), (3, 5, 0));
    }

    #[test]
    fn finished_cases_are_kept_until_plans_or_files_change() {
        let (raw, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (mut dataset, plans, configuration) = made(raw.path(), 3);
        let run = |dataset: &RawDataset, configuration: &Configuration, overwrite| {
            let told = AtomicUsize::new(0);
            let count = |_: CaseDone<'_>| {
                told.fetch_add(1, Ordering::Relaxed);
            };
            let options = PrepareOptions { overwrite, ..PrepareOptions::default() };
            let summary = prepare_dataset(dataset, &plans, configuration, out.path(), options, &count);
            let summary = summary.expect("prepared");
            assert_eq!(told.load(Ordering::Relaxed), dataset.cases.len());
            summary
        };
        assert_eq!(run(&dataset, &configuration, false).prepared, 3);
        assert_eq!(run(&dataset, &configuration, false).prepared, 0);
        assert_eq!(run(&dataset, &configuration, true).prepared, 3);

        // The same content with another time is not a change, other content of the same size is one.
        let image = raw.path().join("imagesTr/c1_0000.nii.gz");
        let bytes = fs::read(&image).expect("an image");
        fs::write(&image, &bytes).expect("written");
        assert_eq!(run(&dataset, &configuration, false).prepared, 0);
        let case = dataset.cases[1].clone();
        fs::copy(raw.path().join("imagesTr/c2_0000.nii.gz"), &image).expect("copied");
        assert_eq!(run(&dataset, &configuration, false).prepared, 1);
        assert_eq!(case, dataset.cases[1]);

        // The patch does not matter, the spacing does.
        let mut other = configuration.clone();
        other.patch_size = vec![8; 3];
        other.raw.insert("patch_size".to_owned(), json!([8, 8, 8]));
        assert_eq!(run(&dataset, &other, false).prepared, 0);
        other.spacing = vec![2.0; 3];
        other.raw.insert("spacing".to_owned(), json!([2.0, 2.0, 2.0]));
        // One of three is not counted: its image is that of another case now.
        assert_eq!(run(&dataset, &other, false).prepared, 2);

        // A damaged file is made again, one that is no longer in the dataset goes.
        let path = case_path(out.path(), "c0");
        let half = fs::read(&path).expect("a case");
        fs::write(&path, &half[..half.len() / 2]).expect("written");
        dataset.cases.remove(2);
        dataset.description.num_training = Some(2);
        let summary = run(&dataset, &other, false);
        assert_eq!((summary.prepared, summary.removed), (1, vec!["c2".to_owned()]));
        assert!(!case_path(out.path(), "c2").exists());
    }

    #[test]
    fn errors_of_the_dataset_check_are_errors_of_the_preparation() {
        let (raw, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (mut dataset, plans, configuration) = made(raw.path(), 6);
        let path = |name: &str| raw.path().join(name);
        let geometry = Geometry::isotropic([12, 14, 16]);
        // Label 7 is not declared, c2 has the image of c0, the voxels of c3 are 50 mm long.
        let labels = (0..geometry.voxels()).map(|i| if i % 9 == 0 { 7 } else { 0 }).collect();
        let labels = LabelMap::new(labels, geometry.clone()).expect("labels");
        write_labels(&path("labelsTr/c1.nii.gz"), &labels).expect("written");
        fs::copy(path("imagesTr/c0_0000.nii.gz"), path("imagesTr/c2_0000.nii.gz")).expect("copied");
        let labels = (0..geometry.voxels()).map(|i| u16::from(i % 5 == 0)).collect();
        let labels = LabelMap::new(labels, geometry.clone()).expect("labels");
        write_labels(&path("labelsTr/c2.nii.gz"), &labels).expect("written");
        let rows = [[50.0, 0.0, 0.0, 0.0], [0.0, 50.0, 0.0, 0.0], [0.0, 0.0, 50.0, 0.0]];
        let coarse =
            Geometry::from_affine(geometry.shape, glioseg_volume::Affine::from_rows(rows)).expect("regular");
        let data = (0..geometry.voxels()).map(|i| (i % 5) as f32).collect();
        let image = Volume::new(1, data, coarse.clone()).expect("an image");
        write_volume(&path("imagesTr/c3_0000.nii.gz"), &image).expect("written");
        write_labels(&path("labelsTr/c3.nii.gz"), &LabelMap::new(labels.data, coarse).expect("labels"))
            .expect("written");
        let run = |dataset: &RawDataset| {
            prepare_dataset(dataset, &plans, &configuration, out.path(), PrepareOptions::default(), &|_| {})
        };
        // Kept cases are compared as well.
        for new in [3, 0] {
            let summary = run(&dataset).expect("prepared");
            assert_eq!((summary.prepared, summary.compared), (new, 1));
            let names: Vec<&str> = summary.cases.iter().map(StoredCase::name).collect();
            assert_eq!(names, ["c0", "c4", "c5"]);
            let failed: Vec<String> =
                summary.failed.iter().map(|(case, error)| format!("{case}: {error}")).collect();
            assert!(failed[0].contains("7 (299 voxels)"), "{failed:?}");
            assert!(failed[1].contains("voxels measure 50 x 50 x 50 mm"), "{failed:?}");
            assert!(failed[2].contains("c2: case `c2`: the image is that of case `c0`"), "{failed:?}");
            assert_eq!(failed.len(), 3);
        }
        dataset.description.num_training = Some(9);
        let error = run(&dataset).expect_err("nine cases are promised");
        assert!(error.to_string().ends_with("`numTraining` is 9, but there are 6 training cases"), "{error}");
    }

    #[test]
    fn a_stop_keeps_what_is_finished_and_the_next_run_does_the_rest() {
        let (raw, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (dataset, plans, configuration) = made(raw.path(), 5);
        let stop = AtomicBool::new(false);
        let options = PrepareOptions { stop: Some(&stop), ..PrepareOptions::default() };
        let first = |_: CaseDone<'_>| stop.store(true, Ordering::SeqCst);
        let run = |options, observer: &(dyn Fn(CaseDone<'_>) + Sync)| {
            prepare_dataset(&dataset, &plans, &configuration, out.path(), options, observer)
                .expect("prepared")
        };
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
        let summary = one.install(|| run(options, &first));
        assert_eq!((summary.prepared, summary.left, summary.warnings.len()), (1, 4, 0));
        assert_eq!(fs::read_dir(out.path()).expect("a folder").count(), 1, "nothing but the finished case");
        let summary = run(PrepareOptions::default(), &|_| {});
        assert_eq!((summary.prepared, summary.cases.len(), summary.left), (4, 5, 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn unfinished_files_of_killed_processes_are_found() {
        let running = std::process::id();
        assert!(is_leftover(Path::new("x/.c_0.case.4294967290-3.part")));
        for other in [
            format!(".c_0.case.{running}-3.part"),
            "c_0.case.1-3.part".into(),
            ".c.nii.9999999-0.part".into(),
        ] {
            assert!(!is_leftover(Path::new(&other)), "{other}");
        }
    }

    #[test]
    fn a_bad_case_does_not_stop_the_others_and_oddities_are_told() {
        let (raw, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (dataset, plans, mut configuration) = made(raw.path(), 4);
        fs::write(raw.path().join("labelsTr/c2.nii.gz"), b"broken").expect("written");
        configuration.patch_size = vec![16, 8, 16];
        let summary =
            prepare_dataset(&dataset, &plans, &configuration, out.path(), PrepareOptions::default(), &|_| {})
                .expect("prepared");
        let names: Vec<&str> = summary.cases.iter().map(StoredCase::name).collect();
        assert_eq!(names, ["c0", "c1", "c3"]);
        assert_eq!(summary.failed.len(), 1);
        let (case, error) = &summary.failed[0];
        assert!(case == "c2" && error.to_string().contains("c2.nii.gz"), "{error}");
        assert_eq!(
            summary.warnings,
            [
                "3 of 3 cases are smaller than the patch [16, 8, 16] along some axis and will be padded: c0, c1, c3",
                "1 of 3 cases have no foreground: c1",
                "no case has a voxel of label [2]",
            ]
        );
    }
}
