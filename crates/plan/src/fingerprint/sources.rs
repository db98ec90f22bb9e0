//! Which files a fingerprint was made of, to see whether it still holds.
//!
//! `dataset_fingerprint.json` is nnU-Net's to the byte and has no place for this, so it lies in a file of its own. A
//! fingerprint without it (nnU-Net's, or one that was put there later) is compared with the headers of the images only.

use super::IgnoreLabel;
use crate::{PlanError, RawDataset, SourceFile, sha256};
use glioseg_formats::nifti::read_info;
use glioseg_formats::{FormatError, atomic};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// The files that a fingerprint was made of, `dataset_fingerprint_sources.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FingerprintSources {
    /// Hash of the fingerprint's text.
    fingerprint: String,
    /// How the ignore label was taken.
    ignore: IgnoreLabel,
    /// The channels of `dataset.json`: the intensities are per channel.
    channels: usize,
    /// The value of the ignore label.
    ignore_label: Option<u16>,
    cases: Vec<CaseSources>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CaseSources {
    case: String,
    /// Images in channel order, then the label map.
    files: Vec<StoredImage>,
}

/// An image or a label map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StoredImage {
    #[serde(flatten)]
    file: SourceFile,
    /// Hash of what the header says.
    header: String,
}

impl FingerprintSources {
    /// Name of the file next to the fingerprint.
    pub const FILE: &'static str = "dataset_fingerprint_sources.json";

    /// The files of a dataset as they are now; call it before they are read.
    ///
    /// # Errors
    /// [`PlanError::Volume`] if a file cannot be read.
    pub fn of(dataset: &RawDataset, ignore: IgnoreLabel) -> Result<FingerprintSources, PlanError> {
        let cases = dataset.cases.par_iter().map(|case| {
            let files = case.images.iter().chain([&case.labels]).map(|path| StoredImage::of(path));
            Ok(CaseSources { case: case.name.clone(), files: files.collect::<Result<_, FormatError>>()? })
        });
        Ok(FingerprintSources {
            fingerprint: String::new(),
            ignore,
            channels: dataset.description.channel_names.len(),
            ignore_label: dataset.description.labels.ignore_label(),
            cases: cases.collect::<Result<_, FormatError>>()?,
        })
    }

    /// Writes the file next to the fingerprint with the text `fingerprint`.
    ///
    /// # Errors
    /// [`PlanError::Volume`] if it cannot be written.
    ///
    /// # Panics
    /// Never: plain data can be written as JSON.
    pub fn write(mut self, folder: &Path, fingerprint: &str) -> Result<(), PlanError> {
        self.fingerprint = sha256(fingerprint.as_bytes());
        let text = serde_json::to_vec(&self).expect("plain data");
        Ok(atomic::write(&folder.join(Self::FILE), |file| file.write_all(&text))?)
    }

    /// Reads what lies next to a fingerprint; `None` if nothing does, or it is of another fingerprint.
    pub fn read(fingerprint: &Path) -> Option<FingerprintSources> {
        let text = fs::read(fingerprint).ok()?;
        let own = fs::read(fingerprint.with_file_name(Self::FILE)).ok()?;
        let sources: FingerprintSources = serde_json::from_slice(&own).ok()?;
        (sources.fingerprint == sha256(&text)).then_some(sources)
    }

    /// How the ignore label was taken.
    pub const fn ignore(&self) -> IgnoreLabel {
        self.ignore
    }

    /// What has changed since, in words; `None` if the fingerprint still holds.
    ///
    /// A file whose time differs is read: with the same content nothing has changed.
    pub fn changed(&self, dataset: &RawDataset, ignore: IgnoreLabel) -> Option<String> {
        let labels = &dataset.description.labels;
        if self.channels != dataset.description.channel_names.len() {
            return Some("dataset.json names another number of channels".to_owned());
        }
        if self.ignore_label != labels.ignore_label() {
            return Some("dataset.json has another ignore label".to_owned());
        }
        if self.ignore != ignore && labels.ignore_label().is_some() {
            return Some("the ignore label was counted in another way".to_owned());
        }
        let names: Vec<&str> = self.cases.iter().map(|c| c.case.as_str()).collect();
        let now = dataset.case_names();
        if names != now {
            let other = |of: &[&str], among: &[&str]| {
                of.iter().find(|name| !among.contains(name)).map(|name| (*name).to_owned())
            };
            return Some(match (other(&now, &names), other(&names, &now)) {
                (Some(new), _) => format!("case `{new}` is new"),
                (None, Some(gone)) => format!("case `{gone}` is gone"),
                _ => "the cases have another order".to_owned(),
            });
        }
        let changed = |(case, old): (&crate::RawCase, &CaseSources)| {
            let files: Vec<&std::path::PathBuf> = case.images.iter().chain([&case.labels]).collect();
            if files.len() != old.files.len() {
                return Some(format!("case `{}` has another number of files", case.name));
            }
            let file = files.into_iter().zip(&old.files).find(|(path, old)| !old.holds(path));
            file.map(|(path, _)| format!("{} has changed", path.display()))
        };
        dataset.cases.par_iter().zip(&self.cases).find_map_first(changed)
    }
}

impl StoredImage {
    fn of(path: &Path) -> Result<Self, FormatError> {
        Ok(Self { header: header(path)?, file: SourceFile::of(path)? })
    }

    fn holds(&self, path: &Path) -> bool {
        header(path).is_ok_and(|header| header == self.header) && self.file.holds(path)
    }
}

/// Hash of what a header says.
fn header(path: &Path) -> Result<String, FormatError> {
    let info = read_info(path)?;
    Ok(sha256(format!("{:?}", (&info.dims, &info.geometry, info.dtype, info.scale)).as_bytes()))
}
