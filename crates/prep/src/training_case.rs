//! A labelled case on the grid of the plan, ready for training.

use crate::case::{prepare, signed};
use crate::class_locations::{class_locations, label_locations};
use crate::{ClassLocations, Image, PrepError, PreparedCase};
use glioseg_plan::{Configuration, Labels, Plans, Rules};

/// A labelled case on the grid of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingCase {
    /// Image and properties.
    pub case: PreparedCase,
    /// Labels, `[z, y, x]` in the plan's axis order; −1 outside the non-zero region.
    pub seg: Vec<i16>,
    /// Voxels of every class, to sample patches by.
    pub class_locations: Vec<ClassLocations>,
}

/// Preprocesses a labelled case: transpose, crop to non-zero, normalise, resample, find the foreground.
///
/// A labelled voxel outside the non-zero region counts as inside it, also for the normalisation.
///
/// # Shapes
/// `seg` holds the labels of the image, `[z, y, x]`.
///
/// # Errors
/// [`PrepError`] as for [`preprocess_case`](crate::preprocess_case), and if `seg` has another size than the image or a
/// label above 32767.
///
/// # Source
/// nnU-Net v2, `DefaultPreprocessor.run_case_npy` with a segmentation; nnU-Net v1, `GenericPreprocessor`, which looks for
/// labels, not for regions.
pub fn preprocess_training_case(
    image: impl Into<Image>,
    seg: &[u16],
    labels: &Labels,
    plans: &Plans,
    configuration: &Configuration,
) -> Result<TrainingCase, PrepError> {
    let (case, seg) = prepare(image.into(), Some(signed(seg)?), plans, configuration)?;
    let class_locations = match configuration.rules {
        Rules::V2 => class_locations(&seg, labels),
        Rules::V1 => label_locations(&seg, labels),
    };
    Ok(TrainingCase { case, seg, class_locations })
}
