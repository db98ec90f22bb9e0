//! Which voxels are brain.

use std::path::{Path, PathBuf};

use glioseg_align::Transform;
use glioseg_formats::nifti;
use glioseg_infer::{CaseImages, PostprocessingChoice, PredictOptions, Predictor, Watch};
use glioseg_volume::components::{Connectivity, components};
use glioseg_volume::crop::fill_holes;
use glioseg_volume::resample::{Interpolation, affine};
use glioseg_volume::{Geometry, LabelMap, Volume};

use super::error::PreprocessError;
use super::space::index_map;
use super::study::Study;

/// Where the brain mask comes from.
#[derive(Debug, Clone, Default)]
pub enum BrainSource {
    /// There is none: images keep their skull, or have lost it already.
    #[default]
    None,
    /// A mask on the grid of a channel or of the space; for one study.
    Mask(PathBuf),
    /// A model of nnU-Net with one channel and one label, such as HD-BET's, and how it is applied.
    Model(PathBuf, Box<PredictOptions>),
}

/// The source, opened.
#[derive(Debug)]
pub(super) enum Brain {
    None,
    Mask(Box<LabelMap>, PathBuf),
    Model(Box<Predictor>, PathBuf),
}

/// What a mask is made from: a study on its way to the space.
pub(super) struct OnTheWay<'a> {
    pub(super) study: &'a Study,
    /// The grid of the space.
    pub(super) grid: &'a Geometry,
    /// From a point of the space to that of each channel.
    pub(super) to_channels: &'a [Transform],
}

impl BrainSource {
    /// The source in the words of the record.
    pub(super) fn words(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Mask(path) | Self::Model(path, _) => path.display().to_string(),
        }
    }

    /// Reads the mask or the model.
    ///
    /// # Errors
    /// [`PreprocessError`] for a mask that cannot be read, a model that cannot be opened or is none of a brain.
    pub(super) fn open(&self) -> Result<Brain, PreprocessError> {
        Ok(match self {
            Self::None => Brain::None,
            Self::Mask(path) => Brain::Mask(Box::new(nifti::read_labels(path)?), path.clone()),
            Self::Model(path, options) => {
                let options =
                    PredictOptions { postprocessing: PostprocessingChoice::Nothing, ..(**options).clone() };
                let predictor = Predictor::open(std::slice::from_ref(path), options)?;
                for model in predictor.models() {
                    let (channels, outputs) =
                        (model.dataset.channel_names.len(), model.dataset.labels.classes().len());
                    if channels != 1 || outputs != 1 {
                        return Err(PreprocessError::BrainModel { path: path.clone(), channels, outputs });
                    }
                }
                Brain::Model(Box::new(predictor), path.clone())
            }
        })
    }
}

impl Brain {
    /// The mask on the grid of the space: one piece without holes. `None` where no mask was asked for.
    ///
    /// # Errors
    /// [`PreprocessError::MaskGrid`], [`PreprocessError::EmptyMask`], and errors of the network.
    pub(super) fn mask(
        &self,
        on: &OnTheWay<'_>,
        watch: &Watch<'_>,
    ) -> Result<Option<Vec<bool>>, PreprocessError> {
        let (mut mask, path) = match self {
            Self::None => return Ok(None),
            Self::Mask(mask, path) => (given(mask, path, on)?, path),
            Self::Model(predictor, path) => (predicted(predictor, on, watch)?, path),
        };
        keep_largest(&mut mask, on.grid.shape);
        fill_holes(&mut mask, on.grid.shape);
        if !mask.contains(&true) {
            return Err(PreprocessError::EmptyMask { source_name: path.display().to_string() });
        }
        Ok(Some(mask))
    }
}

/// A mask of a file: on the grid of the space as it is, on that of a channel carried over.
fn given(mask: &LabelMap, path: &Path, on: &OnTheWay<'_>) -> Result<Vec<bool>, PreprocessError> {
    let inside = |labels: &[u16]| labels.iter().map(|&v| v > 0).collect();
    let same = |grid: &Geometry| {
        let grids = grid.same_grid(&mask.geometry);
        grids.same_lattice() && grids.same_position()
    };
    if same(on.grid) {
        return Ok(inside(&mask.data));
    }
    let centre_first = std::iter::once(on.study.centre).chain(0..on.study.channels.len());
    let of = centre_first.into_iter().find(|&i| same(&on.study.channels[i].volume.geometry));
    let Some(of) = of else { return Err(PreprocessError::MaskGrid { path: path.to_owned() }) };
    // Interpolated, so that thick slices do not leave steps.
    let soft: Vec<f32> = mask.data.iter().map(|&v| if v > 0 { 1.0 } else { 0.0 }).collect();
    let map = index_map(on.grid, &on.to_channels[of], &mask.geometry);
    let carried = affine(&soft, mask.geometry.shape, on.grid.shape, &map, Interpolation::Linear);
    Ok(carried.iter().map(|&v| v >= 0.5).collect())
}

/// What the network finds on the centre channel.
fn predicted(
    predictor: &Predictor,
    on: &OnTheWay<'_>,
    watch: &Watch<'_>,
) -> Result<Vec<bool>, PreprocessError> {
    let centre = &on.study.centre().volume;
    let map = index_map(on.grid, &on.to_channels[on.study.centre], &centre.geometry);
    let values = affine(&centre.data, centre.geometry.shape, on.grid.shape, &map, Interpolation::Linear);
    let image = Volume::new(1, values, on.grid.clone())?;
    let found = predictor.predict(CaseImages::new(&on.study.id, image), watch)?;
    Ok(found.labels.data.iter().map(|&v| v > 0).collect())
}

/// Leaves the largest piece; voxels that share a corner hang together.
fn keep_largest(mask: &mut [bool], shape: [usize; 3]) {
    let found = components(mask, shape, Connectivity::Corners);
    let Some(largest) = (0..found.count()).max_by_key(|&i| (found.sizes[i], std::cmp::Reverse(i))) else {
        return;
    };
    for (inside, &label) in mask.iter_mut().zip(&found.labels) {
        *inside = label as usize == largest + 1;
    }
}
