//! Patch, batch and network of one configuration.

use super::estimate::feature_map_voxels;
use super::{Attempt, Planner, Topology};
use crate::{ArchitectureKind, Normalization, PlanError};
use serde_json::{Map, Value, json};

/// nnU-Net's least batch size.
const MIN_BATCH: f64 = 2.0;
/// Channels of the first stage.
const BASE_FEATURES: usize = 32;

/// What all configurations of a plan share.
#[derive(Debug, Clone)]
pub(super) struct Setting<'a> {
    pub planner: Planner,
    pub gpu_memory_gb: f64,
    pub plans_name: &'a str,
    /// Entries of `labels` in `dataset.json`.
    pub classes: usize,
    pub normalization: Vec<Normalization>,
    pub use_mask_for_norm: Vec<bool>,
}

/// The numbers in which the planners differ.
struct Constants {
    kind: ArchitectureKind,
    /// Feature map voxels that are known to fit `reference_gb`.
    reference: f64,
    reference_gb: f64,
    reference_batch: f64,
    /// The most of a dataset that a batch may hold.
    dataset_share: f64,
    max_features: usize,
    decoder_convs: usize,
}

impl Planner {
    fn constants(self, dim: usize) -> Constants {
        let pick = |two: f64, three: f64| if dim == 2 { two } else { three };
        let (reference, reference_gb, dataset_share) = match self {
            // The winner's planner has rules of its own.
            Planner::Default | Planner::Brats21 => (pick(85e6, 560e6), 8.0, 0.05),
            Planner::ResEnc => (pick(135e6, 680e6), 8.0, 0.05),
            Planner::ResEncM => (pick(135e6, 680e6), 8.0, 1.0),
            Planner::ResEncL => (pick(380e6, 2100e6), 24.0, 1.0),
            Planner::ResEncXl => (pick(560e6, 3600e6), 40.0, 1.0),
        };
        let plain = self == Planner::Default;
        Constants {
            kind: if plain { ArchitectureKind::PlainConvUNet } else { ArchitectureKind::ResidualEncoderUNet },
            reference,
            reference_gb,
            reference_batch: pick(12.0, 2.0),
            dataset_share,
            max_features: if dim == 2 { 512 } else { 320 },
            decoder_convs: if plain { 2 } else { 1 },
        }
    }

    /// Convolutions or residual blocks of an encoder stage.
    fn blocks(self, stage: usize) -> usize {
        match (self, stage) {
            (Planner::Default, _) => 2,
            (_, 0) => 1,
            (_, 1) => 3,
            (_, 2) => 4,
            _ => 6,
        }
    }
}

/// A planned configuration.
pub(super) struct Found {
    pub json: Map<String, Value>,
    pub patch: Vec<usize>,
}

/// Plans one configuration.
///
/// `spacing_mm` and `median_shape` are transposed and have 2 or 3 entries; `median_json` is how the latter is written;
/// `dataset_voxels` counts those of all cases.
///
/// # Source
/// nnU-Net v2, `get_plans_for_configuration` of `ExperimentPlanner` and `ResEncUNetPlanner`.
pub(super) fn plan_configuration(
    setting: &Setting<'_>,
    name: &str,
    spacing_mm: &[f64],
    median_shape: &[f64],
    median_json: &[Value],
    dataset_voxels: f64,
    attempts: &mut Vec<Attempt>,
) -> Result<Found, PlanError> {
    let dim = spacing_mm.len();
    let constants = setting.planner.constants(dim);
    let reference = constants.reference * (setting.gpu_memory_gb / constants.reference_gb);
    // The default planner counts a batch of two of 2-D patches too, the residual ones a whole reference batch.
    let (batch_share, batch_of_two) = match setting.planner {
        Planner::Default => (constants.reference_batch, 2.0),
        _ => (1.0, 1.0),
    };

    let features = |stages: usize| -> Vec<usize> {
        (0..stages)
            .map(|s| {
                BASE_FEATURES
                    .checked_shl(s as u32)
                    .map_or(constants.max_features, |f| f.min(constants.max_features))
            })
            .collect()
    };
    let mut estimate_of = |topology: &Topology| {
        let stages = topology.stages();
        let blocks: Vec<usize> = (0..stages).map(|s| setting.planner.blocks(s)).collect();
        let estimate = feature_map_voxels(
            constants.kind,
            topology,
            &features(stages),
            &blocks,
            constants.decoder_convs,
            setting.classes,
        );
        let patch = topology.patch.clone();
        attempts.push(Attempt { configuration: name.to_owned(), patch, estimate });
        estimate
    };

    let initial = initial_patch(spacing_mm, median_shape);
    let mut topology = Topology::of(spacing_mm, &initial);
    let mut estimate = estimate_of(&topology);
    while estimate as f64 / batch_share * batch_of_two > reference {
        let axis = widest_axis(&topology.patch, median_shape);
        let mut trial: Vec<f64> = topology.patch.iter().map(|&s| s as f64).collect();
        let mut smaller = trial.clone();
        trial[axis] -= topology.divisor[axis] as f64;
        smaller[axis] -= Topology::of(spacing_mm, &trial).divisor[axis] as f64;
        if trial[axis] < 1.0 || smaller[axis] < 1.0 {
            return Err(PlanError::Memory {
                configuration: name.to_owned(),
                gpu_memory_gb: setting.gpu_memory_gb,
                patch: topology.patch,
                estimate,
                reference: reference * batch_share / batch_of_two,
            });
        }
        topology = Topology::of(spacing_mm, &smaller);
        estimate = estimate_of(&topology);
    }

    let patch_voxels: f64 = topology.patch.iter().map(|&s| s as f64).product();
    let batch = (reference / estimate as f64 * constants.reference_batch).round_ties_even();
    let most = (dataset_voxels * constants.dataset_share / patch_voxels).round_ties_even();
    let batch = batch.min(most).max(MIN_BATCH);
    let features = features(topology.stages());
    let json =
        json(setting, name, (spacing_mm, median_json), batch as u64, (&topology, &features), &constants);
    Ok(Found { json, patch: topology.patch })
}

/// A patch of the aspect ratio of the voxels, as large as 256³ or 2048², but not larger than the images.
fn initial_patch(spacing_mm: &[f64], median_shape: &[f64]) -> Vec<f64> {
    let inverse: Vec<f64> = spacing_mm.iter().map(|s| 1.0 / s).collect();
    let product: f64 = inverse.iter().product();
    let scale = if spacing_mm.len() == 2 {
        (f64::from(2048 * 2048) / product).powf(1.0 / 2.0)
    } else {
        (f64::from(256 * 256 * 256) / product).powf(1.0 / 3.0)
    };
    let size = |a: usize| (inverse[a] * scale).round_ties_even().min(median_shape[a]);
    (0..spacing_mm.len()).map(size).collect()
}

/// The axis along which the patch is largest besides the images; the last of equal ones.
fn widest_axis(patch: &[usize], median_shape: &[f64]) -> usize {
    let ratio = |a: usize| patch[a] as f64 / median_shape[a];
    (1..patch.len()).fold(0, |widest, a| if ratio(a) >= ratio(widest) { a } else { widest })
}

fn json(
    setting: &Setting<'_>,
    name: &str,
    (spacing_mm, median_json): (&[f64], &[Value]),
    batch: u64,
    (topology, features): (&Topology, &[usize]),
    constants: &Constants,
) -> Map<String, Value> {
    let dim = spacing_mm.len();
    let stages = topology.stages();
    let residual = constants.kind == ArchitectureKind::ResidualEncoderUNet;
    // The residual planners share the preprocessed data of the default plans.
    let owner =
        if residual && name != "3d_lowres" { Planner::Default.plans_name() } else { setting.plans_name };
    let blocks: Vec<usize> = (0..stages).map(|s| setting.planner.blocks(s)).collect();
    let blocks_key = if residual { "n_blocks_per_stage" } else { "n_conv_per_stage" };
    let function = "resample_data_or_seg_to_shape";
    let kwargs = |is_seg: bool, order: u8| json!({"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": null});
    let schemes: Vec<&str> = setting.normalization.iter().map(|n| n.name()).collect();
    let arch_kwargs = json!({
        "n_stages": stages,
        "features_per_stage": features,
        "conv_op": format!("torch.nn.modules.conv.Conv{dim}d"),
        "kernel_sizes": topology.kernels,
        "strides": topology.strides,
        blocks_key: blocks,
        "n_conv_per_stage_decoder": vec![constants.decoder_convs; stages - 1],
        "conv_bias": true,
        "norm_op": format!("torch.nn.modules.instancenorm.InstanceNorm{dim}d"),
        "norm_op_kwargs": {"eps": 1e-5, "affine": true},
        "dropout_op": null,
        "dropout_op_kwargs": null,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": true},
    });
    let value = json!({
        "data_identifier": format!("{owner}_{name}"),
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch,
        "patch_size": topology.patch,
        "median_image_size_in_voxels": median_json,
        "spacing": spacing_mm,
        "normalization_schemes": schemes,
        "use_mask_for_norm": setting.use_mask_for_norm,
        "resampling_fn_data": function,
        "resampling_fn_seg": function,
        "resampling_fn_data_kwargs": kwargs(false, 3),
        "resampling_fn_seg_kwargs": kwargs(true, 1),
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": kwargs(false, 1),
        "architecture": {
            "network_class_name": format!(
                "dynamic_network_architectures.architectures.unet.{}", constants.kind.name()
            ),
            "arch_kwargs": arch_kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    });
    match value {
        Value::Object(map) => map,
        _ => unreachable!("json!({{…}}) is an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equally_wide_axes_shrinks_first() {
        assert_eq!(widest_axis(&[128, 128, 128], &[140.0, 140.0, 140.0]), 2);
        assert_eq!(widest_axis(&[160, 192, 160], &[140.0, 171.0, 137.0]), 2);
        assert_eq!(widest_axis(&[160, 192, 128], &[140.0, 171.0, 137.0]), 0);
    }

    #[test]
    fn the_first_patch_has_the_aspect_of_the_voxels_and_fits_the_images() {
        assert_eq!(initial_patch(&[1.0; 3], &[140.0, 171.5, 1000.0]), [140.0, 171.5, 256.0]);
        assert_eq!(initial_patch(&[4.0, 1.0, 1.0], &[1e4; 3]), [102.0, 406.0, 406.0]);
        assert_eq!(initial_patch(&[1.0; 2], &[1e4; 2]), [2048.0; 2]);
    }
}
