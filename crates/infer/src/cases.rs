//! Which files make a case, and which file is which channel.
//!
//! Four ways of naming are understood, alone or mixed: nnU-Net's numbers (`CASE_0000.nii.gz`), the names of BraTS 2017 to 2022
//! (`CASE_t1ce.nii.gz`) and of BraTS 2023 and later (`CASE-t1c.nii.gz`), and those of BIDS (`sub-1_ses-2_ce-gad_T1w.nii.gz`), loose or in
//! folders of any depth. A name is compared with the model's channel names, never with a position; a number is nnU-Net's own index
//! of the channel. Nothing is read here but the header of a file that may hold several channels.

mod studies;
mod walk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;
use glioseg_formats::nifti;
pub use glioseg_plan::canonical_channel;
use glioseg_plan::matching::{MatchError, NamedPattern, match_files};
pub use studies::{FoundStudies, StudyFiles, find_studies};
use thiserror::Error;
use walk::{Walk, image_stem};

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
#[derive(Debug, Error)]
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
    /// A file of a case that is listed, but not there, or under a name that is not text.
    #[error("case `{case}`: {} {reason}", path.display())]
    BadFile {
        /// The case.
        case: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No file of the input is a channel of a case.
    #[error("no cases found in {}: {seen}", path.display())]
    NoCases {
        /// The input.
        path: PathBuf,
        /// What was seen instead, and why it makes no case.
        seen: String,
        /// The model's channels.
        channels: Vec<String>,
    },
    /// Files that are given channel by channel do not make cases.
    #[error(transparent)]
    Match(#[from] MatchError),
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
            Self::Match(error) => return error.hint(),
            Self::BadFile { .. } => "copy the file again, or take the entry out of the folder".into(),
            Self::NoCases { channels, .. } => {
                let numbered: Vec<String> =
                    (0..channels.len()).map(|i| format!("CASE_{i:04}.nii.gz")).collect();
                format!(
                    "expected {} or BraTS names such as CASE_t1ce.nii.gz or CASE-t1c.nii.gz for the channels {}; files of other \
                     names are given with --channel NAME=FILE",
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
            | Self::BadFile { path, .. } => Some(path),
            Self::Match(error) => error.path(),
            Self::TwoFiles { second, .. } => Some(second),
            // The message of the first names it.
            Self::NoCases { .. } | Self::FileEnding { .. } => None,
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

/// Subject, session and channel of a name in the manner of BIDS, `sub-1_ses-2_acq-3D_ce-gad_T1w`.
///
/// What was acquired how does not make another case: two images of one contrast in a session are two files for one channel.
fn parse_bids(stem: &str, channels: &[String]) -> Option<ImageName> {
    let mut parts: Vec<&str> = stem.split('_').collect();
    let suffix = parts.pop()?;
    let entities: Vec<(&str, &str)> = parts.iter().map(|p| p.split_once('-')).collect::<Option<_>>()?;
    if entities.first().is_none_or(|(key, _)| *key != "sub") {
        return None;
    }
    let enhanced = entities.iter().any(|(key, _)| *key == "ce") && canonical_channel(suffix) == "t1n";
    let canonical = if enhanced { "t1c".to_owned() } else { canonical_channel(suffix) };
    let index = channels.iter().position(|c| canonical_channel(c) == canonical)?;
    let of_case = entities.iter().filter(|(key, _)| ["sub", "ses"].contains(key));
    let case = of_case.map(|(key, value)| format!("{key}-{value}")).collect::<Vec<_>>().join("_");
    let suffix = if enhanced { format!("ce-*_{suffix}") } else { suffix.to_owned() };
    Some(ImageName::Channel { case, index, suffix })
}

fn parse_stem(stem: &str, channels: &[String]) -> ImageName {
    if let Some(name) = parse_bids(stem, channels) {
        return name;
    }
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
    let walk = Walk::of(inputs)?;
    let files = &walk.files;
    let mut found = Found::default();
    let mut slots: BTreeMap<String, Vec<Option<PathBuf>>> = BTreeMap::new();
    let mut bad: BTreeMap<String, CaseError> = BTreeMap::new();
    let mut suffixes: Vec<Vec<String>> = vec![Vec::new(); channels.len()];
    for file in files {
        let stem = file.file_name().and_then(|n| n.to_str()).and_then(image_stem).unwrap_or_default();
        match parse_stem(stem, channels) {
            // All channels in one file, as the Decathlon has them.
            ImageName::Other if channels.len() > 1 && channels_of(file) == Some(channels.len()) => {
                found.cases.push(CaseFiles { id: stem.to_owned(), files: vec![file.clone()] });
            }
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
    // A file that is listed but cannot be read spoils its case; without a channel's name it is a case of its own.
    for (path, reason) in &walk.bad {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = image_stem(&name).unwrap_or_default();
        let case = match parse_stem(stem, channels) {
            ImageName::Channel { case, .. } | ImageName::UnknownNumber { case, .. } => case,
            ImageName::Other => stem.to_owned(),
        };
        found.cases.retain(|found| found.id != case);
        let error = CaseError::BadFile { case: case.clone(), path: path.clone(), reason: reason.clone() };
        bad.insert(case, error);
    }
    found.cases.sort_by(|a, b| a.id.cmp(&b.id));
    found.bad = bad.into_iter().collect();
    if found.cases.is_empty() && found.bad.is_empty() {
        let path = inputs.first().cloned().unwrap_or_default();
        let seen = walk.seen();
        return Err(CaseError::NoCases { path, seen, channels: channels.to_vec() });
    }
    found.matches = channels
        .iter()
        .zip(suffixes)
        .map(|(channel, suffixes)| ChannelMatch { channel: channel.clone(), suffixes })
        .collect();
    Ok(found)
}

/// The cases of files that are given channel by channel, below `root`.
///
/// # Errors
/// [`CaseError::Match`] if the patterns are not those of the model's channels, or find nothing.
pub fn match_cases(root: &Path, patterns: &[NamedPattern], channels: &[String]) -> Result<Found, CaseError> {
    let canonical = |names: &[String]| names.iter().map(|c| canonical_channel(c)).collect::<Vec<_>>();
    let (wanted, given): (Vec<String>, Vec<String>) =
        (channels.to_vec(), patterns.iter().map(|p| p.name.clone()).collect());
    let (ours, theirs) = (canonical(&wanted), canonical(&given));
    let order: Option<Vec<usize>> = ours.iter().map(|c| theirs.iter().position(|t| t == c)).collect();
    let Some(order) = order.filter(|order| order.len() == patterns.len()) else {
        return Err(MatchError::Channels { wanted, given }.into());
    };
    let patterns: Vec<NamedPattern> = order.into_iter().map(|i| patterns[i].clone()).collect();
    let matched = match_files(root, &patterns)?;
    let bad = matched.incomplete.into_iter().map(|(case, missing)| {
        let found: Vec<String> = channels.iter().filter(|c| !missing.contains(c)).cloned().collect();
        let missing = missing.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ");
        let found = found.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ");
        (case.clone(), CaseError::MissingChannel { case, missing, found, path: root.to_owned() })
    });
    Ok(Found {
        cases: matched.cases.into_iter().map(|c| CaseFiles { id: c.name, files: c.files }).collect(),
        bad: bad.collect(),
        matches: channels
            .iter()
            .zip(patterns)
            .map(|(channel, p)| ChannelMatch { channel: channel.clone(), suffixes: vec![p.pattern] })
            .collect(),
        ignored: Vec::new(),
    })
}

fn channels_of(file: &Path) -> Option<usize> {
    nifti::read_info(file).ok().map(|info| info.channels)
}

fn complete(id: &str, slots: &[Option<PathBuf>], channels: &[String]) -> Result<Vec<PathBuf>, CaseError> {
    let files: Vec<PathBuf> = slots.iter().flatten().cloned().collect();
    if files.len() == channels.len() {
        return Ok(files);
    }
    // One four-dimensional file may hold every channel.
    if let ([file], Some(_)) = (files.as_slice(), &slots[0])
        && channels_of(file) == Some(channels.len())
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
    fn names_of_bids_are_one_case_per_session_and_folders_may_be_deep() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = "data/sub-01/ses-2/anat/sub-01_ses-2";
        touch(
            dir.path(),
            &["acq-3D_T1w", "acq-3D_ce-gad_T1w", "T2w", "acq-2D_FLAIR"]
                .map(|c| format!("{folder}_{c}.nii.gz"))
                .each_ref()
                .map(String::as_str),
        );
        let found = find_cases(&[dir.path().into()], &brats(), ".nii.gz").expect("cases");
        assert_eq!(found.cases.len(), 1, "{found:?}");
        assert_eq!(found.cases[0].id, "sub-01_ses-2");
        assert_eq!(
            names(&found.cases[0]),
            ["acq-3D_T1w", "acq-3D_ce-gad_T1w", "T2w", "acq-2D_FLAIR"]
                .map(|c| format!("sub-01_ses-2_{c}.nii.gz"))
        );
        // Two images of one contrast: which is meant cannot be guessed.
        touch(dir.path(), &[&format!("{folder}_acq-2D_T1w.nii.gz")]);
        let found = find_cases(&[dir.path().into()], &brats(), ".nii.gz").expect("a bad case");
        assert!(
            matches!(&found.bad[..], [(id, CaseError::TwoFiles { .. })] if id == "sub-01_ses-2"),
            "{found:?}"
        );
    }

    #[test]
    fn one_file_with_all_channels_is_a_case_and_others_are_ignored() {
        let dir = tempfile::tempdir().expect("a folder");
        let grid = glioseg_volume::Geometry::isotropic([2; 3]);
        for (name, channels) in [("BRATS_001.nii.gz", 4), ("BRATS_001_seg.nii.gz", 1)] {
            let volume =
                glioseg_volume::Volume::new(channels, vec![1.0; 8 * channels], grid.clone()).expect("whole");
            nifti::write_volume(&dir.path().join(name), &volume).expect("written");
        }
        let found = find_cases(&[dir.path().into()], &brats(), ".nii.gz").expect("cases");
        assert_eq!((found.cases.len(), found.cases[0].id.as_str()), (1, "BRATS_001"));
        assert_eq!(found.ignored, [dir.path().join("BRATS_001_seg.nii.gz")]);
    }

    #[test]
    fn a_pair_of_files_counts_by_its_header() {
        let dir = tempfile::tempdir().expect("a folder");
        touch(dir.path(), &["a_0000.hdr", "a_0000.img", "a_0001.hdr", "a_0001.img"]);
        let channels = ["CT", "t1ce"].map(String::from).to_vec();
        let found = find_cases(&[dir.path().into()], &channels, ".nii.gz").expect("cases");
        assert_eq!(names(&found.cases[0]), ["a_0000.hdr", "a_0001.hdr"]);
    }

    #[cfg(unix)]
    #[test]
    fn files_that_cannot_be_opened_or_named_fail_their_case() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        let ct = ["CT".to_owned()];
        touch(dir.path(), &["good_0000.nii.gz", "folder_0000.nii.gz/x.txt"]);
        std::os::unix::fs::symlink("/nowhere/b.nii.gz", dir.path().join("linked_0000.nii.gz"))
            .expect("a link");
        std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9_0000.nii.gz")), b"")
            .expect("written");
        let found = find_cases(&[dir.path().into()], &ct, ".nii.gz").expect("a case");
        assert_eq!(found.cases.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["good"]);
        let said: Vec<String> = found.bad.iter().map(|(_, error)| error.to_string()).collect();
        assert_eq!(found.bad.len(), 3, "{said:?}");
        for (part, of) in [("not UTF-8", 0), ("is a folder", 1), ("link to a file that cannot be opened", 2)]
        {
            assert!(said[of].contains(part), "{said:?}");
        }
        // A channel that cannot be opened does not leave the others as a smaller case.
        let two = ["CT", "PET"].map(String::from);
        touch(dir.path(), &["linked_0001.nii.gz"]);
        let found = find_cases(&[dir.path().into()], &two, ".nii.gz").expect("bad cases");
        let linked = found.bad.iter().find(|(id, _)| id == "linked").expect("listed");
        assert!(matches!(linked.1, CaseError::BadFile { .. }), "{linked:?}");
    }

    #[test]
    fn where_no_case_is_found_it_is_said_what_was_seen() {
        let dir = tempfile::tempdir().expect("a folder");
        let said = || find_cases(&[dir.path().into()], &brats(), ".nii.gz").expect_err("no case").to_string();
        assert!(said().contains("there are no files in it"), "{}", said());
        let mut dicom = vec![0u8; 132];
        dicom[128..].copy_from_slice(b"DICM");
        std::fs::write(dir.path().join("IM0001"), &dicom).expect("written");
        assert!(
            said().contains("IM0001 is DICOM: convert the study with `glioseg dicom convert`"),
            "{}",
            said()
        );
        touch(dir.path(), &["scan.nii.gz"]);
        assert!(said().contains("the names of scan.nii.gz do not tell case and channel"), "{}", said());
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
        let said = error.to_string();
        assert!(said.ends_with("the names of scan.nii.gz do not tell case and channel"), "{said}");
        assert!(error.hint().expect("a hint").contains("CASE_0000.nii.gz"));
        let error = find_cases(&[dir.path().join("nowhere")], &brats(), ".nii.gz").expect_err("no folder");
        assert_eq!(error.to_string(), "cannot read the input: no such file or folder");
        let error = find_cases(&[dir.path().into()], &brats(), ".png").expect_err("png");
        assert!(error.to_string().contains(".png"));
    }
}
