//! The folders of a model's folds.

use std::path::{Path, PathBuf};

/// `fold_*` folders of a model folder, and version 1's `all`, sorted by name.
pub(crate) fn fold_folders(path: &Path) -> Vec<(String, PathBuf)> {
    let mut folds: Vec<(String, PathBuf)> = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().to_str()?.to_owned();
            let name = if name == "all" { name } else { name.strip_prefix("fold_")?.to_owned() };
            e.path().is_dir().then(|| (name, e.path()))
        })
        .collect();
    folds.sort();
    folds
}
