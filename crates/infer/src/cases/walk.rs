//! Which files of the input are images.

use std::path::{Path, PathBuf};

use glioseg_diagnose::first_few;
use glioseg_formats::nifti;

use super::CaseError;

/// The stem of an image file's name, or `None` for another kind of file; of a pair the header stands for both.
pub(super) fn image_stem(name: &str) -> Option<&str> {
    let headers = || {
        let lower = name.to_ascii_lowercase();
        let ending = [".hdr", ".hdr.gz"].into_iter().find(|ending| lower.ends_with(ending))?;
        (!name.starts_with('.')).then(|| &name[..name.len() - ending.len()])
    };
    nifti::stem(name).or_else(headers)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, CaseError> {
    let unreadable = |e: std::io::Error| CaseError::Unreadable { reason: e.to_string(), path: folder.into() };
    let mut entries = std::fs::read_dir(folder)
        .map_err(unreadable)?
        .map(|e| e.map(|e| e.path()).map_err(unreadable))
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    Ok(entries)
}

/// What a walk through the inputs finds.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Image files.
    pub(super) files: Vec<PathBuf>,
    /// Entries named like images that are none that can be read, and why.
    pub(super) bad: Vec<(PathBuf, String)>,
    /// Other files.
    pub(super) others: Vec<PathBuf>,
}

/// Folders within folders that are looked into; links can lead round in circles.
const DEEPEST: usize = 12;

impl Walk {
    /// Files themselves, and files of folders and of the folders in them.
    pub(super) fn of(inputs: &[PathBuf]) -> Result<Self, CaseError> {
        let mut walk = Self::default();
        for input in inputs {
            if input.is_dir() {
                walk.folder(input, 0)?;
            } else if input.exists() {
                walk.files.push(input.clone());
            } else {
                let reason = "no such file or folder".into();
                return Err(CaseError::Unreadable { reason, path: input.clone() });
            }
        }
        walk.files.sort();
        walk.files.dedup();
        Ok(walk)
    }

    fn folder(&mut self, folder: &Path, depth: usize) -> Result<(), CaseError> {
        for entry in list(folder)? {
            let lossy = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_image = image_stem(&lossy).is_some();
            if lossy.starts_with('.') {
                continue;
            }
            if entry.file_name().and_then(|n| n.to_str()).is_none() && is_image {
                self.bad.push((entry, "has a name that is not UTF-8: rename it".to_owned()));
            } else if entry.is_dir() {
                if is_image {
                    self.bad.push((entry, "is a folder, not an image".to_owned()));
                } else if depth < DEEPEST {
                    self.folder(&entry, depth + 1)?;
                }
            } else if !is_image {
                self.others.push(entry);
            } else {
                match std::fs::metadata(&entry) {
                    Ok(_) => self.files.push(entry),
                    Err(error) if entry.is_symlink() => {
                        self.bad.push((entry, format!("is a link to a file that cannot be opened: {error}")));
                    }
                    Err(error) => self.bad.push((entry, format!("cannot be opened: {error}"))),
                }
            }
        }
        Ok(())
    }

    /// What was seen where no case was found, and why it makes none.
    pub(super) fn seen(&self) -> String {
        let some = |files: &[PathBuf]| {
            let name = |f: &PathBuf| f.file_name().unwrap_or_default().display().to_string();
            first_few(&files.iter().map(name).collect::<Vec<_>>(), 3)
        };
        let mut parts = Vec::new();
        if !self.files.is_empty() {
            parts.push(format!("the names of {} do not tell case and channel", some(&self.files)));
        }
        if !self.others.is_empty() {
            parts.push(format!("{} {}", some(&self.others), kind_of(&self.others[0])));
        }
        if parts.is_empty() { "there are no files in it".to_owned() } else { parts.join("; ") }
    }
}

/// Why a file cannot be an image, by its name.
fn kind_of(file: &Path) -> &'static str {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let head = std::fs::File::open(file).ok().and_then(|mut file| {
        let mut head = [0; 132];
        std::io::Read::read_exact(&mut file, &mut head).ok().map(|()| head)
    });
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&[".dcm"]) || head.is_some_and(|head| &head[128..] == b"DICM") {
        "is DICOM: convert the study with `glioseg dicom convert`"
    } else if ends(&[".nrrd", ".nhdr", ".mha", ".mhd", ".mgz"]) {
        "is an image of a format that is not read: convert it to .nii.gz"
    } else {
        "is not named like an image (.nii.gz, .nii, .hdr)"
    }
}
