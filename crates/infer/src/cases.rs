//! Which files make a case, and which file is which channel.
//!
//! Three ways of naming are understood, alone or mixed: nnU-Net's numbers (`CASE_0000.nii.gz`), and the names of BraTS 2017 to 2022
//! (`CASE_t1ce.nii.gz`) and of BraTS 2023 and later (`CASE-t1c.nii.gz`), loose or one folder per case. A name is compared with the
//! model's channel names, never with a position; a number is nnU-Net's own index of the channel. Nothing is read
//! here but the header of a file that may hold several channels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;
use glioseg_formats::nifti;
pub use glioseg_plan::canonical_channel;
use thiserror::Error;

/// A case with one file per channel, or one file with all channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseFiles {
    /// Name of the case: the files' common prefix, and the name of its output.
    pub id: String,
    /// The files in the order of the model's channels.
    pub files: Vec<PathBuf>,
}

/// How the files of the input name one channel of the model, for the user to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelMatch {
    /// The model's name of the channel.
    pub channel: String,
    /// The endings of the files that are this channel, for example `t1ce` or `0001`.
    pub suffixes: Vec<String>,
}

/// What an input holds.
#[derive(Debug, Default)]
pub struct Found {
    /// Complete cases, sorted by name.
    pub cases: Vec<CaseFiles>,
    /// Cases that cannot be predicted, sorted by name.
    pub bad: Vec<(String, CaseError)>,
    /// Which file endings stand for which channel.
    pub matches: Vec<ChannelMatch>,
    /// Image files that are no channel (segmentations, other contrasts).
    pub ignored: Vec<PathBuf>,
}

/// Why files do not make a case, or an input no cases.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CaseError {
    /// A channel of the model has no file.
    #[error("case `{case}` has no file for channel {missing}; found: {found}")]
    MissingChannel {
        /// The case.
        case: String,
        /// The channels without a file.
        missing: String,
        /// The channels with a file.
        found: String,
        /// A folder or file of the case.
        path: PathBuf,
    },
    /// Two files claim the same channel.
    #[error("case `{case}` has two files for channel `{channel}`: {} and {}", first.display(), second.display())]
    TwoFiles {
        /// The case.
        case: String,
        /// The channel.
        channel: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A number that the model has no channel for.
    #[error("case `{case}` has a file for channel number {number}, but the model knows only {channels} channels (0000 to {:04})", channels - 1)]
    UnknownNumber {
        /// The case.
        case: String,
        /// The file's number.
        number: usize,
        /// The model's number of channels.
        channels: usize,
        /// The file.
        path: PathBuf,
    },
    /// The path does not exist or cannot be listed.
    #[error("cannot read the input: {reason}")]
    Unreadable {
        /// What the system said.
        reason: String,
        /// The path.
        path: PathBuf,
    },
    /// No file of the input is a channel of a case.
    #[error("no cases found ({seen} image files seen{example})")]
    NoCases {
        /// The input.
        path: PathBuf,
        /// How many image files there are.
        seen: usize,
        /// One of them, as text for the message.
        example: String,
        /// The model's channels.
        channels: Vec<String>,
    },
    /// The model's files have an ending that is not NIfTI.
    #[error("the model was trained on `{ending}` files, which glioseg does not read")]
    FileEnding {
        /// `file_ending` of `dataset.json`.
        ending: String,
    },
}

impl Diagnose for CaseError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::MissingChannel { missing, .. } => format!(
                "add the file for {missing}, or rename it as the other channels are named (known endings: {})",
                "t1 t1n | t1ce t1c t1gd | t2 t2w | flair t2f | 0000 0001 …"
            ),
            Self::TwoFiles { .. } => "keep one of the two files; which is meant cannot be guessed".into(),
            Self::UnknownNumber { .. } => {
                "is this the right model for these data? `glioseg info MODEL` prints its channels".into()
            }
            Self::Unreadable { .. } => "check the path and its permissions".into(),
            Self::NoCases { channels, .. } => {
                let numbered: Vec<String> =
                    (0..channels.len()).map(|i| format!("CASE_{i:04}.nii.gz")).collect();
                format!(
                    "expected {} or BraTS names such as CASE_t1ce.nii.gz or CASE-t1c.nii.gz for the channels {}",
                    numbered.join(" "),
                    channels.join(", ")
                )
            }
            Self::FileEnding { .. } => {
                "convert the images to .nii.gz; `file_ending` in dataset.json may then be changed".into()
            }
        })
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::MissingChannel { path, .. }
            | Self::UnknownNumber { path, .. }
            | Self::Unreadable { path, .. }
            | Self::NoCases { path, .. } => Some(path),
            Self::TwoFiles { second, .. } => Some(second),
            Self::FileEnding { .. } => None,
        }
    }
}

/// What a file's name says of it.
#[derive(Debug, PartialEq, Eq)]
enum ImageName {
    Channel { case: String, index: usize, suffix: String },
    UnknownNumber { case: String, number: usize },
    Other,
}

/// The stem of an image file's name, or `None` for another kind of file.
fn image_stem(name: &str) -> Option<&str> {
    let lower = name.to_ascii_lowercase();
    if name.starts_with('.') {
        return None;
    }
    [".nii.gz", ".nii"].into_iter().find(|e| lower.ends_with(e)).map(|e| &name[..name.len() - e.len()])
}

fn parse_stem(stem: &str, channels: &[String]) -> ImageName {
    // The longest ending that is a channel's name wins, so that a model's own name with `_` or `-` in it works too.
    for (at, _) in stem.match_indices(['_', '-']) {
        let (case, suffix) = (&stem[..at], &stem[at + 1..]);
        if case.is_empty() {
            continue;
        }
        let canonical = canonical_channel(suffix);
        if let Some(index) = channels.iter().position(|c| canonical_channel(c) == canonical) {
            return ImageName::Channel { case: case.into(), index, suffix: suffix.into() };
        }
    }
    if let Some((case, number)) = stem.rsplit_once('_')
        && !case.is_empty()
        && number.len() == 4
        && number.bytes().all(|b| b.is_ascii_digit())
        && let Ok(index) = number.parse::<usize>()
    {
        if index < channels.len() {
            return ImageName::Channel { case: case.into(), index, suffix: number.into() };
        }
        return ImageName::UnknownNumber { case: case.into(), number: index };
    }
    ImageName::Other
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

/// The stem of an image's name; in a name that is not UTF-8 what cannot be read is replaced.
fn stem_of(path: &Path) -> Option<String> {
    image_stem(&path.file_name()?.to_string_lossy()).map(str::to_owned)
}

/// Every image file of the inputs: files themselves, files of folders, and files of the folders in them.
///
/// Dangling links, and empty folders that are named as images are, are listed too: their case fails, rather than being missed.
fn image_files(inputs: &[PathBuf]) -> Result<Vec<PathBuf>, CaseError> {
    let is_image = |p: &Path| stem_of(p).is_some();
    let mut files = Vec::new();
    for input in inputs {
        if input.is_dir() {
            for entry in list(input)? {
                let inside = if entry.is_dir() { list(&entry)? } else { Vec::new() };
                if inside.is_empty() {
                    files.extend(Some(entry).filter(|e| is_image(e)));
                } else {
                    files.extend(inside.into_iter().filter(|p| is_image(p) && !p.is_dir()));
                }
            }
        } else if input.symlink_metadata().is_ok() {
            files.push(input.clone());
        } else {
            return Err(CaseError::Unreadable {
                reason: "no such file or folder".into(),
                path: input.clone(),
            });
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// Sorts the files of `inputs` into cases for a model with `channels`.
///
/// An input is a folder of images, a folder of one folder per case, or an image file.
///
/// # Errors
/// [`CaseError::Unreadable`], [`CaseError::NoCases`] and [`CaseError::FileEnding`] concern the whole input; what is wrong with one case is in
/// [`Found::bad`].
pub fn find_cases(inputs: &[PathBuf], channels: &[String], file_ending: &str) -> Result<Found, CaseError> {
    if ![".nii.gz", ".nii"].contains(&file_ending.to_ascii_lowercase().as_str()) {
        return Err(CaseError::FileEnding { ending: file_ending.into() });
    }
    let files = image_files(inputs)?;
    let mut found = Found::default();
    let mut slots: BTreeMap<String, Vec<Option<PathBuf>>> = BTreeMap::new();
    let mut bad: BTreeMap<String, CaseError> = BTreeMap::new();
    let mut suffixes: Vec<Vec<String>> = vec![Vec::new(); channels.len()];
    for file in &files {
        let stem = stem_of(file).unwrap_or_default();
        match parse_stem(&stem, channels) {
            ImageName::Other => found.ignored.push(file.clone()),
            ImageName::UnknownNumber { case, number } => {
                let error = CaseError::UnknownNumber {
                    case: case.clone(),
                    number,
                    channels: channels.len(),
                    path: file.clone(),
                };
                bad.entry(case).or_insert(error);
            }
            ImageName::Channel { case, index, suffix } => {
                let slot =
                    &mut slots.entry(case.clone()).or_insert_with(|| vec![None; channels.len()])[index];
                if let Some(first) = slot {
                    let error = CaseError::TwoFiles {
                        case: case.clone(),
                        channel: channels[index].clone(),
                        first: first.clone(),
                        second: file.clone(),
                    };
                    bad.entry(case).or_insert(error);
                    continue;
                }
                *slot = Some(file.clone());
                if !suffixes[index].contains(&suffix) {
                    suffixes[index].push(suffix);
                }
            }
        }
    }
    for (id, slot) in slots {
        if bad.contains_key(&id) {
            continue;
        }
        match complete(&id, &slot, channels) {
            Ok(files) => found.cases.push(CaseFiles { id, files }),
            Err(error) => {
                bad.insert(id, error);
            }
        }
    }
    found.bad = bad.into_iter().collect();
    if found.cases.is_empty() && found.bad.is_empty() {
        let example =
            files.first().and_then(|f| f.file_name()).map(|n| format!(", for example {}", n.display()));
        return Err(CaseError::NoCases {
            path: inputs.first().cloned().unwrap_or_default(),
            seen: files.len(),
            example: example.unwrap_or_default(),
            channels: channels.to_vec(),
        });
    }
    found.matches = channels
        .iter()
        .zip(suffixes)
        .map(|(channel, suffixes)| ChannelMatch { channel: channel.clone(), suffixes })
        .collect();
    Ok(found)
}

fn complete(id: &str, slots: &[Option<PathBuf>], channels: &[String]) -> Result<Vec<PathBuf>, CaseError> {
    let files: Vec<PathBuf> = slots.iter().flatten().cloned().collect();
    if files.len() == channels.len() {
        return Ok(files);
    }
    // One four-dimensional file may hold every channel.
    if let ([file], Some(_)) = (files.as_slice(), &slots[0])
        && nifti::read_info(file).is_ok_and(|info| info.channels == channels.len())
    {
        return Ok(files);
    }
    let named = |present: bool| {
        let names: Vec<String> = channels
            .iter()
            .zip(slots)
            .filter(|(_, s)| s.is_some() == present)
            .map(|(c, _)| format!("`{c}`"))
            .collect();
        names.join(", ")
    };
    Err(CaseError::MissingChannel {
        case: id.into(),
        missing: named(false),
        found: named(true),
        path: files[0].parent().map(Path::to_path_buf).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brats() -> Vec<String> {
        ["T1", "T1ce", "T2", "Flair"].map(String::from).to_vec()
    }

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, b"").expect("a file");
        }
    }

    fn names(case: &CaseFiles) -> Vec<String> {
        case.files.iter().map(|f| f.file_name().expect("a name").display().to_string()).collect()
    }

    #[test]
    fn names_of_every_brats_year_are_the_models_channels() {
        let dir = tempfile::tempdir().expect("a folder");
        touch(
            dir.path(),
            &[
                "BraTS2021_00000/BraTS2021_00000_flair.nii.gz",
                "BraTS2021_00000/BraTS2021_00000_t1.nii.gz",
                "BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz",
                "BraTS2021_00000/BraTS2021_00000_t2.nii.gz",
                "BraTS2021_00000/BraTS2021_00000_seg.nii.gz",
                "BraTS-GLI-00003-000/BraTS-GLI-00003-000-t1c.nii.gz",
                "BraTS-GLI-00003-000/BraTS-GLI-00003-000-t1n.nii.gz",
                "BraTS-GLI-00003-000/BraTS-GLI-00003-000-t2f.nii.gz",
                "BraTS-GLI-00003-000/BraTS-GLI-00003-000-t2w.nii.gz",
                "loose_T1Gd.nii",
                "loose_T1.nii",
                "loose_T2W.nii",
                "loose_FLAIR.nii",
                "notes.txt",
                "other_algo-scan-20.nii.gz",
            ],
        );
        let found = find_cases(&[dir.path().into()], &brats(), ".nii.gz").expect("cases");
        assert!(found.bad.is_empty(), "{:?}", found.bad);
        let ids: Vec<_> = found.cases.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["BraTS-GLI-00003-000", "BraTS2021_00000", "loose"]);
        assert_eq!(
            names(&found.cases[0]),
            ["t1n", "t1c", "t2w", "t2f"].map(|c| format!("BraTS-GLI-00003-000-{c}.nii.gz"))
        );
        assert_eq!(
            names(&found.cases[1]),
            ["t1", "t1ce", "t2", "flair"].map(|c| format!("BraTS2021_00000_{c}.nii.gz"))
        );
        assert_eq!(names(&found.cases[2]), ["T1", "T1Gd", "T2W", "FLAIR"].map(|c| format!("loose_{c}.nii")));
        assert_eq!(found.ignored.len(), 2);
        assert_eq!(found.matches[1].channel, "T1ce");
        assert_eq!(found.matches[1].suffixes, ["t1c", "t1ce", "T1Gd"]);
    }

    #[test]
    fn another_order_of_the_models_channels_changes_the_order_of_the_files() {
        let dir = tempfile::tempdir().expect("a folder");
        touch(dir.path(), &["a_t1.nii.gz", "a_t1ce.nii.gz", "a_t2.nii.gz", "a_flair.nii.gz"]);
        let channels = ["flair", "t1gd", "t1", "t2"].map(String::from).to_vec();
        let found = find_cases(&[dir.path().into()], &channels, ".nii.gz").expect("cases");
        assert_eq!(names(&found.cases[0]), ["flair", "t1ce", "t1", "t2"].map(|c| format!("a_{c}.nii.gz")));
    }

    #[test]
    fn numbers_are_nnunets_indices() {
        let dir = tempfile::tempdir().expect("a folder");
        touch(dir.path(), &["c_1_0000.nii.gz", "c_1_0001.nii.gz", "c_2_0000.nii.gz", "c_2_0001.nii.gz"]);
        let channels = ["CT", "t1ce"].map(String::from).to_vec();
        let found = find_cases(&[dir.path().into()], &channels, ".nii.gz").expect("cases");
        assert_eq!(found.cases.len(), 2);
        assert_eq!(names(&found.cases[1]), ["c_2_0000.nii.gz", "c_2_0001.nii.gz"]);
    }

    #[cfg(unix)]
    #[test]
    fn files_that_cannot_be_opened_or_named_belong_to_cases() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        touch(dir.path(), &["a_0000.nii.gz", "d/d_0000.nii.gz"]);
        std::os::unix::fs::symlink("nowhere", dir.path().join("b_0000.nii.gz")).expect("a link");
        std::fs::create_dir(dir.path().join("c_0000.nii.gz")).expect("a folder");
        let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"e\xff_0000.nii.gz"));
        std::fs::write(&odd, b"").expect("writable");
        let found = find_cases(&[dir.path().into()], &["CT".into()], ".nii.gz").expect("cases");
        let ids: Vec<_> = found.cases.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c", "d", "e\u{fffd}"]);
        assert_eq!(found.cases[4].files, [odd]);
        let link = dir.path().join("b_0000.nii.gz");
        let found = find_cases(&[link], &["CT".into()], ".nii.gz").expect("a case that will fail");
        assert_eq!(found.cases.len(), 1);
    }

    #[test]
    fn a_missing_channel_names_what_is_missing_and_what_is_there() {
        let dir = tempfile::tempdir().expect("a folder");
        touch(dir.path(), &["a_t1.nii.gz", "a_t1ce.nii.gz", "a_t2.nii.gz", "b_t1.nii.gz"]);
        let found = find_cases(&[dir.path().into()], &brats(), ".nii.gz").expect("cases");
        assert!(found.cases.is_empty());
        assert_eq!(
            found.bad[0].1.to_string(),
            "case `a` has no file for channel `Flair`; found: `T1`, `T1ce`, `T2`"
        );
        assert!(found.bad[0].1.hint().expect("a hint").contains("flair t2f"));
        assert_eq!(
            found.bad[1].1.to_string(),
            "case `b` has no file for channel `T1ce`, `T2`, `Flair`; found: `T1`"
        );
    }

    #[test]
    fn two_files_for_one_channel_are_both_named() {
        let dir = tempfile::tempdir().expect("a folder");
        touch(dir.path(), &["a_t1.nii.gz", "a_t1ce.nii.gz", "a_t1c.nii.gz", "a_t2.nii.gz", "a_flair.nii.gz"]);
        let found = find_cases(&[dir.path().into()], &brats(), ".nii.gz").expect("cases");
        let message = found.bad[0].1.to_string();
        assert!(message.starts_with("case `a` has two files for channel `T1ce`: "), "{message}");
        assert!(message.contains("a_t1c.nii.gz") && message.contains("a_t1ce.nii.gz"), "{message}");
    }

    #[test]
    fn a_number_beyond_the_models_channels_is_an_error_of_that_case() {
        let dir = tempfile::tempdir().expect("a folder");
        touch(dir.path(), &["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz"]);
        let found = find_cases(&[dir.path().into()], &["CT".into()], ".nii.gz").expect("cases");
        assert_eq!(found.cases.len(), 1);
        assert!(found.bad[0].1.to_string().contains("channel number 1, but the model knows only 1"));
    }

    #[test]
    fn an_input_without_cases_says_what_names_are_expected() {
        let dir = tempfile::tempdir().expect("a folder");
        touch(dir.path(), &["scan.nii.gz"]);
        let error = find_cases(&[dir.path().into()], &brats(), ".nii.gz").expect_err("no cases");
        assert_eq!(error.to_string(), "no cases found (1 image files seen, for example scan.nii.gz)");
        assert!(error.hint().expect("a hint").contains("CASE_0000.nii.gz"));
        let error = find_cases(&[dir.path().join("nowhere")], &brats(), ".nii.gz").expect_err("no folder");
        assert_eq!(error.to_string(), "cannot read the input: no such file or folder");
        let error = find_cases(&[dir.path().into()], &brats(), ".png").expect_err("png");
        assert!(error.to_string().contains(".png"));
    }
}
