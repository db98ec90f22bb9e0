//! One case from the grid of its image to the grid of the plan, and the way back.

use crate::normalize::{normalize, normalize_v1};
use crate::torch_labels::resample_torch_labels;
use crate::trail::{Trail, Undo};
use crate::{PrepError, resample_options};
use glioseg_plan::{Configuration, Labels, Normalization, Plans, Rules, free_memory};
use glioseg_volume::crop::{self, Box3};
use glioseg_volume::resample::{
    Flavour, LabelRule, ResampleOptions, resample, resample_labels, resampled_shape,
};
use glioseg_volume::{Geometry, Turn, Volume};

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
    /// The image's grid, by which plans that ask for it turn the axes to R, A and S. Without it nothing is turned.
    pub grid: Option<Geometry>,
}

impl From<Volume> for Image {
    fn from(volume: Volume) -> Image {
        Image {
            channels: volume.channels,
            shape: volume.geometry.shape,
            spacing_mm: volume.geometry.spacing,
            data: volume.data,
            grid: Some(volume.geometry),
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

/// What preprocessing did to a case. Shapes, box and spacings are in the plan's axis order: turned and transposed.
///
/// # Source
/// nnU-Net v2, the properties that `DefaultPreprocessor.run_case` stores.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseProperties {
    /// How the image was turned first, by plans whose reader does so.
    pub turn: Turn,
    /// For every axis of the image, z, y, x, the plan's axis it went to.
    pub transpose_backward: [usize; 3],
    /// Voxels of the whole image.
    pub shape_before_cropping: [usize; 3],
    /// The non-zero box; all of the image where it is zero everywhere.
    pub bbox: Box3,
    /// Voxels of the box, before resampling.
    pub shape_after_cropping: [usize; 3],
    /// Spacing of the image in mm.
    pub spacing_transposed: [f64; 3],
    /// Spacing of the plan in mm; a 2d plan keeps the image's spacing between slices.
    pub target_spacing: [f64; 3],
}

impl CaseProperties {
    /// How a prediction is resampled to [`CaseProperties::shape_after_cropping`]; `None`: it is left as it is.
    ///
    /// # Source
    /// nnU-Net v2, `convert_predicted_logits_to_segmentation_with_correct_shape`; v1, `save_segmentation_nifti_from_softmax`.
    pub fn probabilities_resampling(&self, configuration: &Configuration) -> Option<ResampleOptions> {
        if configuration.rules == Rules::V1 {
            return self.v1_probabilities_resampling(configuration);
        }
        resample_options(
            &configuration.resampling_probabilities,
            self.target_spacing,
            self.spacing_transposed,
        )
    }

    /// Version 1 asks the image's spacing first; then it takes the plan's, whose axes are transposed, for the image's.
    fn v1_probabilities_resampling(&self, configuration: &Configuration) -> Option<ResampleOptions> {
        let resampling = &configuration.resampling_probabilities;
        let alone = |spacing| resample_options(resampling, spacing, spacing);
        let by_image = alone(self.spacing_transposed)?;
        let anisotropic = |s: [f64; 3]| {
            s.iter().copied().fold(0.0, f64::max) / s.iter().copied().fold(f64::INFINITY, f64::min)
                > resampling.anisotropy_threshold
        };
        if anisotropic(self.spacing_transposed) {
            return Some(by_image);
        }
        let mut by_plan = alone(self.target_spacing)?;
        by_plan.separate_axis = by_plan.separate_axis.map(|axis| self.transpose_backward[axis]);
        Some(by_plan)
    }

    /// Voxels that the same image has when it is prepared for another configuration of the same plans.
    ///
    /// # Errors
    /// [`PrepError::TooLarge`].
    pub fn shape_for(&self, configuration: &Configuration) -> Result<[usize; 3], PrepError> {
        let target_spacing = target_spacing(configuration, self.spacing_transposed);
        let properties = Self { target_spacing, ..self.clone() };
        match resample_options(&configuration.resampling_data, self.spacing_transposed, target_spacing) {
            None => Ok(self.shape_after_cropping),
            Some(_) => checked_shape(&properties),
        }
    }

    /// The way from logits of this configuration to another grid of `shape` voxels that covers the same box.
    ///
    /// # Source
    /// nnU-Net v2, `resample_and_save`, which says that both grids have this configuration's spacing.
    pub fn trail_to(&self, shape: [usize; 3], configuration: &Configuration) -> Trail {
        let spacing = self.target_spacing;
        let options = resample_options(&configuration.resampling_probabilities, spacing, spacing);
        let mut trail = Trail::default();
        trail.push(Undo::Resample { shape, options });
        trail
    }

    /// The way back to the grid of the image.
    pub fn trail(&self, configuration: &Configuration) -> Trail {
        let mut trail = Trail::default();
        trail.push(Undo::Turn(Turn::order(self.transpose_backward).then(&self.turn.inverse())));
        trail.push(Undo::Crop { shape: self.shape_before_cropping, bbox: self.bbox });
        let options = self.probabilities_resampling(configuration);
        trail.push(Undo::Resample { shape: self.shape_after_cropping, options });
        trail
    }
}

/// Preprocesses a case for prediction: turn to RAS where the plans' reader does, transpose, crop to non-zero, normalise, resample.
///
/// The image is consumed. Statistics and mask are those of the cropped image before resampling. An image that is zero
/// everywhere is not cropped, and values that are all the same become 0.
///
/// # Errors
/// [`PrepError`] if image and configuration do not fit, or the resampled case would be absurdly large; nothing large is
/// allocated then.
///
/// Under version 1's rules it is resampled first and normalised then, and everything outside the mask becomes 0. (That
/// version 1 crops before it transposes makes no difference.)
///
/// # Source
/// nnU-Net v2, `DefaultPreprocessor.run_case_npy` without a segmentation; nnU-Net v1, `GenericPreprocessor`.
pub fn preprocess_case(
    image: impl Into<Image>,
    plans: &Plans,
    configuration: &Configuration,
) -> Result<PreparedCase, PrepError> {
    Ok(prepare(image.into(), None, plans, configuration)?.0)
}

/// Preprocesses a case for a later stage of a cascade: as [`preprocess_case`], with the segmentation of the stage before as further
/// channels, one per label, which are 1 where it has that label and 0 elsewhere.
///
/// As in nnU-Net, a voxel that the stage before labelled counts as inside the non-zero region, also for the normalisation.
///
/// # Shapes
/// `previous` holds the labels of the image, `[z, y, x]`.
///
/// # Errors
/// [`PrepError`] as [`preprocess_case`], and if `previous` has another size than the image or a label above 32767.
///
/// # Source
/// nnU-Net v2, `preprocess_fromfiles_save_to_queue` with a segmentation of the previous stage.
pub fn preprocess_later_stage(
    image: impl Into<Image>,
    previous: &[u16],
    labels: &Labels,
    plans: &Plans,
    configuration: &Configuration,
) -> Result<PreparedCase, PrepError> {
    let (mut case, previous) = prepare(image.into(), Some(signed(previous)?), plans, configuration)?;
    append_one_hot(&mut case, &previous, labels);
    Ok(case)
}

/// Adds a segmentation on the case's grid as channels, one per foreground label.
///
/// # Shapes
/// `previous` holds `[z, y, x]` of the case's shape.
///
/// # Panics
/// If `previous` is of another size.
///
/// # Source
/// nnU-Net v2, `convert_labelmap_to_one_hot` for `LabelManager.foreground_labels`.
pub fn append_one_hot(case: &mut PreparedCase, previous: &[i16], labels: &Labels) {
    assert_eq!(previous.len(), case.shape.iter().product::<usize>(), "a segmentation on another grid");
    let values = labels.foreground();
    case.data.reserve_exact(values.len() * previous.len());
    for &(_, value) in &values {
        case.data.extend(previous.iter().map(|&v| f32::from(u8::from(i32::from(v) == i32::from(value)))));
    }
    case.channels += values.len();
}

/// Labels as they are resampled, with room for −1.
pub(crate) fn signed(labels: &[u16]) -> Result<Vec<i16>, PrepError> {
    labels.iter().map(|&v| i16::try_from(v).map_err(|_| PrepError::LabelTooLarge { label: v })).collect()
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
    let Image { data, channels, shape, spacing_mm, grid } = image;
    check(data.len(), channels, shape, spacing_mm, configuration)?;
    if let Some(labels) = &labels
        && labels.len() * channels != data.len()
    {
        return Err(PrepError::Length { len: labels.len(), channels: 1, shape });
    }

    let (turn, spacing_mm) = grid.map_or((Turn::NONE, spacing_mm), |grid| plans.image_reader().turn(&grid));
    // From the order of the file to that of the plan, in one step.
    let whole = turn.then(&Turn::order(plans.transpose_forward()));
    let data = whole.apply(data, shape);
    let shape_before_cropping = whole.along(shape);
    let spacing_transposed = plans.transpose_forward().map(|a| spacing_mm[a]);

    let mut mask = crop::nonzero_mask(&data, shape_before_cropping);
    crop::fill_holes(&mut mask, shape_before_cropping);
    let bbox = crop::bounding_box(&mask, shape_before_cropping)
        .unwrap_or_else(|| shape_before_cropping.map(|size| [0, size]));
    let shape_after_cropping = crop::box_shape(bbox);
    let properties = CaseProperties {
        turn,
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

    if new_shape != shape_after_cropping {
        check_memory(channels, new_shape, free_memory())?;
    }
    let mut mask = (labels.is_some() || (0..channels).any(|c| masked(configuration, c)))
        .then(|| crop::crop(mask, shape_before_cropping, bbox));
    let labels = labels.map(|labels| {
        let labels = whole.apply(labels, shape);
        crop::crop(labels, shape_before_cropping, bbox)
    });
    let labels = labels.zip(mask.as_mut()).map(|(labels, mask)| mark_outside(labels, mask));
    let data = crop::crop(data, shape_before_cropping, bbox);
    let cropped = Cropped { data, labels, mask, shape: shape_after_cropping };
    let resampling = (options, new_shape);
    let (data, labels) = match configuration.rules {
        Rules::V2 => cropped.normalize_then_resample(resampling, &properties, plans, configuration)?,
        Rules::V1 => cropped.resample_then_normalize(resampling, &properties, plans, configuration)?,
    };
    Ok((PreparedCase { data, channels, shape: new_shape, properties }, labels))
}

/// A case inside the non-zero box.
struct Cropped {
    data: Vec<f32>,
    labels: Option<Vec<i16>>,
    /// Where a case counts; only where something asks for it.
    mask: Option<Vec<bool>>,
    shape: [usize; 3],
}

/// Whether statistics of a channel are taken inside the mask.
fn masked(configuration: &Configuration, c: usize) -> bool {
    let scheme = configuration.normalization[c];
    let maskable = match configuration.rules {
        Rules::V2 => scheme == Normalization::ZScore,
        Rules::V1 => matches!(scheme, Normalization::ZScore | Normalization::Ct),
    };
    maskable && configuration.use_mask_for_norm[c]
}

impl Cropped {
    /// Version 2's order.
    fn normalize_then_resample(
        mut self,
        (options, new_shape): (Option<ResampleOptions>, [usize; 3]),
        properties: &CaseProperties,
        plans: &Plans,
        configuration: &Configuration,
    ) -> Result<(Vec<f32>, Vec<i16>), PrepError> {
        for (c, values) in self.data.chunks_exact_mut(self.shape.iter().product()).enumerate() {
            let mask = self.mask.as_deref().filter(|_| masked(configuration, c));
            normalize(values, configuration.normalization[c], mask, plans.foreground_intensities(), c)?;
        }
        self.mask = None;
        let data = resample_channels(self.data, self.shape, options, new_shape)?;
        let labels = match self.labels {
            None => Vec::new(),
            Some(labels) => resample_to_plan(labels, properties, configuration, new_shape)?,
        };
        Ok((data, labels))
    }

    /// Version 1's order; its mask is where the resampled labels, or the resampled mask, are not −1.
    fn resample_then_normalize(
        self,
        (options, new_shape): (Option<ResampleOptions>, [usize; 3]),
        properties: &CaseProperties,
        plans: &Plans,
        configuration: &Configuration,
    ) -> Result<(Vec<f32>, Vec<i16>), PrepError> {
        let mut data = resample_channels(self.data, self.shape, options, new_shape)?;
        let given = self.labels.is_some();
        let labels = self.labels.or_else(|| Some(self.mask?.iter().map(|&m| i16::from(m) - 1).collect()));
        let labels = match labels {
            None => Vec::new(),
            Some(labels) => resample_to_plan(labels, properties, configuration, new_shape)?,
        };
        let inside: Vec<bool> = labels.iter().map(|&l| l >= 0).collect();
        for (c, values) in data.chunks_exact_mut(new_shape.iter().product()).enumerate() {
            let mask = masked(configuration, c).then_some(inside.as_slice());
            normalize_v1(values, configuration.normalization[c], mask, plans.foreground_intensities(), c)?;
        }
        Ok((data, if given { labels } else { Vec::new() }))
    }
}

fn resample_channels(
    data: Vec<f32>,
    shape: [usize; 3],
    options: Option<ResampleOptions>,
    new_shape: [usize; 3],
) -> Result<Vec<f32>, PrepError> {
    let Some(options) = options.filter(|_| new_shape != shape) else { return Ok(data) };
    let voxels: usize = shape.iter().product();
    let channels = data.len() / voxels;
    let mut resampled: Vec<f32> = Vec::new();
    if resampled.try_reserve_exact(channels * new_shape.iter().product::<usize>()).is_err() {
        let (needed, free) = (case_bytes(channels, new_shape), free_memory().unwrap_or(0));
        return Err(PrepError::Memory { new_shape, needed, free });
    }
    for values in data.chunks_exact(voxels) {
        resampled.extend_from_slice(&resample(values, shape, new_shape, &options));
    }
    Ok(resampled)
}

/// Bytes that resampling takes at most: all channels, and of one what two passes along axes hold.
fn case_bytes(channels: usize, new_shape: [usize; 3]) -> u64 {
    (channels as u64 + 2) * 4 * new_shape.iter().map(|&n| n as u64).product::<u64>()
}

/// Refuses a case that does not fit the free memory, before anything large is allocated.
fn check_memory(channels: usize, new_shape: [usize; 3], free: Option<u64>) -> Result<(), PrepError> {
    let needed = case_bytes(channels, new_shape);
    match free {
        Some(free) if needed > free => Err(PrepError::Memory { new_shape, needed, free }),
        _ => Ok(()),
    }
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
        Some(options) => {
            let rule = match configuration.rules {
                Rules::V2 => LabelRule::Best,
                Rules::V1 => LabelRule::Half,
            };
            Ok(resample_labels(&labels, shape, new_shape, &options, rule))
        }
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
