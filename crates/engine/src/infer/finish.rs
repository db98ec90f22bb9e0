//! What becomes of a decided label map before it is written: postprocessing, then another coding of the labels.

use std::path::{Path, PathBuf};

use super::InferError;
use crate::labels::{OutputLabels, Recoding};
use crate::model::Model;
use crate::postprocess::{FILE_NAME, PostprocessError, Postprocessing};
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

/// The steps and the coding of a prediction.
#[derive(Debug, Clone)]
pub(crate) struct Finish {
    /// The steps.
    pub(crate) postprocessing: Postprocessing,
    /// How values are written.
    pub(crate) recoding: Recoding,
}

impl Finish {
    /// Looks for the steps and checks that steps and coding fit the models' labels.
    pub(crate) fn new(
        models: &[Model],
        choice: &PostprocessingChoice,
        labels: OutputLabels,
        save_probabilities: bool,
    ) -> Result<Self, InferError> {
        let dataset = &models[0].dataset;
        let known = dataset.labels.all_labels();
        let read = |path: &Path| -> Result<Postprocessing, PostprocessError> {
            let steps = Postprocessing::read(path)?;
            steps.check(known, path)?;
            Ok(steps)
        };
        let postprocessing = match choice {
            PostprocessingChoice::Nothing => Postprocessing::default(),
            PostprocessingChoice::File(path) => read(path)?,
            PostprocessingChoice::Model => {
                let of_model = |m: &Model| -> Result<Option<Postprocessing>, PostprocessError> {
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
            PostprocessingChoice::Recipe(recipe) => {
                recipe.check_models(models.len())?;
                for model in models {
                    recipe.steps_for(&model.dataset, &model.path)?;
                }
                recipe.steps_for(dataset, &models[0].path)?
            }
        };
        let recoding = labels.recoding(dataset)?;
        if save_probabilities && !recoding.keeps_order(dataset) {
            return Err(InferError::LabelOrder);
        }
        Ok(Self { postprocessing, recoding })
    }
}
