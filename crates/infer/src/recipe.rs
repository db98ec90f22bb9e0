//! Recipes: how several models become one submission, as data.
//!
//! A recipe names the models it averages, the regions they must predict, the steps on the label map and the coding it is written in. It
//! speaks of parts of the tumour, not of label values, and so holds for any coding of the same regions. `crates/infer/recipes`
//! has those that come along; a copy of one, changed, is given by its path.
//!
//! The models' probabilities are averaged with equal weights, as everywhere; what a recipe cannot say, it does not do.

use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose;
use glioseg_plan::{Dataset, OutputLabels, PlanError, TumourParts};
use serde::Deserialize;
use thiserror::Error;

use crate::postprocess::{Neighbours, Postprocessing, PostprocessingStep};

/// Recipes that come along: name and text.
const BUILT_IN: [(&str, &str); 1] = [("brats21", include_str!("../recipes/brats21.json"))];
/// Far more than any recipe has.
const MAX_BYTES: u64 = 1 << 20;

/// A part of a tumour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tissue {
    /// Background.
    Background,
    /// Necrotic and non-enhancing core.
    Necrosis,
    /// Oedema.
    Oedema,
    /// Enhancing tumour.
    Enhancing,
    /// Resection cavity.
    Cavity,
}

impl Tissue {
    /// Its value; `None` where the coding has no such part.
    fn value(self, parts: &TumourParts) -> Option<u16> {
        match self {
            Self::Background => Some(0),
            Self::Necrosis => Some(parts.necrosis),
            Self::Oedema => Some(parts.oedema),
            Self::Enhancing => Some(parts.enhancing),
            Self::Cavity => parts.cavity,
        }
    }
}

/// A step on the label map, in parts of the tumour.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RecipeStep {
    /// As [`PostprocessingStep::KeepLargest`].
    KeepLargest {
        /// Parts that are joined.
        parts: Vec<Tissue>,
        /// What connects voxels.
        neighbours: Neighbours,
    },
    /// As [`PostprocessingStep::ReplaceSmall`].
    ReplaceSmall {
        /// Parts that are counted together.
        parts: Vec<Tissue>,
        /// The least number of voxels that stays.
        below_voxels: u64,
        /// What they become.
        with: Tissue,
    },
}

/// How several models become one submission.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// What it does, for people.
    pub about: String,
    /// Where it comes from.
    pub source: String,
    /// The models that it averages, in words; as many must be given.
    pub models: Vec<String>,
    /// The parts of every region that the models predict, in the order of the outputs.
    pub regions: Vec<Vec<Tissue>>,
    /// What is done to the label map, in order.
    pub steps: Vec<RecipeStep>,
    /// The coding that is written.
    pub labels: OutputLabels,
}

/// Why a recipe cannot be followed.
#[derive(Debug, Error)]
pub enum RecipeError {
    /// Neither the name of a recipe nor a file.
    #[error("unknown recipe `{name}`; recipes: {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// Recipes that come along.
        known: Vec<String>,
    },
    /// The file cannot be read.
    #[error("cannot read the recipe {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another number of models than the recipe averages.
    #[error("the recipe `{recipe}` averages {} models ({}), but {found} {} given", models.len(), models.join("; "), if *found == 1 { "is" } else { "are" })]
    Models {
        /// The recipe.
        recipe: String,
        /// The models that it averages.
        models: Vec<String>,
        /// Models given.
        found: usize,
    },
    /// A model that predicts something else.
    #[error("the recipe `{recipe}` expects models with the outputs {expected}, but {} has {found}", path.display())]
    Regions {
        /// The recipe.
        recipe: String,
        /// Its regions.
        expected: String,
        /// The model's.
        found: String,
        /// The model.
        path: PathBuf,
    },
    /// The labels have no place in the coding that is written.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl Diagnose for RecipeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } => Some("name one of them, or give the path of a recipe of your own".into()),
            Self::Read { .. } => {
                Some("a recipe is JSON like crates/infer/recipes/brats21.json of glioseg's sources".into())
            }
            Self::Models { .. } => Some(
                "give every model with -m; for another number of models copy the recipe, change `models`, and give its path".into(),
            ),
            Self::Regions { .. } => {
                Some("the recipe is for models trained on whole tumour, tumour core and enhancing tumour".into())
            }
            Self::Plan(error) => error.hint(),
        }
    }
}

impl Recipe {
    /// A recipe that comes along, or that of a file.
    ///
    /// # Errors
    /// [`RecipeError::Unknown`], [`RecipeError::Read`].
    pub fn find(name: &str) -> Result<Self, RecipeError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(n, _)| *n == name) {
            return Self::parse(text, Path::new(name));
        }
        let path = Path::new(name);
        let failed = |reason: String| RecipeError::Read { path: path.into(), reason };
        match std::fs::metadata(path) {
            Err(_) => Err(RecipeError::Unknown {
                name: name.into(),
                known: BUILT_IN.iter().map(|(n, _)| (*n).to_owned()).collect(),
            }),
            Ok(data) if data.len() > MAX_BYTES => Err(failed(format!("it has {} bytes", data.len()))),
            Ok(_) => Self::parse(&std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?, path),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, RecipeError> {
        serde_json::from_str(text).map_err(|e| RecipeError::Read { path: path.into(), reason: e.to_string() })
    }

    /// Checks the number of models.
    ///
    /// # Errors
    /// [`RecipeError::Models`].
    pub fn check_models(&self, found: usize) -> Result<(), RecipeError> {
        if found == self.models.len() {
            return Ok(());
        }
        Err(RecipeError::Models { recipe: self.name.clone(), models: self.models.clone(), found })
    }

    /// The steps in the values of a model's dataset; `path` is the model, for messages.
    ///
    /// # Errors
    /// [`RecipeError::Regions`] if the model predicts something else than the recipe expects.
    pub fn steps_for(&self, dataset: &Dataset, path: &Path) -> Result<Postprocessing, RecipeError> {
        let refused = || {
            let regions: Vec<String> = self.regions.iter().map(|r| words(r)).collect();
            RecipeError::Regions {
                recipe: self.name.clone(),
                expected: regions.join(", "),
                found: dataset.labels.output_names().join(", "),
                path: path.to_owned(),
            }
        };
        let parts = TumourParts::of(dataset).map_err(|_| refused())?;
        let values = |wanted: &[Tissue]| -> Option<Vec<u16>> {
            let mut values = wanted.iter().map(|p| p.value(&parts)).collect::<Option<Vec<_>>>()?;
            values.sort_unstable();
            Some(values)
        };
        let found: Vec<Option<Vec<u16>>> = dataset
            .labels
            .regions()
            .iter()
            .map(|r| {
                let mut labels = r.labels.clone();
                labels.sort_unstable();
                Some(labels)
            })
            .collect();
        if found != self.regions.iter().map(|r| values(r)).collect::<Vec<_>>() {
            return Err(refused());
        }
        let steps = self.steps.iter().map(|step| match step {
            RecipeStep::KeepLargest { parts, neighbours } => Some(PostprocessingStep::KeepLargest {
                labels: values(parts)?,
                neighbours: *neighbours,
                small_below_mm3: None,
            }),
            RecipeStep::ReplaceSmall { parts: which, below_voxels, with } => {
                Some(PostprocessingStep::ReplaceSmall {
                    labels: values(which)?,
                    below_voxels: *below_voxels,
                    with: with.value(&parts)?,
                })
            }
        });
        steps.collect::<Option<Vec<_>>>().map(Postprocessing::new).ok_or_else(refused)
    }
}

/// `oedema + enhancing`.
fn words(parts: &[Tissue]) -> String {
    let word = |part: &Tissue| match part {
        Tissue::Background => "background",
        Tissue::Necrosis => "necrosis",
        Tissue::Oedema => "oedema",
        Tissue::Enhancing => "enhancing",
        Tissue::Cavity => "cavity",
    };
    parts.iter().map(word).collect::<Vec<_>>().join(" + ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(labels: &str) -> Dataset {
        let text = format!(r#"{{"channel_names": {{"0": "T1"}}, "file_ending": ".nii.gz", {labels}}}"#);
        Dataset::parse(text.as_bytes(), Path::new("dataset.json")).expect("a dataset")
    }

    #[test]
    fn every_recipe_that_comes_along_is_valid() {
        for (name, _) in BUILT_IN {
            assert_eq!(Recipe::find(name).expect("valid").name, name);
        }
    }

    #[test]
    fn the_winners_recipe_holds_for_any_coding_of_its_regions() {
        let recipe = Recipe::find("brats21").expect("valid");
        let steps = |labels: &str| recipe.steps_for(&dataset(labels), Path::new("M"));
        let step = |with| vec![PostprocessingStep::ReplaceSmall { labels: vec![3], below_voxels: 200, with }];
        let nnunet = r#""labels": {"background": 0, "WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}, "regions_class_order": [1, 2, 3]"#;
        assert_eq!(steps(nnunet).expect("possible").steps, step(2));
        let brats = r#""labels": {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, "regions_class_order": [2, 1, 3]"#;
        assert_eq!(steps(brats).expect("possible").steps, step(1));
        assert_eq!(recipe.labels, OutputLabels::Brats);
    }

    #[test]
    fn models_with_other_outputs_or_of_another_number_are_refused() {
        let recipe = Recipe::find("brats21").expect("valid");
        let refused = |labels: &str| {
            recipe.steps_for(&dataset(labels), Path::new("M")).expect_err("other outputs").to_string()
        };
        let order = r#""labels": {"background": 0, "ET": [3], "WT": [1, 2, 3], "TC": [2, 3]}, "regions_class_order": [3, 1, 2]"#;
        assert_eq!(
            refused(order),
            "the recipe `brats21` expects models with the outputs necrosis + oedema + enhancing, necrosis + enhancing, enhancing, \
             but M has ET, WT, TC"
        );
        let plain = r#""labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3}"#;
        assert!(refused(plain).ends_with("but M has background, NCR, ED, ET"), "{}", refused(plain));
        let error = recipe.check_models(1).expect_err("one model").to_string();
        assert!(error.starts_with("the recipe `brats21` averages 2 models (BL: "), "{error}");
        assert!(error.ends_with("but 1 is given"), "{error}");
        assert!(recipe.check_models(2).is_ok());
    }

    #[test]
    fn unknown_and_broken_recipes_are_errors() {
        let error = Recipe::find("brats22").expect_err("no such recipe").to_string();
        assert_eq!(error, "unknown recipe `brats22`; recipes: brats21");
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("mine.json");
        std::fs::write(&path, BUILT_IN[0].1.replace("\"steps\"", "\"stepps\"")).expect("written");
        let error = Recipe::find(path.to_str().expect("a path")).expect_err("a misspelling").to_string();
        assert!(error.contains("unknown field `stepps`"), "{error}");
    }
}
