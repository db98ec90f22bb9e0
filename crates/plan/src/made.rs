//! A raw dataset made of files of any name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use glioseg_formats::nifti::read_labels;
use glioseg_formats::{FormatError, atomic};
use glioseg_interop::{KeyOrder, python_json};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::brats::Linking;
use crate::matching::MatchedCase;
use crate::{PlanError, RawDataset};

/// A dataset to be: cases whose last file is the label map.
#[derive(Debug)]
pub struct Making<'a> {
    /// The cases.
    pub cases: &'a [MatchedCase],
    /// Names of the channels, in their order.
    pub channels: &'a [String],
    /// Names of label values; others are called `label N`.
    pub names: &'a BTreeMap<u16, String>,
    /// How images come into it.
    pub linking: Linking,
}

/// Writes `dataset.json` into `out`, and the images unless they are referred to.
///
/// Returns the dataset, and for each label value its voxels.
///
/// # Errors
/// [`PlanError::OutputExists`]; [`PlanError::Case`] for label maps whose values do not follow each other from 0, and files that cannot
/// be read or brought in. Nothing refers to what was written before an error.
pub fn make_dataset(making: &Making<'_>, out: &Path) -> Result<(RawDataset, BTreeMap<u16, u64>), PlanError> {
    let description = out.join("dataset.json");
    if description.exists() {
        return Err(PlanError::OutputExists { path: description });
    }
    let counts: Vec<BTreeMap<u16, usize>> = making
        .cases
        .par_iter()
        .map(|case| Ok(read_labels(&case.files[making.channels.len()])?.counts()))
        .collect::<Result<_, PlanError>>()?;
    let mut voxels: BTreeMap<u16, u64> = BTreeMap::from([(0, 0)]);
    for (value, n) in counts.iter().flatten() {
        *voxels.entry(*value).or_default() += *n as u64;
    }
    let values: BTreeSet<u16> = voxels.keys().chain(making.names.keys()).copied().collect();
    if let Some((wanted, found)) = (0u16..).zip(&values).find(|(wanted, found)| wanted != *found) {
        let at = counts.iter().position(|c| c.contains_key(found)).unwrap_or(0);
        let case = &making.cases[at];
        return Err(PlanError::Case {
            case: case.name.clone(),
            path: case.files[making.channels.len()].clone(),
            reason: format!(
                "has label {found}, but no label map has {wanted}: values must follow each other from 0 (BraTS's 1-2-4 is \
                 turned by `glioseg dataset brats`)"
            ),
        });
    }
    let name = |value: u16| match (making.names.get(&value), value) {
        (Some(name), _) => name.clone(),
        (None, 0) => "background".to_owned(),
        (None, value) => format!("label {value}"),
    };
    let labels: Map<String, Value> = values.iter().map(|&v| (name(v), json!(v))).collect();
    let channels: Map<String, Value> =
        making.channels.iter().enumerate().map(|(i, c)| (i.to_string(), json!(c))).collect();
    let mut text = json!({"channel_names": channels, "labels": labels, "numTraining": making.cases.len(),
        "file_ending": ".nii.gz"});
    fs::create_dir_all(out).map_err(|e| FormatError::io(out, "make", e))?;
    if making.linking == Linking::Reference {
        text["dataset"] = references(making)?;
    } else {
        bring(making, out)?;
    }
    let text = python_json(&text, KeyOrder::Given);
    atomic::write(&description, |file| file.write_all(text.as_bytes()))?;
    Ok((RawDataset::open(out)?, voxels))
}

fn references(making: &Making<'_>) -> Result<Value, PlanError> {
    let absolute = |file: &PathBuf| {
        let path = std::path::absolute(file).map_err(|e| FormatError::io(file, "read", e))?;
        Ok::<_, PlanError>(path.display().to_string())
    };
    let mut all = Map::new();
    for case in making.cases {
        let files = case.files.iter().map(absolute).collect::<Result<Vec<_>, _>>()?;
        let (images, label) = files.split_at(making.channels.len());
        all.insert(case.name.clone(), json!({"images": images, "label": label[0]}));
    }
    Ok(Value::Object(all))
}

/// Links or copies every file under its name in the dataset.
fn bring(making: &Making<'_>, out: &Path) -> Result<(), PlanError> {
    for folder in ["imagesTr", "labelsTr"] {
        let folder = out.join(folder);
        fs::create_dir_all(&folder).map_err(|e| FormatError::io(&folder, "make", e))?;
    }
    for case in making.cases {
        for (i, from) in case.files.iter().enumerate() {
            if !from.to_string_lossy().to_ascii_lowercase().ends_with(".nii.gz") {
                let reason = "does not end in .nii.gz: refer to it with `--files reference`".to_owned();
                return Err(PlanError::Case { case: case.name.clone(), path: from.clone(), reason });
            }
            let to = if i == making.channels.len() {
                out.join("labelsTr").join(format!("{}.nii.gz", case.name))
            } else {
                out.join("imagesTr").join(format!("{}_{i:04}.nii.gz", case.name))
            };
            making.linking.bring(from, &to)?;
        }
    }
    Ok(())
}
