//! Studies: files of one person by channel, of which some may be missing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::walk::{Walk, image_stem};
use super::{CaseError, ImageName, parse_stem};

/// A study with at least one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudyFiles {
    /// Name of the study: the files' common prefix.
    pub id: String,
    /// A file for each of the channels that were asked for, where there is one.
    pub files: Vec<Option<PathBuf>>,
}

/// What an input holds.
#[derive(Debug, Default)]
pub struct FoundStudies {
    /// Studies, sorted by name.
    pub studies: Vec<StudyFiles>,
    /// Studies whose files cannot be told apart or opened, sorted by name.
    pub bad: Vec<(String, CaseError)>,
    /// Image files that are no channel.
    pub ignored: Vec<PathBuf>,
    /// What was seen, for the message where there is no study.
    pub seen: String,
}

/// Sorts the files of `inputs` into studies by the names of their channels, as [`super::find_cases`] does, but a channel may be
/// missing. Numbers such as `0001` name no channel here, since no model says which is meant.
///
/// # Errors
/// [`CaseError::Unreadable`] for an input that is not there or cannot be listed.
pub fn find_studies(inputs: &[PathBuf], channels: &[String]) -> Result<FoundStudies, CaseError> {
    let walk = Walk::of(inputs)?;
    let mut found = FoundStudies { seen: walk.seen(), ..FoundStudies::default() };
    let mut studies: BTreeMap<String, Vec<Option<PathBuf>>> = BTreeMap::new();
    let mut bad: BTreeMap<String, CaseError> = BTreeMap::new();
    for file in &walk.files {
        let stem = file.file_name().and_then(|n| n.to_str()).and_then(image_stem).unwrap_or_default();
        let (case, index) = match parse_stem(stem, channels) {
            ImageName::Channel { case, index, suffix }
                if !suffix.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                (case, index)
            }
            _ => {
                found.ignored.push(file.clone());
                continue;
            }
        };
        let slot = &mut studies.entry(case.clone()).or_insert_with(|| vec![None; channels.len()])[index];
        if let Some(first) = slot {
            let (channel, first, second) = (channels[index].clone(), first.clone(), file.clone());
            bad.entry(case.clone()).or_insert(CaseError::TwoFiles { case, channel, first, second });
        } else {
            *slot = Some(file.clone());
        }
    }
    for (path, reason) in walk.bad {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let ImageName::Channel { case, .. } = parse_stem(image_stem(&name).unwrap_or_default(), channels) {
            bad.insert(case.clone(), CaseError::BadFile { case, path, reason });
        }
    }
    found.studies = studies
        .into_iter()
        .filter(|(id, _)| !bad.contains_key(id))
        .map(|(id, files)| StudyFiles { id, files })
        .collect();
    found.bad = bad.into_iter().collect();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_study_may_lack_channels_but_not_have_one_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in
            ["a_t1.nii.gz", "a_fla.nii.gz", "b_t1.nii", "b-t1n.nii.gz", "c_0000.nii.gz", "c-mask.nii.gz"]
        {
            std::fs::write(folder.path().join(name), b"").expect("written");
        }
        let channels = ["t1n", "t1c", "t2w", "t2f"].map(String::from);
        let found = find_studies(&[folder.path().to_owned()], &channels).expect("readable");
        let [study] = &found.studies[..] else { panic!("{found:?}") };
        assert_eq!(study.id, "a");
        assert_eq!(study.files.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, true]);
        assert!(matches!(&found.bad[..], [(id, CaseError::TwoFiles { .. })] if id == "b"), "{found:?}");
        assert_eq!(found.ignored.len(), 2);
        let none = find_studies(&[folder.path().join("none")], &channels).expect_err("no folder");
        assert!(matches!(none, CaseError::Unreadable { .. }));
    }
}
