//! A trained model: nnU-Net's result folder, of either version, with its plans, dataset description and folds.

use std::path::{Path, PathBuf};

use glioseg_net::{Checkpoint, NetworkSpec};
use glioseg_plan::{Configuration, Dataset, Plans, Rules};

use crate::InferError;
use crate::folds::{fold_folders, stray_folders};
use crate::trainers::is_trainer;
use crate::v1;

/// Which folds of a model are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Folds {
    /// Every cross-validation fold with the checkpoint; `fold_all` only if there is no other.
    #[default]
    Found,
    /// `fold_all` where it exists, else every fold.
    All,
    /// These folds; each must be there.
    These(Vec<usize>),
    /// Whatever there is, `fold_all` too.
    Every,
}

impl std::str::FromStr for Folds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        let mut folds = text
            .split(',')
            .map(|f| f.trim().parse::<usize>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| format!("`{text}` is neither `all` nor fold numbers such as 0,1,2"))?;
        folds.sort_unstable();
        folds.dedup();
        Ok(Self::These(folds))
    }
}

/// Which checkpoint of a fold is used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CheckpointChoice {
    /// The one at the end of training.
    #[default]
    Final,
    /// The one with the best validation score.
    Best,
    /// The one of this file name; its ending may be left out.
    Named(String),
}

impl CheckpointChoice {
    /// File name without ending.
    pub fn stem(&self) -> &str {
        match self {
            Self::Final => "checkpoint_final",
            Self::Best => "checkpoint_best",
            Self::Named(name) => name,
        }
    }

    /// Name of version 1's file without ending.
    pub fn v1_stem(&self) -> &str {
        match self {
            Self::Final => "model_final_checkpoint",
            Self::Best => "model_best",
            Self::Named(name) => name,
        }
    }

    /// The file in a fold's folder: our own safetensors before nnU-Net's `.pth` and version 1's `.model`.
    fn find(&self, fold: &Path) -> Option<PathBuf> {
        let (stem, v1) = (self.stem(), self.v1_stem());
        // A name that was given with its ending means that file.
        let whole = ENDINGS.iter().any(|ending| stem.ends_with(ending)).then(|| stem.to_owned());
        whole
            .into_iter()
            .chain([format!("{stem}.safetensors"), format!("{stem}.pth"), format!("{v1}.model")])
            .map(|name| fold.join(name))
            .find(|p| p.is_file())
    }
}

/// How files of weights end.
const ENDINGS: [&str; 3] = [".safetensors", ".pth", ".model"];

impl std::str::FromStr for CheckpointChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "final" => Ok(Self::Final),
            "best" => Ok(Self::Best),
            _ if text.is_empty() || text.contains(['/', '\\']) => Err(format!(
                "`{text}` is neither `final`, `best` nor the name of a file in the folds' folders, such as checkpoint_latest"
            )),
            // nnU-Net's own names, with or without ending, stand for the same checkpoint of our trainings.
            "checkpoint_final" | "checkpoint_final.pth" => Ok(Self::Final),
            "checkpoint_best" | "checkpoint_best.pth" => Ok(Self::Best),
            _ => Ok(Self::Named(text.to_owned())),
        }
    }
}

/// One fold's weights on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// Folder name without `fold_`: a number or `all`.
    pub name: String,
    /// The checkpoint file.
    pub checkpoint: PathBuf,
}

impl Fold {
    /// nnU-Net's file of the same name next to the one that is taken.
    pub fn twin(&self) -> Option<PathBuf> {
        let taken = self.checkpoint.extension().is_some_and(|ending| ending == "safetensors");
        Some(self.checkpoint.with_extension("pth")).filter(|path| taken && path.is_file())
    }
}

/// A result folder of nnU-Net v2 or v1 or of this program, opened and checked; weights are read later, fold by fold.
#[derive(Debug)]
pub struct Model {
    /// The folder.
    pub path: PathBuf,
    /// Channels and labels.
    pub dataset: Dataset,
    /// The plans it was trained with.
    pub plans: Plans,
    /// The configuration it was trained with.
    pub configuration: Configuration,
    /// The folds to use.
    pub folds: Vec<Fold>,
    /// Trainer class, as the first fold's checkpoint names it.
    pub trainer: Option<String>,
    /// Axes of `[z, y, x]` (after the plans' transposition) that may be mirrored.
    pub mirror_axes: Vec<usize>,
    /// What the network looks like.
    pub network: NetworkSpec,
}

/// Folders below `path` that look like models, for a hint.
fn models_below(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| {
            ["plans.json", "plans.pkl"].iter().any(|plans| e.path().join(plans).is_file())
                && !fold_folders(&e.path()).is_empty()
        })
        .map(|e| e.path().display().to_string())
        .collect();
    names.sort();
    names
}

/// Channels that a network of this configuration reads: those of the images, and in a later stage of a cascade one for every
/// foreground label.
///
/// # Source
/// nnU-Net v2, `determine_num_input_channels`.
pub fn network_channels(dataset: &Dataset, configuration: &Configuration) -> usize {
    let labels = configuration.previous_stage.as_ref().map_or(0, |_| dataset.labels.foreground().len());
    dataset.channel_names.len() + labels
}

impl Model {
    /// Whether a folder has what a model has: plans and dataset description, or version 1's plans or weights.
    pub fn looks_like(path: &Path) -> bool {
        ["plans.json", "dataset.json"].iter().all(|f| path.join(f).is_file()) || v1::is_model(path)
    }

    /// Opens a result folder; reads the metadata of the first fold's checkpoint.
    ///
    /// # Errors
    /// [`InferError::NotAModel`] and [`InferError::MissingFold`] with what the folder holds; the errors of plans, dataset description
    /// and checkpoint, each with its file.
    pub fn open(path: &Path, folds: &Folds, choice: &CheckpointChoice) -> Result<Self, InferError> {
        Self::open_with(path, folds, choice, true)
    }

    /// As [`Model::open`]; without `mirroring` it does not matter whether the checkpoint's mirror axes are such.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with(
        path: &Path,
        folds: &Folds,
        choice: &CheckpointChoice,
        mirroring: bool,
    ) -> Result<Self, InferError> {
        let missing = ["plans.json", "dataset.json"].into_iter().find(|f| !path.join(f).is_file());
        let Some(file) = missing else { return Self::open_v2(path, folds, choice, mirroring) };
        if v1::is_model(path) {
            return Self::open_v1(path, folds, choice);
        }
        let reason = if path.is_dir() {
            format!("it has no {file}")
        } else if path.is_file() {
            "it is a file, not a folder".into()
        } else {
            "there is no such folder".into()
        };
        Err(InferError::NotAModel { path: path.into(), reason, below: models_below(path) })
    }

    /// Folds of the folder that are not used, for want of the checkpoint or by choice.
    pub fn unused_folds(&self) -> Vec<String> {
        let used = |name: &str| self.folds.iter().any(|f| f.name == name);
        fold_folders(&self.path)
            .into_iter()
            .map(|(name, _)| name)
            .filter(|n| n != "all" && !used(n))
            .collect()
    }

    /// Folders next to the folds whose names are almost those of a fold, such as `fold_0 (copy)`; they are not used.
    pub fn stray_folds(&self) -> Vec<String> {
        stray_folders(&self.path)
    }

    /// Version 2's result folder, or ours.
    fn open_v2(
        path: &Path,
        folds: &Folds,
        choice: &CheckpointChoice,
        mirroring: bool,
    ) -> Result<Self, InferError> {
        let dataset = Dataset::read(&path.join("dataset.json"))?;
        let plans = Plans::read(&path.join("plans.json"))?;
        let folds = choose_folds(path, folds, choice)?;
        let first = Checkpoint::open(&folds[0].checkpoint)?;
        // The checkpoint knows its configuration; the folder's name TRAINER__PLANS__CONFIGURATION says it too.
        let named = path.canonicalize().unwrap_or_else(|_| path.into());
        let named =
            named.file_name().and_then(|n| n.to_str()).and_then(|n| n.split("__").nth(2)).map(str::to_owned);
        let name = match first.metadata().configuration.clone().or(named) {
            Some(name) => name,
            None => plans.configuration_names().first().cloned().unwrap_or_default(),
        };
        let configuration = plans.configuration(&name)?;
        let dim = configuration.dim();
        let mirror_axes = match first.mirror_axes(dim) {
            Ok(axes) => axes.into_iter().map(|axis| axis + 3 - dim).collect(),
            Err(error) if mirroring => return Err(error.into()),
            Err(_) => Vec::new(),
        };
        let trainer = first.metadata().trainer_name.clone();
        Self::new(path, folds, dataset, plans, configuration, trainer, mirror_axes)
    }

    /// Version 1's result folder: everything but the weights is told in version 2's terms.
    fn open_v1(path: &Path, folds: &Folds, choice: &CheckpointChoice) -> Result<Self, InferError> {
        let folds = choose_folds(path, folds, choice)?;
        let v1::Described { dataset, plans, configuration, trainer, mirror_axes } =
            v1::describe(path, &folds[0].checkpoint)?;
        Self::new(path, folds, dataset, plans, configuration, Some(trainer), mirror_axes)
    }

    fn new(
        path: &Path,
        folds: Vec<Fold>,
        dataset: Dataset,
        plans: Plans,
        configuration: Configuration,
        trainer: Option<String>,
        mirror_axes: Vec<usize>,
    ) -> Result<Self, InferError> {
        if configuration.previous_stage.is_some() && configuration.rules == Rules::V1 {
            return Err(InferError::CascadeV1 { path: path.into(), configuration: configuration.name });
        }
        let mut configuration = configuration;
        if let Some(trainer) = &trainer {
            configuration.architecture = configuration.architecture.of_trainer(trainer);
        }
        let network = NetworkSpec::from_plan(
            &configuration.architecture,
            network_channels(&dataset, &configuration),
            dataset.labels.num_outputs(),
        )?;
        Ok(Self { path: path.into(), dataset, plans, configuration, folds, trainer, mirror_axes, network })
    }

    /// The trainer's name, where it is not a class of nnU-Net's own: what that class changes cannot be seen.
    ///
    /// Trainings of this program are named at will, and version 1's are refused where they are not known.
    pub fn foreign_trainer(&self) -> Option<&str> {
        let own =
            self.folds.iter().all(|fold| fold.checkpoint.extension().is_some_and(|e| e == "safetensors"));
        let name = self.trainer.as_deref()?;
        let known = own || self.configuration.rules == Rules::V1 || is_trainer(name);
        (!known).then_some(name)
    }

    /// Where the model of the stage before is expected: the folder of the same trainer and plans next to this one. `None` if the
    /// model is not a later stage of a cascade.
    pub fn previous_stage_folder(&self) -> Option<PathBuf> {
        let previous = self.configuration.previous_stage.as_ref()?;
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let name = path.file_name()?.to_str()?;
        let mut parts: Vec<&str> = name.split("__").collect();
        *parts.last_mut()? = previous;
        // A folder that was renamed has no name to go by.
        (parts.len() > 1).then(|| path.with_file_name(parts.join("__")))
    }

    /// Voxels of one tile, `[z, y, x]`; one slice for a 2D configuration.
    pub fn tile(&self) -> [usize; 3] {
        match self.configuration.patch_size[..] {
            [y, x] => [1, y, x],
            [z, y, x] => [z, y, x],
            _ => unreachable!("plans are checked to have two or three axes"),
        }
    }
}

fn choose_folds(path: &Path, folds: &Folds, choice: &CheckpointChoice) -> Result<Vec<Fold>, InferError> {
    let found: Vec<Fold> = fold_folders(path)
        .into_iter()
        .filter_map(|(name, folder)| choice.find(&folder).map(|checkpoint| Fold { name, checkpoint }))
        .collect();
    let missing = |wanted: Option<&str>| InferError::MissingFold {
        path: path.into(),
        wanted: wanted.map(str::to_owned),
        checkpoint: match choice {
            CheckpointChoice::Named(name) => format!("checkpoint named `{name}`"),
            _ if path.join("plans.pkl").is_file() => choice.v1_stem().to_owned(),
            _ => choice.stem().to_owned(),
        },
        found: found.iter().map(|f| f.name.clone()).collect(),
        files: checkpoints_in(path),
    };
    let all = found.iter().find(|f| f.name == "all").cloned();
    let numbered: Vec<Fold> = found.iter().filter(|f| f.name != "all").cloned().collect();
    match folds {
        Folds::These(wanted) => wanted
            .iter()
            .map(|w| {
                let name = w.to_string();
                found.iter().find(|f| f.name == name).cloned().ok_or_else(|| missing(Some(&name)))
            })
            .collect(),
        Folds::Every if !found.is_empty() => Ok(found),
        Folds::All if all.is_some() => Ok(all.into_iter().collect()),
        Folds::Found if numbered.is_empty() && all.is_some() => Ok(all.into_iter().collect()),
        _ if numbered.is_empty() => Err(missing(None)),
        _ => Ok(numbered),
    }
}

/// Names of the checkpoints in all folds.
fn checkpoints_in(path: &Path) -> Vec<String> {
    let files =
        fold_folders(path).into_iter().filter_map(|(_, folder)| std::fs::read_dir(folder).ok()).flatten();
    let names = files.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|n| ENDINGS.iter().any(|ending| n.ends_with(ending))).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_diagnose::Diagnose as _;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, "").expect("a file");
        }
        dir
    }

    fn names(folds: Result<Vec<Fold>, InferError>) -> Vec<String> {
        folds.expect("folds").into_iter().map(|f| f.name).collect()
    }

    #[test]
    fn folds_with_the_asked_checkpoint_are_found() {
        let dir = folder(&[
            "fold_0/checkpoint_final.pth",
            "fold_1/checkpoint_best.pth",
            "fold_2/checkpoint_final.safetensors",
            "fold_all/checkpoint_final.pth",
        ]);
        let path = dir.path();
        assert_eq!(names(choose_folds(path, &Folds::Found, &CheckpointChoice::Final)), ["0", "2"]);
        assert_eq!(names(choose_folds(path, &Folds::Found, &CheckpointChoice::Best)), ["1"]);
        assert_eq!(names(choose_folds(path, &Folds::All, &CheckpointChoice::Final)), ["all"]);
        assert_eq!(names(choose_folds(path, &Folds::These(vec![2]), &CheckpointChoice::Final)), ["2"]);
    }

    #[test]
    fn a_fold_that_is_not_there_is_an_error_that_lists_the_others() {
        let dir = folder(&["fold_0/checkpoint_final.pth", "fold_3/checkpoint_final.pth", "fold_1/other.pth"]);
        let error = choose_folds(dir.path(), &Folds::These(vec![0, 1]), &CheckpointChoice::Final)
            .expect_err("no fold 1");
        assert_eq!(error.to_string(), "the model has no fold 1 with a checkpoint_final; it has folds 0, 3");
        let error = choose_folds(dir.path(), &Folds::Found, &CheckpointChoice::Best).expect_err("no best");
        assert_eq!(error.to_string(), "the model has no fold with a checkpoint_best; it has no folds");
    }

    #[test]
    fn a_folder_of_models_is_refused_with_the_models_in_it() {
        let dir = folder(&["T__P__3d_fullres/plans.json", "T__P__3d_fullres/fold_0/checkpoint_final.pth"]);
        let error = Model::open(dir.path(), &Folds::Found, &CheckpointChoice::Final).expect_err("no model");
        assert!(error.to_string().contains("it has no plans.json"), "{error}");
        assert!(error.hint().expect("a hint").contains("T__P__3d_fullres"));
    }

    #[test]
    fn folds_are_parsed_from_the_command_line() {
        assert_eq!("all".parse(), Ok(Folds::All));
        assert_eq!("2,0,2".parse(), Ok(Folds::These(vec![0, 2])));
        assert!("1;2".parse::<Folds>().is_err());
    }
    #[test]
    fn folders_that_are_almost_folds_are_left_out() {
        let dir = folder(&[
            "fold_0/checkpoint_final.pth",
            "fold_0 (copy)/checkpoint_final.pth",
            "fold_2_v1/checkpoint_final.pth",
            "fold_03/checkpoint_final.pth",
            "fold_10/checkpoint_final.pth",
            "fold_-1/checkpoint_final.pth",
            "fold_All/checkpoint_final.pth",
            "fold2/checkpoint_final.pth",
            "backup/checkpoint_final.pth",
        ]);
        let final_ = CheckpointChoice::Final;
        assert_eq!(names(choose_folds(dir.path(), &Folds::Found, &final_)), ["0", "10"]);
        assert_eq!(names(choose_folds(dir.path(), &Folds::Every, &final_)), ["0", "10"]);
        let stray = ["fold2", "fold_-1", "fold_0 (copy)", "fold_03", "fold_2_v1", "fold_All"];
        assert_eq!(stray_folders(dir.path()), stray);
    }

    #[test]
    fn a_checkpoint_may_have_any_name() {
        let dir = folder(&[
            "fold_0/checkpoint_latest.pth",
            "fold_0/epoch.50.pth",
            "fold_0/both.pth",
            "fold_0/both.safetensors",
            "fold_1/model_ep_100.model",
        ]);
        let found = |name: &str| -> Result<Vec<String>, String> {
            let choice: CheckpointChoice = name.parse()?;
            let folds = choose_folds(dir.path(), &Folds::Found, &choice).map_err(|e| e.to_string())?;
            let file = |f: Fold| f.checkpoint.file_name().map(|n| n.to_string_lossy().into_owned());
            Ok(folds.into_iter().filter_map(file).collect())
        };
        assert_eq!(found("checkpoint_latest"), Ok(vec!["checkpoint_latest.pth".into()]));
        assert_eq!(found("epoch.50.pth"), Ok(vec!["epoch.50.pth".into()]));
        assert_eq!(found("epoch.50"), Ok(vec!["epoch.50.pth".into()]));
        assert_eq!(found("both"), Ok(vec!["both.safetensors".into()]));
        assert_eq!(found("both.pth"), Ok(vec!["both.pth".into()]));
        assert_eq!(found("model_ep_100"), Ok(vec!["model_ep_100.model".into()]));
        assert_eq!(
            found("other"),
            Err("the model has no fold with a checkpoint named `other`; it has no folds".into())
        );
        let error = choose_folds(dir.path(), &Folds::Found, &CheckpointChoice::Final).expect_err("no final");
        let hint = error.hint().expect("a hint");
        assert!(hint.contains("--checkpoint: both.pth, both.safetensors, checkpoint_latest.pth, "), "{hint}");
        assert!(found("../fold_1/x").is_err());
        assert_eq!("checkpoint_best.pth".parse(), Ok(CheckpointChoice::Best));
    }
}
