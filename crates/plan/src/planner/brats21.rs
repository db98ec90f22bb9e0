//! The planner of nnU-Net v1 (its version "2.1"), which the BraTS 2021 winner used, with the winner's baseline network.
//!
//! It differs from version 2's in every number: the topology pools axes of the finest spacing only, memory is counted without stem and with
//! the input's channels, and the patch starts from a cube of 512 voxels. The plans come out in version 2's form, with the key `rules`.

use super::target::Target;
use super::{Attempt, PlanOptions, Planned, plans_json};
use crate::fingerprint::median;
use crate::v1::V1Model;
use crate::{Fingerprint, PlanError, RawDataset};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The winner's baseline, whose network the plans describe; presets change it.
const TRAINER: &str = "nnUNetTrainerV2BraTSRegions_DA4_BN_BD";
/// Feature map voxels of version 1's largest 3D network, for 30 and for 32 features; of 50 slices.
const REFERENCE_3D: f64 = 520_000_000.0 * 32.0 / 30.0;
const REFERENCE_2D: f64 = 19_739_648.0 * 50.0 / 2.0;
/// The least size along an axis that is pooled is twice this.
const MIN_EDGE: usize = 4;
/// The most of the dataset's voxels that a batch may hold.
const DATASET_SHARE: f64 = 0.05;
/// As many patches of `3d_fullres` must cover a case, or there is a `3d_lowres`.
const PATCHES_PER_CASE: f64 = 4.0;

/// Strides and kernels for a patch, and the patch padded so that it can be pooled.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Topology {
    /// Without a first entry for full resolution.
    pools: Vec<Vec<usize>>,
    kernels: Vec<Vec<usize>>,
    patch: Vec<usize>,
    divisor: Vec<usize>,
}

impl Topology {
    /// # Source
    /// nnU-Net v1, `get_pool_and_conv_props`.
    fn of(spacing_mm: &[f64], size: &[usize]) -> Topology {
        let dim = spacing_mm.len();
        let (mut spacing, mut now) = (spacing_mm.to_vec(), size.to_vec());
        let mut poolings = vec![0u32; dim];
        let (mut pools, mut kernels) = (Vec::new(), Vec::new());
        loop {
            let finest = spacing.iter().copied().fold(f64::INFINITY, f64::min);
            let pooled: Vec<usize> =
                (0..dim).filter(|&a| spacing[a] / finest < 2.0 && now[a] >= 2 * MIN_EDGE).collect();
            if pooled.is_empty() {
                break;
            }
            // The largest set of axes of like spacing, the first of equal ones.
            let like = |a: usize| -> Vec<usize> {
                (0..dim).filter(|&b| spacing[b] / spacing[a] < 2.0 && spacing[a] / spacing[b] < 2.0).collect()
            };
            let wide =
                (1..dim).fold(like(0), |best, a| if like(a).len() > best.len() { like(a) } else { best });
            kernels.push((0..dim).map(|a| if wide.contains(&a) { 3 } else { 1 }).collect());
            pools.push((0..dim).map(|a| if pooled.contains(&a) { 2 } else { 1 }).collect());
            for a in pooled {
                poolings[a] += 1;
                spacing[a] *= 2.0;
                now[a] = now[a].div_ceil(2);
            }
        }
        kernels.push(vec![3; dim]);
        let divisor: Vec<usize> = poolings.iter().map(|&p| 1usize << p).collect();
        let patch = size.iter().zip(&divisor).map(|(s, &d)| s.next_multiple_of(d)).collect();
        Topology { pools, kernels, patch, divisor }
    }

    /// Feature map voxels of the network for one patch.
    ///
    /// # Source
    /// nnU-Net v1, `Generic_UNet.compute_approx_vram_consumption` without deep supervision.
    fn estimate(&self, base: u64, most: u64, channels: u64, classes: u64) -> u64 {
        const CONVS: u64 = 2;
        let mut size: Vec<u64> = self.patch.iter().map(|&s| s as u64).collect();
        let voxels = |size: &[u64]| size.iter().product::<u64>();
        let mut sum = voxels(&size) * ((CONVS * 2 + 1) * base + channels + classes);
        let mut features = base;
        for (i, pool) in self.pools.iter().enumerate() {
            size.iter_mut().zip(pool).for_each(|(s, &p)| *s /= p as u64);
            features = (features * 2).min(most);
            let blocks = if i + 1 < self.pools.len() { CONVS * 2 + 1 } else { CONVS };
            sum += blocks * voxels(&size) * features;
        }
        sum
    }
}

/// What the stages of a plan share.
struct Data {
    channels: u64,
    /// Labels with background.
    classes: u64,
    cases: f64,
}

/// A stage as version 1's plans describe it.
struct Stage {
    json: Value,
    patch_voxels: f64,
    /// Voxels of the median case.
    case_voxels: f64,
}

/// Makes the patch of `topology` smaller until it fits; `estimate` counts its feature map voxels.
fn shrink(
    name: &str,
    spacing_mm: &[f64],
    median_shape: &[f64],
    topology: &mut Topology,
    reference: f64,
    mut estimate: impl FnMut(&Topology, bool) -> u64,
) -> Result<u64, PlanError> {
    let mut here = estimate(topology, true);
    while here as f64 > reference {
        let ratio = |a: usize| topology.patch[a] as f64 / median_shape[a];
        let axis =
            (1..spacing_mm.len()).fold(0, |widest, a| if ratio(a) >= ratio(widest) { a } else { widest });
        let less = |from: usize, by: usize| from.checked_sub(by).filter(|&n| n > 0);
        let mut trial = topology.patch.clone();
        let smaller = less(trial[axis], topology.divisor[axis]).and_then(|n| {
            trial[axis] = n;
            less(topology.patch[axis], Topology::of(spacing_mm, &trial).divisor[axis])
        });
        let Some(smaller) = smaller else {
            return Err(PlanError::Memory {
                configuration: name.to_owned(),
                gpu_memory_gb: 8.0,
                patch: topology.patch.clone(),
                estimate: here,
                reference,
            });
        };
        let mut patch = topology.patch.clone();
        patch[axis] = smaller;
        *topology = Topology::of(spacing_mm, &patch);
        here = estimate(topology, false);
    }
    Ok(here)
}

impl Data {
    /// # Source
    /// nnU-Net v1, `ExperimentPlanner3D_v21.get_properties_for_stage`.
    fn stage_3d(
        &self,
        name: &str,
        spacing_mm: [f64; 3],
        target: &Target,
        shape: [f64; 3],
        attempts: &mut Vec<Attempt>,
    ) -> Result<Stage, PlanError> {
        let whole =
            [0, 1, 2].map(|a| (target.spacing_mm[a] / spacing_mm[a] * shape[a]).round_ties_even().max(1.0));
        let case_voxels: f64 = whole.iter().product();
        let inverse = spacing_mm.map(|s| 1.0 / s);
        let mean = inverse.iter().sum::<f64>() / 3.0;
        let scaled = inverse.map(|v| v / mean);
        let smallest = scaled.iter().copied().fold(f64::INFINITY, f64::min);
        let patch = [0, 1, 2]
            .map(|a| ((scaled[a] * (1.0 / smallest * 512.0)).round_ties_even()).min(whole[a]) as usize);
        let mut topology = Topology::of(&spacing_mm, &patch);
        let here = shrink(name, &spacing_mm, &whole, &mut topology, REFERENCE_3D, |topology, _| {
            let estimate = topology.estimate(32, 320, self.channels, self.classes);
            attempts.push(Attempt {
                configuration: name.to_owned(),
                patch: topology.patch.clone(),
                estimate,
            });
            estimate
        })?;
        let patch_voxels: f64 = topology.patch.iter().map(|&s| s as f64).product();
        let batch = ((REFERENCE_3D / here as f64).max(1.0) * 2.0).floor();
        let most = (DATASET_SHARE * case_voxels * self.cases / patch_voxels).round_ties_even().max(2.0);
        let json = stage_json(batch.min(most), &spacing_mm, &whole, &topology);
        Ok(Stage { json, patch_voxels, case_voxels })
    }

    /// # Source
    /// nnU-Net v1, `ExperimentPlanner2D_v21.get_properties_for_stage`.
    fn stage_2d(
        &self,
        target: &Target,
        shape: [f64; 3],
        attempts: &mut Vec<Attempt>,
    ) -> Result<Stage, PlanError> {
        let whole = shape.map(|s| s.round_ties_even().max(1.0));
        let case_voxels: f64 = whole.iter().product();
        let spacing_mm = &target.spacing_mm[1..];
        let mut topology = Topology::of(spacing_mm, &[whole[1] as usize, whole[2] as usize]);
        let here = shrink("2d", spacing_mm, &whole[1..], &mut topology, REFERENCE_2D, |topology, first| {
            // The first estimate is for 30 features, those after it for 32.
            let estimate = topology.estimate(if first { 30 } else { 32 }, 512, self.channels, self.classes);
            attempts.push(Attempt {
                configuration: "2d".to_owned(),
                patch: topology.patch.clone(),
                estimate,
            });
            estimate
        })?;
        let patch_voxels: f64 = topology.patch.iter().map(|&s| s as f64).product();
        let batch = (REFERENCE_2D / here as f64).floor() * 2.0;
        let most = (DATASET_SHARE * case_voxels * self.cases / patch_voxels).round_ties_even();
        let json = stage_json(batch.min(most).max(1.0), &target.spacing_mm, &whole, &topology);
        Ok(Stage { json, patch_voxels, case_voxels })
    }
}

fn stage_json(batch: f64, spacing_mm: &[f64], whole: &[f64], topology: &Topology) -> Value {
    json!({
        "batch_size": batch as u64,
        "patch_size": topology.patch,
        "median_patient_size_in_voxels": whole.iter().map(|&s| s as u64).collect::<Vec<_>>(),
        "current_spacing": spacing_mm,
        "pool_op_kernel_sizes": topology.pools,
        "conv_kernel_sizes": topology.kernels,
    })
}

/// Plans a dataset as the winner did.
///
/// # Errors
/// [`PlanError::PlanOption`] for a memory to plan for, which this planner does not take; [`PlanError::Memory`].
///
/// # Source
/// nnU-Net v1, `ExperimentPlanner3D_v21.plan_experiment`, `ExperimentPlanner2D_v21`.
pub(super) fn plan(
    dataset: &RawDataset,
    fingerprint: &Fingerprint,
    options: &PlanOptions,
) -> Result<Planned, PlanError> {
    if let Some(gb) = options.gpu_memory_gb {
        return Err(PlanError::PlanOption {
            option: "the GPU memory",
            found: format!("{gb} GB"),
            expected: "left out with the planner brats21, which plans as the winner did",
        });
    }
    let target = Target::of(fingerprint, options.overwrite_target_spacing_mm);
    let cases = fingerprint.spacings_mm.iter().zip(&fingerprint.shapes_after_crop);
    // Not rounded case by case, unlike version 2's.
    let shape = [0, 1, 2].map(|a| {
        let from = target.transpose_forward[a];
        median(cases.clone().map(|(own, shape)| own[from] / target.spacing_mm[a] * shape[from] as f64))
    });
    let description = &dataset.description;
    let data = Data {
        channels: description.channel_names.len() as u64,
        classes: description.labels.all_labels().len() as u64,
        cases: dataset.cases.len() as f64,
    };
    let mut planned = Planned { json: Value::Null, attempts: Vec::new(), notes: Vec::new() };
    let full = data.stage_3d("3d_fullres", target.spacing_mm, &target, shape, &mut planned.attempts)?;
    let low = lowres(&data, &full, &target, shape, &mut planned)?;
    let flat = data.stage_2d(&target, shape, &mut planned.attempts)?;

    let plans_name = options.name();
    let cropped = fingerprint.median_relative_size_after_cropping < 0.75;
    let by_channel = |of: &dyn Fn(&str) -> Value| -> Value {
        let names = description.channel_names.iter().enumerate();
        names.map(|(i, name)| (i.to_string(), of(name))).collect::<Map<_, _>>().into()
    };
    let common = json!({
        "modalities": by_channel(&|name| name.into()),
        "normalization_schemes": by_channel(&|name| if matches!(name, "CT" | "ct") { "CT" } else { "nonCT" }.into()),
        "use_mask_for_norm": by_channel(&|name| (cropped && !name.contains("CT")).into()),
        "all_classes": description.labels.all_labels().iter().filter(|&&l| l != 0).collect::<Vec<_>>(),
        "base_num_features": 32,
        "conv_per_stage": 2,
        "transpose_forward": target.transpose_forward,
        "transpose_backward": target.transpose_backward,
    });
    let mut configurations = Map::new();
    let mut add = |stages: &[&Value], number: usize| -> Result<(), PlanError> {
        let mut plans = common.clone();
        plans["plans_per_stage"] =
            stages.iter().enumerate().map(|(i, &s)| (i.to_string(), s.clone())).collect::<Map<_, _>>().into();
        let model = V1Model {
            plans: &plans,
            path: Path::new("the plans"),
            trainer: TRAINER,
            stage: Some(number),
            network: None,
            dataset_name: &dataset.name,
            plans_name,
            embeddings: None,
        };
        let converted = model.convert()?;
        let mut described = converted.plans["configurations"][&converted.configuration].clone();
        described["data_identifier"] = format!("{plans_name}_{}", converted.configuration).into();
        configurations.insert(converted.configuration, described);
        Ok(())
    };
    add(&[&flat.json], 0)?;
    match &low {
        Some(low) => [0, 1].into_iter().try_for_each(|number| add(&[&low.json, &full.json], number))?,
        None => add(&[&full.json], 0)?,
    }
    planned.json = plans_json(dataset, fingerprint, options, &target, &configurations);
    Ok(planned)
}

/// `3d_lowres`, where a patch sees too little of a case.
fn lowres(
    data: &Data,
    full: &Stage,
    target: &Target,
    shape: [f64; 3],
    planned: &mut Planned,
) -> Result<Option<Stage>, PlanError> {
    const STEP: f64 = 1.01;
    let mut voxels: f64 = shape.iter().product();
    if voxels / full.patch_voxels < PATCHES_PER_CASE {
        return Ok(None);
    }
    let (mut spacing, mut in_patch, mut low) = (target.spacing_mm, full.patch_voxels, None);
    while voxels > PATCHES_PER_CASE * in_patch {
        let coarsest = spacing.iter().copied().fold(0.0, f64::max);
        let uneven = spacing.iter().any(|s| coarsest / s > 2.0);
        spacing = spacing.map(|s| if !uneven || coarsest / s > 2.0 { s * STEP } else { s });
        voxels = (0..3).map(|a| target.spacing_mm[a] / spacing[a] * shape[a]).product();
        let stage = data.stage_3d("3d_lowres", spacing, target, shape, &mut planned.attempts)?;
        in_patch = stage.patch_voxels;
        low = Some(stage);
    }
    let kept = low.filter(|low| 2.0 * low.case_voxels < full.case_voxels);
    if kept.is_none() {
        planned.notes.push(format!(
            "no 3d_lowres: its images would have {voxels:.0} voxels, hardly fewer than those of 3d_fullres"
        ));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_of_brats_are_those_of_version_1() {
        for (patch, expected) in [
            ([160, 192, 160], 1_085_817_600),
            ([160, 192, 128], 868_654_080),
            ([128, 192, 128], 694_923_264),
            ([128, 160, 128], 579_102_720),
            ([128, 128, 128], 463_282_176),
        ] {
            let topology = Topology::of(&[1.0; 3], &patch);
            assert_eq!(topology.estimate(32, 320, 4, 4), expected, "{patch:?}");
        }
    }

    #[test]
    fn an_axis_is_pooled_alone_if_only_it_is_large() {
        let t = Topology::of(&[1.0; 3], &[44, 62, 54]);
        assert_eq!(t.patch, [48, 64, 56]);
        assert_eq!(t.pools, [vec![2; 3], vec![2; 3], vec![2; 3], vec![1, 2, 1]]);
        assert_eq!(t.kernels, vec![vec![3; 3]; 5]);
    }

    #[test]
    fn coarse_axes_get_thin_kernels_until_the_others_are_as_coarse() {
        let t = Topology::of(&[5.0, 1.0, 1.0], &[20, 160, 160]);
        assert_eq!(t.kernels[0], [1, 3, 3]);
        assert_eq!(t.pools[0], [1, 2, 2]);
        assert_eq!(t.pools[2], [2, 2, 2]);
    }
}
