//! What can be wrong with a dataset description or plans.

use glioseg_diagnose::{Diagnose, ForeignFile, first_few};
use glioseg_formats::FormatError;
use std::path::{Path, PathBuf};

/// Why a `dataset.json` or `plans.json` was refused, or a dataset could not be fingerprinted, planned or split.
///
/// `key` is the path of the value inside the file, such as `configurations.3d_fullres.patch_size`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is far larger than any description or plans.
    #[error("{} has {bytes} bytes, more than the {limit} a description or plans may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The most bytes that are read.
        limit: u64,
    },
    /// The file is not JSON.
    #[error("{} is not valid JSON (line {line}, column {column}): {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// Column of the mistake, from 1.
        column: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The file is something else, which its first bytes tell.
    #[error(transparent)]
    Foreign(ForeignFile),
    /// JSON that is not a record of predictions.
    #[error("{} is not a record of predictions: {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key that must be there is not.
    #[error("{}: `{key}` is missing; {}", path.display(), present_keys(present))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The missing key.
        key: String,
        /// The keys that stand in its place.
        present: Vec<String>,
    },
    /// A value of the wrong type, or one that contradicts another.
    #[error("{}: `{key}` is {found}, but must be {expected}", path.display())]
    WrongValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value found, shortened.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A name (of a network class, a function, a scheme) that this program does not know.
    #[error("{}: `{key}` names `{found}`, which is not known; known are {}", path.display(), known.join(", "))]
    UnknownName {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The name found.
        found: String,
        /// The names that are known.
        known: Vec<String>,
    },
    /// An argument that a class or function does not have.
    #[error("{}: `{key}` is not an argument of {owner}, which has {}", path.display(), known.join(", "))]
    UnknownArgument {
        /// The file.
        path: PathBuf,
        /// The key, whose last part is the argument.
        key: String,
        /// The class or function.
        owner: String,
        /// The arguments that it has.
        known: Vec<String>,
    },
    /// The plans hold no configuration of that name.
    #[error("{} has no configuration `{name}`; it has {}", path.display(), known.join(", "))]
    UnknownConfiguration {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// The names in the file.
        known: Vec<String>,
    },
    /// Configurations that inherit from each other in a circle.
    #[error("{}: configurations inherit in a circle: {}", path.display(), chain.join(" -> "))]
    InheritanceCycle {
        /// The file.
        path: PathBuf,
        /// The configurations in the order visited; the last one is also an earlier one.
        chain: Vec<String>,
    },
    /// An image or label map cannot be read, or a file not written.
    #[error(transparent)]
    Volume(#[from] FormatError),
    /// A dataset without a single training case.
    #[error("{} holds no training case: {reason}", folder.display())]
    NoCases {
        /// The dataset.
        folder: PathBuf,
        /// What was looked for, and what was found instead.
        reason: String,
    },
    /// Plans that would take the place of others.
    #[error("{} exists already and holds other plans", path.display())]
    PlansExist {
        /// The plans.
        path: PathBuf,
        /// Their name.
        name: String,
    },
    /// Images in a format that is not read.
    #[error("{}: `file_ending` is \"{ending}\", but images are read as .nii.gz or .nii only", path.display())]
    FileEnding {
        /// The `dataset.json`.
        path: PathBuf,
        /// Its file ending.
        ending: String,
    },
    /// A case that cannot be used; `glioseg dataset check` lists all of them.
    #[error("case `{case}`: {reason}")]
    Case {
        /// The case.
        case: String,
        /// The file it is about.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A label map with values that `dataset.json` does not declare.
    #[error(
        "case `{case}`: the label map has labels that dataset.json does not declare: {}; it declares {}",
        counted(labels),
        list(declared)
    )]
    UndeclaredLabels {
        /// The case.
        case: String,
        /// The label map.
        path: PathBuf,
        /// Every such label with its number of voxels.
        labels: Vec<(u16, u64)>,
        /// The labels that are declared, the ignore label among them.
        declared: Vec<u16>,
    },
    /// A dataset with errors that concern all of it.
    #[error("{} cannot be trained on: {}", folder.display(), problems.join("; "))]
    Unfit {
        /// The dataset.
        folder: PathBuf,
        /// What is wrong with it.
        problems: Vec<String>,
    },
    /// Label maps without a single foreground voxel.
    #[error("none of the {cases} training cases has a labelled voxel")]
    NoForeground {
        /// Number of cases.
        cases: usize,
    },
    /// Fewer cases than folds.
    #[error("{} cannot be split into {folds} folds", glioseg_diagnose::count(*cases, "case"))]
    TooFewCases {
        /// Number of cases.
        cases: usize,
        /// Number of folds.
        folds: usize,
    },
    /// A file of splits that does not fit the dataset.
    #[error("{}: fold {fold} {reason}", path.display())]
    Split {
        /// The file.
        path: PathBuf,
        /// The fold, from 0.
        fold: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Two files of splits that should agree.
    #[error("{} and {} differ in fold {fold}", source_path.display(), path.display())]
    SplitsDiffer {
        /// The file in the raw dataset.
        source_path: PathBuf,
        /// The file next to the preprocessed data.
        path: PathBuf,
        /// The first fold that differs, from 0.
        fold: usize,
    },
    /// A fingerprint that belongs to other data.
    #[error("{}: {reason}", path.display())]
    Fingerprint {
        /// The file, or the dataset.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// No patch fits the memory.
    #[error(
        "no {configuration} network fits {gpu_memory_gb} GB: its smallest patch {patch:?} is estimated at {estimate} \
         feature map voxels, and {reference:.0} are allowed"
    )]
    Memory {
        /// The configuration that was planned.
        configuration: String,
        /// The memory to plan for.
        gpu_memory_gb: f64,
        /// The smallest patch that was tried.
        patch: Vec<usize>,
        /// Its estimate.
        estimate: u64,
        /// The most that is allowed.
        reference: f64,
    },
    /// A trainer class of nnU-Net v1 whose network is not known.
    #[error("{}: the trainer `{name}` cannot be used: {reason}", path.display())]
    V1Trainer {
        /// Where the name stands.
        path: PathBuf,
        /// The class.
        name: String,
        /// Why.
        reason: &'static str,
        /// The classes that can be used.
        known: Vec<String>,
    },
    /// Plans of nnU-Net v1 without the stage that was trained, or with several and no word of which.
    #[error("{}: {}", path.display(), stage_text(*wanted, stages))]
    V1Stage {
        /// Where the plans stand.
        path: PathBuf,
        /// The stage of the model, if it is told.
        wanted: Option<usize>,
        /// The stages of the plans.
        stages: Vec<String>,
    },
    /// An option of the planner that makes no sense.
    #[error("{option} is {found}, but must be {expected}")]
    PlanOption {
        /// The option.
        option: &'static str,
        /// What was given.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Files of different kinds in one cohort.
    #[error("the cohort mixes {what}: {first} in {}, but {second} in {}", first_path.display(), second_path.display())]
    MixedCohort {
        /// What differs.
        what: &'static str,
        /// One side.
        first: String,
        /// A file of it.
        first_path: PathBuf,
        /// The other side.
        second: String,
        /// A file of it.
        second_path: PathBuf,
    },
    /// Labels that no coding of BraTS has.
    #[error("{} has the label {}{}, which no coding of BraTS has", path.display(), list(labels), more_files(*more))]
    StrangeLabels {
        /// A file with such labels.
        path: PathBuf,
        /// The labels.
        labels: Vec<u16>,
        /// Other files with strange labels.
        more: usize,
    },
    /// What the labels of a cohort mean cannot be told.
    #[error("cannot tell what the labels mean: {reason} ({})", path.display())]
    UnclearCoding {
        /// A file, or the cohort.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A dataset that would be replaced.
    #[error("{} already exists", path.display())]
    OutputExists {
        /// The file.
        path: PathBuf,
    },
    /// No such coding of BraTS labels.
    #[error("unknown label convention `{name}`; conventions: {}", known.join(", "))]
    UnknownConvention {
        /// The name.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// Labels that cannot be translated into another coding.
    #[error("the labels have no other coding: {reason}")]
    TumourParts {
        /// Why.
        reason: String,
    },
}

fn stage_text(wanted: Option<usize>, stages: &[String]) -> String {
    let stages = stages.join(", ");
    match wanted {
        Some(wanted) => {
            format!("the model was trained on stage {wanted}, but the plans have the stages {stages}")
        }
        None => format!(
            "the plans have the stages {stages}, and neither the model nor its folders tell which one was trained"
        ),
    }
}

fn list(labels: &[u16]) -> String {
    labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `3 (20 voxels), 9 (1 voxel)`.
fn counted(labels: &[(u16, u64)]) -> String {
    let one = |(label, n): &(u16, u64)| format!("{label} ({n} voxel{})", if *n == 1 { "" } else { "s" });
    let shown: Vec<String> = labels.iter().map(one).collect();
    first_few(&shown, 5)
}

fn more_files(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more files have such labels)") }
}

fn present_keys(present: &[String]) -> String {
    if present.is_empty() { "found no keys".to_owned() } else { format!("found {}", present.join(", ")) }
}

impl Diagnose for PlanError {
    fn hint(&self) -> Option<String> {
        match self {
            PlanError::Read { path, .. } => Some(read_hint(path).to_owned()),
            PlanError::Record { .. } => Some(
                "give the folder that `glioseg predict` wrote; remove a predict.json of another program".to_owned(),
            ),
            PlanError::TooLarge { .. } | PlanError::Syntax { .. } => {
                Some("is this the file nnU-Net wrote? copy it again from where the model was trained".to_owned())
            },
            PlanError::MissingKey { key, present, .. } => {
                // A key that has a meaning of its own is not a misspelling of another.
                let strange: Vec<String> =
                    present.iter().filter(|k| !KNOWN_KEYS.contains(&k.as_str())).cloned().collect();
                closest(last_part(key), &strange).map(|name| format!("is `{name}` a misspelling of it?"))
            }
            PlanError::WrongValue { .. }
            | PlanError::PlanOption { .. }
            | PlanError::UnknownConvention { .. } => None,
            PlanError::UnknownName { found, known, .. } if known.iter().any(|k| k != found && last_part(k) == last_part(found)) => {
                Some("a class of another package is another network, even if it has the name of nnU-Net's".to_owned())
            },
            PlanError::UnknownName { found, known, .. } => {
                Some(closest(last_part(found), known).map_or_else(
                    || "only nnU-Net's own networks, resampling functions and normalisation schemes can be used".to_owned(),
                    |name| format!("did you mean `{name}`?"),
                ))
            },
            PlanError::UnknownArgument { key, known, .. } => Some(closest(last_part(key), known).map_or_else(
                || "nnU-Net itself does not know it; a network or function that somebody changed cannot be run here".to_owned(),
                |name| format!("did you mean `{name}`?"),
            )),
            PlanError::UnknownConfiguration { name, known, .. } => closest(name, known).map(|name| format!("did you mean `{name}`?")),
            PlanError::InheritanceCycle { .. } => {
                Some("remove `inherits_from` from the configuration that is meant to be the parent".to_owned())
            },
            PlanError::V1Trainer { name, known, .. } => Some(closest(name, known).map_or_else(
                || format!("known are nnUNetTrainerV2 and the BraTS trainers: {}", known[6..].join(", ")),
                |name| format!("did you mean `{name}`?"),
            )),
            PlanError::V1Stage { .. } => Some(
                "keep the model in nnU-Net's folders, 3d_fullres/TASK/TRAINER__PLANS, with its .model.pkl next to .model"
                    .to_owned(),
            ),
            PlanError::Volume(error) => error.hint(),
            PlanError::NoCases { .. } => Some(
                "a dataset holds imagesTr/CASE_0000.nii.gz … with one file per channel, and labelsTr/CASE.nii.gz"
                    .to_owned(),
            ),
            PlanError::Foreign(file) => file.hint(),
            PlanError::PlansExist { name, .. } => {
                Some(format!("give the plans another name with --name, such as {name}_moved, or remove the file"))
            }
            PlanError::FileEnding { .. } => {
                Some("convert the images to NIfTI and set `file_ending` to \".nii.gz\"".to_owned())
            }
            PlanError::Case { .. } => {
                Some("`glioseg dataset check` lists every problem of every case".to_owned())
            }
            PlanError::UndeclaredLabels { .. } => Some(
                "declare these labels in dataset.json, correct the label map, or take the case out of the dataset"
                    .to_owned(),
            ),
            PlanError::Unfit { .. } => {
                Some("correct the dataset; `glioseg dataset check` lists every problem and where it is".to_owned())
            }
            PlanError::NoForeground { .. } => {
                Some("check that the label maps are those of this dataset and are not empty".to_owned())
            }
            PlanError::TooFewCases { .. } => Some(
                "train on all cases with `-f all`, or write a splits_final.json with fewer folds".to_owned(),
            ),
            PlanError::Split { .. } => Some(
                "splits_final.json is a list of {\"train\": [case, …], \"val\": [case, …]}; correct it, or delete it \
                 to get five folds"
                    .to_owned(),
            ),
            PlanError::SplitsDiffer { path, .. } => {
                Some(format!("if nothing was trained with the old folds, delete {}", path.display()))
            }
            PlanError::Fingerprint { .. } => {
                Some("make it again with `glioseg fingerprint --overwrite`".to_owned())
            }
            PlanError::MixedCohort { .. } => {
                Some("make a dataset of each alone; cases of several years may be the same patients".to_owned())
            }
            PlanError::StrangeLabels { .. } => Some(
                "known are 1-2-4 (until 2022), 1-2-3 (2023) and 1-2-3-4 (after treatment); correct the file or take it out"
                    .to_owned(),
            ),
            PlanError::UnclearCoding { .. } => Some(
                "if you know it, say so with --coding 1-2-4, 1-2-3, 1-2-3-4 or nnunet".to_owned(),
            ),
            PlanError::OutputExists { .. } => Some("choose another folder, or remove it".to_owned()),
            PlanError::TumourParts { .. } => Some(
                "labels can be translated where the dataset has the regions WT, TC and ET, or plain labels named NCR (or \
                 NETC), ED (or SNFH), ET and RC; `--labels dataset` leaves them as they are"
                    .to_owned(),
            ),
            PlanError::Memory { .. } => Some("plan for more memory with --gpu-memory GB".to_owned()),
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            PlanError::Case { path, .. } | PlanError::UndeclaredLabels { path, .. } => Some(path),
            _ => None,
        }
    }
}

fn read_hint(path: &Path) -> &'static str {
    let beside = |name: &str| path.parent().is_some_and(|p| p.join(name).exists());
    if path.ends_with("dataset_fingerprint.json") {
        "make it with `glioseg fingerprint`"
    } else if path.ends_with("dataset.json") && !beside("plans.json") {
        "a dataset folder holds dataset.json next to imagesTr and labelsTr"
    } else {
        "a model folder holds dataset.json and plans.json next to its fold_* folders; give the folder named \
         TRAINER__PLANS__CONFIGURATION"
    }
}

/// Keys that mean something where nnU-Net writes them.
const KNOWN_KEYS: &[&str] = &[
    "arch_kwargs",
    "architecture",
    "batch_dice",
    "batch_size",
    "configurations",
    "conv_bias",
    "conv_op",
    "data_identifier",
    "dataset_name",
    "dropout_op",
    "dropout_op_kwargs",
    "features_per_stage",
    "foreground_intensity_properties_per_channel",
    "inherits_from",
    "kernel_sizes",
    "n_blocks_per_stage",
    "n_conv_per_stage",
    "n_conv_per_stage_decoder",
    "n_stages",
    "network_class_name",
    "nonlin",
    "nonlin_kwargs",
    "norm_op",
    "norm_op_kwargs",
    "normalization_schemes",
    "patch_size",
    "percentile_00_5",
    "percentile_99_5",
    "plans_name",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_probabilities",
    "resampling_fn_probabilities_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
    "spacing",
    "strides",
    "transpose_backward",
    "transpose_forward",
    "use_mask_for_norm",
];

/// What follows the last dot of a path or dotted class name.
fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The known name nearest to `name`, if it is near enough to be a misspelling.
fn closest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .iter()
        .map(|k| (edit_distance(&lower, &last_part(k).to_lowercase()), k.as_str()))
        .filter(|&(d, k)| d <= (last_part(k).len() / 4).max(1))
        .min()
        .map(|(_, k)| k)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_edits() {
        for (a, b, d) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "ab", 1),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn closest_ignores_names_that_are_too_far() {
        let known = ["3d_fullres".to_owned(), "2d".to_owned()];
        assert_eq!(closest("3d_fulres", &known), Some("3d_fullres"));
        assert_eq!(closest("3d_lowres", &known), None);
    }
}
