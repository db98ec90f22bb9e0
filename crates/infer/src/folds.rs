//! The folders of a model's folds.

use std::path::{Path, PathBuf};

/// The folders of cross-validation folds (`fold_0`, `fold_1` …), `fold_all`, and version 1's `all`, sorted by name.
///
/// # Source
/// nnU-Net v2 and v1, `auto_detect_available_folds`, which takes what follows the last `_` as a number.
pub(crate) fn fold_folders(path: &Path) -> Vec<(String, PathBuf)> {
    let mut folds: Vec<(String, PathBuf)> = folders(path)
        .filter_map(|(name, path)| {
            let fold = if name == "all" { &name } else { name.strip_prefix("fold_")? };
            is_fold(fold).then(|| (fold.to_owned(), path))
        })
        .collect();
    folds.sort();
    folds
}

/// Folders that are called almost like a fold (`fold_0 (copy)`, `fold_2_v1`), sorted by name: what lies there is no fold of the model.
pub(crate) fn stray_folders(path: &Path) -> Vec<String> {
    let stray = |name: &str| {
        name.strip_prefix("fold").is_some_and(|rest| !rest.strip_prefix('_').is_some_and(is_fold))
    };
    let mut names: Vec<String> = folders(path).map(|(name, _)| name).filter(|name| stray(name)).collect();
    names.sort();
    names
}

/// Whether this is the number of a fold as nnU-Net writes it, or `all`.
fn is_fold(name: &str) -> bool {
    name == "all" || name.parse::<u32>().is_ok_and(|number| number.to_string() == name)
}

/// The folders in a folder, and their names.
fn folders(path: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name().to_str()?.to_owned();
        entry.path().is_dir().then(|| (name, entry.path()))
    })
}
