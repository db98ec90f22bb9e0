//! One case from the grid of its image to the grid of the plan, and the way back.

use crate::normalize::normalize;
use crate::torch_labels::resample_torch_labels;
use crate::{PrepError, resample_options};
use glioseg_plan::{Configuration, Normalization, Plans};
use glioseg_volume::Volume;
use glioseg_volume::crop::{self, BoundingBox};
use glioseg_volume::resample::{
    Flavour, LabelRule, ResampleOptions, resample, resample_labels, resampled_shape,
};

/// The most voxels a resampled channel may have: 2 GiB, an edge of 812.
const MAX_VOXELS: usize = 1 << 29;

/// An image as read: channels on one grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Values, `[c, z, y, x]`.
    pub data: Vec<f32>,
    /// Number of channels.
    pub channels: usize,
    /// Voxels along z, y, x.
    pub shape: [usize; 3],
    /// Spacing in mm along z, y, x.
    pub spacing_mm: [f64; 3],
}

impl From<Volume> for Image {
    fn from(volume: Volume) -> Image {
        Image {
            channels: volume.channels,
            shape: volume.geometry.shape,
            spacing_mm: volume.geometry.spacing,
            data: volume.data,
        }
    }
}

/// A case on the grid of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedCase {
    /// Values, `[c, z, y, x]` in the plan's axis order.
    pub data: Vec<f32>,
    /// Number of channels.
    pub channels: usize,
    /// Voxels along the plan's axes.
    pub shape: [usize; 3],
    /// What was done, for the way back.
    pub properties: CaseProperties,
}

/// What preprocessing did to a case. Shapes, box and spacings are in the plan's (transposed) axis order.
///
/// # Source
/// nnU-Net v2, the properties that `DefaultPreprocessor.run_case` stores.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseProperties {
    /// For every axis of the image, z, y, x, the plan's axis it went to.
    pub transpose_backward: [usize; 3],
    /// Voxels of the whole image.
    pub shape_before_cropping: [usize; 3],
    /// The non-zero box; all of the image where it is zero everywhere.
    pub bbox: BoundingBox,
    /// Voxels of the box, before resampling.
    pub shape_after_cropping: [usize; 3],
    /// Spacing of the image in mm.
    pub spacing_transposed: [f64; 3],
    /// Spacing of the plan in mm; a 2d plan keeps the image's spacing between slices.
    pub target_spacing: [f64; 3],
}

impl CaseProperties {
    /// How a prediction is resampled to [`CaseProperties::shape_after_cropping`]; `None`: it is left as it is.
    pub fn probabilities_resampling(&self, configuration: &Configuration) -> Option<ResampleOptions> {
        resample_options(
            &configuration.resampling_probabilities,
            self.target_spacing,
            self.spacing_transposed,
        )
    }

    /// Puts a predicted box back into the whole image, `outside` around it, and turns the axes back to z, y, x.
    ///
    /// For label maps and for a channel of probabilities.
    ///
    /// # Shapes
    /// `cropped` holds [`CaseProperties::shape_after_cropping`] voxels, the result those of the image.
    ///
    /// # Panics
    /// If `cropped` has another size.
    ///
    /// # Source
    /// nnU-Net v2, `convert_predicted_logits_to_segmentation_with_correct_shape`.
    pub fn restore<T: Copy + Send + Sync>(&self, cropped: &[T], outside: T) -> Vec<T> {
        let mut whole = vec![outside; self.shape_before_cropping.iter().product()];
        crop::insert(cropped, self.bbox, &mut whole, self.shape_before_cropping);
        crop::transpose(whole, self.shape_before_cropping, self.transpose_backward)
    }
}

/// Preprocesses a case for prediction: transpose, crop to non-zero, normalise, resample.
///
/// The image is consumed. Statistics and mask are those of the cropped image before resampling. An image that is zero
/// everywhere is not cropped, and values that are all the same become 0.
///
/// # Errors
/// [`PrepError`] if image and configuration do not fit, or the resampled case would be absurdly large; nothing large is
/// allocated then.
///
/// # Source
/// nnU-Net v2, `DefaultPreprocessor.run_case_npy` without a segmentation.
pub fn preprocess_case(
    image: impl Into<Image>,
    plans: &Plans,
    configuration: &Configuration,
) -> Result<PreparedCase, PrepError> {
    Ok(prepare(image.into(), None, plans, configuration)?.0)
}

/// Preprocesses an image, and the label map where there is one, to the grid of the plan.
///
/// `labels` are `[z, y, x]` of the image; those that come back are of the prepared case, with −1 outside the non-zero
/// region. Without labels none come back.
pub(crate) fn prepare(
    image: Image,
    labels: Option<Vec<i16>>,
    plans: &Plans,
    configuration: &Configuration,
) -> Result<(PreparedCase, Vec<i16>), PrepError> {
    let Image { data, channels, shape, spacing_mm } = image;
    check(data.len(), channels, shape, spacing_mm, configuration)?;
    if let Some(labels) = &labels
        && labels.len() * channels != data.len()
    {
        return Err(PrepError::Length { len: labels.len(), channels: 1, shape });
    }

    let forward = plans.transpose_forward();
    let data = crop::transpose(data, shape, forward);
    let shape_before_cropping = forward.map(|a| shape[a]);
    let spacing_transposed = forward.map(|a| spacing_mm[a]);

    let mut mask = crop::nonzero_mask(&data, shape_before_cropping);
    crop::fill_holes(&mut mask, shape_before_cropping);
    let bbox = crop::bounding_box(&mask, shape_before_cropping)
        .unwrap_or_else(|| shape_before_cropping.map(|size| [0, size]));
    let shape_after_cropping = crop::box_shape(bbox);
    let properties = CaseProperties {
        transpose_backward: plans.transpose_backward(),
        shape_before_cropping,
        bbox,
        shape_after_cropping,
        spacing_transposed,
        target_spacing: target_spacing(configuration, spacing_transposed),
    };
    let options =
        resample_options(&configuration.resampling_data, spacing_transposed, properties.target_spacing);
    let new_shape = match options {
        None => shape_after_cropping,
        Some(_) => checked_shape(&properties)?,
    };

    let masked = |c: usize| {
        configuration.normalization[c] == Normalization::ZScore && configuration.use_mask_for_norm[c]
    };
    let mut mask = (labels.is_some() || (0..channels).any(masked))
        .then(|| crop::crop(mask, shape_before_cropping, bbox));
    let labels = labels.map(|labels| {
        let labels = crop::transpose(labels, shape, forward);
        crop::crop(labels, shape_before_cropping, bbox)
    });
    let labels = labels.zip(mask.as_mut()).map(|(labels, mask)| mark_outside(labels, mask));
    let mut data = crop::crop(data, shape_before_cropping, bbox);
    for (c, values) in data.chunks_exact_mut(shape_after_cropping.iter().product()).enumerate() {
        let mask = mask.as_deref().filter(|_| masked(c));
        normalize(values, configuration.normalization[c], mask, plans.foreground_intensities(), c)?;
    }
    drop(mask);

    if let Some(options) = options.filter(|_| new_shape != shape_after_cropping) {
        let mut resampled = Vec::with_capacity(channels * new_shape.iter().product::<usize>());
        for values in data.chunks_exact(shape_after_cropping.iter().product()) {
            resampled.extend_from_slice(&resample(values, shape_after_cropping, new_shape, &options));
        }
        data = resampled;
    }
    let labels = match labels {
        None => Vec::new(),
        Some(labels) => resample_to_plan(labels, &properties, configuration, new_shape)?,
    };
    Ok((PreparedCase { data, channels, shape: new_shape, properties }, labels))
}

/// Background outside the mask becomes −1; labelled voxels outside join the mask.
///
/// # Source
/// nnU-Net v2, `crop_to_nonzero`; the mask of `_normalize` is where its result is not −1.
fn mark_outside(mut labels: Vec<i16>, mask: &mut [bool]) -> Vec<i16> {
    for (label, inside) in labels.iter_mut().zip(mask) {
        if *label == 0 && !*inside {
            *label = -1;
        }
        *inside = *label >= 0;
    }
    labels
}

fn resample_to_plan(
    labels: Vec<i16>,
    properties: &CaseProperties,
    configuration: &Configuration,
    new_shape: [usize; 3],
) -> Result<Vec<i16>, PrepError> {
    let shape = properties.shape_after_cropping;
    if shape == new_shape {
        return Ok(labels);
    }
    let resampling = &configuration.resampling_seg;
    let options = resample_options(resampling, properties.spacing_transposed, properties.target_spacing);
    match options {
        None => Err(PrepError::LabelResampling { function: resampling.function.name() }),
        Some(options) if options.flavour == Flavour::Torch => {
            Ok(resample_torch_labels(&labels, shape, new_shape, resampling, &options))
        }
        Some(options) => Ok(resample_labels(&labels, shape, new_shape, &options, LabelRule::Best)),
    }
}

fn check(
    len: usize,
    channels: usize,
    shape: [usize; 3],
    spacing_mm: [f64; 3],
    configuration: &Configuration,
) -> Result<(), PrepError> {
    let expected = configuration.normalization.len();
    if channels != expected {
        return Err(PrepError::Channels {
            found: channels,
            expected,
            configuration: configuration.name.clone(),
        });
    }
    let wanted = shape.iter().try_fold(channels, |n, &size| n.checked_mul(size));
    if wanted != Some(len) || len == 0 {
        return Err(PrepError::Length { len, channels, shape });
    }
    if spacing_mm.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return Err(PrepError::Spacing { spacing_mm });
    }
    Ok(())
}

/// The plan's spacing; the spacing between slices of a 2d plan is the image's.
fn target_spacing(configuration: &Configuration, spacing_transposed: [f64; 3]) -> [f64; 3] {
    match configuration.spacing[..] {
        [y, x] => [spacing_transposed[0], y, x],
        [z, y, x] => [z, y, x],
        _ => unreachable!("a configuration has 2 or 3 spacings, not {:?}", configuration.spacing),
    }
}

fn checked_shape(properties: &CaseProperties) -> Result<[usize; 3], PrepError> {
    let (shape, spacing_mm) = (properties.shape_after_cropping, properties.spacing_transposed);
    let target_mm = properties.target_spacing;
    let new_shape = resampled_shape(shape, spacing_mm, target_mm);
    match new_shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)) {
        Some(voxels) if voxels <= MAX_VOXELS => Ok(new_shape),
        _ => Err(PrepError::TooLarge { shape, spacing_mm, target_mm, new_shape, limit: MAX_VOXELS }),
    }
}
