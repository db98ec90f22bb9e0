//! Cascades: the segmentation of the stage before, which a later stage reads as further channels.
//!
//! It comes from a folder of label maps, as nnU-Net's `-prev_stage_predictions` does; where that folder comes from is not asked.

use std::path::{Path, PathBuf};
use std::time::Instant;

use glioseg_formats::nifti::read_labels_noting;
use glioseg_plan::{Dataset, ImageReader, Recoding, other_labels};
use glioseg_volume::{LabelMap, Volume};

use super::{CaseImages, InferError};
use crate::model::Model;
use crate::output::label_path;

/// Endings of label maps that are looked for besides the dataset's own.
const ENDINGS: [&str; 2] = [".nii.gz", ".nii"];

/// The model that predicts what later stages among `models` need: that named by `given`, else the one that lies next to them.
/// `None` if none of them is a later stage of a cascade.
///
/// # Errors
/// [`InferError::NoPreviousStage`] if there is none, [`InferError::SeveralPreviousStages`] if there are two, and
/// [`InferError::NoLaterStage`] if one is given that no model needs.
pub fn previous_model(models: &[Model], given: Option<&Path>) -> Result<Option<PathBuf>, InferError> {
    let mut found: Option<PathBuf> = None;
    for model in models {
        let Some(previous) = &model.configuration.previous_stage else { continue };
        let sibling = || model.previous_stage_folder();
        let folder = given.map(Path::to_owned).or_else(sibling);
        let Some(folder) = folder.clone().filter(|folder| given.is_some() || Model::looks_like(folder))
        else {
            return Err(no_previous(model, previous, folder));
        };
        match &found {
            Some(first) if *first != folder => {
                return Err(InferError::SeveralPreviousStages { first: first.clone(), second: folder });
            }
            _ => found = Some(folder),
        }
    }
    if found.is_none() && given.is_some() {
        return Err(InferError::NoLaterStage);
    }
    Ok(found)
}

fn no_previous(model: &Model, previous: &str, looked_for: Option<PathBuf>) -> InferError {
    InferError::NoPreviousStage {
        path: model.path.clone(),
        configuration: model.configuration.name.clone(),
        previous: previous.to_owned(),
        model: looked_for,
    }
}

/// Checks that there is a folder of segmentations exactly where models need one, and that its labels are theirs.
pub(crate) fn check_folder(models: &[Model], folder: Option<&Path>) -> Result<(), InferError> {
    let mut later = models.iter().filter_map(|m| Some((m, m.configuration.previous_stage.as_ref()?)));
    match (later.next(), folder) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(InferError::NoLaterStage),
        (Some((model, previous)), None) => Err(no_previous(model, previous, None)),
        (Some((model, _)), Some(folder)) => {
            match other_labels(folder, &model.dataset, &Recoding::default()) {
                None => Ok(()),
                Some((found, wanted)) => {
                    Err(InferError::PreviousLabels { path: folder.to_owned(), found, wanted })
                }
            }
        }
    }
}

impl CaseImages {
    /// Reads the segmentation of the stage before, `CASE.nii.gz` of a folder or the name that the dataset's files have.
    ///
    /// With a `reader` that turns images it is turned to the axes of the image.
    ///
    /// # Errors
    /// [`InferError::MissingPrevious`], or [`InferError::Volume`] if it cannot be read.
    pub(crate) fn read_previous(
        mut self,
        folder: &Path,
        model: &Model,
        reader: ImageReader,
    ) -> Result<Self, InferError> {
        let start = Instant::now();
        let own = model.dataset.file_ending.as_str();
        let mut paths = [own].into_iter().chain(ENDINGS).map(|ending| label_path(folder, &self.id, ending));
        let Some(path) = paths.clone().find(|path| path.symlink_metadata().is_ok()) else {
            return Err(InferError::MissingPrevious {
                previous: model.configuration.previous_stage.clone().unwrap_or_default(),
                path: paths.next().unwrap_or_default(),
            });
        };
        let mut map = read_labels_noting(&path, &mut self.warnings)?;
        if let Some(rule) = reader.turns() {
            map = map.along(&self.image.geometry, rule);
        }
        check(&map, &self.image, &model.dataset)
            .map_err(|reason| InferError::Previous { path: path.clone(), reason })?;
        let grids = self.image.geometry.same_grid(&map.geometry);
        if !grids.same_position() {
            self.warnings.push(format!(
                "the {} of {} differs from that of the image; voxels are taken to correspond",
                if grids.origin { "direction" } else { "origin" },
                path.display()
            ));
        }
        self.seconds += start.elapsed().as_secs_f64();
        Ok(self.with_previous(map))
    }
}

/// Whether a segmentation of the stage before can be that of this image; if not, why.
pub(crate) fn check(map: &LabelMap, image: &Volume, dataset: &Dataset) -> Result<(), String> {
    if map.shape() != image.shape() {
        return Err(format!("has shape {:?}, but the image {:?} (z, y, x)", map.shape(), image.shape()));
    }
    let declared = dataset.labels.declared();
    let other: Vec<String> = map
        .counts()
        .into_iter()
        .filter(|(label, _)| !declared.contains(label))
        .map(|(label, voxels)| format!("{label} ({voxels} voxels)"))
        .collect();
    if other.is_empty() {
        return Ok(());
    }
    let declared: Vec<String> = declared.iter().map(ToString::to_string).collect();
    Err(format!(
        "has labels that the model does not know: {}; it knows {}",
        other.join(", "),
        declared.join(", ")
    ))
}
