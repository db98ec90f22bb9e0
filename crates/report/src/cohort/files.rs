//! Which file belongs to which case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use glioseg_formats::{FormatError, nifti};

use crate::error::ReportError;

/// Endings that a label map may have besides its case's name.
const SEGMENTATION: [&str; 2] = ["-seg", "_seg"];

/// The label maps of a folder by case.
///
/// Files lie in the folder itself (`CASE.nii.gz`; `-seg` or `_seg` before the ending is dropped), or in a folder per
/// case (`CASE/CASE-seg.nii.gz`, where only such files count). With `suffix`, only files whose name ends in it before
/// `.nii.gz` are taken, and it is dropped. `path` may also be a single file.
///
/// # Errors
/// [`ReportError::NoCases`] if there are none, [`ReportError::Duplicate`], [`ReportError::Volume`] if a folder cannot be read.
pub fn find_cases(path: &Path, suffix: Option<&str>) -> Result<BTreeMap<String, PathBuf>, ReportError> {
    let mut cases = BTreeMap::new();
    if path.is_file() {
        let case = stem(path).map(|s| strip(&s, suffix, false).unwrap_or(s));
        cases.extend(case.map(|case| (case, path.to_owned())));
    } else {
        let (files, folders) = entries(path)?;
        add(&mut cases, &files, suffix, false)?;
        if cases.is_empty() {
            for folder in folders {
                add(&mut cases, &entries(&folder)?.0, suffix, true)?;
            }
        }
    }
    if cases.is_empty() {
        let what = match suffix {
            Some(suffix) => format!("file that ends in {suffix}.nii.gz or {suffix}.nii"),
            None => "label map (.nii.gz or .nii)".to_owned(),
        };
        return Err(ReportError::NoCases { path: path.to_owned(), what });
    }
    Ok(cases)
}

fn add(
    cases: &mut BTreeMap<String, PathBuf>,
    files: &[PathBuf],
    suffix: Option<&str>,
    segmentations_only: bool,
) -> Result<(), ReportError> {
    for file in files {
        let Some(case) = stem(file).and_then(|s| strip(&s, suffix, segmentations_only)) else { continue };
        if let Some(first) = cases.insert(case.clone(), file.clone()) {
            return Err(ReportError::Duplicate { case, first, second: file.clone() });
        }
    }
    Ok(())
}

/// The case of a label map's file name: without `.nii.gz` or `.nii` and `-seg` or `_seg`.
pub(crate) fn case_of(path: &Path) -> Option<String> {
    stem(path).and_then(|s| strip(&s, None, false))
}

/// The name without `.nii` or `.nii.gz`; `None` for other and for hidden files.
pub(super) fn stem(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy();
    nifti::stem(&name).map(str::to_owned)
}

fn strip(stem: &str, suffix: Option<&str>, segmentations_only: bool) -> Option<String> {
    let case = match suffix {
        Some(suffix) => stem.strip_suffix(suffix)?,
        None => match SEGMENTATION.iter().find_map(|s| stem.strip_suffix(s)) {
            Some(case) => case,
            None if segmentations_only => return None,
            None => stem,
        },
    };
    (!case.is_empty()).then(|| case.to_owned())
}

/// Files and folders of a folder, sorted by name.
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ReportError> {
    let failed = |source| FormatError::Io { path: folder.to_owned(), action: "read", source };
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        all.push(entry.map_err(failed)?.path());
    }
    all.sort();
    // Some programs unpack `CASE.nii.gz` into a folder of that name: one with files in it is a folder like any other.
    let filled = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    Ok(all.into_iter().partition(|path| !path.is_dir() || (stem(path).is_some() && !filled(path))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, b"").expect("writable");
        }
        folder
    }

    fn names(folder: &tempfile::TempDir, suffix: Option<&str>) -> Vec<String> {
        find_cases(folder.path(), suffix).expect("cases").into_keys().collect()
    }

    #[test]
    fn cases_are_named_without_endings() {
        let folder =
            made(&["b-seg.nii.gz", "a.nii.gz", "c.NII", "dataset.json", ".d.nii.gz.part", "plans.json"]);
        assert_eq!(names(&folder, None), ["a", "b", "c"]);
        assert_eq!(names(&folder, Some("-seg")), ["b"]);
        let one = find_cases(&folder.path().join("b-seg.nii.gz"), None).expect("one file");
        assert_eq!(one.into_keys().collect::<Vec<_>>(), ["b"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_opened_or_named_is_listed() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = made(&["a.nii.gz", "f/x.txt"]);
        std::os::unix::fs::symlink("nowhere", folder.path().join("b.nii.gz")).expect("a link");
        std::fs::create_dir(folder.path().join("c.nii.gz")).expect("a folder");
        let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"d\xff.nii.gz"));
        std::fs::write(&odd, b"").expect("writable");
        let cases = find_cases(folder.path(), None).expect("cases");
        assert_eq!(cases.keys().collect::<Vec<_>>(), ["a", "b", "c", "d\u{fffd}"]);
        assert_eq!(cases["d\u{fffd}"], odd);
    }

    #[test]
    fn folders_of_cases_are_searched_for_segmentations() {
        let folder = made(&["x/x_t1.nii.gz", "x/x_seg.nii.gz", "y/y-seg.nii.gz", "y/y_algo.nii.gz"]);
        assert_eq!(names(&folder, None), ["x", "y"]);
        assert_eq!(names(&folder, Some("_algo")), ["y"]);
    }

    #[test]
    fn empty_folders_and_twins_are_errors() {
        let error = find_cases(made(&["a.txt"]).path(), None).expect_err("no label map");
        assert!(error.to_string().contains("holds no label map"), "{error}");
        let error = find_cases(made(&["a.nii", "a-seg.nii.gz"]).path(), None).expect_err("twins");
        assert!(error.to_string().contains("case `a` is there twice"), "{error}");
        let folder = made(&[]);
        let error = find_cases(&folder.path().join("none"), None).expect_err("no folder");
        assert!(error.to_string().contains("cannot read"), "{error}");
    }
}
