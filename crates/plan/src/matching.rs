//! Files of any name, found by a pattern per channel.
//!
//! A pattern is a path in which `*` stands for any part of a name. What the stars of a pattern stand for is the name of the case:
//! `*/FLAIR.nii.gz` finds `P01/FLAIR.nii.gz` for case `P01`. Nothing is guessed: the channels of a case are the files whose stars
//! stand for the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use glioseg_diagnose::Diagnose;

/// Why patterns do not make cases.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MatchError {
    /// Not of the form `NAME=PATTERN`.
    #[error("`{text}` is not a name and a file pattern")]
    NotAPair {
        /// What was given.
        text: String,
    },
    /// A pattern that finds nothing.
    #[error("no file is found for `{name}` by {}", pattern.display())]
    Nothing {
        /// The channel, or `label`.
        name: String,
        /// The pattern with the folder it starts from.
        pattern: PathBuf,
    },
    /// Two files whose stars stand for the same.
    #[error("case `{case}` has two files for `{name}`: {} and {}", first.display(), second.display())]
    Twice {
        /// The case.
        case: String,
        /// The channel, or `label`.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A folder that cannot be listed.
    #[error("cannot read {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Channels that a model has and nobody gave, or the other way round.
    #[error("the model's channels are {}, but files are given for {}", wanted.join(", "), given.join(", "))]
    Channels {
        /// The model's.
        wanted: Vec<String>,
        /// Those with a pattern.
        given: Vec<String>,
    },
}

impl Diagnose for MatchError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotAPair { .. } => "write it like flair='*/FLAIR.nii.gz', or t1=scan.nii.gz for one case".into(),
            Self::Nothing { .. } => {
                "a star stands for part of one name, not for several folders; put the pattern into quotes, so that the shell \
                 leaves it alone"
                    .into()
            }
            Self::Twice { .. } => "make the pattern narrower: one file per case and channel".into(),
            Self::Folder { .. } => "check the path and its permissions".into(),
            Self::Channels { .. } => "give --channel once for each channel of the model".into(),
        })
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Folder { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// The files of one channel: a name and a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPattern {
    /// Name of the channel, or `label`.
    pub name: String,
    /// The pattern.
    pub pattern: String,
}

impl std::str::FromStr for NamedPattern {
    type Err = MatchError;

    fn from_str(text: &str) -> Result<Self, MatchError> {
        match text.split_once('=') {
            Some((name, pattern)) if !name.trim().is_empty() && !pattern.is_empty() => {
                Ok(Self { name: name.trim().to_owned(), pattern: pattern.to_owned() })
            }
            _ => Err(MatchError::NotAPair { text: text.to_owned() }),
        }
    }
}

/// A case of matched files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchedCase {
    /// What the stars stand for, joined by `_`; without a star the name of the first file's folder.
    pub name: String,
    /// One file per pattern, in their order.
    pub files: Vec<PathBuf>,
}

/// Cases that every pattern has a file for, and of the others what they lack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// Complete cases, sorted by name.
    pub cases: Vec<MatchedCase>,
    /// Name and missing channels of the others.
    pub incomplete: Vec<(String, Vec<String>)>,
}

/// Finds the files of every pattern below `root`; an absolute pattern starts where it says.
///
/// # Errors
/// [`MatchError`] for a folder that cannot be listed, a pattern that finds nothing, and two files for one case and channel.
pub fn match_files(root: &Path, patterns: &[NamedPattern]) -> Result<Matched, MatchError> {
    let mut found: Vec<BTreeMap<String, PathBuf>> = Vec::new();
    for NamedPattern { name, pattern } in patterns {
        let mut files = BTreeMap::new();
        let whole = root.join(pattern);
        let parts: Vec<Component<'_>> = whole.components().collect();
        walk(PathBuf::new(), &parts, &mut Vec::new(), &mut |stars, file| {
            let case = if stars.is_empty() { folder_name(&file) } else { stars.join("_") };
            match files.insert(case.clone(), file.clone()) {
                None => Ok(()),
                Some(first) => Err(MatchError::Twice { case, name: name.clone(), first, second: file }),
            }
        })?;
        if files.is_empty() {
            return Err(MatchError::Nothing { name: name.clone(), pattern: whole });
        }
        found.push(files);
    }
    // Files without a star are one case, whatever folders they lie in.
    if let [first, rest @ ..] = &mut found[..]
        && patterns.iter().all(|p| !p.pattern.contains('*'))
        && let Some(case) = first.keys().next().cloned()
    {
        for files in rest {
            *files = std::mem::take(files).into_values().map(|file| (case.clone(), file)).collect();
        }
    }
    let names: BTreeSet<String> = found.iter().flat_map(BTreeMap::keys).cloned().collect();
    let mut matched = Matched::default();
    for name in names {
        let files: Vec<PathBuf> = found.iter().filter_map(|files| files.get(&name)).cloned().collect();
        if files.len() == patterns.len() {
            matched.cases.push(MatchedCase { name, files });
        } else {
            let lacks = patterns.iter().zip(&found).filter(|(_, files)| !files.contains_key(&name));
            matched.incomplete.push((name.clone(), lacks.map(|(p, _)| p.name.clone()).collect()));
        }
    }
    Ok(matched)
}

fn folder_name(file: &Path) -> String {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = absolute.parent().and_then(Path::file_name);
    folder.map_or_else(|| "case".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Is told what the stars stand for, and the file.
type Take<'a> = dyn FnMut(&[String], PathBuf) -> Result<(), MatchError> + 'a;

fn walk(
    at: PathBuf,
    parts: &[Component<'_>],
    stars: &mut Vec<String>,
    take: &mut Take<'_>,
) -> Result<(), MatchError> {
    let Some((part, rest)) = parts.split_first() else {
        return if at.is_file() { take(stars, at) } else { Ok(()) };
    };
    let pattern = part.as_os_str().to_string_lossy();
    if !pattern.contains('*') {
        let next = at.join(part.as_os_str());
        return if next.exists() { walk(next, rest, stars, take) } else { Ok(()) };
    }
    let folder = if at.as_os_str().is_empty() { Path::new(".") } else { &at };
    let failed = |source| MatchError::Folder { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().to_str().map(ToOwned::to_owned));
    }
    names.sort_unstable();
    for name in names.iter().filter(|name| !name.starts_with('.')) {
        let next = at.join(name);
        if !rest.is_empty() && !next.is_dir() {
            continue;
        }
        if let Some(here) = stand_for(name, &pattern) {
            let before = stars.len();
            stars.extend(here);
            walk(next, rest, stars, take)?;
            stars.truncate(before);
        }
    }
    Ok(())
}

/// What the stars of a pattern stand for in a name, each as short as can be.
fn stand_for(name: &str, pattern: &str) -> Option<Vec<String>> {
    let Some((plain, rest)) = pattern.split_once('*') else {
        return (name == pattern).then(Vec::new);
    };
    let name = name.strip_prefix(plain)?;
    let ends = name.char_indices().map(|(i, _)| i).chain([name.len()]);
    ends.filter(|&end| end > 0).find_map(|end| {
        let mut stars = stand_for(&name[end..], rest)?;
        stars.insert(0, name[..end].to_owned());
        Some(stars)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, "").expect("written");
        }
        folder
    }

    fn patterns(texts: &[&str]) -> Vec<NamedPattern> {
        texts.iter().map(|text| text.parse().expect("a pair")).collect()
    }

    #[test]
    fn stars_name_the_case() {
        let folder = made(&[
            "P1/a/FLAIR.nii.gz",
            "P1/a/T1.nii",
            "P2/b/FLAIR.nii.gz",
            "P2/b/T1.nii",
            "P3/b/T1.nii",
            ".P4/a/T1.nii",
            "T1.nii",
        ]);
        let found = match_files(folder.path(), &patterns(&["t1=*/*/T1.nii", "flair=*/*/FLAIR.nii.gz"]))
            .expect("cases");
        let names: Vec<&str> = found.cases.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["P1_a", "P2_b"]);
        assert_eq!(found.cases[1].files[1], folder.path().join("P2/b/FLAIR.nii.gz"));
        assert_eq!(found.incomplete, [("P3_b".to_owned(), vec!["flair".to_owned()])]);
    }

    #[test]
    fn files_without_stars_are_one_case_named_after_the_folder() {
        let folder = made(&["case7/x.nii", "other/y.nii"]);
        let found =
            match_files(folder.path(), &patterns(&["t1=case7/x.nii", "t2=other/y.nii"])).expect("a case");
        assert_eq!(
            (found.cases[0].name.as_str(), found.cases.len(), found.incomplete.len()),
            ("case7", 1, 0)
        );
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let folder = made(&["a1_x.nii", "a1_y.nii"]);
        let error = match_files(folder.path(), &patterns(&["t1=none*.nii"])).expect_err("nothing");
        assert!(error.to_string().contains("no file is found for `t1`"), "{error}");
        for text in ["t1", "=x", "t1="] {
            assert!(text.parse::<NamedPattern>().is_err(), "{text}");
        }
        let found = match_files(folder.path(), &patterns(&["t1=a*_*.nii"])).expect("two cases");
        assert_eq!(found.cases.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["1_x", "1_y"]);
        assert_eq!(stand_for("a_b_c.nii", "*_*.nii"), Some(vec!["a".to_owned(), "b_c".to_owned()]));
        assert_eq!(stand_for("_b.nii", "*_b.nii"), None, "a star stands for something");
    }
}
