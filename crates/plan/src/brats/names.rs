//! File names of BraTS, year by year.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::PlanError;

/// How deep folders may lie below the one given: `HGG/CASE` and one more.
const DEPTH: usize = 4;

/// How image files end.
const ENDINGS: [&str; 2] = [".nii.gz", ".nii"];

/// Whose names files have: what stands before the first `_`, or the first two parts of a name with `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edition {
    /// Such as `brats2021` or `brats-gli`, in lower case.
    prefix: String,
    /// Whether parts are joined by `-`, as since 2023.
    dashed: bool,
}

impl Edition {
    /// Whether names are those since 2023.
    pub const fn is_dashed(&self) -> bool {
        self.dashed
    }

    pub(super) fn is_paediatric(&self) -> bool {
        self.prefix.ends_with("-ped")
    }

    /// Channel names for a `dataset.json`, as the edition has them.
    pub const fn channel_names(&self) -> [&'static str; 4] {
        if self.dashed { ["t1n", "t1c", "t2w", "t2f"] } else { ["T1", "T1ce", "T2", "Flair"] }
    }
}

impl fmt::Display for Edition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let year = match self.prefix.as_str() {
            "brats17" => "BraTS 2017",
            "brats18" => "BraTS 2018",
            "brats19" => "BraTS 2019",
            "brats20" => "BraTS 2020",
            "brats2021" => "BraTS 2021",
            "brats-gli" => "BraTS-GLI (2023 and later)",
            _ if self.dashed => return write!(f, "names as since BraTS 2023 ({}-…)", self.prefix),
            _ => return write!(f, "names as until BraTS 2022 ({}_…)", self.prefix),
        };
        f.write_str(year)
    }
}

/// What a file is of its case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Channel(usize),
    Labels,
}

impl Kind {
    /// The channels, in order, for messages.
    pub(super) const CHANNELS: [&'static str; 4] = ["t1", "t1ce", "t2", "flair"];

    /// Index among the files of a case.
    pub(super) const fn slot(self) -> usize {
        match self {
            Self::Channel(c) => c,
            Self::Labels => 4,
        }
    }

    fn of(suffix: &str, dashed: bool) -> Option<Self> {
        if suffix == "seg" {
            return Some(Self::Labels);
        }
        let names = if dashed { ["t1n", "t1c", "t2w", "t2f"] } else { Self::CHANNELS };
        names.iter().position(|n| *n == suffix).map(Self::Channel)
    }
}

/// What a file's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BratsFile {
    pub(super) case: String,
    pub(super) kind: Kind,
    pub(super) edition: Edition,
    /// `.nii.gz` or `.nii`.
    pub(super) ending: &'static str,
}

/// What the name of a BraTS file says; `None` for other files.
pub(super) fn brats_file(path: &Path) -> Option<BratsFile> {
    // What is not UTF-8 is replaced: the file is then named with its case, instead of being missed.
    let name = &path.file_name()?.to_string_lossy();
    let lower = name.to_ascii_lowercase();
    let ending = ENDINGS.into_iter().find(|e| lower.ends_with(e))?;
    let stem = &name[..name.len() - ending.len()];
    // The last mark decides: names of 2018 to 2021 may hold dashes of a site.
    let at = stem.rfind(['_', '-']).filter(|&at| at > 0)?;
    let (case, dashed) = (&stem[..at], stem.as_bytes()[at] == b'-');
    let kind = Kind::of(&stem[at + 1..].to_ascii_lowercase(), dashed)?;
    let lower = case.to_ascii_lowercase();
    let prefix = if dashed {
        lower.splitn(3, '-').take(2).collect::<Vec<_>>().join("-")
    } else {
        lower.split('_').next().unwrap_or_default().to_owned()
    };
    // Names of single studies (TCGA-DU-7294_t1) differ case by case, and are of no edition.
    let prefix = if prefix.starts_with("brats") { prefix } else { "other".to_owned() };
    Some(BratsFile { case: case.to_owned(), kind, edition: Edition { prefix, dashed }, ending })
}

/// Every image file below a folder, sorted.
pub(super) fn image_files(folder: &Path) -> Result<Vec<PathBuf>, PlanError> {
    let mut files = Vec::new();
    collect(folder, DEPTH, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), PlanError> {
    let failed = |source| PlanError::Read { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, files)?;
            }
        } else if ENDINGS.iter().any(|e| name.ends_with(e)) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_year_are_understood() {
        for (name, case, slot, edition) in [
            ("HGG/Brats18_2013_11_1/Brats18_2013_11_1_t1ce.nii.gz", "Brats18_2013_11_1", 1, "BraTS 2018"),
            ("BraTS19_CBICA_AAB_1_flair.nii.gz", "BraTS19_CBICA_AAB_1", 3, "BraTS 2019"),
            ("BraTS20_Training_001_seg.nii", "BraTS20_Training_001", 4, "BraTS 2020"),
            ("BraTS2021_00000_t2.nii.gz", "BraTS2021_00000", 2, "BraTS 2021"),
            ("BraTS-GLI-00000-000-t1n.nii.gz", "BraTS-GLI-00000-000", 0, "BraTS-GLI (2023 and later)"),
            (
                "BraTS-SSA-00002-000-t2f.nii.gz",
                "BraTS-SSA-00002-000",
                3,
                "names as since BraTS 2023 (brats-ssa-…)",
            ),
            ("TCGA-DU-7294_t1.nii.gz", "TCGA-DU-7294", 0, "names as until BraTS 2022 (other_…)"),
        ] {
            let file = brats_file(Path::new(name)).expect(name);
            assert_eq!((file.case.as_str(), file.kind.slot()), (case, slot), "{name}");
            assert_eq!(file.edition.to_string(), edition, "{name}");
        }
        for other in
            ["W39_1998.09.19_Segm.nii", "t1.nii.gz", "BraTS2021_00000_t1n.nii.gz", "a_t1.mha", "_t1.nii"]
        {
            assert_eq!(brats_file(Path::new(other)), None, "{other}");
        }
    }
}
