//! Which steps are applied to the label maps of a prediction.

use std::path::{Path, PathBuf};

use super::InferError;
use crate::model::Model;
use crate::output::OutputError;
use crate::postprocess::{FILE_NAME, Postprocessing};
use crate::recipe::Recipe;

/// Which steps are applied to the label maps of a prediction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PostprocessingChoice {
    /// Those of the model's own `postprocessing.json`, if it has one; of several models only where all have the same.
    #[default]
    Model,
    /// None.
    Nothing,
    /// Those of this file.
    File(PathBuf),
    /// Those of a recipe.
    Recipe(Box<Recipe>),
}

impl PostprocessingChoice {
    /// The steps, checked against the labels of the models.
    pub(super) fn steps(&self, models: &[Model]) -> Result<Postprocessing, InferError> {
        let dataset = &models[0].dataset;
        let read = |path: &Path| -> Result<Postprocessing, OutputError> {
            let steps = Postprocessing::read(path)?;
            steps.check(dataset.labels.all_labels(), path)?;
            Ok(steps)
        };
        Ok(match self {
            Self::Nothing => Postprocessing::default(),
            Self::File(path) => read(path)?,
            Self::Model => {
                let of_model = |m: &Model| -> Result<Option<Postprocessing>, OutputError> {
                    let path = m.path.join(FILE_NAME);
                    path.is_file().then(|| read(&path)).transpose()
                };
                let mut all = models.iter().map(of_model).collect::<Result<Vec<_>, _>>()?;
                let alike = |a: &Option<Postprocessing>, b: &Option<Postprocessing>| {
                    a.as_ref().map(|p| &p.steps) == b.as_ref().map(|p| &p.steps)
                };
                let first = all.swap_remove(0);
                if all.iter().all(|other| alike(&first, other)) {
                    first.unwrap_or_default()
                } else {
                    Postprocessing::default()
                }
            }
            Self::Recipe(recipe) => {
                recipe.check_models(models.len())?;
                for model in models {
                    recipe.steps_for(&model.dataset, &model.path)?;
                }
                recipe.steps_for(dataset, &models[0].path)?
            }
        })
    }
}
