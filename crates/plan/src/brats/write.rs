//! Writing the raw dataset: links, or references where there can be none, and label maps.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use glioseg_formats::{FormatError, atomic, nifti};
use glioseg_volume::LabelMap;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::{BratsCase, Cohort};
use crate::{Convention, PlanError};
use glioseg_interop::{KeyOrder, python_json};

/// How files of the challenge come into the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Linking {
    /// Hard links where the file system has them, else references.
    #[default]
    Auto,
    /// Hard links; an error where there can be none.
    Link,
    /// Paths in `dataset.json`, nnU-Net's key `dataset`.
    Reference,
    /// Copies.
    Copy,
}

impl Linking {
    /// Copies a file to `to` if that is what was chosen, else links it.
    pub(crate) fn bring(self, from: &Path, to: &Path) -> Result<(), PlanError> {
        let failed = |source| FormatError::Io { path: to.to_owned(), action: "write", source };
        // What an interrupted run has left may be an older file.
        if to.exists() {
            fs::remove_file(to).map_err(failed)?;
        }
        match self {
            Self::Copy => fs::copy(from, to).map(|_| ()).map_err(failed)?,
            _ => fs::hard_link(from, to).map_err(failed)?,
        }
        Ok(())
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenDataset {
    /// How files came in; never [`Linking::Auto`].
    pub linking: Linking,
    /// Training cases.
    pub training: usize,
    /// Cases without label map, in `imagesTs`.
    pub test: usize,
    /// Label maps whose values were changed.
    pub recoded: usize,
    /// Cases that could not be written, and why.
    pub failed: Vec<(String, String)>,
}

/// Writes `imagesTr`, `labelsTr`, `imagesTs` and a region-based `dataset.json` into `out`, which must not hold a dataset yet.
///
/// Labels become consecutive: 1-2-4 is rewritten as 1 oedema, 2 necrotic core, 3 enhancing tumour. References hold the absolute
/// paths of the images; test cases are not written then, since they can be predicted where they are.
///
/// # Errors
/// [`PlanError::OutputExists`], and what the system says of `out`. A case that fails is in the result.
///
/// # Source
/// nnU-Net v2, `Dataset137_BraTS21` (and `Dataset226_BraTS2024-BraTS-GLI` for the key `dataset`).
pub fn write_dataset(
    cohort: &Cohort,
    out: &Path,
    linking: Linking,
    observer: &(dyn Fn(&str) + Sync),
) -> Result<WrittenDataset, PlanError> {
    if out.join("dataset.json").exists() {
        return Err(PlanError::OutputExists { path: out.join("dataset.json") });
    }
    let make = |name: &str| {
        let folder = out.join(name);
        fs::create_dir_all(&folder).map_err(|source| FormatError::Io {
            path: folder.clone(),
            action: "make",
            source,
        })?;
        Ok::<_, PlanError>(folder)
    };
    let (images, labels) = (make("imagesTr")?, make("labelsTr")?);
    let linking = choose(linking, cohort, &images);
    let has_test = cohort.labelled() < cohort.cases.len();
    let test_images = if has_test && linking != Linking::Reference { Some(make("imagesTs")?) } else { None };
    let recodes = cohort.coding == Convention::Brats124;
    let results: Vec<Result<(), String>> = cohort
        .cases
        .par_iter()
        .map(|case| {
            let done =
                Work { cohort, linking, images: &images, labels: &labels, test: test_images.as_deref() }
                    .case(case);
            observer(&case.name);
            done.map_err(|e| e.to_string())
        })
        .collect();
    let mut written = WrittenDataset { linking, training: 0, test: 0, recoded: 0, failed: Vec::new() };
    let mut training = Vec::new();
    for (case, result) in cohort.cases.iter().zip(results) {
        match (result, &case.labels) {
            (Err(reason), _) => written.failed.push((case.name.clone(), reason)),
            (Ok(()), Some(_)) => training.push(case),
            (Ok(()), None) => written.test += 1,
        }
    }
    written.training = training.len();
    written.recoded = if recodes { training.len() } else { 0 };
    let description = describe(cohort, &training, linking == Linking::Reference);
    let text = python_json(&description, KeyOrder::Given);
    atomic::write(&out.join("dataset.json"), |file| file.write_all(text.as_bytes()))?;
    Ok(written)
}

/// Hard links if the first image can be linked.
fn choose(linking: Linking, cohort: &Cohort, images: &Path) -> Linking {
    let (Linking::Auto, Some(case)) = (linking, cohort.cases.first()) else { return linking };
    let probe = images.join(".probe");
    let linked = fs::hard_link(&case.images[0], &probe).is_ok();
    // If it cannot be removed, nothing worse follows than a hidden second name.
    let _ = fs::remove_file(&probe);
    if linked { Linking::Link } else { Linking::Reference }
}

struct Work<'a> {
    cohort: &'a Cohort,
    linking: Linking,
    images: &'a Path,
    labels: &'a Path,
    test: Option<&'a Path>,
}

impl Work<'_> {
    fn case(&self, case: &BratsCase) -> Result<(), PlanError> {
        let ending = &self.cohort.ending;
        let folder = if case.labels.is_some() { Some(self.images) } else { self.test };
        if let Some(folder) = folder.filter(|_| self.linking != Linking::Reference) {
            for (c, image) in case.images.iter().enumerate() {
                self.linking.bring(image, &folder.join(format!("{}_{c:04}{ending}", case.name)))?;
            }
        }
        let Some(labels) = &case.labels else { return Ok(()) };
        let to = self.labels.join(format!("{}{ending}", case.name));
        if self.cohort.coding != Convention::Brats124 {
            return if self.linking == Linking::Reference { Ok(()) } else { self.linking.bring(labels, &to) };
        }
        let mut map: LabelMap = nifti::read_labels(labels)?;
        for run in map.data.chunk_by_mut(|a, b| a == b) {
            let value = Convention::Brats124.recode(Convention::NnUnet, run[0]);
            run.fill(value);
        }
        Ok(nifti::write_labels(&to, &map)?)
    }
}

/// The region-based `dataset.json`.
fn describe(cohort: &Cohort, training: &[&BratsCase], references: bool) -> Value {
    // Coding 1-2-4 has become nnU-Net's.
    let coding = if cohort.coding == Convention::Brats124 { Convention::NnUnet } else { cohort.coding };
    let parts = coding.parts();
    let sorted = |mut labels: Vec<u16>| {
        labels.sort_unstable();
        labels
    };
    let channels = cohort.edition.channel_names();
    let channels = channels.iter().enumerate().map(|(i, c)| (i.to_string(), json!(c)));
    let mut labels = Map::new();
    labels.insert("background".into(), json!(0));
    labels.insert("whole tumor".into(), json!(sorted(vec![parts.necrosis, parts.oedema, parts.enhancing])));
    labels.insert("tumor core".into(), json!(sorted(vec![parts.necrosis, parts.enhancing])));
    labels.insert("enhancing tumor".into(), json!([parts.enhancing]));
    // Painted from the outside to the inside: what is left of each region is its own part.
    let mut order = vec![parts.oedema, parts.necrosis, parts.enhancing];
    if let Some(cavity) = parts.cavity {
        labels.insert("resection cavity".into(), json!([cavity]));
        order.push(cavity);
    }
    let mut map = Map::new();
    map.insert("channel_names".into(), Value::Object(channels.collect()));
    map.insert("labels".into(), Value::Object(labels));
    map.insert("regions_class_order".into(), json!(order));
    map.insert("numTraining".into(), json!(training.len()));
    map.insert("file_ending".into(), json!(cohort.ending));
    map.insert("description".into(), json!(format!("{}, labels: {}", cohort.edition, coding.describe())));
    if references {
        let absolute = |p: &PathBuf| json!(std::path::absolute(p).unwrap_or_else(|_| p.clone()));
        let entries = training.iter().map(|case| {
            let label = match &case.labels {
                Some(path) if cohort.coding != Convention::Brats124 => absolute(path),
                _ => json!(format!("labelsTr/{}{}", case.name, cohort.ending)),
            };
            let images: Vec<Value> = case.images.iter().map(absolute).collect();
            (case.name.clone(), json!({"images": images, "label": label}))
        });
        map.insert("dataset".into(), Value::Object(entries.collect()));
    }
    Value::Object(map)
}
