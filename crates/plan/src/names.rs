//! Datasets and models by nnU-Net's names: `137`, `Dataset137_BraTS`, and the folders below `nnUNet_raw`, `nnUNet_preprocessed` and
//! `nnUNet_results` that they stand for.
//!
//! A path that exists always means itself: only what is not a path is looked for by name.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;
use thiserror::Error;

/// Which of nnU-Net's three folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// Raw datasets.
    Raw,
    /// Fingerprints, plans and prepared cases.
    Preprocessed,
    /// Trained models.
    Results,
}

impl Root {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Preprocessed, Self::Results];

    /// The environment variable that holds its path.
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Raw => "nnUNet_raw",
            Self::Preprocessed => "nnUNet_preprocessed",
            Self::Results => "nnUNet_results",
        }
    }
}

/// Why a name stands for no folder, or for several.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The variable that says where to look is not set.
    #[error(
        "there is no folder `{given}` here, and {variable} is not set, which would say where the datasets lie"
    )]
    Unset {
        /// What was given.
        given: String,
        /// The variable.
        variable: &'static str,
    },
    /// No dataset has this number or name.
    #[error("there is no dataset `{given}`; {}", listed(folders))]
    Unknown {
        /// What was given.
        given: String,
        /// What was looked through, and the datasets in it.
        folders: Vec<(PathBuf, Vec<String>)>,
    },
    /// Several datasets have this number.
    #[error("the number {given} stands for more than one dataset: {}; {}", names.join(", "), listed(folders))]
    Ambiguous {
        /// What was given.
        given: String,
        /// The datasets with this number.
        names: Vec<String>,
        /// What was looked through, and the datasets in it.
        folders: Vec<(PathBuf, Vec<String>)>,
    },
    /// The dataset has no such model.
    #[error("there is no model {wanted} in {}; {}", folder.display(), listed_models(models))]
    NoModel {
        /// The model's folder name, or what is known of it.
        wanted: String,
        /// The folder of the dataset's models.
        folder: PathBuf,
        /// The models in it.
        models: Vec<String>,
    },
    /// The dataset has several models, and none was named.
    #[error("{} holds several models: {}", folder.display(), models.join(", "))]
    SeveralModels {
        /// The folder of the dataset's models.
        folder: PathBuf,
        /// The models in it.
        models: Vec<String>,
    },
}

fn listed(folders: &[(PathBuf, Vec<String>)]) -> String {
    let told = folders.iter().map(|(path, names)| match names.as_slice() {
        _ if !path.is_dir() => format!("the folder {} does not exist", path.display()),
        [] => format!("{} holds no dataset", path.display()),
        names => format!("{} holds {}", path.display(), names.join(", ")),
    });
    told.collect::<Vec<_>>().join("; ")
}

fn listed_models(models: &[String]) -> String {
    if models.is_empty() { "it holds none".into() } else { format!("it holds {}", models.join(", ")) }
}

impl Diagnose for NameError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unset { variable, .. } => {
                format!("give the folder's path, or set {variable} as for nnU-Net: export {variable}=/path/to/{variable}")
            }
            Self::Unknown { .. } => {
                "give one of these numbers or names, or a folder's path; check nnUNet_raw, nnUNet_preprocessed and nnUNet_results".into()
            }
            Self::Ambiguous { .. } => "give the whole name, and rename or remove what is left over of the other".into(),
            Self::NoModel { .. } => {
                "a model's folder is TRAINER__PLANS__CONFIGURATION: name these with -tr, -p and -c, or give the folder with -m"
                    .into()
            }
            Self::SeveralModels { .. } => {
                "say which with -c CONFIGURATION, and -tr TRAINER and -p PLANS where they are not nnU-Net's, or give the \
                 folder with -m"
                    .into()
            }
        })
    }
}

/// The folders that nnU-Net's variables name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// `nnUNet_raw`.
    pub raw: Option<PathBuf>,
    /// `nnUNet_preprocessed`.
    pub preprocessed: Option<PathBuf>,
    /// `nnUNet_results`.
    pub results: Option<PathBuf>,
}

impl Roots {
    /// As the environment has them; an empty variable is one that is not set.
    pub fn from_environment() -> Self {
        let [raw, preprocessed, results] = Root::ALL.map(|root| path_of(std::env::var_os(root.variable())));
        Self { raw, preprocessed, results }
    }

    fn of(&self, root: Root) -> Option<&Path> {
        let path = match root {
            Root::Raw => &self.raw,
            Root::Preprocessed => &self.preprocessed,
            Root::Results => &self.results,
        };
        path.as_deref()
    }

    /// The folder below `root` that `given` stands for: itself where it exists or is not a name, else the dataset's folder.
    ///
    /// A number is looked for in all three folders, since a dataset may be in some of them only.
    ///
    /// # Errors
    /// [`NameError::Unset`], [`NameError::Unknown`], [`NameError::Ambiguous`].
    ///
    /// # Source
    /// nnU-Net v2, `maybe_convert_to_dataset_name`.
    pub fn find(&self, given: &Path, root: Root) -> Result<PathBuf, NameError> {
        let Some(text) = name_in(given) else { return Ok(given.to_owned()) };
        let Some(top) = self.of(root) else {
            return Err(NameError::Unset { given: text.to_owned(), variable: root.variable() });
        };
        let folder = top.join(self.dataset_name(text)?);
        if folder.is_dir() {
            return Ok(folder);
        }
        Err(NameError::Unknown { given: text.to_owned(), folders: vec![(top.to_owned(), datasets_in(top))] })
    }

    /// As [`Roots::find`] in the first of the three folders that has the dataset, for commands that take whatever it is.
    ///
    /// # Errors
    /// As [`Roots::find`].
    pub fn find_any(&self, given: &Path) -> Result<PathBuf, NameError> {
        let found = Root::ALL.into_iter().filter(|&root| self.of(root).is_some());
        let mut first = None;
        for root in found {
            match self.find(given, root) {
                Err(error @ NameError::Unknown { .. }) => first = first.or(Some(error)),
                other => return other,
            }
        }
        first.map_or_else(|| self.find(given, Root::Raw), Err)
    }

    /// A model's folder: itself where it exists or is not a name, else the only model of the dataset.
    ///
    /// # Errors
    /// As [`Roots::find`]; [`NameError::NoModel`], [`NameError::SeveralModels`].
    pub fn find_model(&self, given: &Path) -> Result<PathBuf, NameError> {
        if name_in(given).is_none() {
            return Ok(given.to_owned());
        }
        only_model(self.find(given, Root::Results)?, &ModelName::default())
    }

    /// The folder `TRAINER__PLANS__CONFIGURATION` of a dataset's model, by nnU-Net's own options.
    ///
    /// Without a configuration it is the dataset's only model. Trainer and plans are nnU-Net's where they are not named.
    ///
    /// # Errors
    /// As [`Roots::find_model`].
    ///
    /// # Source
    /// nnU-Net v2, `get_output_folder`.
    pub fn model(&self, dataset: &Path, named: &ModelName<'_>) -> Result<PathBuf, NameError> {
        let folder = self.find(dataset, Root::Results)?;
        let Some(configuration) = named.configuration else {
            return only_model(folder, named);
        };
        let (trainer, plans) =
            (named.trainer.unwrap_or("nnUNetTrainer"), named.plans.unwrap_or("nnUNetPlans"));
        let wanted = format!("{trainer}__{plans}__{configuration}");
        let model = folder.join(&wanted);
        if model.is_dir() {
            return Ok(model);
        }
        Err(NameError::NoModel { wanted, models: models_in(&folder), folder })
    }

    /// The name of the dataset that a number or name stands for.
    fn dataset_name(&self, text: &str) -> Result<String, NameError> {
        let Ok(number) = text.parse::<u32>() else { return Ok(text.to_owned()) };
        let start = format!("Dataset{number:03}");
        let folders: Vec<(PathBuf, Vec<String>)> = Root::ALL
            .into_iter()
            .filter_map(|root| self.of(root))
            .map(|path| (path.to_owned(), datasets_in(path)))
            .collect();
        // Dataset1370 begins with Dataset137, but has another number.
        let is_it = |name: &&String| {
            name.strip_prefix(&start).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let names: BTreeSet<&String> = folders.iter().flat_map(|(_, names)| names).filter(is_it).collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        match names.as_slice() {
            [name] => Ok(name.clone()),
            [] => Err(NameError::Unknown { given: text.to_owned(), folders }),
            _ => Err(NameError::Ambiguous { given: text.to_owned(), names, folders }),
        }
    }
}

/// Which of a dataset's models, as far as it is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelName<'a> {
    /// Such as `3d_fullres`.
    pub configuration: Option<&'a str>,
    /// Such as `nnUNetTrainer`.
    pub trainer: Option<&'a str>,
    /// Such as `nnUNetPlans`.
    pub plans: Option<&'a str>,
}

fn path_of(value: Option<OsString>) -> Option<PathBuf> {
    value.filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// The number or name of a dataset, where `given` is not a path: nothing of that name is here.
fn name_in(given: &Path) -> Option<&str> {
    let text = given.to_str()?;
    let number = !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit());
    let name = text.starts_with("Dataset") && !text.contains(['/', '\\']);
    ((number || name) && !given.exists()).then_some(text)
}

/// Names of the folders in `path` for which `keep` holds, sorted.
fn folders_in(path: &Path, keep: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|n| keep(n)).collect();
    names.sort();
    names
}

fn datasets_in(path: &Path) -> Vec<String> {
    folders_in(path, |name| name.starts_with("Dataset"))
}

fn models_in(path: &Path) -> Vec<String> {
    folders_in(path, |name| name.split("__").count() == 3)
}

/// The only model of a folder that has these trainer and plans, as far as they are named.
fn only_model(folder: PathBuf, named: &ModelName<'_>) -> Result<PathBuf, NameError> {
    let models = models_in(&folder);
    let fits = |model: &&String| {
        [named.trainer, named.plans]
            .into_iter()
            .zip(model.split("__"))
            .all(|(name, part)| name.is_none_or(|n| n == part))
    };
    let fitting: Vec<&String> = models.iter().filter(fits).collect();
    match fitting.as_slice() {
        [model] => Ok(folder.join(model)),
        [] => {
            let (trainer, plans) = (named.trainer.unwrap_or("TRAINER"), named.plans.unwrap_or("PLANS"));
            Err(NameError::NoModel { wanted: format!("{trainer}__{plans}__CONFIGURATION"), folder, models })
        }
        _ => Err(NameError::SeveralModels { models: fitting.into_iter().cloned().collect(), folder }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Roots with these folders.
    fn roots(folders: &[&str]) -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().expect("a folder");
        for folder in folders {
            std::fs::create_dir_all(dir.path().join(folder)).expect("a folder");
        }
        let [raw, preprocessed, results] = ["raw", "pre", "res"].map(|name| Some(dir.path().join(name)));
        (dir, Roots { raw, preprocessed, results })
    }

    #[test]
    fn numbers_and_names_stand_for_folders() {
        let (dir, roots) = roots(&[
            "raw/Dataset137_BraTS",
            "raw/Dataset1370_Other",
            "pre/Dataset137_BraTS",
            "raw/Dataset004_H",
        ]);
        let at = |name: &str| dir.path().join(name);
        for given in ["137", "0137", "Dataset137_BraTS"] {
            assert_eq!(
                roots.find(Path::new(given), Root::Raw).expect("found"),
                at("raw/Dataset137_BraTS"),
                "{given}"
            );
        }
        assert_eq!(roots.find(Path::new("4"), Root::Raw).expect("found"), at("raw/Dataset004_H"));
        assert_eq!(
            roots.find(Path::new("137"), Root::Preprocessed).expect("found"),
            at("pre/Dataset137_BraTS")
        );
        assert_eq!(roots.find_any(Path::new("137")).expect("found"), at("raw/Dataset137_BraTS"));
        // Paths are themselves, also where nothing is: the command says so.
        for path in ["data/Dataset137_BraTS", "./137", "x"] {
            assert_eq!(roots.find(Path::new(path), Root::Raw).expect("a path"), Path::new(path));
        }
    }

    #[test]
    fn a_number_without_a_dataset_or_with_two_is_an_error_that_names_what_there_is() {
        let (_dir, roots) = roots(&["raw/Dataset001_A", "res/Dataset001_B", "raw/Dataset002_C"]);
        let error = |given: &str| roots.find(Path::new(given), Root::Raw).expect_err("no dataset");
        let text = error("7").to_string();
        assert!(
            text.contains("no dataset `7`") && text.contains("raw holds Dataset001_A, Dataset002_C"),
            "{text}"
        );
        assert!(text.contains("pre does not exist") && text.contains("res holds Dataset001_B"), "{text}");
        let text = error("1").to_string();
        assert!(text.contains("more than one dataset: Dataset001_A, Dataset001_B"), "{text}");
        let text = error("Dataset009_X").to_string();
        assert!(text.contains("no dataset `Dataset009_X`") && text.contains("Dataset002_C"), "{text}");
        let error = Roots::default().find(Path::new("1"), Root::Results).expect_err("not set");
        assert!(error.to_string().contains("nnUNet_results is not set"), "{error}");
        assert!(error.hint().expect("a hint").contains("export nnUNet_results="));
    }

    #[test]
    fn models_are_found_by_configuration_trainer_and_plans() {
        let (dir, roots) = roots(&[
            "res/Dataset001_A/nnUNetTrainer__nnUNetPlans__3d_fullres",
            "res/Dataset001_A/nnUNetTrainerDA5__nnUNetResEncUNetMPlans__3d_fullres",
            "res/Dataset001_A/ensembles",
            "res/Dataset002_B/nnUNetTrainer__nnUNetPlans__2d",
        ]);
        let below = dir.path().join("res/Dataset001_A");
        let model = |dataset: &str, configuration, trainer, plans| {
            roots.model(Path::new(dataset), &ModelName { configuration, trainer, plans })
        };
        assert_eq!(
            model("1", Some("3d_fullres"), None, None).expect("a model"),
            below.join("nnUNetTrainer__nnUNetPlans__3d_fullres")
        );
        assert_eq!(
            model(
                "Dataset001_A",
                Some("3d_fullres"),
                Some("nnUNetTrainerDA5"),
                Some("nnUNetResEncUNetMPlans")
            )
            .expect("a model"),
            below.join("nnUNetTrainerDA5__nnUNetResEncUNetMPlans__3d_fullres")
        );
        let only = dir.path().join("res/Dataset002_B/nnUNetTrainer__nnUNetPlans__2d");
        assert_eq!(model("2", None, None, None).expect("the only one"), only);
        assert_eq!(roots.find_model(Path::new("2")).expect("the only one"), only);
        let error = model("1", Some("2d"), None, None).expect_err("no such model").to_string();
        assert!(
            error.contains("no model nnUNetTrainer__nnUNetPlans__2d") && error.contains("DA5__"),
            "{error}"
        );
        assert!(model("1", None, None, None).expect_err("two").to_string().contains("several models"));
    }
}
