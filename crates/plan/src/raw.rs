//! A raw dataset: `dataset.json` and the files of its training cases.
//!
//! Three ways to say which files belong to a case are understood: nnU-Net v2's folders `imagesTr` and `labelsTr`, the
//! key `dataset` of `dataset.json` that links to files anywhere, and the list `training` of nnU-Net v1 and the Medical
//! Segmentation Decathlon (whose images hold all channels in one file). Only names are looked at here; what is inside
//! the files is read case by case.

use crate::json::Node;
use crate::{Dataset, ImageReader, PlanError};
use glioseg_formats::nifti::{ImageInfo, read_labels_noting, read_stack_along};
use glioseg_volume::{LabelMap, Volume};
use serde_json::{Map, Value};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of one training case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawCase {
    /// Its name (nnU-Net's identifier).
    pub name: String,
    /// Image files in channel order; a file may hold several channels.
    pub images: Vec<PathBuf>,
    /// The label map.
    pub labels: PathBuf,
}

/// A training case as read.
#[derive(Debug, Clone)]
pub struct ReadCase {
    /// All channels.
    pub image: Volume,
    /// Labels on the same grid.
    pub labels: LabelMap,
    /// What is odd about the files, a sentence each. NaN and infinite voxels count as 0.
    pub oddities: Vec<String>,
}

/// A dataset to train on, with the files of every case.
#[derive(Debug, Clone)]
pub struct RawDataset {
    /// The folder.
    pub folder: PathBuf,
    /// Its name, such as `Dataset137_BraTS2021`: that of the folder.
    pub name: String,
    /// Its `dataset.json`.
    pub description: Dataset,
    /// The training cases in nnU-Net's order: sorted by name, or as the key `dataset` lists them.
    pub cases: Vec<RawCase>,
    /// Files in `imagesTr` and `labelsTr` that belong to no case.
    pub strays: Vec<PathBuf>,
}

impl RawDataset {
    /// Reads `dataset.json` and finds the training cases.
    ///
    /// # Errors
    /// [`PlanError`] if `dataset.json` or the folders cannot be read, the format of the images is not known, or there
    /// is not a case at all. Missing files of a case are not errors here.
    ///
    /// # Source
    /// nnU-Net v2, `get_filenames_of_train_images_and_targets`.
    pub fn open(folder: &Path) -> Result<RawDataset, PlanError> {
        let path = folder.join("dataset.json");
        let description = Dataset::read(&path)?;
        let ending = description.file_ending.as_str();
        if ![".nii.gz", ".nii"].contains(&ending.to_lowercase().as_str()) {
            return Err(PlanError::FileEnding { path, ending: ending.to_owned() });
        }
        let root = Node::root(&path, &description.raw);
        let (images, labels) = (folder.join("imagesTr"), folder.join("labelsTr"));
        let mut strays = Vec::new();
        let cases = if let Some(links) = root.opt("dataset")? {
            linked_cases(&links, folder)?
        } else {
            let training = root.opt("training")?.filter(|_| root.has("modality"));
            let mut found = match listed_images(&images, ending) {
                // The list may name files elsewhere.
                Err(_) if training.is_some() => Listing { cases: BTreeMap::new(), others: Vec::new() },
                found => found?,
            };
            let mut maps = names_in(&labels, ending).unwrap_or_default();
            let cases: Vec<RawCase> = match training {
                Some(list) => training_cases(&list, folder, ending)?,
                None => std::mem::take(&mut found.cases)
                    .into_iter()
                    .map(|(name, images)| {
                        let map = format!("{name}{ending}");
                        RawCase {
                            images,
                            labels: maps.remove(&map).unwrap_or_else(|| labels.join(map)),
                            name,
                        }
                    })
                    .collect(),
            };
            let used: HashSet<&Path> =
                cases.iter().flat_map(|c| c.images.iter().chain([&c.labels])).map(PathBuf::as_path).collect();
            strays = found.others;
            strays.extend(found.cases.into_values().flatten());
            strays.extend(maps.into_values());
            strays.retain(|path| !used.contains(path.as_path()));
            strays.sort();
            cases
        };
        if cases.is_empty() {
            let reason = match strays.first() {
                None => format!("there are no files in {}", images.display()),
                Some(stray) => format!(
                    "no file in {} is named like CASE_0000{ending}; there are {} others, such as {}",
                    images.display(),
                    strays.len(),
                    stray.file_name().unwrap_or_default().to_string_lossy()
                ),
            };
            return Err(PlanError::NoCases { folder: folder.to_owned(), reason });
        }
        Ok(RawDataset { name: name_of(folder), folder: folder.to_owned(), description, cases, strays })
    }

    /// Names of all cases.
    pub fn case_names(&self) -> Vec<&str> {
        self.cases.iter().map(|c| c.name.as_str()).collect()
    }

    /// `dataset.json` in the form of nnU-Net v2, to lie next to the preprocessed data: that of v1 is converted.
    ///
    /// # Source
    /// nnU-Net v2, `convert_old_nnUNet_dataset`.
    pub fn description_v2(&self) -> Value {
        let Some(old) = self.description.raw.as_object().filter(|m| !m.contains_key("channel_names")) else {
            return self.description.raw.clone();
        };
        let mut new = Map::new();
        for (key, value) in old {
            match key.as_str() {
                "tensorImageSize" | "numTest" | "training" | "test" => {}
                "modality" => {
                    new.insert("channel_names".to_owned(), value.clone());
                }
                "labels" if value.as_object().is_some_and(|m| m.values().all(Value::is_string)) => {
                    let labels = self.description.labels.entries();
                    let turned = labels.iter().map(|l| (l.name.clone(), Value::from(l.values[0])));
                    new.insert(key.clone(), Value::Object(turned.collect()));
                }
                _ => {
                    new.insert(key.clone(), value.clone());
                }
            }
        }
        new.insert("file_ending".to_owned(), Value::from(self.description.file_ending.clone()));
        new.entry("numTraining").or_insert_with(|| Value::from(self.cases.len()));
        Value::Object(new)
    }
}

impl RawCase {
    /// Reads image and label map, and checks that they fit each other and the dataset.
    ///
    /// Both stay in the order of the first image's file. With a `reader` that turns images, files whose axes lead elsewhere
    /// are turned to those of the first.
    ///
    /// # Errors
    /// [`PlanError::Volume`] if a file cannot be read; [`PlanError::Case`] if the number of channels is not the dataset's, or
    /// the shapes differ; [`PlanError::UndeclaredLabels`].
    pub fn read(&self, description: &Dataset, reader: ImageReader) -> Result<ReadCase, PlanError> {
        let failed = |path: &Path, reason: String| {
            Err(PlanError::Case { case: self.name.clone(), path: path.to_owned(), reason })
        };
        let Some(first) = self.images.first() else {
            return failed(&self.labels, "has no image".to_owned());
        };
        let rule = reader.turns();
        let (mut volume, infos) = read_stack_along(&self.images, rule)?;
        let channels = description.channel_names.len();
        if volume.channels != channels {
            let reason = format!(
                "has {} channels in {} files, but dataset.json names {channels}",
                volume.channels,
                self.images.len()
            );
            return failed(first, reason);
        }
        let mut oddities = odd_images(&self.images, &infos, &mut volume);
        let mut labels = read_labels_noting(&self.labels, &mut oddities)?;
        if let Some(rule) = rule {
            labels = labels.along(&volume.geometry, rule);
        }
        if labels.shape() != volume.shape() {
            let reason = format!(
                "the label map {} has shape {:?}, but the image {:?} (z, y, x)",
                self.labels.display(),
                labels.shape(),
                volume.shape()
            );
            return failed(&self.labels, reason);
        }
        self.check_declared(&labels, description)?;
        Ok(ReadCase { image: volume, labels, oddities })
    }

    /// Refuses labels that no output could stand for: a training would silently take them for background, or abort.
    fn check_declared(&self, map: &LabelMap, description: &Dataset) -> Result<(), PlanError> {
        let declared = description.labels.declared();
        let labels: Vec<(u16, u64)> = map
            .counts()
            .into_iter()
            .filter(|(label, _)| !declared.contains(label))
            .map(|(l, n)| (l, n as u64))
            .collect();
        if labels.is_empty() {
            return Ok(());
        }
        Err(PlanError::UndeclaredLabels {
            case: self.name.clone(),
            path: self.labels.clone(),
            labels,
            declared,
        })
    }
}

/// What is odd about the files of a case, a sentence each. Voxels that are NaN or infinite become 0.
///
/// `infos` belong to `files`, whose channels `image` holds in order.
pub fn odd_images<P: AsRef<Path>>(files: &[P], infos: &[ImageInfo], image: &mut Volume) -> Vec<String> {
    let mut oddities = Vec::new();
    let mut of_channel = Vec::new();
    for (file, info) in files.iter().map(|f| f.as_ref().display()).zip(infos) {
        oddities.extend(info.oddities.iter().map(|odd| format!("{file}: {odd}")));
        of_channel.extend((0..info.channels).map(|channel| (file.to_string(), channel, info.channels)));
    }
    let total = image.geometry.voxels();
    for (channel, count) in image.clear_not_finite() {
        let (file, channel, channels) = &of_channel[channel];
        let which = if *channels > 1 { format!(" of channel {channel}") } else { String::new() };
        oddities.push(format!("{file}: NaN and infinite voxels{which} count as 0: {count} of {total}"));
    }
    oddities
}

/// Where fingerprint, plans and preprocessed data of a raw dataset go, unless the user says otherwise.
///
/// `$nnUNet_preprocessed/NAME` if that variable is set, as nnU-Net has it. Else `nnUNet_preprocessed/NAME` next to a
/// folder `nnUNet_raw` that holds the dataset, else `NAME_preprocessed` next to the dataset.
pub fn preprocessed_folder(raw: &Path) -> PathBuf {
    let root = std::env::var_os("nnUNet_preprocessed").filter(|root| !root.is_empty());
    folder_beside(&whole(raw), root.as_deref(), "preprocessed")
}

/// Where trained models of a raw dataset go, unless the user says otherwise: as [`preprocessed_folder`], with
/// `$nnUNet_results`, `nnUNet_results` and `NAME_results`.
pub fn results_folder(raw: &Path) -> PathBuf {
    let root = std::env::var_os("nnUNet_results").filter(|root| !root.is_empty());
    folder_beside(&whole(raw), root.as_deref(), "results")
}

/// The folder's whole path; its own name stays where it is that of a dataset.
fn whole(raw: &Path) -> PathBuf {
    let path = fs::canonicalize(raw).unwrap_or_else(|_| raw.to_owned());
    match (std::path::absolute(raw), raw.file_name().and_then(OsStr::to_str)) {
        (Ok(absolute), Some(name)) if name.starts_with("Dataset") => absolute,
        _ => path,
    }
}

fn folder_beside(raw: &Path, root: Option<&OsStr>, kind: &str) -> PathBuf {
    let name = name_of(raw);
    if let Some(root) = root {
        return Path::new(root).join(name);
    }
    let parent = raw.parent().unwrap_or(Path::new(""));
    match parent.file_name() {
        Some(n) if n == "nnUNet_raw" => parent.with_file_name(format!("nnUNet_{kind}")).join(name),
        _ => parent.join(format!("{name}_{kind}")),
    }
}

/// A link that is named as nnU-Net names datasets has the dataset's name, wherever it leads.
fn name_of(folder: &Path) -> String {
    if let Some(name) = folder.file_name().and_then(OsStr::to_str).filter(|name| name.starts_with("Dataset"))
    {
        return name.to_owned();
    }
    let whole = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    whole.file_name().map_or_else(|| "Dataset".to_owned(), |n| n.to_string_lossy().into_owned())
}

/// What `imagesTr` holds.
struct Listing {
    /// Image files of every case, in channel order.
    cases: BTreeMap<String, Vec<PathBuf>>,
    /// Files with another kind of name.
    others: Vec<PathBuf>,
}

/// Files of a folder by name, without hidden ones (which nnU-Net would take for cases).
///
/// Dangling links, and folders that are named as images are, are listed too: their case fails, rather than being missed.
/// In a name that is not UTF-8 what cannot be read is replaced; the path stays as it is.
fn names_in(folder: &Path, ending: &str) -> Result<BTreeMap<String, PathBuf>, PlanError> {
    let failed = |source| PlanError::Read { path: folder.to_owned(), source };
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let mut name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || (path.is_dir() && !name.ends_with(ending)) {
            continue;
        }
        // Two names that differ only in what cannot be read.
        while names.contains_key(&name) {
            name.insert(0, char::REPLACEMENT_CHARACTER);
        }
        names.insert(name, path);
    }
    Ok(names)
}

fn listed_images(folder: &Path, ending: &str) -> Result<Listing, PlanError> {
    let mut listing = Listing { cases: BTreeMap::new(), others: Vec::new() };
    for (name, path) in names_in(folder, ending)? {
        match name.strip_suffix(ending).and_then(case_of) {
            Some(case) => listing.cases.entry(case.to_owned()).or_default().push(path),
            None => listing.others.push(path),
        }
    }
    Ok(listing)
}

/// `CASE` of `CASE_0000`.
fn case_of(stem: &str) -> Option<&str> {
    let (case, channel) = stem.rsplit_once('_')?;
    (!case.is_empty() && channel.len() == 4 && channel.bytes().all(|b| b.is_ascii_digit())).then_some(case)
}

/// The cases of v1's `training`: a list of `{"image": "./imagesTr/CASE.nii.gz", "label": …}`.
///
/// The files named are those that are used, wherever they lie. Version 1 itself writes `CASE.nii.gz` for the channels
/// `CASE_0000.nii.gz` …, so these are looked for where the file named is not there; the Decathlon keeps all channels in
/// the file named.
fn training_cases(list: &Node<'_>, folder: &Path, ending: &str) -> Result<Vec<RawCase>, PlanError> {
    let mut listings: HashMap<PathBuf, Listing> = HashMap::new();
    let mut cases: BTreeMap<String, RawCase> = BTreeMap::new();
    for entry in list.list()? {
        let image = if entry.value().is_object() { entry.get("image")? } else { entry.clone() };
        let path = folder.join(image.str()?.replace('\\', "/").trim_start_matches("./"));
        let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let stem = file.strip_suffix(ending).filter(|stem| !stem.is_empty());
        let Some(stem) = stem else {
            return Err(image.wrong(format!("the path of an image that ends with \"{ending}\"")));
        };
        let parent = path.parent().unwrap_or(folder).to_owned();
        let listing = match listings.entry(parent) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let found = listed_images(new.key(), ending)?;
                new.insert(found)
            }
        };
        // A file of the first channel stands for the others of its case.
        let first = case_of(stem).filter(|case| {
            path.symlink_metadata().is_ok()
                && listing.cases.get(*case).is_some_and(|files| files.first() == Some(&path))
        });
        let (name, images) = match (listing.cases.get(stem), first) {
            (Some(channels), _) => (stem, channels.clone()),
            (None, Some(case)) => (case, listing.cases[case].clone()),
            (None, None) => (stem, vec![path.clone()]),
        };
        let labels = match entry.value().is_object().then(|| entry.opt("label")).transpose()?.flatten() {
            Some(label) => folder.join(label.str()?.replace('\\', "/").trim_start_matches("./")),
            None => folder.join("labelsTr").join(format!("{name}{ending}")),
        };
        let case = RawCase { name: name.to_owned(), images, labels };
        match cases.get(name) {
            Some(other) if *other != case => {
                return Err(
                    image.wrong(format!("the image of another case than `{name}`, which is listed already"))
                );
            }
            _ => cases.insert(name.to_owned(), case),
        };
    }
    Ok(cases.into_values().collect())
}

/// The cases of the key `dataset`.
fn linked_cases(links: &Node<'_>, folder: &Path) -> Result<Vec<RawCase>, PlanError> {
    let path = |node: &Node<'_>| -> Result<PathBuf, PlanError> {
        Ok(folder.join(expand_variables(node.str()?, |name| std::env::var(name).ok())))
    };
    let mut cases = Vec::new();
    for (name, node) in links.entries()? {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(node.wrong("under the name of a case, which has no slash and no leading dot"));
        }
        let images = node.get("images")?.list()?.iter().map(path).collect::<Result<Vec<_>, _>>()?;
        cases.push(RawCase { name: name.to_owned(), images, labels: path(&node.get("label")?)? });
    }
    Ok(cases)
}

/// Replaces `$NAME` and `${NAME}`; a variable that is not set is left as it stands.
///
/// # Source
/// Python, `os.path.expandvars`.
fn expand_variables(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, length) = if let Some((name, _)) = braced {
            (name, name.len() + 2)
        } else {
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let name = &after[..end.unwrap_or(after.len())];
            (name, name.len())
        };
        match lookup(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[at..=at + length]),
        }
        rest = &after[length..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_name_ends_before_the_four_digits_of_the_channel() {
        assert_eq!(case_of("case_00_0003"), Some("case_00"));
        assert_eq!(case_of("BraTS-GLI-00000-000_0000"), Some("BraTS-GLI-00000-000"));
        for other in ["case_00", "case_00_000", "case_00_00000", "case", "_0000", "case_00x1"] {
            assert_eq!(case_of(other), None, "{other}");
        }
    }

    #[test]
    fn variables_in_paths_are_expanded_as_python_does() {
        let lookup = |name: &str| (name == "DATA").then(|| "/data".to_owned());
        for (text, expected) in [
            ("$DATA/a.nii", "/data/a.nii"),
            ("${DATA}x/a", "/datax/a"),
            ("x/$DATA", "x//data"),
            ("$DATAX/a", "$DATAX/a"),
            ("${NONE}/a$", "${NONE}/a$"),
            ("${DATA", "${DATA"),
        ] {
            assert_eq!(expand_variables(text, lookup), expected, "{text}");
        }
    }

    #[test]
    fn preprocessed_data_go_where_nnunet_has_them_or_beside() {
        let beside = |raw: &str, root: Option<&str>| {
            folder_beside(Path::new(raw), root.map(OsStr::new), "preprocessed")
        };
        assert_eq!(beside("/a/Dataset001_X", Some("/pre")), Path::new("/pre/Dataset001_X"));
        assert_eq!(
            beside("/a/nnUNet_raw/Dataset001_X", None),
            Path::new("/a/nnUNet_preprocessed/Dataset001_X")
        );
        assert_eq!(beside("/a/Dataset001_X", None), Path::new("/a/Dataset001_X_preprocessed"));
    }
}
